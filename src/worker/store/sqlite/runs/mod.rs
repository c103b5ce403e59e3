//! Sorted runs: large sets of random keys without a B-tree of them.
//!
//! A B-tree of random keys writes a page of its own for each event. Instead the newest entries are in memory. When they
//! are too many they are frozen and written as a run: sorted blocks in rows that fill a page each. Four runs of
//! one tier are merged to one of the next. The idempotency keys (`keys`) and the event ids (`ids`) are stored so. See
//! ADR 0016 and ADR 0017.
//!
//! Invariants:
//! - A manifest row, inserted last, makes a run exist. Rows of other runs in the block and filter tables are removed.
//! - Writing and merging run in slices inside the transactions of groups. A slice is bounded in blocks and in time, and
//!   proportional to the accepted events, so no accept waits long, and the work never falls behind.
//! - The state of a transaction is kept apart from the committed one. A rollback rebuilds nothing.
//!
//! Out of scope: which entries are in memory, and what a lookup means (`keys`, `ids`).

mod block;
mod check;
mod entry;
mod filter;
mod job;
mod run;
mod table;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::super::EventSeq;
use block::BLOCK_ENTRIES;
pub(super) use block::RowTable;
pub(super) use check::{last_event, verify_all};
pub(super) use entry::{Entry, Key, place_hash, stored_key};
use job::Job;
pub(super) use job::{Keep, Slice};
use run::fits_one_run;
pub(super) use run::{Manifest, Run};
pub(super) use table::{EntryTable, TABLE_ENTRY_BYTES};

/// Runs that are merged to one.
const MERGED_RUNS: usize = 4;
/// The most blocks of one slice.
pub(super) const MAX_SLICE: usize = 256;
/// The bytes that a block of a slice adds to the log: it writes a row, and removes one of another run.
const BLOCK_LOG_BYTES: usize = 2 * 4096;
/// The most bytes that a slice adds to the log.
pub(super) const MAX_SLICE_BYTES: usize = MAX_SLICE * BLOCK_LOG_BYTES;
/// Blocks that each sweep allows to write.
const SWEEP_BLOCKS: i64 = 64;
/// Events after which work is tried again if the disk had no space for it.
const POSTPONED_EVENTS: i64 = 16_384;

/// The sizes that bound the memory and the slices of a set of runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct RunLimits {
    /// Entries in memory at which they are frozen and written as runs.
    pub(super) table: usize,
    /// Events after the last covered one at which even a small table is written: the most that a start has to search.
    pub(super) span: EventSeq,
    /// Entries of one block.
    pub(super) block_entries: usize,
    /// Accepted entries that allow to write one block. An entry is written about five times, and a block has 144, so 16 is
    /// enough.
    pub(super) entries_per_block: i64,
    /// Blocks of the smallest slice. Each slice also writes a few inner pages of the B-tree.
    pub(super) slice_blocks: i64,
    /// The time of one slice, for which accepts wait.
    pub(super) slice_time: Duration,
    /// Bytes of filters in memory. Beyond it, a lookup reads a block of the largest runs.
    pub(super) filter_bytes: usize,
}

impl Default for RunLimits {
    fn default() -> Self {
        RunLimits {
            table: 57_344,
            span: 262_144,
            block_entries: BLOCK_ENTRIES,
            entries_per_block: 16,
            slice_blocks: 16,
            slice_time: Duration::from_millis(3),
            filter_bytes: 64 << 20,
        }
    }
}

/// What the entries of runs are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum RunKind {
    /// Idempotency keys: one entry for each key. A filter for each block makes lookups of new keys cheap.
    #[default]
    Keys,
    /// Event ids: several events may have one id. Only users' queries look for them, so there are no filters.
    Ids,
}

impl RunKind {
    /// Returns all tables with its runs, the manifests first.
    pub(super) fn tables(self) -> &'static [&'static str] {
        match self {
            RunKind::Keys => &["key_runs", "key_blocks", "key_filters"],
            RunKind::Ids => &["id_runs", "id_blocks"],
        }
    }

    pub(super) fn blocks(self) -> RowTable {
        match self {
            RunKind::Keys => RowTable::KeyBlocks,
            RunKind::Ids => RowTable::IdBlocks,
        }
    }

    fn filters(self) -> Option<RowTable> {
        match self {
            RunKind::Keys => Some(RowTable::KeyFilters),
            RunKind::Ids => None,
        }
    }

    fn row_tables(self) -> impl Iterator<Item = RowTable> {
        [Some(self.blocks()), self.filters()].into_iter().flatten()
    }

    /// Returns the position of an entry in a run. Of several entries of one idempotency key, the last to expire comes first.
    fn rank(self, entry: &Entry) -> (Key, i64) {
        match self {
            RunKind::Keys => (entry.key, -entry.expires),
            RunKind::Ids => (entry.key, entry.event),
        }
    }

    /// True if a run has only one of the two.
    fn is_same(self, one: &Entry, other: &Entry) -> bool {
        one.key == other.key && (self == RunKind::Keys || one.event == other.event)
    }

    /// Returns what the entries are, for messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            RunKind::Keys => "idempotency keys",
            RunKind::Ids => "event ids",
        }
    }
}

/// The runs of one kind, in the writer's thread, and the work on them.
#[derive(Default)]
pub(super) struct RunSet {
    kind: RunKind,
    pub(super) limits: RunLimits,
    /// In the order of their last events.
    runs: Vec<Run>,
    /// Writes entries from the memory. Has priority over `merge`.
    flush: Option<Job>,
    merge: Option<Job>,
    next_run: i64,
    /// Runs that the transaction in progress wrote as a whole.
    added: Vec<Run>,
    /// Runs that the transaction in progress removed without reading them.
    dropped: Vec<i64>,
    /// Runs that do not exist (any more) and whose rows have to be removed. None: not known.
    unused: Option<Vec<i64>>,
    /// Accepted entries that no block was written for.
    credit: i64,
    /// True if slices may run.
    is_enabled: bool,
    /// True if entries were accepted since the last request for work.
    is_busy: bool,
    /// The most bytes that the slice of the last transaction added to the log. 0: there was none.
    slice_bytes: usize,
    /// The blocks that the present slice has written.
    written: usize,
}

impl RunSet {
    /// Reads the manifests, and the filters if there are any.
    pub(super) fn open(conn: &Connection, kind: RunKind, limits: RunLimits) -> rusqlite::Result<RunSet> {
        let mut set = RunSet { kind, limits, ..RunSet::default() };
        for manifest in Manifest::read_all(conn, kind)? {
            set.next_run = set.next_run.max(manifest.id);
            set.add(Run::load(conn, kind, manifest)?);
        }
        // Not the id of a run that a crash interrupted: its rows still exist.
        for table in kind.row_tables() {
            set.next_run = table.runs(conn)?.into_iter().fold(set.next_run, i64::max);
        }
        set.next_run += 1;
        Ok(set)
    }

    /// Returns the committed runs, in the order of their last events.
    pub(super) fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Returns the position in the group to which `roll_back_to` returns.
    pub(super) fn savepoint(&self) -> usize {
        self.added.len()
    }

    /// Must run after a savepoint was rolled back.
    pub(super) fn roll_back_to(&mut self, savepoint: usize) {
        self.added.truncate(savepoint);
        // The rows may exist again.
        self.unused = None;
    }

    /// Returns to the state of the last COMMIT. Must run after every rollback of a transaction.
    pub(super) fn roll_back(&mut self) {
        self.roll_back_to(0);
        self.dropped.clear();
        self.flush.iter_mut().chain(&mut self.merge).for_each(Job::roll_back);
    }

    /// Keeps what the transaction did. Must run after every COMMIT. True: the entries of `flush` are a run now.
    pub(super) fn commit(&mut self) -> bool {
        for run in std::mem::take(&mut self.dropped) {
            self.remove(run);
        }
        for run in std::mem::take(&mut self.added) {
            self.add(run);
        }
        let is_flushed = self.flush.as_mut().is_some_and(Job::commit);
        if is_flushed && let Some(run) = self.flush.take().and_then(Job::into_run) {
            self.add(run);
        }
        if self.merge.as_mut().is_some_and(Job::commit)
            && let Some(job) = self.merge.take()
        {
            job.inputs().into_iter().flatten().for_each(|run| self.remove(run));
            if let Some(run) = job.into_run() {
                self.add(run);
            }
        }
        is_flushed
    }

    fn add(&mut self, run: Run) {
        self.runs.push(run);
        self.runs.sort_by_key(|run| run.manifest.last_event);
        while self.runs.iter().map(|run| run.index.filter_bytes()).sum::<usize>() > self.limits.filter_bytes {
            let largest = self.runs.iter_mut().max_by_key(|run| run.index.filter_bytes());
            let Some(largest) = largest else { return };
            largest.index.drop_filters();
        }
    }

    fn remove(&mut self, id: i64) {
        self.runs.retain(|run| run.manifest.id != id);
        if let Some(unused) = &mut self.unused {
            unused.push(id);
        }
    }

    /// True if slices may run in this transaction.
    pub(super) fn is_enabled(&self) -> bool {
        self.is_enabled
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
    /// While entries are accepted, their groups do the work. It never ends then, and must not keep a round of sweeps from its
    /// end. `has_work`: the caller knows of work besides merging runs and removing rows.
    pub(super) fn request_work(&mut self, conn: &Connection, has_work: bool) -> rusqlite::Result<bool> {
        let is_busy = std::mem::take(&mut self.is_busy);
        if is_busy || !self.is_enabled || self.credit < 0 {
            return Ok(false);
        }
        let has_work = has_work
            || self.merge.is_some()
            || self.runs_to_merge().is_some()
            || !self.unused(conn)?.is_empty();
        if has_work {
            self.credit = self.credit.max(SWEEP_BLOCKS * self.limits.entries_per_block);
        }
        Ok(has_work)
    }

    /// Begins the work of a transaction, which adds `entries`. None: no slice may run.
    ///
    /// `is_urgent`: the slice does not depend on the number of accepted entries.
    pub(super) fn begin(&mut self, entries: usize, is_urgent: bool) -> Option<Slice> {
        self.credit = self.credit.saturating_add(i64::try_from(entries).unwrap_or(0));
        self.is_busy |= entries > 0;
        (self.slice_bytes, self.written) = (0, 0);
        if !self.is_enabled {
            return None;
        }
        let per_block = self.limits.entries_per_block;
        let blocks = match usize::try_from(self.credit / per_block) {
            _ if is_urgent => MAX_SLICE,
            Ok(blocks) if self.credit >= self.limits.slice_blocks * per_block => blocks.clamp(1, MAX_SLICE),
            _ => return None,
        };
        self.slice_bytes = blocks * BLOCK_LOG_BYTES;
        Some(Slice { blocks, until: Instant::now().checked_add(self.limits.slice_time) })
    }

    /// Ends a slice. `is_idle`: it had nothing to do.
    pub(super) fn end(&mut self, slice: &Slice, is_idle: bool) {
        // A slice that ended by its time keeps the rest of its credit.
        let blocks = if slice.is_over() { self.written.max(1) } else { slice.blocks };
        let used = i64::try_from(blocks).unwrap_or(0).saturating_mul(self.limits.entries_per_block);
        // Without work, credit does not add up to a large slice.
        self.credit = if is_idle { 0 } else { self.credit.saturating_sub(used).max(0) };
    }

    fn block_bytes(&self) -> usize {
        self.limits.block_entries * entry::ENTRY_BYTES
    }

    /// Removes runs without reading them. False: there are none to remove.
    pub(super) fn drop_runs(
        &mut self,
        conn: &Connection,
        is_useless: impl Fn(&Manifest) -> bool,
    ) -> rusqlite::Result<bool> {
        let merged = self.merge.as_ref().and_then(Job::inputs).unwrap_or_default();
        let useless = self.runs.iter().map(|run| &run.manifest).filter(|manifest| is_useless(manifest));
        let useless: Vec<i64> = useless.map(|run| run.id).filter(|id| !merged.contains(id)).collect();
        for run in &useless {
            Manifest::remove(conn, self.kind, *run)?;
        }
        self.dropped = useless;
        Ok(!self.dropped.is_empty())
    }

    /// Writes a slice of the entries of a class. The next call continues with the same table. True: all of them are written in
    /// this transaction.
    pub(super) fn flush(
        &mut self,
        conn: &Connection,
        (class, table): (u8, &Arc<EntryTable>),
        slice: &Slice,
        keep: Keep<'_>,
    ) -> rusqlite::Result<bool> {
        let block_bytes = self.block_bytes();
        let job = match &mut self.flush {
            Some(job) => job,
            None => {
                let job = Job::flush(self.kind, self.next_run, class, table.clone(), block_bytes);
                self.next_run += 1;
                self.flush.insert(job)
            }
        };
        let (written, is_done) = job.run_slice(conn, slice, keep)?;
        self.written += written;
        Ok(is_done)
    }

    /// Writes entries as one run, within this transaction.
    pub(super) fn write_run(
        &mut self,
        conn: &Connection,
        class: u8,
        entries: Vec<Entry>,
    ) -> rusqlite::Result<()> {
        self.credit = self.credit.saturating_add(i64::try_from(entries.len()).unwrap_or(0));
        let table = Arc::new(EntryTable::of_class(class, entries));
        let mut job = Job::flush(self.kind, self.next_run, class, table, self.block_bytes());
        self.next_run += 1;
        let all = Slice { blocks: usize::MAX, until: None };
        job.run_slice(conn, &all, &mut |_, _| Ok(true))?;
        job.commit();
        self.added.extend(job.into_run());
        Ok(())
    }

    /// Writes a slice of a merge. False: there is nothing to merge.
    pub(super) fn merge(
        &mut self,
        conn: &Connection,
        slice: &Slice,
        keep: Keep<'_>,
    ) -> rusqlite::Result<bool> {
        if self.merge.is_none()
            && let Some(runs) = self.runs_to_merge()
        {
            let of_first = runs.first().map_or((0, 0), |run| (run.manifest.class, run.manifest.tier));
            let output = Manifest::new(self.next_run, of_first.0, of_first.1.saturating_add(1));
            self.merge = Some(Job::merge(self.kind, output, &runs, self.block_bytes()));
            self.next_run += 1;
        }
        self.continue_merge(conn, slice, keep)
    }

    /// Begins to write a single run again with another class, without the entries that `keep` rejects, if one qualifies and
    /// no merge is in progress. True: it did.
    pub(super) fn begin_rewrite(&mut self, class: u8, qualifies: impl Fn(&Manifest) -> bool) -> bool {
        if self.merge.is_some() {
            return false;
        }
        let usable = self.runs.iter().filter(|run| !self.dropped.contains(&run.manifest.id));
        let Some(run) = usable.into_iter().find(|run| qualifies(&run.manifest)) else { return false };
        let output = Manifest::new(self.next_run, class, run.manifest.tier);
        self.merge = Some(Job::merge(self.kind, output, &[run], self.block_bytes()));
        self.next_run += 1;
        true
    }

    fn continue_merge(&mut self, conn: &Connection, slice: &Slice, keep: Keep<'_>) -> rusqlite::Result<bool> {
        let Some(job) = &mut self.merge else { return Ok(false) };
        let (written, _) = job.run_slice(conn, slice, keep)?;
        self.written += written;
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
            for table in self.kind.row_tables() {
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
            let mut stored = Vec::new();
            for table in self.kind.row_tables() {
                stored.extend(table.runs(conn)?);
            }
            stored.sort_unstable();
            stored.dedup();
            let mut used: Vec<i64> = self.flush.iter().chain(&self.merge).map(Job::id).collect();
            used.extend(self.runs.iter().chain(&self.added).map(|run| run.manifest.id));
            stored.retain(|id| !used.contains(id));
            self.unused = Some(stored);
        }
        Ok(self.unused.get_or_insert_default())
    }

    /// Returns the memory of runs and jobs, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let jobs = self.flush.iter().chain(&self.merge).map(Job::bytes);
        self.runs.iter().map(Run::bytes).chain(jobs).sum()
    }
}

/// What tests observe.
#[cfg(test)]
impl RunSet {
    pub(super) fn is_flushing(&self) -> bool {
        self.flush.is_some()
    }

    pub(super) fn merged_run(&self) -> Option<i64> {
        self.merge.as_ref().map(Job::id)
    }
}
