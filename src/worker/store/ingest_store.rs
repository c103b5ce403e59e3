//! The ingest role: accepting events.

use super::{AcceptCallback, NewEvent};
use crate::core::time::Millis;

/// Stores accepted events.
pub trait IngestStore: Send + Sync + 'static {
    /// Stores the events, all or none, and calls `done` with the result after the commit and its fsync.
    ///
    /// Never waits: a full queue fails with `Busy`. The engine's own thread runs `done` and waits for it, so it must return
    /// quickly. If the engine ends first, `done` is dropped without a call.
    fn accept_then(&self, events: Vec<NewEvent>, now: Millis, done: AcceptCallback);
}
