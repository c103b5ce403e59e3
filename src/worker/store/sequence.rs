//! Sequence numbers of deliveries: the event's sequence number and the delivery's index within the event, in one integer.
//!
//! So the deliveries of an event are one range of row ids, and no index has to connect the two tables. A delivery's
//! sequence number is known before anything is written.

pub(super) use super::ids::INDEX_BITS;
pub(super) use super::ids::event_seq;
use super::{DeliverySeq, EventSeq};

/// The direction of a read: to lower or to higher sequence numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Older,
    Newer,
}

/// The most deliveries of one event.
pub(super) const MAX_DELIVERIES: usize = 1 << INDEX_BITS;

/// Returns the sequence number of an event's delivery. `index` must be below `MAX_DELIVERIES`.
pub(super) fn delivery_seq(event: EventSeq, index: usize) -> DeliverySeq {
    first_delivery(event) | i64::try_from(index).unwrap_or(0)
}

/// Returns the lowest sequence number that a delivery of the event may have.
pub(super) fn first_delivery(event: EventSeq) -> DeliverySeq {
    event.saturating_mul(1 << INDEX_BITS)
}

/// Returns the highest sequence number that a delivery of the event may have.
pub(super) fn last_delivery(event: EventSeq) -> DeliverySeq {
    first_delivery(event) | ((1 << INDEX_BITS) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delivery_seq_contains_its_event_seq() {
        for event in [1, 2, 1 << 40] {
            assert_eq!(event_seq(first_delivery(event)), event);
            assert_eq!(event_seq(last_delivery(event)), event);
            assert_eq!(event_seq(delivery_seq(event, MAX_DELIVERIES - 1)), event);
            assert_eq!(last_delivery(event) + 1, first_delivery(event + 1));
            assert!(delivery_seq(event, 0) < delivery_seq(event, 1));
        }
    }
}
