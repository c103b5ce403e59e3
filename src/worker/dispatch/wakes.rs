//! When which hook has something due on disk, one time a hook: a backlog of any size costs no more.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::core::time::Millis;

#[derive(Default)]
pub struct Wakes {
    in_order: BTreeSet<(Millis, Arc<str>)>,
    of: HashMap<Arc<str>, Millis>,
}

impl Wakes {
    /// Looks at what a hook has on disk at this time, or earlier where that was said before. A later time is found again
    /// by the look itself.
    pub fn at(&mut self, at: Millis, uid: &Arc<str>) {
        match self.of.get(uid) {
            Some(earlier) if *earlier <= at => return,
            Some(later) => drop(self.in_order.remove(&(*later, uid.clone()))),
            None => {}
        }
        self.of.insert(uid.clone(), at);
        self.in_order.insert((at, uid.clone()));
    }

    /// The time of the first.
    pub fn next(&self) -> Option<Millis> {
        self.in_order.first().map(|(at, _)| *at)
    }

    /// Takes the first hook whose time has come.
    pub fn due(&mut self, now: Millis) -> Option<Arc<str>> {
        if self.next()? > now {
            return None;
        }
        let (_, uid) = self.in_order.pop_first()?;
        self.of.remove(&uid);
        Some(uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_time_of_each_hook() {
        let mut wakes = Wakes::default();
        let [a, b]: [Arc<str>; 2] = ["a".into(), "b".into()];
        for at in [7, 5, 9] {
            wakes.at(Millis(at), &a);
        }
        wakes.at(Millis(6), &b);
        assert_eq!(wakes.next(), Some(Millis(5)));
        assert_eq!(wakes.due(Millis(4)), None);
        assert_eq!(
            (wakes.due(Millis(6)), wakes.due(Millis(6)), wakes.due(Millis(99))),
            (Some(a), Some(b), None)
        );
        assert!(wakes.next().is_none() && wakes.of.is_empty());
    }
}
