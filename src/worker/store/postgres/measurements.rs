//! Measures the backlog and the size of the store, and reads and repairs its times.

use std::collections::BTreeMap;

use tokio_postgres::types::Type;

use super::super::{DeadLetterCounts, StoreError, StoreStats, StoredTimes};
use super::failure::DbError;
use super::rows::limit;
use super::session::Session;
use super::text;
use crate::core::time::Millis;

/// Rows that one call of `reset_future_times` changes.
const RESET: i64 = 1000;

/// The backlog of each hook of a present namespace, and when its first pending delivery was accepted. A few index seeks for
/// each hook with a backlog.
const BACKLOGS: &str = "
SELECT h.id AS hook, h.place, b.deliveries, b.bytes, p.began
FROM (SELECT hook, sum(deliveries)::bigint AS deliveries, sum(bytes)::bigint AS bytes
      FROM hookstream.backlog GROUP BY hook HAVING sum(deliveries) > 0) b
JOIN hookstream.hooks h ON h.id = b.hook
JOIN hookstream.places pl ON pl.id = h.place AND NOT pl.ended
LEFT JOIN LATERAL (SELECT began FROM hookstream.pending WHERE hook = h.id ORDER BY hook, seq LIMIT 1) p ON true";

// Bounded: each measurement reads the index entries that it counts.
pub(super) const DEAD_LETTERS: &str =
    "SELECT count(*) FROM (SELECT 1 FROM hookstream.finished WHERE state = 2 LIMIT 1000000) d";

const SIZE: &str = "
SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'hookstream' AND c.relkind = 'r'";

/// Measures the whole store. One statement aggregates the backlogs, so that few rows are sent.
pub(super) async fn stats(session: &Session) -> Result<StoreStats, DbError> {
    let sql = format!(
        "WITH of_hooks AS MATERIALIZED ({BACKLOGS})
         SELECT coalesce(sum(deliveries), 0)::bigint, coalesce(sum(bytes), 0)::bigint,
                coalesce(max(bytes), 0)::bigint, min(began),
                (SELECT coalesce(max(bytes), 0)::bigint FROM (
                     SELECT sum(bytes) AS bytes FROM of_hooks GROUP BY place) of_place)
         FROM of_hooks"
    );
    let row = session.query_one(&sql, &[]).await?;
    let count = |at: usize| Ok::<_, DbError>(unsigned(row.try_get(at)?));
    let number = async |sql: &str| Ok::<_, DbError>(unsigned(session.query_one(sql, &[]).await?.try_get(0)?));
    Ok(StoreStats {
        pending: count(0)?,
        pending_bytes: count(1)?,
        largest_hook_bytes: count(2)?,
        largest_namespace_bytes: count(4)?,
        oldest: row.try_get::<_, Option<i64>>(3)?.map(Millis),
        dead_letters: number(DEAD_LETTERS).await?,
        file_bytes: number(SIZE).await?,
        key_memory_bytes: 0,
        memory_bytes: 0,
        owned_shards: 0,
    })
}

/// Measures the backlog of one hook.
pub(super) async fn hook_stats(session: &Session, uid: &str) -> Result<StoreStats, DbError> {
    let row = session
        .query_opt(
            "SELECT coalesce(sum(b.deliveries), 0)::bigint, coalesce(sum(b.bytes), 0)::bigint,
                    (SELECT began FROM hookstream.pending WHERE hook = h.id ORDER BY hook, seq LIMIT 1)
             FROM hookstream.hooks h LEFT JOIN hookstream.backlog b ON b.hook = h.id
             WHERE h.uid = $1 GROUP BY h.id",
            &[(&text::stored(uid).as_ref(), Type::TEXT)],
        )
        .await?;
    let Some(row) = row else { return Ok(StoreStats::default()) };
    Ok(StoreStats {
        pending: unsigned(row.try_get(0)?),
        pending_bytes: unsigned(row.try_get(1)?),
        oldest: row.try_get::<_, Option<i64>>(2)?.map(Millis),
        ..StoreStats::default()
    })
}

fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

// The inner query ends at the limit, however many deliveries died.
pub(super) const RECENT: &str = "
SELECT p.name, p.ended, sum(d.deaths)::bigint FROM (
    SELECT place, count(*) AS deaths FROM (
        SELECT place FROM hookstream.finished WHERE state = 2 AND finished_at >= $1
        ORDER BY finished_at DESC, seq DESC LIMIT $2) newest GROUP BY place) d
JOIN hookstream.places p ON p.id = d.place GROUP BY p.name, p.ended";

/// Counts the newest deliveries that died at or after `since`, up to `most`. Those of deleted namespaces use up the limit and
/// are not reported.
pub(super) async fn dead_letters(
    session: &Session,
    since: Millis,
    most: usize,
) -> Result<DeadLetterCounts, DbError> {
    let (mut counted, mut by_namespace) = (0_u64, BTreeMap::new());
    for row in session.query(RECENT, &[(&since.0, Type::INT8), (&limit(most), Type::INT8)]).await? {
        let count = unsigned(row.try_get(2)?);
        counted += count;
        if !row.try_get::<_, bool>(1)? {
            by_namespace.insert(text::original(row.try_get(0)?), count);
        }
    }
    let is_exact = usize::try_from(counted).is_ok_and(|counted| counted < most);
    Ok(DeadLetterCounts { by_namespace, is_exact })
}

/// Reads the time of the last commit and of the newest event.
pub(super) async fn stored_times(session: &Session) -> Result<StoredTimes, DbError> {
    let newest =
        session.query_opt("SELECT accepted FROM hookstream.events ORDER BY seq DESC LIMIT 1", &[]).await?;
    let newest_event = newest.map(|row| row.try_get(0).map(Millis)).transpose()?;
    let last_commit = match meta(session, "clock").await? {
        Some(clock) => {
            let clock =
                clock.parse().map_err(|_| DbError::Unreadable("meta.clock is not a number".into()))?;
            Some(Millis(clock))
        }
        None => newest_event,
    };
    Ok(StoredTimes { last_commit, newest_event })
}

async fn meta(session: &Session, name: &str) -> Result<Option<String>, DbError> {
    let sql = "SELECT value FROM hookstream.meta WHERE name = $1";
    let row = session.query_opt(sql, &[(&name, Type::TEXT)]).await?;
    row.map(|row| Ok(row.try_get(0)?)).transpose()
}

/// Makes pending deliveries and quiet periods that are later than `now` due at `now`, a bounded number. True: there are more.
pub(super) async fn reset_future_times(tx: &Session, now: Millis) -> Result<bool, DbError> {
    let params = [(&now.0 as _, Type::INT8), (&RESET as _, Type::INT8)];
    let mut changed = 0;
    // Gates before candidates before pending deliveries, as every transaction locks them.
    for sql in [
        "UPDATE hookstream.gates g SET used = $1, quiet_until = least(g.quiet_until, $1)
         FROM (SELECT hook, kind, key FROM hookstream.gates WHERE used > $1
               ORDER BY hook, kind, key LIMIT $2 FOR UPDATE) late
         WHERE (g.hook, g.kind, g.key) = (late.hook, late.kind, late.key)",
        "WITH late AS (
             SELECT c.hook, c.key FROM hookstream.candidates c
             JOIN hookstream.gates g ON g.hook = c.hook AND g.kind = 1 AND g.key = c.key
             WHERE c.due > $1 ORDER BY c.hook, c.key LIMIT $2 FOR UPDATE OF g),
         due AS (
             UPDATE hookstream.candidates c SET due = $1 FROM late
             WHERE c.hook = late.hook AND c.key = late.key RETURNING c.delivery)
         UPDATE hookstream.pending p SET due = $1 FROM due WHERE p.seq = due.delivery",
        "UPDATE hookstream.pending p SET due = $1 FROM (
             SELECT w.seq FROM hookstream.hooks h CROSS JOIN LATERAL (
                 SELECT seq FROM hookstream.pending
                 WHERE hook = h.id AND due > $1 AND NOT is_candidate ORDER BY hook, due, seq LIMIT $2) w
             LIMIT $2) late
         WHERE p.seq = late.seq AND p.due > $1",
    ] {
        changed = changed.max(i64::try_from(tx.execute(sql, &params).await?).unwrap_or(RESET));
    }
    Ok(changed >= RESET)
}

/// Binds the store to an installation, unless it belongs to another one and `adopt` is not set.
pub(super) async fn claim_installation(
    session: &Session,
    installation: &str,
    adopt: bool,
) -> Result<(), DbError> {
    let sql = match adopt {
        true => {
            "INSERT INTO hookstream.meta (name, value) VALUES ('installation', $1)
             ON CONFLICT (name) DO UPDATE SET value = excluded.value"
        }
        false => {
            "INSERT INTO hookstream.meta (name, value) VALUES ('installation', $1) ON CONFLICT (name) DO NOTHING"
        }
    };
    session.execute(sql, &[(&installation, Type::TEXT)]).await?;
    match meta(session, "installation").await? {
        Some(found) if found != installation => {
            Err(StoreError::Foreign { found, own: installation.to_owned() }.into())
        }
        _ => Ok(()),
    }
}
