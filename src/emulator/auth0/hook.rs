//! An extensibility Hook and its secrets.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::body::{Object, texts};
use super::error::ApiError;

/// What reads show instead of a secret's value.
const PLACEHOLDER: &str = "_VALUE_NOT_SHOWN_";
const MAX_SECRETS: usize = 20;
pub(super) const TRIGGERS: [&str; 5] = [
    "credentials-exchange",
    "pre-user-registration",
    "post-user-registration",
    "post-change-password",
    "send-phone-message",
];

/// One hook. No `Debug`: it holds secrets.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Hook {
    pub id: String,
    #[serde(flatten)]
    pub fields: Fields,
    pub secrets: BTreeMap<String, String>,
    /// Reads do not see it before (fault `lagMs`).
    #[serde(skip)]
    pub visible_at: Option<Instant>,
}

/// What the caller may set.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Fields {
    pub name: String,
    pub script: String,
    pub dependencies: BTreeMap<String, String>,
    pub trigger_id: String,
    pub enabled: bool,
}

impl Hook {
    pub fn visible(&self) -> bool {
        self.visible_at.is_none_or(|at| Instant::now() >= at)
    }

    pub fn shown(&self) -> Map<String, Value> {
        let mut shown = match serde_json::to_value(&self.fields) {
            Ok(Value::Object(shown)) => shown,
            _ => Map::new(),
        };
        shown.insert("id".into(), self.id.clone().into());
        shown
    }

    /// As a list shows it: the vendor's deploy tool reads every hook by itself, for the list has no scripts.
    pub fn listed(&self) -> Map<String, Value> {
        let mut shown = self.shown();
        shown.remove("script");
        shown
    }

    pub fn secret_names(&self) -> Value {
        self.secrets.keys().map(|name| (name.clone(), Value::from(PLACEHOLDER))).collect::<Map<_, _>>().into()
    }

    /// POST: adds secrets, none of which may be there.
    pub fn add_secrets(&mut self, value: Value) -> Result<(), ApiError> {
        let new = secrets(value)?;
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

    /// PATCH: changes secrets, all of which must be there. The placeholder is a value like any other, as at Auth0.
    pub fn change_secrets(&mut self, value: Value) -> Result<(), ApiError> {
        let new = secrets(value)?;
        if let Some(name) = new.keys().find(|name| !self.secrets.contains_key(*name)) {
            let message = format!("The secret {name} does not exist");
            return Err(ApiError::new(axum::http::StatusCode::NOT_FOUND, message));
        }
        self.secrets.extend(new);
        Ok(())
    }

    /// DELETE: a list of names; a name that is not there is no mistake.
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

fn secrets(value: Value) -> Result<BTreeMap<String, String>, ApiError> {
    let secrets: BTreeMap<String, String> = texts("", value)?.collect();
    match secrets.len() {
        0 => Err(ApiError::body("Too few properties defined (0), minimum 1", "body", "")),
        n if n > MAX_SECRETS => {
            let reason = format!("Too many properties defined ({n}), maximum {MAX_SECRETS}");
            Err(ApiError::body(&reason, "body", ""))
        }
        _ => Ok(secrets),
    }
}

/// Reads the body of a POST.
pub(super) fn create(value: Value) -> Result<Fields, ApiError> {
    let mut body = Object::new("", value)?;
    let name = name(&mut body)?.ok_or_else(|| body.missing("name"))?;
    let script = script(&mut body)?.ok_or_else(|| body.missing("script"))?;
    let about = "Execution stage of this rule";
    let trigger_id = body.text("triggerId", about, (0, 64))?.ok_or_else(|| body.missing("triggerId"))?;
    if !TRIGGERS.contains(&trigger_id.as_str()) {
        return Err(body.refuse(&format!("No enum match for: {trigger_id}"), "triggerId", about));
    }
    let dependencies = dependencies(&mut body)?.unwrap_or_default();
    let enabled = enabled(&mut body)?.unwrap_or(false);
    body.end()?;
    Ok(Fields { name, script, dependencies, trigger_id, enabled })
}

/// Reads the body of a PATCH and lays it over what there is. The trigger is no property of it.
pub(super) fn patch(value: Value, old: &Fields) -> Result<Fields, ApiError> {
    let mut body = Object::new("", value)?;
    if body.is_empty() {
        return Err(ApiError::body("Too few properties defined (0), minimum 1", "body", ""));
    }
    let fields = Fields {
        name: name(&mut body)?.unwrap_or_else(|| old.name.clone()),
        script: script(&mut body)?.unwrap_or_else(|| old.script.clone()),
        dependencies: dependencies(&mut body)?.unwrap_or_else(|| old.dependencies.clone()),
        trigger_id: old.trigger_id.clone(),
        enabled: enabled(&mut body)?.unwrap_or(old.enabled),
    };
    body.end()?;
    Ok(fields)
}

fn name(body: &mut Object) -> Result<Option<String>, ApiError> {
    const ABOUT: &str = "Name of this hook";
    let Some(name) = body.text("name", ABOUT, (0, 1024))? else { return Ok(None) };
    let at_ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let inside = name.chars().all(|c| c.is_ascii_alphanumeric() || c == ' ' || c == '-');
    if inside && at_ends(name.chars().next()) && at_ends(name.chars().last()) {
        return Ok(Some(name));
    }
    let reason = format!("String does not match pattern ^[a-zA-Z0-9]([ \\-a-zA-Z0-9]*[a-zA-Z0-9])?$: {name}");
    Err(body.refuse(&reason, "name", ABOUT))
}

fn script(body: &mut Object) -> Result<Option<String>, ApiError> {
    body.text("script", "Code to be executed when this hook runs", (1, 1 << 20))
}

fn enabled(body: &mut Object) -> Result<Option<bool>, ApiError> {
    body.boolean("enabled", "Whether this hook will be executed (true) or ignored (false)")
}

fn dependencies(body: &mut Object) -> Result<Option<BTreeMap<String, String>>, ApiError> {
    let given = body.take("dependencies");
    given.map(|value| texts("dependencies", value).map(Iterator::collect)).transpose()
}

/// A text of 26 characters that sorts by the time at which it was made.
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

/// The members that `fields` of a query names; all without it. `include_fields=false` turns it round.
pub(super) fn choose(mut shown: Map<String, Value>, fields: Option<&str>, include: bool) -> Value {
    if let Some(fields) = fields.filter(|fields| !fields.is_empty()) {
        let named: Vec<&str> = fields.split(',').map(str::trim).collect();
        shown.retain(|name, _| named.contains(&name.as_str()) == include);
    }
    json!(shown)
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
    fn names() {
        let read = |name: &str| create(json!({"name": name, "script": "x", "triggerId": TRIGGERS[0]}));
        for good in ["a", "my hook", "A-1 b"] {
            assert!(read(good).is_ok(), "{good}");
        }
        for bad in ["", " a", "a-", "a_b", "ä"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_a_body_may_hold() {
        let message = |value| match create(value) {
            Ok(_) => panic!("taken"),
            Err(error) => error.message,
        };
        let whole = json!({"name": "a", "script": "x", "triggerId": "credentials-exchange"});
        let with = |name: &str, value: Value| {
            let mut body = whole.clone();
            body[name] = value;
            body
        };
        assert!(message(with("triggerId", "x".into())).contains("No enum match for: x"));
        assert!(message(with("script", "".into())).contains("too short"));
        assert!(message(with("enabled", 1.into())).contains("Expected type boolean but found type integer"));
        assert!(message(with("dependencies", json!({"a": 1}))).contains("dependencies.a"));
        assert!(message(with("more", 1.into())).contains("Additional properties not allowed: more"));
        let old = create(with("enabled", true.into())).unwrap_or_else(|_| panic!());
        assert!(old.enabled);
        for bad in [json!({}), json!({"triggerId": "credentials-exchange"}), json!([])] {
            assert!(patch(bad, &old).is_err());
        }
        let new = patch(json!({"enabled": false}), &old).unwrap_or_else(|_| panic!());
        assert_eq!((new.enabled, new.name.as_str()), (false, "a"));
    }

    #[test]
    fn fields_are_chosen() {
        let shown = || json!({"id": 1, "name": 2}).as_object().unwrap().clone();
        assert_eq!(choose(shown(), Some("id"), true), json!({"id": 1}));
        assert_eq!(choose(shown(), Some("id"), false), json!({"name": 2}));
        assert_eq!(choose(shown(), None, true), json!({"id": 1, "name": 2}));
    }
}
