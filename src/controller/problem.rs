//! Why a reconcile could not do it.

use std::time::Duration;

use url::Url;

use crate::admin::{self, AdminError, Detail};
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
    /// Look again after this time: nothing failed.
    After(Duration),
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
    #[error("Connection {connection} is not a {vendor} connection")]
    WrongVendor { connection: String, vendor: &'static str },
    #[error(transparent)]
    Secret(#[from] MissingSecret),
    #[error("{0}")]
    SecretUnusable(String),
    #[error(
        "no address by which Kong reaches the worker: set ingestUrl in the Connection, or start the operator with --ingest-url"
    )]
    IngestUrlMissing,
    #[error(
        "no address by which Auth0 reaches the worker: set ingestUrl in the Connection, or start the operator with --public-ingest-url"
    )]
    PublicIngestUrlMissing,
    #[error(
        "Auth0 sends to https addresses only, and not to {0}: correct ingestUrl in the Connection, or --public-ingest-url"
    )]
    PublicIngestUrlUnusable(Url),
    #[error(
        "handler {0} may not run in the gateway: name it in gatewayHandlers of the Connection, or use deliverBy: Worker"
    )]
    HandlerNotAllowed(&'static str),
    #[error(
        "adopt.id: there is no {what} with the id {id}: correct the id in a new object, or remove adopt there to create one"
    )]
    AdoptNotFound { what: &'static str, id: String },
    #[error(
        "there is no {what} with the name {name}: correct the name, or leave managementPolicy out to create it"
    )]
    NotThere { what: &'static str, name: String },
    #[error("the {what} {id} belongs to {by}: one object has it, delete or change the other first")]
    Held { what: &'static str, id: String, by: String },
    #[error("{0}")]
    Differs(String),
    #[error("{}", conflict(.name, .id, .holder.as_deref()))]
    Conflict { name: String, id: String, holder: Option<String> },
    #[error(
        "the admin API refuses another one (409), and nothing has the name: the tenant's limit may be reached: {}",
        .0.message
    )]
    LimitReached(Detail),
    /// Not before this time it counts as missing.
    #[error("it was created and is not shown yet: waiting for the vendor")]
    NotVisible(Duration),
    #[error("the vendor created the {0} and did not tell its id")]
    NoId(&'static str),
    #[error(
        "the {what} {id} at the former address {endpoint} cannot be deleted: {problem}; it is tried for a while, then left there (deletionPolicy: Orphan leaves it at once)"
    )]
    OldAddress { what: &'static str, id: String, endpoint: String, problem: Box<Problem> },
    #[error("waits for other finalizers: {0}")]
    OtherFinalizers(String),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("still used by {0}: it goes when they are gone")]
    InUse(String),
    #[error("a defect in the operator: {0}; please report it")]
    Panic(String),
}

fn conflict(name: &str, id: &str, holder: Option<&str>) -> String {
    match holder {
        Some(holder) => {
            format!("the name {name} is taken by {id}, which belongs to {holder}: choose another name")
        }
        None => format!(
            "the name {name} is taken by {id}, which this object did not make: take it over with adopt: {{id: {id}, mode: Match}} in a new object, choose another name, or delete it at the vendor"
        ),
    }
}

impl Problem {
    /// The vendor's id of the request that it refused.
    pub fn request_id(&self) -> Option<&str> {
        match self {
            Problem::Admin(error) => error.request_id(),
            Problem::OldAddress { problem, .. } => problem.request_id(),
            _ => None,
        }
    }

    /// The stable reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Problem::Spec(inner) => inner.into(),
            Problem::Secret(MissingSecret::Cluster(inner)) | Problem::Cluster(inner) => inner.into(),
            Problem::Secret(inner) => inner.into(),
            Problem::Admin(inner) => inner.into(),
            Problem::NotVisible(_) => "NotVisibleYet",
            // One reason for both vendors.
            Problem::PublicIngestUrlMissing => (&Problem::IngestUrlMissing).into(),
            other => other.into(),
        }
    }

    pub fn class(&self) -> Class {
        match self {
            Problem::InvalidObject(_)
            | Problem::Spec(_)
            | Problem::WrongVendor { .. }
            | Problem::AdoptNotFound { .. }
            | Problem::NotThere { .. }
            | Problem::PublicIngestUrlMissing
            | Problem::PublicIngestUrlUnusable(_)
            | Problem::Held { .. }
            | Problem::Differs(_)
            | Problem::Conflict { .. }
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
            | Problem::OtherFinalizers(_)
            | Problem::InUse(_) => Class::DependencyMissing,
            Problem::Admin(error) => match error.class() {
                admin::Class::Terminal => Class::Terminal,
                admin::Class::RateLimited(after) => Class::RateLimited(after),
                admin::Class::Retryable => Class::Retryable,
            },
            Problem::NotVisible(left) => Class::After(*left),
            Problem::Secret(MissingSecret::Cluster(_))
            | Problem::Cluster(_)
            | Problem::LimitReached(_)
            | Problem::NoId(_)
            | Problem::OldAddress { .. }
            | Problem::Panic(_) => Class::Retryable,
        }
    }

    /// How the object stands with this problem.
    pub fn standing(&self) -> Standing {
        let note = Note::new(self.reason(), self.to_string());
        match self.class() {
            Class::Terminal => Standing::Stalled(note),
            Class::DependencyMissing | Class::RateLimited(_) | Class::After(_) | Class::Retryable => {
                Standing::Waiting(note)
            }
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
            Problem::OldAddress { problem, .. } => problem.admin(),
            _ => None,
        }
    }
}
