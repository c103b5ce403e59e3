//! The ownership marker: proves that a custom resource has taken an external object.
//!
//! It is an annotation, which the controller writes when an object creates, adopts or takes over an external object. Its
//! keyed hash binds the uid, kind, namespace and name of the custom resource to the vendor's id. A finalizer, a status and
//! every annotation can be copied to another object; a uid cannot, so a copied marker is recognised.
//!
//! The marker names no address: a gateway has many, such as `localhost` and `127.0.0.1`. The ids are unique without it.
//! Kong's are UUIDs, those of event streams have 22 random characters, and those of Hooks are ULIDs.

use kube::{Resource, ResourceExt};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::keyed_hash::{hash_with_newest_key, is_hash_of, key_id_of};
use crate::cluster::ResourceKind;
use crate::core::keys::KeyRing;

/// The annotation that holds the marker.
pub const OWNED_OBJECT: &str = "hookstream.dev/owned-object";

/// The custom resource that a marker is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkerOwner {
    pub kind: ResourceKind,
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

impl MarkerOwner {
    pub fn of<K: Resource>(kind: ResourceKind, object: &K) -> Self {
        MarkerOwner {
            kind,
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            uid: object.uid().unwrap_or_default(),
        }
    }
}

/// States which external object a custom resource owns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnershipMarker {
    /// The vendor's id of the external object.
    id: String,
    /// The uid of the custom resource.
    uid: String,
    /// Keyed hash of both, and of the custom resource's kind, namespace and name.
    hash: String,
}

/// What a marker proves about the object that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkerProof {
    /// The object itself owns the external object.
    Owner,
    /// An earlier object of the same kind, namespace and name owned it: the object was restored from a backup.
    Predecessor,
    /// The key of the hash is not in the key ring, and the uid is the object's own: the key ring was lost or replaced.
    Unverifiable,
    /// Nothing: the marker was copied from another object, or edited.
    Foreign,
}

impl OwnershipMarker {
    /// Makes the marker of an external object with the newest key. None if the key ring is empty.
    pub fn new(key_ring: &KeyRing, owner: &MarkerOwner, id: &str) -> Option<Self> {
        let value = marked_value(owner, id);
        let hash = hash_with_newest_key(key_ring, &owner.uid, OWNED_OBJECT, &value)?;
        Some(OwnershipMarker { id: id.to_owned(), uid: owner.uid.clone(), hash })
    }

    /// Reads the marker of an object. None if it has none, or a malformed one, for example edited by hand.
    pub fn of<K: Resource>(object: &K) -> Option<Self> {
        OwnershipMarker::parse(object.annotations().get(OWNED_OBJECT)?)
    }

    /// Parses the annotation.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// Returns the annotation's text.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The vendor's id of the external object.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// True if the marker names the external object with this id.
    pub fn names(&self, kind: ResourceKind, id: &str) -> bool {
        is_same_id(kind, &self.id, id)
    }

    /// Checks the marker of `object`. Without a key ring no hash can be verified.
    pub fn verify(&self, key_ring: Option<&KeyRing>, object: &MarkerOwner) -> MarkerProof {
        let is_own = self.uid == object.uid;
        let Some(key_ring) = key_ring.filter(|key_ring| key_ring.has_key(key_id_of(&self.hash))) else {
            return if is_own { MarkerProof::Unverifiable } else { MarkerProof::Foreign };
        };
        let value = marked_value(object, &self.id);
        match is_hash_of(key_ring, &self.hash, &self.uid, OWNED_OBJECT, &value) {
            true if is_own => MarkerProof::Owner,
            // No other object can have this kind, namespace and name: the predecessor is gone.
            true => MarkerProof::Predecessor,
            false => MarkerProof::Foreign,
        }
    }

    /// True if the marker was made with the newest key.
    pub fn is_newest(&self, key_ring: &KeyRing) -> bool {
        key_ring.newest_key_id() == Some(key_id_of(&self.hash))
    }
}

/// Returns the value that is hashed.
fn marked_value(owner: &MarkerOwner, id: &str) -> serde_json::Value {
    let kind: &str = owner.kind.into();
    json!([kind, owner.namespace, owner.name, normalized_id(owner.kind, id)])
}

/// Returns the id in the spelling in which ids are compared. `adopt.id` may be an upper-case UUID.
pub fn normalized_id(kind: ResourceKind, id: &str) -> String {
    if kind == ResourceKind::EventHook { id.to_ascii_lowercase() } else { id.to_owned() }
}

/// True if both ids name the same external object.
pub fn is_same_id(kind: ResourceKind, a: &str, b: &str) -> bool {
    if kind == ResourceKind::EventHook { a.eq_ignore_ascii_case(b) } else { a == b }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_ring(keys: &[(&str, u8)]) -> KeyRing {
        let data: Vec<(&str, [u8; 32])> = keys.iter().map(|(id, byte)| (*id, [*byte; 32])).collect();
        KeyRing::from_data(data.iter().map(|(id, key)| (*id, key.as_slice()))).unwrap()
    }

    fn owner(namespace: &str, name: &str, uid: &str) -> MarkerOwner {
        let (namespace, name, uid) = (namespace.into(), name.into(), uid.into());
        MarkerOwner { kind: ResourceKind::EventStream, namespace, name, uid }
    }

    #[test]
    fn proves_ownership_of_one_object_only() {
        let keys = key_ring(&[("k1", 1)]);
        let marker = OwnershipMarker::new(&keys, &owner("n", "a", "u"), "est_1").unwrap();
        assert_eq!(OwnershipMarker::parse(&marker.to_text()), Some(marker.clone()));
        assert_eq!(OwnershipMarker::parse("by hand"), None);
        let proof = |marker: &OwnershipMarker, object: MarkerOwner| marker.verify(Some(&keys), &object);
        for (object, expected) in [
            (owner("n", "a", "u"), MarkerProof::Owner),
            (owner("n", "a", "v"), MarkerProof::Predecessor),
            (owner("n", "b", "v"), MarkerProof::Foreign),
            (owner("m", "a", "v"), MarkerProof::Foreign),
            (owner("m", "a", "u"), MarkerProof::Foreign),
            (MarkerOwner { kind: ResourceKind::Hook, ..owner("n", "a", "u") }, MarkerProof::Foreign),
        ] {
            assert_eq!(proof(&marker, object.clone()), expected, "{object:?}");
        }
        let edited = OwnershipMarker { id: "est_2".into(), ..marker.clone() };
        assert_eq!(proof(&edited, owner("n", "a", "u")), MarkerProof::Foreign);
        let edited = OwnershipMarker { uid: "v".into(), ..marker };
        assert_eq!(proof(&edited, owner("n", "a", "v")), MarkerProof::Foreign);
    }

    #[test]
    fn stays_valid_while_its_key_is_in_the_key_ring() {
        let object = owner("n", "a", "u");
        let marker = OwnershipMarker::new(&key_ring(&[("k1", 1)]), &object, "est_1").unwrap();
        let rotated = key_ring(&[("k1", 1), ("k2", 2)]);
        assert_eq!(marker.verify(Some(&rotated), &object), MarkerProof::Owner);
        assert!(!marker.is_newest(&rotated) && marker.is_newest(&key_ring(&[("k1", 1)])));
        let replaced = key_ring(&[("k2", 2)]);
        for lost in [Some(&replaced), None] {
            assert_eq!(marker.verify(lost, &object), MarkerProof::Unverifiable);
            assert_eq!(marker.verify(lost, &owner("n", "a", "v")), MarkerProof::Foreign, "a copy");
        }
        let other_key_of_this_name = key_ring(&[("k1", 9)]);
        assert_eq!(marker.verify(Some(&other_key_of_this_name), &object), MarkerProof::Foreign);
    }

    #[test]
    fn compares_uuids_without_case() {
        let keys = key_ring(&[("k1", 1)]);
        let object = MarkerOwner { kind: ResourceKind::EventHook, ..owner("n", "a", "u") };
        let marker = OwnershipMarker::new(&keys, &object, "AB-1").unwrap();
        assert!(marker.names(ResourceKind::EventHook, "ab-1") && marker.id() == "AB-1");
        assert_eq!(marker.verify(Some(&keys), &object), MarkerProof::Owner);
        assert!(!is_same_id(ResourceKind::EventStream, "est_A", "est_a"));
    }
}
