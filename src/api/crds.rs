//! The CRDs as the API server gets them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use super::{Connection, EventHook, EventStream, Hook};

/// Every CRD of this version, as JSON, ready to be written or applied.
pub fn crds() -> Vec<Value> {
    [Connection::crd(), EventHook::crd(), EventStream::crd(), Hook::crd()].into_iter().map(finish).collect()
}

/// One object as YAML, without its document marker.
pub fn to_yaml(object: &Value) -> Result<String, serde_saphyr::ser::Error> {
    serde_saphyr::to_string(object)
}

fn finish(crd: CustomResourceDefinition) -> Value {
    let mut crd = serde_json::to_value(crd).unwrap_or_default();
    tidy(&mut crd);
    crd
}

/// Drops `nullable` and the null of optional enums, and joins the lines of descriptions.
///
/// With `nullable`, an explicit null stays in the object and counts as present for `has()`, so that `webhook: null`
/// beside `log: {}` would break "exactly one of"; without it, the API server prunes the null. A line break inside a
/// paragraph would stand as it is in `kubectl explain`, which wraps by itself.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(map) => {
            // A property may itself be called nullable: only the schema keyword is a boolean.
            if matches!(map.get("nullable"), Some(Value::Bool(_))) {
                map.remove("nullable");
            }
            // Without this, the refusal of a wrong value offers "null" beside the real ones.
            if let Some(Value::Array(values)) = map.get_mut("enum") {
                values.retain(|value| !value.is_null());
            }
            if let Some(Value::String(text)) = map.get_mut("description") {
                *text = text.split("\n\n").map(|p| p.replace('\n', " ")).collect::<Vec<_>>().join("\n\n");
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}
