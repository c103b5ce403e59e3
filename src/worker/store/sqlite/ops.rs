//! What the writer does to the tables, one operation at a time, inside the transaction of its group.
//!
//! Nothing here begins or commits: an operation that fails leaves half its rows behind, and the caller rolls back.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use super::super::{
    Accepted, AcceptedDelivery, Dedup, Fate, HookId, NewDelivery, NewEvent, Next, Seq, Settlement, StoreError,
};
use super::gates;
use super::memory::Memory;
use super::schema::{CANCELLED, CANDIDATE, DEAD, DELIVERED, DROPPED, PENDING};
use crate::core::event::Event;
use crate::core::gate::{Asked, Verdict};
use crate::core::time::Millis;

/// About what an event's row takes besides its data.
pub(super) const EVENT_BYTES: usize = 512;
/// The reasons after which a repeat of the event revives its delivery: the receiver was away, and may be back.
const REVIVED: [&str; 2] = ["MaxAge", "MaxAttempts"];
/// The reason of one that waits because its hook's filter fails on it.
const UNDECIDED: &str = "Undecided";
/// So many of them are made due in one operation.
const DECIDED_AT_ONCE: i64 = 1000;

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
        self.event_bytes() + 128 * self.deliveries.len()
    }

    fn event_bytes(&self) -> usize {
        EVENT_BYTES + self.event.data.get().len() + self.attributes.as_ref().map_or(0, String::len)
    }

    /// What one delivery of it takes of its hook's share.
    fn size(&self) -> i64 {
        i64::try_from(self.event_bytes()).unwrap_or(i64::MAX)
    }
}

pub(super) fn accept(
    conn: &Connection,
    memory: &mut Memory,
    rows: &[Row],
    now: Millis,
    promotions: usize,
) -> rusqlite::Result<Result<Vec<Accepted>, StoreError>> {
    // With nobody to tell what woke, nothing is woken.
    if rows.is_empty() {
        return Ok(Ok(Vec::new()));
    }
    // Before anything is written: a refusal must leave nothing behind, and must not make the group begin again.
    if over_share(conn, memory, rows, now)? {
        return Ok(Err(StoreError::NamespaceFull));
    }
    let promoted = gates::promote(conn, memory, now, promotions)?;
    let mut accepted =
        rows.iter().map(|row| accept_one(conn, memory, row, now)).collect::<rusqlite::Result<Vec<_>>>()?;
    if let Some(first) = accepted.first_mut() {
        first.woken.extend(promoted);
    }
    Ok(Ok(accepted))
}

/// True where a namespace has no room for these events. What a gate may drop counts too: a full namespace is full.
fn over_share(conn: &Connection, memory: &mut Memory, rows: &[Row], now: Millis) -> rusqlite::Result<bool> {
    if memory.shares.namespace_bytes == u64::MAX {
        return Ok(false);
    }
    // The usual case, without a map: one event for one hook.
    if let [row] = rows
        && let [delivery] = row.deliveries.as_slice()
        && (delivery.dead.is_some() || !memory.namespace_full(conn, &delivery.hook.namespace, row.size())?)
    {
        return Ok(false);
    }
    if !no_room(conn, memory, rows.iter())? {
        return Ok(false);
    }
    // A duplicate takes no room: its sender hears what it heard before.
    let mut fresh = Vec::new();
    for row in rows {
        match &row.dedup {
            Some(dedup) if first_of(conn, memory, row, dedup, now)?.is_some() => {}
            _ => fresh.push(row),
        }
    }
    no_room(conn, memory, fresh.into_iter())
}

fn no_room<'r>(
    conn: &Connection,
    memory: &mut Memory,
    rows: impl Iterator<Item = &'r Row>,
) -> rusqlite::Result<bool> {
    let mut more: HashMap<&Arc<str>, i64> = HashMap::new();
    for row in rows {
        for delivery in row.deliveries.iter().filter(|d| d.dead.is_none()) {
            let bytes = more.entry(&delivery.hook.namespace).or_default();
            *bytes = bytes.saturating_add(row.size());
        }
    }
    for (namespace, bytes) in more {
        if memory.namespace_full(conn, namespace, bytes)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn accept_one(conn: &Connection, memory: &mut Memory, row: &Row, now: Millis) -> rusqlite::Result<Accepted> {
    if let Some(dedup) = &row.dedup
        && let Some((seq, event_id)) = first_of(conn, memory, row, dedup, now)?
    {
        return duplicate(conn, memory, seq, event_id, now);
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
        memory.places.of(conn, &event.namespace)?,
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
        deliveries.push(deliver(conn, memory, seq, row.size(), delivery, now)?);
    }
    if deliveries.is_empty() {
        // No delivery will ever lead retention to it.
        conn.prepare_cached("INSERT INTO loose (accepted, event, kept_until) VALUES (?1, ?2, ?3)")?
            .execute(params![now.0, seq, expires.unwrap_or_default().0])?;
    }
    Ok(Accepted { seq, event_id: event.id.clone(), duplicate: false, deliveries, woken: Vec::new() })
}

/// How a delivery begins.
struct Start {
    state: i64,
    due: Millis,
    reason: Option<&'static str>,
    suppressed: u32,
}

/// Stores a delivery as its hook's gates and share say.
fn deliver(
    conn: &Connection,
    memory: &mut Memory,
    event: Seq,
    size: i64,
    new: &NewDelivery,
    now: Millis,
) -> rusqlite::Result<AcceptedDelivery> {
    let hook = memory.number(conn, &new.hook)?;
    let start = |state, due, reason| Start { state, due, reason, suppressed: 0 };
    let dead = |reason| start(DEAD, new.due, Some(reason));
    let dropped = |reason| start(DROPPED, new.due, Some(reason));
    if let Some(reason) = new.dead {
        return insert(conn, memory, event, hook, size, new, &dead(reason), now);
    }
    if new.asked == Asked::default() {
        let start = match memory.hook_full(conn, hook, size)? {
            true => dead("BacklogFull"),
            false => start(PENDING, new.due, None),
        };
        return insert(conn, memory, event, hook, size, new, &start, now);
    }
    let ruling = gates::ask(conn, hook, &new.asked, now)?;
    match ruling.verdict {
        Verdict::Unchanged => {
            gates::unchanged(conn, memory, hook, &new.asked, now)?;
            insert(conn, memory, event, hook, size, new, &dropped("Unchanged"), now)
        }
        Verdict::Snoozed { candidate: false, .. } => {
            gates::snoozed(conn, hook, &new.asked, now)?;
            insert(conn, memory, event, hook, size, new, &dropped("Snoozed"), now)
        }
        // It dies at once, so it sets no memory: the next event must not be compared with what nobody got.
        _ if memory.hook_full(conn, hook, size)? => {
            insert(conn, memory, event, hook, size, new, &dead("BacklogFull"), now)
        }
        Verdict::Snoozed { candidate: true, until } => {
            let start = start(CANDIDATE, until, None);
            let stored = insert(conn, memory, event, hook, size, new, &start, now)?;
            gates::nominate(conn, memory, hook, &new.asked, stored.seq, until, now)?;
            Ok(stored)
        }
        Verdict::Deliver => {
            let suppressed = gates::overtake(conn, memory, hook, &new.asked, &ruling, now)?;
            let start = Start { suppressed, ..start(PENDING, new.due, None) };
            let stored = insert(conn, memory, event, hook, size, new, &start, now)?;
            gates::remember(conn, memory, hook, &new.asked, &ruling, stored.seq, now)?;
            Ok(stored)
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "a row's columns")]
fn insert(
    conn: &Connection,
    memory: &mut Memory,
    event: Seq,
    hook: i64,
    size: i64,
    new: &NewDelivery,
    start: &Start,
    now: Millis,
) -> rusqlite::Result<AcceptedDelivery> {
    let (waits, fate) = match start.state {
        PENDING => (true, Fate::Pending { due: start.due, suppressed: start.suppressed }),
        CANDIDATE => (true, Fate::Candidate { due: start.due }),
        DROPPED => (false, Fate::Dropped),
        _ => (false, Fate::Dead),
    };
    let held_before = memory.hook(conn, hook)?.held(now);
    conn.prepare_cached(
        "INSERT INTO deliveries (event, hook, id, state, attempts, due, finished_at, reason, size, suppressed, held_before)
         VALUES (?1, ?2, ?3, ?4, 0, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        event,
        hook,
        new.id.as_bytes(),
        start.state,
        start.due.0,
        (!waits).then_some(now.0),
        start.reason,
        if waits { size } else { -size },
        start.suppressed,
        held_before,
    ])?;
    let seq = conn.last_insert_rowid();
    memory.count(conn, hook, if waits { size } else { 0 })?;
    Ok(AcceptedDelivery { seq, fate })
}

/// The event that was accepted under this key within its window.
fn first_of(
    conn: &Connection,
    memory: &mut Memory,
    row: &Row,
    dedup: &Dedup,
    now: Millis,
) -> rusqlite::Result<Option<(Seq, String)>> {
    conn.prepare_cached(
        "SELECT e.seq, e.id FROM dedup d CROSS JOIN events e ON e.seq = d.event
         WHERE d.key = ?1 AND d.expires > ?2 AND e.namespace = ?3",
    )?
    .query_row(params![dedup.key, now.0, memory.places.of(conn, &row.event.namespace)?], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })
    .optional()
}

/// What a repeat of an event is told; it revives what died because the receiver was away.
fn duplicate(
    conn: &Connection,
    memory: &mut Memory,
    event: Seq,
    event_id: String,
    now: Millis,
) -> rusqlite::Result<Accepted> {
    type Found = (Seq, i64, i64, u32, Option<String>, i64, i64);
    let found = conn
        .prepare_cached(
            "SELECT seq, state, due, suppressed, reason, hook, size FROM deliveries WHERE event = ?1 ORDER BY seq",
        )?
        .query_map([event], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?))
        })?
        .collect::<rusqlite::Result<Vec<Found>>>()?;
    let mut deliveries = Vec::with_capacity(found.len());
    let mut woken: Vec<HookId> = Vec::new();
    for (seq, state, due, suppressed, reason, hook, size) in found {
        let due = Millis(due);
        let fate = match state {
            PENDING => Fate::Pending { due, suppressed },
            CANDIDATE => Fate::Candidate { due },
            DROPPED => Fate::Dropped,
            DEAD if reason.is_some_and(|r| REVIVED.contains(&r.as_str()))
                && !full(conn, memory, hook, size)? =>
            {
                raise(conn, memory, seq, false, now)?;
                woken.push(memory.hook(conn, hook)?.id.clone());
                Fate::Pending { due: now, suppressed }
            }
            DEAD => Fate::Dead,
            _ => Fate::Ended,
        };
        deliveries.push(AcceptedDelivery { seq, fate });
    }
    Ok(Accepted { seq: event, event_id, duplicate: true, deliveries, woken })
}

/// True where there is no room to wait, for its hook or in its namespace.
fn full(conn: &Connection, memory: &mut Memory, hook: i64, size: i64) -> rusqlite::Result<bool> {
    let namespace = memory.hook(conn, hook)?.id.namespace.clone();
    Ok(memory.hook_full(conn, hook, size.abs())? || memory.namespace_full(conn, &namespace, size.abs())?)
}

pub(super) fn settle(
    conn: &Connection,
    memory: &mut Memory,
    settlement: &Settlement,
) -> rusqlite::Result<bool> {
    let ended = settlement.at;
    let (state, reason, due, finished) = match settlement.next {
        Next::Delivered => (DELIVERED, None, None, Some(ended.0)),
        Next::Retry { due } => (PENDING, None, Some(due.0), None),
        Next::Dead { reason } => (DEAD, Some(reason), None, Some(ended.0)),
    };
    let made = i64::from(settlement.attempt.is_some());
    // Put off without an attempt: nobody knows whether it is wanted, and until it is decided it does not age.
    let put_off = due.filter(|_| settlement.attempt.is_none()).map(|due| due.saturating_sub(ended.0).max(0));
    let reason = reason.or(put_off.map(|_| UNDECIDED));
    // Only while it is pending: an answer that comes late must not raise what is finished.
    let found: Option<(i64, i64, i64)> = conn
        .prepare_cached(
            "UPDATE deliveries SET state = ?2, reason = ?3, due = coalesce(?4, due), finished_at = ?5,
                    attempts = attempts + ?6, size = iif(?5 IS NULL, size, -abs(size)),
                    held_before = held_before - ?7
             WHERE seq = ?1 AND state = 0 RETURNING attempts, hook, size",
        )?
        .query_row(
            params![settlement.delivery, state, reason, due, finished, made, put_off.unwrap_or(0)],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .optional()?;
    let Some((n, hook, size)) = found else { return Ok(false) };
    if let Some(attempt) = &settlement.attempt {
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
    if finished.is_some() {
        memory.count(conn, hook, size)?;
    }
    match settlement.next {
        Next::Dead { .. } => gates::forget(conn, memory, settlement.delivery, ended),
        Next::Delivered | Next::Retry { .. } => Ok(false),
    }
}

/// Makes a finished delivery pending again, attempts and age starting anew. False: it is pending, or gone.
pub(super) fn raise(
    conn: &Connection,
    memory: &mut Memory,
    delivery: Seq,
    replayed: bool,
    now: Millis,
) -> rusqlite::Result<bool> {
    let finished: Option<(i64, i64)> = conn
        .prepare_cached(
            "SELECT hook, size FROM deliveries WHERE seq = ?1 AND finished_at IS NOT NULL AND state NOT IN (0, 5)",
        )?
        .query_row([delivery], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((hook, size)) = finished else { return Ok(false) };
    let held = memory.hook(conn, hook)?.held(now);
    conn.prepare_cached(
        "UPDATE deliveries SET state = ?2, reason = NULL, due = ?3, finished_at = NULL, began = ?3,
                attempts_before = attempts, held_before = ?4, replays = replays + ?5, size = abs(size)
         WHERE seq = ?1",
    )?
    .execute(params![delivery, PENDING, now.0, held, i64::from(replayed)])?;
    // One that is above zero was settled by a program that does not count: it is in the count still.
    memory.count(conn, hook, (-size).max(0))?;
    gates::disown(conn, delivery)?;
    Ok(true)
}

/// A delivery of a hook in this namespace: its number, its state, its hook.
fn find(
    conn: &Connection,
    memory: &mut Memory,
    namespace: &str,
    id: Uuid,
) -> rusqlite::Result<Option<(Seq, i64, i64)>> {
    conn.prepare_cached(
        "SELECT d.seq, d.state, d.hook FROM deliveries d CROSS JOIN hooks h ON h.id = d.hook
         WHERE d.id = ?1 AND h.namespace = ?2",
    )?
    .query_row(params![id.as_bytes(), memory.places.of(conn, namespace)?], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
    })
    .optional()
}

pub(super) fn replay(
    conn: &Connection,
    memory: &mut Memory,
    namespace: &str,
    id: Uuid,
    now: Millis,
) -> rusqlite::Result<Option<HookId>> {
    let Some((seq, _, hook)) = find(conn, memory, namespace, id)? else { return Ok(None) };
    raise(conn, memory, seq, true, now)?;
    Ok(Some(memory.hook(conn, hook)?.id.clone()))
}

pub(super) fn cancel(
    conn: &Connection,
    memory: &mut Memory,
    namespace: &str,
    id: Uuid,
    now: Millis,
) -> rusqlite::Result<Option<HookId>> {
    let Some((seq, state, hook)) = find(conn, memory, namespace, id)? else { return Ok(None) };
    if state == PENDING || state == CANDIDATE {
        let size: i64 = conn
            .prepare_cached(
                "UPDATE deliveries SET state = ?2, reason = NULL, finished_at = ?3, size = -abs(size)
                 WHERE seq = ?1 RETURNING size",
            )?
            .query_row(params![seq, CANCELLED, now.0], |row| row.get(0))?;
        memory.count(conn, hook, size)?;
        if state == CANDIDATE {
            gates::withdraw(conn, memory, seq)?;
        }
        gates::forget(conn, memory, seq, now)?;
    }
    Ok(Some(memory.hook(conn, hook)?.id.clone()))
}

pub(super) fn set_held(
    conn: &Connection,
    memory: &mut Memory,
    hook: &HookId,
    held: bool,
    now: Millis,
) -> rusqlite::Result<()> {
    // One that is not held and has no row needs none.
    let number = if held { Some(memory.number(conn, hook)?) } else { memory.find(conn, &hook.uid)? };
    number.map_or(Ok(()), |number| memory.hold(conn, number, held, now))
}

/// Makes due what was put off without an attempt; at most so many rows at a time. True: there are more.
pub(super) fn decide_again(
    conn: &Connection,
    memory: &mut Memory,
    uid: &Arc<str>,
    now: Millis,
) -> rusqlite::Result<bool> {
    let Some(hook) = memory.find(conn, uid)? else { return Ok(false) };
    let changed = conn
        .prepare_cached(
            "UPDATE deliveries SET held_before = held_before + due - ?2, due = ?2 WHERE seq IN
             (SELECT seq FROM deliveries WHERE hook = ?1 AND state = 0 AND due > ?2 AND reason = ?3 LIMIT ?4)",
        )?
        .execute(params![hook, now.0, UNDECIDED, DECIDED_AT_ONCE])?;
    Ok(i64::try_from(changed).is_ok_and(|changed| changed == DECIDED_AT_ONCE))
}

/// Gives what waits for one hook to another; at most so many rows at a time. True: there are more.
pub(super) fn take_up(
    conn: &Connection,
    memory: &mut Memory,
    (from, to): (&HookId, &HookId),
    now: Millis,
    rows: i64,
) -> rusqlite::Result<bool> {
    if from.uid == to.uid {
        return Ok(false);
    }
    let Some(old) = memory.find(conn, &from.uid)? else { return Ok(false) };
    memory.hold(conn, old, false, now)?;
    if gates::dissolve(conn, memory, old, rows)? {
        return Ok(true);
    }
    let Some(new) = memory.find(conn, &to.uid)? else {
        // Nothing is the new one's yet: the row changes its owner, whatever waits.
        memory.rename(conn, old, to)?;
        return Ok(false);
    };
    let moved = conn
        .prepare_cached(
            "SELECT seq, size FROM deliveries INDEXED BY deliveries_pending
             WHERE state = 0 AND hook = ?1 ORDER BY due, seq LIMIT ?2",
        )?
        .query_map(params![old, rows], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<Vec<(Seq, i64)>>>()?;
    // For how long each was held stays what it was.
    let shift = memory.hook(conn, new)?.held(now).saturating_sub(memory.hook(conn, old)?.held(now));
    for (seq, size) in &moved {
        conn.prepare_cached(
            "UPDATE deliveries SET hook = ?2, held_before = held_before + ?3 WHERE seq = ?1",
        )?
        .execute(params![seq, new, shift])?;
        memory.count(conn, old, -size)?;
        memory.count(conn, new, *size)?;
    }
    Ok(i64::try_from(moved.len()).unwrap_or(i64::MAX) >= rows)
}
