//! Manifests for what a tenant has: the way from streams and hooks made by hand to declared ones.

use serde_json::{Map, Value, json};

/// An object that takes over what the tenant has, without changing it.
pub struct Manifest {
    pub object: Value,
    /// The name and the keys of the Secret that it refers to: Auth0 shows none of them.
    pub secret: Option<(String, Vec<String>)>,
}

/// The EventStream of a stream. None: its destination is none that an EventStream can describe.
pub fn stream_manifest(stream: &Value, connection: &str) -> Option<Manifest> {
    let text = |pointer: &str| stream.pointer(pointer).and_then(Value::as_str);
    let (id, title) = (text("/id")?, text("/name")?);
    let name = name(title, id);
    let of = |member: &str| text(&format!("/destination/configuration/{member}"));
    let mut key = None;
    let destination = match text("/destination/type")? {
        "webhook" => {
            let mut secret_ref = |name_of_key: &str| {
                key = Some(name_of_key.to_owned());
                json!({"name": name, "key": name_of_key})
            };
            let authorization = match of("webhook_authorization/method")? {
                "basic" => json!({"basic": {"username": of("webhook_authorization/username")?,
                    "passwordSecretRef": secret_ref("password")}}),
                "bearer" => json!({"bearer": {"tokenSecretRef": secret_ref("token")}}),
                "custom_header" => json!({"customHeader": {"name": of("webhook_authorization/header_key")?,
                    "valueSecretRef": secret_ref("value")}}),
                _ => return None,
            };
            json!({"webhook": {"endpoint": of("webhook_endpoint")?, "authorization": authorization}})
        }
        "eventbridge" => {
            json!({"eventBridge": {"accountId": of("aws_account_id")?, "region": of("aws_region")?}})
        }
        "action" => json!({"action": {"actionId": of("action_id")?}}),
        _ => return None,
    };
    let types = stream.get("subscriptions").and_then(Value::as_array)?.iter();
    let types: Vec<Value> =
        types.filter_map(|s| Some(json!({"eventType": s.get("event_type")?.as_str()?}))).collect();
    let mut spec = json!({"connectionRef": {"name": connection}, "name": title, "subscriptions": types,
        "destination": destination, "adopt": {"id": id, "mode": "Match"}});
    if text("/status") == Some("disabled") {
        spec.as_object_mut()?.insert("enabled".to_owned(), json!(false));
    }
    Some(manifest("EventStream", name, spec, key.into_iter().collect()))
}

/// The Hook of an extensibility Hook, as `HookClient` observes it.
pub fn hook_manifest(hook: &Value, connection: &str) -> Option<Manifest> {
    let text = |name: &str| hook.get(name).and_then(Value::as_str);
    let (id, title) = (text("id")?, text("name")?);
    let name = name(title, id);
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
    Some(manifest("Hook", name, spec, names))
}

fn manifest(kind: &str, name: String, spec: Value, keys: Vec<String>) -> Manifest {
    let object = json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": kind, "metadata": {"name": name},
        "spec": spec});
    Manifest { object, secret: (!keys.is_empty()).then_some((name, keys)) }
}

/// A name that the same object gets every time: its own, and the end of its id.
fn name(title: &str, id: &str) -> String {
    let plain = |text: &str| {
        let text: String = text
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .collect();
        text.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
    };
    // Of the id the random part's end: what stands before it is the same for all.
    let id = plain(id);
    let tail = id.get(id.len().saturating_sub(8)..).unwrap_or(&id).trim_matches('-');
    let title = plain(title);
    let title = title.get(..title.len().min(50)).unwrap_or(&title).trim_matches('-');
    [title, tail].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams() {
        let stream = |destination: Value| {
            json!({"id": "est_1234567890ab", "name": "My users", "status": "disabled",
                "subscriptions": [{"event_type": "user.created"}], "destination": destination})
        };
        let webhook = |authorization: Value| {
            stream(json!({"type": "webhook", "configuration":
                {"webhook_endpoint": "https://example.com/", "webhook_authorization": authorization}}))
        };
        let made = stream_manifest(&webhook(json!({"method": "bearer"})), "auth0").unwrap();
        assert_eq!(made.object["metadata"]["name"], "my-users-567890ab");
        assert_eq!(made.secret, Some(("my-users-567890ab".to_owned(), vec!["token".to_owned()])));
        let spec = &made.object["spec"];
        assert_eq!((&spec["enabled"], &spec["adopt"]["mode"]), (&json!(false), &json!("Match")));
        for (authorization, key) in [
            (json!({"method": "basic", "username": "u"}), "password"),
            (json!({"method": "custom_header", "header_key": "x-key"}), "value"),
        ] {
            let made = stream_manifest(&webhook(authorization), "auth0").unwrap();
            assert_eq!(made.secret.unwrap().1, [key]);
        }
        let action = json!({"type": "action", "configuration": {"action_id": "a"}});
        let made = stream_manifest(&stream(action), "auth0").unwrap();
        assert!(made.secret.is_none());
        assert_eq!(made.object["spec"]["destination"], json!({"action": {"actionId": "a"}}));
        assert!(stream_manifest(&stream(json!({"type": "pigeon"})), "auth0").is_none());
    }

    #[test]
    fn names_are_names() {
        assert_eq!(name("Ä _x", "est_1"), "x-est-1");
        assert!(name(&"y".repeat(200), "0123456789").len() <= 63);
        assert_eq!(name("--", "abc"), "abc");
    }
}
