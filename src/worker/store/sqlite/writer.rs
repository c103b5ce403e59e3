//! The thread that owns the writing connection.
//!
//! Invariants: an answer is sent after the COMMIT that covers it returned, and COMMIT syncs the log; an operation that
//! cannot be done takes no other with it; after a failure that leaves the disk unknown nothing is written any more.
//!
//! Group commit: while one group is synced the next one gathers in the queue, so the groups are as big as the disk is slow.
//! Two short pauses spare commits that would carry next to nothing: outcomes alone wait for an accept, and a group that
//! begins much smaller than groups were of late waits for those who are on their way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::super::{Accepted, Settlement, StoreError, Then};
use super::Tuning;
use super::accept::{self, Row};
use super::filing;
use super::memory::Memory;
use super::ops;
use super::shared::{Shared, Trouble};
use super::wal::Log;
use crate::core::time::Millis;

/// Outcomes alone wait so long for company: whoever accepts is waited for by its sender, an outcome by nobody.
const SETTLE_PAUSE: Duration = Duration::from_millis(1);
/// So many of them need no company.
const SETTLE_MANY: usize = 64;
/// A group that begins much smaller than groups were of late waits so long for those who are on their way: a commit for
/// each few of them would cost more than the wait. Who is alone does not wait.
const GATHER_PAUSE: Duration = Duration::from_micros(200);

/// About what an operation adds to the log besides its bytes.
const LOGGED: usize = 4096;

pub(super) type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the writer is asked.
pub(super) enum Op {
    Accept {
        rows: Vec<Row>,
        bytes: usize,
        now: Millis,
        answer: Then,
    },
    Settle {
        settlements: Vec<Settlement>,
        answer: Answer<Vec<bool>>,
    },
    /// What comes seldom.
    Other(Box<dyn Job>),
    /// Commit what is queued, checkpoint, close.
    Stop,
}

/// An operation that keeps its own result until its group is committed. It may be run twice: then the first time was
/// rolled back.
pub(super) trait Job: Send {
    fn run(&mut self, conn: &Connection, memory: &mut Memory) -> rusqlite::Result<()>;
    fn answer(self: Box<Self>, done: Result<(), StoreError>);
}

/// A job by a function.
pub(super) struct Task<T, F> {
    pub(super) run: F,
    pub(super) result: Option<T>,
    pub(super) answer: Answer<T>,
}

impl<T, F> Job for Task<T, F>
where
    T: Send,
    F: Fn(&Connection, &mut Memory) -> rusqlite::Result<T> + Send,
{
    fn run(&mut self, conn: &Connection, memory: &mut Memory) -> rusqlite::Result<()> {
        self.result = Some((self.run)(conn, memory)?);
        Ok(())
    }

    fn answer(self: Box<Self>, done: Result<(), StoreError>) {
        let Task { result, answer, .. } = *self;
        drop(answer.send(done.and_then(|()| result.ok_or(StoreError::Closed))));
    }
}

/// What an operation gave, until its group is committed.
enum Done {
    Accepted(Result<Vec<Accepted>, StoreError>),
    Settled(Vec<bool>),
    Other,
}

impl Op {
    fn run(&mut self, conn: &Connection, memory: &mut Memory, tuning: &Tuning) -> rusqlite::Result<Done> {
        // Before anything is counted: what has no row waits too.
        memory.filing(conn)?;
        match self {
            Op::Accept { rows, now, .. } => {
                accept::accept(conn, memory, rows, *now, tuning.chunk.rows).map(Done::Accepted)
            }
            Op::Settle { settlements, .. } => {
                let settled = settlements.iter().map(|one| ops::settle(conn, memory, one));
                settled.collect::<rusqlite::Result<_>>().map(Done::Settled)
            }
            Op::Other(job) => job.run(conn, memory).map(|()| Done::Other),
            Op::Stop => Ok(Done::Other),
        }
    }

    /// Nobody may wait for it any more: then the answer is dropped.
    fn answer(self, result: Result<Done, StoreError>) {
        match (self, result) {
            (Op::Accept { rows, answer, .. }, Ok(Done::Accepted(accepted))) => {
                answer(rows.into_iter().map(|row| row.new).collect(), accepted);
            }
            (Op::Settle { answer, .. }, Ok(Done::Settled(woken))) => drop(answer.send(Ok(woken))),
            (Op::Other(job), result) => job.answer(result.map(drop)),
            (Op::Accept { answer, .. }, Err(e)) => answer(Vec::new(), Err(e)),
            (Op::Settle { answer, .. }, Err(e)) => drop(answer.send(Err(e))),
            (Op::Accept { .. } | Op::Settle { .. } | Op::Stop, Ok(_)) | (Op::Stop, Err(_)) => {}
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Op::Accept { bytes, .. } => *bytes,
            Op::Settle { .. } | Op::Other(_) | Op::Stop => 0,
        }
    }
}

pub(super) struct Writer {
    pub(super) conn: Connection,
    pub(super) queue: mpsc::Receiver<Op>,
    pub(super) shared: Arc<Shared>,
    pub(super) tuning: Tuning,
    pub(super) memory: Memory,
    pub(super) log: Log,
    /// How many operations groups have had of late.
    pub(super) usual: usize,
}

impl Writer {
    /// Works until told to stop, or until nobody can ask any more and the queue is empty.
    pub(super) fn run(mut self) {
        while let Some(first) = self.queue.blocking_recv() {
            let (group, stop) = self.gather(first);
            self.commit(group);
            if stop {
                self.finish();
                return;
            }
        }
    }

    /// What waits in the queue, up to a group's bounds; true where it was told to stop.
    fn gather(&mut self, first: Op) -> (Vec<Op>, bool) {
        let mut group = Vec::new();
        let (mut bytes, mut outcomes, mut waited, mut gathered) = (0, 0, false, false);
        let mut next = Some(first);
        while let Some(op) = next.take() {
            if matches!(op, Op::Stop) {
                return (group, true);
            }
            bytes += op.bytes();
            self.shared.release(op.bytes());
            let only_outcomes = match &op {
                Op::Settle { settlements, .. } => {
                    outcomes += settlements.len();
                    !waited && outcomes < SETTLE_MANY
                }
                _ => {
                    waited = true;
                    false
                }
            };
            group.push(op);
            // Bytes too: a thousand events of 1 MiB in one transaction would fill the log and hold everyone up.
            if group.len() < self.tuning.group && bytes < self.tuning.group_bytes {
                next = self.queue.try_recv().ok();
                if next.is_none() && only_outcomes {
                    waited = true;
                    // Who accepts ends the pause.
                    std::thread::park_timeout(SETTLE_PAUSE);
                    next = self.queue.try_recv().ok();
                }
                if next.is_none() && !gathered && group.len() * 2 < self.usual {
                    gathered = true;
                    std::thread::sleep(GATHER_PAUSE);
                    next = self.queue.try_recv().ok();
                }
            }
        }
        // Follows what comes, slowly enough that one small group does not end it.
        self.usual = (self.usual * 3 + group.len()) / 4;
        (group, false)
    }

    fn commit(&mut self, mut group: Vec<Op>) {
        if group.is_empty() {
            return;
        }
        if let Some(failure) = self.shared.failure() {
            group.into_iter().for_each(|op| op.answer(Err(failure.clone())));
            return;
        }
        let (begun, bytes) = (Instant::now(), group.iter().map(|op| op.bytes() + LOGGED).sum());
        let done = match self.transaction(&mut group, false) {
            // Someone's statement failed: again, each one on its own, so that only that one is refused.
            Err(Trouble::One(_)) => self.transaction(&mut group, true),
            other => other,
        };
        match done {
            Ok(done) => {
                self.shared.committed(group.len(), begun.elapsed());
                // Before the answers: who was answered and reads then must find it.
                self.shared.set_all_filed(self.memory.all_filed());
                for (op, result) in group.into_iter().zip(done) {
                    op.answer(result);
                }
                self.log.keep_short(&self.conn, bytes);
            }
            Err(trouble) => {
                let full = trouble == Trouble::Full;
                let error = match trouble {
                    Trouble::Fatal(text) => self.shared.fail(text),
                    other => other.into(),
                };
                group.into_iter().for_each(|op| op.answer(Err(error.clone())));
                if full {
                    self.log.make_room(&self.conn);
                }
            }
        }
    }

    /// Runs a group and commits it, or leaves nothing of it.
    fn transaction(
        &mut self,
        group: &mut [Op],
        one_by_one: bool,
    ) -> Result<Vec<Result<Done, StoreError>>, Trouble> {
        let result = self.attempt(group, one_by_one);
        if result.is_err() {
            // The rows behind the numbers may be gone.
            self.memory.clear();
            // SQLite may have rolled back by itself (it does on a full disk).
            if !self.conn.is_autocommit()
                && let Err(e) = self.conn.execute_batch("ROLLBACK")
            {
                return Err(Trouble::Fatal(format!("cannot roll back: {e}")));
            }
        }
        result
    }

    fn attempt(
        &mut self,
        group: &mut [Op],
        one_by_one: bool,
    ) -> Result<Vec<Result<Done, StoreError>>, Trouble> {
        self.batch("BEGIN IMMEDIATE")?;
        self.memory.shares = self.shared.shares();
        let mut done = Vec::with_capacity(group.len());
        for op in group {
            if !one_by_one {
                let result = op.run(&self.conn, &mut self.memory, &self.tuning);
                done.push(Ok(result.map_err(|e| Trouble::of(&e))?));
                continue;
            }
            self.batch("SAVEPOINT one")?;
            match op.run(&self.conn, &mut self.memory, &self.tuning).map_err(|e| Trouble::of(&e)) {
                Ok(result) => {
                    // Written before the next begins: should that be refused, what this one counted is on the tables.
                    self.memory.flush(&self.conn).map_err(|e| Trouble::of(&e))?;
                    done.push(Ok(result));
                }
                Err(Trouble::One(text)) => {
                    tracing::warn!(reason = %text, "an operation on the store was refused");
                    self.memory.clear();
                    self.batch("ROLLBACK TO one")?;
                    done.push(Err(StoreError::Refused(text)));
                }
                Err(other) => return Err(other),
            }
            self.batch("RELEASE one")?;
        }
        filing::keep_up(&self.conn, &mut self.memory).map_err(|e| Trouble::of(&e))?;
        self.memory.flush(&self.conn).map_err(|e| Trouble::of(&e))?;
        #[cfg(test)]
        if let Some(code) = self.tuning.fault.lock().take() {
            return Err(Trouble::at_commit(&rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(code),
                None,
            )));
        }
        match self.conn.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([])) {
            Ok(_) => Ok(done),
            Err(e) => Err(Trouble::at_commit(&e)),
        }
    }

    fn batch(&self, sql: &str) -> Result<(), Trouble> {
        let run = self.conn.prepare_cached(sql).and_then(|mut statement| statement.execute([]));
        run.map(drop).map_err(|e| Trouble::of(&e))
    }

    /// Commits what was queued before the queue closed, and leaves a database without a log.
    fn finish(mut self) {
        self.queue.close();
        while let Some(first) = self.queue.blocking_recv() {
            let (group, _) = self.gather(first);
            self.commit(group);
        }
        if self.shared.failure().is_none() {
            // So that the next start finds rows. Where there is no room for them, it finds the notes.
            let (answer, _) = oneshot::channel();
            self.commit(vec![Op::Other(Box::new(Task { run: filing::file_all, result: None, answer }))]);
            self.log.end(&self.conn);
            // Lets SQLite remove the empty log, so that the one file is all there is to copy.
            let clean = rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
            drop(self.conn.set_db_config(clean, self.shared.failure().is_some()));
        }
        if let Err((_, e)) = self.conn.close() {
            tracing::warn!(reason = %e, "the store did not close cleanly; what was accepted is kept");
        }
    }
}
