//! The source and store of custom resources: a Kubernetes cluster, or files.
//!
//! Purpose: the trait `Cluster` reads Secrets and ConfigMaps, writes status, publishes Events and authorizes callers.
//! It has two implementations, so that standalone runs the same reconciler and the same worker. A `Reflector` for each
//! kind keeps the stores that both roles read (`View`) and notifies subscribers of changes.
//!
//! Invariants: one malformed object never hides the others. No `Debug` output contains a secret. While data cannot be
//! read, callers get the data that was last read, if that is safe.
//!
//! Out of scope: the meaning of objects (`controller`, `worker`).

mod backend;
mod data;
mod deserialize_guard;
pub mod files;
mod keys;
pub mod kubernetes;
mod object;
mod object_store;
mod overlay;
mod packed_objects;
mod read_only;
mod reflector;
mod secrets;
mod view;

pub use backend::{
    AuthorizationError, Cluster, ClusterError, DeliveryStatus, EventPublisherRole, LeaderReport, Permission,
};
pub use data::Data;
pub use deserialize_guard::{DeserializeGuard, InvalidObject};
pub use object::{Metadata, ObjectChange, ObjectKey, ResourceKind, WriteTarget};
pub use object_store::{ObjectForm, ObjectStore, ReflectedKind};
pub use overlay::ManifestOverlay;
pub use read_only::ReadOnlyCluster;
pub use reflector::{ReflectedStore, Reflector, Subscribers};
pub use secrets::{ReferenceError, read_secret_text, read_tls_options};
pub use view::View;
