//! The connections of a worker: a pool, and dedicated connections beside it.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use deadpool::Runtime;
use deadpool::managed::{Manager, Metrics, Object, Pool, PoolError, RecycleError, RecycleResult, Timeouts};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_postgres::Notification;

use super::check::check_server;
use super::hosts::{self, ConnectError, Observations};
use super::options::PostgresOptions;
use super::session::Session;
use crate::worker::store::StoreError;

/// Connections of a worker. Two are dedicated: one for leases, so that no load can delay their renewal, and one for
/// notifications.
pub const MAX_CONNECTIONS: usize = 8;
pub const POOLED_CONNECTIONS: usize = MAX_CONNECTIONS - 2;
/// How long an operation waits for a free connection.
const WAIT: Duration = Duration::from_secs(10);

/// A database that was checked, with the pool of its connections. Clones share the pool.
#[derive(Clone, Debug)]
pub struct Database {
    sessions: Sessions,
    pool: Pool<Sessions>,
}

impl Database {
    /// Connects to a database and checks that it can be a store. `StoreError::Open` means that the options or the
    /// database must be corrected, `StoreError::Unavailable` that another try may succeed.
    pub async fn connect(options: &PostgresOptions) -> Result<Database, StoreError> {
        let open = |error: String| StoreError::Open(format!("database {}: {error}", options.description()));
        options.check().map_err(|error| open(error.to_string()))?;
        let sessions = Sessions {
            options: Arc::new(options.clone()),
            observed: Arc::default(),
            runtime: Handle::current(),
        };
        let connect = async {
            let session = sessions.open(None).await?;
            check_server(&session, options).await
        };
        connect.await.map_err(|error| match error {
            ConnectError::Rejected(error) => open(error),
            // The hosts are in the message.
            ConnectError::Unavailable(error) => StoreError::Unavailable(error),
        })?;
        let pool = Pool::builder(sessions.clone())
            .max_size(POOLED_CONNECTIONS)
            // The timeout of a new connection is the options', for each host.
            .timeouts(Timeouts { wait: Some(WAIT), create: None, recycle: None })
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| open(error.to_string()))?;
        Ok(Database { sessions, pool })
    }

    /// Returns a free connection of the pool, or a new one. Waits for up to 10 s while all are in use.
    pub async fn client(&self) -> Result<PooledSession, StoreError> {
        match self.pool.get().await {
            Ok(session) => Ok(PooledSession(session)),
            Err(PoolError::Backend(error)) => Err(unavailable(error)),
            Err(PoolError::Closed) => Err(StoreError::Closed),
            Err(_) => Err(StoreError::Unavailable(format!(
                "all {POOLED_CONNECTIONS} connections have been in use for {WAIT:?}: the database is too slow for this load"
            ))),
        }
    }

    /// Opens a connection beside the pool, which its owner keeps. `notifications` receives what a LISTEN on it returns.
    ///
    /// A worker has at most two: see [`MAX_CONNECTIONS`].
    pub async fn dedicated(
        &self,
        notifications: Option<mpsc::Sender<Notification>>,
    ) -> Result<Session, StoreError> {
        self.sessions.open(notifications).await.map_err(unavailable)
    }

    pub fn options(&self) -> &PostgresOptions {
        &self.sessions.options
    }

    /// Closes the free connections; those in use close when they are returned. Later calls of `client` fail.
    pub fn close(&self) {
        self.pool.close();
    }
}

/// After a successful start, even a rejected login is temporary: a password is being rotated, or a database restored.
fn unavailable(error: ConnectError) -> StoreError {
    let (ConnectError::Unavailable(text) | ConnectError::Rejected(text)) = error;
    StoreError::Unavailable(text)
}

/// A connection of the pool, which goes back when it is dropped.
///
/// One with an open transaction ([`Session::begin`]) is closed instead. After a BEGIN that was sent in another way, call
/// [`PooledSession::discard`] unless the transaction has ended.
#[derive(Debug)]
pub struct PooledSession(Object<Sessions>);

impl PooledSession {
    /// Closes the connection, whose transaction the server then rolls back, and frees its place in the pool.
    pub fn discard(self) {
        drop(Object::take(self.0));
    }
}

impl Deref for PooledSession {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.0
    }
}

impl DerefMut for PooledSession {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.0
    }
}

/// Opens connections.
#[derive(Clone, Debug)]
struct Sessions {
    options: Arc<PostgresOptions>,
    observed: Arc<Observations>,
    /// Runs all connections. A worker has two runtimes; one that ended would take the connections along that it opened.
    runtime: Handle,
}

impl Sessions {
    async fn open(&self, notifications: Option<mpsc::Sender<Notification>>) -> Result<Session, ConnectError> {
        let (options, observed) = (Arc::clone(&self.options), Arc::clone(&self.observed));
        let opening =
            self.runtime.spawn(async move { hosts::connect(&options, &observed, notifications).await });
        opening.await.unwrap_or_else(|_| Err(ConnectError::Unavailable("the process is stopping".into())))
    }
}

impl Manager for Sessions {
    type Type = Session;
    type Error = ConnectError;

    async fn create(&self) -> Result<Session, ConnectError> {
        self.open(None).await
    }

    async fn recycle(&self, session: &mut Session, _: &Metrics) -> RecycleResult<ConnectError> {
        session.take_warnings();
        if session.is_in_transaction() {
            return Err(RecycleError::message("the connection has an open transaction"));
        }
        if session.is_superseded() {
            return Err(RecycleError::message("a newer server is known"));
        }
        match session.is_closed() {
            true => Err(RecycleError::message("the connection is closed")),
            false => Ok(()),
        }
    }
}
