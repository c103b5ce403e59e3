//! The hooks whose deliveries this process sends. With several workers, each hook belongs to one of them.

use std::sync::Arc;

use super::command::{DispatchCommand, DispatchHandle};
use super::effect::Effect;
use super::machine::DispatchMachine;
use super::time::Now;
use crate::worker::store::{DispatchNotice, DispatchStore, HookBacklog, HookId, StoreError};

impl DispatchMachine {
    /// True if as many deliveries of the hook are in flight as it allows, here and at its former owners.
    pub(super) fn is_saturated(&self, uid: &str, in_flight: usize, concurrency: usize) -> bool {
        in_flight.saturating_add(self.ownership.in_flight_elsewhere(uid)) >= concurrency
    }

    /// Takes over the hooks that this process owns now, and gives up those of other workers.
    pub fn change_ownership(
        &mut self,
        held: Vec<HookId>,
        backlogs: Vec<HookBacklog>,
        now: Now,
    ) -> Vec<Effect> {
        let mut effects = self.start(held, backlogs, now);
        let all: Vec<_> = self.queues.keys().cloned().collect();
        all.iter().for_each(|uid| self.mark(uid));
        self.dispatch_marked(now);
        effects.append(&mut self.effects);
        effects
    }

    /// Returns the epoch under which this process sends the hook's deliveries. None: gives up what it has of them, because another
    /// worker reads them from the store. Attempts in flight end here.
    pub(super) fn owned_epoch(&mut self, uid: &Arc<str>) -> Option<i64> {
        if let Some(epoch) = self.ownership.epoch(uid) {
            return Some(epoch);
        }
        self.unload_all(uid);
        self.memory.pool.stop_waiting(uid);
        let queue = self.queues.get_mut(uid)?;
        // What is recorded is for the next owner: it must not be removed with the queue. If the hook comes back, it is read again.
        queue.pacing_epoch = None;
        queue.has_more_on_disk = false;
        queue.release_all_postponed();
        // If the hook comes back, report again: a write of before may have been dropped.
        queue.reported = None;
        // A claim of an outcome that is not committed: the hook may come back before.
        if queue.in_flight == 0 && queue.claimed.is_empty() {
            self.drop_queue(uid);
            self.effects.push(Effect::Disown(uid.clone()));
        }
        None
    }
}

/// Reports the changes of other workers to the dispatcher. Never ends.
pub async fn follow(store: Arc<dyn DispatchStore>, handle: DispatchHandle) {
    loop {
        match store.next_notice().await {
            DispatchNotice::Due(backlogs) => {
                for backlog in backlogs {
                    handle.notify_hook(backlog.hook).await;
                }
            }
            DispatchNotice::DueHooks(uids) => {
                for uid in uids {
                    handle.notify_due(uid).await;
                }
            }
            DispatchNotice::Changed(deliveries) => {
                for (hook, seq) in deliveries {
                    handle.delivery_changed(hook, seq).await;
                }
            }
            DispatchNotice::OwnershipChanged => match read(&*store).await {
                Ok((held, backlogs)) => {
                    handle.send(DispatchCommand::OwnershipChanged { held, backlogs }).await;
                }
                // Later notices of due deliveries follow.
                Err(error) => tracing::warn!(%error, "read of the hooks of this worker failed"),
            },
        }
    }
}

async fn read(store: &dyn DispatchStore) -> Result<(Vec<HookId>, Vec<HookBacklog>), StoreError> {
    Ok((store.held_hooks().await?, store.backlog().await?))
}
