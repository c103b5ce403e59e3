//! Reads deliveries in every form in which they are stored: rows, notes, outcomes in segments and in level 0.

use rusqlite::{Connection, OptionalExtension};
use tokio::sync::mpsc::Sender;
use uuid::Uuid;

use super::super::super::portable::{Batch, BatchSink, FirstAttempt, StoredDelivery, StoredState};
use super::super::super::{DeliverySeq, DeliveryState};
use super::super::outcomes::{self, Outcome};
use super::super::schema::{CANCELLED, CANDIDATE, DEAD, DELIVERED, DROPPED, PENDING};
use super::super::sequence;
use super::super::unmaterialized::{self, Unmaterialized};
use super::places::PlaceNumbers;
use super::read::{ReadError, send_rows};

/// Outcomes of segments that one read returns at least.
const OUTCOMES: usize = 1000;

pub(super) fn read(
    conn: &Connection,
    sender: &Sender<Batch>,
    places: &mut PlaceNumbers<'_>,
) -> Result<(), ReadError> {
    read_rows(conn, sender, places)?;
    let recent = unmaterialized::read_snapshot(conn)?;
    let mut sink = BatchSink::new(sender, Batch::Deliveries);
    let mut after = 0;
    loop {
        let found = outcomes::range(conn, after + 1, DeliverySeq::MAX, false, OUTCOMES)?;
        let Some(last) = found.last() else { break };
        after = last.seq;
        for outcome in &found {
            sink.push_blocking(of_outcome(conn, places, outcome)?, 0)?;
        }
    }
    for outcome in recent.outcomes().iter() {
        sink.push_blocking(of_outcome(conn, places, outcome)?, 0)?;
    }
    for (seq, noted) in recent.notes().iter() {
        sink.push_blocking(of_note(conn, places, seq, &noted)?, 0)?;
    }
    sink.finish_blocking()?;
    Ok(())
}

const ROWS: &str = "
SELECT d.seq, d.hook, h.namespace, d.id, d.state, d.due, d.finished_at, e.accepted, d.began, d.held_before, d.attempts,
       d.attempts_before, d.suppressed, d.replays, abs(d.size), d.reason, d.progress, d.first_at, d.first_micros,
       d.first_status
FROM deliveries d CROSS JOIN hooks h ON h.id = d.hook CROSS JOIN events e ON e.seq = d.event ORDER BY d.seq";

fn read_rows(
    conn: &Connection,
    sender: &Sender<Batch>,
    places: &mut PlaceNumbers<'_>,
) -> Result<(), ReadError> {
    send_rows(conn, sender, Batch::Deliveries, ROWS, |row| {
        let (place, _) = places.number(row.get_ref(2)?.as_str().map_err(rusqlite::Error::from)?)?;
        let (state, accepted): (i64, i64) = (row.get(4)?, row.get(7)?);
        let finished = |state| {
            let at: Option<i64> = row.get(6)?;
            Ok::<_, rusqlite::Error>(StoredState::Finished { state, at: at.unwrap_or(accepted) })
        };
        let state = match state {
            PENDING | CANDIDATE => StoredState::Pending {
                due: row.get(5)?,
                began: row.get::<_, Option<i64>>(8)?.unwrap_or(accepted),
                held_before: row.get(9)?,
                is_candidate: state == CANDIDATE,
            },
            DELIVERED => finished(DeliveryState::Delivered)?,
            DEAD => finished(DeliveryState::Dead)?,
            DROPPED => finished(DeliveryState::Dropped)?,
            CANCELLED => finished(DeliveryState::Cancelled)?,
            other => return Err(rusqlite::Error::IntegralValueOutOfRange(4, other).into()),
        };
        let first_at: Option<i64> = row.get(17)?;
        let first = match first_at {
            Some(at) => Some(FirstAttempt {
                at,
                micros: row.get::<_, Option<i64>>(18)?.unwrap_or(0),
                status: row.get(19)?,
            }),
            None => None,
        };
        let progress: Option<Vec<u8>> = row.get(16)?;
        let bytes = progress.as_ref().map_or(0, Vec::len);
        let delivery = StoredDelivery {
            seq: row.get(0)?,
            hook: row.get(1)?,
            place,
            id: Uuid::from_bytes(row.get(3)?),
            state,
            accepted,
            attempts: row.get(10)?,
            attempts_before: row.get(11)?,
            suppressed: row.get(12)?,
            replays: row.get(13)?,
            size: row.get(14)?,
            reason: row.get(15)?,
            progress,
            first,
        };
        Ok((delivery, bytes))
    })
    .map(drop)
}

/// Returns the place of a hook, and when the event of a delivery was accepted.
fn references(
    conn: &Connection,
    places: &mut PlaceNumbers<'_>,
    (seq, hook): (DeliverySeq, i64),
) -> Result<(i64, i64), ReadError> {
    let key: Option<String> = conn
        .prepare_cached("SELECT namespace FROM hooks WHERE id = ?1")?
        .query_row([hook], |row| row.get(0))
        .optional()?;
    let accepted = conn
        .prepare_cached("SELECT accepted FROM events WHERE seq = ?1")?
        .query_row([sequence::event_seq(seq)], |row| row.get(0))?;
    let key = key.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
    Ok((places.number(&key)?.0, accepted))
}

fn of_outcome(
    conn: &Connection,
    places: &mut PlaceNumbers<'_>,
    outcome: &Outcome,
) -> Result<StoredDelivery, ReadError> {
    let (place, accepted) = references(conn, places, (outcome.seq, outcome.hook))?;
    Ok(StoredDelivery {
        seq: outcome.seq,
        hook: outcome.hook,
        place,
        id: outcome.id(),
        state: StoredState::Finished { state: DeliveryState::Delivered, at: outcome.finished_at },
        accepted,
        attempts: 1,
        attempts_before: 0,
        suppressed: 0,
        replays: 0,
        size: outcome.size,
        reason: None,
        progress: None,
        first: Some(FirstAttempt {
            at: outcome.first_at,
            micros: outcome.micros,
            status: outcome.status.map(i32::from),
        }),
    })
}

fn of_note(
    conn: &Connection,
    places: &mut PlaceNumbers<'_>,
    seq: DeliverySeq,
    noted: &Unmaterialized,
) -> Result<StoredDelivery, ReadError> {
    let (place, accepted) = references(conn, places, (seq, noted.hook))?;
    Ok(StoredDelivery {
        seq,
        hook: noted.hook,
        place,
        id: Uuid::from_bytes(noted.id),
        state: StoredState::Pending {
            due: noted.due,
            began: accepted,
            held_before: noted.held_before,
            is_candidate: false,
        },
        accepted,
        attempts: 0,
        attempts_before: 0,
        suppressed: 0,
        replays: 0,
        size: noted.size,
        reason: None,
        progress: None,
        first: None,
    })
}
