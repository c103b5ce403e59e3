//! The files of a store: their names, their modes, and the lock of the folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::super::StoreError;

/// The file of a store in its data folder.
pub const FILE: &str = "hookstream.db";
const LOCK: &str = "hookstream.lock";

/// Exclusive ownership of a folder, until dropped.
pub(super) struct DirLock(File);

impl Drop for DirLock {
    fn drop(&mut self) {
        // Unlock explicitly: a child process between fork and exec also has the file open, and would hold the lock
        // until its exec. If unlocking fails, the close releases the lock.
        drop(self.0.unlock());
    }
}

/// Locks the folder. Fails if another process holds it.
pub(super) fn lock(dir: &Path) -> Result<DirLock, StoreError> {
    let file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .mode(0o600)
        .open(dir.join(LOCK))
        .map_err(|e| open_error(dir, &e))?;
    match file.try_lock() {
        Ok(()) => Ok(DirLock(file)),
        Err(TryLockError::WouldBlock) => Err(StoreError::Open(format!(
            "another process holds {}: one volume serves one worker, stop the other one first",
            dir.display()
        ))),
        Err(TryLockError::Error(e)) => Err(open_error(dir, &e)),
    }
}

/// True while a worker holds the folder.
pub(super) fn is_locked(dir: &Path) -> bool {
    let lock = File::open(dir.join(LOCK)).map(|file| file.try_lock_shared());
    matches!(lock, Ok(Err(TryLockError::WouldBlock)))
}

/// Locks the folder against workers, and changes nothing in it.
pub(super) fn lock_unchanged(dir: &Path) -> Result<Option<DirLock>, StoreError> {
    let Ok(file) = File::open(dir.join(LOCK)) else { return Ok(None) };
    match file.try_lock() {
        Ok(()) => Ok(Some(DirLock(file))),
        Err(TryLockError::WouldBlock) => {
            Err(StoreError::Open(format!("a worker uses {}: stop it first", dir.display())))
        }
        Err(TryLockError::Error(e)) => Err(open_error(dir, &e)),
    }
}

/// Returns the path with a suffix, for a file beside it.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut text = path.as_os_str().to_owned();
    text.push(suffix);
    PathBuf::from(text)
}

/// Creates the database file with mode 0600 unless it exists. SQLite would create it readable by everyone; it gives its
/// log the mode of the database.
pub(super) fn create(path: &Path) -> Result<(), StoreError> {
    match OpenOptions::new().create_new(true).write(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(open_error(path, &e)),
    }
}

pub(super) fn open_error(path: &Path, e: &std::io::Error) -> StoreError {
    StoreError::Open(format!("{}: {e}", path.display()))
}
