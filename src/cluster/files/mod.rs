//! Files instead of a Kubernetes cluster. Manifests are read from folders. The state that the API server would store (status,
//! finalizers, the key ring) is in a data folder, or in a database that several processes share (`StateBackend`).

mod api_version;
mod atomic_file;
mod cluster_operations;
mod data_objects;
mod definition;
mod documents;
mod encoding;
mod file_cluster;
mod file_scanner;
mod folder_state;
mod helm;
mod installation;
mod json;
mod key_ring;
mod manifest_set;
mod number;
mod object_lists;
mod objects;
mod offline_manifests;
mod saved_state;
mod source;
mod state;
mod state_backend;
#[cfg(test)]
pub mod state_conformance;
mod state_refresh;
mod yaml;
mod yaml_scalar;

pub use api_version::{Ownership, ownership};
pub use atomic_file::write_atomically;
pub use data_objects::check_data_object;
pub use documents::{Document, ManifestError, read_documents};
pub use file_cluster::{FileCluster, FileClusterOptions, OpenError, SharedClusterOptions};
pub use helm::{NOT_RENDERED, find_helm_value};
pub use object_lists::view_of;
pub use objects::object_uid;
pub use offline_manifests::OfflineManifests;
pub use source::{DocumentSource, FileProblem, Position};
pub use state_backend::{
    ObjectId, StateAuthor, StateBackend, StateChanges, StateError, StateVersion, StateWrite, StoredState,
};
