//! Reads all rows of a store that no process uses.

use rusqlite::{Connection, Row};
use tokio::sync::mpsc::Sender;
use uuid::Uuid;

use super::super::super::portable::{
    Batch, BatchSink, EventKey, PlainKey, SinkClosed, StoredAttempt, StoredCandidate, StoredEvent,
    StoredExchange, StoredGate, StoredHook, StoredReplay,
};
use super::super::runs::Key;
use super::deliveries;
use super::places::PlaceNumbers;

/// Why reading ended early.
#[derive(Debug)]
pub(super) enum ReadError {
    Sqlite(rusqlite::Error),
    /// The target has failed.
    Closed(SinkClosed),
}

impl From<rusqlite::Error> for ReadError {
    fn from(error: rusqlite::Error) -> Self {
        ReadError::Sqlite(error)
    }
}

impl From<SinkClosed> for ReadError {
    fn from(closed: SinkClosed) -> Self {
        ReadError::Closed(closed)
    }
}

/// Sends all rows. Returns the number of idempotency keys that expire after `now`; the others are not sent.
pub(super) fn read(conn: &Connection, now: i64, sender: &Sender<Batch>) -> Result<u64, ReadError> {
    let mut places = PlaceNumbers::read(conn, sender)?;
    read_hooks(conn, sender, &mut places)?;
    let keys = read_old_keys(conn, sender, &mut places, now)? + read_events(conn, sender, &mut places, now)?;
    read_responses(conn, sender, &mut places)?;
    read_gates(conn, sender)?;
    deliveries::read(conn, sender, &mut places)?;
    read_attempts(conn, sender)?;
    read_candidates(conn, sender)?;
    read_replays(conn, sender, &mut places)?;
    Ok(keys)
}

/// Sends a row for each row of a statement.
pub(super) fn send_rows<T>(
    conn: &Connection,
    sender: &Sender<Batch>,
    wrap: fn(Vec<T>) -> Batch,
    sql: &str,
    mut convert: impl FnMut(&Row<'_>) -> Result<(T, usize), ReadError>,
) -> Result<u64, ReadError> {
    let mut sink = BatchSink::new(sender, wrap);
    let mut statement = conn.prepare(sql)?;
    let (mut rows, mut count) = (statement.query([])?, 0);
    while let Some(row) = rows.next()? {
        let (converted, bytes) = convert(row)?;
        sink.push_blocking(converted, bytes)?;
        count += 1;
    }
    sink.finish_blocking()?;
    Ok(count)
}

fn read_hooks(
    conn: &Connection,
    sender: &Sender<Batch>,
    places: &mut PlaceNumbers<'_>,
) -> Result<(), ReadError> {
    let sql = "SELECT id, uid, namespace, name, held, held_since FROM hooks ORDER BY id";
    send_rows(conn, sender, Batch::Hooks, sql, |row| {
        let (place, _) = places.number(row.get_ref(2)?.as_str().map_err(rusqlite::Error::from)?)?;
        let hook = StoredHook {
            id: row.get(0)?,
            uid: row.get(1)?,
            place,
            name: row.get(3)?,
            held: row.get(4)?,
            held_since: row.get(5)?,
        };
        Ok((hook, 0))
    })
    .map(drop)
}

/// Sends the keys that programs of format 6 and earlier stored.
fn read_old_keys(
    conn: &Connection,
    sender: &Sender<Batch>,
    places: &mut PlaceNumbers<'_>,
    now: i64,
) -> Result<u64, ReadError> {
    let sql = format!(
        "SELECT d.event, e.namespace, d.key, d.expires FROM dedup d CROSS JOIN events e ON e.seq = d.event
         WHERE d.expires > {now}"
    );
    send_rows(conn, sender, Batch::Keys, &sql, |row| {
        let (place, _) = places.number(row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?)?;
        let hash: [u8; 32] = row.get(2)?;
        let key = hash.first_chunk().copied().unwrap_or_default();
        Ok((EventKey { event: row.get(0)?, place, key, expires: row.get(3)? }, 0))
    })
}

const EVENTS: &str = "
SELECT e.seq, e.accepted, e.kept_until, e.id, e.namespace, e.origin, e.source, e.event, e.time, e.attributes, e.data,
       e.dedup_key, l.bare, EXISTS (SELECT 1 FROM unmatched u WHERE u.event = e.seq)
FROM events e LEFT JOIN loose l ON l.accepted = e.accepted AND l.event = e.seq ORDER BY e.seq";

/// Returns the number of keys.
fn read_events(
    conn: &Connection,
    sender: &Sender<Batch>,
    places: &mut PlaceNumbers<'_>,
    now: i64,
) -> Result<u64, ReadError> {
    let mut keys = 0;
    send_rows(conn, sender, Batch::Events, EVENTS, |row| {
        let (place, hash) = places.number(row.get_ref(4)?.as_str().map_err(rusqlite::Error::from)?)?;
        let kept_until: i64 = row.get(2)?;
        let key: Option<Key> = row.get(11)?;
        let key = key.filter(|_| kept_until > now).map(|key| plain_key(key, hash));
        keys += u64::from(key.is_some());
        let bare: Option<bool> = row.get(12)?;
        let event = StoredEvent {
            seq: row.get(0)?,
            place,
            accepted: row.get(1)?,
            kept_until: Some(kept_until).filter(|kept_until| *kept_until != 0),
            id: row.get(3)?,
            origin: row.get(5)?,
            source: row.get(6)?,
            event: row.get(7)?,
            time: row.get(8)?,
            attributes: row.get(9)?,
            data: row.get_ref(10)?.as_str().map_err(rusqlite::Error::from)?.as_bytes().to_vec(),
            key,
            is_loose: bare == Some(false),
            is_unmatched: row.get(13)?,
            is_bare: bare == Some(true),
        };
        let bytes = event.data.len() + event.attributes.as_ref().map_or(0, String::len);
        Ok((event, bytes))
    })?;
    Ok(keys)
}

/// Returns the half of the hash that a stored key contains. The reverse of `stored_key`, which is its own.
pub(super) fn plain_key(key: Key, place: Key) -> PlainKey {
    let mut plain = key;
    plain.iter_mut().zip(place).for_each(|(byte, mask)| *byte ^= mask);
    plain
}

fn read_responses(
    conn: &Connection,
    sender: &Sender<Batch>,
    places: &mut PlaceNumbers<'_>,
) -> Result<(), ReadError> {
    let sql = "SELECT delivery, namespace, bytes, content FROM exchanges ORDER BY delivery";
    send_rows(conn, sender, Batch::Responses, sql, |row| {
        let (place, _) = places.number(row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?)?;
        let content: String = row.get(3)?;
        let exchange = StoredExchange {
            delivery: row.get(0)?,
            place,
            bytes: row.get(2)?,
            content: content.into_bytes(),
        };
        let bytes = exchange.content.len();
        Ok((exchange, bytes))
    })
    .map(drop)
}

fn read_gates(conn: &Connection, sender: &Sender<Batch>) -> Result<(), ReadError> {
    let sql = "SELECT hook, kind, key, value, quiet_until, owner, suppressed, used FROM gates";
    send_rows(conn, sender, Batch::Gates, sql, |row| {
        let gate = StoredGate {
            hook: row.get(0)?,
            kind: row.get(1)?,
            key: row.get(2)?,
            value: row.get(3)?,
            quiet_until: row.get(4)?,
            owner: row.get(5)?,
            suppressed: row.get(6)?,
            used: row.get(7)?,
        };
        Ok((gate, 0))
    })
    .map(drop)
}

fn read_attempts(conn: &Connection, sender: &Sender<Batch>) -> Result<(), ReadError> {
    let sql = "SELECT delivery, n, at, micros, status, error, detail FROM attempts ORDER BY delivery, n";
    send_rows(conn, sender, Batch::Attempts, sql, |row| {
        let attempt = StoredAttempt {
            delivery: row.get(0)?,
            n: row.get(1)?,
            at: row.get(2)?,
            micros: row.get(3)?,
            status: row.get(4)?,
            error: row.get(5)?,
            detail: row.get(6)?,
        };
        let bytes = attempt.detail.as_ref().map_or(0, String::len);
        Ok((attempt, bytes))
    })
    .map(drop)
}

fn read_candidates(conn: &Connection, sender: &Sender<Batch>) -> Result<(), ReadError> {
    let sql = "SELECT hook, key, delivery, due, period, change_key, change_value FROM candidates";
    send_rows(conn, sender, Batch::Candidates, sql, |row| {
        let candidate = StoredCandidate {
            hook: row.get(0)?,
            key: row.get(1)?,
            delivery: row.get(2)?,
            due: row.get(3)?,
            period: row.get(4)?,
            change_key: row.get(5)?,
            change_value: row.get(6)?,
        };
        Ok((candidate, 0))
    })
    .map(drop)
}

fn read_replays(
    conn: &Connection,
    sender: &Sender<Batch>,
    places: &mut PlaceNumbers<'_>,
) -> Result<(), ReadError> {
    let sql = "SELECT id, namespace, filter, rate, started, stepped, at, top, replayed, done_at, cancelled FROM replays";
    send_rows(conn, sender, Batch::Replays, sql, |row| {
        let (place, _) = places.number(row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?)?;
        let replay = StoredReplay {
            id: Uuid::from_bytes(row.get(0)?),
            place,
            filter: row.get(2)?,
            rate: row.get(3)?,
            started: row.get(4)?,
            stepped: row.get(5)?,
            at: row.get(6)?,
            top: row.get(7)?,
            replayed: row.get(8)?,
            done_at: row.get(9)?,
            is_cancelled: row.get(10)?,
        };
        let bytes = replay.filter.len();
        Ok((replay, bytes))
    })
    .map(drop)
}
