//! Reads all rows of a database under the locks of its source.

use futures::{TryStreamExt, pin_mut};
use tokio::sync::mpsc::Sender;
use tokio_postgres::Row;
use uuid::Uuid;

use super::super::super::StoreError;
use super::super::super::portable::{
    Batch, BatchSink, EventKey, FirstAttempt, SinkClosed, StoredAttempt, StoredCandidate, StoredDelivery,
    StoredEvent, StoredExchange, StoredGate, StoredHook, StoredPlace, StoredReplay, StoredState,
};
use super::super::failure::DbError;
use super::super::session::Session;
use super::super::state;
use super::super::text::original;

/// Why reading ended early.
enum ReadError {
    Db(DbError),
    /// The target has failed.
    Closed,
}

impl<E: Into<DbError>> From<E> for ReadError {
    fn from(error: E) -> Self {
        ReadError::Db(error.into())
    }
}

/// Sends all rows. Returns the number of idempotency keys that expire after `now`; the others are not sent.
pub(super) async fn read(session: &Session, now: i64, sender: &Sender<Batch>) -> Result<u64, StoreError> {
    match read_all(session, now, sender).await {
        Ok(keys) => Ok(keys),
        Err(ReadError::Closed) => Ok(0),
        Err(ReadError::Db(error)) => Err(error.into()),
    }
}

async fn read_all(session: &Session, now: i64, sender: &Sender<Batch>) -> Result<u64, ReadError> {
    send_rows(session, sender, Batch::Places, PLACES, place).await?;
    send_rows(session, sender, Batch::Hooks, HOOKS, hook).await?;
    // Keys of removed events are those of deleted namespaces, and have no effect.
    let keys = format!(
        "SELECT k.event, k.place, k.key, k.expires FROM hookstream.keys k
         JOIN hookstream.events e ON e.seq = k.event AND e.place = k.place WHERE k.expires > {now} ORDER BY k.event"
    );
    let keys = send_rows(session, sender, Batch::Keys, &keys, key).await?;
    send_rows(session, sender, Batch::Events, EVENTS, event).await?;
    send_rows(session, sender, Batch::Responses, RESPONSES, response).await?;
    send_rows(session, sender, Batch::Gates, GATES, gate).await?;
    send_rows(session, sender, Batch::Deliveries, FINISHED, finished).await?;
    send_rows(session, sender, Batch::Deliveries, PENDING, pending).await?;
    send_rows(session, sender, Batch::Attempts, ATTEMPTS, attempt).await?;
    send_rows(session, sender, Batch::Candidates, CANDIDATES, candidate).await?;
    send_rows(session, sender, Batch::Replays, REPLAYS, replay).await?;
    Ok(keys)
}

/// Sends a row for each row of a statement, and returns their number. `convert` also returns the bytes of long columns.
async fn send_rows<T>(
    session: &Session,
    sender: &Sender<Batch>,
    wrap: fn(Vec<T>) -> Batch,
    sql: &str,
    convert: fn(&Row) -> Result<(T, usize), DbError>,
) -> Result<u64, ReadError> {
    let mut sink = BatchSink::new(sender, wrap);
    let stream = session.stream(sql).await?;
    pin_mut!(stream);
    let closed = |SinkClosed| ReadError::Closed;
    let mut count = 0;
    while let Some(row) = stream.try_next().await? {
        let (converted, bytes) = convert(&row)?;
        sink.push(converted, bytes).await.map_err(closed)?;
        count += 1;
    }
    sink.finish().await.map_err(closed)?;
    Ok(count)
}

const PLACES: &str = "
SELECT p.id, p.name, n.uid, n.name IS NOT NULL AND NOT p.ended AS is_present, coalesce(n.is_deleted, false) AS is_deleted
FROM hookstream.places p LEFT JOIN hookstream.namespaces n ON n.place = p.id ORDER BY p.id";

fn place(row: &Row) -> Result<(StoredPlace, usize), DbError> {
    let is_present = row.try_get("is_present")?;
    let place = StoredPlace {
        number: row.try_get("id")?,
        name: original(row.try_get("name")?),
        uid: row.try_get("uid")?,
        is_present,
        is_deleted: row.try_get::<_, bool>("is_deleted")? && is_present,
    };
    Ok((place, 0))
}

const HOOKS: &str = "SELECT id, uid, place, name, held, held_since FROM hookstream.hooks ORDER BY id";

fn hook(row: &Row) -> Result<(StoredHook, usize), DbError> {
    let hook = StoredHook {
        id: row.try_get("id")?,
        uid: row.try_get("uid")?,
        place: row.try_get("place")?,
        name: row.try_get("name")?,
        held: row.try_get("held")?,
        held_since: row.try_get("held_since")?,
    };
    Ok((hook, 0))
}

fn key(row: &Row) -> Result<(EventKey, usize), DbError> {
    let bytes: &[u8] = row.try_get("key")?;
    let key =
        bytes.try_into().map_err(|_| DbError::Unreadable("an idempotency key has not 16 bytes".into()))?;
    let key = EventKey {
        event: row.try_get("event")?,
        place: row.try_get("place")?,
        key,
        expires: row.try_get("expires")?,
    };
    Ok((key, 0))
}

const EVENTS: &str = "
SELECT seq, place, accepted, kept_until, id, origin, source, event, time, attributes, data, is_loose, unmatched, is_bare
FROM hookstream.events ORDER BY seq";

fn event(row: &Row) -> Result<(StoredEvent, usize), DbError> {
    let event = StoredEvent {
        seq: row.try_get("seq")?,
        place: row.try_get("place")?,
        accepted: row.try_get("accepted")?,
        kept_until: row.try_get("kept_until")?,
        id: original(row.try_get("id")?),
        origin: original(row.try_get("origin")?),
        source: original(row.try_get("source")?),
        event: original(row.try_get("event")?),
        time: original(row.try_get("time")?),
        attributes: row.try_get("attributes")?,
        data: row.try_get("data")?,
        key: None,
        is_loose: row.try_get("is_loose")?,
        is_unmatched: row.try_get("unmatched")?,
        is_bare: row.try_get("is_bare")?,
    };
    let bytes = event.data.len() + event.attributes.as_ref().map_or(0, String::len);
    Ok((event, bytes))
}

const RESPONSES: &str = "SELECT delivery, place, bytes, content FROM hookstream.exchanges ORDER BY delivery";

fn response(row: &Row) -> Result<(StoredExchange, usize), DbError> {
    let exchange = StoredExchange {
        delivery: row.try_get("delivery")?,
        place: row.try_get("place")?,
        bytes: row.try_get::<_, i32>("bytes")?.into(),
        content: row.try_get("content")?,
    };
    let bytes = exchange.content.len();
    Ok((exchange, bytes))
}

const GATES: &str = "
SELECT hook, kind, key, value, quiet_until, owner, suppressed, used FROM hookstream.gates ORDER BY hook, kind, key";

fn gate(row: &Row) -> Result<(StoredGate, usize), DbError> {
    let gate = StoredGate {
        hook: row.try_get("hook")?,
        kind: row.try_get::<_, i16>("kind")?.into(),
        key: row.try_get("key")?,
        value: row.try_get("value")?,
        quiet_until: row.try_get("quiet_until")?,
        owner: row.try_get("owner")?,
        suppressed: row.try_get::<_, i32>("suppressed")?.into(),
        used: row.try_get("used")?,
    };
    Ok((gate, 0))
}

const FINISHED: &str = "SELECT * FROM hookstream.finished ORDER BY seq";
const PENDING: &str = "SELECT * FROM hookstream.pending ORDER BY seq";

fn finished(row: &Row) -> Result<(StoredDelivery, usize), DbError> {
    let at = row.try_get("finished_at")?;
    delivery(row, StoredState::Finished { state: state::read(row.try_get("state")?)?, at })
}

fn pending(row: &Row) -> Result<(StoredDelivery, usize), DbError> {
    let state = StoredState::Pending {
        due: row.try_get("due")?,
        began: row.try_get("began")?,
        held_before: row.try_get("held_before")?,
        is_candidate: row.try_get("is_candidate")?,
    };
    delivery(row, state)
}

/// Reads the columns that both tables have.
fn delivery(row: &Row, state: StoredState) -> Result<(StoredDelivery, usize), DbError> {
    let number = |column: &str| Ok::<i64, DbError>(row.try_get::<_, i32>(column)?.into());
    let first_at: Option<i64> = row.try_get("first_at")?;
    let first = match first_at {
        Some(at) => Some(FirstAttempt {
            at,
            micros: row.try_get::<_, Option<i64>>("first_micros")?.unwrap_or(0),
            status: row.try_get("first_status")?,
        }),
        None => None,
    };
    let progress: Option<Vec<u8>> = row.try_get("progress")?;
    let bytes = progress.as_ref().map_or(0, Vec::len);
    let delivery = StoredDelivery {
        seq: row.try_get("seq")?,
        hook: row.try_get("hook")?,
        place: row.try_get("place")?,
        id: row.try_get::<_, Uuid>("id")?,
        state,
        accepted: row.try_get("accepted")?,
        attempts: number("attempts")?,
        attempts_before: number("attempts_before")?,
        suppressed: number("suppressed")?,
        replays: number("replays")?,
        size: number("size")?,
        reason: row.try_get("reason")?,
        progress,
        first,
    };
    Ok((delivery, bytes))
}

const ATTEMPTS: &str =
    "SELECT delivery, n, at, micros, status, error, detail FROM hookstream.attempts ORDER BY delivery, n";

fn attempt(row: &Row) -> Result<(StoredAttempt, usize), DbError> {
    let attempt = StoredAttempt {
        delivery: row.try_get("delivery")?,
        n: row.try_get::<_, i32>("n")?.into(),
        at: row.try_get("at")?,
        micros: row.try_get("micros")?,
        status: row.try_get("status")?,
        error: row.try_get("error")?,
        detail: row.try_get::<_, Option<String>>("detail")?.map(original),
    };
    let bytes = attempt.detail.as_ref().map_or(0, String::len);
    Ok((attempt, bytes))
}

const CANDIDATES: &str = "
SELECT hook, key, delivery, due, period, change_key, change_value FROM hookstream.candidates ORDER BY hook, key";

fn candidate(row: &Row) -> Result<(StoredCandidate, usize), DbError> {
    let candidate = StoredCandidate {
        hook: row.try_get("hook")?,
        key: row.try_get("key")?,
        delivery: row.try_get("delivery")?,
        due: row.try_get("due")?,
        period: row.try_get("period")?,
        change_key: row.try_get("change_key")?,
        change_value: row.try_get("change_value")?,
    };
    Ok((candidate, 0))
}

const REPLAYS: &str = "SELECT * FROM hookstream.replays ORDER BY id";

fn replay(row: &Row) -> Result<(StoredReplay, usize), DbError> {
    let replay = StoredReplay {
        id: row.try_get("id")?,
        place: row.try_get("place")?,
        filter: original(row.try_get("filter")?),
        rate: row.try_get("rate")?,
        started: row.try_get("started")?,
        stepped: row.try_get("stepped")?,
        at: row.try_get("at")?,
        top: row.try_get("top")?,
        replayed: row.try_get("replayed")?,
        done_at: row.try_get("done_at")?,
        is_cancelled: row.try_get("cancelled")?,
    };
    let bytes = replay.filter.len();
    Ok((replay, bytes))
}
