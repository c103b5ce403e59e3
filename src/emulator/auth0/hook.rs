//! Extensibility Hooks and their secrets: parsing, validation, updates and their JSON form.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::body::{Object, string_map};
use super::error::ApiError;

/// Replaces the value of a secret in responses.
const PLACEHOLDER: &str = "_VALUE_NOT_SHOWN_";
const MAX_SECRETS: usize = 20;
pub(super) const TRIGGERS: [&str; 5] = [
    "credentials-exchange",
    "pre-user-registration",
    "post-user-registration",
    "post-change-password",
    "send-phone-message",
];

/// A stored hook. No `Debug`, because it holds secrets.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Hook {
    pub id: String,
    #[serde(flatten)]
    pub fields: HookFields,
    pub secrets: BTreeMap<String, String>,
    /// Reads do not see the hook before this time (fault `lagMs`).
    #[serde(skip)]
    pub visible_at: Option<Instant>,
}

/// The writable fields of a hook.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HookFields {
    pub name: String,
    pub script: String,
    pub dependencies: BTreeMap<String, String>,
    pub trigger_id: String,
    pub enabled: bool,
}

impl Hook {
    /// Whether reads see the hook yet.
    pub fn is_visible(&self) -> bool {
        self.visible_at.is_none_or(|at| Instant::now() >= at)
    }

    /// Returns the hook as the API does: without secrets.
    pub fn to_json(&self) -> Map<String, Value> {
        let mut object = match serde_json::to_value(&self.fields) {
            Ok(Value::Object(object)) => object,
            _ => Map::new(),
        };
        object.insert("id".into(), self.id.clone().into());
        object
    }

    /// Returns the hook as in a list: without its script. The vendor's deploy tool therefore reads every hook separately.
    pub fn to_list_json(&self) -> Map<String, Value> {
        let mut object = self.to_json();
        object.remove("script");
        object
    }

    /// Returns the names of the secrets, with a placeholder for each value.
    pub fn secrets_to_json(&self) -> Value {
        self.secrets.keys().map(|name| (name.clone(), Value::from(PLACEHOLDER))).collect::<Map<_, _>>().into()
    }

    /// POST: adds secrets. Fails if one of them exists.
    pub fn add_secrets(&mut self, value: Value) -> Result<(), ApiError> {
        let new = parse_secrets(value)?;
        if let Some(name) = new.keys().find(|name| self.secrets.contains_key(*name)) {
            return Err(ApiError::conflict(&format!("The secret {name} exists already")));
        }
        if self.secrets.len() + new.len() > MAX_SECRETS {
            let reason = format!(
                "Too many properties defined ({}), maximum {MAX_SECRETS}",
                self.secrets.len() + new.len()
            );
            return Err(ApiError::body(&reason, "secrets", ""));
        }
        self.secrets.extend(new);
        Ok(())
    }

    /// PATCH: changes secrets. Fails if one of them does not exist. The placeholder is stored like any other value, as at
    /// Auth0.
    pub fn update_secrets(&mut self, value: Value) -> Result<(), ApiError> {
        let new = parse_secrets(value)?;
        if let Some(name) = new.keys().find(|name| !self.secrets.contains_key(*name)) {
            let message = format!("The secret {name} does not exist");
            return Err(ApiError::new(axum::http::StatusCode::NOT_FOUND, message));
        }
        self.secrets.extend(new);
        Ok(())
    }

    /// DELETE: removes the secrets of a list of names. Ignores unknown names.
    pub fn remove_secrets(&mut self, value: Value) -> Result<(), ApiError> {
        let wrong = || ApiError::body("Expected an array of names", "body", "");
        let names = value.as_array().filter(|names| !names.is_empty()).ok_or_else(wrong)?;
        let names: Option<Vec<&str>> = names.iter().map(Value::as_str).collect();
        for name in names.ok_or_else(wrong)? {
            self.secrets.remove(name);
        }
        Ok(())
    }
}

fn parse_secrets(value: Value) -> Result<BTreeMap<String, String>, ApiError> {
    let secrets: BTreeMap<String, String> = string_map("", value)?.collect();
    match secrets.len() {
        0 => Err(ApiError::body("Too few properties defined (0), minimum 1", "body", "")),
        n if n > MAX_SECRETS => {
            let reason = format!("Too many properties defined ({n}), maximum {MAX_SECRETS}");
            Err(ApiError::body(&reason, "body", ""))
        }
        _ => Ok(secrets),
    }
}

/// Parses the body of a POST.
pub(super) fn parse_create(value: Value) -> Result<HookFields, ApiError> {
    let mut body = Object::new("", value)?;
    let name = parse_name(&mut body)?.ok_or_else(|| body.missing("name"))?;
    let script = parse_script(&mut body)?.ok_or_else(|| body.missing("script"))?;
    let about = "Execution stage of this rule";
    let trigger_id =
        body.take_string("triggerId", about, (0, 64))?.ok_or_else(|| body.missing("triggerId"))?;
    if !TRIGGERS.contains(&trigger_id.as_str()) {
        return Err(body.invalid(&format!("No enum match for: {trigger_id}"), "triggerId", about));
    }
    let dependencies = parse_dependencies(&mut body)?.unwrap_or_default();
    let enabled = parse_enabled(&mut body)?.unwrap_or(false);
    body.reject_unknown()?;
    Ok(HookFields { name, script, dependencies, trigger_id, enabled })
}

/// Parses the body of a PATCH and merges it into the old fields. The trigger cannot be changed.
pub(super) fn parse_patch(value: Value, old: &HookFields) -> Result<HookFields, ApiError> {
    let mut body = Object::new("", value)?;
    if body.is_empty() {
        return Err(ApiError::body("Too few properties defined (0), minimum 1", "body", ""));
    }
    let fields = HookFields {
        name: parse_name(&mut body)?.unwrap_or_else(|| old.name.clone()),
        script: parse_script(&mut body)?.unwrap_or_else(|| old.script.clone()),
        dependencies: parse_dependencies(&mut body)?.unwrap_or_else(|| old.dependencies.clone()),
        trigger_id: old.trigger_id.clone(),
        enabled: parse_enabled(&mut body)?.unwrap_or(old.enabled),
    };
    body.reject_unknown()?;
    Ok(fields)
}

fn parse_name(body: &mut Object) -> Result<Option<String>, ApiError> {
    const ABOUT: &str = "Name of this hook";
    let Some(name) = body.take_string("name", ABOUT, (0, 1024))? else { return Ok(None) };
    let is_alphanumeric = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let has_valid_characters = name.chars().all(|c| c.is_ascii_alphanumeric() || c == ' ' || c == '-');
    if has_valid_characters && is_alphanumeric(name.chars().next()) && is_alphanumeric(name.chars().last()) {
        return Ok(Some(name));
    }
    let reason = format!("String does not match pattern ^[a-zA-Z0-9]([ \\-a-zA-Z0-9]*[a-zA-Z0-9])?$: {name}");
    Err(body.invalid(&reason, "name", ABOUT))
}

fn parse_script(body: &mut Object) -> Result<Option<String>, ApiError> {
    body.take_string("script", "Code to be executed when this hook runs", (1, 1 << 20))
}

fn parse_enabled(body: &mut Object) -> Result<Option<bool>, ApiError> {
    body.take_boolean("enabled", "Whether this hook will be executed (true) or ignored (false)")
}

fn parse_dependencies(body: &mut Object) -> Result<Option<BTreeMap<String, String>>, ApiError> {
    let value = body.take("dependencies");
    value.map(|value| string_map("dependencies", value).map(Iterator::collect)).transpose()
}

/// Returns an id of 26 characters that sorts by creation time.
pub(super) fn new_id(now: crate::core::time::Millis) -> String {
    const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let millis = u128::try_from(now.0).unwrap_or_default();
    let bits = (millis << 80) | (fastrand::u128(..) >> 48);
    let digit = |at: u32| {
        let five = usize::try_from((bits >> (5 * (25 - at))) & 31).unwrap_or_default();
        char::from(ALPHABET.get(five).copied().unwrap_or(b'0'))
    };
    (0..26).map(digit).collect()
}

/// Keeps the members that `fields` of a query names, or with `include_fields=false` all others. Keeps all without it.
pub(super) fn select_fields(mut object: Map<String, Value>, fields: Option<&str>, include: bool) -> Value {
    if let Some(fields) = fields.filter(|fields| !fields.is_empty()) {
        let named: Vec<&str> = fields.split(',').map(str::trim).collect();
        object.retain(|name, _| named.contains(&name.as_str()) == include);
    }
    json!(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::time::Millis;

    #[test]
    fn ids_sort_by_time() {
        let (early, late) = (new_id(Millis(1_700_000_000_000)), new_id(Millis(1_700_000_000_001)));
        assert!(early.len() == 26 && early < late, "{early} {late}");
        assert!(early.starts_with("01HF7YAT00"), "{early}");
    }

    #[test]
    fn validates_names() {
        let parse = |name: &str| parse_create(json!({"name": name, "script": "x", "triggerId": TRIGGERS[0]}));
        for good in ["a", "my hook", "A-1 b"] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in ["", " a", "a-", "a_b", "ä"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn validates_bodies() {
        let message = |value| match parse_create(value) {
            Ok(_) => panic!("accepted"),
            Err(error) => error.message,
        };
        let valid = json!({"name": "a", "script": "x", "triggerId": "credentials-exchange"});
        let with = |name: &str, value: Value| {
            let mut body = valid.clone();
            body[name] = value;
            body
        };
        assert!(message(with("triggerId", "x".into())).contains("No enum match for: x"));
        assert!(message(with("script", "".into())).contains("too short"));
        assert!(message(with("enabled", 1.into())).contains("Expected type boolean but found type integer"));
        assert!(message(with("dependencies", json!({"a": 1}))).contains("dependencies.a"));
        assert!(message(with("more", 1.into())).contains("Additional properties not allowed: more"));
        let old = parse_create(with("enabled", true.into())).unwrap_or_else(|_| panic!());
        assert!(old.enabled);
        for bad in [json!({}), json!({"triggerId": "credentials-exchange"}), json!([])] {
            assert!(parse_patch(bad, &old).is_err());
        }
        let new = parse_patch(json!({"enabled": false}), &old).unwrap_or_else(|_| panic!());
        assert_eq!((new.enabled, new.name.as_str()), (false, "a"));
    }

    #[test]
    fn selects_fields() {
        let object = || json!({"id": 1, "name": 2}).as_object().unwrap().clone();
        assert_eq!(select_fields(object(), Some("id"), true), json!({"id": 1}));
        assert_eq!(select_fields(object(), Some("id"), false), json!({"name": 2}));
        assert_eq!(select_fields(object(), None, true), json!({"id": 1, "name": 2}));
    }
}
