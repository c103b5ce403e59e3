//! What the store's threads tell each other, and how SQLite's errors are read.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::ErrorCode;
use tokio::sync::watch;

use super::super::{Shares, StoreError};
use crate::metrics::Metrics;

/// The state of a store, seen from every thread.
pub(super) struct Shared {
    failed: watch::Sender<Option<StoreError>>,
    closing: AtomicBool,
    queued: AtomicUsize,
    /// Every delivery has its row.
    all_filed: AtomicBool,
    shares: Mutex<Shares>,
    metrics: OnceLock<Arc<Metrics>>,
}

impl Shared {
    pub(super) fn new() -> Self {
        Shared {
            failed: watch::Sender::new(None),
            closing: AtomicBool::new(false),
            queued: AtomicUsize::new(0),
            all_filed: AtomicBool::new(false),
            shares: Mutex::default(),
            metrics: OnceLock::new(),
        }
    }

    /// Where commits are counted from now on. Told once.
    pub(super) fn observe(&self, metrics: Arc<Metrics>) {
        self.metrics.get_or_init(|| metrics);
    }

    pub(super) fn committed(&self, operations: usize, took: Duration) {
        if let Some(metrics) = self.metrics.get() {
            metrics.committed(operations, took);
        }
    }

    /// Ends the store for good. The first failure is the one that is told.
    pub(super) fn fail(&self, text: String) -> StoreError {
        self.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            if first {
                tracing::error!(reason = %text, "the store failed: the process must end");
                *failed = Some(StoreError::Fatal(text.clone()));
            }
            first
        });
        self.failed.borrow().clone().unwrap_or(StoreError::Fatal(text))
    }

    pub(super) fn failure(&self) -> Option<StoreError> {
        self.failed.borrow().clone()
    }

    pub(super) fn watch(&self) -> watch::Receiver<Option<StoreError>> {
        self.failed.subscribe()
    }

    /// Refuses what comes after a failure, and what comes after `close`.
    pub(super) fn usable(&self) -> Result<(), StoreError> {
        match self.failure() {
            Some(failure) => Err(failure),
            None if self.closing.load(Ordering::Acquire) => Err(StoreError::Closed),
            None => Ok(()),
        }
    }

    pub(super) fn closing(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// True where every delivery has its row, so that what the tables say is all there is.
    pub(super) fn all_filed(&self) -> bool {
        self.all_filed.load(Ordering::Acquire)
    }

    pub(super) fn set_all_filed(&self, filed: bool) {
        self.all_filed.store(filed, Ordering::Release);
    }

    /// Counts bytes into the queue, or says that they do not fit. What is bigger than the whole queue passes alone.
    pub(super) fn reserve(&self, bytes: usize, most: usize) -> bool {
        let fits = |queued: usize| (queued == 0 || queued + bytes <= most).then_some(queued + bytes);
        self.queued.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    pub(super) fn shares(&self) -> Shares {
        *self.shares.lock()
    }

    pub(super) fn set_shares(&self, shares: Shares) {
        *self.shares.lock() = shares;
    }

    pub(super) fn release(&self, bytes: usize) {
        self.queued.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What an error of SQLite means for the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// No room: nothing was written, and the store lives on.
    Full,
    /// Another connection was in the way.
    Busy,
    /// What is on the disk is not known any more.
    Fatal(String),
    /// One statement could not be done.
    One(String),
}

impl Trouble {
    pub(super) fn of(e: &rusqlite::Error) -> Self {
        let Some(inner) = e.sqlite_error() else { return Trouble::One(e.to_string()) };
        match (inner.code, inner.extended_code) {
            (ErrorCode::DiskFull, _) => Trouble::Full,
            // The index of the log, which is only a cache, could not grow: the usual first sign of a full disk.
            (_, rusqlite::ffi::SQLITE_IOERR_SHMSIZE) => Trouble::Full,
            (ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked, _) => Trouble::Busy,
            (
                ErrorCode::SystemIoFailure
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::FileLockingProtocolFailed,
                _,
            ) => Trouble::Fatal(e.to_string()),
            _ => Trouble::One(e.to_string()),
        }
    }

    /// The same at COMMIT, where nothing but a full disk and a busy one is understood.
    pub(super) fn at_commit(e: &rusqlite::Error) -> Self {
        match Trouble::of(e) {
            Trouble::One(text) => Trouble::Fatal(text),
            other => other,
        }
    }
}

impl From<Trouble> for StoreError {
    fn from(trouble: Trouble) -> StoreError {
        match trouble {
            Trouble::Full => StoreError::Full,
            Trouble::Busy => StoreError::Busy,
            Trouble::Fatal(text) => StoreError::Fatal(text),
            Trouble::One(text) => StoreError::Refused(text),
        }
    }
}
