//! The list of deliveries that were being attempted when their shards went to another worker.
//!
//! The new owner leaves them alone, and counts them against the concurrency of their hooks, until the former owner has
//! recorded their outcomes or its lease has ended.

use std::sync::Arc;

use tokio_postgres::types::Type;

use super::super::super::DeliverySeq;
use super::super::failure::DbError;
use super::super::session::Session;
use crate::core::fast_map::FastMap;

/// Adds the attempts in flight of the worker `own`, in the transaction that changes the owners.
pub(super) async fn list(tx: &Session, own: i64, deliveries: &[DeliverySeq]) -> Result<(), DbError> {
    if deliveries.is_empty() {
        return Ok(());
    }
    tx.execute(
        "INSERT INTO hookstream.in_flight (delivery, worker) SELECT delivery, $2 FROM unnest($1::bigint[]) AS delivery
         ON CONFLICT (delivery) DO UPDATE SET worker = excluded.worker",
        &[(&deliveries, Type::INT8_ARRAY), (&own, Type::INT8)],
    )
    .await
    .map(drop)
}

/// Removes attempts of `own` that have ended. Settling removes an attempt with an outcome. One without an outcome, or whose
/// outcome was recorded just before its shard left, would keep its delivery from being sent for as long as this process runs.
pub(super) async fn remove(session: &Session, own: i64, deliveries: &[DeliverySeq]) -> Result<(), DbError> {
    session
        .execute(
            "DELETE FROM hookstream.in_flight WHERE worker = $1 AND delivery = ANY($2)",
            &[(&own, Type::INT8), (&deliveries, Type::INT8_ARRAY)],
        )
        .await
        .map(drop)
}

/// Returns how many deliveries of the hooks of these shards other workers are attempting, by the hook's uid.
pub(super) async fn elsewhere(
    session: &Session,
    own: i64,
    shards: &[i16],
) -> Result<FastMap<Arc<str>, usize>, DbError> {
    let rows = session
        .query(
            "SELECT h.uid, count(*) FROM hookstream.in_flight f
             JOIN hookstream.workers w ON w.id = f.worker AND w.lease_until > clock_timestamp()
             JOIN hookstream.pending p ON p.seq = f.delivery JOIN hookstream.hooks h ON h.id = p.hook
             WHERE f.worker <> $1 AND h.shard = ANY($2) GROUP BY h.uid",
            &[(&own, Type::INT8), (&shards, Type::INT2_ARRAY)],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let count: i64 = row.try_get(1)?;
            Ok((Arc::from(row.try_get::<_, &str>(0)?), usize::try_from(count).unwrap_or(usize::MAX)))
        })
        .collect()
}
