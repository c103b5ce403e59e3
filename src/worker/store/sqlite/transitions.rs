//! State transitions of deliveries after acceptance: settle, replay, cancel, hold, transfer.
//!
//! The functions run inside the transaction of a group and neither begin nor commit. A failed one leaves partial changes,
//! and its caller rolls back.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use super::super::ids;
use super::super::{AttemptRecord, DeliverySeq, ExchangeChange, HookId, NextStep, Settlement};
use super::cache::WriterCache;
use super::gates;
use super::hook_rows;
use super::materialize;
use super::outcomes::Outcome;
use super::rows;
use super::schema::{CANCELLED, CANDIDATE, DEAD, DELIVERED, PENDING};
use crate::core::delivery_reason::DeliveryReason;
use crate::core::time::Millis;

/// The reason of a pending delivery whose hook's filter could not be evaluated.
const UNDECIDED: DeliveryReason = DeliveryReason::Undecided;
/// The most `Undecided` deliveries that one operation reschedules.
const RESCHEDULE_BATCH: i64 = 1000;

/// Records the outcome of an attempt. True: another delivery of the hook became due.
pub(super) fn settle(
    conn: &Connection,
    cache: &mut WriterCache,
    settlement: &Settlement,
) -> rusqlite::Result<bool> {
    let seq = settlement.delivery;
    if let Some((noted, namespace)) = cache.take_unmaterialized(conn, seq)? {
        // The usual case writes no row.
        if let Some(attempt @ AttemptRecord { error: None, detail: None, .. }) = &settlement.attempt
            && settlement.next == NextStep::Delivered
        {
            // A kept response refers to a row.
            let is_plain = !matches!(settlement.exchange, ExchangeChange::Replace(_));
            let outcome = Outcome::new(seq, (&noted, namespace), settlement, attempt).filter(|_| is_plain);
            if outcome.is_some_and(|outcome| cache.outcomes.insert(outcome)) {
                return Ok(false);
            }
            return materialize::materialize_delivered(conn, seq, (&noted, namespace), settlement, attempt)
                .map(|()| false);
        }
        materialize::materialize_pending(conn, cache, seq, (&noted, namespace))?;
    }
    // Only while the delivery is pending, because a late outcome must not change a finished one. SELECT and then
    // UPDATE: with RETURNING, SQLite copies every page before it changes it, and writes the returned rows to a
    // temporary table.
    let found: Option<(i64, i64, i64)> = conn
        .prepare_cached("SELECT attempts, hook, size FROM deliveries WHERE seq = ?1 AND state = 0")?
        .query_row([settlement.delivery], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((attempts, hook, size)) = found else { return Ok(false) };
    match &settlement.attempt {
        Some(attempt @ AttemptRecord { error: None, detail: None, .. })
            if attempts == 0 && settlement.next == NextStep::Delivered =>
        {
            update_delivered_at_once(conn, settlement, attempt)?;
        }
        _ => update_delivery(conn, settlement, attempts)?,
    }
    if !matches!(settlement.next, NextStep::Retry { .. }) {
        cache.count(conn, hook, -size.abs())?;
    }
    match settlement.next {
        NextStep::Dead { .. } => gates::clear_memory_of(conn, cache, settlement.delivery, settlement.at),
        NextStep::Delivered | NextStep::Retry { .. } => Ok(false),
    }
}

/// Updates a delivery that its first attempt delivered. That attempt gets no row of its own.
fn update_delivered_at_once(
    conn: &Connection,
    settlement: &Settlement,
    attempt: &AttemptRecord,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "UPDATE deliveries SET state = 1, reason = NULL, finished_at = ?2, attempts = 1, size = -abs(size),
                first_at = ?3, first_micros = ?4, first_status = ?5
         WHERE seq = ?1",
    )?
    .execute(params![
        settlement.delivery,
        settlement.at.0,
        attempt.at.0,
        rows::micros(attempt),
        attempt.status
    ])?;
    Ok(())
}

/// Updates a delivery in every other case, and inserts the row of the attempt.
fn update_delivery(conn: &Connection, settlement: &Settlement, attempts: i64) -> rusqlite::Result<()> {
    let at = settlement.at;
    let (state, reason, due, finished) = match settlement.next {
        NextStep::Delivered => (DELIVERED, None, None, Some(at.0)),
        NextStep::Retry { due } => (PENDING, None, Some(due.0), None),
        NextStep::Dead { reason } => (DEAD, Some(reason), None, Some(at.0)),
    };
    // A retry without an attempt: the filter could not be evaluated.
    let reason = reason.or(due.filter(|_| settlement.attempt.is_none()).map(|_| UNDECIDED));
    let n = attempts + i64::from(settlement.attempt.is_some());
    conn.prepare_cached(
        "UPDATE deliveries SET state = ?2, reason = ?3, due = coalesce(?4, due), finished_at = ?5, attempts = ?6,
                size = iif(?5 IS NULL, size, -abs(size)), progress = iif(?2 = 1, NULL, coalesce(?7, progress))
         WHERE seq = ?1",
    )?
    .execute(params![
        settlement.delivery,
        state,
        reason.map(DeliveryReason::as_str),
        due,
        finished,
        n,
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
            rows::micros(attempt),
            attempt.status,
            attempt.error,
            attempt.detail,
        ])?;
    }
    Ok(())
}

/// Makes a finished delivery pending again and resets its attempts and its age. False: it is pending, or does not exist.
pub(super) fn make_pending(
    conn: &Connection,
    cache: &mut WriterCache,
    delivery: DeliverySeq,
    replayed: bool,
    now: Millis,
) -> rusqlite::Result<bool> {
    let finished: Option<(i64, i64)> = conn
        .prepare_cached(
            "SELECT hook, size FROM deliveries WHERE seq = ?1 AND finished_at IS NOT NULL AND state NOT IN (0, 5)",
        )?
        .query_row([delivery], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((hook, size)) = finished else {
        let Some(outcome) = cache.outcomes.take(conn, delivery)? else { return Ok(false) };
        return insert_replayed(conn, cache, &outcome, replayed, now).map(|()| true);
    };
    let held = cache.hook(conn, hook)?.total_held(now);
    conn.prepare_cached(
        "UPDATE deliveries SET state = ?2, reason = NULL, due = ?3, finished_at = NULL, began = ?3,
                attempts_before = attempts, held_before = ?4, replays = replays + ?5, size = abs(size)
         WHERE seq = ?1",
    )?
    .execute(params![delivery, PENDING, now.0, held, i64::from(replayed)])?;
    // A positive size: an older program settled the delivery without subtracting the size, so it is still counted.
    cache.count(conn, hook, (-size).max(0))?;
    gates::clear_owner(conn, delivery)?;
    Ok(true)
}

/// Inserts the row of a delivery that was delivered at once and is pending again.
fn insert_replayed(
    conn: &Connection,
    cache: &mut WriterCache,
    outcome: &Outcome,
    replayed: bool,
    now: Millis,
) -> rusqlite::Result<()> {
    let held = cache.hook(conn, outcome.hook)?.total_held(now);
    conn.prepare_cached(
        "INSERT INTO deliveries (seq, hook, id, state, attempts, due, size, held_before, first_at, first_micros,
                                 first_status, replays, began, attempts_before, namespace)
         VALUES (?1, ?2, ?3, ?4, 1, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?5, 1, ?12)",
    )?
    .execute(params![
        outcome.seq,
        outcome.hook,
        outcome.id().as_bytes(),
        PENDING,
        now.0,
        outcome.size,
        held,
        outcome.first_at,
        outcome.micros,
        outcome.status,
        i64::from(replayed),
        outcome.namespace,
    ])?;
    cache.count(conn, outcome.hook, outcome.size)
}

/// Finds a delivery in a namespace: its sequence number, its state, and the row id of its hook.
pub(super) fn find(
    conn: &Connection,
    cache: &mut WriterCache,
    namespace: &str,
    id: Uuid,
) -> rusqlite::Result<Option<(DeliverySeq, i64, i64)>> {
    let key = cache.namespace_keys.get(conn, namespace)?;
    let row = conn
        .prepare_cached(
            "SELECT d.seq, d.state, d.hook FROM deliveries d CROSS JOIN hooks h ON h.id = d.hook
             WHERE d.id = ?1 AND h.namespace = ?2",
        )?
        .query_row(params![id.as_bytes(), key], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    if row.is_some() {
        return Ok(row);
    }
    let found = match ids::numbered(id) {
        Some(seq) => match cache.outcomes.find(conn, seq)?.filter(|outcome| outcome.id() == id) {
            Some(outcome) => Some((seq, DELIVERED, outcome.hook)),
            None => {
                let noted = cache.unmaterialized(conn)?.get(seq);
                noted.filter(|noted| noted.id == *id.as_bytes()).map(|noted| (seq, PENDING, noted.hook))
            }
        },
        // An id of an older version.
        None => {
            let mut notes = cache.unmaterialized(conn)?.iter();
            let found = notes.find(|(_, noted)| noted.id == *id.as_bytes());
            found.map(|(seq, noted)| (seq, PENDING, noted.hook))
        }
    };
    let Some(found) = found else { return Ok(None) };
    Ok((cache.hook(conn, found.2)?.namespace_key == key).then_some(found))
}

/// Replays one delivery and returns its hook. None: there is no such delivery.
pub(super) fn replay(
    conn: &Connection,
    cache: &mut WriterCache,
    namespace: &str,
    id: Uuid,
    now: Millis,
) -> rusqlite::Result<Option<HookId>> {
    let Some((seq, _, hook)) = find(conn, cache, namespace, id)? else { return Ok(None) };
    make_pending(conn, cache, seq, true, now)?;
    Ok(Some(cache.hook(conn, hook)?.id.clone()))
}

/// Cancels one delivery if it is pending, and returns its hook. None: there is no such delivery.
pub(super) fn cancel(
    conn: &Connection,
    cache: &mut WriterCache,
    namespace: &str,
    id: Uuid,
    now: Millis,
) -> rusqlite::Result<Option<HookId>> {
    let Some((seq, state, hook)) = find(conn, cache, namespace, id)? else { return Ok(None) };
    if state == PENDING || state == CANDIDATE {
        materialize::materialize_one(conn, cache, seq)?;
        let size: i64 = conn
            .prepare_cached(
                "UPDATE deliveries SET state = ?2, reason = NULL, finished_at = ?3, size = -abs(size)
                 WHERE seq = ?1 RETURNING size",
            )?
            .query_row(params![seq, CANCELLED, now.0], |row| row.get(0))?;
        cache.count(conn, hook, size)?;
        if state == CANDIDATE {
            gates::remove_candidate(conn, cache, seq)?;
        }
        gates::clear_memory_of(conn, cache, seq, now)?;
    }
    Ok(Some(cache.hook(conn, hook)?.id.clone()))
}

/// Starts or ends a hold of a hook.
pub(super) fn set_held(
    conn: &Connection,
    cache: &mut WriterCache,
    hook: &HookId,
    held: bool,
    now: Millis,
) -> rusqlite::Result<()> {
    // A hook that is not held and has no row needs none.
    let id =
        if held { Some(cache.find_or_insert_hook(conn, hook)?) } else { cache.find_hook(conn, &hook.uid)? };
    let Some(id) = id else { return Ok(()) };
    cache.set_held(conn, id, held, now)?;
    // The hold may have been the only reason to keep the row.
    if held { Ok(()) } else { hook_rows::remove_if_unused(conn, cache, id).map(drop) }
}

/// Makes `Undecided` deliveries of a hook due now, a bounded number. True: there are more.
pub(super) fn reschedule_undecided(
    conn: &Connection,
    cache: &mut WriterCache,
    uid: &Arc<str>,
    now: Millis,
) -> rusqlite::Result<bool> {
    let Some(hook) = cache.find_hook(conn, uid)? else { return Ok(false) };
    let changed = conn
        .prepare_cached(
            "UPDATE deliveries SET due = ?2 WHERE seq IN
             (SELECT seq FROM deliveries WHERE hook = ?1 AND state = 0 AND due > ?2 AND reason = ?3 LIMIT ?4)",
        )?
        .execute(params![hook, now.0, UNDECIDED.as_str(), RESCHEDULE_BATCH])?;
    Ok(i64::try_from(changed).is_ok_and(|changed| changed == RESCHEDULE_BATCH))
}

/// Transfers up to `rows` pending deliveries from one hook to another. True: there are more.
pub(super) fn transfer_pending(
    conn: &Connection,
    cache: &mut WriterCache,
    (from, to): (&HookId, &HookId),
    now: Millis,
    rows: i64,
) -> rusqlite::Result<bool> {
    if from.uid == to.uid {
        return Ok(false);
    }
    let Some(old) = cache.find_hook(conn, &from.uid)? else { return Ok(false) };
    cache.set_held(conn, old, false, now)?;
    if gates::dissolve(conn, cache, old, rows)? {
        return Ok(true);
    }
    let Some(new) = cache.find_hook(conn, &to.uid)? else {
        // The new hook has no row yet: changing the uid of the old row transfers everything at once.
        cache.set_uid(conn, old, to)?;
        return Ok(false);
    };
    let moved = conn
        .prepare_cached(
            "SELECT seq, size FROM deliveries INDEXED BY deliveries_pending
             WHERE state = 0 AND hook = ?1 ORDER BY due, seq LIMIT ?2",
        )?
        .query_map(params![old, rows], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<Vec<(DeliverySeq, i64)>>>()?;
    // Keeps the time for which each delivery was held.
    let shift = cache.hook(conn, new)?.total_held(now).saturating_sub(cache.hook(conn, old)?.total_held(now));
    let namespace = cache.hook(conn, new)?.namespace;
    for (seq, size) in &moved {
        conn.prepare_cached(
            "UPDATE deliveries SET hook = ?2, held_before = held_before + ?3, namespace = ?4 WHERE seq = ?1",
        )?
        .execute(params![seq, new, shift, namespace])?;
        cache.count(conn, old, -size)?;
        cache.count(conn, new, *size)?;
    }
    let has_more = i64::try_from(moved.len()).unwrap_or(i64::MAX) >= rows;
    if !has_more {
        hook_rows::remove_if_unused(conn, cache, old)?;
    }
    Ok(has_more)
}
