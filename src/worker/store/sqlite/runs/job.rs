//! Writes a run in slices: from a table in memory, or from several runs that it merges.
//!
//! A slice runs inside a group's transaction. The job keeps its state after the last COMMIT beside the state of the
//! transaction in progress, so a rollback continues at the right entry and rebuilds nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use rusqlite::Connection;

use super::RunKind;
use super::entry::Entry;
use super::run::{BlockIndex, Manifest, Run, RunWriter};
use super::table::EntryTable;

/// Entries after which a slice checks its time.
const CHECKED_ENTRIES: usize = 64;
/// Entries that are read from a table at once.
const READ_ENTRIES: usize = 64;

/// Decides whether a run keeps an entry.
pub(in super::super) type Keep<'k> = &'k mut dyn FnMut(&Connection, &Entry) -> rusqlite::Result<bool>;

/// The bounds of one part of the work.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Slice {
    pub(in super::super) blocks: usize,
    /// None: the time is not bounded.
    pub(in super::super) until: Option<Instant>,
}

impl Slice {
    /// Returns its bound as the limit of a statement.
    pub(in super::super) fn rows(&self) -> i64 {
        i64::try_from(self.blocks).unwrap_or(i64::MAX)
    }

    /// True if the time has passed.
    pub(in super::super) fn is_over(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }
}

/// The state of a job. Small: at most one block of each source.
#[derive(Clone)]
struct State {
    source: Source,
    output: RunWriter,
    is_done: bool,
}

#[derive(Clone)]
enum Source {
    Frozen(Frozen),
    Merge(Vec<Input>),
}

/// The entries of one class of a table that receives no more entries.
#[derive(Clone)]
struct Frozen {
    table: Arc<EntryTable>,
    class: u8,
    /// Entries that were read.
    ahead: VecDeque<Entry>,
    /// The last entry that was read.
    last: Option<Entry>,
}

impl Frozen {
    fn next(&mut self) -> Option<Entry> {
        if self.ahead.is_empty() {
            self.ahead.extend(self.table.after(self.last.as_ref(), self.class).take(READ_ENTRIES));
            self.last = self.ahead.back().copied().or(self.last);
        }
        self.ahead.pop_front()
    }
}

/// A run that is being merged.
#[derive(Clone)]
struct Input {
    id: i64,
    blocks: usize,
    next_block: usize,
    /// The entries of the block that is being merged.
    entries: VecDeque<Entry>,
}

impl Input {
    /// Returns the next entry. Reads the next block if necessary, and counts it.
    fn head(
        &mut self,
        conn: &Connection,
        kind: RunKind,
        reads: &mut usize,
    ) -> rusqlite::Result<Option<Entry>> {
        if self.entries.is_empty() && self.next_block < self.blocks {
            self.entries = kind
                .blocks()
                .read(conn, self.id, self.next_block, |block| Entry::decode_all(block).collect())?;
            self.next_block += 1;
            *reads += 1;
        }
        Ok(self.entries.front().copied())
    }
}

impl Source {
    /// Returns the next entry in the order of its kind. Of several entries that the kind does not distinguish, returns the
    /// first in this order.
    fn next(
        &mut self,
        conn: &Connection,
        kind: RunKind,
        reads: &mut usize,
    ) -> rusqlite::Result<Option<Entry>> {
        let inputs = match self {
            Source::Frozen(frozen) => return Ok(frozen.next()),
            Source::Merge(inputs) => inputs,
        };
        let mut least: Option<Entry> = None;
        for input in inputs.iter_mut() {
            let Some(head) = input.head(conn, kind, reads)? else { continue };
            least = Some(match least {
                Some(least) if kind.rank(&least) <= kind.rank(&head) => least,
                _ => head,
            });
        }
        if let Some(least) = least {
            for input in inputs {
                if input.entries.front().is_some_and(|head| kind.is_same(head, &least)) {
                    input.entries.pop_front();
                }
            }
        }
        Ok(least)
    }
}

/// A run that is being written.
pub(super) struct Job {
    kind: RunKind,
    /// After the last COMMIT.
    committed: State,
    /// In the transaction in progress. None: as committed.
    tentative: Option<State>,
    index: BlockIndex,
}

impl Job {
    /// Writes the entries of a class as the run `id`.
    pub(super) fn flush(
        kind: RunKind,
        id: i64,
        class: u8,
        table: Arc<EntryTable>,
        block_bytes: usize,
    ) -> Job {
        let frozen = Frozen { table, class, ahead: VecDeque::new(), last: None };
        Job::new(kind, Source::Frozen(frozen), Manifest::new(id, class, 0), block_bytes)
    }

    /// Merges runs to a new one.
    pub(super) fn merge(kind: RunKind, output: Manifest, runs: &[&Run], block_bytes: usize) -> Job {
        let inputs = runs.iter().map(|run| Input {
            id: run.manifest.id,
            blocks: run.manifest.blocks,
            next_block: 0,
            entries: VecDeque::new(),
        });
        Job::new(kind, Source::Merge(inputs.collect()), output, block_bytes)
    }

    fn new(kind: RunKind, source: Source, manifest: Manifest, block_bytes: usize) -> Job {
        let output = RunWriter::new(kind, manifest, block_bytes);
        Job {
            kind,
            committed: State { source, output, is_done: false },
            tentative: None,
            index: BlockIndex::default(),
        }
    }

    pub(super) fn id(&self) -> i64 {
        self.committed.output.manifest.id
    }

    /// Returns the runs that it merges. None: it writes entries from the memory.
    pub(super) fn inputs(&self) -> Option<Vec<i64>> {
        match &self.committed.source {
            Source::Frozen(_) => None,
            Source::Merge(inputs) => Some(inputs.iter().map(|input| input.id).collect()),
        }
    }

    /// Writes a slice, and reads at most about twice as many blocks. Leaves out entries that `keep` rejects. Returns the
    /// number of written blocks, and whether the run is complete in this transaction.
    pub(super) fn run_slice(
        &mut self,
        conn: &Connection,
        slice: &Slice,
        keep: Keep<'_>,
    ) -> rusqlite::Result<(usize, bool)> {
        let state = self.tentative.get_or_insert_with(|| self.committed.clone());
        let (before, mut reads, mut examined) = (state.output.manifest.blocks, 0, 0_usize);
        while !state.is_done
            && state.output.manifest.blocks - before < slice.blocks
            && reads < slice.blocks.saturating_mul(2)
        {
            examined += 1;
            // At least some entries, so that the work advances on a slow disk too.
            if examined.is_multiple_of(CHECKED_ENTRIES) && slice.is_over() {
                break;
            }
            match state.source.next(conn, self.kind, &mut reads)? {
                Some(entry) if keep(conn, &entry)? => state.output.push(conn, &mut self.index, &entry)?,
                Some(_) => {}
                None => {
                    state.output.finish(conn, &mut self.index)?;
                    if let Source::Merge(inputs) = &state.source {
                        inputs.iter().try_for_each(|input| Manifest::remove(conn, self.kind, input.id))?;
                    }
                    state.is_done = true;
                }
            }
        }
        Ok((state.output.manifest.blocks - before, state.is_done))
    }

    /// Keeps the state of the transaction, which is committed. True: the run is complete.
    pub(super) fn commit(&mut self) -> bool {
        if let Some(state) = self.tentative.take() {
            self.committed = state;
        }
        self.committed.is_done
    }

    /// Returns to the state before the transaction.
    pub(super) fn roll_back(&mut self) {
        self.tentative = None;
        self.index.truncate(self.committed.output.manifest.blocks);
    }

    /// Returns the complete run. None: it has no entries.
    pub(super) fn into_run(self) -> Option<Run> {
        let manifest = self.committed.output.manifest;
        (manifest.entries > 0).then_some(Run { manifest, index: self.index })
    }

    pub(super) fn bytes(&self) -> usize {
        self.index.bytes()
    }
}
