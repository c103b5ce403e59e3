//! Secrets and ConfigMaps, read once and kept while they stay the same.
//!
//! A metadata-only watch tells when one changed, so that a replaced Secret takes effect at the next use, no attempt
//! waits for the API server, and only what an object refers to is ever in memory.

use std::collections::HashMap;
use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;
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

pub struct Cache<K> {
    client: Client,
    require_label: bool,
    patience: Patience,
    entries: Mutex<HashMap<Key, Entry>>,
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

impl<K: Holder> Cache<K> {
    pub fn new(client: Client, require_label: bool) -> Self {
        let patience = Patience::default();
        Cache { client, require_label, patience, entries: Mutex::default(), kind: PhantomData }
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
        let _one_at_a_time = reading.lock().await;
        // Before the read: a change that comes while it is under way makes what it finds old.
        let changes = {
            let mut entries = self.entries.lock();
            let entry = entries.entry(key.clone()).or_default();
            if let Some(served) = entry.serves() {
                return served;
            }
            entry.not_before = None;
            entry.changes
        };
        let api: Api<K> = Api::namespaced(self.client.clone(), &key.namespace);
        let answer = tokio::time::timeout(self.patience.within, api.get_opt(&key.name)).await;
        let mut entries = self.entries.lock();
        let entry = entries.entry(key.clone()).or_default();
        match answer {
            Ok(Ok(object)) => {
                let data = object.filter(|o| self.usable(o)).map(|o| Arc::new(o.data()));
                entry.read = Some((changes, data.clone()));
                Ok(data)
            }
            Ok(Err(error)) => entry.or(super::cluster_error(error)),
            Err(_) => {
                entry.not_before = Some(Instant::now() + self.patience.again);
                entry.or(no_answer())
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
