//! Reads events for lists: first without their data, which most of them do not need.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_postgres::types::Type;

use super::super::{DeliveryState, EventSeq};
use super::failure::DbError;
use super::places::Selection;
use super::rows::{self, EVENT_COLUMNS, shared};
use super::session::Session;
use super::state;
use crate::core::event::Event;
use crate::core::time::Millis;

/// The most deliveries of an event that a list shows.
const MAX_SHOWN: usize = 100;

/// An event whose data and attributes were not read.
pub(super) struct EventSummary {
    pub(super) seq: EventSeq,
    pub(super) accepted: Millis,
    pub(super) event: Event,
    /// Bytes of its data.
    pub(super) bytes: usize,
}

/// The length of the data is known without reading it.
pub(super) const SUMMARIES: &str = "
SELECT e.seq, e.accepted, octet_length(e.data) AS bytes, e.id AS event_id, ns.name AS namespace, e.origin, e.source,
       e.event, e.time, NULL::text AS attributes
FROM hookstream.events e JOIN hookstream.places ns ON ns.id = e.place
WHERE e.seq = ANY($1) AND CASE WHEN $2 IS NULL THEN NOT ns.ended ELSE e.place = $2 END";

/// Returns the events of these places with these sequence numbers, in any order.
pub(super) async fn summaries(
    session: &Session,
    places: Selection,
    seqs: &[EventSeq],
) -> Result<Vec<EventSummary>, DbError> {
    let found = session.query(SUMMARIES, &[(&seqs, Type::INT8_ARRAY), (&places.place(), Type::INT8)]).await?;
    let summary = |row: &tokio_postgres::Row| {
        Ok(EventSummary {
            seq: row.try_get("seq")?,
            accepted: Millis(row.try_get("accepted")?),
            event: rows::event_without_data(row)?,
            bytes: usize::try_from(row.try_get::<_, i32>("bytes")?).unwrap_or(0),
        })
    };
    found.iter().map(summary).collect()
}

/// Returns those of these events whose data contains a text.
pub(super) async fn search_data(
    session: &Session,
    seqs: &[EventSeq],
    text: &str,
) -> Result<Vec<EventSeq>, DbError> {
    if seqs.is_empty() {
        return Ok(Vec::new());
    }
    let sql = "SELECT seq FROM hookstream.events WHERE seq = ANY($1) AND position($2 IN data) > 0";
    let params = [(&seqs as _, Type::INT8_ARRAY), (&text.as_bytes() as _, Type::BYTEA)];
    session.query(sql, &params).await?.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Returns these events with their data.
pub(super) async fn with_data(
    session: &Session,
    seqs: &[EventSeq],
) -> Result<HashMap<EventSeq, Event>, DbError> {
    if seqs.is_empty() {
        return Ok(HashMap::new());
    }
    let sql = format!(
        "SELECT e.seq, {EVENT_COLUMNS} FROM hookstream.events e
         JOIN hookstream.places ns ON ns.id = e.place WHERE e.seq = ANY($1)"
    );
    let found = session.query(&sql, &[(&seqs, Type::INT8_ARRAY)]).await?;
    found.iter().map(|row| Ok((row.try_get("seq")?, rows::event(row)?))).collect()
}

/// The hooks and states of an event's newest deliveries, and whether it has others.
pub(super) type ShownDeliveries = (Vec<(Arc<str>, DeliveryState)>, bool);

// One more than a list shows.
pub(super) const SHOWN: &str = "
SELECT w.seq >> 20 AS event, w.state, h.name FROM unnest($1) AS o (event) CROSS JOIN LATERAL (
    SELECT * FROM (
        (SELECT seq, hook, 0::smallint AS state FROM hookstream.pending
         WHERE seq >= o.event << 20 AND seq < (o.event + 1) << 20 ORDER BY seq DESC LIMIT 101)
        UNION ALL
        (SELECT seq, hook, state FROM hookstream.finished
         WHERE seq >= o.event << 20 AND seq < (o.event + 1) << 20 ORDER BY seq DESC LIMIT 101)) d
    ORDER BY seq DESC LIMIT 101) w
CROSS JOIN LATERAL (SELECT name FROM hookstream.hooks WHERE id = w.hook LIMIT 1) h
ORDER BY w.seq DESC";

/// Returns the newest deliveries of events.
pub(super) async fn shown_deliveries(
    session: &Session,
    seqs: &[EventSeq],
) -> Result<HashMap<EventSeq, ShownDeliveries>, DbError> {
    let mut shown: HashMap<EventSeq, ShownDeliveries> = HashMap::new();
    if seqs.is_empty() {
        return Ok(shown);
    }
    for row in session.query(SHOWN, &[(&seqs, Type::INT8_ARRAY)]).await? {
        let number: i16 = row.try_get("state")?;
        let state = if number == 0 { DeliveryState::Pending } else { state::read(number)? };
        let (deliveries, has_more) = shown.entry(row.try_get("event")?).or_default();
        match deliveries.len() < MAX_SHOWN {
            true => deliveries.push((shared(&row, "name")?, state)),
            false => *has_more = true,
        }
    }
    Ok(shown)
}
