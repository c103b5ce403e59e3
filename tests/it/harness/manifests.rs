//! Manifests and events for `hookstream standalone`.

use serde_json::{Value, json};

/// Returns a manifest as YAML; JSON is YAML.
pub fn manifest(api_version: &str, kind: &str, name: &str, content: Value) -> String {
    let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}});
    merge(&mut object, content);
    format!("---\n{object}\n")
}

/// Returns an EventHook of the source `s` with a webhook to `url`. `more` is merged into its spec.
pub fn hook(name: &str, url: &str, more: Value) -> String {
    let mut spec = json!({"source": "s", "handler": {"webhook": {"url": url}}});
    merge(&mut spec, more);
    manifest("hookstream.dev/v1alpha1", "EventHook", name, json!({"spec": spec}))
}

pub fn secret(name: &str, data: Value) -> String {
    manifest("v1", "Secret", name, json!({"stringData": data}))
}

/// Returns an event of the source `s`.
pub fn event(id: &str) -> Value {
    json!({"id": id, "source": "s", "event": "e", "data": {"id": id}})
}

/// Returns a `delivery` whose retries are short enough for a test. Its timeout is long, so that a slow machine does not turn
/// an answer into a timeout.
pub fn quick() -> Value {
    json!({"delivery": {"timeout": "30s", "retry": {"initialBackoff": "100ms", "maxBackoff": "1s"}}})
}

/// Merges `from` into `into` as a JSON merge patch does: null removes a member.
pub fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                if value.is_null() {
                    into.remove(&key);
                } else {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (into, from) => *into = from,
    }
}

/// Returns `base` with `extra` merged into it.
pub fn merged(mut base: Value, extra: Value) -> Value {
    merge(&mut base, extra);
    base
}
