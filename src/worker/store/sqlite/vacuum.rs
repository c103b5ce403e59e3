//! Gives free pages back to the disk.
//!
//! The writer reuses free pages, so a store keeps some of them. A vacuum moves pages, and ingest waits for it, so it
//! works in bounded steps. The file shrinks at the next checkpoint.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::super::StoreSpace;

/// Pages that one step frees, and its time. Accepts wait for the step.
pub(super) const STEP_PAGES: i64 = 256;
const STEP_TIME: Duration = Duration::from_millis(4);
/// A store keeps this many free bytes, and this fraction (1/4) of its file.
const KEEP_BYTES: i64 = 16 << 20;
const KEEP_FRACTION: i64 = 4;

/// The pages of the database, as the last commit left them.
struct Pages {
    all: i64,
    free: i64,
    size: i64,
}

impl Pages {
    fn read(conn: &Connection) -> rusqlite::Result<Pages> {
        let pragma = |name| conn.pragma_query_value(None, name, |row| row.get(0));
        Ok(Pages { all: pragma("page_count")?, free: pragma("freelist_count")?, size: pragma("page_size")? })
    }

    /// True if the disk should have some of the free pages. On a full disk, every page counts.
    fn has_too_many_free(&self, is_disk_full: bool) -> bool {
        if is_disk_full {
            return self.free > 0;
        }
        self.free.saturating_mul(self.size) > KEEP_BYTES && self.free.saturating_mul(KEEP_FRACTION) > self.all
    }
}

/// Measures the free pages, and how much the file will grow when its log is copied into it.
pub(super) fn space(conn: &Connection, file: &Path) -> rusqlite::Result<StoreSpace> {
    let tx = conn.unchecked_transaction()?;
    let pages = Pages::read(&tx)?;
    let bytes = |pages: i64, size: i64| u64::try_from(pages.saturating_mul(size)).unwrap_or(0);
    let length = std::fs::metadata(file).map_or(u64::MAX, |file| file.len());
    Ok(StoreSpace {
        free_bytes: bytes(pages.free, pages.size),
        growth_bytes: bytes(pages.all, pages.size).saturating_sub(length),
        is_disk_full: false,
    })
}

/// Frees up to `step` pages if there are too many free ones. Returns the pages that it freed.
pub(super) fn step(conn: &Connection, step: i64, is_disk_full: bool) -> rusqlite::Result<i64> {
    let before = Pages::read(conn)?;
    if !before.has_too_many_free(is_disk_full) {
        return Ok(0);
    }
    // Each row is one freed page; the statement frees none unless its rows are read.
    let mut vacuum = conn.prepare(&format!("PRAGMA incremental_vacuum({step})"))?;
    let mut rows = vacuum.query([])?;
    let until = Instant::now() + STEP_TIME;
    while rows.next()?.is_some() && Instant::now() < until {}
    drop(rows);
    Ok(before.all - Pages::read(conn)?.all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_16_mib_or_a_quarter_of_the_file() {
        let pages = |all, free| Pages { all, free, size: 4096 };
        for (all, free, full, want) in [
            (50_000, 49_000, false, true),
            (50_000, 12_501, false, true),
            (50_000, 12_500, false, false),
            (5_000, 4_096, false, false),
            (5_000, 4_097, false, true),
            (50, 1, true, true),
            (50, 0, true, false),
        ] {
            assert_eq!(pages(all, free).has_too_many_free(full), want, "{free} of {all}");
        }
    }

    #[test]
    fn steps_until_enough_is_freed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.db");
        let conn = Connection::open(&file).unwrap();
        conn.execute_batch(
            "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0;
             CREATE TABLE a (x); INSERT INTO a VALUES (zeroblob(1000000)), (zeroblob(1000000))",
        )
        .unwrap();
        let grown = space(&conn, &file).unwrap();
        assert!(grown.growth_bytes > 1_900_000 && grown.free_bytes == 0, "{grown:?}");
        conn.execute_batch("DELETE FROM a").unwrap();
        let free = space(&conn, &file).unwrap().free_bytes;
        assert!(free > 1_900_000);
        assert_eq!(step(&conn, 10, false).unwrap(), 0, "a store keeps so few");
        assert_eq!(step(&conn, 10, true).unwrap(), 10);
        assert_eq!(space(&conn, &file).unwrap().free_bytes, free - 10 * 4096);
        while step(&conn, 100, true).unwrap() > 0 {}
        assert_eq!(space(&conn, &file).unwrap().free_bytes, 0);
        conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        assert!(std::fs::metadata(&file).unwrap().len() < 50_000);
    }
}
