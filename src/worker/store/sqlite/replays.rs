//! Replays of many deliveries. A reader plans the next steps; the writer executes them in bounded batches.
//!
//! A call examines and replays a bounded number of deliveries for all replays together. The number is divided between the
//! namespaces with unfinished replays, and then between each namespace's replays.

use std::collections::HashMap;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::super::read_budget::{ReadBudget, ReadLimiter};
use super::super::{ALL_NAMESPACES, DeliveryFilter, DeliverySeq, HookId, MAX_LISTED_REPLAYS, ReplayJob};
use super::cache::WriterCache;
use super::event_ids::{self, IdLookup, NewestIds};
use super::history;
use super::namespace_keys;
use super::outcomes::Snapshot;
use super::rows::{filter, limit};
use super::sequence::Direction;
use super::transitions;
use super::walk::{self, DeliveryWalk};
use crate::core::time::Millis;

/// Deliveries that one call examines. Bounds a call whose filters reject most deliveries, and its snapshot.
const EXAMINED: ReadBudget = ReadBudget { rows: 10_000, time: Duration::from_millis(200) };
/// Deliveries that one call replays.
const REPLAYED: usize = 5000;
/// Deliveries that one operation of the writer replays. The next accept waits for it.
const BATCH: usize = 500;
/// The most unfinished replays of a namespace.
pub(super) const MAX_UNFINISHED: usize = 20;
/// Finished replays of a namespace that stay visible.
const MAX_FINISHED: usize = 100;
/// How long a finished replay stays visible, in milliseconds.
const EXPIRY: i64 = 24 * 3_600_000;

/// The next step of one replay.
pub(super) struct ReplayStep {
    id: Uuid,
    /// The last position that earlier steps examined.
    from: DeliverySeq,
    /// The last position that this step examined.
    to: DeliverySeq,
    /// The time up to which the allowed rate has been used.
    stepped: i64,
    started: i64,
    is_done: bool,
    /// The deliveries to replay.
    deliveries: Vec<DeliverySeq>,
}

/// An unfinished replay.
struct Unfinished {
    id: [u8; 16],
    namespace: String,
    /// Or why it cannot be read.
    filter: Result<DeliveryFilter, String>,
    rate: i64,
    started: i64,
    stepped: i64,
    at: DeliverySeq,
    top: DeliverySeq,
}

/// Plans the next steps, in batches for the writer. The flag is true if a finished replay has expired.
pub(super) fn plan(
    conn: &Connection,
    (newest, recent): (&NewestIds, &Snapshot),
    now: Millis,
) -> rusqlite::Result<(Vec<Vec<ReplayStep>>, bool)> {
    let mut limiter = ReadLimiter::start(EXAMINED);
    // Replays that this call does not reach come first in the next one, because their `stepped` is the oldest then.
    let unfinished = conn
        .prepare_cached(
            "SELECT id, namespace, filter, rate, started, stepped, at, top FROM replays WHERE done_at IS NULL
             ORDER BY stepped, id",
        )?
        .query_map([], |row| {
            Ok(Unfinished {
                id: row.get(0)?,
                namespace: row.get(1)?,
                filter: filter(row, 2)?,
                rate: row.get(3)?,
                started: row.get(4)?,
                stepped: row.get(5)?,
                at: row.get(6)?,
                top: row.get(7)?,
            })
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let lookups = unfinished.iter().map(|replay| match &replay.filter {
        Ok(filter) => walk::begin_lookups(conn, newest, filter),
        Err(_) => Ok(None),
    });
    let lookups = lookups.collect::<rusqlite::Result<Vec<_>>>()?;
    let tx = conn.unchecked_transaction()?;
    let lacks_ids = event_ids::is_incomplete(&tx)?;
    let mut of_namespace: HashMap<&str, usize> = HashMap::new();
    unfinished.iter().for_each(|replay| *of_namespace.entry(&replay.namespace).or_default() += 1);
    let mut batches = vec![Vec::new()];
    let mut batch_size = 0;
    for (replay, lookup) in unfinished.iter().zip(&lookups) {
        // It would end without the events that are not found yet.
        if lacks_ids && lookup.is_some() {
            continue;
        }
        let sharing = of_namespace.len() * of_namespace.get(&*replay.namespace).copied().unwrap_or(1);
        let parts = (replay, lookup.as_deref());
        let Some(step) = plan_step((&tx, recent), parts, now, sharing, &mut limiter)? else { continue };
        if batch_size + step.deliveries.len() > BATCH {
            batches.push(Vec::new());
            batch_size = 0;
        }
        batch_size += step.deliveries.len();
        if let Some(batch) = batches.last_mut() {
            batch.push(step);
        }
        if limiter.is_used_up() {
            break;
        }
    }
    batches.retain(|batch| !batch.is_empty());
    let has_expired = tx
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM replays WHERE done_at <= ?1)")?
        .query_row([now.0.saturating_sub(EXPIRY)], |row| row.get(0))?;
    Ok((batches, has_expired))
}

/// Plans the next step of a replay, which is one of `sharing` equal parts of a call. None: its rate allows none yet.
fn plan_step(
    (conn, recent): (&Connection, &Snapshot),
    (replay, lookup): (&Unfinished, Option<&[IdLookup]>),
    now: Millis,
    sharing: usize,
    limiter: &mut ReadLimiter,
) -> rusqlite::Result<Option<ReplayStep>> {
    let mut step = ReplayStep {
        id: Uuid::from_bytes(replay.id),
        from: replay.at,
        to: replay.at,
        stepped: replay.stepped,
        started: replay.started,
        is_done: false,
        deliveries: Vec::new(),
    };
    let filter = match &replay.filter {
        Ok(filter) => filter,
        Err(error) => {
            // Ends this replay only; the others go on.
            tracing::error!(id = %step.id, namespace = namespace_keys::name(&replay.namespace), %error, "replay ended, its stored filter cannot be read");
            return Ok(Some(ReplayStep { is_done: true, ..step }));
        }
    };
    // The lower bound limits a step to one second of the rate, even after downtime. The upper bound keeps the replay going
    // after the clock was set back.
    let stepped = replay.stepped.clamp(now.0.saturating_sub(1000), now.0);
    let share = |of_all: usize| (of_all / sharing).max(1);
    let allowed = usize::try_from(replay.rate.saturating_mul(now.0 - stepped) / 1000).unwrap_or(0);
    let allowed = allowed.min(share(REPLAYED)).min(BATCH);
    if allowed == 0 {
        return Ok(None);
    }
    let mut walk = DeliveryWalk::new(conn, recent, filter, lookup, Direction::Newer, Some(replay.at))?;
    for _ in 0..share(EXAMINED.rows) {
        if step.deliveries.len() >= allowed {
            break;
        }
        let Some(position) = walk.next(conn)?.filter(|position| position.seq <= replay.top) else {
            step.is_done = true;
            break;
        };
        step.to = position.seq;
        limiter.take(1 + walk.take_examined());
        let found = history::find_matching(conn, filter, position)?;
        if found.and_then(|(_, finished)| finished).is_some_and(|at| at.0 <= replay.started) {
            step.deliveries.push(position.seq);
        }
        if limiter.is_used_up() {
            break;
        }
    }
    let used =
        i64::try_from(step.deliveries.len()).unwrap_or(i64::MAX).saturating_mul(1000) / replay.rate.max(1);
    step.stepped = stepped.saturating_add(used);
    Ok(Some(step))
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
            let outcome = match hook {
                Some(_) => None,
                None => cache.outcomes.find(conn, *delivery)?,
            };
            let outcome = outcome.filter(|outcome| outcome.finished_at <= step.started);
            let Some(hook) = hook.or(outcome.map(|outcome| outcome.hook)) else { continue };
            if transitions::make_pending(conn, cache, *delivery, true, now)? {
                replayed += 1;
                hooks.push(cache.hook(conn, hook)?.id.clone());
            }
        }
        conn.prepare_cached("UPDATE replays SET replayed = replayed + ?2 WHERE id = ?1")?
            .execute(params![step.id.as_bytes(), replayed])?;
    }
    hooks.sort();
    hooks.dedup();
    Ok(hooks)
}

/// Removes finished replays that are no longer visible.
pub(super) fn remove_expired(conn: &Connection, now: Millis) -> rusqlite::Result<()> {
    let expired = now.0.saturating_sub(EXPIRY);
    conn.prepare_cached("DELETE FROM replays WHERE done_at <= ?1")?.execute([expired]).map(drop)
}

/// Inserts a new replay of deliveries up to `top`, and removes the namespace's oldest finished ones above the limit. None: the namespace has too
/// many unfinished replays.
pub(super) fn start(
    conn: &Connection,
    id: Uuid,
    (filter, text): (&DeliveryFilter, &str),
    rate: u32,
    top: DeliverySeq,
    now: Millis,
) -> rusqlite::Result<Option<ReplayJob>> {
    let namespace_key = namespace_keys::key(conn, &filter.namespace)?;
    let unfinished: i64 = conn
        .prepare_cached("SELECT count(*) FROM replays WHERE namespace = ?1 AND done_at IS NULL")?
        .query_row([&namespace_key], |row| row.get(0))?;
    if usize::try_from(unfinished).unwrap_or(usize::MAX) >= MAX_UNFINISHED {
        return Ok(None);
    }
    conn.prepare_cached(
        "DELETE FROM replays WHERE id IN (SELECT id FROM replays WHERE namespace = ?1 AND done_at IS NOT NULL
                                          ORDER BY done_at DESC LIMIT -1 OFFSET ?2)",
    )?
    .execute(params![namespace_key, limit(MAX_FINISHED)])?;
    conn.prepare_cached(
        "INSERT INTO replays (id, namespace, filter, rate, started, stepped, at, top, replayed)
         VALUES (?1, ?2, ?3, ?4, ?5, ?5, 0, ?6, 0)",
    )?
    .execute(params![id.as_bytes(), namespace_key, text, rate, now.0, top])?;
    Ok(Some(ReplayJob {
        id,
        filter: filter.clone(),
        rate,
        started: now,
        replayed: 0,
        done: false,
        cancelled: false,
        error: None,
    }))
}

/// Ends an unfinished replay, and returns it. Steps that are planned change nothing more, because it is done.
pub(super) fn cancel(
    conn: &Connection,
    namespace: &str,
    id: Uuid,
    now: Millis,
) -> rusqlite::Result<Option<ReplayJob>> {
    conn.prepare_cached(
        "UPDATE replays SET done_at = ?3, cancelled = 1 WHERE id = ?1 AND namespace = ?2 AND done_at IS NULL",
    )?
    .execute(params![id.as_bytes(), namespace_keys::key(conn, namespace)?, now.0])?;
    progress(conn, namespace, id)
}

macro_rules! select_replay {
    () => {
        "SELECT id, filter, rate, started, replayed, done_at, cancelled FROM replays WHERE "
    };
}

/// Returns a replay with its progress.
pub(super) fn progress(conn: &Connection, namespace: &str, id: Uuid) -> rusqlite::Result<Option<ReplayJob>> {
    conn.prepare_cached(concat!(select_replay!(), "id = ?1 AND namespace = ?2"))?
        .query_row(params![id.as_bytes(), namespace_keys::key(conn, namespace)?], |row| job(row, namespace))
        .optional()
}

/// Returns the replays of a namespace, or of all, newest first.
pub(super) fn list(conn: &Connection, namespace: &str) -> rusqlite::Result<Vec<ReplayJob>> {
    let limit = limit(MAX_LISTED_REPLAYS);
    if namespace == ALL_NAMESPACES {
        return conn
            .prepare_cached(LIST_ALL)?
            .query_map([limit], |row| {
                let key: String = row.get(7)?;
                job(row, namespace_keys::name(&key))
            })?
            .collect();
    }
    conn.prepare_cached(concat!(select_replay!(), "namespace = ?1 ORDER BY started DESC, id DESC LIMIT ?2"))?
        .query_map(params![namespace_keys::key(conn, namespace)?, limit], |row| job(row, namespace))?
        .collect()
}

const LIST_ALL: &str = concat!(
    "SELECT id, filter, rate, started, replayed, done_at, cancelled, o.place
     FROM (SELECT *, namespace AS place FROM replays) o WHERE ",
    namespace_keys::is_present!(),
    " ORDER BY started DESC, id DESC LIMIT ?1"
);

fn job(row: &Row<'_>, namespace: &str) -> rusqlite::Result<ReplayJob> {
    let (filter, error) = match filter(row, 1)? {
        Ok(filter) => (filter, None),
        Err(error) => {
            let filter = DeliveryFilter { namespace: namespace.to_owned(), ..DeliveryFilter::default() };
            (filter, Some(format!("its stored filter cannot be read: {error}")))
        }
    };
    Ok(ReplayJob {
        id: Uuid::from_bytes(row.get(0)?),
        filter,
        rate: row.get(2)?,
        started: Millis(row.get(3)?),
        replayed: u64::try_from(row.get::<_, i64>(4)?).unwrap_or(0),
        done: row.get::<_, Option<i64>>(5)?.is_some(),
        cancelled: row.get(6)?,
        error,
    })
}
