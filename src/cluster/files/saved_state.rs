//! The state of one object, as it is stored: status, finalizers, annotations and generation.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::definition::ObjectManifest;
use super::objects::{FileObject, object_uid};
use super::state_backend::ObjectId;
use crate::cluster::{DeliveryStatus, Metadata, ObjectKey, ResourceKind};
use crate::core::conditions::DELIVERING;
use crate::core::hook::EventSelector;
use crate::core::time::Millis;

/// The state of one object.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SavedState {
    pub namespace: String,
    pub name: String,
    pub kind: String,
    #[serde(default)]
    generation: i64,
    /// The hash of the spec at this generation.
    #[serde(default)]
    spec_hash: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    finalizers: Vec<String>,
    /// Annotations that the controller wrote.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    status: Value,
    /// The time at which the removal of the manifest was detected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<Millis>,
    /// The last manifest, kept while there is a finalizer: it describes what to clean up once the file is removed.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    manifest: Value,
    /// The events that the last readable manifest of an EventHook selects. While its manifest cannot be read, also after a
    /// restart, these events are held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    selector: Option<EventSelector>,
    /// The file that defined the object last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// What follows from the manifests that a process has read since the state was stored.
#[derive(Clone, Debug, Default)]
pub struct Adoption {
    generation: i64,
    spec_hash: String,
    selector: Option<EventSelector>,
}

impl Adoption {
    /// Counts a changed spec as a new generation, and keeps what the last readable manifest selects.
    pub fn adopt(&mut self, manifest: &ObjectManifest) {
        if self.spec_hash != manifest.spec_hash {
            self.generation += 1;
            self.spec_hash.clone_from(&manifest.spec_hash);
        }
        if manifest.selector.is_some() {
            self.selector.clone_from(&manifest.selector);
        }
    }

    /// Continues from a state that another process stored. A later generation of this process's manifests stays.
    pub fn rebase(&mut self, saved: &SavedState) {
        if self.spec_hash == saved.spec_hash || self.generation <= saved.generation {
            *self = saved.adoption();
        }
    }
}

impl SavedState {
    pub fn new((kind, key): &ObjectId) -> SavedState {
        let kind: &str = kind.into();
        SavedState {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            kind: kind.to_owned(),
            ..SavedState::default()
        }
    }

    pub fn adoption(&self) -> Adoption {
        Adoption {
            generation: self.generation,
            spec_hash: self.spec_hash.clone(),
            selector: self.selector.clone(),
        }
    }

    pub fn set_adoption(&mut self, adopted: &Adoption) {
        self.generation = adopted.generation;
        self.spec_hash.clone_from(&adopted.spec_hash);
        self.selector.clone_from(&adopted.selector);
    }

    /// True if the object exists at a vendor, and what to clean up is known.
    pub fn needs_cleanup(&self) -> bool {
        !self.finalizers.is_empty() && !self.manifest.is_null()
    }

    pub fn has_finalizers(&self) -> bool {
        !self.finalizers.is_empty()
    }

    /// Replaces the controller's part of a status and keeps the worker's.
    pub fn set_status(&mut self, mut status: Value) {
        if let Some(delivering) =
            conditions_mut(&mut self.status).and_then(|all| all.iter().find(|c| is_delivering(c)).cloned())
        {
            set_delivering_condition(&mut status, delivering);
        }
        if let Some(resume) = self.status.pointer("/handled/resume").filter(|r| r.is_string()) {
            set_member(&mut status, "handled", "resume", resume.clone());
        }
        if let (Some(delivery), Some(status)) = (self.status.get("delivery"), status.as_object_mut()) {
            status.insert("delivery".into(), delivery.clone());
        }
        self.status = status;
    }

    /// Sets the worker's part of a status and keeps the controller's.
    pub fn set_delivery_status(&mut self, delivery: &DeliveryStatus) {
        if !self.status.is_object() {
            self.status = json!({});
        }
        let DeliveryStatus { condition, report, resumed } = delivery;
        set_delivering_condition(&mut self.status, json!(condition));
        if let Some(status) = self.status.as_object_mut() {
            status.insert("delivery".into(), json!(report));
        }
        if let Some(resumed) = resumed {
            set_member(&mut self.status, "handled", "resume", json!(resumed));
        }
    }

    /// Changes finalizers and annotations. `manifest`: the present one.
    pub fn set_metadata(&mut self, metadata: &Metadata, manifest: Option<&ObjectManifest>) {
        if let Some(finalizers) = &metadata.finalizers {
            self.finalizers.clone_from(finalizers);
        }
        for (name, value) in &metadata.annotations {
            match value {
                Some(value) => drop(self.annotations.insert((*name).to_owned(), value.clone())),
                None => drop(self.annotations.remove(*name)),
            }
        }
        if let Some(manifest) = manifest {
            self.manifest = manifest.value.clone();
        }
    }

    /// Returns the object of a manifest as the API server would return it.
    pub fn object(&self, manifest: &ObjectManifest, adopted: &Adoption) -> FileObject {
        let value = self.with_state(manifest.value.clone(), adopted, None);
        FileObject { value, last_selector: adopted.selector.clone(), problem: None }
    }

    /// Returns the object of the last manifest as the API server would return it. With `removed` it is being deleted.
    pub fn last_object(&self, adopted: &Adoption, removed: Option<Millis>) -> FileObject {
        FileObject::new(self.with_state(self.manifest.clone(), adopted, removed))
    }

    /// Returns a hook of which only the state is known, because its manifest is missing or its file cannot be read.
    pub fn unreadable_hook(&self, key: &ObjectKey, adopted: &Adoption) -> FileObject {
        let kind = ResourceKind::EventHook.into();
        let manifest = json!({"kind": kind, "metadata": {
            "name": key.name, "namespace": key.namespace, "uid": object_uid(kind, &key.namespace, &key.name)}});
        let file = self.file.as_deref().unwrap_or("its file");
        FileObject {
            value: self.with_state(manifest, adopted, None),
            last_selector: adopted.selector.clone(),
            problem: Some(format!("{file} does not define it at the moment: correct the file, or remove it")),
        }
    }

    fn with_state(&self, mut manifest: Value, adopted: &Adoption, removed: Option<Millis>) -> Value {
        if !self.status.is_null()
            && let Some(object) = manifest.as_object_mut()
        {
            object.insert("status".into(), self.status.clone());
        }
        let content = format!("{manifest}{:?}{:?}{removed:?}", self.finalizers, self.annotations);
        let version = hex::encode(Sha256::digest(content).get(..8).unwrap_or(&[]));
        if let Some(metadata) = manifest.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("generation".into(), json!(adopted.generation));
            metadata.insert("resourceVersion".into(), json!(version));
            if !self.finalizers.is_empty() {
                metadata.insert("finalizers".into(), json!(self.finalizers));
            }
            if !self.annotations.is_empty()
                && let Some(annotations) =
                    metadata.entry("annotations").or_insert_with(|| json!({})).as_object_mut()
            {
                annotations.extend(self.annotations.iter().map(|(name, value)| (name.clone(), json!(value))));
            }
            if let Some(removed) = removed {
                metadata.insert("deletionTimestamp".into(), json!(removed.rfc3339()));
            }
        }
        manifest
    }
}

fn conditions_mut(status: &mut Value) -> Option<&mut Vec<Value>> {
    status.get_mut("conditions")?.as_array_mut()
}

fn is_delivering(condition: &Value) -> bool {
    condition.get("type").and_then(Value::as_str) == Some(DELIVERING)
}

fn set_delivering_condition(status: &mut Value, condition: Value) {
    match conditions_mut(status) {
        Some(all) => {
            all.retain(|c| !is_delivering(c));
            all.push(condition);
        }
        None => {
            if let Some(status) = status.as_object_mut() {
                status.insert("conditions".into(), json!([condition]));
            }
        }
    }
}

fn set_member(status: &mut Value, member: &str, name: &str, value: Value) {
    let Some(status) = status.as_object_mut() else { return };
    let member = status.entry(member).or_insert_with(|| json!({}));
    if let Some(member) = member.as_object_mut() {
        member.insert(name.into(), value);
    }
}
