//! Removes finished deliveries and their events, by age and by bytes, and expired keys and gate memory.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::super::sequence::event_seq;
use super::super::{DeliverySeq, EventSeq, Retention};
use super::byte_limits::{ByteLimits, Excess};
use super::failure::DbError;
use super::session::{Param, Session};
use super::sweep::ROWS;
use crate::core::time::Millis;

/// The partitions of the table of keys.
const KEY_PARTITIONS: u32 = 8;
/// How long unused gate memory is kept, in milliseconds.
const GATES_UNUSED: i64 = 30 * 24 * 3_600_000;
/// The most gate keys of a hook. They come from event data, so without a limit a sender could fill the disk.
const MAX_GATES: i64 = 100_000;

/// Removes a bounded part of everything that has expired. True: there is more.
pub(super) async fn sweep(
    tx: &Session,
    retention: &Retention,
    limits: &ByteLimits,
    now: Millis,
) -> Result<bool, DbError> {
    let history = age_cutoff(now, retention.history_age);
    let dead = age_cutoff(now, retention.dead_letter_age);
    let events = history.max(limits.history);
    let mut has_more = false;
    for (sql, expired, by_bytes) in
        [(FINISHED, events, limits.history), (FINISHED_DEAD, dead.max(limits.dead), limits.dead)]
    {
        let gone = removed(&tx.query(sql, &[(&expired, Type::INT8)]).await?)?;
        // Their number is bounded also by their bytes, so a full part may have fewer rows.
        has_more |=
            !gone.is_empty() && tx.query_opt(&exists(sql), &[(&expired, Type::INT8)]).await?.is_some();
        // Deliveries that were removed to free bytes require to remove the event too.
        remove_of_deliveries(tx, &gone, events.max(by_bytes), now).await?;
    }
    let unmatched = age_cutoff(now, retention.unmatched_age);
    for (sql, accepted_by) in [(UNMATCHED, unmatched), (LOOSE, events)] {
        let found = removed(&tx.query(sql, &[(&accepted_by, Type::INT8)]).await?)?;
        has_more |= remove_events(tx, &found, now).await?;
    }
    for Excess { place, last } in &limits.unmatched {
        let params: [Param<'_>; 2] = [(place, Type::INT8), (last, Type::INT8)];
        has_more |= remove_events(tx, &removed(&tx.query(UNMATCHED_EXCESS, &params).await?)?, now).await?;
    }
    for Excess { place, last } in &limits.exchanges {
        let params: [Param<'_>; 2] = [(place, Type::INT8), (last, Type::INT8)];
        has_more |= is_full(tx.execute(EXCHANGES_EXCESS, &params).await?, ROWS);
    }
    has_more |= is_full(tx.execute(BARE, &[(&now.0, Type::INT8)]).await?, ROWS);
    for partition in 0..KEY_PARTITIONS {
        has_more |= is_full(tx.execute(&expired_keys(partition), &[(&now.0, Type::INT8)]).await?, ROWS);
    }
    let used = now.0.saturating_sub(GATES_UNUSED);
    let params: [Param<'_>; 2] = [(&used, Type::INT8), (&now.0, Type::INT8)];
    has_more |= is_full(tx.execute(UNUSED_GATES, &params).await?, ROWS);
    has_more |= remove_excess_gates(tx).await?;
    Ok(has_more)
}

/// Returns the latest time that is at least `age` ago.
fn age_cutoff(now: Millis, age: Duration) -> i64 {
    now.0.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX))
}

fn is_full(changed: u64, most: i64) -> bool {
    i64::try_from(changed).is_ok_and(|changed| changed >= most)
}

/// Removes the oldest deliveries of a kind: up to 1000, and up to 64 MiB of their events. A locked row is being replayed.
macro_rules! remove_finished {
    ($state:literal) => {
        concat!(
            "WITH oldest AS (SELECT seq, size, finished_at FROM hookstream.finished WHERE ",
            $state,
            " AND finished_at <= $1 ORDER BY finished_at, seq LIMIT 1000 FOR UPDATE SKIP LOCKED),
summed AS (SELECT seq, sum(size) OVER (ORDER BY finished_at, seq) - size AS bytes FROM oldest)
DELETE FROM hookstream.finished WHERE seq = ANY(ARRAY(SELECT seq FROM summed WHERE bytes < 67108864)) RETURNING seq"
        )
    };
}

pub(super) const FINISHED: &str = remove_finished!("state <> 2");
pub(super) const FINISHED_DEAD: &str = remove_finished!("state = 2");

/// Returns the statement that finds out whether the statement would remove a row.
fn exists(sql: &str) -> String {
    let state = if sql == FINISHED { "state <> 2" } else { "state = 2" };
    format!(
        "SELECT 1 FROM hookstream.finished WHERE {state} AND finished_at <= $1 ORDER BY finished_at, seq LIMIT 1"
    )
}

fn removed(rows: &[Row]) -> Result<Vec<DeliverySeq>, DbError> {
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Removes everything that belongs to removed deliveries. Their events that have no other delivery are removed if they were
/// accepted at or before this time. Later ones are kept as events without deliveries.
pub(super) async fn remove_of_deliveries(
    tx: &Session,
    gone: &[DeliverySeq],
    accepted_by: i64,
    now: Millis,
) -> Result<(), DbError> {
    if gone.is_empty() {
        return Ok(());
    }
    let of_deliveries: [Param<'_>; 1] = [(&gone, Type::INT8_ARRAY)];
    tx.execute("DELETE FROM hookstream.attempts WHERE delivery = ANY($1)", &of_deliveries).await?;
    tx.execute("DELETE FROM hookstream.exchanges WHERE delivery = ANY($1)", &of_deliveries).await?;
    let mut events: Vec<EventSeq> = gone.iter().map(|delivery| event_seq(*delivery)).collect();
    events.sort_unstable();
    events.dedup();
    let params: [Param<'_>; 2] = [(&events, Type::INT8_ARRAY), (&accepted_by, Type::INT8)];
    let loose = removed(&tx.query(LOOSEN, &params).await?)?;
    remove_events(tx, &loose, now).await.map(drop)
}

// One seek for each table and event. A delivery that is replayed meanwhile is in one of the tables. Returns the events to
// remove, and marks the others.
pub(super) const LOOSEN: &str = "
WITH loose AS MATERIALIZED (
    SELECT o.event FROM unnest($1) AS o (event)
    WHERE (SELECT 1 FROM hookstream.pending
           WHERE seq >= o.event << 20 AND seq < (o.event + 1) << 20 ORDER BY seq LIMIT 1) IS NULL
      AND (SELECT 1 FROM hookstream.finished
           WHERE seq >= o.event << 20 AND seq < (o.event + 1) << 20 ORDER BY seq LIMIT 1) IS NULL),
marked AS (
    UPDATE hookstream.events SET is_loose = true
    WHERE seq = ANY(ARRAY(SELECT event FROM loose)) AND accepted > $2)
SELECT seq FROM hookstream.events WHERE seq = ANY(ARRAY(SELECT event FROM loose)) AND accepted <= $2";

/// Removes events. Within its idempotency window, removes only its data, so that a duplicate still finds the event. True: they
/// are as many as one statement finds.
async fn remove_events(tx: &Session, events: &[EventSeq], now: Millis) -> Result<bool, DbError> {
    if events.is_empty() {
        return Ok(false);
    }
    tx.execute(REMOVE_EVENTS, &[(&events, Type::INT8_ARRAY), (&now.0, Type::INT8)]).await?;
    Ok(i64::try_from(events.len()).is_ok_and(|found| found >= ROWS))
}

pub(super) const REMOVE_EVENTS: &str = "
WITH kept AS (
    UPDATE hookstream.events
    SET data = 'null', attributes = NULL, is_bare = true, is_loose = false, unmatched = false
    WHERE seq = ANY($1) AND kept_until > $2)
DELETE FROM hookstream.events WHERE seq = ANY($1) AND (kept_until IS NULL OR kept_until <= $2)";

/// Events whose data was removed before, and whose idempotency window is over.
pub(super) const BARE: &str = "
DELETE FROM hookstream.events WHERE seq = ANY(ARRAY(
    SELECT seq FROM hookstream.events WHERE is_bare AND kept_until <= $1 ORDER BY kept_until, seq LIMIT 1000))";

/// Events that no hook matched.
pub(super) const UNMATCHED: &str = "
SELECT seq FROM hookstream.events WHERE is_loose AND unmatched AND accepted <= $1 ORDER BY accepted, seq LIMIT 1000";

/// Events without deliveries.
pub(super) const LOOSE: &str = "
SELECT seq FROM hookstream.events WHERE is_loose AND accepted <= $1 ORDER BY accepted, seq LIMIT 1000";

pub(super) const UNMATCHED_EXCESS: &str = "
SELECT seq FROM hookstream.events WHERE unmatched AND (place, seq) <= ($1, $2) AND place >= $1
ORDER BY place, seq LIMIT 1000";

pub(super) const EXCHANGES_EXCESS: &str = "
DELETE FROM hookstream.exchanges WHERE delivery = ANY(ARRAY(
    SELECT delivery FROM hookstream.exchanges WHERE (place, delivery) <= ($1, $2) AND place >= $1
    ORDER BY place, delivery LIMIT 1000))";

/// Returns the statement that removes expired keys of a partition. A statement for all could scan each of them. A locked key is
/// being claimed by a group of accepts.
pub(super) fn expired_keys(partition: u32) -> String {
    format!(
        "DELETE FROM hookstream.keys_{partition} WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM hookstream.keys_{partition} WHERE expires <= $1
    ORDER BY expires LIMIT 1000 FOR UPDATE SKIP LOCKED)) AND expires <= $1"
    )
}

/// The memory of a quiet period that is longer is kept.
pub(super) const UNUSED_GATES: &str = "
DELETE FROM hookstream.gates WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM hookstream.gates WHERE used <= $1 AND (quiet_until IS NULL OR quiet_until <= $2)
    ORDER BY used LIMIT 1000 FOR UPDATE SKIP LOCKED))";

/// Removes the least recently used gate memory of hooks with too many keys. True: there is more.
async fn remove_excess_gates(tx: &Session) -> Result<bool, DbError> {
    let is_small = tx
        .query_one(
            "SELECT count(*) <= $1 FROM (SELECT 1 FROM hookstream.gates LIMIT $1 + 1) g",
            &[(&MAX_GATES, Type::INT8)],
        )
        .await?;
    if is_small.try_get(0)? {
        return Ok(false);
    }
    let large = tx
        .query(
            "SELECT hook, count(*) - $1 FROM hookstream.gates GROUP BY hook HAVING count(*) > $1",
            &[(&MAX_GATES, Type::INT8)],
        )
        .await?;
    let mut has_more = false;
    for row in &large {
        let (hook, excess): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        let removed = tx
            .execute(
                "DELETE FROM hookstream.gates WHERE ctid = ANY(ARRAY(
                     SELECT ctid FROM hookstream.gates WHERE hook = $1 ORDER BY used LIMIT $2 FOR UPDATE SKIP LOCKED))",
                &[(&hook, Type::INT8), (&excess.min(ROWS), Type::INT8)],
            )
            .await?;
        has_more |= is_full(removed, ROWS);
    }
    Ok(has_more)
}
