//! A bounded queue that divides a few slots fairly between namespaces.
//!
//! Pure: the caller holds the lock and executes what is returned. The next slot goes to the namespace that occupies the
//! fewest slots; of these to the one whose last start is the longest ago. Within a namespace, the order is first in,
//! first out. If the queue is full, the namespace with the most waiting entries loses its newest one, so that no
//! namespace can keep others out.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// The queue, and the number of occupied slots.
pub(in super::super) struct FairQueue<T> {
    namespaces: HashMap<Arc<str>, NamespaceQueue<T>>,
    free_slots: usize,
    queued: usize,
    max_queued: usize,
    /// Counts starts.
    starts: u64,
}

/// A namespace that occupies a slot or waits for one.
struct NamespaceQueue<T> {
    waiting: VecDeque<T>,
    occupied: usize,
    /// The value of `starts` at its last start.
    last_start: u64,
}

impl<T> FairQueue<T> {
    pub(in super::super) fn new(slots: usize, max_queued: usize) -> Self {
        FairQueue { namespaces: HashMap::new(), free_slots: slots, queued: 0, max_queued, starts: 0 }
    }

    /// Adds an entry. Returns the entry that has no place: none, another namespace's newest one, or this one.
    pub(in super::super) fn push(&mut self, namespace: &Arc<str>, entry: T) -> Option<T> {
        let mut rejected = None;
        if self.queued >= self.max_queued {
            let own = self.namespaces.get(namespace).map_or(0, |queue| queue.waiting.len());
            let largest = self.namespaces.values_mut().max_by_key(|queue| queue.waiting.len());
            // The other namespace must have more than this one after the exchange. Otherwise two namespaces with equally
            // many entries would reject each other's in turn.
            match largest.filter(|largest| largest.waiting.len() > own + 1) {
                Some(largest) => rejected = largest.waiting.pop_back(),
                None => return Some(entry),
            }
            self.queued -= 1;
        }
        self.queued += 1;
        // A namespace that begins comes before those that started last, and after those that have waited for longer.
        let last_start = self.starts.saturating_sub(1);
        let queue = self.namespaces.entry(namespace.clone()).or_insert_with(|| NamespaceQueue {
            waiting: VecDeque::new(),
            occupied: 0,
            last_start,
        });
        queue.waiting.push_back(entry);
        rejected
    }

    /// Occupies a slot with the next entry. None: no slot is free, or no entry waits.
    pub(in super::super) fn start_next(&mut self) -> Option<(Arc<str>, T)> {
        if self.free_slots == 0 {
            return None;
        }
        let waiting = self.namespaces.iter_mut().filter(|(_, queue)| !queue.waiting.is_empty());
        let (namespace, queue) = waiting.min_by_key(|(_, queue)| (queue.occupied, queue.last_start))?;
        let entry = queue.waiting.pop_front()?;
        self.starts += 1;
        queue.last_start = self.starts;
        queue.occupied += 1;
        self.queued -= 1;
        self.free_slots -= 1;
        Some((namespace.clone(), entry))
    }

    /// Releases a slot that the namespace occupied.
    pub(in super::super) fn finish(&mut self, namespace: &str) {
        let Some(queue) = self.namespaces.get_mut(namespace) else { return };
        queue.occupied -= 1;
        self.free_slots += 1;
        if queue.occupied == 0 && queue.waiting.is_empty() {
            self.namespaces.remove(namespace);
        }
    }

    /// Removes and returns all entries that wait.
    pub(in super::super) fn drain(&mut self) -> Vec<T> {
        self.queued = 0;
        let drained = self.namespaces.values_mut().flat_map(|queue| queue.waiting.drain(..)).collect();
        self.namespaces.retain(|_, queue| queue.occupied > 0);
        drained
    }

    /// Returns the number of entries that wait.
    #[cfg(test)]
    pub(in super::super) fn queued(&self) -> usize {
        self.queued
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(n: u32) -> Arc<str> {
        format!("n{n}").into()
    }

    #[test]
    fn a_namespace_waits_for_one_read_of_a_busy_neighbour() {
        let mut queue = FairQueue::new(2, 100);
        for n in 0..8 {
            assert_eq!(queue.push(&name(1), n), None);
        }
        assert_eq!(queue.start_next(), Some((name(1), 0)), "alone, it uses every slot");
        assert_eq!(queue.start_next(), Some((name(1), 1)));
        assert_eq!(queue.start_next(), None, "no slot is free");
        queue.push(&name(2), 100);
        queue.push(&name(2), 101);
        queue.finish("n1");
        assert_eq!(queue.start_next(), Some((name(2), 100)), "it has fewer slots");
        queue.finish("n1");
        assert_eq!(queue.start_next(), Some((name(1), 2)), "first in, first out");
        queue.finish("n2");
        assert_eq!(queue.start_next(), Some((name(2), 101)));
    }

    #[test]
    fn a_full_queue_rejects_the_newest_entry_of_the_largest_namespace() {
        let mut queue = FairQueue::new(0, 4);
        for n in 0..4 {
            assert_eq!(queue.push(&name(1), n), None);
        }
        assert_eq!(queue.push(&name(1), 4), Some(4), "its own");
        assert_eq!(queue.push(&name(2), 10), Some(3));
        assert_eq!(queue.push(&name(2), 11), Some(2));
        assert_eq!(queue.push(&name(2), 12), Some(12), "both have the same number");
        let rejected = queue.push(&name(3), 20);
        assert!(matches!(rejected, Some(1 | 11)), "{rejected:?}");
        assert_eq!(queue.queued(), 4);
        let mut drained = queue.drain();
        drained.extend(rejected);
        drained.sort_unstable();
        assert_eq!((drained, queue.queued()), (vec![0, 1, 10, 11, 20], 0));
    }

    proptest! {
        /// However entries come and end: every slot is used, the bound is kept, no entry is lost, and a namespace that
        /// waits starts at most once less often than any other.
        #[test]
        fn slots_are_divided_fairly(
            steps in prop::collection::vec((0..4_u32, any::<bool>()), 1..200),
            slots in 1..4_usize,
        ) {
            const MAX: usize = 20;
            let mut queue = FairQueue::new(slots, MAX);
            let (mut running, mut known) = (VecDeque::<Arc<str>>::new(), 0_usize);
            for (entry, (namespace, adds)) in steps.into_iter().enumerate() {
                if adds {
                    known += usize::from(queue.push(&name(namespace), entry).is_none());
                } else if let Some(namespace) = running.pop_front() {
                    queue.finish(&namespace);
                    known -= 1;
                }
                while let Some((namespace, _)) = queue.start_next() {
                    running.push_back(namespace);
                }
                prop_assert!(queue.queued() <= MAX && running.len() <= slots);
                prop_assert_eq!(queue.queued() + running.len(), known);
                prop_assert!(running.len() == slots || queue.queued() == 0);
            }
            // Every namespace has more to do than the rest of the test.
            queue.drain();
            running.drain(..).for_each(|namespace| queue.finish(&namespace));
            let mut queue = FairQueue::new(slots, 400);
            (0..400).for_each(|entry| assert_eq!(queue.push(&name(entry % 4), entry), None));
            let mut starts = HashMap::<Arc<str>, i32>::new();
            for _ in 0..200 {
                while let Some((namespace, _)) = queue.start_next() {
                    *starts.entry(namespace.clone()).or_default() += 1;
                    running.push_back(namespace);
                }
                let namespace = running.pop_front().unwrap();
                queue.finish(&namespace);
                let (least, most) = (starts.values().min().unwrap(), starts.values().max().unwrap());
                prop_assert!(starts.len() < 4 || most - least <= 1, "{starts:?}");
            }
        }
    }
}
