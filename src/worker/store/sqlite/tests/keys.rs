//! Idempotency keys in runs: the contract of a store with small tables, migration, damage, full disks, namespaces.

use super::super::recover;
use super::super::runs::{RunKind, RunLimits};
use super::*;

/// Three keys become a run, and every commit with a key writes a block.
const SMALL: RunLimits = RunLimits {
    table: 3,
    span: 12,
    block_entries: 3,
    entries_per_block: 1,
    slice_blocks: 1,
    slice_time: Duration::MAX,
    filter_bytes: usize::MAX,
};
const DAY: Duration = Duration::from_secs(86_400);

fn open_small(dir: &Path) -> SqliteStore {
    open_tuned(dir, |t| (t.keys, t.ids) = (SMALL, SMALL))
}

/// The whole contract, with runs and merges in every test.
mod contract {
    use super::*;

    struct SmallTable(tempfile::TempDir);

    impl Subject for SmallTable {
        type Store = SqliteStore;
        fn new() -> Self {
            SmallTable(tempfile::tempdir().unwrap())
        }
        async fn open(&self) -> SqliteStore {
            open_small(self.0.path())
        }
    }

    conformance!(SmallTable);
}

fn keyed(number: u64, window: Duration) -> NewEvent {
    let mut hash = [0; 32];
    hash[..16].copy_from_slice(
        &u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c834).to_be_bytes(),
    );
    let dedup = Some(super::super::super::Dedup { key: hash, window });
    NewEvent { dedup, ..new(&format!("e{number}"), &["x"], T0) }
}

async fn accept_keyed(store: &SqliteStore, numbers: std::ops::Range<u64>) -> Vec<i64> {
    let mut seqs = Vec::new();
    for number in numbers {
        seqs.push(store.accept(vec![keyed(number, DAY)], T0).await.unwrap()[0].seq);
    }
    seqs
}

/// Repeats all events, and compares the results with the originals.
async fn repeat_all(store: &SqliteStore, seqs: &[i64]) {
    for (number, seq) in seqs.iter().enumerate() {
        let again = store.accept(vec![keyed(number as u64, DAY)], T0 + DAY / 2).await.unwrap().remove(0);
        assert_eq!((again.duplicate, again.seq), (true, *seq), "{number}");
    }
}

/// Sweeps the store until its work is done. The first sweep only finds that keys were accepted before it.
async fn finish_work(store: &SqliteStore, now: Millis) {
    store.sweep(RETENTION, now).await.unwrap();
    while store.sweep(RETENTION, now).await.unwrap() {}
}

fn count(dir: &Path, sql: &str) -> i64 {
    raw(dir).query_row(sql, [], |row| row.get(0)).unwrap()
}

fn highest_tier(dir: &Path) -> i64 {
    count(dir, "SELECT coalesce(max(tier), -1) FROM key_runs")
}

#[tokio::test]
async fn old_keys_are_recognized_under_a_load_of_repetitions() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open_small(dir.path());
    let seqs = accept_keyed(&store, 0..200).await;
    assert!(highest_tier(dir.path()) > 0, "nothing was merged");
    for reopened in [false, true] {
        repeat_all(&store, &seqs).await;
        let all = (0..200).map(|number| keyed(number, DAY)).collect();
        let again = store.accept(all, T0 + DAY / 2).await.unwrap();
        assert!(again.iter().all(|again| again.duplicate));
        assert_eq!(count(dir.path(), "SELECT count(*) FROM events"), 200);
        if !reopened {
            drop(store);
            store = open_small(dir.path());
        }
    }
    assert!(store.stats().await.unwrap().key_memory_bytes > 10_000, "a filter for each block of three keys");
    // After the window they are new, and nothing is left of the old ones.
    let late = T0 + DAY * 2;
    finish_work(&store, late).await;
    for table in RunKind::Keys.tables() {
        assert_eq!(count(dir.path(), &format!("SELECT count(*) FROM {table}")), 0, "{table}");
    }
    assert!(!store.accept(vec![keyed(7, DAY)], late).await.unwrap()[0].duplicate);
    store.close().await;
    assert_eq!(check(dir.path()).unwrap().problems, [""; 0]);
}

#[tokio::test]
async fn keys_of_a_store_of_version_6_stay_valid_until_they_expire() {
    let dir = tempfile::tempdir().unwrap();
    let mut conn = raw(dir.path());
    migrate::migrate(&mut conn, &schema::MIGRATIONS[..6]).unwrap();
    let mut hash = [0; 32];
    hash[..16].copy_from_slice(&0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c834_u128.to_be_bytes());
    conn.execute_batch(&format!(
        "INSERT INTO events VALUES (5, {t}, {until}, 'old', 'shop', 'api', 'orders', 'paid', '2023', NULL, NULL, '{{}}');
         INSERT INTO loose VALUES ({t}, 5, {until}, 0);
         INSERT INTO dedup VALUES (x'{}', {until}, 5);
         UPDATE meta SET value = 5 WHERE name = 'filed';",
        hex::encode(hash),
        t = T0.0,
        until = (T0 + DAY).0,
    ))
    .unwrap();
    drop(conn);
    let store = open_small(dir.path());
    assert!(dir.path().join("hookstream.db.v6").exists(), "a copy of the old format is kept");
    let again = store.accept(vec![keyed(1, DAY)], T0).await.unwrap().remove(0);
    assert_eq!((again.duplicate, again.seq, again.event_id.as_str()), (true, 5, "old"));
    assert_eq!(accept_keyed(&store, 2..20).await[0], 6);
    drop(store);
    let store = open_small(dir.path());
    assert!(store.accept(vec![keyed(1, DAY)], Millis((T0 + DAY).0 - 1)).await.unwrap()[0].duplicate);
    let fresh = store.accept(vec![keyed(1, DAY)], T0 + DAY).await.unwrap().remove(0);
    assert!(!fresh.duplicate);
    // The sweep empties the old table. The new key is in the new tables only.
    finish_work(&store, T0 + DAY).await;
    assert_eq!(count(dir.path(), "SELECT count(*) FROM dedup"), 0);
    let again = store.accept(vec![keyed(1, DAY)], T0 + DAY).await.unwrap().remove(0);
    assert_eq!((again.duplicate, again.seq), (true, fresh.seq));
    store.close().await;
    assert_eq!(check(dir.path()).unwrap().problems, [""; 0]);
}

#[tokio::test]
async fn a_duplicate_is_recognized_after_its_event_was_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_small(dir.path());
    let seqs = accept_keyed(&store, 0..20).await;
    finish_work(&store, T0).await;
    drop(store);
    raw(dir.path()).execute("DELETE FROM events WHERE seq = ?1", [seqs[3]]).unwrap();
    let store = open_small(dir.path());
    let again = store.accept(vec![keyed(3, DAY)], T0).await.unwrap().remove(0);
    assert_eq!((again.duplicate, again.seq, again.event_id.as_str()), (true, seqs[3], "e3"));
    assert!(again.deliveries.is_empty() && again.hooks_to_notify.is_empty());
}

/// A window of zero turns deduplication off, and its keys would only take space.
#[tokio::test]
async fn a_window_of_zero_stores_no_key() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_small(dir.path());
    for _ in 0..10 {
        assert!(!store.accept(vec![keyed(1, Duration::ZERO)], T0).await.unwrap()[0].duplicate);
    }
    assert_eq!(count(dir.path(), "SELECT count(*) FROM events WHERE dedup_key IS NOT NULL"), 0);
}

/// The name of a removed namespace stands for itself again, and the keys of its first namespace may still be in runs.
#[tokio::test]
async fn a_name_is_reused_only_after_its_keys_expired() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_small(dir.path());
    store.set_namespace_uid("shop", Some("first")).await.unwrap();
    accept_keyed(&store, 0..10).await;
    store.set_namespace_uid("shop", None).await.unwrap();
    finish_work(&store, T0).await;
    assert_eq!(count(dir.path(), "SELECT count(*) FROM events"), 0);
    store.set_namespace_uid("shop", Some("second")).await.unwrap();
    assert!(!store.accept(vec![keyed(3, DAY)], T0).await.unwrap()[0].duplicate, "of another namespace");
    store.set_namespace_uid("shop", None).await.unwrap();
    finish_work(&store, T0).await;
    let names = || count(dir.path(), "SELECT count(*) FROM namespaces");
    assert_eq!(names(), 1, "its keys have not expired");
    assert!(!store.accept(vec![keyed(3, DAY)], T0).await.unwrap()[0].duplicate);
    store.set_namespace_uid("shop", Some("third")).await.unwrap();
    store.set_namespace_uid("shop", None).await.unwrap();
    finish_work(&store, T0 + DAY).await;
    assert_eq!(names(), 0);
}

/// The groups of events need less space than a run. They continue, and the run is written when there is space again.
#[tokio::test]
async fn a_disk_that_is_full_for_a_run_stops_no_event() {
    let dir = tempfile::tempdir().unwrap();
    let limits = RunLimits { table: 400, span: 100_000, block_entries: 1, slice_blocks: 300, ..SMALL };
    let store = open_tuned(dir.path(), |t| t.keys = limits);
    let set_limit = |spare: Option<i64>| {
        move |conn: &Connection, _: &mut _| {
            // Each block takes four pages more.
            conn.execute_batch(
                "CREATE TABLE IF NOT EXISTS ballast (x);
                 CREATE TRIGGER IF NOT EXISTS grow AFTER INSERT ON key_blocks
                 BEGIN INSERT INTO ballast VALUES (zeroblob(16000)); END",
            )?;
            let pages: i64 = conn.pragma_query_value(None, "page_count", |row| row.get(0))?;
            let most = spare.map_or(1 << 30, |spare| pages + spare);
            conn.query_row(&format!("PRAGMA max_page_count = {most}"), [], |_| Ok(()))
        }
    };
    let batch = |from: u64| (from..from + 100).map(|number| keyed(number, DAY)).collect::<Vec<_>>();
    let mut seqs = Vec::new();
    store.write_unmaterialized(set_limit(Some(700))).await.unwrap();
    for from in 0..6 {
        seqs.extend(store.accept(batch(from * 100), T0).await.unwrap().iter().map(|a| a.seq));
    }
    assert_eq!(count(dir.path(), "SELECT count(*) FROM key_blocks"), 0, "it did not fit");
    repeat_all(&store, &seqs).await;
    store.write_unmaterialized(set_limit(None)).await.unwrap();
    // The table has doubled, so the work is urgent, whatever failed before.
    for from in 6..20 {
        seqs.extend(store.accept(batch(from * 100), T0).await.unwrap().iter().map(|a| a.seq));
    }
    assert!(count(dir.path(), "SELECT count(*) FROM key_runs") > 0);
    repeat_all(&store, &seqs).await;
    drop(store);
    repeat_all(&open_small(dir.path()), &seqs).await;
}

/// Without space for runs, the keys in memory would grow without a bound.
#[tokio::test]
async fn events_are_refused_while_no_run_can_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_tuned(dir.path(), |t| t.keys = RunLimits { table: 50, span: 100_000, ..SMALL });
    // Every attempt to write a block fails as on a full disk.
    let limit = |conn: &Connection, _: &mut _| {
        conn.execute_batch(
            "CREATE TABLE ballast (x);
             CREATE TRIGGER grow BEFORE INSERT ON key_blocks BEGIN INSERT INTO ballast VALUES (zeroblob(40000000)); END",
        )?;
        let pages: i64 = conn.pragma_query_value(None, "page_count", |row| row.get(0))?;
        conn.query_row(&format!("PRAGMA max_page_count = {}", pages + 2000), [], |_| Ok(()))
    };
    store.write_unmaterialized(limit).await.unwrap();
    let mut accepted = Vec::new();
    let refused = loop {
        assert!(accepted.len() < 1000, "the keys in memory are not bounded");
        match store.accept(vec![keyed(accepted.len() as u64, DAY)], T0).await {
            Ok(result) => accepted.push(result[0].seq),
            Err(error) => break error,
        }
        store.space().await.unwrap();
    };
    assert!(matches!(refused, StoreError::Full) && accepted.len() >= 200, "{refused} {}", accepted.len());
    // A settlement needs no key.
    let seq = sequence::first_delivery(accepted[0]);
    store.settle(settled(seq, T0, 200, NextStep::Delivered)).await.unwrap();
    store.write_sweep(|conn, _| conn.execute_batch("DROP TRIGGER grow")).await.unwrap();
    store.space().await.unwrap();
    // Accepted together with the first slice that succeeds.
    accept_keyed(&store, 5000..5050).await;
    repeat_all(&store, &accepted).await;
}

/// A group whose COMMIT fails, and one that is repeated operation by operation, leave only the keys of what was accepted.
#[tokio::test]
async fn failed_groups_leave_no_key() {
    let dir = tempfile::tempdir().unwrap();
    let fault = Arc::new(Mutex::new(None));
    let store = open_tuned(dir.path(), |t| {
        t.fault = fault.clone();
        t.keys = SMALL;
    });
    let mut seqs = Vec::new();
    for number in 0..60 {
        if number % 3 == 0 {
            *fault.lock() = Some(ffi::SQLITE_BUSY);
            store.accept(vec![keyed(number, DAY)], T0).await.unwrap_err();
            *fault.lock() = None;
        }
        let mut bad = keyed(1000 + number, DAY);
        bad.deliveries.push(bad.deliveries[0].clone());
        let (refused, accepted) = futures::join!(
            store.accept(vec![keyed(2000 + number, DAY), bad], T0),
            store.accept(vec![keyed(number, DAY)], T0)
        );
        refused.unwrap_err();
        seqs.push(accepted.unwrap()[0].seq);
    }
    assert!(highest_tier(dir.path()) > 0);
    repeat_all(&store, &seqs).await;
    for number in 2000..2060 {
        assert!(!store.accept(vec![keyed(number, DAY)], T0).await.unwrap()[0].duplicate, "{number}");
    }
}

/// A store that is recovered computes its runs from the events, so a damaged run loses no key of an existing event.
#[tokio::test]
async fn keys_of_a_damaged_run_are_recovered_from_their_events() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_small(dir.path());
    let seqs = accept_keyed(&store, 0..60).await;
    finish_work(&store, T0).await;
    store.close().await;
    let intact = std::fs::read(dir.path().join(FILE)).unwrap();
    let recovered_from = |image: &Path| {
        let to = image.join("recovered.db");
        let report = recover::recover(image, &to).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(&to, folder.path().join(FILE)).unwrap();
        (report, folder)
    };
    // Another content of one block, and a destroyed page.
    for destroys_page in [false, true] {
        let image = tempfile::tempdir().unwrap();
        std::fs::write(image.path().join(FILE), &intact).unwrap();
        raw(image.path())
            .execute_batch(
                "UPDATE key_blocks SET content = CAST(zeroblob(28) || content AS BLOB) WHERE id = (SELECT min(id) FROM key_blocks)",
            )
            .unwrap();
        if destroys_page {
            let page: i64 = raw(image.path())
                .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'key_runs'", [], |row| row.get(0))
                .unwrap();
            let file = std::fs::File::options().write(true).open(image.path().join(FILE)).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &[0xa5; 4096], (page.unsigned_abs() - 1) * 4096)
                .unwrap();
        }
        assert!(!check(image.path()).unwrap().problems.is_empty());
        let (report, folder) = recovered_from(image.path());
        let runs = report.tables.iter().find(|table| table.table == "key_runs").unwrap();
        assert_eq!((runs.copied, runs.lost), (0, Some(0)), "{report:?}");
        let recovered = open_small(folder.path());
        repeat_all(&recovered, &seqs).await;
        finish_work(&recovered, T0).await;
        recovered.close().await;
        assert_eq!(check(folder.path()).unwrap().problems, [""; 0]);
    }
    // The last event is lost, and a new one gets its number: the key must not answer for it.
    let image = tempfile::tempdir().unwrap();
    std::fs::write(image.path().join(FILE), &intact).unwrap();
    raw(image.path())
        .execute_batch(
            "DELETE FROM events WHERE seq > 50; UPDATE meta SET value = 50 WHERE name = 'filed'; DELETE FROM deliveries",
        )
        .unwrap();
    let (_, folder) = recovered_from(image.path());
    let recovered = open_small(folder.path());
    assert_eq!(accept_keyed(&recovered, 100..101).await, [51]);
    repeat_all(&recovered, &seqs[..50]).await;
    assert!(!recovered.accept(vec![keyed(55, DAY)], T0).await.unwrap()[0].duplicate);
}

#[tokio::test]
async fn a_backup_contains_the_keys() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_small(dir.path());
    let seqs = accept_keyed(&store, 0..50).await;
    let copy = tempfile::tempdir().unwrap();
    super::super::backup(dir.path(), &copy.path().join(FILE)).unwrap();
    repeat_all(&open_small(copy.path()), &seqs).await;
}

#[tokio::test]
async fn the_page_cache_of_the_writer_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_tuned(dir.path(), |t| t.page_cache = 3 << 20);
    let read = |conn: &Connection, _: &mut _| {
        conn.pragma_query_value(None, "cache_size", |row| row.get::<_, i64>(0))
    };
    assert_eq!(store.write_unmaterialized(read).await.unwrap(), -3072);
    assert_eq!(Tuning::default().page_cache, 64 << 20);
}

/// Returns how often each statement of a connection was prepared again.
#[expect(unsafe_code, reason = "rusqlite lists no statements")]
fn prepared_again(conn: &Connection) -> Vec<(String, i32)> {
    let (mut statements, mut found) = (std::ptr::null_mut(), Vec::new());
    loop {
        // SAFETY: the connection is open, belongs to this thread, and the statements are not used meanwhile.
        unsafe {
            statements = ffi::sqlite3_next_stmt(conn.handle(), statements);
            if statements.is_null() {
                return found;
            }
            let count = ffi::sqlite3_stmt_status(statements, ffi::SQLITE_STMTSTATUS_REPREPARE, 0);
            let sql = std::ffi::CStr::from_ptr(ffi::sqlite3_sql(statements)).to_string_lossy().into_owned();
            // A PRAGMA may be prepared again once. No operation runs one.
            if count > 0 && !sql.starts_with("PRAGMA") {
                found.push((sql, count));
            }
        }
    }
}

/// A statement that compares a parameter with the constant of a partial index depends on the value of the parameter, unless
/// `SQLITE_DBCONFIG_ENABLE_QPSG` is set, and SQLite prepares it again for each value.
#[tokio::test]
async fn no_statement_is_prepared_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_small(dir.path());
    for round in 0..30_u64 {
        let now = T0 + Duration::from_secs(round * 3600);
        let mut seqs = Vec::new();
        for number in 0..4 {
            let event = NewEvent {
                deliveries: vec![delivery("x", now), delivery("y", now)],
                ..keyed(round * 4 + number, DAY)
            };
            seqs.extend(seqs_of(&store.accept(vec![event], now).await.unwrap()));
        }
        store.accept(vec![keyed(round * 4, DAY)], now).await.unwrap();
        for (n, seq) in seqs.into_iter().enumerate() {
            let next = match n % 3 {
                0 => NextStep::Delivered,
                1 => NextStep::Retry { due: now },
                _ => NextStep::Dead { reason: crate::core::delivery_reason::DeliveryReason::Gone },
            };
            store.settle(settled(seq, now, 200, next)).await.unwrap();
        }
        while store.sweep(RETENTION, now).await.unwrap() {}
        store.promote(now).await.unwrap();
    }
    let again = store.write_unmaterialized(|conn, _| Ok(prepared_again(conn))).await.unwrap();
    assert_eq!(again, [], "prepared again");
}
