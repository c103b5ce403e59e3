//! The finalizer of the operator.

use kube::{Resource, ResourceExt};

use super::context::Context;
use super::error::SyncError;
use super::status::Managed;
use crate::api::FINALIZER;
use crate::cluster::{ClusterError, WriteTarget};

/// True if the object has the operator's finalizer.
pub fn is_present<K: Resource>(object: &K) -> bool {
    object.finalizers().iter().any(|f| f == FINALIZER)
}

/// Adds the finalizer, unless the object has it.
pub async fn add<K: Managed>(context: &Context, object: &K) -> Result<(), SyncError> {
    if is_present(object) {
        return Ok(());
    }
    let mut finalizers = object.finalizers().to_vec();
    finalizers.push(FINALIZER.to_owned());
    Ok(context.cluster.write_finalizers(&WriteTarget::of(K::KIND, object), finalizers).await?)
}

/// Removes the finalizer. An object that no longer exists is no error.
pub async fn remove<K: Managed>(context: &Context, object: &K) -> Result<(), SyncError> {
    if !is_present(object) {
        return Ok(());
    }
    let finalizers = object.finalizers().iter().filter(|f| *f != FINALIZER).cloned().collect();
    match context.cluster.write_finalizers(&WriteTarget::of(K::KIND, object), finalizers).await {
        Err(ClusterError::Gone) => Ok(()),
        other => Ok(other?),
    }
}
