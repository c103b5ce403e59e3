//! What the dispatcher has to say, said without making it wait: that a hook is held, to the store; how its deliveries
//! fare, to the hook's own condition `Delivering`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::outbox::Outbox;
use super::store::{HookId, Store, StoreError};
use crate::api::EventHook;
use crate::cluster::{Cluster, ClusterError, Kind, Target, View};
use crate::core::conditions::{DELIVERING, condition};
use crate::core::time::Millis;

/// What the view is too old for is said again after this time.
const SOON: Duration = Duration::from_millis(500);
/// What could not be said is said again after this time.
const AGAIN: Duration = Duration::from_secs(5);
/// Holds that are noted at a time: they share a commit.
const AT_ONCE: usize = 256;
/// Objects written last, of which the view may be older than what was written.
const WRITTEN: usize = 256;

/// What is to be said, to the store and to people. Neither waits for the other: while the API server hangs, ages stand
/// still where they should all the same.
#[derive(Default)]
pub struct Reports {
    pub held: Outbox<Held>,
    pub fares: Outbox<Fare>,
}

/// The hook is held, or no longer.
#[derive(Debug)]
pub struct Held {
    pub hook: HookId,
    pub held: bool,
    pub at: Millis,
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

/// Says what comes in. Never ends.
pub async fn run(reports: Arc<Reports>, store: Arc<dyn Store>, cluster: Arc<dyn Cluster>, view: View) {
    let teller = Teller { cluster, view, written: VecDeque::new() };
    tokio::join!(keep(&reports.held, &*store), teller.run(&reports.fares));
}

/// Notes who is held. A store that has no room for it has none for deliveries either: it is tried until it has.
async fn keep(held: &Outbox<Held>, store: &dyn Store) {
    loop {
        let batch = held.take(AT_ONCE).await;
        let noted = batch.into_iter().map(|(uid, word)| async move {
            match store.set_held(&word.hook, word.held, word.at).await {
                Err(StoreError::Full | StoreError::Busy) => Some((uid, word)),
                Err(error) => {
                    tracing::warn!(hook = %word.hook.name, %error, "it could not be noted that the hook is held");
                    None
                }
                Ok(()) => None,
            }
        });
        let refused: Vec<_> = join_all(noted).await.into_iter().flatten().collect();
        if !refused.is_empty() {
            refused.into_iter().for_each(|(uid, word)| held.put_back(&uid, word));
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Writes the condition `Delivering`.
struct Teller {
    cluster: Arc<dyn Cluster>,
    view: View,
    /// The objects written last: uid, and version before the write.
    written: VecDeque<(Arc<str>, String)>,
}

/// What came of saying it.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Done,
    /// Nobody knows yet what the object says: again, so much later.
    Again(Duration),
}

impl Teller {
    async fn run(mut self, fares: &Outbox<Fare>) {
        // What is still to be said, the newest of each hook.
        let mut unsaid: HashMap<Arc<str>, Fare> = HashMap::new();
        let mut wait = AGAIN;
        loop {
            let again = async {
                match unsaid.is_empty() {
                    true => std::future::pending().await,
                    false => tokio::time::sleep(wait).await,
                }
            };
            let words: Vec<_> = tokio::select! {
                words = fares.take(1) => words,
                () = again => {
                    wait = AGAIN;
                    unsaid.drain().collect()
                }
            };
            for (uid, fare) in words {
                unsaid.remove(&uid);
                if let Said::Again(after) = self.say(&uid, &fare).await {
                    unsaid.insert(uid, fare);
                    wait = wait.min(after);
                }
            }
        }
    }

    /// Writes the condition, if it says something else than the object does.
    async fn say(&mut self, uid: &Arc<str>, fare: &Fare) -> Said {
        let Some(guarded) = self.view.hook(&fare.hook.namespace, &fare.hook.name) else { return Said::Done };
        let Ok(object) = &guarded.0 else { return Said::Done };
        let metadata = &object.metadata;
        if metadata.uid.as_deref() != Some(&**uid) {
            return Said::Done;
        }
        let version = metadata.resource_version.clone().unwrap_or_default();
        // The view is from before the last write: it does not tell what the object says now.
        if !version.is_empty() && self.written.iter().any(|(of, before)| of == uid && *before == version) {
            return Said::Again(SOON);
        }
        let before = told(object);
        let status = if fare.well { "True" } else { "False" };
        let handled = object.status.as_ref().and_then(|s| s.handled.as_ref()).and_then(|h| h.resume.as_ref());
        let same = before.is_some_and(|c| {
            c.status == status && c.reason == fare.reason && c.observed_generation == metadata.generation
        });
        if same && (fare.resumed.is_none() || handled == fare.resumed.as_ref()) {
            return Said::Done;
        }
        let (generation, text) = (metadata.generation, (fare.reason, &*fare.message));
        let condition = condition(before, DELIVERING, status, text, generation, Millis::now());
        let target = Target::of(Kind::EventHook, object);
        let resumed = fare.resumed.clone().or_else(|| handled.cloned());
        match self.cluster.write_delivering(&target, condition, resumed).await {
            Ok(()) => {
                self.written.retain(|(of, _)| of != uid);
                self.written.truncate(WRITTEN);
                self.written.push_front((uid.clone(), version));
                Said::Done
            }
            Err(ClusterError::Gone) => Said::Done,
            // The object that the view has is old: once more with the newer one.
            Err(ClusterError::Conflict) => Said::Again(SOON),
            Err(error) => {
                tracing::warn!(hook = %fare.hook.name, %error, "the condition Delivering could not be written; it is tried again");
                Said::Again(AGAIN)
            }
        }
    }
}

/// The condition that the object has.
pub fn told(hook: &EventHook) -> Option<&Condition> {
    hook.status.as_ref()?.conditions.iter().find(|c| c.type_ == DELIVERING)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::files::{Files, Options};
    use crate::worker::store::sqlite::SqliteStore;

    fn fare(uid: &str, well: bool) -> Fare {
        let hook = HookId { uid: uid.into(), namespace: "default".into(), name: "h".into() };
        let reason = if well { "Delivering" } else { "ReceiverFailing" };
        Fare { hook, well, reason, message: "words".into(), resumed: None }
    }

    #[tokio::test]
    async fn a_view_that_is_behind_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = dir.path().join("h.yaml");
        std::fs::write(
            &manifest,
            "apiVersion: hookstream.dev/v1alpha1\nkind: EventHook\nmetadata: {name: h}\nspec: {source: s, handler: {log: {}}}\n",
        )
        .unwrap();
        let options =
            Options { manifests: vec![manifest], data: dir.path().into(), prune: false, token: None };
        let files = Arc::new(Files::open(options).unwrap());
        let mut teller =
            Teller { cluster: files.clone(), view: files.view().await, written: VecDeque::new() };
        let uid: Arc<str> = crate::cluster::files::uid("EventHook", "default", "h").into();
        let says = async || {
            let view = files.view().await;
            let guarded = view.hook("default", "h").unwrap();
            told(guarded.0.as_ref().unwrap()).map(|c| c.status.clone())
        };
        assert_eq!(says().await, None);
        assert_eq!(teller.say(&uid, &fare(&uid, true)).await, Said::Done);
        assert_eq!(says().await.as_deref(), Some("True"));
        teller.view = files.view().await;
        assert_eq!(teller.say(&uid, &fare(&uid, false)).await, Said::Done);
        // The view still shows that all is well: that this is to be said again is no reason to leave it.
        assert_eq!(teller.say(&uid, &fare(&uid, true)).await, Said::Again(SOON));
        teller.view = files.view().await;
        assert_eq!(teller.say(&uid, &fare(&uid, true)).await, Said::Done);
        assert_eq!(says().await.as_deref(), Some("True"));
        let written = teller.written.clone();
        assert_eq!(teller.say(&uid, &fare(&uid, true)).await, Said::Again(SOON), "not yet seen");
        teller.view = files.view().await;
        assert_eq!(teller.say(&uid, &fare(&uid, true)).await, Said::Done);
        assert_eq!(teller.written, written, "nothing new is written nowhere");
    }

    #[tokio::test]
    async fn holds_are_noted_at_the_time_they_began() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path()).unwrap();
        let held = Outbox::default();
        let hooks: Vec<HookId> =
            (0..300).map(|n| HookId { uid: format!("{n}").into(), ..fare("", true).hook }).collect();
        for hook in &hooks {
            held.put(&hook.uid, Held { hook: hook.clone(), held: true, at: Millis(1) });
        }
        let all = async {
            while store.held().await.unwrap().len() < hooks.len() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = keep(&held, &store) => unreachable!("it never ends"),
            () = all => {}
        }
    }
}
