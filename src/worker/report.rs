//! What the dispatcher has to say, said in order and without making it wait: that a hook is held, to the store; how its
//! deliveries fare, to the hook's own condition `Delivering`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use tokio::sync::mpsc;

use super::store::{HookId, Store, StoreError};
use crate::api::EventHook;
use crate::cluster::{Cluster, ClusterError, Kind, Target, View};
use crate::core::conditions::{DELIVERING, condition};
use crate::core::time::Millis;

/// What could not be said is said again after this time.
const AGAIN: Duration = Duration::from_secs(5);

/// Something to say.
#[derive(Debug)]
pub enum Report {
    /// The hook is held, or no longer.
    Held {
        hook: HookId,
        held: bool,
        at: Millis,
    },
    Delivering(Fare),
}

/// How the deliveries of a hook fare.
#[derive(Clone, Debug)]
pub struct Fare {
    pub hook: HookId,
    pub well: bool,
    pub reason: &'static str,
    pub message: String,
    /// The token of the command `resume` that was acted on.
    pub resumed: Option<String>,
}

/// Says what comes in until nobody can say anything any more.
pub async fn run(
    mut reports: mpsc::UnboundedReceiver<Report>,
    store: Arc<dyn Store>,
    cluster: Arc<dyn Cluster>,
    view: View,
) {
    // The newest word of each hook that is still to be said: an API server that is away costs no more than this.
    let mut unsaid: HashMap<Arc<str>, Fare> = HashMap::new();
    loop {
        let again = async {
            match unsaid.is_empty() {
                true => std::future::pending().await,
                false => tokio::time::sleep(AGAIN).await,
            }
        };
        tokio::select! {
            report = reports.recv() => match report {
                None => return,
                Some(Report::Held { hook, held, at }) => hold(&*store, &hook, held, at).await,
                Some(Report::Delivering(fare)) => {
                    unsaid.remove(&fare.hook.uid);
                    if !say(&*cluster, &view, &fare).await {
                        unsaid.insert(fare.hook.uid.clone(), fare);
                    }
                }
            },
            () = again => {
                for (uid, fare) in std::mem::take(&mut unsaid) {
                    if !say(&*cluster, &view, &fare).await {
                        unsaid.insert(uid, fare);
                    }
                }
            }
        }
    }
}

/// Notes that a hook is held. A store that has no room for it has none for deliveries either: it is tried until it has.
async fn hold(store: &dyn Store, hook: &HookId, held: bool, at: Millis) {
    loop {
        match store.set_held(hook, held, at).await {
            Err(StoreError::Full | StoreError::Busy) => tokio::time::sleep(AGAIN).await,
            Err(error) => {
                tracing::warn!(hook = %hook.name, %error, "it could not be noted that the hook is held");
                return;
            }
            Ok(()) => return,
        }
    }
}

/// Writes the condition, if it says something else than the object does. False: try again.
async fn say(cluster: &dyn Cluster, view: &View, fare: &Fare) -> bool {
    let Some(guarded) = view.hook(&fare.hook.namespace, &fare.hook.name) else { return true };
    let Ok(object) = &guarded.0 else { return true };
    if object.metadata.uid.as_deref() != Some(&*fare.hook.uid) {
        return true;
    }
    let before = told(object);
    let status = if fare.well { "True" } else { "False" };
    let handled = object.status.as_ref().and_then(|s| s.handled.as_ref()).and_then(|h| h.resume.as_ref());
    let same = before.is_some_and(|c| {
        c.status == status && c.reason == fare.reason && c.observed_generation == object.metadata.generation
    });
    if same && (fare.resumed.is_none() || handled == fare.resumed.as_ref()) {
        return true;
    }
    let generation = object.metadata.generation;
    let condition =
        condition(before, DELIVERING, status, (fare.reason, &fare.message), generation, Millis::now());
    let target = Target::of(Kind::EventHook, object);
    let resumed = fare.resumed.clone().or_else(|| handled.cloned());
    match cluster.write_delivering(&target, condition, resumed).await {
        Ok(()) | Err(ClusterError::Gone) => true,
        // The object that the view has is old: once more with the newer one.
        Err(ClusterError::Conflict) => false,
        Err(error) => {
            tracing::warn!(hook = %fare.hook.name, %error, "the condition Delivering could not be written; it is tried again");
            false
        }
    }
}

/// The condition that the object has.
pub fn told(hook: &EventHook) -> Option<&Condition> {
    hook.status.as_ref()?.conditions.iter().find(|c| c.type_ == DELIVERING)
}
