//! What syncs would change, object by object, for a person who asks before anything is applied.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::BoxFuture;
use kube::runtime::reflector::Store;

use super::context::Context;
use super::problem::Problem;
use super::reconcile::{Preview, Synced};
use super::{auth0_hook, eventhook, eventstream};
use crate::admin::AdminError;
use crate::admin::limit::{Lane, errand};
use crate::cluster::{Guarded, Key};

/// So often an object comes back for its turn within the rate limits.
const TURNS: u32 = 20;

/// What was found of one object.
pub struct Looked {
    pub kind: &'static str,
    pub key: Key,
    /// False where nothing says what was done for it before.
    pub has_status: bool,
    pub result: Result<Preview, Problem>,
}

/// What a sync of every object would change. Sorted by kind and name.
pub async fn preview(context: &Context) -> Vec<Looked> {
    let view = &context.view;
    let mut all = Vec::new();
    each(&view.hooks, context, &mut all, |o, c| Box::pin(eventhook::preview(o, c))).await;
    each(&view.streams, context, &mut all, |o, c| Box::pin(eventstream::preview(o, c))).await;
    each(&view.auth0_hooks, context, &mut all, |o, c| Box::pin(auth0_hook::preview(o, c))).await;
    all
}

async fn each<K: Synced>(
    store: &Store<Guarded<K>>,
    context: &Context,
    all: &mut Vec<Looked>,
    preview: impl for<'a> Fn(&'a K, &'a Context) -> BoxFuture<'a, Result<Preview, Problem>>,
) {
    let objects: BTreeMap<Key, _> = store.state().into_iter().map(|o| (Key::of(&*o), o)).collect();
    for (key, object) in objects {
        let result = match &object.0 {
            Err(invalid) => Err(Problem::InvalidObject(invalid.error.clone())),
            Ok(object) if object.policies().suspend => Ok(Preview::nothing("suspend: nothing is synced")),
            Ok(object) => {
                let mut turns = 0..TURNS;
                loop {
                    match errand(Lane::Change, preview(object, context)).await {
                        Err(Problem::Admin(AdminError::Postponed(wait))) if turns.next().is_some() => {
                            tokio::time::sleep(wait.max(Duration::from_millis(50))).await;
                        }
                        other => break other,
                    }
                }
            }
        };
        let has_status = object.0.as_ref().is_ok_and(|object| object.status().is_some());
        all.push(Looked { kind: K::KIND.into(), key, has_status, result });
    }
}
