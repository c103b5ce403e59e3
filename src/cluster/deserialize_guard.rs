//! Isolates objects that cannot be deserialized, so that one of them never hides the others.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::api::{Applied, CLEANUP_MEMBERS, DeletionPolicy};
use crate::core::hook::EventSelector;

/// An object as a watch delivers it: the object, or the reason why it cannot be deserialized.
///
/// kube's type of the same name keeps only the metadata of an invalid object. This one also keeps which events the object
/// selects, so that they are held for it.
#[derive(Clone, Debug)]
pub struct DeserializeGuard<K>(pub Result<K, Box<InvalidObject>>);

/// The readable parts of an object that cannot be deserialized.
#[derive(Clone, Debug)]
pub struct InvalidObject {
    /// Why it cannot be deserialized.
    pub error: String,
    pub metadata: ObjectMeta,
    /// The events that an EventHook selects, as far as they are known.
    pub selector: Option<EventSelector>,
    /// The relay settings of an EventHook at the vendor, by its status.
    pub applied: Option<Box<Applied>>,
    /// `CLEANUP_MEMBERS` of the spec, as they are stored.
    cleanup: Map<String, Value>,
}

/// A deletion policy that this version does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownPolicy;

impl InvalidObject {
    /// Returns the object's own deletion policy; None if it has none.
    pub fn deletion_policy(&self) -> Result<Option<DeletionPolicy>, UnknownPolicy> {
        let policy = self.cleanup.get("deletionPolicy");
        policy.map_or(Ok(None), |policy| Option::deserialize(policy).map_err(|_| UnknownPolicy))
    }
}

impl<K: DeserializeOwned> DeserializeGuard<K> {
    /// Deserializes an object. None if it has no name.
    pub fn from_value(object: &Value) -> Option<Self> {
        let error = match K::deserialize(object) {
            Ok(object) => return Some(DeserializeGuard(Ok(object))),
            Err(error) => error.to_string(),
        };
        let metadata = read_metadata(object.get("metadata")?)?;
        let selector = object.get("spec").and_then(EventSelector::of_unreadable);
        let applied = object.pointer("/status/applied").and_then(|applied| Box::deserialize(applied).ok());
        let members = CLEANUP_MEMBERS.iter().filter_map(|member| {
            let value = object.get("spec")?.get(member)?;
            Some(((*member).to_owned(), value.clone()))
        });
        let cleanup = members.collect();
        Some(DeserializeGuard(Err(Box::new(InvalidObject { error, metadata, selector, applied, cleanup }))))
    }
}

/// Reads metadata. If a member is malformed, reads only the members that identify the object and its version.
fn read_metadata(metadata: &Value) -> Option<ObjectMeta> {
    if let Ok(metadata) = ObjectMeta::deserialize(metadata) {
        return metadata.name.is_some().then_some(metadata);
    }
    let mut known = Map::new();
    for name in ["name", "namespace", "uid", "resourceVersion", "deletionTimestamp"] {
        let text = metadata.get(name).filter(|value| value.is_string());
        known.extend(text.map(|value| (name.to_owned(), value.clone())));
    }
    let generation = metadata.get("generation").filter(|value| value.is_i64());
    known.extend(generation.map(|value| ("generation".to_owned(), value.clone())));
    if let Some(finalizers) = metadata.get("finalizers").and_then(Value::as_array) {
        let finalizers = finalizers.iter().filter(|value| value.is_string()).cloned().collect();
        known.insert("finalizers".into(), Value::Array(finalizers));
    }
    let metadata: ObjectMeta = serde_json::from_value(Value::Object(known)).ok()?;
    metadata.name.is_some().then_some(metadata)
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for DeserializeGuard<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Value::deserialize(deserializer)?;
        DeserializeGuard::from_value(&object)
            .ok_or_else(|| D::Error::custom("an object has no metadata.name"))
    }
}

impl<K: Resource> Resource for DeserializeGuard<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(dt)
    }

    fn group(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::group(dt)
    }

    fn version(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::version(dt)
    }

    fn plural(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(dt)
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.as_ref().map_or_else(|invalid| &invalid.metadata, K::meta)
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.as_mut().map_or_else(|invalid| &mut invalid.metadata, K::meta_mut)
    }
}

#[cfg(test)]
mod tests {
    use kube::ResourceExt;
    use serde_json::json;

    use super::*;
    use crate::api::EventHook;

    fn read(metadata: Value, spec: Value) -> Option<DeserializeGuard<EventHook>> {
        DeserializeGuard::from_value(&json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "EventHook",
            "metadata": metadata, "spec": spec}))
    }

    #[test]
    fn keeps_metadata_and_selector_of_an_object_with_a_wrong_type() {
        let metadata = json!({"name": "a", "namespace": "n", "uid": "1", "generation": 3});
        let spec = json!({"source": "s", "event": "e", "handler": {"log": {}}});
        let good = read(metadata.clone(), spec.clone()).unwrap();
        let good = EventSelector::of(&good.0.unwrap().spec);
        for (member, wrong) in [
            ("rotation", json!(2026)),
            ("groupBy", json!([1])),
            ("delivery", json!({"timeout": 15})),
            ("handler", json!("log")),
        ] {
            let mut spec = spec.clone();
            spec[member] = wrong;
            let guard = read(metadata.clone(), spec).unwrap();
            assert_eq!((guard.name_any().as_str(), guard.uid().as_deref()), ("a", Some("1")), "{member}");
            let invalid = guard.0.unwrap_err();
            assert_eq!(invalid.selector, Some(good.clone()), "{member}");
            assert!(invalid.error.contains("invalid type"), "{member}: {}", invalid.error);
        }
        assert!(read(metadata, json!([])).unwrap().0.unwrap_err().selector.is_none());
    }

    #[test]
    fn unknown_deletion_policy_is_no_default() {
        let policy = |policy: Value| {
            let mut spec = json!({"source": 7, "deletionPolicy": policy});
            if policy.is_null() {
                spec.as_object_mut().unwrap().remove("deletionPolicy");
            }
            read(json!({"name": "a"}), spec).unwrap().0.unwrap_err().deletion_policy()
        };
        assert_eq!(policy(json!("Orphan")), Ok(Some(DeletionPolicy::Orphan)));
        assert_eq!(policy(Value::Null), Ok(None));
        assert_eq!(policy(json!("AskMe")), Err(UnknownPolicy));
        assert_eq!(policy(json!(1)), Err(UnknownPolicy));
    }

    /// Without this, an annotation of a wrong type would look like the deletion of the object.
    #[test]
    fn keeps_an_object_with_malformed_metadata() {
        let metadata = json!({"name": "a", "namespace": "n", "uid": "1", "resourceVersion": "v", "generation": 3,
            "finalizers": ["f"], "annotations": {"x": 1}});
        let guard = read(metadata, json!({"source": "s", "handler": {"log": {}}})).unwrap();
        assert_eq!(guard.meta().generation, Some(3));
        assert_eq!(guard.finalizers(), ["f"]);
        assert_eq!(guard.resource_version().as_deref(), Some("v"));
        assert_eq!(guard.0.unwrap_err().selector.unwrap().source, "s");
        assert!(read(json!({"namespace": "n", "annotations": 1}), json!({})).is_none());
    }
}
