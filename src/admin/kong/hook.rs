//! An event hook as the admin API takes and shows it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// An event hook as it should be. Serialises to what the admin API takes; has no `Debug` for it holds secrets.
///
/// `config` names every field of its handler: what is left out would be the gateway's to choose, by its version, and a
/// PATCH would leave it as it was.
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
    /// What of it must not be repeated: any value of the config may come from a Secret.
    pub(super) fn secrets(&self) -> Vec<&str> {
        let config = self.config.as_object();
        let headers = config.and_then(|c| c.get("headers")?.as_object());
        let plain = config.into_iter().flatten().filter(|(name, _)| *name == "secret" || *name == "url");
        plain.chain(headers.into_iter().flatten()).filter_map(|(_, value)| value.as_str()).collect()
    }

    /// What is compared with what is there.
    pub fn to_value(&self) -> Value {
        json!({"source": self.source, "event": self.event, "handler": self.handler, "snooze": self.snooze,
               "on_change": self.on_change, "config": self.config})
    }
}

/// The fields of a handler's config.
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

/// The members that a hook's maker decides, wanted or there: not the id, not the times, not what a newer gateway may add,
/// and not what one may keep to itself.
pub(super) fn readable(hook: &Value) -> Value {
    let member = |name: &str| hook.get(name).cloned().unwrap_or_default();
    let fields = config_fields(hook.get("handler").and_then(Value::as_str).unwrap_or_default());
    let config: Map<String, Value> = fields
        .iter()
        .filter(|name| !matches!(**name, "secret" | "headers"))
        .map(|name| {
            ((*name).to_owned(), hook.pointer(&format!("/config/{name}")).cloned().unwrap_or_default())
        })
        .collect();
    json!({"source": member("source"), "event": member("event"), "handler": member("handler"),
           "snooze": member("snooze"), "on_change": member("on_change"), "config": config})
}

/// One form for what gateways may write in two ways: not snoozed is null or 0, no headers is null or an empty map. Each
/// would otherwise be a difference that no write ends.
pub(super) fn normal(mut hook: Value) -> Value {
    let idle = |value: &Value| value.as_i64() == Some(0) || value == &Value::Bool(false);
    for name in ["snooze", "on_change"] {
        if let Some(value) = hook.get_mut(name).filter(|value| idle(value)) {
            *value = Value::Null;
        }
    }
    // PHP-like encoders write an empty map as an empty list; Lua's cjson is one.
    let empty = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    if let Some(headers) = hook.pointer_mut("/config/headers").filter(|headers| empty(headers)) {
        *headers = json!({});
    }
    hook
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ways_to_write_the_same_are_one() {
        let written = json!({"snooze": 0, "on_change": false, "config": {"headers": [], "secret": null}});
        let same = json!({"snooze": null, "on_change": null, "config": {"headers": {}, "secret": null}});
        assert_eq!(normal(written), same);
        assert_eq!(normal(same.clone()), same);
        let other = json!({"snooze": 9, "on_change": true, "config": {"headers": {"a": "b"}}});
        assert_eq!(normal(other.clone()), other);
        assert_eq!(normal(json!({"config": {}})), json!({"config": {}}), "a log hook gets no headers");
    }

    #[test]
    fn what_is_wanted_and_what_is_there_read_alike() {
        let wanted = KongHook {
            source: "crud".into(),
            event: None,
            handler: "webhook".into(),
            snooze: None,
            on_change: Some(true),
            config: json!({"url": "u", "headers": {}, "secret": "s", "ssl_verify": true}),
        };
        let there = json!({"id": "i", "created_at": 1, "source": "crud", "event": null, "handler": "webhook",
            "snooze": null, "on_change": true,
            "config": {"url": "u", "headers": {}, "secret": null, "ssl_verify": true, "newer": 1}});
        assert_eq!(readable(&wanted.to_value()), readable(&there));
        assert_ne!(readable(&wanted.to_value()), readable(&json!({"source": "crud", "handler": "log"})));
    }
}
