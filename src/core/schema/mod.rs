//! What the API server would refuse in an object, found without one: the schemas of the CRDs, their rules (CEL) among it.
//!
//! Everything is read from the CRDs, so that a kind that is added there is checked here. Invariants: what is accepted here
//! the API server accepts, as far as one object by itself can tell, and what is refused is refused with its words; rules
//! that compare with the object before are left out, for there is none.

mod rules;

use std::collections::HashMap;

use serde_json::{Map, Value};

/// A fault of an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Fault {
    /// Where, such as `spec.handler.webhook.url`.
    pub field: String,
    pub problem: String,
}

/// The kinds of a set of CRDs.
pub struct Schemas(HashMap<String, Kind>);

/// A kind: its schema by apiVersion.
type Kind = HashMap<String, Value>;

impl Schemas {
    pub fn of(crds: &[Value]) -> Self {
        let mut kinds: HashMap<String, Kind> = HashMap::new();
        for crd in crds {
            let text = |pointer: &str| crd.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            let (group, kind) = (text("/spec/group"), text("/spec/names/kind"));
            let versions = crd.pointer("/spec/versions").and_then(Value::as_array).into_iter().flatten();
            for version in versions {
                let name = version.get("name").and_then(Value::as_str).unwrap_or_default();
                let schema = version.pointer("/schema/openAPIV3Schema").cloned().unwrap_or_default();
                kinds.entry(kind.to_owned()).or_default().insert(format!("{group}/{name}"), schema);
            }
        }
        Schemas(kinds)
    }

    /// The faults of an object of the CRDs' group.
    pub fn check(&self, object: &Value) -> Vec<Fault> {
        let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
        let (version, kind) = (text("apiVersion"), text("kind"));
        let Some(versions) = self.0.get(kind) else {
            return vec![fault(
                "kind",
                format!("there is no kind {kind}; there are {}", sorted(self.0.keys())),
            )];
        };
        let Some(schema) = versions.get(version) else {
            let known = sorted(versions.keys());
            let problem = match version {
                "" => format!("is missing: write {known}"),
                _ => format!("{kind} has no version {version}; it has {known}"),
            };
            return vec![fault("apiVersion", problem)];
        };
        let mut faults = Vec::new();
        metadata(object, &mut faults);
        let members = object.as_object().into_iter().flatten();
        // The status is the operator's, whatever a manifest says.
        let own = members
            .filter(|(name, _)| !["apiVersion", "kind", "metadata", "status"].contains(&name.as_str()));
        let own: Map<String, Value> = own.map(|(name, value)| (name.clone(), value.clone())).collect();
        check(schema, &Value::Object(own), "", &mut faults);
        faults
    }
}

fn fault(field: &str, problem: impl Into<String>) -> Fault {
    Fault { field: field.to_owned(), problem: problem.into() }
}

fn sorted<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let mut names: Vec<&str> = names.map(String::as_str).collect();
    names.sort_unstable();
    names.join(", ")
}

fn metadata(object: &Value, faults: &mut Vec<Fault>) {
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    if name.is_empty() {
        faults.push(fault("metadata.name", "Required value"));
    } else if name.len() > 253 || !name.split('.').all(part) {
        faults.push(fault(
            "metadata.name",
            "must hold small letters, digits, hyphens and dots only, at most 253",
        ));
    }
}

/// Checks a value against a structural schema.
fn check(schema: &Value, value: &Value, path: &str, faults: &mut Vec<Fault>) {
    let kind = schema.get("type").and_then(Value::as_str);
    let either = schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true));
    let fits = match kind {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        _ => !either || value.is_string() || value.is_i64(),
    };
    if !fits {
        let want = kind.unwrap_or("integer or string");
        faults.push(fault(path, format!("Invalid value: must be of type {want}, not {}", type_of(value))));
        return;
    }
    let before = faults.len();
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
        && !allowed.contains(value)
    {
        let offer: Vec<String> = allowed.iter().map(ToString::to_string).collect();
        let problem = format!("Unsupported value: {}: supported values: {}", short(value), offer.join(", "));
        faults.push(fault(path, problem));
    }
    match value {
        Value::Object(map) => object(schema, map, path, faults),
        Value::Array(list) => array(schema, list, path, faults),
        Value::String(text) => string(schema, text, path, faults),
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or_default();
            let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
            if let Some(least) = bound("minimum").filter(|least| number < *least) {
                let problem = format!("Invalid value: {number}: should be greater than or equal to {least}");
                faults.push(fault(path, problem));
            }
            if let Some(most) = bound("maximum").filter(|most| number > *most) {
                let problem = format!("Invalid value: {number}: should be less than or equal to {most}");
                faults.push(fault(path, problem));
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
    // As the API server: rules are for what has the right shape.
    if faults.len() == before {
        let found = rules::broken(schema, value);
        faults.extend(found.into_iter().map(|problem| fault(path, problem)));
    }
}

fn object(schema: &Value, map: &Map<String, Value>, path: &str, faults: &mut Vec<Fault>) {
    let none = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
    let additional = schema.get("additionalProperties").filter(|schema| schema.is_object());
    let keeps = schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    for name in required.filter_map(Value::as_str) {
        if map.get(name).is_none_or(Value::is_null) {
            faults.push(fault(&below(name), "Required value"));
        }
    }
    for (name, value) in map {
        match properties.get(name).or(additional) {
            // Pruned by the API server.
            Some(_) if value.is_null() => {}
            Some(schema) => check(schema, value, &below(name), faults),
            None if keeps => {}
            None => {
                let known = sorted(properties.keys());
                let path = below(name);
                faults.push(fault(&path, format!("unknown field \"{path}\"; here are {known}")));
            }
        }
    }
    let least = least(schema, "minProperties", map.len());
    faults.extend(least.map(|n| fault(path, format!("Invalid value: should have at least {n} properties"))));
    too_many(schema, "maxProperties", map.len(), path, faults);
}

fn array(schema: &Value, list: &[Value], path: &str, faults: &mut Vec<Fault>) {
    if let Some(items) = schema.get("items") {
        for (i, item) in list.iter().enumerate() {
            check(items, item, &format!("{path}[{i}]"), faults);
        }
    }
    let least = least(schema, "minItems", list.len());
    faults.extend(least.map(|n| fault(path, format!("Invalid value: should have at least {n} items"))));
    too_many(schema, "maxItems", list.len(), path, faults);
    let text = |name: &str| schema.get(name).and_then(Value::as_str);
    let keys: Vec<&str> = schema
        .get("x-kubernetes-list-map-keys")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let same = |a: &Value, b: &Value| match text("x-kubernetes-list-type") {
        Some("set") => a == b,
        Some("map") => !keys.is_empty() && keys.iter().all(|key| a.get(*key) == b.get(*key)),
        _ => false,
    };
    for (i, item) in list.iter().enumerate() {
        if list.iter().take(i).any(|earlier| same(earlier, item)) {
            faults.push(fault(&format!("{path}[{i}]"), format!("Duplicate value: {}", short(item))));
        }
    }
}

/// What does not fit a pattern is not repeated: it may be long, or a secret in the wrong place.
fn string(schema: &Value, text: &str, path: &str, faults: &mut Vec<Fault>) {
    let length = text.chars().count();
    let least = least(schema, "minLength", length);
    faults.extend(least.map(|n| fault(path, format!("Invalid value: should be at least {n} chars long"))));
    if let Some(n) = most(schema, "maxLength", length) {
        faults.push(fault(path, format!("Too long: may not be more than {n} bytes")));
    }
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
        && !rules::matches(text, pattern)
    {
        faults.push(fault(path, format!("Invalid value: should match '{pattern}'")));
    }
}

fn too_many(schema: &Value, name: &str, size: usize, path: &str, faults: &mut Vec<Fault>) {
    if let Some(n) = most(schema, name, size) {
        faults.push(fault(path, format!("Too many: {size}: must have at most {n} items")));
    }
}

/// The lower bound of this name, where the size is below it.
fn least(schema: &Value, name: &str, size: usize) -> Option<u64> {
    schema.get(name).and_then(Value::as_u64).filter(|least| (size as u64) < *least)
}

/// The upper bound of this name, where the size is above it.
fn most(schema: &Value, name: &str, size: usize) -> Option<u64> {
    schema.get(name).and_then(Value::as_u64).filter(|most| size as u64 > *most)
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A value as JSON, its beginning.
fn short(value: &Value) -> String {
    format!("{:.64}", value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schemas() -> Schemas {
        Schemas::of(&crate::api::crds())
    }

    fn hook(spec: Value) -> Value {
        json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "EventHook", "metadata": {"name": "h"}, "spec": spec})
    }

    #[test]
    fn faults_say_where_and_what() {
        let webhook = json!({"webhook": {"url": "https://example.com"}});
        let good =
            hook(json!({"source": "s", "handler": webhook, "delivery": {"timeout": "15s"}, "event": null}));
        assert_eq!(schemas().check(&good), []);
        for (spec, field, part) in [
            (json!({"handler": webhook}), "spec.source", "Required value"),
            (json!({"source": 1, "handler": webhook}), "spec.source", "must be of type string"),
            (json!({"source": "s", "handler": webhook, "snoose": {}}), "spec.snoose", "unknown field"),
            (
                json!({"source": "s", "handler": {"log": {}, "lambda": {"functions": ["x"]}}}),
                "spec.handler",
                "exactly one",
            ),
            (
                json!({"source": "s", "handler": {"lambda": {"functions": []}}}),
                "spec.handler.lambda.functions",
                "at least 1 items",
            ),
            (
                json!({"source": "s", "handler": {"webhook": {"url": "ftp://x"}}}),
                "spec.handler.webhook.url",
                "",
            ),
            (
                json!({"source": "s", "handler": {"webhook": {"url": "https://a:b@x"}}}),
                "spec.handler.webhook.url",
                "",
            ),
            (
                json!({"source": "s", "handler": {"webhook": {"url": "https://x", "format": "XML"}}}),
                "spec.handler.webhook.format",
                "supported values",
            ),
            (
                json!({"source": "s", "handler": {"webhook": {"url": "https://x", "headers": {"Host": "a"}}}}),
                "spec.handler.webhook.headers",
                "belong to the connection",
            ),
            (
                json!({"source": "s", "handler": webhook, "delivery": {"timeout": "soon"}}),
                "spec.delivery.timeout",
                "",
            ),
            (json!({"source": "s", "handler": webhook, "deliverBy": "Worker"}), "spec", "connectionRef"),
            (
                json!({"source": "s", "handler": webhook, "delivery": {"concurrency": 0}}),
                "spec.delivery.concurrency",
                "greater than or equal to 1",
            ),
        ] {
            let faults = schemas().check(&hook(spec.clone()));
            let found = faults.iter().find(|fault| fault.field == field && fault.problem.contains(part));
            assert!(found.is_some(), "{spec}: {faults:?}");
        }
    }

    /// As Go reads them.
    #[test]
    fn patterns_of_the_api_server() {
        for (pattern, text, fits) in [
            ("^[[]::1[]]$", "[::1]", true),
            ("^[^]a]+$", "bc", true),
            ("^[^]a]+$", "b]", false),
            ("^[a-z&&~]+$", "a&~", true),
            (r"^[\]x]\[$", "][", true),
            ("^[a-z0-9]([a-z0-9.:-]*[a-z0-9])?$", "a.b:1", true),
            ("^[-._a-zA-Z0-9]+$", "a/b", false),
        ] {
            assert_eq!(rules::matches(text, pattern), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn kinds_and_versions() {
        let mut object = hook(json!({}));
        object["kind"] = json!("EventHok");
        assert_eq!(schemas().check(&object)[0].field, "kind");
        object["kind"] = json!("EventHook");
        object["apiVersion"] = json!("hookstream.dev/v1");
        assert_eq!(schemas().check(&object)[0].field, "apiVersion");
        object["apiVersion"].take();
        assert_eq!(
            schemas().check(&object),
            [fault("apiVersion", "is missing: write hookstream.dev/v1alpha1")]
        );
    }

    #[test]
    fn every_rule_of_the_crds_can_be_evaluated() {
        fn walk(schema: &Value, seen: &mut usize) {
            for rule in rules::of(schema) {
                *seen += 1;
                assert!(rules::compile(rule).is_ok(), "{rule}");
            }
            match schema {
                Value::Object(map) => map.values().for_each(|value| walk(value, seen)),
                Value::Array(list) => list.iter().for_each(|value| walk(value, seen)),
                _ => {}
            }
        }
        let mut seen = 0;
        crate::api::crds().iter().for_each(|crd| walk(crd, &mut seen));
        assert!(seen > 30, "{seen}");
    }
}
