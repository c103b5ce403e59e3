//! The manifests of files and folders as last read. A broken document or file never hides the others.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::documents::{ManifestError, list_manifest_files, read_file};
use super::objects::{config_map_data, normalize, schema_errors, secret_data};
use crate::api::GROUP;
use crate::cluster::{Data, ObjectChange, ObjectKey, ResourceKind};

/// The apiVersion of every kind.
const API_VERSION: &str = "hookstream.dev/v1alpha1";

/// Every object, Secret and ConfigMap of the files, as last read.
pub struct ManifestSet {
    paths: Vec<PathBuf>,
    files: BTreeMap<PathBuf, CheckedFile>,
    objects: BTreeMap<(ResourceKind, ObjectKey), Value>,
    secrets: DataByKey,
    config_maps: DataByKey,
    logged: HashSet<String>,
    /// True if objects keep the uid, status and finalizers that a cluster printed.
    keep_state: bool,
}

/// Secrets or ConfigMaps, each with the hash of its document.
type DataByKey = HashMap<ObjectKey, (String, Arc<Data>)>;

/// A file's documents, each with its schema errors, which are computed once when the file is read.
struct CheckedFile {
    hash: [u8; 32],
    documents: Vec<(Value, Option<String>)>,
}

/// The documents of all files, sorted into objects, Secrets and ConfigMaps.
#[derive(Default)]
struct SortedDocuments {
    objects: BTreeMap<(ResourceKind, ObjectKey), Value>,
    secrets: DataByKey,
    config_maps: DataByKey,
    problems: Vec<String>,
}

impl ManifestSet {
    pub fn new(paths: Vec<PathBuf>) -> Self {
        ManifestSet {
            paths,
            files: BTreeMap::new(),
            objects: BTreeMap::new(),
            secrets: DataByKey::new(),
            config_maps: DataByKey::new(),
            logged: HashSet::new(),
            keep_state: false,
        }
    }

    /// Creates a set for output of `kubectl get -o yaml`: uid, status and finalizers of printed objects are kept.
    pub fn with_state(paths: Vec<PathBuf>) -> Self {
        ManifestSet { keep_state: true, ..ManifestSet::new(paths) }
    }

    pub fn object(&self, kind: ResourceKind, key: &ObjectKey) -> Option<&Value> {
        self.objects.get(&(kind, key.clone()))
    }

    pub fn objects(&self) -> impl Iterator<Item = (&(ResourceKind, ObjectKey), &Value)> {
        self.objects.iter()
    }

    pub fn secret(&self, key: &ObjectKey) -> Option<Arc<Data>> {
        self.secrets.get(key).map(|(_, data)| data.clone())
    }

    pub fn config_map(&self, key: &ObjectKey) -> Option<Arc<Data>> {
        self.config_maps.get(key).map(|(_, data)| data.clone())
    }

    /// Logs each distinct problem once. Without this, a scan every second would repeat it thousands of times.
    pub fn log_once(&mut self, message: &str) {
        if self.logged.insert(message.to_owned()) {
            tracing::error!("{message}");
        }
    }

    /// Reads the files that changed on disk. Returns the Secrets and ConfigMaps that were added, changed or removed. On an
    /// error the set stays unchanged. A file that cannot be read keeps its last good content.
    pub fn scan(&mut self) -> Result<Vec<ObjectChange>, ManifestError> {
        let mut files = BTreeMap::new();
        for path in list_manifest_files(&self.paths)? {
            let old = self.files.remove(&path);
            match read_file(&path, old.as_ref().map(|file| file.hash)) {
                Ok(Some(parsed)) => {
                    let documents = parsed.documents.into_iter().map(|document| {
                        let errors = schema_errors(&document);
                        (document, errors)
                    });
                    files.insert(path, CheckedFile { hash: parsed.hash, documents: documents.collect() });
                }
                Ok(None) => files.extend(old.map(|file| (path, file))),
                Err(error) => {
                    self.log_once(&format!("{error}; the last readable content stays in effect"));
                    files.extend(old.map(|file| (path, file)));
                }
            }
        }
        self.files = files;
        Ok(self.apply_documents())
    }

    /// Reads all files once. A file that cannot be read is an error.
    pub fn scan_strictly(&mut self) -> Result<(), ManifestError> {
        self.scan()?;
        let files = list_manifest_files(&self.paths)?;
        match files.iter().find(|path| !self.files.contains_key(*path)) {
            // Read the file again to return its error.
            Some(path) => read_file(path, None).map(drop),
            None => Ok(()),
        }
    }

    /// Adds a Secret that no file defines.
    pub fn add_secret(&mut self, key: ObjectKey, data: Data) {
        self.secrets.insert(key, (String::new(), Arc::new(data)));
    }

    /// Replaces objects, Secrets and ConfigMaps by those of the files. Returns the changed Secrets and ConfigMaps.
    fn apply_documents(&mut self) -> Vec<ObjectChange> {
        let sorted = self.sort_documents();
        sorted.problems.iter().for_each(|problem| self.log_once(problem));
        let secrets = changed_keys(&self.secrets, &sorted.secrets).map(ObjectChange::Secret);
        let config_maps = changed_keys(&self.config_maps, &sorted.config_maps).map(ObjectChange::ConfigMap);
        let changes = secrets.chain(config_maps).collect();
        self.objects = sorted.objects;
        self.secrets = sorted.secrets;
        self.config_maps = sorted.config_maps;
        changes
    }

    /// Sorts the documents of all files into objects, Secrets and ConfigMaps.
    fn sort_documents(&self) -> SortedDocuments {
        let mut sorted = SortedDocuments::default();
        for (path, file) in &self.files {
            for (document, errors) in &file.documents {
                if let Err(problem) = sorted.add(document, self.keep_state, errors.as_deref()) {
                    sorted.problems.push(format!("{}: {problem}", path.display()));
                }
            }
        }
        sorted
    }
}

impl SortedDocuments {
    /// Adds a document. Returns a problem if it is unusable or replaces an earlier one of the same kind and name.
    fn add(&mut self, document: &Value, keep_state: bool, schema_errors: Option<&str>) -> Result<(), String> {
        let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str);
        let (api_version, kind) =
            (text("/apiVersion").unwrap_or_default(), text("/kind").unwrap_or_default());
        let name = text("/metadata/name").ok_or("a document has no metadata.name")?;
        let key = ObjectKey::new(text("/metadata/namespace").unwrap_or("default"), name);
        let is_duplicate = match (api_version.split('/').next().unwrap_or_default(), kind) {
            (GROUP, _) => {
                let kind = kind
                    .parse::<ResourceKind>()
                    .map_err(|_| format!("kind {kind} does not exist in {GROUP}"))?;
                let object = normalize(document, kind, &key, keep_state, schema_errors);
                self.objects.insert((kind, key.clone()), object).is_some()
            }
            ("v1", "Secret") => insert_data(&mut self.secrets, &key, document, secret_data(document)),
            ("v1", "ConfigMap") => {
                insert_data(&mut self.config_maps, &key, document, config_map_data(document))
            }
            ("", kind) if kind.parse::<ResourceKind>().is_ok() => {
                return Err(format!("{kind} {key} has no apiVersion and is ignored: add {API_VERSION}"));
            }
            // A GitOps folder also contains objects of other applications.
            _ => false,
        };
        if is_duplicate { Err(format!("{kind} {key} is defined twice in the manifests")) } else { Ok(()) }
    }
}

/// Inserts the data of a document. Returns true if it replaces another one.
fn insert_data(all: &mut DataByKey, key: &ObjectKey, document: &Value, data: Data) -> bool {
    let hash = hex::encode(Sha256::digest(document.to_string()));
    all.insert(key.clone(), (hash, Arc::new(data))).is_some()
}

/// Iterates over the keys whose data was added, changed or removed.
fn changed_keys<'a>(before: &'a DataByKey, after: &'a DataByKey) -> impl Iterator<Item = ObjectKey> + 'a {
    let hash = |map: &'a DataByKey, key: &ObjectKey| map.get(key).map(|(hash, _)| hash);
    let keys: HashSet<&ObjectKey> = before.keys().chain(after.keys()).collect();
    keys.into_iter().filter(move |key| hash(before, key) != hash(after, key)).cloned()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::objects::deserialize;
    use super::*;
    use crate::api::EventHook;
    use crate::cluster::DeserializeGuard;

    const HOOK: &str = "apiVersion: hookstream.dev/v1alpha1\nkind: EventHook\nmetadata: {name: a}\nspec: {source: s, handler: {webhook: {url: 'https://example.com'}}}\n";

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    fn scan(dir: &tempfile::TempDir) -> ManifestSet {
        let mut manifests = ManifestSet::new(vec![dir.path().to_owned()]);
        manifests.scan().unwrap();
        manifests
    }

    #[test]
    fn keeps_other_files_and_last_good_content_of_a_broken_file() {
        let dir = folder(&[("a.yaml", HOOK), ("b.yaml", "a: [")]);
        let mut manifests = scan(&dir);
        assert_eq!(manifests.objects().count(), 1);
        fs::write(dir.path().join("a.yaml"), "}").unwrap();
        manifests.scan().unwrap();
        assert_eq!(manifests.objects().count(), 1, "the last good content is kept");
        fs::write(dir.path().join("a.yaml"), HOOK.replace("name: a", "name: b")).unwrap();
        manifests.scan().unwrap();
        assert_eq!(manifests.objects().next().unwrap().0.1.name, "b");
    }

    #[test]
    fn rejects_missing_and_empty_paths() {
        let dir = folder(&[("readme.txt", "x")]);
        assert!(
            ManifestSet::new(vec![dir.path().to_owned()])
                .scan()
                .unwrap_err()
                .to_string()
                .contains("no manifest")
        );
        assert!(ManifestSet::new(vec!["/no/such".into()]).scan().is_err());
    }

    #[test]
    fn reports_missing_api_version() {
        let dir = folder(&[
            (
                "b.yaml",
                &HOOK.replace("apiVersion: hookstream.dev/v1alpha1\n", "").replace("name: a", "name: b"),
            ),
            ("c.yaml", "kind: Deployment\nmetadata: {name: c}\n"),
        ]);
        let manifests = scan(&dir);
        let logged = |text: &str| manifests.logged.iter().filter(|line| line.contains(text)).count();
        assert_eq!(logged("b.yaml: EventHook default/b has no apiVersion"), 1);
        assert_eq!(manifests.logged.len(), 1, "{:?}", manifests.logged);
    }

    #[test]
    fn derives_uid_from_name() {
        let uid = |text: &str| {
            let manifests = scan(&folder(&[("a.yaml", text)]));
            let (_, object) = manifests.objects().next().unwrap();
            object["metadata"]["uid"].as_str().unwrap().to_owned()
        };
        assert_eq!(uid(HOOK), uid(HOOK));
        assert_ne!(uid(HOOK), uid(&HOOK.replace("name: a", "name: a, namespace: other")));
    }

    #[test]
    fn reports_changed_secrets() {
        let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: aGVsbG8=, b: eA==}\nstringData: {b: plain}\n";
        let dir = folder(&[("a.yaml", text)]);
        let mut manifests = scan(&dir);
        let key = ObjectKey::new("default", "s");
        assert_eq!(manifests.secret(&key).unwrap().get("a"), Some(&b"hello"[..]));
        assert_eq!(manifests.secret(&key).unwrap().get("b"), Some(&b"plain"[..]));
        assert!(manifests.scan().unwrap().is_empty());
        fs::write(dir.path().join("a.yaml"), text.replace("plain", "other")).unwrap();
        assert_eq!(manifests.scan().unwrap(), [ObjectChange::Secret(key)]);
    }

    /// An annotation of that name in the manifest itself has no effect.
    #[test]
    fn rejects_objects_that_violate_the_schema() {
        let validate = |text: &str| {
            let manifests = scan(&folder(&[("a.yaml", text)]));
            let guard: DeserializeGuard<EventHook> =
                deserialize(manifests.objects().next().unwrap().1).unwrap();
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
    }

    #[test]
    fn reads_yaml_like_kubectl() {
        let dir = folder(&[(
            "a.yaml",
            "{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {a: 'no'}}\n---\n---\nkind: List\nitems: [{apiVersion: v1, kind: Secret, metadata: {name: t}}]",
        )]);
        let manifests = scan(&dir);
        assert!(manifests.secret(&ObjectKey::new("default", "t")).is_some());
        assert_eq!(manifests.secret(&ObjectKey::new("default", "s")).unwrap().get("a"), Some(&b"no"[..]));
    }
}
