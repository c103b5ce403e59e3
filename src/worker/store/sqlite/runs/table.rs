//! Entries that are in no run yet, in the order of a run.
//!
//! A table is frozen by moving it, and written as it is. Sorting it at once would stop the writer, for which accepts wait, for
//! tens of milliseconds on a busy machine.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::super::super::EventSeq;
use super::entry::{Entry, Key};

/// Memory of an entry in the ordered map, whose nodes are about two thirds full.
pub(in super::super) const TABLE_ENTRY_BYTES: usize = size_of::<((Key, EventSeq), Stored)>() * 3 / 2;

#[derive(Clone, Copy)]
struct Stored {
    expires: i64,
    class: u8,
}

/// Entries by key, then by event. Those of one class become one run.
#[derive(Default)]
pub(in super::super) struct EntryTable {
    entries: BTreeMap<(Key, EventSeq), Stored>,
    classes: BTreeSet<u8>,
}

impl EntryTable {
    /// Returns a table of entries of one class.
    pub(in super::super) fn of_class(class: u8, entries: impl IntoIterator<Item = Entry>) -> EntryTable {
        let stored = |entry: Entry| ((entry.key, entry.event), Stored { expires: entry.expires, class });
        let entries: BTreeMap<_, _> = entries.into_iter().map(stored).collect();
        EntryTable { entries, classes: BTreeSet::from([class]) }
    }

    /// Adds an entry beside others of its key.
    pub(in super::super) fn insert(&mut self, entry: Entry, class: u8) {
        self.classes.insert(class);
        self.entries.insert((entry.key, entry.event), Stored { expires: entry.expires, class });
    }

    /// Adds an entry instead of others of its key.
    pub(in super::super) fn replace(&mut self, entry: Entry, class: u8) {
        let first = |table: &Self| table.find(&entry.key).next();
        while let Some(old) = first(self) {
            self.entries.remove(&(old.key, old.event));
        }
        self.insert(entry, class);
    }

    /// Returns the entries of a key, in the order of their events.
    pub(in super::super) fn find(&self, key: &Key) -> impl Iterator<Item = Entry> {
        let found = self.entries.range((*key, EventSeq::MIN)..=(*key, EventSeq::MAX));
        found.map(|((key, event), stored)| Entry { key: *key, event: *event, expires: stored.expires })
    }

    /// Returns the entries of a class after this one, or from the first one on.
    pub(super) fn after(&self, last: Option<&Entry>, class: u8) -> impl Iterator<Item = Entry> {
        let begin = last.map_or(Bound::Unbounded, |last| Bound::Excluded((last.key, last.event)));
        let of_class = self.entries.range((begin, Bound::Unbounded)).filter(move |(_, s)| s.class == class);
        of_class.map(|((key, event), stored)| Entry { key: *key, event: *event, expires: stored.expires })
    }

    /// Returns the classes that entries have, or had.
    pub(in super::super) fn classes(&self) -> impl Iterator<Item = u8> {
        self.classes.iter().copied()
    }

    pub(in super::super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns its memory.
    pub(in super::super) fn bytes(&self) -> usize {
        self.entries.len() * TABLE_ENTRY_BYTES
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(key: u8, event: EventSeq) -> Entry {
        Entry::new([key; 16], event, 1000 + event)
    }

    proptest! {
        /// What a run gets is the sorted content of its class, however often the reading is interrupted.
        #[test]
        fn is_read_in_order_from_any_entry(
            items in prop::collection::vec((0..8u8, 0..6i64, 0..3u8, any::<bool>()), 0..60),
            step in 1..5usize,
        ) {
            let mut table = EntryTable::default();
            let mut model: Vec<(Entry, u8)> = Vec::new();
            for (key, event, class, is_only) in items {
                let new = entry(key, event);
                model.retain(|(old, _)| old.key != new.key || !is_only && old.event != new.event);
                model.push((new, class));
                if is_only { table.replace(new, class) } else { table.insert(new, class) }
            }
            model.sort_by_key(|(entry, _)| (entry.key, entry.event));
            prop_assert_eq!(table.len(), model.len());
            for class in 0..3 {
                let expected: Vec<Entry> =
                    model.iter().filter(|(_, of)| *of == class).map(|(entry, _)| *entry).collect();
                let mut read: Vec<Entry> = Vec::new();
                loop {
                    let part: Vec<Entry> = table.after(read.last(), class).take(step).collect();
                    if part.is_empty() {
                        break;
                    }
                    read.extend(part);
                }
                prop_assert_eq!(read, expected.clone());
                prop_assert!(expected.is_empty() || table.classes().any(|known| known == class));
            }
            for key in 0..8 {
                let expected: Vec<Entry> =
                    model.iter().map(|(entry, _)| *entry).filter(|entry| entry.key == [key; 16]).collect();
                prop_assert_eq!(table.find(&[key; 16]).collect::<Vec<_>>(), expected);
            }
        }
    }
}
