//! Pending deliveries, and the results of attempts to deliver them.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::{AttemptRecord, DeliverySeq, ExchangeChange, HookId, NextStep};
use crate::core::event::Event;
use crate::core::time::Millis;

/// A delivery whose next attempt is scheduled or due.
#[derive(Clone, Debug, PartialEq)]
pub struct PendingDelivery {
    /// The ownership of its hook under which the delivery was read or accepted, if several workers share the store. None also
    /// if another worker owned the hook. Under another ownership, the former owner may have sent the delivery since.
    pub epoch: Option<i64>,
    pub seq: DeliverySeq,
    /// The `webhook-id`.
    pub id: Uuid,
    pub hook: HookId,
    pub event: Arc<Event>,
    /// When its age starts: when the event was accepted, or when the delivery was last replayed or revived.
    pub accepted: Millis,
    /// Attempts since it was accepted, replayed or revived.
    pub attempts: u32,
    pub due: Millis,
    /// How long its hook was held since it was accepted. This time does not count towards its age.
    pub held: Duration,
    /// The number of deliveries of its group that the gates dropped since the last one was sent.
    pub suppressed: u32,
    /// How often it was replayed.
    pub replays: u32,
    /// The progress that its handler recorded at an earlier attempt. Opaque to the store.
    pub progress: HandlerProgress,
}

/// Bounds one read of due deliveries: it stops after `rows` deliveries or `bytes` of event data.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimit {
    pub rows: usize,
    pub bytes: usize,
    /// True: never returns more than `bytes`. False: returns at least one delivery, of any size.
    pub is_strict: bool,
}

/// A bounded batch of due deliveries.
#[derive(Debug, Default)]
pub struct DueDeliveries {
    pub pending: Vec<PendingDelivery>,
    /// True if the read limit left out further due deliveries.
    pub has_more: bool,
    /// The length of the first delivery's event data, if a strict read returned nothing because it exceeds the limit.
    pub too_large: Option<usize>,
}

/// Opaque record of the work that a handler finished for a delivery and must not repeat. Empty: none.
pub type HandlerProgress = Vec<u8>;

/// The outcome of one attempt, or of giving up without one.
///
/// Settling a delivery that is finished or no longer exists changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Settlement {
    pub delivery: DeliverySeq,
    /// When the attempt ended.
    pub at: Millis,
    /// None: no attempt was made. Together with `NextStep::Retry` this means that the hook's filter could not be evaluated:
    /// the delivery stays pending with the reason `Undecided`.
    pub attempt: Option<AttemptRecord>,
    pub next: NextStep,
    /// If set, replaces the stored progress. The store removes the progress of a delivered delivery, so a replay
    /// repeats all its work.
    pub progress: Option<HandlerProgress>,
    pub exchange: ExchangeChange,
}

/// A hook with pending deliveries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookBacklog {
    pub hook: HookId,
    pub next_due: Millis,
}
