//! Tracks the controller's own writes that the watch has not delivered yet.
//!
//! A reconcile of an object that is older than our last write would repeat the same decision. It would write the same
//! status and Event twice, or forget the external object that it just configured.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long a write is tracked. A watch that lags longer than this must not block reconciles.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// The number of entries above which expired ones are removed.
const MIN_SWEEP_SIZE: usize = 1024;

/// The version of the last write to each object.
#[derive(Default)]
pub struct OwnWrites(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    /// Version and time of the last write, by uid.
    versions: HashMap<String, (u64, Instant)>,
    /// The number of entries after the last sweep.
    swept_size: usize,
}

impl OwnWrites {
    /// Records that a write created this version. Versions of one kind compare as numbers; a version that is not a number
    /// is not tracked.
    pub fn record(&self, uid: &str, version: Option<&str>, now: Instant) {
        let Some(version) = version.and_then(|v| v.parse().ok()) else { return };
        let mut entries = self.0.lock();
        entries.versions.insert(uid.to_owned(), (version, now));
        if entries.versions.len() > MIN_SWEEP_SIZE.max(entries.swept_size * 2) {
            entries.versions.retain(|_, (_, at)| now.duration_since(*at) < MAX_WAIT);
            entries.swept_size = entries.versions.len();
        }
    }

    /// Returns true if this version is not older than the last write, or if the last write is no longer tracked.
    pub fn is_observed(&self, uid: &str, version: &str, now: Instant) -> bool {
        let mut entries = self.0.lock();
        let Some((written, at)) = entries.versions.get(uid) else { return true };
        let is_observed = version.parse::<u64>().map_or(true, |version| version >= *written);
        if is_observed || now.duration_since(*at) >= MAX_WAIT {
            entries.versions.remove(uid);
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_version_is_unobserved_until_the_limit() {
        let (writes, now) = (OwnWrites::default(), Instant::now());
        assert!(writes.is_observed("u", "7", now));
        writes.record("u", Some("9"), now);
        assert!(!writes.is_observed("u", "7", now));
        assert!(writes.is_observed("v", "7", now));
        assert!(writes.is_observed("u", "10", now), "a later write by another client");
        assert!(writes.is_observed("u", "7", now), "the write was observed");
        writes.record("u", Some("11"), now);
        assert!(writes.is_observed("u", "10", now + MAX_WAIT));
        writes.record("u", Some("opaque"), now);
        assert!(writes.is_observed("u", "10", now));
    }

    #[test]
    fn size_stays_bounded() {
        let (writes, start) = (OwnWrites::default(), Instant::now());
        for n in 0..10_000 {
            let now = start + Duration::from_millis(n * 10);
            writes.record(&n.to_string(), Some("1"), now);
        }
        let count = writes.0.lock().versions.len();
        assert!(count <= 2 * MIN_SWEEP_SIZE + 1, "{count}");
    }
}
