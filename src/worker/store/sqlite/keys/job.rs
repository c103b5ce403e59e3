//! Writes a run in slices: from a part of the frozen table, or from several runs that it merges.
//!
//! A slice runs inside a group's transaction. The job keeps its state after the last COMMIT beside the state of the
//! transaction in progress, so a rollback continues at the right entry and rebuilds nothing.

use std::collections::VecDeque;
use std::sync::Arc;

use rusqlite::Connection;

use super::block::RowTable;
use super::entry::Entry;
use super::run::{BlockIndex, Manifest, Run, RunWriter};

/// The state of a job. Small: at most one block of each source.
#[derive(Clone)]
struct State {
    source: Source,
    output: RunWriter,
    is_done: bool,
}

#[derive(Clone)]
enum Source {
    Frozen { entries: Arc<Vec<Entry>>, next: usize },
    Merge(Vec<Input>),
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
    fn head(&mut self, conn: &Connection, reads: &mut usize) -> rusqlite::Result<Option<Entry>> {
        if self.entries.is_empty() && self.next_block < self.blocks {
            self.entries = RowTable::Blocks
                .read(conn, self.id, self.next_block, |block| Entry::decode_all(block).collect())?;
            self.next_block += 1;
            *reads += 1;
        }
        Ok(self.entries.front().copied())
    }
}

impl Source {
    /// Returns the next entry in the order of keys. Of several entries with one key, returns the one that expires last.
    fn next(&mut self, conn: &Connection, reads: &mut usize) -> rusqlite::Result<Option<Entry>> {
        let inputs = match self {
            Source::Frozen { entries, next } => {
                *next += 1;
                return Ok(entries.get(*next - 1).copied());
            }
            Source::Merge(inputs) => inputs,
        };
        let mut least: Option<Entry> = None;
        for input in inputs.iter_mut() {
            let Some(head) = input.head(conn, reads)? else { continue };
            least = Some(match least {
                Some(least) if (least.key, -least.expires) <= (head.key, -head.expires) => least,
                _ => head,
            });
        }
        if let Some(least) = least {
            for input in inputs {
                if input.entries.front().is_some_and(|head| head.key == least.key) {
                    input.entries.pop_front();
                }
            }
        }
        Ok(least)
    }
}

/// A run that is being written.
pub(super) struct Job {
    /// After the last COMMIT.
    committed: State,
    /// In the transaction in progress. None: as committed.
    tentative: Option<State>,
    index: BlockIndex,
}

impl Job {
    /// Writes the keys of a part of the frozen table as the run `id`.
    pub(super) fn flush(id: i64, class: u8, entries: Arc<Vec<Entry>>, block_bytes: usize) -> Job {
        Job::new(Source::Frozen { entries, next: 0 }, Manifest::new(id, class, 0), block_bytes)
    }

    /// Merges runs of one class and tier to the run `id` of the next tier.
    pub(super) fn merge(id: i64, runs: &[&Run], block_bytes: usize) -> Job {
        let inputs = runs.iter().map(|run| Input {
            id: run.manifest.id,
            blocks: run.manifest.blocks,
            next_block: 0,
            entries: VecDeque::new(),
        });
        let source = Source::Merge(inputs.collect());
        let of_first = runs.first().map_or((0, 0), |run| (run.manifest.class, run.manifest.tier));
        Job::new(source, Manifest::new(id, of_first.0, of_first.1.saturating_add(1)), block_bytes)
    }

    fn new(source: Source, manifest: Manifest, block_bytes: usize) -> Job {
        let output = RunWriter::new(manifest, block_bytes);
        Job {
            committed: State { source, output, is_done: false },
            tentative: None,
            index: BlockIndex::default(),
        }
    }

    pub(super) fn id(&self) -> i64 {
        self.committed.output.manifest.id
    }

    /// Returns the runs that it merges. None: it writes a part of the frozen table.
    pub(super) fn inputs(&self) -> Option<Vec<i64>> {
        match &self.committed.source {
            Source::Frozen { .. } => None,
            Source::Merge(inputs) => Some(inputs.iter().map(|input| input.id).collect()),
        }
    }

    /// Writes up to `blocks` blocks, and reads at most about twice as many. Leaves out entries that have expired. True:
    /// the run is complete in this transaction.
    pub(super) fn run_slice(&mut self, conn: &Connection, blocks: usize, now: i64) -> rusqlite::Result<bool> {
        let state = self.tentative.get_or_insert_with(|| self.committed.clone());
        let (written, mut reads) = (state.output.manifest.blocks, 0);
        while !state.is_done && state.output.manifest.blocks - written < blocks && reads < blocks * 2 {
            match state.source.next(conn, &mut reads)? {
                Some(entry) if entry.expires > now => state.output.push(conn, &mut self.index, &entry)?,
                Some(_) => {}
                None => {
                    state.output.finish(conn, &mut self.index)?;
                    if let Source::Merge(inputs) = &state.source {
                        inputs.iter().try_for_each(|input| Manifest::remove(conn, input.id))?;
                    }
                    state.is_done = true;
                }
            }
        }
        Ok(state.is_done)
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

    /// Returns the complete run. None: all its entries have expired.
    pub(super) fn into_run(self) -> Option<Run> {
        let manifest = self.committed.output.manifest;
        (manifest.entries > 0).then_some(Run { manifest, index: self.index })
    }

    pub(super) fn bytes(&self) -> usize {
        self.index.bytes()
    }
}
