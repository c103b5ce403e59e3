//! Secrets read once and kept while they stay the same.
//!
//! A metadata-only watch tells when one changed, so that a replaced Secret takes effect at the next use, no attempt
//! waits for the API server, and only Secrets that an object refers to are ever in memory.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;

use crate::api::USE_LABEL;
use crate::cluster::{ClusterError, Key, SecretData};

pub struct SecretCache {
    client: Client,
    require_label: bool,
    entries: Mutex<HashMap<Key, Entry>>,
}

#[derive(Default)]
struct Entry {
    /// What was last read: None before the first read ended, Some(None) where there was no such Secret.
    read: Option<Option<Arc<SecretData>>>,
    /// Set by the watch: what is here is no longer what is there.
    stale: bool,
}

impl SecretCache {
    pub fn new(client: Client, require_label: bool) -> Self {
        SecretCache { client, require_label, entries: Mutex::default() }
    }

    /// The watch saw this Secret change. True: somebody uses it.
    pub fn changed(&self, key: &Key) -> bool {
        self.entries.lock().get_mut(key).map(|entry| entry.stale = true).is_some()
    }

    /// The watch starts again and may have missed any change.
    pub fn all_changed(&self) {
        self.entries.lock().values_mut().for_each(|entry| entry.stale = true);
    }

    pub async fn get(&self, key: &Key) -> Result<Option<Arc<SecretData>>, ClusterError> {
        {
            let mut entries = self.entries.lock();
            let entry = entries.entry(key.clone()).or_default();
            if let (Some(data), false) = (&entry.read, entry.stale) {
                return Ok(data.clone());
            }
            // Fresh before the read: a change that comes while it is under way makes it stale again.
            entry.stale = false;
        }
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &key.namespace);
        let answer = api.get_opt(&key.name).await;
        let mut entries = self.entries.lock();
        let entry = entries.entry(key.clone()).or_default();
        match answer {
            Ok(secret) => {
                let data = secret.filter(|s| self.usable(s)).map(|s| {
                    Arc::new(SecretData::new(s.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0))))
                });
                entry.read = Some(data.clone());
                Ok(data)
            }
            Err(error) => {
                entry.stale = true;
                // Without the API server, deliveries go on with what was last read.
                entry
                    .read
                    .clone()
                    .flatten()
                    .map_or_else(|| Err(super::cluster_error(error)), |data| Ok(Some(data)))
            }
        }
    }

    fn usable(&self, secret: &Secret) -> bool {
        !self.require_label || secret.labels().get(USE_LABEL).is_some_and(|value| value == "true")
    }
}
