//! Files instead of a Kubernetes cluster. Manifests are read from folders. The data folder has the state that the API
//! server would store: status, finalizers and the key ring.

mod atomic_file;
mod definition;
mod documents;
mod file_cluster;
mod file_scanner;
mod key_ring;
mod manifest_set;
mod object_lists;
mod objects;
mod offline_manifests;
mod state;

pub use documents::{Document, ManifestError, read_documents};
pub use file_cluster::{FileCluster, FileClusterOptions};
pub use objects::object_uid;
pub use offline_manifests::OfflineManifests;
