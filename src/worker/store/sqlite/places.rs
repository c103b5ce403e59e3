//! Whose history is whose: a namespace by its uid, not by its name.
//!
//! Rows carry a namespace's `place` where one would expect its name: the name itself, for the first namespace of that
//! name, and another text for each later one. So a namespace that is made anew finds nothing of the old one from the
//! moment on at which its uid is told, whatever the old one left, and what it left is removed at leisure.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use super::super::Seq;
use super::filing;
use super::memory::Memory;

/// The place of a namespace, for a reader.
pub(super) fn place(conn: &Connection, name: &str) -> rusqlite::Result<String> {
    let place = conn
        .prepare_cached("SELECT place FROM namespaces WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()?;
    Ok(place.unwrap_or_else(|| name.to_owned()))
}

/// The name of the namespace whose place this is. A name holds no slash.
pub(super) fn name(place: &str) -> &str {
    place.split('/').next().unwrap_or(place)
}

/// Every name that stands in a row.
pub(super) fn names(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut names = conn
        .prepare_cached(
            "SELECT DISTINCT namespace FROM hooks UNION SELECT name FROM namespaces WHERE uid IS NOT NULL",
        )?
        .query_map([], |row| row.get::<_, String>(0))?
        .map(|place| place.map(|place| name(&place).to_owned()))
        .collect::<rusqlite::Result<Vec<_>>>()?;
    names.sort();
    names.dedup();
    Ok(names)
}

/// The namespace of this name has this uid now. True: another one ended by that.
pub(super) fn is(
    conn: &Connection,
    memory: &mut Memory,
    name: &str,
    uid: Option<&str>,
) -> rusqlite::Result<bool> {
    let known: Option<(Option<String>, String)> = conn
        .prepare_cached("SELECT uid, place FROM namespaces WHERE name = ?1")?
        .query_row([name], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let (before, place) = known.unwrap_or_else(|| (None, name.to_owned()));
    if before.as_deref() == uid {
        return Ok(false);
    }
    let ended = before.is_some();
    let place = match ended {
        true => {
            conn.execute("INSERT OR IGNORE INTO ended (place) VALUES (?1)", [&place])?;
            conn.execute("DELETE FROM replays WHERE namespace = ?1", [&place])?;
            format!("{name}/{}", Uuid::now_v7())
        }
        false => place,
    };
    conn.execute(
        "INSERT OR REPLACE INTO namespaces (name, uid, place) VALUES (?1, ?2, ?3)",
        params![name, uid, place],
    )?;
    memory.flush(conn)?;
    memory.clear();
    Ok(ended)
}

/// Removes at most so many rows of namespaces that ended; how many it removed.
pub(super) fn sweep(conn: &Connection, memory: &mut Memory, rows: i64) -> rusqlite::Result<i64> {
    let ended: Option<String> =
        conn.prepare_cached("SELECT place FROM ended LIMIT 1")?.query_row([], |row| row.get(0)).optional()?;
    let Some(place) = ended else { return Ok(0) };
    // Else what has no row yet would get one after its hook is gone.
    filing::file_all(conn, memory)?;
    let hook: Option<i64> = conn
        .prepare_cached("SELECT id FROM hooks INDEXED BY hooks_name WHERE namespace = ?1 LIMIT 1")?
        .query_row([&place], |row| row.get(0))
        .optional()?;
    if let Some(hook) = hook {
        return sweep_hook(conn, memory, hook, rows);
    }
    let events = conn
        .prepare_cached(
            "SELECT seq, accepted FROM events INDEXED BY events_id WHERE namespace = ?1 LIMIT ?2",
        )?
        .query_map(params![place, rows], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<Vec<(Seq, i64)>>>()?;
    for (event, accepted) in &events {
        conn.prepare_cached("DELETE FROM events WHERE seq = ?1")?.execute([event])?;
        conn.prepare_cached("DELETE FROM loose WHERE accepted = ?1 AND event = ?2")?
            .execute(params![accepted, event])?;
    }
    if events.is_empty() {
        conn.execute("DELETE FROM ended WHERE place = ?1", [&place])?;
    }
    Ok(i64::try_from(events.len()).unwrap_or(rows).max(1))
}

fn sweep_hook(conn: &Connection, memory: &mut Memory, hook: i64, rows: i64) -> rusqlite::Result<i64> {
    if super::gates::dissolve(conn, memory, hook, rows)? {
        return Ok(rows);
    }
    let deliveries = conn
        .prepare_cached("SELECT seq FROM deliveries INDEXED BY deliveries_list WHERE hook = ?1 LIMIT ?2")?
        .query_map(params![hook, rows], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<Seq>>>()?;
    for delivery in &deliveries {
        conn.prepare_cached("DELETE FROM attempts WHERE delivery = ?1")?.execute([delivery])?;
        conn.prepare_cached("DELETE FROM deliveries WHERE seq = ?1")?.execute([delivery])?;
    }
    if deliveries.is_empty() {
        // Nothing of it is counted any more, for it is nobody's.
        memory.flush(conn)?;
        memory.clear();
        conn.execute("DELETE FROM hooks WHERE id = ?1", [hook])?;
    }
    Ok(i64::try_from(deliveries.len()).unwrap_or(rows).max(1))
}

/// The places that the writer has asked for.
#[derive(Default)]
pub(super) struct Places(std::collections::HashMap<Arc<str>, Arc<str>>);

impl Places {
    pub(super) fn of(&mut self, conn: &Connection, name: &str) -> rusqlite::Result<Arc<str>> {
        if let Some(place) = self.0.get(name) {
            return Ok(place.clone());
        }
        let place: Arc<str> = place(conn, name)?.into();
        self.0.insert(name.into(), place.clone());
        Ok(place)
    }
}
