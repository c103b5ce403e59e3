//! One connection: how its statements are sent, and the warnings that the server sends beside its answers.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::poll_fn;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};
use tokio_postgres::error::Severity;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Connection, Error, Notification, Row, Statement};

use super::timeline::{SessionError, SessionTimeline};

/// Prepared statements that a connection keeps at most. Texts of statements are constants, so this is never reached.
const MAX_STATEMENTS: usize = 256;
/// Warnings that are kept until they are read, the oldest.
const MAX_WARNINGS: usize = 16;

/// A parameter of a statement with its type. The type makes a prepared statement unnecessary.
pub type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// A warning that the server has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The SQLSTATE.
    pub code: String,
    pub message: String,
}

/// A connection that is logged in. It ends when it is dropped.
#[derive(Debug)]
pub struct Session {
    client: Client,
    is_direct: bool,
    /// Prepared statements by their text; empty through a pooler.
    statements: Mutex<HashMap<String, Statement>>,
    warnings: Arc<Mutex<Vec<Warning>>>,
    in_transaction: AtomicBool,
    /// Runs the connection.
    running: Option<JoinHandle<()>>,
    abort: AbortHandle,
    /// None: the server cannot tell.
    timeline: Option<SessionTimeline>,
}

impl Session {
    /// Runs a connection in a task. `notifications` receives those of LISTEN; without it, or when it is full, they are
    /// dropped.
    pub(super) fn start<S, T>(
        client: Client,
        connection: Connection<S, T>,
        notifications: Option<mpsc::Sender<Notification>>,
    ) -> Session
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let warnings = Arc::default();
        let running = tokio::spawn(run_connection(connection, Arc::clone(&warnings), notifications));
        Session {
            client,
            is_direct: false,
            statements: Mutex::default(),
            warnings,
            in_transaction: AtomicBool::new(false),
            abort: running.abort_handle(),
            running: Some(running),
            timeline: None,
        }
    }

    /// Sets the timeline of the server. A direct connection ends as soon as this process knows a newer one: the transactions of
    /// an old primary would be lost, and a renewal there would not keep other workers from taking the shards.
    pub(super) fn set_timeline(&mut self, timeline: SessionTimeline) {
        if self.is_direct
            && let Some(running) = self.running.take()
        {
            let (superseded, abort) = (timeline.superseded(), self.abort.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = superseded => abort.abort(),
                    _ = running => {}
                }
            });
        }
        self.timeline = Some(timeline);
    }

    pub(super) fn set_direct(&mut self, is_direct: bool) {
        self.is_direct = is_direct;
    }

    /// Returns true if the server sees the connection as this process does: no pooler such as PgBouncer is in between.
    /// Only then do LISTEN, SET, session-level locks, COPY and `Client::prepare` work reliably.
    pub fn is_direct(&self) -> bool {
        self.is_direct
    }

    /// Returns the driver's client. `batch_execute` and `simple_query` work through every pooler; methods that prepare a
    /// statement need a direct connection.
    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn client_mut(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Runs a statement and returns all of its rows. Concurrent calls are pipelined in the order in which they are first
    /// polled.
    pub async fn fetch_all(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, Error> {
        match self.prepared(sql, parameters).await? {
            Some(statement) => self.client.query(&statement, &values(parameters)).await,
            None => self.client.query_typed(sql, parameters).await,
        }
    }

    /// Runs a statement and returns its row, if there is one. More than one row is an error.
    pub async fn fetch_optional(
        &self,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Option<Row>, Error> {
        match self.prepared(sql, parameters).await? {
            Some(statement) => self.client.query_opt(&statement, &values(parameters)).await,
            None => self.client.query_typed_opt(sql, parameters).await,
        }
    }

    /// Runs a statement and returns its only row.
    pub async fn fetch_one(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Row, Error> {
        match self.prepared(sql, parameters).await? {
            Some(statement) => self.client.query_one(&statement, &values(parameters)).await,
            None => self.client.query_typed_one(sql, parameters).await,
        }
    }

    /// Runs a statement and returns the number of rows that it changed.
    pub async fn execute(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<u64, Error> {
        match self.prepared(sql, parameters).await? {
            Some(statement) => self.client.execute(&statement, &values(parameters)).await,
            None => self.client.execute_typed(sql, parameters).await,
        }
    }

    /// Returns the prepared statement of a text, which the first call prepares. None through a pooler.
    ///
    /// Prepare statements before BEGIN where several are pipelined: the first use waits for a round trip.
    pub async fn prepared(
        &self,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Option<Statement>, Error> {
        if !self.is_direct {
            return Ok(None);
        }
        if let Some(statement) = self.statements.lock().get(sql) {
            return Ok(Some(statement.clone()));
        }
        let types: Vec<Type> = parameters.iter().map(|(_, kind)| kind.clone()).collect();
        let statement = self.client.prepare_typed(sql, &types).await?;
        let mut statements = self.statements.lock();
        if statements.len() >= MAX_STATEMENTS {
            statements.clear();
        }
        statements.insert(sql.to_owned(), statement.clone());
        Ok(Some(statement))
    }

    /// Begins a transaction. Until its end, the pool closes the connection instead of giving it to another caller, so that
    /// an error or a cancelled future leaves no open transaction behind.
    ///
    /// Through a pooler, also checks the server that it reaches.
    pub async fn begin(&self) -> Result<(), SessionError> {
        self.begin_with("BEGIN").await
    }

    /// Begins a transaction whose reads see one moment, and that changes nothing. As `begin` otherwise.
    pub async fn begin_reading(&self) -> Result<(), SessionError> {
        self.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await
    }

    async fn begin_with(&self, begin: &str) -> Result<(), SessionError> {
        self.in_transaction.store(true, Ordering::Relaxed);
        match self.timeline.as_ref().filter(|_| !self.is_direct) {
            Some(timeline) => timeline.begin_transaction(&self.client, begin).await,
            None => Ok(self.client.batch_execute(begin).await?),
        }
    }

    /// Fails if a pooler leads to a server that a failover has left behind. A direct connection ends by itself as soon as a
    /// newer server is known, and is not asked.
    pub async fn check_server(&self) -> Result<(), SessionError> {
        match self.timeline.as_ref().filter(|_| !self.is_direct) {
            Some(timeline) => timeline.check(&self.client).await,
            None => Ok(()),
        }
    }

    /// Commits. The server rolls back instead, without an error here, if a statement of the transaction has failed. After
    /// an error that is `FailureKind::Disconnected`, the outcome is unknown.
    pub async fn commit(&self) -> Result<(), Error> {
        self.client.batch_execute("COMMIT").await?;
        self.in_transaction.store(false, Ordering::Relaxed);
        Ok(())
    }

    pub async fn rollback(&self) -> Result<(), Error> {
        self.client.batch_execute("ROLLBACK").await?;
        self.in_transaction.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Returns true between `begin` and the success of `commit` or `rollback`.
    pub fn is_in_transaction(&self) -> bool {
        self.in_transaction.load(Ordering::Relaxed)
    }

    /// Returns the warnings since the last call, oldest first.
    ///
    /// Those of a statement are there when its result is: a COMMIT whose wait for a synchronous standby was cancelled
    /// succeeds with a warning, and the transaction may be lost in a failover.
    pub fn take_warnings(&self) -> Vec<Warning> {
        std::mem::take(&mut self.warnings.lock())
    }

    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Ends the connection. Its statements fail as if the server had ended it.
    pub fn end(&self) {
        self.abort.abort();
    }

    /// True if a newer server has been seen since this one was checked.
    pub(super) fn is_superseded(&self) -> bool {
        self.timeline.as_ref().is_some_and(SessionTimeline::is_superseded)
    }
}

fn values<'a>(parameters: &[Parameter<'a>]) -> Vec<&'a (dyn ToSql + Sync)> {
    parameters.iter().map(|(value, _)| *value).collect()
}

/// Moves the bytes of a connection until it ends. Its error reaches the statements that wait for an answer.
async fn run_connection<S, T>(
    mut connection: Connection<S, T>,
    warnings: Arc<Mutex<Vec<Warning>>>,
    notifications: Option<mpsc::Sender<Notification>>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
        match message {
            Ok(AsyncMessage::Notice(notice)) if notice.parsed_severity() == Some(Severity::Warning) => {
                let mut warnings = warnings.lock();
                if warnings.len() < MAX_WARNINGS {
                    let code = notice.code().code().to_owned();
                    warnings.push(Warning { code, message: notice.message().to_owned() });
                }
            }
            Ok(AsyncMessage::Notification(notification)) => {
                if let Some(notifications) = &notifications {
                    notifications.try_send(notification).ok();
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(error = %super::failure::describe(&error), "database connection ended");
                return;
            }
        }
    }
}
