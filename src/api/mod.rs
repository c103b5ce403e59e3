//! The custom resources of `hookstream.dev/v1alpha1` as Rust types.
//!
//! `hookstream crds` generates the CRDs from these types. `kubectl explain` prints their doc comments, so the comments are
//! written for users: shape, unit, default, limits and effect.
//!
//! Invariants: the schema contains only defaults that can never change; code applies the other defaults, and the
//! comments document them; a union consists of optional members and an "exactly one of" rule; every field has a bound
//! and every list a list type; no I/O. Optional members are `Option`s that are omitted if they are `None`
//! (`skip_serializing_none`). With `schema_with`, a member also needs `serde(default)` to be optional in the schema.
//!
//! Out of scope: the meaning of an object (`core`), reading and writing objects (`cluster`).

mod auth0_hook;
mod common;
mod connection;
mod crds;
mod eventhook;
mod eventstream;
mod handler;
mod status_bounds;
mod status_schema;

pub use auth0_hook::*;
pub use common::*;
pub use connection::*;
pub use crds::{crds, to_yaml};
pub use eventhook::*;
pub use eventstream::*;
pub use handler::*;
pub use status_bounds::{bound_status, bounded_token};
pub use status_schema::status_schema;

/// The API group of every kind.
pub const GROUP: &str = "hookstream.dev";
/// The version that this program reads and writes, of every kind. The `kube` attributes of the kinds repeat it, because
/// an attribute takes no constant; a test compares them. docs/adr/0012 describes the way to the next version.
pub const VERSION: &str = "v1alpha1";
/// The group and version, as `apiVersion` in manifests.
pub const API_VERSION: &str = "hookstream.dev/v1alpha1";
/// The finalizer of objects that exist at the vendor, and of Connections in use.
pub const FINALIZER: &str = "hookstream.dev/cleanup";
/// Annotation that requests an immediate reconcile. Its value is an opaque token, acknowledged in `status.handled`.
pub const RECONCILE_REQUESTED_AT: &str = "hookstream.dev/reconcileRequestedAt";
/// Annotation that resumes a hook that is held after a response of 410, or a stream that Auth0 disabled. Its value is an
/// opaque token, acknowledged in `status.handled`.
pub const RESUME: &str = "hookstream.dev/resume";
/// The members of a spec that decide whether a deletion reaches the vendor, and where. Read leniently from an object that
/// cannot be parsed as a whole. Nothing is deleted while one of them cannot be read.
pub const CLEANUP_MEMBERS: [&str; 4] = ["connectionRef", "deletionPolicy", "managementPolicy", "adopt"];
/// The label that names the operator of an object, among several in a cluster (`--controller-class`).
pub const CLASS_LABEL: &str = "hookstream.dev/controller-class";
/// With `--require-secret-label`, the operator uses only Secrets with this label.
pub const USE_LABEL: &str = "hookstream.dev/use";

#[cfg(test)]
mod tests {
    use kube::Resource;

    use super::*;

    #[test]
    fn every_kind_has_the_same_version() {
        assert_eq!(API_VERSION, format!("{GROUP}/{VERSION}"));
        let versions = [
            EventHook::api_version(&()),
            EventStream::api_version(&()),
            Hook::api_version(&()),
            Connection::api_version(&()),
        ];
        assert_eq!(versions, [API_VERSION; 4]);
        for crd in crds() {
            let versions = crd["spec"]["versions"].as_array().unwrap();
            let stored: Vec<_> = versions.iter().filter(|version| version["storage"] == true).collect();
            assert_eq!(stored.len(), 1, "{crd:#}");
            assert!(versions.iter().any(|version| version["name"] == VERSION && version["served"] == true));
        }
    }
}
