//! Opens a database file as a store of this format: creates the tables, or migrates an older format.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior, params};

use super::super::StoreError;
use super::maintenance;
use super::markers;
use super::namespace_keys;
use super::schema::{APPLICATION_ID, MIGRATIONS, Migration, VERSION, foreign_file, meta, open_error, tune};

/// Makes the file a store of this format, or fails if it is not one or is too new.
pub(super) fn prepare(conn: &mut Connection, dir: &Path) -> Result<(), StoreError> {
    tune(conn).map_err(open_error)?;
    let id: i64 = conn.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(open_error)?;
    let tables: i64 =
        conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(open_error)?;
    if tables == 0 {
        // This pragma takes effect only before the first table exists. INCREMENTAL lets a later release return free
        // space to the file system.
        conn.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(open_error)?;
    } else if id != APPLICATION_ID {
        return Err(foreign_file());
    } else {
        // Check before any write, even of the journal mode, because a newer store must stay unchanged.
        markers::refuse_marked(conn, dir)?;
        let found = check_readable(conn, VERSION)?;
        if found < VERSION {
            let kept = maintenance::keep_before(dir, found)?;
            tracing::info!(copy = %kept.display(), "migrating the store to format {VERSION}, keeping a copy of the old format");
        }
    }
    let mode: String =
        conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0)).map_err(open_error)?;
    if mode != "wal" {
        return Err(StoreError::Open(format!("journal mode {mode}: the file system has no shared memory")));
    }
    conn.pragma_update(None, "synchronous", "FULL").map_err(open_error)?;
    migrate(conn, MIGRATIONS)?;
    namespace_keys::number_deliveries(conn).map_err(open_error)
}

fn check_readable(conn: &Connection, known: i64) -> Result<i64, StoreError> {
    let found = meta(conn, "version")?;
    if meta(conn, "min_reader")? > known {
        return Err(StoreError::Newer { found, known });
    }
    Ok(found)
}

/// Applies the missing migrations, each in its own transaction.
pub(super) fn migrate(conn: &mut Connection, migrations: &[Migration]) -> Result<(), StoreError> {
    let has_meta: i64 = conn
        .query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'meta'", [], |row| row.get(0))
        .map_err(open_error)?;
    let known = migrations.last().map_or(0, |migration| migration.version);
    let found = if has_meta == 0 { 0 } else { check_readable(conn, known)? };
    for migration in migrations.iter().filter(|migration| migration.version > found) {
        apply(conn, migration).map_err(open_error)?;
    }
    Ok(())
}

fn apply(conn: &mut Connection, migration: &Migration) -> rusqlite::Result<()> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.execute_batch(migration.sql)?;
    for (name, value) in [("version", migration.version), ("min_reader", migration.min_reader)] {
        tx.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)", params![name, value])?;
    }
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.commit()
}
