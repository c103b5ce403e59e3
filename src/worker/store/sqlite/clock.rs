//! The times that tie the store to the clock of its process: the time of the last commit, by which the next process
//! detects that the wall clock jumped, and the repair of times that are unreachable after the clock went back.

use rusqlite::{Connection, OptionalExtension, params};

use super::super::StoredTimes;
use super::cache::WriterCache;
use super::rows::limit;
use super::schema::PENDING;
use crate::core::time::Millis;

/// The commit time is stored at most this often, in milliseconds, so that it costs no commit a write of its own.
pub(super) const MARK_INTERVAL: u64 = 1_000;

/// Stores the time of a commit. An older program ignores the row.
pub(super) fn mark_commit(conn: &Connection, now: Millis) -> rusqlite::Result<()> {
    conn.prepare_cached("INSERT OR REPLACE INTO meta (name, value) VALUES ('clock', ?1)")?
        .execute([now.0])?;
    Ok(())
}

/// Reads the time of the last commit and of the newest event.
pub(super) fn stored_times(conn: &Connection) -> rusqlite::Result<StoredTimes> {
    let read = |sql: &str| conn.query_row(sql, [], |row| row.get(0).map(Millis)).optional();
    let newest_event = read("SELECT accepted FROM events ORDER BY seq DESC LIMIT 1")?;
    // A store of an older program has no mark.
    let last_commit = read("SELECT value FROM meta WHERE name = 'clock'")?.or(newest_event);
    Ok(StoredTimes { last_commit, newest_event })
}

/// Makes up to `rows` pending deliveries and quiet periods that are later than `now` due at `now`. True: there are more.
pub(super) fn reset_future_times(
    conn: &Connection,
    cache: &mut WriterCache,
    now: Millis,
    rows: usize,
) -> rusqlite::Result<bool> {
    let mut remaining = rows;
    // Hook by hook, because the index of pending deliveries starts with the hook.
    let hooks: Vec<i64> = conn
        .prepare_cached("SELECT id FROM hooks")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let mut deliveries = conn.prepare_cached(&format!(
        "UPDATE deliveries SET due = ?2 WHERE seq IN
         (SELECT seq FROM deliveries WHERE state = {PENDING} AND hook = ?1 AND due > ?2 LIMIT ?3)"
    ))?;
    for hook in hooks {
        remaining = remaining.saturating_sub(deliveries.execute(params![hook, now.0, limit(remaining)])?);
        if remaining == 0 {
            return Ok(true);
        }
    }
    for sql in [
        "UPDATE candidates SET due = ?1 WHERE (hook, key) IN
         (SELECT hook, key FROM candidates WHERE due > ?1 LIMIT ?2)",
        "UPDATE gates SET used = ?1, quiet_until = min(quiet_until, ?1) WHERE (hook, kind, key) IN
         (SELECT hook, kind, key FROM gates WHERE used > ?1 LIMIT ?2)",
    ] {
        let changed = conn.prepare_cached(sql)?.execute(params![now.0, limit(remaining)])?;
        remaining = remaining.saturating_sub(changed);
    }
    cache.invalidate_next_promotion();
    Ok(remaining == 0)
}
