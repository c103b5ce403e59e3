//! Generates manifests from a gateway's hooks, to move hooks that were created by hand under the operator's control.

use serde_json::{Map, Value, json};

use crate::api::API_VERSION;
use crate::core::relay::is_worker_path;

/// The manifests of one hook.
pub struct KongManifests {
    pub hook: Value,
    /// The Secret that the hook refers to, with the secret values of the gateway. None if it has none.
    pub secret: Option<Value>,
}

/// The keys of the signing secret and of the URL in the Secret.
const SIGNING_KEY: &str = "signing-secret";
const URL_KEY: &str = "url";
/// Parts of the names of headers and query parameters that probably contain credentials, which do not belong in git.
const CREDENTIAL_NAMES: [&str; 8] =
    ["authorization", "token", "secret", "key", "password", "cookie", "credential", "signature"];

/// Returns true for a hook that relays to a worker: the controller created it for an EventHook.
pub fn is_relay(hook: &Value) -> bool {
    let url = hook.pointer("/config/url").and_then(Value::as_str);
    url.is_some_and(|url| is_worker_path(url, "relays"))
}

/// Returns the EventHook that adopts this hook without changing it. None if its handler is unknown. The manifest may be
/// invalid, because Kong accepts values that an EventHook cannot express.
pub fn hook_manifests(hook: &Value, connection: &str) -> Option<KongManifests> {
    let text = |pointer: &str| hook.pointer(pointer).and_then(Value::as_str);
    let (id, source) = (text("/id")?, text("/source")?);
    let name = object_name(source, text("/event"), id);
    let config = hook.get("config").cloned().unwrap_or_default();
    let mut data = Map::new();
    let handler = match text("/handler")? {
        "webhook" => json!({ "webhook": webhook_request(&config, &name, &mut data) }),
        "webhook-custom" => {
            let mut custom = webhook_request(&config, &name, &mut data);
            custom.extend(custom_content(&config));
            json!({ "webhookCustom": custom })
        }
        "log" => json!({"log": {}}),
        "lambda" => json!({"lambda": {"functions": config.get("functions")?}}),
        _ => return None,
    };
    let mut spec = json!({"connectionRef": {"name": connection}, "deliverBy": "Gateway", "source": source,
        "handler": handler, "adopt": {"id": id, "mode": "Match"}});
    let members = spec.as_object_mut()?;
    members.extend(text("/event").map(|event| ("event".to_owned(), json!(event))));
    let seconds = hook.get("snooze").and_then(Value::as_i64).filter(|seconds| *seconds > 0);
    members.extend(seconds.map(|s| ("snooze".to_owned(), json!({"period": period(s)}))));
    if hook.get("on_change") == Some(&Value::Bool(true)) {
        members.insert("onChange".to_owned(), json!({}));
    }
    let secret = (!data.is_empty()).then(
        || json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}),
    );
    let hook = json!({"apiVersion": API_VERSION, "kind": "EventHook", "metadata": {"name": name},
        "spec": spec});
    Some(KongManifests { hook, secret })
}

/// Returns a stable name: source, event and the first 8 characters of the id; at most 63 characters.
fn object_name(source: &str, event: Option<&str>, id: &str) -> String {
    let text = format!("{source}-{}-{}", event.unwrap_or("all"), id.get(..8).unwrap_or(id));
    let to_label = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let text: String = text.chars().map(to_label).collect();
    let parts: Vec<&str> = text.split('-').filter(|part| !part.is_empty()).collect();
    let joined = parts.join("-");
    // Keep the end: the id makes the name unique.
    joined.get(joined.len().saturating_sub(63)..).unwrap_or(&joined).trim_start_matches('-').to_owned()
}

/// Formats seconds as a duration; the CRD limits each number to five digits.
fn period(seconds: i64) -> String {
    if seconds < 100_000 { format!("{seconds}s") } else { format!("{}h{}s", seconds / 3600, seconds % 3600) }
}

/// Returns the `webhook` handler of the spec, and adds its secret values to `data`.
fn webhook_request(config: &Value, name: &str, data: &mut Map<String, Value>) -> Map<String, Value> {
    let mut request = Map::new();
    match config.get("url") {
        Some(url) if url.as_str().is_some_and(has_credentials_in_query) => {
            data.insert(URL_KEY.to_owned(), url.clone());
            request.insert("urlSecretRef".to_owned(), json!({"name": name, "key": URL_KEY}));
        }
        url => request.extend(url.map(|url| ("url".to_owned(), url.clone()))),
    }
    let (mut plain_headers, mut secret_headers) = (Map::new(), Vec::new());
    for (header, value) in config.get("headers").and_then(Value::as_object).into_iter().flatten() {
        if names_credentials(header) {
            let key = free_key(header, data);
            secret_headers.push(json!({"name": header, "secretRef": {"name": name, "key": key}}));
            data.insert(key, value.clone());
        } else {
            plain_headers.insert(header.clone(), value.clone());
        }
    }
    if !plain_headers.is_empty() {
        request.insert("headers".to_owned(), plain_headers.into());
    }
    if !secret_headers.is_empty() {
        request.insert("headersFrom".to_owned(), secret_headers.into());
    }
    if let Some(secret @ Value::String(_)) = config.get("secret") {
        data.insert(SIGNING_KEY.to_owned(), secret.clone());
        request.insert("signature".to_owned(), json!({"secretRef": {"name": name, "key": SIGNING_KEY}}));
    }
    if config.get("ssl_verify") == Some(&Value::Bool(false)) {
        request.insert("tls".to_owned(), json!({"insecureSkipVerify": true}));
    }
    request
}

/// Returns true for the name of a header or query parameter that probably contains credentials.
fn names_credentials(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    CREDENTIAL_NAMES.iter().any(|part| name.contains(part))
}

fn has_credentials_in_query(url: &str) -> bool {
    let query = url.split('#').next().and_then(|url| url.split_once('?')).map_or("", |(_, query)| query);
    url::form_urlencoded::parse(query.as_bytes()).any(|(name, _)| names_credentials(&name))
}

/// Returns a key of the Secret for the value of a header. A Secret allows fewer characters than a header's name, so two
/// names may lead to the same key; then a number makes it unique.
fn free_key(header: &str, data: &Map<String, Value>) -> String {
    let to_key = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let key: String = "header-".chars().chain(header.chars().map(to_key)).collect();
    let numbered = (2..).map(|number| format!("{key}-{number}"));
    std::iter::once(key.clone()).chain(numbered).find(|key| !data.contains_key(key)).unwrap_or(key)
}

/// Returns the additional fields of the `webhookCustom` handler.
fn custom_content(config: &Value) -> Map<String, Value> {
    let mut content = Map::new();
    for name in ["method", "payload", "body"] {
        content.extend(config.get(name).filter(|v| !v.is_null()).map(|v| (name.to_owned(), v.clone())));
    }
    let formats = [
        ("headers_format", "headersFormat"),
        ("payload_format", "payloadFormat"),
        ("body_format", "bodyFormat"),
    ];
    for (theirs, ours) in formats {
        let template = config.get(theirs).and_then(Value::as_bool);
        let text = template.map(|template| if template { "Template" } else { "Raw" });
        content.extend(text.map(|text| (ours.to_owned(), json!(text))));
    }
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "11111111-2222-4333-8444-555555555555";

    #[test]
    fn generates_a_manifest_and_a_secret() {
        let hook = json!({"id": ID, "source": "dao:crud", "event": "create", "handler": "webhook", "snooze": 90,
            "on_change": true, "config": {"url": "https://example.com/", "secret": "s", "ssl_verify": false,
                "headers": {"x-team": "a", "Authorization": "Bearer b"}}});
        let KongManifests { hook, secret } = hook_manifests(&hook, "kong").unwrap();
        assert_eq!(hook["metadata"]["name"], "dao-crud-create-11111111");
        let spec = &hook["spec"];
        assert_eq!(spec["adopt"], json!({"id": ID, "mode": "Match"}));
        assert_eq!((&spec["snooze"], &spec["onChange"]), (&json!({"period": "90s"}), &json!({})));
        let webhook = &spec["handler"]["webhook"];
        assert_eq!(webhook["headers"], json!({"x-team": "a"}));
        assert_eq!(webhook["tls"], json!({"insecureSkipVerify": true}));
        assert!(!hook.to_string().contains("Bearer b"));
        let data = json!({"signing-secret": "s", "header-authorization": "Bearer b"});
        assert_eq!(secret.unwrap()["stringData"], data);
    }

    #[test]
    fn moves_credentials_into_the_secret() {
        let url = "https://example.com/hook?channel=a&api_key=k1#f";
        let config =
            json!({"url": url, "headers": {"X-Token": "1", "x-token": "2", "x^token": "3", "x-a": "4"}});
        let hook = json!({"id": ID, "source": "crud", "handler": "webhook", "config": config});
        let KongManifests { hook, secret } = hook_manifests(&hook, "kong").unwrap();
        let data =
            json!({"url": url, "header-x-token": "1", "header-x-token-2": "2", "header-x-token-3": "3"});
        assert_eq!(secret.unwrap()["stringData"], data);
        let webhook = &hook["spec"]["handler"]["webhook"];
        assert_eq!(webhook["headers"], json!({"x-a": "4"}));
        assert_eq!(webhook["urlSecretRef"]["key"], "url");
        assert!(webhook.get("url").is_none());
        assert!(!has_credentials_in_query("https://example.com/token?channel=key#secret=1"));
    }

    #[test]
    fn recognizes_relays_by_their_url() {
        let relays_to = |url: &str| is_relay(&json!({"config": {"url": url}}));
        assert!(relays_to("https://hooks.example.com/base/v1/namespaces/a/relays/b"));
        assert!(!relays_to("https://example.com/relays/b"));
        assert!(!is_relay(&json!({"config": {}})));
    }

    #[test]
    fn generates_valid_names_and_durations() {
        let long = "x".repeat(80);
        assert_eq!(object_name("a/b", None, ID), "a-b-all-11111111");
        assert!(
            object_name(&long, Some("e"), ID).len() <= 63
                && object_name(&long, None, ID).ends_with("all-11111111")
        );
        assert_eq!(period(60), "60s");
        assert_eq!(period(360_005), "100h5s");
    }
}
