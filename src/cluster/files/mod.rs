//! Files instead of a cluster. Manifests are read from folders; what a cluster would store (status, finalizers, the key
//! ring) is kept in the data folder.

mod atomic_file;
mod documents;
mod file_cluster;
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
