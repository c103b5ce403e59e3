//! The key under which rows of a namespace are stored (the columns `namespace` of the tables, `place` of `namespaces`).
//!
//! The key is the name itself for the first namespace of that name, and `name/uuid` for each later one. So a recreated
//! namespace finds no data of the deleted one, as soon as its uid is recorded.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};

use super::super::ALL_NAMESPACES;
use super::event_ids::hash_of_place;
use super::runs::Key;
use crate::core::fast_map::FastMap;

/// Returns the present key of a namespace.
pub(super) fn key(conn: &Connection, name: &str) -> rusqlite::Result<String> {
    let key = conn
        .prepare_cached("SELECT place FROM namespaces WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()?;
    Ok(key.unwrap_or_else(|| name.to_owned()))
}

/// A condition: the column `o.place` has the present key of a namespace, not that of a deleted or recreated one.
macro_rules! is_present {
    () => {
        "o.place = (SELECT coalesce(max(n.place), substr(o.place, 1, instr(o.place || '/', '/') - 1)) FROM namespaces n
                    WHERE n.name = substr(o.place, 1, instr(o.place || '/', '/') - 1))"
    };
}
pub(super) use is_present;

/// Returns the present key of a namespace; for `ALL_NAMESPACES`, those of all namespaces that have hooks with rows.
pub(super) fn keys(conn: &Connection, name: &str) -> rusqlite::Result<Vec<String>> {
    if name != ALL_NAMESPACES {
        return Ok(vec![key(conn, name)?]);
    }
    conn.prepare_cached(PRESENT_KEYS)?.query_map([], |row| row.get(0))?.collect()
}

const PRESENT_KEYS: &str = concat!("SELECT o.place FROM namespace_numbers o WHERE ", is_present!());

/// Returns the name of the namespace that has this key. Namespace names contain no slash.
pub(super) fn name(key: &str) -> &str {
    key.split('/').next().unwrap_or(key)
}

/// Returns the number of a namespace key (`deliveries.namespace`). None: no hook with this key has a row.
pub(super) fn number(conn: &Connection, key: &str) -> rusqlite::Result<Option<i64>> {
    conn.prepare_cached("SELECT id FROM namespace_numbers WHERE place = ?1")?
        .query_row([key], |row| row.get(0))
        .optional()
}

/// Returns the number of a namespace key. Inserts one if there is none.
pub(super) fn find_or_insert_number(conn: &Connection, key: &str) -> rusqlite::Result<i64> {
    if let Some(number) = number(conn, key)? {
        return Ok(number);
    }
    conn.prepare_cached("INSERT INTO namespace_numbers (place) VALUES (?1)")?.execute([key])?;
    Ok(conn.last_insert_rowid())
}

/// Removes the number of a namespace key that no hook has any more. True: removed.
pub(super) fn remove_unused_number(conn: &Connection, key: &str) -> rusqlite::Result<bool> {
    let removed = conn
        .prepare_cached(
            "DELETE FROM namespace_numbers WHERE place = ?1
             AND NOT EXISTS (SELECT 1 FROM hooks INDEXED BY hooks_name WHERE namespace = ?1)",
        )?
        .execute([key])?;
    Ok(removed > 0)
}

/// Deliveries that one statement of `number_deliveries` changes, so that its transaction stays small.
const NUMBER_BATCH: i64 = 10_000;

/// Numbers the namespaces of hooks and deliveries that a program of format 5 inserted, after a rollback to it. Lists would
/// not find the deliveries otherwise, and nothing would check whether a namespace without deliveries still exists.
pub(super) fn number_deliveries(conn: &Connection) -> rusqlite::Result<()> {
    // Usually there is nothing to insert, and then it writes nothing.
    conn.execute(
        "INSERT OR IGNORE INTO namespace_numbers (place)
         SELECT DISTINCT namespace FROM hooks INDEXED BY hooks_name EXCEPT SELECT place FROM namespace_numbers",
        [],
    )?;
    let is_missing =
        "SELECT EXISTS (SELECT 1 FROM deliveries INDEXED BY deliveries_namespace WHERE namespace IS NULL)";
    if !conn.query_row(is_missing, [], |row| row.get(0))? {
        return Ok(());
    }
    // 0, the number of no namespace, for a delivery without its hook: otherwise the loop would not end.
    let mut number = conn.prepare(
        "UPDATE deliveries SET namespace = coalesce(
             (SELECT n.id FROM hooks h JOIN namespace_numbers n ON n.place = h.namespace WHERE h.id = hook), 0)
         WHERE seq IN (SELECT seq FROM deliveries INDEXED BY deliveries_namespace WHERE namespace IS NULL LIMIT ?1)",
    )?;
    while number.execute([NUMBER_BATCH])? > 0 {}
    Ok(())
}

/// Returns the names of all namespaces with rows.
pub(super) fn names(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut names = conn
        .prepare_cached(
            "SELECT place FROM namespace_numbers UNION SELECT name FROM namespaces WHERE uid IS NOT NULL",
        )?
        .query_map([], |row| row.get::<_, String>(0))?
        .map(|key| key.map(|key| name(&key).to_owned()))
        .collect::<rusqlite::Result<Vec<_>>>()?;
    names.sort();
    names.dedup();
    Ok(names)
}

/// Caches the keys that the writer has read.
#[derive(Default)]
pub(super) struct NamespaceKeys(FastMap<Arc<str>, CachedKey>);

struct CachedKey {
    key: Arc<str>,
    hash: Key,
}

impl NamespaceKeys {
    pub(super) fn get(&mut self, conn: &Connection, name: &str) -> rusqlite::Result<Arc<str>> {
        self.find(conn, name).map(|cached| cached.key.clone())
    }

    /// Returns the hash of the present key, which idempotency keys and event ids contain.
    pub(super) fn hash(&mut self, conn: &Connection, name: &str) -> rusqlite::Result<Key> {
        self.find(conn, name).map(|cached| cached.hash)
    }

    fn find(&mut self, conn: &Connection, name: &str) -> rusqlite::Result<&CachedKey> {
        if !self.0.contains_key(name) {
            let key: Arc<str> = key(conn, name)?.into();
            let hash = hash_of_place(&key);
            self.0.insert(name.into(), CachedKey { key, hash });
        }
        self.0.get(name).ok_or(rusqlite::Error::QueryReturnedNoRows)
    }
}
