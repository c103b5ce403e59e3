//! Membership: this process is a worker with a lease, and owns shards.
//!
//! A step renews the lease, reads the members, and takes or gives shards. All lease times are the database's: a lease that has
//! ended is never renewed, so a worker whose lease ended cannot own what another has taken. This process relies on its
//! shards until a deadline by its own steady clock: from before the renewal was sent, the duration of the lease minus a
//! margin. `fence` checks the epochs again when outcomes are recorded.

mod in_flight;
mod load;
mod ownership;
mod pacing;
mod pacing_rows;
mod rebalance;
mod server_clock;
mod share;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_postgres::types::Type;

pub(super) use ownership::Ownership;
use pacing::PacingRow;
#[cfg(test)]
pub(super) use pacing_rows::write_changes_once;
pub(super) use pacing_rows::{sweep as sweep_pacing, write_changes};
use rebalance::WorkerLoad;
pub(super) use server_clock::follow_from_start as follow_clock_from_start;
use share::{ShardRow, ShareChange};

use super::super::DeliverySeq;
use super::failure::DbError;
use super::session::Session;
use crate::core::fast_map::{FastMap, FastSet};
use crate::core::time::Millis;

/// How long a lease lasts.
pub(super) const LEASE: Duration = Duration::from_secs(10);
/// The part of the lease that this process does not rely on: the database's clock may be faster than its own.
const MARGIN: Duration = Duration::from_secs(1);
/// How long a hand-over waits for a write of breakers.
const WAIT_FOR_WRITES: Duration = Duration::from_secs(1);
/// A process that is suspended in a transaction would hold the locks of shards until the server notices that its connection is dead.
const END_IF_SUSPENDED: &str = "SET LOCAL idle_in_transaction_session_timeout = '5s'";
/// The least time between two shards that a worker gives for its load. Others must have seen the first move before.
const BETWEEN_MOVES: Duration = Duration::from_secs(15);

/// This process among the workers.
pub(super) struct Membership {
    name: String,
    ownership: Arc<Ownership>,
    times: Mutex<LoadTimes>,
    is_leaving: AtomicBool,
    leaving: Notify,
}

/// When this worker may act on its load, on the steady clock.
#[derive(Debug, Default)]
struct LoadTimes {
    /// From then on its load is known.
    measured_at: Millis,
    /// From then on it may give a shard for its load.
    may_move_at: Millis,
}

impl Membership {
    pub(super) fn new(name: String, ownership: Arc<Ownership>) -> Self {
        Membership {
            name,
            ownership,
            times: Mutex::default(),
            is_leaving: AtomicBool::new(false),
            leaving: Notify::new(),
        }
    }

    /// Gives all shards away with the next step, and takes none any more. The lease goes on: what this process is attempting
    /// stays its own.
    pub(super) fn begin_leaving(&self) {
        self.is_leaving.store(true, Ordering::Relaxed);
        self.leaving.notify_one();
    }

    /// Waits for `begin_leaving`, once. Cancel safe.
    pub(super) async fn wants_to_leave(&self) {
        self.leaving.notified().await;
    }

    /// Registers this process. A former process of the same name has ended: its shards are taken at once.
    pub(super) async fn register(&self, session: &Session) -> Result<i64, DbError> {
        let sent = Millis::steady();
        let tx = session.begin().await?;
        // An ended lease, and not a deleted row, so that its deliveries in flight are free at once. `take` reads when it ended.
        tx.execute(
            "UPDATE hookstream.workers SET lease_until = least(lease_until, clock_timestamp()) WHERE name = $1",
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
        *self.times.lock() = LoadTimes { measured_at: sent + load::WINDOW, may_move_at: sent };
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
        self.step_at(session, Millis::steady()).await
    }

    /// `step` as at the time `sent` on the steady clock.
    pub(super) async fn step_at(&self, session: &Session, sent: Millis) -> Result<bool, DbError> {
        let own = self.ownership.worker();
        let loads = self.ownership.loads(sent);
        let (is_measured, may_move) = {
            let times = self.times.lock();
            (sent >= times.measured_at, sent >= times.may_move_at)
        };
        let load: Option<f64> = is_measured.then(|| loads.values().sum());
        let is_leaving = self.is_leaving.load(Ordering::Relaxed);
        let owned: Vec<i16> = loads.keys().copied().collect();
        session.forget_warnings();
        let renewed = session
            .execute(
                "UPDATE hookstream.workers
                 SET lease_until = clock_timestamp() + make_interval(secs => $2), is_leaving = $4,
                     -- With the shards that it was given, and learns of below.
                     load = $3 + (SELECT coalesce(sum(s.load), 0) FROM hookstream.shards s
                                  WHERE s.owner = $1 AND s.given_epoch = s.epoch - 1 AND s.shard <> ALL ($5))
                 WHERE id = $1 AND lease_until > clock_timestamp()",
                &[
                    (&own, Type::INT8),
                    (&LEASE.as_secs_f64(), Type::FLOAT8),
                    (&load, Type::FLOAT8),
                    (&is_leaving, Type::BOOL),
                    (&owned, Type::INT2_ARRAY),
                ],
            )
            .await?;
        if renewed == 0 {
            return Ok(false);
        }
        // A standby that was promoted without this renewal would let another worker take the shards too early.
        session.check_committed()?;
        server_clock::follow(session).await?;
        self.remove_ended(session, own).await?;
        let Members { workers, shards, seeds } = read_members(session).await?;
        let kept: FastMap<i16, i64> = shards
            .iter()
            .filter(|shard| shard.owner == Some(own))
            .map(|shard| (shard.shard, shard.epoch))
            .collect();
        self.ownership.keep(&kept);
        self.ownership.pacing.keep(&kept);
        // A shard that another worker gave.
        self.gain(session, own, kept, seeds).await?;
        self.ownership.extend(sent + (LEASE - MARGIN));
        let ids: Vec<i64> = workers.iter().map(|worker| worker.id).collect();
        let ShareChange { take, mut give } = share::plan(own, &ids, &shards);
        if is_leaving {
            give = to_others(own, &self.ownership.shards(), &workers);
        }
        if !take.is_empty() {
            self.take(session, own, &take).await?;
        } else if give.is_empty()
            && is_measured
            && may_move
            && let Some(moved) = rebalance::plan(own, &workers, &loads)
            && self.give(session, own, &[moved]).await?
        {
            self.times.lock().may_move_at = sent + BETWEEN_MOVES;
            let (shard, worker) = moved;
            tracing::info!(shard, worker, load, "shard given to a worker with less load");
        }
        if !give.is_empty() {
            self.give(session, own, &give).await?;
        }
        Ok(true)
    }

    /// Removes attempts that have ended from the list of those in flight.
    async fn remove_ended(&self, session: &Session, own: i64) -> Result<(), DbError> {
        let ended = self.ownership.ended_attempts();
        if !ended.is_empty() {
            in_flight::remove(session, own, &ended).await?;
            self.ownership.forget_ended(&ended);
        }
        Ok(())
    }

    /// Takes over shards that the database says are this process's. First reads what their former owners are still
    /// attempting, which a hook's concurrency includes, and the pacing of their hooks.
    async fn gain(
        &self,
        session: &Session,
        own: i64,
        shards: FastMap<i16, i64>,
        seeds: Vec<(i16, f64)>,
    ) -> Result<(), DbError> {
        let unread = self.ownership.pacing.missing(&shards);
        if !unread.is_empty() {
            let (received, rows) = pacing_rows::receive(session, &unread, &FastMap::default()).await?;
            self.ownership.pacing.receive(&received, rows);
        }
        let owned = self.ownership.shards();
        let is_new = |shard: &i16| !owned.contains(shard);
        if self.ownership.has_in_flight_elsewhere() || shards.keys().any(is_new) {
            let all: FastSet<i16> = owned.iter().chain(shards.keys()).copied().collect();
            let all: Vec<i16> = all.into_iter().collect();
            self.ownership.set_in_flight_elsewhere(in_flight::elsewhere(session, own, &all).await?);
        }
        self.ownership.seed_loads(seeds.into_iter().filter(|(shard, _)| shards.contains_key(shard)));
        self.ownership.gain(shards);
        Ok(())
    }

    /// Takes shards without an owner. Of two workers that take the same shard, the database lets one have it.
    async fn take(&self, session: &Session, own: i64, shards: &[i16]) -> Result<(), DbError> {
        let tx = session.begin().await?;
        tx.batch(END_IF_SUSPENDED).await?;
        let rows = tx
            .query(
                "UPDATE hookstream.shards s SET owner = $1, epoch = s.epoch + 1, load = 0
                 FROM (SELECT shard, owner FROM hookstream.shards WHERE shard = ANY($2) ORDER BY shard FOR UPDATE) f
                 LEFT JOIN hookstream.workers k ON k.id = f.owner
                 WHERE s.shard = f.shard
                   AND NOT EXISTS (SELECT 1 FROM hookstream.workers w
                                   WHERE w.id = s.owner AND w.lease_until > clock_timestamp())
                 RETURNING s.shard, s.epoch, CASE WHEN isfinite(k.lease_until)
                     THEN extract(epoch FROM clock_timestamp() - k.lease_until)::float8 END",
                &[(&own, Type::INT8), (&shards, Type::INT2_ARRAY)],
            )
            .await?;
        let now = Millis::steady();
        let (mut taken, mut ended) = (FastMap::default(), FastMap::default());
        for row in &rows {
            let (shard, epoch, ago): (i16, i64, Option<f64>) =
                (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            taken.insert(shard, epoch);
            if let Some(ago) = ago {
                ended.insert(shard, pacing_rows::before(now, ago));
            }
        }
        // In the same transaction: a process that ended in between would leave rows that the next owner ignores. `commit` fails if
        // a promoted standby may still have the former owner.
        let received: Vec<(i16, i64)> = taken.iter().map(|(shard, epoch)| (*shard, *epoch)).collect();
        let (received, rows) = pacing_rows::receive(&tx, &received, &ended).await?;
        tx.commit().await?;
        self.ownership.pacing.receive(&received, rows);
        self.gain(session, own, taken, Vec::new()).await
    }

    /// Gives shards to other workers, with the list of their deliveries in flight. Until those are settled or the lease of
    /// this process ends, the new owners leave them alone. False: a write of breakers takes long, so nothing is given. Waiting for
    /// it would delay the next renewal.
    pub(super) async fn give(
        &self,
        session: &Session,
        own: i64,
        shards: &[(i16, i64)],
    ) -> Result<bool, DbError> {
        let Some(_lock) = self.ownership.pacing.lock_writes(WAIT_FOR_WRITES).await else { return Ok(false) };
        let numbers: Vec<i16> = shards.iter().map(|(shard, _)| *shard).collect();
        let leaving = Leaving::begin(&self.ownership, &numbers);
        let given = give(session, own, shards, &leaving).await;
        self.ownership.end_leaving(&numbers, given.is_ok());
        given.map(|()| true)
    }

    /// Gives all shards away and ends the lease. `shards` of a process without attempts in flight.
    pub(super) async fn leave(&self, session: &Session) -> Result<(), DbError> {
        let own = self.ownership.worker();
        let owned = self.ownership.shards();
        // Also without it: an older breaker is better than a wait for the leases.
        let _lock = self.ownership.pacing.lock_writes(WAIT_FOR_WRITES).await;
        let leaving = Leaving::begin(&self.ownership, &owned);
        let Members { workers, .. } = read_members(session).await?;
        let mut shards = to_others(own, &owned, &workers);
        if shards.is_empty() {
            // There is no other worker: the next one takes them.
            shards = owned.iter().map(|shard| (*shard, own)).collect();
        }
        if !shards.is_empty() {
            give(session, own, &shards, &leaving).await?;
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

/// Divides shards between the workers other than `own`. Empty: there is none.
fn to_others(own: i64, shards: &[i16], workers: &[WorkerLoad]) -> Vec<(i16, i64)> {
    let others = workers.iter().map(|worker| worker.id).filter(|worker| *worker != own);
    shards.iter().copied().zip(others.collect::<Vec<_>>().into_iter().cycle()).collect()
}

/// The state of shards for their next owners.
struct Leaving {
    in_flight: Vec<DeliverySeq>,
    loads: FastMap<i16, f64>,
    epochs: FastMap<i16, i64>,
    pacing: Vec<PacingRow>,
    /// By shard: since when its rate limits may have had no tokens.
    empty_since: FastMap<i16, Millis>,
}

impl Leaving {
    /// Starts no further attempt of these shards, and collects what their next owners need.
    fn begin(ownership: &Ownership, shards: &[i16]) -> Self {
        let now = Millis::steady();
        let (loads, epochs) = (ownership.loads(now), ownership.epochs(shards));
        let in_flight = ownership.begin_leaving(shards);
        // Now no attempt uses a further token.
        let pacing = ownership.pacing.of_shards(shards, now);
        let empty_since = ownership.pacing.empty_since(shards);
        Leaving { in_flight, loads, epochs, pacing, empty_since }
    }
}

/// Changes the owners of shards that `own` owns, with their loads and the pacing of their hooks, and lists its deliveries in flight.
/// A shard for `own` itself stays until its lease ends.
async fn give(session: &Session, own: i64, shards: &[(i16, i64)], leaving: &Leaving) -> Result<(), DbError> {
    // A shard that this process no longer owns under the epoch that it knows is not given: its rows are not complete.
    let epoch = |shard: &i16| leaving.epochs.get(shard).copied();
    let epochs: Vec<(i16, i64)> =
        shards.iter().filter_map(|(shard, _)| Some((*shard, epoch(shard)?))).collect();
    let receivers: Vec<i64> =
        shards.iter().filter(|(shard, _)| epoch(shard).is_some()).map(|(_, receiver)| *receiver).collect();
    let (numbers, given_epochs): (Vec<i16>, Vec<i64>) = epochs.iter().copied().unzip();
    let load = |shard: &i16| leaving.loads.get(shard).copied().unwrap_or(0.0);
    let loads: Vec<f64> = numbers.iter().map(load).collect();
    let now = Millis::steady();
    let seconds = |shard: &i16| leaving.empty_since.get(shard).map(|since| now.since(*since).as_secs_f64());
    let empty_for: Vec<Option<f64>> = numbers.iter().map(seconds).collect();
    let tx = session.begin().await?;
    tx.batch(END_IF_SUSPENDED).await?;
    pacing_rows::give(&tx, own, &epochs, &leaving.pacing).await?;
    tx.execute(
        "UPDATE hookstream.shards s SET owner = g.receiver, epoch = s.epoch + (g.receiver <> $4)::int, load = g.load,
             given_epoch = s.epoch, empty_since = clock_timestamp() - make_interval(secs => g.empty_for)
         FROM unnest($1::smallint[], $2::bigint[], $3::float8[], $5::float8[], $6::bigint[])
             AS g (shard, receiver, load, empty_for, epoch)
         WHERE s.shard = g.shard AND s.owner = $4 AND s.epoch = g.epoch",
        &[
            (&numbers, Type::INT2_ARRAY),
            (&receivers, Type::INT8_ARRAY),
            (&loads, Type::FLOAT8_ARRAY),
            (&own, Type::INT8),
            (&empty_for, Type::FLOAT8_ARRAY),
            (&given_epochs, Type::INT8_ARRAY),
        ],
    )
    .await?;
    in_flight::list(&tx, own, &leaving.in_flight).await?;
    tx.commit().await?;
    if let [receiver, others @ ..] = receivers.as_slice()
        && others.iter().all(|other| other == receiver)
    {
        // Its own renewal counts them later: another worker would give it a shard too, because its load seems low. After the
        // commit: a suspended process must not hold the lock of a row that the receiver renews its lease in.
        let load: f64 = loads.iter().sum();
        let added = session
            .execute(
                "UPDATE hookstream.workers SET load = load + $2 WHERE id = $1",
                &[(receiver, Type::INT8), (&load, Type::FLOAT8)],
            )
            .await;
        if let Err(error) = added {
            tracing::debug!(%error, "load of a receiver not updated, its next renewal does it");
        }
    }
    Ok(())
}

/// The workers whose leases last, and the shards.
struct Members {
    /// In ascending order of their ids, without those that are leaving.
    workers: Vec<WorkerLoad>,
    shards: Vec<ShardRow>,
    /// The loads of the shards at their last transfers; 0 if a worker of an older version made it.
    seeds: Vec<(i16, f64)>,
}

async fn read_members(session: &Session) -> Result<Members, DbError> {
    let rows = session
        .query(
            "SELECT s.shard, w.id, s.epoch, CASE WHEN s.given_epoch = s.epoch - 1 THEN s.load ELSE 0 END
             FROM hookstream.shards s
             LEFT JOIN hookstream.workers w ON w.id = s.owner AND w.lease_until > clock_timestamp() ORDER BY s.shard",
            &[],
        )
        .await?;
    let (mut shards, mut seeds) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
    for row in &rows {
        let shard = row.try_get(0)?;
        shards.push(ShardRow { shard, owner: row.try_get(1)?, epoch: row.try_get(2)? });
        seeds.push((shard, row.try_get(3)?));
    }
    let rows = session
        .query(
            "SELECT id, load FROM hookstream.workers WHERE lease_until > clock_timestamp() AND NOT is_leaving
             ORDER BY id",
            &[],
        )
        .await?;
    let workers = rows
        .iter()
        .map(|row| {
            let id: i64 = row.try_get(0)?;
            let owned = shards.iter().filter(|shard: &&ShardRow| shard.owner == Some(id)).count();
            Ok(WorkerLoad { id, shards: owned, load: row.try_get(1)? })
        })
        .collect::<Result<Vec<_>, DbError>>()?;
    Ok(Members { workers, shards, seeds })
}

/// Removes workers that ended an hour ago and everything that they listed. The rows of workers stay that long for people.
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
