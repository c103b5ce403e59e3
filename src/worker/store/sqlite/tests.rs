use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::join_all;
use rusqlite::ffi;

use super::super::conformance::{
    RETENTION, Subject, T0, conformance, delivery, event_with, key, new, seqs_of, settled,
};
use super::super::{Fate, Next, Retention, Seq, Store};
use super::*;

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

fn raw(dir: &Path) -> Connection {
    Connection::open(dir.join(FILE)).unwrap()
}

fn open_error_of(dir: &Path) -> StoreError {
    SqliteStore::open(dir).err().expect("must be refused")
}

/// By `.cargo/config.toml`. Fails where the environment sets LIBSQLITE3_FLAGS otherwise: it works so too, and slower.
#[test]
fn sqlite_is_built_as_asked() {
    let used = "SELECT sqlite_compileoption_used('DEFAULT_MEMSTATUS=0')";
    let used: bool = Connection::open_in_memory().unwrap().query_row(used, [], |row| row.get(0)).unwrap();
    assert!(used, "the flags of .cargo/config.toml, HAVE_FDATASYNC among them, were not taken");
}

#[tokio::test]
async fn a_newer_store_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    SqliteStore::open(dir.path()).unwrap().close().await;
    let set = |name: &str, value: i64| {
        raw(dir.path())
            .execute("UPDATE meta SET value = ?2 WHERE name = ?1", rusqlite::params![name, value])
            .unwrap();
    };
    // One release newer, which still lets us read it: a rollback starts.
    set("version", schema::VERSION + 1);
    drop(SqliteStore::open(dir.path()).unwrap());
    let version: i64 =
        raw(dir.path()).query_row("SELECT value FROM meta WHERE name = 'version'", [], |r| r.get(0)).unwrap();
    assert_eq!(version, schema::VERSION + 1, "the newer format is not taken back");
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
fn what_is_no_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    raw(dir.path()).execute_batch("CREATE TABLE theirs (x)").unwrap();
    assert!(open_error_of(dir.path()).to_string().contains("another program"));
    std::fs::write(dir.path().join(FILE), vec![b'x'; 8192]).unwrap();
    assert!(matches!(open_error_of(dir.path()), StoreError::Open(_)));
    let missing = open_error_of(&dir.path().join("not-mounted"));
    assert!(matches!(missing, StoreError::Open(_)) && !dir.path().join("not-mounted").exists());
}

#[test]
fn steps_are_taken_in_order_and_wholly() {
    let mut conn = Connection::open_in_memory().unwrap();
    let first = |sql| schema::Step { version: 1, min_reader: 1, sql };
    let v1 = "CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL); CREATE TABLE a (x)";
    schema::migrate(&mut conn, &[first(v1)]).unwrap();
    let broken =
        schema::Step { version: 2, min_reader: 1, sql: "ALTER TABLE a ADD COLUMN y; CREATE TABLE a (x)" };
    schema::migrate(&mut conn, &[first("never again"), broken]).unwrap_err();
    conn.execute_batch("SELECT y FROM a").unwrap_err();
    let second = || schema::Step { version: 2, min_reader: 2, sql: "ALTER TABLE a ADD COLUMN y" };
    schema::migrate(&mut conn, &[first("never again"), second()]).unwrap();
    schema::migrate(&mut conn, &[first("never again"), second()]).unwrap();
    conn.execute_batch("SELECT y FROM a").unwrap();
    let old = schema::migrate(&mut conn, &[first("never again")]).unwrap_err();
    assert!(matches!(old, StoreError::Newer { found: 2, known: 1 }), "{old}");
}

#[tokio::test]
async fn one_process_holds_a_volume() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let refused = open_error_of(dir.path()).to_string();
    assert!(refused.contains("another process holds"), "{refused}");
    drop(store);
    SqliteStore::open(dir.path()).unwrap().close().await;
    SqliteStore::open(dir.path()).unwrap();
}

#[tokio::test]
async fn the_files_are_the_owners_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    store.accept(vec![new("a", &["x"], T0)], T0).await.unwrap();
    let mut names = Vec::new();
    for file in std::fs::read_dir(dir.path()).unwrap().map(Result::unwrap) {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", file.path());
        names.push(file.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["hookstream.db", "hookstream.db-shm", "hookstream.db-wal", "hookstream.lock"]);
    store.close().await;
    assert!(!dir.path().join("hookstream.db-wal").exists(), "closed, all is in one file");
}

/// No statement of the dispatcher walks or sorts a backlog.
#[test]
fn plans() {
    let dir = tempfile::tempdir().unwrap();
    drop(SqliteStore::open(dir.path()).unwrap());
    let conn = raw(dir.path());
    let plan = |sql: &str| {
        let mut statement = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let count = statement.parameter_count();
        let rows = statement
            .query_map(rusqlite::params_from_iter(vec![1; count]), |r| r.get::<_, String>(3))
            .unwrap();
        rows.map(Result::unwrap).collect::<Vec<_>>().join("; ")
    };
    let due = plan(reads::DUE);
    assert!(due.contains("SEARCH d USING INDEX deliveries_pending (hook=? AND due<?)"), "{due}");
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
        (history::OLDER, "COVERING INDEX deliveries_list (hook=? AND state=? AND rowid<?)"),
        (history::NEWER, "COVERING INDEX deliveries_list (hook=? AND state=? AND rowid>?)"),
        (history::OF_EVENT, "COVERING INDEX events_id (namespace=? AND id=?)"),
        (history::OF_EVENT, "COVERING INDEX deliveries_event (event=?)"),
        (history::EXPLAIN, "INDEX events_id (namespace=? AND id=?)"),
        (history::FIRST_OF, "COVERING INDEX deliveries_event (event>?)"),
        (retention::ENDED, "INDEX deliveries_finished (state=? AND finished_at>?)"),
        ("SELECT min(due) FROM candidates", "COVERING INDEX candidates_due"),
        ("UPDATE gates SET owner = NULL WHERE owner = 1", "INDEX gates_owner (owner=?)"),
    ] {
        let got = plan(sql);
        assert!(got.contains(want) && !got.contains("TEMP B-TREE"), "{sql}: {got}");
    }
    let loose = plan(retention::LOOSE);
    assert!(loose.contains("loose_full") && !loose.contains("TEMP B-TREE"), "{loose}");
}

/// A store of version 1 with rows: it opens, has it all, and what version 1 did not count is never taken off.
#[tokio::test]
async fn a_store_of_version_1_becomes_one_of_this() {
    let dir = tempfile::tempdir().unwrap();
    let mut conn = raw(dir.path());
    schema::migrate(&mut conn, &schema::STEPS[..1]).unwrap();
    let id = uuid::Uuid::now_v7();
    conn.execute_batch(&format!(
        "INSERT INTO hooks VALUES (1, 'uid-x', 'shop', 'x');
         INSERT INTO events VALUES (1, {t}, 0, 'old', 'shop', 'api', 'orders', 'paid', '2023', NULL, '{{}}');
         INSERT INTO deliveries VALUES (1, 1, 1, x'{id}', 0, 2, {t}, NULL, NULL);
         INSERT INTO deliveries VALUES (2, 1, 1, x'00112233445566778899aabbccddeeff', 2, 1, {t}, {t}, 'MaxAge');",
        t = T0.0,
        id = id.simple(),
    ))
    .unwrap();
    drop(conn);
    let store = SqliteStore::open(dir.path()).unwrap();
    // As it was, beside it, for who goes back further than one release.
    let kept: i64 = Connection::open(dir.path().join("hookstream.db.v1"))
        .unwrap()
        .query_row("SELECT count(*) FROM deliveries", [], |row| row.get(0))
        .unwrap();
    assert_eq!(kept, 2);
    let mode = std::fs::metadata(dir.path().join("hookstream.db.v1")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let old = store.due("uid-x", T0, 9).await.unwrap().remove(0);
    assert_eq!((old.id, old.attempts, old.accepted, old.suppressed), (id, 2, T0, 0));
    store.settle(settled(old.seq, T0, 200, Next::Delivered)).await.unwrap();
    assert_eq!(store.explain("shop", "old").await.unwrap().unwrap().deliveries.len(), 2);
    assert_eq!(waiting(dir.path()), 0);
    // A program of version 1 settles what we counted, as after a rollback.
    store.accept(vec![new("new", &["x"], T0)], T0).await.unwrap();
    store.close().await;
    assert!(waiting(dir.path()) > 0);
    raw(dir.path())
        .execute("UPDATE deliveries SET state = 1, finished_at = ?1 WHERE state = 0", [T0.0])
        .unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    while store.sweep(RETENTION, Millis(T0.0 * 2)).await.unwrap() {}
    assert_eq!(waiting(dir.path()), 0);
}

/// The bytes that the hooks' rows say wait.
fn waiting(dir: &Path) -> i64 {
    raw(dir).query_row("SELECT sum(waiting) FROM hooks", [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn a_backlog_has_its_share_of_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let sized = |id: &str, hook: &str| {
        let event = event_with(id, &format!("\"{}\"", "x".repeat(9_998)));
        vec![NewEvent {
            event,
            dedup: key(id.as_bytes()[0], Duration::from_secs(60)),
            ..new(id, &[hook], T0)
        }]
    };
    let fate = async |id: &str, hook: &str| {
        store.accept(sized(id, hook), T0).await.map(|mut got| got.remove(0).deliveries[0])
    };
    let each = Fate::Pending { due: T0, suppressed: 0 };
    store.set_shares(Shares { hook_bytes: 25_000, namespace_bytes: 35_000 });
    let first = fate("a", "x").await.unwrap();
    assert_eq!((first.fate, fate("b", "x").await.unwrap().fate), (each, each));
    let over = fate("c", "x").await.unwrap();
    assert_eq!(over.fate, Fate::Dead);
    let told = store.explain("shop", "c").await.unwrap().unwrap().deliveries.remove(0);
    assert_eq!(told.reason.as_deref(), Some("BacklogFull"));
    assert_eq!(fate("d", "y").await.unwrap().fate, each, "a neighbour has its own");
    assert!(matches!(fate("e", "y").await, Err(StoreError::NamespaceFull)));
    assert_eq!(store.explain("shop", "e").await.unwrap(), None, "nothing is stored");
    assert_eq!(fate("a", "x").await.unwrap(), first, "a duplicate hears what it heard before");
    // The count outlives a restart, a refused operation, and a commit that failed.
    drop(store);
    let fault = Arc::new(Mutex::new(None));
    let store = tuned(dir.path(), |t| t.fault = fault.clone());
    store.set_shares(Shares { hook_bytes: 25_000, namespace_bytes: 35_000 });
    *fault.lock() = Some(ffi::SQLITE_FULL);
    store.settle(settled(first.seq, T0, 200, Next::Delivered)).await.unwrap_err();
    assert!(matches!(store.accept(sized("e", "y"), T0).await, Err(StoreError::NamespaceFull)));
    let mut bad = new("bad", &["x"], T0);
    bad.deliveries.push(bad.deliveries[0].clone());
    let before = waiting(dir.path());
    let (refused, settled) = futures::join!(
        store.accept(vec![bad], T0),
        store.settle(settled(first.seq, T0, 200, Next::Delivered))
    );
    assert!(refused.is_err() && settled.is_ok());
    assert_eq!(waiting(dir.path()), before - (10_000 + 512));
    store.accept(sized("e", "y"), T0).await.unwrap();
    // What is replayed waits again.
    store.replay("shop", told.id, T0).await.unwrap();
    assert_eq!(waiting(dir.path()), before + (10_000 + 512));
}

#[tokio::test]
async fn history_and_dead_letters_are_bounded_by_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let store = tuned(dir.path(), |t| t.chunk = Chunk { rows: 7, bytes: 30_000 });
    let body = format!("\"{}\"", "x".repeat(9_998));
    for n in 0..60_u8 {
        let now = T0 + Duration::from_secs(n.into());
        // Dead, delivered, without a delivery, by turns; all within their idempotency window.
        let hooks = [&["x"][..], &["x"], &[]][usize::from(n % 3)];
        let event = event_with(&format!("e{n}"), &body);
        let dedup = key(n, Duration::from_secs(86_400 * 9));
        let got = store.accept(vec![NewEvent { event, dedup, ..new("", hooks, now) }], now).await.unwrap();
        for seq in seqs_of(&got) {
            let next = if n % 3 == 0 { Next::Dead { reason: "Gone" } } else { Next::Delivered };
            store.settle(settled(seq, now, 500, next)).await.unwrap();
        }
    }
    let retention = Retention { history_bytes: 110_000, dead_letter_bytes: 54_000, ..RETENTION };
    let now = T0 + Duration::from_secs(60);
    while store.sweep(retention, now).await.unwrap() {}
    let mut kept = Vec::new();
    for n in 0..60 {
        let told = store.explain("shop", &format!("e{n}")).await.unwrap();
        let told = told.expect("its window is not over");
        if told.event.data.get().len() > 9_000 {
            kept.push(n);
        } else {
            assert_eq!((told.event.data.get(), told.deliveries.len()), ("null", 0));
        }
    }
    let history: Vec<_> = kept.iter().filter(|n| *n % 3 != 0).copied().collect();
    let dead: Vec<_> = kept.iter().filter(|n| *n % 3 == 0).copied().collect();
    assert_eq!(history, [45 + 1, 47, 49, 50, 52, 53, 55, 56, 58, 59]);
    assert_eq!(dead, [45, 48, 51, 54, 57]);
    let again = NewEvent { dedup: key(0, Duration::from_secs(60)), ..new("again", &["x"], T0) };
    assert!(store.accept(vec![again], now).await.unwrap()[0].duplicate);
    let late = Millis(T0.0 * 2);
    while store.sweep(retention, late).await.unwrap() {}
    let left: i64 = raw(dir.path()).query_row("SELECT count(*) FROM events", [], |r| r.get(0)).unwrap();
    assert_eq!(left, 0);
}

/// Who sends decides the keys: they are bounded, and the oldest go.
#[tokio::test]
async fn the_memory_of_gates_is_bounded() {
    use crate::core::gate::{Asked, Snooze, Snoozing};
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    store.accept(vec![new("a", &["x"], T0)], T0).await.unwrap();
    let most = gates::MAX_KEYS;
    raw(dir.path())
        .execute_batch(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {most})
             INSERT INTO gates SELECT 1, 1, cast(printf('%016d', i) AS BLOB), NULL, 0, NULL, 0, {} + i FROM n",
            T0.0
        ))
        .unwrap();
    for n in 0..5 {
        let rule = Snooze { period: Duration::from_secs(60), trailing: false };
        let asked = Asked { change: None, snooze: Some(Snoozing { key: [n; 16], rule }) };
        let deliveries = vec![super::super::NewDelivery { asked, ..delivery("x", T0) }];
        store
            .accept(vec![NewEvent { deliveries, ..new("b", &[], T0) }], T0 + Duration::from_secs(9999))
            .await
            .unwrap();
    }
    let rows = |sql: &str| raw(dir.path()).query_row(sql, [], |r| r.get::<_, i64>(0)).unwrap();
    assert_eq!(rows("SELECT count(*) FROM gates"), most);
    assert_eq!(rows("SELECT min(used) FROM gates"), T0.0 + 6, "the oldest went");
    let later = T0 + Duration::from_secs(31 * 86_400);
    while store.sweep(RETENTION, later).await.unwrap() {}
    assert_eq!(rows("SELECT count(*) FROM gates"), 0, "unused for 30 days");
}

fn tuned(dir: &Path, change: impl FnOnce(&mut Tuning)) -> SqliteStore {
    let mut tuning = Tuning::default();
    change(&mut tuning);
    SqliteStore::open_with(dir, tuning).unwrap()
}

#[tokio::test]
async fn a_failed_sync_ends_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let fault = Arc::new(Mutex::new(None));
    let store = tuned(dir.path(), |t| t.fault = fault.clone());
    store.accept(vec![new("kept", &["x"], T0)], T0).await.unwrap();
    let failed = store.failed();
    *fault.lock() = Some(ffi::SQLITE_IOERR_FSYNC);
    let group = join_all((0..10).map(|n| store.accept(vec![new(&format!("e{n}"), &["x"], T0)], T0))).await;
    assert!(group.iter().all(|r| matches!(r, Err(StoreError::Fatal(_)))), "{group:?}");
    assert!(matches!(failed.await, StoreError::Fatal(_)));
    let fatal = |e: StoreError| assert!(matches!(e, StoreError::Fatal(_)), "{e}");
    fatal(store.accept(vec![new("z", &["x"], T0)], T0).await.unwrap_err());
    fatal(store.settle(settled(1, T0, 200, Next::Delivered)).await.unwrap_err());
    fatal(store.due("uid-x", T0, 9).await.unwrap_err());
    fatal(store.failed().await);
    store.close().await;
    let store = SqliteStore::open(dir.path()).unwrap();
    assert_eq!(store.due("uid-x", T0, 99).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_full_or_busy_commit_is_answered_and_lived_through() {
    let dir = tempfile::tempdir().unwrap();
    let fault = Arc::new(Mutex::new(None));
    let store = tuned(dir.path(), |t| t.fault = fault.clone());
    for (code, want) in
        [(ffi::SQLITE_FULL, "Full"), (ffi::SQLITE_BUSY, "Busy"), (ffi::SQLITE_IOERR_SHMSIZE, "Full")]
    {
        *fault.lock() = Some(code);
        let keyed = || NewEvent { dedup: key(1, Duration::from_secs(1)), ..new("a", &["x", "new-hook"], T0) };
        let name: &'static str = store.accept(vec![keyed()], T0).await.unwrap_err().into();
        assert_eq!(name, want);
        assert_eq!(store.due("uid-x", T0, 9).await.unwrap().len(), 0, "nothing half stored");
    }
    let got = store.accept(vec![new("a", &["x", "new-hook"], T0)], T0).await.unwrap();
    assert!(!got[0].duplicate);
    assert_eq!(
        store.due("uid-new-hook", T0, 9).await.unwrap().len(),
        1,
        "its number was not kept over the rollback"
    );
}

#[tokio::test]
async fn what_cannot_be_read_ends_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    store.accept((0..500).map(|n| new(&format!("e{n}"), &["x"], T0)).collect(), T0).await.unwrap();
    store.close().await;
    let file = std::fs::File::options().write(true).open(dir.path().join(FILE)).unwrap();
    let size = file.metadata().unwrap().len();
    let store = SqliteStore::open(dir.path()).unwrap();
    std::os::unix::fs::FileExt::write_all_at(
        &file,
        &vec![0xff; usize::try_from(size).unwrap() - 16_384],
        16_384,
    )
    .unwrap();
    let got = store.due("uid-x", T0, 999).await;
    assert!(matches!(got, Err(StoreError::Fatal(_))), "{:?}", got.map(|p| p.len()));
    assert!(matches!(store.failed().await, StoreError::Fatal(_)));
}

#[tokio::test]
async fn a_full_queue_refuses_accept_and_holds_settle() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(tuned(dir.path(), |t| {
        t.queue = 2;
        t.queue_bytes = 10_000;
    }));
    let seq = store.accept(vec![new("a", &["x"], T0)], T0).await.unwrap()[0].deliveries[0].seq;
    // Another writer holds the writer up.
    let blocker = raw(dir.path());
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let spawn = |id: &str| {
        let (store, event) = (store.clone(), new(id, &["x"], T0));
        tokio::spawn(async move { store.accept(vec![event], T0).await })
    };
    let first = spawn("b");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let big =
        NewEvent { event: event_with("big", &format!("\"{}\"", "x".repeat(20_000))), ..new("", &["x"], T0) };
    let second = spawn("c");
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(matches!(store.accept(vec![big], T0).await, Err(StoreError::Busy)), "bounded by bytes");
    let third = spawn("d");
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(
        matches!(store.accept(vec![new("e", &["x"], T0)], T0).await, Err(StoreError::Busy)),
        "and by number"
    );
    let waits = {
        let store = store.clone();
        tokio::spawn(async move { store.settle(settled(seq, T0, 200, Next::Delivered)).await })
    };
    assert_eq!(store.due("uid-x", T0, 9).await.unwrap().len(), 1, "reads go on");
    blocker.execute_batch("ROLLBACK").unwrap();
    for accepted in [first, second, third] {
        accepted.await.unwrap().unwrap();
    }
    waits.await.unwrap().unwrap();
    assert_eq!(store.due("uid-x", T0, 9).await.unwrap().len(), 3);
}

#[tokio::test]
async fn retention_leaves_no_rows_behind() {
    let dir = tempfile::tempdir().unwrap();
    let store = tuned(dir.path(), |t| t.chunk = Chunk { rows: 7, bytes: 200 });
    let mut events = Vec::new();
    for n in 0..40_u8 {
        let hooks = [&["x", "y"][..], &[], &["x"]][usize::from(n % 3)];
        events.push(NewEvent { dedup: key(n, Duration::from_secs(60)), ..new(&format!("e{n}"), hooks, T0) });
    }
    let got = store.accept(events, T0).await.unwrap();
    for (n, seq) in seqs_of(&got).into_iter().enumerate() {
        let next = if n % 2 == 0 { Next::Delivered } else { Next::Dead { reason: "Terminal" } };
        store.settle(settled(seq, T0, 500, next)).await.unwrap();
    }
    let mut sweeps = 0;
    while store.sweep(RETENTION, Millis(T0.0 * 2)).await.unwrap() {
        sweeps += 1;
    }
    assert!(sweeps > 10, "{sweeps}");
    let conn = raw(dir.path());
    for table in ["events", "deliveries", "attempts", "dedup", "loose"] {
        let left: i64 = conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |r| r.get(0)).unwrap();
        assert_eq!(left, 0, "{table}");
    }
}

async fn longest_log(store: &SqliteStore, dir: &Path) -> u64 {
    let mut longest = 0;
    for n in 0..400 {
        store.accept((0..10).map(|m| new(&format!("e{n}-{m}"), &["x"], T0)).collect(), T0).await.unwrap();
        longest = longest.max(std::fs::metadata(dir.join("hookstream.db-wal")).unwrap().len());
    }
    longest / 4120
}

/// There is always someone who reads, though nobody for long.
#[tokio::test]
async fn the_log_is_bounded_under_readers_that_overlap() {
    let dir = tempfile::tempdir().unwrap();
    let store = tuned(dir.path(), |t| (t.wal_pages, t.wal_most) = (32, 64));
    let stop = Arc::new(AtomicBool::new(false));
    let readers = [raw(dir.path()), raw(dir.path())];
    let reader = std::thread::spawn({
        let stop = stop.clone();
        move || {
            let begin = |conn: &Connection| conn.execute_batch("BEGIN; SELECT count(*) FROM meta").unwrap();
            begin(&readers[0]);
            while !stop.load(Ordering::Relaxed) {
                for (one, other) in [(0, 1), (1, 0)] {
                    begin(&readers[other]);
                    std::thread::sleep(Duration::from_millis(2));
                    readers[one].execute_batch("COMMIT").unwrap();
                }
            }
        }
    });
    let longest = longest_log(&store, dir.path()).await;
    stop.store(true, Ordering::Relaxed);
    reader.join().unwrap();
    // Without an end to it the log has 5,557 pages then. Readers who share a place in the log, or a busy machine, may make
    // some waits be in vain, 64 pages each, but not most of them.
    assert!(longest < 24 * 64, "{longest} pages");
}

/// A backup reads for minutes: the log grows meanwhile, and nobody waits for it each time.
#[tokio::test]
async fn a_long_read_does_not_stop_the_writer() {
    let dir = tempfile::tempdir().unwrap();
    let store = tuned(dir.path(), |t| (t.wal_pages, t.wal_most) = (32, 256));
    let backup = raw(dir.path());
    backup.execute_batch("BEGIN; SELECT count(*) FROM meta").unwrap();
    let begun = Instant::now();
    let longest = longest_log(&store, dir.path()).await;
    assert!(longest > 1024, "{longest} pages: the test holds nothing up");
    // It waits once for every 256 pages; each of the 400 groups waiting would be 100 s.
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?} for {longest} pages", begun.elapsed());
    backup.execute_batch("COMMIT").unwrap();
    store.accept(vec![new("then", &["x"], T0)], T0).await.unwrap();
}

/// Copies the files while the writer runs, as a machine would find them after its power failed, and opens the copy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_image_has_what_was_answered() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoints = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let store = Arc::new(tuned(dir.path(), |t| {
        t.checkpoints = checkpoints.clone();
        t.wal_pages = 200;
    }));
    let answered = Arc::new(Mutex::new(Vec::<Seq>::new()));
    let stop = Arc::new(AtomicBool::new(false));
    let producers: Vec<_> = (0..8)
        .map(|p| {
            let (store, answered, stop) = (store.clone(), answered.clone(), stop.clone());
            tokio::spawn(async move {
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    let pair =
                        vec![new(&format!("{p}-{n}a"), &["x"], T0), new(&format!("{p}-{n}b"), &["x"], T0)];
                    let got = store.accept(pair, T0).await.unwrap();
                    answered.lock().extend(seqs_of(&got));
                }
            })
        })
        .collect();
    let (mut images, mut tries) = (0, 0);
    while images < 12 && tries < 400 {
        tries += 1;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1..40))).await;
        let copy = tempfile::tempdir().unwrap();
        let must: Vec<Seq> = answered.lock().clone();
        let before = checkpoints.load(Ordering::SeqCst);
        // By another process: closing a file here would drop the locks that SQLite holds on it.
        let cp = Command::new("cp")
            .args([dir.path().join(FILE), dir.path().join("hookstream.db-wal"), copy.path().to_path_buf()])
            .status()
            .unwrap();
        assert!(cp.success());
        // Two files are no single instant: if a checkpoint ran meanwhile, no power failure could leave these two.
        if before % 2 == 1 || checkpoints.load(Ordering::SeqCst) != before {
            continue;
        }
        images += 1;
        let image = SqliteStore::open(copy.path()).unwrap();
        let there: std::collections::HashSet<Seq> =
            image.due("uid-x", T0, usize::MAX).await.unwrap().iter().map(|p| p.seq).collect();
        let lost: Vec<_> = must.iter().filter(|seq| !there.contains(seq)).collect();
        assert!(lost.is_empty(), "image {images}: {} lost of {}", lost.len(), must.len());
        assert_eq!(there.len() % 2, 0, "an accept of two is there wholly or not at all");
        image.accept(vec![new("next", &["x"], T0)], T0).await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    join_all(producers).await.into_iter().for_each(Result::unwrap);
    println!("{images} images of {tries}, {} answered", answered.lock().len());
    assert!(images >= 3, "{images} of {tries}");
}

/// A small file system of its own, where this machine lets us have one.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn mount(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "hookstream-test"]).arg(dir.path());
        mount.stderr(std::process::Stdio::null());
        mount.status().ok()?.success().then_some(Tmpfs(dir))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.0.path()).status());
    }
}

#[tokio::test]
async fn a_full_disk_is_told_and_survived() {
    let Some(disk) = Tmpfs::mount("20m") else {
        println!("skipped: cannot mount a tmpfs");
        return;
    };
    let dir: PathBuf = disk.0.path().join("store");
    std::fs::create_dir(&dir).unwrap();
    let store = SqliteStore::open(&dir).unwrap();
    let body = format!("\"{}\"", "x".repeat(20_000));
    let big = |id: &str| {
        let deliveries = ["x", "y"].map(|name| delivery(name, T0)).to_vec();
        NewEvent { event: event_with(id, &body), dedup: None, deliveries }
    };
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![1; 4 << 20]).unwrap();
    let (mut accepted, mut full) = (0, 0);
    for n in 0..2000 {
        match store.accept(vec![big(&format!("{n}a")), big(&format!("{n}b"))], T0).await {
            Ok(_) => accepted += 2,
            Err(StoreError::Full) => full += 1,
            Err(e) => panic!("{e}"),
        }
        if full == 5 {
            break;
        }
    }
    assert!(full == 5 && accepted > 20, "{accepted} accepted, {full} refused");
    let count = async |store: &SqliteStore| {
        let x = store.due("uid-x", T0, 9999).await.unwrap().len();
        assert_eq!(store.due("uid-y", T0, 9999).await.unwrap().len(), x);
        x
    };
    assert_eq!(count(&store).await, accepted, "nothing lost and nothing half stored");
    // What was sent is noted and swept as far as the log has room; whatever is refused is refused wholly.
    let (mut noted, mut refused) = (0, 0);
    for pending in store.due("uid-x", T0, 20).await.unwrap() {
        match store.settle(settled(pending.seq, T0, 503, Next::Retry { due: T0 })).await {
            Ok(_) => noted += 1,
            Err(StoreError::Full) => refused += 1,
            Err(e) => panic!("{e}"),
        }
    }
    println!("with the disk full: {noted} settled, {refused} refused");
    // A crash on the full disk: it opens again and has it all.
    drop(store);
    let store = SqliteStore::open(&dir).unwrap();
    assert_eq!(count(&store).await, accepted);
    std::fs::remove_file(&ballast).unwrap();
    store.accept(vec![big("after-a"), big("after-b")], T0).await.unwrap();
    assert_eq!(count(&store).await, accepted + 2);
    println!("{accepted} accepted before the disk was full");
    store.close().await;
}

/// A million that wait: opening, the backlog and what is due cost what they cost with ten.
#[tokio::test]
#[ignore = "a million rows"]
async fn store_million_backlog() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let names: Vec<String> = (0..50).map(|n| format!("h{n}")).collect();
    let begun = Instant::now();
    for n in 0..200_u64 {
        let batch = (0..100_u64).map(|m| {
            let hooks: Vec<&str> = names.iter().map(String::as_str).collect();
            new(&format!("{n}-{m}"), &hooks, T0 + Duration::from_millis(n * 100 + m))
        });
        store.accept(batch.collect(), T0).await.unwrap();
    }
    println!("1,000,000 deliveries stored in {:?}", begun.elapsed());
    drop(store);
    let begun = Instant::now();
    let store = SqliteStore::open(dir.path()).unwrap();
    println!("open {:?}", begun.elapsed());
    let late = Millis(T0.0 * 2);
    let time = async |what: &str, ask: futures::future::BoxFuture<'_, usize>| {
        let begun = Instant::now();
        let n = ask.await;
        println!("{what}: {n} in {:?}", begun.elapsed());
    };
    time("backlog", async { store.backlog().await.unwrap().len() }.boxed()).await;
    time("due, 100", async { store.due("uid-h7", late, 100).await.unwrap().len() }.boxed()).await;
    time("due again, 100", async { store.due("uid-h7", late, 100).await.unwrap().len() }.boxed()).await;
    time("next_due", async { store.next_due("uid-h7", T0).await.unwrap().iter().count() }.boxed()).await;
    time("sweep", async { usize::from(store.sweep(RETENTION, late).await.unwrap()) }.boxed()).await;
}

/// Accept and settle, 64 at a time, 1 KiB each; and what the disk gives for the same bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn store_group_commit() {
    const PRODUCERS: usize = 64;
    let dir = tempfile::tempdir_in(".").unwrap();
    let body = format!("\"{}\"", "x".repeat(1022));
    for round in 1..=3 {
        let place = dir.path().join(format!("r{round}"));
        std::fs::create_dir(&place).unwrap();
        let store = Arc::new(SqliteStore::open(&place).unwrap());
        let begun = Instant::now();
        let producers = (0..PRODUCERS).map(|p| {
            let (store, body) = (store.clone(), body.clone());
            tokio::spawn(async move {
                let (mut n, mut waits) = (0_u32, Vec::new());
                while begun.elapsed() < Duration::from_secs(5) {
                    n += 1;
                    let id = format!("{p}-{n}");
                    let mut dedup = [0; 32];
                    dedup[..8].copy_from_slice(&fastrand::u64(..).to_le_bytes());
                    let dedup = Some(super::super::Dedup { key: dedup, window: Duration::from_secs(86_400) });
                    let deliveries = vec![delivery(&format!("h{}", p % 8), T0)];
                    let event = NewEvent { event: event_with(&id, &body), dedup, deliveries };
                    let asked = Instant::now();
                    let seq = store.accept(vec![event], T0).await.unwrap()[0].deliveries[0].seq;
                    waits.push(asked.elapsed());
                    store.settle(settled(seq, T0, 200, Next::Delivered)).await.unwrap();
                }
                waits
            })
        });
        let mut waits: Vec<_> = join_all(producers).await.into_iter().flat_map(Result::unwrap).collect();
        let rate = waits.len() as f64 / begun.elapsed().as_secs_f64();
        waits.sort();
        let at = |q: usize| waits[(waits.len() - 1) * q / 100];
        // The floor: half of the producers' events of 1 KiB appended and synced, as an accept's group would be.
        let floor = std::fs::File::create(place.join("floor")).unwrap();
        let (begun, mut syncs) = (Instant::now(), 0_u32);
        let group = vec![b'x'; PRODUCERS / 2 * 1024];
        while begun.elapsed() < Duration::from_secs(2) {
            std::io::Write::write_all(&mut &floor, &group).unwrap();
            floor.sync_data().unwrap();
            syncs += 1;
        }
        let sync = begun.elapsed() / syncs;
        println!(
            "round {round}: {rate:.0} cycles/s, accept p50 {:?} p99 {:?} max {:?}; floor {:.0} events/s, fdatasync of {} KiB {sync:?}",
            at(50),
            at(99),
            at(100),
            f64::from(syncs) * (PRODUCERS / 2) as f64 / begun.elapsed().as_secs_f64(),
            group.len() / 1024,
        );
        store.close().await;
    }
}
