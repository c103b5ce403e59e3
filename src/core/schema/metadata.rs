//! Checks the metadata of objects of any kind, as the API server does.

use serde_json::{Map, Value};

use super::{SchemaViolation, unknown_field, violation, wrong_type};
use crate::core::names::{NAMESPACE_RULE, OBJECT_NAME_RULE, is_namespace, is_object_name};

/// The most bytes of all annotations of an object.
const MAX_ANNOTATIONS: usize = 256 << 10;
/// The longest name and value of a label.
const MAX_LABEL: usize = 63;
const LABEL_RULE: &str = "must begin and end with a letter or digit, with letters, digits, '-', '_' and '.' between, at most 63 characters";
/// The members of metadata. kubectl rejects others.
const MEMBERS: [&str; 15] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Adds the violations of an object's metadata.
pub fn check_metadata(object: &Value, violations: &mut Vec<SchemaViolation>) {
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    if name.is_empty() {
        violations.push(violation("metadata.name", "Required value"));
    } else if !is_object_name(name) {
        violations.push(violation("metadata.name", OBJECT_NAME_RULE));
    }
    match object.pointer("/metadata/namespace") {
        // Like kubectl, take an empty namespace for none.
        None | Some(Value::Null) => {}
        Some(Value::String(namespace)) if namespace.is_empty() || is_namespace(namespace) => {}
        Some(Value::String(_)) => violations.push(violation("metadata.namespace", NAMESPACE_RULE)),
        Some(other) => violations.push(wrong_type("metadata.namespace", "string", other)),
    }
    check_texts(object, "labels", violations, check_labels);
    check_texts(object, "annotations", violations, check_annotations);
    let members = object.get("metadata").and_then(Value::as_object).into_iter().flat_map(Map::keys);
    for unknown in members.filter(|name| !MEMBERS.contains(&name.as_str())) {
        let path = format!("metadata.{unknown:.64}");
        violations.push(unknown_field(&path, unknown, MEMBERS.into_iter()));
    }
}

/// Checks a map of texts, then its content.
fn check_texts(
    object: &Value,
    member: &str,
    violations: &mut Vec<SchemaViolation>,
    check: fn(&Map<String, Value>, &str, &mut Vec<SchemaViolation>),
) {
    let path = format!("metadata.{member}");
    match object.pointer(&format!("/metadata/{member}")) {
        None | Some(Value::Null) => {}
        Some(Value::Object(map)) => {
            let wrong = map.iter().filter(|(_, value)| !value.is_string() && !value.is_null());
            let wrong = wrong.map(|(name, value)| wrong_type(&format!("{path}.{name}"), "string", value));
            violations.extend(wrong);
            check(map, &path, violations);
        }
        Some(other) => violations.push(wrong_type(&path, "object", other)),
    }
}

fn check_labels(labels: &Map<String, Value>, path: &str, violations: &mut Vec<SchemaViolation>) {
    for (name, value) in labels {
        if !is_qualified_name(name) {
            violations.push(violation(path, format!("Invalid value: the name {name:.64} {LABEL_RULE}")));
        }
        let value = value.as_str().unwrap_or_default();
        if !value.is_empty() && !is_label(value) {
            violations.push(violation(path, format!("Invalid value: the value of {name:.64} {LABEL_RULE}")));
        }
    }
}

fn check_annotations(annotations: &Map<String, Value>, path: &str, violations: &mut Vec<SchemaViolation>) {
    for name in annotations.keys().filter(|name| !is_qualified_name(&name.to_ascii_lowercase())) {
        violations.push(violation(path, format!("Invalid value: the name {name:.64} {LABEL_RULE}")));
    }
    let size: usize =
        annotations.iter().map(|(name, value)| name.len() + value.as_str().unwrap_or_default().len()).sum();
    if size > MAX_ANNOTATIONS {
        violations.push(violation(path, format!("Too long: may not be more than {MAX_ANNOTATIONS} bytes")));
    }
}

/// True for the name of a label, such as `app` or `example.com/app`.
fn is_qualified_name(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_object_name(prefix) && is_label(name),
        None => is_label(text),
    }
}

fn is_label(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let is_edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    text.len() <= MAX_LABEL
        && text.bytes().all(is_inner)
        && is_edge(text.bytes().next())
        && is_edge(text.bytes().next_back())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn checks_names_and_values() {
        for (metadata, fields) in [
            (
                json!({"name": "a", "labels": {"app": "x", "example.com/a.B_c": ""}, "creationTimestamp": null}),
                vec![],
            ),
            (json!({"name": "a", "annotations": {"Example.com/A": "any text\n"}}), vec![]),
            (json!({"name": "a", "labels": {"a b": "x"}}), vec!["metadata.labels"]),
            (json!({"name": "a", "labels": {"/a": "x", "b": "-x"}}), vec!["metadata.labels"; 2]),
            (json!({"name": "a", "labels": {"a": "x".repeat(64)}}), vec!["metadata.labels"]),
            (json!({"name": "a", "annotations": {"a/b/c": ""}}), vec!["metadata.annotations"]),
            (
                json!({"name": "a", "annotations": {"a": "x".repeat(MAX_ANNOTATIONS)}}),
                vec!["metadata.annotations"],
            ),
            (json!({"name": "a", "lables": {}}), vec!["metadata.lables"]),
        ] {
            let mut violations = Vec::new();
            check_metadata(&json!({ "metadata": metadata }), &mut violations);
            let found: Vec<_> = violations.iter().map(|found| found.field.as_str()).collect();
            assert_eq!(found, fields, "{metadata}");
        }
    }
}
