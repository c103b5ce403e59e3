//! Identifiers of hooks, events and deliveries.

use std::sync::Arc;

use uuid::Uuid;

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

/// The random bits of a `webhook-id`.
const RANDOM_BITS: u32 = 59;
const RANDOM_MASK: u64 = (1 << RANDOM_BITS) - 1;
/// The bits of a UUID that say that it has version 8, and the variant of RFC 9562.
const VERSION: u128 = 8 << 76;
const VERSION_MASK: u128 = 0xf << 76;
const VARIANT: u128 = 0b10 << 62;
const VARIANT_MASK: u128 = 0b11 << 62;

/// Returns the `webhook-id` of a delivery, a UUIDv8: the 63 bits of its sequence number, and 59 of the random bits.
///
/// So a delivery is found by its id without an index. The random bits keep ids unique: a store that was restored from a
/// backup gives the sequence numbers after the backup to other deliveries.
pub(super) fn webhook_id(seq: DeliverySeq, random: u64) -> Uuid {
    let seq = u128::from(seq.unsigned_abs());
    let random = u128::from(random & RANDOM_MASK);
    let numbered = (seq >> 15 << 80) | ((seq >> 3 & 0xfff) << 64) | ((seq & 0b111) << RANDOM_BITS);
    Uuid::from_u128(numbered | VERSION | VARIANT | random)
}

/// Returns the random bits of an id: of a `webhook-id`, or of the UUIDv7 or UUIDv4 from which one is made.
pub(super) fn random_bits(id: Uuid) -> u64 {
    id.as_u64_pair().1 & RANDOM_MASK
}

/// Returns the sequence number in a `webhook-id`. None: the id was made by an older version. The caller compares the
/// whole id with the stored one.
pub(super) fn numbered(id: Uuid) -> Option<DeliverySeq> {
    let bits = id.as_u128();
    if bits & VERSION_MASK != VERSION || bits & VARIANT_MASK != VARIANT {
        return None;
    }
    let seq = (bits >> 80 << 15) | ((bits >> 64 & 0xfff) << 3) | (bits >> RANDOM_BITS & 0b111);
    DeliverySeq::try_from(seq).ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn webhook_id_holds_the_sequence_number_and_random_bits() {
        for seq in [0, 1, 7, (1 << INDEX_BITS) | 5, (1 << 50) | 12_345, DeliverySeq::MAX] {
            let random = Uuid::now_v7();
            let id = webhook_id(seq, random_bits(random));
            assert_eq!((id.get_version_num(), id.get_variant()), (8, uuid::Variant::RFC4122));
            assert_eq!((numbered(id), random_bits(id)), (Some(seq), random_bits(random)));
            assert_eq!(webhook_id(seq, random_bits(id)), id);
        }
        assert_eq!(webhook_id(5, u64::MAX), webhook_id(5, RANDOM_MASK));
        assert_eq!(
            (numbered(Uuid::now_v7()), numbered(Uuid::nil()), numbered(Uuid::max())),
            (None, None, None)
        );
    }
}
