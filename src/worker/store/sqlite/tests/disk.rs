//! Space on the disk: the reserve, free pages, and ingest on a full disk.

use super::*;

fn sizes(dir: &Path) -> (u64, u64) {
    let size = |name: &str| std::fs::metadata(dir.join(name)).map_or(0, |file| file.len());
    (size(FILE), size("hookstream.db-wal"))
}

/// Accepts events of 1 MB and delivers them.
async fn deliver_large(store: &SqliteStore, count: usize) {
    let data = format!("\"{}\"", "x".repeat(1_000_000));
    for n in 0..count {
        let event = NewEvent { event: event_with(&format!("e{n}"), &data), ..new("", &["x"], T0) };
        let seqs = seqs_of(&store.accept(vec![event], T0).await.unwrap());
        for seq in seqs {
            store.settle(settled(seq, T0, 200, NextStep::Delivered)).await.unwrap();
        }
    }
}

const NO_HISTORY: Retention =
    Retention { history_age: Duration::ZERO, dead_letter_age: Duration::ZERO, ..RETENTION };

#[tokio::test]
async fn sweeps_give_free_pages_back_and_shrink_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    deliver_large(&store, 30).await;
    let full = store.space().await.unwrap();
    assert!(full.free_bytes < 2_000_000 && !full.is_disk_full, "{full:?}");
    let (file, log) = sizes(dir.path());
    assert!(file + full.growth_bytes > 30_000_000, "{file}, {log}, {full:?}");
    let later = T0 + Duration::from_secs(1_000_000);
    while store.sweep(NO_HISTORY, later).await.unwrap() {}
    // A checkpoint in progress may prevent the first attempt to shrink; the next sweep repeats it.
    for _ in 0..200 {
        if sizes(dir.path()).1 == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        store.sweep(NO_HISTORY, later).await.unwrap();
    }
    let swept = store.space().await.unwrap();
    assert!((8 << 20..=16 << 20).contains(&swept.free_bytes), "a store keeps some: {swept:?}");
    let (file, log) = sizes(dir.path());
    assert!(file < 20_000_000 && log == 0, "{file}, {log}");
    assert_eq!(swept.growth_bytes, 0);
    // Nothing is left to do.
    assert!(!store.sweep(NO_HISTORY, later).await.unwrap());
    store.accept(vec![new("a", &["x"], T0)], T0).await.unwrap();
    store.close().await;
    assert_eq!(check(dir.path()).unwrap().problems, [] as [&str; 0]);
}

#[tokio::test]
async fn a_full_disk_refuses_events_and_releases_the_reserve() {
    let dir = tempfile::tempdir().unwrap();
    let reserve = || std::fs::metadata(dir.path().join("hookstream.reserve")).map_or(0, |file| file.len());
    let fault = Arc::new(Mutex::new(None));
    let store = open_tuned(dir.path(), |t| t.fault = fault.clone());
    let size = reserve();
    assert!(size > 0);
    let accept = |id: &str| store.accept(vec![new(id, &["x"], T0)], T0);
    let seqs = seqs_of(&accept("a").await.unwrap());
    let settle = || store.settle(settled(seqs[0], T0, 200, NextStep::Delivered));
    *fault.lock() = Some(ffi::SQLITE_FULL);
    assert!(matches!(accept("b").await, Err(StoreError::Full)));
    assert_eq!(reserve(), size, "events may not use it");
    for _ in 0..2 {
        assert!(matches!(settle().await, Err(StoreError::Full)));
        assert_eq!(reserve(), size / 2, "the other half belongs to sweeps");
    }
    assert!(matches!(store.sweep(NO_HISTORY, T0).await, Err(StoreError::Full)));
    assert_eq!(reserve(), 0);
    // While the reserve is released, only events are refused.
    *fault.lock() = None;
    assert!(matches!(accept("b").await, Err(StoreError::Full)));
    settle().await.unwrap();
    assert!(!store.space().await.unwrap().is_disk_full, "there is space");
    assert_eq!(reserve(), size);
    accept("b").await.unwrap();
}

/// Removing many rows writes more pages than a full disk may have space for.
#[test]
fn a_sweep_on_a_full_disk_takes_smaller_steps() {
    let first = Some(SweepLimit { rows: 500, bytes: 9, time: Duration::MAX });
    let limits = std::iter::successors(first, |limit| limit.reduced());
    assert_eq!(limits.map(|limit| limit.rows).collect::<Vec<_>>(), [500, 62, 7, 1]);
}

/// Otherwise a round that finds unused hooks would fail each time, and never give space back.
#[tokio::test]
async fn rows_of_unused_hooks_are_removed_in_smaller_steps_on_a_full_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    // The removal of each hook uses four pages, and the database may grow by a hundred.
    raw(dir.path())
        .execute_batch(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 600)
             INSERT INTO hooks (uid, namespace, name) SELECT 'old-' || i, 'shop', 'old' || i FROM n;
             CREATE TABLE ballast (x);
             CREATE TRIGGER grow AFTER DELETE ON hooks BEGIN INSERT INTO ballast VALUES (zeroblob(16000)); END",
        )
        .unwrap();
    let limit = |conn: &Connection, _: &mut _| {
        let pages: i64 = conn.pragma_query_value(None, "page_count", |row| row.get(0))?;
        conn.query_row(&format!("PRAGMA max_page_count = {}", pages + 100), [], |_| Ok(()))
    };
    store.write_unmaterialized(limit).await.unwrap();
    assert!(store.sweep(RETENTION, T0).await.unwrap(), "there is more");
    let remaining: i64 =
        raw(dir.path()).query_row("SELECT count(*) FROM hooks", [], |row| row.get(0)).unwrap();
    assert_eq!(remaining, 593);
}
