//! Walks the deliveries that a filter may match, in the order of their sequence numbers.
//!
//! Each walk merges a few ordered sources (`Source`), so its cost depends on the deliveries that it visits and not on the size
//! of the store or the number of hooks:
//!
//! - of a namespace: one range of `deliveries_namespace` for each state, and its outcomes in segments;
//! - of all namespaces: the same for each of them, so that this is the only walk whose cost grows with their number;
//! - of a hook: the same by `deliveries_list`, for each hook that has or had the name;
//! - of an event id: the events that `event_ids` finds, and of each the range of its deliveries;
//! - of both: the deliveries that no table lists (`outcomes::Snapshot`).
//!
//! Times of the filter are converted to sequence numbers first, because both ascend together. The caller checks the rest
//! of the filter on each delivery, and bounds the number of positions that it visits.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

use rusqlite::{Connection, OptionalExtension, params};

use super::super::{DeliveryFilter, DeliverySeq, DeliveryState, EventSeq};
use super::event_ids::{IdLookup, NewestIds};
use super::namespace_keys;
use super::outcomes::{self, Outcome, OwnedPart, Owner, RecentDelivery, Snapshot};
use super::schema::{CANCELLED, CANDIDATE, DEAD, DELIVERED, DROPPED, PENDING, STATES};
use super::sequence::{self, Direction};
use crate::core::fast_map::FastMap;

/// If the clock was set back by at most this many milliseconds, lists with a time filter still find every delivery.
const CLOCK_SLACK: i64 = 3_600_000;
/// Positions that a source reads at once.
const BATCH: usize = 32;
/// Entries of segments that a source examines at once without a match.
const MAX_UNMATCHED: usize = 2000;
/// A name that more hooks had is searched among all deliveries of the namespace, because a walk of each hook would begin
/// with a seek for each of them.
const MAX_HOOKS_OF_NAME: usize = 64;

/// What a walk found at a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// No delivery: the end of an event without further deliveries, or of a part of the segments without matches.
    Nothing,
    Row,
    /// A delivery of the snapshot that is older than that of the database. It may have a row meanwhile.
    Recent(RecentDelivery),
    Segment(Outcome),
}

/// A position of a walk. Continuing after it neither skips nor repeats a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) seq: DeliverySeq,
    pub(super) found: Found,
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
    /// The outcomes of a hook or a namespace in segments.
    Segments(Owner),
    /// The deliveries of all events with an id.
    Events(IdLookup),
    /// The deliveries of the snapshot that the filter may match. All of them are read at the start.
    Recent,
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
    "SELECT seq FROM deliveries WHERE seq >= ?1 AND seq <= ?2 ORDER BY seq DESC LIMIT ?3";
const DELIVERIES_NEWER: &str =
    "SELECT seq FROM deliveries WHERE seq >= ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3";
pub(super) const HOOKS_OF_NAME: &str =
    "SELECT id FROM hooks INDEXED BY hooks_name WHERE namespace = ?1 AND name = ?2 LIMIT ?3";

/// The next positions of a source, and how many entries were examined besides them.
#[derive(Default)]
struct Batch {
    positions: VecDeque<Position>,
    examined: usize,
}

impl Source {
    /// Returns the statements of its deliveries, or of the deliveries of one of its events.
    #[cfg(test)]
    fn statements(&self, direction: Direction) -> Vec<&'static str> {
        match (self, direction) {
            (Source::Namespace { .. }, Direction::Older) => vec![NAMESPACE_OLDER],
            (Source::Namespace { .. }, Direction::Newer) => vec![NAMESPACE_NEWER],
            (Source::Hook { .. }, Direction::Older) => vec![HOOK_OLDER],
            (Source::Hook { .. }, Direction::Newer) => vec![HOOK_NEWER],
            (Source::Events(_), Direction::Older) => vec![DELIVERIES_OLDER],
            (Source::Events(_), Direction::Newer) => vec![DELIVERIES_NEWER],
            (Source::Segments(_), Direction::Older) => vec![outcomes::PART_OLDER, outcomes::AT],
            (Source::Segments(_), Direction::Newer) => vec![outcomes::PART_NEWER, outcomes::AT],
            (Source::Recent, _) => Vec::new(),
        }
    }

    /// Reads the next positions after `from`, about `BATCH` of them. Empty: there are none.
    fn read(
        &self,
        conn: &Connection,
        recent: &Snapshot,
        direction: Direction,
        from: DeliverySeq,
    ) -> rusqlite::Result<Batch> {
        let is_older = direction == Direction::Older;
        let (sql, key, state) = match self {
            Source::Namespace { number, state } if is_older => (NAMESPACE_OLDER, number, state),
            Source::Namespace { number, state } => (NAMESPACE_NEWER, number, state),
            Source::Hook { hook, state } if is_older => (HOOK_OLDER, hook, state),
            Source::Hook { hook, state } => (HOOK_NEWER, hook, state),
            Source::Segments(owner) => return read_segments(conn, *owner, direction, from),
            Source::Events(lookup) => return read_events(conn, recent, lookup, direction, from),
            Source::Recent => return Ok(Batch::default()),
        };
        let limit = i64::try_from(BATCH).unwrap_or(i64::MAX);
        let positions = conn
            .prepare_cached(sql)?
            .query_map(params![key, state, from, limit], |row| {
                Ok(Position { seq: row.get(0)?, found: Found::Row })
            })?
            .collect::<rusqlite::Result<_>>()?;
        Ok(Batch { positions, examined: 0 })
    }
}

/// Reads the outcomes of the next segment in which an owner has some. After many without, returns a position without a
/// delivery, so that a query can end there.
fn read_segments(
    conn: &Connection,
    owner: Owner,
    direction: Direction,
    mut from: DeliverySeq,
) -> rusqlite::Result<Batch> {
    let mut batch = Batch::default();
    loop {
        let part = outcomes::next_of_owner(conn, owner, from, direction == Direction::Older)?;
        let OwnedPart { outcomes, examined, next } = part;
        batch.examined += examined;
        batch.positions.extend(
            outcomes.into_iter().map(|outcome| Position { seq: outcome.seq, found: Found::Segment(outcome) }),
        );
        match next {
            Some(next) if batch.positions.is_empty() => from = next,
            _ => break,
        }
        if batch.examined > MAX_UNMATCHED {
            batch.positions.push_back(Position { seq: from, found: Found::Nothing });
            break;
        }
    }
    Ok(batch)
}

/// Reads the deliveries of the next events with an id.
fn read_events(
    conn: &Connection,
    recent: &Snapshot,
    lookup: &IdLookup,
    direction: Direction,
    from: DeliverySeq,
) -> rusqlite::Result<Batch> {
    let first = match direction {
        Direction::Older => from.saturating_sub(1),
        Direction::Newer => from.saturating_add(1),
    };
    let events = lookup.find(conn, direction, sequence::event_seq(first), BATCH)?;
    let mut positions = VecDeque::new();
    for event in events {
        if positions.len() >= BATCH {
            break;
        }
        let (first, last) = (sequence::first_delivery(event), sequence::last_delivery(event));
        let (low, high, end) = match direction {
            Direction::Older => (first, from.saturating_sub(1).min(last), first),
            Direction::Newer => (from.saturating_add(1).max(first), last, last),
        };
        let limit = BATCH.saturating_sub(positions.len());
        let found = deliveries_between(conn, recent, (low, high), direction, limit)?;
        let is_complete = found.len() < limit && found.last().is_none_or(|position| position.seq != end);
        positions.extend(found);
        if is_complete {
            positions.push_back(Position { seq: end, found: Found::Nothing });
        }
    }
    Ok(Batch { positions, examined: 0 })
}

/// Returns up to `limit` deliveries from `low` to `high`, the first ones in the direction.
pub(super) fn deliveries_between(
    conn: &Connection,
    recent: &Snapshot,
    (low, high): (DeliverySeq, DeliverySeq),
    direction: Direction,
    limit: usize,
) -> rusqlite::Result<Vec<Position>> {
    let is_older = direction == Direction::Older;
    let mut found: BTreeMap<DeliverySeq, Found> = BTreeMap::new();
    found.extend(recent.range(low, high).map(|(seq, delivery)| (seq, Found::Recent(delivery))));
    let in_segments = outcomes::range(conn, low, high, is_older, limit)?;
    found.extend(in_segments.into_iter().map(|outcome| (outcome.seq, Found::Segment(outcome))));
    let sql = if is_older { DELIVERIES_OLDER } else { DELIVERIES_NEWER };
    let mut rows = conn.prepare_cached(sql)?;
    let mut rows = rows.query(params![low, high, i64::try_from(limit).unwrap_or(i64::MAX)])?;
    while let Some(row) = rows.next()? {
        found.insert(row.get(0)?, Found::Row);
    }
    let positions = found.into_iter().map(|(seq, found)| Position { seq, found });
    Ok(if is_older { positions.rev().take(limit).collect() } else { positions.take(limit).collect() })
}

/// Visits the deliveries that a filter may match.
pub(super) struct DeliveryWalk<'s> {
    recent: &'s Snapshot,
    direction: Direction,
    sources: Vec<(Source, VecDeque<Position>)>,
    /// The next position of each source, and the source's index. Negated when walking to newer ones, because the heap pops
    /// its maximum.
    heads: BinaryHeap<(DeliverySeq, usize)>,
    /// The exclusive end.
    end: DeliverySeq,
    /// The last delivery, which another source may have too.
    last: Option<DeliverySeq>,
    /// Entries that were examined besides the returned positions.
    examined: usize,
}

impl<'s> DeliveryWalk<'s> {
    /// Starts after `from` (exclusive), in the walk's direction. `lookups`: see `begin_lookups`.
    pub(super) fn new(
        conn: &Connection,
        recent: &'s Snapshot,
        filter: &DeliveryFilter,
        lookups: Option<&[IdLookup]>,
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
        let mut walk = DeliveryWalk {
            recent,
            direction,
            sources: Vec::new(),
            heads: BinaryHeap::new(),
            end,
            last: None,
            examined: 0,
        };
        let (sources, recent_of) = sources(conn, filter, lookups)?;
        let of_snapshot = recent_positions(conn, recent, &recent_of, filter, direction, from)?;
        for source in sources {
            let Batch { positions, examined } = source.read(conn, recent, direction, from)?;
            walk.examined += examined;
            walk.add(source, positions);
        }
        walk.add(Source::Recent, of_snapshot);
        Ok(walk)
    }

    fn add(&mut self, source: Source, positions: VecDeque<Position>) {
        self.sources.push((source, positions));
        self.push_head(self.sources.len() - 1);
    }

    /// Returns the next position. None: the walk is complete.
    pub(super) fn next(&mut self, conn: &Connection) -> rusqlite::Result<Option<Position>> {
        loop {
            let Some((_, index)) = self.heads.pop() else { return Ok(None) };
            let Some((source, positions)) = self.sources.get_mut(index) else { return Ok(None) };
            let Some(position) = positions.pop_front() else { return Ok(None) };
            if positions.is_empty() {
                let batch = source.read(conn, self.recent, self.direction, position.seq)?;
                *positions = batch.positions;
                self.examined += batch.examined;
            }
            self.push_head(index);
            // A query that ended at a position without a delivery would skip the delivery that another source has there.
            let has_same = match self.direction {
                Direction::Older => self.heads.peek().is_some_and(|(seq, _)| *seq == position.seq),
                Direction::Newer => self.heads.peek().is_some_and(|(seq, _)| *seq == -position.seq),
            };
            if self.last == Some(position.seq) || (position.found == Found::Nothing && has_same) {
                continue;
            }
            if position.found != Found::Nothing {
                self.last = Some(position.seq);
            }
            return Ok(Some(position));
        }
    }

    /// Returns the number of entries that were examined since the last call besides the returned positions.
    pub(super) fn take_examined(&mut self) -> usize {
        std::mem::take(&mut self.examined)
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
        self.sources.iter().flat_map(|(source, _)| source.statements(self.direction)).collect()
    }
}

/// Begins to look up the event id of a filter, if it has one, in each of its namespaces. Must run before the snapshot of the
/// walk.
pub(super) fn begin_lookups(
    conn: &Connection,
    newest: &NewestIds,
    filter: &DeliveryFilter,
) -> rusqlite::Result<Option<Vec<IdLookup>>> {
    let Some(id) = &filter.event else { return Ok(None) };
    let keys = namespace_keys::keys(conn, &filter.namespace)?;
    Ok(Some(keys.iter().map(|key| IdLookup::begin(newest, key, id)).collect()))
}

/// The hooks whose deliveries of the snapshot a walk visits.
enum RecentOf {
    /// The hooks with these row ids.
    Hooks(Vec<i64>),
    /// The hooks of the namespaces with these keys.
    Namespaces(BTreeSet<String>),
}

/// Returns the deliveries of the snapshot that a walk visits after `from`.
fn recent_positions(
    conn: &Connection,
    recent: &Snapshot,
    of: &RecentOf,
    filter: &DeliveryFilter,
    direction: Direction,
    from: DeliverySeq,
) -> rusqlite::Result<VecDeque<Position>> {
    let is_in_state = |delivery: &RecentDelivery| match delivery {
        RecentDelivery::Pending(_) => filter.state.is_none_or(|state| state == DeliveryState::Pending),
        RecentDelivery::Delivered(_) => filter.state.is_none_or(|state| state == DeliveryState::Delivered),
    };
    let mut key_of = conn.prepare_cached("SELECT namespace FROM hooks WHERE id = ?1")?;
    let mut is_owned: FastMap<i64, bool> = FastMap::default();
    let mut positions = Vec::new();
    for (seq, delivery) in recent.iter() {
        let is_ahead = if direction == Direction::Older { seq < from } else { seq > from };
        if !is_ahead || !is_in_state(&delivery) {
            continue;
        }
        let hook = delivery.hook();
        let is_owned = match of {
            RecentOf::Hooks(hooks) => hooks.contains(&hook),
            RecentOf::Namespaces(keys) => match is_owned.get(&hook) {
                Some(known) => *known,
                None => {
                    let key: Option<String> = key_of.query_row([hook], |row| row.get(0)).optional()?;
                    let owned = key.is_some_and(|key| keys.contains(&key));
                    is_owned.insert(hook, owned);
                    owned
                }
            },
        };
        if is_owned {
            positions.push(Position { seq, found: Found::Recent(delivery) });
        }
    }
    positions.sort_unstable_by_key(|position| position.seq);
    if direction == Direction::Older {
        positions.reverse();
    }
    Ok(positions.into())
}

/// Returns the sources that together with the snapshot contain every delivery that the filter matches.
fn sources(
    conn: &Connection,
    filter: &DeliveryFilter,
    lookups: Option<&[IdLookup]>,
) -> rusqlite::Result<(Vec<Source>, RecentOf)> {
    if let Some(lookups) = lookups {
        // They read those of the snapshot too.
        return Ok((lookups.iter().cloned().map(Source::Events).collect(), RecentOf::Hooks(Vec::new())));
    }
    let keys = namespace_keys::keys(conn, &filter.namespace)?;
    let states: &[i64] = match filter.state {
        None => &STATES,
        Some(DeliveryState::Pending) => &[PENDING, CANDIDATE],
        Some(DeliveryState::Delivered) => &[DELIVERED],
        Some(DeliveryState::Dead) => &[DEAD],
        Some(DeliveryState::Dropped) => &[DROPPED],
        Some(DeliveryState::Cancelled) => &[CANCELLED],
    };
    let has_outcomes = states.contains(&DELIVERED);
    if let Some(name) = &filter.hook {
        let hooks = hooks_of_name(conn, &keys, name)?;
        if hooks.len() <= MAX_HOOKS_OF_NAME {
            let of_hook = |hook: &i64| {
                let hook = *hook;
                let rows = states.iter().map(move |state| Source::Hook { hook, state: *state });
                rows.chain(has_outcomes.then_some(Source::Segments(Owner::Hook(hook))))
            };
            return Ok((hooks.iter().flat_map(of_hook).collect(), RecentOf::Hooks(hooks)));
        }
    }
    let mut sources = Vec::new();
    for key in &keys {
        let Some(number) = namespace_keys::number(conn, key)? else { continue };
        sources.extend(states.iter().map(|state| Source::Namespace { number, state: *state }));
        sources.extend(has_outcomes.then_some(Source::Segments(Owner::Namespace(number))));
    }
    Ok((sources, RecentOf::Namespaces(keys.into_iter().collect())))
}

/// Returns the hooks that have or had a name in these namespaces, at most one more than `MAX_HOOKS_OF_NAME`.
fn hooks_of_name(conn: &Connection, keys: &[String], name: &str) -> rusqlite::Result<Vec<i64>> {
    let mut of_name = conn.prepare_cached(HOOKS_OF_NAME)?;
    let mut hooks = Vec::new();
    for key in keys {
        let limit = (MAX_HOOKS_OF_NAME + 1).saturating_sub(hooks.len());
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        for hook in of_name.query_map(params![key, name, limit], |row| row.get(0))? {
            hooks.push(hook?);
        }
    }
    Ok(hooks)
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
