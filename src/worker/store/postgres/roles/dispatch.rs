//! The dispatch role.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::oneshot;

use super::super::super::{
    DeliverySeq, DispatchNotice, DispatchStore, DueDeliveries, HookBacklog, HookId, HookOwnership,
    PendingDelivery, ReadLimit, Settlement, StoreError,
};
use super::super::shard::SHARDS;
use super::super::store::PostgresStore;
use super::super::writer::QueuedOutcomes;
use super::super::{due, hooks, places, transitions};
use crate::core::fast_map::{FastMap, FastSet};
use crate::core::hook_pacing::{HookPacing, InheritedPacing};
use crate::core::time::Millis;

impl HookOwnership for PostgresStore {
    fn epoch(&self, hook_uid: &str) -> Option<i64> {
        self.ownership.epoch(hook_uid)
    }

    fn inherited_pacing(&self, hook_uid: &str, epoch: i64) -> InheritedPacing {
        self.ownership.pacing.get(hook_uid, epoch)
    }

    fn record_pacing(&self, hook_uid: &Arc<str>, epoch: i64, pacing: Option<HookPacing>) {
        self.ownership.pacing.record(hook_uid, epoch, pacing);
    }

    fn in_flight_elsewhere(&self, hook_uid: &str) -> usize {
        self.ownership.in_flight_elsewhere(hook_uid)
    }
}

impl DispatchStore for PostgresStore {
    fn settle_many(&self, settlements: Vec<Settlement>) -> BoxFuture<'_, Result<Vec<bool>, StoreError>> {
        async move {
            let (reply, result) = oneshot::channel();
            let sent = match self.outcomes.lock().as_ref() {
                Some(outcomes) => outcomes.send(QueuedOutcomes { settlements, reply }).is_ok(),
                None => false,
            };
            if !sent {
                return Err(StoreError::Closed);
            }
            result.await.unwrap_or(Err(StoreError::Closed))
        }
        .boxed()
    }

    fn due(
        &self,
        hook_uid: &str,
        now: Millis,
        exclude: FastSet<DeliverySeq>,
        limit: ReadLimit,
    ) -> BoxFuture<'_, Result<DueDeliveries, StoreError>> {
        let uid = hook_uid.to_owned();
        async move {
            let session = self.session().await?;
            // Before the read: what another worker sends in between is read under an ownership that has ended.
            let Some(epoch) = self.ownership.epoch(&uid) else { return Ok(DueDeliveries::default()) };
            let mut due = due::due(&session, &uid, now, &exclude, limit).await?;
            due.pending.iter_mut().for_each(|pending| pending.epoch = Some(epoch));
            Ok(due)
        }
        .boxed()
    }

    fn newest_untried(
        &self,
        hook_uid: &str,
        now: Millis,
        exclude: FastSet<DeliverySeq>,
        limit: ReadLimit,
    ) -> BoxFuture<'_, Result<Vec<PendingDelivery>, StoreError>> {
        let uid = hook_uid.to_owned();
        async move {
            let session = self.session().await?;
            let Some(epoch) = self.ownership.epoch(&uid) else { return Ok(Vec::new()) };
            let mut pending = due::newest_untried(&session, &uid, now, &exclude, limit).await?;
            pending.iter_mut().for_each(|pending| pending.epoch = Some(epoch));
            Ok(pending)
        }
        .boxed()
    }

    fn next_due(&self, hook_uid: &str, after: Millis) -> BoxFuture<'_, Result<Option<Millis>, StoreError>> {
        let uid = hook_uid.to_owned();
        async move {
            let session = self.session().await?;
            if !self.owns(&uid) {
                return Ok(None);
            }
            Ok(due::next_due(&session, &uid, after).await?)
        }
        .boxed()
    }

    fn backlog(&self) -> BoxFuture<'_, Result<Vec<HookBacklog>, StoreError>> {
        async move { Ok(due::backlog(&self.session().await?, &self.ownership.shards()).await?) }.boxed()
    }

    fn backlog_of_all_workers(&self) -> BoxFuture<'_, Result<Vec<HookBacklog>, StoreError>> {
        let shards: Vec<i16> = (0..SHARDS).collect();
        async move { Ok(due::backlog(&self.session().await?, &shards).await?) }.boxed()
    }

    fn set_held(&self, hook: &HookId, held: bool, now: Millis) -> BoxFuture<'_, Result<(), StoreError>> {
        let hook = hook.clone();
        async move {
            self.write(|tx, _| {
                let hook = hook.clone();
                async move {
                    let found = hooks::find(tx, &hook.uid).await?;
                    // A hook that is not held and has no row needs none.
                    let row = match found {
                        Some(found) => found.row_id,
                        None if !held => return Ok(()),
                        None => {
                            let places = places::find_or_insert_many(tx, &[&hook.namespace]).await?;
                            let wanted = FastMap::from_iter([(hook.uid.clone(), &hook)]);
                            let inserted = hooks::find_or_insert_many(tx, &wanted, &places).await?;
                            let Some(inserted) = inserted.get(&hook.uid) else { return Ok(()) };
                            inserted.row_id
                        }
                    };
                    hooks::set_held(tx, row, held, now).await
                }
                .boxed()
            })
            .await
        }
        .boxed()
    }

    fn held_hooks(&self) -> BoxFuture<'_, Result<Vec<HookId>, StoreError>> {
        async move { Ok(due::held_hooks(&self.session().await?).await?) }.boxed()
    }

    fn reschedule_undecided(&self, uid: &str, now: Millis) -> BoxFuture<'_, Result<bool, StoreError>> {
        let uid = uid.to_owned();
        async move {
            self.write(|tx, _| {
                let uid = uid.clone();
                async move { transitions::reschedule_undecided(tx, &uid, now).await }.boxed()
            })
            .await
        }
        .boxed()
    }

    fn transfer_pending(
        &self,
        from: &HookId,
        to: &HookId,
        now: Millis,
    ) -> BoxFuture<'_, Result<bool, StoreError>> {
        let (from, to) = (from.clone(), to.clone());
        async move {
            self.write(|tx, backlog| {
                let (from, to) = (from.clone(), to.clone());
                async move {
                    transitions::transfer_pending(tx, (&from, &to), now, transitions::BATCH, backlog).await
                }
                .boxed()
            })
            .await
        }
        .boxed()
    }

    fn promote(&self, now: Millis) -> BoxFuture<'_, Result<Vec<HookId>, StoreError>> {
        async move {
            let hooks = self
                .write(|tx, backlog| transitions::promote(tx, now, transitions::BATCH, backlog).boxed())
                .await?;
            hooks.iter().for_each(|hook| self.signals.send(&hook.uid, None));
            Ok(hooks)
        }
        .boxed()
    }

    fn next_promotion(&self) -> BoxFuture<'_, Result<Option<Millis>, StoreError>> {
        async move { Ok(due::next_promotion(&self.session().await?).await?) }.boxed()
    }

    fn owns_now(&self, hook_uid: &str) -> bool {
        self.ownership.owns_at(hook_uid, Millis::steady())
    }

    fn persist_pacing(&self, hook_uid: &str, epoch: Option<i64>) -> BoxFuture<'_, bool> {
        let uid = hook_uid.to_owned();
        async move {
            match epoch {
                Some(epoch) => self.ownership.pacing.persist(&uid, epoch).await,
                None => false,
            }
        }
        .boxed()
    }

    fn begin_attempt(&self, hook_uid: &str, delivery: DeliverySeq, epoch: Option<i64>) -> bool {
        self.ownership.begin_attempt(hook_uid, delivery, epoch, Millis::steady())
    }

    fn cancel_attempt(&self, delivery: DeliverySeq) {
        self.ownership.end_attempts([delivery]);
    }

    fn hand_over(&self) {
        self.membership.begin_leaving();
    }

    fn next_notice(&self) -> BoxFuture<'_, DispatchNotice> {
        PostgresStore::next_notice(self).boxed()
    }
}
