//! Reads, creates, restores and caches the key ring: the Secret `hookstream-keys` in the operator's own namespace, or
//! another one there, which is managed elsewhere and only read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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

const OWN_SECRET: &str = "hookstream-keys";
/// How long a read is cached. All replicas use an added key within this time.
const CACHE_TTL: Duration = Duration::from_secs(15);

/// The key ring, cached for `CACHE_TTL` and kept beyond while the API server is unavailable.
pub struct KeyRingCache {
    client: Client,
    namespace: String,
    /// The name of the Secret.
    secret: String,
    /// Another tool creates and changes the Secret. This program only reads it.
    is_managed_elsewhere: bool,
    deadline: ReadDeadline,
    last: Mutex<LastRead>,
    /// The Secret was deleted and restored, and this was not reported yet.
    restored: AtomicBool,
}

/// What may be done if the Secret does not exist.
#[derive(Clone, Copy, Debug)]
pub struct KeyRingRights {
    /// Create a new key ring, if this process has none in memory.
    pub create: bool,
    /// Create the Secret again from the key ring in memory. Only the leader may: another replica's memory may be older.
    pub restore: bool,
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
    /// `existing` is the name of a Secret that is managed elsewhere.
    pub fn new(client: Client, namespace: String, existing: Option<String>) -> Self {
        KeyRingCache {
            client,
            namespace,
            is_managed_elsewhere: existing.is_some(),
            secret: existing.unwrap_or_else(|| OWN_SECRET.into()),
            deadline: ReadDeadline::default(),
            last: Mutex::default(),
            restored: AtomicBool::new(false),
        }
    }

    /// Returns true once after the Secret was restored.
    pub fn take_restored(&self) -> bool {
        self.restored.swap(false, Ordering::Relaxed)
    }

    /// Returns the key ring. If the Secret was deleted, restores it from memory, or creates a new one, as far as `rights`
    /// permit.
    pub async fn get(&self, rights: KeyRingRights) -> Result<Arc<KeyRing>, ClusterError> {
        // Keep the lock during the read, so that a thousand concurrent relays cause one read.
        let mut last = self.last.lock().await;
        if let Some(result) = last.cached(Instant::now()) {
            return result;
        }
        last.not_before = None;
        let in_memory = last.read.as_ref().map(|(_, key_ring)| key_ring.clone());
        match tokio::time::timeout(self.deadline.timeout, self.read(rights, in_memory)).await {
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

    async fn read(
        &self,
        rights: KeyRingRights,
        in_memory: Option<Arc<KeyRing>>,
    ) -> Result<Arc<KeyRing>, ClusterError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = api.get_opt(&self.secret).await.map_err(to_cluster_error)?;
        let secret = match (found, in_memory) {
            (Some(secret), _) => secret,
            // The API server says definitely that the Secret is gone. Keep the secrets that the vendors have.
            (None, Some(key_ring)) => {
                let (namespace, secret) = (&*self.namespace, &*self.secret);
                if self.is_managed_elsewhere {
                    tracing::error!(
                        namespace,
                        secret,
                        "the key ring was deleted; it is managed elsewhere and must be restored there"
                    );
                    return Ok(key_ring);
                }
                if !rights.restore {
                    tracing::error!(
                        namespace,
                        secret,
                        "the key ring was deleted; only the leader restores it"
                    );
                    return Ok(key_ring);
                }
                let keys = key_ring.entries().map(|(id, key)| (id.to_owned(), ByteString(key.to_vec())));
                let restored = create(&api, &key_ring_secret(keys.collect())).await?;
                tracing::error!(namespace, secret, "the key ring was deleted; restored it from memory");
                self.restored.store(true, Ordering::Relaxed);
                restored
            }
            (None, None) if self.is_managed_elsewhere => {
                return Err(ClusterError::KeyRing(format!(
                    "Secret {}/{} does not exist. It is managed elsewhere (--key-ring-secret): create it there, with at least one key of 32 random bytes",
                    self.namespace, self.secret
                )));
            }
            (None, None) if rights.create => create(&api, &new_key_ring()?).await?,
            (None, None) => {
                return Err(ClusterError::KeyRing(format!(
                    "Secret {}/{} does not exist. The controller creates it unless objects depend on a lost one; then restore it from a backup",
                    self.namespace, self.secret
                )));
            }
        };
        let data = secret.data.unwrap_or_default();
        KeyRing::from_data(data.iter().map(|(id, key)| (id.as_str(), key.0.as_slice())))
            .map(Arc::new)
            .map_err(|e| ClusterError::KeyRing(format!("Secret {}/{}: {e}", self.namespace, self.secret)))
    }
}

/// Creates the Secret. Returns the stored one if another replica created it first.
async fn create(api: &Api<Secret>, secret: &Secret) -> Result<Secret, ClusterError> {
    match api.create(&PostParams::default(), secret).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {
            api.get(OWN_SECRET).await.map_err(to_cluster_error)
        }
        other => other.map_err(to_cluster_error),
    }
}

/// Builds the Secret of a new key ring with one key.
fn new_key_ring() -> Result<Secret, ClusterError> {
    let (id, key) =
        generate_key().map_err(|e| ClusterError::KeyRing(format!("no random numbers available: {e}")))?;
    Ok(key_ring_secret(BTreeMap::from([(id, ByteString(key.to_vec()))])))
}

/// Builds the Secret of a key ring with these keys.
fn key_ring_secret(keys: BTreeMap<String, ByteString>) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(OWN_SECRET.into()),
            labels: Some(BTreeMap::from([("app.kubernetes.io/managed-by".into(), "hookstream".into())])),
            ..ObjectMeta::default()
        },
        data: Some(keys),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::api_server::testing::{short_deadline, unresponsive_client};
    use super::*;

    fn cache(last: LastRead) -> KeyRingCache {
        KeyRingCache {
            client: unresponsive_client(),
            namespace: "n".into(),
            secret: OWN_SECRET.into(),
            is_managed_elsewhere: false,
            deadline: short_deadline(),
            last: Mutex::new(last),
            restored: AtomicBool::new(false),
        }
    }

    #[tokio::test]
    async fn serves_last_key_ring_while_the_api_server_is_unresponsive() {
        let key_ring = Arc::new(KeyRing::from_data([("k", [1_u8; 32].as_slice())].into_iter()).unwrap());
        let old = Instant::now().checked_sub(CACHE_TTL).unwrap();
        let cached = cache(LastRead { read: Some((old, key_ring)), not_before: None });
        let uncached = cache(LastRead::default());
        let none = KeyRingRights { create: false, restore: false };
        let start = Instant::now();
        for _ in 0..1000 {
            assert_eq!(cached.get(none).await.unwrap().newest_key_id(), Some("k"));
            assert!(uncached.get(none).await.unwrap_err().to_string().contains("does not answer"));
        }
        assert!(start.elapsed() < 100 * short_deadline().timeout, "one read times out, not each");
    }
}
