//! An emulator's state: in memory and, if configured, in a file.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::Error;

/// The state file could not be written; the update was discarded.
pub(super) struct SaveFailed;

/// A value behind a lock, with an optional JSON file that survives restarts.
pub(super) struct PersistentState<T> {
    value: Mutex<T>,
    file: Option<PathBuf>,
}

impl<T: Clone + Default + Serialize + DeserializeOwned> PersistentState<T> {
    /// Loads the state file. Creates it with the default value if it does not exist.
    pub fn open(file: Option<PathBuf>) -> Result<PersistentState<T>, Error> {
        let Some(path) = &file else { return Ok(PersistentState { value: Mutex::default(), file }) };
        let failed = |source| Error::State { path: path.clone(), source };
        let value = match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|source| Error::StateFormat { path: path.clone(), source })?,
            // Write it now, so that an unwritable folder is reported at startup and not by the first update.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let empty = T::default();
                save(path, &empty).map_err(failed)?;
                empty
            }
            Err(source) => return Err(failed(source)),
        };
        Ok(PersistentState { value: Mutex::new(value), file })
    }

    pub fn read<R>(&self, f: impl FnOnce(&T) -> R) -> R {
        f(&self.value.lock())
    }

    /// Applies `change` and, with a state file, writes it before the new value becomes visible. A response can
    /// therefore never report a change that a restart would lose. An error of `change` leaves the value as it was.
    ///
    /// The write blocks the calling thread; the file is small and optional.
    pub fn update<R, E: From<SaveFailed>>(
        &self,
        change: impl FnOnce(&mut T) -> Result<R, E>,
    ) -> Result<R, E> {
        let mut value = self.value.lock();
        let Some(path) = &self.file else { return change(&mut value) };
        let mut copy = value.clone();
        let outcome = change(&mut copy)?;
        save(path, &copy).map_err(|error| {
            tracing::error!(%error, path = %path.display(), "writing the state file failed");
            SaveFailed
        })?;
        *value = copy;
        Ok(outcome)
    }

    /// Applies a change that a crash may lose: the file contains it only after the next `update` or `save`.
    pub fn update_unsaved<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        change(&mut self.value.lock())
    }

    /// Writes the current value to the state file, if there is one. Logs a failure.
    pub fn save(&self) {
        let Some(path) = &self.file else { return };
        if let Err(error) = save(path, &*self.value.lock()) {
            tracing::error!(%error, path = %path.display(), "writing the state file failed");
        }
    }
}

/// Writes a temporary file and renames it, so that a crash leaves either the old state or the new one. Only the owner
/// may read the file, because it holds secrets.
fn save<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&temporary)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}
