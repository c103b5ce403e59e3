//! docs/reference.md is generated from the CRDs.

use std::fmt::Write;

use serde_json::Value;

use super::assert_current;

#[test]
fn reference_is_current() {
    let mut text = "# Reference\n\nEvery field of every kind, made from `src/api` by `make charts`. `kubectl explain` shows the same.\n".to_owned();
    for crd in hookstream::api::crds() {
        let kind = crd["spec"]["names"]["kind"].as_str().unwrap();
        let version = &crd["spec"]["versions"][0];
        let schema = &version["schema"]["openAPIV3Schema"];
        write!(
            text,
            "\n## {kind}\n\n`{}/{}`",
            crd["spec"]["group"].as_str().unwrap(),
            version["name"].as_str().unwrap()
        )
        .unwrap();
        let short: Vec<&str> = crd["spec"]["names"]["shortNames"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        if !short.is_empty() {
            write!(text, ", short name `{}`", short.join("`, `")).unwrap();
        }
        writeln!(text, ". {}\n", paragraph(&schema["properties"]["spec"])).unwrap();
        for part in ["spec", "status"] {
            writeln!(text, "| field | type | what it is |\n|---|---|---|").unwrap();
            fields(&schema["properties"][part], part, &mut text);
            text.push('\n');
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    assert_current("docs/reference.md", &text);
}

fn fields(schema: &Value, path: &str, text: &mut String) {
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let must = if required.contains(&name.as_str()) { ", required" } else { "" };
        let rules: Vec<&str> = field["x-kubernetes-validations"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|rule| rule["message"].as_str())
            .collect();
        let mut description = paragraph(field);
        if !rules.is_empty() {
            description.push_str(&format!(" Rules: {}.", escaped(&rules.join("; "))));
        }
        writeln!(text, "| `{path}` | {}{must} | {} |", kind(field), description.trim()).unwrap();
        fields(field, &path, text);
        fields(&field["items"], &format!("{path}[]"), text);
        if field["additionalProperties"].is_object() {
            fields(&field["additionalProperties"], &format!("{path}.*"), text);
        }
    }
}

fn paragraph(schema: &Value) -> String {
    escaped(schema["description"].as_str().unwrap_or_default().trim())
}

/// Escapes a text for a cell of a table.
fn escaped(text: &str) -> String {
    text.replace("\n\n", " ").replace('\n', " ").replace('<', "&lt;").replace('|', "\\|")
}

/// Returns the type with its bounds.
fn kind(schema: &Value) -> String {
    if let Some(values) = schema["enum"].as_array() {
        return values
            .iter()
            .map(|value| format!("`{}`", value.as_str().unwrap_or_default()))
            .collect::<Vec<_>>()
            .join(", ");
    }
    let mut kind = match schema["type"].as_str() {
        Some("array") => format!("list of {}", schema["items"]["type"].as_str().unwrap_or("any")),
        Some("object") if schema["additionalProperties"].is_object() => "map".to_owned(),
        Some(kind) => kind.to_owned(),
        None => "any".to_owned(),
    };
    for (name, words) in [("maxLength", "characters"), ("maxItems", "items"), ("maxProperties", "entries")] {
        if let Some(bound) = schema[name].as_u64() {
            kind.push_str(&format!(", at most {bound} {words}"));
        }
    }
    for (name, words) in [("minimum", "from"), ("maximum", "to")] {
        if let Some(bound) = schema[name].as_f64() {
            kind.push_str(&format!(", {words} {bound}"));
        }
    }
    kind
}
