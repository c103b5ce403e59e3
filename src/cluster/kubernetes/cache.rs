//! Secrets and ConfigMaps, read once and kept while they stay the same.
//!
//! A metadata-only watch tells when one changed, so that a replaced Secret takes effect at the next use, no attempt
//! waits for the API server, and only what an object refers to is ever in memory.

use std::collections::HashMap;
use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client, Resource, ResourceExt};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;

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
    entries: Mutex<HashMap<Key, Entry>>,
    kind: PhantomData<fn() -> K>,
}

#[derive(Default)]
struct Entry {
    /// How often the watch saw it change.
    changes: u64,
    /// What was last read, and after how many changes; Some(None) inside where there was nothing.
    read: Option<(u64, Option<Arc<Data>>)>,
    /// Held while it is read: who comes meanwhile takes the result, and not what was there before.
    reading: Arc<tokio::sync::Mutex<()>>,
}

impl Entry {
    fn fresh(&self) -> Option<Option<Arc<Data>>> {
        self.read.as_ref().filter(|(after, _)| *after == self.changes).map(|(_, data)| data.clone())
    }
}

impl<K: Holder> Cache<K> {
    pub fn new(client: Client, require_label: bool) -> Self {
        Cache { client, require_label, entries: Mutex::default(), kind: PhantomData }
    }

    /// The watch saw this one change. True: somebody uses it.
    pub fn changed(&self, key: &Key) -> bool {
        self.entries.lock().get_mut(key).map(|entry| entry.changes += 1).is_some()
    }

    /// The watch starts again and may have missed any change.
    pub fn all_changed(&self) {
        self.entries.lock().values_mut().for_each(|entry| entry.changes += 1);
    }

    pub async fn get(&self, key: &Key) -> Result<Option<Arc<Data>>, ClusterError> {
        let reading = {
            let mut entries = self.entries.lock();
            let entry = entries.entry(key.clone()).or_default();
            if let Some(data) = entry.fresh() {
                return Ok(data);
            }
            entry.reading.clone()
        };
        let _one_at_a_time = reading.lock().await;
        // Before the read: a change that comes while it is under way makes what it finds old.
        let changes = {
            let mut entries = self.entries.lock();
            let entry = entries.entry(key.clone()).or_default();
            if let Some(data) = entry.fresh() {
                return Ok(data);
            }
            entry.changes
        };
        let api: Api<K> = Api::namespaced(self.client.clone(), &key.namespace);
        let answer = api.get_opt(&key.name).await;
        let mut entries = self.entries.lock();
        let entry = entries.entry(key.clone()).or_default();
        match answer {
            Ok(object) => {
                let data = object.filter(|o| self.usable(o)).map(|o| Arc::new(o.data()));
                entry.read = Some((changes, data.clone()));
                Ok(data)
            }
            Err(error) => {
                // Without the API server, deliveries go on with what was last read.
                let last = entry.read.as_ref().and_then(|(_, data)| data.clone());
                last.map_or_else(|| Err(super::cluster_error(error)), |data| Ok(Some(data)))
            }
        }
    }

    fn usable(&self, object: &K) -> bool {
        !self.require_label || object.labels().get(USE_LABEL).is_some_and(|value| value == "true")
    }
}
