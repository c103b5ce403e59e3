//! Idempotency keys: which events were accepted within their windows.
//!
//! The newest keys are in memory (`table`), and in the rows of their events (`events.dedup_key`), the others in runs
//! (`runs`). See ADR 0016.
//!
//! Invariants:
//! - `meta.keyed` is the last event up to which every key is in a run or has expired. A start reads the keys of later events
//!   from their rows. Retention removes no row before its key expires (`events.kept_until`).
//! - Keys of a group are found within the group at once, and join the table after its COMMIT. A rollback removes them.
//! - Memory is bounded: the table by `RunLimits::table`, the filters by `RunLimits::filter_bytes`.
//!
//! Out of scope: the result of a duplicate (`accept`), keys of stores before format 7 (`accept`, table `dedup`).

mod check;
mod load;
mod table;
#[cfg(test)]
mod tests;

use std::time::Duration;

use rusqlite::Connection;

use super::super::EventSeq;
use super::runs::{Entry, Key, Manifest, RunSet, Slice};
use crate::core::time::Millis;
pub(super) use check::{find_problems, forget_runs};
use table::KeyTable;

/// Multiples of `RunLimits::table`: from the first on, slices do not depend on accepted events; from the second on, events
/// are refused.
const URGENT_MULTIPLE: usize = 2;
const FULL_MULTIPLE: usize = 4;

/// The keys of a store, in the writer's thread.
#[derive(Default)]
pub(super) struct KeyStore {
    table: KeyTable,
    runs: RunSet,
    /// The committed value of `meta.keyed`.
    covered: EventSeq,
    /// The value of the transaction in progress.
    new_covered: Option<EventSeq>,
    /// The last committed event.
    last_event: EventSeq,
    latest_expiry: i64,
    /// True if the table `dedup` of older formats has rows. None: not known.
    has_old_keys: Option<bool>,
    /// Entries that expired by this time are removed.
    now: i64,
    /// The time of the last group.
    last_time: Option<Millis>,
    /// By how many milliseconds sweeps lag behind the groups. They do for an hour after a start with a clock that may be
    /// wrong, and so must the removal of keys. None: no sweep yet.
    age_lag: Option<i64>,
}

impl KeyStore {
    /// Finds the event that was accepted with a key whose window has not ended.
    pub(super) fn find(
        &self,
        conn: &Connection,
        key: &Key,
        now: Millis,
    ) -> rusqlite::Result<Option<EventSeq>> {
        if let Some(entry) = self.table.find(key, now.0) {
            return Ok(Some(entry.event));
        }
        for run in self.runs.runs().iter().rev().filter(|run| run.manifest.expires > now.0) {
            if let Some(entry) = run.find(conn, key)?.filter(|entry| entry.expires > now.0) {
                return Ok(Some(entry.event));
            }
        }
        Ok(None)
    }

    /// Adds the key of an event of the group in progress.
    pub(super) fn insert(&mut self, entry: Entry, window: Duration) {
        self.latest_expiry = self.latest_expiry.max(entry.expires);
        self.table.insert(entry, window_class(window));
    }

    /// Returns a time at which every key has expired.
    pub(super) fn latest_expiry(&self) -> i64 {
        self.runs.runs().iter().map(|run| run.manifest.expires).fold(self.latest_expiry, i64::max)
    }

    /// True if no more keys fit into memory, because the disk has no space to write them.
    pub(super) fn is_full(&self) -> bool {
        self.table.active() >= self.runs.limits.table.saturating_mul(FULL_MULTIPLE)
    }

    /// Returns the position in the group to which `roll_back_to` returns.
    pub(super) fn savepoint(&self) -> (usize, usize) {
        (self.table.pending(), self.runs.savepoint())
    }

    /// Forgets the keys of the group in progress after a savepoint that was rolled back.
    pub(super) fn roll_back_to(&mut self, (pending, added): (usize, usize)) {
        self.table.rollback_to(pending);
        self.runs.roll_back_to(added);
        self.has_old_keys = None;
    }

    /// Returns to the state of the last COMMIT. Must run after every rollback of a transaction.
    pub(super) fn roll_back(&mut self) {
        self.roll_back_to((0, 0));
        self.runs.roll_back();
        self.new_covered = None;
    }

    /// Keeps what the transaction did. Must run after every COMMIT. `last_event`: the last accepted event.
    pub(super) fn commit(&mut self, last_event: EventSeq) {
        self.table.commit();
        self.last_event = last_event;
        self.covered = self.new_covered.take().unwrap_or(self.covered);
        if self.runs.commit() {
            if let Some(frozen) = &mut self.table.frozen {
                frozen.classes.pop_front();
            }
            self.table.frozen = self.table.frozen.take().filter(|frozen| !frozen.classes.is_empty());
        }
    }

    /// Returns the runs, for what needs no keys: whether slices may run, and what they add to the log.
    pub(super) fn runs(&mut self) -> &mut RunSet {
        &mut self.runs
    }

    /// Requests a slice at the end of the group if the store is idle. True: there is more work.
    pub(super) fn request_work(&mut self, conn: &Connection, now: Millis) -> rusqlite::Result<bool> {
        self.now = now.0;
        self.age_lag = self.last_time.map(|last| last.0.saturating_sub(now.0).max(0));
        let has_work = self.table.frozen.is_some()
            || self.runs.runs().iter().any(|run| run.manifest.expires <= self.now);
        self.runs.request_work(conn, has_work)
    }

    /// Does a bounded part of the work. Must run at the end of every transaction. `now`: the time of the group, if it has one.
    pub(super) fn work(&mut self, conn: &Connection, now: Option<Millis>) -> rusqlite::Result<()> {
        self.last_time = now.or(self.last_time);
        if let (Some(now), Some(lag)) = (now, self.age_lag) {
            self.now = now.0.saturating_sub(lag);
        }
        if self.runs.is_enabled() {
            self.freeze(conn)?;
        }
        let is_urgent = self.table.active() >= self.runs.limits.table.saturating_mul(URGENT_MULTIPLE);
        let Some(slice) = self.runs.begin(self.table.pending(), is_urgent) else { return Ok(()) };
        let now = self.now;
        let mut is_idle = !self.runs.drop_runs(conn, |manifest: &Manifest| manifest.expires <= now)?;
        is_idle &= !self.run_job(conn, &slice)?;
        is_idle &= self.runs.remove_unused(conn, slice.rows())? == 0;
        self.runs.end(&slice, is_idle);
        Ok(())
    }

    /// Freezes the table if it is due. Stores that all keys are covered if there are none.
    fn freeze(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        let limits = self.runs.limits;
        let is_full = self.table.active() >= limits.table;
        if self.table.frozen.is_some()
            || !(is_full || self.last_event.saturating_sub(self.covered) >= limits.span)
        {
            return Ok(());
        }
        if self.table.active() == 0 {
            return self.store_covered(conn, self.last_event);
        }
        self.table.freeze(self.last_event);
        Ok(())
    }

    fn store_covered(&mut self, conn: &Connection, event: EventSeq) -> rusqlite::Result<()> {
        conn.prepare_cached("INSERT OR REPLACE INTO meta (name, value) VALUES ('keyed', ?1)")?
            .execute([event])?;
        self.new_covered = Some(event);
        Ok(())
    }

    /// Writes a slice of a class of the frozen table, or of a merge. False: there is nothing to write.
    fn run_job(&mut self, conn: &Connection, slice: &Slice) -> rusqlite::Result<bool> {
        let now = self.now;
        let mut keep = |_: &Connection, entry: &Entry| Ok(entry.expires > now);
        if let Some(frozen) = &self.table.frozen
            && let Some(class) = frozen.classes.front()
        {
            let (covers, is_last) = (frozen.covers, frozen.classes.len() == 1);
            if self.runs.flush(conn, (*class, &frozen.table), slice, &mut keep)? && is_last {
                self.store_covered(conn, covers)?;
            }
            return Ok(true);
        }
        self.runs.merge(conn, slice, &mut keep)
    }

    /// Removes up to `rows` rows of runs that do not exist any more. Returns how many.
    pub(super) fn remove_unused(&mut self, conn: &Connection, rows: i64) -> rusqlite::Result<usize> {
        self.runs.remove_unused(conn, rows)
    }

    /// True if the table `dedup` of older formats has rows.
    pub(super) fn has_old_keys(&mut self, conn: &Connection) -> rusqlite::Result<bool> {
        if let Some(known) = self.has_old_keys {
            return Ok(known);
        }
        let found = conn.query_row("SELECT EXISTS (SELECT 1 FROM dedup)", [], |row| row.get(0))?;
        self.has_old_keys = Some(found);
        Ok(found)
    }

    /// Makes the next lookup check whether the table `dedup` still has rows.
    pub(super) fn recheck_old_keys(&mut self) {
        self.has_old_keys = self.has_old_keys.filter(|has_old_keys| !has_old_keys);
    }

    /// Returns the memory of the keys, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.table.bytes() + self.runs.bytes()
    }
}

/// Returns the class of a window: windows of one class differ by less than a factor of two. Keys of one class expire
/// at similar times, so a run of them can be dropped as a whole.
fn window_class(window: Duration) -> u8 {
    let millis = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
    u8::try_from(u64::BITS - millis.leading_zeros()).unwrap_or(u8::MAX)
}
