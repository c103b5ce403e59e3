//! Explains an event: the newest one with an id, and its deliveries.

use std::sync::Arc;

use tokio_postgres::types::Type;

use super::super::sequence::{first_delivery, last_delivery};
use super::super::{DeliverySeq, EventExplanation, EventSeq};
use super::failure::DbError;
use super::places::{self, Selection};
use super::records;
use super::rows::{self, EVENT_COLUMNS};
use super::session::Session;
use super::walk::{FINISHED_COLUMNS, FoundDelivery, PENDING_COLUMNS};
use super::{event_numbers, text};
use crate::core::time::Millis;

/// The most attempts of an explanation.
const MAX_ATTEMPTS: usize = 10_000;

/// Returns the newest event with this id and its deliveries, up to a bounded number of them and of their attempts.
pub(super) async fn explain(
    session: &Session,
    namespace: &str,
    event_id: &str,
) -> Result<Option<EventExplanation>, DbError> {
    let tx = session.begin_reading().await?;
    let explained = explain_in(&tx, namespace, event_id).await?;
    tx.commit().await?;
    Ok(explained)
}

async fn explain_in(
    tx: &Session,
    namespace: &str,
    event_id: &str,
) -> Result<Option<EventExplanation>, DbError> {
    let Some(place) = places::find(tx, namespace).await? else { return Ok(None) };
    let id = text::stored(event_id);
    let of_id = (Selection::One(place), id.as_ref());
    let newest = event_numbers::events_with_id(tx, of_id, EventSeq::MAX, true).await?;
    let Some(seq) = newest.first().copied() else { return Ok(None) };
    let sql = format!(
        "SELECT e.accepted, {EVENT_COLUMNS} FROM hookstream.events e
         JOIN hookstream.places ns ON ns.id = e.place WHERE e.seq = $1"
    );
    let Some(row) = tx.query_opt(&sql, &[(&seq, Type::INT8)]).await? else { return Ok(None) };
    let (first, last) = (first_delivery(seq), last_delivery(seq));
    let mut found = deliveries(tx, first, last).await?;
    let mut attempts = 0_usize;
    found.retain(|delivery| {
        let fits = attempts < MAX_ATTEMPTS;
        attempts = attempts.saturating_add(delivery.attempts.min(records::MAX_ATTEMPTS));
        fits
    });
    let left_out = match found.last() {
        Some(shown) => count(tx, shown.seq, last).await?,
        None => 0,
    };
    Ok(Some(EventExplanation {
        event: Arc::new(rows::event(&row)?),
        accepted: Millis(row.try_get("accepted")?),
        deliveries: records::read(tx, found).await?,
        left_out,
    }))
}

/// Returns the first deliveries of an event.
async fn deliveries(
    tx: &Session,
    first: DeliverySeq,
    last: DeliverySeq,
) -> Result<Vec<FoundDelivery>, DbError> {
    let sql = format!(
        "SELECT * FROM (
             (SELECT {PENDING_COLUMNS} FROM hookstream.pending t WHERE t.seq BETWEEN $1 AND $2
              ORDER BY t.seq LIMIT 500)
             UNION ALL
             (SELECT {FINISHED_COLUMNS} FROM hookstream.finished t WHERE t.seq BETWEEN $1 AND $2
              ORDER BY t.seq LIMIT 500)) d
         ORDER BY seq LIMIT 500"
    );
    let rows = tx.query(&sql, &[(&first, Type::INT8), (&last, Type::INT8)]).await?;
    rows.iter().map(FoundDelivery::read).collect()
}

/// Counts the deliveries of an event behind the last one that is shown, up to a bounded number.
async fn count(tx: &Session, shown: DeliverySeq, last: DeliverySeq) -> Result<usize, DbError> {
    let sql = "
SELECT count(*) FROM (
    (SELECT 1 FROM hookstream.pending WHERE seq > $1 AND seq <= $2 LIMIT 100000)
    UNION ALL
    (SELECT 1 FROM hookstream.finished WHERE seq > $1 AND seq <= $2 LIMIT 100000)
    LIMIT 100000) d";
    let row = tx.query_one(sql, &[(&shown, Type::INT8), (&last, Type::INT8)]).await?;
    Ok(usize::try_from(row.try_get::<_, i64>(0)?).unwrap_or(0))
}
