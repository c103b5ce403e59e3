//! A connection in use: `connect::Session` with the engine's errors, and transactions that cannot be forgotten.

use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Row, RowStream};

use super::connect::{self, PooledSession};
use super::failure::DbError;

/// A parameter of a statement, with its type.
pub(super) type Param<'a> = (&'a (dyn ToSql + Sync), Type);

/// A connection. One of the pool that is dropped within a transaction is closed, because nothing may use it again.
pub(super) enum Session {
    Pooled(PooledSession),
    Dedicated(Box<connect::Session>),
}

impl Session {
    pub(super) fn pooled(session: PooledSession) -> Self {
        Session::Pooled(session)
    }

    pub(super) fn dedicated(session: connect::Session) -> Self {
        Session::Dedicated(Box::new(session))
    }

    fn inner(&self) -> &connect::Session {
        match self {
            Session::Pooled(session) => session,
            Session::Dedicated(session) => session,
        }
    }

    pub(super) async fn query(&self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, DbError> {
        Ok(self.inner().fetch_all(sql, params).await?)
    }

    /// Returns the row of a statement that has one or none.
    pub(super) async fn query_opt(&self, sql: &str, params: &[Param<'_>]) -> Result<Option<Row>, DbError> {
        Ok(self.inner().fetch_optional(sql, params).await?)
    }

    /// Returns the only row of a statement that always has one.
    pub(super) async fn query_one(&self, sql: &str, params: &[Param<'_>]) -> Result<Row, DbError> {
        Ok(self.inner().fetch_one(sql, params).await?)
    }

    /// Returns the number of changed rows.
    pub(super) async fn execute(&self, sql: &str, params: &[Param<'_>]) -> Result<u64, DbError> {
        Ok(self.inner().execute(sql, params).await?)
    }

    /// Sends statements without parameters.
    pub(super) async fn batch(&self, sql: &str) -> Result<(), DbError> {
        Ok(self.inner().client().batch_execute(sql).await?)
    }

    /// True if no pooler is in between. `copy_in` and `stream` need that.
    pub(super) fn is_direct(&self) -> bool {
        self.inner().is_direct()
    }

    /// Fails if the last statement, which was its own transaction, may be lost in a failover: its wait for the synchronous
    /// standby was cancelled. Call `forget_warnings` before the statement.
    pub(super) fn check_committed(&self) -> Result<(), DbError> {
        match self.inner().take_warnings().is_empty() {
            true => Ok(()),
            false => Err(DbError::OutcomeUnknown),
        }
    }

    /// Forgets the warnings of earlier statements.
    pub(super) fn forget_warnings(&self) {
        self.inner().take_warnings();
    }

    /// Begins a COPY FROM STDIN BINARY with columns of these types.
    pub(super) async fn copy_in(&self, sql: &str, types: &[Type]) -> Result<BinaryCopyInWriter, DbError> {
        let sink = self.inner().client().copy_in(sql).await?;
        Ok(BinaryCopyInWriter::new(sink, types))
    }

    /// Returns the rows of a statement without parameters as they arrive. The server waits while they are not read.
    pub(super) async fn stream(&self, sql: &str) -> Result<RowStream, DbError> {
        Ok(self.inner().client().query_raw(sql, std::iter::empty::<&(dyn ToSql + Sync)>()).await?)
    }

    /// Fails if a pooler leads to a server that a failover has left behind. Call it before statements without a transaction that
    /// would do harm there; `begin` includes it.
    pub(super) async fn check_server(&self) -> Result<(), DbError> {
        Ok(self.inner().check_server().await?)
    }

    /// Ends the connection. Its statements fail as if the server had ended it.
    pub(super) fn end(&self) {
        self.inner().end();
    }

    pub(super) async fn begin(&self) -> Result<Transaction<'_>, DbError> {
        self.inner().begin().await?;
        Ok(Transaction(self))
    }

    /// Returns the transaction that this session has begun, for an owner that keeps the session and not the transaction.
    pub(super) fn begun(&self) -> Transaction<'_> {
        Transaction(self)
    }

    /// Begins a transaction whose reads see one moment, and that changes nothing.
    pub(super) async fn begin_reading(&self) -> Result<Transaction<'_>, DbError> {
        self.inner().begin_reading().await?;
        Ok(Transaction(self))
    }
}

/// A transaction. Statements run on the session. Without `commit`, the session's connection is closed with the session, which
/// rolls back.
pub(super) struct Transaction<'s>(&'s Session);

impl std::ops::Deref for Transaction<'_> {
    type Target = Session;
    fn deref(&self) -> &Session {
        self.0
    }
}

impl Transaction<'_> {
    /// Commits. `DbError::OutcomeUnknown`: the answer was lost, or the wait for a synchronous standby was cancelled, so that a
    /// failover may lose the transaction.
    pub(super) async fn commit(self) -> Result<(), DbError> {
        let session = self.0.inner();
        // Those of its statements say nothing about the COMMIT.
        session.take_warnings();
        session.commit().await.map_err(|error| DbError::from(error).at_commit())?;
        match session.take_warnings().is_empty() {
            true => Ok(()),
            false => Err(DbError::OutcomeUnknown),
        }
    }

    /// Rolls back, so that the session can be used again.
    pub(super) async fn rollback(self) -> Result<(), DbError> {
        Ok(self.0.inner().rollback().await?)
    }
}
