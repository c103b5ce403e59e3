//! Checks references: whether the files contain the referenced object, with the referenced keys.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use super::finding::{Finding, FindingContext, Severity};
use crate::cluster::ObjectKey;
use crate::cluster::files::{Document, Ownership, ownership};
use crate::core::references::{Reference, find_references};

/// Documents by kind, namespace and name.
type DocumentIndex<'a> = HashMap<(String, ObjectKey), Vec<(&'a Path, &'a Value)>>;

/// Returns the key of a document. Without a namespace it is in `default`.
pub fn key_of(document: &Value) -> ObjectKey {
    let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str);
    ObjectKey::new(
        text("/metadata/namespace").unwrap_or("default"),
        text("/metadata/name").unwrap_or_default(),
    )
}

/// Checks the references of all objects of our group.
pub fn check_references(documents: &[Document], findings: &mut Vec<Finding>) {
    let readable =
        || documents.iter().filter_map(|document| Some((document, document.content.as_ref().ok()?)));
    let kind = |content: &Value| content.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut index = DocumentIndex::new();
    for (document, content) in readable() {
        index.entry((kind(content), key_of(content))).or_default().push((&document.path, content));
    }
    for (document, content) in readable() {
        let Ownership::Own(kind) = ownership(content) else { continue };
        let found = find_references(content.get("spec").unwrap_or(&Value::Null));
        let mut context = FindingContext {
            file: &document.path,
            source: Some(&document.source),
            object: format!("{kind} {}", key_of(content)),
            findings,
        };
        for reference in &found {
            check_reference(reference, &key_of(content).namespace, &index, &mut context);
        }
    }
}

fn check_reference(
    reference: &Reference<'_>,
    namespace: &str,
    index: &DocumentIndex<'_>,
    context: &mut FindingContext<'_>,
) {
    let Reference { path, kind, name, keys } = reference;
    let found = index.get(&((*kind).to_owned(), ObjectKey::new(namespace, name)));
    // If there are several definitions, use the one in the same folder, because a folder is applied as a whole.
    let is_in_same_folder = |(path, _): &&(&Path, &Value)| path.parent() == context.file.parent();
    let found = found.and_then(|all| all.iter().find(is_in_same_folder).or(all.first()));
    let Some((_, found)) = found else {
        let message = format!("{kind} {namespace}/{name} is not in the files");
        let missing = Finding { severity: Severity::Warning, message, ..context.finding(path, "NotInFiles") };
        return context.findings.push(missing);
    };
    for key in keys {
        let maps = ["data", "stringData", "binaryData"];
        if !maps.iter().any(|map| found.get(*map).is_some_and(|map| map.get(*key).is_some())) {
            context.error(path, "KeyMissing", format!("{kind} {namespace}/{name} has no key {key}"));
        }
    }
    // An EventHook needs a Connection to Kong, all other kinds need one to Auth0.
    if *kind == "Connection" {
        let vendor = if context.object.starts_with("EventHook ") { "kong" } else { "auth0" };
        if found.pointer(&format!("/spec/{vendor}")).is_none() {
            context.error(
                path,
                "WrongVendor",
                format!("Connection {namespace}/{name} is not a Connection to {vendor}"),
            );
        }
    }
}
