//! Tests of what is SQLite's own: files, migrations, plans, failures.

mod bounds;
mod damage;
mod disk;
mod event_ids;
mod failures;
mod history_reads;
mod hook_rows;
mod keys;
mod materialize;
mod migration;
mod outcomes;
mod throughput;
mod unmatched;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::join_all;
use parking_lot::Mutex;
use rusqlite::{Connection, ffi};

use super::super::conformance::{
    RETENTION, Subject, T0, TestStore, conformance, delivery, event_with, ids_of, key, new, seqs_of, settled,
};
use super::super::{
    DeliverySeq, DispatchStore, Fate, HistoryStore, MaintenanceStore, NewEvent, NextStep, Retention, Shares,
    StoreError,
};
use super::files::FILE;
use super::outcomes::OutcomeLimits;
use super::retention::SweepLimit;
use super::tuning::Tuning;
use super::{SqliteStore, check, gates, history, migrate, reads, retention, schema, sequence, walk};
use crate::core::time::Millis;

/// Counts the checkpoints that started, and those in progress. They run on two threads.
#[derive(Default)]
pub(super) struct CheckpointCounter(Mutex<(u64, u64)>);

impl CheckpointCounter {
    fn counts(&self) -> (u64, u64) {
        *self.0.lock()
    }
}

pub(super) struct CountedCheckpoint<'c>(Option<&'c CheckpointCounter>);

impl<'c> CountedCheckpoint<'c> {
    pub(super) fn new(checkpoints: &'c CheckpointCounter, mode: &str) -> Self {
        let counted = Some(checkpoints).filter(|_| mode != "NOOP");
        if let Some(CheckpointCounter(counts)) = counted {
            let mut counts = counts.lock();
            *counts = (counts.0 + 1, counts.1 + 1);
        }
        CountedCheckpoint(counted)
    }
}

impl Drop for CountedCheckpoint<'_> {
    fn drop(&mut self) {
        if let Some(CheckpointCounter(counts)) = self.0 {
            counts.lock().1 -= 1;
        }
    }
}

struct OnDisk(tempfile::TempDir);

impl Subject for OnDisk {
    type Store = SqliteStore;
    fn new() -> Self {
        OnDisk(tempfile::tempdir().unwrap())
    }
    async fn open(&self) -> SqliteStore {
        SqliteStore::open(self.0.path()).unwrap()
    }
}

conformance!(OnDisk);

/// A store that merges outcomes to segments in every group, a few in each.
struct Merging(tempfile::TempDir);

impl Subject for Merging {
    type Store = SqliteStore;
    fn new() -> Self {
        Merging(tempfile::tempdir().unwrap())
    }
    async fn open(&self) -> SqliteStore {
        open_merging(self.0.path())
    }
}

/// Opens a store with small segments.
fn open_merging(dir: &Path) -> SqliteStore {
    open_tuned(dir, merge_often)
}

fn merge_often(tuning: &mut Tuning) {
    tuning.watermark_lag = 0;
    tuning.outcomes = OutcomeLimits { slice: 1, max_slice: 4, row_bytes: 150, ..OutcomeLimits::default() };
}

mod merging {
    use super::*;

    conformance!(Merging);
}

fn raw(dir: &Path) -> Connection {
    Connection::open(dir.join(FILE)).unwrap()
}

fn open_error_of(dir: &Path) -> StoreError {
    SqliteStore::open(dir).err().expect("must be refused")
}

/// `.cargo/config.toml` sets the flags. Fails if the environment sets LIBSQLITE3_FLAGS, which works but is slower.
#[test]
fn sqlite_is_built_with_the_configured_flags() {
    let used = "SELECT sqlite_compileoption_used('DEFAULT_MEMSTATUS=0')";
    let used: bool = Connection::open_in_memory().unwrap().query_row(used, [], |row| row.get(0)).unwrap();
    assert!(used, "the flags of .cargo/config.toml (HAVE_FDATASYNC and others) were not used");
}

#[tokio::test]
async fn refuses_a_newer_store_without_changing_it() {
    let dir = tempfile::tempdir().unwrap();
    SqliteStore::open(dir.path()).unwrap().close().await;
    let set = |name: &str, value: i64| {
        raw(dir.path())
            .execute("UPDATE meta SET value = ?2 WHERE name = ?1", rusqlite::params![name, value])
            .unwrap();
    };
    // One release newer, with an unchanged `min_reader`: a rollback must start.
    set("version", schema::VERSION + 1);
    drop(SqliteStore::open(dir.path()).unwrap());
    let version: i64 =
        raw(dir.path()).query_row("SELECT value FROM meta WHERE name = 'version'", [], |r| r.get(0)).unwrap();
    assert_eq!(version, schema::VERSION + 1, "the newer format is kept");
    set("version", schema::VERSION + 2);
    set("min_reader", schema::VERSION + 1);
    let before = std::fs::read(dir.path().join(FILE)).unwrap();
    let refused = open_error_of(dir.path());
    let (want_found, want_known) = (schema::VERSION + 2, schema::VERSION);
    assert!(
        matches!(refused, StoreError::Newer { found, known } if (found, known) == (want_found, want_known)),
        "{refused}"
    );
    assert_eq!(std::fs::read(dir.path().join(FILE)).unwrap(), before);
}

#[test]
fn refuses_a_file_that_is_no_store() {
    let dir = tempfile::tempdir().unwrap();
    raw(dir.path()).execute_batch("CREATE TABLE theirs (x)").unwrap();
    assert!(open_error_of(dir.path()).to_string().contains("another program"));
    std::fs::write(dir.path().join(FILE), vec![b'x'; 8192]).unwrap();
    assert!(matches!(open_error_of(dir.path()), StoreError::Open(_)));
    let missing = open_error_of(&dir.path().join("not-mounted"));
    assert!(matches!(missing, StoreError::Open(_)) && !dir.path().join("not-mounted").exists());
}

#[test]
fn migrations_are_applied_in_order_and_atomically() {
    let mut conn = Connection::open_in_memory().unwrap();
    let first = |sql| schema::Migration { version: 1, min_reader: 1, sql };
    let v1 = "CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL); CREATE TABLE a (x)";
    migrate::migrate(&mut conn, &[first(v1)]).unwrap();
    let broken = schema::Migration {
        version: 2,
        min_reader: 1,
        sql: "ALTER TABLE a ADD COLUMN y; CREATE TABLE a (x)",
    };
    migrate::migrate(&mut conn, &[first("never again"), broken]).unwrap_err();
    conn.execute_batch("SELECT y FROM a").unwrap_err();
    let second = || schema::Migration { version: 2, min_reader: 2, sql: "ALTER TABLE a ADD COLUMN y" };
    migrate::migrate(&mut conn, &[first("never again"), second()]).unwrap();
    migrate::migrate(&mut conn, &[first("never again"), second()]).unwrap();
    conn.execute_batch("SELECT y FROM a").unwrap();
    let old = migrate::migrate(&mut conn, &[first("never again")]).unwrap_err();
    assert!(matches!(old, StoreError::Newer { found: 2, known: 1 }), "{old}");
}

#[tokio::test]
async fn one_process_locks_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let refused = open_error_of(dir.path()).to_string();
    assert!(refused.contains("another process holds"), "{refused}");
    drop(store);
    SqliteStore::open(dir.path()).unwrap().close().await;
    SqliteStore::open(dir.path()).unwrap();
}

#[tokio::test]
async fn files_are_readable_by_the_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    store.accept(vec![new("a", &["x"], T0)], T0).await.unwrap();
    let mut names = Vec::new();
    for file in std::fs::read_dir(dir.path()).unwrap().map(Result::unwrap) {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", file.path());
        names.push(file.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(
        names,
        ["hookstream.db", "hookstream.db-shm", "hookstream.db-wal", "hookstream.lock", "hookstream.reserve"]
    );
    store.close().await;
    assert!(!dir.path().join("hookstream.db-wal").exists(), "a closed store is one file");
}

fn query_plan(conn: &Connection, sql: &str) -> String {
    let mut statement = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let count = statement.parameter_count();
    let rows =
        statement.query_map(rusqlite::params_from_iter(vec![1; count]), |r| r.get::<_, String>(3)).unwrap();
    rows.map(Result::unwrap).collect::<Vec<_>>().join("; ")
}

/// No query of the dispatcher scans or sorts a backlog.
#[test]
fn query_plans_use_indexes() {
    let dir = tempfile::tempdir().unwrap();
    drop(SqliteStore::open(dir.path()).unwrap());
    let conn = raw(dir.path());
    let plan = |sql: &str| query_plan(&conn, sql);
    let due = plan(reads::DUE);
    assert!(due.contains("COVERING INDEX deliveries_pending (hook=? AND due<?)"), "{due}");
    assert!(!due.contains("TEMP B-TREE") && !due.contains("SCAN"), "{due}");
    let next = plan(reads::NEXT_DUE);
    assert!(
        next.contains("COVERING INDEX deliveries_pending (hook=? AND due>?)") && !next.contains("SCAN"),
        "{next}"
    );
    let backlog = plan(reads::BACKLOG);
    assert!(backlog.contains("SEARCH d USING COVERING INDEX deliveries_pending (hook=?)"), "{backlog}");
    assert!(!backlog.contains("SCAN d"), "{backlog}");
    for (sql, want) in [
        (reads::NEWEST, "COVERING INDEX deliveries_list (hook=? AND state=?)"),
        (super::hook_rows::UNUSED, "COVERING INDEX deliveries_list (hook=?)"),
        (super::hook_rows::FIND_UNUSED, "SEARCH h USING INTEGER PRIMARY KEY (rowid>?)"),
        (super::hook_rows::EMPTY_NAMESPACES, "INDEX namespaces_deleted"),
        (reads::HELD, "INDEX hooks_held"),
        (history::EXPLAIN, "SEARCH e USING INTEGER PRIMARY KEY"),
        (retention::FINISHED, "INDEX deliveries_finished (state=? AND finished_at>?)"),
        (super::outcomes::NewestOutcomes::SQL, "COVERING INDEX outcome_segments_newest"),
        (super::outcomes::EXPIRED, "INDEX outcome_segments_oldest (oldest<?"),
        (super::unmatched::OF_NAMESPACE, "COVERING INDEX unmatched_namespace (namespace=? AND event<?)"),
        (super::unmatched::TABLE.totals, "COVERING INDEX unmatched_namespace"),
        (super::unmatched::TABLE.newest, "COVERING INDEX unmatched_namespace (namespace=?)"),
        (super::exchanges::TABLE.totals, "COVERING INDEX exchanges_namespace"),
        (super::exchanges::TABLE.newest, "COVERING INDEX exchanges_namespace (namespace=?)"),
        ("SELECT min(due) FROM candidates", "COVERING INDEX candidates_due"),
        ("UPDATE gates SET owner = NULL WHERE owner = 1", "INDEX gates_owner (owner=?)"),
    ] {
        let got = plan(sql);
        assert!(got.contains(want) && !got.contains("TEMP B-TREE"), "{sql}: {got}");
    }
    // Only the counted rows are grouped in memory.
    let dead = plan(super::dead_letters::RECENT);
    assert!(dead.contains("INDEX deliveries_finished (state=? AND finished_at>?)"), "{dead}");
    assert!(!dead.contains("FOR ORDER BY"), "{dead}");
    let loose = plan(retention::LOOSE);
    assert!(loose.contains("loose_full") && !loose.contains("TEMP B-TREE"), "{loose}");
}

/// Returns the sum of the backlog counts in the hooks' rows, in bytes.
fn stored_pending_bytes(dir: &Path) -> i64 {
    raw(dir).query_row("SELECT coalesce(sum(waiting), 0) FROM hooks", [], |row| row.get(0)).unwrap()
}

fn open_tuned(dir: &Path, change: impl FnOnce(&mut Tuning)) -> SqliteStore {
    let mut tuning = Tuning::default();
    change(&mut tuning);
    SqliteStore::open_with(dir, tuning).unwrap()
}
