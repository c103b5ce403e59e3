//! The committed deliveries that no table lists: notes of pending ones, and outcomes of level 0. The writer shares them
//! with the readers.
//!
//! A reader takes a snapshot of them before its snapshot of the database, which is then the newer one. So it misses no
//! delivery. A delivery that moved in between is in both: its row replaces what the older snapshot has.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::super::super::DeliverySeq;
use super::super::unmaterialized::Unmaterialized;
use super::Outcome;
use super::level0::{Group, Level0};
use super::notes::Notes;

/// The shared state. The writer changes it after each COMMIT and before the replies, so that a read after a reply finds
/// what was committed.
#[derive(Default)]
pub(in super::super) struct Recent(Mutex<RecentState>);

#[derive(Default)]
struct RecentState {
    notes: Notes,
    level0: Level0,
}

/// A change of the unmaterialized deliveries.
#[derive(Clone)]
pub(super) enum NoteChange {
    Added(DeliverySeq, Unmaterialized),
    Removed(DeliverySeq),
}

impl Recent {
    /// Sets the state that the tables have.
    pub(super) fn set(&self, notes: BTreeMap<DeliverySeq, Unmaterialized>, level0: Level0) {
        *self.0.lock() = RecentState { notes: notes.into_iter().collect(), level0 };
    }

    /// Publishes what a transaction changed. `level0`: if it changed more than adding `groups`.
    pub(super) fn publish(
        &self,
        changes: impl Iterator<Item = NoteChange>,
        groups: &[Arc<Group>],
        level0: Option<Level0>,
    ) {
        let mut state = self.0.lock();
        for change in changes {
            match change {
                NoteChange::Added(seq, delivery) => state.notes.insert(seq, delivery),
                NoteChange::Removed(seq) => state.notes.remove(seq),
            }
        }
        match level0 {
            Some(level0) => state.level0 = level0,
            None => groups.iter().for_each(|group| state.level0.insert(group.clone())),
        }
    }

    pub(in super::super) fn snapshot(&self) -> Snapshot {
        let state = self.0.lock();
        Snapshot { notes: state.notes.clone(), level0: state.level0.clone() }
    }
}

/// A delivery that a snapshot contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum RecentDelivery {
    Pending(Unmaterialized),
    Delivered(Outcome),
}

impl RecentDelivery {
    /// Returns the row id of its hook.
    pub(in super::super) fn hook(&self) -> i64 {
        match self {
            RecentDelivery::Pending(delivery) => delivery.hook,
            RecentDelivery::Delivered(outcome) => outcome.hook,
        }
    }
}

/// The committed deliveries that no table lists, at one moment. Cheap to clone: the parts are shared.
#[derive(Clone, Default)]
pub(in super::super) struct Snapshot {
    notes: Notes,
    level0: Level0,
}

impl Snapshot {
    /// Makes a snapshot of what the tables have, for a caller without a writer.
    pub(in super::super) fn new(notes: BTreeMap<DeliverySeq, Unmaterialized>, level0: Level0) -> Snapshot {
        Snapshot { notes: notes.into_iter().collect(), level0 }
    }

    /// Returns the pending deliveries.
    pub(in super::super) fn notes(&self) -> &Notes {
        &self.notes
    }

    pub(in super::super) fn outcomes(&self) -> &Level0 {
        &self.level0
    }

    pub(in super::super) fn note(&self, seq: DeliverySeq) -> Option<&Unmaterialized> {
        self.notes.get(seq)
    }

    /// Returns all deliveries in no particular order.
    pub(in super::super) fn iter(&self) -> impl Iterator<Item = (DeliverySeq, RecentDelivery)> {
        self.range(0, DeliverySeq::MAX)
    }

    /// Returns the deliveries of an event in no particular order.
    pub(in super::super) fn range(
        &self,
        first: DeliverySeq,
        last: DeliverySeq,
    ) -> impl Iterator<Item = (DeliverySeq, RecentDelivery)> {
        let notes = self.notes.range(first, last);
        let notes = notes.map(|(seq, delivery)| (seq, RecentDelivery::Pending(delivery)));
        let outcomes = self.level0.range(first, last);
        notes.chain(outcomes.map(|outcome| (outcome.seq, RecentDelivery::Delivered(*outcome))))
    }
}
