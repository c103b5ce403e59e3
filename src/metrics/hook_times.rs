//! How long the attempts of each hook took since the process started, and when one last succeeded.
//!
//! A hook with an attempt uses about 200 bytes. At most 131,072 have times, so all of them use about 25 MiB; deleted hooks
//! are forgotten.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::latency::{BUCKETS, bucket, quantile};
use crate::core::change_log::ChangeLog;
use crate::core::fast_map::FastMap;
use crate::core::time::Millis;

/// Parts with a lock each, so that attempts of different hooks do not wait for each other.
const SHARDS: usize = 64;
/// The most hooks of a shard. Further ones have no times.
const MAX_SHARD_HOOKS: usize = 2048;

/// The times of hooks, by uid.
#[derive(Debug)]
pub struct HookTimes {
    shards: [Mutex<FastMap<Arc<str>, Box<AttemptTimes>>>; SHARDS],
    hasher: foldhash::fast::RandomState,
    /// The uids with a new attempt, for the API's table of hooks.
    pub changes: ChangeLog<Arc<str>>,
}

#[derive(Debug)]
struct AttemptTimes {
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
        HookTimes {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: Default::default(),
            changes: ChangeLog::default(),
        }
    }
}

impl HookTimes {
    /// Records an attempt. `success`: when it succeeded.
    pub fn record(&self, uid: &Arc<str>, duration: Duration, success: Option<Millis>) {
        let Some(shard) = self.shard(uid) else { return };
        let mut shard = shard.lock();
        if !shard.contains_key(uid) {
            if shard.len() >= MAX_SHARD_HOOKS {
                return;
            }
            shard.insert(uid.clone(), Box::new(AttemptTimes { last_success: None, counts: [0; BUCKETS] }));
        }
        let Some(times) = shard.get_mut(uid) else { return };
        times.last_success = times.last_success.max(success);
        let index = bucket(duration);
        if times.counts.get(index) == Some(&u16::MAX) {
            times.counts.iter_mut().for_each(|count| *count /= 2);
        }
        times.counts.get_mut(index).into_iter().for_each(|count| *count += 1);
        drop(shard);
        self.changes.record(uid);
    }

    /// Returns the times of a hook. None if it had no attempt.
    pub fn get(&self, uid: &str) -> Option<HookTimeReport> {
        let shard = self.shard(uid)?.lock();
        let times = shard.get(uid)?;
        let counts = times.counts.map(u64::from);
        Some(HookTimeReport { last_success: times.last_success, p95: quantile(&counts, 0.95) })
    }

    /// Forgets a deleted hook.
    pub fn remove(&self, uid: &str) {
        self.shard(uid).into_iter().for_each(|shard| drop(shard.lock().remove(uid)));
    }

    fn shard(&self, uid: &str) -> Option<&Mutex<FastMap<Arc<str>, Box<AttemptTimes>>>> {
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
        let hooks: usize = times.shards.iter().map(|shard| shard.lock().len()).sum();
        assert_eq!(hooks, SHARDS * MAX_SHARD_HOOKS);
    }
}
