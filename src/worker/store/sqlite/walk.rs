//! Walks the deliveries that a filter may match, in the order of their sequence numbers.
//!
//! Each walk merges a few ordered index ranges (`Source`), so its cost depends on the deliveries that it visits and not
//! on the size of the store or the number of hooks:
//!
//! - of a namespace: one range of `deliveries_namespace` for each state;
//! - of a hook: one range of `deliveries_list` for each state and each hook that has or had the name;
//! - of an event id: the events that `event_ids` finds, and of each the range of its deliveries.
//!
//! Times of the filter are converted to sequence numbers first, because both ascend together. The caller checks the rest
//! of the filter on each delivery, and bounds the number of positions that it visits.

use std::collections::{BinaryHeap, VecDeque};

use rusqlite::{Connection, OptionalExtension, params};

use super::super::{DeliveryFilter, DeliverySeq, DeliveryState, EventSeq};
use super::event_ids::{IdLookup, NewestIds};
use super::namespace_keys;
use super::schema::{CANCELLED, CANDIDATE, DEAD, DELIVERED, DROPPED, PENDING, STATES};
use super::sequence;

/// If the clock was set back by at most this many milliseconds, lists with a time filter still find every delivery.
const CLOCK_SLACK: i64 = 3_600_000;
/// Positions that a source reads at once.
const BATCH: usize = 32;
/// A name that more hooks had is searched among all deliveries of the namespace, because a walk of each hook would begin
/// with a seek for each of them.
const MAX_HOOKS_OF_NAME: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Older,
    Newer,
}

/// A position of a walk. Continuing after it neither skips nor repeats a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) seq: DeliverySeq,
    /// False at the end of an event that has no further deliveries.
    pub(super) is_delivery: bool,
}

/// An ordered part of a walk.
enum Source {
    Namespace {
        number: i64,
        state: i64,
    },
    Hook {
        hook: i64,
        state: i64,
    },
    /// The deliveries of all events with an id.
    Events(IdLookup),
}

const NAMESPACE_OLDER: &str = "
SELECT seq FROM deliveries INDEXED BY deliveries_namespace
WHERE namespace = ?1 AND state = ?2 AND seq < ?3 ORDER BY seq DESC LIMIT ?4";
const NAMESPACE_NEWER: &str = "
SELECT seq FROM deliveries INDEXED BY deliveries_namespace
WHERE namespace = ?1 AND state = ?2 AND seq > ?3 ORDER BY seq LIMIT ?4";
const HOOK_OLDER: &str = "
SELECT seq FROM deliveries INDEXED BY deliveries_list
WHERE hook = ?1 AND state = ?2 AND seq < ?3 ORDER BY seq DESC LIMIT ?4";
const HOOK_NEWER: &str = "
SELECT seq FROM deliveries INDEXED BY deliveries_list
WHERE hook = ?1 AND state = ?2 AND seq > ?3 ORDER BY seq LIMIT ?4";
const DELIVERIES_OLDER: &str =
    "SELECT seq FROM deliveries WHERE seq >= ?1 AND seq < ?2 ORDER BY seq DESC LIMIT ?3";
const DELIVERIES_NEWER: &str =
    "SELECT seq FROM deliveries WHERE seq > ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3";
pub(super) const HOOKS_OF_NAME: &str =
    "SELECT id FROM hooks INDEXED BY hooks_name WHERE namespace = ?1 AND name = ?2 LIMIT ?3";

impl Source {
    /// Returns the statement of its deliveries, or of the deliveries of one of its events.
    fn statement(&self, direction: Direction) -> &'static str {
        match (self, direction) {
            (Source::Namespace { .. }, Direction::Older) => NAMESPACE_OLDER,
            (Source::Namespace { .. }, Direction::Newer) => NAMESPACE_NEWER,
            (Source::Hook { .. }, Direction::Older) => HOOK_OLDER,
            (Source::Hook { .. }, Direction::Newer) => HOOK_NEWER,
            (Source::Events(_), Direction::Older) => DELIVERIES_OLDER,
            (Source::Events(_), Direction::Newer) => DELIVERIES_NEWER,
        }
    }

    /// Reads the next positions after `from`, at most `BATCH` of them. Empty: there are none.
    fn read(
        &self,
        conn: &Connection,
        direction: Direction,
        from: DeliverySeq,
    ) -> rusqlite::Result<VecDeque<Position>> {
        let statement = self.statement(direction);
        let limit = i64::try_from(BATCH).unwrap_or(i64::MAX);
        let delivery = |seq| Position { seq, is_delivery: true };
        let (key, state) = match self {
            Source::Namespace { number, state } => (number, state),
            Source::Hook { hook, state } => (hook, state),
            Source::Events(lookup) => {
                let events = match direction {
                    Direction::Older => {
                        lookup.older(conn, sequence::event_seq(from.saturating_sub(1)), BATCH)?
                    }
                    Direction::Newer => {
                        lookup.newer(conn, sequence::event_seq(from.saturating_add(1)), BATCH)?
                    }
                };
                let mut positions = VecDeque::new();
                for event in events {
                    if positions.len() >= BATCH {
                        break;
                    }
                    read_event(conn, statement, direction, event, from, &mut positions)?;
                }
                return Ok(positions);
            }
        };
        conn.prepare_cached(statement)?
            .query_map(params![key, state, from, limit], |row| row.get(0).map(delivery))?
            .collect()
    }
}

/// Appends the positions of an event's deliveries after `from`, and its end, if all of them fit into the batch.
fn read_event(
    conn: &Connection,
    statement: &str,
    direction: Direction,
    event: EventSeq,
    from: DeliverySeq,
    positions: &mut VecDeque<Position>,
) -> rusqlite::Result<()> {
    let (first, last) = (sequence::first_delivery(event), sequence::last_delivery(event));
    let (lower, upper, end) = match direction {
        Direction::Older => (first, from.min(last.saturating_add(1)), first),
        Direction::Newer => (from.max(first.saturating_sub(1)), last, last),
    };
    let limit = BATCH.saturating_sub(positions.len());
    let seqs = conn
        .prepare_cached(statement)?
        .query_map(params![lower, upper, i64::try_from(limit).unwrap_or(i64::MAX)], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<DeliverySeq>>>()?;
    let is_complete = seqs.len() < limit && seqs.last() != Some(&end);
    positions.extend(seqs.into_iter().map(|seq| Position { seq, is_delivery: true }));
    if is_complete {
        positions.push_back(Position { seq: end, is_delivery: false });
    }
    Ok(())
}

/// Visits the deliveries that a filter may match.
pub(super) struct DeliveryWalk {
    direction: Direction,
    sources: Vec<(Source, VecDeque<Position>)>,
    /// The next position of each source, and the source's index. Negated when walking to newer ones, because the heap pops
    /// its maximum.
    heads: BinaryHeap<(DeliverySeq, usize)>,
    /// The exclusive end.
    end: DeliverySeq,
}

impl DeliveryWalk {
    /// Starts after `from` (exclusive), in the walk's direction. `lookup`: see `begin_lookup`.
    pub(super) fn new(
        conn: &Connection,
        filter: &DeliveryFilter,
        lookup: Option<&IdLookup>,
        direction: Direction,
        from: Option<DeliverySeq>,
    ) -> rusqlite::Result<Self> {
        let first = first_since(conn, filter.since.map(|at| at.0.saturating_sub(CLOCK_SLACK)))?;
        let last = first_since(conn, filter.until.map(|at| at.0.saturating_add(CLOCK_SLACK)))?;
        let (first, last) = (first.unwrap_or(0), last.unwrap_or(DeliverySeq::MAX));
        let (from, end) = match direction {
            Direction::Older => (from.unwrap_or(DeliverySeq::MAX).min(last), first.saturating_sub(1)),
            Direction::Newer => (from.unwrap_or(0).max(first.saturating_sub(1)), last),
        };
        let mut walk = DeliveryWalk { direction, sources: Vec::new(), heads: BinaryHeap::new(), end };
        for source in sources(conn, filter, lookup)? {
            let positions = source.read(conn, direction, from)?;
            walk.sources.push((source, positions));
            walk.push_head(walk.sources.len() - 1);
        }
        Ok(walk)
    }

    /// Returns the next position. None: the walk is complete.
    pub(super) fn next(&mut self, conn: &Connection) -> rusqlite::Result<Option<Position>> {
        let Some((_, index)) = self.heads.pop() else { return Ok(None) };
        let Some((source, positions)) = self.sources.get_mut(index) else { return Ok(None) };
        let Some(position) = positions.pop_front() else { return Ok(None) };
        if positions.is_empty() {
            *positions = source.read(conn, self.direction, position.seq)?;
        }
        self.push_head(index);
        Ok(Some(position))
    }

    /// Adds the next position of a source to the heap, if there is one before the end.
    fn push_head(&mut self, index: usize) {
        let Some(seq) =
            self.sources.get(index).and_then(|(_, positions)| positions.front()).map(|next| next.seq)
        else {
            return;
        };
        match self.direction {
            Direction::Older if seq > self.end => self.heads.push((seq, index)),
            Direction::Newer if seq < self.end => self.heads.push((-seq, index)),
            Direction::Older | Direction::Newer => {}
        }
    }

    /// Returns the statements that the walk executes.
    #[cfg(test)]
    pub(super) fn statements(&self) -> std::collections::BTreeSet<&'static str> {
        self.sources.iter().map(|(source, _)| source.statement(self.direction)).collect()
    }
}

/// Begins to look up the event id of a filter, if it has one. Must run before the snapshot of the walk.
pub(super) fn begin_lookup(
    conn: &Connection,
    newest: &NewestIds,
    filter: &DeliveryFilter,
) -> rusqlite::Result<Option<IdLookup>> {
    let Some(id) = &filter.event else { return Ok(None) };
    let namespace_key = namespace_keys::key(conn, &filter.namespace)?;
    Ok(Some(IdLookup::begin(newest, &namespace_key, id)))
}

/// Returns the sources that together contain every delivery that the filter matches.
fn sources(
    conn: &Connection,
    filter: &DeliveryFilter,
    lookup: Option<&IdLookup>,
) -> rusqlite::Result<Vec<Source>> {
    if let Some(lookup) = lookup {
        return Ok(vec![Source::Events(lookup.clone())]);
    }
    let namespace_key = namespace_keys::key(conn, &filter.namespace)?;
    let states: &[i64] = match filter.state {
        None => &STATES,
        Some(DeliveryState::Pending) => &[PENDING, CANDIDATE],
        Some(DeliveryState::Delivered) => &[DELIVERED],
        Some(DeliveryState::Dead) => &[DEAD],
        Some(DeliveryState::Dropped) => &[DROPPED],
        Some(DeliveryState::Cancelled) => &[CANCELLED],
    };
    if let Some(name) = &filter.hook {
        let limit = i64::try_from(MAX_HOOKS_OF_NAME + 1).unwrap_or(i64::MAX);
        let hooks = conn
            .prepare_cached(HOOKS_OF_NAME)?
            .query_map(params![namespace_key, name, limit], |row| row.get(0))?
            .collect::<rusqlite::Result<Vec<i64>>>()?;
        if hooks.len() <= MAX_HOOKS_OF_NAME {
            let of_hook = |hook| states.iter().map(move |state| Source::Hook { hook, state: *state });
            return Ok(hooks.into_iter().flat_map(of_hook).collect());
        }
    }
    let Some(number) = namespace_keys::number(conn, &namespace_key)? else { return Ok(Vec::new()) };
    Ok(states.iter().map(|state| Source::Namespace { number, state: *state }).collect())
}

/// Returns the first possible delivery of an event that was accepted at `at` or later. None: no time was given.
fn first_since(conn: &Connection, at: Option<i64>) -> rusqlite::Result<Option<DeliverySeq>> {
    at.map(|at| first_event_since(conn, at).map(sequence::first_delivery)).transpose()
}

/// Returns the first possible event that was accepted at `at` or later.
///
/// Bisects the events' sequence numbers, which ascend with the time of acceptance.
pub(super) fn first_event_since(conn: &Connection, at: i64) -> rusqlite::Result<EventSeq> {
    let end: EventSeq = conn
        .prepare_cached("SELECT coalesce(max(seq), 0) + 1 FROM events")?
        .query_row([], |row| row.get(0))?;
    let (mut low, mut high) = (0, end);
    while low < high {
        let middle = low + (high - low) / 2;
        let found: Option<(EventSeq, i64)> = conn
            .prepare_cached(EVENT_AFTER)?
            .query_row([middle], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        match found {
            Some((seq, accepted)) if accepted < at => low = seq + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}

pub(super) const EVENT_AFTER: &str = "SELECT seq, accepted FROM events WHERE seq >= ?1 ORDER BY seq LIMIT 1";
