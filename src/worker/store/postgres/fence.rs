//! The fence: outcomes are recorded only by the worker that owns the delivery's shard.

use std::sync::Arc;

use tokio_postgres::types::Type;

use super::super::DeliverySeq;
use super::failure::DbError;
use super::membership::Ownership;
use super::session::Session;
use crate::core::fast_map::FastSet;

/// Checks the ownership of deliveries within a transaction.
#[derive(Clone)]
pub(super) struct Fence {
    ownership: Arc<Ownership>,
}

impl Fence {
    pub(super) fn new(ownership: Arc<Ownership>) -> Self {
        Fence { ownership }
    }

    /// Returns those of the pending deliveries whose outcomes this process may record. Until the transaction ends, their
    /// shards stay with their owners: FOR SHARE, because FOR KEY SHARE would not block the UPDATE of a transfer.
    pub(super) async fn lock(
        &self,
        tx: &Session,
        deliveries: &[DeliverySeq],
    ) -> Result<FastSet<DeliverySeq>, DbError> {
        let own = self.ownership.worker();
        let rows = tx
            .query(
                "SELECT p.seq, s.owner, s.epoch FROM hookstream.pending p
                 JOIN hookstream.hooks h ON h.id = p.hook JOIN hookstream.shards s ON s.shard = h.shard
                 WHERE p.seq = ANY($1) ORDER BY s.shard FOR SHARE OF s",
                &[(&deliveries, Type::INT8_ARRAY)],
            )
            .await?;
        let (mut allowed, mut others) = (FastSet::default(), Vec::new());
        for row in &rows {
            let (seq, owner, epoch): (i64, Option<i64>, i64) =
                (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let is_current = self.ownership.attempt_epoch(seq).is_none_or(|attempted| attempted == epoch);
            if owner == Some(own) && is_current {
                allowed.insert(seq);
            } else {
                others.push(seq);
            }
        }
        if others.is_empty() {
            return Ok(allowed);
        }
        let listed = tx
            .query(
                "DELETE FROM hookstream.in_flight WHERE worker = $1 AND delivery = ANY($2) RETURNING delivery",
                &[(&own, Type::INT8), (&others, Type::INT8_ARRAY)],
            )
            .await?;
        for row in &listed {
            allowed.insert(row.try_get(0)?);
        }
        Ok(allowed)
    }
}
