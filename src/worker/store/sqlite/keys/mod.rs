//! Idempotency keys: which events were accepted within their windows.
//!
//! A key is random, so a B-tree of keys writes a page of its own for each event. Instead the newest keys are in memory
//! (`table`), and in the rows of their events (`events.dedup_key`). When the table is full it is frozen, sorted, and written
//! as runs (`run`): sorted blocks with a filter each. Four runs of one tier are merged to one of the next (`job`). See
//! ADR 0016.
//!
//! Invariants:
//! - `meta.keyed` is the last event up to which every key is in a run or has expired. A start reads the keys of later events
//!   from their rows. Retention removes no row before its key expires (`events.kept_until`).
//! - A row in `key_runs`, inserted last, makes a run exist. Rows of other runs in `key_blocks` and `key_filters` are removed.
//! - Keys of a group are found within the group at once, and join the table after its COMMIT. A rollback removes them.
//! - Writing and merging run in slices inside the transactions of groups. A slice is proportional to the accepted events,
//!   so no accept waits long, and the work never falls behind.
//! - Memory is bounded: the table by `KeyLimits::table`, the filters by `KeyLimits::filter_bytes`.
//!
//! Out of scope: the result of a duplicate (`accept`), keys of stores before format 7 (`accept`, table `dedup`).

mod block;
mod check;
mod entry;
mod filter;
mod job;
mod load;
mod run;
mod table;
#[cfg(test)]
mod tests;

use std::time::Duration;

use rusqlite::Connection;

use super::super::EventSeq;
use crate::core::time::Millis;
use block::RowTable;
pub(super) use check::{TABLES, find_problems, forget_runs};
pub(super) use entry::{Entry, Key, place_hash, stored_key};
use job::Job;
use run::{Manifest, Run, fits_one_run};
use table::KeyTable;

/// Runs that are merged to one.
const MERGED_RUNS: usize = 4;
/// The most blocks of one slice.
const MAX_SLICE: usize = 256;
/// The bytes that a block of a slice adds to the log: it writes a row, and removes one of another run.
const BLOCK_LOG_BYTES: usize = 2 * 4096;
/// The most bytes that a slice adds to the log.
pub(super) const MAX_SLICE_BYTES: usize = MAX_SLICE * BLOCK_LOG_BYTES;
/// Blocks that each sweep allows to write.
const SWEEP_BLOCKS: i64 = 64;
/// Events after which key work is tried again if the disk had no space for it.
const POSTPONED_EVENTS: i64 = 16_384;
/// Multiples of `KeyLimits::table`: from the first on, slices do not depend on accepted events; from the second on, events
/// are refused.
const URGENT_MULTIPLE: usize = 2;
const FULL_MULTIPLE: usize = 4;

/// The sizes that bound the memory and the slices of key work.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyLimits {
    /// Keys in memory at which they are frozen and written as runs. 7/8 of a power of two, which fills the hash table.
    pub(super) table: usize,
    /// Events after `meta.keyed` at which even a small table is written: the most that a start has to search.
    pub(super) span: EventSeq,
    /// Entries of one block.
    pub(super) block_entries: usize,
    /// Accepted keys that allow to write one block. A key is written about five times, and a block has 144, so 16 is enough.
    pub(super) keys_per_block: i64,
    /// Blocks of the smallest slice. Each slice also writes a few inner pages of the B-tree.
    pub(super) slice_blocks: i64,
    /// Bytes of filters in memory. Beyond it, a lookup reads a block of the largest runs.
    pub(super) filter_bytes: usize,
}

impl Default for KeyLimits {
    fn default() -> Self {
        KeyLimits {
            table: 57_344,
            span: 262_144,
            block_entries: block::BLOCK_ENTRIES,
            keys_per_block: 16,
            slice_blocks: 16,
            filter_bytes: 64 << 20,
        }
    }
}

/// The keys of a store, in the writer's thread.
#[derive(Default)]
pub(super) struct KeyStore {
    limits: KeyLimits,
    table: KeyTable,
    /// In the order of their last events.
    runs: Vec<Run>,
    /// Writes a part of the frozen table. Has priority over `merge`.
    flush: Option<Job>,
    merge: Option<Job>,
    next_run: i64,
    /// Runs that the transaction in progress removed, because all their entries have expired.
    dropped: Vec<i64>,
    /// Runs that do not exist (any more) and whose rows have to be removed. None: not known.
    unused: Option<Vec<i64>>,
    /// The committed value of `meta.keyed`.
    covered: EventSeq,
    /// The value of the transaction in progress.
    new_covered: Option<EventSeq>,
    /// The last committed event.
    last_event: EventSeq,
    latest_expiry: i64,
    /// True if the table `dedup` of older formats has rows. None: not known.
    has_old_keys: Option<bool>,
    /// Accepted keys that no block was written for.
    credit: i64,
    /// True if slices may run.
    is_enabled: bool,
    /// True if keys were accepted since the last request for work.
    is_busy: bool,
    /// The most bytes that the slice of the last transaction added to the log. 0: there was none.
    slice_bytes: usize,
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
        for run in self.runs.iter().rev().filter(|run| run.manifest.expires > now.0) {
            if let Some(entry) = run.find(conn, key)?.filter(|entry| entry.expires > now.0) {
                return Ok(Some(entry.event));
            }
        }
        Ok(None)
    }

    /// Adds the key of an event of the group in progress.
    pub(super) fn insert(&mut self, entry: Entry, window: Duration) {
        self.latest_expiry = self.latest_expiry.max(entry.expires);
        self.table.insert(entry, entry::window_class(window));
    }

    /// Returns a time at which every key has expired.
    pub(super) fn latest_expiry(&self) -> i64 {
        self.latest_expiry
    }

    /// True if no more keys fit into memory, because the disk has no space to write them.
    pub(super) fn is_full(&self) -> bool {
        self.table.active() >= self.limits.table.saturating_mul(FULL_MULTIPLE)
    }

    /// Returns the position in the group to which `roll_back_to` returns.
    pub(super) fn savepoint(&self) -> usize {
        self.table.pending()
    }

    /// Forgets the keys of the group in progress after a savepoint that was rolled back.
    pub(super) fn roll_back_to(&mut self, savepoint: usize) {
        self.table.rollback_to(savepoint);
        // The rows may exist again.
        self.unused = None;
        self.has_old_keys = None;
    }

    /// Returns to the state of the last COMMIT. Must run after every rollback of a transaction.
    pub(super) fn roll_back(&mut self) {
        self.roll_back_to(0);
        self.dropped.clear();
        self.new_covered = None;
        self.flush.iter_mut().chain(&mut self.merge).for_each(Job::roll_back);
    }

    /// Keeps what the transaction did. Must run after every COMMIT. `last_event`: the last accepted event.
    pub(super) fn commit(&mut self, last_event: EventSeq) {
        self.table.commit();
        self.last_event = last_event;
        self.covered = self.new_covered.take().unwrap_or(self.covered);
        for run in std::mem::take(&mut self.dropped) {
            self.remove_run(run);
        }
        if self.flush.as_mut().is_some_and(Job::commit) {
            if let Some(run) = self.flush.take().and_then(Job::into_run) {
                self.add_run(run);
            }
            if let Some(frozen) = &mut self.table.frozen {
                frozen.parts.pop_front();
            }
            self.table.frozen = self.table.frozen.take().filter(|frozen| !frozen.parts.is_empty());
        }
        if self.merge.as_mut().is_some_and(Job::commit)
            && let Some(job) = self.merge.take()
        {
            job.inputs().into_iter().flatten().for_each(|run| self.remove_run(run));
            if let Some(run) = job.into_run() {
                self.add_run(run);
            }
        }
    }

    fn add_run(&mut self, run: Run) {
        self.latest_expiry = self.latest_expiry.max(run.manifest.expires);
        self.runs.push(run);
        self.runs.sort_by_key(|run| run.manifest.last_event);
        while self.runs.iter().map(|run| run.index.filter_bytes()).sum::<usize>() > self.limits.filter_bytes {
            let largest = self.runs.iter_mut().max_by_key(|run| run.index.filter_bytes());
            let Some(largest) = largest else { return };
            largest.index.drop_filters();
        }
    }

    fn remove_run(&mut self, id: i64) {
        self.runs.retain(|run| run.manifest.id != id);
        if let Some(unused) = &mut self.unused {
            unused.push(id);
        }
    }

    /// Allows or forbids slices in the next transaction. They need space on the disk.
    pub(super) fn set_enabled(&mut self, is_enabled: bool) {
        self.is_enabled = is_enabled;
    }

    /// Runs no slices for a while if the last transaction, for which the disk had no space, contained one. True: the
    /// transaction may fit without it.
    pub(super) fn postpone(&mut self) -> bool {
        let had_slice = std::mem::take(&mut self.slice_bytes) > 0;
        if had_slice {
            self.is_enabled = false;
            self.credit = -POSTPONED_EVENTS;
        }
        had_slice
    }

    /// Returns the most bytes that the last transaction's slice added to the log.
    pub(super) fn slice_bytes(&self) -> usize {
        self.slice_bytes
    }

    /// Requests a slice at the end of the group if the store is idle. True: there is more work.
    ///
    /// While keys are accepted, their groups do the work. It never ends then, and must not keep a round of sweeps from its
    /// end.
    pub(super) fn request_work(&mut self, conn: &Connection, now: Millis) -> rusqlite::Result<bool> {
        self.now = now.0;
        self.age_lag = self.last_time.map(|last| last.0.saturating_sub(now.0).max(0));
        let is_busy = std::mem::take(&mut self.is_busy);
        if is_busy || !self.is_enabled || self.credit < 0 || !self.has_work(conn)? {
            return Ok(false);
        }
        self.credit = self.credit.max(SWEEP_BLOCKS * self.limits.keys_per_block);
        Ok(true)
    }

    fn has_work(&mut self, conn: &Connection) -> rusqlite::Result<bool> {
        Ok(self.table.frozen.is_some()
            || self.merge.is_some()
            || self.runs_to_merge().is_some()
            || self.runs.iter().any(|run| run.manifest.expires <= self.now)
            || !self.unused(conn)?.is_empty())
    }

    /// Does a bounded part of the work. Must run at the end of every transaction. `now`: the time of the group, if it has one.
    pub(super) fn work(&mut self, conn: &Connection, now: Option<Millis>) -> rusqlite::Result<()> {
        self.credit = self.credit.saturating_add(i64::try_from(self.table.pending()).unwrap_or(0));
        self.is_busy |= self.table.pending() > 0;
        self.last_time = now.or(self.last_time);
        if let (Some(now), Some(lag)) = (now, self.age_lag) {
            self.now = now.0.saturating_sub(lag);
        }
        self.slice_bytes = 0;
        if !self.is_enabled {
            return Ok(());
        }
        self.freeze(conn)?;
        let is_urgent = self.table.active() >= self.limits.table.saturating_mul(URGENT_MULTIPLE);
        let blocks = match usize::try_from(self.credit / self.limits.keys_per_block) {
            _ if is_urgent => MAX_SLICE,
            Ok(blocks) if self.credit >= self.limits.slice_blocks * self.limits.keys_per_block => {
                blocks.clamp(1, MAX_SLICE)
            }
            _ => return Ok(()),
        };
        let used = i64::try_from(blocks).unwrap_or(0) * self.limits.keys_per_block;
        self.slice_bytes = blocks * BLOCK_LOG_BYTES;
        let mut is_idle = !self.drop_expired(conn)?;
        is_idle &= !self.run_job(conn, blocks)?;
        is_idle &= self.remove_unused(conn, i64::try_from(blocks).unwrap_or(0))? == 0;
        // Without work, credit does not add up to a large slice.
        self.credit = if is_idle { 0 } else { self.credit.saturating_sub(used).max(0) };
        Ok(())
    }

    /// Freezes the table if it is due. Stores that all keys are covered if there are none.
    fn freeze(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        let is_full = self.table.active() >= self.limits.table;
        if self.table.frozen.is_some()
            || !(is_full || self.last_event.saturating_sub(self.covered) >= self.limits.span)
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

    /// Removes runs without reading them, if all their entries have expired. False: there are none.
    fn drop_expired(&mut self, conn: &Connection) -> rusqlite::Result<bool> {
        let merged = self.merge.as_ref().and_then(Job::inputs).unwrap_or_default();
        let expired = self.runs.iter().map(|run| &run.manifest).filter(|run| run.expires <= self.now);
        let expired: Vec<i64> = expired.map(|run| run.id).filter(|id| !merged.contains(id)).collect();
        for run in &expired {
            Manifest::remove(conn, *run)?;
        }
        self.dropped = expired;
        Ok(!self.dropped.is_empty())
    }

    /// Writes up to `blocks` blocks. False: there is nothing to write.
    fn run_job(&mut self, conn: &Connection, blocks: usize) -> rusqlite::Result<bool> {
        let block_bytes = self.limits.block_entries * entry::ENTRY_BYTES;
        if let Some(frozen) = &self.table.frozen
            && let Some(part) = frozen.parts.front()
        {
            let (covers, is_last) = (frozen.covers, frozen.parts.len() == 1);
            let job = match &mut self.flush {
                Some(job) => job,
                None => {
                    let job = Job::flush(self.next_run, part.class, part.entries.clone(), block_bytes);
                    self.next_run += 1;
                    self.flush.insert(job)
                }
            };
            if job.run_slice(conn, blocks, self.now)? && is_last {
                self.store_covered(conn, covers)?;
            }
            return Ok(true);
        }
        if self.merge.is_none()
            && let Some(runs) = self.runs_to_merge()
        {
            self.merge = Some(Job::merge(self.next_run, &runs, block_bytes));
            self.next_run += 1;
        }
        let Some(job) = &mut self.merge else { return Ok(false) };
        job.run_slice(conn, blocks, self.now)?;
        Ok(true)
    }

    /// Returns the runs of one class and tier that should become one: of the lowest tier, the oldest ones.
    fn runs_to_merge(&self) -> Option<Vec<&Run>> {
        // Not those that the transaction in progress removes.
        let usable = || self.runs.iter().filter(|run| !self.dropped.contains(&run.manifest.id));
        let mut groups: Vec<(u8, u8)> = usable().map(|run| (run.manifest.tier, run.manifest.class)).collect();
        groups.sort_unstable();
        groups.dedup();
        groups.into_iter().find_map(|group| {
            let runs = usable().filter(|run| (run.manifest.tier, run.manifest.class) == group);
            let runs: Vec<&Run> = runs.take(MERGED_RUNS).collect();
            let blocks = runs.iter().map(|run| run.manifest.blocks).sum();
            (runs.len() == MERGED_RUNS && fits_one_run(blocks)).then_some(runs)
        })
    }

    /// Removes up to `rows` rows of runs that do not exist any more. Returns how many.
    pub(super) fn remove_unused(&mut self, conn: &Connection, rows: i64) -> rusqlite::Result<usize> {
        let rows = usize::try_from(rows).unwrap_or(usize::MAX);
        let mut removed = 0;
        while let Some(run) = self.unused(conn)?.last().copied() {
            for table in RowTable::ALL {
                let left = i64::try_from(rows - removed).unwrap_or(i64::MAX);
                removed += table.remove(conn, run, left)?;
            }
            if removed >= rows {
                break;
            }
            self.unused(conn)?.pop();
        }
        Ok(removed)
    }

    /// Returns the runs whose rows have to be removed.
    fn unused(&mut self, conn: &Connection) -> rusqlite::Result<&mut Vec<i64>> {
        if self.unused.is_none() {
            let mut stored = RowTable::Blocks.runs(conn)?;
            stored.extend(RowTable::Filters.runs(conn)?);
            stored.sort_unstable();
            stored.dedup();
            let jobs: Vec<i64> = self.flush.iter().chain(&self.merge).map(Job::id).collect();
            stored.retain(|id| !jobs.contains(id) && !self.runs.iter().any(|run| run.manifest.id == *id));
            self.unused = Some(stored);
        }
        Ok(self.unused.get_or_insert_default())
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
        let jobs = self.flush.iter().chain(&self.merge).map(Job::bytes);
        self.table.bytes() + self.runs.iter().map(Run::bytes).chain(jobs).sum::<usize>()
    }
}
