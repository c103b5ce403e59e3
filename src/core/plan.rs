//! What to do at the vendor: the difference between what is wanted and what is there.

use serde_json::Value;

/// Maps that are wanted whole: a header that the spec dropped must be dropped there too.
const WHOLE: [&str; 3] = ["headers", "payload", "dependencies"];

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    Create,
    /// The paths that differ; never their values, which may be secret.
    Update(Vec<String>),
    Nothing,
}

/// Compares what is wanted with what is there. Members that the vendor adds by itself are no difference.
pub fn plan(wanted: &Value, there: Option<&Value>) -> Plan {
    let Some(there) = there else { return Plan::Create };
    let mut differing = Vec::new();
    compare(wanted, there, &mut String::new(), &mut differing);
    if differing.is_empty() { Plan::Nothing } else { Plan::Update(differing) }
}

fn compare(wanted: &Value, there: &Value, path: &mut String, out: &mut Vec<String>) {
    match (wanted, there) {
        (Value::Object(w), Value::Object(t)) if !WHOLE.iter().any(|name| path.ends_with(name)) => {
            for (key, value) in w {
                let length = path.len();
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(key);
                compare(value, t.get(key).unwrap_or(&Value::Null), path, out);
                path.truncate(length);
            }
        }
        _ if wanted == there => {}
        _ => out.push(path.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn table() {
        let wanted = json!({"event": null, "config": {"url": "u", "secret": "s", "headers": {"a": "1"}}});
        let there = |config: Value| json!({"id": "x", "created_at": 1, "event": null, "config": config});
        assert_eq!(plan(&wanted, None), Plan::Create);
        let same = there(json!({"url": "u", "secret": "s", "headers": {"a": "1"}, "ssl_verify": true}));
        assert_eq!(plan(&wanted, Some(&same)), Plan::Nothing);
        let other = there(json!({"url": "v", "secret": "t", "headers": {"a": "1", "b": "2"}}));
        let fields = ["config.headers", "config.secret", "config.url"].map(String::from).to_vec();
        assert_eq!(plan(&wanted, Some(&other)), Plan::Update(fields));
        assert_eq!(plan(&json!({"event": null}), Some(&json!({}))), Plan::Nothing, "absent and null are one");
        assert_eq!(plan(&json!({"event": "a"}), Some(&json!({}))), Plan::Update(vec!["event".into()]));
    }
}
