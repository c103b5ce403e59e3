//! A cluster in memory that outlives its controllers, with compare-and-swap, finalizers and generations. Every write of a
//! controller passes a `Tap`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::BoxFuture;
use hookstream::api::{Connection, EventHook, EventStream, Hook};
use hookstream::cluster::{
    AuthorizationError, Cluster, ClusterError, Data, DeliveryStatus, DeserializeGuard, Metadata,
    ObjectChange, ObjectKey, Permission, ReflectedKind, Reflector, ResourceKind, Subscribers, View,
    WriteTarget,
};
use hookstream::core::conditions::ConditionMessage;
use hookstream::core::keys::KeyRing;
use kube::runtime::watcher::Event;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::tap::Tap;

const NAMESPACE: &str = "default";

/// The parts that a copy of an object keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// A manifest from version control.
    Spec,
    /// Also finalizers and annotations: `kubectl get -o yaml`, and most backups.
    Metadata,
    /// Also the status, which some backups restore.
    All,
}

pub struct Double {
    objects: Mutex<BTreeMap<(ResourceKind, String), Value>>,
    /// Secrets with the one key `secret`, and the number of writes of each.
    secrets: Mutex<BTreeMap<String, (u64, String)>>,
    version: watch::Sender<u64>,
    /// The number of created objects.
    created: AtomicU64,
    key_ring: Arc<KeyRing>,
    /// The reason and the message of every Event.
    events: Mutex<Vec<String>>,
}

impl Double {
    pub fn new() -> Arc<Double> {
        let key_ring = KeyRing::from_data([("k1", [7u8; 32].as_slice())].into_iter()).unwrap();
        let version = watch::Sender::new(1);
        let (objects, secrets, created) = (Mutex::default(), Mutex::default(), AtomicU64::new(0));
        Arc::new(Double {
            objects,
            secrets,
            version,
            created,
            key_ring: Arc::new(key_ring),
            events: Mutex::default(),
        })
    }

    fn next_version(&self) -> String {
        let mut next = 0;
        self.version.send_modify(|version| {
            *version += 1;
            next = *version;
        });
        next.to_string()
    }

    /// Applies an object as a user would: creates it, or replaces its spec.
    pub fn apply(&self, kind: ResourceKind, name: &str, spec: Value) {
        let mut objects = self.objects.lock();
        let version = (*self.version.borrow() + 1).to_string();
        let object = objects.entry((kind, name.to_owned())).or_insert_with(|| {
            let kind_name: &str = kind.into();
            // A recreated object has another uid.
            let uid = format!("uid-{}-of-{name}", self.created.fetch_add(1, Ordering::Relaxed));
            json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": kind_name, "metadata": {"name": name,
                "namespace": NAMESPACE, "uid": uid, "generation": 0}})
        });
        let generation = object["metadata"]["generation"].as_i64().unwrap() + 1;
        object["metadata"]["generation"] = json!(generation);
        object["metadata"]["resourceVersion"] = json!(version);
        object["spec"] = spec;
        drop(objects);
        self.next_version();
    }

    /// Creates an object from another one, as `kubectl get -o yaml | kubectl apply` or a restore does; replaces one of that
    /// name.
    pub fn copy(&self, kind: ResourceKind, from: &str, to: &str, what: Copied) {
        let mut objects = self.objects.lock();
        let version = (*self.version.borrow() + 1).to_string();
        let mut object = objects[&(kind, from.to_owned())].clone();
        let uid = format!("uid-{}-of-{to}", self.created.fetch_add(1, Ordering::Relaxed));
        let generation = object["metadata"]["generation"].as_i64().unwrap() + 1;
        let metadata = object["metadata"].as_object_mut().unwrap();
        metadata.extend([
            ("name".to_owned(), json!(to)),
            ("uid".to_owned(), json!(uid)),
            // Another generation, so that a copied status does not look current.
            ("generation".to_owned(), json!(generation)),
            ("resourceVersion".to_owned(), json!(version)),
        ]);
        if what == Copied::Spec {
            metadata.remove("finalizers");
            metadata.remove("annotations");
        }
        if what != Copied::All {
            object.as_object_mut().unwrap().remove("status");
        }
        objects.insert((kind, to.to_owned()), object);
        drop(objects);
        self.next_version();
    }

    /// Makes the object look like one that an earlier version managed, which wrote no markers.
    pub fn remove_annotations(&self, kind: ResourceKind, name: &str) {
        let mut objects = self.objects.lock();
        let version = (*self.version.borrow() + 1).to_string();
        let metadata =
            objects.get_mut(&(kind, name.to_owned())).unwrap()["metadata"].as_object_mut().unwrap();
        metadata.remove("annotations");
        metadata.insert("resourceVersion".to_owned(), json!(version));
        drop(objects);
        self.next_version();
    }

    pub fn delete(&self, kind: ResourceKind, name: &str) {
        let key = (kind, name.to_owned());
        let mut objects = self.objects.lock();
        let version = (*self.version.borrow() + 1).to_string();
        let object = objects.get_mut(&key).unwrap();
        if object["metadata"]["finalizers"].as_array().is_some_and(|all| !all.is_empty()) {
            object["metadata"]["deletionTimestamp"] = json!(jiff::Timestamp::now().to_string());
            object["metadata"]["resourceVersion"] = json!(version);
        } else {
            objects.remove(&key);
        }
        drop(objects);
        self.next_version();
    }

    /// Writes a Secret with the key `secret`.
    pub fn put_secret(&self, name: &str, value: &str) {
        let mut secrets = self.secrets.lock();
        let writes = secrets.get(name).map_or(1, |(writes, _)| writes + 1);
        secrets.insert(name.to_owned(), (writes, value.to_owned()));
        drop(secrets);
        self.next_version();
    }

    pub fn get(&self, kind: ResourceKind, name: &str) -> Option<Value> {
        self.objects.lock().get(&(kind, name.to_owned())).cloned()
    }

    /// Returns true if an Event reports that the object with this id may stay at this address.
    pub fn events(&self) -> Vec<String> {
        self.events.lock().clone()
    }

    pub fn is_reported(&self, id: &str, address: &str) -> bool {
        let events = self.events.lock();
        events
            .iter()
            .any(|event| event.starts_with("Orphaned") && event.contains(id) && event.contains(address))
    }

    fn all(&self, kind: ResourceKind) -> Vec<Value> {
        let objects = self.objects.lock();
        objects
            .iter()
            .filter(|((entry_kind, _), _)| *entry_kind == kind)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// Waits until a predicate is true.
    pub async fn until(&self, fits: impl Fn(&Double) -> bool) {
        let mut version = self.version.subscribe();
        while !fits(self) {
            version.changed().await.unwrap();
        }
    }

    /// Returns a controller's view, and the future that keeps it current.
    pub fn watch(self: &Arc<Self>, subscribers: Subscribers) -> (View, impl Future<Output = ()> + use<>) {
        let subscribers_of_changes = Arc::new(subscribers);
        let (mut hook_feed, hooks) =
            Reflector::<EventHook>::new(1, subscribers_of_changes.clone(), ObjectChange::EventHook);
        let (mut connection_feed, connections) =
            Reflector::<Connection>::new(1, subscribers_of_changes.clone(), ObjectChange::Connection);
        let (mut stream_feed, streams) =
            Reflector::<EventStream>::new(1, subscribers_of_changes.clone(), ObjectChange::EventStream);
        let (mut auth0_feed, auth0_hooks) =
            Reflector::<Hook>::new(1, subscribers_of_changes.clone(), ObjectChange::Hook);
        let cluster = self.clone();
        let run = async move {
            let mut version = cluster.version.subscribe();
            let mut secrets = cluster.secrets.lock().clone();
            loop {
                version.borrow_and_update();
                relist(&mut connection_feed, cluster.all(ResourceKind::Connection)).await;
                relist(&mut stream_feed, cluster.all(ResourceKind::EventStream)).await;
                relist(&mut auth0_feed, cluster.all(ResourceKind::Hook)).await;
                relist(&mut hook_feed, cluster.all(ResourceKind::EventHook)).await;
                let now = cluster.secrets.lock().clone();
                for (name, secret) in &now {
                    if secrets.get(name) != Some(secret) {
                        subscribers_of_changes
                            .notify(&ObjectChange::Secret(ObjectKey::new(NAMESPACE, name)))
                            .await;
                    }
                }
                secrets = now;
                if version.changed().await.is_err() {
                    return;
                }
            }
        };
        (View::new(hooks, connections, streams, auth0_hooks), run)
    }

    fn write(
        &self,
        target: &WriteTarget,
        change: impl FnOnce(&mut Value),
        compare_version: bool,
    ) -> Result<(), ClusterError> {
        let key = (target.kind, target.key.name.clone());
        let mut objects = self.objects.lock();
        let object = objects.get_mut(&key).ok_or(ClusterError::Gone)?;
        let is_stale = compare_version
            && !target.resource_version.is_empty()
            && object["metadata"]["resourceVersion"] != target.resource_version.as_str();
        if object["metadata"]["uid"] != target.uid.as_str() || is_stale {
            return Err(ClusterError::Conflict);
        }
        change(object);
        object["metadata"]["resourceVersion"] = json!((*self.version.borrow() + 1).to_string());
        let is_released = object["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty);
        if is_released && !object["metadata"]["deletionTimestamp"].is_null() {
            objects.remove(&key);
        }
        drop(objects);
        self.next_version();
        Ok(())
    }
}

async fn relist<K: ReflectedKind>(feed: &mut Reflector<K>, objects: Vec<Value>) {
    feed.apply(0, Event::Init).await;
    for object in objects {
        let object: DeserializeGuard<K> = serde_json::from_value(object).unwrap();
        feed.apply(0, Event::InitApply(object)).await;
    }
    feed.apply(0, Event::InitDone).await;
}

/// The cluster of one controller.
pub struct Tapped {
    pub double: Arc<Double>,
    pub tap: Arc<Tap>,
}

impl Cluster for Tapped {
    fn secret<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Option<Arc<Data>>, ClusterError>> {
        let value = self.double.secrets.lock().get(&key.name).map(|(_, value)| value.clone().into_bytes());
        let data = value.map(|value| Arc::new(Data::new([("secret".to_owned(), value)])));
        Box::pin(async { Ok(data) })
    }

    fn config_map<'a>(&'a self, _: &'a ObjectKey) -> BoxFuture<'a, Result<Option<Arc<Data>>, ClusterError>> {
        Box::pin(async { Ok(None) })
    }

    fn write_status<'a>(
        &'a self,
        target: &'a WriteTarget,
        status: Value,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        Box::pin(async move {
            let kind: &str = target.kind.into();
            let write = async { self.double.write(target, |object| object["status"] = status, false) };
            self.tap.around(&format!("status of {kind}"), write, lost_answer).await
        })
    }

    fn write_delivery_status<'a>(
        &'a self,
        _: &'a WriteTarget,
        _: DeliveryStatus,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        Box::pin(async { Ok(()) })
    }

    fn write_metadata<'a>(
        &'a self,
        target: &'a WriteTarget,
        metadata: Metadata,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        let kind: &str = target.kind.into();
        let name = format!(
            "metadata of {kind}{}{}",
            metadata.finalizers.as_ref().map_or(String::new(), |all| format!(", {} finalizers", all.len())),
            metadata
                .annotations
                .iter()
                .map(|(name, value)| match (*name, value.is_some()) {
                    ("hookstream.dev/owned-object", _) => ", marker",
                    (_, true) => ", record",
                    (_, false) => ", no record",
                })
                .collect::<String>(),
        );
        Box::pin(async move {
            let write = async {
                let change = |object: &mut Value| {
                    if let Some(finalizers) = metadata.finalizers {
                        object["metadata"]["finalizers"] = json!(finalizers);
                    }
                    for (name, value) in metadata.annotations {
                        match value {
                            Some(value) => object["metadata"]["annotations"][name] = json!(value),
                            None => drop(
                                object["metadata"]["annotations"].as_object_mut().map(|all| all.remove(name)),
                            ),
                        }
                    }
                };
                self.double.write(target, change, true)
            };
            self.tap.around(&name, write, lost_answer).await
        })
    }

    fn read_object<'a>(&'a self, target: &'a WriteTarget) -> BoxFuture<'a, Result<Value, ClusterError>> {
        Box::pin(async move { self.double.get(target.kind, &target.key.name).ok_or(ClusterError::Gone) })
    }

    fn publish_event<'a>(
        &'a self,
        _: &'a WriteTarget,
        _: bool,
        event: &'a ConditionMessage,
    ) -> BoxFuture<'a, ()> {
        self.double.events.lock().push(format!("{}: {}", event.reason, event.message));
        Box::pin(async {})
    }

    fn key_ring(&self, _: bool) -> BoxFuture<'_, Result<Arc<KeyRing>, ClusterError>> {
        Box::pin(async { Ok(self.double.key_ring.clone()) })
    }

    fn installation_id(&self) -> BoxFuture<'_, Result<Option<String>, ClusterError>> {
        Box::pin(async { Ok(None) })
    }

    fn namespace_uid<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<String>, ClusterError>> {
        Box::pin(async { Ok(None) })
    }

    fn authorize<'a>(
        &'a self,
        _: Option<&'a str>,
        _: Permission<'a>,
    ) -> BoxFuture<'a, Result<(), AuthorizationError>> {
        Box::pin(async { Err(AuthorizationError::Unavailable) })
    }
}

fn lost_answer() -> Result<(), ClusterError> {
    Err(ClusterError::ClusterError("the answer was lost".into()))
}
