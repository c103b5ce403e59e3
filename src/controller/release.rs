//! Releases the external objects before an uninstall: deletes them at the vendors while the custom resources stay.

use std::time::Duration;

use super::context::Context;
use super::error::{SyncError, SyncErrorClass};
use super::finalizer;
use super::reconcile::{Synced, delete_external};
use crate::admin::limit::{Priority, with_priority};
use crate::cluster::{ObjectStore, WriteTarget};

/// Maximum attempts for one object when a vendor or a rate limit postpones it.
const MAX_ATTEMPTS: u32 = 60;
/// Longest delay between two attempts.
const MAX_DELAY: Duration = Duration::from_secs(10);

/// Deletes the external objects of every kind, as the deletion of the custom resources would (`deletionPolicy: Orphan`
/// keeps them). Calls `report` with the result of each object.
pub async fn delete_all_external(
    context: &Context,
    mut report: impl FnMut(&WriteTarget, Result<(), SyncError>),
) {
    delete_kind(context, &context.view.hooks, &mut report).await;
    delete_kind(context, &context.view.streams, &mut report).await;
    delete_kind(context, &context.view.auth0_hooks, &mut report).await;
}

async fn delete_kind<K: Synced>(
    context: &Context,
    store: &ObjectStore<K>,
    report: &mut impl FnMut(&WriteTarget, Result<(), SyncError>),
) {
    for guarded in store.all() {
        let target = WriteTarget::of(K::KIND, &*guarded);
        if !finalizer::is_present(&*guarded) {
            continue;
        }
        let result = match &guarded.0 {
            Ok(object) => delete_one(context, object).await,
            Err(invalid) => Err(SyncError::InvalidObject(invalid.error.clone())),
        };
        report(&target, result);
    }
}

async fn delete_one<K: Synced>(context: &Context, object: &K) -> Result<(), SyncError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match with_priority(Priority::Delete, delete_external(object, context)).await {
            Err(error) if attempts < MAX_ATTEMPTS => match error.class() {
                SyncErrorClass::RateLimited(after) | SyncErrorClass::After(after) => {
                    tokio::time::sleep(after.clamp(Duration::from_millis(50), MAX_DELAY)).await;
                }
                _ => return Err(error),
            },
            other => return other,
        }
    }
}
