//! A cache with a bounded number of entries and a time of validity for each, and shared execution of equal calls.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;

/// Values with an expiry. If it is full, a new entry replaces the oldest one.
pub struct TtlCache<K, V> {
    max: usize,
    entries: HashMap<K, Entry<V>>,
    /// Keys in the order of their insertion. A number that differs from the entry's is outdated.
    order: VecDeque<(K, u64)>,
    inserted: u64,
}

struct Entry<V> {
    number: u64,
    until: Instant,
    value: V,
}

impl<K: Clone + Eq + Hash, V: Clone> TtlCache<K, V> {
    pub fn new(max: usize) -> Self {
        TtlCache { max, entries: HashMap::new(), order: VecDeque::new(), inserted: 0 }
    }

    /// Returns the value and its expiry.
    pub fn get(&self, key: &K, now: Instant) -> Option<(V, Instant)> {
        let entry = self.entries.get(key).filter(|entry| entry.until > now)?;
        Some((entry.value.clone(), entry.until))
    }

    pub fn insert(&mut self, key: K, value: V, until: Instant, now: Instant) {
        self.inserted += 1;
        self.order.push_back((key.clone(), self.inserted));
        self.entries.insert(key, Entry { number: self.inserted, until, value });
        while let Some((oldest, number)) = self.order.front() {
            let is_current = self.entries.get(oldest).filter(|entry| entry.number == *number);
            match is_current {
                Some(entry) if entry.until > now && self.entries.len() <= self.max => break,
                Some(_) => {
                    self.entries.remove(oldest);
                }
                None => {}
            }
            self.order.pop_front();
        }
        // A valid first entry keeps the outdated numbers behind it, which keys that are inserted repeatedly would add to
        // without end.
        if self.order.len() > 2 * self.max {
            let entries = &self.entries;
            self.order.retain(|(key, number)| entries.get(key).is_some_and(|entry| entry.number == *number));
        }
    }
}

/// Runs equal calls once. Concurrent callers with the same key share the result.
pub struct SingleFlight<K, V> {
    max: usize,
    running: Arc<Mutex<HashMap<K, SharedResult<V>>>>,
}

type SharedResult<V> = Shared<BoxFuture<'static, Option<V>>>;

/// Removes a call that ended, also if it panicked.
struct Running<K: Eq + Hash, V> {
    calls: Arc<Mutex<HashMap<K, SharedResult<V>>>>,
    key: K,
}

impl<K: Eq + Hash, V> Drop for Running<K, V> {
    fn drop(&mut self) {
        self.calls.lock().remove(&self.key);
    }
}

impl<K, V> SingleFlight<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Runs at most `max` different calls at a time.
    pub fn new(max: usize) -> Self {
        SingleFlight { max, running: Arc::default() }
    }

    /// Returns the result of the running call with this key, or of a new one. Returns None if too many calls run, or if the
    /// call panicked. A call continues if its callers go away, so that the next caller finds its result in the cache.
    pub async fn run<F>(&self, key: K, call: impl FnOnce() -> F) -> Option<V>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let result = {
            let mut running = self.running.lock();
            match running.get(&key) {
                Some(result) => result.clone(),
                None if running.len() >= self.max => return None,
                None => {
                    let guard = Running { calls: Arc::clone(&self.running), key: key.clone() };
                    let call = call();
                    let task = tokio::spawn(async move {
                        let _guard = guard;
                        call.await
                    });
                    let result = task.map(Result::ok).boxed().shared();
                    running.insert(key, result.clone());
                    result
                }
            }
        };
        result.await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::sync::Notify;

    use super::*;

    const TTL: Duration = Duration::from_secs(60);

    #[test]
    fn entries_expire() {
        let (mut cache, now) = (TtlCache::new(10), Instant::now());
        cache.insert("a", 1, now + TTL, now);
        assert_eq!(cache.get(&"a", now), Some((1, now + TTL)));
        assert_eq!(cache.get(&"a", now + TTL), None);
        cache.insert("b", 2, now + TTL * 2, now + TTL);
        assert_eq!((cache.entries.len(), cache.order.len()), (1, 1), "the expired entry is gone");
    }

    #[test]
    fn full_cache_replaces_the_oldest_entry() {
        let (mut cache, now) = (TtlCache::new(3), Instant::now());
        for key in 0..1000 {
            cache.insert(key % 500, key, now + TTL, now);
            assert!(cache.entries.len() <= 3 && cache.order.len() <= 3);
        }
        assert_eq!(cache.get(&499, now).map(|(value, _)| value), Some(999));
        assert_eq!(cache.get(&0, now), None);
    }

    #[test]
    fn replaced_entry_is_as_young_as_its_last_insertion() {
        let (mut cache, now) = (TtlCache::new(2), Instant::now());
        for key in ["a", "b", "a", "c"] {
            cache.insert(key, key, now + TTL, now);
        }
        assert!(cache.get(&"a", now).is_some() && cache.get(&"c", now).is_some());
        assert!(cache.get(&"b", now).is_none());
    }

    #[test]
    fn repeated_insertions_use_bounded_memory() {
        let (mut cache, now) = (TtlCache::new(10), Instant::now());
        cache.insert("first", 0, now + TTL, now);
        for value in 0..1000 {
            cache.insert("again", value, now + TTL, now);
            assert!(cache.order.len() <= 20);
        }
        assert!(cache.get(&"first", now).is_some() && cache.get(&"again", now).is_some());
    }

    #[tokio::test]
    async fn concurrent_calls_share_one_result() {
        let flight = SingleFlight::new(1);
        let (calls, release) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let call = || {
            let (calls, release) = (calls.clone(), release.clone());
            async move {
                release.notified().await;
                calls.fetch_add(1, Ordering::SeqCst)
            }
        };
        let mut both = std::pin::pin!(futures::future::join(flight.run("a", call), flight.run("a", call)));
        assert!(futures::poll!(&mut both).is_pending());
        assert_eq!(flight.run("b", call).await, None, "the limit of different calls");
        release.notify_one();
        assert_eq!(both.await, (Some(0), Some(0)));
        assert!(flight.running.lock().is_empty());
        release.notify_one();
        assert_eq!(flight.run("a", call).await, Some(1), "later calls run again");
    }

    #[tokio::test]
    async fn call_continues_without_its_callers() {
        let flight = SingleFlight::new(1);
        let (ended, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        {
            let (ended, release) = (ended.clone(), release.clone());
            let mut call = std::pin::pin!(flight.run("a", || async move {
                release.notified().await;
                ended.notify_one();
            }));
            assert!(futures::poll!(&mut call).is_pending());
        }
        release.notify_one();
        ended.notified().await;
    }
}
