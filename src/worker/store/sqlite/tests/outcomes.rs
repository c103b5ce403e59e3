//! Outcomes of deliveries that succeed at once: no rows, bounded reads, replays, damage, upgrades.

use super::super::super::{AcceptedEvent, DeliveryFilter, DeliveryRecord, DeliveryState};
use super::super::{backup, recover, unmaterialized};
use super::sequence::Direction;
use super::walk::DeliveryWalk;
use super::*;
use crate::core::delivery_reason::DeliveryReason;

const HOUR: Duration = Duration::from_secs(3600);

fn count(dir: &Path, sql: &str) -> i64 {
    raw(dir).query_row(sql, [], |row| row.get(0)).unwrap()
}

fn rows(dir: &Path) -> i64 {
    count(dir, "SELECT count(*) FROM deliveries")
}

fn shop() -> DeliveryFilter {
    DeliveryFilter { namespace: "shop".into(), ..DeliveryFilter::default() }
}

/// Accepts events for these hooks, one for each, and delivers them at once.
async fn deliver(store: &SqliteStore, hooks: &[&str], at: Millis) -> Vec<AcceptedEvent> {
    let events = hooks.iter().enumerate().map(|(n, hook)| new(&format!("e{n}"), &[hook], at)).collect();
    let accepted = store.accept(events, at).await.unwrap();
    let outcomes = seqs_of(&accepted).iter().map(|seq| settled(*seq, at, 200, NextStep::Delivered)).collect();
    store.settle_many(outcomes).await.unwrap();
    accepted
}

/// Runs as many groups as it takes to merge the outcomes in slices.
async fn merge_all(store: &SqliteStore) {
    for _ in 0..20 {
        store.write(|_, _| Ok(())).await.unwrap();
    }
}

async fn list_all(store: &SqliteStore, filter: &DeliveryFilter) -> Vec<DeliveryRecord> {
    let (mut records, mut before) = (Vec::new(), None);
    loop {
        let page = store.list(filter.clone(), before, 500).await.unwrap();
        records.extend(page.records);
        match page.next {
            Some(next) => before = Some(next),
            None => return records,
        }
    }
}

#[tokio::test]
async fn deliveries_that_succeed_at_once_get_no_row() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = SqliteStore::open(dir.path()).unwrap();
    let mut ids = Vec::new();
    for _ in 0..30 {
        ids.extend(ids_of(&deliver(&store, &["x"; 100], T0).await));
    }
    for reopened in [false, true] {
        assert_eq!(rows(dir.path()), 0);
        let segments = count(dir.path(), "SELECT count(*) FROM outcome_segments");
        assert!((5..30).contains(&segments), "{segments} segments");
        let records = list_all(&store, &shop()).await;
        assert_eq!(records.iter().rev().map(|record| record.id).collect::<Vec<_>>(), ids, "{reopened}");
        for id in [ids[0], ids[1], ids[1500], ids[2999]] {
            let shown = store.delivery("shop", id).await.unwrap().unwrap();
            assert_eq!((shown.state, shown.attempts.len()), (DeliveryState::Delivered, 1));
            assert_eq!(store.delivery("other", id).await.unwrap(), None);
            assert!(store.event_of("shop", id).await.unwrap().is_some());
        }
        let report = check(dir.path()).unwrap();
        assert_eq!((report.deliveries["delivered"], report.problems), (3000, Vec::new()));
        store.close().await;
        store = SqliteStore::open(dir.path()).unwrap();
    }
}

/// The cost of a list depends on what it finds, not on the deliveries of others.
#[tokio::test]
async fn list_of_a_hook_with_few_deliveries_examines_few_entries() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    for n in 0..30 {
        let mut hooks = ["x"; 1000];
        if n % 3 == 0 {
            hooks[n * 31] = "rare";
        }
        deliver(&store, &hooks, T0).await;
    }
    store.close().await;
    let conn = raw(dir.path());
    let recent = unmaterialized::read_snapshot(&conn).unwrap();
    for hook in ["rare", "none"] {
        for direction in [Direction::Older, Direction::Newer] {
            let filter = DeliveryFilter { hook: Some(hook.into()), ..shop() };
            let mut walk = DeliveryWalk::new(&conn, &recent, &filter, None, direction, None).unwrap();
            let (mut found, mut examined) = (0, 0);
            while let Some(position) = walk.next(&conn).unwrap() {
                let record = history::find_matching(&conn, &filter, position).unwrap();
                found += usize::from(record.is_some());
                examined += 1 + walk.take_examined();
            }
            assert_eq!(found, if hook == "rare" { 10 } else { 0 });
            assert!(examined <= 5000, "{examined} entries");
        }
    }
}

/// Without its removal from the segment, the outcome would be visible again after retention removed the row.
#[tokio::test]
async fn replayed_outcome_is_replaced_by_its_row() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_merging(dir.path());
    let accepted = deliver(&store, &["x"; 20], T0).await;
    let (ids, seqs) = (ids_of(&accepted), seqs_of(&accepted));
    merge_all(&store).await;
    assert!(count(dir.path(), "SELECT sum(outcomes) FROM outcome_segments") > 9);
    for n in [3, 4, 19] {
        store.replay("shop", ids[n], T0 + HOUR).await.unwrap();
        let due = store.due_by("uid-x", T0 + HOUR, 9).await.unwrap();
        let due = due.into_iter().find(|pending| pending.seq == seqs[n]).unwrap();
        assert_eq!((due.id, due.attempts, due.replays), (ids[n], 0, 1));
        let dead = NextStep::Dead { reason: DeliveryReason::Gone };
        store.settle(settled(seqs[n], T0 + HOUR, 410, dead)).await.unwrap();
        let shown = store.delivery("shop", ids[n]).await.unwrap().unwrap();
        assert_eq!((shown.state, shown.attempts.len()), (DeliveryState::Dead, 2));
    }
    assert_eq!((rows(dir.path()), list_all(&store, &shop()).await.len()), (3, 20));
    let retention = Retention { dead_letter_age: HOUR, ..RETENTION };
    while store.sweep(retention, T0 + HOUR * 3).await.unwrap() {}
    assert_eq!((rows(dir.path()), list_all(&store, &shop()).await.len()), (0, 17));
    assert_eq!(store.delivery("shop", ids[3]).await.unwrap(), None);
    assert_eq!(check(dir.path()).unwrap().problems, Vec::<String>::new());
    while store.sweep(retention, T0 + HOUR * 48).await.unwrap() {}
    for table in ["events", "deliveries", "outcome_groups", "outcome_segments", "outcome_index", "hooks"] {
        assert_eq!(count(dir.path(), &format!("SELECT count(*) FROM {table}")), 0, "{table}");
    }
}

#[tokio::test]
async fn duplicates_of_delivered_events_write_no_row() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_merging(dir.path());
    let keyed = || NewEvent { dedup: key(1, HOUR), ..new("a", &["x", "y"], T0) };
    let first = store.accept(vec![keyed()], T0).await.unwrap();
    store.settle(settled(seqs_of(&first)[0], T0, 200, NextStep::Delivered)).await.unwrap();
    let again = store.accept(vec![keyed()], T0).await.unwrap().remove(0);
    assert!(again.duplicate && rows(dir.path()) == 0);
    assert_eq!(ids_of([&again]), ids_of(&first));
    let fates: Vec<_> = again.deliveries.iter().map(|delivery| delivery.fate).collect();
    assert_eq!(fates, [Fate::Ended, Fate::Pending { due: T0, suppressed: 0 }]);
}

/// A restored backup gives the same sequence numbers to other deliveries.
#[tokio::test]
async fn ids_differ_after_a_backup_is_restored() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_merging(dir.path());
    let before = ids_of(&deliver(&store, &["x"; 9], T0).await);
    let folder = tempfile::tempdir().unwrap();
    backup(dir.path(), &folder.path().join(FILE)).unwrap();
    let restored = SqliteStore::open(folder.path()).unwrap();
    let (one, other) = (deliver(&store, &["x"], T0).await, deliver(&restored, &["x"], T0).await);
    assert_eq!(seqs_of(&one), seqs_of(&other));
    assert_ne!(ids_of(&one), ids_of(&other));
    assert_eq!(store.delivery("shop", ids_of(&other)[0]).await.unwrap(), None);
    assert!(restored.delivery("shop", before[4]).await.unwrap().is_some());
}

/// A damaged segment loses the history of its deliveries and nothing else.
#[tokio::test]
async fn damaged_segment_loses_only_its_history() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_merging(dir.path());
    let mut delivered = Vec::new();
    for _ in 0..4 {
        delivered.extend(deliver(&store, &["x", "y", "x", "y"], T0).await);
    }
    let pending = store.accept(vec![new("waits", &["x"], T0)], T0).await.unwrap();
    let ids = ids_of(&delivered);
    drop(store);
    raw(dir.path())
        .execute_batch(
            "UPDATE outcome_segments SET content = zeroblob(octet_length(content))
             WHERE first = (SELECT first FROM outcome_segments ORDER BY first LIMIT 1 OFFSET 1)",
        )
        .unwrap();
    let lost = raw(dir.path())
        .query_row("SELECT outcomes FROM outcome_segments ORDER BY first LIMIT 1 OFFSET 1", [], |row| {
            row.get::<_, i64>(0)
        })
        .unwrap();
    let lost = usize::try_from(lost).unwrap();
    let report = check(dir.path()).unwrap();
    assert_eq!(report.problems, ["1 damaged segments of outcomes"]);
    assert!(backup(dir.path(), &dir.path().join("copy.db")).is_err());
    let to = dir.path().join("recovered.db");
    let report = recover::recover(dir.path(), &to).unwrap();
    let table = report.tables.iter().find(|table| table.table == "outcome_segments").unwrap();
    assert_eq!(table.lost, Some(1), "{report:?}");
    assert!(!report.is_complete());
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(&to, folder.path().join(FILE)).unwrap();
    for (dir, is_recovered) in [(dir.path(), false), (folder.path(), true)] {
        let store = open_merging(dir);
        let due =
            [store.due_by("uid-x", T0, 99).await.unwrap(), store.due_by("uid-y", T0, 99).await.unwrap()];
        let due: Vec<_> = due.iter().flatten().map(|pending| pending.seq).collect();
        assert_eq!(due, seqs_of(&pending), "nothing is delivered again");
        assert_eq!(list_all(&store, &shop()).await.len(), ids.len() + 1 - lost);
        let mut shown = 0;
        for id in &ids {
            shown += usize::from(store.delivery("shop", *id).await.unwrap().is_some());
        }
        assert_eq!(shown, ids.len() - lost);
        while store.sweep(RETENTION, Millis(T0.0 * 2)).await.unwrap() {}
        assert_eq!(store.due_by("uid-x", T0, 99).await.unwrap().len(), 1);
        let events = count(dir, "SELECT count(*) FROM events");
        assert_eq!(events, if is_recovered { 1 } else { 1 + i64::try_from(lost).unwrap() });
        assert_eq!(check(dir).unwrap().problems.len(), usize::from(!is_recovered));
    }
}

/// A delivery whose outcome cannot be read is delivered again if it is after the watermark, as after a crash.
#[tokio::test]
async fn damaged_group_loses_only_its_outcomes() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let (one, other) = (deliver(&store, &["x"; 3], T0).await, deliver(&store, &["x"; 2], T0).await);
    drop(store);
    raw(dir.path())
        .execute_batch("UPDATE outcome_groups SET content = content || x'00' WHERE id = 1")
        .unwrap();
    assert_eq!(check(dir.path()).unwrap().problems, ["1 damaged groups of outcomes"]);
    let store = SqliteStore::open(dir.path()).unwrap();
    let due: Vec<_> = store.due_by("uid-x", T0, 9).await.unwrap().iter().map(|pending| pending.seq).collect();
    assert_eq!(due, seqs_of(&one));
    let shown = store.delivery("shop", ids_of(&other)[1]).await.unwrap().unwrap();
    assert_eq!(shown.state, DeliveryState::Delivered);
}

/// Without the watermark, notes of all events are read. Recorded outcomes still count.
#[tokio::test]
async fn recovery_without_the_watermark_repeats_no_recorded_delivery() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_merging(dir.path());
    deliver(&store, &["x"; 8], T0).await;
    let pending = store.accept(vec![new("waits", &["x"], T0)], T0).await.unwrap();
    drop(store);
    raw(dir.path())
        .execute_batch("DELETE FROM meta WHERE name IN ('filed', 'segmented'); DELETE FROM namespace_numbers")
        .unwrap();
    let to = dir.path().join("recovered.db");
    recover::recover(dir.path(), &to).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(&to, folder.path().join(FILE)).unwrap();
    assert_eq!(check(folder.path()).unwrap().deliveries["delivered"], 8);
    let store = open_merging(folder.path());
    let due = store.due_by("uid-x", T0, 99).await.unwrap();
    assert_eq!(due.iter().map(|pending| pending.seq).collect::<Vec<_>>(), seqs_of(&pending));
    store.settle(settled(seqs_of(&pending)[0], T0, 200, NextStep::Delivered)).await.unwrap();
    deliver(&store, &["x"; 8], T0).await;
    assert_eq!(list_all(&store, &shop()).await.len(), 17);
    assert_eq!(check(folder.path()).unwrap().problems, Vec::<String>::new());
}

/// Rows of format 7 stay, and a delivery with an id of that format is found by it.
#[tokio::test]
async fn migrates_a_store_of_version_7() {
    let dir = tempfile::tempdir().unwrap();
    let mut conn = raw(dir.path());
    migrate::migrate(&mut conn, &schema::MIGRATIONS[..7]).unwrap();
    let ids = [uuid::Uuid::now_v7(), uuid::Uuid::now_v7()];
    let (delivered, noted) = (sequence::delivery_seq(1, 0), sequence::delivery_seq(2, 0));
    let mut note = vec![0; 4];
    note.extend_from_slice(&1_i64.to_le_bytes());
    note.extend_from_slice(ids[1].as_bytes());
    note.extend_from_slice(&T0.0.to_le_bytes());
    note.extend_from_slice(&0_i64.to_le_bytes());
    for (seq, handed) in [(1, None), (2, Some(note))] {
        conn.execute(
            "INSERT INTO events (seq, accepted, kept_until, id, namespace, origin, source, event, time, handed, data)
             VALUES (?1, ?2, 0, 'e' || ?1, 'shop', 'api', 'orders', 'paid', '2023', ?3, '{}')",
            rusqlite::params![seq, T0.0, handed],
        )
        .unwrap();
    }
    conn.execute_batch(&format!(
        "INSERT INTO hooks (id, uid, namespace, name) VALUES (1, 'uid-x', 'shop', 'x');
         INSERT INTO namespace_numbers (id, place) VALUES (1, 'shop');
         INSERT INTO deliveries (seq, hook, id, state, attempts, due, finished_at, size, namespace)
         VALUES ({delivered}, 1, x'{}', 1, 0, {t}, {t}, -514, 1);
         UPDATE meta SET value = 1 WHERE name = 'filed';",
        ids[0].simple(),
        t = T0.0,
    ))
    .unwrap();
    drop(conn);
    let store = open_merging(dir.path());
    assert!(dir.path().join("hookstream.db.v7").exists(), "a copy of the old format is kept");
    let pending = store.due_by("uid-x", T0, 9).await.unwrap();
    assert_eq!(
        pending.iter().map(|pending| (pending.seq, pending.id)).collect::<Vec<_>>(),
        [(noted, ids[1])]
    );
    assert_eq!(store.delivery("shop", ids[1]).await.unwrap().unwrap().state, DeliveryState::Pending);
    store.settle(settled(noted, T0, 200, NextStep::Delivered)).await.unwrap();
    assert_eq!(rows(dir.path()), 2, "its id does not hold its sequence number");
    deliver(&store, &["x"; 5], T0).await;
    for id in ids {
        assert_eq!(store.delivery("shop", id).await.unwrap().unwrap().state, DeliveryState::Delivered);
    }
    assert_eq!((rows(dir.path()), list_all(&store, &shop()).await.len()), (2, 7));
    store.replay("shop", ids[0], T0 + HOUR).await.unwrap();
    assert_eq!(store.due_by("uid-x", T0 + HOUR, 9).await.unwrap()[0].id, ids[0]);
    store.close().await;
    assert_eq!(check(dir.path()).unwrap().problems, Vec::<String>::new());
    let store = SqliteStore::open(dir.path()).unwrap();
    while store.sweep(RETENTION, Millis(T0.0 * 2)).await.unwrap() {}
    assert_eq!(
        (rows(dir.path()), count(dir.path(), "SELECT count(*) FROM events")),
        (1, 1),
        "the pending one"
    );
}

/// A sweep merges outcomes in the group in which others are added. None is lost, also if an operation of the group is refused.
#[tokio::test]
async fn sweep_in_the_group_of_settlements_loses_no_outcome() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let later = T0 + HOUR * 25;
    let mut expected = 0;
    for round in 0..20_u64 {
        let old = store.accept(vec![new("old", &["x"; 3], T0)], T0).await.unwrap();
        let young = store.accept(vec![new("young", &["x"; 3], later)], later).await.unwrap();
        let seqs = [seqs_of(&old), seqs_of(&young)].concat();
        let settle = |n: usize| {
            store.settle(settled(seqs[n], if n < 3 { T0 } else { later }, 200, NextStep::Delivered))
        };
        let mut bad = new("bad", &["x"], T0);
        bad.deliveries.push(bad.deliveries[0].clone());
        settle(3).await.unwrap();
        settle(0).await.unwrap();
        // Queued at once, so they are in one group or a few.
        let (sweep, _, refused, ..) = futures::join!(
            store.sweep(RETENTION, later),
            settle(1),
            async {
                match round % 2 {
                    0 => store.accept(vec![bad], later).await.map(drop),
                    _ => Ok(()),
                }
            },
            settle(4),
            store.sweep(RETENTION, later),
            settle(2),
            settle(5),
        );
        assert!(sweep.is_ok() && refused.is_err() == (round % 2 == 0));
        while store.sweep(RETENTION, later).await.unwrap() {}
        expected += 3;
        assert_eq!(list_all(&store, &shop()).await.len(), expected, "round {round}");
        assert_eq!(store.stats().await.unwrap().pending, 0);
    }
    assert_eq!(check(dir.path()).unwrap().problems, Vec::<String>::new());
    drop(store);
    let store = SqliteStore::open(dir.path()).unwrap();
    assert_eq!(list_all(&store, &shop()).await.len(), expected);
    assert_eq!(store.backlog().await.unwrap().len(), 0);
}
