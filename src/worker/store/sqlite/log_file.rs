//! The log of a store's file, read without SQLite.
//!
//! Must not run while this process has the database open: closing a file here would release the locks that SQLite has on
//! it.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::files::with_suffix;
use super::wal_scan::{self, LogDamage, LogIndex, LogScan, LoggedPage};

/// The page size of every store.
const PAGE_SIZE: usize = 4096;
/// The part of the index that `LogIndex` needs.
const INDEX_BYTES: u64 = 136;
/// How often a scan beside a running worker is repeated because the log restarted meanwhile.
const MAX_SCANS: usize = 5;

/// Returns the log of a database file.
pub(super) fn path(database: &Path) -> PathBuf {
    with_suffix(database, "-wal")
}

/// Scans the log of a database that no process uses, and passes each frame to `visit`.
pub(super) fn scan(database: &Path, visit: impl FnMut(LoggedPage)) -> std::io::Result<LogScan> {
    let index = read_index(database);
    scan_with(database, index.as_ref(), visit)
}

/// Finds damage in the log of a database that no process uses.
pub(super) fn find_damage(database: &Path) -> std::io::Result<Option<LogDamage>> {
    Ok(scan(database, |_| ())?.damage)
}

/// Finds damage in the log of a database that a worker uses. While the worker appends frames, only the index shows which
/// of them are complete.
pub(super) fn find_damage_in_use(database: &Path) -> std::io::Result<Option<LogDamage>> {
    for _ in 0..MAX_SCANS {
        let Some(before) = read_index(database) else { return Ok(None) };
        let found = scan_with(database, Some(&before), |_| ())?.damage.filter(|damage| damage.is_indexed);
        if found.is_none() || read_index(database).is_some_and(|after| before.has_same_log(&after)) {
            return Ok(found);
        }
    }
    Ok(None)
}

fn scan_with(
    database: &Path,
    index: Option<&LogIndex>,
    visit: impl FnMut(LoggedPage),
) -> std::io::Result<LogScan> {
    let log = match File::open(path(database)) {
        Ok(log) => log,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(LogScan { page_size: PAGE_SIZE, ..LogScan::default() });
        }
        Err(error) => return Err(error),
    };
    wal_scan::scan(&mut BufReader::with_capacity(1 << 20, log), PAGE_SIZE, index, visit)
}

/// Reads the index. None without a usable one, as after a power failure.
fn read_index(database: &Path) -> Option<LogIndex> {
    let mut bytes = Vec::new();
    File::open(with_suffix(database, "-shm")).ok()?.take(INDEX_BYTES).read_to_end(&mut bytes).ok()?;
    LogIndex::parse(&bytes)
}
