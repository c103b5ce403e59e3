//! The tables of values in the charts' READMEs are generated from the comments in values.yaml; the schemas have the same
//! names.

use serde_json::Value;

use super::{assert_current, between, read};

struct Row {
    name: String,
    default: String,
    text: String,
}

#[test]
fn values_tables_are_current() {
    for chart in ["hookstream", "hookstream-crds"] {
        let mut table = "| value | default | what it is |\n|---|---|---|\n".to_owned();
        for Row { name, default, text } in rows(chart) {
            let text = text.replace('|', "\\|");
            table.push_str(&format!("| `{name}` | `{default}` | {text} |\n"));
        }
        let file = format!("charts/{chart}/README.md");
        let readme = std::fs::read_to_string(super::path(&file)).unwrap();
        assert_current(&file, &between(&readme, "values", &table));
    }
}

#[test]
fn schemas_match_values() {
    for chart in ["hookstream", "hookstream-crds"] {
        let schema: Value =
            serde_json::from_str(&read(&format!("charts/{chart}/values.schema.json"))).unwrap();
        let mut names = Vec::new();
        leaves(&schema, "", &mut names);
        // Helm's own value for charts that include this one.
        names.retain(|name| name != "global");
        names.sort();
        let mut documented: Vec<String> = rows(chart).into_iter().map(|row| row.name).collect();
        documented.sort();
        assert_eq!(names, documented, "{chart}");
    }
}

/// Editors show a schema's descriptions while values are written.
#[test]
fn schema_descriptions_are_current() {
    for chart in ["hookstream", "hookstream-crds"] {
        let file = format!("charts/{chart}/values.schema.json");
        let mut schema: Value = serde_json::from_str(&read(&file)).unwrap();
        for Row { name, text, .. } in rows(chart) {
            let pointer = format!("/properties/{}", name.replace('.', "/properties/"));
            let leaf = schema.pointer_mut(&pointer).unwrap_or_else(|| panic!("{file} has no {name}"));
            leaf["description"] = text.into();
        }
        assert_current(&file, &(serde_json::to_string_pretty(&schema).unwrap() + "\n"));
    }
}

/// Adds the names of a schema's leaves to `into`.
fn leaves(schema: &Value, name: &str, into: &mut Vec<String>) {
    let Some(properties) = schema["properties"].as_object() else {
        into.push(name.to_owned());
        return;
    };
    assert_eq!(schema["additionalProperties"], false, "{name} accepts unknown names");
    for (part, schema) in properties {
        let name = if name.is_empty() { part.clone() } else { format!("{name}.{part}") };
        leaves(schema, &name, into);
    }
}

/// Returns every value that has a comment, with its default as YAML in one line.
fn rows(chart: &str) -> Vec<Row> {
    let text = read(&format!("charts/{chart}/values.yaml"));
    let values: Value = serde_saphyr::from_str(&text).unwrap();
    let (mut rows, mut path, mut comment) = (Vec::new(), Vec::<(usize, String)>::new(), None::<String>);
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim();
        if let Some(text) = line.strip_prefix("# -- ") {
            comment = Some(text.to_owned());
            continue;
        }
        // Members of a commented value have no comments of their own.
        let Some((name, _)) = line.split_once(':').filter(|(name, _)| !name.contains([' ', '#', '{'])) else {
            continue;
        };
        path.retain(|(at, _)| *at < indent);
        path.push((indent, name.to_owned()));
        let Some(text) = comment.take() else { continue };
        let name = path.iter().map(|(_, part)| part.as_str()).collect::<Vec<_>>().join(".");
        let value =
            values.pointer(&format!("/{}", name.replace('.', "/"))).unwrap_or_else(|| panic!("{name}"));
        rows.push(Row { name, default: value.to_string(), text });
    }
    rows
}
