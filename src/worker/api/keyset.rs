//! Pages of sorted lists that are in memory. A page begins after the position of the last one, so that entries that appear
//! or vanish between two requests neither repeat nor skip others.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::query::invalid_parameter;
use crate::worker::problem::HttpProblem;

/// The position of an entry: lower ranks first, then by namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub rank: i64,
    pub namespace: String,
    pub name: String,
}

/// An entry of a sorted list.
pub trait Positioned {
    /// Returns its rank, namespace and name.
    fn position(&self) -> (i64, &str, &str);
}

impl Position {
    /// Returns the token of the page after this position in a list sorted by `order`.
    pub fn token(&self, order: &str) -> String {
        let Position { rank, namespace, name } = self;
        BASE64_URL_SAFE_NO_PAD.encode(format!("2.{order}.{rank}.{namespace}/{name}"))
    }

    /// Parses the token of a list sorted by `order`. Rejects one of another order: its rank would mean something else.
    pub fn parse(token: &str, order: &str) -> Result<Self, HttpProblem> {
        Self::read(token, order).ok_or_else(|| {
            invalid_parameter("continue", "is not a token of this list, or the list had another order")
        })
    }

    fn read(token: &str, order: &str) -> Option<Self> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
        let text = std::str::from_utf8(&bytes).ok()?;
        let rest = text.strip_prefix("2.")?.strip_prefix(order)?.strip_prefix('.')?;
        let (rank, names) = rest.split_once('.')?;
        let (namespace, name) = names.split_once('/')?;
        Some(Position { rank: rank.parse().ok()?, namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

/// Sorts the entries after a position and returns the first `limit` of them, and the position of the last one if there
/// are more. Takes O(entries + limit log limit).
pub fn page<T: Positioned>(
    mut entries: Vec<T>,
    after: Option<&Position>,
    limit: usize,
) -> (Vec<T>, Option<Position>) {
    if let Some(Position { rank, namespace, name }) = after {
        entries.retain(|entry| entry.position() > (*rank, namespace, name));
    }
    let has_more = entries.len() > limit;
    if has_more {
        entries.select_nth_unstable_by(limit, |a, b| a.position().cmp(&b.position()));
        entries.truncate(limit);
    }
    entries.sort_unstable_by(|a, b| a.position().cmp(&b.position()));
    let last = entries.last().filter(|_| has_more).map(|last| {
        let (rank, namespace, name) = last.position();
        Position { rank, namespace: namespace.to_owned(), name: name.to_owned() }
    });
    (entries, last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Positioned for (i64, String) {
        fn position(&self) -> (i64, &str, &str) {
            (self.0, "n", &self.1)
        }
    }

    proptest! {
        #[test]
        fn pages_together_have_every_entry_once_in_order(
            entries in prop::collection::btree_map("[a-z]{1,3}", -3_i64..3, 0..60),
            limit in 1_usize..8,
        ) {
            let entries: Vec<(i64, String)> = entries.into_iter().map(|(name, rank)| (rank, name)).collect();
            let mut want = entries.clone();
            want.sort();
            let (mut listed, mut after) = (Vec::new(), None);
            loop {
                let (part, next) = page(entries.clone(), after.as_ref(), limit);
                prop_assert!(part.len() <= limit);
                listed.extend(part);
                let Some(next) = next else { break };
                after = Some(Position::parse(&next.token("state"), "state").unwrap());
            }
            prop_assert_eq!(listed, want);
        }

        #[test]
        fn foreign_tokens_are_rejected(token in "[A-Za-z0-9_-]{0,40}") {
            prop_assert!(Position::read(&token, "name").is_none());
        }
    }

    #[test]
    fn token_of_another_order_is_rejected() {
        let position = Position { rank: -7, namespace: "n".into(), name: "a.b".into() };
        assert_eq!(Position::parse(&position.token("pending"), "pending").unwrap(), position);
        assert!(Position::parse(&position.token("pending"), "p").is_err());
        assert!(Position::parse(&position.token("pending"), "name").is_err());
    }
}
