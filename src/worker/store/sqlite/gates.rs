//! Gate memory (`onChange`, `snooze`) and trailing candidates, inside the writer's transaction.
//!
//! Invariants: a key has at most one candidate. Until a candidate is promoted, its delivery has a separate state, so no
//! query of due deliveries finds it. The death of a delivery clears the memory that it set, but not memory that another
//! delivery has set since.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::super::{DeliverySeq, HookId};
use super::cache::WriterCache;
use super::schema::{CANDIDATE, DROPPED, PENDING};
use crate::core::delivery_reason::DeliveryReason;
use crate::core::gate::{ChangeCheck, GateDecision, GateHash, GateRequest, GateState, Snooze, SnoozeCheck};
use crate::core::time::Millis;

const CHANGE: i64 = 0;
const SNOOZE: i64 = 1;

/// The most keys of one hook. Above it, the least recently used key is removed.
pub(super) const MAX_KEYS: i64 = 100_000;
/// Memory that has not been used for this long is removed.
const UNUSED: Duration = Duration::from_secs(30 * 24 * 3600);

/// The memory of a group, from `gates`.
#[derive(Clone, Copy, Default)]
struct GateRow {
    exists: bool,
    value: Option<GateHash>,
    quiet_until: Option<i64>,
    suppressed: u32,
}

/// The decision of a hook's gates, with the memory that it is based on.
pub(super) struct GateEvaluation {
    pub(super) decision: GateDecision,
    change: GateRow,
    snooze: GateRow,
}

/// Reads the memory of a group. Returns the default if there is none.
fn read(conn: &Connection, hook: i64, kind: i64, key: &GateHash) -> rusqlite::Result<GateRow> {
    let row = conn
        .prepare_cached(
            "SELECT value, quiet_until, suppressed FROM gates WHERE hook = ?1 AND kind = ?2 AND key = ?3",
        )?
        .query_row(params![hook, kind, key], |row| {
            Ok(GateRow {
                exists: true,
                value: row.get(0)?,
                quiet_until: row.get(1)?,
                suppressed: row.get(2)?,
            })
        })
        .optional()?;
    Ok(row.unwrap_or_default())
}

fn read_both(conn: &Connection, hook: i64, request: &GateRequest) -> rusqlite::Result<(GateRow, GateRow)> {
    let change = request.change.map(|c| read(conn, hook, CHANGE, &c.key)).transpose()?;
    let snooze = request.snooze.map(|s| read(conn, hook, SNOOZE, &s.key)).transpose()?;
    Ok((change.unwrap_or_default(), snooze.unwrap_or_default()))
}

/// Evaluates the gates without changing anything.
pub(super) fn evaluate(
    conn: &Connection,
    hook: i64,
    request: &GateRequest,
    now: Millis,
) -> rusqlite::Result<GateEvaluation> {
    let (change, snooze) = read_both(conn, hook, request)?;
    let memory = GateState { value: change.value, quiet_until: snooze.quiet_until.map(Millis) };
    Ok(GateEvaluation { decision: request.decide(memory, now), change, snooze })
}

/// Drops the candidate that a newer delivery replaces. Returns the number of deliveries of the group that were dropped
/// since the last one was sent.
pub(super) fn supersede_candidate(
    conn: &Connection,
    cache: &mut WriterCache,
    hook: i64,
    request: &GateRequest,
    evaluation: &GateEvaluation,
    now: Millis,
) -> rusqlite::Result<u32> {
    let stale = match &request.snooze {
        Some(snoozing) => supersede(conn, cache, hook, &snoozing.key, now)?,
        None => false,
    };
    Ok(evaluation
        .change
        .suppressed
        .saturating_add(evaluation.snooze.suppressed)
        .saturating_add(u32::from(stale)))
}

/// Records that a delivery passed: it sets both memories and opens a quiet period.
pub(super) fn record_passed(
    conn: &Connection,
    cache: &mut WriterCache,
    hook: i64,
    request: &GateRequest,
    evaluation: &GateEvaluation,
    owner: DeliverySeq,
    now: Millis,
) -> rusqlite::Result<()> {
    let (change, snooze) = (evaluation.change.exists, evaluation.snooze.exists);
    set_both_memories(conn, cache, hook, request, (change, snooze), owner, now)
}

fn set_both_memories(
    conn: &Connection,
    cache: &mut WriterCache,
    hook: i64,
    request: &GateRequest,
    exists: (bool, bool),
    owner: DeliverySeq,
    now: Millis,
) -> rusqlite::Result<()> {
    if let Some(ChangeCheck { key, value }) = &request.change {
        set_memory(conn, cache, hook, (CHANGE, key), exists.0, (Some(value), None), owner, now)?;
    }
    if let Some(SnoozeCheck { key, rule }) = &request.snooze {
        let until = now + rule.period;
        set_memory(conn, cache, hook, (SNOOZE, key), exists.1, (None, Some(until.0)), owner, now)?;
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "a row's columns")]
fn set_memory(
    conn: &Connection,
    cache: &mut WriterCache,
    hook: i64,
    (kind, key): (i64, &GateHash),
    exists: bool,
    (value, until): (Option<&GateHash>, Option<i64>),
    owner: DeliverySeq,
    now: Millis,
) -> rusqlite::Result<()> {
    if !exists {
        add_gate_key(conn, cache, hook)?;
    }
    conn.prepare_cached(
        "INSERT INTO gates (hook, kind, key, value, quiet_until, owner, suppressed, used)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, ?7)
         ON CONFLICT (hook, kind, key) DO UPDATE SET value = excluded.value, quiet_until = excluded.quiet_until,
             owner = excluded.owner, suppressed = 0, used = excluded.used",
    )?
    .execute(params![hook, kind, key, value, until, owner, now.0])?;
    Ok(())
}

/// Counts a new key, and removes the least recently used keys above the limit. The keys come from event data, so
/// without a limit a sender could fill the disk.
fn add_gate_key(conn: &Connection, cache: &mut WriterCache, hook: i64) -> rusqlite::Result<()> {
    let cached = cache.hook(conn, hook)?;
    let keys = match cached.gate_keys {
        Some(keys) => keys,
        None => conn
            .prepare_cached("SELECT count(*) FROM gates WHERE hook = ?1")?
            .query_row([hook], |row| row.get(0))?,
    };
    cached.gate_keys = Some(keys + 1);
    if keys >= MAX_KEYS {
        let removed = conn
            .prepare_cached(
                "DELETE FROM gates WHERE hook = ?1 AND (kind, key) IN
                 (SELECT kind, key FROM gates INDEXED BY gates_oldest WHERE hook = ?1 ORDER BY used LIMIT ?2)",
            )?
            .execute(params![hook, keys + 1 - MAX_KEYS])?;
        cached.gate_keys = Some(keys + 1 - i64::try_from(removed).unwrap_or(0));
    }
    Ok(())
}

/// Counts a dropped delivery of the group, if its memory exists.
fn count_dropped(
    conn: &Connection,
    hook: i64,
    kind: i64,
    key: &GateHash,
    now: Millis,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "UPDATE gates SET suppressed = suppressed + 1, used = ?4 WHERE hook = ?1 AND kind = ?2 AND key = ?3",
    )?
    .execute(params![hook, kind, key, now.0])?;
    Ok(())
}

/// Records that a delivery was dropped as unchanged. Also drops the candidate of its group, which would report a change
/// that was undone.
pub(super) fn record_unchanged(
    conn: &Connection,
    cache: &mut WriterCache,
    hook: i64,
    request: &GateRequest,
    now: Millis,
) -> rusqlite::Result<()> {
    if let Some(change) = &request.change {
        count_dropped(conn, hook, CHANGE, &change.key, now)?;
    }
    if let Some(snoozing) = &request.snooze
        && supersede(conn, cache, hook, &snoozing.key, now)?
    {
        count_dropped(conn, hook, SNOOZE, &snoozing.key, now)?;
    }
    Ok(())
}

/// Records that a delivery was dropped in the quiet period.
pub(super) fn record_snoozed(
    conn: &Connection,
    hook: i64,
    request: &GateRequest,
    now: Millis,
) -> rusqlite::Result<()> {
    request.snooze.as_ref().map_or(Ok(()), |snoozing| count_dropped(conn, hook, SNOOZE, &snoozing.key, now))
}

/// Makes a delivery the candidate of its group; it replaces an older one.
pub(super) fn nominate(
    conn: &Connection,
    cache: &mut WriterCache,
    hook: i64,
    request: &GateRequest,
    delivery: DeliverySeq,
    until: Millis,
    now: Millis,
) -> rusqlite::Result<()> {
    let Some(SnoozeCheck { key, rule }) = &request.snooze else { return Ok(()) };
    if supersede(conn, cache, hook, key, now)? {
        count_dropped(conn, hook, SNOOZE, key, now)?;
    }
    conn.prepare_cached(
        "INSERT INTO candidates (hook, key, delivery, due, period, change_key, change_value)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        hook,
        key,
        delivery,
        until.0,
        i64::try_from(rule.period.as_millis()).unwrap_or(i64::MAX),
        request.change.map(|c| c.key),
        request.change.map(|c| c.value),
    ])?;
    cache.invalidate_next_promotion();
    Ok(())
}

/// Drops the candidate of a group. True: there was one.
fn supersede(
    conn: &Connection,
    cache: &mut WriterCache,
    hook: i64,
    key: &GateHash,
    now: Millis,
) -> rusqlite::Result<bool> {
    let stale: Option<DeliverySeq> = conn
        .prepare_cached("DELETE FROM candidates WHERE hook = ?1 AND key = ?2 RETURNING delivery")?
        .query_row(params![hook, key], |row| row.get(0))
        .optional()?;
    let Some(stale) = stale else { return Ok(false) };
    cache.invalidate_next_promotion();
    let size: Option<i64> = conn
        .prepare_cached(
            "UPDATE deliveries SET state = ?2, reason = ?5, finished_at = ?3, size = -abs(size)
             WHERE seq = ?1 AND state = ?4 RETURNING size",
        )?
        .query_row(params![stale, DROPPED, now.0, CANDIDATE, DeliveryReason::Superseded.as_str()], |row| {
            row.get(0)
        })
        .optional()?;
    cache.count(conn, hook, size.unwrap_or(0))?;
    Ok(size.is_some())
}

/// A trailing candidate.
struct Candidate {
    hook: i64,
    delivery: DeliverySeq,
    request: GateRequest,
}

const CANDIDATES: &str = "SELECT hook, key, delivery, period, change_key, change_value FROM candidates";

fn read_candidate(row: &Row<'_>) -> rusqlite::Result<Candidate> {
    let period = Duration::from_millis(u64::try_from(row.get::<_, i64>(3)?).unwrap_or(0));
    let change = match (row.get(4)?, row.get(5)?) {
        (Some(key), Some(value)) => Some(ChangeCheck { key, value }),
        _ => None,
    };
    let rule = Snooze { period, trailing: true };
    let snooze = Some(SnoozeCheck { key: row.get(1)?, rule });
    Ok(Candidate { hook: row.get(0)?, delivery: row.get(2)?, request: GateRequest { change, snooze } })
}

/// Promotes up to `rows` candidates whose period is over, and returns their hooks.
pub(super) fn promote(
    conn: &Connection,
    cache: &mut WriterCache,
    now: Millis,
    rows: usize,
) -> rusqlite::Result<Vec<HookId>> {
    if cache.next_promotion(conn)?.is_none_or(|due| due > now.0) {
        return Ok(Vec::new());
    }
    let due = conn
        .prepare_cached(&format!("{CANDIDATES} WHERE due <= ?1 ORDER BY due, delivery LIMIT ?2"))?
        .query_map(params![now.0, i64::try_from(rows).unwrap_or(i64::MAX)], read_candidate)?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let mut hooks: Vec<HookId> = Vec::new();
    for candidate in &due {
        promote_one(conn, cache, candidate, now)?;
        hooks.push(cache.hook(conn, candidate.hook)?.id.clone());
    }
    hooks.sort();
    hooks.dedup();
    Ok(hooks)
}

fn promote_one(
    conn: &Connection,
    cache: &mut WriterCache,
    candidate: &Candidate,
    now: Millis,
) -> rusqlite::Result<()> {
    let Candidate { hook, delivery, request } = candidate;
    let (change, snooze) = read_both(conn, *hook, request)?;
    let suppressed = change.suppressed.saturating_add(snooze.suppressed);
    conn.prepare_cached("DELETE FROM candidates WHERE delivery = ?1")?.execute([delivery])?;
    cache.invalidate_next_promotion();
    conn.prepare_cached(
        "UPDATE deliveries SET state = ?2, due = ?3, suppressed = ?4 WHERE seq = ?1 AND state = ?5",
    )?
    .execute(params![delivery, PENDING, now.0, suppressed, CANDIDATE])?;
    set_both_memories(conn, cache, *hook, request, (change.exists, snooze.exists), *delivery, now)
}

/// Clears the memory that a dead or cancelled delivery set, unless another delivery has set it since. Promotes the
/// candidate of the quiet period at once. True: there was a candidate. The counts of dropped deliveries remain.
pub(super) fn clear_memory_of(
    conn: &Connection,
    cache: &mut WriterCache,
    delivery: DeliverySeq,
    now: Millis,
) -> rusqlite::Result<bool> {
    let cleared = conn
        .prepare_cached(
            "UPDATE gates SET value = NULL, quiet_until = NULL, owner = NULL WHERE owner = ?1
             RETURNING hook, kind, key",
        )?
        .query_map([delivery], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<Vec<(i64, i64, GateHash)>>>()?;
    let mut promoted = false;
    for (hook, _, key) in cleared.iter().filter(|(_, kind, _)| *kind == SNOOZE) {
        let candidate = conn
            .prepare_cached(&format!("{CANDIDATES} WHERE hook = ?1 AND key = ?2"))?
            .query_row(params![hook, key], read_candidate)
            .optional()?;
        if let Some(candidate) = candidate {
            promote_one(conn, cache, &candidate, now)?;
            promoted = true;
        }
    }
    Ok(promoted)
}

/// Removes a finished delivery as the owner of memory. Called when the delivery is replayed, so that its later death
/// does not clear that memory.
pub(super) fn clear_owner(conn: &Connection, delivery: DeliverySeq) -> rusqlite::Result<()> {
    conn.prepare_cached("UPDATE gates SET owner = NULL WHERE owner = ?1")?.execute([delivery])?;
    Ok(())
}

/// Removes the candidate row of a cancelled delivery.
pub(super) fn remove_candidate(
    conn: &Connection,
    cache: &mut WriterCache,
    delivery: DeliverySeq,
) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM candidates WHERE delivery = ?1")?.execute([delivery])?;
    cache.invalidate_next_promotion();
    Ok(())
}

/// Removes a part of a hook's memory, and makes its candidates ordinary pending deliveries with unchanged due times. True:
/// there is more.
pub(super) fn dissolve(
    conn: &Connection,
    cache: &mut WriterCache,
    hook: i64,
    rows: i64,
) -> rusqlite::Result<bool> {
    cache.hook(conn, hook)?.gate_keys = None;
    cache.invalidate_next_promotion();
    let removed = conn
        .prepare_cached(
            "DELETE FROM gates WHERE hook = ?1 AND (kind, key) IN (SELECT kind, key FROM gates WHERE hook = ?1 LIMIT ?2)",
        )?
        .execute(params![hook, rows])?;
    let released = conn
        .prepare_cached(
            "DELETE FROM candidates WHERE hook = ?1 AND key IN (SELECT key FROM candidates WHERE hook = ?1 LIMIT ?2)
             RETURNING delivery",
        )?
        .query_map(params![hook, rows], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<DeliverySeq>>>()?;
    for delivery in &released {
        conn.prepare_cached("UPDATE deliveries SET state = ?2 WHERE seq = ?1 AND state = ?3")?
            .execute(params![delivery, PENDING, CANDIDATE])?;
    }
    let reached_limit = |n: usize| i64::try_from(n).unwrap_or(i64::MAX) >= rows;
    Ok(reached_limit(removed) || reached_limit(released.len()))
}

/// Removes up to `rows` unused rows of memory, and returns how many.
pub(super) fn sweep(
    conn: &Connection,
    cache: &mut WriterCache,
    now: Millis,
    rows: i64,
) -> rusqlite::Result<usize> {
    let cutoff = now.0.saturating_sub(i64::try_from(UNUSED.as_millis()).unwrap_or(i64::MAX));
    // Keep the memory of a quiet period that is longer than `UNUSED`.
    let removed = conn
        .prepare_cached(
            "DELETE FROM gates WHERE (hook, kind, key) IN
             (SELECT hook, kind, key FROM gates INDEXED BY gates_used
              WHERE used <= ?1 AND (quiet_until IS NULL OR quiet_until <= ?2) LIMIT ?3)",
        )?
        .execute(params![cutoff, now.0, rows])?;
    if removed > 0 {
        cache.invalidate_gate_keys();
    }
    Ok(removed)
}
