//! The connections for users' queries: few, with threads of their own, divided fairly between namespaces.
//!
//! Users' queries must not delay deliveries. So they share no connection with the dispatcher, and on Linux their threads
//! have a low priority: when the processors are busy, deliveries come first and lists take longer.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::oneshot;

use super::super::StoreError;
use super::super::read_slots::{ReadSlot, ReadSlots};
use super::readers::{self, connect};
use super::shared_state::SharedState;

/// The nice value of the threads. Beside busy threads of normal priority, each gets about a tenth of a processor.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

/// A query. Keeps its slot until it has run.
type QueryJob = Box<dyn FnOnce(&Connection) + Send>;

pub(super) struct HistoryReaders {
    slots: ReadSlots,
    /// None: closed.
    jobs: Mutex<Option<mpsc::Sender<QueryJob>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    shared: Arc<SharedState>,
}

impl HistoryReaders {
    pub(super) fn open(
        path: &Path,
        count: usize,
        max_queued: usize,
        shared: Arc<SharedState>,
    ) -> Result<Self, StoreError> {
        let (jobs, received) = mpsc::channel::<QueryJob>();
        let received = Arc::new(Mutex::new(received));
        let mut threads = Vec::new();
        for _ in 0..count {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let conn = connect(path, flags).map_err(super::schema::open_error)?;
            let received = received.clone();
            let thread = std::thread::Builder::new()
                .name("store-history".into())
                .spawn(move || run(&conn, &received))
                .map_err(|e| super::files::open_error(path, &e))?;
            threads.push(thread);
        }
        let slots = ReadSlots::new(count, max_queued);
        Ok(HistoryReaders { slots, jobs: Mutex::new(Some(jobs)), threads: Mutex::new(threads), shared })
    }

    /// Waits for a slot. Fails if too many queries wait and this namespace has the most of them.
    pub(super) async fn acquire(&self, namespace: &str) -> Result<ReadSlot, StoreError> {
        self.shared.check_usable()?;
        self.slots.acquire(namespace).await
    }

    /// Runs a query in a slot.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        slot: ReadSlot,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, result) = oneshot::channel();
        let shared = self.shared.clone();
        let job: QueryJob = Box::new(move |conn| {
            // The client may have disconnected meanwhile.
            if !reply.is_closed() {
                let outcome = read(conn).map_err(|e| readers::read_error(&shared, &e));
                drop(reply.send(outcome));
            }
            drop(slot);
        });
        // There is a thread for each slot, so the job starts at once.
        let sent = self.jobs.lock().as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        if !sent {
            return Err(StoreError::Closed);
        }
        result.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Returns the number of queries that wait for a slot.
    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.slots.queued()
    }

    /// Rejects waiting queries, waits for those in progress, and closes the connections. Blocks for as long as a query may
    /// take.
    pub(super) fn close(&self) {
        drop(self.jobs.lock().take());
        self.slots.reject_waiting();
        let threads = std::mem::take(&mut *self.threads.lock());
        threads.into_iter().for_each(|thread| drop(thread.join()));
    }
}

impl Drop for HistoryReaders {
    /// Joins the threads: another process may open the folder only after their connections are closed.
    fn drop(&mut self) {
        self.close();
    }
}

/// Runs queries until the sender is dropped.
fn run(conn: &Connection, jobs: &Mutex<mpsc::Receiver<QueryJob>>) {
    // On Linux, a nice value belongs to a thread. Without the right to set it, queries still work.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE) {
        tracing::debug!(%error, "priority of a history thread not lowered");
    }
    loop {
        let next = jobs.lock().recv();
        let Ok(job) = next else { return };
        job(conn);
    }
}
