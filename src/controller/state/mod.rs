//! The controller's in-memory state between reconciles.
//!
//! Purpose: bridges the time until the watch delivers this process's own writes, and saves calls to a vendor by sharing
//! their results between objects.
//!
//! Invariants: nothing here has to survive a restart, because a new process can read the same facts from the cluster
//! and the vendor. The entries of an object are dropped with the object. The caches of writes are dropped when
//! leadership is gained.
//!
//! Out of scope: the pipeline, which reads and fills these caches. Nothing here imports it.

mod claims;
mod create_record;
mod installations;
mod keyed_hash;
mod memory;
mod owner_index;
mod ownership;
mod snapshots;
mod sources;
mod stream_failures;

pub use claims::ClaimedIds;
pub use create_record::{CreateRecord, PENDING_CREATE};
pub use installations::Installations;
pub use keyed_hash::{hash_with_newest_key, is_hash_of};
pub use memory::ObjectMemory;
pub use owner_index::{IndexEntry, OwnerIndex};
pub use ownership::{MarkerOwner, MarkerProof, OWNED_OBJECT, OwnershipMarker, is_same_id, normalized_id};
pub use snapshots::{SnapshotEntry, Snapshots};
pub use sources::{SourceCache, SourceCheck};
pub use stream_failures::StreamFailures;
