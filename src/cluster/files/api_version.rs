//! Distinguishes our objects, objects of other applications, and our objects with a mistyped apiVersion.

use serde_json::Value;
use strum::IntoEnumIterator;

use crate::api::{API_VERSION, GROUP};
use crate::cluster::ResourceKind;

/// How many characters of our group an author may have mistyped.
const MAX_TYPOS: usize = 2;

/// The owner of a document. Carries the kind, or a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Ownership<'d> {
    /// An object of our group, also of a kind that does not exist.
    Own(&'d str),
    /// A Secret or ConfigMap.
    Data(&'d str),
    /// Our object, but kubectl would find no such kind in its group.
    Mistyped(String),
    /// An object of another application, whose kind has the name of one of ours.
    Namesake(String),
    Foreign,
}

/// Determines the owner of a document.
pub fn ownership(document: &Value) -> Ownership<'_> {
    let text = |name: &str| document.get(name).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    let (group, _) = version.split_once('/').unwrap_or(("", version));
    match (version, kind) {
        // Without a version, the group alone is no valid apiVersion, but clearly ours.
        _ if group == GROUP || version == GROUP => return Ownership::Own(kind),
        ("v1", "Secret" | "ConfigMap") => return Ownership::Data(kind),
        ("", "Secret" | "ConfigMap") => {
            return Ownership::Mistyped(format!("{kind} has no apiVersion: write v1"));
        }
        _ => {}
    }
    let is_typo = !group.is_empty() && is_similar(group, GROUP);
    let namesake = ResourceKind::iter().find(|own| <&str>::from(own).eq_ignore_ascii_case(kind));
    let Some(own) = namesake else {
        return match is_typo {
            true => Ownership::Mistyped(format!("there is no group {group}: write {API_VERSION}")),
            false => Ownership::Foreign,
        };
    };
    let own: &str = own.into();
    if version.is_empty() {
        return Ownership::Mistyped(format!("{own} has no apiVersion: write {API_VERSION}"));
    }
    // Other applications may have kinds of these general names, in a group of their own.
    let is_general = matches!(own, "Connection" | "Hook");
    if is_general && !is_typo && !group.is_empty() && !group.contains("hookstream") {
        return Ownership::Namesake(format!(
            "{kind} of {group} belongs to another application and is not checked: if it is meant for Hookstream, write {API_VERSION}"
        ));
    }
    Ownership::Mistyped(format!(
        "there is no kind {kind} in {version:.128}: write apiVersion: {API_VERSION} and kind: {own}"
    ))
}

/// True if at most `MAX_TYPOS` characters must be added, removed or replaced to make the texts equal.
fn is_similar(a: &str, b: &str) -> bool {
    let b: Vec<char> = b.chars().collect();
    if a.chars().count().abs_diff(b.len()) > MAX_TYPOS {
        return false;
    }
    // The distances between the text before each character of `a`, and each beginning of `b`.
    let mut distances: Vec<usize> = (0..=b.len()).collect();
    for (row, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(distances.first_mut().unwrap_or(&mut 0), row + 1);
        let mut left = row + 1;
        for (above, to) in distances.iter_mut().skip(1).zip(&b) {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = *above;
            left = replaced.min(left + 1).min(*above + 1);
            *above = left;
        }
    }
    distances.last().is_some_and(|distance| *distance <= MAX_TYPOS)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn finds_mistyped_groups() {
        for (version, kind, part) in [
            ("hookstream.io/v1alpha1", "EventHook", "no kind EventHook in hookstream.io/v1alpha1"),
            ("hookstreams.dev/v1alpha1", "EventHok", "no group hookstreams.dev"),
            ("v1", "EventHook", "apiVersion: hookstream.dev/v1alpha1 and kind: EventHook"),
            ("v1alpha1", "Connection", "no kind Connection in v1alpha1"),
            ("kong.example.com/v1", "eventstream", "kind: EventStream"),
            ("hookstream.example.com/v1", "Hook", "no kind Hook"),
            ("", "EventHook", "has no apiVersion"),
            ("", "Secret", "write v1"),
        ] {
            match ownership(&json!({"apiVersion": version, "kind": kind})) {
                Ownership::Mistyped(message) => assert!(message.contains(part), "{message}"),
                other => panic!("{version} {kind}: {other:?}"),
            }
        }
    }

    #[test]
    fn leaves_objects_of_other_applications_alone() {
        for (version, kind) in
            [("apps/v1", "Deployment"), ("example.com/v1", "Secret"), ("", "Deployment"), ("", "")]
        {
            assert_eq!(ownership(&json!({"apiVersion": version, "kind": kind})), Ownership::Foreign);
        }
        let other = json!({"apiVersion": "airflow.example.com/v1", "kind": "Connection"});
        assert!(matches!(ownership(&other), Ownership::Namesake(_)));
        let own = json!({"apiVersion": "hookstream.dev/v9", "kind": "EventHok"});
        assert_eq!(ownership(&own), Ownership::Own("EventHok"));
    }

    #[test]
    fn counts_typos() {
        for (a, wanted) in [
            ("hookstream.dev", true),
            ("hookstrem.dev", true),
            ("hookstream.io", false),
            ("hokstreem.dev", true),
            ("hookstream.de", true),
            ("webstream.dev", false),
            ("", false),
        ] {
            assert_eq!(is_similar(a, GROUP), wanted, "{a}");
        }
    }
}
