//! The embedded engine: one SQLite database in a folder of its own.
//!
//! Purpose: `Store` on a volume that one process holds.
//!
//! Invariants: one process per folder, by a lock that the kernel drops when the process dies; one thread writes
//! (`writer`), and everyone else reads on connections of their own (`reads`), so that no read ever holds up an accept;
//! the log is synced at every commit (`synchronous=FULL`) and the folder when the files are made; the files are the
//! owner's alone, for they hold payloads.
//!
//! Left to others: what each operation does to the tables (`accept`, `ops`, and for what it is about
//! `filing`, `gates`, `places`, `replays`, `retention`), what is told (`reads` to the dispatcher, `history` to people), what the writer remembers (`memory`), the
//! tables and their changes (`schema`), how much of the disk may be used in all (a watermark above this).

mod accept;
mod care;
mod engine;
mod filing;
mod gates;
mod history;
mod memory;
mod numbers;
mod ops;
mod places;
mod reads;
mod replays;
mod retention;
mod schema;
mod shared;
mod wal;
mod writer;

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{mpsc, oneshot};

use super::{NewEvent, Shares, StoreError, Then};
use crate::core::time::Millis;
use crate::metrics::Metrics;
use accept::Row;
pub use care::{Report, backup, check};
use memory::Memory;
use reads::Reads;
use retention::{Chunk, Cut};
use shared::Shared;
use wal::Log;
use writer::{Op, Task, Writer};

const FILE: &str = "hookstream.db";
const LOCK: &str = "hookstream.lock";
/// A read waits so long for the writer.
const FILED_WITHIN: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 1000 });

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
    /// Pages (4 KiB) of log at which they are copied into the database: 8 MiB.
    wal_pages: i64,
    /// Pages of log at which readers are waited for: 64 MiB.
    wal_most: i64,
    chunk: Chunk,
    readers: u32,
    /// An error code to be met at the next COMMIT.
    #[cfg(test)]
    fault: Arc<Mutex<Option<i32>>>,
    /// Counts checkpoints, and those that run.
    #[cfg(test)]
    checkpoints: Arc<tests::Checkpoints>,
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
        let copier = reads::connect(&path, flags).map_err(schema::open_error)?;
        let log = Log::new(shared.clone(), tuning.clone(), copier).map_err(|e| open_error(dir, &e))?;
        let writer = Writer {
            log,
            conn,
            queue: receiver,
            shared: shared.clone(),
            tuning,
            memory: Memory::default(),
            usual: 0,
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
    fn enqueue(&self, events: Vec<NewEvent>, now: Millis, answer: Then) {
        let (room, rows, bytes) = match self.room(events) {
            Ok(queued) => queued,
            Err(error) => return answer(Vec::new(), Err(error)),
        };
        room.send(Op::Accept { rows, bytes, now, answer });
        self.writer.unpark();
    }

    /// A place in the queue, for these events made ready, of so many bytes.
    fn room(&self, events: Vec<NewEvent>) -> Result<(mpsc::Permit<'_, Op>, Vec<Row>, usize), StoreError> {
        if events.iter().any(|new| new.deliveries.len() > numbers::MOST) {
            let why = format!("an event matches more than {} hooks", numbers::MOST);
            return Err(StoreError::Refused(why));
        }
        let made = events.into_iter().map(Row::new).collect::<Result<Vec<_>, _>>();
        let rows = made.map_err(|e| StoreError::Refused(e.to_string()))?;
        let queue = self.queue()?;
        let bytes = rows.iter().map(Row::bytes).sum();
        let Ok(room) = queue.try_reserve() else {
            return Err(if queue.is_closed() { self.gone() } else { StoreError::Busy });
        };
        if !self.shared.reserve(bytes, self.queue_bytes) {
            return Err(StoreError::Busy);
        }
        Ok((room, rows, bytes))
    }

    /// Lets the writer do what comes seldom, with all deliveries in their rows.
    async fn write<T: Send + 'static>(
        &self,
        run: impl Fn(&Connection, &mut Memory) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.file_all().await?;
        self.write_as_it_is(move |conn, memory| {
            filing::file_all(conn, memory)?;
            run(conn, memory)
        })
        .await
    }

    /// The same for what looks at no delivery that waits, and must succeed on a full disk.
    async fn write_as_it_is<T: Send + 'static>(
        &self,
        run: impl Fn(&Connection, &mut Memory) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.ask(|answer| Op::Other(Box::new(Task { run, result: None, answer }))).await
    }

    /// Reads deliveries, which the writer files before. Where it cannot soon, for the disk is full or slow, people are told
    /// what there is, and the dispatcher's reads find the notes.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout(FILED_WITHIN, self.file_all()).await {
            Ok(Ok(()) | Err(StoreError::Full | StoreError::Busy)) | Err(_) => self.reads.run(read).await,
            Ok(Err(error)) => Err(error),
        }
    }

    /// Has the deliveries filed that were accepted before.
    async fn file_all(&self) -> Result<(), StoreError> {
        let mut upto = None;
        while !self.shared.all_filed() {
            let some = move |conn: &Connection, memory: &mut Memory| filing::file_some(conn, memory, upto);
            let (all, more) = self.write_as_it_is(some).await?;
            if !more {
                break;
            }
            upto = Some(all);
        }
        Ok(())
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
