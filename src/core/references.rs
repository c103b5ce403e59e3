//! What a spec refers to, found by how references are named, the same in every kind: `...SecretRef`, `caRef`,
//! `...ConfigMapRef`, `connectionRef`, `eventStreamRef`.

use serde_json::Value;

/// One reference.
#[derive(Debug, PartialEq, Eq)]
pub struct Reference<'a> {
    /// Where it stands, such as `spec.handler.webhook.urlSecretRef`.
    pub path: String,
    /// The kind that it refers to.
    pub kind: &'a str,
    pub name: &'a str,
    /// The keys that are asked for.
    pub keys: Vec<&'a str>,
}

/// Every reference in a spec.
pub fn references(spec: &Value) -> Vec<Reference<'_>> {
    let mut found = Vec::new();
    collect(spec, "spec", &mut found);
    found
}

fn collect<'a>(value: &'a Value, path: &str, found: &mut Vec<Reference<'a>>) {
    match value {
        Value::Object(map) => {
            for (member, value) in map {
                let path = format!("{path}.{member}");
                found.extend(reference(member, value, &path));
                collect(value, &path, found);
            }
        }
        Value::Array(list) => {
            for (i, value) in list.iter().enumerate() {
                collect(value, &format!("{path}[{i}]"), found);
            }
        }
        _ => {}
    }
}

fn reference<'a>(member: &str, value: &'a Value, path: &str) -> Option<Reference<'a>> {
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    let kind = match member {
        "connectionRef" => "Connection",
        "eventStreamRef" => "EventStream",
        "caRef" => text("kind")?,
        "certSecretRef" | "secretRef" => "Secret",
        _ if member.ends_with("SecretRef") => "Secret",
        _ if member.ends_with("ConfigMapRef") => "ConfigMap",
        _ => return None,
    };
    let keys = match member {
        "certSecretRef" => vec!["tls.crt", "tls.key"],
        _ => text("key").into_iter().collect(),
    };
    Some(Reference { path: path.to_owned(), kind, name: text("name")?, keys })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn by_their_names() {
        let reference = |name: &str| json!({"name": name, "key": "k"});
        let spec = json!({"connectionRef": {"name": "c"}, "handler": {"webhook": {"urlSecretRef": reference("u"),
            "headersFrom": [{"name": "h", "secretRef": reference("f")}], "signature": {"secretRef": reference("s")},
            "tls": {"caRef": {"kind": "ConfigMap", "name": "ca", "key": "k"}, "certSecretRef": {"name": "t"}}}}});
        let mut found: Vec<(&str, &str)> = references(&spec).iter().map(|r| (r.kind, r.name)).collect();
        found.sort_unstable();
        assert_eq!(
            found,
            [
                ("ConfigMap", "ca"),
                ("Connection", "c"),
                ("Secret", "f"),
                ("Secret", "s"),
                ("Secret", "t"),
                ("Secret", "u")
            ]
        );
    }
}
