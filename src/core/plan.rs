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

/// Compares the desired object with the actual one. Ignores members that only the vendor sets.
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
        _ if desired == actual => {}
        _ => differing.push(path.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
