//! The store's handle: opens the database, starts the writer, and queues operations for it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{mpsc, oneshot};

use super::super::read_budget::ReadBudget;
use super::super::{AcceptCallback, NewEvent, Shares, StoreError};
use super::accept::EventRow;
use super::cache::WriterCache;
use super::ended_events::EndedScan;
use super::event_ids::{IdStore, NewestIds};
use super::files::{self, DirLock, FILE};
use super::history_excess::HistoryExcess;
use super::history_readers::HistoryReaders;
use super::keys::KeyStore;
use super::maintenance;
use super::materialize;
use super::migrate;
use super::outcomes::{OutcomeStore, Snapshot};
use super::readers::{self, ReaderPool};
use super::reserve::DiskReserve;
use super::retention::{SweepLimit, SweepRound};
use super::schema;
use super::sequence;
use super::shared_state::SharedState;
use super::tuning::Tuning;
use super::wal::{self, WalCheckpointer};
use super::writer::{ClosureWrite, Operation, ReplySender, Writer};
use crate::core::time::Millis;
use crate::metrics::Metrics;

/// The embedded store. Dropping it without `close` has the effect of a crash: acknowledged data stays.
pub struct SqliteStore {
    queue: Option<mpsc::Sender<Operation>>,
    /// The dispatcher's connections.
    pub(super) readers: Arc<ReaderPool>,
    pub(super) maintenance_readers: Arc<ReaderPool>,
    pub(super) history_readers: Arc<HistoryReaders>,
    pub(super) history_budget: ReadBudget,
    pub(super) shared: Arc<SharedState>,
    thread: Mutex<Option<JoinHandle<()>>>,
    writer: std::thread::Thread,
    is_closed: tokio::sync::Mutex<bool>,
    lock: Mutex<Option<DirLock>>,
    queue_bytes: usize,
    pub(super) sweep_limit: SweepLimit,
    pub(super) round: tokio::sync::Mutex<SweepRound>,
    pub(super) path: PathBuf,
    /// Hooks that the round of sweeps found without anything, and whose rows it has not removed yet.
    pub(super) unused_hooks: Mutex<Vec<i64>>,
    /// The most bytes of pages that the writer keeps in memory.
    pub(super) page_cache: u64,
    /// The search for events of deleted namespaces. None: it begins with the next sweep.
    pub(super) ended_scan: Mutex<Option<EndedScan>>,
    /// Ids of events that are in no run yet.
    pub(super) newest_ids: Arc<NewestIds>,
    /// What the round found above its limit.
    pub(super) history_excess: Mutex<Arc<HistoryExcess>>,
}

impl SqliteStore {
    /// Opens the store in an existing folder, and creates it if there is none.
    ///
    /// Does not create the folder, because a volume that is not mounted would then look like an empty store.
    pub fn open(dir: &Path) -> Result<SqliteStore, StoreError> {
        Self::open_with(dir, Tuning::default())
    }

    /// Opens the store as `open` does, with at most this much memory for pages, idempotency keys and event ids.
    pub fn open_within(dir: &Path, memory: u64) -> Result<SqliteStore, StoreError> {
        Self::open_with(dir, Tuning::default().within_memory(memory))
    }

    pub(super) fn open_with(dir: &Path, tuning: Tuning) -> Result<SqliteStore, StoreError> {
        let lock = files::lock(dir)?;
        let reserve = DiskReserve::open(dir)?;
        let tuning = tuning.within_reserve(reserve.size());
        let path = dir.join(FILE);
        maintenance::refuse_damaged(&path)?;
        files::create(&path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut conn = Connection::open_with_flags(&path, flags).map_err(schema::open_error)?;
        migrate::prepare(&mut conn, dir)?;
        wal::restart(&conn);
        conn.pragma_update(None, "wal_autocheckpoint", 0).map_err(schema::open_error)?;
        // Truncates a log that has grown beyond this size when it restarts. Not a smaller one, because accepts wait for the
        // truncation.
        conn.pragma_update(None, "journal_size_limit", tuning.max_log_bytes()).map_err(schema::open_error)?;
        // SQLite counts in KiB if the number is negative.
        let cache_size = i64::try_from(tuning.page_cache >> 10).unwrap_or(i64::MAX);
        conn.pragma_update(None, "cache_size", -cache_size).map_err(schema::open_error)?;
        // Sync the folder, so that it contains the entries of its files after a crash.
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| files::open_error(dir, &e))?;

        let shared = Arc::new(SharedState::new(reserve));
        let pool = |count| ReaderPool::open(&path, count, shared.clone()).map_err(schema::open_error);
        let (readers, maintenance_readers) = (pool(tuning.readers)?, pool(tuning.maintenance_readers)?);
        let history_readers =
            HistoryReaders::open(&path, tuning.history_readers, tuning.history_queue, shared.clone())?;
        let (queue, receiver) = mpsc::channel(tuning.queue);
        let (queue_bytes, sweep_limit) = (tuning.queue_bytes, tuning.sweep_limit);
        let (history_budget, page_cache) = (tuning.history_budget, tuning.page_cache);
        let checkpoint_conn = readers::connect(&path, flags).map_err(schema::open_error)?;
        let checkpointer = WalCheckpointer::new(shared.clone(), tuning.clone(), checkpoint_conn)
            .map_err(|e| files::open_error(dir, &e))?;
        let keys = KeyStore::open(&conn, tuning.keys).map_err(schema::open_error)?;
        let ids = IdStore::open(&conn, tuning.ids).map_err(schema::open_error)?;
        shared.set_key_bytes(keys.bytes() + ids.bytes());
        let newest_ids = ids.newest();
        let outcomes = OutcomeStore::open(&conn, tuning.outcomes, shared.recent.clone());
        let outcomes = outcomes.map_err(schema::open_error)?;
        let writer = Writer {
            wal: checkpointer,
            conn,
            queue: receiver,
            shared: shared.clone(),
            tuning,
            cache: WriterCache::new(keys, ids, outcomes),
            marked: Millis::default(),
        };
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run())
            .map_err(|e| files::open_error(dir, &e))?;
        Ok(SqliteStore {
            queue: Some(queue),
            readers: Arc::new(readers),
            maintenance_readers: Arc::new(maintenance_readers),
            history_readers: Arc::new(history_readers),
            history_budget,
            shared,
            writer: thread.thread().clone(),
            thread: Mutex::new(Some(thread)),
            is_closed: tokio::sync::Mutex::new(false),
            lock: Mutex::new(Some(lock)),
            queue_bytes,
            sweep_limit,
            round: tokio::sync::Mutex::default(),
            unused_hooks: Mutex::default(),
            page_cache,
            ended_scan: Mutex::default(),
            newest_ids,
            history_excess: Mutex::default(),
            path,
        })
    }

    /// Sets how much of the disk backlogs may use.
    pub fn set_shares(&self, shares: Shares) {
        self.shared.set_shares(shares);
    }

    /// Sets the metrics that count commits. Only the first call has an effect.
    pub fn set_metrics(&self, metrics: Arc<Metrics>) {
        self.shared.set_metrics(metrics);
    }

    /// Queues an accept. Never waits for capacity, because the sender must receive `Busy` and slow down.
    pub(super) fn enqueue_accept(&self, events: Vec<NewEvent>, now: Millis, reply: AcceptCallback) {
        let (permit, rows, bytes) = match self.reserve(events) {
            Ok(reserved) => reserved,
            Err(error) => return reply(Vec::new(), Err(error)),
        };
        permit.send(Operation::Accept { rows, bytes, now, reply });
        if self.shared.take_awaits_accept() {
            self.writer.unpark();
        }
    }

    /// Converts the events to rows and reserves a slot of the queue and their bytes.
    fn reserve(
        &self,
        events: Vec<NewEvent>,
    ) -> Result<(mpsc::Permit<'_, Operation>, Vec<EventRow>, usize), StoreError> {
        if events.iter().any(|new| new.deliveries.len() > sequence::MAX_DELIVERIES) {
            let why = format!("an event matches more than {} hooks", sequence::MAX_DELIVERIES);
            return Err(StoreError::Refused(why));
        }
        // The disk reserve belongs to outcomes and sweeps.
        if self.shared.is_disk_full() {
            return Err(StoreError::Full);
        }
        let rows = events.into_iter().map(EventRow::new).collect::<Result<Vec<_>, _>>();
        let rows = rows.map_err(|e| StoreError::Refused(e.to_string()))?;
        let queue = self.queue()?;
        let bytes = rows.iter().map(EventRow::bytes).sum();
        let Ok(permit) = queue.try_reserve() else {
            return Err(if queue.is_closed() { self.writer_ended() } else { StoreError::Busy });
        };
        if !self.shared.reserve_bytes(bytes, self.queue_bytes) {
            return Err(StoreError::Busy);
        }
        Ok((permit, rows, bytes))
    }

    /// Runs a rare write on the writer's thread, after all deliveries were materialized.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        run: impl Fn(&Connection, &mut WriterCache) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.materialize_all().await?;
        self.write_unmaterialized(move |conn, cache| {
            materialize::materialize_all(conn, cache)?;
            run(conn, cache)
        })
        .await
    }

    /// Runs a write that reads no pending delivery. Materializes nothing, so it succeeds on a full disk.
    pub(super) async fn write_unmaterialized<T: Send + 'static>(
        &self,
        run: impl Fn(&Connection, &mut WriterCache) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.enqueue(|reply| Operation::Other(Box::new(ClosureWrite { run, result: None, reply }))).await
    }

    /// Runs a write that frees space. It may use the disk reserve.
    pub(super) async fn write_sweep<T: Send + 'static>(
        &self,
        run: impl Fn(&Connection, &mut WriterCache) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.enqueue(|reply| Operation::Sweep(Box::new(ClosureWrite { run, result: None, reply }))).await
    }

    /// Runs a user's query of a namespace's deliveries, when it is the namespace's turn.
    pub(super) async fn read_history<T: Send + 'static>(
        &self,
        namespace: &str,
        read: impl FnOnce(&Connection, &Snapshot) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let slot = self.history_readers.acquire(namespace).await?;
        let recent = self.shared.recent.clone();
        self.history_readers.run(slot, move |conn| read(conn, &recent.snapshot())).await
    }

    /// Runs a read of deliveries on the dispatcher's connections.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection, &Snapshot) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.read_in(&self.readers, read).await
    }

    /// Runs a read of deliveries in a pool.
    pub(super) async fn read_in<T: Send + 'static>(
        &self,
        pool: &Arc<ReaderPool>,
        read: impl FnOnce(&Connection, &Snapshot) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let recent = self.shared.recent.clone();
        // First the snapshot of what no table lists: see `outcomes::Recent`.
        pool.run(move |conn| read(conn, &recent.snapshot())).await
    }

    /// Makes the writer materialize the deliveries that were accepted before the call.
    async fn materialize_all(&self) -> Result<(), StoreError> {
        let mut target = None;
        while !self.shared.is_all_materialized() {
            let batch = move |conn: &Connection, cache: &mut WriterCache| {
                materialize::materialize_batch(conn, cache, target)
            };
            let (event, has_more) = self.write_unmaterialized(batch).await?;
            if !has_more {
                break;
            }
            target = Some(event);
        }
        Ok(())
    }

    /// Queues an operation, waits for capacity if the queue is full, and returns the result.
    pub(super) async fn enqueue<T>(
        &self,
        operation: impl FnOnce(ReplySender<T>) -> Operation,
    ) -> Result<T, StoreError> {
        let (reply, result) = oneshot::channel();
        self.queue()?.send(operation(reply)).await.map_err(|_| self.writer_ended())?;
        result.await.unwrap_or_else(|_| Err(self.writer_ended()))
    }

    fn queue(&self) -> Result<&mpsc::Sender<Operation>, StoreError> {
        self.shared.check_usable()?;
        self.queue.as_ref().ok_or(StoreError::Closed)
    }

    /// Returns the error for an ended writer. A writer that ended without a close has panicked; this fails the store,
    /// because its callers must stop.
    fn writer_ended(&self) -> StoreError {
        match self.shared.check_usable() {
            Err(e) => e,
            Ok(()) => self.shared.fail("the writer's thread ended".into()),
        }
    }

    /// Commits the queued operations and closes the database. A concurrent second call returns after the first.
    pub(super) async fn shut_down(&self) {
        let mut closed = self.is_closed.lock().await;
        if *closed {
            return;
        }
        self.shared.start_closing();
        // Close readers before the writer ends, because its last checkpoint copies only pages that no reader uses.
        self.readers.close().await;
        self.maintenance_readers.close().await;
        let history = self.history_readers.clone();
        drop(tokio::task::spawn_blocking(move || history.close()).await);
        if let Some(queue) = &self.queue {
            drop(queue.send(Operation::Stop).await);
        }
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            drop(tokio::task::spawn_blocking(move || thread.join()).await);
        }
        // Only now may another process open the folder.
        drop(self.lock.lock().take());
        *closed = true;
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        // The writer ends when its queue has no sender.
        drop(self.queue.take());
        if let Some(thread) = self.thread.get_mut().take() {
            drop(thread.join());
        }
    }
}
