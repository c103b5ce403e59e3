//! Where standalone keeps what a cluster would store: the state of each object, the key ring and the installation id.
//!
//! A data folder belongs to one process (`FolderState`). A database is shared: every process reads what the others wrote, and
//! each write names the version that it replaces.

use futures::future::BoxFuture;

use crate::cluster::{ObjectKey, ResourceKind};
use crate::core::keys::KeyRing;

/// An object's kind and name.
pub type ObjectId = (ResourceKind, ObjectKey);

/// The version of a stored state. Each write makes a greater one.
pub type StateVersion = u64;

/// A stored state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredState {
    pub version: StateVersion,
    /// JSON.
    pub text: String,
}

/// The role that writes a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateAuthor {
    /// The controller. Writes only while this process leads.
    Controller,
    Worker,
}

/// A write of one state.
#[derive(Clone, Debug)]
pub struct StateWrite {
    pub id: ObjectId,
    /// The version that it replaces. None: there is none yet.
    pub before: Option<StateVersion>,
    /// The new content. None deletes the state.
    pub text: Option<String>,
    pub author: StateAuthor,
}

/// What was written since an earlier read.
#[derive(Clone, Debug, Default)]
pub struct StateChanges {
    /// The states that were written, each at least once.
    pub written: Vec<(ObjectId, StoredState)>,
    /// The states that were deleted, each with the version of its deletion. One that was created again is in `written` too. None of
    /// a read of all states.
    pub deleted: Vec<(ObjectId, StateVersion)>,
    /// The versions below this one are complete: pass it as `since` to the next read.
    pub horizon: StateVersion,
}

/// Why the state cannot be read or written. Nothing was changed, unless the answer was lost.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StateError {
    /// Another process has written or deleted the state since it was read.
    #[error("another process has written it since it was read")]
    Conflict,
    /// Another process leads.
    #[error("another process leads")]
    NotLeading,
    #[error("{0}")]
    Failed(String),
}

/// Keeps the state.
pub trait StateBackend: Send + Sync + 'static {
    /// True if other processes read and write the same state.
    fn is_shared(&self) -> bool;

    /// Returns the states that were written or deleted since the `horizon` of an earlier read, at most an hour ago; None: all.
    fn changes(&self, since: Option<StateVersion>) -> BoxFuture<'_, Result<StateChanges, StateError>>;

    /// Reads one state; None if the object has none.
    fn read<'a>(&'a self, id: &'a ObjectId) -> BoxFuture<'a, Result<Option<StoredState>, StateError>>;

    /// Writes one state. Returns its new version. With `StateError::Conflict`, read it and decide again.
    fn write(&self, write: StateWrite) -> BoxFuture<'_, Result<StateVersion, StateError>>;

    /// Returns the key ring. If there is none, stores `new` first, unless objects depend on a lost one.
    fn key_ring(&self, new: Option<KeyRing>) -> BoxFuture<'_, Result<Option<KeyRing>, StateError>>;

    /// Returns the id of the installation. If there is none, stores `new` first.
    fn installation_id(&self, new: Option<String>) -> BoxFuture<'_, Result<Option<String>, StateError>>;
}
