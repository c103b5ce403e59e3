//! A delivery's number: its event's, and its place among the event's deliveries.
//!
//! So an event's deliveries are a range of numbers, no index leads from one to the other, and a number is known before
//! anything is written.

use super::super::Seq;

const BITS: u32 = 20;

/// So many deliveries one event may have.
pub(super) const MOST: usize = 1 << BITS;

/// The number of an event's delivery; fewer than `MOST` come before it.
pub(super) fn delivery(event: Seq, before: usize) -> Seq {
    first(event) | i64::try_from(before).unwrap_or(0)
}

/// The lowest number that a delivery of an event may have.
pub(super) fn first(event: Seq) -> Seq {
    event.saturating_mul(1 << BITS)
}

/// The highest one.
pub(super) fn last(event: Seq) -> Seq {
    first(event) | ((1 << BITS) - 1)
}

/// The event of a delivery.
pub(super) fn event(delivery: Seq) -> Seq {
    delivery >> BITS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_tells_its_event() {
        for number in [1, 2, 1 << 40] {
            assert_eq!(event(first(number)), number);
            assert_eq!(event(last(number)), number);
            assert_eq!(event(delivery(number, MOST - 1)), number);
            assert_eq!(last(number) + 1, first(number + 1));
            assert!(delivery(number, 0) < delivery(number, 1));
        }
    }
}
