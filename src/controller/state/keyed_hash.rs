//! Keyed hashes: compare a value with an earlier one without storing either.

use hmac::{Hmac, KeyInit, Mac};
use secrecy::ExposeSecret;
use serde_json::Value;
use sha2::Sha256;

use crate::core::keys::{KeyRing, Owner, Purpose};

/// Hashes `value` with the newest key of the key ring. `field` names what is hashed, so that equal values of two fields
/// have different hashes. None if the key ring is empty.
pub fn hash_with_newest_key(key_ring: &KeyRing, uid: &str, field: &str, value: &Value) -> Option<String> {
    keyed_hash(key_ring, key_ring.newest_key_id()?, uid, field, value)
}

/// Returns `KEY_ID:HEX`. The key id is part of the hash, so that hashes stay valid when the key ring gets a new key.
fn keyed_hash(key_ring: &KeyRing, key_id: &str, uid: &str, field: &str, value: &Value) -> Option<String> {
    let owner = Owner { namespace: "", name: field, uid, rotation: "" };
    let key = key_ring.derive(key_id, Purpose::Hash, owner)?;
    let mut mac = Hmac::<Sha256>::new_from_slice(key.expose_secret().as_bytes()).ok()?;
    mac.update(value.to_string().as_bytes());
    Some(format!("{key_id}:{}", hex::encode(mac.finalize().into_bytes())))
}

/// Returns the id of the key with which a hash was made.
pub fn key_id_of(hash: &str) -> &str {
    hash.split(':').next().unwrap_or_default()
}

/// True if `hash` was made of this value. False if the key ring no longer has the key.
pub fn is_hash_of(key_ring: &KeyRing, hash: &str, uid: &str, field: &str, value: &Value) -> bool {
    keyed_hash(key_ring, key_id_of(hash), uid, field, value).is_some_and(|same| same == hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn hash_depends_on_key_object_field_and_value() {
        let key_ring = |byte: u8| KeyRing::from_data([("k1", [byte; 32].as_slice())].into_iter()).unwrap();
        let hash = hash_with_newest_key(&key_ring(1), "u", "config.secret", &json!("s3cret")).unwrap();
        assert!(hash.starts_with("k1:") && hash.len() == 67, "{hash}");
        let matches = |key_ring: &KeyRing, uid: &str, field: &str, value: &str| {
            is_hash_of(key_ring, &hash, uid, field, &json!(value))
        };
        assert!(matches(&key_ring(1), "u", "config.secret", "s3cret"));
        assert!(!matches(&key_ring(2), "u", "config.secret", "s3cret"));
        assert!(!matches(&key_ring(1), "v", "config.secret", "s3cret"));
        assert!(!matches(&key_ring(1), "u", "config.url", "s3cret"));
        assert!(!matches(&key_ring(1), "u", "config.secret", "other"));
        assert!(!is_hash_of(&key_ring(1), "gone:00", "u", "config.secret", &json!("s3cret")));
    }
}
