//! What a document of a manifest file defines: an object, a Secret or a ConfigMap.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::api_version::{Ownership, ownership};
use super::data_objects::read_data_object;
use super::objects::{normalize, schema_errors};
use crate::api::{EventHook, GROUP};
use crate::cluster::{Data, DeserializeGuard, ObjectChange, ObjectKey, ResourceKind};
use crate::core::hook::EventSelector;
use crate::core::names::{NAMESPACE_RULE, OBJECT_NAME_RULE, is_namespace, is_object_name};
use crate::core::schema::SchemaViolation;

/// The namespace of an object without one.
pub const DEFAULT_NAMESPACE: &str = "default";

/// The kind and name of what a document defines.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ManifestKey {
    Object(ResourceKind, ObjectKey),
    Secret(ObjectKey),
    ConfigMap(ObjectKey),
}

impl ManifestKey {
    pub fn kind(&self) -> &'static str {
        match self {
            ManifestKey::Object(kind, _) => kind.into(),
            ManifestKey::Secret(_) => "Secret",
            ManifestKey::ConfigMap(_) => "ConfigMap",
        }
    }

    pub fn name(&self) -> &ObjectKey {
        match self {
            ManifestKey::Object(_, key) | ManifestKey::Secret(key) | ManifestKey::ConfigMap(key) => key,
        }
    }

    /// Returns the change to report of a Secret or ConfigMap.
    pub fn data_change(&self) -> Option<ObjectChange> {
        match self {
            ManifestKey::Object(..) => None,
            ManifestKey::Secret(key) => Some(ObjectChange::Secret(key.clone())),
            ManifestKey::ConfigMap(key) => Some(ObjectChange::ConfigMap(key.clone())),
        }
    }
}

impl fmt::Display for ManifestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.name())
    }
}

/// The object of a document, as the API server would store it.
#[derive(Debug)]
pub struct ObjectManifest {
    pub value: Value,
    /// The hash of the spec, hexadecimal.
    pub spec_hash: String,
    /// The events that an EventHook selects. None: another kind, or an object that cannot be read.
    pub selector: Option<EventSelector>,
}

/// What a document defines.
#[derive(Debug)]
pub enum Content {
    Object(ObjectManifest),
    Data(Arc<Data>),
}

/// What a document defines, with its key and hash.
#[derive(Debug)]
pub struct Definition {
    pub key: ManifestKey,
    pub content: Content,
    /// The hash of the document. Equal documents are no change.
    pub hash: [u8; 32],
    /// Members of a Secret or ConfigMap that are unusable, without their values.
    pub problems: Vec<String>,
}

impl Definition {
    /// Returns the hash of a document.
    pub fn hash_of(document: &Value) -> [u8; 32] {
        Sha256::digest(document.to_string()).into()
    }

    /// Reads a document with this hash. None: it belongs to another application. An error: it is unusable.
    pub fn of_document(document: &Value, hash: [u8; 32], keep_state: bool) -> Result<Option<Self>, String> {
        if !document.is_object() {
            return Err("a document is no object: it needs apiVersion, kind and metadata".to_owned());
        }
        let owner = ownership(document);
        let kind = match owner {
            // A GitOps folder also contains objects of other applications.
            Ownership::Foreign | Ownership::Namesake(_) => return Ok(None),
            Ownership::Mistyped(problem) => {
                let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str);
                let namespace = text("/metadata/namespace").unwrap_or(DEFAULT_NAMESPACE);
                let name = text("/metadata/name").unwrap_or_default();
                return Err(format!("{namespace:.64}/{name:.64} is ignored: {problem}"));
            }
            Ownership::Own(kind) | Ownership::Data(kind) => kind,
        };
        let name = document.pointer("/metadata/name").and_then(Value::as_str);
        let key = read_key(document, kind, name.ok_or("a document has no metadata.name")?)?;
        let (key, content, problems) = match (&owner, kind) {
            (Ownership::Data(_), _) => {
                let (data, problems) = read_data_object(document, kind);
                // Without the key: in a malformed Secret it may be a secret that was written in the wrong place.
                let in_object = |problem: &SchemaViolation| {
                    let map = problem.field.split('.').next().unwrap_or_default();
                    format!("{kind} {key}: {map}: {}", problem.problem)
                };
                let problems = problems.iter().map(in_object).collect();
                let key =
                    if kind == "Secret" { ManifestKey::Secret(key) } else { ManifestKey::ConfigMap(key) };
                (key, Content::Data(Arc::new(data)), problems)
            }
            _ => {
                let own: ResourceKind =
                    kind.parse().map_err(|_| format!("kind {kind} does not exist in {GROUP}"))?;
                let object = read_object(document, own, &key, keep_state);
                (ManifestKey::Object(own, key), Content::Object(object), Vec::new())
            }
        };
        Ok(Some(Definition { key, content, hash, problems }))
    }

    pub fn object(&self) -> Option<&ObjectManifest> {
        match &self.content {
            Content::Object(object) => Some(object),
            Content::Data(_) => None,
        }
    }

    pub fn data(&self) -> Option<&Arc<Data>> {
        match &self.content {
            Content::Data(data) => Some(data),
            Content::Object(_) => None,
        }
    }
}

/// Reads the name and namespace of a document. They become parts of paths, so other names than the API server's are
/// rejected.
fn read_key(document: &Value, kind: &str, name: &str) -> Result<ObjectKey, String> {
    let namespace = match document.pointer("/metadata/namespace") {
        None | Some(Value::Null) => DEFAULT_NAMESPACE,
        Some(Value::String(namespace)) if namespace.is_empty() => DEFAULT_NAMESPACE,
        Some(Value::String(namespace)) => namespace,
        Some(_) => return Err(format!("{kind} {name:.64} is ignored: metadata.namespace must be a string")),
    };
    if !is_object_name(name) {
        return Err(format!("{kind} {name:.64} is ignored: metadata.name {OBJECT_NAME_RULE}"));
    }
    if !is_namespace(namespace) {
        return Err(format!("{kind} {name} is ignored: metadata.namespace {namespace:.64} {NAMESPACE_RULE}"));
    }
    Ok(ObjectKey::new(namespace, name))
}

fn read_object(document: &Value, kind: ResourceKind, key: &ObjectKey, keep_state: bool) -> ObjectManifest {
    let errors = schema_errors(document);
    let value = normalize(document, kind, key, keep_state, errors.as_deref());
    let spec = document.get("spec").unwrap_or(&Value::Null);
    let readable = (kind == ResourceKind::EventHook)
        .then(|| DeserializeGuard::<EventHook>::from_value(&value))
        .flatten()
        .and_then(|guard| guard.0.ok());
    ObjectManifest {
        spec_hash: hex::encode(Sha256::digest(spec.to_string())),
        selector: readable.map(|hook| EventSelector::of(&hook.spec)),
        value,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const API_VERSION: &str = "hookstream.dev/v1alpha1";

    fn read(document: Value) -> Result<Option<Definition>, String> {
        Definition::of_document(&document, [0; 32], false)
    }

    #[test]
    fn reads_own_objects_and_ignores_others() {
        let hook =
            json!({"apiVersion": API_VERSION, "kind": "EventHook", "metadata": {"name": "a"}, "spec": {}});
        let definition = read(hook.clone()).unwrap().unwrap();
        assert_eq!(definition.key.to_string(), "EventHook default/a");
        for other in [
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": ".."}}),
            json!({"kind": "Deployment", "metadata": {"name": "c"}}),
            json!({"apiVersion": "example.com/v1", "kind": "Secret", "metadata": {"name": "s"}}),
        ] {
            assert!(read(other.clone()).unwrap().is_none(), "{other}");
        }
        let mut without_version = hook.clone();
        without_version.as_object_mut().unwrap().remove("apiVersion");
        assert_eq!(
            read(without_version).unwrap_err(),
            "default/a is ignored: EventHook has no apiVersion: write hookstream.dev/v1alpha1"
        );
        let mut mistyped = hook.clone();
        mistyped["apiVersion"] = json!("hookstream.io/v1alpha1");
        assert!(read(mistyped).unwrap_err().contains("write apiVersion: hookstream.dev/v1alpha1"));
        assert!(read(json!(["a"])).unwrap_err().contains("no object"));
        let mut unknown = hook;
        unknown["kind"] = json!("EventHok");
        assert!(read(unknown).unwrap_err().contains("does not exist"));
    }

    /// A name becomes a part of the path of a file.
    #[test]
    fn rejects_names_that_the_api_server_rejects() {
        for kind in ["EventHook", "Connection", "Secret", "ConfigMap"] {
            let version = if kind.starts_with(['E']) || kind == "Connection" { API_VERSION } else { "v1" };
            let with = |metadata: Value| {
                read(json!({"apiVersion": version, "kind": kind, "metadata": metadata}))
                    .map(|found| found.is_some())
            };
            assert_eq!(with(json!({"name": "a.b", "namespace": "n"})), Ok(true));
            assert_eq!(with(json!({"name": "a", "namespace": ""})), Ok(true));
            for metadata in [
                json!({"name": ".."}),
                json!({"name": "../../x"}),
                json!({"name": "A"}),
                json!({"name": "a", "namespace": ".."}),
                json!({"name": "a", "namespace": "a/b"}),
                json!({"name": "a", "namespace": "a.b"}),
                json!({"name": "a", "namespace": 2026}),
                json!({"name": 2026}),
            ] {
                let problem = with(metadata.clone()).unwrap_err();
                assert!(problem.contains("metadata.name"), "{metadata}: {problem}");
            }
        }
    }

    #[test]
    fn knows_the_selector_of_readable_hooks_only() {
        let selector = |kind: &str, spec: Value| {
            let document =
                json!({"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": "a"}, "spec": spec});
            let definition = read(document).unwrap().unwrap();
            definition.object().unwrap().selector.clone().map(|selector| selector.source)
        };
        let source = |spec: Value| selector("EventHook", spec);
        assert_eq!(source(json!({"source": "s", "handler": {"log": {}}})).as_deref(), Some("s"));
        assert_eq!(
            source(json!({"source": "s", "handler": {}})).as_deref(),
            Some("s"),
            "invalid, but readable"
        );
        assert_eq!(source(json!({"source": "s", "handler": {"log": {}}, "rotation": 2026})), None);
        assert_eq!(selector("Connection", json!({"kong": {"adminUrl": "http://k"}})), None);
    }
}
