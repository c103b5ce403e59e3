//! What is read, on connections of their own: never on the writer's thread, never in its way.
//!
//! Every statement walks an index and is bounded by a limit or by the number of hooks, whatever the backlog; the tests
//! hold their plans.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::super::{Attempt, Backlog, HookId, Pending, Record, Seq, State, StoreError};
use super::schema::{self, DELIVERED, PENDING};
use super::shared::{Shared, Trouble};
use crate::core::event::{Event, Origin};
use crate::core::time::Millis;

/// A few connections, lent out one to a read.
pub(super) struct Reads {
    free: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
    count: u32,
    shared: Arc<Shared>,
}

impl Reads {
    pub(super) fn open(path: &Path, count: u32, shared: Arc<Shared>) -> rusqlite::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut free = Vec::new();
        for _ in 0..count {
            let conn = Connection::open_with_flags(path, flags)?;
            schema::tune(&conn)?;
            // Opens the log and its index now: later there may be no file handle left, and the store would seem broken.
            conn.query_row("SELECT count(*) FROM meta", [], |_| Ok(()))?;
            free.push(conn);
        }
        let permits = Arc::new(Semaphore::new(free.len()));
        Ok(Reads { free: Mutex::new(free), permits, count, shared })
    }

    /// Runs a read where blocking is allowed.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.shared.usable()?;
        // A permit first: reads that wait must not fill the pool of blocking threads. It travels with the read, for the
        // connection is only free again when the read has ended, even if nobody waits for it any more.
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let this = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let conn = this.free.lock().pop().ok_or(StoreError::Closed)?;
            let result = read(&conn);
            this.free.lock().push(conn);
            result.map_err(|e| match Trouble::of(&e) {
                Trouble::Fatal(text) => this.shared.fail(text),
                other => other.into(),
            })
        });
        done.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Waits for the reads under way and closes their connections.
    pub(super) async fn close(&self) {
        let all = self.permits.acquire_many(self.count).await;
        self.permits.close();
        self.free.lock().clear();
        drop(all);
    }
}

pub(super) fn due(conn: &Connection, uid: &str, now: Millis, limit: usize) -> rusqlite::Result<Vec<Pending>> {
    let Some((number, hook)) = hook(conn, uid)? else { return Ok(Vec::new()) };
    conn.prepare_cached(DUE)?
        .query_map(params![number, now.0, i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
            Ok(Pending {
                seq: row.get(0)?,
                id: Uuid::from_bytes(row.get(1)?),
                hook: hook.clone(),
                attempts: row.get(2)?,
                due: Millis(row.get(3)?),
                accepted: Millis(row.get(4)?),
                held: Duration::ZERO,
                suppressed: 0,
                replays: 0,
                event: Arc::new(event(row)?),
            })
        })?
        .collect()
}

// CROSS JOIN keeps the order of the loops: the index of what is pending outside, the event by its number inside.
pub(super) const DUE: &str = "
SELECT d.seq, d.id, d.attempts, d.due, e.accepted,
       e.id, e.namespace, e.origin, e.source, e.event, e.time, e.attributes, e.data
FROM deliveries d INDEXED BY deliveries_pending CROSS JOIN events e ON e.seq = d.event
WHERE d.state = 0 AND d.hook = ?1 AND d.due <= ?2 ORDER BY d.due, d.seq LIMIT ?3";

pub(super) const NEXT_DUE: &str = "
SELECT min(d.due) FROM deliveries d INDEXED BY deliveries_pending, hooks h
WHERE h.uid = ?1 AND d.state = 0 AND d.hook = h.id AND d.due > ?2";

// One seek for each hook, instead of a walk over every delivery.
pub(super) const BACKLOG: &str = "
SELECT h.uid, h.namespace, h.name,
       (SELECT min(d.due) FROM deliveries d INDEXED BY deliveries_pending WHERE d.state = 0 AND d.hook = h.id)
FROM hooks h ORDER BY h.uid";

const DELIVERY: &str = "
SELECT d.seq, d.state, d.reason, e.accepted, d.due, e.id, h.uid, h.namespace, h.name
FROM deliveries d CROSS JOIN hooks h ON h.id = d.hook CROSS JOIN events e ON e.seq = d.event
WHERE d.id = ?1 AND h.namespace = ?2";

// The first five columns are those of DUE, so that one function reads the event.
const EVENT_OF: &str = "
SELECT 0, 0, 0, 0, 0, e.id, e.namespace, e.origin, e.source, e.event, e.time, e.attributes, e.data
FROM deliveries d CROSS JOIN hooks h ON h.id = d.hook CROSS JOIN events e ON e.seq = d.event
WHERE d.id = ?1 AND h.namespace = ?2";

fn hook(conn: &Connection, uid: &str) -> rusqlite::Result<Option<(i64, HookId)>> {
    conn.prepare_cached("SELECT id, uid, namespace, name FROM hooks WHERE uid = ?1")?
        .query_row([uid], |row| Ok((row.get(0)?, hook_id(row, 1)?)))
        .optional()
}

fn hook_id(row: &Row<'_>, at: usize) -> rusqlite::Result<HookId> {
    Ok(HookId { uid: row.get(at)?, namespace: row.get(at + 1)?, name: row.get(at + 2)? })
}

fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    let origin: String = row.get(7)?;
    let attributes: Option<String> = row.get(11)?;
    Ok(Event {
        id: row.get(5)?,
        namespace: row.get(6)?,
        origin: Origin::try_from(origin).map_err(|e| unreadable(7, e))?,
        source: row.get(8)?,
        event: row.get(9)?,
        time: row.get(10)?,
        attributes: match attributes {
            Some(text) => serde_json::from_str(&text).map_err(|e| unreadable(11, e))?,
            None => BTreeMap::new(),
        },
        data: RawValue::from_string(row.get(12)?).map_err(|e| unreadable(12, e))?,
    })
}

fn unreadable(
    column: usize,
    e: impl Into<Box<dyn std::error::Error + Send + Sync + 'static>>,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, e.into())
}

pub(super) fn next_due(conn: &Connection, uid: &str, after: Millis) -> rusqlite::Result<Option<Millis>> {
    conn.prepare_cached(NEXT_DUE)?
        .query_row(params![uid, after.0], |row| row.get::<_, Option<i64>>(0))
        .map(|due| due.map(Millis))
}

pub(super) fn backlog(conn: &Connection) -> rusqlite::Result<Vec<Backlog>> {
    let mut statement = conn.prepare_cached(BACKLOG)?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        if let Some(due) = row.get::<_, Option<i64>>(3)? {
            found.push(Backlog { hook: hook_id(row, 0)?, next_due: Millis(due) });
        }
    }
    Ok(found)
}

pub(super) fn delivery(conn: &Connection, namespace: &str, id: Uuid) -> rusqlite::Result<Option<Record>> {
    // One snapshot for both statements: a sweep in between would show a delivery without its attempts.
    let tx = conn.unchecked_transaction()?;
    let found = tx
        .prepare_cached(DELIVERY)?
        .query_row(params![id.as_bytes(), namespace], |row| {
            let state = match row.get(1)? {
                PENDING => State::Pending,
                DELIVERED => State::Delivered,
                _ => State::Dead,
            };
            let due = Millis(row.get(4)?);
            Ok(Record {
                seq: row.get(0)?,
                id,
                hook: hook_id(row, 6)?,
                event_id: row.get(5)?,
                state,
                reason: row.get(2)?,
                accepted: Millis(row.get(3)?),
                due: (state == State::Pending).then_some(due),
                attempts: Vec::new(),
            })
        })
        .optional()?;
    let Some(mut record) = found else { return Ok(None) };
    record.attempts = attempts(&tx, record.seq)?;
    Ok(Some(record))
}

pub(super) fn event_of(conn: &Connection, namespace: &str, id: Uuid) -> rusqlite::Result<Option<Arc<Event>>> {
    conn.prepare_cached(EVENT_OF)?
        .query_row(params![id.as_bytes(), namespace], |row| event(row).map(Arc::new))
        .optional()
}

fn attempts(conn: &Connection, delivery: Seq) -> rusqlite::Result<Vec<Attempt>> {
    conn.prepare_cached(
        "SELECT at, micros, status, error, detail FROM attempts WHERE delivery = ?1 ORDER BY n",
    )?
    .query_map([delivery], |row| {
        Ok(Attempt {
            at: Millis(row.get(0)?),
            duration: Duration::from_micros(u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0)),
            status: row.get(2)?,
            error: row.get(3)?,
            detail: row.get(4)?,
        })
    })?
    .collect()
}
