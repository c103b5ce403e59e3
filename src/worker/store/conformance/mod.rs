//! What every engine promises, as tests: each takes a `Subject` and knows only the trait. An engine runs them all by
//! `conformance!(MySubject)`; the model test compares it with `oracle` after every step.

mod gate_table;
mod oracle;
mod owners;
mod promises;
mod waiting;
mod walk;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use serde_json::value::RawValue;
use uuid::Uuid;

pub(super) use super::*;
use crate::core::event::Origin;
pub(super) use gate_table::gates_by_a_decision_table;
pub(super) use owners::*;
pub(super) use promises::*;
pub(super) use waiting::*;
pub(super) use walk::model;

/// A place for a store, which can be opened again after its store was dropped.
pub(super) trait Subject {
    type Store: Store;
    fn new() -> Self;
    fn open(&self) -> impl Future<Output = Self::Store>;
}

/// What is due, of which the caller has nothing.
pub(super) trait DueBy: Store {
    async fn due_by(&self, uid: &str, now: Millis, rows: usize) -> Result<Vec<Pending>, StoreError> {
        let most = Most { rows, bytes: usize::MAX };
        Ok(self.due(uid, now, HashSet::new(), most).await?.pending)
    }
}

impl<S: Store> DueBy for S {}

macro_rules! conformance {
    ($subject:ty) => {
        conformance!($subject:
            due_in_order_and_by_hook what_is_due_is_read_in_parts numbers_are_never_used_again bytes_come_back_as_they_came
            duplicates_within_the_window duplicates_within_one_call duplicates_at_the_same_time
            several_events_are_all_or_none a_refused_operation_takes_no_other_with_it settlements_and_history
            settling_what_is_finished_changes_nothing next_due_and_backlog a_delivery_belongs_to_its_namespace
            sweep_keeps_what_must_be_kept sweep_is_bounded_and_tells_when_there_is_more
            a_key_outlives_its_event_history a_reopened_store_has_it_all close_commits_what_is_queued
            a_caller_who_goes_away_leaves_all_or_nothing
            snooze_drops_and_tells_how_many on_change_compares_with_what_was_accepted
            a_trailing_candidate_goes_when_the_period_ends what_is_unchanged_drops_a_stale_candidate
            a_candidate_goes_at_once_when_the_one_before_it_dies accept_promotes_and_tells_who_woke
            a_cancelled_candidate_is_none dead_at_once_is_kept_and_sets_no_memory
            a_repeat_revives_what_died_of_age_or_attempts a_replay_begins_anew_under_its_id
            a_replay_of_many_is_paced_and_survives_a_restart lists_and_explains
            the_age_clock_stands_still_while_held what_is_undecided_does_not_age_and_is_decided_again another_hook_of_the_name_takes_up_what_waits
            many_are_accepted_and_settled_at_once a_namespace_made_anew_begins_with_nothing
            a_store_of_another_installation_is_refused what_waits_is_measured gates_by_a_decision_table
        );
        #[test]
        fn model() { $crate::worker::store::conformance::model::<$subject>(); }
    };
    ($subject:ty: $($test:ident)*) => {
        $(#[tokio::test]
        async fn $test() { $crate::worker::store::conformance::$test::<$subject>().await; })*
    };
}
pub(super) use conformance;

pub(super) const T0: Millis = Millis(1_700_000_000_000);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const LATE: Millis = Millis(T0.0 * 2);
pub(super) const RETENTION: Retention = Retention {
    history_age: Duration::from_secs(24 * 3600),
    dead_letter_age: Duration::from_secs(48 * 3600),
    history_bytes: u64::MAX,
    dead_letter_bytes: u64::MAX,
};

pub(super) fn hook(name: &str) -> HookId {
    HookId { uid: format!("uid-{name}").into(), namespace: "shop".into(), name: name.into() }
}

pub(super) fn event(id: &str) -> Arc<Event> {
    event_with(id, r#"{"n":1}"#)
}

pub(super) fn event_with(id: &str, data: &str) -> Arc<Event> {
    Arc::new(Event {
        id: id.into(),
        namespace: "shop".into(),
        origin: Origin::Api,
        source: "orders".into(),
        event: "paid".into(),
        time: "2023-11-14T22:13:20Z".into(),
        data: RawValue::from_string(data.into()).unwrap(),
        attributes: BTreeMap::new(),
    })
}

pub(super) fn delivery(hook_name: &str, due: Millis) -> NewDelivery {
    NewDelivery { hook: hook(hook_name), id: Uuid::now_v7(), due, asked: Asked::default(), dead: None }
}

pub(super) fn new(id: &str, hooks: &[&str], due: Millis) -> NewEvent {
    let deliveries = hooks.iter().map(|name| delivery(name, due)).collect();
    NewEvent { event: event(id), dedup: None, deliveries }
}

pub(super) fn key(n: u8, window: Duration) -> Option<Dedup> {
    Some(Dedup { key: [n; 32], window })
}

fn attempt(at: Millis, status: u16) -> Attempt {
    Attempt {
        at,
        duration: Duration::from_millis(120),
        status: Some(status),
        error: (status >= 300).then(|| "Status".to_owned()),
        detail: (status >= 300).then(|| "the receiver said no".to_owned()),
    }
}

pub(super) fn settled(delivery: Seq, at: Millis, status: u16, next: Next) -> Settlement {
    let attempt = attempt(at, status);
    Settlement { delivery, at: at + attempt.duration, attempt: Some(attempt), next, progress: None }
}

pub(super) fn seqs_of<'a>(accepted: impl IntoIterator<Item = &'a Accepted>) -> Vec<Seq> {
    accepted.into_iter().flat_map(|a| &a.deliveries).map(|d| d.seq).collect()
}

async fn due_ids(store: &impl Store, name: &str, now: Millis) -> Vec<Seq> {
    store.due_by(&hook(name).uid, now, 1000).await.unwrap().iter().map(|p| p.seq).collect()
}

async fn sweep_all(store: &impl Store, now: Millis) {
    while store.sweep(RETENTION, now).await.unwrap() {}
}

pub(super) async fn numbers_are_never_used_again<S: Subject>() {
    let place = S::new();
    let store = place.open().await;
    let first = store.accept(vec![new("a", &["x"], T0), new("b", &["x"], T0)], T0).await.unwrap();
    for seq in seqs_of(&first) {
        store.settle(settled(seq, T0, 200, Next::Delivered)).await.unwrap();
    }
    sweep_all(&store, LATE).await;
    drop(store);
    let store = place.open().await;
    let next = store.accept(vec![new("c", &["x"], T0)], LATE).await.unwrap().remove(0);
    assert!(first[0].seq < first[1].seq && first[1].seq < next.seq, "{first:?} {next:?}");
    assert!(first[1].deliveries[0].seq < next.deliveries[0].seq, "{first:?} {next:?}");
}

pub(super) async fn bytes_come_back_as_they_came<S: Subject>() {
    let place = S::new();
    let store = place.open().await;
    let mut odd = Event::clone(&event_with(
        "ö\u{1F980}",
        "{\"b\": 1.50, \"a\":12345678901234567890123 ,\"s\":\"\\u0000é\"}",
    ));
    odd.origin = Origin::Relay("a-hook".into());
    odd.attributes.insert("flag".into(), true.into());
    odd.attributes.insert("n".into(), (-7).into());
    odd.attributes.insert("s".into(), "x\"y".into());
    let odd = Arc::new(odd);
    let id = Uuid::now_v7();
    let deliveries = vec![NewDelivery { id, ..delivery("x", T0) }];
    store.accept(vec![NewEvent { event: odd.clone(), dedup: None, deliveries }], T0).await.unwrap();
    let back = store.due_by("uid-x", T0, 9).await.unwrap().remove(0);
    assert_eq!(back.event, odd);
    assert_eq!(back.id, id);
    let big = format!("\"{}\"", "x".repeat(1 << 20));
    let deliveries = vec![delivery("big", T0)];
    let event = event_with("big", &big);
    store.accept(vec![NewEvent { event, dedup: None, deliveries }], T0).await.unwrap();
    assert_eq!(store.due_by("uid-big", T0, 9).await.unwrap()[0].event.data.get(), big);
}

pub(super) async fn duplicates_within_the_window<S: Subject>() {
    let place = S::new();
    let store = place.open().await;
    let keyed = |id: &str| NewEvent { dedup: key(1, HOUR), ..new(id, &["x", "y"], T0) };
    let first = store.accept(vec![keyed("a")], T0).await.unwrap().remove(0);
    assert!(!first.duplicate && first.deliveries.len() == 2);
    let last_ms = Millis((T0 + HOUR).0 - 1);
    let again = store.accept(vec![keyed("b")], last_ms).await.unwrap().remove(0);
    assert_eq!(again, Accepted { duplicate: true, ..first.clone() });
    assert_eq!(due_ids(&store, "x", LATE).await.len(), 1, "nothing was stored for the duplicate");
    // The window counts from the first one, and its end is outside.
    let fresh = store.accept(vec![keyed("c")], T0 + HOUR).await.unwrap().remove(0);
    assert!(!fresh.duplicate && fresh.event_id == "c" && fresh.seq > first.seq);
    let again = store.accept(vec![keyed("d")], T0 + HOUR + MINUTE).await.unwrap().remove(0);
    assert_eq!((again.duplicate, again.seq), (true, fresh.seq));
    // No key, no duplicate.
    let plain = store.accept(vec![new("a", &["x"], T0)], T0).await.unwrap().remove(0);
    assert!(!plain.duplicate);
}

pub(super) async fn duplicates_within_one_call<S: Subject>() {
    let place = S::new();
    let store = place.open().await;
    let keyed = |id: &str, n| NewEvent { dedup: key(n, HOUR), ..new(id, &["x"], T0) };
    let got = store.accept(vec![keyed("a", 1), keyed("b", 1), keyed("c", 2)], T0).await.unwrap();
    assert_eq!(got.iter().map(|a| a.duplicate).collect::<Vec<_>>(), [false, true, false]);
    assert_eq!(
        (got[1].seq, &got[1].event_id, &got[1].deliveries),
        (got[0].seq, &"a".to_owned(), &got[0].deliveries)
    );
    assert_eq!(due_ids(&store, "x", T0).await.len(), 2);
}

pub(super) async fn duplicates_at_the_same_time<S: Subject>() {
    let place = S::new();
    let store = place.open().await;
    let calls = (0..50).map(|n| {
        store.accept(vec![NewEvent { dedup: key(1, HOUR), ..new(&format!("e{n}"), &["x"], T0) }], T0)
    });
    let got: Vec<_> = join_all(calls).await.into_iter().map(|r| r.unwrap().remove(0)).collect();
    let first: Vec<_> = got.iter().filter(|a| !a.duplicate).cloned().collect();
    assert_eq!(first.len(), 1);
    assert!(got.iter().all(|a| (a.seq, &a.event_id) == (first[0].seq, &first[0].event_id)));
    assert_eq!(due_ids(&store, "x", T0).await, seqs_of(&first));
}

pub(super) async fn several_events_are_all_or_none<S: Subject>() {
    let place = S::new();
    let store = place.open().await;
    let good = NewEvent { dedup: key(1, HOUR), ..new("a", &["x"], T0) };
    let mut bad = new("b", &["x"], T0);
    // Two deliveries cannot have one `webhook-id`.
    bad.deliveries.push(bad.deliveries[0].clone());
    let refused = store.accept(vec![good.clone(), bad], T0).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    assert_eq!(due_ids(&store, "x", LATE).await, [0; 0]);
    assert_eq!(store.backlog().await.unwrap(), []);
    // Neither is the key kept, nor the hook's number.
    let got = store.accept(vec![good], T0).await.unwrap().remove(0);
    assert!(!got.duplicate);
    assert_eq!(due_ids(&store, "x", LATE).await, seqs_of([&got]));
    assert!(store.accept(Vec::new(), T0).await.unwrap().is_empty());
}

pub(super) async fn a_refused_operation_takes_no_other_with_it<S: Subject>() {
    let place = S::new();
    let store = place.open().await;
    let mut bad = new("bad", &["bad"], T0);
    bad.deliveries.push(bad.deliveries[0].clone());
    let calls = (0..40).map(|n| match n % 4 {
        3 => store.accept(vec![bad.clone()], T0),
        _ => store.accept(vec![new(&format!("e{n}"), &[["x", "y", "z"][n % 3]], T0)], T0),
    });
    for (n, got) in join_all(calls).await.into_iter().enumerate() {
        assert_eq!(got.is_ok(), n % 4 != 3, "{n}: {got:?}");
    }
    let mut found = 0;
    for name in ["x", "y", "z"] {
        found += due_ids(&store, name, T0).await.len();
    }
    assert_eq!((found, due_ids(&store, "bad", T0).await.len()), (30, 0));
    assert!(store.failed().now_or_never().is_none());
}

pub(super) async fn settlements_and_history<S: Subject>() {
    let place = S::new();
    let store = place.open().await;
    let new = new("a", &["x", "y", "z"], T0);
    let ids: Vec<_> = new.deliveries.iter().map(|d| d.id).collect();
    let seqs = seqs_of(&store.accept(vec![new], T0).await.unwrap());
    let later = T0 + MINUTE;
    store.settle(settled(seqs[0], T0, 503, Next::Retry { due: later })).await.unwrap();
    assert_eq!(due_ids(&store, "x", T0).await, [0; 0]);
    let waiting = store.due_by("uid-x", later, 9).await.unwrap().remove(0);
    assert_eq!(
        (waiting.attempts, waiting.due, waiting.id),
        (1, later, ids[0]),
        "the same id at every attempt"
    );
    store.settle(settled(seqs[0], later, 200, Next::Delivered)).await.unwrap();
    store.settle(settled(seqs[1], T0, 400, Next::Dead { reason: "Terminal" })).await.unwrap();
    store
        .settle(Settlement {
            delivery: seqs[2],
            at: later,
            attempt: None,
            next: Next::Dead { reason: "MaxAge" },
            progress: None,
        })
        .await
        .unwrap();
    assert_eq!(store.backlog().await.unwrap(), []);
    let record = |n: usize| store.delivery("shop", ids[n]).map(|r| r.unwrap().unwrap());
    let x = record(0).await;
    assert_eq!((x.seq, x.id, &x.hook, x.event_id.as_str()), (seqs[0], ids[0], &hook("x"), "a"));
    assert_eq!((x.state, &x.reason, x.accepted, x.due), (State::Delivered, &None, T0, None));
    assert_eq!(x.attempts, [attempt(T0, 503), attempt(later, 200)]);
    let y = record(1).await;
    assert_eq!((y.state, y.reason.as_deref(), y.attempts.len()), (State::Dead, Some("Terminal"), 1));
    let z = record(2).await;
    assert_eq!((z.state, z.reason.as_deref(), z.attempts.len()), (State::Dead, Some("MaxAge"), 0));
}

pub(super) async fn settling_what_is_finished_changes_nothing<S: Subject>() {
    let place = S::new();
    let store = place.open().await;
    let new = new("a", &["x"], T0);
    let id = new.deliveries[0].id;
    let seq = seqs_of(&store.accept(vec![new], T0).await.unwrap())[0];
    store.settle(settled(seq, T0, 200, Next::Delivered)).await.unwrap();
    let before = store.delivery("shop", id).await.unwrap();
    store.settle(settled(seq, T0, 500, Next::Retry { due: T0 })).await.unwrap();
    store.settle(settled(seq, T0, 500, Next::Dead { reason: "MaxAge" })).await.unwrap();
    store.settle(settled(seq + 999, T0, 200, Next::Delivered)).await.unwrap();
    assert_eq!(store.delivery("shop", id).await.unwrap(), before);
    assert_eq!(due_ids(&store, "x", LATE).await, [0; 0]);
}

pub(super) async fn a_delivery_belongs_to_its_namespace<S: Subject>() {
    let place = S::new();
    let store = place.open().await;
    let new = new("a", &["x"], T0);
    let id = new.deliveries[0].id;
    store.accept(vec![new], T0).await.unwrap();
    assert!(store.delivery("shop", id).await.unwrap().is_some());
    assert_eq!(store.delivery("other", id).await.unwrap(), None);
    assert_eq!(store.delivery("shop", Uuid::nil()).await.unwrap(), None);
    assert!(store.event_of("shop", id).await.unwrap().is_some());
    assert_eq!(store.event_of("other", id).await.unwrap(), None);
}

pub(super) async fn sweep_keeps_what_must_be_kept<S: Subject>() {
    let place = S::new();
    let store = place.open().await;
    let new = new("a", &["done", "dead", "waits"], T0);
    let ids: Vec<_> = new.deliveries.iter().map(|d| d.id).collect();
    let seqs = seqs_of(&store.accept(vec![new], T0).await.unwrap());
    store.settle(settled(seqs[0], T0, 200, Next::Delivered)).await.unwrap();
    store.settle(settled(seqs[1], T0, 400, Next::Dead { reason: "Terminal" })).await.unwrap();
    let ended = T0 + attempt(T0, 200).duration;
    let left = async |now: Millis| {
        sweep_all(&store, now).await;
        let mut left = Vec::new();
        for id in &ids {
            left.push(store.delivery("shop", *id).await.unwrap().is_some());
        }
        left
    };
    assert_eq!(left(Millis((ended + RETENTION.history_age).0 - 1)).await, [true, true, true]);
    assert_eq!(left(ended + RETENTION.history_age).await, [false, true, true]);
    assert_eq!(left(Millis((ended + RETENTION.dead_letter_age).0 - 1)).await, [false, true, true]);
    assert_eq!(left(ended + RETENTION.dead_letter_age).await, [false, false, true]);
    assert_eq!(left(LATE).await, [false, false, true], "what waits is never swept");
    assert_eq!(store.due_by("uid-waits", LATE, 9).await.unwrap()[0].event, event("a"));
}

pub(super) async fn sweep_is_bounded_and_tells_when_there_is_more<S: Subject>() {
    let place = S::new();
    let store = place.open().await;
    let events: Vec<_> = (0..1500).map(|n| new(&format!("e{n}"), &["x"], T0)).collect();
    let ids: Vec<_> = events.iter().map(|e| e.deliveries[0].id).collect();
    for accepted in store.accept(events, T0).await.unwrap() {
        store.settle(settled(accepted.deliveries[0].seq, T0, 200, Next::Delivered)).now_or_never();
        store.settle(settled(accepted.deliveries[0].seq, T0, 200, Next::Delivered)).await.unwrap();
    }
    assert!(store.sweep(RETENTION, LATE).await.unwrap(), "there is more");
    let mut left = 0;
    for id in &ids {
        left += usize::from(store.delivery("shop", *id).await.unwrap().is_some());
    }
    assert!(left > 0 && left < ids.len(), "{left}");
    sweep_all(&store, LATE).await;
    for id in &ids {
        assert_eq!(store.delivery("shop", *id).await.unwrap(), None);
    }
}

pub(super) async fn a_key_outlives_its_event_history<S: Subject>() {
    let place = S::new();
    let store = place.open().await;
    let window = RETENTION.history_age * 3;
    let keyed = |hooks: &[&str]| NewEvent { dedup: key(1, window), ..new("a", hooks, T0) };
    let first = store.accept(vec![keyed(&[])], T0).await.unwrap().remove(0);
    let now = T0 + RETENTION.history_age * 2;
    sweep_all(&store, now).await;
    let again = store.accept(vec![keyed(&["x"])], now).await.unwrap().remove(0);
    assert_eq!((again.duplicate, again.seq, again.event_id), (true, first.seq, first.event_id));
    sweep_all(&store, T0 + window).await;
    let fresh = store.accept(vec![keyed(&["x"])], T0 + window).await.unwrap().remove(0);
    assert!(!fresh.duplicate && fresh.seq > first.seq);
}

pub(super) async fn a_reopened_store_has_it_all<S: Subject>() {
    let place = S::new();
    let store = place.open().await;
    let first = NewEvent { dedup: key(1, HOUR), ..new("a", &["x", "y"], T0) };
    let id = first.deliveries[0].id;
    let accepted = store.accept(vec![first], T0).await.unwrap().remove(0);
    store
        .settle(settled(accepted.deliveries[0].seq, T0, 500, Next::Retry { due: T0 + MINUTE }))
        .await
        .unwrap();
    let due = store.due_by("uid-x", LATE, 9).await.unwrap();
    let record = store.delivery("shop", id).await.unwrap();
    let backlog = store.backlog().await.unwrap();
    drop(store);
    let store = place.open().await;
    assert_eq!(store.due_by("uid-x", LATE, 9).await.unwrap(), due);
    assert_eq!(store.delivery("shop", id).await.unwrap(), record);
    assert_eq!(store.backlog().await.unwrap(), backlog);
    let again = NewEvent { dedup: key(1, HOUR), ..new("b", &["x"], T0) };
    let mut want = Accepted { duplicate: true, ..accepted };
    want.deliveries[0].fate = Fate::Pending { due: T0 + MINUTE, suppressed: 0 };
    assert_eq!(store.accept(vec![again], T0).await.unwrap(), [want], "as they stand now");
}

pub(super) async fn close_commits_what_is_queued<S: Subject>() {
    let place = S::new();
    let store = Arc::new(place.open().await);
    let calls: Vec<_> = (0..100)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.accept(vec![new(&format!("e{n}"), &["x"], T0)], T0).await })
        })
        .collect();
    tokio::task::yield_now().await;
    futures::join!(store.close(), store.close());
    let mut accepted = 0;
    for call in calls {
        match call.await.unwrap() {
            Ok(_) => accepted += 1,
            Err(e) => assert!(matches!(e, StoreError::Closed), "{e}"),
        }
    }
    let closed = |e: StoreError| assert!(matches!(e, StoreError::Closed), "{e}");
    closed(store.accept(vec![new("z", &["x"], T0)], T0).await.unwrap_err());
    closed(store.settle(settled(1, T0, 200, Next::Delivered)).await.unwrap_err());
    closed(store.due_by("uid-x", T0, 1).await.unwrap_err());
    closed(store.sweep(RETENTION, LATE).await.unwrap_err());
    assert!(store.failed().now_or_never().is_none(), "to close is no failure");
    // The place is free while the closed store still lives.
    let store = place.open().await;
    assert_eq!(due_ids(&store, "x", LATE).await.len(), accepted);
}

pub(super) async fn a_caller_who_goes_away_leaves_all_or_nothing<S: Subject>() {
    let place = S::new();
    let store = place.open().await;
    for n in 0..20 {
        let pair = vec![new(&format!("a{n}"), &["x"], T0), new(&format!("b{n}"), &["x"], T0)];
        drop(store.accept(pair, T0).now_or_never());
    }
    store.accept(vec![new("end", &["y"], T0)], T0).await.unwrap();
    assert_eq!(due_ids(&store, "x", T0).await.len() % 2, 0);
}
