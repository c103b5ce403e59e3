//! Counts deliveries that died recently.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::namespace_keys;
use super::schema::DEAD;
use crate::core::time::Millis;
use crate::worker::store::DeadLetterCounts;

// The inner query ends at the limit, however many deliveries died.
pub(super) const RECENT: &str = "
SELECT n.place, count(*) FROM (
    SELECT namespace FROM deliveries INDEXED BY deliveries_finished
    WHERE state = ?1 AND finished_at >= ?2 ORDER BY finished_at DESC LIMIT ?3) d
CROSS JOIN namespace_numbers n ON n.id = d.namespace
GROUP BY n.place";

/// Counts the newest deliveries that died at or after `since`, up to `limit`. Those of deleted namespaces use up the limit
/// and are not reported.
pub(super) fn count(conn: &Connection, since: Millis, limit: usize) -> rusqlite::Result<DeadLetterCounts> {
    let tx = conn.unchecked_transaction()?;
    let rows: Vec<(String, u64)> = tx
        .prepare_cached(RECENT)?
        .query_map((DEAD, since.0, i64::try_from(limit).unwrap_or(i64::MAX)), |row| {
            Ok((row.get(0)?, u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0)))
        })?
        .collect::<Result<_, _>>()?;
    let counted: u64 = rows.iter().map(|(_, count)| count).sum();
    let mut by_namespace = BTreeMap::new();
    for (place, count) in rows {
        let name = namespace_keys::name(&place).to_owned();
        if namespace_keys::key(&tx, &name)? == place {
            by_namespace.insert(name, count);
        }
    }
    Ok(DeadLetterCounts {
        by_namespace,
        is_exact: usize::try_from(counted).is_ok_and(|counted| counted < limit),
    })
}
