//! A coalescing queue: keeps only the latest update of each hook. The number of hooks bounds its memory, even if the
//! consumer is blocked for long.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Latest update by hook uid. Multi-producer, single-consumer; `push` never blocks.
pub struct CoalescingQueue<T> {
    state: Mutex<QueueState<T>>,
    available: Notify,
}

struct QueueState<T> {
    /// Hooks with an update, each once, oldest first.
    order: VecDeque<Arc<str>>,
    updates: HashMap<Arc<str>, T>,
}

impl<T> Default for CoalescingQueue<T> {
    fn default() -> Self {
        let state = QueueState { order: VecDeque::new(), updates: HashMap::new() };
        CoalescingQueue { state: Mutex::new(state), available: Notify::new() }
    }
}

impl<T> CoalescingQueue<T> {
    /// Queues an update. Replaces an older update of the same hook and keeps its place in the order.
    pub fn push(&self, uid: &Arc<str>, update: T) {
        let mut state = self.state.lock();
        if state.updates.insert(uid.clone(), update).is_none() {
            state.order.push_back(uid.clone());
        }
        self.available.notify_one();
    }

    /// Returns an update that could not be delivered, unless a newer one has been queued since.
    pub fn requeue(&self, uid: &Arc<str>, update: T) {
        let mut state = self.state.lock();
        if !state.updates.contains_key(uid) {
            state.updates.insert(uid.clone(), update);
            state.order.push_back(uid.clone());
        }
        self.available.notify_one();
    }

    /// Drops the update of a hook, if there is one.
    pub fn remove(&self, uid: &str) {
        let mut state = self.state.lock();
        if state.updates.remove(uid).is_some() {
            state.order.retain(|queued| **queued != *uid);
        }
    }

    /// Removes the oldest updates, at most `limit`. Waits until there is one.
    pub async fn pop(&self, limit: usize) -> Vec<(Arc<str>, T)> {
        loop {
            let updates = self.state.lock().pop(limit);
            if !updates.is_empty() {
                return updates;
            }
            self.available.notified().await;
        }
    }
}

impl<T> QueueState<T> {
    fn pop(&mut self, limit: usize) -> Vec<(Arc<str>, T)> {
        let uids = self.order.drain(..limit.min(self.order.len()));
        uids.filter_map(|uid| self.updates.remove(&uid).map(|update| (uid, update))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uids() -> [Arc<str>; 3] {
        ["a".into(), "b".into(), "c".into()]
    }

    #[tokio::test]
    async fn keeps_the_latest_update_of_each_hook_in_order() {
        let queue = CoalescingQueue::default();
        let [a, b, c] = uids();
        for update in 0..10_000 {
            queue.push(&a, update);
            queue.push(&b, -update);
        }
        queue.push(&c, 7);
        assert_eq!(queue.state.lock().updates.len(), 3, "one update a hook, however often it changed");
        assert_eq!(queue.state.lock().order.len(), 3);
        assert_eq!(queue.pop(2).await, [(a, 9999), (b, -9999)]);
        assert_eq!(queue.pop(2).await, [(c, 7)]);
    }

    #[tokio::test]
    async fn requeue_does_not_replace_a_newer_update() {
        let queue = CoalescingQueue::default();
        let [a, b, _] = uids();
        queue.push(&a, "old");
        queue.push(&b, "old");
        queue.pop(2).await;
        queue.push(&a, "new");
        queue.requeue(&a, "old");
        queue.requeue(&b, "old");
        assert_eq!(queue.pop(9).await, [(a, "new"), (b, "old")]);
    }

    #[tokio::test]
    async fn a_removed_update_is_not_returned() {
        let queue = CoalescingQueue::default();
        let [a, b, c] = uids();
        queue.push(&a, 1);
        queue.push(&b, 2);
        queue.remove(&a);
        queue.remove(&c);
        queue.push(&a, 3);
        assert_eq!(queue.pop(9).await, [(b, 2), (a, 3)]);
    }

    #[tokio::test]
    async fn pop_waits_for_an_update() {
        let queue = CoalescingQueue::default();
        let [a, ..] = uids();
        let (updates, ()) = tokio::join!(queue.pop(1), async {
            tokio::task::yield_now().await;
            queue.push(&a, 1);
        });
        assert_eq!(updates, [(a.clone(), 1)]);
    }
}
