//! Bounds of the store: backlog shares, retention by bytes, gate memory.

use super::super::super::NewDelivery;
use super::*;
use crate::core::delivery_reason::DeliveryReason;
use crate::core::event::{Event, Origin};

#[tokio::test]
async fn a_backlog_is_bounded_by_its_share() {
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
    let pending = Fate::Pending { due: T0, suppressed: 0 };
    store.set_shares(Shares { hook_bytes: 25_000, namespace_bytes: 35_000 });
    let first = fate("a", "x").await.unwrap();
    assert_eq!((first.fate, fate("b", "x").await.unwrap().fate), (pending, pending));
    let over = fate("c", "x").await.unwrap();
    assert_eq!(over.fate, Fate::Dead);
    let shown = store.explain("shop", "c").await.unwrap().unwrap().deliveries.remove(0);
    assert_eq!(shown.reason.as_deref(), Some("BacklogFull"));
    assert_eq!(fate("d", "y").await.unwrap().fate, pending, "another hook has its own share");
    assert!(matches!(fate("e", "y").await, Err(StoreError::NamespaceFull)));
    assert_eq!(store.explain("shop", "e").await.unwrap(), None, "nothing is stored");
    assert_eq!(fate("a", "x").await.unwrap(), first, "a duplicate gets the same result");
    // The count survives a restart, a refused operation, and a failed commit.
    drop(store);
    let fault = Arc::new(Mutex::new(None));
    let store = open_tuned(dir.path(), |t| t.fault = fault.clone());
    store.set_shares(Shares { hook_bytes: 25_000, namespace_bytes: 35_000 });
    *fault.lock() = Some(ffi::SQLITE_FULL);
    store.settle(settled(first.seq, T0, 200, NextStep::Delivered)).await.unwrap_err();
    *fault.lock() = None;
    store.space().await.unwrap();
    assert!(matches!(store.accept(sized("e", "y"), T0).await, Err(StoreError::NamespaceFull)));
    let mut bad = new("bad", &["x"], T0);
    bad.deliveries.push(bad.deliveries[0].clone());
    let before = store.stats().await.unwrap().pending_bytes;
    let (refused, settled) = futures::join!(
        store.accept(vec![bad], T0),
        store.settle(settled(first.seq, T0, 200, NextStep::Delivered))
    );
    assert!(refused.is_err() && settled.is_ok());
    assert_eq!(store.stats().await.unwrap().pending_bytes, before - (10_000 + 512));
    store.accept(sized("e", "y"), T0).await.unwrap();
    // A replayed delivery counts again.
    store.replay("shop", shown.id, T0).await.unwrap();
    assert_eq!(store.stats().await.unwrap().pending_bytes, before + (10_000 + 512));
}

#[tokio::test]
async fn history_and_dead_letters_are_bounded_by_bytes() {
    for is_merging in [false, true] {
        check_bounds_by_bytes(is_merging).await;
    }
}

async fn check_bounds_by_bytes(is_merging: bool) {
    let dir = tempfile::tempdir().unwrap();
    let store = open_tuned(dir.path(), |t| {
        t.sweep_limit = SweepLimit { rows: 7, bytes: 30_000, time: Duration::MAX };
        if is_merging {
            merge_often(t);
        }
    });
    let body = format!("\"{}\"", "x".repeat(9_998));
    for n in 0..60_u8 {
        let now = T0 + Duration::from_secs(n.into());
        // In turn: dead, delivered, without a delivery. All are within their idempotency window.
        let hooks = [&["x"][..], &["x"], &[]][usize::from(n % 3)];
        let event = event_with(&format!("e{n}"), &body);
        let dedup = key(n, Duration::from_secs(86_400 * 9));
        let got = store.accept(vec![NewEvent { event, dedup, ..new("", hooks, now) }], now).await.unwrap();
        for seq in seqs_of(&got) {
            let next = if n % 3 == 0 {
                NextStep::Dead { reason: DeliveryReason::Gone }
            } else {
                NextStep::Delivered
            };
            store.settle(settled(seq, now, 500, next)).await.unwrap();
        }
    }
    let retention = Retention { history_bytes: 110_000, dead_letter_bytes: 54_000, ..RETENTION };
    let now = T0 + Duration::from_secs(60);
    while store.sweep(retention, now).await.unwrap() {}
    let mut kept = Vec::new();
    for n in 0..60 {
        let shown = store.explain("shop", &format!("e{n}")).await.unwrap();
        let shown = shown.expect("it is within its window");
        if shown.event.data.get().len() > 9_000 {
            kept.push(n);
        } else {
            assert_eq!((shown.event.data.get(), shown.deliveries.len()), ("null", 0));
        }
    }
    let history: Vec<_> = kept.iter().filter(|n| *n % 3 != 0).copied().collect();
    let dead: Vec<_> = kept.iter().filter(|n| *n % 3 == 0).copied().collect();
    // Of those that no hook matched, a quarter of the bytes.
    assert_eq!(history, [46, 49, 52, 55, 56, 58, 59]);
    assert_eq!(dead, [45, 48, 51, 54, 57]);
    let again = NewEvent { dedup: key(0, Duration::from_secs(60)), ..new("again", &["x"], T0) };
    assert!(store.accept(vec![again], now).await.unwrap()[0].duplicate);
    let late = Millis(T0.0 * 2);
    while store.sweep(retention, late).await.unwrap() {}
    let remaining: i64 = raw(dir.path()).query_row("SELECT count(*) FROM events", [], |r| r.get(0)).unwrap();
    assert_eq!(remaining, 0);
}

/// Senders choose the keys, so their number is bounded: the least recently used are removed.
#[tokio::test]
async fn gate_memory_is_bounded() {
    use crate::core::gate::{GateRequest, Snooze, SnoozeCheck};
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    store.accept(vec![new("a", &["x"], T0)], T0).await.unwrap();
    let max_keys = gates::MAX_KEYS;
    raw(dir.path())
        .execute_batch(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {max_keys})
             INSERT INTO gates SELECT 1, 1, cast(printf('%016d', i) AS BLOB), NULL, 0, NULL, 0, {} + i FROM n",
            T0.0
        ))
        .unwrap();
    for n in 0..5 {
        let rule = Snooze { period: Duration::from_secs(60), trailing: false };
        let gate_request = GateRequest { change: None, snooze: Some(SnoozeCheck { key: [n; 16], rule }) };
        let deliveries = vec![NewDelivery { gate_request, ..delivery("x", T0) }];
        store
            .accept(vec![NewEvent { deliveries, ..new("b", &[], T0) }], T0 + Duration::from_secs(9999))
            .await
            .unwrap();
    }
    let rows = |sql: &str| raw(dir.path()).query_row(sql, [], |r| r.get::<_, i64>(0)).unwrap();
    assert_eq!(rows("SELECT count(*) FROM gates"), max_keys);
    assert_eq!(rows("SELECT min(used) FROM gates"), T0.0 + 6, "the oldest were removed");
    let later = T0 + Duration::from_secs(31 * 86_400);
    while store.sweep(RETENTION, later).await.unwrap() {}
    assert_eq!(rows("SELECT count(*) FROM gates"), 0, "unused for 30 days");
}

/// An event whose sender retries is refused, and nothing of it is stored.
#[tokio::test]
async fn a_full_hook_refuses_events_whose_sender_retries() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    store.set_shares(Shares { hook_bytes: 25_000, namespace_bytes: u64::MAX });
    let relayed = async |id: &str, hook: &str, dead| {
        let event = event_with(id, &format!("\"{}\"", "x".repeat(9_998)));
        let event = Arc::new(Event { origin: Origin::Relay(hook.into()), ..(*event).clone() });
        let deliveries = vec![NewDelivery { dead, ..delivery(hook, T0) }];
        let dedup = key(id.as_bytes()[0], Duration::from_secs(60));
        store.accept(vec![NewEvent { event, dedup, deliveries }], T0).await.map(|mut got| got.remove(0))
    };
    let first = relayed("a", "x", None).await.unwrap();
    relayed("b", "x", None).await.unwrap();
    assert!(matches!(relayed("c", "x", None).await, Err(StoreError::HookFull)));
    assert_eq!(store.explain("shop", "c").await.unwrap(), None, "nothing is stored");
    let again = relayed("a", "x", None).await.unwrap();
    assert!(again.duplicate && again.seq == first.seq, "a duplicate needs no space");
    relayed("d", "y", None).await.expect("another hook has its own share");
    let dead = relayed("e", "x", Some(DeliveryReason::HookDeleted)).await.unwrap();
    assert_eq!(dead.deliveries[0].fate, Fate::Dead, "a dead letter is not part of the backlog");
    store.settle(settled(first.deliveries[0].seq, T0, 200, NextStep::Delivered)).await.unwrap();
    assert!(
        !relayed("c", "x", None).await.unwrap().duplicate,
        "there is space, and the refused event left no idempotency key"
    );
}

#[tokio::test]
async fn retention_leaves_no_rows_behind() {
    for is_merging in [false, true] {
        check_that_retention_leaves_no_rows(is_merging).await;
    }
}

async fn check_that_retention_leaves_no_rows(is_merging: bool) {
    let dir = tempfile::tempdir().unwrap();
    let store = open_tuned(dir.path(), |t| {
        if is_merging {
            merge_often(t);
        }
        t.sweep_limit = SweepLimit { rows: 7, bytes: 200, time: Duration::MAX };
        t.keys.table = 10;
        t.ids.table = 10;
    });
    let mut events = Vec::new();
    for n in 0..40_u8 {
        let hooks = [&["x", "y"][..], &[], &["x"]][usize::from(n % 3)];
        events.push(NewEvent { dedup: key(n, Duration::from_secs(60)), ..new(&format!("e{n}"), hooks, T0) });
    }
    let got = store.accept(events, T0).await.unwrap();
    for (n, seq) in seqs_of(&got).into_iter().enumerate() {
        let next = if n % 2 == 0 {
            NextStep::Delivered
        } else {
            NextStep::Dead { reason: DeliveryReason::TerminalStatus }
        };
        store.settle(settled(seq, T0, 500, next)).await.unwrap();
    }
    let mut sweeps = 0;
    while store.sweep(RETENTION, Millis(T0.0 * 2)).await.unwrap() {
        sweeps += 1;
    }
    assert!(sweeps > 10, "{sweeps}");
    let conn = raw(dir.path());
    for table in [
        "events",
        "deliveries",
        "attempts",
        "dedup",
        "loose",
        "key_runs",
        "key_blocks",
        "key_filters",
        "id_runs",
        "id_blocks",
        "outcome_groups",
        "outcome_segments",
        "outcome_index",
        "hooks",
        "unmatched",
        "exchanges",
    ] {
        let remaining: i64 =
            conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |r| r.get(0)).unwrap();
        assert_eq!(remaining, 0, "{table}");
    }
}
