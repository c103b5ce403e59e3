//! Reads, creates and caches the key ring: the Secret `hookstream-keys` in the operator's own namespace.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::Mutex;

use super::api_server::{ReadDeadline, timeout_error, to_cluster_error};
use crate::cluster::ClusterError;
use crate::cluster::keys::generate_key;
use crate::core::keys::KeyRing;

const KEY_RING_SECRET: &str = "hookstream-keys";
/// How long a read is cached. All replicas use an added key within this time.
const CACHE_TTL: Duration = Duration::from_secs(15);

/// The key ring, cached for `CACHE_TTL` and kept beyond while the API server is unavailable.
pub struct KeyRingCache {
    client: Client,
    namespace: String,
    deadline: ReadDeadline,
    last: Mutex<LastRead>,
}

#[derive(Default)]
struct LastRead {
    /// The key ring, and when it was read.
    read: Option<(Instant, Arc<KeyRing>)>,
    /// Do not read before this time, because the API server missed a deadline.
    not_before: Option<Instant>,
}

impl LastRead {
    /// Returns a result that needs no read: a fresh key ring, or the last one while the API server is unresponsive.
    fn cached(&self, now: Instant) -> Option<Result<Arc<KeyRing>, ClusterError>> {
        match &self.read {
            Some((at, key_ring)) if now.duration_since(*at) < CACHE_TTL => Some(Ok(key_ring.clone())),
            _ => self.not_before.filter(|at| now < *at).map(|_| self.last_or(timeout_error())),
        }
    }

    /// Returns the last key ring, which stays valid without the API server; the error if there is none.
    fn last_or(&self, error: ClusterError) -> Result<Arc<KeyRing>, ClusterError> {
        self.read.as_ref().map_or(Err(error), |(_, key_ring)| Ok(key_ring.clone()))
    }
}

impl KeyRingCache {
    pub fn new(client: Client, namespace: String) -> Self {
        KeyRingCache { client, namespace, deadline: ReadDeadline::default(), last: Mutex::default() }
    }

    /// Returns the key ring. `create` creates the Secret if it does not exist.
    pub async fn get(&self, create: bool) -> Result<Arc<KeyRing>, ClusterError> {
        // Keep the lock during the read, so that a thousand concurrent relays cause one read.
        let mut last = self.last.lock().await;
        if let Some(result) = last.cached(Instant::now()) {
            return result;
        }
        last.not_before = None;
        match tokio::time::timeout(self.deadline.timeout, self.read(create)).await {
            Ok(Ok(key_ring)) => {
                last.read = Some((Instant::now(), key_ring.clone()));
                Ok(key_ring)
            }
            Ok(Err(error)) => last.last_or(error),
            Err(_) => {
                last.not_before = Some(Instant::now() + self.deadline.retry_after);
                last.last_or(timeout_error())
            }
        }
    }

    async fn read(&self, create: bool) -> Result<Arc<KeyRing>, ClusterError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = api.get_opt(KEY_RING_SECRET).await.map_err(to_cluster_error)?;
        let secret = match found {
            Some(secret) => secret,
            None if create => match api.create(&PostParams::default(), &new_key_ring()?).await {
                Ok(secret) => secret,
                // Another replica created it first.
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    api.get(KEY_RING_SECRET).await.map_err(to_cluster_error)?
                }
                Err(error) => return Err(to_cluster_error(error)),
            },
            None => {
                return Err(ClusterError::KeyRing(format!(
                    "Secret {}/{KEY_RING_SECRET} does not exist. The controller creates it unless objects depend on a lost one; then restore it from a backup",
                    self.namespace
                )));
            }
        };
        let data = secret.data.unwrap_or_default();
        KeyRing::from_data(data.iter().map(|(id, key)| (id.as_str(), key.0.as_slice())))
            .map(Arc::new)
            .map_err(|e| ClusterError::KeyRing(format!("Secret {}/{KEY_RING_SECRET}: {e}", self.namespace)))
    }
}

/// Builds the Secret of a new key ring with one key.
fn new_key_ring() -> Result<Secret, ClusterError> {
    let (id, key) =
        generate_key().map_err(|e| ClusterError::KeyRing(format!("no random numbers available: {e}")))?;
    Ok(Secret {
        metadata: ObjectMeta {
            name: Some(KEY_RING_SECRET.into()),
            labels: Some(BTreeMap::from([("app.kubernetes.io/managed-by".into(), "hookstream".into())])),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(id, ByteString(key.to_vec()))])),
        ..Secret::default()
    })
}

#[cfg(test)]
mod tests {
    use super::super::api_server::testing::{short_deadline, unresponsive_client};
    use super::*;

    fn cache(last: LastRead) -> KeyRingCache {
        KeyRingCache {
            client: unresponsive_client(),
            namespace: "n".into(),
            deadline: short_deadline(),
            last: Mutex::new(last),
        }
    }

    #[tokio::test]
    async fn serves_last_key_ring_while_the_api_server_is_unresponsive() {
        let key_ring = Arc::new(KeyRing::from_data([("k", [1_u8; 32].as_slice())].into_iter()).unwrap());
        let old = Instant::now().checked_sub(CACHE_TTL).unwrap();
        let cached = cache(LastRead { read: Some((old, key_ring)), not_before: None });
        let uncached = cache(LastRead::default());
        let start = Instant::now();
        for _ in 0..1000 {
            assert_eq!(cached.get(false).await.unwrap().newest_key_id(), Some("k"));
            assert!(uncached.get(false).await.unwrap_err().to_string().contains("does not answer"));
        }
        assert!(start.elapsed() < 100 * short_deadline().timeout, "one read times out, not each");
    }
}
