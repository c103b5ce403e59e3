//! Previews the sync of every object, for `hookstream diff`.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::BoxFuture;

use super::context::Context;
use super::error::SyncError;
use super::reconcile::{Preview, Synced};
use super::{auth0_hook, eventhook, eventstream};
use crate::admin::AdminError;
use crate::admin::limit::{Priority, with_priority};
use crate::cluster::{ObjectKey, ObjectStore, ResourceKind};

/// Maximum retries of an object that our own rate limiter postpones.
const MAX_RETRIES: u32 = 20;

/// The preview of one object.
pub struct ObjectPreview {
    pub kind: &'static str,
    pub key: ObjectKey,
    /// False if the manifest has no status: an external object that exists may be unknown.
    pub has_status: bool,
    pub result: Result<Preview, SyncError>,
}

/// Selects objects by kind and key.
type Selection<'a> = &'a (dyn Fn(ResourceKind, &ObjectKey) -> bool + Sync);

/// Previews the sync of every object that `is_wanted` selects. Sorted by kind and name.
pub async fn preview(context: &Context, is_wanted: Selection<'_>) -> Vec<ObjectPreview> {
    let view = &context.view;
    let mut all = Vec::new();
    preview_kind(&view.hooks, context, is_wanted, &mut all, |object, context| {
        Box::pin(eventhook::preview(object, context))
    })
    .await;
    preview_kind(&view.streams, context, is_wanted, &mut all, |object, context| {
        Box::pin(eventstream::preview(object, context))
    })
    .await;
    preview_kind(&view.auth0_hooks, context, is_wanted, &mut all, |object, context| {
        Box::pin(auth0_hook::preview(object, context))
    })
    .await;
    all
}

async fn preview_kind<K: Synced>(
    store: &ObjectStore<K>,
    context: &Context,
    is_wanted: Selection<'_>,
    all: &mut Vec<ObjectPreview>,
    preview: impl for<'a> Fn(&'a K, &'a Context) -> BoxFuture<'a, Result<Preview, SyncError>>,
) {
    let objects: BTreeMap<ObjectKey, _> = store.all().map(|o| (ObjectKey::of(&*o), o)).collect();
    for (key, object) in objects.into_iter().filter(|(key, _)| is_wanted(K::KIND, key)) {
        let result = match &object.0 {
            Err(invalid) => Err(SyncError::InvalidObject(invalid.error.clone())),
            Ok(object) if object.policies().suspend => Ok(Preview::unchanged("suspend: nothing is synced")),
            Ok(object) => {
                let mut retries = 0..MAX_RETRIES;
                loop {
                    match with_priority(Priority::Change, preview(object, context)).await {
                        Err(SyncError::Admin(AdminError::Postponed(delay))) if retries.next().is_some() => {
                            tokio::time::sleep(delay.max(Duration::from_millis(50))).await;
                        }
                        other => break other,
                    }
                }
            }
        };
        let has_status = object.0.as_ref().is_ok_and(|object| object.status().is_some());
        all.push(ObjectPreview { kind: K::KIND.into(), key, has_status, result });
    }
}
