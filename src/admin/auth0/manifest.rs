//! Generates manifests from a tenant's objects, to move streams and hooks that were created by hand under the operator's
//! control.

use serde_json::{Map, Value, json};

use crate::api::API_VERSION;
use crate::core::relay::is_worker_path;

/// A custom resource that adopts an object of the tenant without changing it.
pub struct Auth0Manifest {
    pub object: Value,
    /// The name and the keys of the Secret that it refers to. The user must fill in the values, which Auth0 does not return.
    pub secret: Option<(String, Vec<String>)>,
}

/// Returns true for a stream that sends to a worker: the controller created it for an EventStream.
pub fn is_relay(stream: &Value) -> bool {
    let endpoint = stream.pointer("/destination/configuration/webhook_endpoint").and_then(Value::as_str);
    endpoint.is_some_and(|endpoint| is_worker_path(endpoint, "streams"))
}

/// Returns the EventStream of a stream. None if an EventStream cannot describe its destination.
pub fn stream_manifest(stream: &Value, connection: &str) -> Option<Auth0Manifest> {
    let text = |pointer: &str| stream.pointer(pointer).and_then(Value::as_str);
    let (id, title) = (text("/id")?, text("/name")?);
    let name = object_name(title, id);
    let configuration = |member: &str| text(&format!("/destination/configuration/{member}"));
    let mut key = None;
    let destination = match text("/destination/type")? {
        "webhook" => {
            let mut secret_ref = |secret_key: &str| {
                key = Some(secret_key.to_owned());
                json!({"name": name, "key": secret_key})
            };
            let authorization = match configuration("webhook_authorization/method")? {
                "basic" => json!({"basic": {"username": configuration("webhook_authorization/username")?,
                    "passwordSecretRef": secret_ref("password")}}),
                "bearer" => json!({"bearer": {"tokenSecretRef": secret_ref("token")}}),
                "custom_header" => {
                    json!({"customHeader": {"name": configuration("webhook_authorization/header_key")?,
                    "valueSecretRef": secret_ref("value")}})
                }
                _ => return None,
            };
            json!({"webhook": {"endpoint": configuration("webhook_endpoint")?, "authorization": authorization}})
        }
        "eventbridge" => {
            json!({"eventBridge": {"accountId": configuration("aws_account_id")?, "region": configuration("aws_region")?}})
        }
        "action" => json!({"action": {"actionId": configuration("action_id")?}}),
        _ => return None,
    };
    let types = stream.get("subscriptions").and_then(Value::as_array)?.iter();
    let types = types.map(|s| Some(json!({"eventType": s.get("event_type")?.as_str()?})));
    let types: Vec<Value> = types.collect::<Option<_>>()?;
    let mut spec = json!({"connectionRef": {"name": connection}, "name": title, "subscriptions": types,
        "destination": destination, "adopt": {"id": id, "mode": "Match"}});
    if text("/status") == Some("disabled") {
        spec.as_object_mut()?.insert("enabled".to_owned(), json!(false));
    }
    Some(build_manifest("EventStream", name, spec, key.into_iter().collect()))
}

/// Returns the Hook of an extensibility Hook in the form of `HookClient::observe`.
pub fn hook_manifest(hook: &Value, connection: &str) -> Option<Auth0Manifest> {
    let text = |name: &str| hook.get(name).and_then(Value::as_str);
    let (id, title) = (text("id")?, text("name")?);
    let name = object_name(title, id);
    let mut spec = json!({"connectionRef": {"name": connection}, "name": title, "triggerId": text("triggerId")?,
        "script": text("script")?, "enabled": hook.get("enabled") == Some(&Value::Bool(true)),
        "adopt": {"id": id, "mode": "Match"}});
    let dependencies = hook.get("dependencies").and_then(Value::as_object).filter(|all| !all.is_empty());
    let names = hook.get("secretNames").and_then(Value::as_array).into_iter().flatten();
    let names: Vec<String> = names.filter_map(Value::as_str).map(ToOwned::to_owned).collect();
    let members: &mut Map<String, Value> = spec.as_object_mut()?;
    members.extend(dependencies.map(|all| ("dependencies".to_owned(), json!(all))));
    if !names.is_empty() {
        let secrets: Vec<Value> =
            names.iter().map(|key| json!({"name": key, "secretRef": {"name": name, "key": key}})).collect();
        members.insert("secrets".to_owned(), secrets.into());
    }
    Some(build_manifest("Hook", name, spec, names))
}

fn build_manifest(kind: &str, name: String, spec: Value, keys: Vec<String>) -> Auth0Manifest {
    let object = json!({"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name},
        "spec": spec});
    Auth0Manifest { object, secret: (!keys.is_empty()).then_some((name, keys)) }
}

/// Returns a stable name: the object's own name and the last 8 characters of its id; at most 63 characters.
fn object_name(title: &str, id: &str) -> String {
    let to_label = |text: &str| {
        let text: String = text
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .collect();
        text.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
    };
    // Use the end of the id, which is random; all ids share the same prefix.
    let id = to_label(id);
    let tail = id.get(id.len().saturating_sub(8)..).unwrap_or(&id).trim_matches('-');
    let title = to_label(title);
    let title = title.get(..title.len().min(50)).unwrap_or(&title).trim_matches('-');
    [title, tail].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generates_stream_manifests() {
        let stream = |destination: Value| {
            json!({"id": "est_1234567890ab", "name": "My users", "status": "disabled",
                "subscriptions": [{"event_type": "user.created"}], "destination": destination})
        };
        let webhook = |authorization: Value| {
            stream(json!({"type": "webhook", "configuration":
                {"webhook_endpoint": "https://example.com/", "webhook_authorization": authorization}}))
        };
        let manifest = stream_manifest(&webhook(json!({"method": "bearer"})), "auth0").unwrap();
        assert_eq!(manifest.object["metadata"]["name"], "my-users-567890ab");
        assert_eq!(manifest.secret, Some(("my-users-567890ab".to_owned(), vec!["token".to_owned()])));
        let spec = &manifest.object["spec"];
        assert_eq!((&spec["enabled"], &spec["adopt"]["mode"]), (&json!(false), &json!("Match")));
        for (authorization, key) in [
            (json!({"method": "basic", "username": "u"}), "password"),
            (json!({"method": "custom_header", "header_key": "x-key"}), "value"),
        ] {
            let manifest = stream_manifest(&webhook(authorization), "auth0").unwrap();
            assert_eq!(manifest.secret.unwrap().1, [key]);
        }
        let action = json!({"type": "action", "configuration": {"action_id": "a"}});
        let manifest = stream_manifest(&stream(action), "auth0").unwrap();
        assert!(manifest.secret.is_none());
        assert_eq!(manifest.object["spec"]["destination"], json!({"action": {"actionId": "a"}}));
        assert!(stream_manifest(&stream(json!({"type": "pigeon"})), "auth0").is_none());
        let to_worker = json!({"type": "webhook", "configuration":
            {"webhook_endpoint": "https://hooks.example.com/v1/namespaces/a/streams/b"}});
        assert!(is_relay(&stream(to_worker)) && !is_relay(&webhook(json!({"method": "bearer"}))));
    }

    #[test]
    fn generates_valid_names() {
        assert_eq!(object_name("Ä _x", "est_1"), "x-est-1");
        assert!(object_name(&"y".repeat(200), "0123456789").len() <= 63);
        assert_eq!(object_name("--", "abc"), "abc");
    }
}
