//! The keys of sessions, derived from the installation's key ring: every replica has the same ones, so that a session of
//! one is valid on all, and a restart ends none. Removing a key from the key ring ends the sessions that it sealed.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretBox};

use crate::cluster::Cluster;
use crate::console::problem::Problem;
use crate::core::keys::{KeyRing, Owner, Purpose};

const KEY_BYTES: usize = 32;

/// Reads the keys. The cluster caches the key ring.
pub struct KeySource {
    cluster: Arc<dyn Cluster>,
}

/// The keys of sessions, the newest first.
pub struct SessionKeys(Vec<SessionKey>);

/// The two keys that are derived from one key of the key ring.
pub struct SessionKey {
    /// Seals cookies.
    pub seal: SecretBox<[u8; KEY_BYTES]>,
    /// Signs CSRF tokens.
    pub csrf: SecretBox<[u8; KEY_BYTES]>,
}

impl KeySource {
    pub fn new(cluster: Arc<dyn Cluster>) -> Self {
        KeySource { cluster }
    }

    pub async fn read(&self) -> Result<SessionKeys, Problem> {
        let key_ring = self.cluster.key_ring(false).await.map_err(|error| {
            Problem::new(503, "KeyRing", format!("sessions cannot be checked at the moment: {error}"))
        })?;
        Ok(SessionKeys::derive(&key_ring))
    }
}

impl SessionKeys {
    pub fn derive(key_ring: &KeyRing) -> Self {
        let mut ids: Vec<&str> = key_ring.entries().map(|(id, _)| id).collect();
        ids.sort_unstable();
        ids.reverse();
        let key = |id: &str| {
            Some(SessionKey {
                seal: derive_one(key_ring, id, "seal")?,
                csrf: derive_one(key_ring, id, "csrf")?,
            })
        };
        SessionKeys(ids.into_iter().filter_map(key).collect())
    }

    /// Returns the key for new sessions.
    pub fn newest(&self) -> Result<&SessionKey, Problem> {
        self.0.first().ok_or_else(|| Problem::new(503, "KeyRing", "the key ring has no key"))
    }

    pub fn all(&self) -> &[SessionKey] {
        &self.0
    }
}

fn derive_one(key_ring: &KeyRing, id: &str, name: &str) -> Option<SecretBox<[u8; KEY_BYTES]>> {
    let owner = Owner { namespace: "", name, uid: "", rotation: "" };
    let text = key_ring.derive(id, Purpose::Console, owner)?;
    let mut key = Box::new([0; KEY_BYTES]);
    hex::decode_to_slice(text.expose_secret(), &mut *key).ok()?;
    Some(SecretBox::new(key))
}

#[cfg(test)]
pub mod testing {
    use super::*;

    /// Returns the keys of a key ring with keys of these bytes, named in this order.
    pub fn keys(bytes: &[u8]) -> SessionKeys {
        let entries: Vec<(String, [u8; 32])> =
            bytes.iter().enumerate().map(|(at, byte)| (format!("k{at}"), [*byte; 32])).collect();
        let key_ring = KeyRing::from_data(entries.iter().map(|(id, key)| (id.as_str(), key.as_slice())));
        SessionKeys::derive(&key_ring.unwrap())
    }
}

#[cfg(test)]
mod tests {
    use super::testing::keys;
    use super::*;

    #[test]
    fn every_purpose_has_a_key_of_its_own_and_replicas_have_the_same() {
        let (one, other) = (keys(&[1, 2]), keys(&[1, 2]));
        assert_eq!(one.all().len(), 2);
        let newest = one.newest().unwrap();
        assert_eq!(newest.seal.expose_secret(), other.newest().unwrap().seal.expose_secret());
        assert_ne!(newest.seal.expose_secret(), newest.csrf.expose_secret());
        assert_ne!(newest.seal.expose_secret(), one.all()[1].seal.expose_secret());
        assert_eq!(keys(&[2]).newest().unwrap().seal.expose_secret(), newest.seal.expose_secret());
    }
}
