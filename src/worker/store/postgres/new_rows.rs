//! The rows that one transaction inserts, a statement for each table.

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::super::{DeliverySeq, EventSeq};
use super::failure::DbError;
use super::session::Session;
use super::text::stored;
use crate::core::event::Event;
use crate::core::time::Millis;

/// An event to insert.
pub(super) struct NewEventRow<'r> {
    pub(super) seq: EventSeq,
    pub(super) place: i64,
    pub(super) accepted: Millis,
    /// When its idempotency key expires.
    pub(super) kept_until: Option<i64>,
    pub(super) is_unmatched: bool,
    pub(super) event: &'r Event,
    pub(super) attributes: Option<&'r str>,
}

/// Inserts the events.
pub(super) async fn insert_events(session: &Session, events: &[NewEventRow<'_>]) -> Result<(), DbError> {
    if events.is_empty() {
        return Ok(());
    }
    let texts =
        |read: fn(&Event) -> &str| -> Vec<_> { events.iter().map(|row| stored(read(row.event))).collect() };
    let seqs: Vec<i64> = events.iter().map(|row| row.seq).collect();
    let places: Vec<i64> = events.iter().map(|row| row.place).collect();
    let accepted: Vec<i64> = events.iter().map(|row| row.accepted.0).collect();
    let kept_until: Vec<Option<i64>> = events.iter().map(|row| row.kept_until).collect();
    let unmatched: Vec<bool> = events.iter().map(|row| row.is_unmatched).collect();
    let origins: Vec<_> =
        events.iter().map(|row| stored(&row.event.origin.to_string()).into_owned()).collect();
    let (ids, sources) = (texts(|event| &event.id), texts(|event| &event.source));
    let (names, times) = (texts(|event| &event.event), texts(|event| &event.time));
    let attributes: Vec<Option<&str>> = events.iter().map(|row| row.attributes).collect();
    let data: Vec<&[u8]> = events.iter().map(|row| row.event.data.get().as_bytes()).collect();
    session
        .execute(
            "INSERT INTO hookstream.events (seq, place, accepted, is_loose, unmatched, id, origin, source, event, time,
                 attributes, data, kept_until)
             SELECT e.seq, e.place, e.accepted, e.unmatched, e.unmatched, e.id, e.origin, e.source, e.event, e.time,
                 e.attributes, e.data, e.kept_until
             FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::boolean[], $5::text[], $6::text[], $7::text[],
                         $8::text[], $9::text[], $10::text[], $11::bytea[], $12::bigint[])
                  AS e (seq, place, accepted, unmatched, id, origin, source, event, time, attributes, data, kept_until)",
            &[
                (&seqs, Type::INT8_ARRAY),
                (&places, Type::INT8_ARRAY),
                (&accepted, Type::INT8_ARRAY),
                (&unmatched, Type::BOOL_ARRAY),
                (&ids, Type::TEXT_ARRAY),
                (&origins, Type::TEXT_ARRAY),
                (&sources, Type::TEXT_ARRAY),
                (&names, Type::TEXT_ARRAY),
                (&times, Type::TEXT_ARRAY),
                (&attributes, Type::TEXT_ARRAY),
                (&data, Type::BYTEA_ARRAY),
                (&kept_until, Type::INT8_ARRAY),
            ],
        )
        .await
        .map(drop)
}

/// A delivery to insert: pending, or finished at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewDeliveryRow {
    pub(super) seq: DeliverySeq,
    pub(super) hook: i64,
    pub(super) place: i64,
    pub(super) id: Uuid,
    pub(super) accepted: Millis,
    pub(super) due: Millis,
    pub(super) held_before: i64,
    pub(super) size: i32,
    pub(super) suppressed: i32,
    pub(super) is_candidate: bool,
    /// The state and the reason, if it is finished.
    pub(super) finished: Option<(i16, &'static str)>,
}

/// Inserts the deliveries.
pub(super) async fn insert_deliveries(session: &Session, rows: &[NewDeliveryRow]) -> Result<(), DbError> {
    let (pending, finished): (Vec<&NewDeliveryRow>, Vec<&NewDeliveryRow>) =
        rows.iter().partition(|row| row.finished.is_none());
    insert_pending(session, &pending).await?;
    insert_finished(session, &finished).await
}

async fn insert_pending(session: &Session, rows: &[&NewDeliveryRow]) -> Result<(), DbError> {
    if rows.is_empty() {
        return Ok(());
    }
    let columns = Columns::of(rows);
    let due: Vec<i64> = rows.iter().map(|row| row.due.0).collect();
    let held_before: Vec<i64> = rows.iter().map(|row| row.held_before).collect();
    let are_candidates: Vec<bool> = rows.iter().map(|row| row.is_candidate).collect();
    session
        .execute(
            "INSERT INTO hookstream.pending (seq, hook, place, id, accepted, began, due, held_before, size, suppressed,
                 is_candidate)
             SELECT d.seq, d.hook, d.place, d.id, d.accepted, d.accepted, d.due, d.held_before, d.size, d.suppressed,
                 d.is_candidate
             FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::uuid[], $5::bigint[], $6::bigint[], $7::bigint[],
                         $8::int[], $9::int[], $10::boolean[])
                  AS d (seq, hook, place, id, accepted, due, held_before, size, suppressed, is_candidate)",
            &[
                (&columns.seqs, Type::INT8_ARRAY),
                (&columns.hooks, Type::INT8_ARRAY),
                (&columns.places, Type::INT8_ARRAY),
                (&columns.ids, Type::UUID_ARRAY),
                (&columns.accepted, Type::INT8_ARRAY),
                (&due, Type::INT8_ARRAY),
                (&held_before, Type::INT8_ARRAY),
                (&columns.sizes, Type::INT4_ARRAY),
                (&columns.suppressed, Type::INT4_ARRAY),
                (&are_candidates, Type::BOOL_ARRAY),
            ],
        )
        .await
        .map(drop)
}

async fn insert_finished(session: &Session, rows: &[&NewDeliveryRow]) -> Result<(), DbError> {
    if rows.is_empty() {
        return Ok(());
    }
    let columns = Columns::of(rows);
    let states: Vec<i16> = rows.iter().filter_map(|row| row.finished.map(|(state, _)| state)).collect();
    let reasons: Vec<&str> = rows.iter().filter_map(|row| row.finished.map(|(_, reason)| reason)).collect();
    session
        .execute(
            "INSERT INTO hookstream.finished (seq, hook, place, id, state, finished_at, accepted, attempts,
                 attempts_before, suppressed, replays, size, reason)
             SELECT d.seq, d.hook, d.place, d.id, d.state, d.accepted, d.accepted, 0, 0, d.suppressed, 0, d.size, d.reason
             FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::uuid[], $5::bigint[], $6::int[], $7::int[],
                         $8::smallint[], $9::text[])
                  AS d (seq, hook, place, id, accepted, size, suppressed, state, reason)",
            &[
                (&columns.seqs, Type::INT8_ARRAY),
                (&columns.hooks, Type::INT8_ARRAY),
                (&columns.places, Type::INT8_ARRAY),
                (&columns.ids, Type::UUID_ARRAY),
                (&columns.accepted, Type::INT8_ARRAY),
                (&columns.sizes, Type::INT4_ARRAY),
                (&columns.suppressed, Type::INT4_ARRAY),
                (&states, Type::INT2_ARRAY),
                (&reasons, Type::TEXT_ARRAY),
            ],
        )
        .await
        .map(drop)
}

/// The columns of both tables.
struct Columns {
    seqs: Vec<i64>,
    hooks: Vec<i64>,
    places: Vec<i64>,
    ids: Vec<Uuid>,
    accepted: Vec<i64>,
    sizes: Vec<i32>,
    suppressed: Vec<i32>,
}

impl Columns {
    fn of(rows: &[&NewDeliveryRow]) -> Self {
        Columns {
            seqs: rows.iter().map(|row| row.seq).collect(),
            hooks: rows.iter().map(|row| row.hook).collect(),
            places: rows.iter().map(|row| row.place).collect(),
            ids: rows.iter().map(|row| row.id).collect(),
            accepted: rows.iter().map(|row| row.accepted.0).collect(),
            sizes: rows.iter().map(|row| row.size).collect(),
            suppressed: rows.iter().map(|row| row.suppressed).collect(),
        }
    }
}
