//! An empty database as the target of a copy.

use tokio::sync::mpsc::Receiver;

use super::super::super::StoreError;
use super::super::super::portable::{Batch, CopyProgress, CopyTarget, SourceInfo, UnfinishedCopy, Written};
use super::super::connect::PostgresOptions;
use super::super::connections::Connections;
use super::super::failure::DbError;
use super::super::session::Session;
use super::super::{administration, markers, schema};
use super::{begin, connect, counts, installation, lock_for_copy, lock_tables, refuse_workers, write};

/// Waits for workers that are starting, and keeps others from it until the end.
const LOCK_TABLES: &str = "
LOCK TABLE hookstream.workers, hookstream.writers, hookstream.namespaces, hookstream.hooks, hookstream.events,
    hookstream.pending, hookstream.finished IN EXCLUSIVE MODE";

/// Whether a table has a row. The rows of workers that have ended do not count.
const FOUND: &str = "
SELECT concat_ws(', ',
    CASE WHEN EXISTS (SELECT FROM hookstream.events) THEN 'events' END,
    CASE WHEN EXISTS (SELECT FROM hookstream.pending) THEN 'pending deliveries' END,
    CASE WHEN EXISTS (SELECT FROM hookstream.finished) THEN 'finished deliveries' END,
    CASE WHEN EXISTS (SELECT FROM hookstream.hooks) THEN 'hooks' END,
    CASE WHEN EXISTS (SELECT FROM hookstream.namespaces) OR EXISTS (SELECT FROM hookstream.places) THEN 'namespaces' END,
    CASE WHEN EXISTS (SELECT FROM hookstream.keys) THEN 'idempotency keys' END,
    CASE WHEN EXISTS (SELECT FROM hookstream.replays) THEN 'replays' END)";

/// An empty database.
pub(in super::super::super) struct PostgresTarget {
    connections: Connections,
    location: String,
    installation: Option<String>,
    unfinished: Option<UnfinishedCopy>,
    /// Set by `begin`: its transaction has everything.
    writing: Option<Writing>,
}

struct Writing {
    session: Session,
    copy: UnfinishedCopy,
}

impl PostgresTarget {
    /// Connects, and checks that the store is empty. Creates the tables unless `is_dry_run`.
    pub(in super::super::super) async fn open(
        options: &PostgresOptions,
        is_dry_run: bool,
    ) -> Result<Self, StoreError> {
        let mut options = options.clone();
        options.migrate = !is_dry_run;
        let location = options.description();
        let connections = Connections::connect(&options).await?;
        let session = connect(&connections).await?;
        let mut target =
            PostgresTarget { connections, location, installation: None, unfinished: None, writing: None };
        let format = schema::format(&session).await?;
        if format.is_some() {
            target.unfinished = markers::unfinished(&session).await?;
        }
        if target.unfinished.is_none() && !is_dry_run {
            schema::migrate(&session).await?;
        }
        if format.is_none() && is_dry_run {
            return Ok(target);
        }
        schema::check(schema::format(&session).await?)?;
        if let Some(seal) = markers::seal(&session).await? {
            return Err(seal.refusal("--store-url URL"));
        }
        target.installation = installation(&session).await?;
        refuse_workers(&session).await?;
        refuse_rows(&session).await?;
        Ok(target)
    }
}

async fn refuse_rows(session: &Session) -> Result<(), DbError> {
    let found: String = session.query_one(FOUND, &[]).await?.try_get(0)?;
    match found.as_str() {
        "" => Ok(()),
        found => Err(StoreError::Open(format!(
            "it is not empty, it has {found}. If the source is sealed for it, the copy has finished: start the workers on it. Otherwise create another database"
        ))
        .into()),
    }
}

impl CopyTarget for PostgresTarget {
    fn location(&self) -> &str {
        &self.location
    }

    fn installation(&self) -> Option<&str> {
        self.installation.as_deref()
    }

    fn unfinished(&self) -> Option<&UnfinishedCopy> {
        self.unfinished.as_ref()
    }

    async fn begin(&mut self, copy: &UnfinishedCopy) -> Result<(), StoreError> {
        let session = connect(&self.connections).await?;
        begin(&session).await?;
        lock_for_copy(&session).await?;
        let min_reader = match markers::min_reader(&session).await? {
            Some(min_reader) => min_reader,
            None => schema::format(&session).await?.map_or(schema::VERSION, |format| format.min_reader),
        };
        let copy = UnfinishedCopy { min_reader, ..copy.clone() };
        markers::set_unfinished(&session, &copy).await?;
        session.begun().commit().await?;
        // From here on, a worker that starts refuses the store. One that started before has registered, or waits.
        let Writing { session, .. } = self.writing.insert(Writing { session, copy });
        begin(session).await?;
        lock_for_copy(session).await?;
        lock_tables(session, LOCK_TABLES).await?;
        refuse_workers(session).await?;
        refuse_rows(session).await?;
        Ok(())
    }

    async fn write(
        &mut self,
        source: &SourceInfo,
        batches: Receiver<Batch>,
        progress: &CopyProgress,
    ) -> Result<Written, StoreError> {
        let Some(Writing { session, copy }) = &self.writing else { return Err(StoreError::Closed) };
        let replaced_keys = write::write(session, source, batches, progress).await?;
        markers::remove_unfinished(session, copy).await?;
        let counts = counts::count(session).await?;
        if let Some(problem) = administration::find_problems(session).await?.first() {
            return Err(StoreError::Open(format!("the copy is not sound: {problem}")));
        }
        Ok(Written { counts, replaced_keys })
    }

    async fn finish(self) -> Result<(), StoreError> {
        let Some(Writing { session, .. }) = self.writing else { return Err(StoreError::Closed) };
        session.begun().commit().await?;
        // Without statistics, the first queries of a large table could scan it.
        if let Err(error) = session.batch(ANALYZE).await {
            tracing::warn!(%error, "ANALYZE failed: autovacuum does it later");
        }
        Ok(())
    }

    async fn abandon(self) -> Result<(), StoreError> {
        let Some(Writing { session, copy }) = self.writing else { return Ok(()) };
        session.begun().rollback().await?;
        begin(&session).await?;
        // Without the lock, this would remove the mark under which another copy writes.
        lock_for_copy(&session).await?;
        if markers::unfinished(&session).await?.is_some_and(|found| found.copy == copy.copy) {
            markers::remove_unfinished(&session, &copy).await?;
        }
        session.begun().commit().await?;
        Ok(())
    }
}

const ANALYZE: &str = "
ANALYZE hookstream.hooks, hookstream.events, hookstream.pending, hookstream.finished, hookstream.attempts,
    hookstream.exchanges, hookstream.keys, hookstream.gates, hookstream.candidates";

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::super::test_server;
    use super::*;

    #[tokio::test]
    async fn a_copy_that_gives_up_leaves_the_mark_of_another_one() {
        let mut options: PostgresOptions = test_server::shared().new_database().parse().unwrap();
        // The tests' server does not sync.
        options.allow_unsafe_sync = true;
        let mut first = PostgresTarget::open(&options, false).await.unwrap();
        let mut second = PostgresTarget::open(&options, false).await.unwrap();
        let copy = |n| UnfinishedCopy { copy: Uuid::from_u128(n), from: format!("{n}"), min_reader: 0 };
        first.begin(&copy(1)).await.unwrap();
        second.begin(&copy(2)).await.unwrap_err();
        // As if it had begun before and lost the lock since.
        let session = connect(&second.connections).await.unwrap();
        begin(&session).await.unwrap();
        second.writing = Some(Writing { session, copy: copy(1) });
        second.abandon().await.unwrap_err();
        let mark = async || {
            let third = Connections::connect(&options).await.unwrap();
            let session = third.session().await.unwrap();
            markers::unfinished(&session).await.unwrap().map(|found| found.copy)
        };
        assert_eq!(mark().await, Some(Uuid::from_u128(1)));
        first.abandon().await.unwrap();
        assert_eq!(mark().await, None);
    }
}
