//! Secrets and ConfigMaps, read once and kept while they stay the same.
//!
//! A metadata-only watch tells when one changed, so that a replaced Secret takes effect at the next use, no attempt
//! waits for the API server, and only what an object refers to is ever in memory; what none refers to any more goes.

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

use super::{Patience, no_answer};
use crate::api::USE_LABEL;
use crate::cluster::{ClusterError, Data, Key};

/// A kind that holds data by key.
pub trait Holder:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    fn data(self) -> Data;
}

impl Holder for Secret {
    fn data(self) -> Data {
        Data::new(self.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)))
    }
}

impl Holder for ConfigMap {
    fn data(self) -> Data {
        let texts = self.data.unwrap_or_default().into_iter().map(|(key, text)| (key, text.into_bytes()));
        let bytes = self.binary_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
        Data::new(texts.chain(bytes))
    }
}

/// So many are kept before anybody looks for those that nobody refers to any more.
const FEW: usize = 1024;

/// All that objects refer to, as they are now.
type Referenced = Box<dyn Fn() -> HashSet<Key> + Send + Sync>;

pub struct Cache<K> {
    client: Client,
    require_label: bool,
    patience: Patience,
    entries: Mutex<HashMap<Key, Entry>>,
    /// How many entries are too many to have been looked through only once.
    sweep_at: Mutex<usize>,
    referenced: OnceLock<Referenced>,
    kind: PhantomData<fn() -> K>,
}

#[derive(Default)]
struct Entry {
    /// How often the watch saw it change.
    changes: u64,
    /// What was last read, and after how many changes; Some(None) inside where there was nothing.
    read: Option<(u64, Option<Arc<Data>>)>,
    /// Not before is the API server asked again: it did not answer.
    not_before: Option<Instant>,
    /// Held while it is read: who comes meanwhile takes the result, and not what was there before.
    reading: Arc<tokio::sync::Mutex<()>>,
}

impl Entry {
    fn fresh(&self) -> Option<Option<Arc<Data>>> {
        self.read.as_ref().filter(|(after, _)| *after == self.changes).map(|(_, data)| data.clone())
    }

    /// What serves without asking, if anything does.
    fn serves(&self) -> Option<Result<Option<Arc<Data>>, ClusterError>> {
        let hangs = || self.not_before.filter(|at| Instant::now() < *at).map(|_| self.or(no_answer()));
        self.fresh().map(Ok).or_else(hangs)
    }

    /// Without the API server, deliveries go on with what was last read.
    fn or(&self, error: ClusterError) -> Result<Option<Arc<Data>>, ClusterError> {
        let last = self.read.as_ref().and_then(|(_, data)| data.clone());
        last.map_or(Err(error), |data| Ok(Some(data)))
    }

    fn change(&mut self) {
        self.changes += 1;
        // Who tells of a change, answers again.
        self.not_before = None;
    }
}

/// As `Entry::or`, also where there is no entry any more.
fn or_last(entry: Option<&Entry>, error: ClusterError) -> Result<Option<Arc<Data>>, ClusterError> {
    match entry {
        Some(entry) => entry.or(error),
        None => Err(error),
    }
}

impl<K: Holder> Cache<K> {
    pub fn new(client: Client, require_label: bool) -> Self {
        Cache {
            client,
            require_label,
            patience: Patience::default(),
            entries: Mutex::default(),
            sweep_at: Mutex::new(FEW),
            referenced: OnceLock::new(),
            kind: PhantomData,
        }
    }

    /// From now on what is not among these goes.
    pub fn keep(&self, referenced: impl Fn() -> HashSet<Key> + Send + Sync + 'static) {
        // Set once: there is one view of a cluster.
        self.referenced.set(Box::new(referenced)).ok();
    }

    /// Forgets what nobody refers to any more, but for this one. As seldom as the number of entries doubles: to know what
    /// is referred to, every object is looked at.
    fn sweep(&self, but: &Key) {
        let Some(referenced) = self.referenced.get() else { return };
        if self.entries.lock().len() <= *self.sweep_at.lock() {
            return;
        }
        let referenced = referenced();
        self.entries.lock().retain(|key, _| key == but || referenced.contains(key));
        *self.sweep_at.lock() = FEW.max(referenced.len() * 2);
    }

    /// The watch saw this one change. True: somebody uses it.
    pub fn changed(&self, key: &Key) -> bool {
        self.entries.lock().get_mut(key).map(Entry::change).is_some()
    }

    /// The watch starts again and may have missed any change.
    pub fn all_changed(&self) {
        self.entries.lock().values_mut().for_each(|entry| entry.changes += 1);
    }

    pub async fn get(&self, key: &Key) -> Result<Option<Arc<Data>>, ClusterError> {
        let reading = {
            let mut entries = self.entries.lock();
            let entry = entries.entry(key.clone()).or_default();
            if let Some(served) = entry.serves() {
                return served;
            }
            entry.reading.clone()
        };
        self.sweep(key);
        let _one_at_a_time = reading.lock().await;
        // An entry that was forgotten meanwhile, and made again, has seen none of the changes in between.
        let same = |entry: &&mut Entry| Arc::ptr_eq(&entry.reading, &reading);
        // Before the read: a change that comes while it is under way makes what it finds old.
        let changes = {
            let mut entries = self.entries.lock();
            let entry = entries.get_mut(key).filter(same);
            if let Some(served) = entry.as_ref().and_then(|entry| entry.serves()) {
                return served;
            }
            entry.map(|entry| {
                entry.not_before = None;
                entry.changes
            })
        };
        let api: Api<K> = Api::namespaced(self.client.clone(), &key.namespace);
        let answer = tokio::time::timeout(self.patience.within, api.get_opt(&key.name)).await;
        let mut entries = self.entries.lock();
        let entry = entries.get_mut(key).filter(same);
        match answer {
            Ok(Ok(object)) => {
                let data = object.filter(|o| self.usable(o)).map(|o| Arc::new(o.data()));
                if let (Some(entry), Some(changes)) = (entry, changes) {
                    entry.read = Some((changes, data.clone()));
                }
                Ok(data)
            }
            Ok(Err(error)) => or_last(entry.as_deref(), super::cluster_error(error)),
            Err(_) => {
                let last = or_last(entry.as_deref(), no_answer());
                if let Some(entry) = entry {
                    entry.not_before = Some(Instant::now() + self.patience.again);
                }
                last
            }
        }
    }

    fn usable(&self, object: &K) -> bool {
        !self.require_label || object.labels().get(USE_LABEL).is_some_and(|value| value == "true")
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{hanging, short};
    use super::*;
    use http::{Request, Response};
    use kube::client::Body;
    use std::convert::Infallible;
    use std::future::{Ready, ready};
    use std::task::{Context, Poll};
    use tower_service::Service;

    /// An API server that has every Secret.
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

    fn key(number: usize) -> Key {
        Key::new("n", &format!("s{number}"))
    }

    #[tokio::test]
    async fn what_nobody_refers_to_any_more_goes() {
        let cache: Cache<Secret> = Cache::new(Client::new(Server, "n"), false);
        cache.keep(|| (0..10).map(key).collect());
        for number in 0..5 * FEW {
            assert!(cache.get(&key(number)).await.unwrap().is_some());
        }
        let count = cache.entries.lock().len();
        assert!(count <= FEW + 1, "{count}");
        for number in 0..10 {
            assert!(cache.changed(&key(number)), "it is still referred to");
        }
    }

    #[tokio::test]
    async fn many_that_are_referred_to_stay() {
        let cache: Cache<Secret> = Cache::new(Client::new(Server, "n"), false);
        cache.keep(|| (0..3 * FEW).map(key).collect());
        for number in 0..3 * FEW {
            cache.get(&key(number)).await.unwrap();
        }
        assert!((0..3 * FEW).all(|number| cache.changed(&key(number))));
    }

    #[tokio::test]
    async fn an_api_server_that_hangs_holds_no_delivery_up() {
        let (known, strange) = (Key::new("n", "known"), Key::new("n", "strange"));
        let cache = Cache::<Secret> { patience: short(), ..Cache::new(hanging(), false) };
        let data = Arc::new(Data::new([("k".to_owned(), b"v".to_vec())].into_iter()));
        let entry = Entry { read: Some((0, Some(data))), ..Entry::default() };
        cache.entries.lock().insert(known.clone(), entry);
        // As the watch does when it begins anew.
        cache.all_changed();
        let began = Instant::now();
        for _ in 0..1000 {
            assert!(cache.get(&known).await.unwrap().is_some());
            assert!(cache.get(&strange).await.unwrap_err().to_string().contains("does not answer"));
        }
        assert!(began.elapsed() < 100 * short().within, "it is asked once, not by each");
    }
}
