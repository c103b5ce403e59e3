//! The store looked at from outside: checked, and copied while it lives.
//!
//! Invariants: reads only, in one snapshot, and beside a running worker, whose lock it leaves alone; a copy appears under
//! its name when it is whole, checked and on the disk, or not at all.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension};
use serde::Serialize;

use super::super::StoreError;
use super::{FILE, filing, open_error, schema};

/// Findings of SQLite's own check that are told; one broken page makes thousands.
const FINDINGS: usize = 20;

/// What a store is and whether it is sound.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub version: i64,
    /// The oldest version of the format that a program must know to read it.
    pub min_reader: i64,
    /// The installation it belongs to; None: no worker has used it yet.
    pub installation: Option<String>,
    pub hooks: u64,
    pub events: u64,
    /// Deliveries by state.
    pub deliveries: BTreeMap<&'static str, u64>,
    /// Bytes of events that wait for receivers.
    pub waiting_bytes: u64,
    /// Bytes of the database, without its log.
    pub file_bytes: u64,
    /// What is wrong with it; none: it is sound.
    pub problems: Vec<String>,
}

/// Reads the whole store of a folder and says what it is. An error: it could not be read at all, or not by this program.
pub fn check(dir: &Path) -> Result<Report, StoreError> {
    check_file(&dir.join(FILE))
}

fn check_file(path: &Path) -> Result<Report, StoreError> {
    let mut report = Report::default();
    match look(path, &mut report) {
        Ok(()) => Ok(report),
        Err(Unseen::Refused(error)) => Err(error),
        // A finding, and what was counted before it stays told.
        Err(Unseen::Sqlite(error)) => match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                report.problems.push(error.to_string());
                Ok(report)
            }
            _ => Err(StoreError::Open(format!("{}: {error}", path.display()))),
        },
    }
}

enum Unseen {
    Refused(StoreError),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Unseen {
    fn from(error: rusqlite::Error) -> Self {
        Unseen::Sqlite(error)
    }
}

fn look(path: &Path, report: &mut Report) -> Result<(), Unseen> {
    let conn = open(path)?;
    // One snapshot: the worker goes on writing.
    let tx = conn.unchecked_transaction()?;
    if tx.pragma_query_value(None, "application_id", |row| row.get::<_, i64>(0))? != schema::APPLICATION_ID {
        return Err(Unseen::Refused(schema::foreign_file()));
    }
    let meta = |name: &str| {
        tx.query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get::<_, i64>(0)).optional()
    };
    report.version = meta("version")?.unwrap_or(0);
    report.min_reader = meta("min_reader")?.unwrap_or(0);
    if report.min_reader > schema::VERSION {
        let (found, known) = (report.version, schema::VERSION);
        return Err(Unseen::Refused(StoreError::Newer { found, known }));
    }
    report.installation = schema::installation(&tx)?;
    let mut findings = tx.prepare(&format!("PRAGMA integrity_check({FINDINGS})"))?;
    let findings = findings.query_map([], |row| row.get::<_, String>(0))?;
    report.problems =
        findings.filter(|f| f.as_ref().map_or(true, |text| text != "ok")).collect::<rusqlite::Result<_>>()?;
    let count = |sql: &str| tx.query_row(sql, [], |row| row.get::<_, i64>(0)).map(|n| n.unsigned_abs());
    report.hooks = count("SELECT count(*) FROM hooks")?;
    report.events = count("SELECT count(*) FROM events")?;
    // Format 1 did not count them.
    if report.version > 1 {
        report.waiting_bytes = count("SELECT coalesce(sum(waiting), 0) FROM hooks")?;
    }
    report.file_bytes = count("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")?;
    let mut states = tx.prepare("SELECT state, count(*) FROM deliveries GROUP BY state")?;
    let mut states = states.query([])?;
    while let Some(row) = states.next()? {
        *report.deliveries.entry(schema::state_name(row.get(0)?)).or_default() +=
            row.get::<_, i64>(1)?.unsigned_abs();
    }
    // Format 5 began to leave rows for later.
    if report.version > 4 {
        for unfiled in filing::by_notes(&tx)?.values() {
            *report.deliveries.entry(schema::state_name(schema::PENDING)).or_default() += 1;
            report.waiting_bytes += unfiled.size.unsigned_abs();
        }
    }
    for (what, sql) in [
        (
            "deliveries without their event",
            "SELECT count(*) FROM deliveries d WHERE NOT EXISTS (SELECT 1 FROM events e WHERE e.seq = d.event)",
        ),
        (
            "deliveries without their hook",
            "SELECT count(*) FROM deliveries d WHERE NOT EXISTS (SELECT 1 FROM hooks h WHERE h.id = d.hook)",
        ),
        (
            "attempts without their delivery",
            "SELECT count(*) FROM attempts a WHERE NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.seq = a.delivery)",
        ),
    ] {
        let found = count(sql)?;
        if found > 0 {
            report.problems.push(format!("{found} {what}"));
        }
    }
    Ok(())
}

fn open(path: &Path) -> Result<Connection, Unseen> {
    // SQLite would say no more than that it cannot open it.
    File::open(path).map_err(|e| Unseen::Refused(open_error(path, &e)))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    schema::tune(&conn)?;
    Ok(conn)
}

/// Copies the store of a folder to a new file and checks the copy. A worker that runs goes on; what it commits meanwhile
/// is not in the copy. To restore: the copy, named `hookstream.db`, in an otherwise empty folder.
pub fn backup(dir: &Path, to: &Path) -> Result<Report, StoreError> {
    if to.exists() {
        return Err(StoreError::Open(format!("{} exists: name a new file", to.display())));
    }
    let report = copy(&dir.join(FILE), to)?;
    if let Some(problem) = report.problems.first() {
        return Err(StoreError::Open(format!(
            "the copy is not sound ({problem}): run hookstream store check"
        )));
    }
    Ok(report)
}

/// Copies a database; nothing is left behind of a copy that is not whole and sound.
fn copy(from: &Path, to: &Path) -> Result<Report, StoreError> {
    let part = with_suffix(to, ".part");
    let mut options = OpenOptions::new();
    // Made here, for SQLite would let everyone read it, and it holds payloads.
    options.create_new(true).write(true).mode(0o600).open(&part).map_err(|e| open_error(&part, &e))?;
    let made = fill(from, &part).and_then(|()| check_file(&part)).and_then(|report| {
        if report.problems.is_empty() {
            settle(&part, to)?;
        }
        Ok(report)
    });
    if to.exists() {
        return made;
    }
    if let Err(error) = std::fs::remove_file(&part) {
        tracing::warn!(%error, file = %part.display(), "what was begun of the copy could not be removed");
    }
    made
}

fn fill(from: &Path, part: &Path) -> Result<(), StoreError> {
    let conn = open(from).map_err(|unseen| match unseen {
        Unseen::Refused(error) => error,
        Unseen::Sqlite(error) => schema::open_error(error),
    })?;
    let name = part.to_str().ok_or_else(|| StoreError::Open(format!("{} is no UTF-8", part.display())))?;
    conn.execute("VACUUM INTO ?1", [name]).map(drop).map_err(schema::open_error)
}

/// Puts a whole copy in its place: on the disk first, for SQLite does not sync a copy.
fn settle(part: &Path, to: &Path) -> Result<(), StoreError> {
    let folder = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let moved = || {
        File::open(part)?.sync_all()?;
        std::fs::rename(part, to)?;
        File::open(folder)?.sync_all()
    };
    moved().map_err(|e| open_error(to, &e))
}

/// Keeps a copy of the store as it is, before its format becomes a newer one. Copies of older formats are let go.
pub(super) fn keep_before(dir: &Path, version: i64) -> Result<PathBuf, StoreError> {
    let path = dir.join(FILE);
    let kept = with_suffix(&path, &format!(".v{version}"));
    if kept.exists() {
        // Of a migration that did not come to its end.
        std::fs::remove_file(&kept).map_err(|e| open_error(&kept, &e))?;
    }
    drop(std::fs::remove_file(with_suffix(&kept, ".part")));
    let report = copy(&path, &kept)?;
    if let Some(problem) = report.problems.first() {
        return Err(StoreError::Open(format!(
            "the store is not sound, and its format is not changed before it is: {problem}"
        )));
    }
    for older in 0..version {
        drop(std::fs::remove_file(with_suffix(&path, &format!(".v{older}"))));
    }
    Ok(kept)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut text = path.as_os_str().to_owned();
    text.push(suffix);
    PathBuf::from(text)
}
