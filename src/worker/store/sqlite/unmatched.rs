//! Events that no hook matched: lists find them, and they have an age and a part of the history's bytes of their own.
//!
//! Their rows in `events` and `loose` are those of any event without deliveries. The table here has no more than what finds
//! them in order. A program of format 9 ignores it; what that program removes, the next sweep forgets.

use rusqlite::{Connection, OptionalExtension, params};

use super::super::EventSeq;
use super::fair_limit::{Excess, LimitedTable};
use super::namespace_keys::is_present;
use super::rows::{EVENT_BYTES, limit};
use crate::core::time::Millis;

/// The part of the history's bytes for unmatched events.
const HISTORY_PART: u64 = 4;

pub(super) const TABLE: LimitedTable = LimitedTable {
    totals: "SELECT namespace, sum(bytes) FROM unmatched INDEXED BY unmatched_namespace GROUP BY namespace",
    newest: "SELECT event, bytes FROM unmatched INDEXED BY unmatched_namespace WHERE namespace = ?1 ORDER BY event DESC",
};

pub(super) const OF_NAMESPACE: &str = "
SELECT event FROM unmatched INDEXED BY unmatched_namespace
WHERE namespace = ?1 AND event <= ?2 ORDER BY event DESC LIMIT ?3";

/// Of all namespaces. Ordered by the primary key; those of deleted namespaces are skipped until the sweep removes them.
pub(super) const OF_ALL: &str = concat!(
    "SELECT o.event FROM (SELECT event, namespace AS place FROM unmatched) o WHERE o.event <= ?1 AND ",
    is_present!(),
    " ORDER BY o.event DESC LIMIT ?2"
);

/// Returns the bytes that all unmatched events together may have.
pub(super) fn max_bytes(history_bytes: u64) -> u64 {
    history_bytes / HISTORY_PART
}

/// Records an event that was accepted without deliveries.
pub(super) fn insert(
    conn: &Connection,
    event: EventSeq,
    namespace_key: &str,
    data_bytes: usize,
    now: Millis,
) -> rusqlite::Result<()> {
    conn.prepare_cached("INSERT INTO unmatched (event, namespace, accepted, bytes) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![event, namespace_key, now.0, limit(data_bytes.saturating_add(EVENT_BYTES))])
        .map(drop)
}

/// Forgets an event whose row or data is removed.
pub(super) fn forget(conn: &Connection, event: EventSeq) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM unmatched WHERE event = ?1")?.execute([event]).map(drop)
}

/// An event to remove, as the sweep needs it. None of the columns of `events`: its row is gone.
pub(super) struct ExpiredEvent {
    pub(super) event: EventSeq,
    pub(super) accepted: i64,
    pub(super) bytes: i64,
    /// The end of its idempotency window.
    pub(super) kept_until: Option<i64>,
}

/// Finds up to `rows` events that were accepted at or before `cutoff`, oldest first.
pub(super) fn find_aged(conn: &Connection, cutoff: i64, rows: usize) -> rusqlite::Result<Vec<ExpiredEvent>> {
    let mut oldest = conn.prepare_cached(
        "SELECT u.event, u.accepted, u.bytes, e.kept_until FROM unmatched u LEFT JOIN events e ON e.seq = u.event
         ORDER BY u.event LIMIT ?1",
    )?;
    let oldest = oldest.query_map([limit(rows)], expired)?.collect::<rusqlite::Result<Vec<_>>>()?;
    // In the order of acceptance, so all that follow are younger.
    Ok(oldest.into_iter().take_while(|event| event.accepted <= cutoff).collect())
}

/// Finds up to `rows` events of the excess.
pub(super) fn find_excess_events(
    conn: &Connection,
    excess: &[Excess],
    rows: usize,
) -> rusqlite::Result<Vec<ExpiredEvent>> {
    let mut found = Vec::new();
    for Excess { namespace_key, last } in excess {
        let mut oldest = conn.prepare_cached(
            "SELECT u.event, u.accepted, u.bytes, e.kept_until
             FROM unmatched u INDEXED BY unmatched_namespace LEFT JOIN events e ON e.seq = u.event
             WHERE u.namespace = ?1 AND u.event <= ?2 ORDER BY u.event LIMIT ?3",
        )?;
        let oldest = oldest.query_map(params![namespace_key, last, limit(rows - found.len())], expired)?;
        for event in oldest {
            found.push(event?);
        }
        if found.len() >= rows {
            break;
        }
    }
    Ok(found)
}

fn expired(row: &rusqlite::Row<'_>) -> rusqlite::Result<ExpiredEvent> {
    Ok(ExpiredEvent {
        event: row.get(0)?,
        accepted: row.get(1)?,
        bytes: row.get(2)?,
        kept_until: row.get(3)?,
    })
}

/// Returns the first unmatched event that was accepted at `at` or later. Bisects, because events are in the order of
/// acceptance.
pub(super) fn first_since(conn: &Connection, at: i64) -> rusqlite::Result<EventSeq> {
    let end: EventSeq = conn
        .prepare_cached("SELECT coalesce(max(event), 0) + 1 FROM unmatched")?
        .query_row([], |row| row.get(0))?;
    let (mut low, mut high) = (0, end);
    while low < high {
        let middle = low + (high - low) / 2;
        let found: Option<(EventSeq, i64)> = conn
            .prepare_cached("SELECT event, accepted FROM unmatched WHERE event >= ?1 ORDER BY event LIMIT 1")?
            .query_row([middle], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        match found {
            Some((event, accepted)) if accepted < at => low = event + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}
