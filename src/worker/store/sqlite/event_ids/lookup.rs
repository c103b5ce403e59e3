//! Finds the events with an id, on a reading connection.
//!
//! Runs of ids have no filters: a lookup bisects the blocks of each run, about 15 reads of a run with 5 million ids. Only
//! users' queries look ids up, and a write costs nothing for them.

use rusqlite::Connection;

use super::super::super::EventSeq;
use super::super::runs::{Entry, Key, Manifest, RunKind};
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

    /// Returns up to `limit` events up to `last`, the newest first.
    pub(in super::super) fn older(
        &self,
        conn: &Connection,
        last: EventSeq,
        limit: usize,
    ) -> rusqlite::Result<Vec<EventSeq>> {
        let end = self.newest.partition_point(|event| *event <= last);
        let mut events: Vec<_> = self.newest.iter().take(end).rev().take(limit).copied().collect();
        for run in self.runs(conn, |run| run.first_event <= last)? {
            let end = run.position(conn, (&self.key, last.saturating_add(1)))?;
            run.read_back(conn, end, &self.key, limit, &mut events)?;
        }
        events.sort_unstable_by(|one, other| other.cmp(one));
        events.dedup();
        events.truncate(limit);
        Ok(events)
    }

    /// Returns up to `limit` events from `first` on, the oldest first.
    pub(in super::super) fn newer(
        &self,
        conn: &Connection,
        first: EventSeq,
        limit: usize,
    ) -> rusqlite::Result<Vec<EventSeq>> {
        let start = self.newest.partition_point(|event| *event < first);
        let mut events: Vec<_> = self.newest.iter().skip(start).take(limit).copied().collect();
        for run in self.runs(conn, |run| run.last_event >= first)? {
            let start = run.position(conn, (&self.key, first))?;
            run.read_forward(conn, start, &self.key, limit, &mut events)?;
        }
        events.sort_unstable();
        events.dedup();
        events.truncate(limit);
        Ok(events)
    }

    fn runs(
        &self,
        conn: &Connection,
        is_in_range: impl Fn(&Manifest) -> bool,
    ) -> rusqlite::Result<Vec<Blocks>> {
        let runs = Manifest::read_all(conn, RunKind::Ids)?.into_iter();
        Ok(runs.filter(is_in_range).map(|run| Blocks { run: run.id, count: run.blocks }).collect())
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

    /// Appends up to `limit` events with the key, from a place on.
    fn read_forward(
        &self,
        conn: &Connection,
        (first, skipped): Place,
        key: &Key,
        limit: usize,
        events: &mut Vec<EventSeq>,
    ) -> rusqlite::Result<()> {
        let (mut found, mut skipped) = (0, skipped);
        for block in first..self.count {
            let (with_key, is_end) = self.read(conn, block, |block| {
                let left = Entry::count(block).saturating_sub(skipped);
                let with_key = Entry::decode_all(block).skip(skipped).take_while(|entry| entry.key == *key);
                let with_key: Vec<_> = with_key.map(|entry| entry.event).take(limit - found).collect();
                let is_end = with_key.len() < left;
                (with_key, is_end)
            })?;
            found += with_key.len();
            events.extend(with_key);
            if is_end || found >= limit {
                break;
            }
            skipped = 0;
        }
        Ok(())
    }

    /// Appends up to `limit` events with the key, from before a place back.
    fn read_back(
        &self,
        conn: &Connection,
        (last, end): Place,
        key: &Key,
        limit: usize,
        events: &mut Vec<EventSeq>,
    ) -> rusqlite::Result<()> {
        let mut found = 0;
        for block in (0..self.count.min(last.saturating_add(1))).rev() {
            let (with_key, is_end) = self.read(conn, block, |content| {
                let count = if block == last { end } else { Entry::count(content) };
                let entries: Vec<_> = Entry::decode_all(content).take(count).collect();
                let with_key = entries.into_iter().rev().take_while(|entry| entry.key == *key);
                let with_key: Vec<_> = with_key.map(|entry| entry.event).take(limit - found).collect();
                let is_end = with_key.len() < count;
                (with_key, is_end)
            })?;
            found += with_key.len();
            events.extend(with_key);
            if is_end || found >= limit {
                break;
            }
        }
        Ok(())
    }
}
