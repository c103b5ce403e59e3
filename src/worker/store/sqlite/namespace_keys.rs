//! The key under which rows of a namespace are stored (the columns `namespace` of the tables, `place` of `namespaces`).
//!
//! The key is the name itself for the first namespace of that name, and `name/uuid` for each later one. So a recreated
//! namespace finds no data of the deleted one, as soon as its uid is recorded.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};

/// Returns the present key of a namespace.
pub(super) fn key(conn: &Connection, name: &str) -> rusqlite::Result<String> {
    let key = conn
        .prepare_cached("SELECT place FROM namespaces WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()?;
    Ok(key.unwrap_or_else(|| name.to_owned()))
}

/// Returns the name of the namespace that has this key. Namespace names contain no slash.
pub(super) fn name(key: &str) -> &str {
    key.split('/').next().unwrap_or(key)
}

/// Returns the names of all namespaces with rows.
pub(super) fn names(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut names = conn
        .prepare_cached(
            "SELECT DISTINCT namespace FROM hooks UNION SELECT name FROM namespaces WHERE uid IS NOT NULL",
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
pub(super) struct NamespaceKeys(HashMap<Arc<str>, Arc<str>>);

impl NamespaceKeys {
    pub(super) fn get(&mut self, conn: &Connection, name: &str) -> rusqlite::Result<Arc<str>> {
        if let Some(key) = self.0.get(name) {
            return Ok(key.clone());
        }
        let key: Arc<str> = key(conn, name)?.into();
        self.0.insert(name.into(), key.clone());
        Ok(key)
    }
}
