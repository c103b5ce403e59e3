//! The rows of `hookstream.pacing`. The epochs of a shard only rise, so comparing them is the fence: a row of a former owner neither
//! replaces one of the present owner nor is read by the next one.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::types::Type;
use tokio_util::sync::CancellationToken;

use super::super::connections::Connections;
use super::super::failure::DbError;
use super::super::session::Session;
use super::Ownership;
use super::pacing::{PacingRow, ReceivedRow, ReceivedShard};
use crate::core::fast_map::FastMap;
use crate::core::hook_pacing::HookPacing;
use crate::core::time::Millis;

/// How often changed breakers are written. Used tokens of slow rate limits are written at once.
const INTERVAL: Duration = Duration::from_secs(1);
/// Rows of one statement.
const BATCH: usize = 500;

/// Writes the breakers that opened or closed, and the tokens of slow rate limits, in transactions of their own, until the process stops.
pub(in super::super) async fn write_changes(
    connections: Arc<Connections>,
    ownership: Arc<Ownership>,
    stopping: CancellationToken,
) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = ownership.pacing.requested() => {}
            () = stopping.cancelled() => return,
        }
        if let Err(error) = write_changes_once(&connections, &ownership).await {
            tracing::debug!(%error, "write of circuit breakers and rate limits failed, retried");
        }
    }
}

/// Writes the changes of now.
pub(in super::super) async fn write_changes_once(
    connections: &Connections,
    ownership: &Ownership,
) -> Result<(), DbError> {
    let own = ownership.worker();
    loop {
        // Before the lock: a hand-over waits for the lock, and must not wait for the pool too.
        let session = connections.session().await?;
        let Some(_lock) = ownership.pacing.lock_writes(INTERVAL).await else { return Ok(()) };
        let rows = ownership.pacing.take_changes(BATCH);
        if rows.is_empty() {
            return Ok(());
        }
        if let Err(error) = write(&session, own, &rows).await {
            ownership.pacing.restore_changes(&rows);
            return Err(error);
        }
        ownership.pacing.confirm_changes(&rows);
        if rows.len() < BATCH {
            return Ok(());
        }
    }
}

/// Writes rows, and removes those of hooks at rest. Changes nothing of shards that `own` does not own under the rows' epochs.
async fn write(session: &Session, own: i64, rows: &[PacingRow]) -> Result<(), DbError> {
    session.forget_warnings();
    let removed: Vec<&PacingRow> = rows.iter().filter(|row| row.pacing.is_none()).collect();
    if !removed.is_empty() {
        let uids: Vec<&str> = removed.iter().map(|row| &*row.uid).collect();
        let epochs: Vec<i64> = removed.iter().map(|row| row.epoch).collect();
        session
            .execute(
                "DELETE FROM hookstream.pacing p USING unnest($1::text[], $2::bigint[]) AS r (uid, epoch), hookstream.shards s
                 WHERE p.uid = r.uid AND p.epoch <= r.epoch AND s.shard = p.shard AND s.epoch = r.epoch AND s.owner = $3",
                &[(&uids, Type::TEXT_ARRAY), (&epochs, Type::INT8_ARRAY), (&own, Type::INT8)],
            )
            .await?;
    }
    insert(session, own, rows).await?;
    // Otherwise a promoted standby may not have the tokens that attempts use now.
    session.check_committed()
}

async fn insert(session: &Session, own: i64, rows: &[PacingRow]) -> Result<(), DbError> {
    let now = Millis::steady();
    let (mut uids, mut shards, mut epochs, mut states) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut tokens_epochs = Vec::new();
    for PacingRow { uid, shard, epoch, pacing } in rows {
        let Some(pacing) = pacing else { continue };
        states.push(pacing.encode(now).map_err(|error| DbError::Unreadable(error.to_string()))?);
        uids.push(&**uid);
        shards.push(*shard);
        epochs.push(*epoch);
        tokens_epochs.push(pacing.slow_bucket().map(|_| *epoch));
    }
    if uids.is_empty() {
        return Ok(());
    }
    // The database's clock runs on while the statement waits. So a pause may become longer, and never shorter.
    session
        .execute(
            "INSERT INTO hookstream.pacing AS p (uid, shard, epoch, written, state, tokens_epoch)
             SELECT r.uid, r.shard, r.epoch, clock_timestamp(), r.state, r.tokens_epoch
             FROM unnest($1::text[], $2::smallint[], $3::bigint[], $4::text[], $6::bigint[])
                 AS r (uid, shard, epoch, state, tokens_epoch)
             JOIN hookstream.shards s ON s.shard = r.shard AND s.epoch = r.epoch AND s.owner = $5
             ON CONFLICT (uid) DO UPDATE SET shard = excluded.shard, epoch = excluded.epoch,
                 written = excluded.written, state = excluded.state, tokens_epoch = excluded.tokens_epoch
             WHERE p.epoch <= excluded.epoch",
            &[
                (&uids, Type::TEXT_ARRAY),
                (&shards, Type::INT2_ARRAY),
                (&epochs, Type::INT8_ARRAY),
                (&states, Type::TEXT_ARRAY),
                (&own, Type::INT8),
                (&tokens_epochs, Type::INT8_ARRAY),
            ],
        )
        .await
        .map(drop)
}

/// Writes everything that the next owners of the shards need, in the transaction that gives them away and before it changes their
/// owner. `rows`: those of all hooks of the shards that are not at rest.
pub(super) async fn give(
    tx: &Session,
    own: i64,
    shards: &[(i16, i64)],
    rows: &[PacingRow],
) -> Result<(), DbError> {
    let (numbers, epochs): (Vec<i16>, Vec<i64>) = shards.iter().copied().unzip();
    tx.execute(
        "DELETE FROM hookstream.pacing p USING unnest($1::smallint[], $2::bigint[]) AS g (shard, epoch)
         WHERE p.shard = g.shard AND p.epoch <= g.epoch",
        &[(&numbers, Type::INT2_ARRAY), (&epochs, Type::INT8_ARRAY)],
    )
    .await?;
    insert(tx, own, rows).await
}

/// Reads the rows of shards that came to this process under these epochs, and makes them its own: otherwise the next owner would
/// ignore them. `ended`: when the leases of the owners ended from which they were taken.
pub(super) async fn receive(
    session: &Session,
    shards: &[(i16, i64)],
    ended: &FastMap<i16, Millis>,
) -> Result<(Vec<ReceivedShard>, Vec<ReceivedRow>), DbError> {
    let (numbers, epochs): (Vec<i16>, Vec<i64>) = shards.iter().copied().unzip();
    let found = session
        .query(
            "SELECT s.shard, s.given_epoch, extract(epoch FROM clock_timestamp() - s.empty_since)::float8
             FROM hookstream.shards s WHERE s.shard = ANY($1)",
            &[(&numbers, Type::INT2_ARRAY)],
        )
        .await?;
    let now = Millis::steady();
    let mut given: FastMap<i16, (i64, Option<Millis>)> = FastMap::default();
    for row in &found {
        let ago: Option<f64> = row.try_get(2)?;
        given.insert(row.try_get(0)?, (row.try_get(1)?, ago.map(|ago| before(now, ago))));
    }
    let received = shards.iter().copied().map(|(shard, epoch)| match given.get(&shard) {
        Some((given_epoch, empty_since)) if *given_epoch == epoch.saturating_sub(1) => {
            ReceivedShard { shard, epoch, empty_since: *empty_since, is_complete: true }
        }
        _ => {
            let empty_since = Some(ended.get(&shard).copied().unwrap_or(now));
            ReceivedShard { shard, epoch, empty_since, is_complete: false }
        }
    });
    let received = received.collect();
    let found = session
        .query(
            // Rows that still have the epoch of the last orderly hand-over: its receiver ended before it read them.
            // Only an owner that raises `tokens_epoch` here records tokens before it uses them. So it must not skip an owner.
            "UPDATE hookstream.pacing p SET epoch = g.epoch,
                 tokens_epoch = CASE WHEN p.tokens_epoch IN (g.epoch - 1, g.epoch) THEN g.epoch END
             FROM unnest($1::smallint[], $2::bigint[]) AS g (shard, epoch)
             JOIN hookstream.shards s ON s.shard = g.shard
             WHERE p.shard = g.shard AND p.epoch <= g.epoch AND p.epoch IN (g.epoch - 1, g.epoch, s.given_epoch)
             RETURNING p.uid, p.state, extract(epoch FROM clock_timestamp() - p.written)::float8, p.tokens_epoch IS NOT NULL",
            &[(&numbers, Type::INT2_ARRAY), (&epochs, Type::INT8_ARRAY)],
        )
        .await?;
    // After the answer: a pause may become longer by the time that it took, and never shorter.
    let now = Millis::steady();
    let mut rows = Vec::with_capacity(found.len());
    for row in &found {
        let (uid, state, ago): (&str, &str, f64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let has_tokens = row.try_get(3)?;
        match HookPacing::decode(state, before(now, ago)) {
            Ok(pacing) => rows.push(ReceivedRow { uid: uid.into(), pacing, has_tokens }),
            // The hook is sent without it. Failing would keep its shard from every worker.
            Err(error) => {
                tracing::warn!(hook = uid, %error, "stored circuit breaker of a hook is unreadable, ignored")
            }
        }
    }
    Ok((received, rows))
}

/// Returns the time that was this many seconds before `now`. The database's clock may have been set back.
pub(super) fn before(now: Millis, seconds: f64) -> Millis {
    // The cast saturates.
    Millis(now.0.saturating_sub((seconds.max(0.0) * 1000.0) as i64))
}

/// Rows that one call of `sweep` removes.
const SWEPT: i64 = 1000;

const SWEEP: &str = "DELETE FROM hookstream.pacing WHERE uid = ANY(ARRAY(
    SELECT p.uid FROM hookstream.pacing p JOIN hookstream.shards s ON s.shard = p.shard
    WHERE (p.epoch < s.epoch - 1 AND p.epoch <> s.given_epoch)
        OR NOT EXISTS (SELECT 1 FROM hookstream.hooks h WHERE h.uid = p.uid)
    LIMIT $1 FOR UPDATE OF p SKIP LOCKED))";

/// Removes rows of epochs that no owner reads, and of hooks without a row in `hooks`: they are deleted, or the store has no
/// delivery of theirs, and then a crash finds their breakers closed. Returns true if there may be more.
pub(in super::super) async fn sweep(tx: &Session) -> Result<bool, DbError> {
    let removed = tx.execute(SWEEP, &[(&SWEPT, Type::INT8)]).await?;
    Ok(i64::try_from(removed).is_ok_and(|removed| removed >= SWEPT))
}
