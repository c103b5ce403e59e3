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

use super::{Patience, no_answer};
use crate::cluster::{ClusterError, new_key};
use crate::core::keys::KeyRing;

pub const RING_NAME: &str = "hookstream-keys";
/// A key that was added serves everywhere within this time.
const FRESH: Duration = Duration::from_secs(15);

pub struct RingCache {
    client: Client,
    namespace: String,
    patience: Patience,
    last: Mutex<Last>,
}

#[derive(Default)]
struct Last {
    /// When it was read.
    read: Option<(Instant, Arc<KeyRing>)>,
    /// Not before is the API server asked again: it did not answer.
    not_before: Option<Instant>,
}

impl Last {
    /// What serves without asking, if anything does.
    fn serves(&self, now: Instant) -> Option<Result<Arc<KeyRing>, ClusterError>> {
        match &self.read {
            Some((at, ring)) if now.duration_since(*at) < FRESH => Some(Ok(ring.clone())),
            _ => self.not_before.filter(|at| now < *at).map(|_| self.or(no_answer())),
        }
    }

    /// The API server is away: what was read last is still true.
    fn or(&self, error: ClusterError) -> Result<Arc<KeyRing>, ClusterError> {
        self.read.as_ref().map_or(Err(error), |(_, ring)| Ok(ring.clone()))
    }
}

impl RingCache {
    pub fn new(client: Client, namespace: String) -> Self {
        RingCache { client, namespace, patience: Patience::default(), last: Mutex::default() }
    }

    pub async fn get(&self, create: bool) -> Result<Arc<KeyRing>, ClusterError> {
        // Held over the read, so that a thousand relays at once read it once.
        let mut last = self.last.lock().await;
        if let Some(served) = last.serves(Instant::now()) {
            return served;
        }
        last.not_before = None;
        match tokio::time::timeout(self.patience.within, self.read(create)).await {
            Ok(Ok(ring)) => {
                last.read = Some((Instant::now(), ring.clone()));
                Ok(ring)
            }
            Ok(Err(error)) => last.or(error),
            Err(_) => {
                last.not_before = Some(Instant::now() + self.patience.again);
                last.or(no_answer())
            }
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

#[cfg(test)]
mod tests {
    use super::super::testing::{hanging, short};
    use super::*;

    fn cache(last: Last) -> RingCache {
        RingCache { client: hanging(), namespace: "n".into(), patience: short(), last: Mutex::new(last) }
    }

    #[tokio::test]
    async fn an_api_server_that_hangs_holds_no_relay_up() {
        let ring = Arc::new(KeyRing::from_data([("k", [1_u8; 32].as_slice())].into_iter()).unwrap());
        let old = Instant::now().checked_sub(FRESH).unwrap();
        let known = cache(Last { read: Some((old, ring)), not_before: None });
        let strange = cache(Last::default());
        let began = Instant::now();
        for _ in 0..1000 {
            assert_eq!(known.get(false).await.unwrap().newest(), Some("k"));
            assert!(strange.get(false).await.unwrap_err().to_string().contains("does not answer"));
        }
        assert!(began.elapsed() < 100 * short().within, "it is asked once, not by each");
    }
}
