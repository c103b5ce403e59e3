//! What is read, on connections of their own: never on the writer's thread, never in its way.
//!
//! Every statement walks an index and is bounded by a limit or by the number of hooks, whatever the backlog; the tests
//! hold their plans.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::super::{Backlog, Due, HookId, Most, Pending, Seq, Stats, StoreError};
use super::filing::{self, Unfiled};
use super::memory::held;
use super::numbers;
use super::places;
use super::schema;
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
            free.push(connect(path, flags)?);
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

/// Opens a connection beside the writer's.
pub(super) fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(path, flags)?;
    schema::tune(&conn)?;
    // Opens the log and its index now: later there may be no file handle left, and the store would seem broken.
    conn.query_row("SELECT count(*) FROM meta", [], |_| Ok(()))?;
    Ok(conn)
}

/// The numbers come from the index alone, so that what the caller has costs next to nothing, and events are read one by one
/// until they are enough.
pub(super) fn due(
    conn: &Connection,
    uid: &str,
    now: Millis,
    has: &HashSet<Seq>,
    most: Most,
) -> rusqlite::Result<Due> {
    // One snapshot: in between a hold may end, or the hook's deliveries become another's.
    let tx = conn.unchecked_transaction()?;
    let Some((number, hook, held)) = hook(&tx, uid, now)? else { return Ok(Due::default()) };
    let mut unfiled = filing::by_notes(&tx)?;
    unfiled.retain(|seq, one| one.hook == number && one.due <= now.0 && !has.contains(seq));
    let mut next: Vec<(i64, Seq)> = unfiled.iter().map(|(seq, one)| (one.due, *seq)).collect();
    let mut index = tx.prepare_cached(DUE)?;
    let mut rows = index.query(params![number, now.0])?;
    let mut filed = 0;
    while filed <= most.rows
        && let Some(row) = rows.next()?
    {
        let seq = row.get(1)?;
        if !has.contains(&seq) {
            next.push((row.get(0)?, seq));
            filed += 1;
        }
    }
    next.sort_unstable();
    let mut due = Due::default();
    let mut bytes = 0;
    for (_, seq) in next {
        if due.pending.len() >= most.rows || bytes >= most.bytes {
            due.more = true;
            break;
        }
        let pending = match unfiled.remove(&seq) {
            Some(unfiled) => noted(&tx, seq, &unfiled, &hook, held)?,
            None => pending(&tx, seq, &hook, held)?,
        };
        bytes += pending.event.data.get().len();
        due.pending.push(pending);
    }
    Ok(due)
}

/// A delivery with its row.
fn pending(conn: &Connection, seq: Seq, hook: &HookId, held: i64) -> rusqlite::Result<Pending> {
    conn.prepare_cached(PENDING)?.query_row([seq], |row| {
        Ok(Pending {
            seq,
            id: Uuid::from_bytes(row.get(1)?),
            hook: hook.clone(),
            attempts: row.get(2)?,
            due: Millis(row.get(3)?),
            accepted: Millis(row.get(4)?),
            held: since(held, row.get(15)?),
            suppressed: row.get(13)?,
            replays: row.get(14)?,
            progress: row.get::<_, Option<Vec<u8>>>(16)?.unwrap_or_default(),
            event: Arc::new(event(row)?),
        })
    })
}

/// One without.
fn noted(
    conn: &Connection,
    seq: Seq,
    unfiled: &Unfiled,
    hook: &HookId,
    held: i64,
) -> rusqlite::Result<Pending> {
    conn.prepare_cached(EVENT)?.query_row([numbers::event(seq)], |row| {
        Ok(Pending {
            seq,
            id: Uuid::from_bytes(unfiled.id),
            hook: hook.clone(),
            attempts: 0,
            due: Millis(unfiled.due),
            accepted: Millis(row.get(4)?),
            held: since(held, unfiled.held_before),
            suppressed: 0,
            replays: 0,
            progress: Vec::new(),
            event: Arc::new(event(row)?),
        })
    })
}

fn since(held: i64, before: i64) -> Duration {
    Duration::from_millis(u64::try_from(held.saturating_sub(before)).unwrap_or(0))
}

pub(super) const DUE: &str = "
SELECT due, seq FROM deliveries INDEXED BY deliveries_pending
WHERE state = 0 AND hook = ?1 AND due <= ?2 ORDER BY due, seq";

const PENDING: &str = "
SELECT d.seq, d.id, d.attempts - d.attempts_before, d.due, coalesce(d.began, e.accepted),
       e.id, e.namespace, e.origin, e.source, e.event, e.time, e.attributes, e.data,
       d.suppressed, d.replays, d.held_before, d.progress
FROM deliveries d CROSS JOIN events e ON e.seq = d.event WHERE d.seq = ?1";

// The columns are where those of PENDING are.
const EVENT: &str = "
SELECT NULL, NULL, NULL, NULL, accepted, id, namespace, origin, source, event, time, attributes, data
FROM events WHERE seq = ?1";

pub(super) const NEXT_DUE: &str = "
SELECT min(d.due) FROM deliveries d INDEXED BY deliveries_pending, hooks h
WHERE h.uid = ?1 AND d.state = 0 AND d.hook = h.id AND d.due > ?2";

// One seek for each hook, instead of a walk over every delivery.
pub(super) const BACKLOG: &str = "
SELECT h.uid, h.namespace, h.name,
       (SELECT min(d.due) FROM deliveries d INDEXED BY deliveries_pending WHERE d.state = 0 AND d.hook = h.id),
       h.id
FROM hooks h WHERE h.namespace NOT IN (SELECT place FROM ended) ORDER BY h.uid";

// The oldest by one seek for each hook for which something waits.
const OLDEST: &str = "
SELECT min(coalesce(d.began, e.accepted)) FROM (
    SELECT (SELECT min(d.seq) FROM deliveries d INDEXED BY deliveries_list WHERE d.hook = h.id AND d.state = 0) AS seq
    FROM hooks h WHERE h.waiting > 0) first
CROSS JOIN deliveries d ON d.seq = first.seq CROSS JOIN events e ON e.seq = d.event";

pub(super) fn stats(conn: &Connection) -> rusqlite::Result<Stats> {
    let tx = conn.unchecked_transaction()?;
    let number = |sql: &str| {
        let number = tx.prepare_cached(sql)?.query_row([], |row| row.get::<_, Option<i64>>(0))?;
        Ok::<_, rusqlite::Error>(u64::try_from(number.unwrap_or(0)).unwrap_or(0))
    };
    Ok(Stats {
        waiting: number("SELECT count(*) FROM deliveries INDEXED BY deliveries_pending WHERE state = 0")?
            + number("SELECT count(*) FROM candidates")?,
        waiting_bytes: number("SELECT sum(waiting) FROM hooks")?,
        fullest_hook: number("SELECT max(waiting) FROM hooks")?,
        fullest_namespace: number(
            "SELECT max(bytes) FROM (SELECT sum(waiting) AS bytes FROM hooks GROUP BY namespace)",
        )?,
        oldest: tx.prepare_cached(OLDEST)?.query_row([], |row| row.get::<_, Option<i64>>(0))?.map(Millis),
        bytes: number("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")?,
    })
}

pub(super) fn hook_stats(conn: &Connection, uid: &str) -> rusqlite::Result<Stats> {
    let found = conn
        .prepare_cached(HOOK_STATS)?
        .query_row([uid], |row| {
            let number = |at| Ok::<_, rusqlite::Error>(u64::try_from(row.get::<_, i64>(at)?).unwrap_or(0));
            Ok(Stats {
                waiting: number(0)? + number(1)?,
                waiting_bytes: number(2)?,
                oldest: row.get::<_, Option<i64>>(3)?.map(Millis),
                ..Stats::default()
            })
        })
        .optional()?;
    Ok(found.unwrap_or_default())
}

pub(super) const HOOK_STATS: &str = "
SELECT (SELECT count(*) FROM deliveries d INDEXED BY deliveries_pending WHERE d.state = 0 AND d.hook = h.id),
       (SELECT count(*) FROM candidates c WHERE c.hook = h.id),
       h.waiting,
       (SELECT coalesce(d.began, e.accepted) FROM deliveries d INDEXED BY deliveries_list
        CROSS JOIN events e ON e.seq = d.event WHERE d.hook = h.id AND d.state = 0 ORDER BY d.seq LIMIT 1)
FROM hooks h WHERE h.uid = ?1";

/// A hook's number, and for how long it was held in all.
fn hook(conn: &Connection, uid: &str, now: Millis) -> rusqlite::Result<Option<(i64, HookId, i64)>> {
    conn.prepare_cached("SELECT id, uid, namespace, name, held, held_since FROM hooks WHERE uid = ?1")?
        .query_row([uid], |row| Ok((row.get(0)?, hook_id(row, 1)?, held(row.get(4)?, row.get(5)?, now))))
        .optional()
}

pub(super) fn next_promotion(conn: &Connection) -> rusqlite::Result<Option<Millis>> {
    conn.prepare_cached("SELECT min(due) FROM candidates")?
        .query_row([], |row| row.get::<_, Option<i64>>(0))
        .map(|due| due.map(Millis))
}

pub(super) fn hook_id(row: &Row<'_>, at: usize) -> rusqlite::Result<HookId> {
    let namespace = places::name(row.get_ref(at + 1)?.as_str()?).into();
    Ok(HookId { uid: row.get(at)?, namespace, name: row.get(at + 2)? })
}

/// An event, by the columns from the sixth on.
pub(super) fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    let origin: String = row.get(7)?;
    let attributes: Option<String> = row.get(11)?;
    Ok(Event {
        id: row.get(5)?,
        namespace: places::name(row.get_ref(6)?.as_str()?).to_owned(),
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

pub(super) fn unreadable(
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
    let tx = conn.unchecked_transaction()?;
    let mut unfiled: HashMap<i64, i64> = HashMap::new();
    for one in filing::by_notes(&tx)?.values() {
        let due = unfiled.entry(one.hook).or_insert(one.due);
        *due = one.due.min(*due);
    }
    let mut statement = tx.prepare_cached(BACKLOG)?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (filed, unfiled) = (row.get::<_, Option<i64>>(3)?, unfiled.get(&row.get(4)?).copied());
        if let Some(due) = filed.into_iter().chain(unfiled).min() {
            found.push(Backlog { hook: hook_id(row, 0)?, next_due: Millis(due) });
        }
    }
    Ok(found)
}

pub(super) fn held_hooks(conn: &Connection) -> rusqlite::Result<Vec<HookId>> {
    conn.prepare_cached(
        "SELECT uid, namespace, name FROM hooks
         WHERE held_since IS NOT NULL AND namespace NOT IN (SELECT place FROM ended) ORDER BY uid",
    )?
    .query_map([], |row| hook_id(row, 0))?
    .collect()
}
