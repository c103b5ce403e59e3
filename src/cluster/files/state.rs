//! The state that a cluster would store of each object (status, finalizers, generation): one file for each object.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::atomic_file::write_atomically;
use super::documents::ManifestError;
use super::manifest_set::ManifestSet;
use crate::cluster::{Metadata, ObjectKey, ResourceKind, WriteTarget};
use crate::core::conditions::DELIVERING;
use crate::core::time::Millis;

/// The number of consecutive scans without a manifest after which its object counts as removed. If one scan sufficed,
/// an editor that replaces a file could delete a hook at the vendor.
const SCANS_UNTIL_REMOVED: u32 = 2;

/// The state of all objects.
pub struct StateStore {
    folder: PathBuf,
    saved: BTreeMap<(ResourceKind, ObjectKey), SavedState>,
    /// Consecutive scans in which an object's manifest was missing.
    missing: BTreeMap<(ResourceKind, ObjectKey), u32>,
}

/// The state of one object, as its file stores it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct SavedState {
    namespace: String,
    name: String,
    kind: String,
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
    removed: Option<Millis>,
    /// The last manifest, kept while there is a finalizer: it describes what to clean up once the file is removed.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    manifest: Value,
}

impl StateStore {
    /// Reads the state files of all objects in the data folder.
    pub fn open(data: &Path) -> Result<Self, ManifestError> {
        let folder = data.join("objects");
        fs::create_dir_all(&folder).map_err(|e| ManifestError::new(&folder, e))?;
        let mut saved = BTreeMap::new();
        for entry in fs::read_dir(&folder).map_err(|e| ManifestError::new(&folder, e))? {
            let path = entry.map_err(|e| ManifestError::new(&folder, e))?.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            let text = fs::read_to_string(&path).map_err(|e| ManifestError::new(&path, e))?;
            let state: SavedState = serde_json::from_str(&text).map_err(|e| ManifestError::new(&path, e))?;
            let kind = state
                .kind
                .parse()
                .map_err(|_| ManifestError::new(&path, "unknown kind; was it written by a newer version?"))?;
            saved.insert((kind, ObjectKey::new(&state.namespace, &state.name)), state);
        }
        Ok(StateStore { folder, saved, missing: BTreeMap::new() })
    }

    /// Returns the manifests with their state, and with `prune` also the removed objects that need cleanup.
    /// `is_new_scan` is true if the files were read since the last call. Only then is a missing manifest counted as
    /// missing in one more scan.
    pub fn merge(
        &mut self,
        manifests: &ManifestSet,
        prune: bool,
        is_new_scan: bool,
    ) -> Vec<(ResourceKind, Value)> {
        let mut objects = Vec::new();
        for (id, manifest) in manifests.objects() {
            self.missing.remove(id);
            let saved = self.saved.entry(id.clone()).or_insert_with(|| new_state(id));
            saved.removed = None;
            let hash = hex::encode(Sha256::digest(manifest.get("spec").unwrap_or(&Value::Null).to_string()));
            if saved.spec_hash != hash {
                saved.generation += 1;
                saved.spec_hash = hash;
            }
            objects.push((id.0, with_state(manifest.clone(), saved, None)));
        }
        let removed: Vec<_> =
            self.saved.keys().filter(|(kind, key)| manifests.object(*kind, key).is_none()).cloned().collect();
        for id in removed {
            let scans = self.missing.entry(id.clone()).or_default();
            *scans = scans.saturating_add(u32::from(is_new_scan));
            let Some(saved) = self.saved.get_mut(&id) else { continue };
            if saved.finalizers.is_empty() || saved.manifest.is_null() {
                if *scans >= SCANS_UNTIL_REMOVED {
                    self.delete(&id);
                }
            } else if *scans < SCANS_UNTIL_REMOVED {
                objects.push((id.0, with_state(saved.manifest.clone(), saved, None)));
            } else if prune {
                // Count from the detection, so that cleanup has its full period before it gives up.
                let removed = *saved.removed.get_or_insert_with(Millis::now);
                objects.push((id.0, with_state(saved.manifest.clone(), saved, Some(removed))));
            }
        }
        objects
    }

    /// Replaces the controller's part of a status and keeps the worker's.
    pub fn set_status(
        &mut self,
        target: &WriteTarget,
        mut status: Value,
    ) -> Result<PendingWrite, ManifestError> {
        let id = (target.kind, target.key.clone());
        let saved = self.saved.entry(id.clone()).or_insert_with(|| new_state(&id));
        if let Some(delivering) =
            conditions_mut(&mut saved.status).and_then(|all| all.iter().find(|c| is_delivering(c)).cloned())
        {
            set_delivering_condition(&mut status, delivering);
        }
        if let Some(resume) = saved.status.pointer("/handled/resume").filter(|r| r.is_string()) {
            set_member(&mut status, "handled", "resume", resume.clone());
        }
        saved.status = status;
        self.prepare_write(&id)
    }

    /// Sets the worker's part of a status and keeps the controller's.
    pub fn set_delivery_status(
        &mut self,
        target: &WriteTarget,
        condition: &Condition,
        resumed: Option<String>,
    ) -> Result<PendingWrite, ManifestError> {
        let id = (target.kind, target.key.clone());
        let saved = self.saved.entry(id.clone()).or_insert_with(|| new_state(&id));
        if !saved.status.is_object() {
            saved.status = json!({});
        }
        set_delivering_condition(&mut saved.status, json!(condition));
        if let Some(resumed) = resumed {
            set_member(&mut saved.status, "handled", "resume", json!(resumed));
        }
        self.prepare_write(&id)
    }

    /// Changes finalizers and annotations. Deletes the state of an object that has neither finalizers nor a manifest.
    pub fn set_metadata(
        &mut self,
        target: &WriteTarget,
        metadata: Metadata,
        manifests: &ManifestSet,
    ) -> Result<PendingWrite, ManifestError> {
        let id = (target.kind, target.key.clone());
        let manifest = manifests.object(target.kind, &target.key);
        let saved = self.saved.entry(id.clone()).or_insert_with(|| new_state(&id));
        if let Some(finalizers) = metadata.finalizers {
            saved.finalizers = finalizers;
        }
        for (name, value) in metadata.annotations {
            match value {
                Some(value) => drop(saved.annotations.insert(name.to_owned(), value)),
                None => drop(saved.annotations.remove(name)),
            }
        }
        if let Some(manifest) = manifest {
            saved.manifest = manifest.clone();
        }
        if saved.finalizers.is_empty() && manifest.is_none() {
            self.delete(&id);
            return Ok(PendingWrite(None));
        }
        self.prepare_write(&id)
    }

    fn delete(&mut self, id: &(ResourceKind, ObjectKey)) {
        self.saved.remove(id);
        self.missing.remove(id);
        // An error means that there is no such file.
        fs::remove_file(self.path(id)).ok();
    }

    fn path(&self, (kind, key): &(ResourceKind, ObjectKey)) -> PathBuf {
        let kind: &str = kind.into();
        self.folder.join(format!("{kind}.{}.{}.json", key.namespace, key.name))
    }

    /// Serializes an object's state for its file.
    fn prepare_write(&self, id: &(ResourceKind, ObjectKey)) -> Result<PendingWrite, ManifestError> {
        let path = self.path(id);
        let Some(saved) = self.saved.get(id) else { return Ok(PendingWrite(None)) };
        let text = serde_json::to_vec_pretty(saved).map_err(|e| ManifestError::new(&path, e))?;
        Ok(PendingWrite(Some((path, text))))
    }
}

/// The new content of a file. It is written after the state's lock is released, so that readers do not wait for the disk.
#[derive(Debug)]
#[must_use]
pub struct PendingWrite(Option<(PathBuf, Vec<u8>)>);

impl PendingWrite {
    pub fn run(self) -> Result<(), ManifestError> {
        self.0.map_or(Ok(()), |(path, text)| write_atomically(&path, &text))
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

fn new_state((kind, key): &(ResourceKind, ObjectKey)) -> SavedState {
    let kind: &str = kind.into();
    SavedState {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        kind: kind.to_owned(),
        ..SavedState::default()
    }
}

/// Returns the object as the API server would return it.
fn with_state(mut manifest: Value, saved: &SavedState, removed: Option<Millis>) -> Value {
    if !saved.status.is_null()
        && let Some(object) = manifest.as_object_mut()
    {
        object.insert("status".into(), saved.status.clone());
    }
    let content = format!("{manifest}{:?}{:?}{removed:?}", saved.finalizers, saved.annotations);
    let version = hex::encode(Sha256::digest(content).get(..8).unwrap_or(&[]));
    if let Some(metadata) = manifest.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("generation".into(), json!(saved.generation));
        metadata.insert("resourceVersion".into(), json!(version));
        if !saved.finalizers.is_empty() {
            metadata.insert("finalizers".into(), json!(saved.finalizers));
        }
        if !saved.annotations.is_empty()
            && let Some(annotations) =
                metadata.entry("annotations").or_insert_with(|| json!({})).as_object_mut()
        {
            annotations.extend(saved.annotations.iter().map(|(name, value)| (name.clone(), json!(value))));
        }
        if let Some(removed) = removed {
            metadata.insert("deletionTimestamp".into(), json!(removed.rfc3339()));
        }
    }
    manifest
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOOK: &str = "apiVersion: hookstream.dev/v1alpha1\nkind: EventHook\nmetadata: {name: a}\nspec: {source: s, handler: {}}\n";

    fn target() -> WriteTarget {
        WriteTarget {
            kind: ResourceKind::EventHook,
            key: ObjectKey::new("default", "a"),
            uid: String::new(),
            resource_version: String::new(),
        }
    }

    fn finalizers(finalizers: &[&str]) -> Metadata {
        let finalizers = Some(finalizers.iter().map(ToString::to_string).collect());
        Metadata { finalizers, ..Metadata::default() }
    }

    struct World {
        dir: tempfile::TempDir,
        manifests: ManifestSet,
        state: StateStore,
    }

    fn world() -> World {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("m");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("a.yaml"), HOOK).unwrap();
        fs::write(folder.join("keep.yaml"), HOOK.replace("name: a", "name: keep")).unwrap();
        let mut manifests = ManifestSet::new(vec![folder]);
        manifests.scan().unwrap();
        let state = StateStore::open(dir.path()).unwrap();
        World { dir, manifests, state }
    }

    fn is_deleting(objects: &[(ResourceKind, Value)]) -> Option<bool> {
        let object = objects.iter().find(|(_, o)| o["metadata"]["name"] == "a")?;
        Some(object.1["metadata"].get("deletionTimestamp").is_some())
    }

    #[test]
    fn status_and_finalizers_survive_a_restart() {
        let World { dir, manifests, mut state } = world();
        state.set_status(&target(), json!({"observedGeneration": 1})).unwrap().run().unwrap();
        state.set_metadata(&target(), finalizers(&["f"]), &manifests).unwrap().run().unwrap();
        let mut reopened = StateStore::open(dir.path()).unwrap();
        let objects = reopened.merge(&manifests, false, true);
        let object = &objects.iter().find(|(_, o)| o["metadata"]["name"] == "a").unwrap().1;
        assert_eq!(object["status"]["observedGeneration"], 1);
        assert_eq!(object["metadata"]["finalizers"], json!(["f"]));
    }

    #[test]
    fn sets_and_removes_annotations_of_the_controller() {
        let World { dir, manifests, mut state } = world();
        let write = |state: &mut StateStore, value: Option<&str>| {
            let annotations = [("ours", value.map(ToOwned::to_owned))].into_iter().collect();
            state
                .set_metadata(&target(), Metadata { finalizers: None, annotations }, &manifests)
                .unwrap()
                .run()
                .unwrap();
        };
        let read = |state: &mut StateStore| {
            let objects = state.merge(&manifests, false, true);
            let object = objects.into_iter().find(|(_, o)| o["metadata"]["name"] == "a").unwrap().1;
            (object["metadata"]["annotations"]["ours"].clone(), object["metadata"]["resourceVersion"].clone())
        };
        let (before, version) = read(&mut state);
        assert_eq!(before, Value::Null);
        write(&mut state, Some("1"));
        let mut reopened = StateStore::open(dir.path()).unwrap();
        let (written, other_version) = read(&mut reopened);
        assert_eq!(written, "1");
        assert_ne!(version, other_version);
        write(&mut reopened, None);
        assert_eq!(read(&mut reopened), (Value::Null, version));
    }

    #[test]
    fn deletes_a_removed_manifest_only_with_prune_and_after_two_scans() {
        for prune in [false, true] {
            let World { dir, mut manifests, mut state } = world();
            state.merge(&manifests, prune, true);
            state.set_metadata(&target(), finalizers(&["f"]), &manifests).unwrap().run().unwrap();
            fs::remove_file(dir.path().join("m/a.yaml")).unwrap();
            manifests.scan().unwrap();
            assert_eq!(
                is_deleting(&state.merge(&manifests, prune, true)),
                Some(false),
                "one scan is not enough"
            );
            let second = is_deleting(&state.merge(&manifests, prune, true));
            assert_eq!(second, prune.then_some(true));
            let target = target();
            state.set_metadata(&target, finalizers(&[]), &manifests).unwrap().run().unwrap();
            assert_eq!(is_deleting(&state.merge(&manifests, prune, true)), None, "cleaned up");
        }
    }

    #[test]
    fn increments_the_generation_when_the_spec_changes() {
        let World { dir, mut manifests, mut state } = world();
        let generation = |objects: Vec<(ResourceKind, Value)>| {
            objects.iter().find(|(_, o)| o["metadata"]["name"] == "a").unwrap().1["metadata"]["generation"]
                .as_i64()
                .unwrap()
        };
        assert_eq!(generation(state.merge(&manifests, false, true)), 1);
        assert_eq!(generation(state.merge(&manifests, false, true)), 1);
        fs::write(dir.path().join("m/a.yaml"), HOOK.replace("source: s", "source: t")).unwrap();
        manifests.scan().unwrap();
        assert_eq!(generation(state.merge(&manifests, false, true)), 2);
    }
}
