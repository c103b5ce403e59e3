//! Checkpoints: copies the log into the database, so that the log can restart.
//!
//! SQLite's automatic checkpoint inside COMMIT is off, because its hook drops errors and delays the replies of the
//! group. A separate thread copies most pages while the writer keeps committing. The writer copies the few remaining
//! pages between two groups, when nothing is appended. Then every page is copied, and the log restarts. If readers
//! prevent the restart until the log has `max_wal_pages` pages, the writer waits for them, so that the log is bounded
//! under any load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::failure::FailureKind;
use super::schema;
use super::shared_state::SharedState;
use super::stalls::traced;
use super::tuning::Tuning;

/// How long a checkpoint waits for readers. All operations wait for that checkpoint.
const RESTART_WAIT: Duration = Duration::from_millis(250);
/// The log's length is checked after 1/8 of the bytes at which it is copied.
const CHECK_FRACTION: usize = 8;
/// The writer itself copies the remaining pages if they are at most this fraction (1/16) of `wal_pages`. It also syncs the
/// database, and accepts wait for that.
const SMALL_FRACTION: i64 = 16;
/// The most times that the thread copies pages for one request. Each time it copies what the writer appended during the time
/// before, so that few pages are left for the writer.
const PASSES: usize = 4;
/// The log should restart at this multiple of `wal_pages`.
const RESTART_MULTIPLE: i64 = 3;
const PAGE: usize = 4096;

/// Copies the log of an earlier process and restarts it. Otherwise new frames would overwrite a torn tail in part, and
/// the rest of it would look like later transactions (see `wal_scan`). On a full disk the log stays, and this is tried
/// again at the next start.
pub(super) fn restart(conn: &Connection) {
    if let Err(error) = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
        tracing::warn!(%error, "log of the last process not copied");
    }
}

/// Bounds the log of the writer's connection.
pub(super) struct WalCheckpointer {
    shared: Arc<SharedState>,
    tuning: Tuning,
    thread: CheckpointThread,
    /// Pages of log at which the writer waits for readers.
    restart_at: i64,
    /// The estimated bytes committed since the last check.
    unchecked_bytes: usize,
    /// When a full disk last caused a checkpoint.
    last_full_disk: Option<Instant>,
}

impl WalCheckpointer {
    /// `conn`: the connection of the checkpoint thread.
    pub(super) fn new(
        shared: Arc<SharedState>,
        tuning: Tuning,
        conn: Connection,
    ) -> std::io::Result<WalCheckpointer> {
        let thread = CheckpointThread::start(conn, shared.clone(), tuning.clone())?;
        let restart_at = tuning.max_wal_pages;
        Ok(WalCheckpointer { shared, tuning, thread, restart_at, unchecked_bytes: 0, last_full_disk: None })
    }

    /// Checks the log's length and copies pages if necessary. Must run after every COMMIT, between two groups.
    pub(super) fn keep_bounded(&mut self, conn: &Connection, committed: usize) {
        let pages = self.tuning.wal_pages;
        self.unchecked_bytes = self.unchecked_bytes.saturating_add(committed);
        let check_at = usize::try_from(pages).unwrap_or(0).saturating_mul(PAGE) / CHECK_FRACTION;
        // At once after the thread has copied, because few pages are left then.
        if self.unchecked_bytes < check_at && !self.thread.take_finished() {
            return;
        }
        self.unchecked_bytes = 0;
        self.shared.measure_disk();
        let Some((_, log, copied)) = self.checkpoint(conn, "NOOP") else { return };
        let remaining = log - copied;
        let should_restart = log >= (pages * RESTART_MULTIPLE).min(self.tuning.max_wal_pages / 2);
        // Compare the log's length and not the number of uncopied pages: with overlapping readers, every page gets
        // copied, but the log never restarts.
        if log >= self.restart_at {
            // A long reader (a backup) must not delay every group. After an unsuccessful wait, the next wait comes only
            // after the log has grown by another `max_wal_pages`.
            let shortened = conn.busy_timeout(RESTART_WAIT);
            let restarted =
                shortened.is_ok() && self.checkpoint(conn, "RESTART").is_some_and(|(busy, ..)| !busy);
            drop(conn.busy_timeout(schema::BUSY));
            let next = if restarted { 0 } else { log };
            self.restart_at = self.tuning.max_wal_pages.saturating_add(next);
        } else if should_restart
            && remaining > 0
            && remaining <= pages / SMALL_FRACTION
            && self.thread.is_idle()
        {
            self.checkpoint(conn, "PASSIVE");
        } else if remaining >= pages || (should_restart && remaining > 0) {
            self.thread.request();
        }
    }

    /// Runs a checkpoint on a full disk. True: everything is copied, and the log can reuse its space. At most once a
    /// second, because it may read the whole log without success.
    pub(super) fn checkpoint_full_disk(&mut self, conn: &Connection) -> bool {
        if self.last_full_disk.is_some_and(|at| at.elapsed() <= Duration::from_secs(1)) {
            return false;
        }
        self.last_full_disk = Some(Instant::now());
        self.copy_all(conn)
    }

    /// Copies the log. True: everything is copied, and the log can reuse its space.
    pub(super) fn copy_all(&self, conn: &Connection) -> bool {
        self.checkpoint(conn, "PASSIVE").is_some_and(|(_, log, copied)| log == copied)
    }

    /// Gives free space back to the disk: truncates the log, and the database after a vacuum. An idle store would keep
    /// both until its next checkpoint. False: a reader, or a checkpoint in progress, prevented it.
    pub(super) fn shrink(&mut self, conn: &Connection) -> bool {
        // SQLite does not wait for a checkpoint of another connection.
        let started = Instant::now();
        while !self.thread.is_idle() && started.elapsed() < RESTART_WAIT {
            std::thread::sleep(Duration::from_millis(5));
        }
        let shortened = conn.busy_timeout(RESTART_WAIT);
        let is_done = shortened.is_ok() && self.checkpoint(conn, "TRUNCATE").is_some_and(|(busy, ..)| !busy);
        drop(conn.busy_timeout(schema::BUSY));
        is_done
    }

    /// Truncates the log. No other connection may be open.
    pub(super) fn truncate(&mut self, conn: &Connection) {
        self.thread.stop();
        self.checkpoint(conn, "TRUNCATE");
    }

    fn checkpoint(&self, conn: &Connection, mode: &str) -> Option<(bool, i64, i64)> {
        checkpoint(conn, mode, &self.shared, &self.tuning)
    }
}

/// The thread that copies pages while the writer keeps committing.
struct CheckpointThread {
    requests: Option<SyncSender<()>>,
    is_idle: Arc<AtomicBool>,
    /// True after a request, until the writer has seen it.
    is_finished: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl CheckpointThread {
    fn start(
        conn: Connection,
        shared: Arc<SharedState>,
        tuning: Tuning,
    ) -> std::io::Result<CheckpointThread> {
        let (requests, received) = sync_channel(1);
        let (is_idle, is_finished) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::Builder::new().name("store-log".into()).spawn({
            let (is_idle, is_finished) = (is_idle.clone(), is_finished.clone());
            move || {
                while received.recv().is_ok() {
                    copy(&conn, &shared, &tuning);
                    is_idle.store(true, Ordering::Release);
                    is_finished.store(true, Ordering::Release);
                }
            }
        })?;
        Ok(CheckpointThread { requests: Some(requests), is_idle, is_finished, thread: Some(thread) })
    }

    fn is_idle(&self) -> bool {
        self.is_idle.load(Ordering::Acquire)
    }

    /// True if a request was finished since the last call.
    fn take_finished(&self) -> bool {
        self.is_finished.load(Ordering::Acquire) && self.is_finished.swap(false, Ordering::AcqRel)
    }

    /// Requests a checkpoint unless one is in progress.
    fn request(&self) {
        if self.is_idle.swap(false, Ordering::AcqRel)
            && let Some(requests) = &self.requests
        {
            // Full: the earlier request has not started.
            requests.try_send(()).ok();
        }
    }

    fn stop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Drop for CheckpointThread {
    /// Joins the thread: another process may open the folder only after it ended.
    fn drop(&mut self) {
        self.stop();
    }
}

/// Copies pages until few are left, while the writer appends others.
fn copy(conn: &Connection, shared: &SharedState, tuning: &Tuning) {
    let mut before = None;
    for _ in 0..PASSES {
        // After a failure the content of the log is unknown.
        if shared.failure().is_some() {
            return;
        }
        let copied = traced("checkpoint", || checkpoint(conn, "PASSIVE", shared, tuning));
        let Some((_, _, copied)) = copied.filter(|(_, _, copied)| before != Some(*copied)) else { return };
        before = Some(copied);
        let left = checkpoint(conn, "NOOP", shared, tuning).map_or(0, |(_, log, copied)| log - copied);
        if left <= tuning.wal_pages / SMALL_FRACTION / 4 {
            return;
        }
    }
}

/// Runs a checkpoint (NOOP: measures only). Returns whether readers blocked it, the pages of the log, and how many of them
/// are copied.
fn checkpoint(
    conn: &Connection,
    mode: &str,
    shared: &SharedState,
    #[cfg_attr(not(test), expect(unused_variables, reason = "tests count"))] tuning: &Tuning,
) -> Option<(bool, i64, i64)> {
    #[cfg(test)]
    let _counted = super::tests::CountedCheckpoint::new(&tuning.checkpoints, mode);
    let found = conn
        .prepare_cached(&format!("PRAGMA wal_checkpoint({mode})"))
        .and_then(|mut pragma| pragma.query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))));
    match found {
        Ok(pages) => Some(pages),
        Err(e) => {
            match FailureKind::of(&e) {
                // Nothing is lost: the log keeps the pages. More events would only add pages that cannot be copied.
                FailureKind::Full => shared.set_disk_full(),
                FailureKind::Busy => tracing::warn!(error = %e, "checkpoint of the log failed"),
                FailureKind::Fatal(text) | FailureKind::Statement(text) => drop(shared.fail(text)),
            }
            None
        }
    }
}
