//! Verifies stored event ids, for `store check` and `store recover`.

use rusqlite::Connection;

use super::super::runs::{RunKind, last_event, verify_all};
use super::meta;

/// Returns the defects of runs of event ids. Reads every block.
pub(in super::super) fn find_problems(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let last_event = last_event(conn)?;
    let mut problems = verify_all(conn, RunKind::Ids, last_event)?;
    let covered = meta(conn, "ids_covered")?.unwrap_or(0);
    if covered > last_event {
        problems.push(format!(
            "the ids of events up to {covered} are in runs, and the last event is {last_event}"
        ));
    }
    Ok(problems)
}

/// Removes all runs of a recovered store that lost rows. The next start computes them from the events that exist.
pub(in super::super) fn forget_runs(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(
        "DELETE FROM id_runs;
         DELETE FROM id_blocks;
         DELETE FROM meta WHERE name = 'ids_missing';
         INSERT OR REPLACE INTO meta (name, value) VALUES ('ids_covered', 0);",
    )
}
