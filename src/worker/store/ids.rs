//! Identifiers of hooks, events and deliveries.

use std::sync::Arc;

/// The sequence number of an event: ascends in the order of acceptance and is never reused.
pub type EventSeq = i64;

/// The sequence number of a delivery: ascends in the order of acceptance and is never reused.
pub type DeliverySeq = i64;

/// The low bits of a delivery's sequence number, which count the deliveries of its event.
pub(super) const INDEX_BITS: u32 = 20;

/// Returns the sequence number of a delivery's event.
pub fn event_seq(delivery: DeliverySeq) -> EventSeq {
    delivery >> INDEX_BITS
}

/// The identity of a hook in the store.
///
/// The uid is the identity. The namespace and name of a uid never change after the store first sees them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HookId {
    pub uid: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}
