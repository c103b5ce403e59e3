//! From changes to reconciles: who is concerned.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Resource, ResourceExt};
use tokio::sync::mpsc;

use super::connection;
use super::context::Context;
use super::reconcile::Synced;
use crate::api::{
    CaKind, Connection, EventHook, EventStream, FINALIZER, Hook, RECONCILE_REQUESTED_AT, RESUME,
};
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Fingerprint {
    uid: Option<String>,
    generation: Option<i64>,
    deleting: bool,
    /// Our finalizer stands.
    held: bool,
    /// Finalizers of others, while it is being deleted: ours waits for them.
    others: usize,
    requested: Option<String>,
    /// Kinds whose `resume` the controller carries out.
    resume: Option<String>,
    readable: bool,
    /// Connections only.
    ready: bool,
    /// The Connections that it uses.
    uses: Vec<String>,
}

impl Fingerprint {
    /// What its own reconcile depends on. Neither that our finalizer came nor what its status says: whoever wrote it knows.
    fn concerns_itself(&self, before: &Self) -> bool {
        let of = |print: &Self| Fingerprint { ready: false, uses: Vec::new(), held: false, ..print.clone() };
        of(self) != of(before) || (before.held && !self.held)
    }

    /// What those depend on who use this Connection.
    fn concerns_users(&self, before: &Self) -> bool {
        let of =
            |print: &Self| (print.uid.clone(), print.generation, print.requested.clone(), print.readable);
        of(self) != of(before) || (self.ready && !before.ready)
    }

    /// What decides whether a Connection is in use. One that cannot be read may use any.
    fn use_of_connections(&self) -> (Option<&str>, bool, bool, bool, &[String]) {
        (self.uid.as_deref(), self.deleting, self.held, self.readable, &self.uses)
    }
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
            Change::EventHook(key) => context.view.hook(&key.namespace, &key.name).map(|o| user_print(&o)),
            Change::EventStream(key) => {
                context.view.stream(&key.namespace, &key.name).map(|o| stream_print(&o))
            }
            Change::Hook(key) => context.view.auth0_hook(&key.namespace, &key.name).map(|o| user_print(&o)),
            Change::Connection(key) => {
                context.view.connection(&key.namespace, &key.name).map(|o| connection_print(&o))
            }
            Change::Secret(_) | Change::ConfigMap(_) => None,
        };
        let before = seen.remove(&change);
        let uid = now.as_ref().and_then(|now| now.uid.clone());
        // What is remembered of an object goes with it, also where another of its name came in the same moment.
        let gone =
            before.as_ref().and_then(|before| before.uid.as_ref()).filter(|gone| uid.as_ref() != Some(gone));
        if let Some(gone) = gone {
            context.forget(gone);
            if let Change::Connection(key) = &change {
                connection::gone(&context, key);
            }
        }
        concerned(&context, &change, before.as_ref(), now.as_ref(), &queues).await;
        if let Some(now) = now {
            seen.insert(change, now);
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

/// Asks for those whom a change concerns. None: it was not there before, or is not there any more.
async fn concerned(
    context: &Context,
    change: &Change,
    before: Option<&Fingerprint>,
    now: Option<&Fingerprint>,
    queues: &Queues,
) {
    let view = &context.view;
    let both = before.zip(now);
    let itself_too = both.is_none_or(|(before, now)| now.concerns_itself(before));
    match change {
        Change::EventHook(key) if itself_too => itself(&view.hooks, key, &queues.hooks).await,
        Change::EventStream(key) if itself_too => itself(&view.streams, key, &queues.streams).await,
        Change::Hook(key) if itself_too => itself(&view.auth0_hooks, key, &queues.auth0_hooks).await,
        Change::Connection(key) => {
            if itself_too {
                itself(&view.connections, key, &queues.connections).await;
            }
            if both.is_none_or(|(before, now)| now.concerns_users(before)) {
                let name = &key.name;
                every(&view.hooks, key, &queues.hooks, |h| uses_connection(h, name)).await;
                every(&view.streams, key, &queues.streams, |s| uses_connection(s, name)).await;
                every(&view.auth0_hooks, key, &queues.auth0_hooks, |h| uses_connection(h, name)).await;
            }
        }
        Change::Secret(key) => users(context, CaKind::Secret, key, queues).await,
        Change::ConfigMap(key) => users(context, CaKind::ConfigMap, key, queues).await,
        Change::EventHook(_) | Change::EventStream(_) | Change::Hook(_) => {}
    }
    if let Change::EventHook(key) | Change::EventStream(key) | Change::Hook(key) = change
        && before.map(Fingerprint::use_of_connections) != now.map(Fingerprint::use_of_connections)
    {
        used_connections(context, key, before, now, &queues.connections).await;
    }
}

/// The first user puts the in-use finalizer on a Connection, the last one that goes lets it go. Others change nothing
/// there: a Connection asked for once for each of ten thousand would call its vendor as often.
async fn used_connections(
    context: &Context,
    key: &Key,
    before: Option<&Fingerprint>,
    now: Option<&Fingerprint>,
    queue: &Queue<Connection>,
) {
    let any = [before, now].into_iter().flatten().any(|print| !print.readable);
    let names: HashSet<&String> = [before, now].into_iter().flatten().flat_map(|print| &print.uses).collect();
    let concerned = |c: &Guarded<Connection>| in_namespace(c, key) && (any || names.contains(&c.name_any()));
    for connection in context.view.connections.state_filter(concerned) {
        if connection::is_out_of_step(context, &connection) {
            ask(queue, &Key::of(&*connection)).await;
        }
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
    let deleting = object.meta().deletion_timestamp.is_some();
    let ours = object.finalizers().iter().filter(|f| *f == FINALIZER).count();
    Fingerprint {
        uid: object.uid(),
        generation: object.meta().generation,
        deleting,
        held: ours > 0,
        others: if deleting { object.finalizers().len() - ours } else { 0 },
        requested: object.annotations().get(RECONCILE_REQUESTED_AT).cloned(),
        readable: object.0.is_ok(),
        ..Fingerprint::default()
    }
}

/// Of a kind whose objects use Connections.
fn user_print<K: Synced>(object: &Guarded<K>) -> Fingerprint {
    let uses = match &object.0 {
        Ok(object) => {
            let by_spec = object.policies().connection.map(ToOwned::to_owned);
            let by_status = object.external().map(|e| e.connection.clone());
            let by_status = by_status.filter(|name| by_spec.as_ref() != Some(name));
            by_spec.into_iter().chain(by_status).collect()
        }
        Err(_) => Vec::new(),
    };
    Fingerprint { uses, ..print(object) }
}

fn stream_print(stream: &Guarded<EventStream>) -> Fingerprint {
    Fingerprint { resume: stream.annotations().get(RESUME).cloned(), ..user_print(stream) }
}

/// A Connection that becomes ready wakes its users.
fn connection_print(connection: &Guarded<Connection>) -> Fingerprint {
    let status = connection.0.as_ref().ok().and_then(|c| c.status.as_ref());
    let ready = status.is_some_and(|s| s.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
    Fingerprint { ready, ..print(connection) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn hook(metadata: Value, status: Value) -> Fingerprint {
        let object = json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "EventHook", "metadata": metadata,
            "spec": {"source": "s", "handler": {}, "connectionRef": {"name": "kong"}}, "status": status});
        user_print(&serde_json::from_value::<Guarded<EventHook>>(object).unwrap())
    }

    #[test]
    fn our_own_writes_wake_nobody() {
        let new = hook(json!({"name": "h", "uid": "u", "generation": 1}), Value::Null);
        let held = json!({"name": "h", "uid": "u", "generation": 1, "finalizers": [FINALIZER]});
        let taken = hook(held.clone(), Value::Null);
        assert!(!taken.concerns_itself(&new), "the reconcile that put the finalizer there goes on");
        let external = json!({"external": {"id": "i", "connection": "kong", "endpoint": "e"}});
        let done = hook(held, external);
        assert!(!done.concerns_itself(&taken));
        assert_eq!(done.use_of_connections(), taken.use_of_connections());
        assert!(new.concerns_itself(&done), "somebody took our finalizer away");
    }

    #[test]
    fn what_others_write_does() {
        let before =
            hook(json!({"name": "h", "uid": "u", "generation": 1, "finalizers": ["a/b"]}), Value::Null);
        for (what, now) in [
            ("an edit", json!({"name": "h", "uid": "u", "generation": 2, "finalizers": ["a/b"]})),
            ("a successor", json!({"name": "h", "uid": "v", "generation": 1, "finalizers": ["a/b"]})),
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
            assert!(hook(now, Value::Null).concerns_itself(&before), "{what}");
        }
        let finalizers = |all: Value| {
            hook(
                json!({"name": "h", "uid": "u", "finalizers": all, "deletionTimestamp": "2026-11-22T10:00:00Z"}),
                Value::Null,
            )
        };
        let last = finalizers(json!([FINALIZER]));
        assert!(last.concerns_itself(&finalizers(json!([FINALIZER, "a/b"]))), "ours is the last now");
    }

    #[test]
    fn a_connection_wakes_its_users_when_they_can_go_on() {
        let print = |ready: &str, finalizers: Value, generation: i64| {
            let object = json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "Connection",
                "metadata": {"name": "kong", "uid": "u", "generation": generation, "finalizers": finalizers},
                "spec": {}, "status": {"conditions": [{"type": "Ready", "status": ready, "reason": "R",
                    "message": "m", "lastTransitionTime": "2026-11-22T10:00:00Z"}]}});
            connection_print(&serde_json::from_value::<Guarded<Connection>>(object).unwrap())
        };
        let (no, yes) = (print("False", json!([]), 1), print("True", json!([]), 1));
        assert!(yes.concerns_users(&no));
        assert!(!no.concerns_users(&yes), "each finds out at its own next call");
        assert!(!print("True", json!([FINALIZER]), 1).concerns_users(&yes));
        assert!(print("True", json!([]), 2).concerns_users(&yes), "another address, perhaps");
        assert!(!yes.concerns_itself(&no));
    }
}
