//! The pending deliveries without rows, as readers see them.
//!
//! Each read takes a snapshot, and the writer waits until it is taken. So a snapshot shares the notes with the writer
//! instead of copying up to 16,384 of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::super::DeliverySeq;
use super::super::unmaterialized::Unmaterialized;

/// The most notes of a block. A change copies the block if a snapshot shares it, and moves the notes behind the changed one.
const MAX_BLOCK: usize = 128;

/// A pending delivery, and the content of its note.
type Note = (DeliverySeq, Unmaterialized);

/// Notes in ascending order. A clone shares the blocks.
#[derive(Clone, Default)]
pub(in super::super) struct Notes {
    /// By a sequence number that is not above those of the block, and above those of the block before. No block is empty.
    blocks: BTreeMap<DeliverySeq, Arc<Vec<Note>>>,
    len: usize,
}

impl Notes {
    pub(in super::super) fn len(&self) -> usize {
        self.len
    }

    /// Returns all notes, in ascending order.
    pub(in super::super) fn iter(&self) -> impl DoubleEndedIterator<Item = Note> + '_ {
        self.blocks.values().flat_map(|block| block.iter().copied())
    }

    /// Returns the notes from `first` to `last`, both included, in ascending order.
    pub(in super::super) fn range(
        &self,
        first: DeliverySeq,
        last: DeliverySeq,
    ) -> impl Iterator<Item = Note> + '_ {
        let from = self.key_of_block(first).unwrap_or(first);
        let blocks = (from <= last).then(|| self.blocks.range(from..=last)).into_iter().flatten();
        blocks.flat_map(move |(_, block)| {
            let from = block.partition_point(|(seq, _)| *seq < first);
            let to = block.partition_point(|(seq, _)| *seq <= last);
            block.get(from..to).unwrap_or_default().iter().copied()
        })
    }

    pub(in super::super) fn get(&self, seq: DeliverySeq) -> Option<&Unmaterialized> {
        let block = self.blocks.get(&self.key_of_block(seq)?)?;
        let index = block.binary_search_by_key(&seq, |(seq, _)| *seq).ok()?;
        block.get(index).map(|(_, note)| note)
    }

    pub(super) fn insert(&mut self, seq: DeliverySeq, note: Unmaterialized) {
        let key = self.key_of_block(seq).unwrap_or(seq);
        let block = Arc::make_mut(self.blocks.entry(key).or_default());
        match block.binary_search_by_key(&seq, |(seq, _)| *seq) {
            Ok(index) => block.get_mut(index).into_iter().for_each(|found| found.1 = note),
            Err(index) => {
                block.insert(index, (seq, note));
                self.len += 1;
                if block.len() > MAX_BLOCK {
                    // New deliveries have the highest numbers: their block is left full, and the next one begins.
                    let upper = if index == MAX_BLOCK { index } else { MAX_BLOCK / 2 };
                    let upper = block.split_off(upper);
                    let first = upper.first().map(|(seq, _)| *seq);
                    self.blocks.extend(first.map(|first| (first, Arc::new(upper))));
                }
            }
        }
    }

    pub(super) fn remove(&mut self, seq: DeliverySeq) {
        let Some(key) = self.key_of_block(seq) else { return };
        let Some(block) = self.blocks.get_mut(&key) else { return };
        let Ok(index) = block.binary_search_by_key(&seq, |(seq, _)| *seq) else { return };
        let block = Arc::make_mut(block);
        block.remove(index);
        self.len -= 1;
        if block.is_empty() {
            self.blocks.remove(&key);
        }
    }

    /// Returns the key of the block that would have the note.
    fn key_of_block(&self, seq: DeliverySeq) -> Option<DeliverySeq> {
        self.blocks.range(..=seq).next_back().map(|(key, _)| *key)
    }
}

impl FromIterator<Note> for Notes {
    fn from_iter<I: IntoIterator<Item = Note>>(notes: I) -> Notes {
        let mut all = Notes::default();
        notes.into_iter().for_each(|(seq, note)| all.insert(seq, note));
        all
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::sequence;
    use super::*;

    fn note(hook: i64) -> Unmaterialized {
        Unmaterialized { hook, id: [0; 16], due: 0, held_before: 0, size: 0 }
    }

    proptest! {
        /// Every read equals that of a map, and a snapshot does not follow later changes.
        #[test]
        fn notes_equal_a_map(
            changes in prop::collection::vec((0..30_i64, 0..300_usize, 0..4_u8, 0..99_i64), 0..3000),
            first in 0..30_i64,
            last in 0..30_i64,
        ) {
            let (mut notes, mut map) = (Notes::default(), BTreeMap::new());
            let mut snapshots = Vec::new();
            for (event, index, change, hook) in changes {
                let seq = sequence::delivery_seq(event, index);
                if hook == 0 {
                    snapshots.push((notes.clone(), map.clone()));
                }
                if change > 0 {
                    notes.insert(seq, note(hook));
                    map.insert(seq, note(hook));
                } else {
                    notes.remove(seq);
                    map.remove(&seq);
                }
            }
            snapshots.push((notes, map));
            for (notes, map) in snapshots {
                let all: Vec<Note> = map.iter().map(|(seq, note)| (*seq, *note)).collect();
                prop_assert_eq!(notes.len(), all.len());
                prop_assert_eq!(notes.iter().collect::<Vec<_>>(), all.clone());
                let reversed: Vec<Note> = all.iter().rev().copied().collect();
                prop_assert_eq!(notes.iter().rev().collect::<Vec<_>>(), reversed);
                let (first, last) = (sequence::first_delivery(first), sequence::last_delivery(last));
                let within: Vec<Note> =
                    all.into_iter().filter(|(seq, _)| (first..=last).contains(seq)).collect();
                prop_assert_eq!(notes.range(first, last).collect::<Vec<_>>(), within);
                for (event, index) in (0..30).flat_map(|event| [(event, 0), (event, 7)]) {
                    let seq = sequence::delivery_seq(event, index);
                    prop_assert_eq!(notes.get(seq), map.get(&seq));
                }
                prop_assert!(notes.blocks.values().all(|block| (1..=MAX_BLOCK).contains(&block.len())));
            }
        }
    }

    /// An event may have a delivery for each of many thousand hooks. They are in blocks like those of many events.
    #[test]
    fn an_event_with_many_deliveries_has_small_blocks() {
        let mut notes = Notes::default();
        (0..20_000).for_each(|index| notes.insert(sequence::delivery_seq(1, index), note(1)));
        assert_eq!(notes.blocks.values().map(|block| block.len()).max(), Some(MAX_BLOCK));
        assert_eq!(notes.blocks.len(), 20_000_usize.div_ceil(MAX_BLOCK));
        (0..20_000).for_each(|index| notes.remove(sequence::delivery_seq(1, index)));
        assert!(notes.blocks.is_empty() && notes.len() == 0);
    }
}
