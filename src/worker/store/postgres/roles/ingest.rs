//! The ingest role.

use std::sync::atomic::Ordering;

use super::super::super::{AcceptCallback, IngestStore, NewEvent, StoreError};
use super::super::accept::{EventRow, Request};
use super::super::store::PostgresStore;
use super::super::writer::QueuedAccept;
use crate::core::time::Millis;

/// Bytes of requests that may wait for their commit.
const MAX_QUEUED: usize = 64 << 20;

impl IngestStore for PostgresStore {
    fn accept_then(&self, mut events: Vec<NewEvent>, now: Millis, done: AcceptCallback) {
        // Before the commit: once it is visible, another worker that owns the hook may send the delivery.
        for delivery in events.iter_mut().flat_map(|event| &mut event.deliveries) {
            delivery.epoch = self.ownership.epoch(&delivery.hook.uid);
        }
        let rows = match events.into_iter().map(EventRow::new).collect::<Result<Vec<_>, _>>() {
            Ok(rows) => rows,
            Err(refused) => return done(Vec::new(), Err(refused)),
        };
        let bytes: usize = rows.iter().map(EventRow::bytes).sum();
        let queued = self.queued.fetch_add(bytes, Ordering::Relaxed);
        // A request of any size fits into an empty queue.
        if queued > 0 && queued + bytes > MAX_QUEUED {
            self.queued.fetch_sub(bytes, Ordering::Relaxed);
            return done(Vec::new(), Err(StoreError::Busy));
        }
        let request = QueuedAccept { request: Request { rows, now }, bytes, done };
        let unsent = match self.accepts.lock().as_ref() {
            Some(accepts) => accepts.send(request).err().map(|unsent| unsent.0),
            None => Some(request),
        };
        if let Some(QueuedAccept { done, .. }) = unsent {
            self.queued.fetch_sub(bytes, Ordering::Relaxed);
            done(Vec::new(), Err(StoreError::Closed));
        }
    }
}
