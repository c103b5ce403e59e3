//! Validates objects against the CRDs without an API server: structural schemas and CEL rules.
//!
//! All checks are derived from the CRDs, so new kinds need no code here. Invariants: the API server accepts every
//! object that passes, except where its decision depends on other objects; the messages are those of the API server.
//! Transition rules (`oldSelf`) are skipped, because there is no old object.

mod metadata;
mod rules;

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::suggest::did_you_mean;
pub use metadata::check_metadata;

/// A violation of the schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct SchemaViolation {
    /// The path of the field, such as `spec.handler.webhook.url`.
    pub field: String,
    pub problem: String,
}

/// The schemas of a set of CRDs, by kind.
pub struct Schemas(HashMap<String, VersionedSchemas>);

/// The schemas of a kind, by apiVersion.
type VersionedSchemas = HashMap<String, Value>;

impl Schemas {
    /// Collects the schemas of all versions of the CRDs.
    pub fn from_crds(crds: &[Value]) -> Self {
        let mut kinds: HashMap<String, VersionedSchemas> = HashMap::new();
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

    /// Returns all violations of an object.
    pub fn check(&self, object: &Value) -> Vec<SchemaViolation> {
        let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
        let (version, kind) = (text("apiVersion"), text("kind"));
        let Some(versions) = self.0.get(kind) else {
            let known = sorted(self.0.keys());
            let problem = match kind {
                "" => format!("is missing: write one of {known}"),
                _ => {
                    let suggestion = did_you_mean(kind, self.0.keys().map(String::as_str));
                    format!("there is no kind {kind}{suggestion} (the kinds are {known})")
                }
            };
            return vec![violation("kind", problem)];
        };
        let Some(schema) = versions.get(version) else {
            let known = sorted(versions.keys());
            let problem = match version {
                "" => format!("is missing: write {known}"),
                _ => format!("{kind} has no version {version}; it has {known}"),
            };
            return vec![violation("apiVersion", problem)];
        };
        let mut violations = Vec::new();
        check_metadata(object, &mut violations);
        let members = object.as_object().into_iter().flatten();
        // The API server ignores the status in a manifest.
        let checked = members
            .filter(|(name, _)| !["apiVersion", "kind", "metadata", "status"].contains(&name.as_str()));
        let checked: Map<String, Value> =
            checked.map(|(name, value)| (name.clone(), value.clone())).collect();
        check_value(schema, &Value::Object(checked), "", &mut violations);
        violations
    }
}

pub fn violation(field: &str, problem: impl Into<String>) -> SchemaViolation {
    SchemaViolation { field: field.to_owned(), problem: problem.into() }
}

/// The violation of a field that does not exist, with the name that its author likely meant.
pub fn unknown_field<'k>(
    path: &str,
    name: &str,
    known: impl Iterator<Item = &'k str> + Clone,
) -> SchemaViolation {
    let suggestion = did_you_mean(name, known.clone());
    violation(path, format!("unknown field \"{path}\"{suggestion} (known fields: {})", sorted(known)))
}

fn sorted<'a>(names: impl Iterator<Item = &'a (impl AsRef<str> + ?Sized + 'a)>) -> String {
    let mut names: Vec<&str> = names.map(AsRef::as_ref).collect();
    names.sort_unstable();
    names.join(", ")
}

fn wrong_type(path: &str, want: &str, value: &Value) -> SchemaViolation {
    violation(path, format!("Invalid value: must be of type {want}, not {}", type_of(value)))
}

/// Checks a value against a structural schema.
fn check_value(schema: &Value, value: &Value, path: &str, violations: &mut Vec<SchemaViolation>) {
    let kind = schema.get("type").and_then(Value::as_str);
    let either = schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true));
    let has_type = match kind {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        _ => !either || value.is_string() || value.is_i64(),
    };
    if !has_type {
        let want = kind.unwrap_or("integer or string");
        violations.push(wrong_type(path, want, value));
        return;
    }
    let before = violations.len();
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
        && !allowed.contains(value)
    {
        let supported: Vec<String> = allowed.iter().map(ToString::to_string).collect();
        let problem =
            format!("Unsupported value: {}: supported values: {}", short(value), supported.join(", "));
        violations.push(violation(path, problem));
    }
    match value {
        Value::Object(map) => check_object(schema, map, path, violations),
        Value::Array(list) => check_array(schema, list, path, violations),
        Value::String(text) => check_string(schema, text, path, violations),
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or_default();
            let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
            if let Some(min) = bound("minimum").filter(|min| number < *min) {
                let problem = format!("Invalid value: {number}: should be greater than or equal to {min}");
                violations.push(violation(path, problem));
            }
            if let Some(max) = bound("maximum").filter(|max| number > *max) {
                let problem = format!("Invalid value: {number}: should be less than or equal to {max}");
                violations.push(violation(path, problem));
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
    // Like the API server, evaluate the rules only for values that satisfy the structural schema.
    if violations.len() == before {
        let found = rules::violated(schema, value);
        violations.extend(found.into_iter().map(|problem| violation(path, problem)));
    }
}

fn check_object(schema: &Value, map: &Map<String, Value>, path: &str, violations: &mut Vec<SchemaViolation>) {
    let none = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
    let additional = schema.get("additionalProperties").filter(|schema| schema.is_object());
    let preserves_unknown = schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    for name in required.filter_map(Value::as_str) {
        if map.get(name).is_none_or(Value::is_null) {
            violations.push(violation(&below(name), "Required value"));
        }
    }
    for (name, value) in map {
        match properties.get(name).or(additional) {
            // The API server prunes nulls.
            Some(_) if value.is_null() => {}
            Some(schema) => check_value(schema, value, &below(name), violations),
            None if preserves_unknown => {}
            None => {
                violations.push(unknown_field(&below(name), name, properties.keys().map(String::as_str)));
            }
        }
    }
    let min = violated_min(schema, "minProperties", map.len());
    violations
        .extend(min.map(|n| violation(path, format!("Invalid value: should have at least {n} properties"))));
    check_max_size(schema, "maxProperties", map.len(), path, violations);
}

fn check_array(schema: &Value, list: &[Value], path: &str, violations: &mut Vec<SchemaViolation>) {
    if let Some(items) = schema.get("items") {
        for (i, item) in list.iter().enumerate() {
            check_value(items, item, &format!("{path}[{i}]"), violations);
        }
    }
    let min = violated_min(schema, "minItems", list.len());
    violations.extend(min.map(|n| violation(path, format!("Invalid value: should have at least {n} items"))));
    check_max_size(schema, "maxItems", list.len(), path, violations);
    let text = |name: &str| schema.get(name).and_then(Value::as_str);
    let keys: Vec<&str> = schema
        .get("x-kubernetes-list-map-keys")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let is_duplicate = |a: &Value, b: &Value| match text("x-kubernetes-list-type") {
        Some("set") => a == b,
        Some("map") => !keys.is_empty() && keys.iter().all(|key| a.get(*key) == b.get(*key)),
        _ => false,
    };
    for (i, item) in list.iter().enumerate() {
        if list.iter().take(i).any(|earlier| is_duplicate(earlier, item)) {
            violations.push(violation(&format!("{path}[{i}]"), format!("Duplicate value: {}", short(item))));
        }
    }
}

/// Checks a string. The message for a pattern does not repeat the value, which may be long or a misplaced secret.
fn check_string(schema: &Value, text: &str, path: &str, violations: &mut Vec<SchemaViolation>) {
    let length = text.chars().count();
    let min = violated_min(schema, "minLength", length);
    violations
        .extend(min.map(|n| violation(path, format!("Invalid value: should be at least {n} chars long"))));
    if let Some(n) = violated_max(schema, "maxLength", length) {
        violations.push(violation(path, format!("Too long: may not be more than {n} bytes")));
    }
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
        && !rules::matches(text, pattern)
    {
        violations.push(violation(path, format!("Invalid value: should match '{pattern}'")));
    }
}

fn check_max_size(
    schema: &Value,
    name: &str,
    size: usize,
    path: &str,
    violations: &mut Vec<SchemaViolation>,
) {
    if let Some(n) = violated_max(schema, name, size) {
        violations.push(violation(path, format!("Too many: {size}: must have at most {n} items")));
    }
}

/// Returns the lower bound with this name if the size is below it.
fn violated_min(schema: &Value, name: &str, size: usize) -> Option<u64> {
    schema.get(name).and_then(Value::as_u64).filter(|min| (size as u64) < *min)
}

/// Returns the upper bound with this name if the size is above it.
fn violated_max(schema: &Value, name: &str, size: usize) -> Option<u64> {
    schema.get(name).and_then(Value::as_u64).filter(|max| size as u64 > *max)
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

/// Returns the first 64 characters of a value's JSON.
fn short(value: &Value) -> String {
    format!("{:.64}", value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schemas() -> Schemas {
        Schemas::from_crds(&crate::api::crds())
    }

    fn hook(spec: Value) -> Value {
        json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "EventHook", "metadata": {"name": "h"}, "spec": spec})
    }

    #[test]
    fn violations_name_field_and_problem() {
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
            let violations = schemas().check(&hook(spec.clone()));
            let found = violations
                .iter()
                .find(|violation| violation.field == field && violation.problem.contains(part));
            assert!(found.is_some(), "{spec}: {violations:?}");
        }
    }

    #[test]
    fn checks_names_labels_and_annotations() {
        let with = |metadata: Value| {
            let object = json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "EventHook", "metadata": metadata,
                "spec": {"source": "s", "handler": {"log": {}}}});
            schemas().check(&object).into_iter().map(|violation| violation.field).collect::<Vec<_>>()
        };
        assert_eq!(with(json!({"name": "a.b", "namespace": "n", "labels": {"a": "1", "b": null}})), [""; 0]);
        assert_eq!(with(json!({"name": "a", "namespace": "", "annotations": null})), [""; 0]);
        for (metadata, field) in [
            (json!({}), "metadata.name"),
            (json!({"name": "../a"}), "metadata.name"),
            (json!({"name": "a", "namespace": ".."}), "metadata.namespace"),
            (json!({"name": "a", "namespace": "a.b"}), "metadata.namespace"),
            (json!({"name": "a", "namespace": 2026}), "metadata.namespace"),
            (json!({"name": "a", "labels": {"version": 2}}), "metadata.labels.version"),
            (json!({"name": "a", "annotations": ["x"]}), "metadata.annotations"),
            (json!({"name": "a", "lables": {}}), "metadata.lables"),
            (json!({"name": "a", "annotations": {"on": true}}), "metadata.annotations.on"),
        ] {
            assert_eq!(with(metadata.clone()), [field], "{metadata}");
        }
    }

    /// Patterns have the semantics of Go's regexp package, which the API server uses.
    #[test]
    fn matches_patterns_like_go() {
        for (pattern, text, want) in [
            ("^[[]::1[]]$", "[::1]", true),
            ("^[^]a]+$", "bc", true),
            ("^[^]a]+$", "b]", false),
            ("^[a-z&&~]+$", "a&~", true),
            (r"^[\]x]\[$", "][", true),
            ("^[a-z0-9]([a-z0-9.:-]*[a-z0-9])?$", "a.b:1", true),
            ("^[-._a-zA-Z0-9]+$", "a/b", false),
        ] {
            assert_eq!(rules::matches(text, pattern), want, "{pattern} {text}");
        }
    }

    #[test]
    fn rejects_unknown_kinds_and_versions() {
        let mut object = hook(json!({}));
        object["kind"] = json!("EventHok");
        assert_eq!(schemas().check(&object)[0].field, "kind");
        object["kind"] = json!("EventHook");
        object["apiVersion"] = json!("hookstream.dev/v1");
        assert_eq!(schemas().check(&object)[0].field, "apiVersion");
        object["apiVersion"].take();
        assert_eq!(
            schemas().check(&object),
            [violation("apiVersion", "is missing: write hookstream.dev/v1alpha1")]
        );
    }

    #[test]
    fn every_crd_rule_compiles() {
        fn walk(schema: &Value, count: &mut usize) {
            for rule in rules::of(schema) {
                *count += 1;
                assert!(rules::compile(rule).is_ok(), "{rule}");
            }
            match schema {
                Value::Object(map) => map.values().for_each(|value| walk(value, count)),
                Value::Array(list) => list.iter().for_each(|value| walk(value, count)),
                _ => {}
            }
        }
        let mut count = 0;
        crate::api::crds().iter().for_each(|crd| walk(crd, &mut count));
        assert!(count > 30, "{count}");
    }
}
