//! Names of objects that requests refer to and the cache does not have. The watch may lag, so a name counts as
//! certainly unknown only after two minutes of lookups.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::cluster::ObjectKey;

/// How long a name must stay unknown to be certain: a new object may take that long to arrive.
const CERTAIN_AFTER: Duration = Duration::from_secs(120);
/// After this time without a lookup, the two minutes of a name start again: an object of this name may have been
/// created recently.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
const MAX_NAMES: usize = 4096;

/// Names that were looked up and not found.
#[derive(Default)]
pub struct UnknownNames {
    lookups: Mutex<HashMap<ObjectKey, Lookups>>,
}

/// The first and last lookup of a name.
#[derive(Clone, Copy)]
struct Lookups {
    first: Instant,
    last: Instant,
}

impl Lookups {
    fn is_outdated(&self, now: Instant) -> bool {
        now.duration_since(self.last) >= FORGOTTEN_AFTER
    }
}

impl UnknownNames {
    /// Records a lookup of an unknown name. Returns true if the name has been unknown for long enough to be certain.
    pub fn is_certain(&self, key: &ObjectKey, now: Instant) -> bool {
        let mut names = self.lookups.lock();
        if names.len() >= MAX_NAMES {
            names.retain(|_, lookups| !lookups.is_outdated(now));
        }
        match names.get_mut(key) {
            Some(lookups) if !lookups.is_outdated(now) => {
                lookups.last = now;
                now.duration_since(lookups.first) >= CERTAIN_AFTER
            }
            // The name was unknown long ago, but a new object may have it now.
            Some(lookups) => {
                *lookups = Lookups { first: now, last: now };
                false
            }
            None => {
                if names.len() < MAX_NAMES {
                    names.insert(key.clone(), Lookups { first: now, last: now });
                }
                false
            }
        }
    }

    /// Forgets a name that was found.
    pub fn remove(&self, key: &ObjectKey) {
        self.lookups.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_certainly_unknown_after_two_minutes_of_lookups() {
        let (unknown, key, begin) = (UnknownNames::default(), ObjectKey::new("n", "h"), Instant::now());
        let at = |seconds: u64| unknown.is_certain(&key, begin + Duration::from_secs(seconds));
        assert!(!at(0) && !at(119), "the object may be on its way");
        assert!(at(120) && at(700), "looked up all the time");
        unknown.remove(&key);
        assert!(!at(701), "it existed and was deleted: it may be created again");
        assert!(at(830));
        assert!(!at(830 + 600), "no lookup for long: an object of the name may be new");
        assert!(!unknown.is_certain(&ObjectKey::new("n", "other"), begin), "each name by itself");
    }

    #[test]
    fn invented_names_use_bounded_memory() {
        let (unknown, begin) = (UnknownNames::default(), Instant::now());
        for number in 0..2 * MAX_NAMES {
            assert!(!unknown.is_certain(&ObjectKey::new("n", &number.to_string()), begin));
        }
        assert_eq!(unknown.lookups.lock().len(), MAX_NAMES);
        assert!(!unknown.is_certain(&ObjectKey::new("n", "new"), begin + FORGOTTEN_AFTER));
        assert_eq!(unknown.lookups.lock().len(), 1);
    }
}
