//! Deliveries that have no row yet.

use std::collections::BTreeSet;

use super::super::super::{Accepted, State};
use super::*;

fn rows(dir: &Path) -> i64 {
    raw(dir).query_row("SELECT count(*) FROM deliveries", [], |row| row.get(0)).unwrap()
}

async fn accept(store: &SqliteStore, ids: &[&str]) -> Vec<Accepted> {
    let mut all = Vec::new();
    for id in ids {
        all.extend(store.accept(vec![new(id, &["x"], T0)], T0).await.unwrap());
    }
    all
}

async fn deliver(store: &SqliteStore, accepted: &Accepted) {
    store.settle(settled(accepted.deliveries[0].seq, T0, 200, Next::Delivered)).await.unwrap();
}

async fn due(store: &SqliteStore) -> Vec<Seq> {
    store.due_by("uid-x", T0, 99_999).await.unwrap().iter().map(|pending| pending.seq).collect()
}

#[tokio::test]
async fn what_is_delivered_at_once_is_written_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let all = accept(&store, &["a", "b"]).await;
    assert_eq!((rows(dir.path()), waiting(dir.path())), (0, 0));
    // Who looks from outside is told of them nevertheless.
    let report = check(dir.path()).unwrap();
    assert_eq!((report.deliveries.get("pending"), report.waiting_bytes), (Some(&2), 2 * (512 + 7)));
    assert_eq!(report.problems, Vec::<String>::new());
    deliver(&store, &all[0]).await;
    assert_eq!((rows(dir.path()), waiting(dir.path())), (1, 0));
    // Another outcome, and a second look at the first.
    let later = T0 + Duration::from_secs(9);
    store.settle(settled(all[1].deliveries[0].seq, T0, 503, Next::Retry { due: later })).await.unwrap();
    assert!(
        !store.settle(settled(all[0].deliveries[0].seq, T0, 500, Next::Dead { reason: "x" })).await.unwrap()
    );
    assert_eq!((rows(dir.path()), waiting(dir.path())), (2, 512 + 7));
    let told = store.explain("shop", "a").await.unwrap().unwrap().deliveries.remove(0);
    assert_eq!((told.state, told.attempts.len()), (State::Delivered, 1));
    let retried = store.due_by("uid-x", later, 9).await.unwrap().remove(0);
    assert_eq!((retried.seq, retried.attempts), (all[1].deliveries[0].seq, 1));
}

/// What was settled before a crash does not come back, what was not does, whatever a sweep removed in between.
#[tokio::test]
async fn a_crash_finds_what_had_no_row() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let all = accept(&store, &["a", "b", "c", "d"]).await;
    deliver(&store, &all[0]).await;
    deliver(&store, &all[2]).await;
    let none = Retention { history_age: Duration::ZERO, ..RETENTION };
    while store.sweep(none, Millis(T0.0 * 2)).await.unwrap() {}
    assert_eq!(rows(dir.path()), 1, "the first is gone; the third has one before it that waits");
    drop(store);
    assert_eq!(check(dir.path()).unwrap().deliveries.get("pending"), Some(&2));
    let store = SqliteStore::open(dir.path()).unwrap();
    let left = [all[1].deliveries[0].seq, all[3].deliveries[0].seq];
    assert_eq!(store.backlog().await.unwrap().len(), 1);
    assert_eq!(due(&store).await, left);
    assert_eq!(waiting(dir.path()), 2 * (512 + 7));
    deliver(&store, &all[1]).await;
    deliver(&store, &all[3]).await;
    assert_eq!(waiting(dir.path()), 0);
    while store.sweep(none, Millis(T0.0 * 2)).await.unwrap() {}
    assert_eq!(rows(dir.path()), 0);
    drop(store);
    let store = SqliteStore::open(dir.path()).unwrap();
    assert_eq!(due(&store).await, [0; 0]);
    assert!(accept(&store, &["e"]).await[0].seq > all[3].seq);
}

/// A group that is rolled back takes with it what its operations did to what has no row.
#[tokio::test]
async fn a_group_that_fails_leaves_it_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let fault = Arc::new(Mutex::new(None));
    let store = tuned(dir.path(), |t| t.fault = fault.clone());
    let all = accept(&store, &["a", "b"]).await;
    *fault.lock() = Some(ffi::SQLITE_FULL);
    store.settle(settled(all[0].deliveries[0].seq, T0, 200, Next::Delivered)).await.unwrap_err();
    *fault.lock() = Some(ffi::SQLITE_FULL);
    store.accept(vec![new("lost", &["x"], T0)], T0).await.unwrap_err();
    // Nobody has looked since: they still have no rows.
    assert_eq!(rows(dir.path()), 0);
    deliver(&store, &all[0]).await;
    assert_eq!(rows(dir.path()), 1);
    // And among operations of which one is refused.
    let mut bad = new("bad", &["x"], T0);
    bad.deliveries.push(bad.deliveries[0].clone());
    let (refused, settled, accepted) = futures::join!(
        store.accept(vec![bad], T0),
        store.settle(settled(all[1].deliveries[0].seq, T0, 200, Next::Delivered)),
        store.accept(vec![new("c", &["x"], T0)], T0),
    );
    assert!(refused.is_err() && settled.is_ok());
    assert_eq!(due(&store).await, seqs_of(&accepted.unwrap()));
    assert_eq!(waiting(dir.path()), 512 + 7);
}

#[tokio::test]
async fn they_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let batch = |round: usize| (0..500).map(|n| new(&format!("{round}-{n}"), &["x"], T0)).collect();
    let mut left = BTreeSet::new();
    for round in 0..40 {
        left.extend(seqs_of(&store.accept(batch(round), T0).await.unwrap()));
    }
    assert!(rows(dir.path()) > 0, "in number");
    // All but the first are delivered, and as many events come after it: it does not keep a start looking at them all.
    let mut rest = left.clone();
    let first = rest.pop_first().unwrap();
    for round in 40..120 {
        let settled = rest.iter().map(|seq| settled(*seq, T0, 200, Next::Delivered)).collect();
        store.settle_many(settled).await.unwrap();
        rest = seqs_of(&store.accept(batch(round), T0).await.unwrap()).into_iter().collect();
    }
    let filed: i64 = raw(dir.path())
        .query_row("SELECT value FROM meta WHERE name = 'filed'", [], |row| row.get(0))
        .unwrap();
    assert!(filed > numbers::event(first), "{filed}");
    drop(store);
    let store = SqliteStore::open(dir.path()).unwrap();
    let found: BTreeSet<Seq> = due(&store).await.into_iter().collect();
    assert_eq!(found, rest.into_iter().chain([first]).collect());
}

/// With no room for rows the dispatcher reads on; by the notes.
#[tokio::test]
async fn a_read_that_the_writer_cannot_help_finds_the_notes() {
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
    let told = store.due_by("uid-x", T0, 9).await.unwrap();
    blocker.execute_batch("ROLLBACK").unwrap();
    // By their rows, they are the same.
    while rows(dir.path()) < 3 {
        store.stats().await.unwrap();
    }
    assert_eq!(store.due_by("uid-x", T0, 9).await.unwrap(), told);
    assert_eq!(store.backlog().await.unwrap(), backlog);
}

#[tokio::test]
async fn a_store_that_was_closed_has_rows() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    accept(&store, &["a"]).await;
    store.close().await;
    assert_eq!((rows(dir.path()), waiting(dir.path())), (1, 512 + 7));
}
