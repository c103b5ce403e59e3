//! Event ids in runs: restarts, merges, upgrades, retention, recovery.

use super::super::runs::RunLimits;
use super::super::{backup, recover};
use super::*;

/// Three ids become a run, and every commit with an id writes a block.
const SMALL: RunLimits = RunLimits {
    table: 3,
    span: 12,
    block_entries: 3,
    entries_per_block: 1,
    slice_blocks: 1,
    slice_time: Duration::MAX,
    filter_bytes: usize::MAX,
};

fn open_small(dir: &Path) -> SqliteStore {
    open_tuned(dir, |t| (t.keys, t.ids) = (SMALL, SMALL))
}

async fn finish_work(store: &SqliteStore, now: Millis) {
    store.sweep(RETENTION, now).await.unwrap();
    while store.sweep(RETENTION, now).await.unwrap() {}
}

fn count(dir: &Path, sql: &str) -> i64 {
    raw(dir).query_row(sql, [], |row| row.get(0)).unwrap()
}

async fn explained(store: &SqliteStore, id: &str) -> Option<DeliverySeq> {
    let found = store.explain("shop", id).await.unwrap()?;
    assert_eq!(found.event.id, id);
    Some(found.deliveries[0].seq)
}

#[tokio::test]
async fn events_are_found_by_their_ids_until_retention_removes_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open_small(dir.path());
    let mut seqs = Vec::new();
    for n in 0..100 {
        let accepted = store.accept(vec![new(&format!("e{n}"), &["x"], T0)], T0).await.unwrap();
        seqs.push(seqs_of(&accepted)[0]);
    }
    for is_reopened in [false, true] {
        assert!(count(dir.path(), "SELECT max(tier) FROM id_runs") > 0, "nothing was merged");
        for (n, seq) in seqs.iter().enumerate() {
            assert_eq!(explained(&store, &format!("e{n}")).await, Some(*seq), "{is_reopened}");
        }
        assert_eq!(store.explain("shop", "e100").await.unwrap(), None);
        assert_eq!(store.explain("other", "e1").await.unwrap(), None);
        drop(store);
        store = open_small(dir.path());
    }
    for seq in &seqs {
        store.settle(settled(*seq, T0, 200, NextStep::Delivered)).await.unwrap();
    }
    finish_work(&store, Millis(T0.0 * 2)).await;
    finish_work(&store, Millis(T0.0 * 2)).await;
    assert_eq!(store.explain("shop", "e7").await.unwrap(), None);
    assert_eq!(count(dir.path(), "SELECT count(*) FROM id_blocks"), 0, "nothing is left of removed events");
    store.close().await;
    assert_eq!(check(dir.path()).unwrap().problems, [""; 0]);
}

#[tokio::test]
async fn of_two_events_with_one_id_the_newest_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open_small(dir.path());
    let mut newest = 0;
    for n in 0..60 {
        let id = if n % 20 == 0 { "same".to_owned() } else { format!("e{n}") };
        let seq = seqs_of(&store.accept(vec![new(&id, &["x"], T0)], T0).await.unwrap())[0];
        newest = if n % 20 == 0 { seq } else { newest };
        assert_eq!(explained(&store, "same").await, Some(newest), "{n}");
    }
    finish_work(&store, T0).await;
    drop(store);
    store = open_small(dir.path());
    assert_eq!(explained(&store, "same").await, Some(newest));
    let filter = super::super::super::DeliveryFilter {
        namespace: "shop".into(),
        event: Some("same".into()),
        ..Default::default()
    };
    let page = store.list(filter, None, 9).await.unwrap();
    assert_eq!((page.records.len(), page.records[0].seq), (3, newest));
    assert!(page.records.is_sorted_by(|one, next| one.seq > next.seq));
}

/// A store of format 7 with one event for each number.
fn store_of_format_7(dir: &Path, events: i64) {
    let mut conn = raw(dir);
    migrate::migrate(&mut conn, &schema::MIGRATIONS[..7]).unwrap();
    conn.execute_batch(&format!(
        "INSERT INTO hooks (id, uid, namespace, name) VALUES (1, 'uid-x', 'shop', 'x');
         INSERT INTO namespace_numbers (id, place) VALUES (1, 'shop');
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {events})
         INSERT INTO events (seq, accepted, kept_until, id, namespace, origin, source, event, time, data)
         SELECT i, {t}, 0, 'e' || i, 'shop', 'api', 'orders', 'paid', '2023', '{{}}' FROM n;
         INSERT INTO deliveries (seq, hook, id, state, attempts, due, finished_at, size, namespace)
         SELECT seq << 20, 1, randomblob(16), 1, 1, {t}, {t}, -514, 1 FROM events;
         UPDATE meta SET value = {events} WHERE name = 'filed';",
        t = T0.0,
    ))
    .unwrap();
}

#[tokio::test]
async fn ids_of_a_store_of_version_7_are_found_after_the_upgrade() {
    use super::super::super::DeliveryFilter;
    const EVENTS: i64 = 20_000;
    let dir = tempfile::tempdir().unwrap();
    store_of_format_7(dir.path(), EVENTS);
    let store = open_small(dir.path());
    assert!(dir.path().join("hookstream.db.v7").exists(), "a copy of the old format is kept");
    // Not "not found": the event exists.
    let missing = store.explain("shop", "e5").await;
    assert!(matches!(missing, Err(StoreError::Indexing)), "{missing:?}");
    let of_event = |id: &str| DeliveryFilter {
        namespace: "shop".into(),
        event: Some(id.into()),
        ..DeliveryFilter::default()
    };
    let listed = store.list(of_event("e5"), None, 9).await;
    assert!(matches!(listed, Err(StoreError::Indexing)), "{listed:?}");
    let counted = store.count_finished(of_event("e5"), None, 9).await;
    assert!(matches!(counted, Err(StoreError::Indexing)), "{counted:?}");
    let replayed = store.start_replay(of_event("e5"), 10, T0).await;
    assert!(matches!(replayed, Err(StoreError::Indexing)), "{replayed:?}");
    store.accept(vec![new("fresh", &["x"], T0)], T0).await.unwrap();
    assert!(explained(&store, "fresh").await.is_some(), "new events are found at once");
    // A crash in the middle: the next start continues.
    assert!(store.sweep(RETENTION, T0).await.unwrap());
    assert_eq!(explained(&store, "e20000").await, Some(20_000 << 20), "the newest come first");
    let missing = count(dir.path(), "SELECT value FROM meta WHERE name = 'ids_missing'");
    assert!((1..EVENTS).contains(&missing), "{missing}");
    drop(store);
    assert_eq!(check(dir.path()).unwrap().problems, [""; 0]);
    let store = open_small(dir.path());
    finish_work(&store, T0).await;
    for n in (1..=EVENTS).step_by(997) {
        assert_eq!(explained(&store, &format!("e{n}")).await, Some(n << 20));
    }
    assert_eq!(store.explain("shop", "e0").await.unwrap(), None, "now it is certain");
    assert_eq!(store.list(of_event("e5"), None, 9).await.unwrap().records.len(), 1);
    store.start_replay(of_event("e5"), 10, T0).await.unwrap();
    store.close().await;
    assert_eq!(check(dir.path()).unwrap().problems, [""; 0]);
}

/// The program is killed, the disk is full, and a backup and a recovery are made at every point of merges.
#[tokio::test]
async fn ids_survive_kill_full_disk_and_restore_during_merges() {
    let dir = tempfile::tempdir().unwrap();
    let fault = Arc::new(Mutex::new(None));
    let open = || {
        open_tuned(dir.path(), |t| {
            (t.keys, t.ids) = (SMALL, SMALL);
            t.fault = fault.clone();
        })
    };
    let mut store = open();
    let mut seqs: Vec<(String, DeliverySeq)> = Vec::new();
    for n in 0..120 {
        let id = format!("e{n}");
        let keyed = || NewEvent { dedup: key(n, Duration::from_secs(86_400)), ..new(&id, &["x"], T0) };
        match n % 6 {
            // A COMMIT fails, so the group and its part of a merge are rolled back. After a full disk, no merge goes on until
            // the restart.
            1 => {
                *fault.lock() = Some(if n % 30 == 1 { ffi::SQLITE_FULL } else { ffi::SQLITE_BUSY });
                store.accept(vec![keyed()], T0).await.unwrap_err();
                *fault.lock() = None;
                store.space().await.unwrap();
            }
            // A merge takes about 15 commits without a restart.
            3 if n % 30 == 3 => {
                drop(store);
                store = open();
            }
            _ => {}
        }
        let accepted = store.accept(vec![keyed()], T0).await.unwrap();
        assert!(!accepted[0].duplicate, "{n}");
        seqs.push((id, seqs_of(&accepted)[0]));
        if n % 10 == 9 {
            let folder = tempfile::tempdir().unwrap();
            let to = folder.path().join(FILE);
            if n % 20 == 9 {
                backup(dir.path(), &to).unwrap();
            } else {
                // The store's files as a crash leaves them.
                let image = tempfile::tempdir().unwrap();
                // In another process: closing a file here would release the locks that SQLite has on it.
                let files = [FILE, "hookstream.db-wal"].map(|name| dir.path().join(name));
                assert!(Command::new("cp").args(files).arg(image.path()).status().unwrap().success());
                assert!(recover::recover(image.path(), &to).unwrap().is_complete());
            }
            let restored = open_small(folder.path());
            for (n, (id, seq)) in seqs.iter().enumerate() {
                assert_eq!(explained(&restored, id).await, Some(*seq));
                let again = NewEvent {
                    dedup: key(u8::try_from(n).unwrap(), Duration::from_secs(86_400)),
                    ..new(id, &["x"], T0)
                };
                assert!(restored.accept(vec![again], T0).await.unwrap()[0].duplicate, "{id}");
            }
            restored.close().await;
            assert_eq!(check(folder.path()).unwrap().problems, [""; 0]);
        }
    }
    assert!(count(dir.path(), "SELECT max(tier) FROM id_runs") > 0, "nothing was merged");
}

/// A recovered store computes the runs from the events, so a damaged run loses no id.
#[tokio::test]
async fn ids_of_a_damaged_run_are_recovered_from_their_events() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_small(dir.path());
    for n in 0..60 {
        store.accept(vec![new(&format!("e{n}"), &["x"], T0)], T0).await.unwrap();
    }
    finish_work(&store, T0).await;
    store.close().await;
    raw(dir.path())
        .execute_batch(
            "UPDATE id_blocks SET content = zeroblob(88) WHERE id = (SELECT min(id) FROM id_blocks)",
        )
        .unwrap();
    let problems = check(dir.path()).unwrap().problems.join("; ");
    assert!(problems.contains("event ids"), "{problems}");
    let folder = tempfile::tempdir().unwrap();
    let report = recover::recover(dir.path(), &folder.path().join(FILE)).unwrap();
    assert!(report.tables.iter().any(|table| table.table == "id_runs" && table.copied == 0), "{report:?}");
    let store = open_small(folder.path());
    for n in 0..60 {
        assert!(explained(&store, &format!("e{n}")).await.is_some());
    }
    store.close().await;
    assert_eq!(check(folder.path()).unwrap().problems, [""; 0]);
}

/// Their memory would grow without a bound otherwise.
#[tokio::test]
async fn events_are_refused_while_no_ids_can_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_tuned(dir.path(), |t| t.ids = RunLimits { table: 50, span: 100_000, ..SMALL });
    let limit = |conn: &Connection, _: &mut _| {
        conn.execute_batch(
            "CREATE TABLE ballast (x);
             CREATE TRIGGER grow BEFORE INSERT ON id_blocks BEGIN INSERT INTO ballast VALUES (zeroblob(40000000)); END",
        )?;
        let pages: i64 = conn.pragma_query_value(None, "page_count", |row| row.get(0))?;
        conn.query_row(&format!("PRAGMA max_page_count = {}", pages + 2000), [], |_| Ok(()))
    };
    store.write_unmaterialized(limit).await.unwrap();
    let mut accepted = 0;
    let refused = loop {
        assert!(accepted < 1000, "the ids in memory are not bounded");
        match store.accept(vec![new(&format!("e{accepted}"), &["x"], T0)], T0).await {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
        store.space().await.unwrap();
    };
    assert!(matches!(refused, StoreError::Full) && accepted >= 200, "{refused} {accepted}");
    store.write_sweep(|conn, _| conn.execute_batch("DROP TRIGGER grow")).await.unwrap();
    store.space().await.unwrap();
    store.accept(vec![new("last", &["x"], T0)], T0).await.unwrap();
    for n in 0..accepted {
        assert!(explained(&store, &format!("e{n}")).await.is_some(), "{n}");
    }
}
