//! Damaged files: what is refused, and what is recovered.

use super::super::super::conformance::hook;
use super::super::super::{DeliveryFilter, ExchangeChange, NewDelivery, Settlement};
use super::super::recover;
use super::super::runs::RunLimits;
use super::*;
use crate::core::gate::{GateRequest, Snooze, SnoozeCheck};

/// Copies the files of a running store, as a killed process leaves them, with the index of the log.
fn crash_image(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    // In another process: closing a file here would release the locks that SQLite has on it.
    let files = [FILE, "hookstream.db-wal", "hookstream.db-shm"].map(|name| dir.join(name));
    let cp = Command::new("cp").args(files).arg(copy.path()).status().unwrap();
    assert!(cp.success());
    copy
}

fn flip(dir: &Path, name: &str, byte: usize) {
    let path = dir.join(name);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[byte] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

async fn store_with(dir: &Path, events: usize) -> SqliteStore {
    let store = SqliteStore::open(dir).unwrap();
    for n in 0..events {
        store.accept(vec![new(&format!("e{n}"), &["x"], T0)], T0).await.unwrap();
    }
    store
}

fn rows(report: &recover::RecoveryReport, table: &str) -> (u64, Option<u64>) {
    let found = report.tables.iter().find(|row| row.table == table).unwrap();
    (found.copied, found.lost)
}

#[tokio::test]
async fn a_damaged_log_is_refused_unchanged_and_recovered() {
    const EVENTS: usize = 40;
    let dir = tempfile::tempdir().unwrap();
    let store = store_with(dir.path(), EVENTS).await;
    let log = std::fs::metadata(dir.path().join("hookstream.db-wal")).unwrap().len();
    let log = usize::try_from(log).unwrap();
    for (byte, with_index) in [(5, false), (log / 2, false), (log / 2, true), (log - 100, true)] {
        let image = crash_image(dir.path());
        if !with_index {
            std::fs::remove_file(image.path().join("hookstream.db-shm")).unwrap();
        }
        flip(image.path(), "hookstream.db-wal", byte);
        let read = |name: &str| std::fs::read(image.path().join(name)).ok();
        let before = [FILE, "hookstream.db-wal", "hookstream.db-shm"].map(read);
        for _ in 0..2 {
            let refused = open_error_of(image.path());
            assert!(matches!(refused, StoreError::Damaged { .. }), "{byte}: {refused}");
        }
        let found = check(image.path()).unwrap();
        assert!(found.problems[0].contains("the log is damaged"), "{found:?}");
        let to = image.path().join("recovered.db");
        let report = recover::recover(image.path(), &to).unwrap();
        let (copied, lost) = rows(&report, "events");
        assert!(copied + lost.unwrap() >= EVENTS as u64 - 1, "{byte}: {report:?}");
        assert!(!report.is_complete() || byte == 5, "{report:?}");
        assert_eq!([FILE, "hookstream.db-wal", "hookstream.db-shm"].map(read), before, "{byte}");
        // It is a store again.
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(&to, folder.path().join(FILE)).unwrap();
        let recovered = SqliteStore::open(folder.path()).unwrap();
        let due = recovered.due_by("uid-x", T0, 999).await.unwrap();
        assert_eq!(due.len() as u64, report.store.deliveries["pending"]);
        recovered.accept(vec![new("next", &["x"], T0)], T0).await.unwrap();
    }
    store.close().await;
}

/// After a power failure there is no index, and the last transaction may be incomplete.
#[tokio::test]
async fn a_torn_tail_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_with(dir.path(), 10).await;
    let log = std::fs::metadata(dir.path().join("hookstream.db-wal")).unwrap().len();
    for cut in [1, 4000, 4120, 9000, log - 10, log] {
        let image = crash_image(dir.path());
        std::fs::remove_file(image.path().join("hookstream.db-shm")).unwrap();
        let wal = std::fs::File::options().write(true).open(image.path().join("hookstream.db-wal")).unwrap();
        wal.set_len(log - cut).unwrap();
        SqliteStore::open(image.path()).unwrap().close().await;
        assert_eq!(check(image.path()).unwrap().problems, [] as [&str; 0], "{cut}");
    }
    store.close().await;
}

/// Each page in turn is destroyed. Without the schema nothing can be read; otherwise each event is copied or counted.
#[tokio::test]
async fn rows_on_destroyed_pages_are_skipped_and_counted() {
    const EVENTS: usize = 150;
    let dir = tempfile::tempdir().unwrap();
    store_with(dir.path(), EVENTS).await.close().await;
    let intact = std::fs::read(dir.path().join(FILE)).unwrap();
    let (mut recovered, mut lossy) = (0, 0);
    for page in 0..intact.len() / 4096 {
        let image = tempfile::tempdir().unwrap();
        let mut bytes = intact.clone();
        bytes[page * 4096..(page + 1) * 4096].fill(0xa5);
        std::fs::write(image.path().join(FILE), bytes).unwrap();
        let to = image.path().join("recovered.db");
        let Ok(report) = recover::recover(image.path(), &to) else { continue };
        let (copied, lost) = rows(&report, "events");
        assert_eq!(copied + lost.unwrap(), EVENTS as u64, "page {page}: {report:?}");
        let (copied, lost) = rows(&report, "deliveries");
        assert_eq!(copied + lost.unwrap(), EVENTS as u64, "page {page}: {report:?}");
        recovered += 1;
        lossy += u64::from(!report.is_complete());
        assert_eq!(std::fs::read_dir(image.path()).unwrap().count(), 2, "nothing else is left behind");
    }
    assert!(recovered > 20 && lossy > 10, "{recovered} recovered, {lossy} with losses");
}

/// Opens a recovered file as a store.
fn open_recovered(file: &Path) -> (tempfile::TempDir, SqliteStore) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(file, folder.path().join(FILE)).unwrap();
    let store = SqliteStore::open(folder.path()).unwrap();
    (folder, store)
}

/// Returns the definitions of tables and indexes, and the rows of each table.
fn content(file: &Path) -> Vec<(String, Option<i64>)> {
    let conn = Connection::open(file).unwrap();
    let mut schema = conn
        .prepare("SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY name")
        .unwrap();
    let rows = |kind: &str, name: &str| {
        let count = || conn.query_row(&format!("SELECT count(*) FROM {name}"), [], |row| row.get(0)).unwrap();
        (kind == "table").then(count)
    };
    let describe = |row: &rusqlite::Row<'_>| {
        let (kind, name): (String, String) = (row.get(0)?, row.get(1)?);
        Ok((format!("{name}: {:?}", row.get::<_, Option<String>>(2)?), rows(&kind, &name)))
    };
    schema.query_map([], describe).unwrap().map(Result::unwrap).collect()
}

/// Without the repair, notes of a lost hook would make every write fail, lists would not find a namespace's deliveries, a
/// reused id of a lost hook would inherit its gate memory, and a new event with the sequence number of a lost one its
/// idempotency key.
#[tokio::test]
async fn what_refers_to_lost_rows_is_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let keyed = |id: &str| NewEvent { dedup: key(7, Duration::from_secs(3600)), ..new(id, &["kept"], T0) };
    store.accept(vec![new("first", &["kept"], T0)], T0).await.unwrap();
    // It has a row from now on.
    store.write(|_, _| Ok(())).await.unwrap();
    store.accept(vec![new("a", &["kept", "lost"], T0)], T0).await.unwrap();
    store.accept(vec![new("b", &["lost"], T0)], T0).await.unwrap();
    store.accept(vec![keyed("last")], T0).await.unwrap();
    // With notes instead of rows, as a killed process leaves them.
    let image = crash_image(dir.path());
    raw(image.path())
        .execute_batch(
            "INSERT INTO gates SELECT id, 1, x'01', NULL, 9e15, 99 << 20, 0, 9e15 FROM hooks;
             DELETE FROM hooks WHERE name = 'lost'; DELETE FROM namespace_numbers; UPDATE deliveries SET namespace = 7;
             DELETE FROM events WHERE id = 'last'; DELETE FROM meta WHERE name <> 'filed'",
        )
        .unwrap();
    let to = image.path().join("recovered.db");
    let report = recover::recover(image.path(), &to).unwrap();
    assert_eq!(rows(&report, "deliveries"), (1, Some(2)), "{report:?}");
    assert_eq!((report.store.version, report.store.deliveries["pending"]), (schema::VERSION, 2));
    let count =
        |sql: &str| Connection::open(&to).unwrap().query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count("SELECT count(*) FROM gates"), 1);
    assert_eq!(count("SELECT count(*) FROM gates WHERE owner IS NOT NULL"), 0);
    assert_eq!(count("SELECT count(*) FROM loose"), 1, "the sweep removes an event without deliveries");
    let (_folder, recovered) = open_recovered(&to);
    let again = recovered.accept(vec![new("other", &["kept"], T0)], T0).await.unwrap();
    assert!(!again[0].duplicate);
    let again = recovered.accept(vec![keyed("last")], T0).await.unwrap();
    assert!(!again[0].duplicate, "the event is lost, so its sender must be able to send it again");
    assert_eq!(recovered.due_by("uid-kept", T0, 9).await.unwrap().len(), 4);
    let shop = DeliveryFilter { namespace: "shop".into(), ..DeliveryFilter::default() };
    assert_eq!(recovered.list(shop, None, 9).await.unwrap().records.len(), 4);
}

#[tokio::test]
async fn an_intact_store_is_recovered_completely() {
    let dir = tempfile::tempdir().unwrap();
    store_with(dir.path(), 20).await.close().await;
    // Rows in every table. One outcome is in a segment, another one in a group.
    let deliver = async |store: &SqliteStore, id: &str| {
        let seqs = seqs_of(&store.accept(vec![new(id, &["x"], T0)], T0).await.unwrap());
        store.settle(settled(seqs[0], T0, 200, NextStep::Delivered)).await.unwrap();
    };
    let store = open_merging(dir.path());
    deliver(&store, "merged").await;
    store.close().await;
    raw(dir.path()).execute("INSERT INTO dedup VALUES (x'01', 9e15, 1)", []).unwrap();
    let store = open_tuned(dir.path(), |t| {
        let limits = RunLimits { table: 1, entries_per_block: 1, slice_blocks: 1, ..RunLimits::default() };
        (t.keys, t.ids) = (limits, limits);
    });
    store.set_namespace_uid("shop", Some("1")).await.unwrap();
    store.set_namespace_uid("shop", Some("2")).await.unwrap();
    let rule = Snooze { period: Duration::from_secs(60), trailing: true };
    let gate_request = GateRequest { change: None, snooze: Some(SnoozeCheck { key: [1; 16], rule }) };
    let snoozed = |id: &str| NewEvent {
        dedup: key(id.as_bytes()[1], Duration::from_secs(3600)),
        deliveries: vec![NewDelivery { gate_request, ..delivery("snoozing", T0) }],
        ..new(id, &[], T0)
    };
    let seqs =
        seqs_of(&store.accept(vec![snoozed("s1"), snoozed("s2"), new("l", &[], T0)], T0).await.unwrap());
    let exchange = ExchangeChange::Replace(Box::new(unmatched::exchange("x")));
    let retry = NextStep::Retry { due: T0 };
    store.settle(Settlement { exchange, ..settled(seqs[0], T0, 503, retry) }).await.unwrap();
    store.set_held(&hook("held"), true, T0).await.unwrap();
    let shop = DeliveryFilter { namespace: "shop".into(), ..DeliveryFilter::default() };
    store.start_replay(shop, 1, T0).await.unwrap();
    deliver(&store, "recent").await;
    // Writes a run.
    store.accept(vec![snoozed("s3")], T0).await.unwrap();
    store.close().await;
    let to = dir.path().join("recovered.db");
    let report = recover::recover(dir.path(), &to).unwrap();
    assert!(report.is_complete() && rows(&report, "events") == (26, Some(0)), "{report:?}");
    let before = content(&dir.path().join(FILE));
    assert!(before.iter().all(|(_, rows)| *rows != Some(0)), "{before:?}");
    assert_eq!(content(&to), before);
    let again = recover::recover(dir.path(), &to).unwrap_err().to_string();
    assert!(again.contains("exists"), "{again}");
    let _worker = SqliteStore::open(dir.path()).unwrap();
    let used = recover::recover(dir.path(), &dir.path().join("other.db")).unwrap_err().to_string();
    assert!(used.contains("a worker uses"), "{used}");
}

#[tokio::test]
async fn a_check_reports_notes_that_name_a_missing_hook() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_with(dir.path(), 3).await;
    // Without a close, which would insert rows.
    drop(store);
    assert_eq!(check(dir.path()).unwrap().problems, Vec::<String>::new());
    raw(dir.path()).execute("DELETE FROM hooks", []).unwrap();
    assert_eq!(check(dir.path()).unwrap().problems, ["3 notes of deliveries without their hook"]);
}

#[tokio::test]
async fn an_unreadable_filter_ends_only_its_own_replay() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_with(dir.path(), 5).await;
    for pending in store.due_by("uid-x", T0, 9).await.unwrap() {
        store.settle(settled(pending.seq, T0, 200, NextStep::Delivered)).await.unwrap();
    }
    let shop = || DeliveryFilter { namespace: "shop".into(), ..DeliveryFilter::default() };
    let started = T0 + Duration::from_secs(60);
    let damaged = store.start_replay(shop(), 100, started).await.unwrap().id;
    let intact = store.start_replay(shop(), 100, started).await.unwrap().id;
    // Another type of a member, and no text at all.
    for value in [r#"'{"namespace":7}'"#, "x'ff'"] {
        let set = format!("UPDATE replays SET filter = {value}, done_at = NULL WHERE id = ?1");
        raw(dir.path()).execute(&set, [damaged.as_bytes()]).unwrap();
        store.step_replays(started + Duration::from_secs(2)).await.unwrap();
        let ended = store.replay_progress("shop", damaged).await.unwrap().unwrap();
        let error = ended.error.unwrap_or_default();
        assert!(ended.done && error.contains("cannot be read"), "{value}: {error}");
    }
    store.step_replays(started + Duration::from_secs(4)).await.unwrap();
    let other = store.replay_progress("shop", intact).await.unwrap().unwrap();
    assert_eq!((other.replayed, other.done, other.error), (5, true, None));
}
