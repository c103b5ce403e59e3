//! Errors of a reconcile, with the reason and the retry behaviour of each.

use std::time::Duration;

use url::Url;

use crate::admin::{self, AdminError, ErrorDetail};
use crate::cluster::{ClusterError, ReferenceError};
use crate::core::conditions::{ConditionMessage, ObjectReadiness};
use crate::core::hook::InvalidSpec;

/// When a delete is repeated whose object the vendor still shows.
const STILL_VISIBLE_RETRY: Duration = Duration::from_secs(2);

/// When to retry after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncErrorClass {
    /// After a change of the object or of a dependency.
    Terminal,
    /// When the missing dependency appears; a watch event triggers the reconcile.
    DependencyMissing,
    /// After the time that the vendor requested.
    RateLimited(Duration),
    /// After this time. Nothing failed.
    After(Duration),
    /// With backoff.
    Retryable,
}

/// Why a reconcile failed. Every variant has a stable reason, which conditions, Events and metrics share.
#[derive(Clone, Debug, thiserror::Error, strum::IntoStaticStr)]
pub enum SyncError {
    #[error("the object cannot be read: {0}")]
    InvalidObject(String),
    #[error(transparent)]
    Spec(#[from] InvalidSpec),
    #[error("Connection {0} does not exist: create it")]
    ConnectionMissing(String),
    #[error("Connection {0} cannot be read: correct it first")]
    ConnectionInvalid(String),
    #[error(
        "deletionPolicy of Connection {0} cannot be read, so nothing is deleted at the vendor: correct the Connection, or set deletionPolicy in this object"
    )]
    PolicyUnknown(String),
    #[error(
        "Kong has no event hooks in the workspace {workspace}: create the workspace, or use a new Connection with the right one (kong.workspace is immutable): {error}"
    )]
    WorkspaceMissing { workspace: String, error: AdminError },
    #[error("Connection {connection} is not a {vendor} connection")]
    WrongVendor { connection: String, vendor: &'static str },
    #[error(transparent)]
    Secret(#[from] ReferenceError),
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
        "adopt.id: there is no {what} with the id {id}: correct the id in a new object, or omit adopt there to create a new {what}"
    )]
    AdoptNotFound { what: &'static str, id: String },
    #[error(
        "there is no {what} with the name {name}: correct the name, or remove managementPolicy to create it"
    )]
    NotThere { what: &'static str, name: String },
    #[error("the {what} {id} belongs to {by}, and only one object can own it: delete or change {by} first")]
    Held { what: &'static str, id: String, by: String },
    #[error("{0}")]
    Differs(String),
    #[error("{}", conflict(.name, .id, .holder.as_deref()))]
    Conflict { name: String, id: String, holder: Option<String> },
    #[error(
        "installation {installation} configured the {what} {id} last, so this installation leaves it unchanged: delete the object in one of the two, or, if the other one has ended, start this one with --former-installation-id {installation}"
    )]
    OtherInstallation { what: &'static str, id: String, installation: String },
    #[error(
        "the vendor rejected the create (409) although no object has this name; the tenant may have reached its limit: {}",
        .0.message
    )]
    LimitReached(ErrorDetail),
    /// The vendor accepted the delete and still shows the external object.
    #[error(
        "the vendor accepted the delete of the {what} {id} and still shows it: the controller deletes it again"
    )]
    StillVisible { what: &'static str, id: String },
    /// The vendor does not show a new external object yet. The object counts as missing after this time.
    #[error("the external object was created, but the vendor does not show it yet: waiting")]
    NotVisibleYet(Duration),
    #[error("the vendor created the {0}, but its response has no id")]
    NoId(&'static str),
    #[error(
        "the {what} {id} at the former address {endpoint} cannot be deleted: {error}; the controller retries and later gives up (set deletionPolicy: Orphan to keep the {what} there)"
    )]
    OldAddress { what: &'static str, id: String, endpoint: String, error: Box<SyncError> },
    #[error(
        "Connection {connection} is not verified at its new address yet, so the {what} stays at the former one: see the conditions of the Connection"
    )]
    AddressNotVerified { what: &'static str, connection: String },
    /// Inside `OldAddress`, and while an object is being deleted.
    #[error(
        "the credentials of Connection {connection} were not configured for {endpoint}, so they are not sent there"
    )]
    CredentialsNotForAddress { connection: String, endpoint: String },
    #[error(
        "the token would be sent unencrypted to {0}: use https in kong.adminUrl of the Connection, or set kong.allowInsecureHttp: true there if every network on the path is trusted"
    )]
    InsecureHttp(Url),
    #[error("waiting for other finalizers: {0}")]
    OtherFinalizers(String),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("still used by {0}: the Connection is deleted after its last user")]
    InUse(String),
    #[error("the reconcile panicked: {0}: please report this defect of the operator")]
    Panic(String),
}

fn conflict(name: &str, id: &str, holder: Option<&str>) -> String {
    match holder {
        Some(holder) => {
            format!("the name {name} is taken by {id}, which belongs to {holder}: choose another name")
        }
        None => format!(
            "the name {name} is taken by {id}, which this object did not create: take it over with adopt: {{id: {id}, mode: Match}} in a new object, choose another name, or delete it at the vendor"
        ),
    }
}

impl SyncError {
    /// Returns the vendor's id of the failed request.
    pub fn request_id(&self) -> Option<&str> {
        match self {
            SyncError::Admin(error) | SyncError::WorkspaceMissing { error, .. } => error.request_id(),
            SyncError::OldAddress { error, .. } => error.request_id(),
            _ => None,
        }
    }

    /// Returns the stable reason of conditions, Events and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            SyncError::Spec(inner) => inner.into(),
            SyncError::Secret(ReferenceError::Cluster(inner)) | SyncError::Cluster(inner) => inner.into(),
            SyncError::Secret(inner) => inner.into(),
            SyncError::Admin(inner) => inner.into(),
            SyncError::OtherInstallation { .. } => "Conflict",
            // Both vendors share one reason.
            SyncError::PublicIngestUrlMissing => (&SyncError::IngestUrlMissing).into(),
            other => other.into(),
        }
    }

    /// Returns when to retry.
    pub fn class(&self) -> SyncErrorClass {
        match self {
            SyncError::InvalidObject(_)
            | SyncError::Spec(_)
            | SyncError::WrongVendor { .. }
            | SyncError::AdoptNotFound { .. }
            | SyncError::NotThere { .. }
            | SyncError::PublicIngestUrlMissing
            | SyncError::PublicIngestUrlUnusable(_)
            | SyncError::Held { .. }
            | SyncError::Differs(_)
            | SyncError::Conflict { .. }
            | SyncError::OtherInstallation { .. }
            | SyncError::SecretUnusable(_)
            | SyncError::InsecureHttp(_)
            | SyncError::IngestUrlMissing
            | SyncError::HandlerNotAllowed(_) => SyncErrorClass::Terminal,
            SyncError::ConnectionMissing(_)
            | SyncError::ConnectionInvalid(_)
            | SyncError::PolicyUnknown(_)
            | SyncError::Secret(
                ReferenceError::SecretMissing(_)
                | ReferenceError::SecretKeyMissing { .. }
                | ReferenceError::SecretInvalid { .. }
                | ReferenceError::ConfigMapMissing(_)
                | ReferenceError::ConfigMapKeyMissing { .. },
            )
            | SyncError::OtherFinalizers(_)
            | SyncError::InUse(_) => SyncErrorClass::DependencyMissing,
            SyncError::Admin(error) => match error.class() {
                admin::AdminErrorClass::Terminal => SyncErrorClass::Terminal,
                admin::AdminErrorClass::RateLimited(after) => SyncErrorClass::RateLimited(after),
                admin::AdminErrorClass::Retryable => SyncErrorClass::Retryable,
            },
            SyncError::NotVisibleYet(remaining) => SyncErrorClass::After(*remaining),
            SyncError::StillVisible { .. } => SyncErrorClass::After(STILL_VISIBLE_RETRY),
            SyncError::Secret(ReferenceError::Cluster(_))
            | SyncError::Cluster(_)
            | SyncError::LimitReached(_)
            | SyncError::NoId(_)
            | SyncError::OldAddress { .. }
            | SyncError::WorkspaceMissing { .. }
            | SyncError::CredentialsNotForAddress { .. }
            | SyncError::AddressNotVerified { .. }
            | SyncError::Panic(_) => SyncErrorClass::Retryable,
        }
    }

    /// Returns the readiness of an object with this error.
    pub fn readiness(&self) -> ObjectReadiness {
        let message = ConditionMessage::new(self.reason(), self.to_string());
        match self.class() {
            SyncErrorClass::Terminal => ObjectReadiness::Stalled(message),
            SyncErrorClass::DependencyMissing
            | SyncErrorClass::RateLimited(_)
            | SyncErrorClass::After(_)
            | SyncErrorClass::Retryable => ObjectReadiness::Reconciling(message),
        }
    }

    /// True if no call was made, because our own rate limiter postponed it or another replica leads.
    pub fn was_not_attempted(&self) -> bool {
        match self {
            SyncError::Admin(error) => error.is_deferred(),
            SyncError::Cluster(error) | SyncError::Secret(ReferenceError::Cluster(error)) => {
                matches!(error, ClusterError::NotLeading(_))
            }
            _ => false,
        }
    }

    /// Returns the admin API error, if the vendor caused this error.
    pub fn admin(&self) -> Option<&AdminError> {
        match self {
            SyncError::Admin(error) | SyncError::WorkspaceMissing { error, .. } => Some(error),
            SyncError::OldAddress { error, .. } => error.admin(),
            _ => None,
        }
    }
}
