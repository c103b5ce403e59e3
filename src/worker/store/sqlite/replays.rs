//! Replays of many deliveries. A reader plans the next steps; the writer executes them in bounded chunks.

use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use super::super::{DeliveryFilter, DeliverySeq, HookId, ReplayJob};
use super::cache::WriterCache;
use super::history::{self, DeliveryWalk, Direction};
use super::namespace_keys;
use super::rows::filter;
use super::transitions;
use crate::core::time::Millis;

/// The most deliveries that one step examines. Bounds a step whose filter rejects most deliveries.
const MAX_EXAMINED: usize = 5000;
/// How long a finished replay stays visible, in milliseconds.
const EXPIRY: i64 = 24 * 3_600_000;

/// The next step of one replay.
pub(super) struct ReplayStep {
    id: Uuid,
    /// The last delivery that earlier steps examined.
    from: DeliverySeq,
    /// The last delivery that this step examined.
    to: DeliverySeq,
    /// The time up to which the allowed rate has been used.
    stepped: i64,
    started: i64,
    is_done: bool,
    /// The deliveries to replay.
    deliveries: Vec<DeliverySeq>,
}

/// True if there is any replay. Usually there is none, and the planning can be skipped.
pub(super) fn any(conn: &Connection) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM replays)")?.query_row([], |row| row.get(0))
}

/// Plans the next step of each replay. The flag is true if a finished replay has expired.
pub(super) fn plan(
    conn: &Connection,
    now: Millis,
    limit: usize,
) -> rusqlite::Result<(Vec<ReplayStep>, bool)> {
    type ReplayRow = ([u8; 16], DeliveryFilter, i64, i64, i64, DeliverySeq, DeliverySeq);
    let tx = conn.unchecked_transaction()?;
    let found = tx
        .prepare_cached(
            "SELECT id, filter, rate, started, stepped, at, top FROM replays WHERE done_at IS NULL ORDER BY started, id",
        )?
        .query_map([], |row| {
            Ok((row.get(0)?, filter(row, 1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?))
        })?
        .collect::<rusqlite::Result<Vec<ReplayRow>>>()?;
    let mut steps = Vec::new();
    for (id, filter, rate, started, stepped, from, top) in found {
        // The lower bound limits a step to one second of the rate, even after downtime. The upper bound keeps the
        // replay going after the clock was set back.
        let stepped = stepped.clamp(now.0.saturating_sub(1000), now.0);
        let allowed = usize::try_from(rate.saturating_mul(now.0 - stepped) / 1000).unwrap_or(0).min(limit);
        if allowed == 0 {
            continue;
        }
        let mut step = ReplayStep {
            id: Uuid::from_bytes(id),
            from,
            to: from,
            stepped,
            started,
            is_done: false,
            deliveries: Vec::new(),
        };
        let mut walk = DeliveryWalk::new(&tx, &filter, Direction::Newer, Some(from))?;
        for _ in 0..MAX_EXAMINED {
            if step.deliveries.len() >= allowed {
                break;
            }
            let Some(seq) = walk.next(&tx)?.filter(|seq| *seq <= top) else {
                step.is_done = true;
                break;
            };
            step.to = seq;
            let found = history::find_matching(&tx, &filter, seq)?;
            if found.and_then(|(_, finished)| finished).is_some_and(|at| at.0 <= started) {
                step.deliveries.push(seq);
            }
        }
        let used =
            i64::try_from(step.deliveries.len()).unwrap_or(i64::MAX).saturating_mul(1000) / rate.max(1);
        step.stepped = stepped.saturating_add(used);
        steps.push(step);
    }
    let has_expired = tx
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM replays WHERE done_at <= ?1)")?
        .query_row([now.0.saturating_sub(EXPIRY)], |row| row.get(0))?;
    Ok((steps, has_expired))
}

/// Executes the steps and returns the hooks with newly due deliveries.
pub(super) fn execute(
    conn: &Connection,
    cache: &mut WriterCache,
    steps: &[ReplayStep],
    now: Millis,
) -> rusqlite::Result<Vec<HookId>> {
    let mut hooks: Vec<HookId> = Vec::new();
    for step in steps {
        let done_at = step.is_done.then_some(now.0);
        // No row is updated if another call has executed this step since it was planned.
        let updated = conn
            .prepare_cached(
                "UPDATE replays SET at = ?3, stepped = ?4, done_at = ?5 WHERE id = ?1 AND at = ?2 AND done_at IS NULL",
            )?
            .execute(params![step.id.as_bytes(), step.from, step.to, step.stepped, done_at])?;
        if updated == 0 {
            continue;
        }
        let mut replayed = 0_i64;
        for delivery in &step.deliveries {
            let hook: Option<i64> = conn
                .prepare_cached("SELECT hook FROM deliveries WHERE seq = ?1 AND finished_at <= ?2")?
                .query_row(params![delivery, step.started], |row| row.get(0))
                .optional()?;
            let Some(hook) = hook else { continue };
            if transitions::make_pending(conn, cache, *delivery, true, now)? {
                replayed += 1;
                hooks.push(cache.hook(conn, hook)?.id.clone());
            }
        }
        conn.prepare_cached("UPDATE replays SET replayed = replayed + ?2 WHERE id = ?1")?
            .execute(params![step.id.as_bytes(), replayed])?;
    }
    conn.prepare_cached("DELETE FROM replays WHERE done_at <= ?1")?
        .execute([now.0.saturating_sub(EXPIRY)])?;
    hooks.sort();
    hooks.dedup();
    Ok(hooks)
}

/// Inserts a new replay.
pub(super) fn start(
    conn: &Connection,
    id: Uuid,
    (filter, text): (&DeliveryFilter, &str),
    rate: u32,
    now: Millis,
) -> rusqlite::Result<ReplayJob> {
    conn.prepare_cached(
        "INSERT INTO replays (id, namespace, filter, rate, started, stepped, at, top, replayed)
         VALUES (?1, ?2, ?3, ?4, ?5, ?5, 0, (SELECT coalesce(max(seq), 0) FROM deliveries), 0)",
    )?
    .execute(params![
        id.as_bytes(),
        namespace_keys::key(conn, &filter.namespace)?,
        text,
        rate,
        now.0
    ])?;
    Ok(ReplayJob { id, filter: filter.clone(), rate, replayed: 0, done: false })
}

/// Returns a replay with its progress.
pub(super) fn progress(conn: &Connection, namespace: &str, id: Uuid) -> rusqlite::Result<Option<ReplayJob>> {
    conn.prepare_cached(
        "SELECT filter, rate, replayed, done_at FROM replays WHERE id = ?1 AND namespace = ?2",
    )?
    .query_row(params![id.as_bytes(), namespace_keys::key(conn, namespace)?], |row| {
        Ok(ReplayJob {
            id,
            filter: filter(row, 0)?,
            rate: row.get(1)?,
            replayed: u64::try_from(row.get::<_, i64>(2)?).unwrap_or(0),
            done: row.get::<_, Option<i64>>(3)?.is_some(),
        })
    })
    .optional()
}
