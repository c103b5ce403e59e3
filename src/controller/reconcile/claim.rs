//! Ownership of external objects: an external object belongs to at most one custom resource, and ownership needs proof.
//!
//! A finalizer, `adopt` and a status are no proof, because they can be copied. The proofs are: an id that is derived from
//! the object's uid, an ownership marker, and a write by this process. An object that an earlier version managed has no
//! marker yet; it owns the object in its status if no other custom resource claims that.

use std::sync::Arc;

use kube::{Resource, ResourceExt};

use super::kind::Synced;
use crate::api::External;
use crate::cluster::{DeserializeGuard, ObjectChange, ObjectKey, ObjectStore, ResourceKind};
use crate::controller::context::Context;
use crate::controller::error::SyncError;
use crate::controller::finalizer;
use crate::controller::named_ids::named_ids;
use crate::controller::state::{
    CreateRecord, MarkerOwner, MarkerProof, OwnershipMarker, is_same_id, normalized_id,
};
use crate::core::keys::KeyRing;

/// What an object itself shows about the external object that it owns.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Claim {
    /// It owns none.
    None,
    /// It owns the external object with this id.
    Proven(String),
    /// An earlier object of its name owned it.
    Inherited(String),
    /// It owns it if no other custom resource claims it.
    Unproven(String),
}

/// The facts on which a claim depends.
#[derive(Clone, Debug)]
struct ClaimFacts<'a> {
    kind: ResourceKind,
    /// The id that is derived from the uid, if the vendor accepts ids of the client's choice.
    derived: Option<String>,
    /// The id in the status, or the one that this process wrote and that the status does not show yet.
    known: Option<&'a str>,
    /// True if this process wrote the known external object as its owner.
    is_written: bool,
    marker: Option<(OwnershipMarker, MarkerProof)>,
    /// True if a create by this object is not settled: the status may name its result before the marker does.
    has_record: bool,
    /// True if the object shows that it was managed before: by a finalizer or by hashes of secrets.
    was_managed: bool,
    observes_only: bool,
}

impl<'a> ClaimFacts<'a> {
    /// Collects the facts. `object` is None if the object cannot be parsed.
    fn new<K: Synced>(
        metadata: &impl Resource,
        object: Option<&K>,
        known: Option<&'a str>,
        is_written: bool,
        key_ring: Option<&KeyRing>,
    ) -> Self {
        let owner = MarkerOwner::of(K::KIND, metadata);
        let marker = OwnershipMarker::of(metadata);
        ClaimFacts {
            kind: K::KIND,
            derived: K::derived_id(&owner.uid),
            known,
            is_written,
            marker: marker.map(|marker| {
                let proof = marker.verify(key_ring, &owner);
                (marker, proof)
            }),
            has_record: CreateRecord::of(metadata).is_some(),
            was_managed: finalizer::is_present(metadata)
                || object.is_some_and(|object| object.secret_hashes().is_some()),
            observes_only: object.is_some_and(|object| object.policies().observes_only()),
        }
    }

    fn claim(&self) -> Claim {
        let is_derived = |id: &str| self.derived.as_deref().is_some_and(|d| is_same_id(self.kind, d, id));
        let unproven = || match self.known.filter(|_| !self.observes_only) {
            Some(known) => Claim::Unproven(known.to_owned()),
            None => Claim::None,
        };
        let is_marked = |known: &str| match &self.marker {
            Some((marker, MarkerProof::Owner)) => marker.names(self.kind, known),
            _ => false,
        };
        if let Some(known) = self.known
            && (self.is_written || is_derived(known) || is_marked(known))
        {
            return Claim::Proven(known.to_owned());
        }
        match &self.marker {
            // The vendor chose the id of a recreated object. A process ended between the status and the marker.
            Some((_, MarkerProof::Owner)) if self.known.is_some() && self.has_record => unproven(),
            // A derived id is found by the uid, also where the marker was written before the gateway rejected the id.
            Some((marker, MarkerProof::Owner)) if is_derived(marker.id()) => Claim::None,
            Some((marker, MarkerProof::Owner)) => Claim::Proven(marker.id().to_owned()),
            Some((marker, MarkerProof::Predecessor)) => Claim::Inherited(marker.id().to_owned()),
            // The marker shows that this object is no copy, and the status names the same external object.
            Some((marker, MarkerProof::Unverifiable))
                if self.known.is_some_and(|known| marker.names(self.kind, known)) =>
            {
                unproven()
            }
            Some((_, MarkerProof::Unverifiable | MarkerProof::Foreign)) => Claim::None,
            None if self.was_managed => unproven(),
            None => Claim::None,
        }
    }
}

/// The external object that belongs to a custom resource.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnedObject {
    pub id: String,
    /// Where it is, if the status or this process's memory names it.
    pub external: Option<External>,
    /// True if it belonged to an earlier object of the same name: this object still has to take it over.
    pub is_inherited: bool,
}

/// Returns the external object that provably belongs to a custom resource. `key_ring`: None if markers cannot be verified.
pub fn find_owned<K: Synced>(
    context: &Context,
    object: &K,
    key_ring: Option<&KeyRing>,
) -> Option<OwnedObject> {
    let uid = object.uid().unwrap_or_default();
    let known = context.memory.external(&uid, object.external());
    let is_written = known.as_ref().is_some_and(|known| context.memory.wrote(&uid, &known.id));
    let known_id = known.as_ref().map(|known| known.id.as_str());
    let claim = ClaimFacts::new(object, Some(object), known_id, is_written, key_ring).claim();
    let (id, is_proven, is_inherited) = match claim {
        Claim::None => return None,
        Claim::Proven(id) => (id, true, false),
        Claim::Inherited(id) => (id, false, true),
        Claim::Unproven(id) => (id, false, false),
    };
    if !is_proven && find_other_owner(context, object, &id, key_ring).is_some() {
        return None;
    }
    let external = known.filter(|known| !is_inherited && is_same_id(K::KIND, &known.id, &id));
    Some(OwnedObject { id, external, is_inherited })
}

/// Returns the name (`NAMESPACE/NAME`) of another custom resource that owns the external object with this id. Addresses are
/// not compared, because one gateway may have several.
pub fn find_other_owner<K: Synced>(
    context: &Context,
    object: &K,
    id: &str,
    key_ring: Option<&KeyRing>,
) -> Option<String> {
    let uid = object.uid().unwrap_or_default();
    // Taken by this process a moment ago; the view may not show it yet.
    let claimed = context.claims.holder(&claim_key::<K>(id)).filter(|holder| *holder != uid);
    if let Some(name) = claimed.and_then(|holder| name_of::<K>(context, &holder)) {
        return Some(name);
    }
    let store = K::store(&context.view);
    let candidates = context.owners.candidates(K::KIND, id);
    candidates.into_iter().find_map(|key| {
        let other = store.get(&key.namespace, &key.name)?;
        let is_owner = other.meta().uid.as_deref() != Some(uid.as_str()) && may_own(&other, id, key_ring);
        is_owner.then(|| key.to_string())
    })
}

/// True if the object owns the external object, or may own it.
fn may_own<K: Synced>(other: &DeserializeGuard<K>, id: &str, key_ring: Option<&KeyRing>) -> bool {
    let object = other.0.as_ref().ok();
    let known = object.and_then(K::external).map(|external| external.id.as_str());
    let facts = ClaimFacts::new(other, object, known, false, key_ring);
    // Also while its create is in progress, and if it cannot be parsed.
    let is_derived = facts.derived.as_deref().is_some_and(|derived| is_same_id(K::KIND, derived, id));
    is_derived
        || match facts.claim() {
            Claim::None => false,
            Claim::Proven(own) | Claim::Inherited(own) | Claim::Unproven(own) => {
                is_same_id(K::KIND, &own, id)
            }
        }
}

/// Claims the external object, which `find_other_owner` found free, against concurrent reconciles of this process. Fails
/// with the name of the custom resource that claimed it first.
pub fn claim<K: Synced>(context: &Context, object: &K, id: &str) -> Result<(), String> {
    let uid = object.uid().unwrap_or_default();
    match context.claims.claim(claim_key::<K>(id), &uid, |uid| name_of::<K>(context, uid).is_some()) {
        Some(holder) => Err(name_of::<K>(context, &holder).unwrap_or(holder)),
        None => Ok(()),
    }
}

fn claim_key<K: Synced>(id: &str) -> String {
    let kind: &str = K::KIND.into();
    format!("{kind} {}", normalized_id(K::KIND, id))
}

fn name_of<K: Synced>(context: &Context, uid: &str) -> Option<String> {
    let found = K::store(&context.view).all().find(|other| other.meta().uid.as_deref() == Some(uid));
    found.map(|other| ObjectKey::of(&*other).to_string())
}

/// Returns the key ring with which ownership is verified; None if the object needs none. Without the key ring, the
/// ownership of other objects is unknown, which is an error.
pub async fn ownership_key_ring<K: Synced>(
    context: &Context,
    object: &K,
) -> Result<Option<Arc<KeyRing>>, SyncError> {
    if object.policies().observes_only() {
        return Ok(None);
    }
    match context.load_key_ring().await {
        Ok(key_ring) => Ok(Some(key_ring)),
        Err(error) if is_proven_by_uid(object) => {
            tracing::debug!(name = object.name_any(), %error, "no key ring for the ownership marker");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// True if the object's external object has an id that is derived from its uid: neither a copy nor another client has that.
fn is_proven_by_uid<K: Synced>(object: &K) -> bool {
    let Some(derived) = K::derived_id(&object.uid().unwrap_or_default()) else { return false };
    object.policies().adopt.is_none()
        && object.external().is_none_or(|external| is_same_id(K::KIND, &external.id, &derived))
        && OwnershipMarker::of(object).is_none_or(|marker| marker.names(K::KIND, &derived))
}

/// Updates the index of owners after a change of an object.
pub fn index_change(context: &Context, change: &ObjectChange) {
    let view = &context.view;
    match change {
        ObjectChange::EventHook(key) => index_object(context, &view.hooks, key),
        ObjectChange::EventStream(key) => index_object(context, &view.streams, key),
        ObjectChange::Hook(key) => index_object(context, &view.auth0_hooks, key),
        ObjectChange::Connection(_) | ObjectChange::Secret(_) | ObjectChange::ConfigMap(_) => {}
    }
}

fn index_object<K: Synced>(context: &Context, store: &ObjectStore<K>, key: &ObjectKey) {
    let object = store.get(&key.namespace, &key.name);
    let ids = object.map(|object| {
        let readable = object.0.as_ref().ok();
        let adopt = readable.and_then(|readable| readable.policies().adopt);
        named_ids(K::KIND, &*object, readable.and_then(K::external), adopt)
    });
    context.owners.update(K::KIND, key, ids.unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker(id: &str) -> OwnershipMarker {
        let key_ring = KeyRing::from_data([("k1", [1; 32].as_slice())].into_iter()).unwrap();
        let (namespace, name, uid) = ("n".into(), "o".into(), "u".into());
        let owner = MarkerOwner { kind: ResourceKind::EventHook, namespace, name, uid };
        OwnershipMarker::new(&key_ring, &owner, id).unwrap()
    }

    /// An object of an earlier version: it has a status and a finalizer, and no marker.
    fn unmarked<'a>(known: Option<&'a str>) -> ClaimFacts<'a> {
        ClaimFacts {
            kind: ResourceKind::EventHook,
            derived: Some("derived".into()),
            known,
            is_written: false,
            marker: None,
            has_record: false,
            was_managed: true,
            observes_only: false,
        }
    }

    fn marked<'a>(known: Option<&'a str>, id: &str, proof: MarkerProof) -> ClaimFacts<'a> {
        ClaimFacts { marker: Some((marker(id), proof)), ..unmarked(known) }
    }

    #[test]
    fn ownership_needs_proof() {
        use MarkerProof::{Foreign, Owner, Predecessor, Unverifiable};
        let proven = |id: &str| Claim::Proven(id.into());
        let (unproven, inherited) = (Claim::Unproven("x".into()), Claim::Inherited("x".into()));
        for (what, facts, expected) in [
            ("a new object", unmarked(None), Claim::None),
            ("managed by an earlier version", unmarked(Some("x")), unproven.clone()),
            (
                "only observed until now",
                ClaimFacts { was_managed: false, ..unmarked(Some("x")) },
                Claim::None,
            ),
            ("observed", ClaimFacts { observes_only: true, ..unmarked(Some("x")) }, Claim::None),
            ("derived from the uid", unmarked(Some("DERIVED")), proven("DERIVED")),
            ("derived, with a copied marker", marked(Some("derived"), "x", Foreign), proven("derived")),
            ("written by this process", ClaimFacts { is_written: true, ..unmarked(Some("x")) }, proven("x")),
            ("marked", marked(Some("x"), "X", Owner), proven("x")),
            ("marked, without a status", marked(None, "x", Owner), proven("x")),
            ("marked, and the status was replaced", marked(Some("y"), "x", Owner), proven("x")),
            ("marked under its derived id", marked(None, "derived", Owner), Claim::None),
            (
                "recreated under another id",
                ClaimFacts { has_record: true, ..marked(Some("x"), "old", Owner) },
                unproven.clone(),
            ),
            ("copied with its status", marked(Some("x"), "x", Foreign), Claim::None),
            ("copied without its status", marked(None, "x", Foreign), Claim::None),
            ("restored", marked(None, "x", Predecessor), inherited.clone()),
            ("restored with its status", marked(Some("x"), "x", Predecessor), inherited),
            ("the key ring was replaced", marked(Some("x"), "x", Unverifiable), unproven),
            ("the key ring was replaced, without a status", marked(None, "x", Unverifiable), Claim::None),
            ("the key ring was replaced, other status", marked(Some("y"), "x", Unverifiable), Claim::None),
        ] {
            assert_eq!(facts.claim(), expected, "{what}");
        }
    }
}
