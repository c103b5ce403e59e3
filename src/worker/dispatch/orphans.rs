//! Deliveries whose hook is gone: they wait for one of its name, and die after a while.

use std::collections::HashSet;
use std::sync::Arc;

use super::command::Command;
use super::queue::Queue;
use super::{Dispatcher, hold, queue};
use crate::core::time::Millis;
use crate::metrics::Metrics;
use crate::worker::store::{HookId, Most, Next, Pending, Settlement, Store};

impl Dispatcher {
    /// The hook does not exist (any more). What waits for it waits for a while, should one of its name come, then dies.
    pub(super) fn gone(&mut self, uid: &Arc<str>) {
        let Some(queue) = self.queues.get_mut(uid) else { return };
        let now = Millis::now();
        if let Some(id) = queue.id.clone() {
            if let Some(new) = self.named(&id) {
                return self.take_up(id, new.id.clone());
            }
            self.orphans.insert((id.namespace.clone(), id.name.clone()), id);
        }
        let Some(queue) = self.queues.get_mut(uid) else { return };
        let since = *queue.gone_since.get_or_insert(now);
        if now.since(since) < self.grace {
            self.wakes.at(since + self.grace, uid);
            return;
        }
        let (store, handle, metrics, uid) =
            (self.store.clone(), self.handle.clone(), self.metrics.clone(), uid.clone());
        queue.gone_since = None;
        let id = queue.id.clone();
        self.tasks.spawn(async move {
            let command = match (bury(&*store, &metrics, &uid).await, id) {
                (true, Some(id)) => Command::Buried(id),
                // It is tried again later.
                _ => Command::HookChanged(uid),
            };
            handle.commands.send(command).await.ok();
        });
    }

    /// Forgets a hook that is gone for good: else every hook that was ever deleted with a backlog would stay in memory.
    pub(super) fn forget(&mut self, hook: &HookId) {
        if self.routes.get(&hook.uid).is_some() {
            return;
        }
        self.drop_queue(&hook.uid);
        // Nothing of it waits: should its uid come back, as in standalone, ages run.
        hold::note(&mut self.held, &self.reports, hook, false);
        let name = (hook.namespace.clone(), hook.name.clone());
        if self.orphans.get(&name) == Some(hook) {
            self.orphans.remove(&name);
        }
    }

    /// Forgets what waited for hooks of a namespace that ended: a hook of the next one must not take it up.
    pub(super) fn namespace_ended(&mut self, name: &str) {
        let old = |id: &HookId| *id.namespace == *name && self.routes.get(&id.uid).is_none();
        let hooks: Vec<HookId> =
            self.queues.values().filter_map(|queue| queue.id.clone()).filter(old).collect();
        for hook in &hooks {
            let freed = self.queues.get_mut(&hook.uid).map_or(0, Queue::hold);
            self.waiting_bytes = self.waiting_bytes.saturating_sub(freed);
            self.forget(hook);
        }
        self.orphans.retain(|(namespace, _), _| **namespace != *name);
    }

    /// What waits for a deleted hook becomes that of the hook which now has its name.
    pub(super) fn take_up(&mut self, old: HookId, new: HookId) {
        if old.uid == new.uid {
            return;
        }
        self.drop_queue(&old.uid);
        // The store ends its hold with the rest of it.
        self.held.remove(&old.uid);
        let (store, handle) = (self.store.clone(), self.handle.clone());
        self.tasks.spawn(async move {
            loop {
                match store.take_up(&old, &new, Millis::now()).await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        tracing::warn!(hook = %new.name, %error, "what waited for the deleted hook of this name could not be taken up; it is tried again at the next start");
                        break;
                    }
                }
            }
            // Its filter may be another, too.
            super::decide_again(store, handle, vec![new.uid]).await;
        });
    }
}

/// Ends every pending delivery of a hook that is gone for good. False: the store could not do it.
async fn bury(store: &dyn Store, metrics: &Metrics, uid: &str) -> bool {
    let (far, most) = (Millis(i64::MAX), Most { rows: 256, ..queue::MOST });
    while let Ok(due) = store.due(uid, far, HashSet::new(), most).await {
        if due.pending.is_empty() {
            return true;
        }
        let (at, next) = (Millis::now(), Next::Dead { reason: "HookDeleted" });
        let dead = due.pending.into_iter().map(|Pending { seq: delivery, .. }| Settlement {
            delivery,
            at,
            attempt: None,
            next,
            progress: None,
        });
        let Ok(ended) = store.settle_many(dead.collect()).await else { return false };
        ended.iter().for_each(|_| metrics.finished("dead", "HookDeleted"));
    }
    false
}
