//! The marks that keep workers away from a store that was copied to another engine, or to which a copy has not finished.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::super::StoreError;
use super::super::portable::{FENCE, SEALED, Seal, UNFINISHED, UnfinishedCopy};

/// Fails if a worker must not use the store of this folder.
pub(super) fn refuse_marked(conn: &Connection, dir: &Path) -> Result<(), StoreError> {
    let unseal = format!("--data {}", dir.display());
    if let Some(seal) = seal(conn)? {
        return Err(seal.refusal(&unseal));
    }
    match unfinished(conn)? {
        Some(copy) => Err(copy.refusal(&unseal)),
        None => Ok(()),
    }
}

/// Returns where the data was copied.
pub(super) fn seal(conn: &Connection) -> Result<Option<Seal>, StoreError> {
    read(conn, SEALED)
}

/// Returns the copy to this store that has not finished.
pub(super) fn unfinished(conn: &Connection) -> Result<Option<UnfinishedCopy>, StoreError> {
    read(conn, UNFINISHED)
}

/// Returns the oldest format that a program must know, as it is without a mark.
pub(super) fn min_reader(conn: &Connection) -> rusqlite::Result<Option<i64>> {
    #[derive(Deserialize)]
    struct Mark {
        min_reader: i64,
    }
    for name in [SEALED, UNFINISHED] {
        let mark: Option<String> = text(conn, name)?;
        if let Some(Mark { min_reader }) = mark.and_then(|mark| serde_json::from_str(&mark).ok()) {
            return Ok(Some(min_reader));
        }
    }
    conn.query_row("SELECT value FROM meta WHERE name = 'min_reader'", [], |row| row.get(0)).optional()
}

/// Marks the store as copied.
pub(super) fn set_seal(conn: &mut Connection, seal: &Seal) -> Result<(), StoreError> {
    set(conn, SEALED, seal).map_err(open_error)
}

/// Marks the store as the target of a copy.
pub(super) fn set_unfinished(conn: &mut Connection, copy: &UnfinishedCopy) -> Result<(), StoreError> {
    set(conn, UNFINISHED, copy).map_err(open_error)
}

/// Removes the mark of a copied store, so that workers can use it again. None: it has none.
pub(super) fn remove_seal(conn: &mut Connection) -> Result<Option<Seal>, StoreError> {
    let Some(seal) = seal(conn)? else { return Ok(None) };
    let remove = |conn: &mut Connection| {
        let tx = conn.transaction()?;
        tx.execute("DELETE FROM meta WHERE name = ?1", [SEALED])?;
        tx.execute("UPDATE meta SET value = ?1 WHERE name = 'min_reader'", [seal.min_reader])?;
        tx.commit()
    };
    remove(conn).map_err(open_error)?;
    Ok(Some(seal))
}

fn set(conn: &mut Connection, name: &str, mark: &impl Serialize) -> rusqlite::Result<()> {
    let mark =
        serde_json::to_string(mark).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
    let tx = conn.transaction()?;
    tx.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)", (name, mark))?;
    tx.execute("UPDATE meta SET value = ?1 WHERE name = 'min_reader'", [FENCE])?;
    tx.commit()
}

fn read<T: DeserializeOwned>(conn: &Connection, name: &str) -> Result<Option<T>, StoreError> {
    let Some(mark) = text(conn, name).map_err(open_error)? else { return Ok(None) };
    let damaged =
        |error| StoreError::Open(format!("its row {name} in the table meta cannot be read: {error}"));
    serde_json::from_str(&mark).map(Some).map_err(damaged)
}

// The INTEGER affinity of the column leaves text unchanged.
fn text(conn: &Connection, name: &str) -> rusqlite::Result<Option<String>> {
    conn.query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get(0)).optional()
}

fn open_error(error: rusqlite::Error) -> StoreError {
    StoreError::Open(error.to_string())
}
