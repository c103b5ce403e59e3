//! Outcomes: deliveries that their first attempt delivered, without a row each. See ADR 0018.
//!
//! A row in `deliveries` costs five index entries. Most deliveries succeed at once, and nothing changes them afterwards. So
//! the outcomes of a group commit are appended as one row (`level0`). Behind the watermark of materialization, the writer
//! merges them in slices to segments (`segments`): sorted pages that do not overlap, with a directory (`directory`) by hook and
//! by namespace. Reads combine rows, notes, level 0 and segments (`recent`, `history`, `walk`), and write nothing.
//!
//! Invariants:
//! - A delivery has a row, an outcome, or a note, and only one of them counts: an outcome that must change (a replay) is
//!   removed when its row is inserted, in one transaction. A note counts only without the others.
//! - `meta.segmented` is the last delivery up to which outcomes are in segments. Groups may still contain such outcomes, which
//!   are ignored. It is never after the deliveries of `meta.filed`.
//! - Every outcome refers to an event and a hook, whose rows stay (`expire`, `hook_rows`).
//! - A damaged row loses the history of its outcomes only (`check`).
//!
//! Out of scope: notes (`unmaterialized`), retention of rows (`retention`).

mod check;
mod content;
mod directory;
mod expire;
mod level0;
mod merge;
mod notes;
mod recent;
mod segments;

use std::sync::Arc;

use rusqlite::Connection;

use super::super::{DeliverySeq, EventSeq};
use super::sequence;
use super::unmaterialized::{self, Unmaterialized};
use crate::core::fast_map::FastSet;
pub(super) use check::{DIRECTORY, count, find_problems, list_events, repair};
pub(super) use content::Outcome;
pub(super) use directory::Owner;
pub(super) use expire::{NewestOutcomes, sweep};
use level0::Group;
pub(super) use level0::{Level0, exists};
use merge::Expiry;
use recent::NoteChange;
pub(super) use recent::{Recent, RecentDelivery, Snapshot};
pub(super) use segments::{OwnedPart, find, insert_segments, next_of_owner, range};

#[cfg(test)]
pub(super) use directory::{PART_NEWER, PART_OLDER};
#[cfg(test)]
pub(super) use expire::EXPIRED;
#[cfg(test)]
pub(super) use segments::AT;

/// The sizes that bound the memory of outcomes, and the slices that merge them.
#[derive(Clone, Copy, Debug)]
pub(super) struct OutcomeLimits {
    /// Outcomes that one slice merges, if a group does not add more. A slice takes less than 5 ms.
    pub(super) slice: usize,
    /// The most outcomes that a slice merges.
    pub(super) max_slice: usize,
    /// The largest content of a row.
    pub(super) row_bytes: usize,
    /// Outcomes of level 0 above which pending deliveries are materialized, because an old one may hold the merge up.
    pub(super) max_level0: usize,
}

impl Default for OutcomeLimits {
    fn default() -> Self {
        OutcomeLimits { slice: 1024, max_slice: 8192, row_bytes: segments::SEGMENT_BYTES, max_level0: 65_536 }
    }
}

/// The outcomes of a store, in the writer's thread.
#[derive(Default)]
pub(super) struct OutcomeStore {
    limits: OutcomeLimits,
    shared: Arc<Recent>,
    /// As of the last COMMIT.
    committed: Level0,
    /// In the transaction in progress, if it changed more than adding groups.
    tentative: Option<Level0>,
    /// Outcomes of the transaction in progress, until its group is written.
    pending: Vec<Outcome>,
    /// Groups of the transaction in progress that neither level 0 contains yet.
    written: Vec<Arc<Group>>,
    notes: Vec<NoteChange>,
    /// The watermark up to which everything was merged.
    merged_events: Option<EventSeq>,
    /// True if slices may run. They need space on the disk.
    is_enabled: bool,
}

/// A state to which a transaction can return.
pub(super) struct Savepoint {
    tentative: Option<Level0>,
    pending: Vec<Outcome>,
    notes: Vec<NoteChange>,
}

impl OutcomeStore {
    /// Reads level 0 and the notes, and shares them with the readers.
    pub(super) fn open(
        conn: &Connection,
        limits: OutcomeLimits,
        shared: Arc<Recent>,
    ) -> rusqlite::Result<OutcomeStore> {
        let committed = Level0::load(conn)?;
        let store = OutcomeStore { limits, shared, committed, ..OutcomeStore::default() };
        let notes = unmaterialized::read(conn, store.finder(conn))?;
        store.shared.set(notes, store.committed.clone());
        Ok(store)
    }

    fn level0(&self) -> &Level0 {
        self.tentative.as_ref().unwrap_or(&self.committed)
    }

    /// Returns level 0 for a change. Contains the groups of the transaction in progress.
    fn level0_mut(&mut self) -> &mut Level0 {
        let level0 = self.tentative.get_or_insert_with(|| self.committed.clone());
        self.written.drain(..).for_each(|group| level0.insert(group));
        level0
    }

    /// Adds an outcome of the group in progress. False: outcomes up to its delivery are in segments, so it needs a row. That
    /// happens only after a recovery that lost the watermark of materialization.
    pub(super) fn insert(&mut self, outcome: Outcome) -> bool {
        if outcome.seq <= self.level0().merged() {
            return false;
        }
        self.pending.push(outcome);
        true
    }

    /// Records that a delivery has a note only.
    pub(super) fn add_note(&mut self, seq: DeliverySeq, delivery: Unmaterialized) {
        self.notes.push(NoteChange::Added(seq, delivery));
    }

    /// Records that a delivery has a row or an outcome.
    pub(super) fn remove_note(&mut self, seq: DeliverySeq) {
        self.notes.push(NoteChange::Removed(seq));
    }

    fn find_recent(&self, seq: DeliverySeq) -> Option<&Outcome> {
        self.pending.iter().find(|outcome| outcome.seq == seq).or_else(|| self.level0().find(seq))
    }

    /// Returns the outcome of a delivery, if it has one.
    pub(super) fn find(&self, conn: &Connection, seq: DeliverySeq) -> rusqlite::Result<Option<Outcome>> {
        match self.find_recent(seq) {
            Some(outcome) => Ok(Some(*outcome)),
            None if seq <= self.level0().merged() => segments::find(conn, seq),
            None => Ok(None),
        }
    }

    /// Returns a function that says whether a delivery has an outcome, for many deliveries.
    pub(super) fn finder(&self, conn: &Connection) -> impl Fn(DeliverySeq) -> rusqlite::Result<bool> {
        let recent = self.pending.iter().chain(self.level0().iter()).map(|outcome| outcome.seq);
        let (recent, merged): (FastSet<_>, _) = (recent.collect(), self.level0().merged());
        move |seq| Ok(recent.contains(&seq) || (seq <= merged && segments::find(conn, seq)?.is_some()))
    }

    /// Returns the outcomes of an event's deliveries.
    pub(super) fn of_event(&self, conn: &Connection, event: EventSeq) -> rusqlite::Result<Vec<Outcome>> {
        let (first, last) = (sequence::first_delivery(event), sequence::last_delivery(event));
        let mut found = Vec::new();
        if first <= self.level0().merged() {
            found = segments::range(conn, first, last, false, usize::MAX)?;
        }
        found.extend(self.level0().range(first, last));
        found.extend(self.pending.iter().filter(|outcome| outcome.event() == event));
        Ok(found)
    }

    /// Removes the outcome of a delivery, which gets a row in this transaction.
    pub(super) fn take(&mut self, conn: &Connection, seq: DeliverySeq) -> rusqlite::Result<Option<Outcome>> {
        if let Some(index) = self.pending.iter().position(|outcome| outcome.seq == seq) {
            return Ok(Some(self.pending.swap_remove(index)));
        }
        if seq <= self.level0().merged() {
            return segments::take(conn, seq);
        }
        if self.level0().find(seq).is_none() {
            return Ok(None);
        }
        self.level0_mut().remove(conn, seq)
    }

    /// True if a hook has an outcome that is not in the directory.
    pub(super) fn has_recent(&self, hook: i64) -> bool {
        self.pending.iter().chain(self.level0().iter()).any(|outcome| outcome.hook == hook)
    }

    /// True if there are more outcomes in memory than `max_level0`: a pending delivery must not hold up their merge any more.
    pub(super) fn is_over_bounds(&self) -> bool {
        self.level0().len() + self.pending.len() > self.limits.max_level0
    }

    /// Allows or forbids slices in the next transaction.
    pub(super) fn set_enabled(&mut self, is_enabled: bool) {
        self.is_enabled = is_enabled;
    }

    /// Writes the outcomes of the group in progress, and merges a bounded part of level 0. Must run before every COMMIT.
    /// `watermark`: the stored watermark of materialization.
    pub(super) fn work(&mut self, conn: &Connection, watermark: EventSeq) -> rusqlite::Result<()> {
        let added = self.pending.len();
        self.write_pending(conn)?;
        let count = self.level0().len() + added;
        if !self.is_enabled || count < self.limits.slice || self.merged_events == Some(watermark) {
            return Ok(());
        }
        let rows = self.limits.slice.max(added.saturating_mul(2)).min(self.limits.max_slice);
        let row_bytes = self.limits.row_bytes;
        let merged = merge::run(conn, self.level0_mut(), watermark, rows, row_bytes, None)?;
        if !merged.has_more {
            self.merged_events = Some(watermark);
        }
        Ok(())
    }

    /// Writes the outcomes of the transaction in progress as a group.
    fn write_pending(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.pending.sort_unstable_by_key(|outcome| outcome.seq);
        let id = self.level0().next_id();
        self.written = Group::insert_all(conn, id, &self.pending, self.limits.row_bytes)?;
        self.pending.clear();
        Ok(())
    }

    /// Merges up to `rows` outcomes for a caller that removes outcomes. Removes expired ones instead, and returns them. Also
    /// returns how many outcomes it took from level 0.
    fn merge_expired(
        &mut self,
        conn: &Connection,
        watermark: EventSeq,
        rows: usize,
        expiry: &Expiry,
    ) -> rusqlite::Result<(Vec<Outcome>, usize)> {
        // Outcomes of earlier operations of the group may be before the last one that is merged.
        self.write_pending(conn)?;
        let row_bytes = self.limits.row_bytes;
        let merged = merge::run(conn, self.level0_mut(), watermark, rows, row_bytes, Some(expiry))?;
        Ok((merged.expired, merged.count))
    }

    /// Removes up to `rows` outcomes of a hook up to the watermark, without their events. Returns how many changes it made; 0:
    /// there are none.
    pub(super) fn remove_of_hook(
        &mut self,
        conn: &Connection,
        hook: i64,
        watermark: EventSeq,
        rows: usize,
    ) -> rusqlite::Result<usize> {
        let last = sequence::last_delivery(watermark);
        if self.level0().range(0, last).any(|outcome| outcome.hook == hook) {
            let nothing = Expiry { at: i64::MIN, bytes: usize::MAX };
            let (_, count) = self.merge_expired(conn, watermark, rows, &nothing)?;
            return Ok(count);
        }
        segments::remove_of_owner(conn, Owner::Hook(hook), last, rows)
    }

    pub(super) fn savepoint(&self) -> Savepoint {
        Savepoint {
            tentative: self.tentative.clone(),
            pending: self.pending.clone(),
            notes: self.notes.clone(),
        }
    }

    pub(super) fn roll_back_to(&mut self, savepoint: Savepoint) {
        let Savepoint { tentative, pending, notes } = savepoint;
        (self.tentative, self.pending, self.notes) = (tentative, pending, notes);
        self.merged_events = None;
    }

    /// Returns to the state of the last COMMIT. Must run after every rollback of a transaction.
    pub(super) fn roll_back(&mut self) {
        self.roll_back_to(Savepoint { tentative: None, pending: Vec::new(), notes: Vec::new() });
        self.written.clear();
    }

    /// Keeps what the transaction did, and shares it with the readers. Must run after every COMMIT.
    pub(super) fn commit(&mut self) {
        let changed = self.tentative.take();
        let has_changed = changed.is_some();
        self.committed = changed.unwrap_or_else(|| std::mem::take(&mut self.committed));
        self.written.iter().for_each(|group| self.committed.insert(group.clone()));
        if has_changed || !self.written.is_empty() || !self.notes.is_empty() {
            let level0 = has_changed.then(|| self.committed.clone());
            self.shared.publish(self.notes.drain(..), &self.written, level0);
        }
        self.written.clear();
    }
}
