//! The kept request and response of a delivery's last attempt. They end with the delivery, or when their namespace has
//! more than its share of the limit.

use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use super::super::{DeliverySeq, Exchange, ExchangeChange, Retention, Settlement};
use super::fair_limit::{Excess, LimitedTable};
use super::namespace_keys;
use super::rows::limit;

/// The part of the bytes of history and dead letters for exchanges.
const HISTORY_PART: u64 = 8;
/// The approximate size of a row without its content.
const ROW_BYTES: usize = 64;

pub(super) const TABLE: LimitedTable = LimitedTable {
    totals: "SELECT namespace, sum(bytes) FROM exchanges INDEXED BY exchanges_namespace GROUP BY namespace",
    newest: "SELECT delivery, bytes FROM exchanges INDEXED BY exchanges_namespace WHERE namespace = ?1 ORDER BY delivery DESC",
};

/// Returns the bytes that all exchanges together may have.
pub(super) fn max_bytes(retention: &Retention) -> u64 {
    retention.history_bytes.saturating_add(retention.dead_letter_bytes) / HISTORY_PART
}

/// Records the exchange of a settlement, after the delivery was settled.
pub(super) fn record(conn: &Connection, settlement: &Settlement) -> rusqlite::Result<()> {
    let exchange = match &settlement.exchange {
        ExchangeChange::Nothing => return Ok(()),
        ExchangeChange::Remove => return remove(conn, settlement.delivery),
        ExchangeChange::Replace(exchange) => exchange,
    };
    // Not of a late outcome, which did not change the delivery.
    let namespace_key: Option<String> = conn
        .prepare_cached(
            "SELECT h.namespace FROM deliveries d CROSS JOIN hooks h ON h.id = d.hook
             WHERE d.seq = ?1 AND (d.state = 0 OR d.finished_at = ?2)",
        )?
        .query_row(params![settlement.delivery, settlement.at.0], |row| row.get(0))
        .optional()?;
    let Some(namespace_key) = namespace_key else { return Ok(()) };
    let content = serde_json::to_string(exchange)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    conn.prepare_cached(
        "INSERT OR REPLACE INTO exchanges (delivery, namespace, bytes, content) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![settlement.delivery, namespace_key, limit(content.len() + ROW_BYTES), content])
    .map(drop)
}

/// Removes the exchange of a delivery, if there is one.
pub(super) fn remove(conn: &Connection, delivery: DeliverySeq) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM exchanges WHERE delivery = ?1")?.execute([delivery]).map(drop)
}

/// Removes up to `rows` of the excess. Returns how many, and their bytes.
pub(super) fn remove_excess(
    conn: &Connection,
    excess: &[Excess],
    rows: usize,
) -> rusqlite::Result<(usize, i64)> {
    let (mut removed, mut bytes) = (0, 0);
    for Excess { namespace_key, last } in excess {
        let found = conn
            .prepare_cached(
                "SELECT delivery, bytes FROM exchanges INDEXED BY exchanges_namespace
                 WHERE namespace = ?1 AND delivery <= ?2 ORDER BY delivery LIMIT ?3",
            )?
            .query_map(params![namespace_key, last, limit(rows - removed)], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?
            .collect::<rusqlite::Result<Vec<(DeliverySeq, i64)>>>()?;
        for (delivery, size) in found {
            remove(conn, delivery)?;
            removed += 1;
            bytes += size;
        }
        if removed >= rows {
            break;
        }
    }
    Ok((removed, bytes))
}

/// Returns the exchange of a delivery. One that cannot be read, because a later program wrote it, is treated as absent.
pub(super) fn find(conn: &Connection, namespace: &str, id: Uuid) -> rusqlite::Result<Option<Exchange>> {
    let content: Option<String> = conn
        .prepare_cached(
            "SELECT x.content FROM deliveries d CROSS JOIN exchanges x ON x.delivery = d.seq
             WHERE d.id = ?1 AND x.namespace = ?2",
        )?
        .query_row(params![id.as_bytes(), namespace_keys::key(conn, namespace)?], |row| row.get(0))
        .optional()?;
    Ok(content.and_then(|content| serde_json::from_str(&content).ok()))
}
