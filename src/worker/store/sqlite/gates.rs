//! The gates' memory and the trailing candidates, inside the writer's transaction.
//!
//! Invariants: a key has one candidate at most; a candidate's delivery is in a state of its own until it is promoted, so
//! that nobody sends it before; what one delivery set goes with it when it dies, and what another set since stays.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::super::{HookId, Seq};
use super::memory::Memory;
use super::schema::{CANDIDATE, DROPPED, PENDING};
use crate::core::gate::{Asked, Change, Mark, Memory as Recalled, Snooze, Snoozing, Verdict};
use crate::core::time::Millis;

const CHANGE: i64 = 0;
const SNOOZE: i64 = 1;

/// Keys that a hook's memory may hold; then the one unused the longest goes.
pub(super) const MAX_KEYS: i64 = 100_000;
/// A memory that was not used for so long goes.
const UNUSED: Duration = Duration::from_secs(30 * 24 * 3600);

/// A row of the memory.
#[derive(Clone, Copy, Default)]
struct Kept {
    known: bool,
    value: Option<Mark>,
    quiet_until: Option<i64>,
    suppressed: u32,
}

/// The answer of the gates, with what is needed to follow it.
pub(super) struct Ruling {
    pub(super) verdict: Verdict,
    change: Kept,
    snooze: Kept,
}

fn recall(conn: &Connection, hook: i64, kind: i64, key: &Mark) -> rusqlite::Result<Kept> {
    let kept = conn
        .prepare_cached(
            "SELECT value, quiet_until, suppressed FROM gates WHERE hook = ?1 AND kind = ?2 AND key = ?3",
        )?
        .query_row(params![hook, kind, key], |row| {
            Ok(Kept { known: true, value: row.get(0)?, quiet_until: row.get(1)?, suppressed: row.get(2)? })
        })
        .optional()?;
    Ok(kept.unwrap_or_default())
}

fn recall_both(conn: &Connection, hook: i64, asked: &Asked) -> rusqlite::Result<(Kept, Kept)> {
    let change = asked.change.map(|c| recall(conn, hook, CHANGE, &c.key)).transpose()?;
    let snooze = asked.snooze.map(|s| recall(conn, hook, SNOOZE, &s.key)).transpose()?;
    Ok((change.unwrap_or_default(), snooze.unwrap_or_default()))
}

/// Asks the gates. Nothing is changed yet.
pub(super) fn ask(conn: &Connection, hook: i64, asked: &Asked, now: Millis) -> rusqlite::Result<Ruling> {
    let (change, snooze) = recall_both(conn, hook, asked)?;
    let memory = Recalled { value: change.value, quiet_until: snooze.quiet_until.map(Millis) };
    Ok(Ruling { verdict: asked.decide(memory, now), change, snooze })
}

/// A delivery goes out: how many were dropped before it. The candidate it overtakes is one of them.
pub(super) fn overtake(
    conn: &Connection,
    memory: &mut Memory,
    hook: i64,
    asked: &Asked,
    ruling: &Ruling,
    now: Millis,
) -> rusqlite::Result<u32> {
    let stale = match &asked.snooze {
        Some(snoozing) => supersede(conn, memory, hook, &snoozing.key, now)?,
        None => false,
    };
    Ok(ruling.change.suppressed.saturating_add(ruling.snooze.suppressed).saturating_add(u32::from(stale)))
}

/// A delivery goes out: it sets both memories and opens a quiet period.
pub(super) fn remember(
    conn: &Connection,
    memory: &mut Memory,
    hook: i64,
    asked: &Asked,
    ruling: &Ruling,
    owner: Seq,
    now: Millis,
) -> rusqlite::Result<()> {
    let (change, snooze) = (ruling.change.known, ruling.snooze.known);
    set_both(conn, memory, hook, asked, (change, snooze), owner, now)
}

fn set_both(
    conn: &Connection,
    memory: &mut Memory,
    hook: i64,
    asked: &Asked,
    known: (bool, bool),
    owner: Seq,
    now: Millis,
) -> rusqlite::Result<()> {
    if let Some(Change { key, value }) = &asked.change {
        set(conn, memory, hook, (CHANGE, key), known.0, (Some(value), None), owner, now)?;
    }
    if let Some(Snoozing { key, rule }) = &asked.snooze {
        let until = now + rule.period;
        set(conn, memory, hook, (SNOOZE, key), known.1, (None, Some(until.0)), owner, now)?;
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "a row's columns")]
fn set(
    conn: &Connection,
    memory: &mut Memory,
    hook: i64,
    (kind, key): (i64, &Mark),
    known: bool,
    (value, until): (Option<&Mark>, Option<i64>),
    owner: Seq,
    now: Millis,
) -> rusqlite::Result<()> {
    if !known {
        make_room(conn, memory, hook)?;
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

/// One key more: an event decides its keys, and without a bound it would decide how big the store gets.
fn make_room(conn: &Connection, memory: &mut Memory, hook: i64) -> rusqlite::Result<()> {
    let known = memory.hook(conn, hook)?;
    let keys = match known.keys {
        Some(keys) => keys,
        None => conn
            .prepare_cached("SELECT count(*) FROM gates WHERE hook = ?1")?
            .query_row([hook], |row| row.get(0))?,
    };
    known.keys = Some(keys + 1);
    if keys >= MAX_KEYS {
        let gone = conn
            .prepare_cached(
                "DELETE FROM gates WHERE hook = ?1 AND (kind, key) IN
                 (SELECT kind, key FROM gates INDEXED BY gates_oldest WHERE hook = ?1 ORDER BY used LIMIT ?2)",
            )?
            .execute(params![hook, keys + 1 - MAX_KEYS])?;
        known.keys = Some(keys + 1 - i64::try_from(gone).unwrap_or(0));
    }
    Ok(())
}

/// One of the group was dropped. Where the memory is gone, so is the count.
fn count(conn: &Connection, hook: i64, kind: i64, key: &Mark, now: Millis) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "UPDATE gates SET suppressed = suppressed + 1, used = ?4 WHERE hook = ?1 AND kind = ?2 AND key = ?3",
    )?
    .execute(params![hook, kind, key, now.0])?;
    Ok(())
}

/// A delivery is dropped as unchanged. The candidate of its group is stale: it would tell of a change that was undone.
pub(super) fn unchanged(
    conn: &Connection,
    memory: &mut Memory,
    hook: i64,
    asked: &Asked,
    now: Millis,
) -> rusqlite::Result<()> {
    if let Some(change) = &asked.change {
        count(conn, hook, CHANGE, &change.key, now)?;
    }
    if let Some(snoozing) = &asked.snooze
        && supersede(conn, memory, hook, &snoozing.key, now)?
    {
        count(conn, hook, SNOOZE, &snoozing.key, now)?;
    }
    Ok(())
}

/// A delivery is dropped in the quiet period.
pub(super) fn snoozed(conn: &Connection, hook: i64, asked: &Asked, now: Millis) -> rusqlite::Result<()> {
    asked.snooze.as_ref().map_or(Ok(()), |snoozing| count(conn, hook, SNOOZE, &snoozing.key, now))
}

/// A delivery becomes the candidate of its group, in the place of an older one.
pub(super) fn nominate(
    conn: &Connection,
    memory: &mut Memory,
    hook: i64,
    asked: &Asked,
    delivery: Seq,
    until: Millis,
    now: Millis,
) -> rusqlite::Result<()> {
    let Some(Snoozing { key, rule }) = &asked.snooze else { return Ok(()) };
    if supersede(conn, memory, hook, key, now)? {
        count(conn, hook, SNOOZE, key, now)?;
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
        asked.change.map(|c| c.key),
        asked.change.map(|c| c.value),
    ])?;
    memory.candidates_changed();
    Ok(())
}

/// Drops the candidate of a group; true where there was one.
fn supersede(
    conn: &Connection,
    memory: &mut Memory,
    hook: i64,
    key: &Mark,
    now: Millis,
) -> rusqlite::Result<bool> {
    let stale: Option<Seq> = conn
        .prepare_cached("DELETE FROM candidates WHERE hook = ?1 AND key = ?2 RETURNING delivery")?
        .query_row(params![hook, key], |row| row.get(0))
        .optional()?;
    let Some(stale) = stale else { return Ok(false) };
    memory.candidates_changed();
    let size: Option<i64> = conn
        .prepare_cached(
            "UPDATE deliveries SET state = ?2, reason = 'Superseded', finished_at = ?3, size = -abs(size)
             WHERE seq = ?1 AND state = ?4 RETURNING size",
        )?
        .query_row(params![stale, DROPPED, now.0, CANDIDATE], |row| row.get(0))
        .optional()?;
    memory.count(conn, hook, size.unwrap_or(0))?;
    Ok(size.is_some())
}

/// A trailing candidate.
struct Candidate {
    hook: i64,
    delivery: Seq,
    asked: Asked,
}

const CANDIDATES: &str = "SELECT hook, key, delivery, period, change_key, change_value FROM candidates";

fn candidate(row: &Row<'_>) -> rusqlite::Result<Candidate> {
    let period = Duration::from_millis(u64::try_from(row.get::<_, i64>(3)?).unwrap_or(0));
    let change = match (row.get(4)?, row.get(5)?) {
        (Some(key), Some(value)) => Some(Change { key, value }),
        _ => None,
    };
    let rule = Snooze { period, trailing: true };
    let snooze = Some(Snoozing { key: row.get(1)?, rule });
    Ok(Candidate { hook: row.get(0)?, delivery: row.get(2)?, asked: Asked { change, snooze } })
}

/// Sends on their way at most `rows` candidates whose period is over; the hooks concerned.
pub(super) fn promote(
    conn: &Connection,
    memory: &mut Memory,
    now: Millis,
    rows: usize,
) -> rusqlite::Result<Vec<HookId>> {
    if memory.promotion(conn)?.is_none_or(|due| due > now.0) {
        return Ok(Vec::new());
    }
    let due = conn
        .prepare_cached(&format!("{CANDIDATES} WHERE due <= ?1 ORDER BY due, delivery LIMIT ?2"))?
        .query_map(params![now.0, i64::try_from(rows).unwrap_or(i64::MAX)], candidate)?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let mut hooks: Vec<HookId> = Vec::new();
    for candidate in &due {
        promote_one(conn, memory, candidate, now)?;
        hooks.push(memory.hook(conn, candidate.hook)?.id.clone());
    }
    hooks.sort();
    hooks.dedup();
    Ok(hooks)
}

fn promote_one(
    conn: &Connection,
    memory: &mut Memory,
    candidate: &Candidate,
    now: Millis,
) -> rusqlite::Result<()> {
    let Candidate { hook, delivery, asked } = candidate;
    let (change, snooze) = recall_both(conn, *hook, asked)?;
    let suppressed = change.suppressed.saturating_add(snooze.suppressed);
    conn.prepare_cached("DELETE FROM candidates WHERE delivery = ?1")?.execute([delivery])?;
    memory.candidates_changed();
    conn.prepare_cached(
        "UPDATE deliveries SET state = ?2, due = ?3, suppressed = ?4 WHERE seq = ?1 AND state = ?5",
    )?
    .execute(params![delivery, PENDING, now.0, suppressed, CANDIDATE])?;
    set_both(conn, memory, *hook, asked, (change.known, snooze.known), *delivery, now)
}

/// A delivery died or was cancelled: what it set is forgotten, unless another has set it since, and the candidate that
/// waited for the end of its period goes at once. True where there was one. How many were dropped stays known.
pub(super) fn forget(
    conn: &Connection,
    memory: &mut Memory,
    delivery: Seq,
    now: Millis,
) -> rusqlite::Result<bool> {
    let cleared = conn
        .prepare_cached(
            "UPDATE gates SET value = NULL, quiet_until = NULL, owner = NULL WHERE owner = ?1
             RETURNING hook, kind, key",
        )?
        .query_map([delivery], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<Vec<(i64, i64, Mark)>>>()?;
    let mut promoted = false;
    for (hook, _, key) in cleared.iter().filter(|(_, kind, _)| *kind == SNOOZE) {
        let waiting = conn
            .prepare_cached(&format!("{CANDIDATES} WHERE hook = ?1 AND key = ?2"))?
            .query_row(params![hook, key], candidate)
            .optional()?;
        if let Some(waiting) = waiting {
            promote_one(conn, memory, &waiting, now)?;
            promoted = true;
        }
    }
    Ok(promoted)
}

/// A finished delivery goes out again: what it set when it first went is not its own any more.
pub(super) fn disown(conn: &Connection, delivery: Seq) -> rusqlite::Result<()> {
    conn.prepare_cached("UPDATE gates SET owner = NULL WHERE owner = ?1")?.execute([delivery])?;
    Ok(())
}

/// A candidate that was cancelled is none.
pub(super) fn withdraw(conn: &Connection, memory: &mut Memory, delivery: Seq) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM candidates WHERE delivery = ?1")?.execute([delivery])?;
    memory.candidates_changed();
    Ok(())
}

/// Forgets a part of a hook's memory, and makes its candidates deliveries like any other, due when they were. True: there
/// is more.
pub(super) fn dissolve(
    conn: &Connection,
    memory: &mut Memory,
    hook: i64,
    rows: i64,
) -> rusqlite::Result<bool> {
    memory.hook(conn, hook)?.keys = None;
    memory.candidates_changed();
    let gone = conn
        .prepare_cached(
            "DELETE FROM gates WHERE hook = ?1 AND (kind, key) IN (SELECT kind, key FROM gates WHERE hook = ?1 LIMIT ?2)",
        )?
        .execute(params![hook, rows])?;
    let freed = conn
        .prepare_cached(
            "DELETE FROM candidates WHERE hook = ?1 AND key IN (SELECT key FROM candidates WHERE hook = ?1 LIMIT ?2)
             RETURNING delivery",
        )?
        .query_map(params![hook, rows], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<Seq>>>()?;
    for delivery in &freed {
        conn.prepare_cached("UPDATE deliveries SET state = ?2 WHERE seq = ?1 AND state = ?3")?
            .execute(params![delivery, PENDING, CANDIDATE])?;
    }
    let full = |n: usize| i64::try_from(n).unwrap_or(i64::MAX) >= rows;
    Ok(full(gone) || full(freed.len()))
}

/// Forgets at most `rows` of what was not used for long; how many.
pub(super) fn sweep(
    conn: &Connection,
    memory: &mut Memory,
    now: Millis,
    rows: i64,
) -> rusqlite::Result<usize> {
    let cutoff = now.0.saturating_sub(i64::try_from(UNUSED.as_millis()).unwrap_or(i64::MAX));
    // A period may be longer than that: then the memory stays for it.
    let gone = conn
        .prepare_cached(
            "DELETE FROM gates WHERE (hook, kind, key) IN
             (SELECT hook, kind, key FROM gates INDEXED BY gates_used
              WHERE used <= ?1 AND (quiet_until IS NULL OR quiet_until <= ?2) LIMIT ?3)",
        )?
        .execute(params![cutoff, now.0, rows])?;
    if gone > 0 {
        memory.keys_changed();
    }
    Ok(gone)
}
