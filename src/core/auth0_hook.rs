//! An extensibility Hook of Auth0, understood.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::hook::{InvalidSpec, not_refused};
use super::time::Millis;
use crate::api::{CaKind, ConfigMapKeyRef, Hook, HookSecret, Trigger};

/// When Auth0 ended Hooks: 18 November 2026, 00:00 UTC.
pub const END_OF_LIFE: Millis = Millis(1_794_960_000_000);
/// What the vendor shows instead of a secret. Written back, it would become the secret.
pub const PLACEHOLDER: &str = "_VALUE_NOT_SHOWN_";

/// A valid hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    pub uid: Arc<str>,
    pub namespace: Arc<str>,
    /// The object's name.
    pub object: Arc<str>,
    /// The name at Auth0.
    pub name: String,
    pub trigger: Trigger,
    pub source: Source,
    pub dependencies: BTreeMap<String, String>,
    pub enabled: bool,
    pub secrets: Vec<HookSecret>,
    /// The name of the Connection.
    pub connection: String,
}

/// Where the script stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Inline(String),
    ConfigMap(ConfigMapKeyRef),
}

impl Script {
    /// True where it reads the Secret or ConfigMap of this name.
    pub fn refers_to(&self, kind: CaKind, name: &str) -> bool {
        match kind {
            CaKind::Secret => self.secrets.iter().any(|s| s.secret_ref.name == name),
            CaKind::ConfigMap => matches!(&self.source, Source::ConfigMap(r) if r.name == name),
        }
    }
}

fn invalid(field: &'static str, problem: impl Into<String>) -> InvalidSpec {
    InvalidSpec::InvalidSpec { field, problem: problem.into() }
}

/// Understands a hook. What the API server refuses is refused again here, for standalone has no API server.
pub fn validate(hook: &Hook) -> Result<Script, InvalidSpec> {
    not_refused(&hook.metadata)?;
    let spec = &hook.spec;
    let source = match (&spec.script, &spec.script_config_map_ref) {
        (Some(text), None) => Source::Inline(script_text(text).map_err(|e| invalid("script", e))?.to_owned()),
        (None, Some(reference)) => Source::ConfigMap(reference.clone()),
        _ => return Err(invalid("script", "exactly one of script, scriptConfigMapRef must be set")),
    };
    if !is_name(&spec.name) {
        return Err(invalid(
            "name",
            "must be letters, digits, spaces and hyphens, beginning and ending with a letter or digit",
        ));
    }
    let secrets = spec.secrets.clone().unwrap_or_default();
    let names: std::collections::BTreeSet<&str> = secrets.iter().map(|s| s.name.as_str()).collect();
    if names.len() != secrets.len() || secrets.len() > 20 {
        return Err(invalid("secrets", "at most 20, and no name twice"));
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

/// A script that Auth0 takes, wherever it stands.
pub fn script_text(text: &str) -> Result<&str, &'static str> {
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
    fn defaults_and_references() {
        let valid = validate(&hook(json!({}))).unwrap();
        assert!(valid.enabled && valid.secrets.is_empty() && valid.dependencies.is_empty());
        assert_eq!(valid.source, Source::Inline("module.exports = 1".into()));
        let valid = validate(&hook(json!({"script": null, "scriptConfigMapRef": {"name": "c", "key": "k"},
            "secrets": [{"name": "A", "secretRef": {"name": "s", "key": "k"}}]})))
        .unwrap();
        assert!(valid.refers_to(CaKind::Secret, "s") && valid.refers_to(CaKind::ConfigMap, "c"));
        assert!(!valid.refers_to(CaKind::Secret, "c") && !valid.refers_to(CaKind::ConfigMap, "s"));
    }

    #[test]
    fn bad_specs_say_where() {
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
    fn the_end_of_life_is_a_day() {
        assert_eq!(END_OF_LIFE.rfc3339(), "2026-11-18T00:00:00.000Z");
    }
}
