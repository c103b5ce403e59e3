//! Maintenance by other processes: checks a store, and copies it while the worker runs.
//!
//! Invariants: only reads the store, in one snapshot and without the worker's lock. A copy gets its final name only
//! after it is complete, checked and synced. A damaged log is found before SQLite opens it: SQLite would write a new
//! index (`-shm`), and the proof of the damage may be in the present one.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension};
use serde::Serialize;

use super::super::StoreError;
use super::files::{self, FILE, open_error, with_suffix};
use super::wal_scan::LogDamage;
use super::{event_ids, keys, log_file, markers, outcomes, schema, unmaterialized};

/// The most findings of SQLite's own check that are reported; one broken page causes thousands.
const MAX_FINDINGS: usize = 20;

/// The result of a check.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreReport {
    pub version: i64,
    /// The oldest format version that a program must know to read the store.
    pub min_reader: i64,
    /// The installation that it belongs to. None: no worker has used it yet.
    pub installation: Option<String>,
    /// The store to which its data was copied. Workers refuse it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moved_to: Option<String>,
    pub hooks: u64,
    pub events: u64,
    /// The number of deliveries by state.
    pub deliveries: BTreeMap<&'static str, u64>,
    /// Bytes of events of pending deliveries.
    #[serde(rename = "waitingBytes")]
    pub pending_bytes: u64,
    /// Bytes of the database without its log.
    pub file_bytes: u64,
    /// Defects. Empty: the store is sound.
    pub problems: Vec<String>,
}

/// Reads the whole store of a folder. Fails if it cannot be read at all, or not by this program.
pub fn check(dir: &Path) -> Result<StoreReport, StoreError> {
    let path = dir.join(FILE);
    let is_in_use = files::is_locked(dir);
    let damage = if is_in_use { log_file::find_damage_in_use(&path) } else { log_file::find_damage(&path) };
    let damage = damage.map_err(|e| open_error(&log_file::path(&path), &e))?;
    let open = if damage.is_some() && !is_in_use { open_without_index } else { open };
    let mut report = report_on(&path, open)?;
    if let Some(LogDamage { offset, transactions, .. }) = damage {
        report.problems.insert(0, format!("the log is damaged at byte {offset}: at least {transactions} acknowledged transactions cannot be read, and are not counted here"));
    }
    Ok(report)
}

/// Fails if the log of this database is damaged. Call it before the database is opened.
pub(super) fn refuse_damaged(path: &Path) -> Result<(), StoreError> {
    let log = log_file::path(path);
    let Some(damage) = log_file::find_damage(path).map_err(|e| open_error(&log, &e))? else { return Ok(()) };
    let LogDamage { offset, transactions, .. } = damage;
    let readable = match count_readable(path) {
        Ok((events, deliveries)) => {
            format!("Readable before the damage: {events} events and {deliveries} deliveries")
        }
        Err(_) => "Nothing is readable before the damage".into(),
    };
    Err(StoreError::Damaged { log: log.display().to_string(), offset, transactions, readable })
}

/// Counts the events and deliveries that SQLite reads.
fn count_readable(path: &Path) -> Result<(u64, u64), CheckError> {
    let conn = open_without_index(path)?;
    let version = conn.query_row("SELECT value FROM meta WHERE name = 'version'", [], |row| row.get(0))?;
    let mut report = StoreReport { version, ..StoreReport::default() };
    count(&conn, &mut report)?;
    Ok((report.events, report.deliveries.values().sum()))
}

pub(super) fn check_file(path: &Path) -> Result<StoreReport, StoreError> {
    report_on(path, open)
}

fn report_on(
    path: &Path,
    open: fn(&Path) -> Result<Connection, CheckError>,
) -> Result<StoreReport, StoreError> {
    let mut report = StoreReport::default();
    match open(path).and_then(|conn| inspect(&conn, &mut report)) {
        Ok(()) => Ok(report),
        Err(CheckError::Store(error)) => Err(error),
        // A corrupt file is a finding, not an error; the counts up to here stay in the report.
        Err(CheckError::Sqlite(error)) => match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                report.problems.push(error.to_string());
                Ok(report)
            }
            _ => Err(StoreError::Open(format!("{}: {error}", path.display()))),
        },
    }
}

enum CheckError {
    Store(StoreError),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for CheckError {
    fn from(error: rusqlite::Error) -> Self {
        CheckError::Sqlite(error)
    }
}

/// Fills the report as far as the file can be read.
fn inspect(conn: &Connection, report: &mut StoreReport) -> Result<(), CheckError> {
    // One snapshot, because the worker may write at the same time.
    let tx = conn.unchecked_transaction()?;
    if tx.pragma_query_value(None, "application_id", |row| row.get::<_, i64>(0))? != schema::APPLICATION_ID {
        return Err(CheckError::Store(schema::foreign_file()));
    }
    let meta = |name: &str| {
        tx.query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get::<_, i64>(0)).optional()
    };
    report.version = meta("version")?.unwrap_or(0);
    report.min_reader = markers::min_reader(&tx)?.unwrap_or(0);
    if report.min_reader > schema::VERSION {
        let (found, known) = (report.version, schema::VERSION);
        return Err(CheckError::Store(StoreError::Newer { found, known }));
    }
    report.installation = schema::installation(&tx)?;
    report.moved_to = markers::seal(&tx).map_err(CheckError::Store)?.map(|seal| seal.to);
    if let Some(copy) = markers::unfinished(&tx).map_err(CheckError::Store)? {
        report.problems.push(format!("a copy from {} to it has not finished", copy.from));
    }
    let mut findings = tx.prepare(&format!("PRAGMA integrity_check({MAX_FINDINGS})"))?;
    let findings = findings.query_map([], |row| row.get::<_, String>(0))?;
    for finding in findings {
        report.problems.extend(Some(finding?).filter(|finding| finding != "ok"));
    }
    count(&tx, report)?;
    for (defect, sql) in [
        (
            "deliveries without their event",
            "SELECT count(*) FROM deliveries d WHERE NOT EXISTS (SELECT 1 FROM events e WHERE e.seq = d.event)",
        ),
        (
            "deliveries without their hook",
            "SELECT count(*) FROM deliveries d WHERE NOT EXISTS (SELECT 1 FROM hooks h WHERE h.id = d.hook)",
        ),
        // A damaged page that is still in order: SQLite's check does not read values.
        ("events with damaged data", "SELECT count(*) FROM events WHERE NOT json_valid(data)"),
        (
            "attempts without their delivery",
            "SELECT count(*) FROM attempts a WHERE NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.seq = a.delivery)",
        ),
    ] {
        let found: i64 = tx.query_row(sql, [], |row| row.get(0))?;
        if found > 0 {
            report.problems.push(format!("{found} {defect}"));
        }
    }
    // Since format 5 there are deliveries without rows. One that names no hook makes every operation of the writer fail.
    if report.version > 4 {
        let notes = unmaterialized::count_without_hook(&tx)?;
        if notes > 0 {
            report.problems.push(format!("{notes} notes of deliveries without their hook"));
        }
    }
    // Since format 7 there are runs.
    if report.version > 6 {
        report.problems.extend(keys::find_problems(&tx)?);
    }
    if report.version > 7 {
        report.problems.extend(event_ids::find_problems(&tx)?);
    }
    if outcomes::exists(&tx)? {
        report.problems.extend(outcomes::find_problems(&tx)?);
    }
    Ok(())
}

/// Counts rows and bytes.
fn count(conn: &Connection, report: &mut StoreReport) -> rusqlite::Result<()> {
    let count = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).map(|n| n.unsigned_abs());
    report.hooks = count("SELECT count(*) FROM hooks")?;
    report.events = count("SELECT count(*) FROM events")?;
    // Format 1 does not count them.
    if report.version > 1 {
        report.pending_bytes = count("SELECT coalesce(sum(waiting), 0) FROM hooks")?;
    }
    report.file_bytes = count("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")?;
    let mut states = conn.prepare("SELECT state, count(*) FROM deliveries GROUP BY state")?;
    let mut states = states.query([])?;
    while let Some(row) = states.next()? {
        *report.deliveries.entry(schema::state_name(row.get(0)?)).or_default() +=
            row.get::<_, i64>(1)?.unsigned_abs();
    }
    if outcomes::exists(conn)? {
        let delivered = outcomes::count(conn)?;
        if delivered > 0 {
            *report.deliveries.entry(schema::state_name(schema::DELIVERED)).or_default() += delivered;
        }
    }
    // Since format 5 there are unmaterialized deliveries.
    if report.version > 4 {
        for (_, delivery) in unmaterialized::read_snapshot(conn)?.notes().iter() {
            *report.deliveries.entry(schema::state_name(schema::PENDING)).or_default() += 1;
            report.pending_bytes += delivery.size.unsigned_abs();
        }
    }
    Ok(())
}

fn open(path: &Path) -> Result<Connection, CheckError> {
    // Open the file first to get a precise error: SQLite reports only that it cannot open the file.
    File::open(path).map_err(|e| CheckError::Store(open_error(path, &e)))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    schema::tune(&conn)?;
    Ok(conn)
}

/// Opens a database that no process uses, without its index: an exclusive connection keeps an index of its own in
/// memory, so no file changes.
fn open_without_index(path: &Path) -> Result<Connection, CheckError> {
    File::open(path).map_err(|e| CheckError::Store(open_error(path, &e)))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    schema::tune(&conn)?;
    conn.execute_batch("PRAGMA locking_mode = EXCLUSIVE; PRAGMA query_only = TRUE")?;
    Ok(conn)
}

/// Copies the store of a folder to a new file and checks the copy. A running worker keeps working; the copy does not
/// contain its later commits. To restore, place the copy as `hookstream.db` into an empty folder.
pub fn backup(dir: &Path, to: &Path) -> Result<StoreReport, StoreError> {
    if to.exists() {
        return Err(StoreError::Open(format!("{} exists: name a new file", to.display())));
    }
    if !files::is_locked(dir) {
        refuse_damaged(&dir.join(FILE))?;
    }
    let report = copy(&dir.join(FILE), to)?;
    if let Some(problem) = report.problems.first() {
        return Err(StoreError::Open(format!(
            "the copy is not sound ({problem}): run hookstream store check"
        )));
    }
    Ok(report)
}

/// Copies a database, and removes a copy that is incomplete or not sound.
fn copy(from: &Path, to: &Path) -> Result<StoreReport, StoreError> {
    let part = with_suffix(to, ".part");
    let mut options = OpenOptions::new();
    // Create the file with mode 0600: SQLite would create it readable by everyone, and it contains payloads.
    options.create_new(true).write(true).mode(0o600).open(&part).map_err(|e| open_error(&part, &e))?;
    let report = copy_into(from, &part).and_then(|()| check_file(&part)).and_then(|report| {
        if report.problems.is_empty() {
            publish(&part, to)?;
        }
        Ok(report)
    });
    if to.exists() {
        return report;
    }
    if let Err(error) = std::fs::remove_file(&part) {
        tracing::warn!(%error, file = %part.display(), "incomplete copy could not be removed");
    }
    report
}

fn copy_into(from: &Path, part: &Path) -> Result<(), StoreError> {
    let conn = open(from).map_err(|error| match error {
        CheckError::Store(error) => error,
        CheckError::Sqlite(error) => schema::open_error(error),
    })?;
    let name =
        part.to_str().ok_or_else(|| StoreError::Open(format!("{} is not valid UTF-8", part.display())))?;
    conn.execute("VACUUM INTO ?1", [name]).map(drop).map_err(schema::open_error)
}

/// Syncs a complete copy, because SQLite does not, and renames it to its final name.
pub(super) fn publish(part: &Path, to: &Path) -> Result<(), StoreError> {
    let folder = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let publish = || {
        File::open(part)?.sync_all()?;
        std::fs::rename(part, to)?;
        File::open(folder)?.sync_all()
    };
    publish().map_err(|e| open_error(to, &e))
}

/// Copies the store before its format is migrated, and removes copies of older formats.
pub(super) fn keep_before(dir: &Path, version: i64) -> Result<PathBuf, StoreError> {
    let path = dir.join(FILE);
    let kept = with_suffix(&path, &format!(".v{version}"));
    if kept.exists() {
        // Left by an interrupted migration.
        std::fs::remove_file(&kept).map_err(|e| open_error(&kept, &e))?;
    }
    drop(std::fs::remove_file(with_suffix(&kept, ".part")));
    let report = copy(&path, &kept)?;
    if let Some(problem) = report.problems.first() {
        return Err(StoreError::Open(format!(
            "the store is not sound, so its format is not migrated: {problem}"
        )));
    }
    for older in 0..version {
        drop(std::fs::remove_file(with_suffix(&path, &format!(".v{older}"))));
    }
    Ok(kept)
}
