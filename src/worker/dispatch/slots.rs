//! In-flight slots: the number of concurrent attempts is bounded over all hooks. Hooks that find no slot queue for one.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Dispatcher;

/// The in-flight slots of all hooks.
pub struct AttemptSlots {
    free: usize,
    capacity: usize,
    /// Hooks with ready deliveries that found no free slot, in order of arrival.
    waiting: VecDeque<Arc<str>>,
}

impl AttemptSlots {
    pub fn new(capacity: usize) -> Self {
        AttemptSlots { free: capacity, capacity, waiting: VecDeque::new() }
    }

    /// True if no slot is free. The caller then calls `enqueue`.
    pub fn is_exhausted(&self) -> bool {
        self.free == 0
    }

    /// Takes a free slot.
    pub fn acquire(&mut self) {
        self.free = self.free.saturating_sub(1);
    }

    /// Adds a hook to the queue for free slots.
    pub fn enqueue(&mut self, uid: Arc<str>) {
        self.waiting.push_back(uid);
    }

    /// Frees a slot.
    pub fn release(&mut self) {
        self.free = (self.free + 1).min(self.capacity);
    }

    /// Removes and returns the hook that has waited longest, if a slot is free.
    pub fn next_waiting(&mut self) -> Option<Arc<str>> {
        if self.free > 0 { self.waiting.pop_front() } else { None }
    }

    /// Returns the number of attempts in flight.
    pub fn in_flight(&self) -> usize {
        self.capacity - self.free
    }
}

impl Dispatcher {
    /// Releases the slot of an ended attempt. Gives it to the hook that has waited longest and not back to the same hook.
    /// Otherwise one large backlog could starve all other hooks.
    pub(super) fn release_slot(&mut self, uid: Arc<str>) {
        self.slots.release();
        if let Some(queue) = self.queues.get_mut(&uid) {
            queue.in_flight = queue.in_flight.saturating_sub(1);
            queue.is_marked = true;
        }
        while let Some(waiting) = self.slots.next_waiting() {
            if let Some(queue) = self.queues.get_mut(&waiting) {
                queue.is_waiting_for_slot = false;
            }
            self.dispatch_ready(&waiting);
        }
        self.to_dispatch.push(uid);
    }

    /// Dispatches the hooks that the current batch of commands marked.
    pub(super) fn dispatch_marked(&mut self) {
        let mut hooks = std::mem::take(&mut self.to_dispatch);
        hooks.dedup();
        for uid in hooks.drain(..) {
            if let Some(queue) = self.queues.get_mut(&uid) {
                queue.is_marked = false;
            }
            self.dispatch_ready(&uid);
            self.drop_if_idle(&uid);
        }
        self.to_dispatch = hooks;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_slot_goes_to_the_hook_that_waits_longest() {
        let mut slots = AttemptSlots::new(2);
        slots.acquire();
        assert!(!slots.is_exhausted());
        slots.acquire();
        assert!(slots.is_exhausted());
        slots.enqueue("slow".into());
        slots.enqueue("other".into());
        assert_eq!(slots.next_waiting(), None, "no slot is free");
        slots.release();
        assert_eq!(slots.next_waiting().as_deref(), Some("slow"));
        slots.acquire();
        slots.enqueue("slow".into());
        slots.release();
        assert_eq!(
            slots.next_waiting().as_deref(),
            Some("other"),
            "the hooks alternate, whatever the backlog of the first"
        );
        assert_eq!(slots.in_flight(), 1);
    }
}
