//! The bloom filter of one block: 12 bits for each of its keys, so that about one foreign key in 300 is not recognized.
//!
//! A filter for each block instead of one for the whole run is complete when its block is complete. So a run of any size is
//! written in slices, and the filter needs no second pass.

use super::entry::Key;

pub(super) const FILTER_BYTES: usize = 216;
const BITS: u64 = FILTER_BYTES as u64 * 8;
const PROBES: u32 = 8;

/// Adds a key to a filter of `FILTER_BYTES`.
pub(super) fn insert(filter: &mut [u8], key: &Key) {
    for (byte, mask) in positions(key) {
        if let Some(byte) = filter.get_mut(byte) {
            *byte |= mask;
        }
    }
}

/// False if the key is certainly not in the block.
pub(super) fn may_contain(filter: &[u8], key: &Key) -> bool {
    positions(key).all(|(byte, mask)| filter.get(byte).is_some_and(|byte| byte & mask != 0))
}

/// Returns the bits of a key. The second half of the key is already a hash; the keys of one block share bits of the first.
fn positions(key: &Key) -> impl Iterator<Item = (usize, u8)> {
    let hash = key.last_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    let [start, step] = [hash as u32, (hash >> 32) as u32 | 1];
    (0..PROBES).map(move |n| {
        let bit = (u64::from(start.wrapping_add(step.wrapping_mul(n))) * BITS) >> 32;
        (usize::try_from(bit / 8).unwrap_or(usize::MAX), 1 << (bit % 8))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_key_and_few_others() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut key = || random.u128(..).to_be_bytes();
        let (mut unrecognized, mut tried) = (0, 0);
        for _ in 0..50 {
            let mut filter = [0; FILTER_BYTES];
            let keys: Vec<Key> = (0..144).map(|_| key()).collect();
            keys.iter().for_each(|key| insert(&mut filter, key));
            assert!(keys.iter().all(|key| may_contain(&filter, key)));
            for _ in 0..2000 {
                tried += 1;
                unrecognized += u32::from(may_contain(&filter, &key()));
            }
        }
        assert!(unrecognized * 150 < tried, "{unrecognized} of {tried}");
    }
}
