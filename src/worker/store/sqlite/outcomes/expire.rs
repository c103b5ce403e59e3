//! Retention of outcomes: removes expired ones and the events that nothing refers to any more, and finds the time at which the
//! byte limit is exceeded.

use std::collections::{BTreeSet, BinaryHeap, HashSet};

use rusqlite::{Connection, OptionalExtension, Rows, params};

use super::super::super::EventSeq;
use super::super::cache::WriterCache;
use super::super::retention::{SweepBudget, remove_event};
use super::super::rows::limit;
use super::super::sequence;
use super::merge::Expiry;
use super::segments::{self, Segment};
use super::{Outcome, Snapshot};
use crate::core::time::Millis;

/// Below this multiple of a segment's bytes that is left of the limit, outcomes are counted one by one.
const EXACT_MULTIPLE: u64 = 64;

/// Iterates over finished outcomes, newest first: the time when each finished, and its bytes. Far from the limit, an item is
/// a whole segment.
pub(in super::super) struct NewestOutcomes<'s> {
    conn: &'s Connection,
    segments: Rows<'s>,
    /// The next segment: when its last outcome finished, its bytes, its key.
    next: Option<(i64, i64, i64)>,
    items: BinaryHeap<(i64, i64)>,
}

impl<'s> NewestOutcomes<'s> {
    pub(in super::super) const SQL: &'static str = "
SELECT newest, bytes, first FROM outcome_segments INDEXED BY outcome_segments_newest ORDER BY newest DESC";

    pub(in super::super) fn new(
        conn: &'s Connection,
        snapshot: &Snapshot,
        segments: Rows<'s>,
    ) -> rusqlite::Result<Self> {
        let items = snapshot.outcomes().iter().map(|outcome| (outcome.finished_at, outcome.size)).collect();
        let mut newest = NewestOutcomes { conn, segments, next: None, items };
        newest.advance()?;
        Ok(newest)
    }

    fn advance(&mut self) -> rusqlite::Result<()> {
        self.next = match self.segments.next()? {
            Some(row) => Some((row.get(0)?, row.get(1)?, row.get(2)?)),
            None => None,
        };
        Ok(())
    }

    /// Returns the next item. `left`: the bytes up to the limit.
    pub(in super::super) fn peek(&mut self, left: u64) -> rusqlite::Result<Option<(i64, i64)>> {
        while let Some((newest, bytes, first)) = self.next
            && self.items.peek().is_none_or(|(at, _)| *at < newest)
        {
            if u64::try_from(bytes).unwrap_or(0).saturating_mul(EXACT_MULTIPLE) < left {
                self.items.push((newest, bytes));
            } else {
                self.items.extend(read_items(self.conn, first)?);
            }
            self.advance()?;
        }
        Ok(self.items.peek().copied())
    }

    pub(in super::super) fn pop(&mut self) {
        self.items.pop();
    }
}

fn read_items(conn: &Connection, first: i64) -> rusqlite::Result<Vec<(i64, i64)>> {
    let segment = conn
        .prepare_cached("SELECT first, last, content FROM outcome_segments WHERE first = ?1")?
        .query_row([first], Segment::read)
        .optional()?;
    let outcomes = segment.map(Segment::into_outcomes).unwrap_or_default();
    Ok(outcomes.iter().map(|outcome| (outcome.finished_at, outcome.size)).collect())
}

pub(in super::super) const EXPIRED: &str = "
SELECT first, last, content FROM outcome_segments INDEXED BY outcome_segments_oldest
WHERE oldest <= ?1 AND first <= ?2 ORDER BY oldest LIMIT ?3";

/// The most segments that one sweep reads. Each has at least one expired outcome.
const MAX_SEGMENTS: usize = 64;

/// Removes outcomes that finished at or before `aged` or `cutoff`, whichever is later, and their events. Returns their hooks.
pub(in super::super) fn sweep(
    conn: &Connection,
    cache: &mut WriterCache,
    (aged, cutoff): (i64, i64),
    watermark: EventSeq,
    now: Millis,
    budget: &mut SweepBudget,
) -> rusqlite::Result<HashSet<i64>> {
    let (expired, last) = (aged.max(cutoff), sequence::last_delivery(watermark));
    let mut hooks = HashSet::new();
    let has_expired = cache.outcomes.level0().range(0, last).any(|outcome| outcome.finished_at <= expired);
    if has_expired && !budget.is_used_up() {
        let expiry = Expiry { at: expired, bytes: budget.bytes() };
        let (removed, count) = cache.outcomes.merge_expired(conn, watermark, budget.rows(), &expiry)?;
        budget.take(count, removed.iter().fold(0, |sum, outcome| outcome.size.saturating_add(sum)));
        hooks.extend(removed.iter().map(|outcome| outcome.hook));
        release_events(conn, cache, &removed, None, aged, now)?;
    }
    if budget.is_used_up() {
        return Ok(hooks);
    }
    let segments = conn
        .prepare_cached(EXPIRED)?
        .query_map(params![expired, last, limit(budget.rows().min(MAX_SEGMENTS))], Segment::read)?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let is_limited = segments.len() == MAX_SEGMENTS;
    for segment in segments {
        if budget.is_used_up() {
            break;
        }
        let Segment { first, outcomes: Some(outcomes), .. } = segment else {
            set_aside(conn, segment.first)?;
            continue;
        };
        let (mut removed, mut kept) = (Vec::new(), Vec::new());
        let ends = outcomes.first().zip(outcomes.last()).map(|(one, other)| [one.event(), other.event()]);
        for outcome in outcomes {
            if outcome.finished_at <= expired && outcome.seq <= last && !budget.is_used_up() {
                budget.take(1, outcome.size);
                removed.push(outcome);
            } else {
                kept.push(outcome);
            }
        }
        segments::remove(conn, first, &kept, &removed)?;
        hooks.extend(removed.iter().map(|outcome| outcome.hook));
        release_events(conn, cache, &removed, ends.map(|ends| (ends, &*kept)), aged, now)?;
    }
    if is_limited {
        // There may be more, so the round must not end.
        budget.take(budget.rows(), 0);
    }
    Ok(hooks)
}

/// Keeps a damaged segment for `store recover`, so that the next sweep does not read it again.
fn set_aside(conn: &Connection, first: i64) -> rusqlite::Result<()> {
    tracing::error!(segment = first, "a segment of outcomes is damaged: run hookstream store recover");
    conn.execute("UPDATE outcome_segments SET oldest = ?2 WHERE first = ?1", [first, i64::MAX]).map(drop)
}

/// Removes the events of removed outcomes that have no other delivery. An event within its idempotency window stays, but without
/// its data if its delivery was removed to free bytes. `segment`: the first and the last event of the segment with these
/// outcomes, and what it keeps.
fn release_events(
    conn: &Connection,
    cache: &WriterCache,
    removed: &[Outcome],
    segment: Option<([EventSeq; 2], &[Outcome])>,
    aged: i64,
    now: Millis,
) -> rusqlite::Result<()> {
    let events: BTreeSet<EventSeq> = removed.iter().map(Outcome::event).collect();
    for event in events {
        let (first, last) = (sequence::first_delivery(event), sequence::last_delivery(event));
        let has_row: bool = conn
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM deliveries WHERE seq BETWEEN ?1 AND ?2)")?
            .query_row([first, last], |row| row.get(0))?;
        // Only the first and the last event of a segment may have outcomes elsewhere.
        let has_outcome = match segment {
            Some((ends, kept)) if !ends.contains(&event) => {
                kept.binary_search_by_key(&event, Outcome::event).is_ok()
            }
            _ => !cache.outcomes.of_event(conn, event)?.is_empty(),
        };
        if has_row || has_outcome {
            continue;
        }
        let found: Option<(i64, i64)> = conn
            .prepare_cached("SELECT accepted, kept_until FROM events WHERE seq = ?1")?
            .query_row([event], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((accepted, kept_until)) = found else { continue };
        if kept_until <= now.0 {
            conn.prepare_cached("DELETE FROM events WHERE seq = ?1")?.execute([event])?;
            continue;
        }
        conn.prepare_cached("INSERT INTO loose (accepted, event, kept_until) VALUES (?1, ?2, ?3)")?
            .execute(params![accepted, event, kept_until])?;
        let finished =
            removed.iter().filter(|outcome| outcome.event() == event).map(|outcome| outcome.finished_at);
        if finished.max().is_some_and(|at| at > aged) {
            remove_event(conn, accepted, event, false)?;
        }
    }
    Ok(())
}
