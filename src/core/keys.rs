//! The key ring, and the secrets derived from it.
//!
//! The controller derives a relay's secret to configure the vendor; the worker derives the same secret to verify
//! incoming relays. So the operator writes no Secret into users' namespaces and stores only the key ring.

use std::collections::BTreeMap;

use hkdf::Hkdf;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use secrecy::{ExposeSecret, SecretBox, SecretString};
use sha2::Sha256;

/// Length of a key in bytes.
pub const KEY_LENGTH: usize = 32;

/// The purpose of a derived secret. Different purposes never share a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Kong signs its relays to the worker with it.
    Relay,
    /// Auth0 sends it to the worker as a bearer token.
    Stream,
    /// Proves which installation configured a relay.
    Mark,
    /// Keys the hashes of secrets that cannot be read back from the vendor.
    Hash,
    /// Seals the sessions of the console and signs its forms.
    Console,
}

/// The object that a derived secret belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    pub uid: &'a str,
    pub rotation: &'a str,
}

impl<'a> Owner<'a> {
    /// Creates the owner from an object's metadata and its rotation text.
    pub fn of(object: &'a ObjectMeta, rotation: Option<&'a str>) -> Self {
        Owner {
            namespace: object.namespace.as_deref().unwrap_or_default(),
            name: object.name.as_deref().unwrap_or_default(),
            uid: object.uid.as_deref().unwrap_or_default(),
            rotation: rotation.unwrap_or_default(),
        }
    }
}

/// Keys by id. The newest key is the one with the greatest id.
#[derive(Debug, Default)]
pub struct KeyRing {
    keys: BTreeMap<String, SecretBox<[u8; KEY_LENGTH]>>,
}

/// Why a Secret's data is not a key ring.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyRingError {
    #[error("the key ring is empty")]
    Empty,
    #[error("key {0} is not {KEY_LENGTH} bytes long")]
    Length(String),
}

impl KeyRing {
    /// Parses a key ring from a Secret's data: each entry is a key, named by its id.
    pub fn from_data<'a>(data: impl Iterator<Item = (&'a str, &'a [u8])>) -> Result<Self, KeyRingError> {
        let mut keys = BTreeMap::new();
        for (id, bytes) in data {
            let key: [u8; KEY_LENGTH] = bytes.try_into().map_err(|_| KeyRingError::Length(id.to_owned()))?;
            keys.insert(id.to_owned(), SecretBox::new(Box::new(key)));
        }
        if keys.is_empty() { Err(KeyRingError::Empty) } else { Ok(KeyRing { keys }) }
    }

    /// Creates a key ring with one key.
    pub fn of_key(id: String, key: [u8; KEY_LENGTH]) -> Self {
        KeyRing { keys: BTreeMap::from([(id, SecretBox::new(Box::new(key)))]) }
    }

    /// Returns the ids and keys, as `from_data` parses them.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &[u8; KEY_LENGTH])> {
        self.keys.iter().map(|(id, key)| (id.as_str(), key.expose_secret()))
    }

    /// True if the key ring has the key with this id.
    pub fn has_key(&self, id: &str) -> bool {
        self.keys.contains_key(id)
    }

    /// Returns the id of the key for new derivations.
    pub fn newest_key_id(&self) -> Option<&str> {
        self.keys.keys().next_back().map(String::as_str)
    }

    /// Derives a secret of 64 hexadecimal digits. Returns `None` if the key ring has no such key.
    pub fn derive(&self, key_id: &str, purpose: Purpose, owner: Owner<'_>) -> Option<SecretString> {
        let key = self.keys.get(key_id)?;
        let purpose = match purpose {
            Purpose::Relay => "relay",
            Purpose::Stream => "stream",
            Purpose::Mark => "mark",
            Purpose::Hash => "hash",
            Purpose::Console => "console",
        };
        // Prefix each text with its length; otherwise ("ab", "c") and ("a", "bc") would share a secret.
        let mut info = Vec::new();
        for part in ["hookstream/v1", purpose, owner.namespace, owner.name, owner.uid, owner.rotation] {
            info.extend_from_slice(&(part.len() as u64).to_be_bytes());
            info.extend_from_slice(part.as_bytes());
        }
        let mut out = [0u8; 32];
        Hkdf::<Sha256>::new(None, key.expose_secret()).expand(&info, &mut out).ok()?;
        Some(SecretString::from(hex::encode(out)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_ring() -> KeyRing {
        KeyRing::from_data([("k1", [1u8; 32].as_slice()), ("k2", [2u8; 32].as_slice())].into_iter()).unwrap()
    }

    fn derive(key: &str, purpose: Purpose, namespace: &str, name: &str, rotation: &str) -> String {
        let owner = Owner { namespace, name, uid: "u", rotation };
        key_ring().derive(key, purpose, owner).unwrap().expose_secret().to_owned()
    }

    #[test]
    fn secrets_differ_by_key_purpose_and_owner() {
        let all = [
            derive("k1", Purpose::Relay, "a", "b", ""),
            derive("k2", Purpose::Relay, "a", "b", ""),
            derive("k1", Purpose::Stream, "a", "b", ""),
            derive("k1", Purpose::Relay, "ab", "", ""),
            derive("k1", Purpose::Relay, "a", "b", "2"),
        ];
        let different: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
        assert!(all.iter().all(|s| s.len() == 64));
        assert_eq!(all[0], derive("k1", Purpose::Relay, "a", "b", ""), "derivation is deterministic");
    }

    #[test]
    fn rejects_invalid_key_rings() {
        assert_eq!(KeyRing::from_data(std::iter::empty()).unwrap_err(), KeyRingError::Empty);
        let short = [("k", [0u8; 31].as_slice())].into_iter();
        assert_eq!(KeyRing::from_data(short).unwrap_err(), KeyRingError::Length("k".into()));
        assert_eq!(key_ring().newest_key_id(), Some("k2"));
        assert!(
            key_ring()
                .derive("k3", Purpose::Hash, Owner { namespace: "", name: "", uid: "", rotation: "" })
                .is_none()
        );
    }

    #[test]
    fn debug_output_contains_no_key() {
        assert!(!format!("{:?}", key_ring()).contains("1, 1"));
    }
}
