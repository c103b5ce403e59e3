//! What is still to be said of hooks: the newest word of each. However long nobody can be told, it costs a word a hook.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Words by a hook's uid. One takes them; whoever puts them never waits.
pub struct Outbox<T> {
    waiting: Mutex<Waiting<T>>,
    came: Notify,
}

struct Waiting<T> {
    /// The hooks of which something is to be said, each once, in the order in which that began.
    turns: VecDeque<Arc<str>>,
    words: HashMap<Arc<str>, T>,
}

impl<T> Default for Outbox<T> {
    fn default() -> Self {
        let waiting = Waiting { turns: VecDeque::new(), words: HashMap::new() };
        Outbox { waiting: Mutex::new(waiting), came: Notify::new() }
    }
}

impl<T> Outbox<T> {
    /// Leaves a word. An older one of the same hook that waits is not said any more.
    pub fn put(&self, uid: &Arc<str>, word: T) {
        let mut waiting = self.waiting.lock();
        if waiting.words.insert(uid.clone(), word).is_none() {
            waiting.turns.push_back(uid.clone());
        }
        self.came.notify_one();
    }

    /// Brings back what could not be said, unless something newer came meanwhile.
    pub fn put_back(&self, uid: &Arc<str>, word: T) {
        let mut waiting = self.waiting.lock();
        if !waiting.words.contains_key(uid) {
            waiting.words.insert(uid.clone(), word);
            waiting.turns.push_back(uid.clone());
        }
        self.came.notify_one();
    }

    /// The next words, at most so many; waits until there is one.
    pub async fn take(&self, most: usize) -> Vec<(Arc<str>, T)> {
        loop {
            let taken = self.waiting.lock().take(most);
            if !taken.is_empty() {
                return taken;
            }
            self.came.notified().await;
        }
    }
}

impl<T> Waiting<T> {
    fn take(&mut self, most: usize) -> Vec<(Arc<str>, T)> {
        let turns = self.turns.drain(..most.min(self.turns.len()));
        turns.filter_map(|uid| self.words.remove(&uid).map(|word| (uid, word))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uids() -> [Arc<str>; 3] {
        ["a".into(), "b".into(), "c".into()]
    }

    #[tokio::test]
    async fn the_newest_word_of_each_in_turn() {
        let outbox = Outbox::default();
        let [a, b, c] = uids();
        for word in 0..10_000 {
            outbox.put(&a, word);
            outbox.put(&b, -word);
        }
        outbox.put(&c, 7);
        assert_eq!(outbox.waiting.lock().words.len(), 3, "a word a hook, however often it changed");
        assert_eq!(outbox.waiting.lock().turns.len(), 3);
        assert_eq!(outbox.take(2).await, [(a, 9999), (b, -9999)]);
        assert_eq!(outbox.take(2).await, [(c, 7)]);
    }

    #[tokio::test]
    async fn what_comes_back_does_not_take_the_place_of_what_is_newer() {
        let outbox = Outbox::default();
        let [a, b, _] = uids();
        outbox.put(&a, "old");
        outbox.put(&b, "old");
        outbox.take(2).await;
        outbox.put(&a, "new");
        outbox.put_back(&a, "old");
        outbox.put_back(&b, "old");
        assert_eq!(outbox.take(9).await, [(a, "new"), (b, "old")]);
    }

    #[tokio::test]
    async fn whoever_takes_waits_for_a_word() {
        let outbox = Outbox::default();
        let [a, ..] = uids();
        let (taken, ()) = tokio::join!(outbox.take(1), async {
            tokio::task::yield_now().await;
            outbox.put(&a, 1);
        });
        assert_eq!(taken, [(a.clone(), 1)]);
    }
}
