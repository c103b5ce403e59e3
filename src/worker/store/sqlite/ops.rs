//! What the writer does to the tables, one operation at a time, inside the transaction of its group. (`accept` has a file
//! of its own.)
//!
//! Nothing here begins or commits: an operation that fails leaves half its rows behind, and the caller rolls back.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use super::super::{Attempt, HookId, Next, Seq, Settlement};
use super::filing;
use super::gates;
use super::memory::Memory;
use super::schema::{CANCELLED, CANDIDATE, DEAD, DELIVERED, PENDING};
use crate::core::time::Millis;

/// The reason of one that waits because its hook's filter fails on it.
const UNDECIDED: &str = "Undecided";
/// So many of them are made due in one operation.
const DECIDED_AT_ONCE: i64 = 1000;

pub(super) fn settle(
    conn: &Connection,
    memory: &mut Memory,
    settlement: &Settlement,
) -> rusqlite::Result<bool> {
    let seq = settlement.delivery;
    if let Some(unfiled) = memory.take_back(conn, seq)? {
        // The usual case in one statement.
        if let Some(attempt @ Attempt { error: None, detail: None, .. }) = &settlement.attempt
            && settlement.next == Next::Delivered
        {
            return filing::file_delivered(conn, seq, &unfiled, settlement, attempt).map(|()| false);
        }
        filing::file(conn, memory, seq, &unfiled)?;
    }
    // Only while it is pending: an answer that comes late must not raise what is finished. Read first and then written, for
    // with RETURNING SQLite copies every page before it changes it, and writes what it returns to a table of its own.
    let found: Option<(i64, i64, i64)> = conn
        .prepare_cached("SELECT attempts, hook, size FROM deliveries WHERE seq = ?1 AND state = 0")?
        .query_row([settlement.delivery], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((attempts, hook, size)) = found else { return Ok(false) };
    match &settlement.attempt {
        Some(attempt @ Attempt { error: None, detail: None, .. })
            if attempts == 0 && settlement.next == Next::Delivered =>
        {
            deliver_at_once(conn, settlement, attempt)?;
        }
        _ => note(conn, settlement, attempts)?,
    }
    if !matches!(settlement.next, Next::Retry { .. }) {
        memory.count(conn, hook, -size.abs())?;
    }
    match settlement.next {
        Next::Dead { .. } => gates::forget(conn, memory, settlement.delivery, settlement.at),
        Next::Delivered | Next::Retry { .. } => Ok(false),
    }
}

/// The first attempt delivered, and needs no row of its own.
fn deliver_at_once(conn: &Connection, settlement: &Settlement, attempt: &Attempt) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "UPDATE deliveries SET state = 1, reason = NULL, finished_at = ?2, attempts = 1, size = -abs(size),
                first_at = ?3, first_micros = ?4, first_status = ?5
         WHERE seq = ?1",
    )?
    .execute(params![
        settlement.delivery,
        settlement.at.0,
        attempt.at.0,
        micros(attempt),
        attempt.status
    ])?;
    Ok(())
}

/// Every other case.
fn note(conn: &Connection, settlement: &Settlement, attempts: i64) -> rusqlite::Result<()> {
    let ended = settlement.at;
    let (state, reason, due, finished) = match settlement.next {
        Next::Delivered => (DELIVERED, None, None, Some(ended.0)),
        Next::Retry { due } => (PENDING, None, Some(due.0), None),
        Next::Dead { reason } => (DEAD, Some(reason), None, Some(ended.0)),
    };
    // Put off without an attempt: nobody knows whether it is wanted, and until it is decided it does not age.
    let put_off = due.filter(|_| settlement.attempt.is_none()).map(|due| due.saturating_sub(ended.0).max(0));
    let reason = reason.or(put_off.map(|_| UNDECIDED));
    let n = attempts + i64::from(settlement.attempt.is_some());
    conn.prepare_cached(
        "UPDATE deliveries SET state = ?2, reason = ?3, due = coalesce(?4, due), finished_at = ?5, attempts = ?6,
                size = iif(?5 IS NULL, size, -abs(size)), held_before = held_before - ?7,
                progress = iif(?2 = 1, NULL, coalesce(?8, progress))
         WHERE seq = ?1",
    )?
    .execute(params![
        settlement.delivery,
        state,
        reason,
        due,
        finished,
        n,
        put_off.unwrap_or(0),
        settlement.progress
    ])?;
    if let Some(attempt) = &settlement.attempt {
        conn.prepare_cached(
            "INSERT INTO attempts (delivery, n, at, micros, status, error, detail)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            settlement.delivery,
            n,
            attempt.at.0,
            micros(attempt),
            attempt.status,
            attempt.error,
            attempt.detail,
        ])?;
    }
    Ok(())
}

pub(super) fn micros(attempt: &Attempt) -> i64 {
    i64::try_from(attempt.duration.as_micros()).unwrap_or(i64::MAX)
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
