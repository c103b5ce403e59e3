//! How long the attempts of each hook took since the process started, and when one last succeeded.
//!
//! A hook with an attempt uses about 200 bytes. At most 131,072 have times, so all of them use about 25 MiB; deleted hooks
//! are forgotten.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::latency::{BUCKETS, bucket, quantile};
use crate::core::fast_map::FastMap;
use crate::core::time::Millis;

/// Parts with a lock each, so that attempts of different hooks do not wait for each other.
const SHARDS: usize = 64;
/// The most hooks of a shard. Further ones have no times.
const MAX_SHARD_HOOKS: usize = 2048;

/// The times of hooks, by uid.
#[derive(Debug)]
pub struct HookTimes {
    shards: [Mutex<Shard>; SHARDS],
    hasher: foldhash::fast::RandomState,
}

#[derive(Debug, Default)]
struct Shard {
    times: FastMap<Arc<str>, Box<AttemptTimes>>,
    /// The uids with a new attempt since the last `take_changed`, each once. In the shard, so that the attempts of different
    /// hooks do not wait for each other here either.
    changed: Vec<Arc<str>>,
}

#[derive(Debug)]
struct AttemptTimes {
    /// The uid is in `changed`.
    is_changed: bool,
    last_success: Option<Millis>,
    /// Halved when one is full, so that new attempts count more than old ones.
    counts: [u16; BUCKETS],
}

/// The times of one hook.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HookTimeReport {
    pub last_success: Option<Millis>,
    /// The 95th percentile of the duration of attempts in milliseconds.
    pub p95: Option<f64>,
}

impl Default for HookTimes {
    fn default() -> Self {
        HookTimes { shards: std::array::from_fn(|_| Mutex::default()), hasher: Default::default() }
    }
}

impl HookTimes {
    /// Records an attempt. `success`: when it succeeded.
    pub fn record(&self, uid: &Arc<str>, duration: Duration, success: Option<Millis>) {
        let Some(shard) = self.shard(uid) else { return };
        let Shard { times, changed } = &mut *shard.lock();
        if !times.contains_key(uid) {
            if times.len() >= MAX_SHARD_HOOKS {
                return;
            }
            let new = AttemptTimes { is_changed: false, last_success: None, counts: [0; BUCKETS] };
            times.insert(uid.clone(), Box::new(new));
        }
        let Some(times) = times.get_mut(uid) else { return };
        if !times.is_changed {
            times.is_changed = true;
            changed.push(uid.clone());
        }
        times.last_success = times.last_success.max(success);
        let index = bucket(duration);
        if times.counts.get(index) == Some(&u16::MAX) {
            times.counts.iter_mut().for_each(|count| *count /= 2);
        }
        times.counts.get_mut(index).into_iter().for_each(|count| *count += 1);
    }

    /// Returns the uids with an attempt since the last call, each once, for the API's table of hooks.
    pub fn take_changed(&self) -> Vec<Arc<str>> {
        let mut changed = Vec::new();
        for shard in &self.shards {
            let Shard { times, changed: of_shard } = &mut *shard.lock();
            for uid in of_shard.drain(..) {
                times.get_mut(&uid).into_iter().for_each(|times| times.is_changed = false);
                changed.push(uid);
            }
        }
        changed
    }

    /// Returns the times of a hook. None if it had no attempt.
    pub fn get(&self, uid: &str) -> Option<HookTimeReport> {
        let shard = self.shard(uid)?.lock();
        let times = shard.times.get(uid)?;
        let counts = times.counts.map(u64::from);
        Some(HookTimeReport { last_success: times.last_success, p95: quantile(&counts, 0.95) })
    }

    /// Forgets a deleted hook.
    pub fn remove(&self, uid: &str) {
        let Some(shard) = self.shard(uid) else { return };
        let Shard { times, changed } = &mut *shard.lock();
        // Otherwise hooks that come and go would make the list longer than the table.
        if times.remove(uid).is_some_and(|times| times.is_changed) {
            changed.retain(|changed| **changed != *uid);
        }
    }

    fn shard(&self, uid: &str) -> Option<&Mutex<Shard>> {
        let index = usize::try_from(self.hasher.hash_one(uid) % SHARDS as u64).unwrap_or_default();
        self.shards.get(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_the_last_success_and_the_percentile() {
        let times = HookTimes::default();
        let uid: Arc<str> = "u".into();
        assert_eq!(times.get("u"), None);
        times.record(&uid, Duration::from_secs(20), None);
        let report = times.get("u").unwrap();
        assert!(report.last_success.is_none() && report.p95.unwrap() > 15_000.0);
        (0..100_000).for_each(|n| times.record(&uid, Duration::from_millis(5), Some(Millis(n))));
        let report = times.get("u").unwrap();
        assert_eq!(report.last_success, Some(Millis(99_999)));
        assert!(report.p95.unwrap() < 7.0, "{report:?}");
        times.remove("u");
        assert_eq!(times.get("u"), None);
    }

    #[test]
    fn hooks_are_bounded() {
        let times = HookTimes::default();
        (0..SHARDS * MAX_SHARD_HOOKS * 2)
            .for_each(|n| times.record(&n.to_string().into(), Duration::ZERO, None));
        let hooks: usize = times.shards.iter().map(|shard| shard.lock().times.len()).sum();
        assert_eq!(hooks, SHARDS * MAX_SHARD_HOOKS);
    }

    #[test]
    fn reports_changed_hooks_once_each_and_no_deleted_ones() {
        let times = HookTimes::default();
        let uids: Vec<Arc<str>> = ["a", "b", "c"].map(Into::into).into();
        let record = |uid: &Arc<str>| times.record(uid, Duration::ZERO, None);
        let changed = || {
            let mut changed = times.take_changed();
            changed.sort();
            changed
        };
        uids.iter().chain(&uids).for_each(record);
        times.remove("b");
        assert_eq!(changed(), ["a".into(), "c".into()]);
        assert!(changed().is_empty());
        record(&uids[2]);
        assert_eq!(changed(), ["c".into()]);
        // Hooks that come and go take no memory.
        for n in 0..1000 {
            record(&n.to_string().into());
            times.remove(&n.to_string());
        }
        assert!(changed().is_empty());
    }
}
