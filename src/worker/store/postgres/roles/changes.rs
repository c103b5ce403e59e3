//! Changes of single deliveries that users ask for.

use futures::FutureExt;
use uuid::Uuid;

use super::super::super::{DeliverySeq, HookId, StoreError};
use super::super::store::PostgresStore;
use super::super::transitions::{self, Named};
use crate::core::time::Millis;

impl PostgresStore {
    /// Makes a finished delivery pending again. Returns its hook. None: there is no such delivery.
    pub(super) async fn replay_delivery(
        &self,
        namespace: &str,
        id: Uuid,
        now: Millis,
    ) -> Result<Option<HookId>, StoreError> {
        let found = self
            .write(|tx, backlog| {
                let namespace = namespace.to_owned();
                async move {
                    let found = transitions::find(tx, &namespace, &[id]).await?;
                    let finished: Vec<DeliverySeq> =
                        found.iter().filter(|named| !named.is_pending).map(|named| named.seq).collect();
                    transitions::make_pending(tx, &finished, true, now, backlog).await?;
                    Ok(found.into_iter().next())
                }
                .boxed()
            })
            .await?;
        Ok(found.map(|named| self.signal_change(named)))
    }

    /// Notifies the owner of the hook that a delivery was changed.
    fn signal_change(&self, Named { seq, hook, .. }: Named) -> HookId {
        self.signals.send(&hook.uid, Some(seq));
        hook
    }

    /// Cancels a pending delivery. Returns its hook. None: there is no such delivery.
    pub(super) async fn cancel_delivery(
        &self,
        namespace: &str,
        id: Uuid,
        now: Millis,
    ) -> Result<Option<HookId>, StoreError> {
        let found = self
            .write(|tx, backlog| {
                let namespace = namespace.to_owned();
                async move {
                    let found = transitions::find(tx, &namespace, &[id]).await?;
                    let seqs: Vec<DeliverySeq> = found.iter().map(|named| named.seq).collect();
                    transitions::cancel(tx, &seqs, now, backlog).await?;
                    Ok(found.into_iter().next())
                }
                .boxed()
            })
            .await?;
        Ok(found.map(|named| self.signal_change(named)))
    }

    /// Cancels those of these deliveries that are pending, and returns them.
    pub(super) async fn cancel_deliveries(
        &self,
        namespace: &str,
        ids: Vec<Uuid>,
        now: Millis,
    ) -> Result<Vec<(HookId, DeliverySeq)>, StoreError> {
        let cancelled = self
            .write(|tx, backlog| {
                let (namespace, ids) = (namespace.to_owned(), ids.clone());
                async move {
                    let found = transitions::find(tx, &namespace, &ids).await?;
                    let seqs: Vec<DeliverySeq> =
                        found.iter().filter(|named| named.is_pending).map(|named| named.seq).collect();
                    let cancelled = transitions::cancel(tx, &seqs, now, backlog).await?;
                    let cancelled =
                        found.into_iter().filter(|named| cancelled.binary_search(&named.seq).is_ok());
                    Ok(cancelled.collect::<Vec<_>>())
                }
                .boxed()
            })
            .await?;
        Ok(cancelled
            .into_iter()
            .map(|named| (named.seq, self.signal_change(named)))
            .map(|(seq, hook)| (hook, seq))
            .collect())
    }
}
