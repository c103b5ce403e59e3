//! From changes to reconciles: who is concerned.

use std::collections::HashMap;
use std::sync::Arc;

use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use tokio::sync::mpsc;

use super::context::Context;
use crate::api::{CaKind, Connection, EventHook, RECONCILE_REQUESTED_AT};
use crate::cluster::{Change, Guarded, Key};
use crate::core::hook::validate;

type Hooks = mpsc::Sender<ObjectRef<Guarded<EventHook>>>;
type Connections = mpsc::Sender<ObjectRef<Guarded<Connection>>>;

/// What of an object a reconcile depends on. Without it, the controller's own writes would wake it again and again.
#[derive(PartialEq, Eq)]
struct Fingerprint {
    uid: Option<String>,
    generation: Option<i64>,
    deleting: bool,
    finalizers: usize,
    requested: Option<String>,
    readable: bool,
    ready: bool,
}

/// Reads changes until they end and asks for the reconciles that follow from them.
pub async fn forward(
    context: Arc<Context>,
    mut changes: mpsc::Receiver<Change>,
    hooks: Hooks,
    connections: Connections,
) {
    let mut seen: HashMap<Change, Fingerprint> = HashMap::new();
    let mut nudged = context.nudged.lock().take();
    loop {
        let change = tokio::select! {
            change = changes.recv() => change,
            Some(key) = nudge(&mut nudged) => {
                ask(&connections, &key).await;
                continue;
            }
        };
        let Some(change) = change else { return };
        let now = match &change {
            Change::EventHook(key) => context.view.hook(&key.namespace, &key.name).map(|o| hook_print(&o)),
            Change::Connection(key) => {
                context.view.connection(&key.namespace, &key.name).map(|o| connection_print(&o))
            }
            Change::EventStream(_) | Change::Hook(_) | Change::Secret(_) | Change::ConfigMap(_) => None,
        };
        let same = match now {
            Some(now) => {
                let same = seen.get(&change) == Some(&now);
                seen.insert(change.clone(), now);
                same
            }
            None => {
                seen.remove(&change);
                false
            }
        };
        if !same {
            concerned(&context, &change, &hooks, &connections).await;
        }
    }
}

/// The next Connection that has something new to tell.
async fn nudge(nudged: &mut Option<mpsc::UnboundedReceiver<Key>>) -> Option<Key> {
    match nudged {
        Some(nudged) => nudged.recv().await,
        None => std::future::pending().await,
    }
}

async fn concerned(context: &Context, change: &Change, hooks: &Hooks, connections: &Connections) {
    match change {
        Change::EventHook(key) => {
            if context.view.hook(&key.namespace, &key.name).is_some() {
                ask(hooks, key).await;
            }
            // The first user puts the in-use finalizer on a Connection, the last one that goes lets it go.
            for connection in context.view.connections.state_filter(|c| in_namespace(c, key)) {
                ask(connections, &Key::of(&*connection)).await;
            }
        }
        Change::Connection(key) => {
            if context.view.connection(&key.namespace, &key.name).is_some() {
                ask(connections, key).await;
            }
            for hook in
                context.view.hooks.state_filter(|h| in_namespace(h, key) && uses_connection(h, &key.name))
            {
                ask(hooks, &Key::of(&*hook)).await;
            }
        }
        // Reconciled by nobody yet.
        Change::EventStream(_) | Change::Hook(_) => {}
        Change::Secret(key) => users(context, CaKind::Secret, key, hooks, connections).await,
        Change::ConfigMap(key) => users(context, CaKind::ConfigMap, key, hooks, connections).await,
    }
}

/// Asks for those who refer to a Secret or ConfigMap. Hooks by way of a Connection too: one that is refused while its
/// Connection stays ready would wait for its own backoff with the corrected token at hand.
async fn users(context: &Context, kind: CaKind, key: &Key, hooks: &Hooks, connections: &Connections) {
    let uses = |c: &Guarded<Connection>| in_namespace(c, key) && connection_uses(c, kind, &key.name);
    let reached = context.view.connections.state_filter(|c| uses(c));
    let concerned = |h: &Guarded<EventHook>| {
        in_namespace(h, key)
            && (hook_uses(h, kind, &key.name) || reached.iter().any(|c| uses_connection(h, &c.name_any())))
    };
    for hook in context.view.hooks.state_filter(|h| concerned(h)) {
        ask(hooks, &Key::of(&*hook)).await;
    }
    for connection in &reached {
        ask(connections, &Key::of(&**connection)).await;
    }
}

async fn ask<K>(queue: &mpsc::Sender<ObjectRef<Guarded<K>>>, key: &Key)
where
    K: kube::Resource<DynamicType = ()> + Clone + 'static,
{
    // Closed: the controller is stopping.
    queue.send(ObjectRef::new(&key.name).within(&key.namespace)).await.ok();
}

fn in_namespace<K: kube::Resource>(object: &Guarded<K>, key: &Key) -> bool {
    object.meta().namespace.as_deref() == Some(key.namespace.as_str())
}

/// True where the hook refers to this Connection, by its spec or by what it made there.
pub fn uses_connection(hook: &Guarded<EventHook>, name: &str) -> bool {
    let Ok(hook) = &hook.0 else { return false };
    let external = hook.status.as_ref().and_then(|s| s.external.as_ref());
    hook.spec.connection_ref.as_ref().is_some_and(|r| r.name == name)
        || external.is_some_and(|e| e.connection == name)
}

/// One whose spec is not valid waits for its spec, not for what it refers to.
fn hook_uses(hook: &Guarded<EventHook>, kind: CaKind, name: &str) -> bool {
    hook.0
        .as_ref()
        .ok()
        .and_then(|hook| validate(hook).ok())
        .is_some_and(|hook| hook.handler.refers_to(kind, name))
}

fn connection_uses(connection: &Guarded<Connection>, kind: CaKind, name: &str) -> bool {
    let Ok(connection) = &connection.0 else { return false };
    let Some(kong) = &connection.spec.kong else { return false };
    (kind == CaKind::Secret && kong.token_secret_ref.as_ref().is_some_and(|r| r.name == name))
        || kong.tls.as_ref().is_some_and(|tls| tls.refers_to(kind, name))
}

fn print<K: kube::Resource>(object: &Guarded<K>, ready: bool) -> Fingerprint {
    Fingerprint {
        uid: object.uid(),
        generation: object.meta().generation,
        deleting: object.meta().deletion_timestamp.is_some(),
        finalizers: object.finalizers().len(),
        requested: object.annotations().get(RECONCILE_REQUESTED_AT).cloned(),
        readable: object.0.is_ok(),
        ready,
    }
}

fn hook_print(hook: &Guarded<EventHook>) -> Fingerprint {
    print(hook, false)
}

/// A Connection that becomes ready wakes its users.
fn connection_print(connection: &Guarded<Connection>) -> Fingerprint {
    let status = connection.0.as_ref().ok().and_then(|c| c.status.as_ref());
    let ready = status.is_some_and(|s| s.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
    print(connection, ready)
}
