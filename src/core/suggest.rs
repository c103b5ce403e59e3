//! "Did you mean": the known name that a mistyped one is closest to.

use strsim::osa_distance;

/// Returns the candidate with the fewest edits from `name`, without regard to case. None if even that one needs an edit for
/// every third character, because it would be a guess.
pub fn closest<'c>(name: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let lower = name.to_lowercase();
    let edits_of = |candidate: &'c str| (osa_distance(&lower, &candidate.to_lowercase()), candidate);
    let (edits, candidate) = candidates.into_iter().map(edits_of).min()?;
    (edits * 3 <= name.chars().count().max(3)).then_some(candidate)
}

/// Returns `: did you mean CANDIDATE?` for the closest candidate; empty without one.
pub fn did_you_mean<'c>(name: &str, candidates: impl IntoIterator<Item = &'c str>) -> String {
    closest(name, candidates).map(|candidate| format!(": did you mean {candidate}?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_closest_name() {
        let names = ["source", "event", "filter", "groupBy", "onChange", "snooze"];
        for (name, expected) in [
            ("sources", Some("source")),
            ("evnet", Some("event")),
            ("Filter", Some("filter")),
            ("groupby", Some("groupBy")),
            ("onChnage", Some("onChange")),
            ("zzz", None),
            ("", None),
            ("url", None),
            ("destination", None),
        ] {
            assert_eq!(closest(name, names), expected, "{name}");
        }
        assert_eq!(did_you_mean("snoose", names), ": did you mean snooze?");
        assert_eq!(did_you_mean("x", []), "");
    }
}
