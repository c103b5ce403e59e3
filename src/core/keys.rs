//! The key ring, and the secrets derived from it.
//!
//! Both ends compute a relay's secret: the controller when it tells the vendor, the worker when a relay comes in. So no
//! Secret is written into users' namespaces, and nothing has to be kept but the ring.

use std::collections::BTreeMap;

use hkdf::Hkdf;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use secrecy::{ExposeSecret, SecretBox, SecretString};
use sha2::Sha256;

/// Length of a key in bytes.
pub const KEY_LENGTH: usize = 32;

/// What a secret is for: two purposes never share a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Kong signs what it relays to the worker.
    Relay,
    /// Auth0 shows it as a bearer token.
    Stream,
    /// Hashes of secrets that cannot be read back.
    Hash,
}

/// Whose secret it is.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    pub uid: &'a str,
    pub rotation: &'a str,
}

impl<'a> Owner<'a> {
    /// An object, and the rotation text that its secret is made with.
    pub fn of(object: &'a ObjectMeta, rotation: Option<&'a str>) -> Self {
        Owner {
            namespace: object.namespace.as_deref().unwrap_or_default(),
            name: object.name.as_deref().unwrap_or_default(),
            uid: object.uid.as_deref().unwrap_or_default(),
            rotation: rotation.unwrap_or_default(),
        }
    }
}

/// Keys by id; the newest is the last by id.
#[derive(Debug, Default)]
pub struct KeyRing {
    keys: BTreeMap<String, SecretBox<[u8; KEY_LENGTH]>>,
}

/// Why data is no key ring.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyRingError {
    #[error("the key ring is empty")]
    Empty,
    #[error("key {0} is not {KEY_LENGTH} bytes long")]
    Length(String),
}

impl KeyRing {
    /// Reads a ring from a Secret's data: a member a key, its name the id.
    pub fn from_data<'a>(data: impl Iterator<Item = (&'a str, &'a [u8])>) -> Result<Self, KeyRingError> {
        let mut keys = BTreeMap::new();
        for (id, bytes) in data {
            let key: [u8; KEY_LENGTH] = bytes.try_into().map_err(|_| KeyRingError::Length(id.to_owned()))?;
            keys.insert(id.to_owned(), SecretBox::new(Box::new(key)));
        }
        if keys.is_empty() { Err(KeyRingError::Empty) } else { Ok(KeyRing { keys }) }
    }

    /// The id of the key that serves new derivations.
    pub fn newest(&self) -> Option<&str> {
        self.keys.keys().next_back().map(String::as_str)
    }

    /// Derives a secret of 64 hexadecimal digits; None where the ring has no such key.
    pub fn derive(&self, key_id: &str, purpose: Purpose, owner: Owner<'_>) -> Option<SecretString> {
        let key = self.keys.get(key_id)?;
        let purpose = match purpose {
            Purpose::Relay => "relay",
            Purpose::Stream => "stream",
            Purpose::Hash => "hash",
        };
        // Lengths go before the texts: else ("ab", "c") and ("a", "bc") would share a secret.
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

    fn ring() -> KeyRing {
        KeyRing::from_data([("k1", [1u8; 32].as_slice()), ("k2", [2u8; 32].as_slice())].into_iter()).unwrap()
    }

    fn derive(key: &str, purpose: Purpose, namespace: &str, name: &str, rotation: &str) -> String {
        let owner = Owner { namespace, name, uid: "u", rotation };
        ring().derive(key, purpose, owner).unwrap().expose_secret().to_owned()
    }

    #[test]
    fn everything_that_is_told_apart_has_its_own_secret() {
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
        assert_eq!(all[0], derive("k1", Purpose::Relay, "a", "b", ""), "both ends compute the same");
    }

    #[test]
    fn bad_rings() {
        assert_eq!(KeyRing::from_data(std::iter::empty()).unwrap_err(), KeyRingError::Empty);
        let short = [("k", [0u8; 31].as_slice())].into_iter();
        assert_eq!(KeyRing::from_data(short).unwrap_err(), KeyRingError::Length("k".into()));
        assert_eq!(ring().newest(), Some("k2"));
        assert!(
            ring()
                .derive("k3", Purpose::Hash, Owner { namespace: "", name: "", uid: "", rotation: "" })
                .is_none()
        );
    }

    #[test]
    fn debug_shows_no_key() {
        assert!(!format!("{:?}", ring()).contains("1, 1"));
    }
}
