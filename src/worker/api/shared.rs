//! A value that the responses of a short time share, so that polling clients cost its source no more than one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How old a value may be, and how long a caller waits for a new one.
pub struct Freshness {
    /// A younger value is returned at once.
    pub max_age: Duration,
    /// A younger value is returned if a new one takes longer than `wait_with_older`.
    pub max_older_age: Duration,
    pub wait_with_older: Duration,
    /// How long a caller without such a value waits. None: until the read ends.
    pub wait_without: Option<Duration>,
}

/// The last value and the last failure to read one.
pub struct Shared<T, E> {
    last: Mutex<Option<(Instant, T)>>,
    failure: Mutex<Option<(Instant, E)>>,
    /// Held while it is read.
    reading: tokio::sync::Mutex<()>,
}

impl<T, E> Default for Shared<T, E> {
    fn default() -> Self {
        Shared { last: Mutex::default(), failure: Mutex::default(), reading: tokio::sync::Mutex::default() }
    }
}

impl<T: Clone, E: Clone> Shared<T, E> {
    /// Returns the last value, or a new one if it is older than `max_age`. Concurrent callers share one read. Callers that began
    /// to wait before it failed get its failure: one after the other, they would wait longer than their clients do.
    pub async fn get(&self, max_age: Duration, read: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let requested = Instant::now();
        if let Some(value) = self.last(max_age) {
            return Ok(value);
        }
        let _guard = self.reading.lock().await;
        if let Some(value) = self.last(max_age) {
            return Ok(value);
        }
        if let Some((at, failure)) = &*self.failure.lock()
            && *at >= requested
        {
            return Err(failure.clone());
        }
        let read = read.await;
        match &read {
            Ok(value) => *self.last.lock() = Some((Instant::now(), value.clone())),
            Err(failure) => *self.failure.lock() = Some((Instant::now(), failure.clone())),
        }
        read
    }

    /// Returns the last value, or a new one that is read in a separate task: it goes on when this caller has its answer, and
    /// concurrent callers share it. None: there is no value yet, and the read has not ended in time.
    pub async fn get_or_older<F>(self: &Arc<Self>, freshness: &Freshness, read: F) -> Option<Result<T, E>>
    where
        T: Send + Sync + 'static,
        E: Send + Sync + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let Freshness { max_age, max_older_age, wait_with_older, wait_without } = *freshness;
        if let Some(value) = self.last(max_age) {
            return Some(Ok(value));
        }
        let shared = self.clone();
        let reading = tokio::spawn(async move { shared.get(max_age, read).await });
        let older = self.last(max_older_age);
        let wait = if older.is_some() { Some(wait_with_older) } else { wait_without };
        let read = match wait {
            Some(wait) if wait.is_zero() => None,
            Some(wait) => tokio::time::timeout(wait, reading).await.ok(),
            None => Some(reading.await),
        };
        // A task that did not end was cancelled, because the process stops.
        read.and_then(Result::ok).or(older.map(Ok))
    }

    /// Returns the last value if it is younger than `max_age`.
    pub fn last(&self, max_age: Duration) -> Option<T> {
        let last = self.last.lock();
        last.as_ref().filter(|(at, _)| at.elapsed() < max_age).map(|(_, value)| value.clone())
    }

    #[cfg(test)]
    pub fn set_last(&self, at: Instant, value: T) {
        *self.last.lock() = Some((at, value));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const MAX_AGE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn concurrent_callers_share_a_failed_read() {
        let (shared, reads) = (Shared::<u8, &str>::default(), AtomicUsize::new(0));
        let failing = || async {
            reads.fetch_add(1, Ordering::Relaxed);
            // All callers wait before it fails.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            Err("busy")
        };
        let found = futures::future::join_all((0..8).map(|_| shared.get(MAX_AGE, failing()))).await;
        assert!(found.iter().all(Result::is_err));
        assert_eq!(reads.load(Ordering::Relaxed), 1);
        // A later caller tries again, and the next one shares what it read.
        assert_eq!(shared.get(MAX_AGE, async { Ok(1) }).await, Ok(1));
        assert_eq!(shared.get(MAX_AGE, async { Ok(2) }).await, Ok(1));
        assert_eq!(shared.get(Duration::ZERO, async { Ok(3) }).await, Ok(3));
    }
}
