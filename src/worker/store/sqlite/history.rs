//! Users' queries of deliveries: one delivery, a list, all deliveries of an event.
//!
//! A list merges one index walk for each pair of hook and state. So its cost depends on the size of the page and not on
//! the size of the store. Times of the filter are converted to sequence numbers first, because both ascend together.

use std::collections::BinaryHeap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::super::{
    AttemptRecord, DeliveryFilter, DeliveryRecord, DeliverySeq, DeliveryState, EventExplanation, EventSeq,
};
use super::namespace_keys;
use super::rows::{duration, event, hook_id};
use super::schema::{CANCELLED, CANDIDATE, DEAD, DELIVERED, DROPPED, PENDING, STATES};
use super::sequence;
use crate::core::event::Event;
use crate::core::time::Millis;

/// If the clock was set back by at most this many milliseconds, lists with a time filter still find every delivery.
const CLOCK_SLACK: i64 = 3_600_000;

const RECORD: &str = "
SELECT d.seq, d.state, d.reason, e.accepted, d.due, e.id, h.uid, h.namespace, h.name, d.id, d.finished_at,
       d.first_at, d.first_micros, d.first_status
FROM deliveries d CROSS JOIN hooks h ON h.id = d.hook CROSS JOIN events e ON e.seq = d.event";

fn record(row: &Row<'_>) -> rusqlite::Result<DeliveryRecord> {
    let state = match row.get(1)? {
        PENDING | CANDIDATE => DeliveryState::Pending,
        DELIVERED => DeliveryState::Delivered,
        DROPPED => DeliveryState::Dropped,
        CANCELLED => DeliveryState::Cancelled,
        _ => DeliveryState::Dead,
    };
    let due = Millis(row.get(4)?);
    let first = match row.get(11)? {
        Some(at) => Some(AttemptRecord {
            at: Millis(at),
            duration: duration(row.get(12)?),
            status: row.get(13)?,
            error: None,
            detail: None,
        }),
        None => None,
    };
    Ok(DeliveryRecord {
        seq: row.get(0)?,
        id: Uuid::from_bytes(row.get(9)?),
        hook: hook_id(row, 6)?,
        event_id: row.get(5)?,
        state,
        reason: row.get(2)?,
        accepted: Millis(row.get(3)?),
        due: (state == DeliveryState::Pending).then_some(due),
        attempts: first.into_iter().collect(),
    })
}

pub(super) fn delivery(
    conn: &Connection,
    namespace: &str,
    id: Uuid,
) -> rusqlite::Result<Option<DeliveryRecord>> {
    // One snapshot for both statements. Otherwise a sweep in between could hide the attempts of a delivery.
    let tx = conn.unchecked_transaction()?;
    let found = tx
        .prepare_cached(&format!("{RECORD} WHERE d.id = ?1 AND h.namespace = ?2"))?
        .query_row(params![id.as_bytes(), namespace_keys::key(&tx, namespace)?], record)
        .optional()?;
    found.map(|record| with_attempts(&tx, record)).transpose()
}

pub(super) fn event_of(conn: &Connection, namespace: &str, id: Uuid) -> rusqlite::Result<Option<Arc<Event>>> {
    conn.prepare_cached(EVENT_OF)?
        .query_row(params![id.as_bytes(), namespace_keys::key(conn, namespace)?], |row| {
            event(row).map(Arc::new)
        })
        .optional()
}

// The first five columns are those of EXPLAIN, so that one function reads the event.
const EVENT_OF: &str = "
SELECT NULL, NULL, NULL, NULL, NULL, e.id, e.namespace, e.origin, e.source, e.event, e.time, e.attributes, e.data
FROM deliveries d CROSS JOIN hooks h ON h.id = d.hook CROSS JOIN events e ON e.seq = d.event
WHERE d.id = ?1 AND h.namespace = ?2";

fn with_attempts(conn: &Connection, mut record: DeliveryRecord) -> rusqlite::Result<DeliveryRecord> {
    let attempts = conn
        .prepare_cached(
            "SELECT at, micros, status, error, detail FROM attempts WHERE delivery = ?1 ORDER BY n",
        )?
        .query_map([record.seq], |row| {
            Ok(AttemptRecord {
                at: Millis(row.get(0)?),
                duration: duration(row.get(1)?),
                status: row.get(2)?,
                error: row.get(3)?,
                detail: row.get(4)?,
            })
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    record.attempts.extend(attempts);
    Ok(record)
}

pub(super) fn list(
    conn: &Connection,
    filter: &DeliveryFilter,
    before: Option<DeliverySeq>,
    limit: usize,
) -> rusqlite::Result<Vec<DeliveryRecord>> {
    let tx = conn.unchecked_transaction()?;
    let mut page = Vec::new();
    let mut walk = DeliveryWalk::new(&tx, filter, Direction::Older, before)?;
    while page.len() < limit {
        let Some(seq) = walk.next(&tx)? else { break };
        if let Some((record, _)) = find_matching(&tx, filter, seq)? {
            page.push(with_attempts(&tx, record)?);
        }
    }
    Ok(page)
}

pub(super) fn explain(
    conn: &Connection,
    namespace: &str,
    event_id: &str,
) -> rusqlite::Result<Option<EventExplanation>> {
    let tx = conn.unchecked_transaction()?;
    let found = tx
        .prepare_cached(EXPLAIN)?
        .query_row([&*namespace_keys::key(&tx, namespace)?, event_id], |row| {
            Ok((row.get::<_, EventSeq>(0)?, row.get(4)?, event(row)?))
        })
        .optional()?;
    let Some((seq, accepted, event)) = found else { return Ok(None) };
    let deliveries = tx
        .prepare_cached(&format!("{RECORD} WHERE d.seq BETWEEN ?1 AND ?2 ORDER BY d.seq"))?
        .query_map([sequence::first_delivery(seq), sequence::last_delivery(seq)], record)?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let deliveries =
        deliveries.into_iter().map(|r| with_attempts(&tx, r)).collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(Some(EventExplanation { event: Arc::new(event), accepted: Millis(accepted), deliveries }))
}

pub(super) const EXPLAIN: &str = "
SELECT e.seq, NULL, NULL, NULL, e.accepted, e.id, e.namespace, e.origin, e.source, e.event, e.time, e.attributes, e.data
FROM events e INDEXED BY events_id WHERE e.namespace = ?1 AND e.id = ?2 ORDER BY e.seq DESC LIMIT 1";

/// Returns a delivery and the time when it finished, if the filter matches the delivery.
pub(super) fn find_matching(
    conn: &Connection,
    filter: &DeliveryFilter,
    seq: DeliverySeq,
) -> rusqlite::Result<Option<(DeliveryRecord, Option<Millis>)>> {
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

/// The sequence numbers of deliveries that a filter may match, in order.
pub(super) struct DeliveryWalk {
    direction: Direction,
    /// The next delivery of each (hook, state). Negated when walking to newer ones, because the heap pops its maximum.
    heads: BinaryHeap<(DeliverySeq, i64, i64)>,
    /// The exclusive end.
    end: DeliverySeq,
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

impl DeliveryWalk {
    /// Starts after `from` (exclusive), in the walk's direction.
    pub(super) fn new(
        conn: &Connection,
        filter: &DeliveryFilter,
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
        let mut walk = DeliveryWalk { direction, heads: BinaryHeap::new(), end };
        if let Some(id) = &filter.event {
            let found = conn
                .prepare_cached(OF_EVENT)?
                .query_map([&namespace_keys::key(conn, &filter.namespace)?, id], |row| row.get(0))?
                .collect::<rusqlite::Result<Vec<DeliverySeq>>>()?;
            for seq in found {
                if walk.is_before(from, seq) {
                    walk.push(seq, 0, -1);
                }
            }
            return Ok(walk);
        }
        let hooks = conn
            .prepare_cached("SELECT id FROM hooks WHERE namespace = ?1 AND (?2 IS NULL OR name = ?2)")?
            .query_map(params![namespace_keys::key(conn, &filter.namespace)?, filter.hook], |row| row.get(0))?
            .collect::<rusqlite::Result<Vec<i64>>>()?;
        let states: &[i64] = match filter.state {
            None => &STATES,
            Some(DeliveryState::Pending) => &[PENDING, CANDIDATE],
            Some(DeliveryState::Delivered) => &[DELIVERED],
            Some(DeliveryState::Dead) => &[DEAD],
            Some(DeliveryState::Dropped) => &[DROPPED],
            Some(DeliveryState::Cancelled) => &[CANCELLED],
        };
        for hook in hooks {
            for state in states {
                walk.push_next(conn, hook, *state, from)?;
            }
        }
        Ok(walk)
    }

    pub(super) fn next(&mut self, conn: &Connection) -> rusqlite::Result<Option<DeliverySeq>> {
        let Some((head, hook, state)) = self.heads.pop() else { return Ok(None) };
        let seq = head.abs();
        // Deliveries found by their event are all in the heap already.
        if state >= 0 {
            self.push_next(conn, hook, state, seq)?;
        }
        Ok(Some(seq))
    }

    fn push_next(
        &mut self,
        conn: &Connection,
        hook: i64,
        state: i64,
        from: DeliverySeq,
    ) -> rusqlite::Result<()> {
        let sql = if self.direction == Direction::Older { OLDER } else { NEWER };
        let next =
            conn.prepare_cached(sql)?.query_row(params![hook, state, from], |row| row.get(0)).optional()?;
        if let Some(seq) = next {
            self.push(seq, hook, state);
        }
        Ok(())
    }

    fn push(&mut self, seq: DeliverySeq, hook: i64, state: i64) {
        if self.is_before(seq, self.end) {
            self.heads.push((if self.direction == Direction::Older { seq } else { -seq }, hook, state));
        }
    }

    /// True if the walk reaches `a` before `b`.
    fn is_before(&self, a: DeliverySeq, b: DeliverySeq) -> bool {
        if self.direction == Direction::Older { a > b } else { a < b }
    }
}

/// Returns the first possible delivery of an event that was accepted at `at` or later. None: no time was given.
///
/// Bisects the events' sequence numbers, which ascend with the time of acceptance.
fn first_since(conn: &Connection, at: Option<i64>) -> rusqlite::Result<Option<DeliverySeq>> {
    let Some(at) = at else { return Ok(None) };
    let end: EventSeq = conn
        .prepare_cached("SELECT coalesce(max(seq), 0) + 1 FROM events")?
        .query_row([], |row| row.get(0))?;
    let (mut low, mut high) = (0, end);
    while low < high {
        let middle = low + (high - low) / 2;
        let found: Option<(EventSeq, i64)> = conn
            .prepare_cached("SELECT seq, accepted FROM events WHERE seq >= ?1 ORDER BY seq LIMIT 1")?
            .query_row([middle], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        match found {
            Some((seq, accepted)) if accepted < at => low = seq + 1,
            _ => high = middle,
        }
    }
    Ok(Some(sequence::first_delivery(low)))
}
