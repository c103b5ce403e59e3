//! The manifests of files and folders as last read. A broken document or file never hides the others.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::definition::{Content, Definition, ManifestKey, ObjectManifest};
use super::documents::{ManifestError, read_documents};
use super::file_scanner::FileChanges;
use crate::cluster::{Data, ObjectKey, ResourceKind};

/// The number of consecutive scans without a definition after which it counts as removed. `helm template > file` empties
/// the file for a moment, and two scans may fall into it.
const SCANS_UNTIL_REMOVED: u32 = 3;

/// Every object, Secret and ConfigMap of the files, as last read. A definition that is missing stays until enough scans
/// agree that it was removed.
#[derive(Default)]
pub struct ManifestSet {
    /// The definitions of a key, by position. If there are several, the last one wins.
    definitions: BTreeMap<ManifestKey, BTreeMap<Position, Arc<Definition>>>,
    /// What each file defines.
    keys_of_file: HashMap<Arc<Path>, Vec<ManifestKey>>,
    /// The definitions that the last scans did not find.
    missing: BTreeMap<ManifestKey, MissingDefinition>,
    /// Keys whose second definition was logged.
    duplicates: HashSet<ManifestKey>,
}

/// Sets the namespace of an object that has none.
fn set_default_namespace(document: &mut Value, namespace: &str) {
    if let Some(metadata) = document.get_mut("metadata").and_then(Value::as_object_mut) {
        let own = metadata.entry("namespace").or_insert(Value::Null);
        if own.is_null() || own.as_str() == Some("") {
            *own = namespace.into();
        }
    }
}

/// A document's file and index.
type Position = (Arc<Path>, usize);

/// A definition that the last scans did not find.
struct MissingDefinition {
    /// None: it was defined before the process started.
    definition: Option<Arc<Definition>>,
    /// The file that defined it last. While that file cannot be read, it may still do so.
    file: Option<PathBuf>,
    /// Consecutive scans that did not find it.
    scans: u32,
}

impl ManifestSet {
    /// Reads files and folders once, and standard input for `-`. A file that cannot be read, or a document of ours that cannot
    /// be used, is an error. Objects that a cluster printed (`kubectl get -o yaml`) keep their uid, status and finalizers.
    /// Objects without a namespace get this one.
    pub fn read_once(paths: &[PathBuf], namespace: &str) -> Result<Self, ManifestError> {
        let mut changed: Vec<(Arc<Path>, Vec<Arc<Definition>>)> = Vec::new();
        for document in read_documents(paths)? {
            let path = document.path.as_path();
            let mut value = document.content.map_err(|problem| ManifestError::new(path, problem))?;
            set_default_namespace(&mut value, namespace);
            let definition = Definition::of_document(&value, Definition::hash_of(&value), true)
                .map_err(|problem| ManifestError::new(path, problem))?;
            if changed.last().is_none_or(|(last, _)| **last != *path) {
                changed.push((path.into(), Vec::new()));
            }
            if let (Some((_, definitions)), Some(definition)) = (changed.last_mut(), definition) {
                definitions.push(Arc::new(definition));
            }
        }
        let mut manifests = ManifestSet::default();
        manifests.apply(FileChanges { changed, ..FileChanges::default() });
        Ok(manifests)
    }

    /// Returns an object, also one that the last scans did not find but that does not count as removed yet.
    pub fn object(&self, kind: ResourceKind, key: &ObjectKey) -> Option<&ObjectManifest> {
        self.definition(&ManifestKey::Object(kind, key.clone()))?.object()
    }

    /// Returns the objects of every kind, by kind and name.
    pub fn objects(&self) -> impl Iterator<Item = (ResourceKind, &ObjectKey, &ObjectManifest)> {
        let defined = self.definitions.values().filter_map(|all| all.values().next_back());
        let missing = self.missing.values().filter_map(|missing| missing.definition.as_ref());
        defined.chain(missing).filter_map(|definition| match &definition.key {
            ManifestKey::Object(kind, key) => Some((*kind, key, definition.object()?)),
            ManifestKey::Secret(_) | ManifestKey::ConfigMap(_) => None,
        })
    }

    pub fn secret(&self, key: &ObjectKey) -> Option<Arc<Data>> {
        self.definition(&ManifestKey::Secret(key.clone()))?.data().cloned()
    }

    pub fn config_map(&self, key: &ObjectKey) -> Option<Arc<Data>> {
        self.definition(&ManifestKey::ConfigMap(key.clone()))?.data().cloned()
    }

    /// Returns the file that defines an object.
    pub fn file_of(&self, kind: ResourceKind, key: &ObjectKey) -> Option<&Path> {
        let all = self.definitions.get(&ManifestKey::Object(kind, key.clone()))?;
        all.keys().next_back().map(|(path, _)| &**path)
    }

    /// Adds a Secret that no file defines.
    pub fn add_secret(&mut self, key: ObjectKey, data: Data) {
        let key = ManifestKey::Secret(key);
        let content = Content::Data(Arc::new(data));
        let definition = Definition { key: key.clone(), content, hash: [0; 32], problems: Vec::new() };
        self.definitions.entry(key).or_default().insert((Path::new("").into(), 0), Arc::new(definition));
    }

    /// Counts an object that was defined before the process started as missing since the last scan, unless it is defined.
    pub fn expect(&mut self, kind: ResourceKind, key: ObjectKey, file: Option<PathBuf>) {
        let key = ManifestKey::Object(kind, key);
        if self.definition(&key).is_none() {
            self.missing.insert(key, MissingDefinition { definition: None, file, scans: 1 });
        }
    }

    /// True if the object is missing and does not count as removed yet.
    pub fn is_missing(&self, kind: ResourceKind, key: &ObjectKey) -> bool {
        self.missing.contains_key(&ManifestKey::Object(kind, key.clone()))
    }

    /// Applies the result of a scan. Returns what was added, changed or removed.
    pub fn apply(&mut self, changes: FileChanges) -> Vec<ManifestKey> {
        for missing in self.missing.values_mut() {
            let may_exist = missing.file.as_ref().is_some_and(|file| changes.unreadable.contains(file));
            missing.scans = if may_exist { 0 } else { missing.scans.saturating_add(1) };
        }
        // Only the definitions of changed files are visited.
        let mut before = BTreeMap::new();
        for path in changes.removed {
            self.withdraw(&path, &mut before);
        }
        for (path, definitions) in changes.changed {
            self.withdraw(&path, &mut before);
            self.insert(&path, definitions, &mut before);
        }
        let mut changed: Vec<ManifestKey> = Vec::new();
        for (key, before) in before {
            let now = self.definitions.get(&key).and_then(|all| all.values().next_back());
            match (now, before) {
                (Some(now), before) => {
                    let is_changed = before.is_none_or(|before| before.hash != now.hash);
                    self.missing.remove(&key);
                    changed.extend(is_changed.then_some(key));
                }
                (None, Some(definition)) => {
                    let missing = MissingDefinition { definition: Some(definition), file: None, scans: 1 };
                    self.missing.entry(key).or_insert(missing);
                }
                (None, None) => {}
            }
        }
        let is_removed = |missing: &MissingDefinition| missing.scans >= SCANS_UNTIL_REMOVED;
        for (key, _) in self.missing.extract_if(.., |_, missing| is_removed(missing)) {
            tracing::info!(kind = key.kind(), object = %key.name(), "object removed from the manifests");
            changed.push(key);
        }
        changed
    }

    fn definition(&self, key: &ManifestKey) -> Option<&Arc<Definition>> {
        let defined = self.definitions.get(key).and_then(|all| all.values().next_back());
        defined.or_else(|| self.missing.get(key)?.definition.as_ref())
    }

    /// Removes the definitions of a file. Records in `before` what they were.
    fn withdraw(&mut self, path: &Path, before: &mut BTreeMap<ManifestKey, Option<Arc<Definition>>>) {
        for key in self.keys_of_file.remove(path).unwrap_or_default() {
            let last = self.definition(&key).cloned();
            before.entry(key.clone()).or_insert(last);
            if let Some(all) = self.definitions.get_mut(&key) {
                all.retain(|(file, _), _| &**file != path);
                if all.len() < 2 {
                    self.duplicates.remove(&key);
                }
                if all.is_empty() {
                    self.definitions.remove(&key);
                }
            }
        }
    }

    /// Adds the definitions of a file. Records in `before` what they replace.
    fn insert(
        &mut self,
        path: &Arc<Path>,
        definitions: Vec<Arc<Definition>>,
        before: &mut BTreeMap<ManifestKey, Option<Arc<Definition>>>,
    ) {
        let mut keys = Vec::with_capacity(definitions.len());
        for (index, definition) in definitions.into_iter().enumerate() {
            let key = definition.key.clone();
            let last = self.definition(&key).cloned();
            before.entry(key.clone()).or_insert(last);
            let all = self.definitions.entry(key.clone()).or_default();
            all.insert((path.clone(), index), definition);
            if all.len() > 1 && self.duplicates.insert(key.clone()) {
                tracing::error!("{}: {key} is defined twice in the manifests", path.display());
            }
            keys.push(key);
        }
        self.keys_of_file.insert(path.clone(), keys);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::file_scanner::FileScanner;
    use super::super::objects::FileObject;
    use super::*;
    use crate::api::EventHook;
    use crate::cluster::DeserializeGuard;

    const HOOK: &str = "apiVersion: hookstream.dev/v1alpha1\nkind: EventHook\nmetadata: {name: a}\nspec: {source: s, handler: {webhook: {url: 'https://example.com'}}}\n";

    /// A folder with manifests, and what the scans found in it.
    struct Folder {
        dir: tempfile::TempDir,
        scanner: FileScanner,
        manifests: ManifestSet,
    }

    impl Folder {
        fn new(files: &[(&str, &str)]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let scanner = FileScanner::new(vec![dir.path().to_owned()], false);
            let mut folder = Folder { dir, scanner, manifests: ManifestSet::default() };
            files.iter().for_each(|(name, text)| folder.write(name, text));
            folder.scan();
            folder
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.dir.path().join(name), text).unwrap();
        }

        /// Returns the names of what was added, changed or removed.
        fn scan(&mut self) -> Vec<String> {
            let changes = self.scanner.scan().unwrap();
            self.manifests.apply(changes).iter().map(ToString::to_string).collect()
        }

        fn names(&self) -> Vec<String> {
            self.manifests.objects().map(|(_, key, _)| key.name.clone()).collect()
        }
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("default", name)
    }

    fn named(name: &str) -> String {
        HOOK.replace("name: a", &format!("name: {name}"))
    }

    #[test]
    fn keeps_other_files_and_last_good_content_of_a_broken_file() {
        let mut folder = Folder::new(&[("a.yaml", HOOK), ("b.yaml", "a: [")]);
        assert_eq!(folder.names(), ["a"]);
        for _ in 0..5 {
            folder.write("a.yaml", "}");
            assert!(folder.scan().is_empty(), "the last good content is kept");
        }
        folder.write("a.yaml", &named("b"));
        assert_eq!(folder.scan(), ["EventHook default/b"]);
        assert_eq!(folder.names(), ["b", "a"], "one scan is not enough to remove an object");
    }

    #[test]
    fn removes_what_three_scans_in_a_row_did_not_find() {
        let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n";
        let config_map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n";
        let all = format!("{HOOK}---\n{secret}---\n{config_map}");
        let mut folder = Folder::new(&[("a.yaml", &all), ("keep.yaml", &named("keep"))]);
        let has_all = |folder: &Folder| {
            folder.manifests.object(ResourceKind::EventHook, &key("a")).is_some()
                && folder.manifests.secret(&key("s")).is_some()
                && folder.manifests.config_map(&key("c")).is_some()
        };
        // Emptied for two scans, then written again: nothing happened.
        folder.write("a.yaml", "");
        for _ in 0..2 {
            assert!(folder.scan().is_empty());
            assert!(has_all(&folder));
        }
        folder.write("a.yaml", &all);
        assert!(folder.scan().is_empty());
        // Moved to another file: nothing happened either.
        fs::rename(folder.dir.path().join("a.yaml"), folder.dir.path().join("moved.yaml")).unwrap();
        for _ in 0..4 {
            assert!(folder.scan().is_empty());
        }
        // Removed. The scans start from one again.
        fs::remove_file(folder.dir.path().join("moved.yaml")).unwrap();
        for _ in 0..2 {
            assert!(folder.scan().is_empty());
            assert!(has_all(&folder));
        }
        assert_eq!(folder.scan(), ["EventHook default/a", "Secret default/s", "ConfigMap default/c"]);
        assert_eq!(folder.names(), ["keep"]);
        assert!(
            folder.manifests.secret(&key("s")).is_none() && folder.manifests.config_map(&key("c")).is_none()
        );
        assert!(folder.scan().is_empty());
    }

    #[test]
    fn expects_an_object_of_an_earlier_process_while_its_file_is_unreadable() {
        let mut folder = Folder::new(&[("a.yaml", "a: ["), ("keep.yaml", HOOK)]);
        let path = folder.dir.path().join("a.yaml");
        for (name, file) in [("broken", Some(path)), ("removed", None), ("a", None)] {
            folder.manifests.expect(ResourceKind::EventHook, key(name), file);
        }
        let is_missing =
            |folder: &Folder, name| folder.manifests.is_missing(ResourceKind::EventHook, &key(name));
        assert!(is_missing(&folder, "broken") && is_missing(&folder, "removed") && !is_missing(&folder, "a"));
        assert!(folder.scan().is_empty());
        assert_eq!(folder.scan(), ["EventHook default/removed"]);
        for _ in 0..3 {
            assert!(folder.scan().is_empty() && is_missing(&folder, "broken"));
        }
        folder.write("a.yaml", &named("broken"));
        assert_eq!(folder.scan(), ["EventHook default/broken"]);
        assert!(!is_missing(&folder, "broken"));
    }

    #[test]
    fn last_of_several_definitions_wins() {
        let other = HOOK.replace("source: s", "source: t");
        let mut folder = Folder::new(&[("a.yaml", HOOK), ("b.yaml", &other)]);
        let source = |folder: &Folder| {
            let object = folder.manifests.object(ResourceKind::EventHook, &key("a")).unwrap();
            object.selector.as_ref().unwrap().source.clone()
        };
        assert_eq!(source(&folder), "t");
        folder.write("a.yaml", &HOOK.replace("source: s", "source: u"));
        assert!(folder.scan().is_empty(), "another definition is in effect");
        fs::remove_file(folder.dir.path().join("b.yaml")).unwrap();
        assert_eq!(folder.scan(), ["EventHook default/a"]);
        assert_eq!(source(&folder), "u");
        assert!(folder.manifests.duplicates.is_empty());
    }

    #[test]
    fn rejects_missing_and_empty_paths() {
        let folder = Folder::new(&[("a.yaml", HOOK)]);
        fs::rename(folder.dir.path().join("a.yaml"), folder.dir.path().join("readme.txt")).unwrap();
        let scan = |path: PathBuf| FileScanner::new(vec![path], false).scan();
        assert!(scan(folder.dir.path().to_owned()).unwrap_err().to_string().contains("no manifest"));
        assert!(scan("/no/such".into()).is_err());
    }

    #[test]
    fn derives_uid_from_name() {
        let uid = |text: &str| {
            let folder = Folder::new(&[("a.yaml", text)]);
            let (_, _, object) = folder.manifests.objects().next().unwrap();
            object.value["metadata"]["uid"].as_str().unwrap().to_owned()
        };
        assert_eq!(uid(HOOK), uid(HOOK));
        assert_ne!(uid(HOOK), uid(&HOOK.replace("name: a", "name: a, namespace: other")));
    }

    #[test]
    fn reports_changed_secrets() {
        let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: aGVsbG8=, b: eA==}\nstringData: {b: plain}\n";
        let mut folder = Folder::new(&[("a.yaml", text)]);
        let secret = folder.manifests.secret(&key("s")).unwrap();
        assert_eq!(secret.get("a"), Some(&b"hello"[..]));
        assert_eq!(secret.get("b"), Some(&b"plain"[..]));
        assert!(folder.scan().is_empty());
        folder.write("a.yaml", &text.replace("plain", "other"));
        assert_eq!(folder.scan(), ["Secret default/s"]);
    }

    /// An annotation of that name in the manifest itself has no effect.
    #[test]
    fn rejects_objects_that_violate_the_schema() {
        let validate = |text: &str| {
            let folder = Folder::new(&[("a.yaml", text)]);
            let object = folder.manifests.objects().next().unwrap().2.value.clone();
            let guard: DeserializeGuard<EventHook> = FileObject::new(object).deserialize().unwrap();
            guard.0.map_err(|invalid| invalid.error).and_then(|hook| {
                crate::core::hook::validate(&hook).map(drop).map_err(|invalid| invalid.to_string())
            })
        };
        let with = |more: &str| HOOK.replace("source: s", &format!("source: s, {more}"));
        assert_eq!(validate(HOOK), Ok(()));
        let annotated = "{name: a, annotations: {hookstream.dev/refused: x}}";
        assert_eq!(validate(&HOOK.replace("{name: a}", annotated)), Ok(()));
        assert!(validate(&with("snoose: 5s")).unwrap_err().contains("unknown field \"spec.snoose\""));
        assert!(validate(&with("snooze: 5")).unwrap_err().starts_with("spec.snooze: Invalid value"));
        assert!(validate(&with("rotation: a")).unwrap_err().contains("rotation needs connectionRef"));
        let labelled = validate(&HOOK.replace("{name: a}", "{name: a, labels: {version: 2}}"));
        assert!(labelled.unwrap_err().starts_with("metadata.labels.version: Invalid value"));
    }

    #[test]
    fn reads_yaml_like_kubectl() {
        let folder = Folder::new(&[(
            "a.yaml",
            "{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {a: 'no'}}\n---\n---\nkind: List\nitems: [{apiVersion: v1, kind: Secret, metadata: {name: t}}]",
        )]);
        assert!(folder.manifests.secret(&key("t")).is_some());
        assert_eq!(folder.manifests.secret(&key("s")).unwrap().get("a"), Some(&b"no"[..]));
    }
}
