//! A connection of the pool, in use.
//!
//! Every statement names the types of its parameters. Connected directly, statements are prepared once for each connection.
//! Behind a pooler that assigns a server connection to each transaction, nothing may outlive a transaction, so each statement
//! is sent unnamed with its parameters in one message.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::failure::DbError;

/// A parameter of a statement, with its type.
pub(super) type Param<'a> = (&'a (dyn ToSql + Sync), Type);

/// A connection. One that is dropped within a transaction is closed, because nothing may use it again.
pub(super) struct Session {
    client: Option<deadpool_postgres::Client>,
    /// False behind a pooler.
    prepares: bool,
    is_in_transaction: AtomicBool,
}

impl Session {
    pub(super) fn new(client: deadpool_postgres::Client, prepares: bool) -> Self {
        Session { client: Some(client), prepares, is_in_transaction: AtomicBool::new(false) }
    }

    fn client(&self) -> Result<&deadpool_postgres::Client, DbError> {
        self.client.as_ref().ok_or(DbError::Closed)
    }

    pub(super) async fn query(&self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, DbError> {
        let client = self.client()?;
        if !self.prepares {
            let params: Vec<_> = params.iter().map(|(value, kind)| (*value, kind.clone())).collect();
            return Ok(client.query_typed(sql, &params).await?);
        }
        let types: Vec<_> = params.iter().map(|(_, kind)| kind.clone()).collect();
        let values: Vec<_> = params.iter().map(|(value, _)| *value).collect();
        let statement = client.prepare_typed_cached(sql, &types).await?;
        Ok(client.query(&statement, &values).await?)
    }

    /// Returns the first row.
    pub(super) async fn query_opt(&self, sql: &str, params: &[Param<'_>]) -> Result<Option<Row>, DbError> {
        Ok(self.query(sql, params).await?.into_iter().next())
    }

    /// Returns the only row of a statement that always has one.
    pub(super) async fn query_one(&self, sql: &str, params: &[Param<'_>]) -> Result<Row, DbError> {
        self.query_opt(sql, params)
            .await?
            .ok_or_else(|| DbError::Unreadable("a statement without rows".into()))
    }

    /// Returns the number of changed rows.
    pub(super) async fn execute(&self, sql: &str, params: &[Param<'_>]) -> Result<u64, DbError> {
        let client = self.client()?;
        if !self.prepares {
            let params: Vec<_> = params.iter().map(|(value, kind)| (*value, kind.clone())).collect();
            return Ok(client.execute_typed(sql, &params).await?);
        }
        let types: Vec<_> = params.iter().map(|(_, kind)| kind.clone()).collect();
        let values: Vec<_> = params.iter().map(|(value, _)| *value).collect();
        let statement = client.prepare_typed_cached(sql, &types).await?;
        Ok(client.execute(&statement, &values).await?)
    }

    /// Sends statements without parameters.
    pub(super) async fn batch(&self, sql: &str) -> Result<(), DbError> {
        Ok(self.client()?.batch_execute(sql).await?)
    }

    pub(super) async fn begin(&self) -> Result<Transaction<'_>, DbError> {
        self.is_in_transaction.store(true, Ordering::Relaxed);
        self.batch("BEGIN").await?;
        Ok(Transaction(self))
    }

    /// Begins a transaction whose reads see one moment, and that changes nothing.
    pub(super) async fn begin_reading(&self) -> Result<Transaction<'_>, DbError> {
        self.is_in_transaction.store(true, Ordering::Relaxed);
        self.batch("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        Ok(Transaction(self))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.is_in_transaction.load(Ordering::Relaxed)
            && let Some(client) = self.client.take()
        {
            drop(deadpool_postgres::Object::take(client));
        }
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
    /// Commits. `DbError::OutcomeUnknown`: the answer was lost.
    pub(super) async fn commit(self) -> Result<(), DbError> {
        let committed = self.0.batch("COMMIT").await;
        if committed.is_ok() {
            self.0.is_in_transaction.store(false, Ordering::Relaxed);
        }
        committed.map_err(DbError::at_commit)
    }

    /// Rolls back, so that the session can be used again.
    pub(super) async fn rollback(self) -> Result<(), DbError> {
        self.0.batch("ROLLBACK").await?;
        self.0.is_in_transaction.store(false, Ordering::Relaxed);
        Ok(())
    }
}
