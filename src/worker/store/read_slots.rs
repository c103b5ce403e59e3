//! The slots of users' queries: few, and divided fairly between namespaces.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::StoreError;
use super::fair_queue::FairQueue;

/// Gets a slot, or an error if the query has no place in the queue.
type SlotSender = oneshot::Sender<Result<ReadSlot, StoreError>>;

/// The slots, and the queries that wait for one.
pub(super) struct ReadSlots(Arc<SlotQueue>);

impl ReadSlots {
    pub(super) fn new(slots: usize, max_queued: usize) -> Self {
        ReadSlots(Arc::new(SlotQueue { queue: Mutex::new(FairQueue::new(slots, max_queued)) }))
    }

    /// Waits for a slot. Fails if too many queries wait and this namespace has the most of them.
    pub(super) async fn acquire(&self, namespace: &str) -> Result<ReadSlot, StoreError> {
        let (sender, slot) = oneshot::channel();
        self.0.push(&namespace.into(), sender);
        slot.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Returns the number of queries that wait for a slot.
    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.0.queue.lock().queued()
    }

    /// Rejects the queries that wait.
    pub(super) fn reject_waiting(&self) {
        let waiting = self.0.queue.lock().drain();
        waiting.into_iter().for_each(|sender| drop(sender.send(Err(StoreError::Closed))));
    }
}

/// The right to run one query.
pub(super) struct ReadSlot {
    queue: Arc<SlotQueue>,
    namespace: Arc<str>,
}

impl Drop for ReadSlot {
    fn drop(&mut self) {
        self.queue.queue.lock().finish(&self.namespace);
        self.queue.grant();
    }
}

struct SlotQueue {
    queue: Mutex<FairQueue<SlotSender>>,
}

impl SlotQueue {
    fn push(self: &Arc<Self>, namespace: &Arc<str>, sender: SlotSender) {
        let rejected = self.queue.lock().push(namespace, sender);
        if let Some(rejected) = rejected {
            drop(rejected.send(Err(StoreError::TooManyReads)));
        }
        self.grant();
    }

    /// Grants the free slots.
    fn grant(self: &Arc<Self>) {
        loop {
            // Sends without the lock, because a slot whose receiver was dropped is returned here, which locks the queue again.
            let next = self.queue.lock().start_next();
            let Some((namespace, sender)) = next else { return };
            drop(sender.send(Ok(ReadSlot { queue: self.clone(), namespace })));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_query_waits_for_a_slot_and_a_full_queue_rejects() {
        let slots = ReadSlots::new(1, 1);
        let first = slots.acquire("a").await.unwrap();
        let mut second = Box::pin(slots.acquire("a"));
        assert!(second.as_mut().now_or_never().is_none());
        assert!(matches!(slots.acquire("a").await, Err(StoreError::TooManyReads)));
        drop(first);
        // A query whose client has disconnected returns its slot.
        drop(second);
        drop(slots.acquire("b").await.unwrap());
        let _held = slots.acquire("b").await.unwrap();
        let waiting = slots.acquire("b");
        let (waiting, ()) = futures::join!(waiting, async { slots.reject_waiting() });
        assert!(matches!(waiting, Err(StoreError::Closed)));
        assert_eq!(slots.queued(), 0);
    }
}
