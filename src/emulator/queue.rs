//! Bounded queues, one a receiver, each worked off by a task of its own that ends with it.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::hash::Hash;

use parking_lot::Mutex;

/// Kong's queue library holds so many by default; nothing is published for Auth0.
const MAX_QUEUED: usize = 10_000;
/// Ours: ten thousand large events would not fit into memory.
const MAX_QUEUED_BYTES: usize = 64 << 20;

struct Queue<T> {
    waiting: VecDeque<(T, usize)>,
    bytes: usize,
}

impl<T> Queue<T> {
    fn pop(&mut self) -> Option<T> {
        let (item, bytes) = self.waiting.pop_front()?;
        self.bytes -= bytes;
        Some(item)
    }

    /// Adds one, and takes out the oldest where there are too many.
    fn push(&mut self, item: T, bytes: usize) -> Vec<T> {
        self.bytes += bytes;
        self.waiting.push_back((item, bytes));
        let mut dropped = Vec::new();
        while self.waiting.len() > MAX_QUEUED || (self.bytes > MAX_QUEUED_BYTES && self.waiting.len() > 1) {
            dropped.extend(self.pop());
        }
        dropped
    }
}

/// Queues by key. A key is there as long as a task works its queue off.
pub(super) struct Queues<K, T>(Mutex<HashMap<K, Queue<T>>>);

impl<K, T> Default for Queues<K, T> {
    fn default() -> Self {
        Queues(Mutex::default())
    }
}

/// What became of the queue that something was put into.
pub(super) struct Pushed<T> {
    /// Nobody works it off yet: the caller starts a task that takes `next` until there is none.
    pub idle: bool,
    /// The oldest, which found no room any more.
    pub dropped: Vec<T>,
}

impl<K: Eq + Hash, T> Queues<K, T> {
    pub fn push(&self, key: K, item: T, bytes: usize) -> Pushed<T> {
        match self.0.lock().entry(key) {
            Entry::Occupied(mut queue) => Pushed { idle: false, dropped: queue.get_mut().push(item, bytes) },
            Entry::Vacant(place) => {
                let queue = place.insert(Queue { waiting: VecDeque::new(), bytes: 0 });
                Pushed { idle: true, dropped: queue.push(item, bytes) }
            }
        }
    }

    /// The next one. An empty queue goes under the same lock that found it empty, so that whatever comes right then
    /// starts a new task.
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
    fn a_full_queue_keeps_the_newest() {
        let mut queue = Queue { waiting: VecDeque::new(), bytes: 0 };
        let mut push = |size: usize| {
            queue.push((), size);
            (queue.waiting.len(), queue.bytes)
        };
        assert_eq!(push(MAX_QUEUED_BYTES + 1), (1, MAX_QUEUED_BYTES + 1));
        assert_eq!(push(1), (1, 1));
        let last = (0..MAX_QUEUED).map(|_| push(2)).last();
        assert_eq!(last, Some((MAX_QUEUED, 2 * MAX_QUEUED)));
    }

    #[test]
    fn a_queue_is_started_once_and_ends_empty() {
        let queues = Queues::default();
        assert!(queues.push("a", 1, 1).idle);
        assert!(!queues.push("a", 2, 1).idle);
        assert!(queues.push("b", 3, 1).idle);
        assert_eq!((queues.next(&"a"), queues.next(&"a"), queues.next(&"a")), (Some(1), Some(2), None));
        assert!(queues.push("a", 4, 1).idle);
    }
}
