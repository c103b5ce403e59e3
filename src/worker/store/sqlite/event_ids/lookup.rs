//! Finds the events with an id, on a reading connection.
//!
//! Runs of ids have no filters: a lookup bisects the blocks of each run, about 15 reads of a run with 5 million ids. Only
//! users' queries look ids up, and a write costs nothing for them.

use rusqlite::Connection;

use super::super::super::EventSeq;
use super::super::runs::{Entry, Key, Manifest, RunKind};
use super::super::sequence::Direction;
use super::{NewestIds, id_key, meta};

/// The ids of an old format that no run has yet: `meta.ids_missing`.
pub(super) const MISSING: &str = "ids_missing";

/// True while a background job adds the ids of events that an older format stored. A query that finds nothing then does not
/// prove that there is no event.
pub(in super::super) fn is_incomplete(conn: &Connection) -> rusqlite::Result<bool> {
    meta(conn, MISSING).map(|missing| missing.is_some())
}

/// The events that may have an id: some may have another one, or be removed.
#[derive(Clone, Debug)]
pub(in super::super) struct IdLookup {
    key: Key,
    /// The events in memory, ascending.
    newest: Vec<EventSeq>,
}

impl IdLookup {
    /// Begins a lookup. Must run before the snapshot of the query: ids leave the memory after they are in a run.
    pub(in super::super) fn begin(newest: &NewestIds, place: &str, id: &str) -> IdLookup {
        let key = id_key(place, id);
        IdLookup { newest: newest.find(&key), key }
    }

    /// Returns up to `limit` events, of which the first may be `from`, in the order of the direction.
    pub(in super::super) fn find(
        &self,
        conn: &Connection,
        direction: Direction,
        from: EventSeq,
        limit: usize,
    ) -> rusqlite::Result<Vec<EventSeq>> {
        let is_older = direction == Direction::Older;
        // Older events are below it; newer ones are not.
        let boundary = if is_older { from.saturating_add(1) } else { from };
        let split = self.newest.partition_point(|event| *event < boundary);
        let mut events: Vec<_> = beside(&self.newest, split, direction).take(limit).copied().collect();
        for run in Manifest::read_all(conn, RunKind::Ids)? {
            let is_in_range = if is_older { run.first_event < boundary } else { run.last_event >= boundary };
            if is_in_range {
                let blocks = Blocks { run: run.id, count: run.blocks };
                let place = blocks.position(conn, (&self.key, boundary))?;
                blocks.append_events(conn, &self.key, direction, place, limit, &mut events)?;
            }
        }
        events.sort_unstable();
        if is_older {
            events.reverse();
        }
        events.dedup();
        events.truncate(limit);
        Ok(events)
    }
}

/// Returns the items of an ascending list on one side of a split, the nearest first.
fn beside<T>(items: &[T], split: usize, direction: Direction) -> Box<dyn Iterator<Item = &T> + '_> {
    let (below, above) = items.split_at_checked(split).unwrap_or((items, &[]));
    match direction {
        Direction::Older => Box::new(below.iter().rev()),
        Direction::Newer => Box::new(above.iter()),
    }
}

/// The blocks of a run.
struct Blocks {
    run: i64,
    count: usize,
}

/// The place of an entry: its block, and its position in the block.
type Place = (usize, usize);

impl Blocks {
    fn read<T>(
        &self,
        conn: &Connection,
        block: usize,
        use_block: impl FnOnce(&[u8]) -> T,
    ) -> rusqlite::Result<T> {
        RunKind::Ids.blocks().read(conn, self.run, block, use_block)
    }

    /// Returns the place of the first entry that is not before the wanted one. It may be the end of a block.
    fn position(&self, conn: &Connection, wanted: (&Key, EventSeq)) -> rusqlite::Result<Place> {
        let is_before = |entry: Entry| (&entry.key, entry.event) < wanted;
        // The last block whose first entry is before the wanted one has the place.
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            let first = self.read(conn, middle, |block| Entry::at(block, 0))?;
            if first.is_some_and(is_before) { low = middle + 1 } else { high = middle }
        }
        let Some(block) = low.checked_sub(1) else { return Ok((0, 0)) };
        let before = |block: &[u8]| Entry::decode_all(block).take_while(|entry| is_before(*entry)).count();
        Ok((block, self.read(conn, block, before)?))
    }

    /// Appends up to `limit` events with the key on one side of a place, the nearest first.
    fn append_events(
        &self,
        conn: &Connection,
        key: &Key,
        direction: Direction,
        (start, split): Place,
        limit: usize,
        events: &mut Vec<EventSeq>,
    ) -> rusqlite::Result<()> {
        let (mut next, mut found) = (Some(start), 0);
        while let Some(block) = next.filter(|block| *block < self.count && found < limit) {
            let (with_key, is_end) = self.read(conn, block, |content| {
                let entries: Vec<Entry> = Entry::decode_all(content).collect();
                let split = match direction {
                    _ if block == start => split,
                    Direction::Older => entries.len(),
                    Direction::Newer => 0,
                };
                let ahead: Vec<&Entry> = beside(&entries, split, direction).collect();
                let with_key = ahead.iter().take_while(|entry| entry.key == *key);
                let with_key: Vec<_> = with_key.map(|entry| entry.event).take(limit - found).collect();
                let is_end = with_key.len() < ahead.len();
                (with_key, is_end)
            })?;
            found += with_key.len();
            events.extend(with_key);
            next = match direction {
                _ if is_end => None,
                Direction::Older => block.checked_sub(1),
                Direction::Newer => Some(block + 1),
            };
        }
        Ok(())
    }
}
