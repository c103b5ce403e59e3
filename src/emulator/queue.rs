//! Bounded queues, one for each receiver. One task drains each queue and ends when the queue is empty.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::hash::Hash;

use parking_lot::Mutex;

/// The most items of a queue: the default of Kong's queue library. Auth0 publishes no number.
const MAX_QUEUED: usize = 10_000;
/// The most bytes of a queue. A bound of the emulator, because 10,000 large events would not fit into memory.
const MAX_QUEUED_BYTES: usize = 64 << 20;

struct Queue<T> {
    items: VecDeque<(T, usize)>,
    bytes: usize,
}

impl<T> Queue<T> {
    fn pop(&mut self) -> Option<T> {
        let (item, bytes) = self.items.pop_front()?;
        self.bytes -= bytes;
        Some(item)
    }

    /// Adds an item and returns the oldest items, which are removed to keep the bounds.
    fn push(&mut self, item: T, bytes: usize) -> Vec<T> {
        self.bytes += bytes;
        self.items.push_back((item, bytes));
        let mut dropped = Vec::new();
        while self.items.len() > MAX_QUEUED || (self.bytes > MAX_QUEUED_BYTES && self.items.len() > 1) {
            dropped.extend(self.pop());
        }
        dropped
    }
}

/// Queues by key. A key exists as long as a task drains its queue.
pub(super) struct DeliveryQueues<K, T>(Mutex<HashMap<K, Queue<T>>>);

impl<K, T> Default for DeliveryQueues<K, T> {
    fn default() -> Self {
        DeliveryQueues(Mutex::default())
    }
}

/// The result of adding an item to a queue.
pub(super) struct Pushed<T> {
    /// No task drains this queue yet: the caller must start one that calls `next` until it returns `None`.
    pub is_idle: bool,
    /// The oldest items, removed because the queue was full.
    pub dropped: Vec<T>,
}

impl<K: Eq + Hash, T> DeliveryQueues<K, T> {
    /// Adds an item of `bytes` bytes to the queue of `key`.
    pub fn push(&self, key: K, item: T, bytes: usize) -> Pushed<T> {
        match self.0.lock().entry(key) {
            Entry::Occupied(mut queue) => {
                Pushed { is_idle: false, dropped: queue.get_mut().push(item, bytes) }
            }
            Entry::Vacant(entry) => {
                let queue = entry.insert(Queue { items: VecDeque::new(), bytes: 0 });
                Pushed { is_idle: true, dropped: queue.push(item, bytes) }
            }
        }
    }

    /// Removes and returns the oldest item. Removes an empty queue under the same lock, so that a concurrent `push`
    /// reports an idle queue and no item is stranded without a task.
    pub fn next(&self, key: &K) -> Option<T> {
        let mut queues = self.0.lock();
        let item = queues.get_mut(key).and_then(Queue::pop);
        if item.is_none() {
            queues.remove(key);
        }
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_queue_keeps_newest_items() {
        let mut queue = Queue { items: VecDeque::new(), bytes: 0 };
        let mut push = |size: usize| {
            queue.push((), size);
            (queue.items.len(), queue.bytes)
        };
        assert_eq!(push(MAX_QUEUED_BYTES + 1), (1, MAX_QUEUED_BYTES + 1));
        assert_eq!(push(1), (1, 1));
        let last = (0..MAX_QUEUED).map(|_| push(2)).last();
        assert_eq!(last, Some((MAX_QUEUED, 2 * MAX_QUEUED)));
    }

    #[test]
    fn reports_idle_once_until_drained() {
        let queues = DeliveryQueues::default();
        assert!(queues.push("a", 1, 1).is_idle);
        assert!(!queues.push("a", 2, 1).is_idle);
        assert!(queues.push("b", 3, 1).is_idle);
        assert_eq!((queues.next(&"a"), queues.next(&"a"), queues.next(&"a")), (Some(1), Some(2), None));
        assert!(queues.push("a", 4, 1).is_idle);
    }
}
