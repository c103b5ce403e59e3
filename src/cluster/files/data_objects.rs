//! Reads and checks Secrets and ConfigMaps as the API server does. Messages never contain a value.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use serde_json::Value;

use crate::cluster::Data;
use crate::core::schema::{SchemaViolation, check_metadata, unknown_field, violation};

/// Base64 as Go reads it: with padding, and with any bits after the last byte.
pub const BASE64: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));
/// The most bytes of all values of an object.
const MAX_BYTES: usize = 1 << 20;
const MAX_KEY: usize = 253;

/// Returns the reasons for which the API server would reject a Secret or ConfigMap.
pub fn check_data_object(document: &Value, kind: &str) -> Vec<SchemaViolation> {
    let mut violations = Vec::new();
    check_metadata(document, &mut violations);
    let known: &[&str] = match kind {
        "Secret" => &["apiVersion", "kind", "metadata", "data", "stringData", "type", "immutable"],
        _ => &["apiVersion", "kind", "metadata", "data", "binaryData", "immutable"],
    };
    for name in document.as_object().into_iter().flat_map(|members| members.keys()) {
        if !known.contains(&name.as_str()) {
            violations.push(unknown_field(&format!("{name:.64}"), name, known.iter().copied()));
        }
    }
    let (data, problems) = read_data_object(document, kind);
    violations.extend(problems);
    let size: usize = data.iter().map(|(_, value)| value.len()).sum();
    if size > MAX_BYTES {
        violations.push(violation("data", format!("Too long: may not be more than {MAX_BYTES} bytes")));
    }
    let is_missing = |key: &&str| data.get(key).is_none();
    if document.get("type").and_then(Value::as_str) == Some("kubernetes.io/tls") {
        let missing = ["tls.crt", "tls.key"].into_iter().filter(is_missing);
        violations.extend(missing.map(|key| violation(&format!("data[{key}]"), "Required value")));
    }
    violations
}

/// Returns the usable members of a Secret or ConfigMap, and the problems of the others.
pub fn read_data_object(document: &Value, kind: &str) -> (Data, Vec<SchemaViolation>) {
    let mut problems = Vec::new();
    let mut data = Vec::new();
    // Like the API server, `stringData` overrides `data`.
    let maps: [(&str, Decode); 2] = match kind {
        "Secret" => [("data", decode_base64), ("stringData", decode_text)],
        _ => [("data", decode_text), ("binaryData", decode_base64)],
    };
    for (map, decode) in maps {
        let members = match document.get(map) {
            None | Some(Value::Null) => continue,
            Some(Value::Object(members)) => members,
            Some(_) => {
                problems.push(violation(map, "Invalid value: must be a map of keys to values"));
                continue;
            }
        };
        for (key, value) in members {
            match decode(value).and_then(|value| check_key(key).map(|()| value)) {
                Ok(value) => data.push((key.clone(), value)),
                Err(problem) => problems.push(violation(&format!("{map}.{key:.64}"), problem)),
            }
        }
    }
    (Data::new(data), problems)
}

type Decode = fn(&Value) -> Result<Vec<u8>, String>;

fn decode_base64(value: &Value) -> Result<Vec<u8>, String> {
    let encoded = match value {
        Value::Null => return Ok(Vec::new()),
        Value::String(encoded) => encoded,
        _ => return Err("Invalid value: must be a string in base64".to_owned()),
    };
    let plain: String = encoded.split(['\r', '\n']).collect();
    BASE64.decode(plain).map_err(|_| {
        let hint = match encoded.starts_with("ENC[") {
            true => "decrypt it before, for example with sops",
            false => "write plain text into stringData",
        };
        format!("Invalid value: is not base64: {hint}")
    })
}

fn decode_text(value: &Value) -> Result<Vec<u8>, String> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::String(text) => Ok(text.as_bytes().to_vec()),
        _ => Err("Invalid value: must be a string: put it into quotes".to_owned()),
    }
}

fn check_key(key: &str) -> Result<(), String> {
    let is_valid = (1..=MAX_KEY).contains(&key.len())
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        && key != "."
        && !key.starts_with("..");
    match is_valid {
        true => Ok(()),
        false => Err(format!(
            "Invalid value: a key must consist of letters, digits, '-', '_' or '.', at most {MAX_KEY} characters, and not start with '..'"
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(kind: &str, members: Value) -> Vec<String> {
        let mut document = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "s"}});
        document.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        check_data_object(&document, kind).into_iter().map(|found| found.field).collect()
    }

    #[test]
    fn finds_what_the_api_server_rejects() {
        for (kind, members, field) in [
            ("Secret", json!({"data": {"k": "plain-text not base64"}}), "data.k"),
            ("Secret", json!({"data": {"k": "aGk"}}), "data.k"),
            ("Secret", json!({"data": {"k": "aGk= "}}), "data.k"),
            ("Secret", json!({"data": {"k": "ENC[AES256_GCM,data:abc]"}}), "data.k"),
            ("Secret", json!({"data": {"k": 1}}), "data.k"),
            ("Secret", json!({"data": ["a"]}), "data"),
            ("Secret", json!({"stringData": {"k": 12345}}), "stringData.k"),
            ("Secret", json!({"stringData": {"k": true}}), "stringData.k"),
            ("Secret", json!({"stringData": {"a b": "x"}}), "stringData.a b"),
            ("Secret", json!({"stringData": {"..a": "x"}}), "stringData...a"),
            ("Secret", json!({"stringdata": {"k": "x"}}), "stringdata"),
            ("Secret", json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}), "data[tls.key]"),
            ("ConfigMap", json!({"data": {"k": 1}}), "data.k"),
            ("ConfigMap", json!({"binaryData": {"k": "?"}}), "binaryData.k"),
            ("ConfigMap", json!({"data": {"k": "x".repeat(MAX_BYTES + 1)}}), "data"),
        ] {
            assert_eq!(check(kind, members), [field]);
        }
        for (kind, members) in [
            ("Secret", json!({})),
            ("Secret", json!({"data": null, "stringData": {"k": null}})),
            ("Secret", json!({"data": {"k": "aG\nk=\r\n", "empty": "", "bits": "aGl="}})),
            ("ConfigMap", json!({"data": {"k": "1"}, "binaryData": {"b": "aGk="}, "immutable": true})),
        ] {
            assert_eq!(check(kind, members.clone()), [""; 0], "{members}");
        }
    }

    #[test]
    fn keeps_the_usable_members() {
        let document = json!({"data": {"a": "aGk=", "b": "?", "c": "aGk="}, "stringData": {"c": "text"}});
        let (data, problems) = read_data_object(&document, "Secret");
        assert_eq!(
            (data.get("a"), data.get("b"), data.get("c")),
            (Some(&b"hi"[..]), None, Some(&b"text"[..]))
        );
        assert_eq!(problems.len(), 1);
        assert!(!problems[0].to_string().contains('?'));
    }
}
