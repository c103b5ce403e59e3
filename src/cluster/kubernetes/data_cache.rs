//! A cache of Secrets and ConfigMaps, each read on first use and kept until it changes.
//!
//! A metadata-only watch reports changes, so that a replaced Secret takes effect at the next use. A delivery attempt
//! does not wait for the API server. Memory holds only what objects reference; unreferenced entries are evicted.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client, Resource, ResourceExt};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;

use super::api_server::{ReadDeadline, timeout_error, to_cluster_error};
use crate::api::USE_LABEL;
use crate::cluster::{ClusterError, Data, ObjectKey};

/// A kind with data by key: Secret or ConfigMap.
pub trait DataResource:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    fn into_data(self) -> Data;
}

impl DataResource for Secret {
    fn into_data(self) -> Data {
        Data::new(self.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)))
    }
}

impl DataResource for ConfigMap {
    fn into_data(self) -> Data {
        let texts = self.data.unwrap_or_default().into_iter().map(|(key, text)| (key, text.into_bytes()));
        let bytes = self.binary_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
        Data::new(texts.chain(bytes))
    }
}

/// The number of entries above which unreferenced ones are evicted.
const MIN_SWEEP_SIZE: usize = 1024;

/// Returns the keys that objects currently reference.
type ReferencedKeys = Box<dyn Fn() -> HashSet<ObjectKey> + Send + Sync>;

/// Data of Secrets or ConfigMaps by key.
pub struct DataCache<K> {
    client: Client,
    require_label: bool,
    deadline: ReadDeadline,
    entries: Mutex<HashMap<ObjectKey, Entry>>,
    /// The number of entries above which the next sweep runs.
    sweep_at: Mutex<usize>,
    referenced: OnceLock<ReferencedKeys>,
    kind: PhantomData<fn() -> K>,
}

#[derive(Default)]
struct Entry {
    /// The number of changes that the watch reported.
    changes: u64,
    /// The last read: the value of `changes` before it, and the data (None if the object does not exist).
    last_read: Option<(u64, Option<Arc<Data>>)>,
    /// Do not read before this time, because the API server missed a deadline.
    not_before: Option<Instant>,
    /// Locked during a read, so that concurrent callers share its result instead of using the previous one.
    reading: Arc<tokio::sync::Mutex<()>>,
}

impl Entry {
    /// Returns the data if it has not changed since it was read.
    fn current(&self) -> Option<Option<Arc<Data>>> {
        self.last_read.as_ref().filter(|(after, _)| *after == self.changes).map(|(_, data)| data.clone())
    }

    /// Returns a result that needs no read: current data, or the last data while the API server is unresponsive.
    fn cached(&self) -> Option<Result<Option<Arc<Data>>, ClusterError>> {
        let is_unresponsive = self.not_before.is_some_and(|at| Instant::now() < at);
        let fallback = || is_unresponsive.then(|| self.last_or(timeout_error()));
        self.current().map(Ok).or_else(fallback)
    }

    /// Returns the last data, so that deliveries continue without the API server; the error if there is none.
    fn last_or(&self, error: ClusterError) -> Result<Option<Arc<Data>>, ClusterError> {
        let last = self.last_read.as_ref().and_then(|(_, data)| data.clone());
        last.map_or(Err(error), |data| Ok(Some(data)))
    }

    fn record_change(&mut self) {
        self.changes += 1;
        // The watch delivered a change, so the API server responds again.
        self.not_before = None;
    }
}

/// Like `Entry::last_or`, also for an entry that has been evicted.
fn last_or(entry: Option<&Entry>, error: ClusterError) -> Result<Option<Arc<Data>>, ClusterError> {
    match entry {
        Some(entry) => entry.last_or(error),
        None => Err(error),
    }
}

impl<K: DataResource> DataCache<K> {
    pub fn new(client: Client, require_label: bool) -> Self {
        DataCache {
            client,
            require_label,
            deadline: ReadDeadline::default(),
            entries: Mutex::default(),
            sweep_at: Mutex::new(MIN_SWEEP_SIZE),
            referenced: OnceLock::new(),
            kind: PhantomData,
        }
    }

    /// Sets the function that returns the referenced keys. Entries with other keys are evicted from then on.
    pub fn set_referenced_keys(&self, referenced: impl Fn() -> HashSet<ObjectKey> + Send + Sync + 'static) {
        // Set once, because a cluster has one view.
        self.referenced.set(Box::new(referenced)).ok();
    }

    /// Evicts the entries that no object references, except `keep`. Runs only when the number of entries has doubled,
    /// because `referenced` visits every object.
    fn sweep(&self, keep: &ObjectKey) {
        let Some(referenced) = self.referenced.get() else { return };
        if self.entries.lock().len() <= *self.sweep_at.lock() {
            return;
        }
        let referenced = referenced();
        self.entries.lock().retain(|key, _| key == keep || referenced.contains(key));
        *self.sweep_at.lock() = MIN_SWEEP_SIZE.max(referenced.len() * 2);
    }

    /// Records a change of an object. Returns true if the object is in use, which is when it is cached.
    pub fn record_change(&self, key: &ObjectKey) -> bool {
        self.entries.lock().get_mut(key).map(Entry::record_change).is_some()
    }

    /// Records a change of every object, because a watch that restarts may have missed any.
    pub fn record_change_of_all(&self) {
        self.entries.lock().values_mut().for_each(|entry| entry.changes += 1);
    }

    /// Returns an object's data; None if it does not exist or may not be used.
    pub async fn get(&self, key: &ObjectKey) -> Result<Option<Arc<Data>>, ClusterError> {
        let reading = {
            let mut entries = self.entries.lock();
            let entry = entries.entry(key.clone()).or_default();
            if let Some(result) = entry.cached() {
                return result;
            }
            entry.reading.clone()
        };
        self.sweep(key);
        let _reading = reading.lock().await;
        // An entry that was evicted and created again has missed the changes in between; do not use it.
        let is_same = |entry: &&mut Entry| Arc::ptr_eq(&entry.reading, &reading);
        // Take the count before the read, so that a change during the read marks its result as outdated.
        let changes = {
            let mut entries = self.entries.lock();
            let entry = entries.get_mut(key).filter(is_same);
            if let Some(result) = entry.as_ref().and_then(|entry| entry.cached()) {
                return result;
            }
            entry.map(|entry| {
                entry.not_before = None;
                entry.changes
            })
        };
        let api: Api<K> = Api::namespaced(self.client.clone(), &key.namespace);
        let response = tokio::time::timeout(self.deadline.timeout, api.get_opt(&key.name)).await;
        let mut entries = self.entries.lock();
        let entry = entries.get_mut(key).filter(is_same);
        match response {
            Ok(Ok(object)) => {
                let data = object.filter(|o| self.is_usable(o)).map(|o| Arc::new(o.into_data()));
                if let (Some(entry), Some(changes)) = (entry, changes) {
                    entry.last_read = Some((changes, data.clone()));
                }
                Ok(data)
            }
            Ok(Err(error)) => last_or(entry.as_deref(), to_cluster_error(error)),
            Err(_) => {
                let last = last_or(entry.as_deref(), timeout_error());
                if let Some(entry) = entry {
                    entry.not_before = Some(Instant::now() + self.deadline.retry_after);
                }
                last
            }
        }
    }

    fn is_usable(&self, object: &K) -> bool {
        !self.require_label || object.labels().get(USE_LABEL).is_some_and(|value| value == "true")
    }
}

#[cfg(test)]
mod tests {
    use super::super::api_server::testing::{short_deadline, unresponsive_client};
    use super::*;
    use http::{Request, Response};
    use kube::client::Body;
    use std::convert::Infallible;
    use std::future::{Ready, ready};
    use std::task::{Context, Poll};
    use tower_service::Service;

    /// An API server on which every Secret exists.
    #[derive(Clone)]
    struct Server;

    impl Service<Request<Body>> for Server {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = Ready<Result<Response<Body>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<Body>) -> Self::Future {
            let name = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            let secret =
                serde_json::json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
            ready(Ok(Response::new(Body::from(secret.to_string().into_bytes()))))
        }
    }

    fn key(number: usize) -> ObjectKey {
        ObjectKey::new("n", &format!("s{number}"))
    }

    #[tokio::test]
    async fn evicts_unreferenced_entries() {
        let cache: DataCache<Secret> = DataCache::new(Client::new(Server, "n"), false);
        cache.set_referenced_keys(|| (0..10).map(key).collect());
        for number in 0..5 * MIN_SWEEP_SIZE {
            assert!(cache.get(&key(number)).await.unwrap().is_some());
        }
        let count = cache.entries.lock().len();
        assert!(count <= MIN_SWEEP_SIZE + 1, "{count}");
        for number in 0..10 {
            assert!(cache.record_change(&key(number)), "referenced entries stay");
        }
    }

    #[tokio::test]
    async fn keeps_referenced_entries_above_the_sweep_size() {
        let cache: DataCache<Secret> = DataCache::new(Client::new(Server, "n"), false);
        cache.set_referenced_keys(|| (0..3 * MIN_SWEEP_SIZE).map(key).collect());
        for number in 0..3 * MIN_SWEEP_SIZE {
            cache.get(&key(number)).await.unwrap();
        }
        assert!((0..3 * MIN_SWEEP_SIZE).all(|number| cache.record_change(&key(number))));
    }

    #[tokio::test]
    async fn serves_last_data_while_the_api_server_is_unresponsive() {
        let (cached, uncached) = (ObjectKey::new("n", "cached"), ObjectKey::new("n", "uncached"));
        let cache = DataCache::<Secret> {
            deadline: short_deadline(),
            ..DataCache::new(unresponsive_client(), false)
        };
        let data = Arc::new(Data::new([("k".to_owned(), b"v".to_vec())].into_iter()));
        let entry = Entry { last_read: Some((0, Some(data))), ..Entry::default() };
        cache.entries.lock().insert(cached.clone(), entry);
        // As a watch does when it restarts.
        cache.record_change_of_all();
        let start = Instant::now();
        for _ in 0..1000 {
            assert!(cache.get(&cached).await.unwrap().is_some());
            assert!(cache.get(&uncached).await.unwrap_err().to_string().contains("does not answer"));
        }
        assert!(start.elapsed() < 100 * short_deadline().timeout, "one read times out, not each");
    }
}
