//! The stored events of which new ones are duplicates, with the present states of their deliveries.

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::super::events::REVIVED;
use super::super::{DeliverySeq, EventSeq, Fate, sequence};
use super::failure::DbError;
use super::hooks::{HOOK_COLUMNS, HookRow};
use super::rows;
use super::session::Session;
use super::state::{DEAD, DROPPED};
use super::text::original;
use crate::core::fast_map::FastMap;
use crate::core::time::Millis;

/// An event that was accepted before.
#[derive(Clone, Debug, Default)]
pub(super) struct Original {
    /// None: retention has removed its row.
    pub(super) event_id: Option<String>,
    pub(super) deliveries: Vec<OriginalDelivery>,
}

/// One of its deliveries.
#[derive(Clone, Debug)]
pub(super) struct OriginalDelivery {
    pub(super) seq: DeliverySeq,
    pub(super) id: Uuid,
    pub(super) hook: HookRow,
    pub(super) fate: Fate,
    /// It died because its receiver was unavailable.
    pub(super) is_revivable: bool,
    pub(super) suppressed: u32,
    pub(super) size: i32,
}

/// Finds the events and their deliveries.
pub(super) async fn find(
    session: &Session,
    events: &[EventSeq],
) -> Result<FastMap<EventSeq, Original>, DbError> {
    let mut originals: FastMap<EventSeq, Original> = FastMap::default();
    if events.is_empty() {
        return Ok(originals);
    }
    let found = session
        .query("SELECT seq, id FROM hookstream.events WHERE seq = ANY($1)", &[(&events, Type::INT8_ARRAY)])
        .await?;
    for row in &found {
        let event_id = Some(original(row.try_get(1)?));
        originals.insert(row.try_get(0)?, Original { event_id, deliveries: Vec::new() });
    }
    let first: Vec<i64> = events.iter().map(|event| sequence::first_delivery(*event)).collect();
    let last: Vec<i64> = events.iter().map(|event| sequence::last_delivery(*event)).collect();
    // A delivery is in one of the tables, or in none. Between two statements it could move from the second to the first.
    let sql = format!(
        "SELECT d.seq, d.id, d.state, d.is_candidate, d.due, d.suppressed, d.reason, d.size, {HOOK_COLUMNS}
         FROM unnest($1::bigint[], $2::bigint[]) AS o (first, last)
         CROSS JOIN LATERAL (
             SELECT seq, id, hook, NULL::smallint AS state, is_candidate, due, suppressed, reason, size
             FROM hookstream.pending WHERE seq BETWEEN o.first AND o.last
             UNION ALL
             SELECT seq, id, hook, state, false, 0, suppressed, reason, size
             FROM hookstream.finished WHERE seq BETWEEN o.first AND o.last) d
         JOIN hookstream.hooks h ON h.id = d.hook JOIN hookstream.places hp ON hp.id = h.place
         ORDER BY d.seq"
    );
    let rows = session.query(&sql, &[(&first, Type::INT8_ARRAY), (&last, Type::INT8_ARRAY)]).await?;
    for row in &rows {
        let delivery = read(row)?;
        originals.entry(sequence::event_seq(delivery.seq)).or_default().deliveries.push(delivery);
    }
    Ok(originals)
}

fn read(row: &Row) -> Result<OriginalDelivery, DbError> {
    let (due, suppressed) = (Millis(row.try_get("due")?), rows::count(row.try_get("suppressed")?));
    let reason: Option<&str> = row.try_get("reason")?;
    let state: Option<i16> = row.try_get("state")?;
    let fate = match state {
        None if row.try_get("is_candidate")? => Fate::Candidate { due },
        None => Fate::Pending { due, suppressed },
        Some(DROPPED) => Fate::Dropped,
        Some(DEAD) => Fate::Dead,
        Some(_) => Fate::Ended,
    };
    let reason = reason.and_then(|reason| reason.parse().ok());
    let is_revivable = fate == Fate::Dead && reason.is_some_and(|reason| REVIVED.contains(&reason));
    Ok(OriginalDelivery {
        seq: row.try_get("seq")?,
        id: row.try_get("id")?,
        hook: HookRow::read(row)?,
        fate,
        is_revivable,
        suppressed,
        size: row.try_get("size")?,
    })
}
