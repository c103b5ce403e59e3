//! Compares a desired object with the actual object at the vendor.

use serde_json::Value;

/// Maps that are compared as a whole: a header that was removed from the spec must be removed at the vendor too.
const WHOLE: [&str; 3] = ["headers", "payload", "dependencies"];

/// The change that makes the actual object match the desired one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    Create,
    /// Holds the paths that differ, but not the values, which may be secret.
    Update(Vec<String>),
    Nothing,
}

/// Compares the desired object with the actual one. Ignores members that only the vendor sets. An absent member, null, an
/// empty map and an empty list are equal, because vendors return one for another.
pub fn plan(desired: &Value, actual: Option<&Value>) -> Plan {
    let Some(actual) = actual else { return Plan::Create };
    let mut differing = Vec::new();
    compare(desired, actual, &mut String::new(), &mut differing);
    if differing.is_empty() { Plan::Nothing } else { Plan::Update(differing) }
}

fn compare(desired: &Value, actual: &Value, path: &mut String, differing: &mut Vec<String>) {
    match (desired, actual) {
        (Value::Object(d), Value::Object(a)) if !WHOLE.iter().any(|name| path.ends_with(name)) => {
            for (key, value) in d {
                let length = path.len();
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(key);
                compare(value, a.get(key).unwrap_or(&Value::Null), path, differing);
                path.truncate(length);
            }
        }
        _ if desired == actual || (is_empty(desired) && is_empty(actual)) => {}
        _ => differing.push(path.clone()),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(members) => members.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn absent_equals_empty() {
        let empty = [
            json!({}),
            json!({"dependencies": null}),
            json!({"dependencies": {}}),
            json!({"dependencies": []}),
        ];
        for desired in &empty[1..] {
            for actual in &empty {
                assert_eq!(plan(desired, Some(actual)), Plan::Nothing, "{desired} {actual}");
            }
        }
        let changed = Plan::Update(vec!["dependencies".into()]);
        assert_eq!(plan(&json!({"dependencies": {"a": "1"}}), Some(&json!({}))), changed);
        assert_eq!(plan(&json!({"dependencies": {}}), Some(&json!({"dependencies": {"a": "1"}}))), changed);
        for (desired, actual) in
            [(json!({"a": null}), json!({"a": ""})), (json!({"a": {}}), json!({"a": false}))]
        {
            assert_eq!(plan(&desired, Some(&actual)), Plan::Update(vec!["a".into()]), "{desired} {actual}");
        }
    }

    #[test]
    fn plans_create_update_or_nothing() {
        let desired = json!({"event": null, "config": {"url": "u", "secret": "s", "headers": {"a": "1"}}});
        let actual = |config: Value| json!({"id": "x", "created_at": 1, "event": null, "config": config});
        assert_eq!(plan(&desired, None), Plan::Create);
        let same = actual(json!({"url": "u", "secret": "s", "headers": {"a": "1"}, "ssl_verify": true}));
        assert_eq!(plan(&desired, Some(&same)), Plan::Nothing);
        let other = actual(json!({"url": "v", "secret": "t", "headers": {"a": "1", "b": "2"}}));
        let fields = ["config.headers", "config.secret", "config.url"].map(String::from).to_vec();
        assert_eq!(plan(&desired, Some(&other)), Plan::Update(fields));
        assert_eq!(plan(&json!({"event": null}), Some(&json!({}))), Plan::Nothing, "absent equals null");
        assert_eq!(plan(&json!({"event": "a"}), Some(&json!({}))), Plan::Update(vec!["event".into()]));
    }
}
