//! What objects refer to: is it in the files, and has it what is asked of it.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use super::{Finding, Place, Severity, own_kind};
use crate::cluster::Key;
use crate::cluster::files::Document;
use crate::core::references::{Reference, references};

/// Documents by kind, namespace and name.
type Held<'a> = HashMap<(String, Key), Vec<(&'a Path, &'a Value)>>;

/// The name of a document, as it is without a namespace.
pub fn key_of(document: &Value) -> Key {
    let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str);
    Key::new(text("/metadata/namespace").unwrap_or("default"), text("/metadata/name").unwrap_or_default())
}

pub fn look(documents: &[Document], findings: &mut Vec<Finding>) {
    let readable =
        || documents.iter().filter_map(|document| Some((document, document.content.as_ref().ok()?)));
    let kind = |content: &Value| content.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut held = Held::new();
    for (document, content) in readable() {
        held.entry((kind(content), key_of(content))).or_default().push((&document.path, content));
    }
    for (document, content) in readable() {
        let Some(kind) = own_kind(content) else { continue };
        let found = references(content.get("spec").unwrap_or(&Value::Null));
        let mut place =
            Place { file: &document.path, object: format!("{kind} {}", key_of(content)), findings };
        for reference in &found {
            judge(reference, &key_of(content).namespace, &held, &mut place);
        }
    }
}

fn judge(reference: &Reference<'_>, namespace: &str, held: &Held<'_>, place: &mut Place<'_>) {
    let Reference { path, kind, name, keys } = reference;
    let found = held.get(&((*kind).to_owned(), Key::new(namespace, name)));
    // Of several the one that is applied with it.
    let beside = |(path, _): &&(&Path, &Value)| path.parent() == place.file.parent();
    let found = found.and_then(|all| all.iter().find(beside).or(all.first()));
    let Some((_, found)) = found else {
        let message = format!("{kind} {namespace}/{name} is not in these files");
        let missing = Finding { severity: Severity::Warning, message, ..place.finding(path, "NotInFiles") };
        return place.findings.push(missing);
    };
    for key in keys {
        let maps = ["data", "stringData", "binaryData"];
        if !maps.iter().any(|map| found.get(*map).is_some_and(|map| map.get(*key).is_some())) {
            place.error(path, "KeyMissing", format!("{kind} {namespace}/{name} has no key {key}"));
        }
    }
    // Who refers to a Connection is of one vendor: an EventHook of Kong, all else of Auth0.
    if *kind == "Connection" {
        let wanted = if place.object.starts_with("EventHook ") { "kong" } else { "auth0" };
        if found.pointer(&format!("/spec/{wanted}")).is_none() {
            place.error(path, "WrongVendor", format!("Connection {namespace}/{name} is not of {wanted}"));
        }
    }
}
