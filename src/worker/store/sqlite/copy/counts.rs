//! Counts the rows of a store by kind, to compare both sides of a copy.

use rusqlite::Connection;

use super::super::super::portable::{CopiedKind, Counts};
use super::super::schema::{CANCELLED, CANDIDATE, DEAD, DELIVERED, DROPPED, PENDING};
use super::super::{outcomes, unmaterialized};

/// Counts everything except idempotency keys.
pub(super) fn count(conn: &Connection) -> rusqlite::Result<Counts> {
    let mut counts = Counts::new();
    for (kind, sql) in [
        (CopiedKind::Hooks, "SELECT count(*) FROM hooks"),
        (CopiedKind::HeldHooks, "SELECT count(*) FROM hooks WHERE held_since IS NOT NULL"),
        (CopiedKind::Events, "SELECT count(*) FROM events"),
        (
            CopiedKind::UnmatchedEvents,
            "SELECT count(*) FROM unmatched u WHERE EXISTS (SELECT 1 FROM events e WHERE e.seq = u.event)",
        ),
        (CopiedKind::Attempts, "SELECT count(*) FROM attempts"),
        (CopiedKind::Responses, "SELECT count(*) FROM exchanges"),
        (CopiedKind::Gates, "SELECT count(*) FROM gates"),
        (CopiedKind::Candidates, "SELECT count(*) FROM candidates"),
        (CopiedKind::Replays, "SELECT count(*) FROM replays"),
    ] {
        let found: i64 = conn.query_row(sql, [], |row| row.get(0))?;
        counts.insert(kind, found.unsigned_abs());
    }
    let mut states = conn.prepare("SELECT state, count(*) FROM deliveries GROUP BY state")?;
    let mut states = states.query([])?;
    while let Some(row) = states.next()? {
        let kind = match row.get(0)? {
            PENDING | CANDIDATE => CopiedKind::Pending,
            DELIVERED => CopiedKind::Delivered,
            DEAD => CopiedKind::Dead,
            DROPPED => CopiedKind::Dropped,
            CANCELLED => CopiedKind::Cancelled,
            state => return Err(rusqlite::Error::IntegralValueOutOfRange(0, state)),
        };
        *counts.entry(kind).or_default() += row.get::<_, i64>(1)?.unsigned_abs();
    }
    *counts.entry(CopiedKind::Delivered).or_default() += outcomes::count(conn)?;
    *counts.entry(CopiedKind::Pending).or_default() +=
        unmaterialized::read_snapshot(conn)?.notes().len() as u64;
    Ok(counts)
}

/// Counts the idempotency keys that expire after `now`.
pub(super) fn count_keys(conn: &Connection, now: i64) -> rusqlite::Result<u64> {
    let sql = "SELECT count(*) FROM events WHERE kept_until > ?1 AND dedup_key IS NOT NULL";
    conn.query_row(sql, [now], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs)
}
