//! Membership: this process is a worker with a lease, and owns shards.
//!
//! A step renews the lease, reads the members, and takes or gives shards. All lease times are the database's: a lease that has
//! ended is never renewed, so a worker whose lease ended cannot own what another has taken. This process relies on its
//! shards until a deadline by its own steady clock: from before the renewal was sent, the duration of the lease minus a
//! margin. `fence` checks the epochs again when outcomes are recorded.

mod ownership;
mod share;

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::types::Type;

pub(super) use ownership::Ownership;
use share::{ShardRow, ShareChange};

use super::super::DeliverySeq;
use super::failure::DbError;
use super::session::Session;
use crate::core::fast_map::FastMap;
use crate::core::time::Millis;

/// How long a lease lasts.
pub(super) const LEASE: Duration = Duration::from_secs(10);
/// The part of the lease that this process does not rely on: the database's clock may be faster than its own.
const MARGIN: Duration = Duration::from_secs(1);

/// This process among the workers.
pub(super) struct Membership {
    name: String,
    ownership: Arc<Ownership>,
}

impl Membership {
    pub(super) fn new(name: String, ownership: Arc<Ownership>) -> Self {
        Membership { name, ownership }
    }

    /// Registers this process. A former process of the same name has ended: its shards are taken at once.
    pub(super) async fn register(&self, session: &Session) -> Result<i64, DbError> {
        let sent = Millis::steady();
        let tx = session.begin().await?;
        // An ended lease, and not a deleted row, so that its deliveries in flight are free at once.
        tx.execute(
            "UPDATE hookstream.workers SET lease_until = '-infinity' WHERE name = $1",
            &[(&self.name, Type::TEXT)],
        )
        .await?;
        let row = tx
            .query_one(
                "INSERT INTO hookstream.workers (name, lease_until)
                 VALUES ($1, clock_timestamp() + make_interval(secs => $2)) RETURNING id",
                &[(&self.name, Type::TEXT), (&LEASE.as_secs_f64(), Type::FLOAT8)],
            )
            .await?;
        let worker: i64 = row.try_get(0)?;
        // The writers go on. Those of a worker that has ended are removed, with what they count.
        tx.execute(
            "UPDATE hookstream.writers SET worker = $2 WHERE worker = $1",
            &[(&self.ownership.worker(), Type::INT8), (&worker, Type::INT8)],
        )
        .await?;
        tx.commit().await?;
        self.ownership.register(worker, sent + (LEASE - MARGIN));
        Ok(worker)
    }

    /// Returns how long ago the last renewal was sent that succeeded: the database was there and accepted a write.
    pub(super) fn since_renewal(&self, now: Millis) -> Duration {
        let deadline = self.ownership.deadline();
        now.since(deadline).saturating_add(LEASE - MARGIN).saturating_sub(deadline.since(now))
    }

    /// Renews the lease, and takes or gives shards. False: the lease had ended, and this process must register again.
    pub(super) async fn step(&self, session: &Session) -> Result<bool, DbError> {
        let own = self.ownership.worker();
        let sent = Millis::steady();
        let renewed = session
            .execute(
                "UPDATE hookstream.workers SET lease_until = clock_timestamp() + make_interval(secs => $2)
                 WHERE id = $1 AND lease_until > clock_timestamp()",
                &[(&own, Type::INT8), (&LEASE.as_secs_f64(), Type::FLOAT8)],
            )
            .await?;
        if renewed == 0 {
            return Ok(false);
        }
        let (workers, shards) = read_members(session).await?;
        let kept: FastMap<i16, i64> = shards
            .iter()
            .filter(|shard| shard.owner == Some(own))
            .map(|shard| (shard.shard, shard.epoch))
            .collect();
        self.ownership.keep(&kept);
        // A shard that another worker gave.
        self.ownership.gain(kept);
        self.ownership.extend(sent + (LEASE - MARGIN));
        let ShareChange { take, give } = share::plan(own, &workers, &shards);
        if !take.is_empty() {
            self.take(session, own, &take).await?;
        }
        if !give.is_empty() {
            self.give(session, own, &give).await?;
        }
        Ok(true)
    }

    /// Takes shards without an owner. Of two workers that take the same shard, the database lets one have it.
    async fn take(&self, session: &Session, own: i64, shards: &[i16]) -> Result<(), DbError> {
        let rows = session
            .query(
                "UPDATE hookstream.shards s SET owner = $1, epoch = s.epoch + 1
                 WHERE s.shard IN (SELECT shard FROM hookstream.shards WHERE shard = ANY($2) ORDER BY shard FOR UPDATE)
                   AND NOT EXISTS (SELECT 1 FROM hookstream.workers w
                                   WHERE w.id = s.owner AND w.lease_until > clock_timestamp())
                 RETURNING s.shard, s.epoch",
                &[(&own, Type::INT8), (&shards, Type::INT2_ARRAY)],
            )
            .await?;
        let taken = rows
            .iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect::<Result<Vec<_>, DbError>>()?;
        self.ownership.gain(taken);
        Ok(())
    }

    /// Gives shards to other workers, with the list of their deliveries in flight. Until those are settled or the lease of
    /// this process ends, the new owners leave them alone.
    pub(super) async fn give(
        &self,
        session: &Session,
        own: i64,
        shards: &[(i16, i64)],
    ) -> Result<(), DbError> {
        let numbers: Vec<i16> = shards.iter().map(|(shard, _)| *shard).collect();
        let in_flight = self.ownership.begin_leaving(&numbers);
        let given = give(session, own, shards, &in_flight).await;
        self.ownership.end_leaving(&numbers, given.is_ok());
        given
    }

    /// Gives all shards away and ends the lease. `shards` of a process without attempts in flight.
    pub(super) async fn leave(&self, session: &Session) -> Result<(), DbError> {
        let own = self.ownership.worker();
        let owned = self.ownership.shards();
        let in_flight = self.ownership.begin_leaving(&owned);
        let (workers, _) = read_members(session).await?;
        let others: Vec<i64> = workers.into_iter().filter(|worker| *worker != own).collect();
        if !others.is_empty() {
            let shards: Vec<(i16, i64)> = owned.iter().copied().zip(others.iter().copied().cycle()).collect();
            give(session, own, &shards, &in_flight).await?;
        }
        session
            .execute(
                "UPDATE hookstream.workers SET lease_until = '-infinity' WHERE id = $1",
                &[(&own, Type::INT8)],
            )
            .await
            .map(drop)
    }
}

/// Changes the owners of shards that `own` owns, and lists its deliveries in flight.
async fn give(
    session: &Session,
    own: i64,
    shards: &[(i16, i64)],
    in_flight: &[DeliverySeq],
) -> Result<(), DbError> {
    let numbers: Vec<i16> = shards.iter().map(|(shard, _)| *shard).collect();
    let receivers: Vec<i64> = shards.iter().map(|(_, receiver)| *receiver).collect();
    let tx = session.begin().await?;
    tx.execute(
        "UPDATE hookstream.shards s SET owner = g.receiver, epoch = s.epoch + 1
         FROM unnest($1::smallint[], $2::bigint[]) AS g (shard, receiver)
         WHERE s.shard = g.shard AND s.owner = $3",
        &[(&numbers, Type::INT2_ARRAY), (&receivers, Type::INT8_ARRAY), (&own, Type::INT8)],
    )
    .await?;
    tx.execute(
        "INSERT INTO hookstream.in_flight (delivery, worker) SELECT delivery, $2 FROM unnest($1::bigint[]) AS delivery
         ON CONFLICT (delivery) DO UPDATE SET worker = excluded.worker",
        &[(&in_flight, Type::INT8_ARRAY), (&own, Type::INT8)],
    )
    .await?;
    tx.commit().await
}

/// Reads the workers whose leases last, in ascending order, and the shards.
async fn read_members(session: &Session) -> Result<(Vec<i64>, Vec<ShardRow>), DbError> {
    let rows = session
        .query(
            "SELECT s.shard, w.id, s.epoch FROM hookstream.shards s
             LEFT JOIN hookstream.workers w ON w.id = s.owner AND w.lease_until > clock_timestamp() ORDER BY s.shard",
            &[],
        )
        .await?;
    let shards = rows
        .iter()
        .map(|row| Ok(ShardRow { shard: row.try_get(0)?, owner: row.try_get(1)?, epoch: row.try_get(2)? }))
        .collect::<Result<Vec<_>, DbError>>()?;
    let rows = session
        .query("SELECT id FROM hookstream.workers WHERE lease_until > clock_timestamp() ORDER BY id", &[])
        .await?;
    let workers = rows.iter().map(|row| Ok(row.try_get(0)?)).collect::<Result<Vec<_>, DbError>>()?;
    Ok((workers, shards))
}

/// Removes workers that ended an hour ago and everything that they listed. Their rows stay that long for people.
pub(super) async fn sweep(session: &Session) -> Result<(), DbError> {
    session
        .batch(
            "DELETE FROM hookstream.in_flight f WHERE NOT EXISTS (
                 SELECT 1 FROM hookstream.workers w WHERE w.id = f.worker AND w.lease_until > clock_timestamp());
             DELETE FROM hookstream.workers w WHERE w.lease_until < clock_timestamp() - interval '1 hour'
                 AND NOT EXISTS (SELECT 1 FROM hookstream.shards s WHERE s.owner = w.id)",
        )
        .await
}
