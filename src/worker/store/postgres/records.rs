//! Single deliveries: finds one by its `webhook-id`, and reads the events, hooks and attempts that belong to found ones.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::super::ids::numbered;
use super::super::sequence::event_seq;
use super::super::{AttemptRecord, DeliveryRecord, DeliverySeq, Exchange, HookId};
use super::failure::DbError;
use super::rows::{self, EVENT_COLUMNS, duration, shared, status};
use super::session::Session;
use super::walk::{FINISHED_COLUMNS, FoundDelivery, PENDING_COLUMNS};
use super::{old_ids, text};
use crate::core::event::Event;
use crate::core::time::Millis;

/// The newest attempts of a delivery that a query reads. Replays can add any number.
pub(super) const MAX_ATTEMPTS: usize = 1000;

/// Finds a delivery of a namespace, with one statement. Its id holds its sequence number, unless an older version made it.
pub(super) async fn locate(
    session: &Session,
    namespace: &str,
    id: Uuid,
) -> Result<Option<FoundDelivery>, DbError> {
    let seq = match numbered(id) {
        Some(seq) => seq,
        None => match old_ids::find(session, &[id]).await?.first() {
            Some(seq) => *seq,
            None => return Ok(None),
        },
    };
    let of_namespace = "WHERE t.seq = $1 AND t.id = $2
        AND t.place = (SELECT place FROM hookstream.namespaces WHERE name = $3)";
    let sql = format!(
        "SELECT {PENDING_COLUMNS} FROM hookstream.pending t {of_namespace}
         UNION ALL SELECT {FINISHED_COLUMNS} FROM hookstream.finished t {of_namespace}"
    );
    let namespace = text::stored(namespace);
    let params = [(&seq as _, Type::INT8), (&id as _, Type::UUID), (&namespace.as_ref() as _, Type::TEXT)];
    session.query_opt(&sql, &params).await?.as_ref().map(FoundDelivery::read).transpose()
}

/// Returns the event of a delivery that was found.
pub(super) async fn event_of(session: &Session, delivery: DeliverySeq) -> Result<Option<Event>, DbError> {
    let sql = format!(
        "SELECT {EVENT_COLUMNS} FROM hookstream.events e JOIN hookstream.places ns ON ns.id = e.place
         WHERE e.seq = $1"
    );
    let row = session.query_opt(&sql, &[(&event_seq(delivery), Type::INT8)]).await?;
    row.as_ref().map(rows::event).transpose()
}

/// Returns the exchange of a delivery that was found. One that cannot be read, because a later program wrote it, is treated as
/// absent.
pub(super) async fn exchange_of(
    session: &Session,
    delivery: DeliverySeq,
) -> Result<Option<Exchange>, DbError> {
    let sql = "SELECT content FROM hookstream.exchanges WHERE delivery = $1";
    let Some(row) = session.query_opt(sql, &[(&delivery, Type::INT8)]).await? else { return Ok(None) };
    Ok(serde_json::from_slice(row.try_get::<_, &[u8]>(0)?).ok())
}

/// Returns the records of deliveries, in the same order, with the newest attempts of each. Leaves out those whose event or hook
/// a sweep has removed since they were found.
pub(super) async fn read(
    session: &Session,
    found: Vec<FoundDelivery>,
) -> Result<Vec<DeliveryRecord>, DbError> {
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let (references, attempts) = futures::try_join!(references(session, &found), attempts(session, &found))?;
    let (mut references, mut attempts) = (references, attempts);
    let records = found.into_iter().filter_map(|delivery| {
        let (event_id, hook) = references.remove(&delivery.seq)?;
        let stored = attempts.remove(&delivery.seq).unwrap_or_default();
        Some(DeliveryRecord {
            seq: delivery.seq,
            id: delivery.id,
            hook,
            event_id,
            state: delivery.state,
            reason: delivery.reason,
            accepted: delivery.accepted,
            due: delivery.due,
            attempts: delivery.first.into_iter().chain(stored.into_iter().rev()).collect(),
        })
    });
    Ok(records.collect())
}

/// Returns the id of the event and the hook of each delivery.
async fn references(
    session: &Session,
    found: &[FoundDelivery],
) -> Result<HashMap<DeliverySeq, (String, HookId)>, DbError> {
    let seqs: Vec<DeliverySeq> = found.iter().map(|delivery| delivery.seq).collect();
    let hooks: Vec<i64> = found.iter().map(|delivery| delivery.hook).collect();
    let rows = session.query(REFERENCES, &[(&seqs, Type::INT8_ARRAY), (&hooks, Type::INT8_ARRAY)]).await?;
    let reference = |row: &tokio_postgres::Row| {
        let (seq, event_id): (DeliverySeq, String) = (row.try_get("seq")?, row.try_get("event_id")?);
        Ok((seq, (text::original(event_id), hook_id(row)?)))
    };
    rows.iter().map(reference).collect()
}

pub(super) const REFERENCES: &str = "
SELECT d.seq, e.id AS event_id, h.uid, n.name AS namespace, h.name
FROM unnest($1, $2) AS d (seq, hook)
CROSS JOIN LATERAL (SELECT id FROM hookstream.events WHERE seq = d.seq >> 20 LIMIT 1) e
CROSS JOIN LATERAL (SELECT uid, place, name FROM hookstream.hooks WHERE id = d.hook LIMIT 1) h
JOIN hookstream.places n ON n.id = h.place";

/// Reads the columns `uid`, `namespace` and `name` of a hook.
pub(super) fn hook_id(row: &tokio_postgres::Row) -> Result<HookId, DbError> {
    Ok(HookId {
        uid: shared(row, "uid")?,
        namespace: shared(row, "namespace")?,
        name: shared_original(row, "name")?,
    })
}

fn shared_original(row: &tokio_postgres::Row, column: &str) -> Result<Arc<str>, DbError> {
    Ok(text::original(row.try_get(column)?).into())
}

pub(super) const ATTEMPTS: &str = "
SELECT a.* FROM unnest($1) AS d (seq) CROSS JOIN LATERAL (
    SELECT delivery, at, micros, status, error, detail FROM hookstream.attempts
    WHERE delivery = d.seq ORDER BY n DESC LIMIT 1000) a";

/// Returns the stored attempts of deliveries, the newest first.
async fn attempts(
    session: &Session,
    found: &[FoundDelivery],
) -> Result<HashMap<DeliverySeq, Vec<AttemptRecord>>, DbError> {
    let attempted = found.iter().filter(|delivery| delivery.attempts > usize::from(delivery.first.is_some()));
    let seqs: Vec<DeliverySeq> = attempted.map(|delivery| delivery.seq).collect();
    let mut attempts: HashMap<DeliverySeq, Vec<AttemptRecord>> = HashMap::new();
    if seqs.is_empty() {
        return Ok(attempts);
    }
    for row in session.query(ATTEMPTS, &[(&seqs, Type::INT8_ARRAY)]).await? {
        let detail: Option<String> = row.try_get("detail")?;
        attempts.entry(row.try_get("delivery")?).or_default().push(AttemptRecord {
            at: Millis(row.try_get("at")?),
            duration: duration(row.try_get("micros")?),
            status: status(row.try_get("status")?),
            error: row.try_get("error")?,
            detail: detail.map(text::original),
        });
    }
    Ok(attempts)
}
