//! Identifies objects: by kind, namespace and name, and for writes also by uid and version.

use std::collections::BTreeMap;
use std::fmt;

use kube::{Resource, ResourceExt};

/// An object that was added, modified or deleted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ObjectChange {
    EventHook(ObjectKey),
    Connection(ObjectKey),
    EventStream(ObjectKey),
    Hook(ObjectKey),
    Secret(ObjectKey),
    ConfigMap(ObjectKey),
}

/// A name in a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    pub namespace: String,
    pub name: String,
}

impl ObjectKey {
    pub fn new(namespace: &str, name: &str) -> Self {
        ObjectKey { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    pub fn of<K: Resource>(object: &K) -> Self {
        ObjectKey { namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
    }
}

impl fmt::Display for ObjectKey {
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
pub enum ResourceKind {
    EventHook,
    Connection,
    EventStream,
    Hook,
}

/// The object that a write or an Event is for, at the version that was read.
#[derive(Clone, Debug)]
pub struct WriteTarget {
    pub kind: ResourceKind,
    pub key: ObjectKey,
    pub uid: String,
    pub resource_version: String,
}

impl WriteTarget {
    pub fn of<K: Resource>(kind: ResourceKind, object: &K) -> Self {
        WriteTarget {
            kind,
            key: ObjectKey::of(object),
            uid: object.uid().unwrap_or_default(),
            resource_version: object.resource_version().unwrap_or_default(),
        }
    }
}

/// A change of an object's metadata.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    /// The complete list of finalizers; None leaves them unchanged.
    pub finalizers: Option<Vec<String>>,
    /// Annotations to set, or with None to remove; all others stay.
    pub annotations: BTreeMap<&'static str, Option<String>>,
}
