//! Files instead of a Kubernetes cluster. Manifests are read from folders. The data folder has the state that the API
//! server would store: status, finalizers and the key ring.

mod api_version;
mod atomic_file;
mod data_objects;
mod definition;
mod documents;
mod encoding;
mod file_cluster;
mod file_scanner;
mod helm;
mod installation;
mod json;
mod key_ring;
mod manifest_set;
mod number;
mod object_lists;
mod objects;
mod offline_manifests;
mod source;
mod state;
mod yaml;
mod yaml_scalar;

pub use api_version::{Ownership, ownership};
pub use atomic_file::write_atomically;
pub use data_objects::check_data_object;
pub use documents::{Document, ManifestError, read_documents};
pub use file_cluster::{FileCluster, FileClusterOptions};
pub use helm::{NOT_RENDERED, find_helm_value};
pub use object_lists::view_of;
pub use objects::object_uid;
pub use offline_manifests::OfflineManifests;
pub use source::{DocumentSource, FileProblem, Position};
