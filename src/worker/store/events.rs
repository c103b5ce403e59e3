//! Events to accept, and the result of accepting them.

use crate::core::delivery_reason::DeliveryReason;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::{DeliverySeq, EventSeq, HookId, StoreError};
use crate::core::event::Event;
use crate::core::gate::GateRequest;
use crate::core::time::Millis;

/// A duplicate of an event revives dead letters with these reasons, because their receiver may be available again.
pub(super) const REVIVED: [DeliveryReason; 2] = [DeliveryReason::MaxAge, DeliveryReason::MaxAttempts];

/// An event to accept, with everything that commits with it.
#[derive(Clone, Debug)]
pub struct NewEvent {
    pub event: Arc<Event>,
    /// If set, a second event with this key within the window is a duplicate, for which nothing is stored.
    pub dedup: Option<Dedup>,
    pub deliveries: Vec<NewDelivery>,
}

/// An idempotency key.
#[derive(Clone, Debug)]
pub struct Dedup {
    /// A hash of the fields that identify the event (at least 128 bits).
    pub key: [u8; 32],
    pub window: Duration,
}

/// A delivery to create: one event for one hook.
#[derive(Clone, Debug)]
pub struct NewDelivery {
    /// The ownership of its hook, see [`PendingDelivery::epoch`]. Set by the store.
    pub epoch: Option<i64>,
    pub hook: HookId,
    /// A UUIDv7 or UUIDv4. The store makes the `webhook-id` from its random bits (`AcceptedDelivery::id`).
    pub id: Uuid,
    /// When the first attempt is due.
    pub due: Millis,
    /// The request to the hook's gates (`onChange`, `snooze`).
    pub gate_request: GateRequest,
    /// If set, the delivery is stored as a dead letter at once, with this reason, and never sent.
    pub dead: Option<DeliveryReason>,
}

/// The result of accepting one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedEvent {
    /// The sequence number of the stored event. For a duplicate: of the original event.
    pub seq: EventSeq,
    /// The id of the stored event. For a duplicate: of the original event.
    pub event_id: String,
    /// True if the event was accepted before. This call then stored nothing.
    pub duplicate: bool,
    /// The deliveries, in the order of the request. For a duplicate: those deliveries of the original event that
    /// retention has not removed, in their present state.
    pub deliveries: Vec<AcceptedDelivery>,
    /// Hooks with newly due deliveries that `deliveries` does not list. These are promoted trailing candidates, and
    /// deliveries that died of `MaxAge` or `MaxAttempts` and that this duplicate revived because it matches their
    /// hooks. The caller must notify the dispatcher of these hooks.
    pub hooks_to_notify: Vec<HookId>,
}

/// The result of accepting one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptedDelivery {
    pub seq: DeliverySeq,
    /// The `webhook-id`, the same at every attempt.
    pub id: Uuid,
    pub fate: Fate,
}

/// The state of a delivery after its event was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Pending. `suppressed`: the number of deliveries of its group that the gates dropped since the last one was sent.
    Pending { due: Millis, suppressed: u32 },
    /// A trailing candidate. It is not sent until `promote` makes it pending, which is possible from `due` on.
    Candidate { due: Millis },
    /// Dropped by a gate.
    Dropped,
    /// Stored as a dead letter.
    Dead,
    /// Delivered or cancelled earlier. Occurs only for duplicates.
    Ended,
}

impl AcceptedEvent {
    /// Returns the number of deliveries that no gate dropped, which the response to the sender contains.
    pub fn kept(&self) -> usize {
        self.deliveries.iter().filter(|d| d.fate != Fate::Dropped).count()
    }
}

/// Receives the result of `accept_then`, and the events back if they were accepted (otherwise an empty list).
pub type AcceptCallback = Box<dyn FnOnce(Vec<NewEvent>, Result<Vec<AcceptedEvent>, StoreError>) + Send>;
