//! One timer for each hook: when it is dispatched next, on the steady clock. A backlog of any size costs one entry.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::core::fast_map::FastMap;
use crate::core::time::Millis;

/// The earliest due time of each hook, ordered by time.
#[derive(Default)]
pub struct HookTimers {
    by_time: BTreeSet<(Millis, Arc<str>)>,
    by_hook: FastMap<Arc<str>, Millis>,
}

impl HookTimers {
    /// Sets the hook's timer, unless it is set to an earlier time. The read of the backlog at the earlier time finds
    /// the later delivery too.
    pub fn set(&mut self, at: Millis, uid: &Arc<str>) {
        match self.by_hook.get(uid) {
            Some(earlier) if *earlier <= at => return,
            Some(later) => drop(self.by_time.remove(&(*later, uid.clone()))),
            None => {}
        }
        self.by_hook.insert(uid.clone(), at);
        self.by_time.insert((at, uid.clone()));
    }

    /// Removes the hook's timer.
    pub fn remove(&mut self, uid: &Arc<str>) {
        if let Some(at) = self.by_hook.remove(uid) {
            self.by_time.remove(&(at, uid.clone()));
        }
    }

    /// Returns true if the hook has a timer.
    pub fn is_set(&self, uid: &str) -> bool {
        !self.by_hook.is_empty() && self.by_hook.contains_key(uid)
    }

    /// Returns the earliest time.
    pub fn next(&self) -> Option<Millis> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Removes and returns the first hook whose timer is due.
    pub fn pop_due(&mut self, now: Millis) -> Option<Arc<str>> {
        if self.next()? > now {
            return None;
        }
        let (_, uid) = self.by_time.pop_first()?;
        self.by_hook.remove(&uid);
        Some(uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_earliest_time_of_each_hook() {
        let mut timers = HookTimers::default();
        let [a, b]: [Arc<str>; 2] = ["a".into(), "b".into()];
        for at in [7, 5, 9] {
            timers.set(Millis(at), &a);
        }
        timers.set(Millis(6), &b);
        assert_eq!(timers.next(), Some(Millis(5)));
        assert_eq!(timers.pop_due(Millis(4)), None);
        assert_eq!(
            (timers.pop_due(Millis(6)), timers.pop_due(Millis(6)), timers.pop_due(Millis(99))),
            (Some(a), Some(b), None)
        );
        assert!(timers.next().is_none() && timers.by_hook.is_empty());
        let c = "c".into();
        timers.set(Millis(1), &c);
        assert!(timers.is_set("c"));
        timers.remove(&c);
        assert!(!timers.is_set("c") && timers.next().is_none());
    }
}
