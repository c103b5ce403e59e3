//! Before an uninstall: what the vendors have is deleted while the objects stay.

use std::time::Duration;

use kube::runtime::reflector::Store;

use super::context::Context;
use super::problem::{Class, Problem};
use super::reconcile::{Synced, delete_external};
use crate::admin::limit::{Lane, errand};
use crate::api::FINALIZER;
use crate::cluster::{Guarded, Target};

/// How often a call that a vendor or a rate limit put off is tried again.
const TRIES: u32 = 60;
const LONGEST: Duration = Duration::from_secs(10);

/// Deletes at the vendors what the objects of every kind have there, as their deletion would (a `deletionPolicy: Orphan`
/// leaves it). Tells of each object what came of it.
pub async fn delete_all_external(context: &Context, mut tell: impl FnMut(&Target, Result<(), Problem>)) {
    delete_kind(context, &context.view.hooks, &mut tell).await;
    delete_kind(context, &context.view.streams, &mut tell).await;
    delete_kind(context, &context.view.auth0_hooks, &mut tell).await;
}

async fn delete_kind<K: Synced>(
    context: &Context,
    store: &Store<Guarded<K>>,
    tell: &mut impl FnMut(&Target, Result<(), Problem>),
) {
    for guarded in store.state() {
        let target = Target::of(K::KIND, &*guarded);
        if !kube::ResourceExt::finalizers(&*guarded).iter().any(|f| f == FINALIZER) {
            continue;
        }
        let result = match &guarded.0 {
            Ok(object) => delete_one(context, object).await,
            Err(invalid) => Err(Problem::InvalidObject(invalid.error.clone())),
        };
        tell(&target, result);
    }
}

async fn delete_one<K: Synced>(context: &Context, object: &K) -> Result<(), Problem> {
    let mut tries = 0;
    loop {
        tries += 1;
        match errand(Lane::Delete, delete_external(object, context)).await {
            Err(problem) if tries < TRIES => match problem.class() {
                Class::RateLimited(after) | Class::After(after) => {
                    tokio::time::sleep(after.clamp(Duration::from_millis(50), LONGEST)).await;
                }
                _ => return Err(problem),
            },
            other => return other,
        }
    }
}
