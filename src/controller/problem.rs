//! Why a reconcile could not do it.

use std::time::Duration;

use crate::admin::{self, AdminError};
use crate::cluster::{ClusterError, MissingSecret};
use crate::core::conditions::{Note, Standing};
use crate::core::hook::InvalidSpec;

/// What to do about a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Wait for a change of the object or of what it refers to.
    Terminal,
    /// Wait for what is missing; the watch tells.
    DependencyMissing,
    RateLimited(Duration),
    Retryable,
}

/// Why a reconcile could not do it. Every variant has a stable reason that conditions, events and metrics share.
#[derive(Clone, Debug, thiserror::Error, strum::IntoStaticStr)]
pub enum Problem {
    #[error("the object cannot be read: {0}")]
    InvalidObject(String),
    #[error(transparent)]
    Spec(#[from] InvalidSpec),
    #[error("Connection {0} does not exist: create it")]
    ConnectionMissing(String),
    #[error("Connection {0} cannot be read: correct it first")]
    ConnectionInvalid(String),
    #[error("Connection {0} is not a Kong connection")]
    WrongVendor(String),
    #[error(transparent)]
    Secret(#[from] MissingSecret),
    #[error("{0}")]
    SecretUnusable(String),
    #[error(
        "no address by which Kong reaches the worker: set ingestUrl in the Connection, or start the operator with --ingest-url"
    )]
    IngestUrlMissing,
    #[error(
        "handler {0} may not run in the gateway: name it in gatewayHandlers of the Connection, or use deliverBy: Worker"
    )]
    HandlerNotAllowed(&'static str),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("still used by {0}: it goes when they are gone")]
    InUse(String),
    #[error("a defect in the operator: {0}; please report it")]
    Panic(String),
}

impl Problem {
    /// The stable reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Problem::Spec(inner) => inner.into(),
            Problem::Secret(MissingSecret::Cluster(inner)) | Problem::Cluster(inner) => inner.into(),
            Problem::Secret(inner) => inner.into(),
            Problem::Admin(inner) => inner.into(),
            other => other.into(),
        }
    }

    pub fn class(&self) -> Class {
        match self {
            Problem::InvalidObject(_)
            | Problem::Spec(_)
            | Problem::WrongVendor(_)
            | Problem::SecretUnusable(_)
            | Problem::IngestUrlMissing
            | Problem::HandlerNotAllowed(_) => Class::Terminal,
            Problem::ConnectionMissing(_)
            | Problem::ConnectionInvalid(_)
            | Problem::Secret(
                MissingSecret::SecretMissing(_)
                | MissingSecret::SecretKeyMissing { .. }
                | MissingSecret::SecretInvalid { .. }
                | MissingSecret::ConfigMapMissing(_)
                | MissingSecret::ConfigMapKeyMissing { .. },
            )
            | Problem::InUse(_) => Class::DependencyMissing,
            Problem::Admin(error) => match error.class() {
                admin::Class::Terminal => Class::Terminal,
                admin::Class::RateLimited(after) => Class::RateLimited(after),
                admin::Class::Retryable => Class::Retryable,
            },
            Problem::Secret(MissingSecret::Cluster(_)) | Problem::Cluster(_) | Problem::Panic(_) => {
                Class::Retryable
            }
        }
    }

    /// How the object stands with this problem.
    pub fn standing(&self) -> Standing {
        let note = Note::new(self.reason(), self.to_string());
        match self.class() {
            Class::Terminal => Standing::Stalled(note),
            Class::DependencyMissing | Class::RateLimited(_) | Class::Retryable => Standing::Waiting(note),
        }
    }

    /// True where nothing was tried, for it was not this object's turn, or not this replica's.
    pub fn is_own(&self) -> bool {
        match self {
            Problem::Admin(error) => error.is_own(),
            Problem::Cluster(error) | Problem::Secret(MissingSecret::Cluster(error)) => {
                matches!(error, ClusterError::NotLeading(_))
            }
            _ => false,
        }
    }

    /// The vendor's error, where it is one.
    pub fn admin(&self) -> Option<&AdminError> {
        match self {
            Problem::Admin(error) => Some(error),
            _ => None,
        }
    }
}
