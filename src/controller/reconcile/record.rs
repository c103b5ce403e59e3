//! The pending-create record: where the vendor makes the id, a create whose answer was lost is known again by it.
//!
//! It stands in an annotation, written by compare-and-swap before the create, and goes when the status names the id. It
//! carries the vendor's own clock and a keyed hash of what was asked for: an object that was there before, or that says
//! something else, is somebody else's.

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::Sha256;

use crate::core::keys::{KeyRing, Owner, Purpose};
use crate::core::time::Millis;

/// The annotation.
pub const PENDING_CREATE: &str = "hookstream.dev/pending-create";
/// A vendor's machines do not share one clock to the second.
const SKEW: Duration = Duration::from_secs(5);

/// What was about to be created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its name, where the vendor keeps names unique. Nothing had it when this was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The vendor's clock at that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Millis>,
    /// A keyed hash of what was asked for.
    pub hash: String,
}

impl Record {
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// True where the object cannot have been there before. One without a time may.
    pub fn is_later(&self, created: Option<Millis>) -> bool {
        match (self.at, created) {
            (Some(at), Some(created)) => created + SKEW >= at,
            _ => true,
        }
    }
}

/// A keyed hash, with the id of its key before it, so that a new key in the ring is no difference.
pub fn keyed_hash(ring: &KeyRing, key_id: &str, uid: &str, what: &str, value: &Value) -> Option<String> {
    let owner = Owner { namespace: "", name: what, uid, rotation: "" };
    let key = ring.derive(key_id, Purpose::Hash, owner)?;
    let mut mac = Hmac::<Sha256>::new_from_slice(key.expose_secret().as_bytes()).ok()?;
    mac.update(value.to_string().as_bytes());
    Some(format!("{key_id}:{}", hex::encode(mac.finalize().into_bytes())))
}

/// True where the hash is of this value.
pub fn is_hash_of(ring: &KeyRing, hash: &str, uid: &str, what: &str, value: &Value) -> bool {
    let key_id = hash.split(':').next().unwrap_or_default();
    keyed_hash(ring, key_id, uid, what, value).is_some_and(|same| same == hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_record_reads_back() {
        let record = Record { name: Some("n".into()), at: Some(Millis(7)), hash: "k:1".into() };
        assert_eq!(Record::parse(&record.text()), Some(record));
        assert_eq!(Record::parse("by hand"), None);
    }

    #[test]
    fn what_was_there_before_is_not_ours() {
        let record = Record { name: None, at: Some(Millis(100_000)), hash: String::new() };
        assert!(record.is_later(Some(Millis(99_000))), "clocks differ by a little");
        assert!(!record.is_later(Some(Millis(90_000))));
        assert!(record.is_later(None));
    }

    #[test]
    fn hashes_are_keyed_and_name_their_key() {
        let ring = |byte: u8| KeyRing::from_data([("k1", [byte; 32].as_slice())].into_iter()).unwrap();
        let hash = keyed_hash(&ring(1), "k1", "u", "config.secret", &json!("s3cret")).unwrap();
        assert!(hash.starts_with("k1:") && hash.len() == 67, "{hash}");
        let fits = |ring: &KeyRing, uid: &str, what: &str, value: &str| {
            is_hash_of(ring, &hash, uid, what, &json!(value))
        };
        assert!(fits(&ring(1), "u", "config.secret", "s3cret"));
        assert!(!fits(&ring(2), "u", "config.secret", "s3cret"));
        assert!(!fits(&ring(1), "v", "config.secret", "s3cret"));
        assert!(!fits(&ring(1), "u", "config.url", "s3cret"));
        assert!(!fits(&ring(1), "u", "config.secret", "other"));
        assert!(!is_hash_of(&ring(1), "gone:00", "u", "config.secret", &json!("s3cret")));
    }
}
