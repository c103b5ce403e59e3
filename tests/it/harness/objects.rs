//! Builds objects for the API server and reads fields of objects.

use serde_json::{Value, json};

pub fn documents(objects: &[Value]) -> String {
    objects.iter().map(|o| format!("---\n{o}\n")).collect()
}

pub fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

pub fn secret(name: &str, key: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {key: value}})
}

/// Returns a Lease that its last holder released. Without one, the first replica waits for one lease duration, because the
/// Lease may have been deleted under a leader.
pub fn free_lease() -> Value {
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "hookstream-controller"},
        "spec": {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": "2026-01-01T00:00:00.000000Z"}})
}

/// Returns a condition of the object, or null.
pub fn condition(object: &Value, kind: &str) -> Value {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().find(|c| c["type"] == kind).cloned().unwrap_or_default()
}

/// Returns the message of the condition Ready.
pub fn message(object: &Value) -> String {
    condition(object, "Ready")["message"].as_str().unwrap_or_default().to_owned()
}

/// Returns true if the status describes the current spec.
pub fn is_current(object: &Value) -> bool {
    object["status"]["observedGeneration"] == object["metadata"]["generation"]
}
