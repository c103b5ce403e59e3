//! Writes the rows of another engine with COPY, in the transaction of the target.

use std::collections::BTreeMap;
use std::pin::pin;

use tokio::sync::mpsc::Receiver;
use tokio_postgres::types::{ToSql, Type};

use super::super::super::EventSeq;
use super::super::super::portable::{
    Batch, CopyProgress, EventKey, PlainKey, SourceInfo, StoredAttempt, StoredCandidate, StoredDelivery,
    StoredEvent, StoredExchange, StoredGate, StoredHook, StoredPlace, StoredReplay, StoredState,
};
use super::super::failure::DbError;
use super::super::session::Session;
use super::super::shard::shard_of;
use super::super::text::stored;
use super::super::{markers, state};

/// Copies rows to a table. The columns with their types and the values of a row.
macro_rules! copy_rows {
    ($session:expr, $table:literal, $rows:expr, |$row:pat_param| {
        $first:literal: $first_type:ident = $first_value:expr $(, $column:literal: $type:ident = $value:expr)* $(,)?
    }) => {{
        let sql = concat!(
            "COPY hookstream.", $table, " (", $first, $(", ", $column,)* ") FROM STDIN BINARY"
        );
        let writer = $session.copy_in(sql, &[Type::$first_type $(, Type::$type)*]).await?;
        let mut writer = pin!(writer);
        for $row in $rows {
            let values: &[&(dyn ToSql + Sync)] = &[&$first_value $(, &$value)*];
            writer.as_mut().write(values).await?;
        }
        writer.finish().await?;
    }};
}

/// Writes all batches, and what depends on all rows. Returns the number of idempotency keys that a later event had too.
pub(super) async fn write(
    session: &Session,
    source: &SourceInfo,
    mut batches: Receiver<Batch>,
    progress: &CopyProgress,
) -> Result<u64, DbError> {
    let mut replaced_keys = 0;
    while let Some(batch) = batches.recv().await {
        let rows = batch.len();
        match batch {
            Batch::Places(rows) => write_places(session, &rows).await?,
            Batch::Hooks(rows) => write_hooks(session, &rows).await?,
            Batch::Keys(rows) => replaced_keys += write_keys(session, rows.iter().cloned()).await?,
            Batch::Events(rows) => {
                write_events(session, &rows).await?;
                replaced_keys += write_keys(session, rows.iter().filter_map(own_key)).await?;
            }
            Batch::Responses(rows) => write_responses(session, &rows).await?,
            Batch::Gates(rows) => write_gates(session, &rows).await?,
            Batch::Deliveries(rows) => write_deliveries(session, &rows).await?,
            Batch::Attempts(rows) => write_attempts(session, &rows).await?,
            Batch::Candidates(rows) => write_candidates(session, &rows).await?,
            Batch::Replays(rows) => write_replays(session, &rows).await?,
        }
        progress.add(rows);
    }
    complete(session, source).await?;
    Ok(replaced_keys)
}

fn own_key(event: &StoredEvent) -> Option<EventKey> {
    let (key, expires) = (event.key?, event.kept_until?);
    Some(EventKey { event: event.seq, place: event.place, key, expires })
}

fn number(value: i64, what: &str) -> Result<i32, DbError> {
    i32::try_from(value).map_err(|_| DbError::Unreadable(format!("{what} {value} is too large")))
}

async fn write_places(session: &Session, rows: &[StoredPlace]) -> Result<(), DbError> {
    // An identity column accepts values of COPY.
    copy_rows!(session, "places", rows, |row| {
        "id": INT8 = row.number,
        "name": TEXT = stored(&row.name),
        "ended": BOOL = !row.is_present,
    });
    let present = rows.iter().filter(|row| row.is_present);
    copy_rows!(session, "namespaces", present, |row| {
        "name": TEXT = stored(&row.name),
        "uid": TEXT = row.uid,
        "place": INT8 = row.number,
        "is_deleted": BOOL = row.is_deleted,
    });
    // The sweep keeps the rows of an ended place for an hour.
    let sql = "UPDATE hookstream.places SET ended_at = clock_timestamp() WHERE ended AND ended_at IS NULL";
    session.execute(sql, &[]).await.map(drop)
}

async fn write_hooks(session: &Session, rows: &[StoredHook]) -> Result<(), DbError> {
    copy_rows!(session, "hooks", rows, |row| {
        "id": INT8 = row.id,
        "uid": TEXT = row.uid,
        "place": INT8 = row.place,
        "name": TEXT = row.name,
        "shard": INT2 = shard_of(&row.uid),
        "held": INT8 = row.held,
        "held_since": INT8 = row.held_since,
    });
    Ok(())
}

/// Returns the number of keys that a later event had too: that one has the key.
async fn write_keys(session: &Session, rows: impl Iterator<Item = EventKey>) -> Result<u64, DbError> {
    let mut newest: BTreeMap<(PlainKey, i64), (EventSeq, i64)> = BTreeMap::new();
    let mut count: u64 = 0;
    for row in rows {
        count += 1;
        newest
            .entry((row.key, row.place))
            .and_modify(|known| *known = (*known).max((row.event, row.expires)))
            .or_insert((row.event, row.expires));
    }
    if newest.is_empty() {
        return Ok(0);
    }
    let keys: Vec<&[u8]> = newest.keys().map(|(key, _)| &key[..]).collect();
    let places: Vec<i64> = newest.keys().map(|(_, place)| *place).collect();
    let events: Vec<i64> = newest.values().map(|(event, _)| *event).collect();
    let expiries: Vec<i64> = newest.values().map(|(_, expires)| *expires).collect();
    let params = [
        (&keys as _, Type::BYTEA_ARRAY),
        (&places as _, Type::INT8_ARRAY),
        (&events as _, Type::INT8_ARRAY),
        (&expiries as _, Type::INT8_ARRAY),
    ];
    let inserted = session.execute(INSERT_KEYS, &params).await?;
    if inserted < newest.len() as u64 {
        session.execute(REPLACE_KEYS, &params).await?;
    }
    Ok(count.saturating_sub(inserted))
}

const INSERT_KEYS: &str = "
INSERT INTO hookstream.keys (key, place, event, expires)
SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::bigint[]) ON CONFLICT (key, place) DO NOTHING";

const REPLACE_KEYS: &str = "
UPDATE hookstream.keys k SET event = c.event, expires = c.expires
FROM unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::bigint[]) AS c (key, place, event, expires)
WHERE (k.key, k.place) = (c.key, c.place) AND k.event < c.event";

async fn write_events(session: &Session, rows: &[StoredEvent]) -> Result<(), DbError> {
    copy_rows!(session, "events", rows, |row| {
        "seq": INT8 = row.seq,
        "place": INT8 = row.place,
        "accepted": INT8 = row.accepted,
        "is_loose": BOOL = row.is_loose,
        "unmatched": BOOL = row.is_unmatched,
        "id": TEXT = stored(&row.id),
        "origin": TEXT = stored(&row.origin),
        "source": TEXT = stored(&row.source),
        "event": TEXT = stored(&row.event),
        "time": TEXT = stored(&row.time),
        "attributes": TEXT = row.attributes,
        "data": BYTEA = row.data,
        "kept_until": INT8 = row.kept_until,
        "is_bare": BOOL = row.is_bare,
    });
    Ok(())
}

async fn write_responses(session: &Session, rows: &[StoredExchange]) -> Result<(), DbError> {
    copy_rows!(session, "exchanges", rows, |row| {
        "delivery": INT8 = row.delivery,
        "place": INT8 = row.place,
        "bytes": INT4 = number(row.bytes, "the size of a kept response")?,
        "content": BYTEA = row.content,
    });
    Ok(())
}

async fn write_gates(session: &Session, rows: &[StoredGate]) -> Result<(), DbError> {
    copy_rows!(session, "gates", rows, |row| {
        "hook": INT8 = row.hook,
        "kind": INT2 = i16::try_from(row.kind).unwrap_or(i16::MAX),
        "key": BYTEA = row.key,
        "value": BYTEA = row.value,
        "quiet_until": INT8 = row.quiet_until,
        "owner": INT8 = row.owner,
        "suppressed": INT4 = number(row.suppressed, "a count of suppressed deliveries")?,
        "used": INT8 = row.used,
    });
    Ok(())
}

async fn write_deliveries(session: &Session, rows: &[StoredDelivery]) -> Result<(), DbError> {
    let (mut pending, mut finished) = (Vec::new(), Vec::new());
    for row in rows {
        match row.state {
            StoredState::Pending { due, began, held_before, is_candidate } => {
                pending.push((row, (due, began, held_before, is_candidate)));
            }
            StoredState::Finished { state, at } => finished.push((row, (state::number(state), at))),
        }
    }
    if !pending.is_empty() {
        copy_rows!(session, "pending", pending, |(row, (due, began, held_before, is_candidate))| {
            "seq": INT8 = row.seq,
            "hook": INT8 = row.hook,
            "place": INT8 = row.place,
            "id": UUID = row.id,
            "is_candidate": BOOL = is_candidate,
            "due": INT8 = due,
            "began": INT8 = began,
            "accepted": INT8 = row.accepted,
            "attempts": INT4 = number(row.attempts, "a count of attempts")?,
            "attempts_before": INT4 = number(row.attempts_before, "a count of attempts")?,
            "held_before": INT8 = held_before,
            "suppressed": INT4 = number(row.suppressed, "a count of suppressed deliveries")?,
            "replays": INT4 = number(row.replays, "a count of replays")?,
            "size": INT4 = size(row.size),
            "reason": TEXT = row.reason,
            "progress": BYTEA = row.progress,
            "first_at": INT8 = row.first.map(|first| first.at),
            "first_micros": INT8 = row.first.map(|first| first.micros),
            "first_status": INT4 = row.first.and_then(|first| first.status),
        });
    }
    if !finished.is_empty() {
        copy_rows!(session, "finished", finished, |(row, (state, at))| {
            "seq": INT8 = row.seq,
            "hook": INT8 = row.hook,
            "place": INT8 = row.place,
            "id": UUID = row.id,
            "state": INT2 = state,
            "finished_at": INT8 = at,
            "accepted": INT8 = row.accepted,
            "attempts": INT4 = number(row.attempts, "a count of attempts")?,
            "attempts_before": INT4 = number(row.attempts_before, "a count of attempts")?,
            "suppressed": INT4 = number(row.suppressed, "a count of suppressed deliveries")?,
            "replays": INT4 = number(row.replays, "a count of replays")?,
            "size": INT4 = size(row.size),
            "reason": TEXT = row.reason,
            "progress": BYTEA = row.progress,
            "first_at": INT8 = row.first.map(|first| first.at),
            "first_micros": INT8 = row.first.map(|first| first.micros),
            "first_status": INT4 = row.first.and_then(|first| first.status),
        });
    }
    Ok(())
}

/// Returns the size as the engine stores that of a new delivery.
fn size(size: i64) -> i32 {
    i32::try_from(size).unwrap_or(i32::MAX)
}

async fn write_attempts(session: &Session, rows: &[StoredAttempt]) -> Result<(), DbError> {
    copy_rows!(session, "attempts", rows, |row| {
        "delivery": INT8 = row.delivery,
        "n": INT4 = number(row.n, "the number of an attempt")?,
        "at": INT8 = row.at,
        "micros": INT8 = row.micros,
        "status": INT4 = row.status,
        "error": TEXT = row.error,
        "detail": TEXT = row.detail.as_deref().map(|detail| stored(detail).into_owned()),
    });
    Ok(())
}

async fn write_candidates(session: &Session, rows: &[StoredCandidate]) -> Result<(), DbError> {
    copy_rows!(session, "candidates", rows, |row| {
        "hook": INT8 = row.hook,
        "key": BYTEA = row.key,
        "delivery": INT8 = row.delivery,
        "due": INT8 = row.due,
        "period": INT8 = row.period,
        "change_key": BYTEA = row.change_key,
        "change_value": BYTEA = row.change_value,
    });
    Ok(())
}

async fn write_replays(session: &Session, rows: &[StoredReplay]) -> Result<(), DbError> {
    copy_rows!(session, "replays", rows, |row| {
        "id": UUID = row.id,
        "place": INT8 = row.place,
        "filter": TEXT = stored(&row.filter),
        "rate": INT8 = row.rate,
        "started": INT8 = row.started,
        "stepped": INT8 = row.stepped,
        "at": INT8 = row.at,
        "top": INT8 = row.top,
        "replayed": INT8 = row.replayed,
        "done_at": INT8 = row.done_at,
        "cancelled": BOOL = row.is_cancelled,
    });
    Ok(())
}

/// Counts the backlogs, as those of the writer 0, and continues the numbers of the source.
async fn complete(session: &Session, source: &SourceInfo) -> Result<(), DbError> {
    session
        .batch(
            "DELETE FROM hookstream.backlog;
             INSERT INTO hookstream.backlog (hook, writer, deliveries, bytes)
             SELECT hook, 0, count(*), sum(size) FROM hookstream.pending GROUP BY hook;
             SELECT setval('hookstream.places_id_seq', greatest(max(id), last_value))
             FROM hookstream.places, hookstream.places_id_seq GROUP BY last_value HAVING max(id) IS NOT NULL;
             SELECT setval('hookstream.hooks_id_seq', greatest(max(id), last_value))
             FROM hookstream.hooks, hookstream.hooks_id_seq GROUP BY last_value HAVING max(id) IS NOT NULL;",
        )
        .await?;
    if source.last_event > 0 {
        let sql = "SELECT setval('hookstream.event_seq', greatest($1, (SELECT last_value FROM hookstream.event_seq)))";
        session.query_one(sql, &[(&source.last_event, Type::INT8)]).await?;
    }
    if let Some(clock) = source.clock {
        markers::set_meta(session, "clock", &clock.to_string()).await?;
    }
    if let Some(installation) = &source.installation {
        markers::set_meta(session, "installation", installation).await?;
    }
    Ok(())
}
