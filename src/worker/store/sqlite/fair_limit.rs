//! A limit in bytes of a table, divided fairly between namespaces: the namespaces with the most lose their oldest rows.
//!
//! A reader finds once a round what exceeds the limit, and the sweep removes it. So nothing is counted when rows are
//! written, and the table may exceed its limit by what is written between two rounds.

use rusqlite::{Connection, params};

use super::super::fair_share::largest_share;

/// The statements for one table.
pub(super) struct LimitedTable {
    /// Returns each namespace key and its bytes.
    pub(super) totals: &'static str,
    /// Returns the sequence number and the bytes of the rows of a namespace key, newest first.
    pub(super) newest: &'static str,
}

/// The rows of a namespace that exceed its share: those up to a sequence number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Excess {
    pub(super) namespace_key: String,
    pub(super) last: i64,
}

/// Finds the rows that exceed the limit.
pub(super) fn find_excess(
    conn: &Connection,
    table: &LimitedTable,
    limit: u64,
) -> rusqlite::Result<Vec<Excess>> {
    let tx = conn.unchecked_transaction()?;
    let totals = tx
        .prepare_cached(table.totals)?
        .query_map([], |row| Ok((row.get(0)?, u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0))))?
        .collect::<rusqlite::Result<Vec<(String, u64)>>>()?;
    let Some(share) = largest_share(totals.iter().map(|(_, bytes)| *bytes).collect(), limit) else {
        return Ok(Vec::new());
    };
    let mut excess = Vec::new();
    for (namespace_key, _) in totals.into_iter().filter(|(_, bytes)| *bytes > share) {
        let mut newest = tx.prepare_cached(table.newest)?;
        let mut rows = newest.query(params![namespace_key])?;
        let mut kept = 0_u64;
        while let Some(row) = rows.next()? {
            kept = kept.saturating_add(u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0));
            if kept > share {
                excess.push(Excess { namespace_key, last: row.get(0)? });
                break;
            }
        }
    }
    Ok(excess)
}
