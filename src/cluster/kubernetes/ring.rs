//! The key ring: the Secret `hookstream-keys` in the operator's own namespace.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::Mutex;

use crate::cluster::{ClusterError, new_key};
use crate::core::keys::KeyRing;

pub const RING_NAME: &str = "hookstream-keys";
/// A key that was added serves everywhere within this time.
const FRESH: Duration = Duration::from_secs(15);

pub struct RingCache {
    client: Client,
    namespace: String,
    last: Mutex<Option<(Instant, Arc<KeyRing>)>>,
}

impl RingCache {
    pub fn new(client: Client, namespace: String) -> Self {
        RingCache { client, namespace, last: Mutex::new(None) }
    }

    pub async fn get(&self, create: bool) -> Result<Arc<KeyRing>, ClusterError> {
        // Held over the read, so that a thousand relays at once read it once.
        let mut last = self.last.lock().await;
        if let Some((_, ring)) = last.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return Ok(ring.clone());
        }
        match self.read(create).await {
            Ok(ring) => {
                *last = Some((Instant::now(), ring.clone()));
                Ok(ring)
            }
            // The API server is away: what was read last is still true.
            Err(error) => last.as_ref().map_or(Err(error), |(_, ring)| Ok(ring.clone())),
        }
    }

    async fn read(&self, create: bool) -> Result<Arc<KeyRing>, ClusterError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = api.get_opt(RING_NAME).await.map_err(super::cluster_error)?;
        let secret = match found {
            Some(secret) => secret,
            None if create => match api.create(&PostParams::default(), &new_ring()?).await {
                Ok(secret) => secret,
                // Another replica was faster.
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    api.get(RING_NAME).await.map_err(super::cluster_error)?
                }
                Err(error) => return Err(super::cluster_error(error)),
            },
            None => {
                return Err(ClusterError::KeyRing(format!(
                    "Secret {}/{RING_NAME} does not exist: the controller makes it, unless objects still depend on a lost one; restore it from a backup",
                    self.namespace
                )));
            }
        };
        let data = secret.data.unwrap_or_default();
        KeyRing::from_data(data.iter().map(|(id, key)| (id.as_str(), key.0.as_slice())))
            .map(Arc::new)
            .map_err(|e| ClusterError::KeyRing(format!("Secret {}/{RING_NAME}: {e}", self.namespace)))
    }
}

fn new_ring() -> Result<Secret, ClusterError> {
    let (id, key) = new_key().map_err(|e| ClusterError::KeyRing(format!("no randomness: {e}")))?;
    Ok(Secret {
        metadata: ObjectMeta {
            name: Some(RING_NAME.into()),
            labels: Some(BTreeMap::from([("app.kubernetes.io/managed-by".into(), "hookstream".into())])),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(id, ByteString(key.to_vec()))])),
        ..Secret::default()
    })
}
