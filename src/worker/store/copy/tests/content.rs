//! A store with everything that a copy must keep, and what a store answers about it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use uuid::Uuid;

use super::*;
use crate::core::delivery_reason::DeliveryReason;
use crate::core::event::{DataForm, Event, EventData, Origin};
use crate::core::fast_map::FastSet;
use crate::core::gate::{ChangeCheck, GateRequest, Snooze, SnoozeCheck};

pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
/// When the store was filled.
pub(super) const NOW: Millis = Millis(T0.0 + 3 * 24 * 3_600_000);
/// Deliveries that are delivered at once: more than one slice of segments.
const DELIVERED: usize = 1300;

/// Texts that PostgreSQL cannot store as they are.
const STRANGE: &str = "nul \0 escape \u{F8FF} \u{F8FF}0 crab \u{1F980}";

fn strange_event(id: &str) -> Arc<Event> {
    let view = RawValue::from_string(r#"{"text":"\u0000 ","n":1.50}"#.into()).unwrap();
    Arc::new(Event {
        id: id.into(),
        namespace: "shop".into(),
        origin: Origin::Api,
        source: STRANGE.into(),
        event: STRANGE.into(),
        time: "2023-11-14T22:13:20Z".into(),
        data: EventData::new(view, DataForm::Inline),
        attributes: BTreeMap::from([("subject".into(), STRANGE.into())]),
    })
}

/// Gates with one group each.
pub(super) fn gated(id: &str, value: u8) -> NewEvent {
    let rule = Snooze { period: 10 * MINUTE, trailing: true };
    let mut new = new(id, &["gated"], NOW);
    for delivery in &mut new.deliveries {
        delivery.gate_request = GateRequest {
            change: Some(ChangeCheck { key: [7; 16], value: [value; 16] }),
            snooze: Some(SnoozeCheck { key: [8; 16], rule }),
        };
    }
    new
}

/// An event with an idempotency key.
pub(super) fn keyed(id: &str, n: u8, window: Duration) -> NewEvent {
    NewEvent { dedup: key(n, window), ..new(id, &["a"], NOW) }
}

/// An event of the namespace `bank` for its hook with this uid.
fn of_bank(id: &str, uid: &str) -> NewEvent {
    let mut new = new(id, &["a"], NOW);
    Arc::make_mut(&mut new.event).namespace = "bank".into();
    for delivery in &mut new.deliveries {
        delivery.hook = HookId { uid: uid.into(), namespace: "bank".into(), name: "transfers".into() };
    }
    new
}

async fn deliver(store: &impl Store, accepted: &[AcceptedEvent], now: Millis) {
    let settlements = seqs_of(accepted).into_iter().map(|seq| settled(seq, now, 200, NextStep::Delivered));
    store.settle_many(settlements.collect()).await.unwrap();
}

fn exchange() -> Exchange {
    Exchange {
        request: SentRequest {
            method: "POST".into(),
            url: "http://receiver.example/".into(),
            headers: vec![KeptHeader { name: "x".into(), value: "y\0".into() }],
            body: KeptBody { text: "b\0".into(), truncated: true },
        },
        response: None,
    }
}

/// Fills a store with deliveries in every state, and everything that belongs to them.
pub(super) async fn fill(store: &impl Store) {
    store.claim_installation("the installation", false).await.unwrap();
    for (name, uid) in [("shop", "shop-1"), ("bank", "bank-1"), ("empty", "empty-1")] {
        store.set_namespace_uid(name, Some(uid)).await.unwrap();
    }
    // Retention removes the data of this event, and its key outlives it.
    let old = store.accept(vec![keyed("old", 9, 30 * DAY)], T0).await.unwrap();
    deliver(store, &old, T0).await;
    while store.sweep(RETENTION, NOW).await.unwrap() {}
    // The data of a deleted namespace, and that of the present one.
    let deleted = store.accept(vec![of_bank("of the deleted one", "uid-bank-1")], NOW).await.unwrap();
    deliver(store, &deleted, NOW).await;
    store.set_namespace_uid("bank", Some("bank-2")).await.unwrap();
    store.accept(vec![of_bank("of the present one", "uid-bank-2")], NOW).await.unwrap();

    let events: Vec<NewEvent> = (0..DELIVERED).map(|n| new(&format!("d{n}"), &["a", "b"], NOW)).collect();
    for events in events.chunks(100) {
        let accepted = store.accept(events.to_vec(), NOW).await.unwrap();
        deliver(store, &accepted, NOW + Duration::from_millis(250)).await;
    }
    let mut strange = new(STRANGE, &["a", "pending"], NOW);
    strange.event = strange_event(STRANGE);
    store.accept(vec![strange], NOW).await.unwrap();
    let unmatched =
        NewEvent { event: strange_event("unmatched"), dedup: key(1, DAY), deliveries: Vec::new() };
    store.accept(vec![unmatched], NOW).await.unwrap();
    store
        .accept(
            vec![keyed("keyed", 2, DAY), keyed("short", 3, 2 * MINUTE), keyed("brief", 6, 2 * MINUTE)],
            NOW,
        )
        .await
        .unwrap();

    // Retried with progress and a kept response, scheduled, postponed, dead, cancelled, dead on arrival.
    let retried = store.accept(vec![new("retried", &["pending"], NOW)], NOW).await.unwrap();
    let mut settlement = settled(seqs_of(&retried)[0], NOW, 503, NextStep::Retry { due: NOW + 5 * MINUTE });
    settlement.progress = Some(vec![0, 1, 255]);
    settlement.exchange = ExchangeChange::Replace(Box::new(exchange()));
    if let Some(attempt) = &mut settlement.attempt {
        attempt.detail = Some(STRANGE.into());
    }
    store.settle(settlement).await.unwrap();
    store.accept(vec![new("scheduled", &["pending"], NOW + DAY)], NOW).await.unwrap();
    let postponed = store.accept(vec![new("postponed", &["pending"], NOW)], NOW).await.unwrap();
    let postponed = Settlement {
        attempt: None,
        ..settled(seqs_of(&postponed)[0], NOW, 503, NextStep::Retry { due: NOW + MINUTE })
    };
    store.settle(postponed).await.unwrap();
    for (id, reason) in [("dead", DeliveryReason::MaxAttempts), ("rejected", DeliveryReason::TerminalStatus)]
    {
        let accepted =
            store.accept(vec![NewEvent { dedup: key(id.len() as u8, DAY), ..new(id, &["a"], NOW) }], NOW);
        let seq = seqs_of(&accepted.await.unwrap())[0];
        store.settle(settled(seq, NOW, 503, NextStep::Retry { due: NOW })).await.unwrap();
        store.settle(settled(seq, NOW + MINUTE, 500, NextStep::Dead { reason })).await.unwrap();
    }
    let cancelled = store.accept(vec![new("cancelled", &["a"], NOW + DAY)], NOW).await.unwrap();
    store.cancel("shop", ids_of(&cancelled)[0], NOW).await.unwrap();
    let mut dead = new("dead on arrival", &["a"], NOW);
    dead.deliveries[0].dead = Some(DeliveryReason::HookDeleted);
    store.accept(vec![dead], NOW).await.unwrap();

    // Replayed ones: pending again, and delivered again.
    let replayed = store.accept(vec![new("replayed", &["a", "b"], NOW)], NOW).await.unwrap();
    deliver(store, &replayed, NOW).await;
    for id in ids_of(&replayed) {
        store.replay("shop", id, NOW + MINUTE).await.unwrap();
    }
    store.settle(settled(seqs_of(&replayed)[0], NOW + MINUTE, 204, NextStep::Delivered)).await.unwrap();

    // Passed, unchanged, and a candidate that waits for the end of the quiet period.
    for (id, value) in [("passed", 1), ("unchanged", 1), ("candidate", 2)] {
        store.accept(vec![gated(id, value)], NOW + Duration::from_secs(1)).await.unwrap();
    }
    store.set_held(&hook("held"), true, NOW).await.unwrap();
    store.accept(vec![new("for a held hook", &["held"], NOW)], NOW + MINUTE).await.unwrap();
    store.set_held(&hook("pending"), true, NOW).await.unwrap();
    store.set_held(&hook("pending"), false, NOW + MINUTE).await.unwrap();

    // Replays: running, cancelled, done.
    let filter = |event: Option<&str>| DeliveryFilter {
        namespace: "shop".into(),
        hook: Some("b".into()),
        event: event.map(ToOwned::to_owned),
        ..DeliveryFilter::default()
    };
    store.start_replay(filter(Some("d7")), 1000, NOW + MINUTE).await.unwrap();
    let cancelled = store.start_replay(filter(None), 1, NOW + MINUTE).await.unwrap();
    store.cancel_replay("shop", cancelled.id, NOW + MINUTE).await.unwrap();
    store.start_replay(filter(None), 3, NOW + MINUTE).await.unwrap();
    store.step_replays(NOW + 2 * MINUTE).await.unwrap();
    // Nothing reads or changes these before the end, so the embedded store has given them no rows.
    let noted =
        store.accept(vec![new("noted", &["a", "b"], NOW), new("settled", &["a"], NOW)], NOW).await.unwrap();
    deliver(store, &noted[1..], NOW).await;
}

/// Hooks of `fill`.
const HOOK_UIDS: [&str; 6] = ["uid-a", "uid-b", "uid-pending", "uid-gated", "uid-held", "uid-bank-2"];

/// What a store answers to every question, as text by question.
pub(super) async fn answers(store: &impl Store) -> BTreeMap<String, String> {
    let mut answers = BTreeMap::new();
    let mut add = |question: &str, answer: &dyn Debug| {
        answers.insert(question.to_owned(), format!("{answer:#?}"));
    };
    add("namespaces", &store.namespaces().await.unwrap());
    let times = store.stored_times().await.unwrap();
    add("times", &(times.newest_event, times.last_commit.is_some()));
    let stats = store.stats().await.unwrap();
    add(
        "stats",
        &(stats.pending, stats.pending_bytes, stats.largest_hook_bytes, stats.largest_namespace_bytes),
    );
    add("oldest, dead letters", &(stats.oldest, stats.dead_letters));
    add("dead letters", &store.dead_letters(T0, 100).await.unwrap());
    add("held hooks", &store.held_hooks().await.unwrap());
    add("next promotion", &store.next_promotion().await.unwrap());
    add("replays", &store.replays(ALL_NAMESPACES).await.unwrap());
    let mut backlog: Vec<String> =
        store.backlog().await.unwrap().iter().map(|hook| format!("{hook:?}")).collect();
    backlog.sort();
    add("backlog", &backlog);
    for uid in HOOK_UIDS {
        let stats = store.hook_stats(uid).await.unwrap();
        add(&format!("stats of {uid}"), &(stats.pending, stats.pending_bytes));
        add(&format!("next due of {uid}"), &store.next_due(uid, NOW).await.unwrap());
        add(&format!("due of {uid}"), &store.due_by(uid, NOW + 2 * DAY, 1000).await.unwrap());
        let limit = ReadLimit { rows: 10, bytes: usize::MAX, is_strict: false };
        let mut untried = store.newest_untried(uid, NOW + 2 * DAY, FastSet::default(), limit).await.unwrap();
        // The embedded store has none.
        untried.iter_mut().for_each(|pending| pending.epoch = None);
        add(&format!("untried of {uid}"), &untried);
    }
    let filter = DeliveryFilter { namespace: ALL_NAMESPACES.into(), ..DeliveryFilter::default() };
    let (mut deliveries, mut before) = (Vec::new(), None);
    loop {
        let page = store.list(filter.clone(), before, 500).await.unwrap();
        deliveries.extend(page.records);
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    // The listed ones, with little text for the many that are alike.
    for delivery in &deliveries {
        let (namespace, id) = (&*delivery.hook.namespace, delivery.id);
        add(&format!("delivery {id}"), delivery);
        if delivery.event_id.starts_with('d') && delivery.seq % 97 != 0 {
            continue;
        }
        add(&format!("delivery {id} alone"), &store.delivery(namespace, id).await.unwrap());
        add(&format!("state of {id}"), &store.state_after_change(namespace, id).await.unwrap());
        add(&format!("event of {id}"), &store.event_of(namespace, id).await.unwrap());
        add(&format!("exchange of {id}"), &store.exchange(namespace, id).await.unwrap());
        add(&format!("explanation of {id}"), &store.explain(namespace, &delivery.event_id).await.unwrap());
        assert_eq!(store.delivery("other", id).await.unwrap(), None);
    }
    for namespace in [ALL_NAMESPACES, "shop", "bank"] {
        let (mut events, mut before) = (Vec::new(), None);
        loop {
            let filter = EventFilter { namespace: namespace.into(), ..EventFilter::default() };
            let page = store.events(filter, before, 500, true).await.unwrap();
            events.extend(page.records);
            before = page.next;
            if before.is_none() {
                break;
            }
        }
        add(&format!("events of {namespace:?}"), &events);
    }
    for hook in ["a", "b", "gated"] {
        let filter =
            DeliveryFilter { namespace: "shop".into(), hook: Some(hook.into()), ..DeliveryFilter::default() };
        let (mut count, mut before) = (0, None);
        loop {
            let part = store.count_finished(filter.clone(), before, 10_000).await.unwrap();
            count += part.count;
            before = part.next;
            if before.is_none() {
                break;
            }
        }
        add(&format!("finished of {hook}"), &count);
    }
    assert_eq!(store.delivery("shop", Uuid::now_v7()).await.unwrap(), None);
    answers
}

/// Fails with the first question whose answers differ.
pub(super) fn assert_equal(found: &BTreeMap<String, String>, expected: &BTreeMap<String, String>) {
    for (question, expected) in expected {
        assert_eq!(found.get(question), Some(expected), "{question}");
    }
    assert_eq!(found.len(), expected.len());
}
