//! Verifies stored idempotency keys, for `store check` and `store recover`.

use rusqlite::Connection;

use super::super::runs::{RunKind, last_event, verify_all};

/// Returns the defects of runs and of keys in event rows. Reads every block.
pub(in super::super) fn find_problems(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let last_event = last_event(conn)?;
    let mut problems = verify_all(conn, RunKind::Keys, last_event)?;
    let covered: i64 =
        conn.query_row("SELECT coalesce((SELECT value FROM meta WHERE name = 'keyed'), 0)", [], |row| {
            row.get(0)
        })?;
    if covered > last_event {
        problems.push(format!(
            "the keys of events up to {covered} are in runs, and the last event is {last_event}"
        ));
    }
    let misshaped: i64 = conn.query_row(
        "SELECT count(*) FROM events WHERE dedup_key IS NOT NULL
         AND (typeof(dedup_key) <> 'blob' OR length(dedup_key) <> 16)",
        [],
        |row| row.get(0),
    )?;
    if misshaped > 0 {
        problems.push(format!("{misshaped} events with a damaged idempotency key"));
    }
    Ok(problems)
}

/// Removes all runs of a recovered store that lost rows: an entry may name a lost event, whose number a new event gets.
/// The next start computes the runs from the events that exist.
pub(in super::super) fn forget_runs(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(
        "DELETE FROM key_runs;
         DELETE FROM key_blocks;
         DELETE FROM key_filters;
         UPDATE events SET dedup_key = NULL
         WHERE dedup_key IS NOT NULL AND (typeof(dedup_key) <> 'blob' OR length(dedup_key) <> 16);
         INSERT OR REPLACE INTO meta (name, value) VALUES ('keyed', 0);",
    )
}
