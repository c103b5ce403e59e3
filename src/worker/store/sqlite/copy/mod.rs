//! The embedded store as a source or a target of a copy between engines.
//!
//! A source is locked and read as a store without a writer: rows, notes, outcomes. A target is written to a file beside the
//! store's file, which is a small marked store meanwhile, and replaces that file at the end.

mod counts;
mod deliveries;
mod places;
mod read;
mod source;
mod target;
mod write;

use std::path::Path;

pub(in super::super) use source::SqliteSource;
pub(in super::super) use target::SqliteTarget;

use rusqlite::{Connection, OpenFlags};

use super::super::StoreError;
use super::files::{self, DirLock, FILE};
use super::{markers, schema};

/// Opens the file of a store for a change of its marks.
fn open(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(schema::open_error)?;
    schema::tune(&conn).map_err(schema::open_error)?;
    conn.pragma_update(None, "synchronous", "FULL").map_err(schema::open_error)?;
    let id: i64 =
        conn.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(schema::open_error)?;
    if id != schema::APPLICATION_ID {
        return Err(schema::foreign_file());
    }
    Ok(conn)
}

/// Locks a folder as a worker does.
fn lock_of_worker(dir: &Path) -> Result<DirLock, StoreError> {
    files::lock(dir).map_err(|error| match files::is_locked(dir) {
        true => StoreError::Open(format!("a worker or another copy uses {}: stop it first", dir.display())),
        false => error,
    })
}

/// Makes the store of a folder usable again after a copy from it, or removes an unfinished copy to it. Returns what it did,
/// for people.
pub(in super::super) fn unseal(dir: &Path) -> Result<String, StoreError> {
    let path = dir.join(FILE);
    if !path.exists() {
        return Err(StoreError::Open(format!("there is no {FILE} in it: give the worker's data folder")));
    }
    let _lock = lock_of_worker(dir)?;
    let mut conn = open(&path)?;
    if let Some(copy) = markers::unfinished(&conn)? {
        drop(conn);
        target::remove_files(dir)?;
        return Ok(format!("removed the unfinished copy from {}", copy.from));
    }
    match markers::remove_seal(&mut conn)? {
        Some(seal) => Ok(format!("workers can use it again; its data is also in {}", seal.to)),
        None => Ok("nothing to do: its data was not copied".into()),
    }
}
