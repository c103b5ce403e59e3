//! Finds the objects that a spec refers to, by the naming convention that all kinds share: `...SecretRef`, `caRef`,
//! `...ConfigMapRef`, `connectionRef`, `eventStreamRef`.

use serde_json::Value;

/// A reference from a spec to another object.
#[derive(Debug, PartialEq, Eq)]
pub struct Reference<'a> {
    /// The path of the referring field, such as `spec.handler.webhook.urlSecretRef`.
    pub path: String,
    /// The kind of the referenced object.
    pub kind: &'a str,
    pub name: &'a str,
    /// The keys that the object must contain.
    pub keys: Vec<&'a str>,
}

/// Returns all references in a spec.
pub fn find_references(spec: &Value) -> Vec<Reference<'_>> {
    let mut found = Vec::new();
    collect(spec, "spec", &mut found);
    found
}

fn collect<'a>(value: &'a Value, path: &str, found: &mut Vec<Reference<'a>>) {
    match value {
        Value::Object(map) => {
            for (member, value) in map {
                let path = format!("{path}.{member}");
                found.extend(parse_reference(member, value, &path));
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

fn parse_reference<'a>(member: &str, value: &'a Value, path: &str) -> Option<Reference<'a>> {
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
    fn finds_references_by_field_name() {
        let reference = |name: &str| json!({"name": name, "key": "k"});
        let spec = json!({"connectionRef": {"name": "c"}, "handler": {"webhook": {"urlSecretRef": reference("u"),
            "headersFrom": [{"name": "h", "secretRef": reference("f")}], "signature": {"secretRef": reference("s")},
            "tls": {"caRef": {"kind": "ConfigMap", "name": "ca", "key": "k"}, "certSecretRef": {"name": "t"}}}}});
        let mut found: Vec<(&str, &str)> = find_references(&spec).iter().map(|r| (r.kind, r.name)).collect();
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
