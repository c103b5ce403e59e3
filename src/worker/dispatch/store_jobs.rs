//! The dispatcher's longer accesses to the store. Each runs in a task of its own and reports back by commands.

use std::sync::Arc;

use super::command::DispatchHandle;
use super::queue::CHUNK;
use crate::core::delivery_reason::DeliveryReason;
use crate::core::fast_map::FastSet;
use crate::core::time::Millis;
use crate::metrics::Metrics;
use crate::worker::store::{
    DeliverySeq, DispatchStore, DueDeliveries, ExchangeChange, HookId, NextStep, PendingDelivery, ReadLimit,
    Settlement, StoreError,
};

/// Orphaned deliveries that are ended in one commit.
const END_BATCH: usize = 256;

/// Reads due deliveries, and when the next one is due. Up to `untried` of the deliveries are the newest ones that were
/// never attempted.
pub async fn load(
    store: &dyn DispatchStore,
    uid: &str,
    mut exclude: FastSet<DeliverySeq>,
    mut limit: ReadLimit,
    untried: usize,
) -> Result<(DueDeliveries, Option<Millis>), StoreError> {
    let now = Millis::now();
    let mut newest = Vec::new();
    if untried > 0 {
        let few = ReadLimit { rows: untried.min(limit.rows), ..limit };
        for pending in store.newest_untried(uid, now, exclude.clone(), few).await? {
            let len = pending.event.data.get().len();
            // The memory for more is not reserved.
            if len > limit.bytes {
                break;
            }
            limit = ReadLimit { rows: limit.rows - 1, bytes: limit.bytes - len, ..limit };
            exclude.insert(pending.seq);
            newest.push(pending);
        }
    }
    let mut due = match limit.rows {
        0 => DueDeliveries { has_more: true, ..DueDeliveries::default() },
        _ => store.due(uid, now, exclude, limit).await?,
    };
    due.pending.append(&mut newest);
    if !due.pending.is_empty() {
        due.too_large = None;
    }
    Ok((due, store.next_due(uid, now).await?))
}

/// Transfers the pending deliveries of a deleted hook to another hook.
pub async fn transfer(store: Arc<dyn DispatchStore>, dispatch: DispatchHandle, from: HookId, to: HookId) {
    loop {
        match store.transfer_pending(&from, &to, Millis::now()).await {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                tracing::warn!(hook = %to.name, %error, "transfer of a deleted hook's pending deliveries failed, the next start retries");
                break;
            }
        }
    }
    // The new hook's filter may be able to decide the undecided deliveries.
    retry_undecided(store, dispatch, vec![to.uid]).await;
}

/// Makes the undecided deliveries of these hooks due: the specs may have changed, so their filters may decide them now.
pub async fn retry_undecided(store: Arc<dyn DispatchStore>, dispatch: DispatchHandle, hooks: Vec<Arc<str>>) {
    for uid in hooks {
        loop {
            match store.reschedule_undecided(&uid, Millis::now()).await {
                Ok(more) => {
                    dispatch.notify_due(uid.clone()).await;
                    if !more {
                        break;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "reschedule of undecided deliveries failed, they stay scheduled");
                    break;
                }
            }
        }
    }
}

/// Ends every pending delivery of a deleted hook. Returns false if the store failed.
pub async fn end_deliveries(store: &dyn DispatchStore, metrics: &Metrics, uid: &str) -> bool {
    let (any_time, limit) = (Millis(i64::MAX), ReadLimit { rows: END_BATCH, ..CHUNK });
    while let Ok(due) = store.due(uid, any_time, FastSet::default(), limit).await {
        if due.pending.is_empty() {
            return true;
        }
        let reason = DeliveryReason::HookDeleted;
        let (at, next) = (Millis::now(), NextStep::Dead { reason });
        let hook = due.pending.first().map(|delivery| delivery.hook.clone());
        let dead = due.pending.into_iter().map(|PendingDelivery { seq: delivery, .. }| Settlement {
            delivery,
            at,
            attempt: None,
            next,
            progress: None,
            exchange: ExchangeChange::Nothing,
        });
        let Ok(ended) = store.settle_many(dead.collect()).await else { return false };
        for _ in ended {
            metrics.record_finished("dead", Some(reason));
            hook.iter().for_each(|hook| {
                metrics.dead_letters.record(&hook.namespace, &hook.name, reason);
                metrics.rates.record_dead(&hook.namespace);
            });
        }
    }
    false
}
