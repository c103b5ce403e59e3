//! What a cluster would keep of an object: its status and finalizers, a file an object, and the key ring.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::manifests::{ManifestError, Manifests, problem};
use crate::cluster::{Key, Kind, Metadata, Target, new_key};
use crate::core::conditions::DELIVERING;
use crate::core::keys::KeyRing;
use crate::core::time::Millis;

/// A manifest must be missing in this many scans before the object counts as removed: an editor that replaces a file
/// must not delete a hook at the vendor.
const SCANS: u32 = 2;

/// The state of every object that has one.
pub struct State {
    folder: PathBuf,
    saved: BTreeMap<(Kind, Key), Saved>,
    missing: BTreeMap<(Kind, Key), u32>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Saved {
    namespace: String,
    name: String,
    kind: String,
    #[serde(default)]
    generation: i64,
    /// The hash of the spec that the generation is of.
    #[serde(default)]
    spec_hash: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    finalizers: Vec<String>,
    /// Those that the controller wrote.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    status: Value,
    /// When the manifest was found to be removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    removed: Option<Millis>,
    /// The manifest, kept while there is a finalizer: what is to be cleaned up when it is removed.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    manifest: Value,
}

impl State {
    pub fn open(data: &Path) -> Result<Self, ManifestError> {
        let folder = data.join("objects");
        fs::create_dir_all(&folder).map_err(|e| problem(&folder, e))?;
        let mut saved = BTreeMap::new();
        for entry in fs::read_dir(&folder).map_err(|e| problem(&folder, e))? {
            let path = entry.map_err(|e| problem(&folder, e))?.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            let text = fs::read_to_string(&path).map_err(|e| problem(&path, e))?;
            let one: Saved = serde_json::from_str(&text).map_err(|e| problem(&path, e))?;
            let kind = one
                .kind
                .parse()
                .map_err(|_| problem(&path, "an unknown kind: written by a newer version?"))?;
            saved.insert((kind, Key::new(&one.namespace, &one.name)), one);
        }
        Ok(State { folder, saved, missing: BTreeMap::new() })
    }

    /// The objects: manifests with their state, and with `prune` those that were removed and are to be cleaned up.
    /// `scanned`: the files were read just now, so that what is missing is missing once more.
    pub fn merge(&mut self, manifests: &Manifests, prune: bool, scanned: bool) -> Vec<(Kind, Value)> {
        let mut objects = Vec::new();
        for (id, manifest) in manifests.objects() {
            self.missing.remove(id);
            let saved = self.saved.entry(id.clone()).or_insert_with(|| new(id));
            saved.removed = None;
            let hash = hex::encode(Sha256::digest(manifest.get("spec").unwrap_or(&Value::Null).to_string()));
            if saved.spec_hash != hash {
                saved.generation += 1;
                saved.spec_hash = hash;
            }
            objects.push((id.0, dress(manifest.clone(), saved, None)));
        }
        let removed: Vec<_> =
            self.saved.keys().filter(|(kind, key)| manifests.object(*kind, key).is_none()).cloned().collect();
        for id in removed {
            let scans = self.missing.entry(id.clone()).or_default();
            *scans = scans.saturating_add(u32::from(scanned));
            let Some(saved) = self.saved.get_mut(&id) else { continue };
            if saved.finalizers.is_empty() || saved.manifest.is_null() {
                if *scans >= SCANS {
                    self.forget(&id);
                }
            } else if *scans < SCANS {
                objects.push((id.0, dress(saved.manifest.clone(), saved, None)));
            } else if prune {
                // From now, not from ever: cleanup gives up only after it had its time.
                let removed = *saved.removed.get_or_insert_with(Millis::now);
                objects.push((id.0, dress(saved.manifest.clone(), saved, Some(removed))));
            }
        }
        objects
    }

    /// Replaces the controller's part of a status; the worker's stays.
    pub fn set_status(&mut self, target: &Target, mut status: Value) -> Result<Unwritten, ManifestError> {
        let id = (target.kind, target.key.clone());
        let saved = self.saved.entry(id.clone()).or_insert_with(|| new(&id));
        if let Some(delivering) =
            conditions(&mut saved.status).and_then(|all| all.iter().find(|c| delivering(c)).cloned())
        {
            put_condition(&mut status, delivering);
        }
        if let Some(resume) = saved.status.pointer("/handled/resume").filter(|r| r.is_string()) {
            put(&mut status, "handled", "resume", resume.clone());
        }
        saved.status = status;
        self.text(&id)
    }

    /// Sets the worker's part of a status; the controller's stays.
    pub fn set_delivering(
        &mut self,
        target: &Target,
        condition: &Condition,
        resumed: Option<String>,
    ) -> Result<Unwritten, ManifestError> {
        let id = (target.kind, target.key.clone());
        let saved = self.saved.entry(id.clone()).or_insert_with(|| new(&id));
        if !saved.status.is_object() {
            saved.status = json!({});
        }
        put_condition(&mut saved.status, json!(condition));
        if let Some(resumed) = resumed {
            put(&mut saved.status, "handled", "resume", json!(resumed));
        }
        self.text(&id)
    }

    pub fn set_metadata(
        &mut self,
        target: &Target,
        metadata: Metadata,
        manifests: &Manifests,
    ) -> Result<Unwritten, ManifestError> {
        let id = (target.kind, target.key.clone());
        let manifest = manifests.object(target.kind, &target.key);
        let saved = self.saved.entry(id.clone()).or_insert_with(|| new(&id));
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
            self.forget(&id);
            return Ok(Unwritten(None));
        }
        self.text(&id)
    }

    fn forget(&mut self, id: &(Kind, Key)) {
        self.saved.remove(id);
        self.missing.remove(id);
        // A file that is already gone is what was wanted.
        fs::remove_file(self.path(id)).ok();
    }

    fn path(&self, (kind, key): &(Kind, Key)) -> PathBuf {
        let kind: &str = kind.into();
        self.folder.join(format!("{kind}.{}.{}.json", key.namespace, key.name))
    }

    fn text(&self, id: &(Kind, Key)) -> Result<Unwritten, ManifestError> {
        let path = self.path(id);
        let Some(saved) = self.saved.get(id) else { return Ok(Unwritten(None)) };
        let text = serde_json::to_vec_pretty(saved).map_err(|e| problem(&path, e))?;
        Ok(Unwritten(Some((path, text))))
    }
}

/// What a file is to hold. Written apart from the change, for the disk may take its time, and whoever wants to read would
/// wait for it.
#[derive(Debug)]
#[must_use]
pub struct Unwritten(Option<(PathBuf, Vec<u8>)>);

impl Unwritten {
    pub fn write(self) -> Result<(), ManifestError> {
        self.0.map_or(Ok(()), |(path, text)| write_whole(&path, &text))
    }
}

fn conditions(status: &mut Value) -> Option<&mut Vec<Value>> {
    status.get_mut("conditions")?.as_array_mut()
}

fn delivering(condition: &Value) -> bool {
    condition.get("type").and_then(Value::as_str) == Some(DELIVERING)
}

fn put_condition(status: &mut Value, condition: Value) {
    match conditions(status) {
        Some(all) => {
            all.retain(|c| !delivering(c));
            all.push(condition);
        }
        None => {
            if let Some(status) = status.as_object_mut() {
                status.insert("conditions".into(), json!([condition]));
            }
        }
    }
}

fn put(status: &mut Value, member: &str, name: &str, value: Value) {
    let Some(status) = status.as_object_mut() else { return };
    let member = status.entry(member).or_insert_with(|| json!({}));
    if let Some(member) = member.as_object_mut() {
        member.insert(name.into(), value);
    }
}

fn new((kind, key): &(Kind, Key)) -> Saved {
    let kind: &str = kind.into();
    Saved {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        kind: kind.to_owned(),
        ..Saved::default()
    }
}

/// The object as the API server would show it.
fn dress(mut manifest: Value, saved: &Saved, removed: Option<Millis>) -> Value {
    if !saved.status.is_null()
        && let Some(object) = manifest.as_object_mut()
    {
        object.insert("status".into(), saved.status.clone());
    }
    let kept = format!("{manifest}{:?}{:?}{removed:?}", saved.finalizers, saved.annotations);
    let version = hex::encode(Sha256::digest(kept).get(..8).unwrap_or(&[]));
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

/// Writes a file whole or not at all: a crash leaves the old one.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), ManifestError> {
    let fail = |e: std::io::Error| problem(path, e);
    let folder = path.parent().unwrap_or(Path::new("."));
    let temporary = path.with_extension("tmp");
    let mut file = private(&temporary).map_err(fail)?;
    file.write_all(bytes).map_err(fail)?;
    file.sync_all().map_err(fail)?;
    fs::rename(&temporary, path).map_err(fail)?;
    fs::File::open(folder).and_then(|dir| dir.sync_all()).map_err(fail)
}

/// A file that its owner alone reads.
fn private(path: &Path) -> std::io::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// The key ring of standalone: `keys.json` in the data folder, made at the first start.
pub fn open_ring(data: &Path) -> Result<KeyRing, ManifestError> {
    fs::create_dir_all(data).map_err(|e| problem(data, e))?;
    let path = data.join("keys.json");
    if !path.exists() {
        let depends = fs::read_dir(data.join("objects")).is_ok_and(|mut entries| entries.next().is_some());
        if depends {
            let why = "is missing while objects depend on it: restore it, or empty the data folder";
            return Err(problem(&path, why));
        }
        let (id, key) = new_key().map_err(|e| problem(&path, e))?;
        let text =
            serde_json::to_vec(&BTreeMap::from([(id, hex::encode(key))])).map_err(|e| problem(&path, e))?;
        write_whole(&path, &text)?;
    }
    let text = fs::read_to_string(&path).map_err(|e| problem(&path, e))?;
    let keys: BTreeMap<String, String> =
        serde_json::from_str(&text).map_err(|_| problem(&path, "is no key ring"))?;
    let keys: Option<Vec<(String, Vec<u8>)>> =
        keys.into_iter().map(|(id, text)| Some((id, hex::decode(text).ok()?))).collect();
    let keys = keys.ok_or_else(|| problem(&path, "is no key ring"))?;
    KeyRing::from_data(keys.iter().map(|(id, key)| (id.as_str(), key.as_slice())))
        .map_err(|e| problem(&path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOOK: &str = "apiVersion: hookstream.dev/v1alpha1\nkind: EventHook\nmetadata: {name: a}\nspec: {source: s, handler: {}}\n";

    fn target() -> Target {
        Target {
            kind: Kind::EventHook,
            key: Key::new("default", "a"),
            uid: String::new(),
            resource_version: String::new(),
        }
    }

    fn held(finalizers: &[&str]) -> Metadata {
        let finalizers = Some(finalizers.iter().map(ToString::to_string).collect());
        Metadata { finalizers, ..Metadata::default() }
    }

    struct World {
        dir: tempfile::TempDir,
        manifests: Manifests,
        state: State,
    }

    fn world() -> World {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("m");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("a.yaml"), HOOK).unwrap();
        fs::write(folder.join("keep.yaml"), HOOK.replace("name: a", "name: keep")).unwrap();
        let mut manifests = Manifests::new(vec![folder]);
        manifests.scan().unwrap();
        let state = State::open(dir.path()).unwrap();
        World { dir, manifests, state }
    }

    fn deleting(objects: &[(Kind, Value)]) -> Option<bool> {
        let object = objects.iter().find(|(_, o)| o["metadata"]["name"] == "a")?;
        Some(object.1["metadata"].get("deletionTimestamp").is_some())
    }

    #[test]
    fn status_and_finalizers_outlive_the_process() {
        let World { dir, manifests, mut state } = world();
        state.set_status(&target(), json!({"observedGeneration": 1})).unwrap().write().unwrap();
        state.set_metadata(&target(), held(&["f"]), &manifests).unwrap().write().unwrap();
        let mut again = State::open(dir.path()).unwrap();
        let objects = again.merge(&manifests, false, true);
        let object = &objects.iter().find(|(_, o)| o["metadata"]["name"] == "a").unwrap().1;
        assert_eq!(object["status"]["observedGeneration"], 1);
        assert_eq!(object["metadata"]["finalizers"], json!(["f"]));
    }

    #[test]
    fn annotations_of_the_controller_come_and_go() {
        let World { dir, manifests, mut state } = world();
        let write = |state: &mut State, value: Option<&str>| {
            let annotations = [("ours", value.map(ToOwned::to_owned))].into_iter().collect();
            state
                .set_metadata(&target(), Metadata { finalizers: None, annotations }, &manifests)
                .unwrap()
                .write()
                .unwrap();
        };
        let read = |state: &mut State| {
            let objects = state.merge(&manifests, false, true);
            let object = objects.into_iter().find(|(_, o)| o["metadata"]["name"] == "a").unwrap().1;
            (object["metadata"]["annotations"]["ours"].clone(), object["metadata"]["resourceVersion"].clone())
        };
        let (before, version) = read(&mut state);
        assert_eq!(before, Value::Null);
        write(&mut state, Some("1"));
        let mut again = State::open(dir.path()).unwrap();
        let (written, other_version) = read(&mut again);
        assert_eq!(written, "1");
        assert_ne!(version, other_version);
        write(&mut again, None);
        assert_eq!(read(&mut again), (Value::Null, version));
    }

    #[test]
    fn a_removed_manifest_deletes_with_prune_after_two_scans_only() {
        for prune in [false, true] {
            let World { dir, mut manifests, mut state } = world();
            state.merge(&manifests, prune, true);
            state.set_metadata(&target(), held(&["f"]), &manifests).unwrap().write().unwrap();
            fs::remove_file(dir.path().join("m/a.yaml")).unwrap();
            manifests.scan().unwrap();
            assert_eq!(
                deleting(&state.merge(&manifests, prune, true)),
                Some(false),
                "one scan is not enough"
            );
            let second = deleting(&state.merge(&manifests, prune, true));
            assert_eq!(second, prune.then_some(true));
            let target = target();
            state.set_metadata(&target, held(&[]), &manifests).unwrap().write().unwrap();
            assert_eq!(deleting(&state.merge(&manifests, prune, true)), None, "cleaned up");
        }
    }

    #[test]
    fn the_generation_counts_specs() {
        let World { dir, mut manifests, mut state } = world();
        let generation = |objects: Vec<(Kind, Value)>| {
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

    #[test]
    fn a_lost_ring_is_not_replaced_while_objects_depend_on_it() {
        let World { dir, mut state, .. } = world();
        let first = open_ring(dir.path()).unwrap();
        assert_eq!(open_ring(dir.path()).unwrap().newest(), first.newest());
        state.set_status(&target(), json!({})).unwrap().write().unwrap();
        fs::remove_file(dir.path().join("keys.json")).unwrap();
        assert!(open_ring(dir.path()).unwrap_err().to_string().contains("restore"));
    }
}
