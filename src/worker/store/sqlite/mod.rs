//! The embedded engine: one SQLite database in a folder of its own.
//!
//! Purpose: `Store` on a volume that one process holds.
//!
//! Invariants: one process per folder, by a lock that the kernel drops when the process dies; one thread writes
//! (`writer`), and everyone else reads on connections of their own (`reads`), so that no read ever holds up an accept;
//! the log is synced at every commit (`synchronous=FULL`) and the folder when the files are made; the files are the
//! owner's alone, for they hold payloads.
//!
//! Left to others: what each operation does to the tables (`ops`, and for what it is about `gates`, `replays`,
//! `retention`), what is told (`reads` to the dispatcher, `history` to people), what the writer remembers (`memory`), the
//! tables and their changes (`schema`), how much of the disk may be used in all (a watermark above this).

mod care;
mod gates;
mod history;
mod memory;
mod ops;
mod places;
mod reads;
mod replays;
mod retention;
mod schema;
mod shared;
mod writer;

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::{
    Accepted, Backlog, Explained, Filter, HookId, NewEvent, Pending, Record, Replay, Retention, Seq,
    Settlement, Shares, State, Stats, Store, StoreError,
};
use crate::core::event::Event;
use crate::core::time::Millis;
use crate::metrics::Metrics;
pub use care::{Report, backup, check};
use memory::Memory;
use ops::Row;
use reads::Reads;
use retention::{Chunk, Cut};
use shared::Shared;
use writer::{AcceptAnswer, Many, Op, Task, Writer};

const FILE: &str = "hookstream.db";
const LOCK: &str = "hookstream.lock";

/// The sizes that bound the store's memory, its log and its stalls. Tests choose smaller ones.
#[derive(Clone)]
struct Tuning {
    /// Operations that may wait; an accept that finds them all taken is refused.
    queue: usize,
    /// Bytes of events that may wait: 4096 requests of 16 MiB would be 64 GiB.
    queue_bytes: usize,
    /// Operations in one transaction, and their bytes.
    group: usize,
    group_bytes: usize,
    /// Pages (4 KiB) of log at which it is copied into the database: 8 MiB, some ten milliseconds of work.
    wal_pages: i64,
    /// Pages of log at which readers are waited for: 64 MiB.
    wal_most: i64,
    chunk: Chunk,
    readers: u32,
    /// An error code to be met at the next COMMIT.
    #[cfg(test)]
    fault: Arc<Mutex<Option<i32>>>,
    /// Counts beginnings and ends of checkpoints: odd while one runs.
    #[cfg(test)]
    checkpoints: Arc<std::sync::atomic::AtomicU64>,
}

impl Default for Tuning {
    fn default() -> Self {
        Tuning {
            queue: 4096,
            queue_bytes: 64 << 20,
            group: 1024,
            group_bytes: 8 << 20,
            wal_pages: 2048,
            wal_most: 16_384,
            chunk: Chunk { rows: 500, bytes: 4 << 20 },
            readers: 4,
            #[cfg(test)]
            fault: Arc::default(),
            #[cfg(test)]
            checkpoints: Arc::default(),
        }
    }
}

/// The embedded store. Dropping it without `close` stops it as a crash would: what was answered stays.
pub struct SqliteStore {
    queue: Option<mpsc::Sender<Op>>,
    reads: Arc<Reads>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    writer: std::thread::Thread,
    closed: tokio::sync::Mutex<bool>,
    lock: Mutex<Option<Lock>>,
    queue_bytes: usize,
    chunk: Chunk,
    /// What the round of sweeps that is under way found to be too much.
    cut: tokio::sync::Mutex<Option<Cut>>,
}

impl SqliteStore {
    /// Opens the store in a folder that exists; makes it where there is none.
    ///
    /// It does not make the folder: a volume that is not mounted would else be taken for an empty store.
    pub fn open(dir: &Path) -> Result<SqliteStore, StoreError> {
        Self::open_with(dir, Tuning::default())
    }

    fn open_with(dir: &Path, tuning: Tuning) -> Result<SqliteStore, StoreError> {
        let lock = lock(dir)?;
        let path = dir.join(FILE);
        create(&path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut conn = Connection::open_with_flags(&path, flags).map_err(schema::open_error)?;
        schema::prepare(&mut conn, dir)?;
        conn.pragma_update(None, "wal_autocheckpoint", 0).map_err(schema::open_error)?;
        // A log that once grew is cut back when it starts again.
        conn.pragma_update(None, "journal_size_limit", 32 << 20).map_err(schema::open_error)?;
        // A crash must not leave files that the folder does not name.
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| open_error(dir, &e))?;

        let shared = Arc::new(Shared::new());
        let reads = Reads::open(&path, tuning.readers, shared.clone()).map_err(schema::open_error)?;
        let (queue, receiver) = mpsc::channel(tuning.queue);
        let (queue_bytes, chunk) = (tuning.queue_bytes, tuning.chunk);
        let writer = Writer {
            restart_at: tuning.wal_most,
            conn,
            queue: receiver,
            shared: shared.clone(),
            tuning,
            memory: Memory::default(),
            made_room: None,
        };
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run())
            .map_err(|e| open_error(dir, &e))?;
        Ok(SqliteStore {
            queue: Some(queue),
            reads: Arc::new(reads),
            shared,
            writer: thread.thread().clone(),
            thread: Mutex::new(Some(thread)),
            closed: tokio::sync::Mutex::new(false),
            lock: Mutex::new(Some(lock)),
            queue_bytes,
            chunk,
            cut: tokio::sync::Mutex::default(),
        })
    }

    fn queue(&self) -> Result<&mpsc::Sender<Op>, StoreError> {
        self.shared.usable()?;
        self.queue.as_ref().ok_or(StoreError::Closed)
    }

    /// Waits for the answer.
    async fn answer<T>(&self, answer: oneshot::Receiver<Result<T, StoreError>>) -> Result<T, StoreError> {
        answer.await.unwrap_or_else(|_| Err(self.gone()))
    }

    /// The writer ended: it was told to, or it died of a bug, and then nobody may go on as if it lived.
    fn gone(&self) -> StoreError {
        match self.shared.usable() {
            Err(e) => e,
            Ok(()) => self.shared.fail("the writer's thread ended".into()),
        }
    }

    /// How much of the disk backlogs may take up, from now on.
    pub fn set_shares(&self, shares: Shares) {
        self.shared.set_shares(shares);
    }

    /// Where commits are counted from now on.
    pub fn observe(&self, metrics: Arc<Metrics>) {
        self.shared.observe(metrics);
    }

    /// Queues an accept, or says why not. Never waits for room: the sender shall hear that it must slow down.
    fn enqueue(&self, events: Vec<NewEvent>, now: Millis, answer: AcceptAnswer) {
        let made = events.into_iter().map(Row::new).collect::<Result<Vec<_>, _>>();
        let rows = match made {
            Ok(rows) => rows,
            Err(e) => return answer.send(Err(StoreError::Refused(e.to_string()))),
        };
        let queue = match self.queue() {
            Ok(queue) => queue,
            Err(e) => return answer.send(Err(e)),
        };
        let bytes = rows.iter().map(Row::bytes).sum();
        let Ok(room) = queue.try_reserve() else {
            let refused = if queue.is_closed() { self.gone() } else { StoreError::Busy };
            return answer.send(Err(refused));
        };
        if !self.shared.reserve(bytes, self.queue_bytes) {
            return answer.send(Err(StoreError::Busy));
        }
        room.send(Op::Accept { rows, bytes, now, answer });
        self.writer.unpark();
    }

    /// Lets the writer do what comes seldom.
    async fn write<T: Send + 'static>(
        &self,
        run: impl Fn(&Connection, &mut Memory) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.ask(|answer| Op::Other(Box::new(Task { run, result: None, answer }))).await
    }

    /// Queues what may wait for room.
    async fn ask<T>(&self, op: impl FnOnce(writer::Answer<T>) -> Op) -> Result<T, StoreError> {
        let (send, receive) = oneshot::channel();
        self.queue()?.send(op(send)).await.map_err(|_| self.gone())?;
        self.answer(receive).await
    }
}

/// The folder is ours while this lives.
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // To close the file is not enough: a child process that was forked and not yet executed has it open too, and the
        // lock would stay for that long. An error leaves it to the close.
        drop(self.0.unlock());
    }
}

/// Makes the folder ours.
fn lock(dir: &Path) -> Result<Lock, StoreError> {
    let file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .mode(0o600)
        .open(dir.join(LOCK))
        .map_err(|e| open_error(dir, &e))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(StoreError::Open(format!(
            "another process holds {}: one volume serves one worker, stop the other one first",
            dir.display()
        ))),
        Err(TryLockError::Error(e)) => Err(open_error(dir, &e)),
    }
}

/// Makes the file before SQLite does, which would let everyone read it; its log takes over the mode.
fn create(path: &Path) -> Result<(), StoreError> {
    match OpenOptions::new().create_new(true).write(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(open_error(path, &e)),
    }
}

fn open_error(path: &Path, e: &std::io::Error) -> StoreError {
    StoreError::Open(format!("{}: {e}", path.display()))
}

impl Store for SqliteStore {
    fn accept(&self, events: Vec<NewEvent>, now: Millis) -> BoxFuture<'_, Result<Vec<Accepted>, StoreError>> {
        async move {
            let (answer, receive) = oneshot::channel();
            self.enqueue(events, now, AcceptAnswer::One(answer));
            self.answer(receive).await
        }
        .boxed()
    }

    fn accept_many(
        &self,
        requests: Vec<(Vec<NewEvent>, Millis)>,
    ) -> BoxFuture<'_, Vec<Result<Vec<Accepted>, StoreError>>> {
        async move {
            if requests.is_empty() {
                return Vec::new();
            }
            let (many, done) = Many::new(requests.len());
            for (at, (events, now)) in requests.into_iter().enumerate() {
                self.enqueue(events, now, many.place(at));
            }
            // An error: the writer ended, and what it did not come to has no answer.
            drop(done.await);
            many.take().into_iter().map(|answer| answer.unwrap_or_else(|| Err(self.gone()))).collect()
        }
        .boxed()
    }

    fn settle(&self, settlement: Settlement) -> BoxFuture<'_, Result<bool, StoreError>> {
        let settlements = vec![settlement];
        self.ask(move |answer| Op::Settle { settlements, answer })
            .map(|settled| settled.map(|woken| woken.first() == Some(&true)))
            .boxed()
    }

    fn settle_many(&self, settlements: Vec<Settlement>) -> BoxFuture<'_, Result<Vec<bool>, StoreError>> {
        self.ask(move |answer| Op::Settle { settlements, answer }).boxed()
    }

    fn due(
        &self,
        hook_uid: &str,
        now: Millis,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Pending>, StoreError>> {
        let uid = hook_uid.to_owned();
        async move { self.reads.run(move |conn| reads::due(conn, &uid, now, limit)).await }.boxed()
    }

    fn next_due(&self, hook_uid: &str, after: Millis) -> BoxFuture<'_, Result<Option<Millis>, StoreError>> {
        let uid = hook_uid.to_owned();
        async move { self.reads.run(move |conn| reads::next_due(conn, &uid, after)).await }.boxed()
    }

    fn backlog(&self) -> BoxFuture<'_, Result<Vec<Backlog>, StoreError>> {
        self.reads.run(reads::backlog).boxed()
    }

    fn delivery(&self, namespace: &str, id: Uuid) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
        let namespace = namespace.to_owned();
        async move { self.reads.run(move |conn| history::delivery(conn, &namespace, id)).await }.boxed()
    }

    fn event_of(&self, namespace: &str, id: Uuid) -> BoxFuture<'_, Result<Option<Arc<Event>>, StoreError>> {
        let namespace = namespace.to_owned();
        async move { self.reads.run(move |conn| history::event_of(conn, &namespace, id)).await }.boxed()
    }

    fn list(
        &self,
        filter: Filter,
        before: Option<Seq>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Record>, StoreError>> {
        self.reads.run(move |conn| history::list(conn, &filter, before, limit)).boxed()
    }

    fn explain(
        &self,
        namespace: &str,
        event_id: &str,
    ) -> BoxFuture<'_, Result<Option<Explained>, StoreError>> {
        let (namespace, id) = (namespace.to_owned(), event_id.to_owned());
        self.reads.run(move |conn| history::explain(conn, &namespace, &id)).boxed()
    }

    fn replay(
        &self,
        namespace: &str,
        id: Uuid,
        now: Millis,
    ) -> BoxFuture<'_, Result<Option<HookId>, StoreError>> {
        let namespace = namespace.to_owned();
        self.write(move |conn, memory| ops::replay(conn, memory, &namespace, id, now)).boxed()
    }

    fn cancel(
        &self,
        namespace: &str,
        id: Uuid,
        now: Millis,
    ) -> BoxFuture<'_, Result<Option<HookId>, StoreError>> {
        let namespace = namespace.to_owned();
        self.write(move |conn, memory| ops::cancel(conn, memory, &namespace, id, now)).boxed()
    }

    fn start_replay(
        &self,
        filter: Filter,
        rate: u32,
        now: Millis,
    ) -> BoxFuture<'_, Result<Replay, StoreError>> {
        async move {
            let refused = |why: &str| Err(StoreError::Refused(why.into()));
            if rate == 0 {
                return refused("a replay at a rate of 0 would never end");
            }
            if filter.state == Some(State::Pending) {
                return refused("what is pending is sent anyway");
            }
            let text = serde_json::to_string(&filter).map_err(|e| StoreError::Refused(e.to_string()))?;
            let id = Uuid::now_v7();
            self.write(move |conn, _| replays::start(conn, id, (&filter, &text), rate, now)).await
        }
        .boxed()
    }

    fn step_replays(&self, now: Millis) -> BoxFuture<'_, Result<Vec<HookId>, StoreError>> {
        async move {
            let most = self.chunk.rows;
            let (steps, old) = self.reads.run(move |conn| replays::plan(conn, now, most)).await?;
            if steps.is_empty() && !old {
                return Ok(Vec::new());
            }
            self.write(move |conn, memory| replays::step(conn, memory, &steps, now)).await
        }
        .boxed()
    }

    fn replay_progress(
        &self,
        namespace: &str,
        id: Uuid,
    ) -> BoxFuture<'_, Result<Option<Replay>, StoreError>> {
        let namespace = namespace.to_owned();
        self.reads.run(move |conn| history::replay_progress(conn, &namespace, id)).boxed()
    }

    fn set_held(&self, hook: &HookId, held: bool, now: Millis) -> BoxFuture<'_, Result<(), StoreError>> {
        let hook = hook.clone();
        self.write(move |conn, memory| ops::set_held(conn, memory, &hook, held, now)).boxed()
    }

    fn decide_again(&self, uid: &str, now: Millis) -> BoxFuture<'_, Result<bool, StoreError>> {
        let uid: Arc<str> = uid.into();
        self.write(move |conn, memory| ops::decide_again(conn, memory, &uid, now)).boxed()
    }

    fn take_up(&self, from: &HookId, to: &HookId, now: Millis) -> BoxFuture<'_, Result<bool, StoreError>> {
        let (from, to, rows) = (from.clone(), to.clone(), retention::limit(self.chunk.rows));
        self.write(move |conn, memory| ops::take_up(conn, memory, (&from, &to), now, rows)).boxed()
    }

    fn promote(&self, now: Millis) -> BoxFuture<'_, Result<Vec<HookId>, StoreError>> {
        let rows = self.chunk.rows;
        self.write(move |conn, memory| gates::promote(conn, memory, now, rows)).boxed()
    }

    fn next_promotion(&self) -> BoxFuture<'_, Result<Option<Millis>, StoreError>> {
        self.reads.run(reads::next_promotion).boxed()
    }

    fn sweep(&self, retention: Retention, now: Millis) -> BoxFuture<'_, Result<bool, StoreError>> {
        async move {
            // Held until the end: two sweeps at a time would only be in each other's way.
            let mut round = self.cut.lock().await;
            let cut = match round.take() {
                Some(cut) => cut,
                None => self.reads.run(move |conn| retention::cut(conn, retention)).await?,
            };
            let chunk = self.chunk;
            let more = self
                .write(move |conn, memory| retention::sweep(conn, memory, retention, cut, now, chunk))
                .await?;
            *round = more.then_some(cut);
            Ok(more)
        }
        .boxed()
    }

    fn stats(&self) -> BoxFuture<'_, Result<Stats, StoreError>> {
        self.reads.run(reads::stats).boxed()
    }

    fn belongs_to(&self, installation: &str, adopted: bool) -> BoxFuture<'_, Result<(), StoreError>> {
        let own = installation.to_owned();
        async move {
            let told = own.clone();
            let found = self.write(move |conn, _| schema::belongs_to(conn, &told, adopted)).await?;
            found.map_or(Ok(()), |found| Err(StoreError::Foreign { found, own }))
        }
        .boxed()
    }

    fn namespaces(&self) -> BoxFuture<'_, Result<Vec<String>, StoreError>> {
        self.reads.run(places::names).boxed()
    }

    fn namespace_is(&self, name: &str, uid: Option<&str>) -> BoxFuture<'_, Result<bool, StoreError>> {
        let (name, uid) = (name.to_owned(), uid.map(ToOwned::to_owned));
        self.write(move |conn, memory| places::is(conn, memory, &name, uid.as_deref())).boxed()
    }

    fn failed(&self) -> BoxFuture<'static, StoreError> {
        let mut watch = self.shared.watch();
        async move {
            if let Ok(failed) = watch.wait_for(Option::is_some).await
                && let Some(failure) = failed.as_ref()
            {
                return failure.clone();
            }
            // Closed without a failure: there will be none.
            futures::future::pending().await
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            // Whoever closes second returns when the first one has.
            let mut closed = self.closed.lock().await;
            if *closed {
                return;
            }
            self.shared.closing();
            // Before the writer: its last checkpoint copies all that no reader holds.
            self.reads.close().await;
            if let Some(queue) = &self.queue {
                drop(queue.send(Op::Stop).await);
            }
            let thread = self.thread.lock().take();
            if let Some(thread) = thread {
                drop(tokio::task::spawn_blocking(move || thread.join()).await);
            }
            // Only now may another process come.
            drop(self.lock.lock().take());
            *closed = true;
        }
        .boxed()
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        // The writer ends when nobody can ask it any more.
        drop(self.queue.take());
        if let Some(thread) = self.thread.get_mut().take() {
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests;
