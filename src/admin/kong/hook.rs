//! The representation of an event hook in the admin API.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The desired state of an event hook. Serializes to the body of a request. Has no `Debug`, because it contains secrets.
///
/// `config` sets every field of its handler. The gateway's version would choose the default of an omitted field, and a
/// PATCH would leave it unchanged.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct KongHook {
    pub source: String,
    pub event: Option<String>,
    pub handler: String,
    pub snooze: Option<i64>,
    pub on_change: Option<bool>,
    pub config: Value,
}

impl KongHook {
    /// Returns the values to redact from errors: any value of the config may come from a Secret.
    pub(super) fn secrets(&self) -> Vec<&str> {
        let config = self.config.as_object();
        let headers = config.and_then(|c| c.get("headers")?.as_object());
        let plain = config.into_iter().flatten().filter(|(name, _)| *name == "secret" || *name == "url");
        plain.chain(headers.into_iter().flatten()).filter_map(|(_, value)| value.as_str()).collect()
    }

    /// Returns the hook in the form that is compared with the observed one.
    pub fn to_value(&self) -> Value {
        json!({"source": self.source, "event": self.event, "handler": self.handler, "snooze": self.snooze,
               "on_change": self.on_change, "config": self.config})
    }
}

/// Returns the config fields of a handler.
pub fn config_fields(handler: &str) -> &'static [&'static str] {
    match handler {
        "webhook" => &["url", "headers", "secret", "ssl_verify"],
        "webhook-custom" => &[
            "url",
            "method",
            "headers",
            "headers_format",
            "payload",
            "payload_format",
            "body",
            "body_format",
            "secret",
            "ssl_verify",
        ],
        "lambda" => &["functions"],
        _ => &[],
    }
}

/// Returns the fields that the hook's creator chose, of the desired or the observed hook. Excludes the id, timestamps,
/// unknown fields of newer gateways, and fields that a gateway may hide.
pub(super) fn comparable_fields(hook: &Value) -> Value {
    let member = |name: &str| hook.get(name).cloned().unwrap_or_default();
    let fields = config_fields(hook.get("handler").and_then(Value::as_str).unwrap_or_default());
    let config: Map<String, Value> = fields
        .iter()
        .filter(|name| !matches!(**name, "secret" | "headers"))
        .map(|name| {
            let value = hook.pointer(&format!("/config/{name}")).cloned().unwrap_or_default();
            let is_empty =
                value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty);
            // A gateway may return null for an empty map, or an empty list.
            ((*name).to_owned(), if is_empty { Value::Null } else { value })
        })
        .collect();
    json!({"source": member("source"), "event": member("event"), "handler": member("handler"),
           "snooze": member("snooze"), "on_change": member("on_change"), "config": config})
}

/// Normalizes fields that gateways represent in two ways: no snooze is null or 0, no headers are null or an empty map.
/// Otherwise each would be a permanent difference that no write can remove.
pub(super) fn normalize(mut hook: Value) -> Value {
    let is_off = |value: &Value| value.as_i64() == Some(0) || value == &Value::Bool(false);
    for name in ["snooze", "on_change"] {
        if let Some(value) = hook.get_mut(name).filter(|value| is_off(value)) {
            *value = Value::Null;
        }
    }
    // Lua's cjson encodes an empty map as an empty list.
    let is_empty = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    if let Some(headers) = hook.pointer_mut("/config/headers").filter(|headers| is_empty(headers)) {
        *headers = json!({});
    }
    hook
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalizes_equivalent_representations() {
        let variant = json!({"snooze": 0, "on_change": false, "config": {"headers": [], "secret": null}});
        let same = json!({"snooze": null, "on_change": null, "config": {"headers": {}, "secret": null}});
        assert_eq!(normalize(variant), same);
        assert_eq!(normalize(same.clone()), same);
        let other = json!({"snooze": 9, "on_change": true, "config": {"headers": {"a": "b"}}});
        assert_eq!(normalize(other.clone()), other);
        assert_eq!(normalize(json!({"config": {}})), json!({"config": {}}), "adds no headers to a log hook");
    }

    #[test]
    fn comparable_fields_match_for_desired_and_observed_hook() {
        let desired = KongHook {
            source: "crud".into(),
            event: None,
            handler: "webhook".into(),
            snooze: None,
            on_change: Some(true),
            config: json!({"url": "u", "headers": {}, "secret": "s", "ssl_verify": true}),
        };
        let observed = json!({"id": "i", "created_at": 1, "source": "crud", "event": null, "handler": "webhook",
            "snooze": null, "on_change": true,
            "config": {"url": "u", "headers": {}, "secret": null, "ssl_verify": true, "newer": 1}});
        assert_eq!(comparable_fields(&desired.to_value()), comparable_fields(&observed));
        assert_ne!(
            comparable_fields(&desired.to_value()),
            comparable_fields(&json!({"source": "crud", "handler": "log"}))
        );
    }
}
