//! Bounds a status by the limits of its CRD. The API server rejects a whole status for one string that is too long, so an
//! annotation of a user, or a message of a vendor, could block every status write of an object.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::status_schema;

/// The longest token in `status.handled`, in characters.
const MAX_TOKEN: usize = 256;
/// Digits of the hash that ends a shortened token.
const HASH_DIGITS: usize = 16;

/// Shortens every string, list and map of a status to the limit that the kind's CRD declares.
pub fn bound_status(kind: &str, status: &mut Value) {
    if let Some(schema) = status_schema(kind) {
        bound(schema, status);
    }
}

fn bound(schema: &Value, value: &mut Value) {
    let limit = |keyword: &str| {
        let limit = schema.get(keyword).and_then(Value::as_u64);
        limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
    };
    match value {
        Value::String(text) => {
            let end = cut_characters(text, limit("maxLength")).len();
            text.truncate(end);
        }
        Value::Array(items) => {
            items.truncate(limit("maxItems"));
            if let Some(schema) = schema.get("items") {
                items.iter_mut().for_each(|item| bound(schema, item));
            }
        }
        Value::Object(members) => {
            let max = limit("maxProperties");
            if members.len() > max {
                *members = std::mem::take(members).into_iter().take(max).collect::<Map<_, _>>();
            }
            for (name, member) in members {
                let property = schema.get("properties").and_then(|properties| properties.get(name));
                if let Some(schema) = property.or_else(|| schema.get("additionalProperties")) {
                    bound(schema, member);
                }
            }
        }
        _ => {}
    }
}

/// Returns the longest prefix of at most `max` characters. A schema's `maxLength` counts characters, not bytes.
fn cut_characters(text: &str, max: usize) -> &str {
    match text.char_indices().nth(max) {
        Some((end, _)) => text.get(..end).unwrap_or_default(),
        None => text,
    }
}

/// Returns the token of an annotation as `status.handled` records it. A token that is too long ends in a hash of the whole
/// text, so that two long tokens with the same start stay different requests.
pub fn bounded_token(text: &str) -> String {
    if cut_characters(text, MAX_TOKEN).len() == text.len() {
        return text.to_owned();
    }
    let hash = hex::encode(Sha256::digest(text));
    let digits = cut_characters(&hash, HASH_DIGITS);
    format!("{}-{digits}", cut_characters(text, MAX_TOKEN - HASH_DIGITS - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Returns a value that exceeds every limit of the schema. Collects the paths of its strings without a limit.
    fn excessive(path: &str, schema: &Value, unlimited: &mut Vec<String>) -> Value {
        match schema["type"].as_str().unwrap() {
            "string" => {
                // The program itself chooses the values of an enum, and formats a time.
                let is_closed = schema.get("enum").is_some() || schema["format"] == "date-time";
                if schema.get("maxLength").is_none() && !is_closed {
                    unlimited.push(path.to_owned());
                }
                json!("ü".repeat(50_000))
            }
            "array" => {
                let item = excessive(&format!("{path}[]"), &schema["items"], unlimited);
                Value::Array(vec![item; 100])
            }
            "object" => match schema.get("additionalProperties") {
                Some(member) => {
                    let member = excessive(&format!("{path}.*"), member, unlimited);
                    (0..100).map(|n| (format!("{n}"), member.clone())).collect()
                }
                None => {
                    let properties = schema["properties"].as_object().unwrap();
                    let members = properties.iter().map(|(name, schema)| {
                        (name.clone(), excessive(&format!("{path}.{name}"), schema, unlimited))
                    });
                    members.collect()
                }
            },
            _ => json!(1),
        }
    }

    /// Asserts that the value keeps the limits. Returns the number of limited strings.
    fn assert_bounded(path: &str, schema: &Value, value: &Value) -> usize {
        match value {
            Value::String(text) => match schema["maxLength"].as_u64() {
                Some(max) => {
                    assert_eq!(text.chars().count() as u64, max, "{path}");
                    1
                }
                None => 0,
            },
            Value::Array(items) => {
                assert_eq!(Some(items.len() as u64), schema["maxItems"].as_u64(), "{path}");
                items.iter().map(|item| assert_bounded(path, &schema["items"], item)).sum()
            }
            Value::Object(members) => match schema.get("additionalProperties") {
                Some(member) => {
                    assert_eq!(Some(members.len() as u64), schema["maxProperties"].as_u64(), "{path}");
                    members.values().map(|value| assert_bounded(path, member, value)).sum()
                }
                None => {
                    let bounded = members.iter().map(|(name, value)| {
                        assert_bounded(&format!("{path}.{name}"), &schema["properties"][name], value)
                    });
                    bounded.sum()
                }
            },
            _ => 0,
        }
    }

    #[test]
    fn every_string_of_every_status_is_bounded() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("crds");
        let (mut unlimited, mut limited) = (Vec::new(), 0);
        for file in std::fs::read_dir(dir).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            let crd: Value = serde_saphyr::from_str(&text).unwrap();
            let kind = crd["spec"]["names"]["kind"].as_str().unwrap();
            let root = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            let schema = &root["properties"]["status"];
            let mut status = excessive(kind, schema, &mut unlimited);
            bound_status(kind, &mut status);
            limited += assert_bounded(kind, schema, &status);
            let bounded = status.clone();
            bound_status(kind, &mut status);
            assert_eq!(status, bounded, "{kind}: a bounded status does not change");
        }
        assert!(unlimited.is_empty(), "no limit in the CRD: {unlimited:?}");
        assert!(limited > 40, "the walk found only {limited} strings");
    }

    #[test]
    fn long_tokens_stay_different() {
        let longest = "ü".repeat(MAX_TOKEN);
        assert_eq!(bounded_token(&longest), longest);
        let tokens = ["a", "b"].map(|end| bounded_token(&format!("{longest}{end}")));
        assert_ne!(tokens[0], tokens[1]);
        for token in &tokens {
            assert_eq!(token.chars().count(), MAX_TOKEN);
            assert_eq!(bounded_token(token), *token);
        }
    }
}
