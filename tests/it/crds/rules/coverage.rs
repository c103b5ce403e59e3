//! Requires a row for every rule: for each constraint of the schema, a row must be rejected at that very field.

use serde_json::Value;

use super::table::Expect;
use super::{all_rows, updates};

/// A constraint of the schema: its field (from the kind) and the server's message.
struct Rule {
    field: String,
    message: String,
}

#[test]
fn every_rule_has_a_row() {
    let rows = all_rows().into_iter().map(|row| (row.manifest, row.expect));
    let updates = updates::rows().into_iter().map(|update| (update.after, update.expect));
    let mut covered: Vec<(String, String)> = Vec::new();
    for (manifest, expect) in rows.chain(updates) {
        if let Expect::Refuse { field, text } = expect {
            // With the kind, because several kinds have a spec.deletionPolicy and each needs a row.
            covered.push((format!("{}.{field}", manifest["kind"].as_str().expect("a kind")), text));
        }
    }
    let mut rules = Vec::new();
    for crd in hookstream::api::crds() {
        let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let kind = crd["spec"]["names"]["kind"].as_str().expect("a kind");
        walk(spec, &format!("{kind}.spec"), &mut rules);
    }
    assert!(rules.len() > 200, "the walk found only {} rules", rules.len());
    let missing: Vec<String> = rules
        .iter()
        .filter(|rule| !covered.iter().any(|(field, text)| covers(rule, field, text)))
        .map(|rule| format!("{}: {}", rule.field, rule.message))
        .collect();
    assert!(
        missing.is_empty(),
        "{} rules of the schema without a rejected row:\n{}",
        missing.len(),
        missing.join("\n")
    );
}

fn covers(rule: &Rule, field: &str, text: &str) -> bool {
    // A row may give only the beginning of a long message; a bound's number is in both.
    matches_path(&rule.field, field) && (rule.message.contains(text) || text.starts_with(&rule.message))
}

/// Returns true if a path of the schema matches a field: `a.b[*].c` matches `a.b[1].c`, `a.*` any member of a map.
fn matches_path(schema: &str, field: &str) -> bool {
    let (schema, field): (Vec<&str>, Vec<&str>) = (schema.split('.').collect(), field.split('.').collect());
    let matches_part = |(s, f): (&&str, &&str)| match (s.strip_suffix("[*]"), f.split_once('[')) {
        (Some(s), Some((f, _))) => s == f,
        _ => *s == "*" || s == f,
    };
    schema.len() == field.len() && schema.iter().zip(&field).all(matches_part)
}

fn walk(schema: &Value, at: &str, rules: &mut Vec<Rule>) {
    let Some(schema) = schema.as_object() else { return };
    let mut rule = |field: &str, message: String| rules.push(Rule { field: field.to_owned(), message });
    for (keyword, value) in schema {
        let number = value.as_f64().unwrap_or_default();
        match keyword.as_str() {
            "minLength" if number > 0.0 => rule(at, format!("should be at least {number} chars long")),
            "maxLength" => rule(at, format!("Too long: may not be more than {number} bytes")),
            "minimum" => rule(at, format!("should be greater than or equal to {number}")),
            "maximum" => rule(at, format!("should be less than or equal to {number}")),
            "minItems" if number > 0.0 => rule(at, format!("should have at least {number} items")),
            "maxItems" | "maxProperties" => rule(at, format!("must have at most {number} items")),
            "pattern" => rule(at, format!("should match '{}'", value.as_str().unwrap_or_default())),
            "enum" => {
                let values = value.as_array().map(Vec::as_slice).unwrap_or_default();
                let listed = values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                rule(at, format!("supported values: {listed}"));
            }
            "x-kubernetes-list-type" if value != "atomic" => {
                rule(&format!("{at}[*]"), "Duplicate value".into())
            }
            "required" => {
                for name in value.as_array().map(Vec::as_slice).unwrap_or_default() {
                    rule(&format!("{at}.{}", name.as_str().unwrap_or_default()), "Required value".into());
                }
            }
            "x-kubernetes-validations" => {
                for validation in value.as_array().map(Vec::as_slice).unwrap_or_default() {
                    rule(at, validation["message"].as_str().unwrap_or("a rule without a message").to_owned());
                }
            }
            _ => {}
        }
    }
    for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        walk(property, &format!("{at}.{name}"), rules);
    }
    if let Some(items) = schema.get("items") {
        walk(items, &format!("{at}[*]"), rules);
    }
    if let Some(values) = schema.get("additionalProperties") {
        walk(values, &format!("{at}.*"), rules);
    }
}
