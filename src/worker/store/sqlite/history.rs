//! Users' queries of deliveries: one delivery, a list, all deliveries of an event.
//!
//! Each query is bounded in the rows that it examines, and a list also in time (`ReadBudget`): a user's query must
//! neither hold a snapshot for long, which keeps the log from restarting, nor occupy a connection for long.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::super::read_budget::{ReadBudget, ReadLimiter};
use super::super::{
    DeliveryFilter, DeliveryPage, DeliveryRecord, DeliverySeq, DeliveryState, EventExplanation, EventSeq,
    PartialCount, StoreError, selects_namespace,
};
use super::event_ids::{self, IdLookup, NewestIds};
use super::lookup::{self, Located, delivery_state, record_at, with_attempts};
use super::namespace_keys;
use super::outcomes::Snapshot;
use super::rows::event;
use super::sequence::{self, Direction};
use super::walk::{self, DeliveryWalk, Found, Position, deliveries_between};
use crate::core::event::Event;
use crate::core::time::Millis;

/// The most deliveries of an event that `explain` returns.
pub(super) const MAX_EXPLAINED: usize = 500;
/// The time of an explanation as a multiple of a list's.
const EXPLAIN_TIME_MULTIPLE: u32 = 10;
/// Events that one lookup of an id returns. Usually there is one.
const FOUND_BATCH: usize = 16;
/// The most deliveries of an event that `explain` counts.
const MAX_COUNTED: usize = 100_000;

/// Returns the sequence number and the state of a delivery.
pub(super) fn state(
    conn: &Connection,
    recent: &Snapshot,
    namespace: &str,
    id: Uuid,
) -> rusqlite::Result<Option<(DeliverySeq, DeliveryState)>> {
    let tx = conn.unchecked_transaction()?;
    let located = lookup::locate(&tx, recent, namespace, id)?;
    Ok(located.map(|Located { position, state }| (position.seq, state)))
}

pub(super) fn delivery(
    conn: &Connection,
    recent: &Snapshot,
    namespace: &str,
    id: Uuid,
) -> rusqlite::Result<Option<DeliveryRecord>> {
    // One snapshot for all statements. Otherwise a sweep in between could hide the attempts of a delivery.
    let tx = conn.unchecked_transaction()?;
    let Some(located) = lookup::locate(&tx, recent, namespace, id)? else { return Ok(None) };
    let record = record_at(&tx, located.position)?;
    record.map(|(record, _)| with_attempts(&tx, record)).transpose()
}

pub(super) fn event_of(
    conn: &Connection,
    recent: &Snapshot,
    namespace: &str,
    id: Uuid,
) -> rusqlite::Result<Option<Arc<Event>>> {
    let tx = conn.unchecked_transaction()?;
    let Some(located) = lookup::locate(&tx, recent, namespace, id)? else { return Ok(None) };
    tx.prepare_cached(EVENT_OF)?
        .query_row([sequence::event_seq(located.position.seq)], |row| event(row).map(Arc::new))
        .optional()
}

// The first five columns are those of EXPLAIN, so that one function reads the event.
const EVENT_OF: &str = "
SELECT NULL, NULL, NULL, NULL, NULL, id, namespace, origin, source, event, time, attributes, data
FROM events WHERE seq = ?1";

/// Returns a page of up to `page_size` deliveries. A page with fewer ends where the budget is used up; its `next` continues
/// exactly there. The inner error: ids are missing (`event_ids::is_incomplete`).
pub(super) fn list(
    conn: &Connection,
    (newest, recent): (&NewestIds, &Snapshot),
    filter: &DeliveryFilter,
    before: Option<DeliverySeq>,
    page_size: usize,
    budget: ReadBudget,
) -> rusqlite::Result<Result<DeliveryPage, StoreError>> {
    let mut limiter = ReadLimiter::start(budget);
    let lookups = walk::begin_lookups(conn, newest, filter)?;
    let tx = conn.unchecked_transaction()?;
    let mut page = DeliveryPage::default();
    let mut walk = DeliveryWalk::new(&tx, recent, filter, lookups.as_deref(), Direction::Older, before)?;
    while let Some(position) = walk.next(&tx)? {
        limiter.take(1 + walk.take_examined());
        if let Some((record, _)) = find_matching(&tx, filter, position)? {
            if page.records.len() >= page_size {
                page.next = page.records.last().map(|last| last.seq);
                break;
            }
            let record = with_attempts(&tx, record)?;
            limiter.take(record.attempts.len());
            page.records.push(record);
        }
        // After at least one position, so that a client that follows the tokens always advances.
        if limiter.is_used_up() {
            page.next = Some(position.seq);
            break;
        }
    }
    if lookups.is_some() && page.records.is_empty() && page.next.is_none() && event_ids::is_incomplete(&tx)? {
        return Ok(Err(StoreError::Indexing));
    }
    Ok(Ok(page))
}

/// Counts up to `most` finished deliveries below `before`. Ends as a list does. The inner error: ids are missing.
pub(super) fn count_finished(
    conn: &Connection,
    (newest, recent): (&NewestIds, &Snapshot),
    filter: &DeliveryFilter,
    before: Option<DeliverySeq>,
    most: usize,
    budget: ReadBudget,
) -> rusqlite::Result<Result<PartialCount, StoreError>> {
    let mut limiter = ReadLimiter::start(budget);
    let lookups = walk::begin_lookups(conn, newest, filter)?;
    let tx = conn.unchecked_transaction()?;
    let mut walk = DeliveryWalk::new(&tx, recent, filter, lookups.as_deref(), Direction::Older, before)?;
    let mut counted = PartialCount::default();
    while let Some(position) = walk.next(&tx)? {
        limiter.take(1 + walk.take_examined());
        counted.count += usize::from(is_finished_match(&tx, filter, position)?);
        if counted.count >= most || limiter.is_used_up() {
            counted.next = Some(position.seq);
            break;
        }
    }
    if lookups.is_some() && counted.next.is_none() && event_ids::is_incomplete(&tx)? {
        return Ok(Err(StoreError::Indexing));
    }
    Ok(Ok(counted))
}

/// Returns whether the delivery at a position is finished and matches the filter.
fn is_finished_match(
    conn: &Connection,
    filter: &DeliveryFilter,
    position: Position,
) -> rusqlite::Result<bool> {
    // Without a hook and an event, the walk visits rows of the filter's namespaces alone. Then a count of thousands reads neither
    // the hooks nor the ids, which takes most of its time.
    if position.found != Found::Row || filter.hook.is_some() || filter.event.is_some() {
        let found = find_matching(conn, filter, position)?;
        return Ok(found.is_some_and(|(_, finished)| finished.is_some()));
    }
    let matches = |row: &Row<'_>| {
        let (state, is_finished, accepted) =
            (delivery_state(row.get(0)?), row.get::<_, bool>(1)?, Millis(row.get(2)?));
        Ok(is_finished
            && filter.state.is_none_or(|wanted| wanted == state)
            && filter.since.is_none_or(|since| accepted >= since)
            && filter.until.is_none_or(|until| accepted < until))
    };
    let found = conn.prepare_cached(FINISHED)?.query_row([position.seq], matches).optional()?;
    Ok(found.unwrap_or_default())
}

pub(super) const FINISHED: &str = "
SELECT d.state, d.finished_at IS NOT NULL, e.accepted
FROM deliveries d CROSS JOIN events e ON e.seq = d.event WHERE d.seq = ?1";

/// Returns the newest event with this id and its deliveries. Leaves deliveries out when the budget is used up. The inner
/// error: nothing was found, and ids are missing (`event_ids::is_incomplete`).
pub(super) fn explain(
    conn: &Connection,
    (newest, recent): (&NewestIds, &Snapshot),
    namespace: &str,
    event_id: &str,
    budget: ReadBudget,
) -> rusqlite::Result<Result<Option<EventExplanation>, StoreError>> {
    // Longer than a list, because an explanation cannot be continued.
    let mut limiter = ReadLimiter::start(ReadBudget { time: budget.time * EXPLAIN_TIME_MULTIPLE, ..budget });
    let key = namespace_keys::key(conn, namespace)?;
    // Before the snapshot, see `IdLookup::begin`.
    let lookup = IdLookup::begin(newest, &key, event_id);
    let tx = conn.unchecked_transaction()?;
    let Some((seq, accepted, event)) = find_event(&tx, &lookup, (&key, event_id), &mut limiter)? else {
        return Ok(if event_ids::is_incomplete(&tx)? { Err(StoreError::Indexing) } else { Ok(None) });
    };
    let (first, last) = (sequence::first_delivery(seq), sequence::last_delivery(seq));
    let found = deliveries_between(&tx, recent, (first, last), Direction::Newer, MAX_EXPLAINED)?;
    let is_complete = found.len() < MAX_EXPLAINED;
    let (mut deliveries, count) = (Vec::with_capacity(found.len()), found.len());
    for position in found {
        if limiter.is_used_up() {
            break;
        }
        let Some((record, _)) = record_at(&tx, position)? else { continue };
        let record = with_attempts(&tx, record)?;
        limiter.take(1 + record.attempts.len());
        deliveries.push(record);
    }
    let left_out = match deliveries.last() {
        Some(shown) if !is_complete || deliveries.len() < count => {
            let rest = (shown.seq.saturating_add(1), last);
            deliveries_between(&tx, recent, rest, Direction::Newer, MAX_COUNTED)?.len()
        }
        _ => 0,
    };
    let (event, accepted) = (Arc::new(event), Millis(accepted));
    Ok(Ok(Some(EventExplanation { event, accepted, deliveries, left_out })))
}

/// Finds the newest event with an id in a namespace with this key, and the time of its acceptance.
fn find_event(
    conn: &Connection,
    lookup: &IdLookup,
    (key, id): (&str, &str),
    limiter: &mut ReadLimiter,
) -> rusqlite::Result<Option<(EventSeq, i64, Event)>> {
    let mut last = EventSeq::MAX;
    loop {
        let found = lookup.find(conn, Direction::Older, last, FOUND_BATCH)?;
        let Some(oldest) = found.last() else { return Ok(None) };
        last = oldest - 1;
        for seq in found {
            limiter.take(1);
            let event = conn
                .prepare_cached(EXPLAIN)?
                .query_row(params![seq, key, id], |row| Ok((row.get(0)?, row.get(4)?, event(row)?)))
                .optional()?;
            if event.is_some() || limiter.is_used_up() {
                return Ok(event);
            }
        }
    }
}

pub(super) const EXPLAIN: &str = "
SELECT e.seq, NULL, NULL, NULL, e.accepted, e.id, e.namespace, e.origin, e.source, e.event, e.time, e.attributes, e.data
FROM events e WHERE e.seq = ?1 AND e.namespace = ?2 AND e.id = ?3";

/// Returns the delivery at a position and the time when it finished, if there is one that the filter matches.
pub(super) fn find_matching(
    conn: &Connection,
    filter: &DeliveryFilter,
    position: Position,
) -> rusqlite::Result<Option<(DeliveryRecord, Option<Millis>)>> {
    let found = record_at(conn, position)?;
    Ok(found.filter(|(record, _)| {
        selects_namespace(&filter.namespace, &record.hook.namespace)
            && filter.hook.as_ref().is_none_or(|name| *record.hook.name == **name)
            && filter.state.is_none_or(|state| record.state == state)
            && filter.event.as_ref().is_none_or(|id| record.event_id == *id)
            && filter.since.is_none_or(|since| record.accepted >= since)
            && filter.until.is_none_or(|until| record.accepted < until)
    }))
}
