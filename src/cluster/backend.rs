//! The `Cluster` trait and its errors.

use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::Value;

use super::data::Data;
use super::object::{Metadata, ObjectKey, WriteTarget};
use crate::api::DeliveryReport;
use crate::core::conditions::ConditionMessage;
use crate::core::keys::KeyRing;
use crate::core::time::Millis;
use crate::leadership::NotLeading;

/// The reason why a call of a cluster failed.
#[derive(Clone, Debug, thiserror::Error, strum::IntoStaticStr)]
pub enum ClusterError {
    /// The object was modified since it was read, or replaced by another one of the same name; read it again.
    #[error("the object was modified since it was read")]
    Conflict,
    #[error("the object no longer exists")]
    Gone,
    #[error("{0}")]
    ClusterError(String),
    #[error("the key ring cannot be used: {0}")]
    KeyRing(String),
    #[error(transparent)]
    NotLeading(#[from] NotLeading),
}

/// A verb on a resource of a namespace, as RBAC grants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Permission<'a> {
    pub namespace: &'a str,
    pub verb: &'static str,
    pub resource: &'static str,
    /// A part of the resource that is granted separately, such as `replay`.
    pub subresource: Option<&'static str>,
}

impl<'a> Permission<'a> {
    pub fn new(namespace: &'a str, verb: &'static str, resource: &'static str) -> Self {
        Permission { namespace, verb, resource, subresource: None }
    }

    pub fn with_subresource(self, subresource: &'static str) -> Self {
        Permission { subresource: Some(subresource), ..self }
    }
}

/// Why a caller is not authorized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
pub enum AuthorizationError {
    #[error("the bearer token is missing or invalid")]
    Unauthenticated,
    #[error("the caller lacks this permission in this namespace")]
    Forbidden,
    #[error("the caller's permissions cannot be checked at the moment")]
    Unavailable,
}

/// The worker's part of an EventHook's status.
#[derive(Clone, Debug)]
pub struct DeliveryStatus {
    /// The condition Delivering.
    pub condition: Condition,
    pub report: DeliveryReport,
    /// The acknowledged token of `resume`.
    pub resumed: Option<String>,
}

/// The role that publishes an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventPublisherRole {
    /// Publishes only while it leads.
    Controller,
    Worker,
}

/// The replica of the controller that leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaderReport {
    /// There is no election: this process has all roles.
    NoElection,
    /// `since`: when it took the Lease.
    Leads { holder: String, since: Option<Millis> },
    /// No replica leads. The message says why.
    None { message: String },
    /// `role`: the role of the chart that this process lacks to read the Lease, without the release's prefix.
    Unknown { message: String, role: Option<&'static str> },
}

/// The operations that the controller and the worker need of a cluster.
pub trait Cluster: Send + Sync + 'static {
    /// Reads a Secret's data; None if it does not exist or may not be used.
    fn secret<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Option<Arc<Data>>, ClusterError>>;

    /// Reads a ConfigMap's data; None if it does not exist.
    fn config_map<'a>(&'a self, key: &'a ObjectKey)
    -> BoxFuture<'a, Result<Option<Arc<Data>>, ClusterError>>;

    /// Replaces the controller's part of a status.
    fn write_status<'a>(
        &'a self,
        target: &'a WriteTarget,
        status: Value,
    ) -> BoxFuture<'a, Result<(), ClusterError>>;

    /// Writes the worker's part of an EventHook's status.
    fn write_delivery_status<'a>(
        &'a self,
        target: &'a WriteTarget,
        status: DeliveryStatus,
    ) -> BoxFuture<'a, Result<(), ClusterError>>;

    /// Changes metadata if the object is unchanged since it was read. A target without a version is matched by uid alone.
    fn write_metadata<'a>(
        &'a self,
        target: &'a WriteTarget,
        metadata: Metadata,
    ) -> BoxFuture<'a, Result<(), ClusterError>>;

    /// Replaces the finalizers if the object is unchanged since it was read.
    fn write_finalizers<'a>(
        &'a self,
        target: &'a WriteTarget,
        finalizers: Vec<String>,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        self.write_metadata(target, Metadata { finalizers: Some(finalizers), ..Metadata::default() })
    }

    /// Returns false if the object is older than the controller's last write to it, because the watch has not delivered
    /// that write yet.
    fn has_observed_own_write(&self, _target: &WriteTarget) -> bool {
        true
    }

    /// Reads an object as untyped JSON. This works for objects that cannot be deserialized too.
    fn read_object<'a>(&'a self, target: &'a WriteTarget) -> BoxFuture<'a, Result<Value, ClusterError>>;

    /// Publishes an Event about an object. Never fails; an Event that cannot be published is logged.
    fn publish_event<'a>(
        &'a self,
        target: &'a WriteTarget,
        warning: bool,
        note: &'a ConditionMessage,
    ) -> BoxFuture<'a, ()>;

    /// Publishes an Event of the worker about an EventHook. Never fails; an Event that cannot be published is logged. Without
    /// a place for Events there are none: the worker logs each change too.
    fn publish_delivery_event<'a>(
        &'a self,
        _target: &'a WriteTarget,
        _warning: bool,
        _note: &'a ConditionMessage,
    ) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Waits, for a bounded time, until all queued Events are published.
    fn flush_events(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Returns true if published Events go to this process's own log.
    fn publishes_to_log(&self) -> bool {
        false
    }

    /// Reads the key ring. If there is none, `create` creates it. Only the controller may do so, and only while no
    /// object depends on a lost key ring.
    fn key_ring(&self, create: bool) -> BoxFuture<'_, Result<Arc<KeyRing>, ClusterError>>;

    /// Returns true once after a deleted key ring was restored from memory.
    fn take_key_ring_restored(&self) -> bool {
        false
    }

    /// Returns an id that distinguishes this installation from all others; None if reading it is forbidden.
    fn installation_id(&self) -> BoxFuture<'_, Result<Option<String>, ClusterError>>;

    /// Returns the id that marks this installation's relays at the vendors; None if there is none or reading it is
    /// forbidden.
    fn installation_mark(&self) -> BoxFuture<'_, Result<Option<String>, ClusterError>> {
        self.installation_id()
    }

    /// Returns the uid of the namespace with this name; None if there is no such namespace.
    fn namespace_uid<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<String>, ClusterError>>;

    /// Returns which replica of the controller leads. Never fails: what cannot be read is unknown.
    fn leader(&self) -> BoxFuture<'_, LeaderReport> {
        let message = "this process does not observe the election".to_owned();
        Box::pin(std::future::ready(LeaderReport::Unknown { message, role: None }))
    }

    /// Checks that the caller with this bearer token has the permission.
    fn authorize<'a>(
        &'a self,
        token: Option<&'a str>,
        permission: Permission<'a>,
    ) -> BoxFuture<'a, Result<(), AuthorizationError>>;
}
