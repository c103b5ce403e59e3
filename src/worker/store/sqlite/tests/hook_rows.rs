//! Rows of hooks and namespaces that have nothing left.

use super::super::super::conformance::hook;
use super::super::super::{DeliveryFilter, NewDelivery};
use super::*;
use crate::core::delivery_reason::DeliveryReason;
use crate::core::gate::{GateRequest, Snooze, SnoozeCheck};

const RETAINED_NOTHING: Retention =
    Retention { history_age: Duration::ZERO, dead_letter_age: Duration::ZERO, ..RETENTION };

fn count(dir: &Path, sql: &str) -> i64 {
    raw(dir).query_row(sql, [], |row| row.get(0)).unwrap()
}

fn hook_names(dir: &Path) -> Vec<String> {
    let conn = raw(dir);
    let mut names = conn.prepare("SELECT name FROM hooks ORDER BY name").unwrap();
    names.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

async fn sweep(store: &SqliteStore, now: Millis) {
    while store.sweep(RETAINED_NOTHING, now).await.unwrap() {}
}

/// Hooks that are created and deleted again leave nothing, and whatever a hook that exists still needs is kept.
#[tokio::test]
async fn a_hooks_row_is_removed_with_its_last_delivery() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_tuned(dir.path(), |t| {
        t.sweep_limit = SweepLimit { rows: 50, bytes: 1 << 20, time: Duration::MAX }
    });
    let names: Vec<String> = (0..200).map(|n| format!("h{n:03}")).collect();
    let mut delivered = Vec::new();
    for name in names.iter().map(String::as_str).chain(["held", "pending", "recent"]) {
        let accepted = store.accept(vec![new(name, &[name], T0)], T0).await.unwrap();
        if name != "pending" {
            delivered.extend(seqs_of(&accepted));
        }
    }
    let rule = Snooze { period: Duration::from_secs(60), trailing: true };
    let gate_request = GateRequest { change: None, snooze: Some(SnoozeCheck { key: [1; 16], rule }) };
    let snoozed = NewEvent {
        deliveries: vec![NewDelivery { gate_request, ..delivery("gated", T0) }],
        ..new("g", &[], T0)
    };
    delivered.extend(seqs_of(&store.accept(vec![snoozed], T0).await.unwrap()));
    for (n, seq) in delivered.iter().enumerate() {
        // In turn: delivered at once, and dead after a row was inserted.
        let next =
            if n % 2 == 0 { NextStep::Delivered } else { NextStep::Dead { reason: DeliveryReason::Gone } };
        store.settle(settled(*seq, T0, 500, next)).await.unwrap();
    }
    store.set_held(&hook("held"), true, T0).await.unwrap();
    let now = T0 + Duration::from_secs(3600);
    // It was accepted before, and its only delivery has no row yet.
    let recent = store.accept(vec![new("again", &["recent"], now)], now).await.unwrap();
    sweep(&store, now).await;
    assert_eq!(hook_names(dir.path()), ["gated", "held", "pending", "recent"]);
    assert_eq!(count(dir.path(), "SELECT count(*) FROM namespace_numbers"), 1);
    assert_eq!(store.held_hooks().await.unwrap(), [hook("held")]);
    let within_period = NewEvent {
        deliveries: vec![NewDelivery { gate_request, ..delivery("gated", now) }],
        ..new("g2", &[], now)
    };
    let fate = store.accept(vec![within_period], T0).await.unwrap()[0].deliveries[0].fate;
    assert!(matches!(fate, Fate::Candidate { .. }), "its gate memory is kept: {fate:?}");
    assert_eq!(store.due_by("uid-recent", now, 9).await.unwrap()[0].seq, recent[0].deliveries[0].seq);

    // The rest ends: the hold, and the deliveries.
    store.set_held(&hook("held"), false, now).await.unwrap();
    assert!(!hook_names(dir.path()).contains(&"held".to_owned()), "the hold was the only reason to keep it");
    for name in ["gated", "pending", "recent"] {
        for pending in store.due_by(&format!("uid-{name}"), Millis(T0.0 * 2), 9).await.unwrap() {
            store.settle(settled(pending.seq, now, 200, NextStep::Delivered)).await.unwrap();
        }
    }
    // Gate memory lasts for 30 days.
    let later = now + Duration::from_secs(31 * 86_400);
    store.promote(later).await.unwrap();
    for pending in store.due_by("uid-gated", Millis(T0.0 * 2), 9).await.unwrap() {
        store.settle(settled(pending.seq, later, 200, NextStep::Delivered)).await.unwrap();
    }
    // The second round finds the hook whose gate memory the first one removed.
    for _ in 0..2 {
        sweep(&store, later + Duration::from_secs(31 * 86_400)).await;
    }
    assert_eq!(hook_names(dir.path()), [""; 0]);
    assert_eq!(count(dir.path(), "SELECT count(*) FROM namespace_numbers"), 0);
    assert_eq!(stored_pending_bytes(dir.path()), 0);
    // A hook without a row gets one again.
    let again = store.accept(vec![new("new", &["h000"], later)], later).await.unwrap();
    assert_eq!(store.due_by("uid-h000", later, 9).await.unwrap()[0].seq, again[0].deliveries[0].seq);
    let shop = DeliveryFilter { namespace: "shop".into(), ..DeliveryFilter::default() };
    assert_eq!(store.list(shop, None, 9).await.unwrap().records.len(), 1);
}

/// Rows that an older program left are removed over time, a bounded number in each sweep.
#[tokio::test]
async fn rows_of_an_older_program_are_removed_in_bounded_steps() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    raw(dir.path())
        .execute_batch(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1800)
             INSERT INTO hooks (uid, namespace, name) SELECT 'old-' || i, 'shop', 'old' || i FROM n",
        )
        .unwrap();
    store.accept(vec![new("a", &["x"], T0)], T0).await.unwrap();
    assert!(store.sweep(RETENTION, T0).await.unwrap(), "there is more");
    let remaining = count(dir.path(), "SELECT count(*) FROM hooks");
    assert!((1000..1800).contains(&remaining), "{remaining}");
    sweep(&store, T0).await;
    assert_eq!(hook_names(dir.path()), ["x"]);
    assert_eq!(store.due_by("uid-x", T0, 9).await.unwrap().len(), 1);
}

/// A transfer leaves no row of the old hook, unless it has history.
#[tokio::test]
async fn a_transfer_removes_the_row_of_the_old_hook() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    store.accept(vec![new("a", &["x", "y"], T0)], T0).await.unwrap();
    store.set_held(&hook("x"), true, T0).await.unwrap();
    while store.transfer_pending(&hook("x"), &hook("y"), T0).await.unwrap() {}
    assert_eq!(hook_names(dir.path()), ["y"]);
    assert_eq!(store.due_by("uid-y", T0, 9).await.unwrap().len(), 2);
    store.close().await;
    assert_eq!(check(dir.path()).unwrap().problems, Vec::<String>::new());
}

/// The row of a deleted namespace is removed with its data, and the name can be used again.
#[tokio::test]
async fn the_row_of_a_deleted_namespace_is_removed_with_its_data() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    for n in 0..3 {
        let uid = format!("uid-{n}");
        store.set_namespace_uid("shop", Some(&uid)).await.unwrap();
        store.accept(vec![new("a", &[&format!("x{n}")], T0), new("unmatched", &[], T0)], T0).await.unwrap();
        assert!(store.set_namespace_uid("shop", None).await.unwrap());
        if n == 1 {
            // Accepted after the deletion: its rows belong to the key that the next namespace gets.
            store.accept(vec![new("late", &["late"], T0)], T0).await.unwrap();
            sweep(&store, T0).await;
            assert_eq!(count(dir.path(), "SELECT count(*) FROM namespaces"), 1, "it still has data");
        }
    }
    assert_eq!(count(dir.path(), "SELECT count(*) FROM namespaces"), 1);
    sweep(&store, T0).await;
    for table in ["namespaces", "ended", "hooks", "namespace_numbers", "events", "deliveries"] {
        assert_eq!(count(dir.path(), &format!("SELECT count(*) FROM {table}")), 0, "{table}");
    }
    store.set_namespace_uid("shop", Some("again")).await.unwrap();
    store.accept(vec![new("b", &["x"], T0)], T0).await.unwrap();
    assert_eq!(store.explain("shop", "a").await.unwrap(), None);
    assert_eq!(store.explain("shop", "b").await.unwrap().unwrap().deliveries.len(), 1);
}

/// On a full disk the reserve has space for few rows, so a step of a sweep must not materialize thousands.
#[tokio::test]
async fn a_sweep_of_a_deleted_namespace_changes_a_bounded_number_of_rows() {
    const ROWS: i64 = 10;
    let dir = tempfile::tempdir().unwrap();
    let store = open_tuned(dir.path(), |t| {
        t.sweep_limit =
            SweepLimit { rows: usize::try_from(ROWS).unwrap(), bytes: 1 << 20, time: Duration::MAX };
    });
    store.set_namespace_uid("shop", Some("1")).await.unwrap();
    for n in 0..25 {
        store.accept(vec![new(&format!("old-{n}"), &["old"], T0)], T0).await.unwrap();
    }
    store.set_namespace_uid("shop", Some("2")).await.unwrap();
    // Deliveries without rows: of the present namespace, and of a hook whose row the deleted one left.
    for n in 0..100 {
        store.accept(vec![new(&format!("new-{n}"), &["old", "new"], T0)], T0).await.unwrap();
    }
    let deliveries = || count(dir.path(), "SELECT count(*) FROM deliveries");
    let (mut before, mut most) = (deliveries(), 0);
    while store.sweep(RETENTION, T0).await.unwrap() {
        let after = deliveries();
        (before, most) = (after, most.max(after - before));
    }
    assert!(most <= ROWS, "{most} rows were inserted in one step");
    assert_eq!(count(dir.path(), "SELECT count(*) FROM ended"), 0);
    assert_eq!(count(dir.path(), "SELECT count(*) FROM hooks WHERE uid = 'uid-old'"), 0);
    assert_eq!(store.explain("shop", "old-1").await.unwrap(), None);
    assert_eq!(store.due_by("uid-new", T0, 999).await.unwrap().len(), 100);
    drop(store);
    let store = SqliteStore::open(dir.path()).unwrap();
    assert_eq!(store.due_by("uid-new", T0, 999).await.unwrap().len(), 100);
    assert!(store.accept(vec![new("next", &["new"], T0)], T0).await.unwrap()[0].seq > 125);
}
