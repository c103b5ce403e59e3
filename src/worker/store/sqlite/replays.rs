//! Replays of many: what is next is found on a reader's connection, and raised by the writer a chunk at a time.

use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::super::{Filter, HookId, Replay, Seq};
use super::history::{self, Direction, Walk};
use super::memory::Memory;
use super::ops;
use super::places::place;
use crate::core::time::Millis;

/// Deliveries that one step looks at: a filter may pass over most of them.
const LOOKS: usize = 5000;
/// A replay that is done is told of for so long.
const KEPT: i64 = 24 * 3_600_000;

/// What one step of a replay does.
pub(super) struct Step {
    id: Uuid,
    from: Seq,
    to: Seq,
    stepped: i64,
    started: i64,
    done: bool,
    deliveries: Vec<Seq>,
}

/// True where there is any: most of the time there is none, and then nothing need be looked at.
pub(super) fn any(conn: &Connection) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM replays)")?.query_row([], |row| row.get(0))
}

/// The steps to make now, and whether a replay that is done can be forgotten.
pub(super) fn plan(conn: &Connection, now: Millis, most: usize) -> rusqlite::Result<(Vec<Step>, bool)> {
    type Found = ([u8; 16], Filter, i64, i64, i64, Seq, Seq);
    let tx = conn.unchecked_transaction()?;
    let found = tx
        .prepare_cached(
            "SELECT id, filter, rate, started, stepped, at, top FROM replays WHERE done_at IS NULL ORDER BY started, id",
        )?
        .query_map([], |row| {
            Ok((row.get(0)?, filter(row, 1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?))
        })?
        .collect::<rusqlite::Result<Vec<Found>>>()?;
    let mut steps = Vec::new();
    for (id, filter, rate, started, stepped, from, top) in found {
        // A second's worth at most, also after a stop; and a clock that went back must not stop it for that long.
        let stepped = stepped.clamp(now.0.saturating_sub(1000), now.0);
        let allowed = usize::try_from(rate.saturating_mul(now.0 - stepped) / 1000).unwrap_or(0).min(most);
        if allowed == 0 {
            continue;
        }
        let mut step = Step {
            id: Uuid::from_bytes(id),
            from,
            to: from,
            stepped,
            started,
            done: false,
            deliveries: Vec::new(),
        };
        let mut walk = Walk::new(&tx, &filter, Direction::Newer, Some(from))?;
        for _ in 0..LOOKS {
            if step.deliveries.len() >= allowed {
                break;
            }
            let Some(seq) = walk.next(&tx)?.filter(|seq| *seq <= top) else {
                step.done = true;
                break;
            };
            step.to = seq;
            let found = history::matching(&tx, &filter, seq)?;
            if found.and_then(|(_, finished)| finished).is_some_and(|at| at.0 <= started) {
                step.deliveries.push(seq);
            }
        }
        let used =
            i64::try_from(step.deliveries.len()).unwrap_or(i64::MAX).saturating_mul(1000) / rate.max(1);
        step.stepped = stepped.saturating_add(used);
        steps.push(step);
    }
    let old = tx
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM replays WHERE done_at <= ?1)")?
        .query_row([now.0.saturating_sub(KEPT)], |row| row.get(0))?;
    Ok((steps, old))
}

/// Makes the steps; the hooks that got something due.
pub(super) fn step(
    conn: &Connection,
    memory: &mut Memory,
    steps: &[Step],
    now: Millis,
) -> rusqlite::Result<Vec<HookId>> {
    let mut hooks: Vec<HookId> = Vec::new();
    for step in steps {
        let done = step.done.then_some(now.0);
        // Where another made the same step in between, nothing is left to do.
        let ours = conn
            .prepare_cached(
                "UPDATE replays SET at = ?3, stepped = ?4, done_at = ?5 WHERE id = ?1 AND at = ?2 AND done_at IS NULL",
            )?
            .execute(params![step.id.as_bytes(), step.from, step.to, step.stepped, done])?;
        if ours == 0 {
            continue;
        }
        let mut replayed = 0_i64;
        for delivery in &step.deliveries {
            let hook: Option<i64> = conn
                .prepare_cached("SELECT hook FROM deliveries WHERE seq = ?1 AND finished_at <= ?2")?
                .query_row(params![delivery, step.started], |row| row.get(0))
                .optional()?;
            let Some(hook) = hook else { continue };
            if ops::raise(conn, memory, *delivery, true, now)? {
                replayed += 1;
                hooks.push(memory.hook(conn, hook)?.id.clone());
            }
        }
        conn.prepare_cached("UPDATE replays SET replayed = replayed + ?2 WHERE id = ?1")?
            .execute(params![step.id.as_bytes(), replayed])?;
    }
    conn.prepare_cached("DELETE FROM replays WHERE done_at <= ?1")?.execute([now.0.saturating_sub(KEPT)])?;
    hooks.sort();
    hooks.dedup();
    Ok(hooks)
}

pub(super) fn start(
    conn: &Connection,
    id: Uuid,
    (filter, text): (&Filter, &str),
    rate: u32,
    now: Millis,
) -> rusqlite::Result<Replay> {
    conn.prepare_cached(
        "INSERT INTO replays (id, namespace, filter, rate, started, stepped, at, top, replayed)
         VALUES (?1, ?2, ?3, ?4, ?5, ?5, 0, (SELECT coalesce(max(seq), 0) FROM deliveries), 0)",
    )?
    .execute(params![id.as_bytes(), place(conn, &filter.namespace)?, text, rate, now.0])?;
    Ok(Replay { id, filter: filter.clone(), rate, replayed: 0, done: false })
}

pub(super) fn filter(row: &Row<'_>, at: usize) -> rusqlite::Result<Filter> {
    let text: String = row.get(at)?;
    serde_json::from_str(&text).map_err(|e| super::reads::unreadable(at, e))
}
