//! A store as the source of a copy.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension};
use tokio::sync::mpsc::Sender;

use super::super::super::StoreError;
use super::super::super::portable::{Batch, CopySource, Seal, SourceInfo};
use super::super::files::{DirLock, FILE};
use super::super::{maintenance, markers, schema};
use super::read::{self, ReadError};
use super::{counts, lock_of_worker, open};

/// A store that no worker can open while this exists.
pub(in super::super::super) struct SqliteSource {
    /// None while it is read on another thread.
    conn: Option<Connection>,
    info: SourceInfo,
    /// Idempotency keys that have expired by then are not copied.
    now: i64,
    _lock: DirLock,
}

impl SqliteSource {
    /// Locks the store of a folder, and checks it completely. Blocks the thread: it reads the whole file.
    pub(in super::super::super) fn open(dir: &Path, now: i64) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        if !path.exists() {
            let why = if dir.is_dir() { "there is no store in it" } else { "there is no such folder" };
            return Err(StoreError::Open(format!("{why}: give the worker's data folder")));
        }
        let lock = lock_of_worker(dir)?;
        maintenance::refuse_damaged(&path)?;
        let conn = open(&path)?;
        if let Some(copy) = markers::unfinished(&conn)? {
            return Err(copy.refusal(&format!("--data {}", dir.display())));
        }
        let found = schema::meta(&conn, "version")?;
        if found != schema::VERSION {
            let do_first = if found < schema::VERSION {
                "start a worker of this version on it once, which migrates it"
            } else {
                "copy it with the version that wrote it"
            };
            let known = schema::VERSION;
            return Err(StoreError::Open(format!(
                "it has format {found}, and this program copies format {known}: {do_first}"
            )));
        }
        let report = maintenance::check_file(&path)?;
        if let Some(problem) = report.problems.first() {
            return Err(StoreError::Open(format!(
                "the store is not sound ({problem}): restore a backup, or copy what is readable with `hookstream store recover` first"
            )));
        }
        let info = info(&conn, dir)?;
        Ok(SqliteSource { conn: Some(conn), info, now, _lock: lock })
    }
}

fn info(conn: &Connection, dir: &Path) -> Result<SourceInfo, StoreError> {
    let seal = markers::seal(conn)?;
    let read = || {
        let number = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).optional();
        let last = number("SELECT coalesce(max(seq), 0) FROM events")?.unwrap_or(0);
        let watermark = number("SELECT value FROM meta WHERE name = 'filed'")?.unwrap_or(0);
        Ok(SourceInfo {
            location: dir.display().to_string(),
            installation: schema::installation(conn)?,
            clock: number("SELECT value FROM meta WHERE name = 'clock'")?,
            last_event: last.max(watermark),
            counts: counts::count(conn)?,
            seal,
            unseal: format!("--data {}", dir.display()),
        })
    };
    read().map_err(schema::open_error)
}

impl CopySource for SqliteSource {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    async fn read(&mut self, batches: Sender<Batch>) -> Result<u64, StoreError> {
        let conn = self.conn.take().ok_or(StoreError::Closed)?;
        let now = self.now;
        let reading = tokio::task::spawn_blocking(move || {
            let read = read::read(&conn, now, &batches);
            (conn, read)
        });
        let (conn, read) = reading.await.map_err(|_| StoreError::Closed)?;
        self.conn = Some(conn);
        match read {
            Ok(keys) => Ok(keys),
            Err(ReadError::Sqlite(error)) => Err(schema::open_error(error)),
            Err(ReadError::Closed(_)) => Ok(0),
        }
    }

    async fn seal(&mut self, seal: &Seal) -> Result<(), StoreError> {
        let conn = self.conn.as_mut().ok_or(StoreError::Closed)?;
        let min_reader = markers::min_reader(conn).map_err(schema::open_error)?;
        let min_reader = min_reader.unwrap_or(schema::VERSION);
        markers::set_seal(conn, &Seal { min_reader, ..seal.clone() })
    }
}
