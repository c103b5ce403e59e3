//! The thread that owns the writing connection.
//!
//! Invariants:
//! - A result is sent after the COMMIT that covers it returned; COMMIT syncs the log.
//! - A failing operation does not fail the others of its group.
//! - After a failure that leaves the content of the disk unknown, nothing is written.
//!
//! Group commit: while one group is synced, the next one gathers in the queue, so groups grow with the latency of the
//! disk. Two short pauses avoid small commits: a group of only settlements waits for an accept, and any group waits for
//! requests whose events will be queued in a moment. Without such requests a group never waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::super::{AcceptCallback, AcceptedEvent, Settlement, StoreError};
use super::accept::{self, EventRow};
use super::cache::WriterCache;
use super::clock;
use super::exchanges;
use super::failure::FailureKind;
use super::materialize;
use super::reserve::ReserveUse;
use super::runs;
use super::shared_state::SharedState;
use super::stalls::traced;
use super::transitions;
use super::tuning::Tuning;
use super::wal::WalCheckpointer;
use crate::core::time::Millis;

/// How long a group of only settlements waits for further operations. A group with an accept does not wait, because a
/// sender waits for the response.
const SETTLE_PAUSE: Duration = Duration::from_millis(1);
/// A group of at least this many settlements commits without the pause.
const SETTLE_MANY: usize = 64;
/// How long a group waits for requests in flight. A sync costs as much CPU for one operation as for many, and more than
/// such a request needs until its events are queued.
const IN_FLIGHT_PAUSE: Duration = Duration::from_micros(200);

/// The approximate size that an operation adds to the log besides its bytes.
const OPERATION_BYTES: usize = 4096;

pub(super) type ReplySender<T> = oneshot::Sender<Result<T, StoreError>>;

/// An operation in the writer's queue.
pub(super) enum Operation {
    Accept {
        rows: Vec<EventRow>,
        bytes: usize,
        now: Millis,
        reply: AcceptCallback,
    },
    Settle {
        settlements: Vec<Settlement>,
        reply: ReplySender<Vec<bool>>,
    },
    /// A rare operation.
    Other(Box<dyn QueuedWrite>),
    /// An operation that frees space.
    Sweep(Box<dyn QueuedWrite>),
    /// Commit the queued operations, checkpoint, close.
    Stop,
}

/// An operation that keeps its own result until its group is committed. It may run twice if the first run was rolled
/// back.
pub(super) trait QueuedWrite: Send {
    fn run(&mut self, conn: &Connection, cache: &mut WriterCache) -> rusqlite::Result<()>;
    fn reply(self: Box<Self>, committed: Result<(), StoreError>);
}

/// A write as a closure.
pub(super) struct ClosureWrite<T, F> {
    pub(super) run: F,
    pub(super) result: Option<T>,
    pub(super) reply: ReplySender<T>,
}

impl<T, F> QueuedWrite for ClosureWrite<T, F>
where
    T: Send,
    F: Fn(&Connection, &mut WriterCache) -> rusqlite::Result<T> + Send,
{
    fn run(&mut self, conn: &Connection, cache: &mut WriterCache) -> rusqlite::Result<()> {
        self.result = Some((self.run)(conn, cache)?);
        Ok(())
    }

    fn reply(self: Box<Self>, committed: Result<(), StoreError>) {
        let ClosureWrite { result, reply, .. } = *self;
        drop(reply.send(committed.and_then(|()| result.ok_or(StoreError::Closed))));
    }
}

/// The result of an operation, until its group is committed.
enum OperationResult {
    Accepted(Result<Vec<AcceptedEvent>, StoreError>),
    Settled(Vec<bool>),
    Other,
}

/// The results of a group's operations, or why none of them was committed.
type GroupResult = Result<Vec<Result<OperationResult, StoreError>>, FailureKind>;

impl Operation {
    fn run(
        &mut self,
        conn: &Connection,
        cache: &mut WriterCache,
        tuning: &Tuning,
    ) -> rusqlite::Result<OperationResult> {
        // Load the set before any backlog is measured, because unmaterialized deliveries count too.
        cache.unmaterialized(conn)?;
        match self {
            Operation::Accept { rows, now, .. } => {
                accept::accept(conn, cache, rows, *now, tuning.sweep_limit.rows)
                    .map(OperationResult::Accepted)
            }
            Operation::Settle { settlements, .. } => {
                let settled = settlements.iter().map(|settlement| {
                    let settled = transitions::settle(conn, cache, settlement)?;
                    exchanges::record(conn, settlement)?;
                    Ok(settled)
                });
                settled.collect::<rusqlite::Result<_>>().map(OperationResult::Settled)
            }
            Operation::Other(write) | Operation::Sweep(write) => {
                write.run(conn, cache).map(|()| OperationResult::Other)
            }
            Operation::Stop => Ok(OperationResult::Other),
        }
    }

    /// Sends the result. Drops it if the caller no longer waits.
    fn reply(self, result: Result<OperationResult, StoreError>) {
        match (self, result) {
            (Operation::Accept { rows, reply, .. }, Ok(OperationResult::Accepted(accepted))) => {
                reply(rows.into_iter().map(|row| row.new).collect(), accepted);
            }
            (Operation::Settle { reply, .. }, Ok(OperationResult::Settled(others_due))) => {
                drop(reply.send(Ok(others_due)))
            }
            (Operation::Other(write) | Operation::Sweep(write), result) => write.reply(result.map(drop)),
            (Operation::Accept { reply, .. }, Err(e)) => reply(Vec::new(), Err(e)),
            (Operation::Settle { reply, .. }, Err(e)) => drop(reply.send(Err(e))),
            (Operation::Accept { .. } | Operation::Settle { .. } | Operation::Stop, Ok(_))
            | (Operation::Stop, Err(_)) => {}
        }
    }

    /// Returns when the operation was requested, if it is one of the frequent ones.
    fn time(&self) -> Option<Millis> {
        match self {
            Operation::Accept { now, .. } => Some(*now),
            Operation::Settle { settlements, .. } => settlements.iter().map(|settlement| settlement.at).max(),
            Operation::Other(_) | Operation::Sweep(_) | Operation::Stop => None,
        }
    }

    /// Returns the kind of operation, for traces.
    fn name(&self) -> &'static str {
        match self {
            Operation::Accept { .. } => "accept",
            Operation::Settle { .. } => "settle",
            Operation::Other(_) => "rare operation",
            Operation::Sweep(_) => "sweep",
            Operation::Stop => "stop",
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Operation::Accept { bytes, .. } => *bytes,
            Operation::Settle { .. } | Operation::Other(_) | Operation::Sweep(_) | Operation::Stop => 0,
        }
    }

    /// Returns how the operation may use the disk reserve. None: it may not.
    fn reserve_use(&self) -> Option<ReserveUse> {
        match self {
            Operation::Settle { .. } => Some(ReserveUse::Outcomes),
            Operation::Sweep(_) => Some(ReserveUse::Sweep),
            Operation::Accept { .. } | Operation::Other(_) | Operation::Stop => None,
        }
    }
}

/// Returns how long a group waits for requests in flight before it commits, of the `left` part of its pause. None: it
/// commits now.
fn in_flight_pause(in_flight: usize, left: Duration) -> Option<Duration> {
    (in_flight > 0 && !left.is_zero()).then_some(left)
}

pub(super) struct Writer {
    pub(super) conn: Connection,
    pub(super) queue: mpsc::Receiver<Operation>,
    pub(super) shared: Arc<SharedState>,
    pub(super) tuning: Tuning,
    pub(super) cache: WriterCache,
    pub(super) wal: WalCheckpointer,
    /// The commit time that is stored: see `clock`.
    pub(super) marked: Millis,
}

impl Writer {
    /// Runs until `Stop`, or until the queue is empty and has no sender.
    pub(super) fn run(mut self) {
        while let Some(first) = self.queue.blocking_recv() {
            let (group, is_stop) = self.gather(first);
            self.commit(group);
            if is_stop {
                self.finish();
                return;
            }
        }
    }

    /// Takes the queued operations, up to a group's bounds. True: `Stop` was among them.
    fn gather(&mut self, first: Operation) -> (Vec<Operation>, bool) {
        let mut group = Vec::new();
        let (mut bytes, mut settlement_count, mut waited) = (0, 0, false);
        let mut pause_left = IN_FLIGHT_PAUSE;
        let mut next = Some(first);
        while let Some(op) = next.take() {
            if matches!(op, Operation::Stop) {
                return (group, true);
            }
            bytes += op.bytes();
            self.shared.release_bytes(op.bytes());
            let only_settlements = match &op {
                Operation::Settle { settlements, .. } => {
                    settlement_count += settlements.len();
                    !waited && settlement_count < SETTLE_MANY
                }
                _ => {
                    waited = true;
                    false
                }
            };
            group.push(op);
            // Limit bytes too: a thousand events of 1 MiB in one transaction would fill the log and delay every caller.
            if group.len() < self.tuning.group && bytes < self.tuning.group_bytes {
                next = self.queue.try_recv().ok();
                if next.is_none() && only_settlements {
                    waited = true;
                    next = self.wait_for_accept();
                }
                while next.is_none()
                    && let Some(pause) = in_flight_pause(self.shared.in_flight.get(), pause_left)
                {
                    let started = Instant::now();
                    self.shared.in_flight.wait_for_none(pause);
                    pause_left = pause_left.saturating_sub(started.elapsed());
                    next = self.queue.try_recv().ok();
                }
            }
        }
        (group, false)
    }

    /// Returns the next operation, for which it waits at most `SETTLE_PAUSE`. An accept ends the wait.
    fn wait_for_accept(&mut self) -> Option<Operation> {
        self.shared.set_awaits_accept(true);
        let queued = self.queue.try_recv().ok();
        if queued.is_none() {
            std::thread::park_timeout(SETTLE_PAUSE);
        }
        self.shared.set_awaits_accept(false);
        queued.or_else(|| self.queue.try_recv().ok())
    }

    /// Commits a group and sends the results.
    fn commit(&mut self, mut group: Vec<Operation>) {
        if group.is_empty() {
            return;
        }
        if let Some(failure) = self.shared.failure() {
            group.into_iter().for_each(|op| op.reply(Err(failure.clone())));
            return;
        }
        let (started, bytes) = (Instant::now(), group.iter().map(|op| op.bytes() + OPERATION_BYTES).sum());
        let has_events = group.iter().any(|op| matches!(op, Operation::Accept { .. }));
        let has_space_for_runs =
            !self.shared.is_disk_full() && !self.shared.lacks_space(bytes + 2 * runs::MAX_SLICE_BYTES);
        self.cache.set_run_work(has_space_for_runs);
        self.cache.outcomes.set_enabled(has_space_for_runs);
        // Events then need work on runs that succeeds. Otherwise the keys and ids in memory would not be bounded.
        let needs_slice = has_events && self.cache.is_memory_full();
        let lacks_space = has_events && self.shared.lacks_space(bytes) || needs_slice && !has_space_for_runs;
        let mut results = if lacks_space { Err(FailureKind::Full) } else { self.try_commit(&mut group) };
        if !lacks_space
            && matches!(results, Err(FailureKind::Full))
            && self.cache.postpone_run_work()
            && !needs_slice
        {
            results = self.try_commit(&mut group);
        }
        if matches!(results, Err(FailureKind::Full)) {
            self.cache.set_run_work(false);
            self.cache.outcomes.set_enabled(false);
            (group, results) = self.commit_on_full_disk(group, !lacks_space && !needs_slice);
            if group.is_empty() {
                return;
            }
        }
        match results {
            Ok(results) => {
                self.shared.record_commit(group.len(), started.elapsed());
                // Set this before the replies, because a read after a reply must find the delivery.
                self.shared.set_all_materialized(self.cache.is_all_materialized());
                self.shared.set_key_bytes(self.cache.run_bytes());
                for (op, result) in group.into_iter().zip(results) {
                    op.reply(result);
                }
                let bytes = bytes + self.cache.run_work_bytes();
                traced("checkpoint by the writer", || self.wal.keep_bounded(&self.conn, bytes));
            }
            Err(failure) => {
                let error = match failure {
                    FailureKind::Fatal(text) => self.shared.fail(text),
                    other => other.into(),
                };
                group.into_iter().for_each(|op| op.reply(Err(error.clone())));
            }
        }
        if self.shared.take_shrink_request() && self.shared.failure().is_none() {
            let is_shrunk = traced("shrink", || self.wal.shrink(&self.conn));
            self.shared.set_unshrunk(!is_shrunk);
        }
    }

    /// Runs and commits a group. If a statement fails, repeats the group so that only that operation is refused.
    fn try_commit(&mut self, group: &mut [Operation]) -> GroupResult {
        match self.transaction(group, false) {
            Err(FailureKind::Statement(_)) => self.transaction(group, true),
            other => other,
        }
    }

    /// Repeats a group for which the disk has no space. Copies the log first, so that it can restart and reuse its
    /// space. If that is not enough, or `may_fit` is not set, refuses the operations that may not use the reserve, and
    /// releases the reserve for the others.
    ///
    /// Returns the operations that are not answered yet, and their results.
    fn commit_on_full_disk(
        &mut self,
        mut group: Vec<Operation>,
        may_fit: bool,
    ) -> (Vec<Operation>, GroupResult) {
        if may_fit && self.wal.checkpoint_full_disk(&self.conn) {
            let results = self.try_commit(&mut group);
            if !matches!(results, Err(FailureKind::Full)) {
                return (group, results);
            }
        }
        self.shared.set_disk_full();
        let (refused, mut group): (Vec<_>, Vec<_>) =
            group.into_iter().partition(|op| op.reserve_use().is_none());
        let was_divided = !refused.is_empty();
        refused.into_iter().for_each(|op| op.reply(Err(StoreError::Full)));
        let Some(reserve_use) = group.iter().filter_map(Operation::reserve_use).max() else {
            return (group, Ok(Vec::new()));
        };
        let mut results = Err(FailureKind::Full);
        if was_divided {
            results = self.try_commit(&mut group);
        }
        if matches!(results, Err(FailureKind::Full)) && self.shared.release_reserve(reserve_use) {
            // First the log: if the released space went to more of it, it could never be copied.
            self.wal.copy_all(&self.conn);
            results = self.try_commit(&mut group);
        }
        (group, results)
    }

    /// Runs a group and commits it, or rolls it back.
    fn transaction(&mut self, group: &mut [Operation], one_by_one: bool) -> GroupResult {
        let result = self.run_group(group, one_by_one);
        if result.is_err() {
            // The cached row ids may belong to rows that were rolled back.
            self.cache.clear();
            self.cache.roll_back_runs();
            self.cache.outcomes.roll_back();
            // SQLite may have rolled back itself, which it does on a full disk.
            if !self.conn.is_autocommit()
                && let Err(e) = self.conn.execute_batch("ROLLBACK")
            {
                return Err(FailureKind::Fatal(format!("cannot roll back: {e}")));
            }
        }
        result
    }

    /// Runs the operations and commits. `one_by_one`: each in a savepoint, so that a failing one is refused alone.
    fn run_group(&mut self, group: &mut [Operation], one_by_one: bool) -> GroupResult {
        self.execute("BEGIN IMMEDIATE")?;
        self.cache.shares = self.shared.shares();
        let now = group.iter().filter_map(Operation::time).max();
        let mut results = Vec::with_capacity(group.len());
        for op in group {
            if !one_by_one {
                let result = traced(op.name(), || op.run(&self.conn, &mut self.cache, &self.tuning));
                results.push(Ok(result.map_err(|e| FailureKind::of(&e))?));
                continue;
            }
            self.execute("SAVEPOINT one")?;
            let savepoint = (self.cache.run_savepoint(), self.cache.outcomes.savepoint());
            match op.run(&self.conn, &mut self.cache, &self.tuning).map_err(|e| FailureKind::of(&e)) {
                Ok(result) => {
                    // Write the counts now: the rollback of a later operation clears the cache.
                    self.cache.flush(&self.conn).map_err(|e| FailureKind::of(&e))?;
                    results.push(Ok(result));
                }
                Err(FailureKind::Statement(text)) => {
                    tracing::warn!(reason = %text, "store operation refused");
                    self.cache.clear();
                    self.cache.roll_back_runs_to(savepoint.0);
                    self.cache.outcomes.roll_back_to(savepoint.1);
                    self.execute("ROLLBACK TO one")?;
                    results.push(Err(StoreError::Refused(text)));
                }
                Err(other) => return Err(other),
            }
            self.execute("RELEASE one")?;
        }
        let lag = self.tuning.watermark_lag;
        let enforce = || materialize::enforce_bounds(&self.conn, &mut self.cache, lag);
        let watermark = traced("materialize", enforce).map_err(|e| FailureKind::of(&e))?;
        let merge = || self.cache.outcomes.work(&self.conn, watermark);
        traced("outcomes", merge).map_err(|e| FailureKind::of(&e))?;
        if let Some(now) = now
            && now.0.abs_diff(self.marked.0) >= clock::MARK_INTERVAL
        {
            clock::mark_commit(&self.conn, now).map_err(|e| FailureKind::of(&e))?;
            self.marked = now;
        }
        traced("work on runs", || self.cache.work_on_runs(&self.conn, now))
            .map_err(|e| FailureKind::of(&e))?;
        let last_event = self.cache.unmaterialized(&self.conn).map_err(|e| FailureKind::of(&e))?.last_event();
        self.cache.flush(&self.conn).map_err(|e| FailureKind::of(&e))?;
        #[cfg(test)]
        if let Some(code) = *self.tuning.fault.lock() {
            return Err(FailureKind::of_commit(&rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(code),
                None,
            )));
        }
        let commit = || self.conn.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([]));
        match traced("commit", commit) {
            Ok(_) => {
                self.cache.commit_runs(last_event);
                self.cache.outcomes.commit();
                Ok(results)
            }
            Err(e) => Err(FailureKind::of_commit(&e)),
        }
    }

    /// Executes one cached statement.
    fn execute(&self, sql: &str) -> Result<(), FailureKind> {
        let run = self.conn.prepare_cached(sql).and_then(|mut statement| statement.execute([]));
        run.map(drop).map_err(|e| FailureKind::of(&e))
    }

    /// Commits the operations queued before the close, and truncates the log.
    fn finish(mut self) {
        self.queue.close();
        while let Some(first) = self.queue.blocking_recv() {
            let (group, _) = self.gather(first);
            self.commit(group);
        }
        if self.shared.failure().is_none() {
            // Materialize, so that the next start finds rows. If there is no space for rows, the next start reads the
            // notes.
            let (reply, _) = oneshot::channel();
            self.commit(vec![Operation::Other(Box::new(ClosureWrite {
                run: materialize::materialize_all,
                result: None,
                reply,
            }))]);
            self.wal.truncate(&self.conn);
            // Lets SQLite remove the empty log, so that a copy of the database file alone is complete.
            let no_checkpoint = rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
            drop(self.conn.set_db_config(no_checkpoint, self.shared.failure().is_some()));
        }
        if let Err((_, e)) = self.conn.close() {
            tracing::warn!(reason = %e, "store did not close cleanly, accepted events are kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_waits_only_for_requests_in_flight_and_not_longer_than_its_pause() {
        assert_eq!(in_flight_pause(0, IN_FLIGHT_PAUSE), None, "a single caller never waits");
        assert_eq!(in_flight_pause(3, IN_FLIGHT_PAUSE), Some(IN_FLIGHT_PAUSE));
        let left = Duration::from_micros(50);
        assert_eq!(in_flight_pause(1, left), Some(left), "the pauses of a group add up to one");
        assert_eq!(in_flight_pause(1, Duration::ZERO), None);
    }
}
