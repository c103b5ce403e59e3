//! Every value of the chart has an effect: with another one than the default, it appears in the objects.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::matrix::matrix;
use crate::harness::control_plane;
use crate::harness::helm::{chart, template_text};

/// Values that select objects and appear in none.
const SELECT: [&str; 2] = ["/mode", "/admissionPolicy/allowedHosts"];

/// Returns the JSON pointers of a schema's values.
fn pointers(schema: &Value, at: &str) -> Vec<String> {
    match schema["properties"].as_object() {
        None => vec![at.to_owned()],
        Some(members) => {
            let of_member = |(name, schema): (&String, &Value)| pointers(schema, &format!("{at}/{name}"));
            members.iter().flat_map(of_member).collect()
        }
    }
}

/// Returns the texts and numbers of a value, as they appear in YAML. A template is rendered to another text.
fn scalars(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) if text.contains("{{") => Vec::new(),
        Value::String(text) => vec![text.clone()],
        Value::Number(number) => vec![number.to_string()],
        Value::Array(items) => items.iter().flat_map(scalars).collect(),
        Value::Object(members) => members.values().flat_map(scalars).collect(),
        Value::Bool(_) | Value::Null => Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_value_appears_in_the_objects() {
    let read = |name: &str| std::fs::read_to_string(chart("hookstream").join(name)).unwrap();
    let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    let defaults: Value = serde_saphyr::from_str(&read("values.yaml")).unwrap();
    let pointers = pointers(&schema, "");
    assert!(pointers.len() > 200, "{}", pointers.len());
    // Helm's own value for charts that include this one.
    let of_tests = pointers.iter().filter(|at| *at != "/global");
    let mut problems: BTreeMap<&str, String> = of_tests
        .map(|at| (at.as_str(), "no test sets it to another value than the default".to_owned()))
        .collect();
    let plain = template_text(control_plane(), "home", &json!({})).await.unwrap();
    for values in matrix() {
        let text = template_text(control_plane(), "home", &values).await.unwrap();
        problems.retain(|at, problem| {
            let Some(value) = values.pointer(at).filter(|value| Some(*value) != defaults.pointer(at)) else {
                return true;
            };
            let hidden = scalars(value).into_iter().find(|scalar| !text.contains(scalar.as_str()));
            match hidden {
                Some(scalar) if !SELECT.contains(at) => *problem = format!("{scalar} is not in the objects"),
                _ if text == plain => *problem = "the objects are those of the defaults".to_owned(),
                _ => return false,
            }
            true
        });
    }
    assert!(problems.is_empty(), "{problems:#?}");
}
