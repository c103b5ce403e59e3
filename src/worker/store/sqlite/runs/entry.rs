//! One key of a run with its event and its time, and its encoding in a block.

use super::super::super::EventSeq;

/// A hash of what identifies an event (see [`stored_key`]), combined with its namespace's place.
pub(in super::super) type Key = [u8; KEY_BYTES];

const KEY_BYTES: usize = 16;
/// Sequence numbers of events have 43 bits. Times of 48 bits reach the year 10889.
const NUMBER_BYTES: usize = 6;
/// The encoded size of an entry.
pub(super) const ENTRY_BYTES: usize = KEY_BYTES + 2 * NUMBER_BYTES;
const MAX_NUMBER: i64 = (1 << 48) - 1;

/// A key with the event that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Entry {
    pub(in super::super) key: Key,
    pub(in super::super) event: EventSeq,
    /// In milliseconds. Of an idempotency key: the end of its window; a repetition at this time is a new event. Of an event
    /// id: the time until which the event's row certainly stays.
    pub(in super::super) expires: i64,
}

/// Returns the key as it is stored: half of a hash of what identifies the event, XOR the hash of its namespace's place.
///
/// For one place this is a bijection of 128 bits of SHA-256. Two places share a key only if the XOR of two hashes has
/// one given value of 128 bits. So no further hash is necessary in the writer's thread.
pub(in super::super) fn stored_key(hash: &[u8; 32], place: &Key) -> Key {
    let (mut key, _) = split(hash);
    key.iter_mut().zip(place).for_each(|(byte, mask)| *byte ^= mask);
    key
}

/// Returns the first half of a hash.
pub(in super::super) fn place_hash(hash: &[u8; 32]) -> Key {
    split(hash).0
}

fn split(hash: &[u8; 32]) -> (Key, Key) {
    let mut halves = hash.chunks_exact(KEY_BYTES).map(|half| half.try_into().unwrap_or_default());
    (halves.next().unwrap_or_default(), halves.next().unwrap_or_default())
}

impl Entry {
    pub(in super::super) fn new(key: Key, event: EventSeq, expires: i64) -> Entry {
        Entry { key, event, expires: expires.clamp(0, MAX_NUMBER) }
    }

    /// Appends its encoding.
    pub(super) fn encode(&self, block: &mut Vec<u8>) {
        block.extend_from_slice(&self.key);
        for number in [self.event, self.expires] {
            let [_, _, low @ ..] = number.clamp(0, MAX_NUMBER).to_be_bytes();
            block.extend_from_slice(&low);
        }
    }

    /// Returns the number of entries in a block.
    pub(in super::super) fn count(block: &[u8]) -> usize {
        block.len() / ENTRY_BYTES
    }

    /// Decodes the entry at a position of a block.
    pub(in super::super) fn at(block: &[u8], position: usize) -> Option<Entry> {
        block.get(position * ENTRY_BYTES..).and_then(Entry::decode)
    }

    /// Decodes an entry of `ENTRY_BYTES`.
    fn decode(bytes: &[u8]) -> Option<Entry> {
        let (key, rest) = bytes.split_first_chunk::<KEY_BYTES>()?;
        let (event, rest) = rest.split_first_chunk::<NUMBER_BYTES>()?;
        let (expires, _) = rest.split_first_chunk::<NUMBER_BYTES>()?;
        Some(Entry { key: *key, event: number(*event), expires: number(*expires) })
    }

    /// Decodes the entries of a block.
    pub(in super::super) fn decode_all(block: &[u8]) -> impl Iterator<Item = Entry> {
        block.chunks_exact(ENTRY_BYTES).filter_map(Entry::decode)
    }

    /// Finds a key among the sorted entries of a block.
    pub(super) fn find(block: &[u8], key: &Key) -> Option<Entry> {
        let (mut low, mut high) = (0, Entry::count(block));
        while low < high {
            let middle = low.midpoint(high);
            let entry = Entry::at(block, middle)?;
            match entry.key.cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some(entry),
            }
        }
        None
    }
}

fn number(low: [u8; NUMBER_BYTES]) -> i64 {
    low.iter().fold(0, |number, byte| (number << 8) | i64::from(*byte))
}

/// Returns the first bytes of a key as a number with the same order.
pub(super) fn prefix(key: &Key) -> u64 {
    key.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_a_round_trip_and_are_found() {
        let entries: Vec<Entry> = (0..100_u8)
            .map(|n| Entry { key: [n * 2; 16], event: i64::from(n) << 36, expires: (1 << 47) + i64::from(n) })
            .collect();
        let mut block = Vec::new();
        entries.iter().for_each(|entry| entry.encode(&mut block));
        assert_eq!(block.len(), entries.len() * ENTRY_BYTES);
        assert_eq!(Entry::decode_all(&block).collect::<Vec<_>>(), entries);
        for n in 0..=200_u8 {
            let want = entries.iter().find(|entry| entry.key == [n; 16]).copied();
            assert_eq!(Entry::find(&block, &[n; 16]), want, "{n}");
        }
        assert_eq!(Entry::find(&[], &[0; 16]), None);
    }

    #[test]
    fn a_time_beyond_the_encoding_is_the_last_one() {
        let entry = Entry::new([1; 16], 7, i64::MAX);
        let mut block = Vec::new();
        entry.encode(&mut block);
        assert_eq!(Entry::decode_all(&block).collect::<Vec<_>>(), [entry]);
        assert_eq!(entry.expires, (1 << 48) - 1);
    }

    #[test]
    fn a_key_depends_on_the_place_and_on_the_first_half_of_the_hash() {
        let mut hash = [7; 32];
        let key = stored_key(&hash, &[1; 16]);
        assert_ne!(key, stored_key(&hash, &[2; 16]));
        hash[31] = 9;
        assert_eq!(key, stored_key(&hash, &[1; 16]));
        hash[0] = 9;
        assert_ne!(key, stored_key(&hash, &[1; 16]));
    }
}
