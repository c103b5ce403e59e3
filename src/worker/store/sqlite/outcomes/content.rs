//! One outcome, and the binary content of rows with many of them.
//!
//! An outcome takes about 22 bytes. Rows of both tables have the same content: the hooks with their namespaces, then the
//! outcomes in the order of their sequence numbers as differences to the one before, then a checksum that also covers the
//! key of the row, because SQLite does not detect a changed bit.

use uuid::Uuid;

use super::super::super::ids;
use super::super::super::{AttemptRecord, DeliverySeq, EventSeq, Settlement};
use super::super::rows;
use super::super::sequence;
use super::super::unmaterialized::Unmaterialized;
use crate::core::time::Millis;

const CHECKSUM_BYTES: usize = 4;
/// The most bytes of one outcome besides its hook: 8 random ones, and seven numbers of up to 10 bytes.
const MAX_ENTRY_BYTES: usize = 8 + 8 * 10;

/// A delivery that its first attempt delivered, and that has no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Outcome {
    pub(in super::super) seq: DeliverySeq,
    /// The row id of its hook.
    pub(in super::super) hook: i64,
    /// The number of its hook's namespace key.
    pub(in super::super) namespace: i64,
    /// The random bits of its `webhook-id`.
    pub(in super::super) random: u64,
    pub(in super::super) finished_at: i64,
    /// When the attempt began.
    pub(in super::super) first_at: i64,
    /// The duration of the attempt, in microseconds.
    pub(in super::super) micros: i64,
    pub(in super::super) status: Option<u16>,
    /// The bytes that it counts for retention.
    pub(in super::super) size: i64,
}

impl Outcome {
    /// Returns the outcome of a successful first attempt. None: the id of the delivery was made by an older version, so it
    /// needs a row.
    pub(in super::super) fn new(
        seq: DeliverySeq,
        (delivery, namespace): (&Unmaterialized, i64),
        settlement: &Settlement,
        attempt: &AttemptRecord,
    ) -> Option<Outcome> {
        let id = Uuid::from_bytes(delivery.id);
        (ids::numbered(id) == Some(seq)).then(|| Outcome {
            seq,
            hook: delivery.hook,
            namespace,
            random: ids::random_bits(id),
            finished_at: settlement.at.0,
            first_at: attempt.at.0,
            micros: rows::micros(attempt),
            status: attempt.status,
            size: delivery.size,
        })
    }

    pub(in super::super) fn id(&self) -> Uuid {
        ids::webhook_id(self.seq, self.random)
    }

    pub(in super::super) fn event(&self) -> EventSeq {
        sequence::event_seq(self.seq)
    }

    pub(in super::super) fn attempt(&self) -> AttemptRecord {
        AttemptRecord {
            at: Millis(self.first_at),
            duration: rows::duration(self.micros),
            status: self.status,
            error: None,
            detail: None,
        }
    }
}

/// Encodes outcomes in ascending order, up to a number of bytes.
pub(super) struct Encoder {
    max_bytes: usize,
    hooks: Vec<i64>,
    header: Vec<u8>,
    body: Vec<u8>,
    event: EventSeq,
    finished_at: i64,
}

impl Encoder {
    pub(super) fn new(max_bytes: usize) -> Encoder {
        Encoder {
            max_bytes,
            hooks: Vec::new(),
            header: Vec::new(),
            body: Vec::new(),
            event: 0,
            finished_at: 0,
        }
    }

    /// Appends an outcome. False: it does not fit. The first one always does.
    pub(super) fn push(&mut self, outcome: &Outcome) -> bool {
        let bytes = self.header.len() + self.body.len() + MAX_ENTRY_BYTES + CHECKSUM_BYTES;
        if bytes > self.max_bytes && !self.body.is_empty() {
            return false;
        }
        let hook = match self.hooks.iter().position(|hook| *hook == outcome.hook) {
            Some(hook) => hook,
            None => {
                put_signed(&mut self.header, outcome.hook);
                put_signed(&mut self.header, outcome.namespace);
                self.hooks.push(outcome.hook);
                self.hooks.len() - 1
            }
        };
        let event = outcome.event();
        put_signed(&mut self.body, event.wrapping_sub(self.event));
        put_signed(&mut self.body, outcome.seq.wrapping_sub(sequence::first_delivery(event)));
        put(&mut self.body, hook as u64);
        self.body.extend_from_slice(&outcome.random.to_le_bytes());
        put_signed(&mut self.body, outcome.finished_at.wrapping_sub(self.finished_at));
        put_signed(&mut self.body, outcome.finished_at.wrapping_sub(outcome.first_at));
        put_signed(&mut self.body, outcome.micros);
        put(&mut self.body, outcome.status.map_or(0, |status| u64::from(status) + 1));
        put_signed(&mut self.body, outcome.size);
        (self.event, self.finished_at) = (event, outcome.finished_at);
        true
    }

    /// Returns the content of a row with this key.
    pub(super) fn finish(self, key: i64) -> Vec<u8> {
        let mut content = Vec::with_capacity(self.header.len() + self.body.len() + 8);
        put(&mut content, self.hooks.len() as u64);
        content.extend_from_slice(&self.header);
        content.extend_from_slice(&self.body);
        content.extend_from_slice(&checksum(key, &content));
        content
    }
}

/// Encodes all outcomes, which must be in ascending order.
pub(super) fn encode(key: i64, outcomes: &[Outcome]) -> Vec<u8> {
    let mut encoder = Encoder::new(usize::MAX);
    outcomes.iter().for_each(|outcome| {
        encoder.push(outcome);
    });
    encoder.finish(key)
}

/// Decodes the content of a row with this key. None: it is damaged.
pub(super) fn decode(key: i64, content: &[u8]) -> Option<Vec<Outcome>> {
    let (bytes, found) = content.split_last_chunk::<CHECKSUM_BYTES>()?;
    if checksum(key, bytes) != *found {
        return None;
    }
    let mut rest = bytes;
    let mut hooks = Vec::new();
    for _ in 0..take(&mut rest)? {
        hooks.push((take_signed(&mut rest)?, take_signed(&mut rest)?));
    }
    let mut outcomes: Vec<Outcome> = Vec::with_capacity(rest.len() / 16);
    let (mut event, mut finished_at) = (0_i64, 0_i64);
    while !rest.is_empty() {
        event = event.wrapping_add(take_signed(&mut rest)?);
        let seq = sequence::first_delivery(event).wrapping_add(take_signed(&mut rest)?);
        let (hook, namespace) = *hooks.get(usize::try_from(take(&mut rest)?).ok()?)?;
        let (random, after) = rest.split_first_chunk()?;
        rest = after;
        finished_at = finished_at.wrapping_add(take_signed(&mut rest)?);
        let first_at = finished_at.wrapping_sub(take_signed(&mut rest)?);
        let micros = take_signed(&mut rest)?;
        let status = match take(&mut rest)? {
            0 => None,
            status => Some(u16::try_from(status - 1).ok()?),
        };
        let (random, size) = (u64::from_le_bytes(*random), take_signed(&mut rest)?);
        outcomes.push(Outcome { seq, hook, namespace, random, finished_at, first_at, micros, status, size });
    }
    outcomes.is_sorted_by_key(|outcome| outcome.seq).then_some(outcomes)
}

fn checksum(key: i64, bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut crc = flate2::Crc::new();
    crc.update(&key.to_be_bytes());
    crc.update(bytes);
    crc.sum().to_be_bytes()
}

/// Appends a number: 7 bits a byte, the lowest first.
fn put(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Appends a number with a sign. Small absolute values are short.
fn put_signed(bytes: &mut Vec<u8>, value: i64) {
    put(bytes, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take_signed(bytes: &mut &[u8]) -> Option<i64> {
    let value = take(bytes)?;
    Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(event: EventSeq, index: usize, hook: i64) -> Outcome {
        Outcome {
            seq: sequence::delivery_seq(event, index),
            hook,
            namespace: hook % 3,
            random: ids::random_bits(Uuid::now_v7()),
            finished_at: 1_700_000_000_123 - event,
            first_at: 1_700_000_000_000,
            micros: 123_456,
            status: (hook % 2 == 0).then_some(204),
            size: 1536,
        }
    }

    #[test]
    fn content_survives_a_round_trip_and_damage_is_detected() {
        let mut outcomes: Vec<_> = (1..100).map(|n| outcome(n, usize::from(n % 2 == 0), n % 7)).collect();
        let extreme = Outcome {
            random: u64::MAX,
            finished_at: i64::MIN,
            first_at: i64::MAX,
            micros: i64::MAX,
            status: Some(u16::MAX),
            size: -1,
            ..outcome(i64::MAX >> 20, 0xf_ffff, i64::MIN)
        };
        outcomes.push(extreme);
        let content = encode(7, &outcomes);
        assert_eq!(decode(7, &content).as_ref(), Some(&outcomes));
        assert_eq!(decode(8, &content), None, "the row was moved");
        for byte in 0..content.len() {
            let mut damaged = content.clone();
            damaged[byte] ^= 1;
            assert_eq!(decode(7, &damaged), None);
        }
        assert_eq!(decode(1, &encode(1, &[])), Some(Vec::new()));
        for length in 0..content.len() {
            assert_eq!(decode(7, &content[..length]), None);
        }
    }

    #[test]
    fn content_is_small_and_bounded() {
        let mut encoder = Encoder::new(4000);
        let count = (1..).take_while(|n| encoder.push(&outcome(*n, 0, n % 10))).count();
        let content = encoder.finish(1);
        assert!(content.len() <= 4000 && count > 150, "{count} in {}", content.len());
    }
}
