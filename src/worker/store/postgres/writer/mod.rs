//! The two writers of a process: one commits accepted events, one the outcomes of attempts, each in groups.
//!
//! Everything that waits while a transaction runs becomes the next group. A transaction that lost a deadlock is repeated with
//! the same sequence numbers. If the answer to a COMMIT is lost, the group is repeated too: its first statement counts the
//! writer's groups, so it learns whether the lost one committed, and waits for it if it is still being committed. Nothing
//! cancels a COMMIT.

mod accepts;
mod outcomes;

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::types::Type;

pub(super) use accepts::{AcceptWriter, QueuedAccept};
pub(super) use outcomes::{OutcomeWriter, QueuedOutcomes};

use super::connections::Connections;
use super::failure::DbError;
use super::session::{Session, Transaction};
use crate::core::time::Millis;

/// Events or outcomes in one transaction. More would make the first ones wait.
const GROUP_ROWS: usize = 1000;
/// Bytes of events in one transaction.
const GROUP_BYTES: usize = 8 << 20;
/// The wait before a group is repeated while the database is away.
const RETRY: Duration = Duration::from_millis(200);
/// How often a group that loses deadlocks is repeated at once.
const CONFLICTS: usize = 10;

/// A writer's row, by which it learns what committed.
pub(super) struct WriterRow {
    connections: Arc<Connections>,
    worker: i64,
    id: i64,
    /// The number of its committed groups.
    groups: i64,
    /// The time of the last commit that it stored.
    marked: Millis,
    /// What its groups contain, for the log.
    contents: &'static str,
    /// True if the failure of a group was logged, and none has committed since.
    is_failing: bool,
}

/// Whether a group runs, or ran before.
#[derive(Debug, PartialEq, Eq)]
enum Guard {
    Runs,
    HasCommitted,
}

impl WriterRow {
    /// Inserts a writer of this worker.
    pub(super) async fn insert(
        connections: Arc<Connections>,
        worker: i64,
        contents: &'static str,
    ) -> Result<Self, DbError> {
        let session = connections.session().await?;
        let id = insert_writer(&session, worker).await?;
        Ok(WriterRow { connections, worker, id, groups: 0, marked: Millis(0), contents, is_failing: false })
    }

    /// The first statement of a group: counts it. A row that retention has removed, because this process was suspended for
    /// long, is inserted again; then the group runs, since a removed row has no group that is being committed.
    async fn begin(&mut self, tx: &Session) -> Result<Guard, DbError> {
        let counted = tx
            .execute(
                "UPDATE hookstream.writers SET groups = $2 + 1 WHERE id = $1 AND groups = $2",
                &[(&self.id, Type::INT8), (&self.groups, Type::INT8)],
            )
            .await?;
        if counted > 0 {
            return Ok(Guard::Runs);
        }
        let row = tx
            .query_opt("SELECT groups FROM hookstream.writers WHERE id = $1", &[(&self.id, Type::INT8)])
            .await?;
        if row.is_some() {
            return Ok(Guard::HasCommitted);
        }
        self.id = insert_writer(tx, self.worker).await?;
        self.groups = -1;
        Ok(Guard::Runs)
    }

    /// Stores the time of the commit, at most once a second: a process that starts judges its clock by it.
    async fn mark_commit(&mut self, tx: &Session, latest: Option<Millis>) -> Result<(), DbError> {
        let Some(now) = latest.filter(|now| now.0.abs_diff(self.marked.0) >= 1000) else { return Ok(()) };
        // SKIP LOCKED, because another writer that stores its time at this moment is as good.
        let updated = tx
            .execute(
                "UPDATE hookstream.meta SET value = $1 WHERE name IN (
                     SELECT name FROM hookstream.meta WHERE name = 'clock' FOR UPDATE SKIP LOCKED)",
                &[(&now.0.to_string(), Type::TEXT)],
            )
            .await?;
        if updated == 0 {
            tx.execute(
                "INSERT INTO hookstream.meta (name, value)
                 SELECT 'clock', $1 WHERE NOT EXISTS (SELECT 1 FROM hookstream.meta WHERE name = 'clock')
                 ON CONFLICT (name) DO NOTHING",
                &[(&now.0.to_string(), Type::TEXT)],
            )
            .await?;
        }
        self.marked = now;
        Ok(())
    }

    /// Confirms a group that had committed: its wait for a synchronous standby may have been cancelled. A commit that waits for
    /// the standby covers those before it.
    async fn confirm(&self, tx: Transaction<'_>) -> Result<(), DbError> {
        tx.execute("UPDATE hookstream.writers SET groups = groups WHERE id = $1", &[(&self.id, Type::INT8)])
            .await?;
        tx.commit().await
    }

    fn committed(&mut self) {
        self.groups += 1;
        if std::mem::take(&mut self.is_failing) {
            tracing::info!(contents = self.contents, "group commits succeed again");
        }
    }

    /// Logs the first failure of an outage: a full disk or a missing right may fail these groups only, and then nothing else
    /// reports it.
    fn log_failure(&mut self, error: &DbError, failure: &Failure) {
        let contents = self.contents;
        match failure {
            Failure::Unavailable if !std::mem::replace(&mut self.is_failing, true) => {
                tracing::warn!(contents, %error, "group commit failed");
            }
            _ => tracing::debug!(contents, %error, ?failure, "group commit failed"),
        }
    }
}

/// Inserts the row of a writer.
pub(super) async fn insert_writer(session: &Session, worker: i64) -> Result<i64, DbError> {
    let row = session
        .query_one(
            "INSERT INTO hookstream.writers (worker) VALUES ($1) RETURNING id",
            &[(&worker, Type::INT8)],
        )
        .await?;
    Ok(row.try_get(0)?)
}

/// What to do after a group failed.
#[derive(Debug, PartialEq, Eq)]
enum Failure {
    /// Repeat the group at once.
    Conflict,
    /// Repeat the group until its outcome is known.
    OutcomeUnknown,
    /// Its values are at fault: try each operation alone.
    Refused,
    /// The database is away, and nothing was committed.
    Unavailable,
}

fn classify(error: &DbError) -> Failure {
    match error {
        DbError::OutcomeUnknown => Failure::OutcomeUnknown,
        error if error.is_conflict() => Failure::Conflict,
        error if error.is_refusal() => Failure::Refused,
        _ => Failure::Unavailable,
    }
}
