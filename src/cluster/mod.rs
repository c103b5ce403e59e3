//! The source and store of custom resources: a Kubernetes cluster, or files.
//!
//! Purpose: the trait `Cluster` (read Secrets and ConfigMaps, write status, publish Events, authorize callers) has two
//! implementations, so that standalone runs the same reconciler and the same worker. A `Reflector` for each kind keeps the
//! stores that both roles read (`View`) and notifies subscribers of changes.
//!
//! Invariants: one malformed object never hides the others; no `Debug` output contains a secret; data that cannot be read
//! now is served as last read where that is safe.
//!
//! Out of scope: what objects mean.

mod backend;
mod data;
pub mod files;
mod keys;
pub mod kubernetes;
mod object;
mod reflector;
mod secrets;
mod view;

pub use backend::{AuthorizationError, Cluster, ClusterError, Permission};
pub use data::Data;
pub use object::{DeserializeGuard, Metadata, ObjectChange, ObjectKey, ResourceKind, WriteTarget};
pub use reflector::{ReflectedStore, Reflector, Subscribers};
pub use secrets::{ReferenceError, read_secret_text, read_tls_options};
pub use view::View;
