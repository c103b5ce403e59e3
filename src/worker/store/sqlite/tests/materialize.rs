//! Unmaterialized deliveries.

use std::collections::BTreeSet;

use super::super::super::{AcceptedEvent, DeliveryState, ReadLimit};
use super::*;
use crate::core::delivery_reason::DeliveryReason;
use crate::core::fast_map::FastSet;

fn rows(dir: &Path) -> i64 {
    raw(dir).query_row("SELECT count(*) FROM deliveries", [], |row| row.get(0)).unwrap()
}

async fn accept(store: &SqliteStore, ids: &[&str]) -> Vec<AcceptedEvent> {
    let mut all = Vec::new();
    for id in ids {
        all.extend(store.accept(vec![new(id, &["x"], T0)], T0).await.unwrap());
    }
    all
}

async fn deliver(store: &SqliteStore, accepted: &AcceptedEvent) {
    store.settle(settled(accepted.deliveries[0].seq, T0, 200, NextStep::Delivered)).await.unwrap();
}

async fn due(store: &SqliteStore) -> Vec<DeliverySeq> {
    store.due_by("uid-x", T0, 99_999).await.unwrap().iter().map(|pending| pending.seq).collect()
}

/// A read returns no delivery that got its row and ended since its snapshot, and says that it did not reach the others.
#[tokio::test]
async fn a_read_with_an_old_snapshot_has_more() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let all = accept(&store, &["a", "b", "c"]).await;
    let snapshot = store.read(|_, recent| Ok(recent.clone())).await.unwrap();
    for accepted in &all[..2] {
        let next = NextStep::Dead { reason: DeliveryReason::Gone };
        store.settle(settled(accepted.deliveries[0].seq, T0, 410, next)).await.unwrap();
    }
    let limit = ReadLimit { rows: 1, bytes: usize::MAX, is_strict: false };
    let read = move |conn: &_, _: &_| reads::due(conn, &snapshot, "uid-x", T0, &FastSet::default(), limit);
    let due = store.read(read).await.unwrap();
    assert_eq!((due.pending.len(), due.has_more), (0, true));
}

#[tokio::test]
async fn a_delivery_that_succeeds_at_once_is_written_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let all = accept(&store, &["a", "b"]).await;
    assert_eq!((rows(dir.path()), stored_pending_bytes(dir.path())), (0, 0));
    // A check from outside counts them too.
    let report = check(dir.path()).unwrap();
    assert_eq!((report.deliveries.get("pending"), report.pending_bytes), (Some(&2), 2 * (512 + 7)));
    assert_eq!(report.problems, Vec::<String>::new());
    deliver(&store, &all[0]).await;
    assert_eq!((rows(dir.path()), stored_pending_bytes(dir.path())), (0, 0));
    assert_eq!(check(dir.path()).unwrap().deliveries.get("delivered"), Some(&1));
    // Another outcome, and a second settlement of the first delivery.
    let later = T0 + Duration::from_secs(9);
    store.settle(settled(all[1].deliveries[0].seq, T0, 503, NextStep::Retry { due: later })).await.unwrap();
    assert!(
        !store
            .settle(settled(
                all[0].deliveries[0].seq,
                T0,
                500,
                NextStep::Dead { reason: DeliveryReason::Gone }
            ))
            .await
            .unwrap()
    );
    assert_eq!((rows(dir.path()), stored_pending_bytes(dir.path())), (1, 512 + 7));
    let read = store.explain("shop", "a").await.unwrap().unwrap().deliveries.remove(0);
    assert_eq!((read.state, read.attempts.len()), (DeliveryState::Delivered, 1));
    let retried = store.due_by("uid-x", later, 9).await.unwrap().remove(0);
    assert_eq!((retried.seq, retried.attempts), (all[1].deliveries[0].seq, 1));
}

/// After a crash, settled deliveries stay settled and the others are pending, even if a sweep removed rows before it.
#[tokio::test]
async fn unmaterialized_deliveries_survive_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let all = accept(&store, &["a", "b", "c", "d"]).await;
    deliver(&store, &all[0]).await;
    deliver(&store, &all[2]).await;
    let none = Retention { history_age: Duration::ZERO, ..RETENTION };
    // Soon, because a sweep materializes old deliveries.
    while store.sweep(none, T0 + Duration::from_secs(1)).await.unwrap() {}
    let delivered = check(dir.path()).unwrap().deliveries;
    assert_eq!(delivered.get("delivered"), Some(&1), "the first is removed; the third follows a pending one");
    drop(store);
    assert_eq!(check(dir.path()).unwrap().deliveries.get("pending"), Some(&2));
    let store = SqliteStore::open(dir.path()).unwrap();
    let pending = [all[1].deliveries[0].seq, all[3].deliveries[0].seq];
    assert_eq!(store.backlog().await.unwrap().len(), 1);
    assert_eq!(due(&store).await, pending);
    assert_eq!(store.stats().await.unwrap().pending_bytes, 2 * (512 + 7));
    deliver(&store, &all[1]).await;
    deliver(&store, &all[3]).await;
    assert_eq!(stored_pending_bytes(dir.path()), 0);
    while store.sweep(none, Millis(T0.0 * 2)).await.unwrap() {}
    assert_eq!((rows(dir.path()), check(dir.path()).unwrap().deliveries.len()), (0, 0));
    drop(store);
    let store = SqliteStore::open(dir.path()).unwrap();
    assert_eq!(due(&store).await, [0; 0]);
    assert!(accept(&store, &["e"]).await[0].seq > all[3].seq);
}

/// A rollback also undoes the changes to unmaterialized deliveries.
#[tokio::test]
async fn a_failed_group_keeps_deliveries_unmaterialized() {
    let dir = tempfile::tempdir().unwrap();
    let fault = Arc::new(Mutex::new(None));
    let store = open_tuned(dir.path(), |t| t.fault = fault.clone());
    let all = accept(&store, &["a", "b"]).await;
    *fault.lock() = Some(ffi::SQLITE_FULL);
    store.settle(settled(all[0].deliveries[0].seq, T0, 200, NextStep::Delivered)).await.unwrap_err();
    store.accept(vec![new("lost", &["x"], T0)], T0).await.unwrap_err();
    *fault.lock() = None;
    store.space().await.unwrap();
    // Nothing has read since: they still have no rows.
    assert_eq!(rows(dir.path()), 0);
    deliver(&store, &all[0]).await;
    assert_eq!(check(dir.path()).unwrap().deliveries.get("delivered"), Some(&1));
    // The same in a group with a refused operation.
    let mut bad = new("bad", &["x"], T0);
    bad.deliveries.push(bad.deliveries[0].clone());
    let (refused, settled, accepted) = futures::join!(
        store.accept(vec![bad], T0),
        store.settle(settled(all[1].deliveries[0].seq, T0, 200, NextStep::Delivered)),
        store.accept(vec![new("c", &["x"], T0)], T0),
    );
    assert!(refused.is_err() && settled.is_ok());
    assert_eq!(due(&store).await, seqs_of(&accepted.unwrap()));
    assert_eq!(store.stats().await.unwrap().pending_bytes, 512 + 7);
}

#[tokio::test]
async fn unmaterialized_deliveries_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let batch = |round: usize| (0..500).map(|n| new(&format!("{round}-{n}"), &["x"], T0)).collect();
    let mut pending = BTreeSet::new();
    for round in 0..40 {
        pending.extend(seqs_of(&store.accept(batch(round), T0).await.unwrap()));
    }
    assert!(rows(dir.path()) > 0, "their number is bounded");
    // All but the first are delivered, followed by many events: the first must not keep the watermark behind.
    let mut rest = pending.clone();
    let first = rest.pop_first().unwrap();
    for round in 40..120 {
        let settled = rest.iter().map(|seq| settled(*seq, T0, 200, NextStep::Delivered)).collect();
        store.settle_many(settled).await.unwrap();
        rest = seqs_of(&store.accept(batch(round), T0).await.unwrap()).into_iter().collect();
    }
    let watermark: i64 = raw(dir.path())
        .query_row("SELECT value FROM meta WHERE name = 'filed'", [], |row| row.get(0))
        .unwrap();
    assert!(watermark > sequence::event_seq(first), "{watermark}");
    drop(store);
    let store = SqliteStore::open(dir.path()).unwrap();
    let found: BTreeSet<DeliverySeq> = due(&store).await.into_iter().collect();
    assert_eq!(found, rest.into_iter().chain([first]).collect());
}

/// The dispatcher reads pending deliveries from the notes, without the writer, and the same as from their rows.
#[tokio::test]
async fn a_read_uses_the_notes_while_the_writer_is_blocked() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let all = accept(&store, &["a", "b", "c"]).await;
    deliver(&store, &all[1]).await;
    let blocker = raw(dir.path());
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (first, third) = (all[0].deliveries[0].seq, all[2].deliveries[0].seq);
    assert_eq!(due(&store).await, [first, third]);
    assert_eq!(store.due_by("uid-x", T0, 1).await.unwrap()[0].seq, first);
    let backlog = store.backlog().await.unwrap();
    assert_eq!((backlog.len(), backlog[0].next_due), (1, T0));
    let read = store.due_by("uid-x", T0, 9).await.unwrap();
    blocker.execute_batch("ROLLBACK").unwrap();
    // Read from their rows, they are the same.
    store.write(|_, _| Ok(())).await.unwrap();
    assert_eq!(rows(dir.path()), 2);
    assert_eq!(store.due_by("uid-x", T0, 9).await.unwrap(), read);
    assert_eq!(store.backlog().await.unwrap(), backlog);
}

#[tokio::test]
async fn close_materializes_all_deliveries() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    accept(&store, &["a"]).await;
    store.close().await;
    assert_eq!((rows(dir.path()), stored_pending_bytes(dir.path())), (1, 512 + 7));
}
