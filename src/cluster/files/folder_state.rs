//! The state in the data folder: one file for each object, `keys.json` and `installation-id`.

use std::fs;
use std::path::{Path, PathBuf};

use futures::future::{BoxFuture, ready};
use sha2::{Digest, Sha256};

use super::atomic_file::write_atomically;
use super::documents::ManifestError;
use super::installation::{open_installation_id, read_installation_id};
use super::key_ring::{open_key_ring, read_key_ring};
use super::saved_state::SavedState;
use super::state_backend::{
    ObjectId, StateBackend, StateChanges, StateError, StateVersion, StateWrite, StoredState,
};
use crate::cluster::ObjectKey;
use crate::core::keys::KeyRing;
use crate::core::names::{is_namespace, is_object_name};

/// The longest name of a state file, without `.json`. File systems allow 255 bytes; a namespace and a name may have 316.
const MAX_FILE_STEM: usize = 240;
/// No other process writes, so versions are not counted.
const VERSION: StateVersion = 1;

/// The data folder of one process.
#[derive(Clone, Debug)]
pub struct FolderState {
    data: PathBuf,
}

impl FolderState {
    /// Opens the folder; creates it at the first start.
    pub fn open(data: &Path) -> Result<Self, ManifestError> {
        let folder = FolderState { data: data.to_owned() };
        let objects = folder.objects();
        fs::create_dir_all(&objects).map_err(|e| ManifestError::new(&objects, e))?;
        Ok(folder)
    }

    /// Reads the state of all objects.
    pub fn load(&self) -> Result<StateChanges, ManifestError> {
        let folder = self.objects();
        let mut written = Vec::new();
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
            let id = (kind, ObjectKey::new(&state.namespace, &state.name));
            written.push((id, StoredState { version: VERSION, text }));
        }
        Ok(StateChanges { written, deleted: Vec::new(), horizon: VERSION })
    }

    /// Writes or deletes the file of an object.
    pub fn write_file(&self, write: &StateWrite) -> Result<StateVersion, ManifestError> {
        let path = self.path(&write.id);
        match &write.text {
            Some(text) => write_atomically(&path, text.as_bytes())?,
            // An error means that there is no such file.
            None => drop(fs::remove_file(path)),
        }
        Ok(VERSION)
    }

    pub fn path(&self, id: &ObjectId) -> PathBuf {
        self.objects().join(file_name(id))
    }

    fn objects(&self) -> PathBuf {
        self.data.join("objects")
    }

    /// Runs a blocking operation on a thread for it.
    fn run<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&FolderState) -> Result<T, ManifestError> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, StateError>> {
        let folder = self.clone();
        Box::pin(async move {
            let failed = |error: String| StateError::Failed(error);
            let result = tokio::task::spawn_blocking(move || operation(&folder)).await;
            result.map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))
        })
    }
}

impl StateBackend for FolderState {
    fn is_shared(&self) -> bool {
        false
    }

    fn changes(&self, since: Option<StateVersion>) -> BoxFuture<'_, Result<StateChanges, StateError>> {
        match since {
            // No other process writes.
            Some(horizon) => Box::pin(ready(Ok(StateChanges { horizon, ..StateChanges::default() }))),
            None => self.run(FolderState::load),
        }
    }

    fn read<'a>(&'a self, id: &'a ObjectId) -> BoxFuture<'a, Result<Option<StoredState>, StateError>> {
        let path = self.path(id);
        self.run(move |_| match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(StoredState { version: VERSION, text })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ManifestError::new(&path, error)),
        })
    }

    fn write(&self, write: StateWrite) -> BoxFuture<'_, Result<StateVersion, StateError>> {
        self.run(move |folder| folder.write_file(&write))
    }

    fn key_ring(&self, new: Option<KeyRing>) -> BoxFuture<'_, Result<Option<KeyRing>, StateError>> {
        self.run(move |folder| match new {
            Some(new) => open_key_ring(&folder.data, &new).map(Some),
            None => read_key_ring(&folder.data),
        })
    }

    fn installation_id(&self, new: Option<String>) -> BoxFuture<'_, Result<Option<String>, StateError>> {
        self.run(move |folder| match new {
            Some(new) => open_installation_id(&folder.data, &new).map(Some),
            None => read_installation_id(&folder.data),
        })
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

#[cfg(test)]
mod tests {
    use super::super::state_backend::StateAuthor;
    use super::super::state_conformance;
    use super::*;
    use crate::cluster::ResourceKind;

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
        let dir = tempfile::tempdir().unwrap();
        let folder = FolderState::open(dir.path()).unwrap();
        let id = (ResourceKind::EventHook, ObjectKey::new("default", "a"));
        let text = |namespace: &str| {
            let mut saved = SavedState::new(&id);
            saved.namespace = namespace.into();
            serde_json::to_string(&saved).unwrap()
        };
        for (namespace, expected) in [("default", 1), ("..", 0)] {
            let write = StateWrite {
                id: id.clone(),
                before: None,
                text: Some(text(namespace)),
                author: StateAuthor::Worker,
            };
            folder.write_file(&write).unwrap();
            assert_eq!(folder.load().unwrap().written.len(), expected);
        }
    }

    #[tokio::test]
    async fn conforms() {
        let dir = tempfile::tempdir().unwrap();
        let folder = FolderState::open(dir.path()).unwrap();
        state_conformance::check(&folder, &folder.clone()).await;
    }
}
