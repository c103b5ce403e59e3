//! Decides whether a custom resource holds a vendor object. Uses no I/O, so that a table test covers every case.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::{Relay, VendorObject};
use crate::api::EventHook;
use crate::cluster::{ObjectKey, ResourceKind};
use crate::controller::reconcile::Synced;
use crate::controller::state::{OWNED_OBJECT, OwnershipMarker};
use crate::core::keys::KeyRing;

/// The holder of a vendor object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holding {
    /// A custom resource holds it, or may be about to.
    Held,
    /// No custom resource holds it, and this installation configured it.
    Ours,
    /// No custom resource holds it, and nothing proves that this installation configured it. Has the reason.
    Unmanaged(String),
}

/// The members of a custom resource by which it holds a vendor object. Read from untyped JSON, because a custom resource
/// that cannot be deserialized holds its vendor object too.
pub struct ResourceRecord {
    kind: ResourceKind,
    key: ObjectKey,
    uid: String,
    /// In lower case, because vendors may return a UUID in another letter case.
    ids: Vec<String>,
    name: Option<String>,
    /// True if the status names no vendor object yet, so that the controller may take over a relay of this name.
    is_pending: bool,
}

impl ResourceRecord {
    pub fn parse(kind: ResourceKind, object: &Value) -> Self {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
        let uid = text("/metadata/uid").unwrap_or_default().to_owned();
        let derived = (kind == ResourceKind::EventHook).then(|| EventHook::derived_id(&uid)).flatten();
        let external = text("/status/external/id");
        // Of a restored object only the annotation names the id, and of a moved one the status names former ids too.
        let marker = object.pointer("/metadata/annotations").and_then(|all| all.get(OWNED_OBJECT)?.as_str());
        let marker = marker.and_then(OwnershipMarker::parse);
        let former =
            object.pointer("/status/formerLocations").and_then(Value::as_array).into_iter().flatten();
        let former = former.filter_map(|location| location.get("id")?.as_str());
        let named = [external, text("/spec/adopt/id"), marker.as_ref().map(OwnershipMarker::id)];
        let named = named.into_iter().flatten().chain(former);
        let ids = named.map(str::to_ascii_lowercase).chain(derived).collect();
        ResourceRecord {
            kind,
            key: ObjectKey::new(
                text("/metadata/namespace").unwrap_or_default(),
                text("/metadata/name").unwrap_or_default(),
            ),
            uid,
            ids,
            name: text("/spec/name").map(ToOwned::to_owned),
            is_pending: external.is_none(),
        }
    }
}

/// All custom resources, and what identifies their installation.
pub struct CustomResources {
    ids: HashSet<(ResourceKind, String)>,
    names: HashSet<(ResourceKind, String)>,
    /// The custom resources whose status names no vendor object yet.
    pending: HashSet<(ResourceKind, ObjectKey)>,
    by_uid: HashMap<String, ObjectKey>,
    /// The namespaces that were read; empty means all.
    namespaces: Vec<String>,
}

impl CustomResources {
    pub fn new(records: Vec<ResourceRecord>, namespaces: Vec<String>) -> Self {
        let (mut ids, mut names, mut by_uid) = (HashSet::new(), HashSet::new(), HashMap::new());
        let pending = records.iter().filter(|record| record.is_pending);
        let pending = pending.map(|record| (record.kind, record.key.clone())).collect();
        for record in records {
            let kind = record.kind;
            ids.extend(record.ids.into_iter().map(|id| (kind, id)));
            names.extend(record.name.map(|name| (kind, name)));
            by_uid.insert(record.uid, record.key);
        }
        CustomResources { ids, names, pending, by_uid, namespaces }
    }

    /// Returns the holder of an object. `installation` and `key_ring` are this installation's; without them nothing can be
    /// proven.
    pub fn classify(
        &self,
        object: &VendorObject,
        installation: Option<&str>,
        key_ring: Option<&KeyRing>,
    ) -> Holding {
        let is_named = || object.name.clone().is_some_and(|name| self.names.contains(&(object.kind, name)));
        let is_taken_over = || {
            let target = object.relay.as_ref().map(|relay| &relay.target);
            target.is_some_and(|target| {
                self.pending.contains(&(object.kind, ObjectKey::new(&target.namespace, &target.name)))
            })
        };
        // The name counts too: a create may have succeeded before the status names its id.
        if self.ids.contains(&(object.kind, object.id.to_ascii_lowercase())) || is_named() || is_taken_over()
        {
            return Holding::Held;
        }
        match &object.relay {
            None => Holding::Unmanaged("not a relay: nothing shows who created it".into()),
            Some(relay) => match self.prove(relay, installation, key_ring) {
                Ok(()) => Holding::Ours,
                Err(why) => Holding::Unmanaged(why),
            },
        }
    }

    /// Checks that this installation configured the relay for a custom resource that no longer exists.
    fn prove(
        &self,
        relay: &Relay,
        installation: Option<&str>,
        key_ring: Option<&KeyRing>,
    ) -> Result<(), String> {
        let target = &relay.target;
        let Some(mark) = &relay.mark else {
            return Err("a relay without the mark of an installation".into());
        };
        let Some(installation) = installation else {
            return Err("the id of this installation is unknown: give --installation-id".into());
        };
        if mark.installation != installation {
            return Err(format!("a relay of installation {}", mark.installation));
        }
        if !key_ring.is_some_and(|key_ring| mark.is_proven(target, key_ring)) {
            return Err("its mark was not made with this installation's key ring".into());
        }
        if !self.namespaces.is_empty() && !self.namespaces.contains(&target.namespace) {
            return Err(format!("its namespace {} was not read", target.namespace));
        }
        match self.by_uid.get(&mark.uid) {
            Some(key) => Err(format!("{key} exists and holds another object: this may be a copy")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::relay_mark::RelayMark;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use serde_json::json;
    use url::Url;

    fn key_ring(byte: u8) -> KeyRing {
        KeyRing::from_data([("k1", [byte; 32].as_slice())].into_iter()).unwrap()
    }

    fn object(kind: ResourceKind, id: &str, url: Option<&str>, name: Option<&str>) -> VendorObject {
        VendorObject {
            kind,
            connection: ObjectKey::new("shop", "kong"),
            endpoint: "http://kong:8001".into(),
            workspace: None,
            id: id.into(),
            description: String::new(),
            name: name.map(Into::into),
            relay: url.and_then(Relay::parse),
        }
    }

    fn relay(installation: &str, key_ring: &KeyRing, uid: &str) -> VendorObject {
        let mut url = Url::parse("http://worker/v1/namespaces/shop/relays/orders").unwrap();
        let meta = ObjectMeta {
            namespace: Some("shop".into()),
            name: Some("orders".into()),
            uid: Some(uid.into()),
            ..ObjectMeta::default()
        };
        RelayMark::new(key_ring, "k1", installation, &meta).unwrap().append_to(&mut url);
        object(ResourceKind::EventHook, "relay", Some(url.as_str()), None)
    }

    fn resources(namespaces: &[&str]) -> CustomResources {
        let hook = json!({"metadata": {"namespace": "shop", "name": "orders", "uid": "live"},
            "spec": {"adopt": {"id": "ADOPTED"}, "handler": 7}, "status": {"external": {"id": "Held"}}});
        let stream = json!({"metadata": {"namespace": "shop", "name": "users", "uid": "s"},
            "spec": {"name": "users"}});
        let records = vec![
            ResourceRecord::parse(ResourceKind::EventHook, &hook),
            ResourceRecord::parse(ResourceKind::EventStream, &stream),
        ];
        CustomResources::new(records, namespaces.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn custom_resources_hold_by_status_adopt_derived_id_and_name() {
        let derived = EventHook::derived_id("live").unwrap();
        let all = resources(&[]);
        let holding = |object: &VendorObject| all.classify(object, Some("blue"), Some(&key_ring(1)));
        for id in ["held", "adopted", &derived.to_ascii_uppercase()] {
            assert_eq!(holding(&object(ResourceKind::EventHook, id, None, None)), Holding::Held, "{id}");
            let of_other_kind = holding(&object(ResourceKind::Hook, id, None, None));
            assert!(matches!(of_other_kind, Holding::Unmanaged(_)), "{id}");
        }
        assert_eq!(holding(&object(ResourceKind::EventStream, "x", None, Some("users"))), Holding::Held);
    }

    #[test]
    fn restored_and_moved_resources_hold_what_they_take_over() {
        let annotations =
            json!({OWNED_OBJECT: json!({"id": "Marked", "uid": "gone", "hash": "h"}).to_string()});
        let restored = json!({"metadata": {"namespace": "shop", "name": "restored", "uid": "new",
            "annotations": annotations}});
        let moved = json!({"metadata": {"namespace": "shop", "name": "moved", "uid": "m"},
            "status": {"external": {"id": "current"}, "formerLocations": [{"id": "former"}]}});
        let pending = json!({"metadata": {"namespace": "shop", "name": "orders", "uid": "p"}});
        let records =
            [&restored, &moved, &pending].map(|o| ResourceRecord::parse(ResourceKind::EventHook, o));
        let all = CustomResources::new(records.into(), Vec::new());
        let keys = key_ring(1);
        let holding = |object: &VendorObject| all.classify(object, Some("blue"), Some(&keys));
        for id in ["marked", "current", "former"] {
            assert_eq!(holding(&object(ResourceKind::EventHook, id, None, None)), Holding::Held, "{id}");
        }
        assert_eq!(holding(&relay("blue", &keys, "gone")), Holding::Held, "shop/orders takes it over");
    }

    #[test]
    fn only_a_proven_relay_of_a_deleted_resource_is_ours() {
        let (ours, other) = (key_ring(1), key_ring(2));
        let all = resources(&[]);
        let holding = |object: &VendorObject| all.classify(object, Some("blue"), Some(&ours));
        assert_eq!(holding(&relay("blue", &ours, "gone")), Holding::Ours);
        let unmarked = "http://worker/v1/namespaces/shop/relays/orders";
        for (object, part) in [
            (relay("green", &ours, "gone"), "installation green"),
            (relay("blue", &other, "gone"), "key ring"),
            (relay("blue", &ours, "live"), "shop/orders exists"),
            (object(ResourceKind::EventHook, "x", Some(unmarked), None), "without the mark"),
            (object(ResourceKind::EventHook, "x", Some("http://example.com"), None), "not a relay"),
        ] {
            match holding(&object) {
                Holding::Unmanaged(why) => assert!(why.contains(part), "{why}"),
                other => panic!("{part}: {other:?}"),
            }
        }
        let gone = relay("blue", &ours, "gone");
        assert!(matches!(all.classify(&gone, None, Some(&ours)), Holding::Unmanaged(_)));
        assert!(matches!(all.classify(&gone, Some("blue"), None), Holding::Unmanaged(_)));
        assert!(matches!(
            resources(&["other"]).classify(&gone, Some("blue"), Some(&ours)),
            Holding::Unmanaged(_)
        ));
        assert_eq!(resources(&["shop"]).classify(&gone, Some("blue"), Some(&ours)), Holding::Ours);
    }
}
