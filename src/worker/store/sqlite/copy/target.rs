//! An empty folder as the target of a copy.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::mpsc::Receiver;

use super::super::super::StoreError;
use super::super::super::portable::{Batch, CopyProgress, CopyTarget, SourceInfo, UnfinishedCopy, Written};
use super::super::files::{DirLock, FILE, open_error, with_suffix};
use super::super::{maintenance, markers, migrate, schema};
use super::{lock_of_worker, open, write};

/// The suffix of the file that becomes the store.
const PART: &str = ".copy";

/// A folder that no worker can use while this exists.
pub(in super::super::super) struct SqliteTarget {
    dir: PathBuf,
    location: String,
    unfinished: Option<UnfinishedCopy>,
    now: i64,
    _lock: DirLock,
}

impl SqliteTarget {
    /// Locks a folder that has no store, or an unfinished copy.
    pub(in super::super::super) fn open(dir: &Path, now: i64) -> Result<Self, StoreError> {
        if !dir.is_dir() {
            return Err(StoreError::Open("the folder does not exist: create it".into()));
        }
        let lock = lock_of_worker(dir)?;
        let path = dir.join(FILE);
        let unfinished = match path.exists() {
            true => markers::unfinished(&open(&path)?)?,
            false => None,
        };
        if path.exists() && unfinished.is_none() {
            return Err(StoreError::Open(format!(
                "it has a store already ({FILE}). If the source is sealed for it, the copy has finished: start the worker on it. Otherwise name another folder"
            )));
        }
        // SQLite would apply the log of another store to the copy.
        let log = with_suffix(&path, "-wal");
        if !path.exists() && log.exists() {
            return Err(StoreError::Open(format!(
                "{} belongs to a store that was moved away: move it there too",
                log.display()
            )));
        }
        let location = dir.display().to_string();
        Ok(SqliteTarget { dir: dir.to_owned(), location, unfinished, now, _lock: lock })
    }

    fn part(&self) -> PathBuf {
        with_suffix(&self.dir.join(FILE), PART)
    }
}

/// Removes the marked store and the file beside it.
pub(super) fn remove_files(dir: &Path) -> Result<(), StoreError> {
    // The marked store last: without it, a worker would use the folder.
    remove_part(dir)?;
    remove(&dir.join(FILE))
}

/// Removes the file that becomes the store.
fn remove_part(dir: &Path) -> Result<(), StoreError> {
    let part = with_suffix(&dir.join(FILE), PART);
    remove(&with_suffix(&part, "-journal"))?;
    remove(&part)
}

fn remove(file: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(open_error(file, &error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Creates an empty store in a new file of mode 0600: it will contain payloads.
fn create(path: &Path) -> Result<Connection, StoreError> {
    let mut options = OpenOptions::new();
    options.create_new(true).write(true).mode(0o600).open(path).map_err(|e| open_error(path, &e))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(path, flags).map_err(schema::open_error)?;
    schema::tune(&conn).map_err(schema::open_error)?;
    conn.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(schema::open_error)?;
    migrate::migrate(&mut conn, schema::MIGRATIONS)?;
    Ok(conn)
}

impl CopyTarget for SqliteTarget {
    fn location(&self) -> &str {
        &self.location
    }

    fn installation(&self) -> Option<&str> {
        None
    }

    fn unfinished(&self) -> Option<&UnfinishedCopy> {
        self.unfinished.as_ref()
    }

    async fn begin(&mut self, copy: &UnfinishedCopy) -> Result<(), StoreError> {
        remove_part(&self.dir)?;
        // The marked store appears complete, or replaces a former one: a file that a crash left half-written would be no mark.
        let (path, part) = (self.dir.join(FILE), self.part());
        let mut conn = create(&part)?;
        let min_reader = markers::min_reader(&conn).map_err(schema::open_error)?.unwrap_or(schema::VERSION);
        markers::set_unfinished(&mut conn, &UnfinishedCopy { min_reader, ..copy.clone() })?;
        drop(conn);
        maintenance::publish(&part, &path)
    }

    async fn write(
        &mut self,
        source: &SourceInfo,
        batches: Receiver<Batch>,
        progress: &CopyProgress,
    ) -> Result<Written, StoreError> {
        let (part, now) = (self.part(), self.now);
        let conn = create(&part)?;
        let written = write::write(conn, source, batches, progress, now).await?;
        // Reads the whole file, and finds rows that refer to nothing.
        let checked = tokio::task::spawn_blocking(move || maintenance::check_file(&part));
        let report = checked.await.map_err(|_| StoreError::Closed)??;
        match report.problems.first() {
            Some(problem) => Err(StoreError::Open(format!("the copy is not sound: {problem}"))),
            None => Ok(written),
        }
    }

    async fn finish(self) -> Result<(), StoreError> {
        let path = self.dir.join(FILE);
        let published = maintenance::publish(&self.part(), &path);
        // Beside the marked store that was replaced.
        for suffix in ["-wal", "-shm", "-journal"] {
            drop(std::fs::remove_file(with_suffix(&path, suffix)));
        }
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(|e| open_error(&self.dir, &e))?;
        published
    }

    async fn abandon(self) -> Result<(), StoreError> {
        remove_files(&self.dir)
    }
}
