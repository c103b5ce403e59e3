//! Validates event hooks, with the messages of Kong's schema library.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::error::ApiError;

/// The kind of action of a hook.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum HookHandler {
    Webhook,
    WebhookCustom,
    Log,
    Lambda,
}

impl HookHandler {
    pub fn name(self) -> &'static str {
        match self {
            HookHandler::Webhook => "webhook",
            HookHandler::WebhookCustom => "webhook-custom",
            HookHandler::Log => "log",
            HookHandler::Lambda => "lambda",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        [HookHandler::Webhook, HookHandler::WebhookCustom, HookHandler::Log, HookHandler::Lambda]
            .into_iter()
            .find(|handler| handler.name() == name)
    }
}

/// The writable fields of a hook, validated and with defaults. No `Debug`, because it holds the secret.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct HookFields {
    pub source: String,
    pub event: Option<String>,
    pub handler: HookHandler,
    pub snooze: Option<i64>,
    pub on_change: Option<bool>,
    pub config: Map<String, Value>,
}

/// The type of a field.
#[derive(Clone, Copy)]
pub(super) enum FieldType {
    Text,
    Url,
    Integer,
    Boolean,
    /// A map with string values.
    TextMap,
    /// A map with any values. The contents of a custom payload are documented only by example.
    AnyMap,
    TextList,
}

impl FieldType {
    /// Returns the message of Kong's schema library if the value is invalid.
    fn check(self, value: &Value) -> Result<(), Value> {
        let expect = |good: bool, what: &str| if good { Ok(()) } else { Err(Value::from(what)) };
        match self {
            FieldType::Text => {
                expect(value.is_string(), "expected a string")?;
                expect(value != "", "length must be at least 1")
            }
            FieldType::Url => {
                let text = value.as_str().ok_or("expected a string")?;
                let url = url::Url::parse(text).map_err(|_| "could not parse url")?;
                expect(matches!(url.scheme(), "http" | "https"), "missing scheme in url")?;
                expect(url.has_host(), "missing host in url")
            }
            FieldType::Integer => expect(value.is_i64(), "expected an integer"),
            FieldType::Boolean => expect(value.is_boolean(), "expected a boolean"),
            FieldType::AnyMap => expect(value.is_object(), "expected a map"),
            FieldType::TextMap => {
                let map = value.as_object().ok_or("expected a map")?;
                let wrong: Map<String, Value> = map
                    .iter()
                    .filter(|(_, value)| !value.is_string())
                    .map(|(name, _)| (name.clone(), "expected a string".into()))
                    .collect();
                if wrong.is_empty() { Ok(()) } else { Err(wrong.into()) }
            }
            FieldType::TextList => {
                let list = value.as_array().ok_or("expected an array")?;
                expect(list.iter().all(Value::is_string), "expected a string")
            }
        }
    }

    /// Converts a form's text to the type of the field, if the text parses as that type.
    fn coerce(self, value: &mut Value) {
        let Value::String(text) = &*value else { return };
        let coerced = match (self, text.as_str()) {
            (_, "") => Some(Value::Null),
            (FieldType::Integer, text) => text.parse::<i64>().ok().map(Value::from),
            (FieldType::Boolean, text) => text.parse::<bool>().ok().map(Value::from),
            // `config.functions=x` is a list with one item.
            (FieldType::TextList, text) => Some(json!([text])),
            _ => None,
        };
        if let Some(coerced) = coerced {
            *value = coerced;
        }
    }
}

/// The fields beside `config`.
const TOP_LEVEL_FIELDS: [(&str, FieldType); 5] = [
    ("source", FieldType::Text),
    ("event", FieldType::Text),
    ("handler", FieldType::Text),
    ("snooze", FieldType::Integer),
    ("on_change", FieldType::Boolean),
];

/// A field of `config`: name, type and default. A field without a default is required.
struct ConfigField(&'static str, FieldType, Option<Value>);

fn config_fields(handler: HookHandler, ssl_verify: bool) -> Vec<ConfigField> {
    let none = || Some(Value::Null);
    let webhook = || {
        vec![
            ConfigField("url", FieldType::Url, None),
            ConfigField("headers", FieldType::TextMap, Some(json!({}))),
            ConfigField("secret", FieldType::Text, none()),
            ConfigField("ssl_verify", FieldType::Boolean, Some(ssl_verify.into())),
        ]
    };
    match handler {
        HookHandler::Webhook => webhook(),
        HookHandler::WebhookCustom => {
            let mut fields = webhook();
            fields.extend([
                ConfigField("method", FieldType::Text, None),
                ConfigField("headers_format", FieldType::Boolean, Some(false.into())),
                ConfigField("payload", FieldType::AnyMap, none()),
                ConfigField("payload_format", FieldType::Boolean, Some(true.into())),
                ConfigField("body", FieldType::Text, none()),
                ConfigField("body_format", FieldType::Boolean, Some(true.into())),
            ]);
            fields
        }
        HookHandler::Log => Vec::new(),
        HookHandler::Lambda => vec![ConfigField("functions", FieldType::TextList, None)],
    }
}

/// Validates a whole hook and fills in the defaults. `given` is the body of PUT or POST, or an old hook merged with a
/// PATCH. The source is free text: gateways from 3.7 on accept unknown sources.
pub(super) fn check(mut given: Map<String, Value>, ssl_verify: bool) -> Result<HookFields, ApiError> {
    let mut violations = Map::new();
    // JSON null means "not set", as in the responses of reads.
    let mut take = |name: &str| given.remove(name).filter(|value| !value.is_null());
    let config = take("config");
    let mut top: Map<String, Value> = Map::new();
    for (name, kind) in TOP_LEVEL_FIELDS {
        match take(name) {
            None if matches!(name, "source" | "handler") => {
                violations.insert(name.into(), "required field missing".into());
            }
            None => {}
            Some(value) => {
                if let Err(mistake) = kind.check(&value) {
                    violations.insert(name.into(), mistake);
                }
                top.insert(name.into(), value);
            }
        }
    }
    for name in given.keys() {
        violations.insert(name.clone(), "unknown field".into());
    }
    let text = |name: &str| top.get(name).and_then(Value::as_str).map(str::to_owned);
    let handler = text("handler").and_then(|name| HookHandler::parse(&name));
    if handler.is_none() && !violations.contains_key("handler") {
        violations.insert("handler".into(), "expected one of: webhook, webhook-custom, log, lambda".into());
    }
    let mut checked = Map::new();
    match (handler, config) {
        (None, _) => {}
        (Some(handler), None) => {
            check_config(handler, Map::new(), ssl_verify, &mut checked, &mut violations);
        }
        (Some(handler), Some(Value::Object(config))) => {
            check_config(handler, config, ssl_verify, &mut checked, &mut violations);
        }
        (Some(_), Some(_)) => {
            violations.insert("config".into(), "expected a record".into());
        }
    }
    match (handler, text("source")) {
        (Some(handler), Some(source)) if violations.is_empty() => Ok(HookFields {
            source,
            event: text("event"),
            handler,
            snooze: top.get("snooze").and_then(Value::as_i64),
            on_change: top.get("on_change").and_then(Value::as_bool),
            config: checked,
        }),
        _ => Err(ApiError::schema_violation(violations)),
    }
}

fn check_config(
    handler: HookHandler,
    mut given: Map<String, Value>,
    ssl_verify: bool,
    checked: &mut Map<String, Value>,
    violations: &mut Map<String, Value>,
) {
    let mut mistakes = Map::new();
    for ConfigField(name, kind, default) in config_fields(handler, ssl_verify) {
        match (given.remove(name).filter(|value| !value.is_null()), default) {
            (None, None) => {
                mistakes.insert(name.into(), "required field missing".into());
            }
            (None, Some(default)) => {
                checked.insert(name.into(), default);
            }
            (Some(value), _) => {
                if let Err(mistake) = kind.check(&value) {
                    mistakes.insert(name.into(), mistake);
                }
                checked.insert(name.into(), value);
            }
        }
    }
    for name in given.keys() {
        mistakes.insert(name.clone(), "unknown field".into());
    }
    if !mistakes.is_empty() {
        violations.insert("config".into(), mistakes.into());
    }
}

/// Converts the texts of a form to the types of their fields. `handler` is that of the hook that a PATCH changes.
pub(super) fn coerce(given: &mut Map<String, Value>, handler: Option<HookHandler>) {
    for (name, kind) in TOP_LEVEL_FIELDS {
        if let Some(value) = given.get_mut(name) {
            kind.coerce(value);
        }
    }
    let named = given.get("handler").and_then(Value::as_str).and_then(HookHandler::parse);
    let Some(handler) = named.or(handler) else { return };
    let Some(config) = given.get_mut("config").and_then(Value::as_object_mut) else { return };
    for ConfigField(name, kind, _) in config_fields(handler, false) {
        if let Some(value) = config.get_mut(name) {
            kind.coerce(value);
        }
    }
}

/// Merges a PATCH into a hook: `config` is a record and merged by member; arrays and maps are replaced whole. A new
/// handler discards the old `config`, whose fields it does not have.
pub(super) fn merge(old: &HookFields, patch: Map<String, Value>) -> Map<String, Value> {
    let mut merged = match serde_json::to_value(old) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    };
    let changes_handler = patch.get("handler").is_some_and(|name| name.as_str() != Some(old.handler.name()));
    for (name, value) in patch {
        match (merged.get_mut(&name), value) {
            (Some(Value::Object(config)), Value::Object(changes)) if name == "config" && !changes_handler => {
                config.extend(changes);
            }
            (_, value) => {
                merged.insert(name, value);
            }
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validated(value: Value) -> Result<Value, (String, Value)> {
        check(value.as_object().unwrap().clone(), true)
            .map(|fields| serde_json::to_value(fields).unwrap())
            .map_err(|error| {
                (error.body["message"].as_str().unwrap().to_owned(), error.body["fields"].clone())
            })
    }

    #[test]
    fn fills_in_defaults() {
        let hook =
            json!({"source": "crud", "handler": "webhook", "event": null, "config": {"url": "http://a/"}});
        assert_eq!(
            validated(hook).unwrap(),
            json!({"source": "crud", "event": null, "handler": "webhook", "snooze": null, "on_change": null,
                "config": {"url": "http://a/", "headers": {}, "secret": null, "ssl_verify": true}})
        );
        let custom = json!({"source": "crud", "handler": "webhook-custom",
            "config": {"url": "http://a/", "method": "POST", "payload": {"n": 1}}});
        assert_eq!(
            validated(custom).unwrap()["config"],
            json!({"url": "http://a/", "method": "POST", "headers": {}, "secret": null, "ssl_verify": true,
                "headers_format": false, "payload": {"n": 1}, "payload_format": true, "body": null, "body_format": true})
        );
        let log = json!({"source": "crud", "handler": "log"});
        assert_eq!(validated(log).unwrap()["config"], json!({}));
    }

    #[test]
    fn names_field_of_each_mistake() {
        let one = json!({"source": "crud", "handler": "webhook"});
        let (message, fields) = validated(one).unwrap_err();
        assert_eq!(message, "schema violation (config.url: required field missing)");
        assert_eq!(fields, json!({"config": {"url": "required field missing"}}));
        let many = json!({"handler": "webhook", "name": "x", "snooze": 1.5, "event": "", "on_change": "yes",
            "config": {"url": "ftp://a", "headers": {"a": 1}, "functions": []}});
        let (message, _) = validated(many).unwrap_err();
        assert_eq!(
            message,
            "8 schema violations (config.functions: unknown field; config.headers.a: expected a string; \
             config.url: missing scheme in url; event: length must be at least 1; name: unknown field; \
             on_change: expected a boolean; snooze: expected an integer; source: required field missing)"
        );
        let wrong = |value| validated(value).unwrap_err().0;
        assert_eq!(
            wrong(json!({"source": 1, "handler": "email"})),
            "2 schema violations (handler: expected one of: webhook, webhook-custom, log, lambda; source: expected a string)"
        );
        assert_eq!(
            wrong(json!({"source": "a", "handler": "log", "config": []})),
            "schema violation (config: expected a record)"
        );
        assert_eq!(
            wrong(json!({"source": "a", "handler": "lambda", "config": {"functions": "x"}})),
            "schema violation (config.functions: expected an array)"
        );
        assert_eq!(
            wrong(json!({"source": "a", "handler": "log", "config": {"url": "x"}})),
            "schema violation (config.url: unknown field)"
        );
    }

    #[test]
    fn patch_merges_config_and_replaces_maps() {
        let old = json!({"source": "crud", "handler": "webhook",
            "config": {"url": "http://a/", "headers": {"a": "1"}, "secret": "s"}});
        let old = check(old.as_object().unwrap().clone(), false).unwrap_or_else(|_| panic!());
        let patch = json!({"event": "routes", "config": {"headers": {"b": "2"}, "secret": null}});
        let merged =
            check(merge(&old, patch.as_object().unwrap().clone()), false).unwrap_or_else(|_| panic!());
        assert_eq!(merged.event.as_deref(), Some("routes"));
        assert_eq!(
            Value::from(merged.config),
            json!({"url": "http://a/", "headers": {"b": "2"}, "secret": null, "ssl_verify": false})
        );
        let other = json!({"handler": "log", "config": {}});
        let merged =
            check(merge(&old, other.as_object().unwrap().clone()), false).unwrap_or_else(|_| panic!());
        assert!(merged.config.is_empty());
    }
}
