//! Places for attempts under way, which all hooks share: who finds none waits, and those who wait take turns.

use std::collections::VecDeque;
use std::sync::Arc;

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
