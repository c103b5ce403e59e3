//! The CRDs in `crds/` match this version, describe every field, and bound every value.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Optional scalar fields of the specs whose description names no default. Their own text or the rule of their parent
/// states the effect of leaving them out. A field with a default does not belong here.
const WITHOUT_DEFAULT: &[&str] = &[
    // Absent: every event.
    "EventHook.spec.event",
    // Any text; if absent, nothing is rotated.
    "EventHook.spec.rotation",
    // One of two or four, by the parent's rule.
    "EventHook.spec.handler.webhook.url",
    "EventHook.spec.handler.webhookCustom.url",
    "EventHook.spec.handler.webhookCustom.body",
    // Any text; if absent, nothing is rotated.
    "EventStream.spec.rotation",
    // One of two, by the parent's rule.
    "Hook.spec.script",
];

#[test]
fn files_match_the_program() {
    let output = Command::new(env!("CARGO_BIN_EXE_hookstream")).arg("crds").output().unwrap();
    assert!(output.status.success());
    let printed = String::from_utf8(output.stdout).unwrap();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds");
    let mut stored = 0;
    for document in printed.split("---\n").filter(|text| !text.is_empty()) {
        let crd: Value = serde_saphyr::from_str(document).unwrap();
        let name = format!("{}.yaml", crd["metadata"]["name"].as_str().unwrap());
        let file = std::fs::read_to_string(dir.join(&name)).unwrap_or_default();
        let (_, body) = file.split_once("---\n").unwrap_or_default();
        assert!(body == document, "crds/{name} is out of date: run `make crds`");
        stored += 1;
    }
    let files = std::fs::read_dir(&dir).unwrap().count();
    assert_eq!(files, stored, "crds/ has a file without a kind: run `make crds`");
}

#[test]
fn every_field_is_described() {
    let missing = collect(|node, missing| {
        // The field that holds a list or map describes its items.
        let is_item = node.path.ends_with("[*]") || node.path.ends_with(".*");
        if !is_item && node.text().trim().is_empty() {
            missing.push(node.path.clone());
        }
    });
    assert!(missing.is_empty(), "no description for `kubectl explain` in:\n{}", missing.join("\n"));
}

#[test]
fn every_optional_scalar_describes_its_default() {
    let mut excepted = Vec::new();
    let missing = collect(|node, missing| {
        let is_scalar = !matches!(node.schema["type"].as_str(), Some("object" | "array"));
        if !node.path.contains(".spec.") || !node.optional || !is_scalar || node.text().contains("Default") {
            return;
        }
        match WITHOUT_DEFAULT.iter().find(|path| **path == node.path) {
            Some(path) => excepted.push(*path),
            None => missing.push(format!("{}: {}", node.path, node.text())),
        }
    });
    assert!(missing.is_empty(), "no default is described in:\n{}", missing.join("\n"));
    let stale: Vec<_> = WITHOUT_DEFAULT.iter().filter(|path| !excepted.contains(*path)).collect();
    assert!(stale.is_empty(), "exceptions that are no longer needed: {stale:?}");
}

/// A value without a bound lets one object fill etcd, and makes every rule on it too costly for the API server.
#[test]
fn every_value_is_bounded_and_every_list_typed() {
    let missing = collect(|node, missing| {
        // Kubernetes' own type of a time, which its format bounds.
        if node.path.ends_with(".conditions[*].lastTransitionTime") {
            return;
        }
        let schema = node.schema;
        let mut require = |is_present: bool, what: &str| {
            if !is_present {
                missing.push(format!("{}: {what}", node.path));
            }
        };
        let has = |keyword: &str| schema.get(keyword).is_some();
        match schema["type"].as_str() {
            Some("string") => require(has("maxLength") || has("enum"), "maxLength or enum"),
            Some("array") => {
                require(has("maxItems"), "maxItems");
                require(has("x-kubernetes-list-type"), "x-kubernetes-list-type");
            }
            Some("object") => {
                let is_map = has("additionalProperties") || has("x-kubernetes-preserve-unknown-fields");
                require(!is_map || has("maxProperties"), "maxProperties");
            }
            Some("integer" | "number") if node.path.contains(".spec.") => {
                require(has("minimum") && has("maximum"), "minimum and maximum");
            }
            Some("integer" | "number" | "boolean") => {}
            other => require(false, &format!("a type that this test supports ({other:?})")),
        }
    });
    assert!(missing.is_empty(), "no bound or list type in:\n{}", missing.join("\n"));
}

struct Node<'a> {
    /// The path from the kind, for example `EventHook.spec.groupBy[*]`.
    path: String,
    schema: &'a Value,
    optional: bool,
}

impl Node<'_> {
    fn text(&self) -> &str {
        self.schema["description"].as_str().unwrap_or_default()
    }
}

/// Applies a check to every node of spec and status of every kind. Returns its findings.
fn collect(mut check: impl FnMut(&Node<'_>, &mut Vec<String>)) -> Vec<String> {
    let (crds, mut findings, mut visited) = (hookstream::api::crds(), Vec::new(), 0);
    for crd in &crds {
        let kind = crd["spec"]["names"]["kind"].as_str().unwrap();
        let root = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
        for part in ["spec", "status"] {
            let node = Node { path: format!("{kind}.{part}"), schema: &root[part], optional: false };
            walk(node, &mut |node| {
                visited += 1;
                check(node, &mut findings);
            });
        }
    }
    assert!(visited > 150, "the walk found only {visited} fields");
    findings
}

fn walk(node: Node<'_>, visit: &mut impl FnMut(&Node<'_>)) {
    visit(&node);
    let required = node.schema["required"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (name, schema) in node.schema["properties"].as_object().into_iter().flatten() {
        let optional = !required.iter().any(|r| r == name);
        walk(Node { path: format!("{}.{name}", node.path), schema, optional }, visit);
    }
    for (keyword, mark) in [("items", "[*]"), ("additionalProperties", ".*")] {
        if let Some(schema) = node.schema.get(keyword) {
            walk(Node { path: format!("{}{mark}", node.path), schema, optional: false }, visit);
        }
    }
}
