//! Orphaned deliveries: their hook was deleted. A hook of the same name adopts them; after the grace period they are dead.

use std::collections::HashSet;
use std::sync::Arc;

use super::Dispatcher;
use super::command::DispatchCommand;
use super::health::report_hold;
use super::queue::{CHUNK, HookQueue};
use super::undecided::retry_undecided;
use crate::core::delivery_reason::DeliveryReason;
use crate::core::time::Millis;
use crate::metrics::Metrics;
use crate::worker::store::{DispatchStore, HookId, NextStep, PendingDelivery, ReadLimit, Settlement};

/// Orphaned deliveries that are ended in one commit.
const END_BATCH: usize = 256;

impl Dispatcher {
    /// Handles a hook that does not exist: transfers its deliveries to a hook of the same name, waits for the grace
    /// period, or ends them.
    pub(super) fn hook_missing(&mut self, uid: &Arc<str>) {
        let Some(queue) = self.queues.get_mut(uid) else { return };
        let now = Millis::now();
        if let Some(id) = queue.hook.clone() {
            if let Some(new) = self.hook_named_like(&id) {
                return self.transfer(id, new.id.clone());
            }
            self.orphans.insert((id.namespace.clone(), id.name.clone()), id);
        }
        let Some(queue) = self.queues.get_mut(uid) else { return };
        let since = *queue.deleted_since.get_or_insert(now);
        if now.since(since) < self.grace {
            self.timers.set(since + self.grace, uid);
            return;
        }
        let (store, handle, metrics, uid) =
            (self.store.clone(), self.handle.clone(), self.metrics.clone(), uid.clone());
        queue.deleted_since = None;
        let id = queue.hook.clone();
        self.tasks.spawn(async move {
            let command = match (end_backlog(&*store, &metrics, &uid).await, id) {
                (true, Some(id)) => DispatchCommand::BacklogEnded(id),
                // The store failed. HookChanged starts another grace period, at whose end the dispatcher retries.
                _ => DispatchCommand::HookChanged(uid),
            };
            handle.send(command).await;
        });
    }

    /// Forgets a deleted hook. Otherwise every hook that was deleted with a backlog would stay in memory.
    pub(super) fn forget(&mut self, hook: &HookId) {
        if self.index.get(&hook.uid).is_some() {
            return;
        }
        self.drop_queue(&hook.uid);
        // End its hold. If the uid is used again, as in standalone mode, the deliveries must age.
        report_hold(&mut self.held, &self.reports, hook, false);
        let name = (hook.namespace.clone(), hook.name.clone());
        if self.orphans.get(&name) == Some(hook) {
            self.orphans.remove(&name);
        }
    }

    /// Forgets the deleted hooks of a deleted namespace. If the namespace is recreated, its hooks must not adopt their
    /// deliveries.
    pub(super) fn namespace_ended(&mut self, name: &str) {
        let is_deleted = |id: &HookId| *id.namespace == *name && self.index.get(&id.uid).is_none();
        let hooks: Vec<HookId> =
            self.queues.values().filter_map(|queue| queue.hook.clone()).filter(is_deleted).collect();
        for hook in &hooks {
            let freed = self.queues.get_mut(&hook.uid).map_or(0, HookQueue::unload);
            self.ready_bytes = self.ready_bytes.saturating_sub(freed);
            self.forget(hook);
        }
        self.orphans.retain(|(namespace, _), _| **namespace != *name);
    }

    /// Transfers the pending deliveries of a deleted hook to the hook that has its name now.
    pub(super) fn transfer(&mut self, old: HookId, new: HookId) {
        if old.uid == new.uid {
            return;
        }
        self.drop_queue(&old.uid);
        // The store ends its hold as part of the transfer.
        self.held.remove(&old.uid);
        let (store, handle) = (self.store.clone(), self.handle.clone());
        self.tasks.spawn(async move {
            loop {
                match store.transfer_pending(&old, &new, Millis::now()).await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        tracing::warn!(hook = %new.name, %error, "transfer of a deleted hook's pending deliveries failed, the next start retries");
                        break;
                    }
                }
            }
            // The new hook's filter may be able to decide the undecided deliveries.
            retry_undecided(store, handle, vec![new.uid]).await;
        });
    }
}

/// Ends every pending delivery of a deleted hook. Returns false if the store failed.
async fn end_backlog(store: &dyn DispatchStore, metrics: &Metrics, uid: &str) -> bool {
    let (any_time, limit) = (Millis(i64::MAX), ReadLimit { rows: END_BATCH, ..CHUNK });
    while let Ok(due) = store.due(uid, any_time, HashSet::new(), limit).await {
        if due.pending.is_empty() {
            return true;
        }
        let (at, next) = (Millis::now(), NextStep::Dead { reason: DeliveryReason::HookDeleted });
        let dead = due.pending.into_iter().map(|PendingDelivery { seq: delivery, .. }| Settlement {
            delivery,
            at,
            attempt: None,
            next,
            progress: None,
        });
        let Ok(ended) = store.settle_many(dead.collect()).await else { return false };
        ended.iter().for_each(|_| metrics.record_finished("dead", Some(DeliveryReason::HookDeleted)));
    }
    false
}
