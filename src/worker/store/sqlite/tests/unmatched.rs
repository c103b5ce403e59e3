//! Events that no hook matched: their list, their age, and their share of the history; kept requests and responses.

use super::*;
use crate::core::delivery_reason::DeliveryReason;
use crate::core::event::Event;
use crate::worker::store::{
    AcceptedDelivery, EventFilter, EventOutcome, Exchange, ExchangeChange, HistoryStore, KeptBody,
    MaintenanceStore, NewEvent, NextStep, ReceivedResponse, Retention, SentRequest, Settlement,
};

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);
const LATE: Millis = Millis(T0.0 * 2);

const BODY: usize = 10_000;

/// Accepts an event of this namespace without a delivery.
async fn accept_unmatched(store: &SqliteStore, namespace: &str, id: &str, at: Millis) {
    let body = format!("\"{}\"", "x".repeat(BODY));
    let event = Event { namespace: namespace.into(), ..(*event_with(id, &body)).clone() };
    let unmatched = NewEvent { event: Arc::new(event), dedup: None, deliveries: Vec::new() };
    store.accept(vec![unmatched], at).await.unwrap();
}

async fn listed(store: &SqliteStore, namespace: &str) -> Vec<String> {
    let filter = EventFilter { namespace: namespace.into(), ..EventFilter::default() };
    let (mut ids, mut before) = (Vec::new(), None);
    loop {
        let page = store.events(filter.clone(), before, 3, false).await.unwrap();
        ids.extend(page.records.iter().map(|record| record.event.id.clone()));
        before = page.next;
        if before.is_none() {
            return ids;
        }
    }
}

/// A namespace with many unmatched events takes nothing from one with few.
#[tokio::test]
async fn the_largest_namespace_loses_its_oldest_unmatched_events() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_tuned(dir.path(), |t| {
        t.sweep_limit = SweepLimit { rows: 7, bytes: 30_000, time: Duration::MAX }
    });
    accept_unmatched(&store, "quiet", "q", T0).await;
    for n in 0..20 {
        accept_unmatched(&store, "loud", &format!("{n}"), T0).await;
    }
    // Room for six.
    let history_bytes = u64::try_from(4 * 6 * (BODY + 600)).unwrap();
    let retention = Retention { history_bytes, ..RETENTION };
    while store.sweep(retention, T0).await.unwrap() {}
    assert_eq!(listed(&store, "quiet").await, ["q"]);
    assert_eq!(listed(&store, "loud").await, ["19", "18", "17", "16", "15"]);
    let remaining: i64 = raw(dir.path()).query_row("SELECT count(*) FROM events", [], |r| r.get(0)).unwrap();
    assert_eq!(remaining, 6);
}

#[tokio::test]
async fn unmatched_events_expire_before_the_history() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    accept_unmatched(&store, "shop", "lost", T0).await;
    let got = store.accept(vec![new("found", &["x"], T0)], T0).await.unwrap();
    store.settle(settled(seqs_of(&got)[0], T0, 200, NextStep::Delivered)).await.unwrap();
    assert_eq!(listed(&store, "shop").await, ["found", "lost"]);
    let retention = Retention { unmatched_age: MINUTE, ..RETENTION };
    while store.sweep(retention, T0 + MINUTE).await.unwrap() {}
    assert_eq!(listed(&store, "shop").await, ["found"]);
    // Within its idempotency window only the data is removed, and lists do not show it.
    let body = event_with("kept", "{}");
    let dedup = key(1, HOUR);
    store.accept(vec![NewEvent { event: body, dedup, deliveries: Vec::new() }], T0).await.unwrap();
    while store.sweep(retention, T0 + MINUTE).await.unwrap() {}
    assert_eq!(listed(&store, "shop").await, ["found"]);
    assert!(store.explain("shop", "kept").await.unwrap().is_some());
}

/// Lists merge both kinds of events, whatever their order and however small the pages are.
#[tokio::test]
async fn pages_have_every_event_once_and_newest_first() {
    let dir = tempfile::tempdir().unwrap();
    for budget in [1, 2, 5, 10_000] {
        let dir = dir.path().join(budget.to_string());
        std::fs::create_dir(&dir).unwrap();
        let store = open_tuned(&dir, |t| t.history_budget.rows = budget);
        let mut want = Vec::new();
        for n in 0..40_u32 {
            let id = format!("{n}");
            match n % 5 {
                0 | 3 => {
                    store.accept(vec![new(&id, &[], T0)], T0).await.unwrap();
                }
                1 => {
                    store.accept(vec![new(&id, &["x", "y", "z"], T0)], T0).await.unwrap();
                }
                _ => {
                    store.accept(vec![new(&id, &["x"], T0)], T0).await.unwrap();
                }
            }
            want.insert(0, id);
        }
        assert_eq!(listed(&store, "shop").await, want, "{budget} rows at once");
        let unmatched = EventFilter {
            namespace: "shop".into(),
            outcome: Some(EventOutcome::Unmatched),
            ..EventFilter::default()
        };
        let found = store.events(unmatched, None, 500, true).await.unwrap().records;
        assert!(found.iter().all(|record| record.outcome == EventOutcome::Unmatched), "{found:?}");
        let of_hook =
            EventFilter { namespace: "shop".into(), hook: Some("y".into()), ..EventFilter::default() };
        let found = store.events(of_hook, None, 500, true).await.unwrap().records;
        assert!(found.iter().all(|record| record.deliveries.len() == 3), "{found:?}");
    }
}

pub(super) fn exchange(text: &str) -> Exchange {
    let body = KeptBody { text: text.into(), truncated: false };
    let request = SentRequest {
        method: "POST".into(),
        url: "http://a".into(),
        headers: Vec::new(),
        body: body.clone(),
    };
    Exchange { request, response: Some(ReceivedResponse { status: 503, headers: Vec::new(), body }) }
}

#[tokio::test]
async fn an_exchange_is_that_of_the_last_attempt_and_ends_with_its_delivery() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let accepted = store.accept(vec![new("a", &["x"], T0)], T0).await.unwrap();
    let AcceptedDelivery { seq, id, .. } = accepted[0].deliveries[0];
    let retry = NextStep::Retry { due: T0 };
    let attempt = |change, next| Settlement { exchange: change, ..settled(seq, T0, 503, next) };
    let replace = |text| ExchangeChange::Replace(Box::new(exchange(text)));
    store.settle(attempt(replace("first"), retry)).await.unwrap();
    assert_eq!(store.exchange("shop", id).await.unwrap(), Some(exchange("first")));
    assert_eq!(store.exchange("other", id).await.unwrap(), None, "of another namespace");
    store.settle(attempt(replace("second"), retry)).await.unwrap();
    assert_eq!(store.exchange("shop", id).await.unwrap(), Some(exchange("second")));
    store.settle(attempt(ExchangeChange::Remove, retry)).await.unwrap();
    assert_eq!(store.exchange("shop", id).await.unwrap(), None);
    let dead = NextStep::Dead { reason: DeliveryReason::MaxAge };
    store.settle(attempt(replace("last"), dead)).await.unwrap();
    // A late outcome changes nothing.
    store.settle(Settlement { at: T0 + HOUR, ..attempt(replace("late"), dead) }).await.unwrap();
    assert_eq!(store.exchange("shop", id).await.unwrap(), Some(exchange("last")));
    while store.sweep(RETENTION, LATE).await.unwrap() {}
    let remaining: i64 =
        raw(dir.path()).query_row("SELECT count(*) FROM exchanges", [], |r| r.get(0)).unwrap();
    assert_eq!(remaining, 0);
}
