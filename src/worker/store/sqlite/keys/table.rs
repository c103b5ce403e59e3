//! The newest keys, in memory: those of the group in progress, the table of committed ones, and the frozen table that is
//! being written as runs.

use std::collections::VecDeque;
use std::sync::Arc;

use super::super::super::EventSeq;
use super::super::runs::{Entry, Key};
use crate::core::fast_map::FastMap;

/// A key in the table.
#[derive(Clone, Copy)]
struct Stored {
    event: EventSeq,
    expires: i64,
    class: u8,
}

/// The keys of a frozen table with windows of one class, sorted.
pub(super) struct FrozenPart {
    pub(super) class: u8,
    pub(super) entries: Arc<Vec<Entry>>,
}

/// A table that receives no more keys.
pub(super) struct Frozen {
    /// The parts that are not visible as runs yet. The first one is written next.
    pub(super) parts: VecDeque<FrozenPart>,
    /// The last event when it was frozen. When all parts are written, the keys of all events up to it are in runs.
    pub(super) covers: EventSeq,
}

#[derive(Default)]
pub(super) struct KeyTable {
    /// The keys of the group in progress, in their order, with their classes.
    pending: Vec<(Entry, u8)>,
    /// Positions in `pending`.
    pending_index: FastMap<Key, usize>,
    active: FastMap<Key, Stored>,
    pub(super) frozen: Option<Frozen>,
}

impl KeyTable {
    /// Adds a key of the group in progress. It counts after `commit`.
    pub(super) fn insert(&mut self, entry: Entry, class: u8) {
        self.pending_index.insert(entry.key, self.pending.len());
        self.pending.push((entry, class));
    }

    /// Returns the number of keys of the group in progress.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Forgets the keys of the group in progress after the first `keep`.
    pub(super) fn rollback_to(&mut self, keep: usize) {
        if keep < self.pending.len() {
            self.pending.truncate(keep);
            let positions = self.pending.iter().enumerate().map(|(at, (entry, _))| (entry.key, at));
            self.pending_index = positions.collect();
        }
    }

    /// Moves the keys of the group in progress to the table.
    pub(super) fn commit(&mut self) {
        self.pending_index.clear();
        for (entry, class) in self.pending.drain(..) {
            self.active.insert(entry.key, Stored { event: entry.event, expires: entry.expires, class });
        }
    }

    /// Finds the newest entry of a key that has not expired.
    pub(super) fn find(&self, key: &Key, now: i64) -> Option<Entry> {
        let pending =
            self.pending_index.get(key).and_then(|at| self.pending.get(*at)).map(|(entry, _)| *entry);
        let active = || {
            self.active.get(key).map(|stored| Entry {
                key: *key,
                event: stored.event,
                expires: stored.expires,
            })
        };
        let frozen = || {
            self.frozen.iter().flat_map(|frozen| &frozen.parts).find_map(|part| {
                let at = part.entries.binary_search_by(|entry| entry.key.cmp(key)).ok()?;
                part.entries.get(at).copied()
            })
        };
        let is_valid = |entry: &Entry| entry.expires > now;
        pending.filter(is_valid).or_else(|| active().filter(is_valid)).or_else(|| frozen().filter(is_valid))
    }

    /// Returns the number of committed keys that are not frozen.
    pub(super) fn active(&self) -> usize {
        self.active.len()
    }

    /// Freezes the table. `last_event`: the last committed event.
    pub(super) fn freeze(&mut self, last_event: EventSeq) {
        let mut by_class: FastMap<u8, Vec<Entry>> = FastMap::default();
        for (key, Stored { event, expires, class }) in self.active.drain() {
            by_class.entry(class).or_default().push(Entry { key, event, expires });
        }
        let mut parts: Vec<_> = by_class.into_iter().collect();
        parts.sort_unstable_by_key(|(class, _)| *class);
        let parts = parts.into_iter().map(|(class, mut entries)| {
            entries.sort_unstable_by_key(|entry| entry.key);
            FrozenPart { class, entries: Arc::new(entries) }
        });
        self.frozen = Some(Frozen { parts: parts.collect(), covers: last_event });
    }

    /// Returns its memory.
    pub(super) fn bytes(&self) -> usize {
        let frozen = self.frozen.iter().flat_map(|frozen| &frozen.parts);
        let frozen: usize = frozen.map(|part| part.entries.capacity()).sum();
        self.active.capacity() * (size_of::<(Key, Stored)>() + 1) + frozen * size_of::<Entry>()
    }
}
