//! State that the store's threads share: failure, shutdown, queued bytes, shares.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::super::{Shares, StoreError};
use crate::metrics::Metrics;

pub(super) struct SharedState {
    failure: watch::Sender<Option<StoreError>>,
    is_closing: AtomicBool,
    queued_bytes: AtomicUsize,
    all_materialized: AtomicBool,
    shares: Mutex<Shares>,
    metrics: OnceLock<Arc<Metrics>>,
}

impl SharedState {
    pub(super) fn new() -> Self {
        SharedState {
            failure: watch::Sender::new(None),
            is_closing: AtomicBool::new(false),
            queued_bytes: AtomicUsize::new(0),
            all_materialized: AtomicBool::new(false),
            shares: Mutex::default(),
            metrics: OnceLock::new(),
        }
    }

    /// Sets the metrics that count commits. Only the first call has an effect.
    pub(super) fn set_metrics(&self, metrics: Arc<Metrics>) {
        self.metrics.get_or_init(|| metrics);
    }

    pub(super) fn record_commit(&self, operations: usize, took: Duration) {
        if let Some(metrics) = self.metrics.get() {
            metrics.record_commit(operations, took);
        }
    }

    /// Ends the store for good. Returns the first failure, which every later operation fails with.
    pub(super) fn fail(&self, text: String) -> StoreError {
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            if first {
                tracing::error!(reason = %text, "store failed, the process must end");
                *failure = Some(StoreError::Fatal(text.clone()));
            }
            first
        });
        self.failure.borrow().clone().unwrap_or(StoreError::Fatal(text))
    }

    pub(super) fn failure(&self) -> Option<StoreError> {
        self.failure.borrow().clone()
    }

    pub(super) fn watch_failure(&self) -> watch::Receiver<Option<StoreError>> {
        self.failure.subscribe()
    }

    /// Fails after a failure of the store, and after `start_closing`.
    pub(super) fn check_usable(&self) -> Result<(), StoreError> {
        match self.failure() {
            Some(failure) => Err(failure),
            None if self.is_closing.load(Ordering::Acquire) => Err(StoreError::Closed),
            None => Ok(()),
        }
    }

    pub(super) fn start_closing(&self) {
        self.is_closing.store(true, Ordering::Release);
    }

    /// True if every delivery has a row, so that the tables are complete.
    pub(super) fn is_all_materialized(&self) -> bool {
        self.all_materialized.load(Ordering::Acquire)
    }

    pub(super) fn set_all_materialized(&self, all: bool) {
        self.all_materialized.store(all, Ordering::Release);
    }

    /// Reserves bytes in the queue. False: they do not fit. An empty queue takes an event of any size.
    pub(super) fn reserve_bytes(&self, bytes: usize, limit: usize) -> bool {
        let fits = |queued: usize| (queued == 0 || queued + bytes <= limit).then_some(queued + bytes);
        self.queued_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    pub(super) fn release_bytes(&self, bytes: usize) {
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn shares(&self) -> Shares {
        *self.shares.lock()
    }

    pub(super) fn set_shares(&self, shares: Shares) {
        *self.shares.lock() = shares;
    }
}
