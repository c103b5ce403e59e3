//! Collects the keys of entries that changed, for one reader that keeps derived values and updates those alone.

use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::fast_map::FastSet;

/// The most keys between two reads. Beyond it, the reader learns only that too much changed.
const MAX_KEYS: usize = 1 << 17;

/// Changed keys, each once, and only while there is a reader: without one, recording costs the read of a flag.
///
/// A writer changes its data under a lock and records the key after it; the reader calls `start` before it reads the data.
/// So the reader either sees a change in the data, or finds its key in the log, or both.
#[derive(Debug)]
pub struct ChangeLog<K> {
    max_keys: usize,
    has_reader: AtomicBool,
    changed: Mutex<ChangedKeys<K>>,
}

/// The keys that changed since the last read.
#[derive(Debug)]
pub struct ChangedKeys<K> {
    pub keys: FastSet<K>,
    /// Keys are missing: everything may have changed.
    pub is_incomplete: bool,
}

impl<K> Default for ChangedKeys<K> {
    fn default() -> Self {
        ChangedKeys { keys: FastSet::default(), is_incomplete: false }
    }
}

impl<K> Default for ChangeLog<K> {
    fn default() -> Self {
        ChangeLog::with_limit(MAX_KEYS)
    }
}

impl<K> ChangeLog<K> {
    /// Returns a log that keeps up to `max_keys` keys between two reads.
    pub fn with_limit(max_keys: usize) -> Self {
        ChangeLog { max_keys, has_reader: AtomicBool::new(false), changed: Mutex::default() }
    }
}

impl<K: Eq + Hash + Clone> ChangeLog<K> {
    /// Records a change. All writers share one lock, for the time of an insertion, which may enlarge the set: use it for rare
    /// changes only.
    pub fn record(&self, key: &K) {
        // Relaxed: the lock of the changed data orders this read after the reader's `start`, see above.
        if !self.has_reader.load(Ordering::Relaxed) {
            return;
        }
        let mut changed = self.changed.lock();
        // A key that is there already costs no clone.
        if changed.keys.contains(key) {
            return;
        }
        match changed.keys.len() < self.max_keys {
            true => drop(changed.keys.insert(key.clone())),
            false => changed.is_incomplete = true,
        }
    }

    /// Begins to collect.
    pub fn start(&self) {
        self.has_reader.store(true, Ordering::Relaxed);
    }

    /// Ends collecting, and forgets what was collected.
    pub fn stop(&self) {
        self.has_reader.store(false, Ordering::Relaxed);
        *self.changed.lock() = ChangedKeys::default();
    }

    /// Returns the keys since the last call.
    pub fn take(&self) -> ChangedKeys<K> {
        std::mem::take(&mut self.changed.lock())
    }

    /// Returns the number of keys since the last call of `take`.
    pub fn count(&self) -> usize {
        self.changed.lock().keys.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collects_each_key_once_and_only_while_there_is_a_reader() {
        let log = ChangeLog::default();
        log.record(&1);
        assert_eq!(log.count(), 0);
        log.start();
        [1, 2, 1].iter().for_each(|key| log.record(key));
        assert_eq!(log.take().keys, FastSet::from_iter([1, 2]));
        log.record(&3);
        log.stop();
        assert!(log.take().keys.is_empty());
    }

    #[test]
    fn reports_that_keys_are_missing() {
        const MAX_KEYS: usize = 100;
        let log = ChangeLog::with_limit(MAX_KEYS);
        log.start();
        (0..MAX_KEYS).for_each(|key| log.record(&key));
        log.record(&7);
        let complete = log.take();
        assert!(complete.keys.len() == MAX_KEYS && !complete.is_incomplete);
        (0..=MAX_KEYS).for_each(|key| log.record(&key));
        let incomplete = log.take();
        assert!(incomplete.keys.len() == MAX_KEYS && incomplete.is_incomplete);
        assert!(!log.take().is_incomplete, "the next keys are complete");
    }
}
