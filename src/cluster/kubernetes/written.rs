//! Our own writes that the watch has not told of yet.
//!
//! A decision by what an object was before would be taken twice: the same status and the same Event written again, or
//! what was told to a vendor a moment ago forgotten.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A watch that is later than this is not waited for: whatever depends on it can be told apart by other means.
const LONGEST: Duration = Duration::from_secs(10);
/// So many are kept before those that nobody waits for any more are looked for.
const FEW: usize = 1024;

/// The last version that was written, by uid.
#[derive(Default)]
pub struct Written(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    versions: HashMap<String, (u64, Instant)>,
    /// How many were left at the last look.
    left: usize,
}

impl Written {
    /// A write was accepted, and made this version. Versions of one kind compare as numbers; one that is none is not
    /// waited for.
    pub fn wrote(&self, uid: &str, version: Option<&str>, now: Instant) {
        let Some(version) = version.and_then(|v| v.parse().ok()) else { return };
        let mut kept = self.0.lock();
        kept.versions.insert(uid.to_owned(), (version, now));
        if kept.versions.len() > FEW.max(kept.left * 2) {
            kept.versions.retain(|_, (_, at)| now.duration_since(*at) < LONGEST);
            kept.left = kept.versions.len();
        }
    }

    /// True where this version is no older than the last that was written.
    pub fn is_seen(&self, uid: &str, version: &str, now: Instant) -> bool {
        let mut kept = self.0.lock();
        let Some((written, at)) = kept.versions.get(uid) else { return true };
        let seen = version.parse::<u64>().map_or(true, |version| version >= *written);
        if seen || now.duration_since(*at) >= LONGEST {
            kept.versions.remove(uid);
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_object_is_waited_for_but_not_for_ever() {
        let (written, now) = (Written::default(), Instant::now());
        assert!(written.is_seen("u", "7", now));
        written.wrote("u", Some("9"), now);
        assert!(!written.is_seen("u", "7", now));
        assert!(written.is_seen("v", "7", now));
        assert!(written.is_seen("u", "10", now), "somebody else wrote after us");
        assert!(written.is_seen("u", "7", now), "it was told of");
        written.wrote("u", Some("11"), now);
        assert!(written.is_seen("u", "10", now + LONGEST));
        written.wrote("u", Some("opaque"), now);
        assert!(written.is_seen("u", "10", now));
    }

    #[test]
    fn it_does_not_grow_for_ever() {
        let (written, begun) = (Written::default(), Instant::now());
        for n in 0..10_000 {
            let now = begun + Duration::from_millis(n * 10);
            written.wrote(&n.to_string(), Some("1"), now);
        }
        let count = written.0.lock().versions.len();
        assert!(count <= 2 * FEW + 1, "{count}");
    }
}
