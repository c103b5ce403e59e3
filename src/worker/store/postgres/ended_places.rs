//! Removes the data of deleted namespaces. Their idempotency keys expire by themselves.

use tokio_postgres::types::Type;

use super::super::DeliverySeq;
use super::failure::DbError;
use super::session::{Param, Session};
use super::sweep::ROWS;
use super::{expired, transitions};
use crate::core::time::Millis;

/// Places that one sweep examines.
const PLACES: i64 = 20;
/// Hooks whose gate memory one sweep removes at once.
const HOOKS: i64 = 50;

/// Removes a bounded part of the data of places that have ended, and their rows. True: there is more.
pub(super) async fn sweep(tx: &Session) -> Result<bool, DbError> {
    // The row stays for an hour: a transaction that began before the end may still have added rows.
    let places = tx
        .query(
            "SELECT id, ended_at < clock_timestamp() - interval '1 hour' FROM hookstream.places
             WHERE ended ORDER BY random() LIMIT $1",
            &[(&PLACES, Type::INT8)],
        )
        .await?;
    let mut has_more = false;
    for row in &places {
        let (place, is_over): (i64, Option<bool>) = (row.try_get(0)?, row.try_get(1)?);
        let removed = sweep_place(tx, place).await?;
        has_more |= removed;
        if !removed && is_over.unwrap_or(true) {
            let sql = "DELETE FROM hookstream.places WHERE id = $1 AND ended";
            tx.execute(sql, &[(&place, Type::INT8)]).await?;
        }
        if removed {
            break;
        }
    }
    Ok(has_more)
}

/// Removes a bounded part of the data of a place. False: it had none.
async fn sweep_place(tx: &Session, place: i64) -> Result<bool, DbError> {
    let of_place: [Param<'_>; 1] = [(&place, Type::INT8)];
    // Gates before candidates before deliveries, as every transaction locks them.
    let hooks = tx
        .query(
            "SELECT id FROM hookstream.hooks h WHERE place = $1 AND (
                 (SELECT 1 FROM hookstream.gates g WHERE g.hook = h.id LIMIT 1) IS NOT NULL
                 OR (SELECT 1 FROM hookstream.candidates c WHERE c.hook = h.id LIMIT 1) IS NOT NULL) LIMIT $2",
            &[(&place, Type::INT8), (&HOOKS, Type::INT8)],
        )
        .await?;
    for row in &hooks {
        transitions::dissolve_gates(tx, row.try_get(0)?, ROWS).await?;
    }
    let mut removed = u64::try_from(hooks.len()).unwrap_or(u64::MAX);
    for sql in [PENDING, FINISHED] {
        let rows = tx.query(sql, &of_place).await?;
        let gone: Vec<DeliverySeq> =
            rows.iter().map(|row| Ok::<_, DbError>(row.try_get(0)?)).collect::<Result<_, _>>()?;
        removed += u64::try_from(gone.len()).unwrap_or(0);
        // Its keys have no effect, so no event is kept for them.
        expired::remove_of_deliveries(tx, &gone, i64::MAX, Millis(i64::MAX)).await?;
        tx.execute("DELETE FROM hookstream.in_flight WHERE delivery = ANY($1)", &[(&gone, Type::INT8_ARRAY)])
            .await?;
    }
    for sql in [EVENTS, EXCHANGES, "DELETE FROM hookstream.replays WHERE place = $1"] {
        removed += tx.execute(sql, &of_place).await?;
    }
    if removed > 0 {
        return Ok(true);
    }
    let sql = "
WITH gone AS (
    DELETE FROM hookstream.hooks WHERE id = ANY(ARRAY(SELECT id FROM hookstream.hooks WHERE place = $1 LIMIT 1000))
    RETURNING id),
counts AS (DELETE FROM hookstream.backlog WHERE hook = ANY(ARRAY(SELECT id FROM gone)))
SELECT count(*) FROM gone";
    Ok(tx.query_one(sql, &of_place).await?.try_get::<_, i64>(0)? > 0)
}

// The comparisons of rows have no other index, see `walk`.
pub(super) const PENDING: &str = "
DELETE FROM hookstream.pending WHERE seq = ANY(ARRAY(
    SELECT seq FROM hookstream.pending WHERE place >= $1 AND place <= $1 ORDER BY place, seq LIMIT 1000))
RETURNING seq";

pub(super) const FINISHED: &str = "
DELETE FROM hookstream.finished WHERE seq = ANY(ARRAY(
    SELECT seq FROM hookstream.finished WHERE place >= $1 AND place <= $1 ORDER BY place, seq LIMIT 1000))
RETURNING seq";

pub(super) const EVENTS: &str = "
DELETE FROM hookstream.events WHERE seq = ANY(ARRAY(
    SELECT seq FROM hookstream.events WHERE place >= $1 AND place <= $1 ORDER BY place, id, seq LIMIT 1000))";

pub(super) const EXCHANGES: &str = "
DELETE FROM hookstream.exchanges WHERE delivery = ANY(ARRAY(
    SELECT delivery FROM hookstream.exchanges WHERE place >= $1 AND place <= $1 ORDER BY place, delivery LIMIT 1000))";

/// Removes rows of deleted namespaces that have no data, a bounded number.
pub(super) async fn remove_deleted_namespaces(tx: &Session) -> Result<(), DbError> {
    let sql = "
WITH unused AS (
    SELECT n.name, n.place FROM hookstream.namespaces n WHERE n.is_deleted
        AND (SELECT 1 FROM hookstream.hooks WHERE place = n.place LIMIT 1) IS NULL
        AND (SELECT 1 FROM hookstream.replays WHERE place = n.place LIMIT 1) IS NULL
        AND (SELECT 1 FROM hookstream.events e WHERE e.place >= n.place AND e.place <= n.place
             ORDER BY e.place, e.id, e.seq LIMIT 1) IS NULL
    LIMIT 1000 FOR UPDATE OF n SKIP LOCKED),
gone AS (DELETE FROM hookstream.namespaces n USING unused u WHERE n.name = u.name AND n.is_deleted RETURNING n.place)
UPDATE hookstream.places SET ended = true, ended_at = clock_timestamp() WHERE id = ANY(ARRAY(SELECT place FROM gone))";
    tx.execute(sql, &[]).await.map(drop)
}
