//! The connections of a process.

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use tokio_postgres::NoTls;

use super::super::StoreError;
use super::failure::DbError;
use super::session::Session;

/// Connections of one process: two writers, the lease, and reads.
const MAX_CONNECTIONS: usize = 8;

pub(super) struct Connections {
    pool: Pool,
    prepares: bool,
}

impl Connections {
    pub(super) fn connect(url: &str) -> Result<Self, StoreError> {
        let config: tokio_postgres::Config =
            url.parse().map_err(|error: tokio_postgres::Error| StoreError::Open(error.to_string()))?;
        let manager =
            Manager::from_config(config, NoTls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
        let pool = Pool::builder(manager)
            .max_size(MAX_CONNECTIONS)
            .build()
            .map_err(|error| StoreError::Open(error.to_string()))?;
        Ok(Connections { pool, prepares: true })
    }

    /// Returns a connection. Waits while all are in use.
    pub(super) async fn session(&self) -> Result<Session, DbError> {
        match self.pool.get().await {
            Ok(client) => Ok(Session::new(client, self.prepares)),
            Err(deadpool_postgres::PoolError::Backend(error)) => Err(error.into()),
            Err(_) => Err(DbError::Closed),
        }
    }

    pub(super) fn close(&self) {
        self.pool.close();
    }
}
