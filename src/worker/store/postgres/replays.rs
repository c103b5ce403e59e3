//! Replays of many deliveries. A step examines and replays a bounded number of deliveries for all replays together. The number
//! is divided between the namespaces with unfinished replays, and then between each namespace's replays.
//!
//! Of many workers one steps: an advisory lock is held during each transaction of a step.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::super::read_budget::{ReadBudget, ReadLimiter};
use super::super::sequence::last_delivery;
use super::super::{
    ALL_NAMESPACES, DeliveryFilter, DeliverySeq, DeliveryState, HookId, MAX_LISTED_REPLAYS, ReplayJob,
    StoreError,
};
use super::backlog::BacklogChanges;
use super::failure::DbError;
use super::locks::{self, SingleTask};
use super::rows::limit;
use super::session::Session;
use super::walk::{Direction, Range, Tables, Walk};
use super::{places, text, transitions};
use crate::core::time::Millis;

/// Deliveries that one call examines. Bounds a call whose filters reject most deliveries.
const EXAMINED: ReadBudget = ReadBudget { rows: 10_000, time: Duration::from_millis(200) };
/// Deliveries that one call replays.
const REPLAYED: usize = 5000;
/// Deliveries that one transaction replays. Accepts of the same hooks may wait for it.
const BATCH: usize = 500;
/// The most unfinished replays of a namespace.
const MAX_UNFINISHED: usize = 20;
/// Finished replays of a namespace that stay visible.
const MAX_FINISHED: usize = 100;
/// How long a finished replay stays visible, in milliseconds.
const EXPIRY: i64 = 24 * 3_600_000;

/// An unfinished replay.
struct Unfinished {
    id: Uuid,
    place: i64,
    /// Or why it cannot be read.
    filter: Result<DeliveryFilter, String>,
    rate: i64,
    started: Millis,
    stepped: i64,
    at: DeliverySeq,
    top: DeliverySeq,
}

/// The next step of a replay.
struct ReplayStep {
    /// The last position that it examined.
    at: DeliverySeq,
    /// The time up to which the allowed rate has been used.
    stepped: i64,
    is_done: bool,
    /// The deliveries to replay.
    deliveries: Vec<DeliverySeq>,
}

/// Advances the unfinished replays. Returns the hooks with newly due deliveries. `writer`: the writer that counts their backlog.
pub(super) async fn step(session: &Session, writer: i64, now: Millis) -> Result<Vec<HookId>, DbError> {
    let mut hooks = BTreeSet::new();
    let mut limiter = ReadLimiter::start(EXAMINED);
    remove_expired(session, now).await?;
    // Replays that this call does not reach come first in the next one, because their `stepped` is the oldest then.
    let unfinished = session
        .query(
            "SELECT r.id, r.place FROM hookstream.replays r JOIN hookstream.places p ON p.id = r.place
             WHERE r.done_at IS NULL AND NOT p.ended ORDER BY r.stepped, r.id",
            &[],
        )
        .await?;
    let mut of_place: HashMap<i64, usize> = HashMap::new();
    let mut ids: Vec<(Uuid, i64)> = Vec::with_capacity(unfinished.len());
    for row in &unfinished {
        let (id, place) = (row.try_get(0)?, row.try_get(1)?);
        *of_place.entry(place).or_default() += 1;
        ids.push((id, place));
    }
    for (id, place) in ids {
        let sharing = of_place.len() * of_place.get(&place).copied().unwrap_or(1);
        match step_one((session, writer), id, sharing, &mut limiter, now).await? {
            Some(stepped) => hooks.extend(stepped),
            // Another worker steps.
            None => break,
        }
        if limiter.is_used_up() {
            break;
        }
    }
    Ok(hooks.into_iter().collect())
}

/// Removes finished replays that are no longer visible.
pub(super) async fn remove_expired(session: &Session, now: Millis) -> Result<(), DbError> {
    let expired = now.0.saturating_sub(EXPIRY);
    let sql = "DELETE FROM hookstream.replays WHERE done_at <= $1";
    session.execute(sql, &[(&expired, Type::INT8)]).await.map(drop)
}

/// Executes the next step of a replay, which is one of `sharing` equal parts of a call. None: another worker steps.
async fn step_one(
    (session, writer): (&Session, i64),
    id: Uuid,
    sharing: usize,
    limiter: &mut ReadLimiter,
    now: Millis,
) -> Result<Option<Vec<HookId>>, DbError> {
    let tx = session.begin().await?;
    if !locks::try_lock(&tx, SingleTask::Replays).await? {
        tx.rollback().await?;
        return Ok(None);
    }
    // Locked, because a cancellation must not be overwritten.
    let row = tx
        .query_opt(
            "SELECT id, place, filter, rate, started, stepped, at, top FROM hookstream.replays
             WHERE id = $1 AND done_at IS NULL FOR UPDATE",
            &[(&id, Type::UUID)],
        )
        .await?;
    let replay = row.as_ref().map(unfinished).transpose()?;
    let step = match &replay {
        Some(replay) => plan(&tx, replay, sharing, limiter, now).await?,
        None => None,
    };
    let Some(step) = step else {
        tx.rollback().await?;
        return Ok(Some(Vec::new()));
    };
    let mut backlog = BacklogChanges::default();
    let pending = transitions::make_pending(&tx, &step.deliveries, true, now, &mut backlog).await?;
    backlog.write(&tx, writer).await?;
    let done_at = step.is_done.then_some(now.0);
    tx.execute(
        "UPDATE hookstream.replays SET at = $2, stepped = $3, done_at = $4, replayed = replayed + $5 WHERE id = $1",
        &[
            (&id, Type::UUID),
            (&step.at, Type::INT8),
            (&step.stepped, Type::INT8),
            (&done_at, Type::INT8),
            (&limit(pending.len()), Type::INT8),
        ],
    )
    .await?;
    tx.commit().await?;
    Ok(Some(pending))
}

/// Plans the next step of a replay. None: its rate allows none yet.
async fn plan(
    tx: &Session,
    replay: &Unfinished,
    sharing: usize,
    limiter: &mut ReadLimiter,
    now: Millis,
) -> Result<Option<ReplayStep>, DbError> {
    let mut step =
        ReplayStep { at: replay.at, stepped: replay.stepped, is_done: false, deliveries: Vec::new() };
    let filter = match &replay.filter {
        Ok(filter) => filter,
        Err(error) => {
            // Ends this replay only; the others go on.
            tracing::error!(id = %replay.id, place = replay.place, %error, "replay ended, its stored filter cannot be read");
            return Ok(Some(ReplayStep { is_done: true, ..step }));
        }
    };
    // The lower bound limits a step to one second of the rate, even after downtime. The upper bound keeps the replay going
    // after the clock was set back.
    let stepped = replay.stepped.clamp(now.0.saturating_sub(1000), now.0);
    let share = |of_all: usize| (of_all / sharing.max(1)).max(1);
    let allowed = usize::try_from(replay.rate.saturating_mul(now.0 - stepped) / 1000).unwrap_or(0);
    let allowed = allowed.min(share(REPLAYED)).min(BATCH);
    if allowed == 0 {
        return Ok(None);
    }
    let range = Range { direction: Direction::Newer, from: replay.at, to: replay.top };
    let Some(walk) = Walk::begin(tx, filter, range, Tables::Finished).await? else {
        return Ok(Some(ReplayStep { is_done: true, ..step }));
    };
    let mut walk = walk.finished_by(replay.started);
    let mut remaining = share(EXAMINED.rows);
    loop {
        let wanted = allowed - step.deliveries.len();
        let window = walk.next(tx, wanted, remaining.min(limiter.remaining_rows())).await?;
        limiter.take(window.examined);
        remaining = remaining.saturating_sub(window.examined);
        step.deliveries.extend(window.matched.into_iter().map(|delivery| delivery.seq));
        match window.next {
            Some(next) => step.at = next,
            None => step.is_done = true,
        }
        if step.is_done || step.deliveries.len() >= allowed || remaining == 0 || limiter.is_used_up() {
            break;
        }
    }
    let used =
        i64::try_from(step.deliveries.len()).unwrap_or(i64::MAX).saturating_mul(1000) / replay.rate.max(1);
    step.stepped = stepped.saturating_add(used);
    Ok(Some(step))
}

/// Inserts a new replay of the deliveries that exist.
pub(super) async fn start(
    session: &Session,
    filter: &DeliveryFilter,
    rate: u32,
    now: Millis,
) -> Result<ReplayJob, DbError> {
    let refused = |why: &str| Err(StoreError::Refused(why.into()).into());
    if filter.namespace == ALL_NAMESPACES {
        return refused("a replay needs a namespace");
    }
    if rate == 0 {
        return refused("a replay at a rate of 0 would never end");
    }
    if filter.state == Some(DeliveryState::Pending) {
        return refused("pending deliveries are sent anyway");
    }
    let stored = serde_json::to_string(filter).map_err(|error| StoreError::Refused(error.to_string()))?;
    let id = Uuid::now_v7();
    let tx = session.begin().await?;
    let places = places::find_or_insert_many(&tx, &[&filter.namespace]).await?;
    let place = places.get(&filter.namespace).copied();
    let place = place.ok_or_else(|| DbError::Unreadable("an inserted namespace has no row".into()))?;
    // Two requests at the same time must not exceed the limit together.
    tx.query(
        "SELECT 1 FROM hookstream.namespaces WHERE name = $1 FOR UPDATE",
        &[(&text::stored(&filter.namespace).as_ref(), Type::TEXT)],
    )
    .await?;
    let unfinished: i64 = tx
        .query_one(
            "SELECT count(*) FROM hookstream.replays WHERE place = $1 AND done_at IS NULL",
            &[(&place, Type::INT8)],
        )
        .await?
        .try_get(0)?;
    if unfinished >= limit(MAX_UNFINISHED) {
        tx.rollback().await?;
        return Err(StoreError::TooManyReplays(MAX_UNFINISHED).into());
    }
    tx.execute(
        "DELETE FROM hookstream.replays WHERE id IN (
             SELECT id FROM hookstream.replays WHERE place = $1 AND done_at IS NOT NULL
             ORDER BY done_at DESC, id DESC OFFSET $2)",
        &[(&place, Type::INT8), (&limit(MAX_FINISHED), Type::INT8)],
    )
    .await?;
    let last_event: i64 =
        tx.query_one("SELECT last_value FROM hookstream.event_seq", &[]).await?.try_get(0)?;
    tx.execute(
        "INSERT INTO hookstream.replays (id, place, filter, rate, started, stepped, at, top)
         VALUES ($1, $2, $3, $4, $5, $5, 0, $6)",
        &[
            (&id, Type::UUID),
            (&place, Type::INT8),
            (&text::stored(&stored).as_ref(), Type::TEXT),
            (&i64::from(rate), Type::INT8),
            (&now.0, Type::INT8),
            (&last_delivery(last_event), Type::INT8),
        ],
    )
    .await?;
    tx.commit().await?;
    Ok(ReplayJob {
        id,
        filter: filter.clone(),
        rate,
        started: now,
        replayed: 0,
        done: false,
        cancelled: false,
        error: None,
    })
}

/// Ends an unfinished replay, and returns it.
pub(super) async fn cancel(
    session: &Session,
    namespace: &str,
    id: Uuid,
    now: Millis,
) -> Result<Option<ReplayJob>, DbError> {
    let Some(place) = places::find(session, namespace).await? else { return Ok(None) };
    session
        .execute(
            "UPDATE hookstream.replays SET done_at = $3, cancelled = true
             WHERE id = $1 AND place = $2 AND done_at IS NULL",
            &[(&id, Type::UUID), (&place, Type::INT8), (&now.0, Type::INT8)],
        )
        .await?;
    progress(session, namespace, id).await
}

const COLUMNS: &str = "SELECT r.id, r.filter, r.rate, r.started, r.replayed, r.done_at, r.cancelled, n.name
FROM hookstream.replays r JOIN hookstream.namespaces n ON n.place = r.place";

/// Returns a replay with its progress.
pub(super) async fn progress(
    session: &Session,
    namespace: &str,
    id: Uuid,
) -> Result<Option<ReplayJob>, DbError> {
    let sql = format!("{COLUMNS} WHERE n.name = $1 AND r.id = $2");
    let name = text::stored(namespace);
    let row = session.query_opt(&sql, &[(&name.as_ref(), Type::TEXT), (&id, Type::UUID)]).await?;
    row.as_ref().map(job).transpose()
}

/// Returns the replays of a namespace, or of `ALL_NAMESPACES`, newest first, at most `MAX_LISTED_REPLAYS`.
pub(super) async fn list(session: &Session, namespace: &str) -> Result<Vec<ReplayJob>, DbError> {
    let newest = format!("ORDER BY r.started DESC, r.id DESC LIMIT {MAX_LISTED_REPLAYS}");
    let rows = match namespace {
        ALL_NAMESPACES => session.query(&format!("{COLUMNS} {newest}"), &[]).await?,
        name => {
            let sql = format!("{COLUMNS} WHERE n.name = $1 {newest}");
            session.query(&sql, &[(&text::stored(name).as_ref(), Type::TEXT)]).await?
        }
    };
    rows.iter().map(job).collect()
}

fn unfinished(row: &Row) -> Result<Unfinished, DbError> {
    Ok(Unfinished {
        id: row.try_get("id")?,
        place: row.try_get("place")?,
        filter: filter(row)?,
        rate: row.try_get("rate")?,
        started: Millis(row.try_get("started")?),
        stepped: row.try_get("stepped")?,
        at: row.try_get("at")?,
        top: row.try_get("top")?,
    })
}

/// Reads the filter of a replay. The inner error: its value is damaged, or is from a later program.
fn filter(row: &Row) -> Result<Result<DeliveryFilter, String>, DbError> {
    let stored = text::original(row.try_get("filter")?);
    Ok(serde_json::from_str(&stored).map_err(|error| error.to_string()))
}

fn job(row: &Row) -> Result<ReplayJob, DbError> {
    let (filter, error) = match filter(row)? {
        Ok(filter) => (filter, None),
        Err(error) => {
            let namespace = text::original(row.try_get("name")?);
            let filter = DeliveryFilter { namespace, ..DeliveryFilter::default() };
            (filter, Some(format!("its stored filter cannot be read: {error}")))
        }
    };
    Ok(ReplayJob {
        id: row.try_get("id")?,
        filter,
        rate: u32::try_from(row.try_get::<_, i64>("rate")?).unwrap_or(u32::MAX),
        started: Millis(row.try_get("started")?),
        replayed: u64::try_from(row.try_get::<_, i64>("replayed")?).unwrap_or(0),
        done: row.try_get::<_, Option<i64>>("done_at")?.is_some(),
        cancelled: row.try_get("cancelled")?,
        error,
    })
}
