//! The rows.

use uuid::Uuid;

use super::super::{DeliverySeq, DeliveryState, EventSeq};

/// A namespace, or a deleted one of the same name. Rows refer to it by its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct StoredPlace {
    pub(in super::super) number: i64,
    pub(in super::super) name: String,
    /// The uid of the present namespace, if it is known.
    pub(in super::super) uid: Option<String>,
    /// False: the namespace was deleted, and its rows are waiting to be removed.
    pub(in super::super) is_present: bool,
    /// It is present, and its deletion was observed.
    pub(in super::super) is_deleted: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct StoredHook {
    pub(in super::super) id: i64,
    pub(in super::super) uid: String,
    pub(in super::super) place: i64,
    pub(in super::super) name: String,
    /// Total time that it was held, in milliseconds.
    pub(in super::super) held: i64,
    pub(in super::super) held_since: Option<i64>,
}

/// An idempotency key without its place: half of the hash that identifies the event.
pub(in super::super) type PlainKey = [u8; 16];

/// An idempotency key that is not in the row of its event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct EventKey {
    pub(in super::super) event: EventSeq,
    pub(in super::super) place: i64,
    pub(in super::super) key: PlainKey,
    pub(in super::super) expires: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct StoredEvent {
    pub(in super::super) seq: EventSeq,
    pub(in super::super) place: i64,
    pub(in super::super) accepted: i64,
    /// The end of its idempotency window.
    pub(in super::super) kept_until: Option<i64>,
    pub(in super::super) id: String,
    pub(in super::super) origin: String,
    pub(in super::super) source: String,
    pub(in super::super) event: String,
    pub(in super::super) time: String,
    pub(in super::super) attributes: Option<String>,
    pub(in super::super) data: Vec<u8>,
    /// Its idempotency key, which expires at `kept_until`.
    pub(in super::super) key: Option<PlainKey>,
    /// No delivery refers to it, and it has its data.
    pub(in super::super) is_loose: bool,
    /// It was accepted without deliveries.
    pub(in super::super) is_unmatched: bool,
    /// Retention has removed its data.
    pub(in super::super) is_bare: bool,
}

/// The part of a delivery that depends on its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum StoredState {
    Pending {
        due: i64,
        /// When its age started.
        began: i64,
        /// Total time that its hook was held when its age started.
        held_before: i64,
        /// It is a trailing candidate of its gate.
        is_candidate: bool,
    },
    Finished {
        state: DeliveryState,
        at: i64,
    },
}

/// The attempt that delivered at once, which has no row of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct FirstAttempt {
    pub(in super::super) at: i64,
    pub(in super::super) micros: i64,
    pub(in super::super) status: Option<i32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct StoredDelivery {
    pub(in super::super) seq: DeliverySeq,
    pub(in super::super) hook: i64,
    pub(in super::super) place: i64,
    pub(in super::super) id: Uuid,
    pub(in super::super) state: StoredState,
    /// When its event was accepted.
    pub(in super::super) accepted: i64,
    pub(in super::super) attempts: i64,
    /// Those before it was replayed or revived.
    pub(in super::super) attempts_before: i64,
    pub(in super::super) suppressed: i64,
    pub(in super::super) replays: i64,
    /// The bytes that it counts in a backlog and for retention.
    pub(in super::super) size: i64,
    pub(in super::super) reason: Option<String>,
    pub(in super::super) progress: Option<Vec<u8>>,
    pub(in super::super) first: Option<FirstAttempt>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct StoredAttempt {
    pub(in super::super) delivery: DeliverySeq,
    pub(in super::super) n: i64,
    pub(in super::super) at: i64,
    pub(in super::super) micros: i64,
    pub(in super::super) status: Option<i32>,
    pub(in super::super) error: Option<String>,
    pub(in super::super) detail: Option<String>,
}

/// The kept request and response of a delivery's last attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct StoredExchange {
    pub(in super::super) delivery: DeliverySeq,
    pub(in super::super) place: i64,
    pub(in super::super) bytes: i64,
    pub(in super::super) content: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct StoredGate {
    pub(in super::super) hook: i64,
    pub(in super::super) kind: i64,
    pub(in super::super) key: Vec<u8>,
    pub(in super::super) value: Option<Vec<u8>>,
    pub(in super::super) quiet_until: Option<i64>,
    pub(in super::super) owner: Option<DeliverySeq>,
    pub(in super::super) suppressed: i64,
    pub(in super::super) used: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct StoredCandidate {
    pub(in super::super) hook: i64,
    pub(in super::super) key: Vec<u8>,
    pub(in super::super) delivery: DeliverySeq,
    pub(in super::super) due: i64,
    pub(in super::super) period: i64,
    pub(in super::super) change_key: Option<Vec<u8>>,
    pub(in super::super) change_value: Option<Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct StoredReplay {
    pub(in super::super) id: Uuid,
    pub(in super::super) place: i64,
    /// A `DeliveryFilter` as JSON.
    pub(in super::super) filter: String,
    pub(in super::super) rate: i64,
    pub(in super::super) started: i64,
    pub(in super::super) stepped: i64,
    pub(in super::super) at: DeliverySeq,
    pub(in super::super) top: DeliverySeq,
    pub(in super::super) replayed: i64,
    pub(in super::super) done_at: Option<i64>,
    pub(in super::super) is_cancelled: bool,
}
