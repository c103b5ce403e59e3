//! The newest keys, in memory: those of the group in progress, the table of committed ones, and the frozen table that is
//! being written as runs.

use std::collections::VecDeque;
use std::sync::Arc;

use super::super::super::EventSeq;
use super::super::runs::{Entry, EntryTable, Key};
use crate::core::fast_map::FastMap;

/// A table that receives no more keys.
pub(super) struct Frozen {
    pub(super) table: Arc<EntryTable>,
    /// The classes that are not visible as runs yet. The first one is written next.
    pub(super) classes: VecDeque<u8>,
    /// The last event when it was frozen. When all classes are written, the keys of all events up to it are in runs.
    pub(super) covers: EventSeq,
}

#[derive(Default)]
pub(super) struct KeyTable {
    /// The keys of the group in progress, in their order, with their classes.
    pending: Vec<(Entry, u8)>,
    /// Positions in `pending`.
    pending_index: FastMap<Key, usize>,
    active: EntryTable,
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
            self.active.replace(entry, class);
        }
    }

    /// Finds the newest entry of a key that has not expired.
    pub(super) fn find(&self, key: &Key, now: i64) -> Option<Entry> {
        let pending =
            self.pending_index.get(key).and_then(|at| self.pending.get(*at)).map(|(entry, _)| *entry);
        let of_table = |table: &EntryTable| table.find(key).next();
        let active = || of_table(&self.active);
        let frozen = || self.frozen.as_ref().and_then(|frozen| of_table(&frozen.table));
        let is_valid = |entry: &Entry| entry.expires > now;
        pending.filter(is_valid).or_else(|| active().filter(is_valid)).or_else(|| frozen().filter(is_valid))
    }

    /// Returns the number of committed keys that are not frozen.
    pub(super) fn active(&self) -> usize {
        self.active.len()
    }

    /// Freezes the table. `last_event`: the last committed event.
    pub(super) fn freeze(&mut self, last_event: EventSeq) {
        let table = std::mem::take(&mut self.active);
        let classes = table.classes().collect();
        self.frozen = Some(Frozen { table: Arc::new(table), classes, covers: last_event });
    }

    /// Returns its memory.
    pub(super) fn bytes(&self) -> usize {
        self.active.bytes() + self.frozen.as_ref().map_or(0, |frozen| frozen.table.bytes())
    }
}
