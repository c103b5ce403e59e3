//! Pools of reading connections, in the order of requests: one for the dispatcher, one for maintenance. Users' queries
//! have their own (`history_readers`).

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

use super::super::StoreError;
use super::failure::FailureKind;
use super::schema;
use super::shared_state::SharedState;

/// A few connections; each read borrows one.
pub(super) struct ReaderPool {
    free: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
    count: u32,
    shared: Arc<SharedState>,
}

impl ReaderPool {
    pub(super) fn open(path: &Path, count: u32, shared: Arc<SharedState>) -> rusqlite::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut free = Vec::new();
        for _ in 0..count {
            free.push(connect(path, flags)?);
        }
        let permits = Arc::new(Semaphore::new(free.len()));
        Ok(ReaderPool { free: Mutex::new(free), permits, count, shared })
    }

    /// Runs a read on a blocking thread.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.shared.check_usable()?;
        // Take a permit first, so that queued reads do not fill the pool of blocking threads. The permit moves into the
        // read, because a connection is free only after the read has ended, even if the caller was dropped.
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let this = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let conn = this.free.lock().pop().ok_or(StoreError::Closed)?;
            let result = read(&conn);
            this.free.lock().push(conn);
            result.map_err(|e| read_error(&this.shared, &e))
        });
        done.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Waits for the reads in progress and closes the connections.
    pub(super) async fn close(&self) {
        let all = self.permits.acquire_many(self.count).await;
        self.permits.close();
        self.free.lock().clear();
        drop(all);
    }
}

/// Returns the error of a failed read. Ends the store if the content of the disk is unknown.
pub(super) fn read_error(shared: &SharedState, error: &rusqlite::Error) -> StoreError {
    match FailureKind::of(error) {
        FailureKind::Fatal(text) => shared.fail(text),
        other => other.into(),
    }
}

/// Opens a connection in addition to the writer's.
pub(super) fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(path, flags)?;
    schema::tune(&conn)?;
    // Open the log and its index now. Later the process may be out of file descriptors, and the store would look
    // broken.
    conn.query_row("SELECT count(*) FROM meta", [], |_| Ok(()))?;
    Ok(conn)
}
