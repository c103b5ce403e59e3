//! The state that a cluster would store of each object (status, finalizers, generation): one file for each object.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::atomic_file::write_atomically;
use super::definition::ObjectManifest;
use super::documents::ManifestError;
use super::manifest_set::ManifestSet;
use super::objects::{FileObject, object_uid};
use crate::cluster::{DeliveryStatus, Metadata, ObjectKey, ResourceKind, WriteTarget};
use crate::core::conditions::DELIVERING;
use crate::core::hook::EventSelector;
use crate::core::names::{is_namespace, is_object_name};
use crate::core::time::Millis;

/// The longest name of a state file, without `.json`. File systems allow 255 bytes; a namespace and a name may have 316.
const MAX_FILE_STEM: usize = 240;

/// An object's kind and name.
pub type ObjectId = (ResourceKind, ObjectKey);

/// The state of all objects.
pub struct StateStore {
    folder: PathBuf,
    saved: BTreeMap<ObjectId, SavedState>,
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
    /// The events that the last readable manifest of an EventHook selects. While its manifest cannot be read, also after a
    /// restart, these events are held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    selector: Option<EventSelector>,
    /// The file that defined the object last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<String>,
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
            // The names become a path again, and an earlier version accepted `..`.
            if !is_namespace(&state.namespace) || !is_object_name(&state.name) {
                tracing::warn!(file = %path.display(), "state of an object with an invalid name ignored");
                continue;
            }
            saved.insert((kind, ObjectKey::new(&state.namespace, &state.name)), state);
        }
        Ok(StateStore { folder, saved })
    }

    /// Returns the objects with state that do not count as removed, each with the file that defined it last.
    pub fn saved_objects(&self) -> impl Iterator<Item = (&ObjectId, Option<PathBuf>)> {
        let kept = self.saved.iter().filter(|(_, saved)| saved.removed.is_none());
        kept.map(|(id, saved)| (id, saved.file.as_ref().map(PathBuf::from)))
    }

    /// Starts the cleanup of objects that were removed before the process started, so that it has its full period before it
    /// gives up.
    pub fn restart_cleanups(&mut self, now: Millis) {
        self.saved.values_mut().filter_map(|saved| saved.removed.as_mut()).for_each(|removed| *removed = now);
    }

    /// Returns the ids of all objects with state.
    pub fn ids(&self) -> impl Iterator<Item = &ObjectId> {
        self.saved.keys()
    }

    /// Returns an object with its state; with `prune` also a removed object that needs cleanup.
    pub fn object(&mut self, id: &ObjectId, manifests: &ManifestSet, prune: bool) -> Option<FileObject> {
        let (kind, key) = id;
        if let Some(manifest) = manifests.object(*kind, key) {
            let saved = self.saved.entry(id.clone()).or_insert_with(|| new_state(id));
            saved.removed = None;
            saved.adopt_manifest(manifest);
            let value = with_state(manifest.value.clone(), saved, None);
            return Some(FileObject { value, last_selector: saved.selector.clone(), problem: None });
        }
        let saved = self.saved.get_mut(id)?;
        let needs_cleanup = !saved.finalizers.is_empty() && !saved.manifest.is_null();
        match (manifests.is_missing(*kind, key), needs_cleanup) {
            (true, true) => Some(FileObject::new(with_state(saved.manifest.clone(), saved, None))),
            // Hold the events of a hook whose file was broken or empty when the process started.
            (true, false) if *kind == ResourceKind::EventHook => Some(unreadable_hook(key, saved)),
            (false, true) if prune => {
                // Count from the detection, so that cleanup has its full period before it gives up.
                let removed = *saved.removed.get_or_insert_with(Millis::now);
                Some(FileObject::new(with_state(saved.manifest.clone(), saved, Some(removed))))
            }
            _ => None,
        }
    }

    /// Records that the manifest of an object was removed. Deletes the state of an object that needs no cleanup.
    pub fn set_removed(
        &mut self,
        id: &ObjectId,
        manifests: &ManifestSet,
    ) -> Result<PendingWrite, ManifestError> {
        match self.saved.get_mut(id) {
            Some(saved) if !saved.finalizers.is_empty() && !saved.manifest.is_null() => {
                saved.removed.get_or_insert_with(Millis::now);
                self.prepare_write(id, manifests)
            }
            _ => {
                self.delete(id);
                Ok(PendingWrite(None))
            }
        }
    }

    /// Replaces the controller's part of a status and keeps the worker's.
    pub fn set_status(
        &mut self,
        target: &WriteTarget,
        mut status: Value,
        manifests: &ManifestSet,
    ) -> Result<PendingWrite, ManifestError> {
        let id = (target.kind, target.key.clone());
        let Some(saved) = self.saved_or_new(&id, manifests) else { return Ok(PendingWrite(None)) };
        if let Some(delivering) =
            conditions_mut(&mut saved.status).and_then(|all| all.iter().find(|c| is_delivering(c)).cloned())
        {
            set_delivering_condition(&mut status, delivering);
        }
        if let Some(resume) = saved.status.pointer("/handled/resume").filter(|r| r.is_string()) {
            set_member(&mut status, "handled", "resume", resume.clone());
        }
        if let (Some(delivery), Some(status)) = (saved.status.get("delivery"), status.as_object_mut()) {
            status.insert("delivery".into(), delivery.clone());
        }
        saved.status = status;
        self.prepare_write(&id, manifests)
    }

    /// Sets the worker's part of a status and keeps the controller's.
    pub fn set_delivery_status(
        &mut self,
        target: &WriteTarget,
        delivery: DeliveryStatus,
        manifests: &ManifestSet,
    ) -> Result<PendingWrite, ManifestError> {
        let id = (target.kind, target.key.clone());
        let Some(saved) = self.saved_or_new(&id, manifests) else { return Ok(PendingWrite(None)) };
        if !saved.status.is_object() {
            saved.status = json!({});
        }
        let DeliveryStatus { condition, report, resumed } = delivery;
        set_delivering_condition(&mut saved.status, json!(condition));
        if let Some(status) = saved.status.as_object_mut() {
            status.insert("delivery".into(), json!(report));
        }
        if let Some(resumed) = resumed {
            set_member(&mut saved.status, "handled", "resume", json!(resumed));
        }
        self.prepare_write(&id, manifests)
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
        let Some(saved) = self.saved_or_new(&id, manifests) else { return Ok(PendingWrite(None)) };
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
            saved.manifest = manifest.value.clone();
        }
        if saved.finalizers.is_empty() && manifest.is_none() {
            self.delete(&id);
            return Ok(PendingWrite(None));
        }
        self.prepare_write(&id, manifests)
    }

    /// Returns the state of an object, new if it has none. None for an object that no longer exists: a late write must not
    /// create its file again.
    fn saved_or_new(&mut self, id: &ObjectId, manifests: &ManifestSet) -> Option<&mut SavedState> {
        if !self.saved.contains_key(id) {
            manifests.object(id.0, &id.1)?;
        }
        Some(self.saved.entry(id.clone()).or_insert_with(|| new_state(id)))
    }

    fn delete(&mut self, id: &ObjectId) {
        self.saved.remove(id);
        // An error means that there is no such file.
        fs::remove_file(self.path(id)).ok();
    }

    fn path(&self, id: &ObjectId) -> PathBuf {
        self.folder.join(file_name(id))
    }

    /// Serializes an object's state for its file.
    fn prepare_write(
        &mut self,
        id: &ObjectId,
        manifests: &ManifestSet,
    ) -> Result<PendingWrite, ManifestError> {
        let path = self.path(id);
        let Some(saved) = self.saved.get_mut(id) else { return Ok(PendingWrite(None)) };
        if let Some(manifest) = manifests.object(id.0, &id.1) {
            saved.adopt_manifest(manifest);
        }
        if let Some(file) = manifests.file_of(id.0, &id.1) {
            saved.file = Some(file.to_string_lossy().into_owned());
        }
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

impl SavedState {
    /// Counts a changed spec as a new generation, and keeps what the last readable manifest selects.
    fn adopt_manifest(&mut self, manifest: &ObjectManifest) {
        if self.spec_hash != manifest.spec_hash {
            self.generation += 1;
            self.spec_hash.clone_from(&manifest.spec_hash);
        }
        if manifest.selector.is_some() {
            self.selector.clone_from(&manifest.selector);
        }
    }
}

/// Returns the name of an object's file. A name that the file system would reject is shortened and made unique by a hash.
fn file_name((kind, key): &ObjectId) -> String {
    let kind: &str = kind.into();
    let name = format!("{kind}.{}.{}", key.namespace, key.name);
    if name.len() <= MAX_FILE_STEM {
        return format!("{name}.json");
    }
    let hash = hex::encode(Sha256::digest(&name).get(..16).unwrap_or(&[]));
    format!("{}~{hash}.json", name.get(..MAX_FILE_STEM - 33).unwrap_or_default())
}

/// Returns a hook of which only the state is known, because its manifest is missing or its file cannot be read.
fn unreadable_hook(key: &ObjectKey, saved: &SavedState) -> FileObject {
    let kind = ResourceKind::EventHook.into();
    let manifest = json!({"kind": kind, "metadata": {
        "name": key.name, "namespace": key.namespace, "uid": object_uid(kind, &key.namespace, &key.name)}});
    let file = saved.file.as_deref().unwrap_or("its file");
    FileObject {
        value: with_state(manifest, saved, None),
        last_selector: saved.selector.clone(),
        problem: Some(format!("{file} does not define it at the moment: correct the file, or remove it")),
    }
}

fn new_state((kind, key): &ObjectId) -> SavedState {
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
    use super::super::file_scanner::FileScanner;
    use super::*;

    const HOOK: &str = "apiVersion: hookstream.dev/v1alpha1\nkind: EventHook\nmetadata: {name: a}\nspec: {source: s, handler: {}}\n";

    fn id() -> ObjectId {
        (ResourceKind::EventHook, ObjectKey::new("default", "a"))
    }

    fn target() -> WriteTarget {
        let (kind, key) = id();
        WriteTarget { kind, key, uid: String::new(), resource_version: String::new() }
    }

    fn finalizers(finalizers: &[&str]) -> Metadata {
        let finalizers = Some(finalizers.iter().map(ToString::to_string).collect());
        Metadata { finalizers, ..Metadata::default() }
    }

    struct World {
        dir: tempfile::TempDir,
        scanner: FileScanner,
        manifests: ManifestSet,
        state: StateStore,
    }

    impl World {
        fn new() -> World {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("m")).unwrap();
            let world = World {
                scanner: FileScanner::new(vec![dir.path().join("m")], false),
                manifests: ManifestSet::default(),
                state: StateStore::open(dir.path()).unwrap(),
                dir,
            };
            world.write(HOOK);
            fs::write(world.dir.path().join("m/keep.yaml"), HOOK.replace("name: a", "name: keep")).unwrap();
            let mut world = world;
            world.scan();
            world
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("m/a.yaml")
        }

        fn write(&self, text: &str) {
            fs::write(self.path(), text).unwrap();
        }

        /// Scans the files as the cluster does.
        fn scan(&mut self) {
            self.manifests.apply(self.scanner.scan().unwrap());
            for id in [id()] {
                if self.manifests.object(id.0, &id.1).is_none() && !self.manifests.is_missing(id.0, &id.1) {
                    self.state.set_removed(&id, &self.manifests).unwrap().run().unwrap();
                }
            }
        }

        /// Starts again on the same folders.
        fn restart(&mut self) {
            self.state = StateStore::open(self.dir.path()).unwrap();
            self.scanner = FileScanner::new(vec![self.dir.path().join("m")], false);
            self.manifests = ManifestSet::default();
            self.manifests.apply(self.scanner.scan().unwrap());
            for ((kind, key), file) in self.state.saved_objects() {
                self.manifests.expect(*kind, key.clone(), file);
            }
        }

        fn object(&mut self, prune: bool) -> Option<FileObject> {
            self.state.object(&id(), &self.manifests, prune)
        }

        fn value(&mut self) -> Value {
            self.object(false).unwrap().value
        }

        fn set_status(&mut self, status: Value) {
            self.state.set_status(&target(), status, &self.manifests).unwrap().run().unwrap();
        }

        fn set_metadata(&mut self, metadata: Metadata) {
            self.state.set_metadata(&target(), metadata, &self.manifests).unwrap().run().unwrap();
        }

        fn is_deleting(&mut self, prune: bool) -> Option<bool> {
            Some(self.object(prune)?.value["metadata"].get("deletionTimestamp").is_some())
        }
    }

    #[test]
    fn status_and_finalizers_survive_a_restart() {
        let mut world = World::new();
        world.set_status(json!({"observedGeneration": 1}));
        world.set_metadata(finalizers(&["f"]));
        world.restart();
        let object = world.value();
        assert_eq!(object["status"]["observedGeneration"], 1);
        assert_eq!(object["metadata"]["finalizers"], json!(["f"]));
    }

    #[test]
    fn sets_and_removes_annotations_of_the_controller() {
        let mut world = World::new();
        let write = |world: &mut World, value: Option<&str>| {
            let annotations = [("ours", value.map(ToOwned::to_owned))].into_iter().collect();
            world.set_metadata(Metadata { finalizers: None, annotations });
        };
        let read = |world: &mut World| {
            let object = world.value();
            (object["metadata"]["annotations"]["ours"].clone(), object["metadata"]["resourceVersion"].clone())
        };
        let (before, version) = read(&mut world);
        assert_eq!(before, Value::Null);
        write(&mut world, Some("1"));
        world.restart();
        let (written, other_version) = read(&mut world);
        assert_eq!(written, "1");
        assert_ne!(version, other_version);
        write(&mut world, None);
        assert_eq!(read(&mut world), (Value::Null, version));
    }

    #[test]
    fn deletes_a_removed_object_only_with_prune_and_after_three_scans() {
        for prune in [false, true] {
            let mut world = World::new();
            world.object(prune);
            world.set_metadata(finalizers(&["f"]));
            fs::remove_file(world.path()).unwrap();
            for _ in 0..2 {
                world.scan();
                assert_eq!(world.is_deleting(prune), Some(false), "two scans are not enough");
            }
            world.scan();
            assert_eq!(world.is_deleting(prune), prune.then_some(true));
            // A restart does not bring the object back.
            world.restart();
            assert_eq!(world.is_deleting(prune), prune.then_some(true));
            world.set_metadata(finalizers(&[]));
            assert_eq!(world.is_deleting(prune), None, "cleaned up");
            assert!(!world.state.path(&id()).exists());
            world.set_status(json!({}));
            assert!(!world.state.path(&id()).exists(), "a late write does not create the state again");
        }
    }

    #[test]
    fn keeps_a_missing_object_with_finalizers_after_a_restart() {
        let mut world = World::new();
        world.set_metadata(finalizers(&["f"]));
        world.write("");
        world.restart();
        for _ in 0..2 {
            assert_eq!(world.is_deleting(true), Some(false));
            world.scan();
        }
        assert_eq!(world.is_deleting(true), Some(true));
    }

    #[test]
    fn increments_the_generation_when_the_spec_changes() {
        let mut world = World::new();
        let generation = |world: &mut World| world.value()["metadata"]["generation"].as_i64().unwrap();
        assert_eq!(generation(&mut world), 1);
        assert_eq!(generation(&mut world), 1);
        world.write(&HOOK.replace("source: s", "source: t"));
        world.scan();
        assert_eq!(generation(&mut world), 2);
    }

    #[test]
    fn keeps_the_last_readable_selector_over_a_restart() {
        use crate::api::EventHook;
        let mut world = World::new();
        let source = |world: &mut World| {
            let guard = world.object(false)?.deserialize::<EventHook>().unwrap();
            guard.0.unwrap_err().selector.map(|selector| selector.source)
        };
        world.value();
        // An unreadable status is written, as the controller does.
        world.write(&HOOK.replace("source: s", "source: 7"));
        world.scan();
        assert_eq!(source(&mut world).as_deref(), Some("s"));
        world.set_status(json!({"observedGeneration": 2}));
        for broken in [&*HOOK.replace("source: s", "source: 7"), "a: [", ""] {
            world.write(broken);
            world.restart();
            assert_eq!(source(&mut world).as_deref(), Some("s"), "{broken}");
        }
        world.scan();
        world.scan();
        assert!(world.object(false).is_none(), "an empty file is a removal, a broken one is none");
    }

    #[test]
    fn file_names_fit_the_file_system_and_differ() {
        let name = |namespace: &str, name: &str| {
            file_name(&(ResourceKind::EventHook, ObjectKey::new(namespace, name)))
        };
        assert_eq!(name("default", "a"), "EventHook.default.a.json");
        let (long, namespace) = ("n".repeat(252), "s".repeat(63));
        let names = [name(&namespace, &format!("{long}a")), name(&namespace, &format!("{long}b"))];
        assert!(names[0].len() <= 255 && names[0] != names[1], "{names:?}");
    }

    #[test]
    fn ignores_state_with_an_invalid_name() {
        let mut world = World::new();
        world.value();
        world.set_status(json!({"observedGeneration": 1}));
        let path = world.state.path(&id());
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("\"default\"", "\"..\"")).unwrap();
        assert_eq!(StateStore::open(world.dir.path()).unwrap().ids().count(), 0);
    }
}
