//! Single deliveries for users: finds one by its `webhook-id`, and makes its record from its row, its outcome or its note.

use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::super::ids;
use super::super::{AttemptRecord, DeliveryRecord, DeliverySeq, DeliveryState};
use super::namespace_keys;
use super::outcomes::{self, RecentDelivery, Snapshot};
use super::rows::{duration, hook_id};
use super::schema::{CANCELLED, CANDIDATE, DELIVERED, DROPPED, PENDING};
use super::sequence;
use super::walk::{Found, Position};
use crate::core::time::Millis;

/// The newest attempts of a delivery that a query reads. Replays can add any number.
const MAX_ATTEMPTS: i64 = 1000;

pub(super) fn delivery_state(stored: i64) -> DeliveryState {
    match stored {
        PENDING | CANDIDATE => DeliveryState::Pending,
        DELIVERED => DeliveryState::Delivered,
        DROPPED => DeliveryState::Dropped,
        CANCELLED => DeliveryState::Cancelled,
        _ => DeliveryState::Dead,
    }
}

/// A delivery that was found by its id.
pub(super) struct Located {
    pub(super) position: Position,
    pub(super) state: DeliveryState,
}

/// Finds a delivery of a namespace. An id holds the delivery's sequence number, so this takes one seek in each place where
/// it may be. Ids of older versions are in the index of rows, and in notes.
pub(super) fn locate(
    conn: &Connection,
    recent: &Snapshot,
    namespace: &str,
    id: Uuid,
) -> rusqlite::Result<Option<Located>> {
    let key = namespace_keys::key(conn, namespace)?;
    let row = conn
        .prepare_cached(
            "SELECT d.seq, d.state FROM deliveries d CROSS JOIN hooks h ON h.id = d.hook
             WHERE d.id = ?1 AND h.namespace = ?2",
        )?
        .query_row(params![id.as_bytes(), key], |row| Ok((row.get(0)?, delivery_state(row.get(1)?))))
        .optional()?;
    if let Some((seq, state)) = row {
        return Ok(Some(Located { position: Position { seq, found: Found::Row }, state }));
    }
    let Some((seq, found, hook)) = find(conn, recent, id)? else { return Ok(None) };
    let state = match found {
        Found::Recent(RecentDelivery::Pending(_)) => DeliveryState::Pending,
        Found::Recent(RecentDelivery::Delivered(_)) | Found::Segment(_) | Found::Row | Found::Nothing => {
            DeliveryState::Delivered
        }
    };
    let is_of_namespace: bool = conn
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM hooks WHERE id = ?1 AND namespace = ?2)")?
        .query_row(params![hook, key], |row| row.get(0))?;
    Ok(is_of_namespace.then_some(Located { position: Position { seq, found }, state }))
}

/// Finds a delivery without a row, and the row id of its hook.
fn find(
    conn: &Connection,
    recent: &Snapshot,
    id: Uuid,
) -> rusqlite::Result<Option<(DeliverySeq, Found, i64)>> {
    let Some(seq) = ids::numbered(id) else {
        let mut notes = recent.notes().iter();
        let found = notes.find(|(_, noted)| noted.id == *id.as_bytes());
        return Ok(found.map(|(seq, noted)| (seq, Found::Recent(RecentDelivery::Pending(noted)), noted.hook)));
    };
    if let Some(outcome) = outcomes::find(conn, seq)?.filter(|outcome| outcome.id() == id) {
        return Ok(Some((seq, Found::Segment(outcome), outcome.hook)));
    }
    let delivered = recent.outcomes().find(seq).filter(|outcome| outcome.id() == id);
    let delivered = delivered.map(|outcome| RecentDelivery::Delivered(*outcome));
    let noted = recent.note(seq).filter(|noted| noted.id == *id.as_bytes());
    let found = delivered.or(noted.map(|noted| RecentDelivery::Pending(*noted)));
    Ok(found.map(|found| (seq, Found::Recent(found), found.hook())))
}

pub(super) const BY_SEQ: &str = "
SELECT d.seq, d.state, d.reason, e.accepted, d.due, e.id, h.uid, h.namespace, h.name, d.id, d.finished_at,
       d.first_at, d.first_micros, d.first_status
FROM deliveries d CROSS JOIN hooks h ON h.id = d.hook CROSS JOIN events e ON e.seq = d.event WHERE d.seq = ?1";

// The event and the hook of a delivery without a row.
pub(super) const REFERENCES: &str = "
SELECT e.accepted, e.id, h.uid, h.namespace, h.name
FROM events e CROSS JOIN hooks h ON h.id = ?2 WHERE e.seq = ?1";

/// Returns the delivery at a position, with an attempt that is not in the table of attempts, and the time when it finished.
pub(super) fn record_at(
    conn: &Connection,
    position: Position,
) -> rusqlite::Result<Option<(DeliveryRecord, Option<Millis>)>> {
    let seq = position.seq;
    let delivery = match position.found {
        Found::Nothing => return Ok(None),
        Found::Row => return record_of_row(conn, seq),
        Found::Segment(outcome) => RecentDelivery::Delivered(outcome),
        // The snapshot of the database is newer.
        Found::Recent(delivery) => match record_of_row(conn, seq)? {
            Some(record) => return Ok(Some(record)),
            None => delivery,
        },
    };
    let (id, state, due, attempt, finished) = match delivery {
        RecentDelivery::Pending(noted) => {
            (Uuid::from_bytes(noted.id), DeliveryState::Pending, Some(Millis(noted.due)), None, None)
        }
        RecentDelivery::Delivered(outcome) => {
            let finished = Some(Millis(outcome.finished_at));
            (outcome.id(), DeliveryState::Delivered, None, Some(outcome.attempt()), finished)
        }
    };
    conn.prepare_cached(REFERENCES)?
        .query_row(params![sequence::event_seq(seq), delivery.hook()], |row| {
            let record = DeliveryRecord {
                seq,
                id,
                hook: hook_id(row, 2)?,
                event_id: row.get(1)?,
                state,
                reason: None,
                accepted: Millis(row.get(0)?),
                due,
                attempts: attempt.into_iter().collect(),
            };
            Ok((record, finished))
        })
        .optional()
}

fn record_of_row(
    conn: &Connection,
    seq: DeliverySeq,
) -> rusqlite::Result<Option<(DeliveryRecord, Option<Millis>)>> {
    conn.prepare_cached(BY_SEQ)?
        .query_row([seq], |row| Ok((record(row)?, row.get::<_, Option<i64>>(10)?.map(Millis))))
        .optional()
}

fn record(row: &Row<'_>) -> rusqlite::Result<DeliveryRecord> {
    let state = delivery_state(row.get(1)?);
    let due = Millis(row.get(4)?);
    let first = match row.get(11)? {
        Some(at) => Some(AttemptRecord {
            at: Millis(at),
            duration: duration(row.get(12)?),
            status: row.get(13)?,
            error: None,
            detail: None,
        }),
        None => None,
    };
    Ok(DeliveryRecord {
        seq: row.get(0)?,
        id: Uuid::from_bytes(row.get(9)?),
        hook: hook_id(row, 6)?,
        event_id: row.get(5)?,
        state,
        reason: row.get(2)?,
        accepted: Millis(row.get(3)?),
        due: (state == DeliveryState::Pending).then_some(due),
        attempts: first.into_iter().collect(),
    })
}

pub(super) const ATTEMPTS: &str =
    "SELECT at, micros, status, error, detail FROM attempts WHERE delivery = ?1 ORDER BY n DESC LIMIT ?2";

/// Adds the stored attempts to a record.
pub(super) fn with_attempts(
    conn: &Connection,
    mut record: DeliveryRecord,
) -> rusqlite::Result<DeliveryRecord> {
    let attempts = conn
        .prepare_cached(ATTEMPTS)?
        .query_map([record.seq, MAX_ATTEMPTS], |row| {
            Ok(AttemptRecord {
                at: Millis(row.get(0)?),
                duration: duration(row.get(1)?),
                status: row.get(2)?,
                error: row.get(3)?,
                detail: row.get(4)?,
            })
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    record.attempts.extend(attempts.into_iter().rev());
    Ok(record)
}
