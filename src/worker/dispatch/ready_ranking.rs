//! Ranks hooks by the memory of their ready deliveries, to find the hook that returns some of it to the disk.
//!
//! Sizes are rounded up to a power of two, so that most changes of a size do not change the ranking.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::core::fast_map::FastMap;

/// Sizes up to this one have the same rank.
const SMALLEST: usize = 4096;

/// The rank of a hook: the rounded size of its ready deliveries, and whether they are blocked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadyRank {
    size: usize,
    is_blocked: bool,
}

impl ReadyRank {
    pub fn of(bytes: usize, is_blocked: bool) -> Self {
        match bytes {
            0 => ReadyRank::default(),
            _ => ReadyRank {
                size: bytes.max(SMALLEST).checked_next_power_of_two().unwrap_or(bytes),
                is_blocked,
            },
        }
    }

    pub fn is_blocked(self) -> bool {
        self.is_blocked
    }
}

/// A hook that needs memory, with its ready deliveries as they are ranked.
#[derive(Clone, Copy)]
pub struct Claimant<'a> {
    pub namespace: &'a str,
    pub uid: &'a str,
    pub rank: ReadyRank,
}

/// The hooks with ready deliveries, by namespace and size.
#[derive(Default)]
pub struct ReadyRanking {
    /// Hooks that cannot send now.
    blocked: BTreeSet<(usize, Arc<str>)>,
    namespaces: FastMap<Arc<str>, RankedNamespace>,
    by_size: BTreeSet<(usize, Arc<str>)>,
}

#[derive(Default)]
struct RankedNamespace {
    size: usize,
    hooks: BTreeSet<(usize, Arc<str>)>,
}

impl ReadyRanking {
    /// Changes a hook's rank.
    pub fn update(&mut self, namespace: &Arc<str>, uid: &Arc<str>, before: ReadyRank, after: ReadyRank) {
        if before == after {
            return;
        }
        if before.is_blocked {
            self.blocked.remove(&(before.size, uid.clone()));
        }
        if after.is_blocked {
            self.blocked.insert((after.size, uid.clone()));
        }
        if before.size == after.size {
            return;
        }
        let ranked = self.namespaces.entry(namespace.clone()).or_default();
        self.by_size.remove(&(ranked.size, namespace.clone()));
        ranked.hooks.remove(&(before.size, uid.clone()));
        ranked.size = (ranked.size + after.size).saturating_sub(before.size);
        if after.size > 0 {
            ranked.hooks.insert((after.size, uid.clone()));
        }
        if ranked.hooks.is_empty() {
            self.namespaces.remove(namespace);
        } else {
            self.by_size.insert((ranked.size, namespace.clone()));
        }
    }

    /// Returns the hook that returns memory to the disk so that the claimant gets `bytes`: first a blocked hook, then the
    /// largest hook of the largest namespace, if that has more than the claimant would have.
    pub fn victim(&self, claimant: Claimant<'_>, bytes: usize) -> Option<Arc<str>> {
        let is_other = |(_, uid): &&(usize, Arc<str>)| **uid != *claimant.uid;
        if let Some((_, uid)) = self.blocked.iter().next_back().filter(is_other) {
            return Some(uid.clone());
        }
        let own = self.namespaces.get(claimant.namespace).map_or(0, |own| own.size);
        let (size, namespace) = self.by_size.last()?;
        if **namespace != *claimant.namespace && *size <= own + bytes {
            return None;
        }
        let (size, uid) = self.namespaces.get(namespace)?.hooks.iter().next_back().filter(is_other)?;
        let is_larger = **namespace != *claimant.namespace || *size > claimant.rank.size + bytes;
        is_larger.then(|| uid.clone())
    }

    /// Returns a hook to unload whatever its share: first a blocked hook, then the largest of the largest namespace.
    pub fn largest(&self) -> Option<Arc<str>> {
        if let Some((_, uid)) = self.blocked.last() {
            return Some(uid.clone());
        }
        let (_, namespace) = self.by_size.last()?;
        self.namespaces.get(namespace)?.hooks.last().map(|(_, uid)| uid.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn blocked_hooks_come_first_and_then_the_largest_of_the_largest_namespace() {
        let mut ranking = ReadyRanking::default();
        let set = |ranking: &mut ReadyRanking,
                   namespace: &str,
                   uid: &str,
                   from: (usize, bool),
                   to: (usize, bool)| {
            let (before, after) = (ReadyRank::of(from.0, from.1), ReadyRank::of(to.0, to.1));
            ranking.update(&namespace.into(), &uid.into(), before, after);
        };
        for n in 0..8 {
            set(&mut ranking, "many", &format!("many-{n}"), (0, false), (2 * MIB, false));
        }
        set(&mut ranking, "one", "big", (0, false), (8 * MIB, false));
        set(&mut ranking, "dead", "dead", (0, false), (5000, true));
        let claimant = |namespace, uid| Claimant { namespace, uid, rank: ReadyRank::default() };
        assert_eq!(ranking.victim(claimant("new", "new"), MIB).as_deref(), Some("dead"));
        set(&mut ranking, "dead", "dead", (5000, true), (0, false));
        assert_eq!(
            ranking.victim(claimant("new", "new"), MIB).as_deref(),
            Some("many-7"),
            "of the largest namespace"
        );
        assert_eq!(ranking.victim(claimant("one", "small"), MIB).as_deref(), Some("many-7"));
        assert_eq!(ranking.victim(claimant("many", "small"), MIB).as_deref(), Some("many-7"));
        let equal = Claimant { namespace: "many", uid: "many-7", rank: ReadyRank::of(2 * MIB, false) };
        assert_eq!(ranking.victim(equal, MIB), None, "no other hook has more");
        assert_eq!(ranking.victim(claimant("one", "small"), 9 * MIB), None);
        for n in 0..8 {
            set(&mut ranking, "many", &format!("many-{n}"), (2 * MIB, false), (0, false));
        }
        set(&mut ranking, "one", "big", (8 * MIB, false), (1, false));
        assert_eq!(ranking.largest().as_deref(), Some("big"));
        set(&mut ranking, "one", "big", (1, false), (0, false));
        assert_eq!(ranking.largest(), None);
        assert!(ranking.namespaces.is_empty() && ranking.by_size.is_empty() && ranking.blocked.is_empty());
    }
}
