//! Counts requests whose events the store will receive in a moment, so that one group commit can cover them together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Counts requests that are complete and authorized, and whose events are not queued yet. Clones share the count.
///
/// A request that sends its body slowly, or that is not authorized, must not be counted: it would delay the commits of
/// others.
#[derive(Clone, Debug, Default)]
pub struct InFlightAccepts {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    count: AtomicUsize,
    /// The writer's thread while it waits until the count is zero.
    waiting: Mutex<Option<Thread>>,
}

/// A counted request. Dropping it ends the count, also if the client disconnects or the request panics.
#[derive(Debug, Default)]
pub struct InFlightAccept {
    shared: Option<Arc<Shared>>,
}

impl InFlightAccepts {
    /// Counts a request until the result is dropped, which its owner does after it has queued the events.
    pub fn count(&self) -> InFlightAccept {
        self.shared.count.fetch_add(1, Ordering::SeqCst);
        InFlightAccept { shared: Some(self.shared.clone()) }
    }

    /// Returns the number of counted requests.
    pub fn get(&self) -> usize {
        self.shared.count.load(Ordering::SeqCst)
    }

    /// Blocks the writer's thread until no request is counted for a moment, at most for `limit`.
    pub fn wait_for_none(&self, limit: Duration) {
        let started = Instant::now();
        // Set before the count is read: the last request would not see it otherwise, and the wait would last to its end.
        *self.shared.waiting.lock() = Some(std::thread::current());
        // The last request takes the thread out. Others may be counted since: the caller decides about those.
        while self.get() > 0
            && self.shared.waiting.lock().is_some()
            && let Some(left) = limit.checked_sub(started.elapsed())
        {
            std::thread::park_timeout(left);
        }
        *self.shared.waiting.lock() = None;
    }
}

impl Drop for InFlightAccept {
    fn drop(&mut self) {
        let Some(shared) = &self.shared else { return };
        let is_last = shared.count.fetch_sub(1, Ordering::SeqCst) == 1;
        if is_last && let Some(writer) = shared.waiting.lock().take() {
            writer.unpark();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_and_panicking_requests_are_not_counted() {
        let in_flight = InFlightAccepts::default();
        let (first, second) = (in_flight.count(), in_flight.count());
        assert_eq!(in_flight.get(), 2);
        drop(first);
        assert_eq!(in_flight.get(), 1);
        let panicked = std::thread::spawn(move || {
            let _counted = second;
            panic!("a request that fails");
        });
        assert!(panicked.join().is_err());
        assert_eq!(in_flight.get(), 0);
    }

    /// A client that disconnects drops the future of its request.
    #[tokio::test]
    async fn request_of_a_disconnected_client_is_not_counted() {
        let in_flight = InFlightAccepts::default();
        let counter = in_flight.clone();
        let mut request = Box::pin(async move {
            let _counted = counter.count();
            std::future::pending::<()>().await;
        });
        assert!(futures::poll!(&mut request).is_pending());
        assert_eq!(in_flight.get(), 1);
        drop(request);
        assert_eq!(in_flight.get(), 0);
    }

    #[test]
    fn wait_ends_with_the_last_request() {
        let in_flight = InFlightAccepts::default();
        in_flight.wait_for_none(Duration::from_secs(3600));
        let counted = in_flight.count();
        let waiting = in_flight.clone();
        let writer = std::thread::spawn(move || waiting.wait_for_none(Duration::from_secs(3600)));
        while in_flight.shared.waiting.lock().is_none() {
            std::thread::yield_now();
        }
        drop(counted);
        writer.join().unwrap();
    }

    #[test]
    fn wait_is_bounded() {
        let in_flight = InFlightAccepts::default();
        let _counted = in_flight.count();
        in_flight.wait_for_none(Duration::from_micros(1));
        assert_eq!(in_flight.get(), 1);
    }
}
