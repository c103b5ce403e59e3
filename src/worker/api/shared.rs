//! A value that the responses of a short time share, so that polling clients cost its source no more than one.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

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
