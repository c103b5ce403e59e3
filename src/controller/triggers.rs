//! Turns watch events into reconcile requests for the objects that they affect.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use tokio::sync::mpsc;

use super::context::Context;
use super::reconcile::{self, Synced};
use super::usage::{forget_deleted_connection, is_finalizer_stale, uses_connection};
use crate::api::{
    CaKind, Connection, EventHook, EventStream, FINALIZER, Hook, RECONCILE_REQUESTED_AT, RESUME,
};
use crate::cluster::{DeserializeGuard, ObjectChange, ObjectKey, ObjectStore};
use crate::core::conditions::is_ready;
use crate::core::hook::validate;
use crate::core::{auth0_hook, stream};

/// The queues of reconcile requests, by kind.
#[derive(Clone)]
pub struct RequestQueues {
    pub hooks: Queue<EventHook>,
    pub connections: Queue<Connection>,
    pub streams: Queue<EventStream>,
    pub auth0_hooks: Queue<Hook>,
}

type Queue<K> = mpsc::Sender<ObjectRef<DeserializeGuard<K>>>;

/// The parts of an object that reconciles depend on. Without this filter, each write of the controller would trigger the
/// next reconcile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Fingerprint {
    uid: Option<String>,
    generation: Option<i64>,
    is_deleting: bool,
    has_finalizer: bool,
    /// While the object is being deleted, the number of other finalizers, because cleanup waits for them. Otherwise 0.
    other_finalizers: usize,
    reconcile_requested_at: Option<String>,
    /// The annotation `resume`, for kinds that the controller resumes.
    resume: Option<String>,
    is_parsed: bool,
    /// Connections only.
    is_ready: bool,
    /// The Connections that the object uses.
    connections: Vec<String>,
}

impl Fingerprint {
    /// True if the object itself has to be reconciled. Its status and an added finalizer are ignored, because the
    /// controller wrote them.
    fn affects_itself(&self, before: &Self) -> bool {
        let relevant = |print: &Self| Fingerprint {
            is_ready: false,
            connections: Vec::new(),
            has_finalizer: false,
            ..print.clone()
        };
        relevant(self) != relevant(before) || (before.has_finalizer && !self.has_finalizer)
    }

    /// True if the users of this Connection have to be reconciled.
    fn affects_users(&self, before: &Self) -> bool {
        let relevant = |print: &Self| {
            (print.uid.clone(), print.generation, print.reconcile_requested_at.clone(), print.is_parsed)
        };
        relevant(self) != relevant(before) || (self.is_ready && !before.is_ready)
    }

    /// The parts that decide which Connections are in use. An object that cannot be parsed may use any.
    fn connection_usage(&self) -> (Option<&str>, bool, bool, bool, &[String]) {
        (self.uid.as_deref(), self.is_deleting, self.has_finalizer, self.is_parsed, &self.connections)
    }
}

/// Reads changes until they end, and enqueues the reconcile requests that follow from them.
pub async fn run(context: Arc<Context>, mut changes: mpsc::Receiver<ObjectChange>, queues: RequestQueues) {
    let mut fingerprints: HashMap<ObjectChange, Fingerprint> = HashMap::new();
    let mut connections_to_update = context.connections_to_update.lock().take();
    let mut term = 0;
    loop {
        let change = tokio::select! {
            change = changes.recv() => change,
            Some(key) = next_connection(&mut connections_to_update) => {
                enqueue(&queues.connections, &key).await;
                continue;
            }
            now = context.leadership.wait_until_gained(term) => {
                term = now;
                enqueue_everything(&context, &queues).await;
                continue;
            }
        };
        let Some(change) = change else { return };
        reconcile::index_change(&context, &change);
        let now = match &change {
            ObjectChange::EventHook(key) => {
                context.view.hook(&key.namespace, &key.name).map(|o| fingerprint_of_user(&o))
            }
            ObjectChange::EventStream(key) => {
                context.view.stream(&key.namespace, &key.name).map(|o| fingerprint_of_stream(&o))
            }
            ObjectChange::Hook(key) => {
                context.view.auth0_hook(&key.namespace, &key.name).map(|o| fingerprint_of_user(&o))
            }
            ObjectChange::Connection(key) => {
                context.view.connection(&key.namespace, &key.name).map(|o| fingerprint_of_connection(&o))
            }
            ObjectChange::Secret(_) | ObjectChange::ConfigMap(_) => None,
        };
        let before = fingerprints.remove(&change);
        let uid = now.as_ref().and_then(|now| now.uid.clone());
        // Drop the state of the deleted object, even if a new object of the same name replaced it.
        let old_uid = before.as_ref().and_then(|before| before.uid.as_ref());
        if let Some(deleted) = old_uid.filter(|old_uid| uid.as_ref() != Some(old_uid)) {
            context.forget(deleted);
            if let ObjectChange::Connection(key) = &change {
                forget_deleted_connection(&context, key);
            }
        }
        enqueue_affected(&context, &change, before.as_ref(), now.as_ref(), &queues).await;
        if let Some(now) = now {
            fingerprints.insert(change, now);
        }
    }
}

/// Enqueues every object when leadership is gained: until then, no replica may have handled the changes.
async fn enqueue_everything(context: &Context, queues: &RequestQueues) {
    context.clear_caches();
    enqueue_all(&context.view.connections, &queues.connections).await;
    enqueue_all(&context.view.hooks, &queues.hooks).await;
    enqueue_all(&context.view.streams, &queues.streams).await;
    enqueue_all(&context.view.auth0_hooks, &queues.auth0_hooks).await;
}

async fn enqueue_all<K>(store: &ObjectStore<K>, queue: &Queue<K>)
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    for object in store.all() {
        enqueue(queue, &ObjectKey::of(&*object)).await;
    }
}

/// Returns the next Connection whose status lacks a learned capability.
async fn next_connection(connections: &mut Option<mpsc::UnboundedReceiver<ObjectKey>>) -> Option<ObjectKey> {
    match connections {
        Some(connections) => connections.recv().await,
        None => std::future::pending().await,
    }
}

/// Enqueues the objects that a change affects. `before` and `now` are None if the object did not or does not exist.
async fn enqueue_affected(
    context: &Context,
    change: &ObjectChange,
    before: Option<&Fingerprint>,
    now: Option<&Fingerprint>,
    queues: &RequestQueues,
) {
    let view = &context.view;
    let both = before.zip(now);
    let affects_itself = both.is_none_or(|(before, now)| now.affects_itself(before));
    match change {
        ObjectChange::EventHook(key) if affects_itself => {
            enqueue_existing(&view.hooks, key, &queues.hooks).await
        }
        ObjectChange::EventStream(key) if affects_itself => {
            enqueue_existing(&view.streams, key, &queues.streams).await
        }
        ObjectChange::Hook(key) if affects_itself => {
            enqueue_existing(&view.auth0_hooks, key, &queues.auth0_hooks).await
        }
        ObjectChange::Connection(key) => {
            if affects_itself {
                enqueue_existing(&view.connections, key, &queues.connections).await;
            }
            if both.is_none_or(|(before, now)| now.affects_users(before)) {
                let name = &key.name;
                enqueue_matching(&view.hooks, key, &queues.hooks, |h| uses_connection(h, name)).await;
                enqueue_matching(&view.streams, key, &queues.streams, |s| uses_connection(s, name)).await;
                enqueue_matching(&view.auth0_hooks, key, &queues.auth0_hooks, |h| uses_connection(h, name))
                    .await;
            }
        }
        ObjectChange::Secret(key) => enqueue_users(context, CaKind::Secret, key, queues).await,
        ObjectChange::ConfigMap(key) => enqueue_users(context, CaKind::ConfigMap, key, queues).await,
        ObjectChange::EventHook(_) | ObjectChange::EventStream(_) | ObjectChange::Hook(_) => {}
    }
    if let ObjectChange::EventHook(key) | ObjectChange::EventStream(key) | ObjectChange::Hook(key) = change
        && before.map(Fingerprint::connection_usage) != now.map(Fingerprint::connection_usage)
    {
        enqueue_used_connections(context, key, before, now, &queues.connections).await;
    }
}

/// Enqueues the Connections whose finalizer has to be added for their first user or removed after their last one.
/// Ignores all other changes of users: otherwise ten thousand changed users would cause ten thousand calls to the
/// vendor.
async fn enqueue_used_connections(
    context: &Context,
    key: &ObjectKey,
    before: Option<&Fingerprint>,
    now: Option<&Fingerprint>,
    queue: &Queue<Connection>,
) {
    let may_use_any = [before, now].into_iter().flatten().any(|print| !print.is_parsed);
    let names: HashSet<&String> =
        [before, now].into_iter().flatten().flat_map(|print| &print.connections).collect();
    for connection in context.view.connections.in_namespace(&key.namespace) {
        let may_be_used = may_use_any || names.contains(&connection.name_any());
        if may_be_used && is_finalizer_stale(context, &connection) {
            enqueue(queue, &ObjectKey::of(&*connection)).await;
        }
    }
}

/// Enqueues the objects that refer to a Secret or ConfigMap, themselves or through their Connection. The indirect
/// references matter after a corrected token: an object that failed while its Connection stayed ready would otherwise
/// wait for its whole backoff.
async fn enqueue_users(context: &Context, kind: CaKind, key: &ObjectKey, queues: &RequestQueues) {
    let view = &context.view;
    let in_namespace = view.connections.in_namespace(&key.namespace);
    let using = in_namespace.filter(|connection| connection_uses(connection, kind, &key.name));
    let connections: Vec<String> = using.map(|connection| connection.name_any()).collect();
    enqueue_matching(&view.hooks, key, &queues.hooks, |hook| {
        hook_uses(hook, kind, &key.name) || uses_any_connection(hook, &connections)
    })
    .await;
    enqueue_matching(&view.streams, key, &queues.streams, |stream| {
        stream_uses(stream, kind, &key.name) || uses_any_connection(stream, &connections)
    })
    .await;
    enqueue_matching(&view.auth0_hooks, key, &queues.auth0_hooks, |hook| {
        auth0_hook_uses(hook, kind, &key.name) || uses_any_connection(hook, &connections)
    })
    .await;
    for name in &connections {
        enqueue(&queues.connections, &ObjectKey::new(&key.namespace, name)).await;
    }
}

fn uses_any_connection<K: Synced>(object: &DeserializeGuard<K>, connections: &[String]) -> bool {
    connections.iter().any(|name| uses_connection(object, name))
}

/// Enqueues an object, if it still exists.
async fn enqueue_existing<K>(store: &ObjectStore<K>, key: &ObjectKey, queue: &Queue<K>)
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    if store.get(&key.namespace, &key.name).is_some() {
        enqueue(queue, key).await;
    }
}

/// Enqueues the objects in the namespace of `key` that match.
async fn enqueue_matching<K>(
    store: &ObjectStore<K>,
    key: &ObjectKey,
    queue: &Queue<K>,
    matches: impl Fn(&DeserializeGuard<K>) -> bool,
) where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    for object in store.in_namespace(&key.namespace).filter(|object| matches(object)) {
        enqueue(queue, &ObjectKey::of(&*object)).await;
    }
}

async fn enqueue<K>(queue: &Queue<K>, key: &ObjectKey)
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    // A closed queue means that the controller is stopping.
    queue.send(ObjectRef::new(&key.name).within(&key.namespace)).await.ok();
}

/// False for an invalid spec: only a change of the spec itself can help.
fn hook_uses(hook: &DeserializeGuard<EventHook>, kind: CaKind, name: &str) -> bool {
    hook.0
        .as_ref()
        .ok()
        .and_then(|hook| validate(hook).ok())
        .is_some_and(|hook| hook.handler.refers_to(kind, name))
}

fn stream_uses(stream: &DeserializeGuard<EventStream>, kind: CaKind, name: &str) -> bool {
    let valid = stream.0.as_ref().ok().and_then(|stream| stream::validate(stream).ok());
    kind == CaKind::Secret && valid.is_some_and(|stream| stream.destination.refers_to(name))
}

fn auth0_hook_uses(hook: &DeserializeGuard<Hook>, kind: CaKind, name: &str) -> bool {
    let valid = hook.0.as_ref().ok().and_then(|hook| auth0_hook::validate(hook).ok());
    valid.is_some_and(|script| script.refers_to(kind, name))
}

fn connection_uses(connection: &DeserializeGuard<Connection>, kind: CaKind, name: &str) -> bool {
    let Ok(connection) = &connection.0 else { return false };
    if let Some(auth0) = &connection.spec.auth0 {
        let client = auth0.client_credentials.as_ref().map(|c| [&c.client_secret_ref, &c.private_key_ref]);
        let mut secrets = client.into_iter().flatten().flatten().chain(&auth0.token_secret_ref);
        return kind == CaKind::Secret && secrets.any(|r| r.name == name);
    }
    let Some(kong) = &connection.spec.kong else { return false };
    (kind == CaKind::Secret && kong.token_secret_ref.as_ref().is_some_and(|r| r.name == name))
        || kong.tls.as_ref().is_some_and(|tls| tls.refers_to(kind, name))
}

/// Returns the fingerprint of an object, with only the parts that all kinds share.
fn fingerprint<K: Resource>(object: &DeserializeGuard<K>) -> Fingerprint {
    let is_deleting = object.meta().deletion_timestamp.is_some();
    let ours = object.finalizers().iter().filter(|f| *f == FINALIZER).count();
    Fingerprint {
        uid: object.uid(),
        generation: object.meta().generation,
        is_deleting,
        has_finalizer: ours > 0,
        other_finalizers: if is_deleting { object.finalizers().len() - ours } else { 0 },
        reconcile_requested_at: object.annotations().get(RECONCILE_REQUESTED_AT).cloned(),
        is_parsed: object.0.is_ok(),
        ..Fingerprint::default()
    }
}

/// Returns the fingerprint of a kind whose objects use Connections.
fn fingerprint_of_user<K: Synced>(object: &DeserializeGuard<K>) -> Fingerprint {
    let connections = match &object.0 {
        Ok(object) => {
            let by_spec = object.policies().connection.map(ToOwned::to_owned);
            let by_status = object.external().map(|e| e.connection.clone());
            let by_status = by_status.filter(|name| by_spec.as_ref() != Some(name));
            by_spec.into_iter().chain(by_status).collect()
        }
        Err(_) => Vec::new(),
    };
    Fingerprint { connections, ..fingerprint(object) }
}

fn fingerprint_of_stream(stream: &DeserializeGuard<EventStream>) -> Fingerprint {
    Fingerprint { resume: stream.annotations().get(RESUME).cloned(), ..fingerprint_of_user(stream) }
}

fn fingerprint_of_connection(connection: &DeserializeGuard<Connection>) -> Fingerprint {
    let status = connection.0.as_ref().ok().and_then(|c| c.status.as_ref());
    let is_ready = status.is_some_and(|status| is_ready(&status.conditions));
    Fingerprint { is_ready, ..fingerprint(connection) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn hook(metadata: Value, status: Value) -> Fingerprint {
        let object = json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "EventHook", "metadata": metadata,
            "spec": {"source": "s", "handler": {}, "connectionRef": {"name": "kong"}}, "status": status});
        fingerprint_of_user(&serde_json::from_value::<DeserializeGuard<EventHook>>(object).unwrap())
    }

    #[test]
    fn own_writes_trigger_no_reconcile() {
        let new = hook(json!({"name": "h", "uid": "u", "generation": 1}), Value::Null);
        let with_finalizer = json!({"name": "h", "uid": "u", "generation": 1, "finalizers": [FINALIZER]});
        let claimed = hook(with_finalizer.clone(), Value::Null);
        assert!(!claimed.affects_itself(&new), "the reconcile that added the finalizer goes on");
        let external = json!({"external": {"id": "i", "connection": "kong", "endpoint": "e"}});
        let synced = hook(with_finalizer, external);
        assert!(!synced.affects_itself(&claimed));
        assert_eq!(synced.connection_usage(), claimed.connection_usage());
        assert!(new.affects_itself(&synced), "another client removed the finalizer");
    }

    #[test]
    fn writes_of_other_clients_trigger_a_reconcile() {
        let before =
            hook(json!({"name": "h", "uid": "u", "generation": 1, "finalizers": ["a/b"]}), Value::Null);
        for (what, now) in [
            ("an edit", json!({"name": "h", "uid": "u", "generation": 2, "finalizers": ["a/b"]})),
            (
                "a new object of the same name",
                json!({"name": "h", "uid": "v", "generation": 1, "finalizers": ["a/b"]}),
            ),
            (
                "a deletion",
                json!({"name": "h", "uid": "u", "generation": 1, "finalizers": ["a/b"],
                "deletionTimestamp": "2026-11-22T10:00:00Z"}),
            ),
            (
                "a request",
                json!({"name": "h", "uid": "u", "generation": 1, "finalizers": ["a/b"],
                "annotations": {RECONCILE_REQUESTED_AT: "1"}}),
            ),
        ] {
            assert!(hook(now, Value::Null).affects_itself(&before), "{what}");
        }
        let finalizers = |all: Value| {
            hook(
                json!({"name": "h", "uid": "u", "finalizers": all, "deletionTimestamp": "2026-11-22T10:00:00Z"}),
                Value::Null,
            )
        };
        let last = finalizers(json!([FINALIZER]));
        assert!(last.affects_itself(&finalizers(json!([FINALIZER, "a/b"]))), "only our finalizer is left");
    }

    #[test]
    fn connection_triggers_its_users_when_it_becomes_ready() {
        let with = |ready: &str, finalizers: Value, generation: i64| {
            let object = json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "Connection",
                "metadata": {"name": "kong", "uid": "u", "generation": generation, "finalizers": finalizers},
                "spec": {}, "status": {"conditions": [{"type": "Ready", "status": ready, "reason": "R",
                    "message": "m", "lastTransitionTime": "2026-11-22T10:00:00Z"}]}});
            fingerprint_of_connection(
                &serde_json::from_value::<DeserializeGuard<Connection>>(object).unwrap(),
            )
        };
        let (no, yes) = (with("False", json!([]), 1), with("True", json!([]), 1));
        assert!(yes.affects_users(&no));
        assert!(!no.affects_users(&yes), "its users notice at their next call");
        assert!(!with("True", json!([FINALIZER]), 1).affects_users(&yes));
        assert!(with("True", json!([]), 2).affects_users(&yes), "its address may have changed");
        assert!(!yes.affects_itself(&no));
    }
}
