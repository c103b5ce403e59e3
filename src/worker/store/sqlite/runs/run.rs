//! A run: sorted entries in blocks, and what the writer keeps of it in memory.

use rusqlite::{Connection, Row, params};

use super::super::super::EventSeq;
use super::super::rows::limit;
use super::RunKind;
use super::block::{INDEX_BYTES, INDEXED_BLOCKS, MAX_BLOCKS};
use super::entry::{Entry, Key, prefix};
use super::filter::{self, FILTER_BYTES};

/// The row of a run in `key_runs` or `id_runs`. A run without this row does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Manifest {
    pub(in super::super) id: i64,
    /// Only runs of one class are merged. Of idempotency keys: `keys::window_class`. Of event ids: see `ids`.
    pub(in super::super) class: u8,
    /// How often its entries were merged.
    pub(in super::super) tier: u8,
    pub(in super::super) entries: usize,
    pub(in super::super) blocks: usize,
    pub(in super::super) first_event: EventSeq,
    pub(in super::super) last_event: EventSeq,
    /// When the last of its entries expires.
    pub(in super::super) expires: i64,
}

impl Manifest {
    /// Starts the manifest of a run without entries.
    pub(super) fn new(id: i64, class: u8, tier: u8) -> Manifest {
        let (first_event, last_event, expires) = (EventSeq::MAX, 0, 0);
        Manifest { id, class, tier, entries: 0, blocks: 0, first_event, last_event, expires }
    }

    /// Counts an entry.
    pub(super) fn add(&mut self, entry: &Entry) {
        self.entries += 1;
        self.first_event = self.first_event.min(entry.event);
        self.last_event = self.last_event.max(entry.event);
        self.expires = self.expires.max(entry.expires);
    }

    /// Reads all manifests, oldest run first.
    pub(in super::super) fn read_all(conn: &Connection, kind: RunKind) -> rusqlite::Result<Vec<Manifest>> {
        let sql = match kind {
            RunKind::Keys => {
                "SELECT id, class, tier, entries, blocks, first_event, last_event, expires FROM key_runs ORDER BY id"
            }
            RunKind::Ids => {
                "SELECT id, class, tier, entries, blocks, first_event, last_event, expires FROM id_runs ORDER BY id"
            }
        };
        conn.prepare_cached(sql)?.query_map([], Manifest::of_row)?.collect()
    }

    fn of_row(row: &Row<'_>) -> rusqlite::Result<Manifest> {
        Ok(Manifest {
            id: row.get(0)?,
            class: row.get(1)?,
            tier: row.get(2)?,
            entries: count(row, 3)?,
            blocks: count(row, 4)?,
            first_event: row.get(5)?,
            last_event: row.get(6)?,
            expires: row.get(7)?,
        })
    }

    pub(super) fn insert(&self, conn: &Connection, kind: RunKind) -> rusqlite::Result<()> {
        let sql = match kind {
            RunKind::Keys => {
                "INSERT INTO key_runs (id, class, tier, entries, blocks, first_event, last_event, expires)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"
            }
            RunKind::Ids => {
                "INSERT INTO id_runs (id, class, tier, entries, blocks, first_event, last_event, expires)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"
            }
        };
        let mut insert = conn.prepare_cached(sql)?;
        insert
            .execute(params![
                self.id,
                self.class,
                self.tier,
                limit(self.entries),
                limit(self.blocks),
                self.first_event,
                self.last_event,
                self.expires
            ])
            .map(drop)
    }

    pub(super) fn remove(conn: &Connection, kind: RunKind, id: i64) -> rusqlite::Result<()> {
        let sql = match kind {
            RunKind::Keys => "DELETE FROM key_runs WHERE id = ?1",
            RunKind::Ids => "DELETE FROM id_runs WHERE id = ?1",
        };
        conn.prepare_cached(sql)?.execute([id]).map(drop)
    }

    /// Returns the rows of `key_filters` of the run.
    pub(super) fn filter_rows(&self) -> usize {
        self.blocks.div_ceil(INDEXED_BLOCKS)
    }
}

fn count(row: &Row<'_>, column: usize) -> rusqlite::Result<usize> {
    row.get::<_, u32>(column).map(|count| usize::try_from(count).unwrap_or(usize::MAX))
}

/// The blocks of a run in memory: the first bytes of each block's first key, and each block's filter.
#[derive(Default)]
pub(in super::super) struct BlockIndex {
    prefixes: Vec<u64>,
    /// Empty if the filters exceed their share of the memory. A lookup then reads a block of the run.
    filters: Vec<u8>,
}

impl BlockIndex {
    /// Adds a block. Its entries must not be empty.
    pub(super) fn push(&mut self, block: &[u8]) {
        let mut entries = Entry::decode_all(block).peekable();
        self.prefixes.push(entries.peek().map_or(0, |first| prefix(&first.key)));
        let at = self.filters.len();
        self.filters.resize(at + FILTER_BYTES, 0);
        if let Some(filter) = self.filters.get_mut(at..) {
            entries.for_each(|entry| filter::insert(filter, &entry.key));
        }
    }

    /// Forgets all blocks after the first `blocks`.
    pub(super) fn truncate(&mut self, blocks: usize) {
        self.prefixes.truncate(blocks);
        self.filters.truncate(blocks * FILTER_BYTES);
    }

    /// Encodes the blocks from `from` on, for a row of `key_filters`.
    pub(super) fn encode(&self, from: usize) -> Vec<u8> {
        let mut row = Vec::with_capacity(INDEXED_BLOCKS * INDEX_BYTES);
        let filters = self.filters.chunks_exact(FILTER_BYTES);
        for (prefix, filter) in self.prefixes.iter().zip(filters).skip(from) {
            row.extend_from_slice(&prefix.to_be_bytes());
            row.extend_from_slice(filter);
        }
        row
    }

    /// Adds the blocks of a row of `key_filters`.
    fn decode(&mut self, row: &[u8]) {
        for block in row.chunks_exact(INDEX_BYTES) {
            let Some((prefix, filter)) = block.split_first_chunk() else { continue };
            self.prefixes.push(u64::from_be_bytes(*prefix));
            self.filters.extend_from_slice(filter);
        }
    }

    /// Returns the blocks that may contain the key: usually one or none.
    fn candidates<'i>(&'i self, key: &'i Key) -> impl Iterator<Item = usize> + 'i {
        let wanted = prefix(key);
        let end = self.prefixes.partition_point(|first| *first <= wanted);
        // Several blocks only if keys share these bytes. The block before the first equal one may end with such keys.
        let start = match end.checked_sub(1).and_then(|last| self.prefixes.get(last)) {
            Some(first) if *first == wanted => {
                self.prefixes.partition_point(|first| *first < wanted).saturating_sub(1)
            }
            _ => end.saturating_sub(1),
        };
        (start..end).filter(move |block| {
            let at = block * FILTER_BYTES;
            self.filters.get(at..at + FILTER_BYTES).is_none_or(|filter| filter::may_contain(filter, key))
        })
    }

    pub(in super::super) fn filter_bytes(&self) -> usize {
        self.filters.len()
    }

    /// Removes the filters from the memory.
    pub(super) fn drop_filters(&mut self) {
        self.filters = Vec::new();
    }

    /// Returns its memory.
    pub(super) fn bytes(&self) -> usize {
        self.prefixes.capacity() * size_of::<u64>() + self.filters.capacity()
    }
}

/// A complete run.
pub(in super::super) struct Run {
    pub(in super::super) manifest: Manifest,
    pub(in super::super) index: BlockIndex,
}

impl Run {
    /// Reads the index of a run, if runs of this kind have one.
    pub(super) fn load(conn: &Connection, kind: RunKind, manifest: Manifest) -> rusqlite::Result<Run> {
        let mut index = BlockIndex::default();
        if let Some(filters) = kind.filters() {
            for number in 0..manifest.filter_rows() {
                filters.read(conn, manifest.id, number, |row| index.decode(row))?;
            }
        }
        Ok(Run { manifest, index })
    }

    /// Finds an idempotency key. Reads a block only if its filter recognizes the key.
    pub(in super::super) fn find(&self, conn: &Connection, key: &Key) -> rusqlite::Result<Option<Entry>> {
        for block in self.index.candidates(key) {
            let found = RunKind::Keys
                .blocks()
                .read(conn, self.manifest.id, block, |block| Entry::find(block, key))?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    pub(in super::super) fn bytes(&self) -> usize {
        self.index.bytes()
    }
}

/// Writes a run: entries in ascending order of their keys, one block after the other. The caller commits.
///
/// A clone taken before a transaction, and the index truncated to its blocks, undo a rollback.
#[derive(Clone)]
pub(super) struct RunWriter {
    kind: RunKind,
    pub(super) manifest: Manifest,
    /// The entries of the next block.
    block: Vec<u8>,
    block_bytes: usize,
    filter_rows: usize,
}

impl RunWriter {
    pub(super) fn new(kind: RunKind, manifest: Manifest, block_bytes: usize) -> RunWriter {
        RunWriter { kind, manifest, block: Vec::new(), block_bytes, filter_rows: 0 }
    }

    /// Adds an entry. Writes the block if it is full.
    pub(super) fn push(
        &mut self,
        conn: &Connection,
        index: &mut BlockIndex,
        entry: &Entry,
    ) -> rusqlite::Result<()> {
        self.manifest.add(entry);
        entry.encode(&mut self.block);
        if self.block.len() >= self.block_bytes { self.write_block(conn, index) } else { Ok(()) }
    }

    fn write_block(&mut self, conn: &Connection, index: &mut BlockIndex) -> rusqlite::Result<()> {
        if self.kind.filters().is_some() {
            index.push(&self.block);
        }
        let block = std::mem::take(&mut self.block);
        self.kind.blocks().insert(conn, self.manifest.id, self.manifest.blocks, block)?;
        self.manifest.blocks += 1;
        if self.manifest.blocks.is_multiple_of(INDEXED_BLOCKS) {
            self.write_filters(conn, index)
        } else {
            Ok(())
        }
    }

    fn write_filters(&mut self, conn: &Connection, index: &BlockIndex) -> rusqlite::Result<()> {
        let Some(filters) = self.kind.filters() else { return Ok(()) };
        let row = index.encode(self.filter_rows * INDEXED_BLOCKS);
        filters.insert(conn, self.manifest.id, self.filter_rows, row)?;
        self.filter_rows += 1;
        Ok(())
    }

    /// Writes the last block and its filter, and the manifest unless the run has no entries.
    pub(super) fn finish(&mut self, conn: &Connection, index: &mut BlockIndex) -> rusqlite::Result<()> {
        if !self.block.is_empty() {
            self.write_block(conn, index)?;
        }
        if self.filter_rows < self.manifest.filter_rows() {
            self.write_filters(conn, index)?;
        }
        if self.manifest.entries > 0 { self.manifest.insert(conn, self.kind) } else { Ok(()) }
    }
}

/// True if runs with this number of blocks together fit into one.
pub(super) fn fits_one_run(blocks: usize) -> bool {
    blocks <= MAX_BLOCKS
}
