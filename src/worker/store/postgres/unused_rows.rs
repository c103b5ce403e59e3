//! Removes rows of hooks that have nothing left in the store, and merges the counts of writers that have ended.
//!
//! A store does not know which hooks exist. A hook's row is of use while the hook has deliveries, gate memory or a hold; a later
//! delivery inserts it again. Without the removal, a namespace that creates and deletes hooks would fill the table.

use tokio_postgres::types::Type;

use super::failure::DbError;
use super::session::Session;

/// Hooks that one sweep examines.
const EXAMINED: i64 = 2000;

/// Whether the hook `h` has nothing left. Subqueries with a limit, because a join could scan the tables.
macro_rules! has_nothing_left {
    () => {
        "h.held_since IS NULL
    AND (SELECT 1 FROM hookstream.pending p WHERE p.hook = h.id ORDER BY p.hook, p.seq LIMIT 1) IS NULL
    AND (SELECT 1 FROM hookstream.gates g WHERE g.hook = h.id LIMIT 1) IS NULL
    AND (SELECT 1 FROM hookstream.candidates c WHERE c.hook = h.id LIMIT 1) IS NULL
    AND (SELECT 1 FROM hookstream.finished f WHERE f.hook >= h.id AND f.hook <= h.id
         ORDER BY f.hook, f.seq LIMIT 1) IS NULL"
    };
}

pub(super) const EXAMINE: &str = concat!(
    "SELECT h.id, h.retired IS NOT NULL, ",
    has_nothing_left!(),
    " FROM hookstream.hooks h WHERE h.id > $1 ORDER BY h.id LIMIT 2000"
);

const REMOVE: &str = concat!(
    "WITH gone AS (DELETE FROM hookstream.hooks h WHERE h.retired < clock_timestamp() - interval '1 hour'
    AND h.id = ANY($1) AND ",
    has_nothing_left!(),
    " RETURNING h.id)
DELETE FROM hookstream.backlog WHERE hook = ANY(ARRAY(SELECT id FROM gone))"
);

/// Examines the hooks after `last`, a bounded number. Returns the last one, or 0 at the end.
///
/// An unused hook is retired first, and removed after an hour. A transaction that inserts a delivery of a retired hook ends
/// that (`hooks::find_or_insert_many`), and one that read the hook before it was retired has ended long before the removal. So
/// no delivery loses its hook.
pub(super) async fn sweep_hooks(tx: &Session, last: i64) -> Result<i64, DbError> {
    let rows = tx.query(EXAMINE, &[(&last, Type::INT8)]).await?;
    let (mut used, mut unused, mut retired) = (Vec::new(), Vec::new(), Vec::new());
    let mut end = 0;
    for row in &rows {
        let (hook, is_retired, is_unused): (i64, bool, bool) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        match (is_unused, is_retired) {
            (true, true) => retired.push(hook),
            (true, false) => unused.push(hook),
            (false, true) => used.push(hook),
            (false, false) => {}
        }
        end = hook;
    }
    for (sql, hooks) in [
        (REMOVE, &retired),
        ("UPDATE hookstream.hooks SET retired = clock_timestamp() WHERE id = ANY($1)", &unused),
        ("UPDATE hookstream.hooks SET retired = NULL WHERE id = ANY($1)", &used),
    ] {
        if !hooks.is_empty() {
            tx.execute(sql, &[(hooks, Type::INT8_ARRAY)]).await?;
        }
    }
    let is_full = i64::try_from(rows.len()).is_ok_and(|examined| examined >= EXAMINED);
    Ok(if is_full { end } else { 0 })
}

/// Counts that one sweep merges.
const MERGED: i64 = 5000;

/// Adds the counts of writers whose processes have ended to one row for each hook, that of the writer 0, and removes the
/// writers. Otherwise each restart would add a row for each hook.
pub(super) async fn merge_backlogs(tx: &Session) -> Result<(), DbError> {
    // Locked: a process that was suspended for long finds its row removed, and inserts another.
    let ended = tx
        .query(
            "SELECT id FROM hookstream.writers w
             WHERE NOT EXISTS (SELECT 1 FROM hookstream.workers k WHERE k.id = w.worker) FOR UPDATE SKIP LOCKED",
            &[],
        )
        .await?;
    if ended.is_empty() {
        return Ok(());
    }
    let ended: Vec<i64> =
        ended.iter().map(|row| Ok::<_, DbError>(row.try_get(0)?)).collect::<Result<_, _>>()?;
    let merged: i64 = tx
        .query_one(
            "WITH gone AS (
                 DELETE FROM hookstream.backlog WHERE ctid = ANY(ARRAY(
                     SELECT ctid FROM hookstream.backlog WHERE writer = ANY($1) ORDER BY hook, writer LIMIT $2 FOR UPDATE))
                 RETURNING hook, deliveries, bytes),
             added AS (
                 INSERT INTO hookstream.backlog AS b (hook, writer, deliveries, bytes)
                 SELECT hook, 0, sum(deliveries), sum(bytes) FROM gone GROUP BY hook ORDER BY hook
                 ON CONFLICT (hook, writer) DO UPDATE
                 SET deliveries = b.deliveries + excluded.deliveries, bytes = b.bytes + excluded.bytes)
             SELECT count(*) FROM gone",
            &[(&ended, Type::INT8_ARRAY), (&MERGED, Type::INT8)],
        )
        .await?
        .try_get(0)?;
    if merged < MERGED {
        let sql = "DELETE FROM hookstream.writers WHERE id = ANY($1)";
        tx.execute(sql, &[(&ended, Type::INT8_ARRAY)]).await?;
    }
    let sql = "DELETE FROM hookstream.backlog WHERE writer = 0 AND deliveries = 0 AND bytes = 0";
    tx.execute(sql, &[]).await.map(drop)
}
