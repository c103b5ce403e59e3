//! What the writer does to the tables, one operation at a time, inside the transaction of its group.
//!
//! Nothing here begins or commits: an operation that fails leaves half its rows behind, and the caller rolls back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use super::super::{
    Accepted, AcceptedDelivery, Dedup, Fate, HookId, NewDelivery, NewEvent, Next, Retention, Seq, Settlement,
};
use super::schema::{DEAD, DELIVERED, PENDING};
use crate::core::event::Event;
use crate::core::time::Millis;

/// An event made ready for its row, off the writer's thread.
pub(super) struct Row {
    event: Arc<Event>,
    origin: String,
    attributes: Option<String>,
    dedup: Option<Dedup>,
    deliveries: Vec<NewDelivery>,
}

impl Row {
    pub(super) fn new(new: NewEvent) -> Result<Self, serde_json::Error> {
        let attributes = match new.event.attributes.is_empty() {
            true => None,
            false => Some(serde_json::to_string(&new.event.attributes)?),
        };
        let origin = new.event.origin.to_string();
        Ok(Row { event: new.event, origin, attributes, dedup: new.dedup, deliveries: new.deliveries })
    }

    /// About what it takes in memory and in the log.
    pub(super) fn bytes(&self) -> usize {
        let attributes = self.attributes.as_ref().map_or(0, String::len);
        512 + self.event.data.get().len() + attributes + 128 * self.deliveries.len()
    }
}

/// The numbers of hooks, kept so that a delivery costs no look-up. Cleared by every rollback: the row behind a number
/// may be gone with it.
pub(super) type Hooks = HashMap<Arc<str>, i64>;

pub(super) fn accept(
    conn: &Connection,
    hooks: &mut Hooks,
    rows: &[Row],
    now: Millis,
) -> rusqlite::Result<Vec<Accepted>> {
    rows.iter().map(|row| accept_one(conn, hooks, row, now)).collect()
}

fn accept_one(conn: &Connection, hooks: &mut Hooks, row: &Row, now: Millis) -> rusqlite::Result<Accepted> {
    if let Some(dedup) = &row.dedup
        && let Some(first) = first_of(conn, dedup, now)?
    {
        return Ok(first);
    }
    let expires = row.dedup.as_ref().map(|dedup| now + dedup.window);
    let event = &row.event;
    conn.prepare_cached(
        "INSERT INTO events (accepted, kept_until, id, namespace, origin, source, event, time, attributes, data)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        now.0,
        expires.unwrap_or_default().0,
        event.id,
        event.namespace,
        row.origin,
        event.source,
        event.event,
        event.time,
        row.attributes,
        event.data.get(),
    ])?;
    let seq = conn.last_insert_rowid();
    if let (Some(dedup), Some(expires)) = (&row.dedup, expires) {
        // Replaces only a key out of its window: `first_of` found no other.
        conn.prepare_cached("INSERT OR REPLACE INTO dedup (key, expires, event) VALUES (?1, ?2, ?3)")?
            .execute(params![dedup.key, expires.0, seq])?;
    }
    let mut deliveries = Vec::with_capacity(row.deliveries.len());
    for delivery in &row.deliveries {
        let hook = hook_number(conn, hooks, &delivery.hook)?;
        conn.prepare_cached(
            "INSERT INTO deliveries (event, hook, id, state, attempts, due) VALUES (?1, ?2, ?3, ?4, 0, ?5)",
        )?
        .execute(params![seq, hook, delivery.id.as_bytes(), PENDING, delivery.due.0])?;
        let fate = Fate::Pending { due: delivery.due, suppressed: 0 };
        deliveries.push(AcceptedDelivery { seq: conn.last_insert_rowid(), fate });
    }
    if deliveries.is_empty() {
        // No delivery will ever lead retention to it.
        conn.prepare_cached("INSERT INTO loose (accepted, event, kept_until) VALUES (?1, ?2, ?3)")?
            .execute(params![now.0, seq, expires.unwrap_or_default().0])?;
    }
    Ok(Accepted { seq, event_id: event.id.clone(), duplicate: false, deliveries, woken: Vec::new() })
}

/// The event that was accepted under this key within its window.
fn first_of(conn: &Connection, dedup: &Dedup, now: Millis) -> rusqlite::Result<Option<Accepted>> {
    let first = conn
        .prepare_cached(
            "SELECT e.seq, e.id FROM dedup d CROSS JOIN events e ON e.seq = d.event
             WHERE d.key = ?1 AND d.expires > ?2",
        )?
        .query_row(params![dedup.key, now.0], |row| Ok((row.get::<_, Seq>(0)?, row.get::<_, String>(1)?)))
        .optional()?;
    let Some((seq, event_id)) = first else { return Ok(None) };
    let deliveries = conn
        .prepare_cached("SELECT seq, state, due FROM deliveries WHERE event = ?1 ORDER BY seq")?
        .query_map([seq], |row| {
            let fate = match row.get(1)? {
                PENDING => Fate::Pending { due: Millis(row.get(2)?), suppressed: 0 },
                DELIVERED => Fate::Ended,
                _ => Fate::Dead,
            };
            Ok(AcceptedDelivery { seq: row.get(0)?, fate })
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(Some(Accepted { seq, event_id, duplicate: true, deliveries, woken: Vec::new() }))
}

fn hook_number(conn: &Connection, hooks: &mut Hooks, hook: &HookId) -> rusqlite::Result<i64> {
    if let Some(number) = hooks.get(&hook.uid) {
        return Ok(*number);
    }
    conn.prepare_cached("INSERT OR IGNORE INTO hooks (uid, namespace, name) VALUES (?1, ?2, ?3)")?
        .execute(params![hook.uid, hook.namespace, hook.name])?;
    let number = conn
        .prepare_cached("SELECT id FROM hooks WHERE uid = ?1")?
        .query_row([&hook.uid], |row| row.get(0))?;
    hooks.insert(hook.uid.clone(), number);
    Ok(number)
}

pub(super) fn settle(conn: &Connection, settlement: &Settlement) -> rusqlite::Result<()> {
    let ended = settlement.at;
    let (state, reason, due, finished) = match settlement.next {
        Next::Delivered => (DELIVERED, None, None, Some(ended.0)),
        Next::Retry { due } => (PENDING, None, Some(due.0), None),
        Next::Dead { reason } => (DEAD, Some(reason), None, Some(ended.0)),
    };
    let made = i64::from(settlement.attempt.is_some());
    // Only while it is pending: an answer that comes late must not raise what is finished.
    let n: Option<i64> = conn
        .prepare_cached(
            "UPDATE deliveries SET state = ?2, reason = ?3, due = coalesce(?4, due), finished_at = ?5,
                    attempts = attempts + ?6
             WHERE seq = ?1 AND state = 0 RETURNING attempts",
        )?
        .query_row(params![settlement.delivery, state, reason, due, finished, made], |row| row.get(0))
        .optional()?;
    if let (Some(n), Some(attempt)) = (n, &settlement.attempt) {
        conn.prepare_cached(
            "INSERT INTO attempts (delivery, n, at, micros, status, error, detail)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            settlement.delivery,
            n,
            attempt.at.0,
            i64::try_from(attempt.duration.as_micros()).unwrap_or(i64::MAX),
            attempt.status,
            attempt.error,
            attempt.detail,
        ])?;
    }
    Ok(())
}

/// How much one sweep may remove: the rows and bytes that the next accept waits for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    pub(super) rows: usize,
    pub(super) bytes: usize,
}

/// Removes at most a chunk. True: the chunk was used up, and there may be more.
pub(super) fn sweep(
    conn: &Connection,
    retention: Retention,
    now: Millis,
    chunk: Chunk,
) -> rusqlite::Result<bool> {
    let history = before(now, retention.history_age);
    let mut left = chunk.rows;
    for (state, cutoff) in [(DELIVERED, history), (DEAD, before(now, retention.dead_letter_age))] {
        left -= sweep_deliveries(conn, state, cutoff, left)?;
    }
    let (events, emptied) = sweep_events(conn, history, now, left, chunk.bytes)?;
    left -= events;
    let keys = conn
        .prepare_cached(
            "DELETE FROM dedup WHERE key IN (SELECT key FROM dedup WHERE expires <= ?1 ORDER BY expires LIMIT ?2)",
        )?
        .execute(params![now.0, limit(left)])?;
    Ok(emptied || left <= keys)
}

fn before(now: Millis, age: Duration) -> i64 {
    now.0.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX))
}

fn limit(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

fn sweep_deliveries(conn: &Connection, state: i64, cutoff: i64, rows: usize) -> rusqlite::Result<usize> {
    let ripe = conn
        .prepare_cached(
            "SELECT seq, event FROM deliveries INDEXED BY deliveries_finished
             WHERE state = ?1 AND finished_at <= ?2 ORDER BY finished_at LIMIT ?3",
        )?
        .query_map(params![state, cutoff, limit(rows)], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<Vec<(Seq, Seq)>>>()?;
    for (seq, event) in &ripe {
        conn.prepare_cached("DELETE FROM attempts WHERE delivery = ?1")?.execute([seq])?;
        conn.prepare_cached("DELETE FROM deliveries WHERE seq = ?1")?.execute([seq])?;
        let others: bool = conn
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM deliveries WHERE event = ?1)")?
            .query_row([event], |row| row.get(0))?;
        if !others {
            conn.prepare_cached(
                "INSERT INTO loose (accepted, event, kept_until)
                 SELECT accepted, seq, kept_until FROM events WHERE seq = ?1",
            )?
            .execute([event])?;
        }
    }
    Ok(ripe.len())
}

/// Removes events; true where it stopped for the bytes.
fn sweep_events(
    conn: &Connection,
    cutoff: i64,
    now: Millis,
    rows: usize,
    bytes: usize,
) -> rusqlite::Result<(usize, bool)> {
    // `kept_until` only skips rows where the idempotency window is longer than the history's age.
    let ripe = conn
        .prepare_cached(
            "SELECT l.accepted, l.event, octet_length(e.data) FROM loose l CROSS JOIN events e ON e.seq = l.event
             WHERE l.accepted <= ?1 AND l.kept_until <= ?2 ORDER BY l.accepted, l.event LIMIT ?3",
        )?
        .query_map(params![cutoff, now.0, limit(rows)], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<Vec<(i64, Seq, i64)>>>()?;
    let mut removed = 0;
    let mut freed = 0_usize;
    for (accepted, event, size) in &ripe {
        // Freeing a row reads every page of it: 500 events of 1 MiB would hold the writer for seconds.
        if freed > bytes {
            return Ok((removed, true));
        }
        conn.prepare_cached("DELETE FROM events WHERE seq = ?1")?.execute([event])?;
        conn.prepare_cached("DELETE FROM loose WHERE accepted = ?1 AND event = ?2")?
            .execute(params![accepted, event])?;
        removed += 1;
        freed = freed.saturating_add(usize::try_from(*size).unwrap_or(usize::MAX));
    }
    Ok((removed, false))
}
