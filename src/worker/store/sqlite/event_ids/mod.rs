//! Event ids: which events have an id. Several may have the same one.
//!
//! The newest ids are in memory (`newest`), the others in runs (`runs`). An entry is a hash of the id and of its namespace's
//! place, with the event. Readers look ids up without the writer (`lookup`), and compare the row of each event found, so
//! hashes that collide and entries of removed events are harmless. See ADR 0017.
//!
//! Invariants:
//! - `meta.ids_covered` is the last event up to which every id is in a run, except those of events up to `meta.ids_missing`,
//!   which a store of an older format had (`backfill`). A start reads the ids of later events from their rows.
//! - The ids of a group join the memory after its COMMIT. They leave it after the COMMIT that makes their run exist.
//! - A merge leaves an entry out only if its event's row does not exist. It asks only for entries that retention may have
//!   removed (`Horizon`), because each question is a seek.
//! - Memory is bounded by `RunLimits::table`.
//!
//! Out of scope: deliveries of an event (`sequence`).

mod backfill;
mod check;
mod load;
mod lookup;
mod newest;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};

use super::super::EventSeq;
use super::runs::{Entry, Keep, Key, Manifest, RunSet, place_hash, stored_key};
use crate::core::digest::hash_parts;
pub(super) use backfill::read as read_backfill;
pub(super) use check::{find_problems, forget_runs};
pub(super) use lookup::{IdLookup, is_incomplete};
pub(super) use newest::NewestIds;

/// Multiples of `RunLimits::table`: from the first on, slices do not depend on accepted events; from the second on, events
/// are refused.
const URGENT_MULTIPLE: usize = 2;
const FULL_MULTIPLE: usize = 4;

/// The class of runs as they are written first.
const RECENT: u8 = 0;
/// The class of runs whose events are all beyond the horizon, and which were written again without those of removed events.
const OLD: u8 = 1;

/// Returns the hash of an event id. The caller's thread computes it, so that the writer does not.
pub(super) fn id_hash(id: &str) -> [u8; 32] {
    hash_parts(&[b"event id", id.as_bytes()])
}

/// Returns the key of an event id in a namespace with this place.
fn id_key(place: &str, id: &str) -> Key {
    stored_key(&id_hash(id), &hash_of_place(place))
}

/// Returns the hash of a namespace's place, which keys contain.
pub(super) fn hash_of_place(place: &str) -> Key {
    place_hash(&hash_parts(&[b"place", place.as_bytes()]))
}

/// Returns the time until which the row of an event certainly stays.
fn kept_until(accepted: i64, kept_until: i64) -> i64 {
    accepted.max(kept_until)
}

/// What retention may have removed: events up to `event` whose idempotency window ended by `time`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Horizon {
    pub(super) time: i64,
    pub(super) event: EventSeq,
    /// No event before this one exists.
    pub(super) first: EventSeq,
}

impl Default for Horizon {
    fn default() -> Self {
        Horizon { time: i64::MIN, event: 0, first: 0 }
    }
}

impl Horizon {
    /// True if none of the events of a run exists.
    fn is_useless(&self, run: &Manifest) -> bool {
        run.last_event < self.first
    }

    /// True if retention may have removed every event of a run.
    fn is_old(&self, run: &Manifest) -> bool {
        run.expires <= self.time && run.last_event <= self.event
    }

    /// True unless the event of an entry does not exist.
    fn keeps(&self, conn: &Connection, entry: &Entry) -> rusqlite::Result<bool> {
        if entry.event < self.first {
            return Ok(false);
        }
        if entry.expires > self.time || entry.event > self.event {
            return Ok(true);
        }
        conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM events WHERE seq = ?1)")?
            .query_row([entry.event], |row| row.get(0))
    }
}

/// The ids of a store's events, in the writer's thread.
#[derive(Default)]
pub(super) struct IdStore {
    newest: Arc<NewestIds>,
    /// The ids of the group in progress.
    pending: Vec<Entry>,
    runs: RunSet,
    /// The last event of the frozen ids.
    frozen_to: EventSeq,
    /// The committed value of `meta.ids_covered`.
    covered: EventSeq,
    /// The value of the transaction in progress.
    new_covered: Option<EventSeq>,
    /// The last committed event.
    last_event: EventSeq,
    horizon: Horizon,
}

impl IdStore {
    /// Returns the ids in memory, for readers.
    pub(super) fn newest(&self) -> Arc<NewestIds> {
        self.newest.clone()
    }

    /// Adds the id of an event of the group in progress.
    pub(super) fn insert(&mut self, key: Key, event: EventSeq, accepted: i64, kept: i64) {
        self.pending.push(Entry::new(key, event, kept_until(accepted, kept)));
    }

    /// True if no more ids fit into memory, because the disk has no space to write them.
    pub(super) fn is_full(&self) -> bool {
        self.newest.count() >= self.runs.limits.table.saturating_mul(FULL_MULTIPLE)
    }

    /// Returns the position in the group to which `roll_back_to` returns.
    pub(super) fn savepoint(&self) -> (usize, usize) {
        (self.pending.len(), self.runs.savepoint())
    }

    /// Forgets the ids of the group in progress after a savepoint that was rolled back.
    pub(super) fn roll_back_to(&mut self, (pending, added): (usize, usize)) {
        self.pending.truncate(pending);
        self.runs.roll_back_to(added);
    }

    /// Returns to the state of the last COMMIT. Must run after every rollback of a transaction.
    pub(super) fn roll_back(&mut self) {
        self.roll_back_to((0, 0));
        self.runs.roll_back();
        self.new_covered = None;
    }

    /// Keeps what the transaction did. Must run after every COMMIT, and before a reply reports the events.
    pub(super) fn commit(&mut self, last_event: EventSeq) {
        self.newest.extend(&mut self.pending);
        self.last_event = last_event;
        self.covered = self.new_covered.take().unwrap_or(self.covered);
        if self.runs.commit() {
            self.newest.remove_frozen();
        }
    }

    /// Returns the runs, for what needs no ids: whether slices may run, and what they add to the log.
    pub(super) fn runs(&mut self) -> &mut RunSet {
        &mut self.runs
    }

    /// Sets what retention may have removed. Merges remove the entries of removed events.
    pub(super) fn set_horizon(&mut self, horizon: Horizon) {
        self.horizon = horizon;
    }

    /// Requests a slice at the end of the group if the store is idle. True: there is more work.
    pub(super) fn request_work(&mut self, conn: &Connection) -> rusqlite::Result<bool> {
        let horizon = self.horizon;
        let is_due = |run: &Manifest| horizon.is_useless(run) || needs_rewrite(&horizon, run);
        let has_work =
            self.newest.frozen().is_some() || self.runs.runs().iter().any(|run| is_due(&run.manifest));
        self.runs.request_work(conn, has_work)
    }

    /// Does a bounded part of the work. Must run at the end of every transaction.
    pub(super) fn work(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        if self.runs.is_enabled() {
            self.freeze(conn)?;
        }
        let is_urgent = self.newest.count() >= self.runs.limits.table.saturating_mul(URGENT_MULTIPLE);
        let Some(slice) = self.runs.begin(self.pending.len(), is_urgent) else { return Ok(()) };
        let horizon = self.horizon;
        let mut is_idle = !self.runs.drop_runs(conn, |run| horizon.is_useless(run))?;
        let mut keep = |conn: &Connection, entry: &Entry| horizon.keeps(conn, entry);
        let keep: Keep<'_> = &mut keep;
        if let Some(frozen) = self.newest.frozen() {
            if self.runs.flush(conn, (RECENT, &frozen), &slice, keep)? {
                self.store_covered(conn, self.frozen_to)?;
            }
            is_idle = false;
        } else {
            // A merge first: it makes fewer runs, which lookups read.
            let is_merging = self.runs.merge(conn, &slice, keep)?;
            is_idle &= !is_merging && !self.runs.begin_rewrite(OLD, |run| needs_rewrite(&horizon, run));
        }
        is_idle &= self.runs.remove_unused(conn, slice.rows())? == 0;
        self.runs.end(&slice, is_idle);
        Ok(())
    }

    /// Freezes the ids in memory if it is due.
    fn freeze(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        let (limits, count) = (self.runs.limits, self.newest.count());
        let is_due = count >= limits.table || self.last_event.saturating_sub(self.covered) >= limits.span;
        if !is_due || self.newest.frozen().is_some() {
            return Ok(());
        }
        if count == 0 {
            return self.store_covered(conn, self.last_event);
        }
        self.frozen_to = self.last_event;
        self.newest.freeze();
        Ok(())
    }

    fn store_covered(&mut self, conn: &Connection, event: EventSeq) -> rusqlite::Result<()> {
        conn.prepare_cached("INSERT OR REPLACE INTO meta (name, value) VALUES ('ids_covered', ?1)")?
            .execute([event])?;
        self.new_covered = Some(event);
        Ok(())
    }

    /// Removes up to `rows` rows of runs that do not exist any more. Returns how many.
    pub(super) fn remove_unused(&mut self, conn: &Connection, rows: i64) -> rusqlite::Result<usize> {
        self.runs.remove_unused(conn, rows)
    }

    /// Returns the memory of the ids, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.newest.bytes() + self.runs.bytes()
    }
}

/// True if retention may have removed every event of a run that still has the entries of all of them.
fn needs_rewrite(horizon: &Horizon, run: &Manifest) -> bool {
    run.class == RECENT && horizon.is_old(run)
}

/// Returns a number of the table `meta`. None: it has no row.
fn meta(conn: &Connection, name: &str) -> rusqlite::Result<Option<EventSeq>> {
    conn.prepare_cached("SELECT value FROM meta WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()
}
