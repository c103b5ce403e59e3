//! What is finished, let go: by age, and by bytes.
//!
//! Age is asked of the tables' own indexes. Bytes are not counted as they come, which would cost every accept and every
//! outcome: once a round, on a reader's connection, what is kept is walked from the newest on until it is too much, and
//! what ended at that time or earlier goes. Nothing is walked while the whole database is smaller than what may be kept.
//! Nothing needs room: a sweep must succeed on a full disk, so it files nothing (see `filing`).

use std::time::Duration;

use rusqlite::{Connection, Rows, params};

use super::super::{Retention, Seq};
use super::accept::EVENT_BYTES;
use super::filing;
use super::gates;
use super::memory::Memory;
use super::numbers;
use super::places;
use super::schema::{CANCELLED, DEAD, DELIVERED, DROPPED};
use crate::core::time::Millis;

/// What ended then or earlier is more than may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    history: i64,
    dead: i64,
}

impl Cut {
    const NONE: Cut = Cut { history: i64::MIN, dead: i64::MIN };
}

/// Rows from the newest on: when each ended, and its bytes.
struct Newest<'s> {
    rows: Rows<'s>,
    head: Option<(i64, i64)>,
}

impl<'s> Newest<'s> {
    fn new(rows: Rows<'s>) -> rusqlite::Result<Self> {
        let mut newest = Newest { rows, head: None };
        newest.step()?;
        Ok(newest)
    }

    fn step(&mut self) -> rusqlite::Result<()> {
        self.head = match self.rows.next()? {
            Some(row) => Some((row.get(0)?, row.get(1)?)),
            None => None,
        };
        Ok(())
    }
}

pub(super) const ENDED: &str = "
SELECT finished_at, abs(size) FROM deliveries INDEXED BY deliveries_finished
WHERE finished_at IS NOT NULL AND state = ?1 ORDER BY finished_at DESC";

pub(super) const LOOSE: &str = "
SELECT l.accepted, octet_length(e.data) + ?1 FROM loose l INDEXED BY loose_full CROSS JOIN events e ON e.seq = l.event
WHERE l.bare = 0 ORDER BY l.accepted DESC";

/// Finds what is too much. Reads everything that is kept, at worst.
pub(super) fn cut(conn: &Connection, retention: Retention) -> rusqlite::Result<Cut> {
    let tx = conn.unchecked_transaction()?;
    let pragma = |name| tx.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let all = pragma("page_count")?.saturating_mul(pragma("page_size")?);
    if u64::try_from(all).unwrap_or(0) <= retention.history_bytes.min(retention.dead_letter_bytes) {
        return Ok(Cut::NONE);
    }
    let (mut delivered, mut dropped) = (tx.prepare(ENDED)?, tx.prepare(ENDED)?);
    let (mut cancelled, mut dead) = (tx.prepare(ENDED)?, tx.prepare(ENDED)?);
    let mut loose = tx.prepare(LOOSE)?;
    let mut history = [
        Newest::new(delivered.query([DELIVERED])?)?,
        Newest::new(dropped.query([DROPPED])?)?,
        Newest::new(cancelled.query([CANCELLED])?)?,
        Newest::new(loose.query([i64::try_from(EVENT_BYTES).unwrap_or(0)])?)?,
    ];
    Ok(Cut {
        history: too_much(&mut history, retention.history_bytes)?,
        dead: too_much(&mut [Newest::new(dead.query([DEAD])?)?], retention.dead_letter_bytes)?,
    })
}

fn too_much(kept: &mut [Newest<'_>], most: u64) -> rusqlite::Result<i64> {
    let mut bytes = 0_u64;
    while let Some(newest) = kept.iter_mut().filter(|k| k.head.is_some()).max_by_key(|k| k.head) {
        let (at, size) = newest.head.unwrap_or_default();
        bytes = bytes.saturating_add(u64::try_from(size).unwrap_or(0));
        if bytes > most {
            return Ok(at);
        }
        newest.step()?;
    }
    Ok(i64::MIN)
}

/// How much one sweep may remove: the rows and bytes that the next accept waits for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    pub(super) rows: usize,
    pub(super) bytes: usize,
}

/// Removes at most a chunk. True: the chunk was used up, and there may be more.
pub(super) fn sweep(
    conn: &Connection,
    memory: &mut Memory,
    retention: Retention,
    cut: Cut,
    now: Millis,
    chunk: Chunk,
) -> rusqlite::Result<bool> {
    let history = before(now, retention.history_age);
    let dead = before(now, retention.dead_letter_age);
    let mut left = Left { rows: chunk.rows, bytes: chunk.bytes };
    let upto = filing::sweepable(conn, memory)?;
    let ended = places::sweep(conn, memory, limit(left.rows))?;
    left.take(usize::try_from(ended).unwrap_or(left.rows), 0);
    for state in [DELIVERED, DROPPED, CANCELLED] {
        sweep_deliveries(conn, memory, state, (history, cut.history), upto, now, &mut left)?;
    }
    sweep_deliveries(conn, memory, DEAD, (dead, cut.dead), upto, now, &mut left)?;
    sweep_events(conn, history, upto, now, &mut left)?;
    if cut.history > history {
        empty_events(conn, cut.history, now, &mut left)?;
    }
    left.take(gates::sweep(conn, memory, now, limit(left.rows))?, 0);
    let keys = conn
        .prepare_cached(
            "DELETE FROM dedup WHERE key IN (SELECT key FROM dedup WHERE expires <= ?1 ORDER BY expires LIMIT ?2)",
        )?
        .execute(params![now.0, limit(left.rows)])?;
    left.take(keys, 0);
    // Of what ended there may be more at any time: its parts are removed one after the other.
    Ok(left.nothing() || ended > 0)
}

/// What a sweep may still remove.
struct Left {
    rows: usize,
    bytes: usize,
}

impl Left {
    fn take(&mut self, rows: usize, bytes: i64) {
        self.rows = self.rows.saturating_sub(rows);
        self.bytes = self.bytes.saturating_sub(usize::try_from(bytes).unwrap_or(0));
    }

    /// Freeing a row reads every page of it: 500 events of 1 MiB would hold the writer for seconds.
    fn nothing(&self) -> bool {
        self.rows == 0 || self.bytes == 0
    }
}

fn before(now: Millis, age: Duration) -> i64 {
    now.0.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX))
}

pub(super) fn limit(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

/// Removes deliveries that ended by age before one time, or by bytes before another.
fn sweep_deliveries(
    conn: &Connection,
    memory: &mut Memory,
    state: i64,
    (aged, cut): (i64, i64),
    upto: Seq,
    now: Millis,
    left: &mut Left,
) -> rusqlite::Result<()> {
    type Ripe = (Seq, Seq, i64, i64, i64);
    let ripe = conn
        .prepare_cached(
            "SELECT seq, event, hook, size, finished_at FROM deliveries INDEXED BY deliveries_finished
             WHERE state = ?1 AND finished_at <= ?2 AND seq <= ?4 ORDER BY finished_at LIMIT ?3",
        )?
        .query_map(params![state, aged.max(cut), limit(left.rows), numbers::last(upto)], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
        })?
        .collect::<rusqlite::Result<Vec<Ripe>>>()?;
    for (seq, event, hook, size, finished) in ripe {
        if left.nothing() {
            return Ok(());
        }
        conn.prepare_cached("DELETE FROM attempts WHERE delivery = ?1")?.execute([seq])?;
        conn.prepare_cached("DELETE FROM deliveries WHERE seq = ?1")?.execute([seq])?;
        // It was settled by a program that does not count.
        memory.count(conn, hook, (-size).min(0))?;
        left.take(1, 0);
        let others: bool = conn
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM deliveries WHERE seq BETWEEN ?1 AND ?2)")?
            .query_row([numbers::first(event), numbers::last(event)], |row| row.get(0))?;
        if others {
            continue;
        }
        conn.prepare_cached(
            "INSERT INTO loose (accepted, event, kept_until)
             SELECT accepted, seq, kept_until FROM events WHERE seq = ?1",
        )?
        .execute([event])?;
        if finished > aged {
            // Nothing is won before its data is gone.
            let (accepted, kept_until): (i64, i64) = conn
                .prepare_cached("SELECT accepted, kept_until FROM events WHERE seq = ?1")?
                .query_row([event], |row| Ok((row.get(0)?, row.get(1)?)))?;
            left.take(0, size.abs());
            empty(conn, accepted, event, kept_until <= now.0)?;
        }
    }
    Ok(())
}

/// Removes events that no delivery refers to.
fn sweep_events(
    conn: &Connection,
    cutoff: i64,
    upto: Seq,
    now: Millis,
    left: &mut Left,
) -> rusqlite::Result<()> {
    // `kept_until` only skips rows where the idempotency window is longer than the history's age.
    let ripe = conn
        .prepare_cached(
            "SELECT l.accepted, l.event, octet_length(e.data) FROM loose l CROSS JOIN events e ON e.seq = l.event
             WHERE l.accepted <= ?1 AND l.kept_until <= ?2 AND l.event <= ?4 ORDER BY l.accepted, l.event LIMIT ?3",
        )?
        .query_map(params![cutoff, now.0, limit(left.rows), upto], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?
        .collect::<rusqlite::Result<Vec<(i64, Seq, i64)>>>()?;
    for (accepted, event, size) in ripe {
        if left.nothing() {
            return Ok(());
        }
        empty(conn, accepted, event, true)?;
        left.take(1, size);
    }
    Ok(())
}

/// Lets go of the data of events that no delivery refers to and that are more than may be kept.
fn empty_events(conn: &Connection, cut: i64, now: Millis, left: &mut Left) -> rusqlite::Result<()> {
    let ripe = conn
        .prepare_cached(
            "SELECT l.accepted, l.event, octet_length(e.data), l.kept_until
             FROM loose l INDEXED BY loose_full CROSS JOIN events e ON e.seq = l.event
             WHERE l.bare = 0 AND l.accepted <= ?1 ORDER BY l.accepted, l.event LIMIT ?2",
        )?
        .query_map(params![cut, limit(left.rows)], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })?
        .collect::<rusqlite::Result<Vec<(i64, Seq, i64, i64)>>>()?;
    for (accepted, event, size, kept_until) in ripe {
        if left.nothing() {
            return Ok(());
        }
        empty(conn, accepted, event, kept_until <= now.0)?;
        left.take(1, size);
    }
    Ok(())
}

/// Removes an event, or only its data: within its idempotency window a duplicate must find it.
fn empty(conn: &Connection, accepted: i64, event: Seq, wholly: bool) -> rusqlite::Result<()> {
    let (of_event, of_loose) = if wholly {
        ("DELETE FROM events WHERE seq = ?1", "DELETE FROM loose WHERE accepted = ?1 AND event = ?2")
    } else {
        (
            "UPDATE events SET data = 'null', attributes = NULL WHERE seq = ?1",
            "UPDATE loose SET bare = 1 WHERE accepted = ?1 AND event = ?2",
        )
    };
    conn.prepare_cached(of_event)?.execute([event])?;
    conn.prepare_cached(of_loose)?.execute(params![accepted, event])?;
    Ok(())
}
