//! The dispatcher's reads: due deliveries of own hooks, the backlog, held hooks.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::super::{DeliverySeq, DueDeliveries, HookBacklog, HookId, PendingDelivery, ReadLimit, sequence};
use super::failure::DbError;
use super::hooks::{self, HOOK_COLUMNS, HookRow, hook_id};
use super::rows::{self, EVENT_COLUMNS, limit};
use super::session::Session;
use crate::core::fast_map::FastSet;
use crate::core::time::Millis;

/// The most rows that one read of untried deliveries examines.
const MAX_EXAMINED: i64 = 256;

/// Deliveries that another worker may still be attempting are left alone while its lease lasts.
const NOT_IN_FLIGHT: &str = "NOT EXISTS (
    SELECT 1 FROM hookstream.in_flight f JOIN hookstream.workers w ON w.id = f.worker
    WHERE f.delivery = p.seq AND w.lease_until > clock_timestamp())";

/// Reads the due deliveries of a hook, earliest due first.
///
/// First the sequence numbers and lengths, then the events of those that fit.
pub(super) async fn due(
    session: &Session,
    uid: &str,
    now: Millis,
    exclude: &FastSet<DeliverySeq>,
    read: ReadLimit,
) -> Result<DueDeliveries, DbError> {
    let tx = session.begin_reading().await?;
    let mut due = DueDeliveries::default();
    if let Some(hook) = hooks::find(&tx, uid).await? {
        let excluded: Vec<i64> = exclude.iter().copied().collect();
        let sql = format!(
            "SELECT p.seq, octet_length(e.data) FROM hookstream.pending p
             JOIN hookstream.events e ON e.seq = p.seq >> {bits}
             WHERE p.hook = $1 AND NOT p.is_candidate AND p.due <= $2 AND p.seq <> ALL($3) AND {NOT_IN_FLIGHT}
               AND NOT EXISTS (SELECT 1 FROM hookstream.places ended WHERE ended.id = p.place AND ended.ended)
             ORDER BY p.due, p.seq LIMIT $4",
            bits = sequence::INDEX_BITS
        );
        let rows = tx
            .query(
                &sql,
                &[
                    (&hook.row_id, Type::INT8),
                    (&now.0, Type::INT8),
                    (&excluded, Type::INT8_ARRAY),
                    (&limit(read.rows.saturating_add(1)), Type::INT8),
                ],
            )
            .await?;
        let seqs = select(&rows, read, &mut due)?;
        due.pending = read_pending(&tx, &seqs, &hook, now).await?;
        due.pending.sort_by_key(|pending| (pending.due, pending.seq));
    }
    tx.commit().await?;
    Ok(due)
}

/// Selects the rows (seq, length) that a read may return.
fn select(rows: &[Row], read: ReadLimit, due: &mut DueDeliveries) -> Result<Vec<DeliverySeq>, DbError> {
    let (mut selected, mut bytes) = (Vec::new(), 0_usize);
    for row in rows {
        let len = usize::try_from(row.try_get::<_, i32>(1)?).unwrap_or(0);
        if selected.len() >= read.rows || bytes >= read.bytes {
            due.has_more = true;
            break;
        }
        if read.is_strict && bytes + len > read.bytes {
            due.has_more = true;
            due.too_large = selected.is_empty().then_some(len);
            break;
        }
        bytes += len;
        selected.push(row.try_get(0)?);
    }
    Ok(selected)
}

/// Reads due deliveries of a hook that were not attempted since they were accepted or replayed, newest first.
pub(super) async fn newest_untried(
    session: &Session,
    uid: &str,
    now: Millis,
    exclude: &FastSet<DeliverySeq>,
    read: ReadLimit,
) -> Result<Vec<PendingDelivery>, DbError> {
    let tx = session.begin_reading().await?;
    let mut found = Vec::new();
    if let Some(hook) = hooks::find(&tx, uid).await? {
        let excluded: Vec<i64> = exclude.iter().copied().collect();
        let sql = format!(
            "SELECT n.seq, octet_length(e.data) FROM (
                 SELECT p.seq, p.attempts, p.attempts_before, p.due, p.is_candidate FROM hookstream.pending p
                 WHERE p.hook = $1 AND p.seq <> ALL($3) AND {NOT_IN_FLIGHT} ORDER BY p.seq DESC LIMIT {MAX_EXAMINED}) n
             JOIN hookstream.events e ON e.seq = n.seq >> {bits}
             WHERE n.attempts = n.attempts_before AND n.due <= $2 AND NOT n.is_candidate
             ORDER BY n.seq DESC LIMIT $4",
            bits = sequence::INDEX_BITS
        );
        let rows = tx
            .query(
                &sql,
                &[
                    (&hook.row_id, Type::INT8),
                    (&now.0, Type::INT8),
                    (&excluded, Type::INT8_ARRAY),
                    (&limit(read.rows), Type::INT8),
                ],
            )
            .await?;
        let read = ReadLimit { is_strict: false, ..read };
        let seqs = select(&rows, read, &mut DueDeliveries::default())?;
        found = read_pending(&tx, &seqs, &hook, now).await?;
        found.sort_by_key(|pending| std::cmp::Reverse(pending.seq));
    }
    tx.commit().await?;
    Ok(found)
}

/// Reads these pending deliveries of a hook, with their events. Several deliveries of one event share it.
async fn read_pending(
    session: &Session,
    seqs: &[DeliverySeq],
    hook: &HookRow,
    now: Millis,
) -> Result<Vec<PendingDelivery>, DbError> {
    if seqs.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT p.seq, p.id, p.began, p.attempts - p.attempts_before AS attempts, p.due, p.held_before, p.suppressed,
                p.replays, p.progress, {EVENT_COLUMNS}
         FROM hookstream.pending p
         JOIN hookstream.events e ON e.seq = p.seq >> {bits} JOIN hookstream.places ns ON ns.id = e.place
         WHERE p.seq = ANY($1)",
        bits = sequence::INDEX_BITS
    );
    let rows = session.query(&sql, &[(&seqs, Type::INT8_ARRAY)]).await?;
    let held = hook.total_held(now);
    rows.iter()
        .map(|row| {
            let held_before: i64 = row.try_get("held_before")?;
            Ok(PendingDelivery {
                epoch: None,
                seq: row.try_get("seq")?,
                id: row.try_get("id")?,
                hook: hook.id.clone(),
                event: Arc::new(rows::event(row)?),
                accepted: Millis(row.try_get("began")?),
                attempts: rows::count(row.try_get("attempts")?),
                due: Millis(row.try_get("due")?),
                held: Duration::from_millis(u64::try_from(held.saturating_sub(held_before)).unwrap_or(0)),
                suppressed: rows::count(row.try_get("suppressed")?),
                replays: rows::count(row.try_get("replays")?),
                progress: row.try_get::<_, Option<Vec<u8>>>("progress")?.unwrap_or_default(),
            })
        })
        .collect()
}

/// Returns the earliest due time after `after` of a hook's pending deliveries.
pub(super) async fn next_due(session: &Session, uid: &str, after: Millis) -> Result<Option<Millis>, DbError> {
    let row = session
        .query_one(
            "SELECT (SELECT p.due FROM hookstream.pending p WHERE p.hook = h.id AND NOT p.is_candidate AND p.due > $2
                     ORDER BY p.due LIMIT 1)
             FROM (SELECT (SELECT id FROM hookstream.hooks WHERE uid = $1)) AS h (id)",
            &[(&uid, Type::TEXT), (&after.0, Type::INT8)],
        )
        .await?;
    Ok(row.try_get::<_, Option<i64>>(0)?.map(Millis))
}

/// Returns the hooks of these shards with pending deliveries. Skips from hook to hook in the index, so the number of hooks
/// bounds its cost, and not the backlog.
pub(super) async fn backlog(session: &Session, shards: &[i16]) -> Result<Vec<HookBacklog>, DbError> {
    let sql = format!(
        "WITH RECURSIVE waiting (hook, due) AS (
             (SELECT hook, due FROM hookstream.pending WHERE NOT is_candidate ORDER BY hook, due, seq LIMIT 1)
             UNION ALL
             SELECT n.hook, n.due FROM waiting w CROSS JOIN LATERAL (
                 SELECT hook, due FROM hookstream.pending WHERE NOT is_candidate AND hook > w.hook
                 ORDER BY hook, due, seq LIMIT 1) n)
         SELECT w.due, {HOOK_COLUMNS} FROM waiting w
         JOIN hookstream.hooks h ON h.id = w.hook JOIN hookstream.places hp ON hp.id = h.place
         WHERE NOT hp.ended AND h.shard = ANY($1) ORDER BY h.uid"
    );
    let rows = session.query(&sql, &[(&shards, Type::INT2_ARRAY)]).await?;
    rows.iter()
        .map(|row| Ok(HookBacklog { hook: hook_id(row)?, next_due: Millis(row.try_get("due")?) }))
        .collect()
}

/// Returns the hooks that are held.
pub(super) async fn held_hooks(session: &Session) -> Result<Vec<HookId>, DbError> {
    let sql = format!(
        "SELECT {HOOK_COLUMNS} FROM hookstream.hooks h JOIN hookstream.places hp ON hp.id = h.place
         WHERE h.held_since IS NOT NULL AND NOT hp.ended ORDER BY h.uid"
    );
    session.query(&sql, &[]).await?.iter().map(hook_id).collect()
}

/// Returns when the next trailing candidate's period ends.
pub(super) async fn next_promotion(session: &Session) -> Result<Option<Millis>, DbError> {
    let row = session.query_one("SELECT min(due) FROM hookstream.candidates", &[]).await?;
    Ok(row.try_get::<_, Option<i64>>(0)?.map(Millis))
}
