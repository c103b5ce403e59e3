//! The newest ids, in memory. The writer adds them, and readers find them.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::RwLock;

use super::super::super::EventSeq;
use super::super::runs::{Entry, Key};

/// Memory of an entry in the ordered set, whose nodes are about three quarters full.
const SET_ENTRY_BYTES: usize = size_of::<Item>() * 3 / 2;

/// An entry in the order of a run: by key, then by event.
type Item = (Key, EventSeq, i64);

#[derive(Default)]
struct State {
    /// Ordered, so that a lookup finds all events of an id, and a run needs no sorting.
    active: BTreeSet<Item>,
    /// The ids that are being written as a run.
    frozen: Option<Arc<Vec<Entry>>>,
}

/// The ids that are in no run yet.
#[derive(Default)]
pub(in super::super) struct NewestIds(RwLock<State>);

impl NewestIds {
    /// Adds the ids of a committed group.
    pub(super) fn extend(&self, entries: &mut Vec<Entry>) {
        if !entries.is_empty() {
            let entries = entries.drain(..).map(|entry| (entry.key, entry.event, entry.expires));
            self.0.write().active.extend(entries);
        }
    }

    /// Returns the number of ids that are not frozen.
    pub(super) fn count(&self) -> usize {
        self.0.read().active.len()
    }

    /// Freezes all ids. Those that are frozen already must have been removed.
    pub(super) fn freeze(&self) {
        let mut state = self.0.write();
        let items = std::mem::take(&mut state.active).into_iter();
        let entries = items.map(|(key, event, expires)| Entry { key, event, expires }).collect();
        state.frozen = Some(Arc::new(entries));
    }

    pub(super) fn frozen(&self) -> Option<Arc<Vec<Entry>>> {
        self.0.read().frozen.clone()
    }

    /// Removes the frozen ids, which are in a committed run now.
    pub(super) fn remove_frozen(&self) {
        self.0.write().frozen = None;
    }

    /// Returns the events with a key, in ascending order.
    pub(super) fn find(&self, key: &Key) -> Vec<EventSeq> {
        let state = self.0.read();
        let frozen = state.frozen.as_deref().map(Vec::as_slice).unwrap_or_default();
        let frozen = frozen.get(frozen.partition_point(|entry| entry.key < *key)..).unwrap_or_default();
        let frozen = frozen.iter().take_while(|entry| entry.key == *key).map(|entry| entry.event);
        let active = state.active.range((*key, EventSeq::MIN, i64::MIN)..=(*key, EventSeq::MAX, i64::MAX));
        frozen.chain(active.map(|(_, event, _)| *event)).collect()
    }

    /// Returns its memory.
    pub(super) fn bytes(&self) -> usize {
        let state = self.0.read();
        let frozen = state.frozen.as_ref().map_or(0, |frozen| frozen.capacity());
        state.active.len() * SET_ENTRY_BYTES + frozen * size_of::<Entry>()
    }
}
