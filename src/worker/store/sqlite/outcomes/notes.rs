//! The pending deliveries without rows, as readers see them. A snapshot shares them with the writer, because readers take one
//! for each read, and while it is taken the writer waits: with a copy of thousands of notes, it would wait for long.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::super::{DeliverySeq, EventSeq};
use super::super::sequence;
use super::super::unmaterialized::Unmaterialized;

/// Events of one block. A change copies the block if a snapshot shares it.
const BLOCK_EVENTS: EventSeq = 64;

/// A note: its delivery, and what is known of it.
type Note = (DeliverySeq, Unmaterialized);

/// Notes in ascending order. A clone shares the blocks.
#[derive(Clone, Default)]
pub(in super::super) struct Notes {
    /// By the number of the block. No block is empty.
    blocks: BTreeMap<i64, Arc<Vec<Note>>>,
    len: usize,
}

fn block_of(seq: DeliverySeq) -> i64 {
    sequence::event_seq(seq) / BLOCK_EVENTS
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
        let (from, to) = (block_of(first), block_of(last));
        let blocks = (from <= to).then(|| self.blocks.range(from..=to)).into_iter().flatten();
        blocks.flat_map(move |(_, block)| {
            let from = block.partition_point(|(seq, _)| *seq < first);
            let to = block.partition_point(|(seq, _)| *seq <= last);
            block.get(from..to).unwrap_or_default().iter().copied()
        })
    }

    pub(in super::super) fn get(&self, seq: DeliverySeq) -> Option<&Unmaterialized> {
        let block = self.blocks.get(&block_of(seq))?;
        let index = block.binary_search_by_key(&seq, |(seq, _)| *seq).ok()?;
        block.get(index).map(|(_, note)| note)
    }

    pub(super) fn insert(&mut self, seq: DeliverySeq, note: Unmaterialized) {
        let block = Arc::make_mut(self.blocks.entry(block_of(seq)).or_default());
        match block.binary_search_by_key(&seq, |(seq, _)| *seq) {
            Ok(index) => block.get_mut(index).into_iter().for_each(|found| found.1 = note),
            Err(index) => {
                block.insert(index, (seq, note));
                self.len += 1;
            }
        }
    }

    pub(super) fn remove(&mut self, seq: DeliverySeq) {
        let number = block_of(seq);
        let Some(block) = self.blocks.get_mut(&number) else { return };
        let Ok(index) = block.binary_search_by_key(&seq, |(seq, _)| *seq) else { return };
        let block = Arc::make_mut(block);
        block.remove(index);
        self.len -= 1;
        if block.is_empty() {
            self.blocks.remove(&number);
        }
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

    use super::*;

    fn note(hook: i64) -> Unmaterialized {
        Unmaterialized { hook, id: [0; 16], due: 0, held_before: 0, size: 0 }
    }

    proptest! {
        /// Every read equals that of a map, and a snapshot does not follow later changes.
        #[test]
        fn notes_equal_a_map(
            changes in prop::collection::vec((0..300_i64, 0..3_usize, any::<bool>(), 0..9_i64), 0..200),
            first in 0..300_i64,
            last in 0..300_i64,
        ) {
            let (mut notes, mut map) = (Notes::default(), BTreeMap::new());
            let mut snapshots = Vec::new();
            for (event, index, is_insert, hook) in changes {
                let seq = sequence::delivery_seq(event, index);
                if hook == 0 {
                    snapshots.push((notes.clone(), map.clone()));
                }
                if is_insert {
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
                for event in 0..300 {
                    let seq = sequence::delivery_seq(event, 0);
                    prop_assert_eq!(notes.get(seq), map.get(&seq));
                }
            }
        }
    }
}
