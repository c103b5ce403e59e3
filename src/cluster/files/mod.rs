//! Files instead of a cluster: manifests are read from folders, what a cluster would keep stays in the data folder.

mod manifests;
mod offline;
mod state;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::watcher::Event;
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use subtle::ConstantTimeEq;
use tokio::sync::Notify;

use super::{
    Access, AccessError, Change, Cluster, ClusterError, Data, Feed, Guarded, Key, Kind, Metadata,
    Subscribers, Target, View,
};
use crate::api::{Connection, EventHook, EventStream, Hook};
use crate::core::conditions::Note;
use crate::core::keys::KeyRing;
use manifests::Manifests;
use state::{State, Unwritten};

pub use manifests::{Document, ManifestError, documents, uid};
pub use offline::Offline;

/// An edited manifest is seen within this time; a removed one after two of them.
const SCAN: Duration = Duration::from_millis(800);

/// How standalone works.
#[derive(Debug)]
pub struct Options {
    /// Files and folders with manifests.
    pub manifests: Vec<PathBuf>,
    /// Where state is kept.
    pub data: PathBuf,
    /// Delete at the vendor what was removed from the manifests.
    pub prune: bool,
    /// The token that callers must show; None: none is asked for.
    pub token: Option<SecretString>,
}

/// Objects from files.
pub struct Files {
    inner: Mutex<Inner>,
    /// Held while a file is written: what is newer must not be overtaken by what is older.
    writing: tokio::sync::Mutex<()>,
    changed: Notify,
    ring: Arc<KeyRing>,
    token: Option<SecretString>,
    prune: bool,
}

struct Inner {
    manifests: Manifests,
    state: State,
}

/// The objects of one look at the files.
#[derive(Default)]
struct Objects {
    hooks: Vec<Guarded<EventHook>>,
    connections: Vec<Guarded<Connection>>,
    streams: Vec<Guarded<EventStream>>,
    auth0_hooks: Vec<Guarded<Hook>>,
}

impl Objects {
    fn add(&mut self, kind: Kind, object: &Value) {
        match kind {
            Kind::EventHook => self.hooks.extend(manifests::guarded(object)),
            Kind::Connection => self.connections.extend(manifests::guarded(object)),
            Kind::EventStream => self.streams.extend(manifests::guarded(object)),
            Kind::Hook => self.auth0_hooks.extend(manifests::guarded(object)),
        }
    }
}

/// A view that stays as it is.
async fn once(all: Objects) -> View {
    let nobody = Arc::new(Subscribers::default());
    let (mut hook_feed, hooks) = Feed::<EventHook>::new(1, nobody.clone(), Change::EventHook);
    let (mut connection_feed, connections) = Feed::<Connection>::new(1, nobody.clone(), Change::Connection);
    let (mut stream_feed, streams) = Feed::<EventStream>::new(1, nobody.clone(), Change::EventStream);
    let (mut auth0_hook_feed, auth0_hooks) = Feed::<Hook>::new(1, nobody, Change::Hook);
    relist(&mut hook_feed, all.hooks).await;
    relist(&mut connection_feed, all.connections).await;
    relist(&mut stream_feed, all.streams).await;
    relist(&mut auth0_hook_feed, all.auth0_hooks).await;
    View::new(hooks, connections, streams, auth0_hooks)
}

impl Files {
    /// Reads the manifests and the state. A path that is missing or holds no manifest is an error: an operator that
    /// starts with nothing because of a typing mistake would look healthy.
    pub fn open(options: Options) -> Result<Self, ManifestError> {
        let ring = Arc::new(state::open_ring(&options.data)?);
        let state = State::open(&options.data)?;
        let mut manifests = Manifests::new(options.manifests);
        manifests.scan()?;
        Ok(Files {
            inner: Mutex::new(Inner { manifests, state }),
            writing: tokio::sync::Mutex::default(),
            changed: Notify::new(),
            ring,
            token: options.token,
            prune: options.prune,
        })
    }

    /// The objects as they are now, for a command that looks once.
    pub async fn view(&self) -> View {
        let all = self.objects(false);
        once(all).await
    }

    /// The view that both roles read, and the work that keeps it true to the files.
    pub fn watch(
        self: &Arc<Self>,
        subscribers: Subscribers,
    ) -> (View, impl std::future::Future<Output = ()> + Send + use<>) {
        let subscribers = Arc::new(subscribers);
        let (mut hook_feed, hooks) = Feed::<EventHook>::new(1, subscribers.clone(), Change::EventHook);
        let (mut connection_feed, connections) =
            Feed::<Connection>::new(1, subscribers.clone(), Change::Connection);
        let (mut stream_feed, streams) =
            Feed::<EventStream>::new(1, subscribers.clone(), Change::EventStream);
        let (mut auth0_hook_feed, auth0_hooks) = Feed::<Hook>::new(1, subscribers.clone(), Change::Hook);
        let this = self.clone();
        let run = async move {
            let mut scanned = true;
            let mut changed = Vec::new();
            loop {
                let all = this.objects(scanned);
                relist(&mut connection_feed, all.connections).await;
                relist(&mut stream_feed, all.streams).await;
                relist(&mut auth0_hook_feed, all.auth0_hooks).await;
                relist(&mut hook_feed, all.hooks).await;
                for change in changed.drain(..) {
                    subscribers.tell(&change).await;
                }
                scanned = tokio::select! {
                    () = this.changed.notified() => false,
                    () = tokio::time::sleep(SCAN) => true,
                };
                if scanned {
                    changed = this.scan();
                }
            }
        };
        (View::new(hooks, connections, streams, auth0_hooks), run)
    }

    /// Reads the files again; the Secrets and ConfigMaps that changed.
    fn scan(&self) -> Vec<Change> {
        let mut inner = self.inner.lock();
        match inner.manifests.scan() {
            Ok(changed) => changed,
            Err(error) => {
                inner.manifests.say_once(&error.to_string());
                Vec::new()
            }
        }
    }

    fn objects(&self, scanned: bool) -> Objects {
        let mut inner = self.inner.lock();
        let Inner { manifests, state } = &mut *inner;
        let mut all = Objects::default();
        for (kind, object) in state.merge(manifests, self.prune, scanned) {
            all.add(kind, &object);
        }
        all
    }

    /// Changes the state and writes what changed, where waiting for the disk harms nobody.
    async fn update(
        &self,
        change: impl FnOnce(&mut Inner) -> Result<Unwritten, ManifestError>,
    ) -> Result<(), ClusterError> {
        let failed = |error: String| ClusterError::ClusterError(error);
        let _writing = self.writing.lock().await;
        let unwritten = change(&mut self.inner.lock()).map_err(|e| failed(e.to_string()))?;
        let written = tokio::task::spawn_blocking(move || unwritten.write()).await;
        written.map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))?;
        self.changed.notify_one();
        Ok(())
    }
}

async fn relist<K>(feed: &mut Feed<K>, objects: Vec<Guarded<K>>)
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + Send + Sync + 'static,
{
    feed.apply(0, Event::Init).await;
    for object in objects {
        feed.apply(0, Event::InitApply(object)).await;
    }
    feed.apply(0, Event::InitDone).await;
}

impl Cluster for Files {
    fn secret<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Data>>, ClusterError>> {
        Box::pin(async move { Ok(self.inner.lock().manifests.secret(key)) })
    }

    fn config_map<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Data>>, ClusterError>> {
        Box::pin(async move { Ok(self.inner.lock().manifests.config_map(key)) })
    }

    fn write_status<'a>(
        &'a self,
        target: &'a Target,
        status: Value,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        Box::pin(self.update(move |inner| inner.state.set_status(target, status)))
    }

    fn write_delivering<'a>(
        &'a self,
        target: &'a Target,
        condition: Condition,
        resumed: Option<String>,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        Box::pin(self.update(move |inner| inner.state.set_delivering(target, &condition, resumed)))
    }

    fn write_metadata<'a>(
        &'a self,
        target: &'a Target,
        metadata: Metadata,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        Box::pin(
            self.update(move |Inner { manifests, state }| state.set_metadata(target, metadata, manifests)),
        )
    }

    fn stored<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Value, ClusterError>> {
        Box::pin(async move {
            let mut inner = self.inner.lock();
            let Inner { manifests, state } = &mut *inner;
            let all = state.merge(manifests, self.prune, false);
            let is_it = |kind: Kind, object: &Value| {
                let meta = |name: &str| object.pointer(&format!("/metadata/{name}")).and_then(Value::as_str);
                kind == target.kind
                    && meta("name") == Some(target.key.name.as_str())
                    && meta("namespace") == Some(target.key.namespace.as_str())
            };
            let found = all.into_iter().find(|(kind, object)| is_it(*kind, object));
            found.map(|(_, object)| object).ok_or(ClusterError::Gone)
        })
    }

    fn publish<'a>(&'a self, target: &'a Target, warning: bool, note: &'a Note) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let kind: &str = target.kind.into();
            if warning {
                tracing::warn!(object = %target.key, kind, reason = note.reason, "{}", note.message);
            } else {
                tracing::info!(object = %target.key, kind, reason = note.reason, "{}", note.message);
            }
        })
    }

    fn publishes_to_log(&self) -> bool {
        true
    }

    fn key_ring(&self, _create: bool) -> BoxFuture<'_, Result<Arc<KeyRing>, ClusterError>> {
        Box::pin(async move { Ok(self.ring.clone()) })
    }

    /// Uids are made from names here, so any folder may go on with the store of another.
    fn installation(&self) -> BoxFuture<'_, Result<Option<String>, ClusterError>> {
        Box::pin(async { Ok(Some("standalone".to_owned())) })
    }

    /// Nobody makes or ends namespaces here: the name is all there is.
    fn namespace_uid<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<String>, ClusterError>> {
        Box::pin(async move { Ok(Some(uid("Namespace", "", name))) })
    }

    fn authorize<'a>(
        &'a self,
        token: Option<&'a str>,
        _access: Access<'a>,
    ) -> BoxFuture<'a, Result<(), AccessError>> {
        Box::pin(async move {
            let Some(wanted) = &self.token else { return Ok(()) };
            let shown = token.unwrap_or_default();
            let same: bool = wanted.expose_secret().as_bytes().ct_eq(shown.as_bytes()).into();
            if same { Ok(()) } else { Err(AccessError::Unauthenticated) }
        })
    }
}
