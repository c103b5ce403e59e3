//! Finds what exceeds the limits in bytes. Counting bytes at each write would slow down every accept and every settlement.
//! Instead, once a round, the stored sizes are summed, newest first, until the limit is exceeded. That is skipped while the
//! tables are smaller than the limits.

use tokio_postgres::types::Type;

use super::super::Retention;
use super::super::fair_share::largest_share;
use super::failure::DbError;
use super::rows::limit;
use super::session::Session;

/// The part of the history's bytes for unmatched events.
const UNMATCHED_PART: u64 = 4;
/// The part of the bytes of history and dead letters for exchanges.
const EXCHANGES_PART: u64 = 8;

/// What exceeds the limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ByteLimits {
    /// Deliveries that finished, and events without deliveries that were accepted, at or before this time exceed the limit of the
    /// history.
    pub(super) history: i64,
    /// Dead letters that died at or before this time exceed their limit.
    pub(super) dead: i64,
    pub(super) unmatched: Vec<Excess>,
    pub(super) exchanges: Vec<Excess>,
}

/// The rows of a place that exceed its share: those up to a sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Excess {
    pub(super) place: i64,
    pub(super) last: i64,
}

pub(super) async fn find(session: &Session, retention: &Retention) -> Result<ByteLimits, DbError> {
    let unmatched_bytes = retention.history_bytes / UNMATCHED_PART;
    let exchange_bytes = retention.history_bytes.saturating_add(retention.dead_letter_bytes) / EXCHANGES_PART;
    let finished_and_events = size(session, "finished").await?.saturating_add(size(session, "events").await?);
    let mut limits =
        ByteLimits { history: i64::MIN, dead: i64::MIN, unmatched: Vec::new(), exchanges: Vec::new() };
    if finished_and_events > retention.history_bytes {
        limits.history = cutoff(session, HISTORY, retention.history_bytes).await?;
    }
    if finished_and_events > retention.dead_letter_bytes {
        limits.dead = cutoff(session, DEAD, retention.dead_letter_bytes).await?;
    }
    if finished_and_events > unmatched_bytes {
        limits.unmatched = excess(session, &UNMATCHED, unmatched_bytes).await?;
    }
    if size(session, "exchanges").await? > exchange_bytes {
        limits.exchanges = excess(session, &EXCHANGES, exchange_bytes).await?;
    }
    Ok(limits)
}

/// Returns the bytes of a table on the disk.
async fn size(session: &Session, table: &str) -> Result<u64, DbError> {
    let sql = "SELECT pg_total_relation_size(('hookstream.' || $1)::regclass)";
    let bytes: i64 = session.query_one(sql, &[(&table, Type::TEXT)]).await?.try_get(0)?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}

// Both ordered parts are merged, and the statement ends at the first row that exceeds the limit.
pub(super) const HISTORY: &str = "
SELECT at FROM (
    SELECT at, sum(bytes) OVER (ORDER BY at DESC ROWS UNBOUNDED PRECEDING) AS total FROM (
        (SELECT finished_at AS at, size AS bytes FROM hookstream.finished WHERE state <> 2
         ORDER BY finished_at DESC, seq DESC)
        UNION ALL
        (SELECT accepted AS at, octet_length(data) + 512 AS bytes FROM hookstream.events WHERE is_loose
         ORDER BY accepted DESC, seq DESC)) r) s
WHERE total > $1 LIMIT 1";

pub(super) const DEAD: &str = "
SELECT at FROM (
    SELECT finished_at AS at, sum(size) OVER (ORDER BY finished_at DESC ROWS UNBOUNDED PRECEDING) AS total
    FROM hookstream.finished WHERE state = 2) s
WHERE total > $1 LIMIT 1";

/// Returns the time of the first row at which the total exceeds `bytes`.
async fn cutoff(session: &Session, sql: &str, bytes: u64) -> Result<i64, DbError> {
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    let found = session.query_opt(sql, &[(&bytes, Type::INT8)]).await?;
    found.map_or(Ok(i64::MIN), |row| Ok(row.try_get(0)?))
}

/// A table whose limit is divided fairly between the namespaces: those with the most lose their oldest rows.
struct LimitedTable {
    /// Returns each place and its bytes.
    totals: &'static str,
    /// Returns the newest row of a place at which its total exceeds a share.
    newest_excess: &'static str,
}

const UNMATCHED: LimitedTable = LimitedTable {
    totals: "SELECT place, sum(octet_length(data) + 512)::bigint FROM hookstream.events WHERE unmatched GROUP BY place",
    newest_excess: UNMATCHED_EXCESS,
};

pub(super) const UNMATCHED_EXCESS: &str = "
SELECT seq FROM (
    SELECT seq, sum(octet_length(data) + 512) OVER (ORDER BY place DESC, seq DESC ROWS UNBOUNDED PRECEDING) AS kept
    FROM hookstream.events WHERE unmatched AND place >= $1 AND place <= $1) s
WHERE kept > $2 LIMIT 1";

const EXCHANGES: LimitedTable = LimitedTable {
    totals: "SELECT place, sum(bytes)::bigint FROM hookstream.exchanges GROUP BY place",
    newest_excess: EXCHANGES_EXCESS,
};

pub(super) const EXCHANGES_EXCESS: &str = "
SELECT delivery FROM (
    SELECT delivery, sum(bytes) OVER (ORDER BY place DESC, delivery DESC ROWS UNBOUNDED PRECEDING) AS kept
    FROM hookstream.exchanges WHERE place >= $1 AND place <= $1) s
WHERE kept > $2 LIMIT 1";

/// Finds the rows that exceed the limit.
async fn excess(session: &Session, table: &LimitedTable, bytes: u64) -> Result<Vec<Excess>, DbError> {
    let mut totals: Vec<(i64, u64)> = Vec::new();
    for row in session.query(table.totals, &[]).await? {
        totals.push((row.try_get(0)?, u64::try_from(row.try_get::<_, i64>(1)?).unwrap_or(0)));
    }
    let Some(share) = largest_share(totals.iter().map(|(_, bytes)| *bytes).collect(), bytes) else {
        return Ok(Vec::new());
    };
    let share_limit = limit(usize::try_from(share).unwrap_or(usize::MAX));
    let mut excess = Vec::new();
    for (place, _) in totals.into_iter().filter(|(_, bytes)| *bytes > share) {
        let params = [(&place as _, Type::INT8), (&share_limit as _, Type::INT8)];
        if let Some(row) = session.query_opt(table.newest_excess, &params).await? {
            excess.push(Excess { place, last: row.try_get(0)? });
        }
    }
    Ok(excess)
}
