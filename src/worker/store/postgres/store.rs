//! The store of one process: its connections, writers, lease, and notices.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::super::read_slots::ReadSlots;
use super::super::{DispatchNotice, Shares, StoreError};
use super::backlog::BacklogChanges;
use super::connect::PostgresOptions;
use super::connections::Connections;
use super::failure::DbError;
use super::fence::Fence;
use super::membership::{Membership, Ownership};
use super::notices::NoticeReceiver;
use super::session::Session;
use super::shares::ShareLimits;
use super::signals::Signals;
use super::standalone::SharedDatabase;
use super::sweep::Sweeps;
use super::writer::{self, AcceptWriter, OutcomeWriter, QueuedAccept, QueuedOutcomes, WriterRow};
use super::{keeper, notices};
use crate::core::time::Millis;

/// How often an operation that loses deadlocks is repeated.
const CONFLICTS: usize = 10;
/// Users' queries that run at the same time. A process has eight connections.
const HISTORY_READERS: usize = 2;
/// Users' queries that wait.
const HISTORY_QUEUE: usize = 128;

/// A store in PostgreSQL, which many processes share.
pub struct PostgresStore {
    pub(super) connections: Arc<Connections>,
    pub(super) ownership: Arc<Ownership>,
    pub(super) limits: Arc<ShareLimits>,
    /// None once closing.
    pub(super) accepts: Mutex<Option<mpsc::UnboundedSender<QueuedAccept>>>,
    /// Bytes of queued requests.
    pub(super) queued: Arc<AtomicUsize>,
    pub(super) outcomes: Mutex<Option<mpsc::UnboundedSender<QueuedOutcomes>>>,
    pub(super) notices: NoticeReceiver,
    /// Notifies other workers.
    pub(super) signals: Arc<Signals>,
    /// The connections for users' queries.
    pub(super) read_slots: ReadSlots,
    pub(super) sweeps: tokio::sync::Mutex<Sweeps>,
    /// The writer of all other operations.
    pub(super) direct_writer: i64,
    pub(super) membership: Arc<Membership>,
    stopping: CancellationToken,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    closes_connections: bool,
}

impl PostgresStore {
    /// Connects, checks the tables, registers this process and takes free shards.
    ///
    /// `name`: no other process has it at the same time. A process of the same name has ended: its shards are taken at once.
    pub async fn open(options: &PostgresOptions, name: &str) -> Result<Self, StoreError> {
        let database = SharedDatabase::connect(options).await?;
        let mut store = Self::open_unkept(&database, name).await?;
        store.closes_connections = true;
        Ok(store.keep_lease())
    }

    /// Opens the store on connections that other parts of the process use too, and that it leaves open.
    pub async fn open_shared(database: &SharedDatabase, name: &str) -> Result<Self, StoreError> {
        Ok(Self::open_unkept(database, name).await?.keep_lease())
    }

    fn keep_lease(self) -> Self {
        let keeper =
            keeper::keep_lease(self.connections.clone(), self.membership.clone(), self.stopping.clone());
        self.tasks.lock().push(tokio::spawn(keeper));
        self
    }

    /// Opens without renewing the lease.
    async fn open_unkept(database: &SharedDatabase, name: &str) -> Result<Self, StoreError> {
        let connections = database.connections.clone();
        let ownership = Arc::new(Ownership::default());
        let membership = Arc::new(Membership::new(name.to_owned(), ownership.clone()));
        let session = connections.session().await?;
        super::membership::follow_clock_from_start(&session).await?;
        let worker = membership.register(&session).await?;
        membership.step(&session).await?;
        let direct_writer = writer::insert_writer(&session, worker).await?;
        drop(session);

        let (accepts, queued_accepts) = mpsc::unbounded_channel();
        let (outcomes, queued_outcomes) = mpsc::unbounded_channel();
        let (limits, queued) = (Arc::<ShareLimits>::default(), Arc::<AtomicUsize>::default());
        let stopping = CancellationToken::new();
        let signals = Arc::new(Signals::new(ownership.clone()));
        let accept_writer = AcceptWriter {
            row: WriterRow::insert(connections.clone(), worker, "accepted events").await?,
            queue: queued_accepts,
            queued: queued.clone(),
            limits: limits.clone(),
            signals: signals.clone(),
        };
        let outcome_writer = OutcomeWriter {
            row: WriterRow::insert(connections.clone(), worker, "outcomes of attempts").await?,
            queue: queued_outcomes,
            fence: Fence::new(ownership.clone()),
            ownership: ownership.clone(),
            next: None,
            stopping: stopping.clone(),
        };
        let (sender, notices) = notices::channel();
        let noticing = notices::run(connections.clone(), ownership.clone(), sender, stopping.clone());
        let signalling = signals.clone().run(connections.clone(), stopping.clone());
        let breakers =
            super::membership::write_changes(connections.clone(), ownership.clone(), stopping.clone());
        let tasks = vec![
            tokio::spawn(accept_writer.run()),
            tokio::spawn(outcome_writer.run()),
            tokio::spawn(noticing),
            tokio::spawn(signalling),
            tokio::spawn(breakers),
        ];
        Ok(PostgresStore {
            connections,
            ownership,
            limits,
            accepts: Mutex::new(Some(accepts)),
            queued,
            outcomes: Mutex::new(Some(outcomes)),
            notices,
            signals,
            sweeps: tokio::sync::Mutex::default(),
            read_slots: ReadSlots::new(HISTORY_READERS, HISTORY_QUEUE),
            direct_writer,
            membership,
            stopping,
            tasks: Mutex::new(tasks),
            closes_connections: false,
        })
    }

    /// Sets the parts of the disk that backlogs may use.
    pub fn set_shares(&self, shares: Shares) {
        self.limits.set(shares);
    }

    /// Returns how long the database has not answered or has accepted no write. Renewals of the lease show it, twice a second.
    pub fn unavailable_for(&self) -> Duration {
        self.membership.since_renewal(Millis::steady())
    }

    pub(super) async fn session(&self) -> Result<Session, DbError> {
        self.connections.session().await
    }

    /// Runs an operation in a transaction of its own, and counts what it changed of the backlog. Repeats it if it loses a
    /// deadlock.
    pub(super) async fn write<T, F>(&self, operation: F) -> Result<T, StoreError>
    where
        F: for<'t> Fn(&'t Session, &'t mut BacklogChanges) -> BoxFuture<'t, Result<T, DbError>>,
    {
        let mut conflicts = 0;
        loop {
            let session = self.session().await?;
            let tx = session.begin().await?;
            let mut backlog = BacklogChanges::default();
            let written = match operation(&tx, &mut backlog).await {
                Ok(result) => backlog.write(&tx, self.direct_writer).await.map(|()| result),
                Err(error) => Err(error),
            };
            match written {
                Ok(result) => {
                    tx.commit().await?;
                    return Ok(result);
                }
                Err(error) if error.is_conflict() && conflicts < CONFLICTS => {
                    tx.rollback().await?;
                    conflicts += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub(super) async fn next_notice(&self) -> DispatchNotice {
        self.notices.next().await
    }

    /// Refuses new operations, commits the queued ones, gives the shards to other workers, and closes.
    pub(super) async fn shut_down(&self) {
        drop(self.accepts.lock().take());
        drop(self.outcomes.lock().take());
        self.read_slots.reject_waiting();
        self.stopping.cancel();
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            // A task that panicked has ended too.
            drop(task.await);
        }
        if let Ok(session) = self.session().await
            && let Err(error) = self.membership.leave(&session).await
        {
            tracing::warn!(%error, "leave of the worker failed, its lease ends by itself");
        }
        if self.closes_connections {
            self.connections.close();
        }
    }
}

#[cfg(test)]
impl PostgresStore {
    /// Opens a store that renews its lease and divides the shards only when `renew` is called.
    pub(in super::super) async fn open_still(
        options: &PostgresOptions,
        name: &str,
    ) -> Result<Self, StoreError> {
        let database = SharedDatabase::connect(options).await?;
        let mut store = Self::open_unkept(&database, name).await?;
        store.closes_connections = true;
        Ok(store)
    }

    /// Renews the lease and divides the shards, as its task does periodically.
    pub(super) async fn renew(&self) -> Result<(), StoreError> {
        let session = self.session().await?;
        if !self.membership.step(&session).await? {
            self.membership.register(&session).await?;
        }
        Ok(())
    }

    /// Renews as at this time on the steady clock. False: the lease had ended.
    pub(super) async fn renew_at(&self, now: Millis) -> Result<bool, StoreError> {
        let session = self.session().await?;
        Ok(self.membership.step_at(&session, now).await?)
    }

    /// Writes the breakers that opened or closed, as its task does periodically.
    pub(super) async fn write_breakers(&self) {
        super::membership::write_changes_once(&self.connections, &self.ownership).await.unwrap();
    }

    /// Takes all shards of another worker in an orderly hand-over.
    pub(super) async fn take_all_from(&self, other: &PostgresStore) {
        let session = other.session().await.unwrap();
        let shards: Vec<_> =
            other.ownership.shards().into_iter().map(|shard| (shard, self.ownership.worker())).collect();
        other.membership.give(&session, other.ownership.worker(), &shards).await.unwrap();
        self.renew().await.unwrap();
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}
