//! The dispatcher's queries: due deliveries, the backlog, held hooks, measurements.
//!
//! They run on reading connections, never on the writer's thread. Pending deliveries without rows come from a snapshot of
//! `outcomes::Recent`. Every statement walks an index. A limit or the number
//! of hooks bounds its cost, independent of the size of the backlog; a test asserts the query plans.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use super::super::{
    DeliverySeq, DueDeliveries, HookBacklog, HookId, PendingDelivery, ReadLimit, SHARDS, StoreStats,
};
use super::outcomes::Snapshot;
use super::rows::{event, hook_id, total_held};
use super::sequence;
use super::unmaterialized::Unmaterialized;
use crate::core::fast_map::FastSet;
use crate::core::time::Millis;
/// Reads the due deliveries of a hook.
///
/// The sequence numbers come from the index alone, so skipping excluded deliveries is cheap. Reads events one at a time
/// until the limit is reached.
pub(super) fn due(
    conn: &Connection,
    recent: &Snapshot,
    uid: &str,
    now: Millis,
    exclude: &FastSet<DeliverySeq>,
    limit: ReadLimit,
) -> rusqlite::Result<DueDeliveries> {
    // One snapshot, because between two statements a hold may end, or the deliveries may be transferred to another
    // hook.
    let tx = conn.unchecked_transaction()?;
    let Some((hook_row, hook, held)) = hook(&tx, uid, now)? else { return Ok(DueDeliveries::default()) };
    // Sorting all notes of a backlog would cost more than the rest of the read.
    let mut notes = due_notes(recent, hook_row, now, exclude);
    let mut candidates: Vec<(i64, DeliverySeq)> =
        notes.by_ref().take(limit.rows.saturating_add(1)).map(|(seq, noted)| (noted.due, seq)).collect();
    let mut index = tx.prepare_cached(DUE)?;
    let mut rows = index.query(params![hook_row, now.0])?;
    let mut from_index = 0;
    while from_index <= limit.rows
        && let Some(row) = rows.next()?
    {
        let seq = row.get(1)?;
        if !exclude.contains(&seq) {
            candidates.push((row.get(0)?, seq));
            from_index += 1;
        }
    }
    candidates.sort_unstable();
    // A delivery that got its row after the snapshot of the notes is in both.
    let mut seen = FastSet::default();
    let mut due = DueDeliveries::default();
    let mut bytes = 0;
    for (_, seq) in candidates {
        if due.pending.len() >= limit.rows || bytes >= limit.bytes {
            due.has_more = true;
            break;
        }
        let pending = read_pending(&tx, seq, recent, &hook, held)?;
        let Some(pending) = pending.filter(|pending| pending.due <= now && seen.insert(pending.seq)) else {
            continue;
        };
        let len = pending.event.data.get().len();
        if limit.is_strict && bytes + len > limit.bytes {
            due.has_more = true;
            due.too_large = due.pending.is_empty().then_some(len);
            break;
        }
        bytes += len;
        due.pending.push(pending);
    }
    // The deliveries of the first notes may have ended since the snapshot. Then the loop did not reach its limit.
    due.has_more |= notes.next().is_some();
    Ok(due)
}

/// The most rows that one read of untried deliveries examines.
const MAX_EXAMINED: usize = 256;

/// Reads due deliveries of a hook that were never attempted, newest first.
pub(super) fn newest_untried(
    conn: &Connection,
    recent: &Snapshot,
    uid: &str,
    now: Millis,
    exclude: &FastSet<DeliverySeq>,
    limit: ReadLimit,
) -> rusqlite::Result<Vec<PendingDelivery>> {
    let tx = conn.unchecked_transaction()?;
    let Some((hook_row, hook, held)) = hook(&tx, uid, now)? else { return Ok(Vec::new()) };
    let notes = due_notes(recent, hook_row, now, exclude).rev().take(limit.rows);
    let mut candidates: Vec<DeliverySeq> = notes.map(|(seq, _)| seq).collect();
    let mut is_untried = tx.prepare_cached(IS_UNTRIED)?;
    let mut index = tx.prepare_cached(NEWEST)?;
    let mut rows = index.query([hook_row])?;
    let (mut examined, mut from_index) = (0, 0);
    while examined < MAX_EXAMINED
        && from_index < limit.rows
        && let Some(row) = rows.next()?
    {
        let seq = row.get(0)?;
        if exclude.contains(&seq) {
            continue;
        }
        examined += 1;
        if is_untried.query_row(params![seq, now.0], |row| row.get(0))? {
            candidates.push(seq);
            from_index += 1;
        }
    }
    candidates.sort_unstable_by(|a, b| b.cmp(a));
    candidates.dedup();
    let (mut found, mut bytes) = (Vec::new(), 0);
    for seq in candidates {
        if found.len() >= limit.rows || bytes >= limit.bytes {
            break;
        }
        let pending = read_pending(&tx, seq, recent, &hook, held)?;
        let Some(pending) = pending.filter(|pending| pending.due <= now && pending.attempts == 0) else {
            continue;
        };
        bytes += pending.event.data.get().len();
        found.push(pending);
    }
    Ok(found)
}

/// Returns the due deliveries of a hook that have no row, in the order of acceptance.
fn due_notes<'s>(
    recent: &'s Snapshot,
    hook: i64,
    now: Millis,
    exclude: &'s FastSet<DeliverySeq>,
) -> impl DoubleEndedIterator<Item = (DeliverySeq, Unmaterialized)> + 's {
    let notes = recent.notes().iter();
    notes.filter(move |(seq, noted)| noted.hook == hook && noted.due <= now.0 && !exclude.contains(seq))
}

/// Reads a pending delivery. Its row replaces its note, which is from an older snapshot. None: it is not pending any more, or
/// its event is gone. `held`: how long its hook has been held in total, in milliseconds.
fn read_pending(
    conn: &Connection,
    seq: DeliverySeq,
    recent: &Snapshot,
    hook: &HookId,
    held: i64,
) -> rusqlite::Result<Option<PendingDelivery>> {
    let Some(noted) = recent.note(seq) else { return read_materialized(conn, seq, hook, held) };
    let has_row: bool = conn
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM deliveries WHERE seq = ?1)")?
        .query_row([seq], |row| row.get(0))?;
    if has_row {
        return read_materialized(conn, seq, hook, held);
    }
    read_unmaterialized(conn, seq, noted, hook, held)
}

/// Reads a pending delivery that has a row.
fn read_materialized(
    conn: &Connection,
    seq: DeliverySeq,
    hook: &HookId,
    held: i64,
) -> rusqlite::Result<Option<PendingDelivery>> {
    let mut pending = conn.prepare_cached(PENDING)?;
    let read = pending.query_row([seq], |row| {
        Ok(PendingDelivery {
            epoch: None,
            seq,
            id: Uuid::from_bytes(row.get(1)?),
            hook: hook.clone(),
            attempts: row.get(2)?,
            due: Millis(row.get(3)?),
            accepted: Millis(row.get(4)?),
            held: held_since(held, row.get(15)?),
            suppressed: row.get(13)?,
            replays: row.get(14)?,
            progress: row.get::<_, Option<Vec<u8>>>(16)?.unwrap_or_default(),
            event: Arc::new(event(row)?),
        })
    });
    read.optional()
}

/// Reads a delivery that has no row, only a note in its event's row.
fn read_unmaterialized(
    conn: &Connection,
    seq: DeliverySeq,
    noted: &Unmaterialized,
    hook: &HookId,
    held: i64,
) -> rusqlite::Result<Option<PendingDelivery>> {
    let mut of_event = conn.prepare_cached(EVENT)?;
    let read = of_event.query_row([sequence::event_seq(seq)], |row| {
        Ok(PendingDelivery {
            epoch: None,
            seq,
            id: Uuid::from_bytes(noted.id),
            hook: hook.clone(),
            attempts: 0,
            due: Millis(noted.due),
            accepted: Millis(row.get(4)?),
            held: held_since(held, noted.held_before),
            suppressed: 0,
            replays: 0,
            progress: Vec::new(),
            event: Arc::new(event(row)?),
        })
    });
    read.optional()
}

fn held_since(held: i64, before: i64) -> Duration {
    Duration::from_millis(u64::try_from(held.saturating_sub(before)).unwrap_or(0))
}

pub(super) const DUE: &str = "
SELECT due, seq FROM deliveries INDEXED BY deliveries_pending
WHERE state = 0 AND hook = ?1 AND due <= ?2 ORDER BY due, seq";

pub(super) const NEWEST: &str = "
SELECT seq FROM deliveries INDEXED BY deliveries_list WHERE hook = ?1 AND state = 0 ORDER BY seq DESC";

const IS_UNTRIED: &str = "SELECT attempts = attempts_before AND due <= ?2 FROM deliveries WHERE seq = ?1";

const PENDING: &str = "
SELECT d.seq, d.id, d.attempts - d.attempts_before, d.due, coalesce(d.began, e.accepted),
       e.id, e.namespace, e.origin, e.source, e.event, e.time, e.attributes, e.data,
       d.suppressed, d.replays, d.held_before, d.progress
FROM deliveries d CROSS JOIN events e ON e.seq = d.event WHERE d.seq = ?1 AND d.state = 0";

// The columns have the positions of those in PENDING.
const EVENT: &str = "
SELECT NULL, NULL, NULL, NULL, accepted, id, namespace, origin, source, event, time, attributes, data
FROM events WHERE seq = ?1";

pub(super) const NEXT_DUE: &str = "
SELECT min(d.due) FROM deliveries d INDEXED BY deliveries_pending, hooks h
WHERE h.uid = ?1 AND d.state = 0 AND d.hook = h.id AND d.due > ?2";

// One seek for each hook, instead of a scan of all deliveries.
pub(super) const BACKLOG: &str = "
SELECT h.uid, h.namespace, h.name,
       (SELECT min(d.due) FROM deliveries d INDEXED BY deliveries_pending WHERE d.state = 0 AND d.hook = h.id),
       h.id
FROM hooks h WHERE h.namespace NOT IN (SELECT place FROM ended) ORDER BY h.uid";

// One seek for each hook with a backlog.
const OLDEST: &str = "
SELECT min(coalesce(d.began, e.accepted)) FROM (
    SELECT (SELECT min(d.seq) FROM deliveries d INDEXED BY deliveries_list WHERE d.hook = h.id AND d.state = 0) AS seq
    FROM hooks h WHERE h.waiting > 0) first
CROSS JOIN deliveries d ON d.seq = first.seq CROSS JOIN events e ON e.seq = d.event";

// Bounded: each measurement reads the index entries that it counts.
const DEAD_LETTERS: &str = "
SELECT count(*) FROM (SELECT 1 FROM deliveries INDEXED BY deliveries_finished
                      WHERE state = 2 AND finished_at IS NOT NULL LIMIT 1000000)";

/// Bytes of the pending events of each hook with some: the row id of the hook, its namespace key, and the bytes.
const PENDING_BYTES: &str = "SELECT id, namespace, waiting FROM hooks WHERE waiting > 0";

pub(super) fn stats(conn: &Connection, recent: &Snapshot) -> rusqlite::Result<StoreStats> {
    let tx = conn.unchecked_transaction()?;
    let count = |sql: &str| {
        let count = tx.prepare_cached(sql)?.query_row([], |row| row.get::<_, Option<i64>>(0))?;
        Ok::<_, rusqlite::Error>(u64::try_from(count.unwrap_or(0)).unwrap_or(0))
    };
    let oldest = tx.prepare_cached(OLDEST)?.query_row([], |row| row.get::<_, Option<i64>>(0))?.map(Millis);
    let (total, largest_hook, largest_namespace) = pending_bytes(&tx, recent)?;
    Ok(StoreStats {
        pending: count("SELECT count(*) FROM deliveries INDEXED BY deliveries_pending WHERE state = 0")?
            + count("SELECT count(*) FROM candidates")?
            + recent.notes().len() as u64,
        pending_bytes: total,
        largest_hook_bytes: largest_hook,
        largest_namespace_bytes: largest_namespace,
        oldest: oldest.into_iter().chain(oldest_note(&tx, recent, None)?).min(),
        dead_letters: count(DEAD_LETTERS)?,
        file_bytes: count("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")?,
        key_memory_bytes: 0,
        memory_bytes: 0,
        owned_shards: SHARDS.into(),
    })
}

/// Returns the bytes of all pending events, and of those of the largest hook and of the largest namespace.
fn pending_bytes(conn: &Connection, recent: &Snapshot) -> rusqlite::Result<(u64, u64, u64)> {
    let mut of_hook: HashMap<i64, i64> = HashMap::new();
    for (_, noted) in recent.notes().iter() {
        *of_hook.entry(noted.hook).or_default() += noted.size;
    }
    let mut of_namespace: HashMap<String, i64> = HashMap::new();
    let mut count = |namespace: &str, bytes: i64| match of_namespace.get_mut(namespace) {
        Some(sum) => *sum += bytes,
        None => drop(of_namespace.insert(namespace.to_owned(), bytes)),
    };
    let mut largest_hook = 0;
    let mut statement = conn.prepare_cached(PENDING_BYTES)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let bytes = row.get::<_, i64>(2)? + of_hook.remove(&row.get(0)?).unwrap_or(0);
        largest_hook = largest_hook.max(bytes);
        count(row.get_ref(1)?.as_str()?, bytes);
    }
    // Hooks whose pending deliveries have no rows.
    let mut namespace = conn.prepare_cached("SELECT namespace FROM hooks WHERE id = ?1")?;
    for (hook, bytes) in of_hook {
        let found: Option<String> = namespace.query_row([hook], |row| row.get(0)).optional()?;
        largest_hook = largest_hook.max(bytes);
        count(&found.unwrap_or_default(), bytes);
    }
    let unsigned = |bytes: i64| u64::try_from(bytes).unwrap_or(0);
    let total = of_namespace.values().sum();
    let largest_namespace = of_namespace.into_values().max().unwrap_or(0);
    Ok((unsigned(total), unsigned(largest_hook), unsigned(largest_namespace)))
}

/// Returns when the oldest pending delivery without a row was accepted. `hook`: of this hook only.
fn oldest_note(conn: &Connection, recent: &Snapshot, hook: Option<i64>) -> rusqlite::Result<Option<Millis>> {
    let oldest = recent.notes().iter().find(|(_, noted)| hook.is_none_or(|hook| noted.hook == hook));
    let Some((seq, _)) = oldest else { return Ok(None) };
    conn.prepare_cached("SELECT accepted FROM events WHERE seq = ?1")?
        .query_row([sequence::event_seq(seq)], |row| row.get(0).map(Millis))
        .optional()
}

pub(super) fn hook_stats(conn: &Connection, recent: &Snapshot, uid: &str) -> rusqlite::Result<StoreStats> {
    let found = conn
        .prepare_cached(HOOK_STATS)?
        .query_row([uid], |row| {
            let count = |at| Ok::<_, rusqlite::Error>(u64::try_from(row.get::<_, i64>(at)?).unwrap_or(0));
            let stats = StoreStats {
                pending: count(0)? + count(1)?,
                pending_bytes: count(2)?,
                oldest: row.get::<_, Option<i64>>(3)?.map(Millis),
                ..StoreStats::default()
            };
            Ok((row.get(4)?, stats))
        })
        .optional()?;
    let Some((hook, mut stats)) = found else { return Ok(StoreStats::default()) };
    for (_, noted) in recent.notes().iter().filter(|(_, noted)| noted.hook == hook) {
        stats.pending += 1;
        stats.pending_bytes += noted.size.unsigned_abs();
    }
    stats.oldest = stats.oldest.into_iter().chain(oldest_note(conn, recent, Some(hook))?).min();
    Ok(stats)
}

pub(super) const HOOK_STATS: &str = "
SELECT (SELECT count(*) FROM deliveries d INDEXED BY deliveries_pending WHERE d.state = 0 AND d.hook = h.id),
       (SELECT count(*) FROM candidates c WHERE c.hook = h.id),
       h.waiting,
       (SELECT coalesce(d.began, e.accepted) FROM deliveries d INDEXED BY deliveries_list
        CROSS JOIN events e ON e.seq = d.event WHERE d.hook = h.id AND d.state = 0 ORDER BY d.seq LIMIT 1),
       h.id
FROM hooks h WHERE h.uid = ?1";

/// Reads a hook: its row id, its id, and how long it has been held in total, in milliseconds.
fn hook(conn: &Connection, uid: &str, now: Millis) -> rusqlite::Result<Option<(i64, HookId, i64)>> {
    conn.prepare_cached("SELECT id, uid, namespace, name, held, held_since FROM hooks WHERE uid = ?1")?
        .query_row([uid], |row| {
            Ok((row.get(0)?, hook_id(row, 1)?, total_held(row.get(4)?, row.get(5)?, now)))
        })
        .optional()
}

pub(super) fn next_promotion(conn: &Connection) -> rusqlite::Result<Option<Millis>> {
    conn.prepare_cached("SELECT min(due) FROM candidates")?
        .query_row([], |row| row.get::<_, Option<i64>>(0))
        .map(|due| due.map(Millis))
}

pub(super) fn next_due(
    conn: &Connection,
    recent: &Snapshot,
    uid: &str,
    after: Millis,
) -> rusqlite::Result<Option<Millis>> {
    let row = conn
        .prepare_cached(NEXT_DUE)?
        .query_row(params![uid, after.0], |row| row.get::<_, Option<i64>>(0))?;
    // Such a delivery was due when it was accepted, so this matters only after the clock went back.
    let mut later = recent.notes().iter().filter(|(_, noted)| noted.due > after.0).peekable();
    let mut noted = None;
    if later.peek().is_some() {
        let hook: Option<i64> = conn
            .prepare_cached("SELECT id FROM hooks WHERE uid = ?1")?
            .query_row([uid], |row| row.get(0))
            .optional()?;
        noted = later.filter(|(_, noted)| Some(noted.hook) == hook).map(|(_, noted)| noted.due).min();
    }
    Ok(row.into_iter().chain(noted).min().map(Millis))
}

pub(super) fn backlog(conn: &Connection, recent: &Snapshot) -> rusqlite::Result<Vec<HookBacklog>> {
    let tx = conn.unchecked_transaction()?;
    let mut earliest: HashMap<i64, i64> = HashMap::new();
    for (_, noted) in recent.notes().iter() {
        let due = earliest.entry(noted.hook).or_insert(noted.due);
        *due = noted.due.min(*due);
    }
    let mut statement = tx.prepare_cached(BACKLOG)?;
    let mut rows = statement.query([])?;
    let mut backlog = Vec::new();
    while let Some(row) = rows.next()? {
        let (materialized, noted) = (row.get::<_, Option<i64>>(3)?, earliest.get(&row.get(4)?).copied());
        if let Some(due) = materialized.into_iter().chain(noted).min() {
            backlog.push(HookBacklog { hook: hook_id(row, 0)?, next_due: Millis(due) });
        }
    }
    Ok(backlog)
}

pub(super) const HELD: &str = "
SELECT uid, namespace, name FROM hooks INDEXED BY hooks_held
WHERE held_since IS NOT NULL AND namespace NOT IN (SELECT place FROM ended) ORDER BY uid";

pub(super) fn held_hooks(conn: &Connection) -> rusqlite::Result<Vec<HookId>> {
    conn.prepare_cached(HELD)?.query_map([], |row| hook_id(row, 0))?.collect()
}
