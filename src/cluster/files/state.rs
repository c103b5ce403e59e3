//! The state of all objects as this process knows it. It decides what to write; a `StateBackend` stores it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::manifest_set::ManifestSet;
use super::objects::FileObject;
use super::saved_state::{Adoption, SavedState};
use super::state_backend::{
    ObjectId, StateAuthor, StateChanges, StateError, StateVersion, StateWrite, StoredState,
};
use crate::cluster::{DeliveryStatus, Metadata, ResourceKind};
use crate::core::time::Millis;

/// The state of all objects.
pub struct StateStore {
    entries: BTreeMap<ObjectId, Entry>,
    /// True if other processes write the same state. Then the controller that leads decides which objects were removed, and
    /// workers write nothing that follows from their manifests.
    is_shared: bool,
}

/// The state of one object.
struct Entry {
    /// As it is stored; new if it is not.
    saved: SavedState,
    /// None: it is not stored.
    version: Option<StateVersion>,
    adopted: Adoption,
}

/// A write, and what the state is after it.
#[must_use]
pub struct PreparedWrite {
    pub write: StateWrite,
    next: Option<SavedState>,
}

impl StateStore {
    pub fn new(is_shared: bool) -> StateStore {
        StateStore { entries: BTreeMap::new(), is_shared }
    }

    /// Applies what was read. Returns the objects whose state differs from before.
    ///
    /// `is_complete`: the changes are the whole state, so others were deleted.
    pub fn apply(
        &mut self,
        changes: StateChanges,
        is_complete: bool,
    ) -> Result<BTreeSet<ObjectId>, StateError> {
        let mut changed = BTreeSet::new();
        if is_complete {
            let read: BTreeSet<&ObjectId> = changes.written.iter().map(|(id, _)| id).collect();
            // A state of the horizon or later may have been written after the read began.
            let deleted = |entry: &Entry| entry.version.is_some_and(|version| version < changes.horizon);
            let removed = self.entries.extract_if(.., |id, entry| deleted(entry) && !read.contains(id));
            changed.extend(removed.map(|(id, _)| id));
        }
        for (id, version) in changes.deleted {
            // Not one that was created again since.
            let is_older = |entry: &Entry| entry.version.is_some_and(|known| known < version);
            if self.entries.get(&id).is_some_and(is_older) {
                self.entries.remove(&id);
                changed.insert(id);
            }
        }
        for (id, stored) in changes.written {
            // A read that began before a write of this process.
            if self.entries.get(&id).is_some_and(|entry| entry.version >= Some(stored.version)) {
                continue;
            }
            self.replace(&id, Some(stored))?;
            changed.insert(id);
        }
        Ok(changed)
    }

    /// Replaces what is known of one state by what is stored.
    pub fn replace(&mut self, id: &ObjectId, stored: Option<StoredState>) -> Result<(), StateError> {
        let Some(StoredState { version, text }) = stored else {
            self.entries.remove(id);
            return Ok(());
        };
        let invalid = |error| StateError::Failed(format!("the state of {} cannot be read: {error}", id.1));
        let saved: SavedState = serde_json::from_str(&text).map_err(invalid)?;
        let mut adopted = self.entries.remove(id).map_or_else(Adoption::default, |entry| entry.adopted);
        adopted.rebase(&saved);
        self.entries.insert(id.clone(), Entry { saved, version: Some(version), adopted });
        Ok(())
    }

    /// Returns the objects with state that do not count as removed, each with the file that defined it last.
    pub fn saved_objects(&self) -> impl Iterator<Item = (&ObjectId, Option<PathBuf>)> {
        let kept = self.entries.iter().filter(|(_, entry)| entry.saved.removed.is_none());
        kept.map(|(id, entry)| (id, entry.saved.file.as_ref().map(PathBuf::from)))
    }

    /// Starts the cleanup of objects that were removed before this process led, so that it has its full period before it
    /// gives up.
    pub fn restart_cleanups(&mut self, now: Millis) {
        let removed = self.entries.values_mut().filter_map(|entry| entry.saved.removed.as_mut());
        removed.for_each(|removed| *removed = now);
    }

    /// Returns the ids of all objects with state.
    pub fn ids(&self) -> impl Iterator<Item = &ObjectId> {
        self.entries.keys()
    }

    /// Returns an object with its state; with `prune` also a removed object that needs cleanup.
    pub fn object(&mut self, id: &ObjectId, manifests: &ManifestSet, prune: bool) -> Option<FileObject> {
        let (kind, key) = id;
        if let Some(manifest) = manifests.object(*kind, key) {
            let entry = self.entries.entry(id.clone()).or_insert_with(|| Entry::new(id));
            entry.adopted.adopt(manifest);
            if !self.is_shared {
                entry.saved.removed = None;
            }
            return Some(entry.saved.object(manifest, &entry.adopted));
        }
        let is_shared = self.is_shared;
        let Entry { saved, adopted, .. } = self.entries.get_mut(id)?;
        match (manifests.is_missing(*kind, key), saved.needs_cleanup()) {
            (true, true) => Some(saved.last_object(adopted, None)),
            // Hold the events of a hook whose file was broken or empty when the process started.
            (true, false) if *kind == ResourceKind::EventHook => Some(saved.unreadable_hook(key, adopted)),
            (false, true) if prune => {
                // A process that does not lead may have older files: only the leader decides what was removed.
                let removed = match is_shared {
                    true => saved.removed?,
                    // Count from the detection, so that cleanup has its full period before it gives up.
                    false => *saved.removed.get_or_insert_with(Millis::now),
                };
                Some(saved.last_object(adopted, Some(removed)))
            }
            _ => None,
        }
    }

    /// Records that the manifest of an object was removed. Deletes the state of an object that needs no cleanup.
    pub fn set_removed(
        &mut self,
        id: &ObjectId,
        manifests: &ManifestSet,
    ) -> Result<Option<PreparedWrite>, StateError> {
        let Some(entry) = self.entries.get_mut(id) else { return Ok(None) };
        if !entry.saved.needs_cleanup() {
            return Ok(self.prepare_delete(id));
        }
        self.prepare(id, manifests, StateAuthor::Controller, |next| next.removed = Some(Millis::now()))
    }

    /// Replaces the controller's part of a status and keeps the worker's.
    pub fn set_status(
        &mut self,
        id: &ObjectId,
        status: &serde_json::Value,
        manifests: &ManifestSet,
    ) -> Result<Option<PreparedWrite>, StateError> {
        self.prepare(id, manifests, StateAuthor::Controller, |next| next.set_status(status.clone()))
    }

    /// Sets the worker's part of a status and keeps the controller's.
    pub fn set_delivery_status(
        &mut self,
        id: &ObjectId,
        delivery: &DeliveryStatus,
        manifests: &ManifestSet,
    ) -> Result<Option<PreparedWrite>, StateError> {
        self.prepare(id, manifests, StateAuthor::Worker, |next| next.set_delivery_status(delivery))
    }

    /// Changes finalizers and annotations. Deletes the state of an object that has neither finalizers nor a manifest.
    pub fn set_metadata(
        &mut self,
        id: &ObjectId,
        metadata: &Metadata,
        manifests: &ManifestSet,
    ) -> Result<Option<PreparedWrite>, StateError> {
        let manifest = manifests.object(id.0, &id.1);
        let prepared = self.prepare(id, manifests, StateAuthor::Controller, |next| {
            next.set_metadata(metadata, manifest);
        })?;
        match &prepared {
            Some(PreparedWrite { next: Some(next), .. }) if manifest.is_none() && !next.has_finalizers() => {
                Ok(self.prepare_delete(id))
            }
            _ => Ok(prepared),
        }
    }

    /// Takes over a write that was stored.
    pub fn complete(&mut self, prepared: PreparedWrite, version: StateVersion) {
        let PreparedWrite { write, next } = prepared;
        let Some(saved) = next else {
            self.entries.remove(&write.id);
            return;
        };
        let entry = self.entries.entry(write.id.clone()).or_insert_with(|| Entry::new(&write.id));
        (entry.saved, entry.version) = (saved, Some(version));
    }

    /// Prepares a write of a changed state. None for an object that no longer exists: a late write must not create its state
    /// again.
    fn prepare(
        &mut self,
        id: &ObjectId,
        manifests: &ManifestSet,
        author: StateAuthor,
        change: impl FnOnce(&mut SavedState),
    ) -> Result<Option<PreparedWrite>, StateError> {
        let manifest = manifests.object(id.0, &id.1);
        if manifest.is_none() && !self.entries.contains_key(id) {
            return Ok(None);
        }
        let entry = self.entries.entry(id.clone()).or_insert_with(|| Entry::new(id));
        let mut next = entry.saved.clone();
        if author == StateAuthor::Controller || !self.is_shared {
            if let Some(manifest) = manifest {
                entry.adopted.adopt(manifest);
                next.removed = None;
            }
            next.set_adoption(&entry.adopted);
            if let Some(file) = manifests.file_of(id.0, &id.1) {
                next.file = Some(file.to_string_lossy().into_owned());
            }
        }
        change(&mut next);
        let text = serde_json::to_string_pretty(&next).map_err(|e| StateError::Failed(e.to_string()))?;
        let write = StateWrite { id: id.clone(), before: entry.version, text: Some(text), author };
        Ok(Some(PreparedWrite { write, next: Some(next) }))
    }

    /// Prepares the deletion of a state. A state that is not stored is deleted at once.
    fn prepare_delete(&mut self, id: &ObjectId) -> Option<PreparedWrite> {
        let Some(before) = self.entries.get(id)?.version else {
            self.entries.remove(id);
            return None;
        };
        let author = StateAuthor::Controller;
        let write = StateWrite { id: id.clone(), before: Some(before), text: None, author };
        Some(PreparedWrite { write, next: None })
    }
}

impl Entry {
    fn new(id: &ObjectId) -> Entry {
        Entry { saved: SavedState::new(id), version: None, adopted: Adoption::default() }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};

    use super::super::file_scanner::FileScanner;
    use super::super::folder_state::FolderState;
    use super::*;
    use crate::cluster::ObjectKey;

    const HOOK: &str = "apiVersion: hookstream.dev/v1alpha1\nkind: EventHook\nmetadata: {name: a}\nspec: {source: s, handler: {}}\n";

    fn id() -> ObjectId {
        (ResourceKind::EventHook, ObjectKey::new("default", "a"))
    }

    fn finalizers(finalizers: &[&str]) -> Metadata {
        let finalizers = Some(finalizers.iter().map(ToString::to_string).collect());
        Metadata { finalizers, ..Metadata::default() }
    }

    struct World {
        dir: tempfile::TempDir,
        scanner: FileScanner,
        manifests: ManifestSet,
        folder: FolderState,
        state: StateStore,
    }

    fn read(folder: &FolderState) -> StateStore {
        let mut state = StateStore::new(false);
        state.apply(folder.load().unwrap(), true).unwrap();
        state
    }

    impl World {
        fn new() -> World {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("m")).unwrap();
            let folder = FolderState::open(dir.path()).unwrap();
            let world = World {
                scanner: FileScanner::new(vec![dir.path().join("m")], false),
                manifests: ManifestSet::default(),
                state: read(&folder),
                folder,
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
                    let prepared = self.state.set_removed(&id, &self.manifests).unwrap();
                    self.run(prepared);
                }
            }
        }

        /// Starts again on the same folders.
        fn restart(&mut self) {
            self.state = read(&self.folder);
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

        fn run(&mut self, prepared: Option<PreparedWrite>) {
            if let Some(prepared) = prepared {
                let version = self.folder.write_file(&prepared.write).unwrap();
                self.state.complete(prepared, version);
            }
        }

        fn set_status(&mut self, status: Value) {
            let prepared = self.state.set_status(&id(), &status, &self.manifests).unwrap();
            self.run(prepared);
        }

        fn set_metadata(&mut self, metadata: Metadata) {
            let prepared = self.state.set_metadata(&id(), &metadata, &self.manifests).unwrap();
            self.run(prepared);
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
            assert!(!world.folder.path(&id()).exists());
            world.set_status(json!({}));
            assert!(!world.folder.path(&id()).exists(), "a late write does not create the state again");
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

    fn stored(version: StateVersion, saved: &SavedState) -> StoredState {
        StoredState { version, text: serde_json::to_string(saved).unwrap() }
    }

    /// Returns a shared state with what another process has stored of the object.
    fn shared(world: &World, saved: &SavedState) -> StateStore {
        let mut state = StateStore::new(true);
        state.replace(&id(), Some(stored(5, saved))).unwrap();
        assert!(world.manifests.object(id().0, &id().1).is_some());
        state
    }

    #[test]
    fn worker_of_a_shared_state_stores_nothing_of_its_manifests() {
        let world = World::new();
        let mut state = shared(&world, &SavedState::new(&id()));
        let object = state.object(&id(), &world.manifests, false).unwrap();
        assert_eq!(object.value["metadata"]["generation"], 1, "as this process sees it");
        let delivery = DeliveryStatus {
            condition: serde_json::from_value(json!({"type": "Delivering", "status": "True", "reason": "R",
                "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"}))
            .unwrap(),
            report: crate::api::DeliveryReport::default(),
            resumed: None,
        };
        let prepared = state.set_delivery_status(&id(), &delivery, &world.manifests).unwrap().unwrap();
        assert_eq!((prepared.write.before, prepared.write.author), (Some(5), StateAuthor::Worker));
        let text: Value = serde_json::from_str(prepared.write.text.as_deref().unwrap()).unwrap();
        assert_eq!((&text["generation"], &text["file"]), (&json!(0), &Value::Null));
        assert_eq!(text["status"]["conditions"][0]["type"], "Delivering");
        let prepared = state.set_status(&id(), &json!({}), &world.manifests).unwrap().unwrap();
        let text: Value = serde_json::from_str(prepared.write.text.as_deref().unwrap()).unwrap();
        assert_eq!(text["generation"], 1, "the controller stores it");
    }

    #[test]
    fn only_the_leader_removes_an_object_of_a_shared_state() {
        let mut world = World::new();
        world.set_metadata(finalizers(&["f"]));
        let text = fs::read_to_string(world.folder.path(&id())).unwrap();
        let mut saved: SavedState = serde_json::from_str(&text).unwrap();
        let mut state = shared(&world, &saved);
        // This process has older files, without the object.
        let others = ManifestSet::default();
        assert!(state.object(&id(), &others, true).is_none());
        saved.removed = Some(Millis(1));
        state.replace(&id(), Some(stored(6, &saved))).unwrap();
        let object = state.object(&id(), &others, true).unwrap();
        assert!(object.value["metadata"].get("deletionTimestamp").is_some(), "the leader has removed it");
    }

    #[test]
    fn reads_of_a_shared_state_neither_undo_writes_nor_miss_deletions() {
        let world = World::new();
        let mut state = shared(&world, &SavedState::new(&id()));
        let prepared = state.set_status(&id(), &json!({"a": 1}), &world.manifests).unwrap().unwrap();
        state.complete(prepared, 9);
        let old = (id(), stored(5, &SavedState::new(&id())));
        let changes = StateChanges { written: vec![old], deleted: Vec::new(), horizon: 9 };
        assert!(state.apply(changes, true).unwrap().is_empty());
        assert_eq!(state.object(&id(), &world.manifests, false).unwrap().value["status"]["a"], 1);
        // Written after the read began.
        let changes = |horizon| StateChanges { horizon, ..StateChanges::default() };
        assert!(state.apply(changes(9), true).unwrap().is_empty());
        assert_eq!(state.apply(changes(10), true).unwrap(), BTreeSet::from([id()]));
        assert!(state.ids().next().is_none());
    }

    #[test]
    fn a_deletion_removes_no_state_that_was_created_after_it() {
        let world = World::new();
        let mut state = shared(&world, &SavedState::new(&id()));
        let deleted = |version| StateChanges { deleted: vec![(id(), version)], ..StateChanges::default() };
        assert!(state.apply(deleted(4), false).unwrap().is_empty());
        let created =
            StateChanges { written: vec![(id(), stored(8, &SavedState::new(&id())))], ..deleted(6) };
        assert_eq!(state.apply(created, false).unwrap(), BTreeSet::from([id()]));
        assert!(state.apply(deleted(6), false).unwrap().is_empty(), "read again");
        assert_eq!(state.apply(deleted(9), false).unwrap(), BTreeSet::from([id()]));
        assert!(state.ids().next().is_none());
    }
}
