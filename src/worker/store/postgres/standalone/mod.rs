//! What standalone keeps in the database instead of a data folder: the state of its objects, its key ring, the id of its
//! installation, and the lease of the controller. Several processes share it.
//!
//! A row of `objects` is replaced only by a writer that has read its latest version, and the controller writes only while its
//! process holds the lease.

mod election;
mod keys;
mod lease;
mod objects;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::super::StoreError;
use super::connect::PostgresOptions;
use super::connections::Connections;
use super::failure::DbError;
use super::session::Session;
use super::{markers, rights, schema};

pub use election::DatabaseElection;
use lease::ControllerLease;
pub use objects::{ChangedObjects, ObjectName, ObjectRow, ObjectWrite, ObjectWriteError};

/// The connections to a database with current tables. The store and the state of standalone use them.
#[derive(Clone)]
pub struct SharedDatabase {
    pub(super) connections: Arc<Connections>,
}

impl SharedDatabase {
    /// Connects, creates or changes the tables unless the options forbid it, and checks that the role may use them.
    pub async fn connect(options: &PostgresOptions) -> Result<Self, StoreError> {
        let connections = Arc::new(Connections::connect(options).await?);
        let session = connections.session().await?;
        if options.migrate {
            schema::migrate(&session).await?;
        }
        schema::check(schema::format(&session).await?)?;
        markers::refuse_marked(&session).await?;
        rights::check(&session).await?;
        drop(session);
        Ok(SharedDatabase { connections })
    }

    /// Returns the state of standalone. `process`: no other process has this name, and none had it before.
    pub fn standalone(&self, process: String) -> StandaloneState {
        StandaloneState {
            connections: self.connections.clone(),
            lease: Arc::new(ControllerLease::new(process)),
        }
    }
}

/// The state of standalone, as one of the processes that share it.
#[derive(Clone)]
pub struct StandaloneState {
    connections: Arc<Connections>,
    lease: Arc<ControllerLease>,
}

impl StandaloneState {
    async fn session(&self) -> Result<Session, DbError> {
        self.connections.session().await
    }
}
