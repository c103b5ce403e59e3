//! The newest ids, in memory. The writer adds them, and readers find them.

use std::sync::Arc;

use parking_lot::RwLock;

use super::super::super::EventSeq;
use super::super::runs::{Entry, EntryTable, Key};
use super::RECENT;

#[derive(Default)]
struct State {
    active: EntryTable,
    /// The ids that are being written as a run.
    frozen: Option<Arc<EntryTable>>,
}

/// The ids that are in no run yet.
#[derive(Default)]
pub(in super::super) struct NewestIds(RwLock<State>);

impl NewestIds {
    /// Adds the ids of a committed group.
    pub(super) fn extend(&self, entries: &mut Vec<Entry>) {
        if !entries.is_empty() {
            let mut state = self.0.write();
            entries.drain(..).for_each(|entry| state.active.insert(entry, RECENT));
        }
    }

    /// Returns the number of ids that are not frozen.
    pub(super) fn count(&self) -> usize {
        self.0.read().active.len()
    }

    /// Freezes all ids. Those that are frozen already must have been removed.
    pub(super) fn freeze(&self) {
        let mut state = self.0.write();
        state.frozen = Some(Arc::new(std::mem::take(&mut state.active)));
    }

    pub(super) fn frozen(&self) -> Option<Arc<EntryTable>> {
        self.0.read().frozen.clone()
    }

    /// Removes the frozen ids, which are in a committed run now.
    pub(super) fn remove_frozen(&self) {
        self.0.write().frozen = None;
    }

    /// Returns the events with a key, in ascending order.
    pub(super) fn find(&self, key: &Key) -> Vec<EventSeq> {
        let state = self.0.read();
        let tables = state.frozen.as_deref().into_iter().chain([&state.active]);
        tables.flat_map(|table| table.find(key)).map(|entry| entry.event).collect()
    }

    /// Returns its memory.
    pub(super) fn bytes(&self) -> usize {
        let state = self.0.read();
        state.active.bytes() + state.frozen.as_ref().map_or(0, |frozen| frozen.bytes())
    }
}
