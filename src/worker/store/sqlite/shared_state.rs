//! State that the store's threads share: failure, shutdown, queued bytes, shares, the full disk.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::super::{InFlightAccepts, Shares, StoreError};
use super::outcomes::Recent;
use super::reserve::{DiskReserve, ReserveUse};
use crate::metrics::Metrics;

/// The disk is short of space below this multiple of its reserve.
const SHORT_MULTIPLE: u64 = 8;

pub(super) struct SharedState {
    failure: watch::Sender<Option<StoreError>>,
    is_closing: AtomicBool,
    queued_bytes: AtomicUsize,
    all_materialized: AtomicBool,
    key_bytes: AtomicUsize,
    /// Deliveries that no table lists.
    pub(super) recent: Arc<Recent>,
    shares: Mutex<Shares>,
    metrics: OnceLock<Arc<Metrics>>,
    reserve: DiskReserve,
    /// True after a commit failed on a full disk, until there is space again.
    is_disk_full: AtomicBool,
    /// True if the disk had little space at the last check.
    is_disk_short: AtomicBool,
    wants_shrink: AtomicBool,
    /// The last attempt to give space back did not succeed.
    is_unshrunk: AtomicBool,
    /// Requests whose events will be queued in a moment.
    pub(super) in_flight: InFlightAccepts,
    /// True while a group of only settlements waits for an accept.
    awaits_accept: AtomicBool,
}

impl SharedState {
    pub(super) fn new(reserve: DiskReserve) -> Self {
        SharedState {
            failure: watch::Sender::new(None),
            is_closing: AtomicBool::new(false),
            queued_bytes: AtomicUsize::new(0),
            all_materialized: AtomicBool::new(false),
            key_bytes: AtomicUsize::new(0),
            recent: Arc::default(),
            shares: Mutex::default(),
            metrics: OnceLock::new(),
            is_disk_full: AtomicBool::new(!reserve.is_complete()),
            is_disk_short: AtomicBool::new(true),
            wants_shrink: AtomicBool::new(false),
            is_unshrunk: AtomicBool::new(false),
            in_flight: InFlightAccepts::default(),
            awaits_accept: AtomicBool::new(false),
            reserve,
        }
    }

    /// True while events are refused because the disk is full or its reserve is in use.
    pub(super) fn is_disk_full(&self) -> bool {
        self.is_disk_full.load(Ordering::Relaxed)
    }

    /// Refuses events from now on.
    pub(super) fn set_disk_full(&self) {
        if !self.is_disk_full.swap(true, Ordering::Relaxed) {
            tracing::error!("the disk is full, events are refused");
        }
    }

    /// Releases the disk reserve for this use. False: there is none left for it.
    pub(super) fn release_reserve(&self, used_by: ReserveUse) -> bool {
        self.reserve.release(used_by)
    }

    /// Restores the reserve and accepts events again if the disk has space. True: events are refused.
    pub(super) fn recheck_disk(&self) -> bool {
        let available = self.measure_disk();
        if !self.is_disk_full() && self.reserve.is_complete() {
            return false;
        }
        let has_space =
            self.reserve.restore() && available.is_none_or(|available| available >= self.reserve.size());
        if has_space && self.is_disk_full.swap(false, Ordering::Relaxed) {
            tracing::info!("the disk has space again, events are accepted");
        }
        !has_space
    }

    /// Measures whether the disk has little space.
    pub(super) fn measure_disk(&self) -> Option<u64> {
        let available = self.reserve.available();
        let is_short = available.is_some_and(|bytes| bytes < self.reserve.size() * SHORT_MULTIPLE);
        self.is_disk_short.store(is_short, Ordering::Relaxed);
        available
    }

    /// True if a group of this many bytes would take the space that the next checkpoint needs: a commit writes its pages to
    /// the log, and the checkpoint copies them, and those before them, into the database. Measures only a disk with
    /// little space.
    pub(super) fn lacks_space(&self, bytes: usize) -> bool {
        let needed = (bytes as u64).saturating_mul(2).saturating_add(self.reserve.size() / 2);
        self.is_disk_short.load(Ordering::Relaxed)
            && self.measure_disk().is_some_and(|available| available < needed)
    }

    /// Makes the writer give free space back to the disk after its next group.
    pub(super) fn request_shrink(&self) {
        self.wants_shrink.store(true, Ordering::Relaxed);
    }

    /// Records whether the last attempt failed. The next sweep repeats it; the next commit would wait for the same reader.
    pub(super) fn set_unshrunk(&self, is_unshrunk: bool) {
        self.is_unshrunk.store(is_unshrunk, Ordering::Relaxed);
    }

    pub(super) fn is_unshrunk(&self) -> bool {
        self.is_unshrunk.load(Ordering::Relaxed)
    }

    pub(super) fn take_shrink_request(&self) -> bool {
        self.wants_shrink.swap(false, Ordering::Relaxed)
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

    /// Returns the memory of the idempotency keys, as of the last commit.
    pub(super) fn key_bytes(&self) -> usize {
        self.key_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn set_key_bytes(&self, bytes: usize) {
        self.key_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Reserves bytes in the queue. False: they do not fit. An empty queue takes an event of any size.
    pub(super) fn reserve_bytes(&self, bytes: usize, limit: usize) -> bool {
        let fits = |queued: usize| (queued == 0 || queued + bytes <= limit).then_some(queued + bytes);
        self.queued_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    pub(super) fn release_bytes(&self, bytes: usize) {
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Sets whether the writer waits for an accept. It must look into the queue after it has set this.
    pub(super) fn set_awaits_accept(&self, awaits: bool) {
        self.awaits_accept.store(awaits, Ordering::SeqCst);
    }

    /// True if the writer must be woken up for an accept. Call it after the accept was queued.
    pub(super) fn take_awaits_accept(&self) -> bool {
        // Most accepts find it unset. A swap would take the cache line from the writer each time.
        self.awaits_accept.load(Ordering::SeqCst) && self.awaits_accept.swap(false, Ordering::SeqCst)
    }

    pub(super) fn shares(&self) -> Shares {
        *self.shares.lock()
    }

    pub(super) fn set_shares(&self, shares: Shares) {
        *self.shares.lock() = shares;
    }
}
