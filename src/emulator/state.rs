//! An emulator's state: in memory and, where asked, in a file.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Error;

/// The state file could not be written: the change did not happen.
pub(super) struct NotWritten;

pub(super) struct Kept<T> {
    value: Mutex<T>,
    file: Option<PathBuf>,
}

impl<T: Clone + Default + Serialize + DeserializeOwned> Kept<T> {
    /// Reads the state file, if there is one already.
    pub fn open(file: Option<PathBuf>) -> Result<Kept<T>, Error> {
        let Some(path) = &file else { return Ok(Kept { value: Mutex::default(), file }) };
        let failed = |source| Error::State { path: path.clone(), source };
        let value = match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|source| Error::StateFormat { path: path.clone(), source })?,
            // Written now, so that a folder that cannot be written to is told at the start.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let empty = T::default();
                save(path, &empty).map_err(failed)?;
                empty
            }
            Err(source) => return Err(failed(source)),
        };
        Ok(Kept { value: Mutex::new(value), file })
    }

    pub fn read<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.value.lock())
    }

    /// With a state file the change is made to a copy and written before it counts, so that no answer tells of what
    /// a restart would forget. The write blocks this thread: it is small, and only there when asked for.
    pub fn change<R, E: From<NotWritten>>(
        &self,
        change: impl FnOnce(&mut T) -> Result<R, E>,
    ) -> Result<R, E> {
        let mut value = self.value.lock();
        let Some(path) = &self.file else { return change(&mut value) };
        let mut copy = value.clone();
        let outcome = change(&mut copy)?;
        save(path, &copy).map_err(|error| {
            tracing::error!(%error, path = %path.display(), "state file not written");
            NotWritten
        })?;
        *value = copy;
        Ok(outcome)
    }

    /// A change that may be forgotten by a crash: the file has it with the next `change` or `save`.
    pub fn note<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        change(&mut self.value.lock())
    }

    /// Writes what was noted.
    pub fn save(&self) {
        let Some(path) = &self.file else { return };
        if let Err(error) = save(path, &*self.value.lock()) {
            tracing::error!(%error, path = %path.display(), "state file not written");
        }
    }
}

/// Writes beside the file and renames: a crash leaves the old state or the new one. Only its owner may read it, for it
/// holds secrets.
fn save<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&beside)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}
