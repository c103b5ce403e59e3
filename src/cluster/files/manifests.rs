//! Manifests as files: read again when they change, one broken document or file never hiding another.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::Resource;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::api::{self, GROUP};
use crate::cluster::{Change, Data, Guarded, Key, Kind};
use crate::core::hook::REFUSED;
use crate::core::schema::Schemas;

/// The space of uids that are made from names: the same object has the same uid at every start.
const UIDS: Uuid = Uuid::from_u128(0x6861_6f6b_7374_7265_616d_2e64_6576_0001);
const MAX_FILE: u64 = 16 * 1024 * 1024;
const MAX_FILES: usize = 10_000;
/// What the API server would check manifests by.
static SCHEMAS: LazyLock<Schemas> = LazyLock::new(|| Schemas::of(&api::crds()));

/// The apiVersion of every kind.
const VERSION: &str = "hookstream.dev/v1alpha1";

/// What is wrong with the files.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("{path}: {problem}")]
    Path { path: String, problem: String },
}

pub(super) fn problem(path: &Path, problem: impl ToString) -> ManifestError {
    ManifestError::Path { path: path.display().to_string(), problem: problem.to_string() }
}

/// Every document of every file, as last read.
pub struct Manifests {
    paths: Vec<PathBuf>,
    files: BTreeMap<PathBuf, File>,
    objects: BTreeMap<(Kind, Key), Value>,
    secrets: Holders,
    config_maps: Holders,
    said: HashSet<String>,
    /// An object that a cluster printed keeps its uid, status and finalizers.
    with_state: bool,
}

/// Secrets or ConfigMaps with a hash of each.
type Holders = HashMap<Key, (String, Arc<Data>)>;

struct File {
    hash: [u8; 32],
    documents: Vec<Value>,
    /// For each document what the API server would refuse it for; looked for once, when the file is read.
    refused: Vec<Option<String>>,
}

impl Manifests {
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Manifests {
            paths,
            files: BTreeMap::new(),
            objects: BTreeMap::new(),
            secrets: Holders::new(),
            config_maps: Holders::new(),
            said: HashSet::new(),
            with_state: false,
        }
    }

    /// Manifests that may be what `kubectl get -o yaml` printed: what they say of where an object is counts.
    pub fn with_state(paths: Vec<PathBuf>) -> Self {
        Manifests { with_state: true, ..Manifests::new(paths) }
    }

    pub fn object(&self, kind: Kind, key: &Key) -> Option<&Value> {
        self.objects.get(&(kind, key.clone()))
    }

    pub fn objects(&self) -> impl Iterator<Item = (&(Kind, Key), &Value)> {
        self.objects.iter()
    }

    pub fn secret(&self, key: &Key) -> Option<Arc<Data>> {
        self.secrets.get(key).map(|(_, data)| data.clone())
    }

    pub fn config_map(&self, key: &Key) -> Option<Arc<Data>> {
        self.config_maps.get(key).map(|(_, data)| data.clone())
    }

    /// Logs a problem, once until it changes: a scan a second would say it a thousand times.
    pub fn say_once(&mut self, message: &str) {
        if self.said.insert(message.to_owned()) {
            tracing::error!("{message}");
        }
    }

    /// Reads what changed on disk; the Secrets and ConfigMaps that are new, other or gone. On an error everything stays as it was.
    pub fn scan(&mut self) -> Result<Vec<Change>, ManifestError> {
        let mut found = Vec::new();
        for path in &self.paths {
            let before = found.len();
            list(path, &mut found)?;
            if found.len() == before {
                return Err(problem(path, "no manifest (*.yaml, *.yml, *.json) in it"));
            }
        }
        let mut files = BTreeMap::new();
        for path in found {
            let old = self.files.remove(&path);
            match read(&path, old.as_ref()) {
                Ok(Some(mut file)) => {
                    file.refused = file.documents.iter().map(refused).collect();
                    files.insert(path, file);
                }
                Ok(None) => files.extend(old.map(|file| (path, file))),
                Err(error) => {
                    self.say_once(&format!("{error}; what it held before still holds"));
                    files.extend(old.map(|file| (path, file)));
                }
            }
        }
        self.files = files;
        Ok(self.sort())
    }

    /// Reads everything once; what cannot be read is an error.
    pub fn scan_strictly(&mut self) -> Result<(), ManifestError> {
        self.scan()?;
        let mut found = Vec::new();
        for path in &self.paths {
            list(path, &mut found)?;
        }
        match found.iter().find(|path| !self.files.contains_key(*path)) {
            // Read again, for its problem.
            Some(path) => read(path, None).map(drop),
            None => Ok(()),
        }
    }

    pub fn add_secret(&mut self, key: Key, data: Data) {
        self.secrets.insert(key, (String::new(), Arc::new(data)));
    }

    /// Sorts the documents into objects and Secrets.
    fn sort(&mut self) -> Vec<Change> {
        let mut objects = BTreeMap::new();
        let (mut secrets, mut config_maps) = (Holders::new(), Holders::new());
        let mut complaints = Vec::new();
        for (path, file) in &self.files {
            for (document, refused) in file.documents.iter().zip(&file.refused) {
                let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str);
                let (group, kind) =
                    (text("/apiVersion").unwrap_or_default(), text("/kind").unwrap_or_default());
                let Some(name) = text("/metadata/name") else {
                    complaints.push(format!("{}: a document has no metadata.name", path.display()));
                    continue;
                };
                let key = Key::new(text("/metadata/namespace").unwrap_or("default"), name);
                let again = match (group.split('/').next().unwrap_or_default(), kind) {
                    (GROUP, _) => match kind.parse::<Kind>() {
                        Ok(kind) => {
                            let object = named(document, kind, &key, self.with_state, refused.as_deref());
                            objects.insert((kind, key.clone()), object).is_some()
                        }
                        Err(_) => {
                            complaints.push(format!("{}: kind {kind} is none of {GROUP}", path.display()));
                            false
                        }
                    },
                    ("v1", "Secret") => {
                        let hash = hex::encode(Sha256::digest(document.to_string()));
                        let data = secret_data(document);
                        secrets.insert(key.clone(), (hash, Arc::new(data))).is_some()
                    }
                    ("v1", "ConfigMap") => {
                        let hash = hex::encode(Sha256::digest(document.to_string()));
                        config_maps.insert(key.clone(), (hash, Arc::new(config_map_data(document)))).is_some()
                    }
                    ("", kind) if kind.parse::<Kind>().is_ok() => {
                        complaints.push(format!(
                            "{}: {kind} {key} has no apiVersion, and is left alone: write {VERSION}",
                            path.display()
                        ));
                        false
                    }
                    // A folder for GitOps holds other things too.
                    _ => false,
                };
                if again {
                    complaints
                        .push(format!("{}: {kind} {key} stands in the manifests twice", path.display()));
                }
            }
        }
        complaints.iter().for_each(|c| self.say_once(c));
        let changed = differing(&self.secrets, &secrets).map(Change::Secret);
        let changed =
            changed.chain(differing(&self.config_maps, &config_maps).map(Change::ConfigMap)).collect();
        self.objects = objects;
        self.secrets = secrets;
        self.config_maps = config_maps;
        changed
    }
}

/// A document of a file.
pub struct Document {
    pub path: PathBuf,
    /// An error: the file cannot be read, or is no YAML.
    pub content: Result<Value, String>,
}

/// Every document of these files and folders.
pub fn documents(paths: &[PathBuf]) -> Result<Vec<Document>, ManifestError> {
    let mut files = Vec::new();
    for path in paths {
        let before = files.len();
        list(path, &mut files)?;
        if files.len() == before {
            return Err(problem(path, "no manifest (*.yaml, *.yml, *.json) in it"));
        }
    }
    let documents = files.into_iter().flat_map(|path| match read(&path, None) {
        Ok(file) => {
            let documents = file.map(|file| file.documents).unwrap_or_default();
            documents
                .into_iter()
                .map(|content| Document { path: path.clone(), content: Ok(content) })
                .collect()
        }
        Err(ManifestError::Path { problem, .. }) => vec![Document { path, content: Err(problem) }],
    });
    Ok(documents.collect())
}

/// The names whose data is not the same in both.
fn differing<'a>(before: &'a Holders, now: &'a Holders) -> impl Iterator<Item = Key> + 'a {
    let hash = |map: &'a Holders, key: &Key| map.get(key).map(|(hash, _)| hash);
    let keys: HashSet<&Key> = before.keys().chain(now.keys()).collect();
    keys.into_iter().filter(move |key| hash(before, key) != hash(now, key)).cloned()
}

/// The file, read; None if it is what it was.
fn read(path: &Path, old: Option<&File>) -> Result<Option<File>, ManifestError> {
    if fs::metadata(path).map_err(|e| problem(path, e))?.len() > MAX_FILE {
        return Err(problem(path, format!("longer than {MAX_FILE} bytes")));
    }
    let text = fs::read_to_string(path).map_err(|e| problem(path, e))?;
    let hash = Sha256::digest(text.as_bytes()).into();
    if old.is_some_and(|old| old.hash == hash) {
        return Ok(None);
    }
    let documents =
        serde_saphyr::from_multiple::<Value>(&text).map_err(|e| problem(path, first_line(&e.to_string())))?;
    let documents = documents.into_iter().flat_map(unlist).filter(|d| !d.is_null()).collect();
    Ok(Some(File { hash, documents, refused: Vec::new() }))
}

/// What the API server would refuse an object of ours for.
fn refused(document: &Value) -> Option<String> {
    let version = document.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    if version.split('/').next() != Some(GROUP) {
        return None;
    }
    let faults = SCHEMAS.check(document);
    let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
    (!told.is_empty()).then(|| told.join("; "))
}

fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

/// A `kind: List` is its items.
fn unlist(document: Value) -> Vec<Value> {
    match document.get("kind").and_then(Value::as_str) {
        Some("List") => document.get("items").and_then(Value::as_array).cloned().unwrap_or_default(),
        _ => vec![document],
    }
}

fn list(path: &Path, found: &mut Vec<PathBuf>) -> Result<(), ManifestError> {
    if fs::metadata(path).map_err(|e| problem(path, e))?.is_file() {
        found.push(path.to_owned());
        return Ok(());
    }
    let mut entries: Vec<PathBuf> = fs::read_dir(path)
        .and_then(|entries| entries.map(|e| e.map(|e| e.path())).collect())
        .map_err(|e| problem(path, e))?;
    entries.sort();
    for entry in entries {
        // `..data` and its like: how a mounted ConfigMap changes its files at once.
        let hidden = entry.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        let manifest = entry.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if entry.is_dir() && !hidden {
            list(&entry, found)?;
        } else if manifest && !hidden {
            found.push(entry);
        }
        if found.len() > MAX_FILES {
            return Err(problem(path, format!("more than {MAX_FILES} manifests")));
        }
    }
    Ok(())
}

/// The uid of an object of this kind and name.
pub fn uid(kind: &str, namespace: &str, name: &str) -> String {
    Uuid::new_v5(&UIDS, format!("{kind}/{namespace}/{name}").as_bytes()).to_string()
}

/// `refused`: goes along as an annotation, for the object is not there without the fault, and nobody reads files twice.
fn named(document: &Value, kind: Kind, key: &Key, with_state: bool, refused: Option<&str>) -> Value {
    let mut object = document.clone();
    let kind: &str = kind.into();
    let printed = document.pointer("/metadata/uid").and_then(Value::as_str).filter(|_| with_state);
    let uid = printed.map_or_else(|| uid(kind, &key.namespace, &key.name), ToOwned::to_owned);
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("namespace".into(), json!(key.namespace));
        metadata.insert("uid".into(), json!(uid));
        // What a manifest says of these is not its to say.
        for kept in ["resourceVersion", "generation", "deletionTimestamp", "managedFields"] {
            metadata.remove(kept);
        }
        if printed.is_none() {
            metadata.remove("finalizers");
        }
        match (metadata.get_mut("annotations").and_then(Value::as_object_mut), refused) {
            (Some(annotations), refused) => {
                annotations.remove(REFUSED);
                annotations.extend(refused.map(|refused| (REFUSED.to_owned(), json!(refused))));
            }
            (None, Some(refused)) => {
                metadata.insert("annotations".into(), json!({ REFUSED: refused }));
            }
            (None, None) => {}
        }
    }
    if let Some(object) = object.as_object_mut().filter(|_| printed.is_none()) {
        object.remove("status");
    }
    object
}

/// The text members of one map of a document.
fn texts<'a>(document: &'a Value, name: &str) -> impl Iterator<Item = (String, &'a str)> {
    let map = document.get(name).and_then(Value::as_object);
    map.into_iter().flatten().filter_map(|(key, value)| Some((key.clone(), value.as_str()?)))
}

/// The members of one map of a document that are base64.
fn packed(document: &Value, name: &str) -> impl Iterator<Item = (String, Vec<u8>)> {
    texts(document, name).filter_map(|(key, value)| {
        let packed: String = value.split_whitespace().collect();
        Some((key, STANDARD.decode(packed).ok()?))
    })
}

fn plain(document: &Value, name: &str) -> impl Iterator<Item = (String, Vec<u8>)> {
    texts(document, name).map(|(key, value)| (key, value.as_bytes().to_vec()))
}

fn secret_data(document: &Value) -> Data {
    // As the API server does: what is in both, stringData decides.
    Data::new(packed(document, "data").chain(plain(document, "stringData")))
}

fn config_map_data(document: &Value) -> Data {
    Data::new(plain(document, "data").chain(packed(document, "binaryData")))
}

/// The object as a watch would give it. Unknown fields make it invalid: nothing is silently ignored.
pub fn guarded<K>(object: &Value) -> Option<Guarded<K>>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    let mut guarded: Guarded<K> = serde_json::from_value(object.clone()).ok()?;
    // It cannot be read for what the API server would have refused, and its words are the better ones.
    if let Err(invalid) = &mut guarded.0
        && let Some(refused) =
            object.pointer("/metadata/annotations").and_then(|all| all.get(REFUSED)?.as_str())
    {
        invalid.error = refused.to_owned();
    }
    Some(guarded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::EventHook;

    const HOOK: &str = "apiVersion: hookstream.dev/v1alpha1\nkind: EventHook\nmetadata: {name: a}\nspec: {source: s, handler: {webhook: {url: 'https://example.com'}}}\n";

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    fn scanned(dir: &tempfile::TempDir) -> Manifests {
        let mut manifests = Manifests::new(vec![dir.path().to_owned()]);
        manifests.scan().unwrap();
        manifests
    }

    #[test]
    fn one_broken_file_hides_no_other_and_keeps_its_last_good_state() {
        let dir = folder(&[("a.yaml", HOOK), ("b.yaml", "a: [")]);
        let mut manifests = scanned(&dir);
        assert_eq!(manifests.objects().count(), 1);
        fs::write(dir.path().join("a.yaml"), "}").unwrap();
        manifests.scan().unwrap();
        assert_eq!(manifests.objects().count(), 1, "the last good state");
        fs::write(dir.path().join("a.yaml"), HOOK.replace("name: a", "name: b")).unwrap();
        manifests.scan().unwrap();
        assert_eq!(manifests.objects().next().unwrap().0.1.name, "b");
    }

    #[test]
    fn missing_and_empty_paths_are_errors() {
        let dir = folder(&[("readme.txt", "x")]);
        assert!(
            Manifests::new(vec![dir.path().to_owned()])
                .scan()
                .unwrap_err()
                .to_string()
                .contains("no manifest")
        );
        assert!(Manifests::new(vec!["/no/such".into()]).scan().is_err());
    }

    #[test]
    fn a_missing_api_version_is_told() {
        let dir = folder(&[
            (
                "b.yaml",
                &HOOK.replace("apiVersion: hookstream.dev/v1alpha1\n", "").replace("name: a", "name: b"),
            ),
            ("c.yaml", "kind: Deployment\nmetadata: {name: c}\n"),
        ]);
        let manifests = scanned(&dir);
        let said = |what: &str| manifests.said.iter().filter(|line| line.contains(what)).count();
        assert_eq!(said("b.yaml: EventHook default/b has no apiVersion"), 1);
        assert_eq!(manifests.said.len(), 1, "{:?}", manifests.said);
    }

    #[test]
    fn the_uid_is_made_from_the_name() {
        let uid = |text: &str| {
            let manifests = scanned(&folder(&[("a.yaml", text)]));
            let (_, object) = manifests.objects().next().unwrap();
            object["metadata"]["uid"].as_str().unwrap().to_owned()
        };
        assert_eq!(uid(HOOK), uid(HOOK));
        assert_ne!(uid(HOOK), uid(&HOOK.replace("name: a", "name: a, namespace: other")));
    }

    #[test]
    fn secrets_and_their_changes() {
        let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: aGVsbG8=, b: eA==}\nstringData: {b: plain}\n";
        let dir = folder(&[("a.yaml", text)]);
        let mut manifests = scanned(&dir);
        let key = Key::new("default", "s");
        assert_eq!(manifests.secret(&key).unwrap().get("a"), Some(&b"hello"[..]));
        assert_eq!(manifests.secret(&key).unwrap().get("b"), Some(&b"plain"[..]));
        assert!(manifests.scan().unwrap().is_empty());
        fs::write(dir.path().join("a.yaml"), text.replace("plain", "other")).unwrap();
        assert_eq!(manifests.scan().unwrap(), [Change::Secret(key)]);
    }

    /// By itself an annotation of that name in a manifest says nothing.
    #[test]
    fn what_the_api_server_would_refuse_is_refused() {
        let refusal = |text: &str| {
            let manifests = scanned(&folder(&[("a.yaml", text)]));
            let guarded: Guarded<EventHook> = guarded(manifests.objects().next().unwrap().1).unwrap();
            guarded.0.map_err(|invalid| invalid.error).and_then(|hook| {
                crate::core::hook::validate(&hook).map(drop).map_err(|invalid| invalid.to_string())
            })
        };
        let with = |more: &str| HOOK.replace("source: s", &format!("source: s, {more}"));
        assert_eq!(refusal(HOOK), Ok(()));
        let annotated = "{name: a, annotations: {hookstream.dev/refused: x}}";
        assert_eq!(refusal(&HOOK.replace("{name: a}", annotated)), Ok(()));
        assert!(refusal(&with("snoose: 5s")).unwrap_err().contains("unknown field \"spec.snoose\""));
        assert!(refusal(&with("snooze: 5")).unwrap_err().starts_with("spec.snooze: Invalid value"));
        assert!(refusal(&with("rotation: a")).unwrap_err().contains("rotation needs connectionRef"));
    }

    #[test]
    fn yaml_as_kubectl_reads_it() {
        let dir = folder(&[(
            "a.yaml",
            "{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {a: 'no'}}\n---\n---\nkind: List\nitems: [{apiVersion: v1, kind: Secret, metadata: {name: t}}]",
        )]);
        let manifests = scanned(&dir);
        assert!(manifests.secret(&Key::new("default", "t")).is_some());
        assert_eq!(manifests.secret(&Key::new("default", "s")).unwrap().get("a"), Some(&b"no"[..]));
    }
}
