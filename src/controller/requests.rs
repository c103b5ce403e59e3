//! From changes to reconciles: who is concerned.

use std::collections::HashMap;
use std::sync::Arc;

use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Resource, ResourceExt};
use tokio::sync::mpsc;

use super::connection;
use super::context::Context;
use super::reconcile::Synced;
use crate::api::{CaKind, Connection, EventHook, EventStream, Hook, RECONCILE_REQUESTED_AT, RESUME};
use crate::cluster::{Change, Guarded, Key};
use crate::core::hook::validate;
use crate::core::{auth0_hook, stream};

/// Where reconciles are asked for, by kind.
pub struct Queues {
    pub hooks: Queue<EventHook>,
    pub connections: Queue<Connection>,
    pub streams: Queue<EventStream>,
    pub auth0_hooks: Queue<Hook>,
}

type Queue<K> = mpsc::Sender<ObjectRef<Guarded<K>>>;

/// What of an object a reconcile depends on. Without it, the controller's own writes would wake it again and again.
#[derive(PartialEq, Eq)]
struct Fingerprint {
    uid: Option<String>,
    generation: Option<i64>,
    deleting: bool,
    finalizers: usize,
    requested: Option<String>,
    /// Kinds whose `resume` the controller carries out.
    resume: Option<String>,
    readable: bool,
    ready: bool,
}

/// Reads changes until they end and asks for the reconciles that follow from them.
pub async fn forward(context: Arc<Context>, mut changes: mpsc::Receiver<Change>, queues: Queues) {
    let mut seen: HashMap<Change, Fingerprint> = HashMap::new();
    let mut nudged = context.nudged.lock().take();
    let mut term = 0;
    loop {
        let change = tokio::select! {
            change = changes.recv() => change,
            Some(key) = nudge(&mut nudged) => {
                ask(&queues.connections, &key).await;
                continue;
            }
            now = context.leadership.gained(term) => {
                term = now;
                everything(&context, &queues).await;
                continue;
            }
        };
        let Some(change) = change else { return };
        let now = match &change {
            Change::EventHook(key) => context.view.hook(&key.namespace, &key.name).map(|o| print(&o)),
            Change::EventStream(key) => {
                context.view.stream(&key.namespace, &key.name).map(|o| stream_print(&o))
            }
            Change::Hook(key) => context.view.auth0_hook(&key.namespace, &key.name).map(|o| print(&o)),
            Change::Connection(key) => {
                context.view.connection(&key.namespace, &key.name).map(|o| connection_print(&o))
            }
            Change::Secret(_) | Change::ConfigMap(_) => None,
        };
        let before = seen.remove(&change);
        let same = now.is_some() && now == before;
        let uid = now.as_ref().and_then(|now| now.uid.clone());
        // What is remembered of an object goes with it, also where another of its name came in the same moment.
        if let Some(gone) = before.and_then(|before| before.uid).filter(|gone| uid.as_ref() != Some(gone)) {
            context.forget(&gone);
            if let Change::Connection(key) = &change {
                connection::gone(&context, key);
            }
        }
        if let Some(now) = now {
            seen.insert(change.clone(), now);
        }
        if !same {
            concerned(&context, &change, &queues).await;
        }
    }
}

/// Leadership was gained: what changed meanwhile was not carried out here, and perhaps nowhere.
async fn everything(context: &Context, queues: &Queues) {
    context.forget_all();
    all(&context.view.connections, &queues.connections).await;
    all(&context.view.hooks, &queues.hooks).await;
    all(&context.view.streams, &queues.streams).await;
    all(&context.view.auth0_hooks, &queues.auth0_hooks).await;
}

async fn all<K>(store: &Store<Guarded<K>>, queue: &Queue<K>)
where
    K: kube::Resource<DynamicType = ()> + Clone + 'static,
{
    for object in store.state() {
        ask(queue, &Key::of(&*object)).await;
    }
}

/// The next Connection that has something new to tell.
async fn nudge(nudged: &mut Option<mpsc::UnboundedReceiver<Key>>) -> Option<Key> {
    match nudged {
        Some(nudged) => nudged.recv().await,
        None => std::future::pending().await,
    }
}

async fn concerned(context: &Context, change: &Change, queues: &Queues) {
    let view = &context.view;
    match change {
        Change::EventHook(key) => itself(&view.hooks, key, &queues.hooks).await,
        Change::EventStream(key) => itself(&view.streams, key, &queues.streams).await,
        Change::Hook(key) => itself(&view.auth0_hooks, key, &queues.auth0_hooks).await,
        Change::Connection(key) => {
            itself(&view.connections, key, &queues.connections).await;
            let name = &key.name;
            every(&view.hooks, key, &queues.hooks, |h| uses_connection(h, name)).await;
            every(&view.streams, key, &queues.streams, |s| uses_connection(s, name)).await;
            every(&view.auth0_hooks, key, &queues.auth0_hooks, |h| uses_connection(h, name)).await;
        }
        Change::Secret(key) => users(context, CaKind::Secret, key, queues).await,
        Change::ConfigMap(key) => users(context, CaKind::ConfigMap, key, queues).await,
    }
    if let Change::EventHook(key) | Change::EventStream(key) | Change::Hook(key) = change {
        // The first user puts the in-use finalizer on a Connection, the last one that goes lets it go.
        every(&view.connections, key, &queues.connections, |_| true).await;
    }
}

/// Asks for those who refer to a Secret or ConfigMap. Objects by way of a Connection too: one that is refused while its
/// Connection stays ready would wait for its own backoff with the corrected token at hand.
async fn users(context: &Context, kind: CaKind, key: &Key, queues: &Queues) {
    let view = &context.view;
    let uses = |c: &Guarded<Connection>| in_namespace(c, key) && connection_uses(c, kind, &key.name);
    let reached: Vec<String> =
        view.connections.state_filter(|c| uses(c)).iter().map(|c| c.name_any()).collect();
    every(&view.hooks, key, &queues.hooks, |h| hook_uses(h, kind, &key.name) || by_connection(h, &reached))
        .await;
    every(&view.streams, key, &queues.streams, |s| {
        stream_uses(s, kind, &key.name) || by_connection(s, &reached)
    })
    .await;
    let script = |h: &Guarded<Hook>| script_uses(h, kind, &key.name) || by_connection(h, &reached);
    every(&view.auth0_hooks, key, &queues.auth0_hooks, script).await;
    for name in &reached {
        ask(&queues.connections, &Key::new(&key.namespace, name)).await;
    }
}

fn by_connection<K: Synced>(object: &Guarded<K>, connections: &[String]) -> bool {
    connections.iter().any(|name| uses_connection(object, name))
}

/// Asks for an object, if there still is one.
async fn itself<K>(all: &Store<Guarded<K>>, key: &Key, queue: &Queue<K>)
where
    K: kube::Resource<DynamicType = ()> + Clone + 'static,
{
    let reference = ObjectRef::new(&key.name).within(&key.namespace);
    if all.get(&reference).is_some() {
        queue.send(reference).await.ok();
    }
}

/// Asks for all in the namespace of `key` that fit.
async fn every<K>(all: &Store<Guarded<K>>, key: &Key, queue: &Queue<K>, fits: impl Fn(&Guarded<K>) -> bool)
where
    K: kube::Resource<DynamicType = ()> + Clone + 'static,
{
    for object in all.state_filter(|object| in_namespace(object, key) && fits(object)) {
        ask(queue, &Key::of(&*object)).await;
    }
}

async fn ask<K>(queue: &Queue<K>, key: &Key)
where
    K: kube::Resource<DynamicType = ()> + Clone + 'static,
{
    // Closed: the controller is stopping.
    queue.send(ObjectRef::new(&key.name).within(&key.namespace)).await.ok();
}

pub fn in_namespace<K: kube::Resource>(object: &Guarded<K>, key: &Key) -> bool {
    object.meta().namespace.as_deref() == Some(key.namespace.as_str())
}

/// True where the object refers to this Connection, by its spec or by what it made there.
pub fn uses_connection<K: Synced>(object: &Guarded<K>, name: &str) -> bool {
    let Ok(object) = &object.0 else { return false };
    object.policies().connection == Some(name) || object.external().is_some_and(|e| e.connection == name)
}

/// One whose spec is not valid waits for its spec, not for what it refers to.
fn hook_uses(hook: &Guarded<EventHook>, kind: CaKind, name: &str) -> bool {
    hook.0
        .as_ref()
        .ok()
        .and_then(|hook| validate(hook).ok())
        .is_some_and(|hook| hook.handler.refers_to(kind, name))
}

fn stream_uses(stream: &Guarded<EventStream>, kind: CaKind, name: &str) -> bool {
    let valid = stream.0.as_ref().ok().and_then(|stream| stream::validate(stream).ok());
    kind == CaKind::Secret && valid.is_some_and(|stream| stream.destination.refers_to(name))
}

fn script_uses(hook: &Guarded<Hook>, kind: CaKind, name: &str) -> bool {
    let valid = hook.0.as_ref().ok().and_then(|hook| auth0_hook::validate(hook).ok());
    valid.is_some_and(|script| script.refers_to(kind, name))
}

fn connection_uses(connection: &Guarded<Connection>, kind: CaKind, name: &str) -> bool {
    let Ok(connection) = &connection.0 else { return false };
    if let Some(auth0) = &connection.spec.auth0 {
        let client = auth0.client_credentials.as_ref().map(|c| &c.client_secret_ref);
        let mut secrets = client.into_iter().chain(&auth0.token_secret_ref);
        return kind == CaKind::Secret && secrets.any(|r| r.name == name);
    }
    let Some(kong) = &connection.spec.kong else { return false };
    (kind == CaKind::Secret && kong.token_secret_ref.as_ref().is_some_and(|r| r.name == name))
        || kong.tls.as_ref().is_some_and(|tls| tls.refers_to(kind, name))
}

fn print<K: kube::Resource>(object: &Guarded<K>) -> Fingerprint {
    Fingerprint {
        uid: object.uid(),
        generation: object.meta().generation,
        deleting: object.meta().deletion_timestamp.is_some(),
        finalizers: object.finalizers().len(),
        requested: object.annotations().get(RECONCILE_REQUESTED_AT).cloned(),
        resume: None,
        readable: object.0.is_ok(),
        ready: false,
    }
}

fn stream_print(stream: &Guarded<EventStream>) -> Fingerprint {
    Fingerprint { resume: stream.annotations().get(RESUME).cloned(), ..print(stream) }
}

/// A Connection that becomes ready wakes its users.
fn connection_print(connection: &Guarded<Connection>) -> Fingerprint {
    let status = connection.0.as_ref().ok().and_then(|c| c.status.as_ref());
    let ready = status.is_some_and(|s| s.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
    Fingerprint { ready, ..print(connection) }
}
