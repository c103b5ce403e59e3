//! Loads the state that earlier processes left: backlogs, and holds that began or ended while no process ran.

use super::Dispatcher;
use super::health::evaluate_hold;
use super::queue::HookQueue;
use super::undecided::retry_undecided;
use crate::worker::store::StoreError;

impl Dispatcher {
    /// Creates queues only for hooks that have a backlog or need a report.
    pub(super) async fn load_backlogs(&mut self) -> Result<(), StoreError> {
        self.held = self.store.held_hooks().await?.into_iter().map(|hook| hook.uid).collect();
        let mut with_backlog = Vec::new();
        for backlog in self.store.backlog().await? {
            let uid = backlog.hook.uid.clone();
            self.timers.set(backlog.next_due, &uid);
            with_backlog.push(uid.clone());
            self.queues.entry(uid).or_default().hook = Some(backlog.hook);
        }
        // The specs may have changed while no process ran.
        self.tasks.spawn(retry_undecided(self.store.clone(), self.handle.clone(), with_backlog));
        for hook in self.index.all() {
            let uid = &hook.id.uid;
            let is_held = evaluate_hold(Some(&hook), &HookQueue::default()).is_some();
            if !is_held && hook.reported_held {
                self.queues.entry(uid.clone()).or_default().reported = Some((false, "Held"));
            }
            if is_held || self.held.contains(uid) || self.queues.contains_key(uid) {
                self.queues.entry(uid.clone()).or_default();
                self.hook_changed(uid);
            }
        }
        Ok(())
    }
}
