//! Where objects come from and go to: a Kubernetes cluster, or files.
//!
//! Purpose: one small trait stands for the cluster (read what is referenced, write status, publish events, judge
//! callers), with two implementations, so that standalone runs the same reconciler and the same worker. `Feed` keeps
//! the reflector stores that both roles read, and tells subscribers what changed.
//!
//! Invariants: one malformed object never hides the others; secrets are in no `Debug` output; what cannot be read now
//! is served as it was last read, where that is safe.
//!
//! Left to others: what objects mean.

mod feed;
pub mod files;
pub mod kubernetes;
mod referenced;
mod secrets;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Resource, ResourceExt};
use serde_json::Value;
use tokio::sync::watch;

pub use feed::{Fed, Feed, Subscribers};
pub use secrets::{Data, MissingSecret, secret_text, tls_options};

use crate::api::{Connection, EventHook, EventStream, Hook};
use crate::core::conditions::Note;
use crate::core::keys::{KEY_LENGTH, KeyRing};
use crate::core::time::Millis;
use crate::leadership::NotLeading;

/// An object as watches give it: itself, or why it could not be read.
pub type Guarded<K> = DeserializeGuard<K>;

/// The objects as last seen.
#[derive(Clone)]
pub struct View {
    pub hooks: Store<Guarded<EventHook>>,
    pub connections: Store<Guarded<Connection>>,
    pub streams: Store<Guarded<EventStream>>,
    /// Auth0's extensibility Hooks.
    pub auth0_hooks: Store<Guarded<Hook>>,
    listed: [watch::Receiver<bool>; 4],
}

impl View {
    pub fn new(
        hooks: Fed<EventHook>,
        connections: Fed<Connection>,
        streams: Fed<EventStream>,
        auth0_hooks: Fed<Hook>,
    ) -> Self {
        View {
            hooks: hooks.store,
            connections: connections.store,
            streams: streams.store,
            auth0_hooks: auth0_hooks.store,
            listed: [hooks.listed, connections.listed, streams.listed, auth0_hooks.listed],
        }
    }

    /// Waits until every object was listed once.
    pub async fn ready(&self) {
        for listed in &self.listed {
            // An error means that the feed ended, which only happens when the process stops.
            listed.clone().wait_for(|listed| *listed).await.ok();
        }
    }

    pub fn connection(&self, namespace: &str, name: &str) -> Option<Arc<Guarded<Connection>>> {
        self.connections.get(&ObjectRef::new(name).within(namespace))
    }

    pub fn hook(&self, namespace: &str, name: &str) -> Option<Arc<Guarded<EventHook>>> {
        self.hooks.get(&ObjectRef::new(name).within(namespace))
    }

    pub fn stream(&self, namespace: &str, name: &str) -> Option<Arc<Guarded<EventStream>>> {
        self.streams.get(&ObjectRef::new(name).within(namespace))
    }

    pub fn auth0_hook(&self, namespace: &str, name: &str) -> Option<Arc<Guarded<Hook>>> {
        self.auth0_hooks.get(&ObjectRef::new(name).within(namespace))
    }
}

/// Something changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    EventHook(Key),
    Connection(Key),
    EventStream(Key),
    Hook(Key),
    Secret(Key),
    ConfigMap(Key),
}

/// A name in a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(namespace: &str, name: &str) -> Self {
        Key { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    pub fn of<K: Resource>(object: &K) -> Self {
        Key { namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A kind whose objects are reconciled.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    strum::IntoStaticStr,
    strum::EnumString,
    strum::EnumIter,
)]
pub enum Kind {
    EventHook,
    Connection,
    EventStream,
    Hook,
}

/// The object that a write is for.
#[derive(Clone, Debug)]
pub struct Target {
    pub kind: Kind,
    pub key: Key,
    pub uid: String,
    pub resource_version: String,
}

impl Target {
    pub fn of<K: Resource>(kind: Kind, object: &K) -> Self {
        Target {
            kind,
            key: Key::of(object),
            uid: object.uid().unwrap_or_default(),
            resource_version: object.resource_version().unwrap_or_default(),
        }
    }
}

/// A change of an object's metadata.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    /// All of them; None: as they are.
    pub finalizers: Option<Vec<String>>,
    /// To be set, or with None removed; others stay.
    pub annotations: BTreeMap<&'static str, Option<String>>,
}

/// Why the cluster could not do it.
#[derive(Clone, Debug, thiserror::Error, strum::IntoStaticStr)]
pub enum ClusterError {
    /// The object changed since it was read, or is another one of the same name: read again.
    #[error("the object changed meanwhile")]
    Conflict,
    #[error("the object is gone")]
    Gone,
    #[error("{0}")]
    ClusterError(String),
    #[error("the key ring cannot be used: {0}")]
    KeyRing(String),
    #[error(transparent)]
    NotLeading(#[from] NotLeading),
}

/// What a caller wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Access<'a> {
    pub namespace: &'a str,
    pub verb: &'static str,
    pub resource: &'static str,
    /// A part of it with a right of its own, such as `replay`.
    pub subresource: Option<&'static str>,
}

impl<'a> Access<'a> {
    pub fn new(namespace: &'a str, verb: &'static str, resource: &'static str) -> Self {
        Access { namespace, verb, resource, subresource: None }
    }

    pub fn part(self, subresource: &'static str) -> Self {
        Access { subresource: Some(subresource), ..self }
    }
}

/// Why a caller may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
pub enum AccessError {
    #[error("a bearer token is missing or not valid")]
    Unauthenticated,
    #[error("the caller may not do this in this namespace")]
    Forbidden,
    #[error("the caller cannot be checked now")]
    Unavailable,
}

/// A new key for a ring; its id is the time, so that the newest is the last by id.
fn new_key() -> Result<(String, [u8; KEY_LENGTH]), getrandom::Error> {
    let mut key = [0; KEY_LENGTH];
    getrandom::fill(&mut key)?;
    Ok((format!("k{:013}", Millis::now().0), key))
}

/// What the roles need of a cluster.
pub trait Cluster: Send + Sync + 'static {
    /// A Secret's data; None where there is none that may be used.
    fn secret<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Data>>, ClusterError>>;

    /// A ConfigMap's data; None where there is none.
    fn config_map<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Data>>, ClusterError>>;

    /// Replaces the controller's part of a status.
    fn write_status<'a>(
        &'a self,
        target: &'a Target,
        status: Value,
    ) -> BoxFuture<'a, Result<(), ClusterError>>;

    /// Writes the worker's part of an EventHook's status: its condition, and the acknowledged token of `resume`.
    fn write_delivering<'a>(
        &'a self,
        target: &'a Target,
        condition: Condition,
        resumed: Option<String>,
    ) -> BoxFuture<'a, Result<(), ClusterError>>;

    /// Changes metadata, if the object is still as it was read (by its uid alone where the target has no version).
    fn write_metadata<'a>(
        &'a self,
        target: &'a Target,
        metadata: Metadata,
    ) -> BoxFuture<'a, Result<(), ClusterError>>;

    /// Sets the finalizers, if the object is still as it was read.
    fn write_finalizers<'a>(
        &'a self,
        target: &'a Target,
        finalizers: Vec<String>,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        self.write_metadata(target, Metadata { finalizers: Some(finalizers), ..Metadata::default() })
    }

    /// False where the object is older than our own last write to it: the watch has not told of that yet.
    fn has_told(&self, _target: &Target) -> bool {
        true
    }

    /// The object as it is kept, where it cannot be read as what it should be.
    fn stored<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Value, ClusterError>>;

    /// Tells people. Never fails: what cannot be told is logged.
    fn publish<'a>(&'a self, target: &'a Target, warning: bool, note: &'a Note) -> BoxFuture<'a, ()>;

    /// Waits for a while until what was published is told.
    fn flush_events(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// True where what is published stands in this process's own log.
    fn publishes_to_log(&self) -> bool {
        false
    }

    /// The key ring. `create`: makes one where there is none; only the controller may, and only while nothing depends
    /// on a lost one.
    fn key_ring(&self, create: bool) -> BoxFuture<'_, Result<Arc<KeyRing>, ClusterError>>;

    /// What tells this installation from every other; None: it may not be asked for.
    fn installation(&self) -> BoxFuture<'_, Result<Option<String>, ClusterError>>;

    /// The uid of the namespace of this name; None: there is none.
    fn namespace_uid<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<String>, ClusterError>>;

    /// Judges a caller by its bearer token.
    fn authorize<'a>(
        &'a self,
        token: Option<&'a str>,
        access: Access<'a>,
    ) -> BoxFuture<'a, Result<(), AccessError>>;
}
