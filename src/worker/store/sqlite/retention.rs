//! Retention: removes finished deliveries and their events, by age and by bytes.
//!
//! Retention by age uses the tables' indexes. Counting bytes at each write would slow down every accept and every
//! settlement. Instead, once a round, a reader walks the stored rows, newest first, until the limit is exceeded. That
//! row's time is the cutoff; the sweep removes it and older rows. The walk is skipped while the whole database is
//! smaller than the limits. A sweep must succeed on a full disk, so it needs no space and materializes nothing (see
//! `materialize`).

use std::collections::HashSet;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Rows, params};

use super::super::{DeliverySeq, EventSeq, Retention};
use super::cache::WriterCache;
use super::event_ids::Horizon;
use super::exchanges;
use super::fair_limit::Excess;
use super::gates;
use super::history_excess::HistoryExcess;
use super::hook_rows;
use super::materialize;
use super::namespaces;
use super::outcomes::{self, NewestOutcomes, Snapshot};
use super::rows::{EVENT_BYTES, limit};
use super::schema::{CANCELLED, DEAD, DELIVERED, DROPPED};
use super::sequence;
use super::unmatched::{self, ExpiredEvent};
use super::walk;
use crate::core::time::Millis;

/// Rows that finished at or before these times exceed the byte limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cutoff {
    history: i64,
    dead: i64,
}

impl Cutoff {
    const NONE: Cutoff = Cutoff { history: i64::MIN, dead: i64::MIN };
}

/// Iterates over rows, newest first: the time when each finished, and its bytes.
struct NewestFirst<'s> {
    rows: Rows<'s>,
    head: Option<(i64, i64)>,
}

impl<'s> NewestFirst<'s> {
    fn new(rows: Rows<'s>) -> rusqlite::Result<Self> {
        let mut newest = NewestFirst { rows, head: None };
        newest.advance()?;
        Ok(newest)
    }

    fn advance(&mut self) -> rusqlite::Result<()> {
        self.head = match self.rows.next()? {
            Some(row) => Some((row.get(0)?, row.get(1)?)),
            None => None,
        };
        Ok(())
    }
}

pub(super) const FINISHED: &str = "
SELECT finished_at, abs(size) FROM deliveries INDEXED BY deliveries_finished
WHERE finished_at IS NOT NULL AND state = ?1 ORDER BY finished_at DESC";

pub(super) const LOOSE: &str = "
SELECT l.accepted, octet_length(e.data) + ?1 FROM loose l INDEXED BY loose_full CROSS JOIN events e ON e.seq = l.event
WHERE l.bare = 0 ORDER BY l.accepted DESC";

/// Finds the cutoff. In the worst case it walks all stored rows.
pub(super) fn cutoff(conn: &Connection, recent: &Snapshot, retention: Retention) -> rusqlite::Result<Cutoff> {
    let tx = conn.unchecked_transaction()?;
    let pragma = |name| tx.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let all = pragma("page_count")?.saturating_mul(pragma("page_size")?);
    if u64::try_from(all).unwrap_or(0) <= retention.history_bytes.min(retention.dead_letter_bytes) {
        return Ok(Cutoff::NONE);
    }
    let (mut delivered, mut dropped) = (tx.prepare(FINISHED)?, tx.prepare(FINISHED)?);
    let (mut cancelled, mut dead) = (tx.prepare(FINISHED)?, tx.prepare(FINISHED)?);
    let mut loose = tx.prepare(LOOSE)?;
    let mut history = [
        NewestFirst::new(delivered.query([DELIVERED])?)?,
        NewestFirst::new(dropped.query([DROPPED])?)?,
        NewestFirst::new(cancelled.query([CANCELLED])?)?,
        NewestFirst::new(loose.query([i64::try_from(EVENT_BYTES).unwrap_or(0)])?)?,
    ];
    let mut segments = tx.prepare(NewestOutcomes::SQL)?;
    let mut outcomes = NewestOutcomes::new(&tx, recent, segments.query([])?)?;
    Ok(Cutoff {
        history: find_cutoff(&mut history, Some(&mut outcomes), retention.history_bytes)?,
        dead: find_cutoff(&mut [NewestFirst::new(dead.query([DEAD])?)?], None, retention.dead_letter_bytes)?,
    })
}

/// Walks from the newest row and returns the time of the first row at which the total exceeds `limit` bytes.
fn find_cutoff(
    walks: &mut [NewestFirst<'_>],
    mut outcomes: Option<&mut NewestOutcomes<'_>>,
    limit: u64,
) -> rusqlite::Result<i64> {
    let mut bytes = 0_u64;
    loop {
        let newest = walks.iter_mut().filter(|walk| walk.head.is_some()).max_by_key(|walk| walk.head);
        let outcome = match &mut outcomes {
            Some(outcomes) => outcomes.peek(limit.saturating_sub(bytes))?,
            None => None,
        };
        let row = newest.as_ref().and_then(|walk| walk.head);
        let Some((at, size)) = row.max(outcome) else { return Ok(i64::MIN) };
        bytes = bytes.saturating_add(u64::try_from(size).unwrap_or(0));
        if bytes > limit {
            return Ok(at);
        }
        match (newest, &mut outcomes) {
            (Some(newest), _) if row >= outcome => newest.advance()?,
            (_, Some(outcomes)) => outcomes.pop(),
            (_, None) => {}
        }
    }
}

/// The rows and bytes that one sweep may remove. The next accept waits for the sweep.
#[derive(Clone, Copy, Debug)]
pub(super) struct SweepLimit {
    pub(super) rows: usize,
    pub(super) bytes: usize,
    /// A row is removed within microseconds, or within milliseconds if its pages have to be read.
    pub(super) time: Duration,
}

impl SweepLimit {
    /// Returns a smaller limit, for a disk without space to log the removal of all these rows. None: one row is the
    /// least.
    pub(super) fn reduced(self) -> Option<SweepLimit> {
        (self.rows > 1).then_some(SweepLimit { rows: (self.rows / 8).max(1), ..self })
    }
}

/// The round of sweeps in progress.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum SweepRound {
    /// The next sweep begins a round.
    #[default]
    Begin,
    /// Removes rows, with the cutoff that was computed at the beginning.
    Remove(Cutoff),
    /// Gives more free pages back to the disk.
    Vacuum,
}

/// Removes rows up to the limit. True: the limit was reached, and there may be more.
pub(super) fn sweep(
    conn: &Connection,
    cache: &mut WriterCache,
    retention: Retention,
    cutoff: Cutoff,
    excess: &HistoryExcess,
    now: Millis,
    sweep_limit: SweepLimit,
) -> rusqlite::Result<bool> {
    let history = age_cutoff(now, retention.history_age);
    let dead = age_cutoff(now, retention.dead_letter_age);
    let mut budget = SweepBudget {
        rows: sweep_limit.rows,
        bytes: sweep_limit.bytes,
        until: Instant::now().checked_add(sweep_limit.time),
        has_removed: false,
    };
    let watermark = materialize::advance_watermark(conn, cache)?;
    let of_namespaces = namespaces::sweep(conn, cache, limit(budget.rows))?;
    budget.take(usize::try_from(of_namespaces).unwrap_or(budget.rows), 0);
    let mut hooks = HashSet::new();
    for state in [DELIVERED, DROPPED, CANCELLED] {
        let cutoffs = (history, cutoff.history);
        hooks.extend(sweep_deliveries(conn, cache, state, cutoffs, watermark, now, &mut budget)?);
    }
    hooks.extend(sweep_deliveries(conn, cache, DEAD, (dead, cutoff.dead), watermark, now, &mut budget)?);
    let cutoffs = (history, cutoff.history);
    hooks.extend(outcomes::sweep(conn, cache, cutoffs, watermark, now, &mut budget)?);
    for hook in hooks {
        hook_rows::remove_if_unused(conn, cache, hook)?;
    }
    let unmatched_age = age_cutoff(now, retention.unmatched_age);
    sweep_unmatched(conn, unmatched_age, &excess.unmatched, watermark, now, &mut budget)?;
    let (exchanges, bytes) = exchanges::remove_excess(conn, &excess.exchanges, budget.rows)?;
    budget.take(exchanges, bytes);
    sweep_events(conn, history, watermark, now, &mut budget)?;
    if cutoff.history > history {
        remove_event_data(conn, cutoff.history, now, &mut budget)?;
    }
    budget.take(gates::sweep(conn, cache, now, limit(budget.rows))?, 0);
    budget.take(hook_rows::sweep_namespaces(conn, cache, now, limit(budget.rows))?, 0);
    sweep_old_keys(conn, cache, now, &mut budget)?;
    budget.take(cache.keys.remove_unused(conn, limit(budget.rows))?, 0);
    budget.take(cache.ids.remove_unused(conn, limit(budget.rows))?, 0);
    let has_key_work = cache.keys.request_work(conn, now)?;
    let horizon = id_horizon(conn, cache, history.max(cutoff.history), now)?;
    cache.ids.set_horizon(horizon);
    let has_id_work = cache.ids.request_work(conn)?;
    // A sweep empties one table of a deleted namespace at a time, so the other tables may still have rows.
    Ok(budget.is_used_up() || of_namespaces > 0 || has_key_work || has_id_work)
}

/// Returns which events retention may have removed. `cutoff`: the time up to which it removes history.
fn id_horizon(
    conn: &Connection,
    cache: &mut WriterCache,
    cutoff: i64,
    now: Millis,
) -> rusqlite::Result<Horizon> {
    let first: Option<EventSeq> =
        conn.prepare_cached("SELECT min(seq) FROM events")?.query_row([], |row| row.get(0))?;
    let first = first.unwrap_or(cache.unmaterialized(conn)?.last_event() + 1);
    let event = walk::first_event_since(conn, cutoff.saturating_add(1))? - 1;
    Ok(Horizon { time: now.0, event, first })
}

/// Removes expired idempotency keys of format 6 and earlier.
fn sweep_old_keys(
    conn: &Connection,
    cache: &mut WriterCache,
    now: Millis,
    budget: &mut SweepBudget,
) -> rusqlite::Result<()> {
    if !cache.keys.has_old_keys(conn)? {
        return Ok(());
    }
    let removed = conn
        .prepare_cached(
            "DELETE FROM dedup WHERE key IN (SELECT key FROM dedup WHERE expires <= ?1 ORDER BY expires LIMIT ?2)",
        )?
        .execute(params![now.0, limit(budget.rows)])?;
    budget.take(removed, 0);
    cache.keys.recheck_old_keys();
    Ok(())
}

/// The rows and bytes that a sweep may still remove.
pub(super) struct SweepBudget {
    rows: usize,
    bytes: usize,
    /// None: the time is not bounded.
    until: Option<Instant>,
    /// The first row is removed however long that takes, so that sweeps advance on a slow disk.
    has_removed: bool,
}

impl SweepBudget {
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn take(&mut self, rows: usize, bytes: i64) {
        self.has_removed |= rows > 0;
        self.rows = self.rows.saturating_sub(rows);
        self.bytes = self.bytes.saturating_sub(usize::try_from(bytes).unwrap_or(0));
    }

    /// Bytes count too: freeing a row reads all its pages, and 500 events of 1 MiB would block the writer for seconds.
    pub(super) fn is_used_up(&self) -> bool {
        self.rows == 0
            || self.bytes == 0
            || self.has_removed && self.until.is_some_and(|until| Instant::now() >= until)
    }
}

/// Returns the latest time that is at least `age` ago.
fn age_cutoff(now: Millis, age: Duration) -> i64 {
    now.0.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX))
}

/// Removes deliveries that finished at or before `aged` or `cutoff`, whichever is later. Returns their hooks.
fn sweep_deliveries(
    conn: &Connection,
    cache: &mut WriterCache,
    state: i64,
    (aged, cutoff): (i64, i64),
    watermark: EventSeq,
    now: Millis,
    budget: &mut SweepBudget,
) -> rusqlite::Result<HashSet<i64>> {
    type Expired = (DeliverySeq, EventSeq, i64, i64, i64);
    let expired = conn
        .prepare_cached(
            "SELECT seq, event, hook, size, finished_at FROM deliveries INDEXED BY deliveries_finished
             WHERE state = ?1 AND finished_at <= ?2 AND seq <= ?4 ORDER BY finished_at LIMIT ?3",
        )?
        .query_map(
            params![state, aged.max(cutoff), limit(budget.rows), sequence::last_delivery(watermark)],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)),
        )?
        .collect::<rusqlite::Result<Vec<Expired>>>()?;
    let mut hooks = HashSet::new();
    for (seq, event, hook, size, finished) in expired {
        if budget.is_used_up() {
            break;
        }
        hooks.insert(hook);
        conn.prepare_cached("DELETE FROM attempts WHERE delivery = ?1")?.execute([seq])?;
        exchanges::remove(conn, seq)?;
        conn.prepare_cached("DELETE FROM deliveries WHERE seq = ?1")?.execute([seq])?;
        // A positive size: an older program settled the delivery without subtracting the size. Subtract it now.
        cache.count(conn, hook, (-size).min(0))?;
        budget.take(1, 0);
        let has_others: bool = conn
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM deliveries WHERE seq BETWEEN ?1 AND ?2)")?
            .query_row([sequence::first_delivery(event), sequence::last_delivery(event)], |row| row.get(0))?;
        if has_others || !cache.outcomes.of_event(conn, event)?.is_empty() {
            continue;
        }
        conn.prepare_cached(
            "INSERT INTO loose (accepted, event, kept_until)
             SELECT accepted, seq, kept_until FROM events WHERE seq = ?1",
        )?
        .execute([event])?;
        if finished > aged {
            // The delivery was removed to free bytes, which requires removing the event's data too.
            let (accepted, kept_until): (i64, i64) = conn
                .prepare_cached("SELECT accepted, kept_until FROM events WHERE seq = ?1")?
                .query_row([event], |row| Ok((row.get(0)?, row.get(1)?)))?;
            budget.take(0, size.abs());
            remove_event(conn, accepted, event, kept_until <= now.0)?;
        }
    }
    Ok(hooks)
}

/// Removes events that no hook matched, by age and above their limit.
fn sweep_unmatched(
    conn: &Connection,
    cutoff: i64,
    excess: &[Excess],
    watermark: EventSeq,
    now: Millis,
    budget: &mut SweepBudget,
) -> rusqlite::Result<()> {
    let mut expired = unmatched::find_aged(conn, cutoff, budget.rows)?;
    expired.extend(unmatched::find_excess_events(conn, excess, budget.rows)?);
    for ExpiredEvent { event, accepted, bytes, kept_until } in expired {
        if budget.is_used_up() {
            return Ok(());
        }
        match kept_until {
            Some(kept_until) => {
                remove_event(conn, accepted, event, kept_until <= now.0 && event <= watermark)?;
                budget.take(1, bytes);
            }
            None => unmatched::forget(conn, event)?,
        }
    }
    Ok(())
}

/// Removes events that no delivery refers to.
fn sweep_events(
    conn: &Connection,
    cutoff: i64,
    watermark: EventSeq,
    now: Millis,
    budget: &mut SweepBudget,
) -> rusqlite::Result<()> {
    // `kept_until` skips only events whose idempotency window is longer than the history's age.
    let expired = conn
        .prepare_cached(
            "SELECT l.accepted, l.event, octet_length(e.data) FROM loose l CROSS JOIN events e ON e.seq = l.event
             WHERE l.accepted <= ?1 AND l.kept_until <= ?2 AND l.event <= ?4 ORDER BY l.accepted, l.event LIMIT ?3",
        )?
        .query_map(params![cutoff, now.0, limit(budget.rows), watermark], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?
        .collect::<rusqlite::Result<Vec<(i64, EventSeq, i64)>>>()?;
    for (accepted, event, size) in expired {
        if budget.is_used_up() {
            return Ok(());
        }
        remove_event(conn, accepted, event, true)?;
        budget.take(1, size);
    }
    Ok(())
}

/// Removes the data of events that no delivery refers to and that exceed the byte limit.
fn remove_event_data(
    conn: &Connection,
    cutoff: i64,
    now: Millis,
    budget: &mut SweepBudget,
) -> rusqlite::Result<()> {
    let expired = conn
        .prepare_cached(
            "SELECT l.accepted, l.event, octet_length(e.data), l.kept_until
             FROM loose l INDEXED BY loose_full CROSS JOIN events e ON e.seq = l.event
             WHERE l.bare = 0 AND l.accepted <= ?1 ORDER BY l.accepted, l.event LIMIT ?2",
        )?
        .query_map(params![cutoff, limit(budget.rows)], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })?
        .collect::<rusqlite::Result<Vec<(i64, EventSeq, i64, i64)>>>()?;
    for (accepted, event, size, kept_until) in expired {
        if budget.is_used_up() {
            return Ok(());
        }
        remove_event(conn, accepted, event, kept_until <= now.0)?;
        budget.take(1, size);
    }
    Ok(())
}

/// Removes an event. Within its idempotency window, removes only its data, so that a duplicate still finds the event.
pub(super) fn remove_event(
    conn: &Connection,
    accepted: i64,
    event: EventSeq,
    remove_row: bool,
) -> rusqlite::Result<()> {
    let (event_sql, loose_sql) = if remove_row {
        ("DELETE FROM events WHERE seq = ?1", "DELETE FROM loose WHERE accepted = ?1 AND event = ?2")
    } else {
        (
            "UPDATE events SET data = 'null', attributes = NULL WHERE seq = ?1",
            "UPDATE loose SET bare = 1 WHERE accepted = ?1 AND event = ?2",
        )
    };
    conn.prepare_cached(event_sql)?.execute([event])?;
    unmatched::forget(conn, event)?;
    conn.prepare_cached(loose_sql)?.execute(params![accepted, event])?;
    Ok(())
}
