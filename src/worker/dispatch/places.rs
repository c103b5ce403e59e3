//! Places for attempts under way, which all hooks share: who finds none waits, and those who wait take turns.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Dispatcher;

/// So many places.
pub struct Places {
    free: usize,
    most: usize,
    /// Hooks that could send, in the order in which they came.
    waiting: VecDeque<Arc<str>>,
}

impl Places {
    pub fn new(most: usize) -> Self {
        Places { free: most, most, waiting: VecDeque::new() }
    }

    /// There is none: a hook that could send is to `wait`.
    pub fn are_taken(&self) -> bool {
        self.free == 0
    }

    pub fn take(&mut self) {
        self.free = self.free.saturating_sub(1);
    }

    pub fn wait(&mut self, uid: Arc<str>) {
        self.waiting.push_back(uid);
    }

    pub fn give_back(&mut self) {
        self.free = (self.free + 1).min(self.most);
    }

    /// Whose turn it is, while there is a place.
    pub fn next(&mut self) -> Option<Arc<str>> {
        if self.free > 0 { self.waiting.pop_front() } else { None }
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.most - self.free
    }
}

impl Dispatcher {
    /// An attempt is over. Its place goes to the hook that has waited for one the longest, and not to its own hook, which
    /// may have a backlog that would never let another in.
    pub(super) fn ended(&mut self, uid: Arc<str>) {
        self.places.give_back();
        if let Some(queue) = self.queues.get_mut(&uid) {
            queue.in_flight = queue.in_flight.saturating_sub(1);
            queue.to_be_looked_at = true;
        }
        while let Some(waiting) = self.places.next() {
            if let Some(queue) = self.queues.get_mut(&waiting) {
                queue.crowded = false;
            }
            self.pump(&waiting);
        }
        self.to_look_at.push(uid);
    }

    /// Lets the hooks that may have got room go on.
    pub(super) fn go_on(&mut self) {
        let mut hooks = std::mem::take(&mut self.to_look_at);
        hooks.dedup();
        for uid in hooks.drain(..) {
            if let Some(queue) = self.queues.get_mut(&uid) {
                queue.to_be_looked_at = false;
            }
            self.pump(&uid);
            self.tidy(&uid);
        }
        self.to_look_at = hooks;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_comes_before_who_gives_back() {
        let mut places = Places::new(2);
        places.take();
        assert!(!places.are_taken());
        places.take();
        assert!(places.are_taken());
        places.wait("slow".into());
        places.wait("other".into());
        assert_eq!(places.next(), None, "there is no place");
        places.give_back();
        assert_eq!(places.next().as_deref(), Some("slow"));
        places.take();
        places.wait("slow".into());
        places.give_back();
        assert_eq!(
            places.next().as_deref(),
            Some("other"),
            "each in its turn, however much the first one has"
        );
        assert_eq!(places.taken(), 1);
    }
}
