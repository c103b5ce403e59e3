//! What is told of deliveries: one, many, and all of an event.
//!
//! A list merges one walk for each hook and state, each by its index from the newest (or oldest) on, so that a page costs
//! what it shows and not what is kept. Times are turned into numbers first, for numbers ascend as times do.

use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::super::{Attempt, Explained, Filter, Record, Replay, Seq, State};
use super::numbers;
use super::places::place;
use super::reads::{event, hook_id};
use super::schema::{CANCELLED, CANDIDATE, DEAD, DELIVERED, DROPPED, PENDING, STATES};
use crate::core::event::Event;
use crate::core::time::Millis;

/// How far the clock may have gone back without a list by time missing anything.
const CLOCK_SLACK: i64 = 3_600_000;

const RECORD: &str = "
SELECT d.seq, d.state, d.reason, e.accepted, d.due, e.id, h.uid, h.namespace, h.name, d.id, d.finished_at,
       d.first_at, d.first_micros, d.first_status
FROM deliveries d CROSS JOIN hooks h ON h.id = d.hook CROSS JOIN events e ON e.seq = d.event";

fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
    let state = match row.get(1)? {
        PENDING | CANDIDATE => State::Pending,
        DELIVERED => State::Delivered,
        DROPPED => State::Dropped,
        CANCELLED => State::Cancelled,
        _ => State::Dead,
    };
    let due = Millis(row.get(4)?);
    let first = match row.get(11)? {
        Some(at) => Some(Attempt {
            at: Millis(at),
            duration: micros(row.get(12)?),
            status: row.get(13)?,
            error: None,
            detail: None,
        }),
        None => None,
    };
    Ok(Record {
        seq: row.get(0)?,
        id: Uuid::from_bytes(row.get(9)?),
        hook: hook_id(row, 6)?,
        event_id: row.get(5)?,
        state,
        reason: row.get(2)?,
        accepted: Millis(row.get(3)?),
        due: (state == State::Pending).then_some(due),
        attempts: first.into_iter().collect(),
    })
}

fn micros(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

pub(super) fn delivery(conn: &Connection, namespace: &str, id: Uuid) -> rusqlite::Result<Option<Record>> {
    // One snapshot for both statements: a sweep in between would show a delivery without its attempts.
    let tx = conn.unchecked_transaction()?;
    let found = tx
        .prepare_cached(&format!("{RECORD} WHERE d.id = ?1 AND h.namespace = ?2"))?
        .query_row(params![id.as_bytes(), place(&tx, namespace)?], record)
        .optional()?;
    found.map(|record| with_attempts(&tx, record)).transpose()
}

pub(super) fn event_of(conn: &Connection, namespace: &str, id: Uuid) -> rusqlite::Result<Option<Arc<Event>>> {
    conn.prepare_cached(EVENT_OF)?
        .query_row(params![id.as_bytes(), place(conn, namespace)?], |row| event(row).map(Arc::new))
        .optional()
}

// The first five columns are those of EXPLAIN, so that one function reads the event.
const EVENT_OF: &str = "
SELECT NULL, NULL, NULL, NULL, NULL, e.id, e.namespace, e.origin, e.source, e.event, e.time, e.attributes, e.data
FROM deliveries d CROSS JOIN hooks h ON h.id = d.hook CROSS JOIN events e ON e.seq = d.event
WHERE d.id = ?1 AND h.namespace = ?2";

fn with_attempts(conn: &Connection, mut record: Record) -> rusqlite::Result<Record> {
    let more = conn
        .prepare_cached(
            "SELECT at, micros, status, error, detail FROM attempts WHERE delivery = ?1 ORDER BY n",
        )?
        .query_map([record.seq], |row| {
            Ok(Attempt {
                at: Millis(row.get(0)?),
                duration: micros(row.get(1)?),
                status: row.get(2)?,
                error: row.get(3)?,
                detail: row.get(4)?,
            })
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    record.attempts.extend(more);
    Ok(record)
}

pub(super) fn list(
    conn: &Connection,
    filter: &Filter,
    before: Option<Seq>,
    limit: usize,
) -> rusqlite::Result<Vec<Record>> {
    let tx = conn.unchecked_transaction()?;
    let mut page = Vec::new();
    let mut walk = Walk::new(&tx, filter, Direction::Older, before)?;
    while page.len() < limit {
        let Some(seq) = walk.next(&tx)? else { break };
        if let Some((record, _)) = matching(&tx, filter, seq)? {
            page.push(with_attempts(&tx, record)?);
        }
    }
    Ok(page)
}

pub(super) fn explain(
    conn: &Connection,
    namespace: &str,
    event_id: &str,
) -> rusqlite::Result<Option<Explained>> {
    let tx = conn.unchecked_transaction()?;
    let found = tx
        .prepare_cached(EXPLAIN)?
        .query_row([&*place(&tx, namespace)?, event_id], |row| {
            Ok((row.get::<_, Seq>(0)?, row.get(4)?, event(row)?))
        })
        .optional()?;
    let Some((seq, accepted, event)) = found else { return Ok(None) };
    let deliveries = tx
        .prepare_cached(&format!("{RECORD} WHERE d.seq BETWEEN ?1 AND ?2 ORDER BY d.seq"))?
        .query_map([numbers::first(seq), numbers::last(seq)], record)?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let deliveries =
        deliveries.into_iter().map(|r| with_attempts(&tx, r)).collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(Some(Explained { event: Arc::new(event), accepted: Millis(accepted), deliveries }))
}

pub(super) const EXPLAIN: &str = "
SELECT e.seq, NULL, NULL, NULL, e.accepted, e.id, e.namespace, e.origin, e.source, e.event, e.time, e.attributes, e.data
FROM events e INDEXED BY events_id WHERE e.namespace = ?1 AND e.id = ?2 ORDER BY e.seq DESC LIMIT 1";

/// A delivery, where the filter means it, and when it finished.
pub(super) fn matching(
    conn: &Connection,
    filter: &Filter,
    seq: Seq,
) -> rusqlite::Result<Option<(Record, Option<Millis>)>> {
    let found = conn
        .prepare_cached(&format!("{RECORD} WHERE d.seq = ?1"))?
        .query_row([seq], |row| Ok((record(row)?, row.get::<_, Option<i64>>(10)?.map(Millis))))
        .optional()?;
    Ok(found.filter(|(record, _)| {
        *record.hook.namespace == *filter.namespace
            && filter.hook.as_ref().is_none_or(|name| *record.hook.name == **name)
            && filter.state.is_none_or(|state| record.state == state)
            && filter.event.as_ref().is_none_or(|id| record.event_id == *id)
            && filter.since.is_none_or(|since| record.accepted >= since)
            && filter.until.is_none_or(|until| record.accepted < until)
    }))
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Older,
    Newer,
}

/// The numbers of deliveries that a filter may mean, in order.
pub(super) struct Walk {
    direction: Direction,
    /// The next of each hook and state; a number that is negative where older ones come later.
    heads: BinaryHeap<(Seq, i64, i64)>,
    /// Where it ends (outside).
    end: Seq,
}

pub(super) const OLDER: &str = "
SELECT seq FROM deliveries INDEXED BY deliveries_list
WHERE hook = ?1 AND state = ?2 AND seq < ?3 ORDER BY seq DESC LIMIT 1";

pub(super) const NEWER: &str = "
SELECT seq FROM deliveries INDEXED BY deliveries_list
WHERE hook = ?1 AND state = ?2 AND seq > ?3 ORDER BY seq LIMIT 1";

pub(super) const OF_EVENT: &str = "
SELECT d.seq FROM events e INDEXED BY events_id
CROSS JOIN deliveries d ON d.seq BETWEEN e.seq << 20 AND ((e.seq + 1) << 20) - 1
WHERE e.namespace = ?1 AND e.id = ?2";

impl Walk {
    /// Begins beyond `from`.
    pub(super) fn new(
        conn: &Connection,
        filter: &Filter,
        direction: Direction,
        from: Option<Seq>,
    ) -> rusqlite::Result<Self> {
        let first = first_since(conn, filter.since.map(|at| at.0.saturating_sub(CLOCK_SLACK)))?;
        let last = first_since(conn, filter.until.map(|at| at.0.saturating_add(CLOCK_SLACK)))?;
        let (first, last) = (first.unwrap_or(0), last.unwrap_or(Seq::MAX));
        let (from, end) = match direction {
            Direction::Older => (from.unwrap_or(Seq::MAX).min(last), first.saturating_sub(1)),
            Direction::Newer => (from.unwrap_or(0).max(first.saturating_sub(1)), last),
        };
        let mut walk = Walk { direction, heads: BinaryHeap::new(), end };
        if let Some(id) = &filter.event {
            let found = conn
                .prepare_cached(OF_EVENT)?
                .query_map([&place(conn, &filter.namespace)?, id], |row| row.get(0))?
                .collect::<rusqlite::Result<Vec<Seq>>>()?;
            for seq in found {
                if walk.before(from, seq) {
                    walk.push(seq, 0, -1);
                }
            }
            return Ok(walk);
        }
        let hooks = conn
            .prepare_cached("SELECT id FROM hooks WHERE namespace = ?1 AND (?2 IS NULL OR name = ?2)")?
            .query_map(params![place(conn, &filter.namespace)?, filter.hook], |row| row.get(0))?
            .collect::<rusqlite::Result<Vec<i64>>>()?;
        let states: &[i64] = match filter.state {
            None => &STATES,
            Some(State::Pending) => &[PENDING, CANDIDATE],
            Some(State::Delivered) => &[DELIVERED],
            Some(State::Dead) => &[DEAD],
            Some(State::Dropped) => &[DROPPED],
            Some(State::Cancelled) => &[CANCELLED],
        };
        for hook in hooks {
            for state in states {
                walk.step(conn, hook, *state, from)?;
            }
        }
        Ok(walk)
    }

    pub(super) fn next(&mut self, conn: &Connection) -> rusqlite::Result<Option<Seq>> {
        let Some((head, hook, state)) = self.heads.pop() else { return Ok(None) };
        let seq = head.abs();
        // One of an event's deliveries has no walk behind it.
        if state >= 0 {
            self.step(conn, hook, state, seq)?;
        }
        Ok(Some(seq))
    }

    fn step(&mut self, conn: &Connection, hook: i64, state: i64, from: Seq) -> rusqlite::Result<()> {
        let sql = if self.direction == Direction::Older { OLDER } else { NEWER };
        let next =
            conn.prepare_cached(sql)?.query_row(params![hook, state, from], |row| row.get(0)).optional()?;
        if let Some(seq) = next {
            self.push(seq, hook, state);
        }
        Ok(())
    }

    fn push(&mut self, seq: Seq, hook: i64, state: i64) {
        if self.before(seq, self.end) {
            self.heads.push((if self.direction == Direction::Older { seq } else { -seq }, hook, state));
        }
    }

    /// True where one comes before the other.
    fn before(&self, one: Seq, other: Seq) -> bool {
        if self.direction == Direction::Older { one > other } else { one < other }
    }
}

/// The first delivery of an event that was accepted then or later; none where there is none, or where no time is given.
/// Halves the numbers of the events, which ascend with the time.
fn first_since(conn: &Connection, at: Option<i64>) -> rusqlite::Result<Option<Seq>> {
    let Some(at) = at else { return Ok(None) };
    let end: Seq = conn
        .prepare_cached("SELECT coalesce(max(seq), 0) + 1 FROM events")?
        .query_row([], |row| row.get(0))?;
    let (mut low, mut high) = (0, end);
    while low < high {
        let middle = low + (high - low) / 2;
        let found: Option<(Seq, i64)> = conn
            .prepare_cached("SELECT seq, accepted FROM events WHERE seq >= ?1 ORDER BY seq LIMIT 1")?
            .query_row([middle], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        match found {
            Some((seq, accepted)) if accepted < at => low = seq + 1,
            _ => high = middle,
        }
    }
    Ok(Some(numbers::first(low)))
}

pub(super) fn replay_progress(
    conn: &Connection,
    namespace: &str,
    id: Uuid,
) -> rusqlite::Result<Option<Replay>> {
    conn.prepare_cached(
        "SELECT filter, rate, replayed, done_at FROM replays WHERE id = ?1 AND namespace = ?2",
    )?
    .query_row(params![id.as_bytes(), place(conn, namespace)?], |row| {
        Ok(Replay {
            id,
            filter: super::replays::filter(row, 0)?,
            rate: row.get(1)?,
            replayed: u64::try_from(row.get::<_, i64>(2)?).unwrap_or(0),
            done: row.get::<_, Option<i64>>(3)?.is_some(),
        })
    })
    .optional()
}
