//! Finds the numbers of events by their id or their time.

use tokio_postgres::types::Type;

use super::super::EventSeq;
use super::failure::DbError;
use super::places::Selection;
use super::session::Session;

/// Sequence numbers ascend with the times of acceptance, up to this many milliseconds: the clocks of workers differ, and a
/// worker takes numbers ahead.
pub(super) const DISORDER: i64 = 3_600_000;

pub(super) const OLDER_EVENTS: &str = "
SELECT seq FROM hookstream.events WHERE (place, id, seq) <= ($1, $2, $3) AND (place, id) >= ($1, $2)
ORDER BY place DESC, id DESC, seq DESC LIMIT 256";

pub(super) const NEWER_EVENTS: &str = "
SELECT seq FROM hookstream.events WHERE (place, id, seq) >= ($1, $2, $3) AND (place, id) <= ($1, $2)
ORDER BY place, id, seq LIMIT 256";

// One seek for each namespace. An id is in few of them.
pub(super) const OLDER_EVENTS_OF_ALL: &str = "
SELECT e.seq FROM hookstream.namespaces n CROSS JOIN LATERAL (
    SELECT seq FROM hookstream.events WHERE (place, id, seq) <= (n.place, $1, $2) AND (place, id) >= (n.place, $1)
    ORDER BY place DESC, id DESC, seq DESC LIMIT 256) e
ORDER BY e.seq DESC LIMIT 256";

pub(super) const NEWER_EVENTS_OF_ALL: &str = "
SELECT e.seq FROM hookstream.namespaces n CROSS JOIN LATERAL (
    SELECT seq FROM hookstream.events WHERE (place, id, seq) >= (n.place, $1, $2) AND (place, id) <= (n.place, $1)
    ORDER BY place, id, seq LIMIT 256) e
ORDER BY e.seq LIMIT 256";

/// Returns the next events with an id, from `from` on: the newest first if `is_older`. `id`: as it is stored.
pub(super) async fn events_with_id(
    session: &Session,
    (places, id): (Selection, &str),
    from: EventSeq,
    is_older: bool,
) -> Result<Vec<EventSeq>, DbError> {
    let rows = match places {
        Selection::One(place) => {
            let sql = if is_older { OLDER_EVENTS } else { NEWER_EVENTS };
            session.query(sql, &[(&place, Type::INT8), (&id, Type::TEXT), (&from, Type::INT8)]).await?
        }
        Selection::All => {
            let sql = if is_older { OLDER_EVENTS_OF_ALL } else { NEWER_EVENTS_OF_ALL };
            session.query(sql, &[(&id, Type::TEXT), (&from, Type::INT8)]).await?
        }
    };
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Returns the first possible event that was accepted at `at` or later, of events whose order deviates from their times by
/// less than `at` allows for. Bisects the sequence numbers, with an index seek for each step.
pub(super) async fn first_event_since(session: &Session, at: i64) -> Result<EventSeq, DbError> {
    let sql = "
WITH RECURSIVE bisected (low, high) AS (
    SELECT 0::bigint, coalesce(max(seq), 0) + 1 FROM hookstream.events
    UNION ALL
    SELECT CASE WHEN e.accepted < $1 THEN e.seq + 1 ELSE b.low END,
           CASE WHEN e.accepted < $1 THEN b.high ELSE b.low + (b.high - b.low) / 2 END
    FROM bisected b LEFT JOIN LATERAL (
        SELECT seq, accepted FROM hookstream.events WHERE seq >= b.low + (b.high - b.low) / 2 ORDER BY seq LIMIT 1) e ON true
    WHERE b.low < b.high)
SELECT low FROM bisected WHERE low >= high";
    Ok(session.query_one(sql, &[(&at, Type::INT8)]).await?.try_get(0)?)
}
