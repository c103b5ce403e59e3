//! Rows of runs in their tables: their ids, their checksums, and how they are read.
//!
//! A row fills one leaf page of 4 KiB and has no overflow page. SQLite does not detect a changed bit in a page, so each row
//! has a checksum, which also covers its id.

use rusqlite::{Connection, OptionalExtension, ffi, params};

use super::entry::ENTRY_BYTES;
use super::filter::FILTER_BYTES;

/// The largest blob of a row that SQLite stores without an overflow page.
const ROW_BYTES: usize = 4057;
const CHECKSUM_BYTES: usize = 4;
/// The entries of one block.
pub(super) const BLOCK_ENTRIES: usize = (ROW_BYTES - CHECKSUM_BYTES) / ENTRY_BYTES;
/// The bytes of one block in a row of `key_filters`: the first bytes of its first key, and its filter.
pub(super) const INDEX_BYTES: usize = 8 + FILTER_BYTES;
/// The blocks that one row of `key_filters` describes.
pub(super) const INDEXED_BLOCKS: usize = (ROW_BYTES - CHECKSUM_BYTES) / INDEX_BYTES;

/// The bits of a row's id that number the rows of one run.
const NUMBER_BITS: u32 = 24;
/// The most blocks of one run.
pub(super) const MAX_BLOCKS: usize = 1 << NUMBER_BITS;

/// A table with rows of runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum RowTable {
    KeyBlocks,
    KeyFilters,
    IdBlocks,
}

impl RowTable {
    pub(super) fn name(self) -> &'static str {
        match self {
            RowTable::KeyBlocks => "key_blocks",
            RowTable::KeyFilters => "key_filters",
            RowTable::IdBlocks => "id_blocks",
        }
    }

    /// Inserts a row and seals its bytes with a checksum.
    pub(super) fn insert(
        self,
        conn: &Connection,
        run: i64,
        number: usize,
        mut bytes: Vec<u8>,
    ) -> rusqlite::Result<()> {
        let id = row_id(run, number);
        bytes.extend_from_slice(&checksum(id, &bytes));
        let sql = match self {
            RowTable::KeyBlocks => "INSERT INTO key_blocks (id, content) VALUES (?1, ?2)",
            RowTable::KeyFilters => "INSERT INTO key_filters (id, content) VALUES (?1, ?2)",
            RowTable::IdBlocks => "INSERT INTO id_blocks (id, content) VALUES (?1, ?2)",
        };
        conn.prepare_cached(sql)?.execute(params![id, bytes]).map(drop)
    }

    /// Reads a row and passes its bytes without the checksum. Fails as a damaged database does if the row is missing or its
    /// checksum is wrong, because a key that cannot be read might be a duplicate's.
    pub(in super::super) fn read<T>(
        self,
        conn: &Connection,
        run: i64,
        number: usize,
        use_bytes: impl FnOnce(&[u8]) -> T,
    ) -> rusqlite::Result<T> {
        let id = row_id(run, number);
        let sql = match self {
            RowTable::KeyBlocks => "SELECT content FROM key_blocks WHERE id = ?1",
            RowTable::KeyFilters => "SELECT content FROM key_filters WHERE id = ?1",
            RowTable::IdBlocks => "SELECT content FROM id_blocks WHERE id = ?1",
        };
        conn.prepare_cached(sql)?
            .query_row([id], |row| {
                Ok(unsealed(id, row.get_ref(0)?.as_blob().unwrap_or_default()).map(use_bytes))
            })
            .optional()?
            .flatten()
            .ok_or_else(|| damaged(self, id))
    }

    /// Returns the ids of all runs with rows in the table. One seek a run.
    pub(super) fn runs(self, conn: &Connection) -> rusqlite::Result<Vec<i64>> {
        let mut next = conn.prepare(&format!("SELECT min(id) FROM {} WHERE id >= ?1", self.name()))?;
        let (mut runs, mut from) = (Vec::new(), 0);
        while let Some(id) = next.query_row([from], |row| row.get::<_, Option<i64>>(0))? {
            let run = id >> NUMBER_BITS;
            runs.push(run);
            from = row_id(run + 1, 0);
        }
        Ok(runs)
    }

    /// Removes up to `rows` rows of a run. Returns how many.
    pub(super) fn remove(self, conn: &Connection, run: i64, rows: i64) -> rusqlite::Result<usize> {
        let sql = match self {
            RowTable::KeyBlocks => {
                "DELETE FROM key_blocks WHERE id IN
                 (SELECT id FROM key_blocks WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3)"
            }
            RowTable::KeyFilters => {
                "DELETE FROM key_filters WHERE id IN
                 (SELECT id FROM key_filters WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3)"
            }
            RowTable::IdBlocks => {
                "DELETE FROM id_blocks WHERE id IN
                 (SELECT id FROM id_blocks WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3)"
            }
        };
        conn.prepare_cached(sql)?.execute(params![row_id(run, 0), row_id(run + 1, 0), rows])
    }
}

fn row_id(run: i64, number: usize) -> i64 {
    (run << NUMBER_BITS) + i64::try_from(number).unwrap_or(0)
}

fn checksum(id: i64, bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut crc = flate2::Crc::new();
    crc.update(&id.to_be_bytes());
    crc.update(bytes);
    crc.sum().to_be_bytes()
}

/// Returns the bytes without their checksum. None: the checksum is wrong.
fn unsealed(id: i64, sealed: &[u8]) -> Option<&[u8]> {
    let (bytes, found) = sealed.split_last_chunk()?;
    (checksum(id, bytes) == *found).then_some(bytes)
}

fn damaged(table: RowTable, id: i64) -> rusqlite::Error {
    let text = format!("row {id} of {} is missing or damaged: run hookstream store recover", table.name());
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CORRUPT), Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With an overflow page, each block would cost two reads and two writes.
    #[test]
    fn a_row_fills_one_page() {
        assert_eq!((BLOCK_ENTRIES, INDEXED_BLOCKS), (144, 18));
        let dir = tempfile::tempdir().unwrap();
        let conn = Connection::open(dir.path().join("a.db")).unwrap();
        conn.execute_batch("CREATE TABLE key_blocks (id INTEGER PRIMARY KEY, content BLOB NOT NULL)")
            .unwrap();
        let pages = || conn.pragma_query_value(None, "page_count", |row| row.get::<_, i64>(0)).unwrap();
        let largest = vec![7; ROW_BYTES - CHECKSUM_BYTES];
        for run in 0..50 {
            RowTable::KeyBlocks.insert(&conn, run << 30, 5, largest.clone()).unwrap();
        }
        // One page for the schema, one for the root.
        assert_eq!(pages(), 50 + 2);
        let read = |run| RowTable::KeyBlocks.read(&conn, run, 5, <[u8]>::to_vec);
        assert_eq!(read(3 << 30).unwrap(), largest);
        assert_eq!(
            RowTable::KeyBlocks.runs(&conn).unwrap(),
            (0..50).map(|run| run << 30).collect::<Vec<_>>()
        );
        assert!(read(4).is_err());
        conn.execute("UPDATE key_blocks SET id = id + 1 WHERE id >> 24 = 3 << 30", []).unwrap();
        let moved = RowTable::KeyBlocks.read(&conn, 3 << 30, 6, <[u8]>::to_vec).unwrap_err();
        assert!(moved.to_string().contains("missing or damaged"), "{moved}");
        assert_eq!(RowTable::KeyBlocks.remove(&conn, 4 << 30, 9).unwrap(), 1);
    }
}
