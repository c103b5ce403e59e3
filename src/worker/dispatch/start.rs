//! What a start finds: backlogs, and holds that began or ended while no process looked.

use super::queue::Queue;
use super::undecided::decide_again;
use super::{Dispatcher, hold};
use crate::worker::store::StoreError;

impl Dispatcher {
    /// Makes a queue for every hook that has a backlog or about which something is to be said, and for no other.
    pub(super) async fn take_stock(&mut self) -> Result<(), StoreError> {
        self.held = self.store.held().await?.into_iter().map(|hook| hook.uid).collect();
        let mut waiting = Vec::new();
        for backlog in self.store.backlog().await? {
            let uid = backlog.hook.uid.clone();
            self.wakes.at(backlog.next_due, &uid);
            waiting.push(uid.clone());
            self.queues.entry(uid).or_default().id = Some(backlog.hook);
        }
        // The specs may be others than before the start.
        self.tasks.spawn(decide_again(self.store.clone(), self.handle.clone(), waiting));
        for known in self.routes.all() {
            let uid = &known.id.uid;
            let held = hold::hold(Some(&known), &Queue::default()).is_some();
            if !held && known.told_held {
                self.queues.entry(uid.clone()).or_default().told = Some((false, "Held"));
            }
            if held || self.held.contains(uid) || self.queues.contains_key(uid) {
                self.queues.entry(uid.clone()).or_default();
                self.hook_changed(uid);
            }
        }
        Ok(())
    }
}
