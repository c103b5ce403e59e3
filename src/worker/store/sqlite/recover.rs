//! Recovers a damaged store: copies what is readable to a new one, and counts what is lost.
//!
//! Invariants: the original is only read. SQLite works on a copy of the database file (the image), to which the valid
//! frames of the log are applied first: frames after a damaged one too, because most pages are written repeatedly.
//! Where a page has only a damaged frame, the image has an older version of it.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use serde::Serialize;

use super::super::StoreError;
use super::event_ids;
use super::files::{self, FILE, open_error, with_suffix};
use super::keys;
use super::log_file;
use super::maintenance::{StoreReport, check_file, publish};
use super::namespace_keys;
use super::outcomes;
use super::runs::RunKind;
pub use super::salvage::RecoveredTable;
use super::salvage::Salvage;
use super::schema;
use super::unmaterialized;
use super::wal_scan::{LogScan, LoggedPage};

/// The oldest format whose tables this program can repair.
const OLDEST_FORMAT: i64 = 5;
/// The format that added the table `namespace_numbers`.
const NUMBERED_FORMAT: i64 = 6;
/// The formats that added the runs of idempotency keys and of event ids.
const KEYED_FORMAT: i64 = 7;
const IDENTIFIED_FORMAT: i64 = 8;
/// The format that added outcomes.
const OUTCOME_FORMAT: i64 = 9;
/// The format that added the tables `unmatched` and `exchanges`.
const UNMATCHED_FORMAT: i64 = 10;

/// The result of a recovery.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryReport {
    /// Frames of the log, and those that are damaged.
    pub log_frames: u64,
    pub damaged_frames: u64,
    /// Rows that were copied and lost, by table.
    pub tables: Vec<RecoveredTable>,
    /// The new store.
    pub store: StoreReport,
}

impl RecoveryReport {
    /// True if every row of the store is in the copy.
    pub fn is_complete(&self) -> bool {
        self.damaged_frames == 0 && self.tables.iter().all(|table| table.lost == Some(0))
    }
}

/// Copies what is readable of the store of a folder to a new file. No worker may use the folder. Needs as much space
/// beside the new file as the store has.
pub fn recover(dir: &Path, to: &Path) -> Result<RecoveryReport, StoreError> {
    if to.exists() {
        return Err(StoreError::Open(format!("{} exists: name a new file", to.display())));
    }
    let _lock = files::lock_unchanged(dir)?;
    let image = TemporaryFile::create(with_suffix(to, ".image"))?;
    let part = TemporaryFile::create(with_suffix(to, ".part"))?;
    let (log_frames, damaged_frames) = write_image(&dir.join(FILE), &image.0)?;
    let tables = copy_rows(&image.0, &part.0, damaged_frames)?;
    let store = check_file(&part.0)?;
    if let Some(problem) = store.problems.first() {
        return Err(StoreError::Open(format!("the copy is not sound ({problem}): restore a backup")));
    }
    publish(&part.0, to)?;
    Ok(RecoveryReport { log_frames, damaged_frames, tables, store })
}

/// A file that is removed unless it was renamed. It contains payloads.
struct TemporaryFile(PathBuf);

impl TemporaryFile {
    fn create(path: PathBuf) -> Result<Self, StoreError> {
        let mut options = OpenOptions::new();
        options.create_new(true).write(true).mode(0o600).open(&path).map_err(|e| open_error(&path, &e))?;
        Ok(TemporaryFile(path))
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        for suffix in ["", "-journal"] {
            drop(std::fs::remove_file(with_suffix(&self.0, suffix)));
        }
    }
}

/// Writes the database as its file and the valid frames of its log describe it. Returns the frames, and the damaged ones.
fn write_image(database: &Path, image: &Path) -> Result<(u64, u64), StoreError> {
    let log = log_file::path(database);
    let mut pages = Vec::new();
    let scan = log_file::scan(database, |page| pages.push(page)).map_err(|e| open_error(&log, &e))?;
    let last = last_frame(&scan, &pages);
    let used = || pages.iter().filter(|page| page.frame <= last);
    let write = || {
        let mut source = File::open(database)?;
        let mut image = OpenOptions::new().read(true).write(true).open(image)?;
        std::io::copy(&mut source, &mut image)?;
        let page_size = scan.page_size as u64;
        if last > 0 {
            let log = File::open(&log)?;
            let mut content = vec![0; scan.page_size];
            let mut database_pages = 0;
            for page in used().filter(|page| page.is_valid) {
                database_pages = if page.database_pages > 0 { page.database_pages } else { database_pages };
                if !page.is_copied {
                    log.read_exact_at(&mut content, page.content)?;
                    image.write_all_at(&content, u64::from(page.page).saturating_sub(1) * page_size)?;
                }
            }
            image.set_len(u64::from(database_pages) * page_size)?;
        }
        repair_header(&image, page_size)
    };
    write().map_err(|e| open_error(database, &e))?;
    // The damaged frames may be the last ones, or missing. A damaged header loses no page.
    let first = scan.damage.map_or(0, |damage| damage.frame);
    let end = last.max(first);
    let damaged = pages.iter().filter(|page| page.frame <= end && !page.is_valid).count() as u64;
    Ok((end, damaged.max(u64::from(first > 0))))
}

/// Returns the last frame to use. A torn tail is not used.
fn last_frame(scan: &LogScan, pages: &[LoggedPage]) -> u64 {
    if scan.damage.is_none() {
        return scan.readable;
    }
    let commits = pages.iter().filter(|page| page.is_valid && page.page > 0 && page.database_pages > 0);
    commits.map(|page| page.frame).max().unwrap_or(scan.readable)
}

/// Writes the fields of the file's header that are the same in every store, and its length. The file is no longer in WAL
/// mode, because its log is applied.
fn repair_header(image: &File, page_size: u64) -> std::io::Result<()> {
    let pages = u32::try_from(image.metadata()?.len() / page_size).unwrap_or(u32::MAX);
    let size = u16::try_from(page_size).unwrap_or(1);
    image.write_all_at(b"SQLite format 3\0", 0)?;
    image.write_all_at(&size.to_be_bytes(), 16)?;
    image.write_all_at(&[1, 1, 0, 64, 32, 32], 18)?;
    image.write_all_at(&pages.to_be_bytes(), 28)?;
    // The length is valid if both counters are equal.
    let mut counter = [0; 4];
    image.read_exact_at(&mut counter, 24)?;
    image.write_all_at(&counter, 92)
}

fn copy_rows(image: &Path, part: &Path, damaged_frames: u64) -> Result<Vec<RecoveredTable>, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let source = Connection::open_with_flags(image, flags).map_err(schema::open_error)?;
    // A damaged page must not be read as something else.
    source
        .execute_batch(
            "PRAGMA query_only = TRUE; PRAGMA cell_size_check = TRUE; PRAGMA trusted_schema = FALSE",
        )
        .map_err(schema::open_error)?;
    let found = schema::meta(&source, "version").unwrap_or(schema::VERSION);
    if found < OLDEST_FORMAT {
        return Err(StoreError::Open(format!(
            "the store has format {found}: recover it with the version of hookstream that wrote it"
        )));
    }
    let target = Connection::open_with_flags(part, flags).map_err(schema::open_error)?;
    schema::tune(&target).map_err(schema::open_error)?;
    // `publish` syncs the file.
    target
        .execute_batch("PRAGMA auto_vacuum = INCREMENTAL; PRAGMA synchronous = OFF; BEGIN IMMEDIATE")
        .map_err(schema::open_error)?;
    let mut tables = Salvage::new(&source, &target).run()?;
    let lost_notes = repair_references(&target).map_err(schema::open_error)?;
    for table in &mut tables {
        count_losses(&source, &target, table).map_err(schema::open_error)?;
        if table.table == "deliveries" {
            table.lost = table.lost.map(|lost| lost + lost_notes);
        }
    }
    let is_complete = damaged_frames == 0 && tables.iter().all(|table| table.lost == Some(0));
    repair_runs(&target, is_complete, &mut tables).map_err(schema::open_error)?;
    target
        .pragma_update(None, "application_id", schema::APPLICATION_ID)
        .and_then(|()| target.execute_batch("COMMIT"))
        .map_err(schema::open_error)?;
    Ok(tables)
}

/// Removes rows that refer to a lost row, and computes what depends on all rows. A new row may get the id of a lost
/// one, and must not inherit its gate memory, idempotency keys or deliveries. Returns the number of lost deliveries
/// without a row.
fn repair_references(target: &Connection) -> rusqlite::Result<u64> {
    let lost_notes = unmaterialized::remove_notes_without_hook(target)?;
    target.execute_batch(
        "DELETE FROM events WHERE NOT json_valid(data);
         DELETE FROM deliveries WHERE NOT EXISTS (SELECT 1 FROM events WHERE events.seq = deliveries.event)
                                   OR NOT EXISTS (SELECT 1 FROM hooks WHERE hooks.id = deliveries.hook);
         DELETE FROM attempts WHERE NOT EXISTS (SELECT 1 FROM deliveries WHERE seq = delivery);
         DELETE FROM candidates WHERE NOT EXISTS (SELECT 1 FROM deliveries WHERE seq = delivery AND state = 5);
         DELETE FROM loose WHERE NOT EXISTS (SELECT 1 FROM events WHERE seq = loose.event);
         DELETE FROM dedup WHERE NOT EXISTS (SELECT 1 FROM events WHERE seq = dedup.event);
         DELETE FROM gates WHERE NOT EXISTS (SELECT 1 FROM hooks WHERE hooks.id = gates.hook);
         UPDATE gates SET owner = NULL
         WHERE owner IS NOT NULL AND NOT EXISTS (SELECT 1 FROM events WHERE seq = gates.owner >> 20);
         -- Nothing would promote these.
         UPDATE deliveries SET state = 0
         WHERE state = 5 AND NOT EXISTS (SELECT 1 FROM candidates WHERE delivery = deliveries.seq);
         UPDATE hooks SET waiting = (SELECT coalesce(sum(size), 0) FROM deliveries WHERE hook = hooks.id AND size > 0);
         -- Without the watermark, a start reads the notes of all events. Repeating deliveries is better than losing them.
         INSERT OR IGNORE INTO meta (name, value) VALUES ('filed', 0);",
    )?;
    let is_numbered = has_table(target, "namespace_numbers")?;
    if is_numbered {
        target.execute(
            "UPDATE deliveries SET namespace = NULL WHERE NOT EXISTS (
                 SELECT 1 FROM hooks h JOIN namespace_numbers n ON n.place = h.namespace
                 WHERE h.id = deliveries.hook AND n.id = deliveries.namespace)",
            [],
        )?;
        namespace_keys::number_deliveries(target)?;
    }
    let has_outcomes = outcomes::exists(target)?;
    if has_outcomes {
        outcomes::repair(target)?;
    }
    // Without their rows in `meta`, the tables show the format.
    let is_unmatched_kept = has_table(target, "unmatched")? && has_table(target, "exchanges")?;
    if is_unmatched_kept {
        target.execute_batch(
            "DELETE FROM unmatched WHERE NOT EXISTS (SELECT 1 FROM events WHERE seq = unmatched.event);
             DELETE FROM exchanges WHERE NOT EXISTS (SELECT 1 FROM deliveries WHERE seq = delivery)",
        )?;
    }
    let format = match is_numbered {
        _ if is_unmatched_kept => UNMATCHED_FORMAT,
        _ if has_outcomes => OUTCOME_FORMAT,
        _ if has_table(target, "id_runs")? => IDENTIFIED_FORMAT,
        _ if has_table(target, "key_runs")? => KEYED_FORMAT,
        true => NUMBERED_FORMAT,
        false => OLDEST_FORMAT,
    };
    for migration in schema::MIGRATIONS.iter().filter(|migration| migration.version == format) {
        for (name, value) in [("version", migration.version), ("min_reader", migration.min_reader)] {
            target.execute("INSERT OR IGNORE INTO meta (name, value) VALUES (?1, ?2)", (name, value))?;
        }
    }
    target.execute_batch("CREATE TEMP TABLE outcome_events (event INTEGER PRIMARY KEY)")?;
    if has_outcomes {
        let mut insert = target.prepare("INSERT OR IGNORE INTO outcome_events VALUES (?1)")?;
        outcomes::list_events(target, |event| insert.execute([event]).map(drop))?;
    }
    // The sweep finds only these.
    target.execute_batch(
        "INSERT OR IGNORE INTO loose (accepted, event, kept_until)
         SELECT accepted, seq, kept_until FROM events
         WHERE (seq <= (SELECT value FROM meta WHERE name = 'filed') OR coalesce(octet_length(handed), 0) = 0)
           AND NOT EXISTS (SELECT 1 FROM deliveries WHERE deliveries.seq BETWEEN events.seq << 20
                                                                  AND (events.seq << 20) | 0xfffff)
           AND NOT EXISTS (SELECT 1 FROM outcome_events WHERE event = events.seq);
         DROP TABLE outcome_events",
    )?;
    Ok(lost_notes)
}

/// Removes the runs unless the whole store is intact. The next start computes them again, so no key and no id of an existing
/// event is lost.
fn repair_runs(
    target: &Connection,
    is_complete: bool,
    tables: &mut [RecoveredTable],
) -> rusqlite::Result<()> {
    type Kind =
        (RunKind, fn(&Connection) -> rusqlite::Result<Vec<String>>, fn(&Connection) -> rusqlite::Result<()>);
    let kinds: [Kind; 2] = [
        (RunKind::Keys, keys::find_problems, keys::forget_runs),
        (RunKind::Ids, event_ids::find_problems, event_ids::forget_runs),
    ];
    for (kind, find_problems, forget_runs) in kinds {
        let has_tables = kind.tables().first().map_or(Ok(false), |manifests| has_table(target, manifests))?;
        if !has_tables || (is_complete && find_problems(target).is_ok_and(|problems| problems.is_empty())) {
            continue;
        }
        forget_runs(target)?;
        for table in tables.iter_mut().filter(|table| kind.tables().contains(&table.table.as_str())) {
            (table.copied, table.lost) = (0, Some(0));
        }
    }
    Ok(())
}

fn has_table(conn: &Connection, name: &str) -> rusqlite::Result<bool> {
    conn.query_row("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = ?1)", [name], |row| row.get(0))
}

/// Counts the rows of the copy, and the lost ones: those that an index or another table of the original names.
fn count_losses(
    source: &Connection,
    target: &Connection,
    table: &mut RecoveredTable,
) -> rusqlite::Result<()> {
    let name = &table.table;
    let present: i64 = target.query_row(&format!("SELECT count(*) FROM \"{name}\""), [], |row| row.get(0))?;
    // The directory is computed from the segments, so it loses nothing.
    if name == outcomes::DIRECTORY {
        (table.copied, table.lost) = (present.unsigned_abs(), Some(0));
        return Ok(());
    }
    let removed = table.copied.saturating_sub(present.unsigned_abs());
    table.copied = present.unsigned_abs();
    table.lost = table.lost.map(|lost| lost + removed);
    // Each names its rows by their sequence numbers.
    let names: &[&str] = match name.as_str() {
        "events" => &[
            // Until format 7.
            "SELECT seq FROM events INDEXED BY events_id",
            "SELECT seq >> 20 FROM deliveries INDEXED BY deliveries_id",
            "SELECT event FROM loose",
        ],
        "deliveries" => &["SELECT seq FROM deliveries INDEXED BY deliveries_id"],
        _ => return Ok(()),
    };
    let mut is_present =
        target.prepare(&format!("SELECT EXISTS (SELECT 1 FROM \"{name}\" WHERE seq = ?1)"))?;
    let (mut missing, mut is_counted) = (HashSet::new(), false);
    for sql in names {
        let Ok(mut named) = source.prepare(sql) else { continue };
        let mut named = named.query([])?;
        // An error: the index is damaged too.
        while let Ok(next) = named.next() {
            let Some(row) = next else {
                is_counted = true;
                break;
            };
            let seq: i64 = row.get(0)?;
            if !is_present.query_row([seq], |row| row.get::<_, bool>(0))? {
                missing.insert(seq);
            }
        }
    }
    if is_counted {
        table.lost = Some(table.lost.unwrap_or(0).max(missing.len() as u64));
    }
    Ok(())
}
