//! Turns documents into objects as the API server would store them, and into data of Secrets and ConfigMaps.

use std::sync::LazyLock;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::api::{self, GROUP};
use crate::cluster::{DeserializeGuard, ObjectKey, ResourceKind};
use crate::core::hook::{EventSelector, REJECTED_ANNOTATION};
use crate::core::schema::Schemas;

/// The namespace of the UUIDs that are derived from names, so that an object has the same uid at every start.
const UID_NAMESPACE: Uuid = Uuid::from_u128(0x6861_6f6b_7374_7265_616d_2e64_6576_0001);
/// The schemas by which the API server would validate manifests.
static SCHEMAS: LazyLock<Schemas> = LazyLock::new(|| Schemas::from_crds(&api::crds()));

/// Derives the uid of an object from its kind and name.
pub fn object_uid(kind: &str, namespace: &str, name: &str) -> String {
    Uuid::new_v5(&UID_NAMESPACE, format!("{kind}/{namespace}/{name}").as_bytes()).to_string()
}

/// Returns the reasons for which the API server would reject an object of our group; None if it would accept it.
pub fn schema_errors(document: &Value) -> Option<String> {
    let version = document.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    if version.split('/').next() != Some(GROUP) {
        return None;
    }
    let faults = SCHEMAS.check(document);
    let messages: Vec<String> = faults.iter().map(ToString::to_string).collect();
    (!messages.is_empty()).then(|| messages.join("; "))
}

/// Sets the namespace and uid of a document, and removes the fields that the API server owns. With `keep_state` an object
/// that a cluster printed keeps its uid, status and finalizers. `schema_errors` are attached as an annotation, so that
/// deserialization and validation report them without a second check.
pub fn normalize(
    document: &Value,
    kind: ResourceKind,
    key: &ObjectKey,
    keep_state: bool,
    schema_errors: Option<&str>,
) -> Value {
    let mut object = document.clone();
    let kind: &str = kind.into();
    let printed_uid = document.pointer("/metadata/uid").and_then(Value::as_str).filter(|_| keep_state);
    let uid = printed_uid.map_or_else(|| object_uid(kind, &key.namespace, &key.name), ToOwned::to_owned);
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("namespace".into(), json!(key.namespace));
        metadata.insert("uid".into(), json!(uid));
        // A manifest must not set the fields that the API server owns.
        for owned in ["resourceVersion", "generation", "deletionTimestamp", "managedFields"] {
            metadata.remove(owned);
        }
        if printed_uid.is_none() {
            metadata.remove("finalizers");
        }
        // The schema errors report members of another type. Without them, the spec can be read.
        for member in ["labels", "annotations"] {
            match metadata.get_mut(member) {
                Some(Value::Object(map)) => map.retain(|_, value| value.is_string()),
                Some(_) => drop(metadata.remove(member)),
                None => {}
            }
        }
        match (metadata.get_mut("annotations").and_then(Value::as_object_mut), schema_errors) {
            (Some(annotations), errors) => {
                annotations.remove(REJECTED_ANNOTATION);
                annotations.extend(errors.map(|errors| (REJECTED_ANNOTATION.to_owned(), json!(errors))));
            }
            (None, Some(errors)) => {
                metadata.insert("annotations".into(), json!({ REJECTED_ANNOTATION: errors }));
            }
            (None, None) => {}
        }
    }
    if let Some(object) = object.as_object_mut().filter(|_| printed_uid.is_none()) {
        object.remove("status");
    }
    object
}

/// An object as a watch would deliver it.
#[derive(Clone, Debug)]
pub struct FileObject {
    pub value: Value,
    /// The events that the last readable version of an EventHook selects.
    pub last_selector: Option<EventSelector>,
    /// Why the object has no manifest at the moment.
    pub problem: Option<String>,
}

impl FileObject {
    pub fn new(value: Value) -> Self {
        FileObject { value, last_selector: None, problem: None }
    }

    /// Deserializes the object. Unknown fields make it invalid, so that none is silently ignored.
    pub fn deserialize<K: DeserializeOwned>(&self) -> Option<DeserializeGuard<K>> {
        let mut guard = DeserializeGuard::from_value(&self.value)?;
        if let Err(invalid) = &mut guard.0 {
            let annotations = self.value.pointer("/metadata/annotations");
            // Prefer the schema's message: it names the field and the problem better than serde does.
            let by_schema = annotations.and_then(|all| all.get(REJECTED_ANNOTATION)?.as_str());
            if let Some(problem) = self.problem.as_deref().or(by_schema) {
                problem.clone_into(&mut invalid.error);
            }
            if self.last_selector.is_some() {
                invalid.selector.clone_from(&self.last_selector);
            }
        }
        Some(guard)
    }
}
