//! Generates the CRDs as they are applied to the API server.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use super::{Connection, EventHook, EventStream, Hook};

/// Returns all CRDs of this version as JSON.
pub fn crds() -> Vec<Value> {
    [Connection::crd(), EventHook::crd(), EventStream::crd(), Hook::crd()].into_iter().map(finish).collect()
}

/// Formats an object as YAML, without a document marker.
pub fn to_yaml(object: &Value) -> Result<String, serde_saphyr::ser::Error> {
    serde_saphyr::to_string(object)
}

fn finish(crd: CustomResourceDefinition) -> Value {
    let mut crd = serde_json::to_value(crd).unwrap_or_default();
    clean_up(&mut crd);
    bound_conditions(&mut crd);
    crd
}

/// Bounds the texts of conditions as Kubernetes' own CRDs do. The schema of the type `Condition` lacks these limits.
fn bound_conditions(crd: &mut Value) {
    let pointer =
        "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/conditions/items/properties";
    let Some(members) = crd.pointer_mut(pointer) else { return };
    for (name, max) in [("type", 316), ("status", 16), ("reason", 1024), ("message", 32_768)] {
        if let Some(Value::Object(schema)) = members.get_mut(name) {
            schema.insert("maxLength".into(), max.into());
        }
    }
}

/// Removes `nullable` and the null in optional enums, and joins the lines of descriptions.
///
/// With `nullable`, an explicit null stays in the object and counts as present for `has()`. So `webhook: null` beside
/// `log: {}` would violate "exactly one of". Without it, the API server prunes the null. Line breaks inside a paragraph
/// are joined because `kubectl explain` wraps lines itself.
fn clean_up(value: &mut Value) {
    match value {
        Value::Object(map) => {
            // Only the schema keyword is a boolean; a property may have the name nullable, too.
            if matches!(map.get("nullable"), Some(Value::Bool(_))) {
                map.remove("nullable");
            }
            // Otherwise the error for an unsupported value would list "null" as supported.
            if let Some(Value::Array(values)) = map.get_mut("enum") {
                values.retain(|value| !value.is_null());
            }
            if let Some(Value::String(text)) = map.get_mut("description") {
                *text = text.split("\n\n").map(|p| p.replace('\n', " ")).collect::<Vec<_>>().join("\n\n");
            }
            map.values_mut().for_each(clean_up);
        }
        Value::Array(items) => items.iter_mut().for_each(clean_up),
        _ => {}
    }
}
