//! The ingest role: accepting events.

use super::{AcceptCallback, InFlightAccept, NewEvent};
use crate::core::time::Millis;

/// Stores accepted events.
pub trait IngestStore: Send + Sync + 'static {
    /// Stores the events, all or none, and calls `done` with the result after the commit and its fsync.
    ///
    /// Never waits: a full queue fails with `Busy`. The engine's own thread runs `done`, so `done` must return quickly.
    /// If the engine ends first, it drops `done` without calling it.
    fn accept_then(&self, events: Vec<NewEvent>, now: Millis, done: AcceptCallback);

    /// Announces the events of a request that is complete and authorized. The store may delay a commit for a moment to
    /// include them. The result must be dropped after `accept_then`, or when the request fails.
    fn announce(&self) -> InFlightAccept {
        InFlightAccept::default()
    }
}
