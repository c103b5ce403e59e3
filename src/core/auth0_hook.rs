//! Validates Auth0 extensibility Hooks.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::hook::{InvalidSpec, check_not_rejected};
use super::time::Millis;
use crate::api::{CaKind, ConfigMapKeyRef, Hook, HookSecret, Trigger};

/// Auth0's end-of-life date for Hooks: 18 November 2026, 00:00 UTC.
pub const END_OF_LIFE: Millis = Millis(1_794_960_000_000);
/// Auth0 returns this placeholder instead of a secret. Writing it back would overwrite the secret.
pub const PLACEHOLDER: &str = "_VALUE_NOT_SHOWN_";

/// A validated Hook with defaults applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    pub uid: Arc<str>,
    pub namespace: Arc<str>,
    /// The name of the Kubernetes object.
    pub object: Arc<str>,
    /// The name at Auth0.
    pub name: String,
    pub trigger: Trigger,
    pub source: ScriptSource,
    pub dependencies: BTreeMap<String, String>,
    pub enabled: bool,
    pub secrets: Vec<HookSecret>,
    /// The name of the Connection.
    pub connection: String,
}

/// The location of a script's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScriptSource {
    Inline(String),
    ConfigMap(ConfigMapKeyRef),
}

impl Script {
    /// Returns true if the hook reads the Secret or ConfigMap with this name.
    pub fn refers_to(&self, kind: CaKind, name: &str) -> bool {
        match kind {
            CaKind::Secret => self.secrets.iter().any(|s| s.secret_ref.name == name),
            CaKind::ConfigMap => matches!(&self.source, ScriptSource::ConfigMap(r) if r.name == name),
        }
    }
}

fn invalid(field: &'static str, problem: impl Into<String>) -> InvalidSpec {
    InvalidSpec::InvalidSpec { field, problem: problem.into() }
}

/// Validates a Hook. Repeats the CRD's rules, because standalone mode has no API server.
pub fn validate(hook: &Hook) -> Result<Script, InvalidSpec> {
    check_not_rejected(&hook.metadata)?;
    let spec = &hook.spec;
    let source = match (&spec.script, &spec.script_config_map_ref) {
        (Some(text), None) => {
            ScriptSource::Inline(check_script(text).map_err(|e| invalid("script", e))?.to_owned())
        }
        (None, Some(reference)) => ScriptSource::ConfigMap(reference.clone()),
        _ => return Err(invalid("script", "exactly one of script, scriptConfigMapRef must be set")),
    };
    if !is_name(&spec.name) {
        return Err(invalid(
            "name",
            "must consist of letters, digits, spaces and hyphens, and begin and end with a letter or digit",
        ));
    }
    let secrets = spec.secrets.clone().unwrap_or_default();
    let names: std::collections::BTreeSet<&str> = secrets.iter().map(|s| s.name.as_str()).collect();
    if names.len() != secrets.len() || secrets.len() > 20 {
        return Err(invalid("secrets", "must have at most 20 entries with different names"));
    }
    let meta = &hook.metadata;
    Ok(Script {
        uid: meta.uid.as_deref().unwrap_or_default().into(),
        namespace: meta.namespace.as_deref().unwrap_or_default().into(),
        object: meta.name.as_deref().unwrap_or_default().into(),
        name: spec.name.clone(),
        trigger: spec.trigger_id,
        source,
        dependencies: spec.dependencies.clone().unwrap_or_default(),
        enabled: spec.enabled.unwrap_or(true),
        secrets,
        connection: spec.connection_ref.name.clone(),
    })
}

/// Checks that a script is not blank and at most 100 KiB long.
pub fn check_script(text: &str) -> Result<&str, &'static str> {
    match text.len() {
        _ if text.trim().is_empty() => Err("is empty"),
        0..=102_400 => Ok(text),
        _ => Err("is longer than 100 KiB"),
    }
}

fn is_name(name: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let inner = name.chars().all(|c| c.is_ascii_alphanumeric() || c == ' ' || c == '-');
    inner && name.len() <= 128 && edge(name.chars().next()) && edge(name.chars().next_back())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn hook(changes: Value) -> Hook {
        let mut spec = json!({"connectionRef": {"name": "auth0"}, "name": "my hook-1",
            "triggerId": "credentials-exchange", "script": "module.exports = 1"});
        for (key, value) in changes.as_object().unwrap() {
            spec[key] = value.clone();
        }
        serde_json::from_value(json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "Hook",
            "metadata": {"name": "o", "namespace": "n", "uid": "u"}, "spec": spec}))
        .unwrap()
    }

    #[test]
    fn applies_defaults_and_finds_references() {
        let valid = validate(&hook(json!({}))).unwrap();
        assert!(valid.enabled && valid.secrets.is_empty() && valid.dependencies.is_empty());
        assert_eq!(valid.source, ScriptSource::Inline("module.exports = 1".into()));
        let valid = validate(&hook(json!({"script": null, "scriptConfigMapRef": {"name": "c", "key": "k"},
            "secrets": [{"name": "A", "secretRef": {"name": "s", "key": "k"}}]})))
        .unwrap();
        assert!(valid.refers_to(CaKind::Secret, "s") && valid.refers_to(CaKind::ConfigMap, "c"));
        assert!(!valid.refers_to(CaKind::Secret, "c") && !valid.refers_to(CaKind::ConfigMap, "s"));
    }

    #[test]
    fn names_the_invalid_field() {
        let secret = json!({"name": "A", "secretRef": {"name": "s", "key": "k"}});
        let cases = [
            (json!({"script": null}), "script"),
            (json!({"scriptConfigMapRef": {"name": "c", "key": "k"}}), "script"),
            (json!({"script": " \n"}), "script"),
            (json!({"script": "a".repeat(102_401)}), "script"),
            (json!({"name": "-a"}), "name"),
            (json!({"name": "a "}), "name"),
            (json!({"name": ""}), "name"),
            (json!({"name": "a_b"}), "name"),
            (json!({"secrets": [secret, secret]}), "secrets"),
        ];
        for (changes, want) in cases {
            match validate(&hook(changes)).unwrap_err() {
                InvalidSpec::InvalidSpec { field, .. } => assert_eq!(field, want),
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn end_of_life_is_at_midnight_utc() {
        assert_eq!(END_OF_LIFE.rfc3339(), "2026-11-18T00:00:00.000Z");
    }
}
