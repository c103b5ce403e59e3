//! The log, copied into the database so that it can begin again.
//!
//! Not by SQLite inside COMMIT: its errors would not be seen (SQLite's own hook drops them), and the answers of the group
//! would wait for it. Most is copied by a thread of its own while the writer goes on; the little that came meanwhile is
//! copied by the writer between two groups, when nobody appends: then all is copied, and the log begins again. If readers
//! hold it for so long that it has grown to `wal_most` pages, they are waited for, so that it is bounded under any load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::Tuning;
use super::schema;
use super::shared::{Shared, Trouble};

/// How long a checkpoint waits for readers, while everyone waits for it.
const RESTART_WAIT: Duration = Duration::from_millis(250);
/// After how many bytes the log is looked at, as a share of those at which it is copied.
const LOOKS: usize = 8;
/// So small a share of `wal_pages` is copied by the writer itself.
const LITTLE: i64 = 8;
/// At so many times `wal_pages` the log is to begin again.
const AGAIN: i64 = 3;
const PAGE: usize = 4096;

/// The log of the writer's connection.
pub(super) struct Log {
    shared: Arc<Shared>,
    tuning: Tuning,
    helper: Helper,
    /// Pages at which readers are waited for.
    restart_at: i64,
    /// Bytes that were committed since it was last looked at, at least.
    unlooked: usize,
    /// When a checkpoint was last tried because the disk was full.
    made_room: Option<Instant>,
}

impl Log {
    /// `conn`: a connection for the thread.
    pub(super) fn new(shared: Arc<Shared>, tuning: Tuning, conn: Connection) -> std::io::Result<Log> {
        let helper = Helper::start(conn, shared.clone(), tuning.clone())?;
        let restart_at = tuning.wal_most;
        Ok(Log { shared, tuning, helper, restart_at, unlooked: 0, made_room: None })
    }

    /// Comes after every COMMIT, between two groups.
    pub(super) fn keep_short(&mut self, conn: &Connection, committed: usize) {
        let pages = self.tuning.wal_pages;
        self.unlooked = self.unlooked.saturating_add(committed);
        if self.unlooked < usize::try_from(pages).unwrap_or(0).saturating_mul(PAGE) / LOOKS {
            return;
        }
        self.unlooked = 0;
        let Some((_, log, copied)) = self.checkpoint(conn, "NOOP") else { return };
        let left = log - copied;
        let again = log >= (pages * AGAIN).min(self.tuning.wal_most / 2);
        // The log's length and not what is left to copy: under readers that overlap all of it is copied again and
        // again, and it still never starts from its beginning.
        if log >= self.restart_at {
            // Somebody who reads for long (a backup) must not stop every group: after one wait in vain the log may grow
            // by as much again before the next.
            let short = conn.busy_timeout(RESTART_WAIT);
            let restarted = short.is_ok() && self.checkpoint(conn, "RESTART").is_some_and(|(busy, ..)| !busy);
            drop(conn.busy_timeout(schema::BUSY));
            let next = if restarted { 0 } else { log };
            self.restart_at = self.tuning.wal_most.saturating_add(next);
        } else if again && left > 0 && left <= pages / LITTLE && self.helper.is_idle() {
            self.checkpoint(conn, "PASSIVE");
        } else if left >= pages || (again && left > 0) {
            self.helper.ask();
        }
    }

    /// With the disk full, a checkpoint lets the log begin again in the room it has: a sweep can then go on. Not more
    /// often than once a second, for it may read the whole log in vain.
    pub(super) fn make_room(&mut self, conn: &Connection) {
        if self.made_room.is_none_or(|at| at.elapsed() > Duration::from_secs(1)) {
            self.made_room = Some(Instant::now());
            self.checkpoint(conn, "PASSIVE");
        }
    }

    /// Leaves no log. Nobody may read or write any more.
    pub(super) fn end(&mut self, conn: &Connection) {
        self.helper.stop();
        self.checkpoint(conn, "TRUNCATE");
    }

    fn checkpoint(&self, conn: &Connection, mode: &str) -> Option<(bool, i64, i64)> {
        checkpoint(conn, mode, &self.shared, &self.tuning)
    }
}

/// The thread that copies while the writer goes on.
struct Helper {
    ask: Option<SyncSender<()>>,
    idle: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Helper {
    fn start(conn: Connection, shared: Arc<Shared>, tuning: Tuning) -> std::io::Result<Helper> {
        let (ask, asked) = sync_channel(1);
        let idle = Arc::new(AtomicBool::new(true));
        let thread = std::thread::Builder::new().name("store-log".into()).spawn({
            let idle = idle.clone();
            move || help(&conn, &asked, &idle, &shared, &tuning)
        })?;
        Ok(Helper { ask: Some(ask), idle, thread: Some(thread) })
    }

    fn is_idle(&self) -> bool {
        self.idle.load(Ordering::Acquire)
    }

    fn ask(&self) {
        if self.idle.swap(false, Ordering::AcqRel)
            && let Some(ask) = &self.ask
        {
            // Full: it was asked before, and has not begun.
            ask.try_send(()).ok();
        }
    }

    fn stop(&mut self) {
        drop(self.ask.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Drop for Helper {
    /// Not before it ended may the folder be another's.
    fn drop(&mut self) {
        self.stop();
    }
}

fn help(conn: &Connection, asked: &Receiver<()>, idle: &AtomicBool, shared: &Shared, tuning: &Tuning) {
    while asked.recv().is_ok() {
        // After a failure nobody knows what the log is.
        if shared.failure().is_none() {
            checkpoint(conn, "PASSIVE", shared, tuning);
        }
        idle.store(true, Ordering::Release);
    }
}

/// Copies the log into the database (NOOP: only looks); whether readers were in the way, how many pages
/// the log has, and how many of them are copied.
fn checkpoint(
    conn: &Connection,
    mode: &str,
    shared: &Shared,
    #[cfg_attr(not(test), expect(unused_variables, reason = "tests count"))] tuning: &Tuning,
) -> Option<(bool, i64, i64)> {
    #[cfg(test)]
    let _counted = super::tests::Counted::new(&tuning.checkpoints, mode);
    let found = conn
        .prepare_cached(&format!("PRAGMA wal_checkpoint({mode})"))
        .and_then(|mut pragma| pragma.query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))));
    match found {
        Ok(pages) => Some(pages),
        Err(e) => {
            match Trouble::of(&e) {
                // The log keeps what could not be copied: nothing is lost, it only grows.
                trouble @ (Trouble::Full | Trouble::Busy) => {
                    tracing::warn!(?trouble, "the log could not be copied into the database");
                }
                Trouble::Fatal(text) | Trouble::One(text) => drop(shared.fail(text)),
            }
            None
        }
    }
}
