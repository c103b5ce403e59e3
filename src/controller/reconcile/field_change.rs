//! The old and the new value of a field that differs, without secrets.

use serde_json::Value;

use super::kind::{DesiredObject, SecretHashes, value_at};
use crate::core::urls::{without_path, without_secrets};

/// A field that differs. Values that are or may be secret are absent.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldChange {
    pub path: String,
    /// The vendor's value. None: it is secret, or there is none.
    pub old: Option<Value>,
    /// The desired value. None: it is secret, or there is none.
    pub new: Option<Value>,
    /// True if a value is not shown.
    pub is_secret: bool,
}

/// Parts of paths at which a vendor may have a secret, also if the manifest has none there.
const SECRET_PARTS: [&str; 6] = ["secret", "header", "token", "authorization", "password", "key"];

impl FieldChange {
    /// Reads both values. `hashes`: the secrets that the operator wrote last.
    pub fn new<D>(
        path: String,
        item: &Value,
        desired: &DesiredObject<D>,
        hashes: Option<&SecretHashes>,
    ) -> Self {
        if desired.secrets.contains_key(&path) {
            return FieldChange { path, old: None, new: None, is_secret: true };
        }
        let new = value_at(&desired.readable, &path).map(|value| shown(value, without_secrets));
        // The manifest has a plain value now, and the vendor may still have the secret that it replaces.
        let lower = path.to_ascii_lowercase();
        let was_secret = hashes.is_some_and(|hashes| hashes.contains_key(&path))
            || SECRET_PARTS.iter().any(|part| lower.contains(part));
        // The path of a URL that someone created at the vendor may be a secret too.
        let old = value_at(item, &path).filter(|_| !was_secret).map(|value| shown(value, without_path));
        FieldChange { path, old, new, is_secret: was_secret }
    }
}

/// Returns a value to show: of a URL only the part that contains no credentials.
fn shown(value: &Value, redact: impl Fn(&str) -> Option<String>) -> Value {
    match value.as_str().and_then(redact) {
        Some(url) => Value::String(url),
        None => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn shows_values_without_secrets() {
        let desired = DesiredObject::new(
            (),
            json!({"event": "routes", "config": {"url": "https://new.test/a?token=s3cret", "secret": "s3cret",
                "headers": {"x": "1"}}}),
            &["config.secret"],
            None,
        );
        let item = json!({"event": "consumers", "config": {"url": "https://u:s3cret@old.test/b", "secret": "s3cret",
            "headers": {"authorization": "s3cret"}}});
        let change = |path: &str, hashes: Option<&SecretHashes>| {
            let change = FieldChange::new(path.to_owned(), &item, &desired, hashes);
            assert!(!format!("{change:?}").contains("s3cret"), "{change:?}");
            (change.old, change.new, change.is_secret)
        };
        assert_eq!(change("event", None), (Some(json!("consumers")), Some(json!("routes")), false));
        assert_eq!(change("config.secret", None), (None, None, true));
        assert_eq!(change("config.headers", None), (None, Some(json!({"x": "1"})), true));
        let (old, new, is_secret) = change("config.url", None);
        assert_eq!((old, is_secret), (Some(json!("https://old.test/...")), false));
        assert_eq!(new, Some(json!("https://new.test/a?...")));
        let hashes = [("config.url".to_owned(), "h".to_owned())].into();
        assert_eq!(change("config.url", Some(&hashes)).0, None);
    }
}
