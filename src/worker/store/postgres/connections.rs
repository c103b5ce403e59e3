//! The connections of a process, as the engine uses them.

use tokio::sync::mpsc;
use tokio_postgres::Notification;

use super::super::StoreError;
use super::connect::{Database, PostgresOptions};
use super::failure::DbError;
use super::session::Session;

pub(super) struct Connections {
    database: Database,
}

impl Connections {
    pub(super) async fn connect(options: &PostgresOptions) -> Result<Self, StoreError> {
        Ok(Connections { database: Database::connect(options).await? })
    }

    /// Returns a connection of the pool. Waits while all are in use.
    pub(super) async fn session(&self) -> Result<Session, DbError> {
        Ok(Session::pooled(self.database.client().await?))
    }

    /// Returns a connection beside the pool, so that no load can delay its owner. A process has at most two.
    pub(super) async fn dedicated(&self) -> Result<Session, DbError> {
        Ok(Session::dedicated(self.database.dedicated(None).await?))
    }

    /// Returns a connection beside the pool whose notifications go to `notifications`. None: a pooler is in between.
    pub(super) async fn listening(
        &self,
        notifications: mpsc::Sender<Notification>,
    ) -> Result<Option<Session>, DbError> {
        let session = self.database.dedicated(Some(notifications)).await?;
        Ok(session.is_direct().then(|| Session::dedicated(session)))
    }

    pub(super) fn close(&self) {
        self.database.close();
    }
}
