//! What an accept does to the tables: the event once, its deliveries as gates and shares say, its idempotency key.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::super::{Accepted, AcceptedDelivery, Dedup, Fate, HookId, NewDelivery, NewEvent, Seq, StoreError};
use super::filing::{self, Unfiled};
use super::gates;
use super::memory::Memory;
use super::numbers;
use super::ops::raise;
use super::schema::{CANDIDATE, DEAD, DROPPED, PENDING};
use crate::core::gate::{Asked, Verdict};
use crate::core::time::Millis;

/// About what an event's row takes besides its data.
pub(super) const EVENT_BYTES: usize = 512;
/// The reasons after which a repeat of the event revives its delivery: the receiver was away, and may be back.
const REVIVED: [&str; 2] = ["MaxAge", "MaxAttempts"];
/// An event made ready for its row, off the writer's thread.
pub(super) struct Row {
    pub(super) new: NewEvent,
    origin: String,
    attributes: Option<String>,
    /// No two deliveries have one id. Else their rows refuse them at once, and not when they are filed.
    distinct: bool,
}

impl Row {
    pub(super) fn new(new: NewEvent) -> Result<Self, serde_json::Error> {
        let attributes = match new.event.attributes.is_empty() {
            true => None,
            false => Some(serde_json::to_string(&new.event.attributes)?),
        };
        let distinct = match new.deliveries.as_slice() {
            [] | [_] => true,
            many => many.iter().map(|delivery| delivery.id).collect::<HashSet<_>>().len() == many.len(),
        };
        Ok(Row { origin: new.event.origin.to_string(), new, attributes, distinct })
    }

    /// About what it takes in memory and in the log.
    pub(super) fn bytes(&self) -> usize {
        self.event_bytes() + 128 * self.new.deliveries.len()
    }

    fn event_bytes(&self) -> usize {
        EVENT_BYTES + self.new.event.data.get().len() + self.attributes.as_ref().map_or(0, String::len)
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
    if over_hook_share(conn, memory, rows, now)? {
        return Ok(Err(StoreError::HookFull));
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
        && let [delivery] = row.new.deliveries.as_slice()
        && (delivery.dead.is_some() || !memory.namespace_full(conn, &delivery.hook.namespace, row.size())?)
    {
        return Ok(false);
    }
    if !no_room(conn, memory, rows.iter())? {
        return Ok(false);
    }
    let mut fresh = Vec::new();
    for row in rows {
        if !is_duplicate(conn, memory, row, now)? {
            fresh.push(row);
        }
    }
    no_room(conn, memory, fresh.into_iter())
}

/// True where a hook has no room for what its sender will bring again. What a gate may drop counts too.
fn over_hook_share(
    conn: &Connection,
    memory: &mut Memory,
    rows: &[Row],
    now: Millis,
) -> rusqlite::Result<bool> {
    for row in rows.iter().filter(|row| row.new.event.origin.comes_again()) {
        for delivery in row.new.deliveries.iter().filter(|delivery| delivery.dead.is_none()) {
            // A hook that the store does not know has nothing that waits.
            let Some(hook) = memory.find(conn, &delivery.hook.uid)? else { continue };
            if memory.hook_full(conn, hook, row.size())? && !is_duplicate(conn, memory, row, now)? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// A duplicate takes no room: its sender hears what it heard before.
fn is_duplicate(conn: &Connection, memory: &mut Memory, row: &Row, now: Millis) -> rusqlite::Result<bool> {
    let Some(dedup) = &row.new.dedup else { return Ok(false) };
    first_of(conn, memory, row, dedup, now).map(|first| first.is_some())
}

fn no_room<'r>(
    conn: &Connection,
    memory: &mut Memory,
    rows: impl Iterator<Item = &'r Row>,
) -> rusqlite::Result<bool> {
    let mut more: HashMap<&Arc<str>, i64> = HashMap::new();
    for row in rows {
        for delivery in row.new.deliveries.iter().filter(|d| d.dead.is_none()) {
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
    if let Some(dedup) = &row.new.dedup
        && let Some((seq, event_id)) = first_of(conn, memory, row, dedup, now)?
    {
        return duplicate(conn, memory, row, seq, event_id, now);
    }
    let expires = row.new.dedup.as_ref().map(|dedup| now + dedup.window);
    let (event, seq) = (&row.new.event, memory.filing(conn)?.next_event());
    let (mut handed, mut deliveries) = (Vec::new(), Vec::with_capacity(row.new.deliveries.len()));
    for (before, delivery) in row.new.deliveries.iter().enumerate() {
        let notes = row.distinct.then_some(&mut handed);
        deliveries.push(deliver(conn, memory, numbers::delivery(seq, before), row, delivery, notes, now)?);
    }
    conn.prepare_cached(
        "INSERT INTO events (seq, accepted, kept_until, id, namespace, origin, source, event, time, handed, attributes, data)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
    )?
    .execute(params![
        seq,
        now.0,
        expires.unwrap_or_default().0,
        event.id,
        memory.places.of(conn, &event.namespace)?,
        row.origin,
        event.source,
        event.event,
        event.time,
        (!handed.is_empty()).then_some(handed),
        row.attributes,
        event.data.get(),
    ])?;
    if let (Some(dedup), Some(expires)) = (&row.new.dedup, expires) {
        // Replaces only a key out of its window: `first_of` found no other.
        conn.prepare_cached("INSERT OR REPLACE INTO dedup (key, expires, event) VALUES (?1, ?2, ?3)")?
            .execute(params![dedup.key, expires.0, seq])?;
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

/// Stores a delivery as its hook's gates and share say. One that is to be sent at once and asks no gate is only noted, where
/// it may be: with its event (see `filing`).
fn deliver(
    conn: &Connection,
    memory: &mut Memory,
    seq: Seq,
    row: &Row,
    new: &NewDelivery,
    notes: Option<&mut Vec<u8>>,
    now: Millis,
) -> rusqlite::Result<AcceptedDelivery> {
    let (hook, size) = (memory.number(conn, &new.hook)?, row.size());
    let start = |state, due, reason| Start { state, due, reason, suppressed: 0 };
    let dead = |reason| start(DEAD, new.due, Some(reason));
    let dropped = |reason| start(DROPPED, new.due, Some(reason));
    if let Some(reason) = new.dead {
        return insert(conn, memory, seq, hook, size, new, &dead(reason), now);
    }
    if new.asked == Asked::default() {
        if memory.hook_full(conn, hook, size)? {
            return insert(conn, memory, seq, hook, size, new, &dead("BacklogFull"), now);
        }
        let Some(handed) = notes.filter(|_| new.due <= now) else {
            return insert(conn, memory, seq, hook, size, new, &start(PENDING, new.due, None), now);
        };
        let held_before = memory.hook(conn, hook)?.held(now);
        let unfiled = Unfiled { hook, id: *new.id.as_bytes(), due: new.due.0, held_before, size };
        unfiled.note(seq, handed);
        memory.hand_over(conn, seq, unfiled)?;
        return Ok(AcceptedDelivery { seq, fate: Fate::Pending { due: new.due, suppressed: 0 } });
    }
    let ruling = gates::ask(conn, hook, &new.asked, now)?;
    match ruling.verdict {
        Verdict::Unchanged => {
            gates::unchanged(conn, memory, hook, &new.asked, now)?;
            insert(conn, memory, seq, hook, size, new, &dropped("Unchanged"), now)
        }
        Verdict::Snoozed { candidate: false, .. } => {
            gates::snoozed(conn, hook, &new.asked, now)?;
            insert(conn, memory, seq, hook, size, new, &dropped("Snoozed"), now)
        }
        // It dies at once, so it sets no memory: the next event must not be compared with what nobody got.
        _ if memory.hook_full(conn, hook, size)? => {
            insert(conn, memory, seq, hook, size, new, &dead("BacklogFull"), now)
        }
        Verdict::Snoozed { candidate: true, until } => {
            let start = start(CANDIDATE, until, None);
            let stored = insert(conn, memory, seq, hook, size, new, &start, now)?;
            gates::nominate(conn, memory, hook, &new.asked, stored.seq, until, now)?;
            Ok(stored)
        }
        Verdict::Deliver => {
            let suppressed = gates::overtake(conn, memory, hook, &new.asked, &ruling, now)?;
            let start = Start { suppressed, ..start(PENDING, new.due, None) };
            let stored = insert(conn, memory, seq, hook, size, new, &start, now)?;
            gates::remember(conn, memory, hook, &new.asked, &ruling, stored.seq, now)?;
            Ok(stored)
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "a row's columns")]
fn insert(
    conn: &Connection,
    memory: &mut Memory,
    seq: Seq,
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
        "INSERT INTO deliveries (seq, hook, id, state, attempts, due, finished_at, reason, size, suppressed, held_before)
         VALUES (?1, ?2, ?3, ?4, 0, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        seq,
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
    .query_row(params![dedup.key, now.0, memory.places.of(conn, &row.new.event.namespace)?], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })
    .optional()
}

/// What a repeat of an event is told; it revives what died because the receiver was away, where the hook is still there.
fn duplicate(
    conn: &Connection,
    memory: &mut Memory,
    row: &Row,
    event: Seq,
    event_id: String,
    now: Millis,
) -> rusqlite::Result<Accepted> {
    type Found = (Seq, i64, i64, u32, Option<String>, i64, i64);
    filing::file_event(conn, memory, event)?;
    let found = conn
        .prepare_cached(
            "SELECT seq, state, due, suppressed, reason, hook, size FROM deliveries WHERE seq BETWEEN ?1 AND ?2
             ORDER BY seq",
        )?
        .query_map([numbers::first(event), numbers::last(event)], |row| {
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
            DEAD if reason.is_some_and(|r| REVIVED.contains(&r.as_str())) => {
                let id = memory.hook(conn, hook)?.id.clone();
                // A hook that is gone, or wants it no more, is not among those that the repeat is for.
                let wanted = row.new.deliveries.iter().any(|delivery| delivery.hook.uid == id.uid);
                if wanted && !full(conn, memory, hook, size)? {
                    raise(conn, memory, seq, false, now)?;
                    woken.push(id);
                    Fate::Pending { due: now, suppressed }
                } else {
                    Fate::Dead
                }
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
