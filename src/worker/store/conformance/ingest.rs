//! Accepting, duplicates, settling, sweeping, reopening, closing.

use super::*;
use crate::core::delivery_reason::DeliveryReason;

pub(in super::super) async fn sequence_numbers_are_never_reused<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    let first = store.accept(vec![new("a", &["x"], T0), new("b", &["x"], T0)], T0).await.unwrap();
    for seq in seqs_of(&first) {
        store.settle(settled(seq, T0, 200, NextStep::Delivered)).await.unwrap();
    }
    sweep_all(&store, LATE).await;
    drop(store);
    let store = subject.open().await;
    let next = store.accept(vec![new("c", &["x"], T0)], LATE).await.unwrap().remove(0);
    assert!(first[0].seq < first[1].seq && first[1].seq < next.seq, "{first:?} {next:?}");
    assert!(first[1].deliveries[0].seq < next.deliveries[0].seq, "{first:?} {next:?}");
}

pub(in super::super) async fn event_data_is_returned_unchanged<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    let mut odd = Event::clone(&event_with(
        "ö\u{1F980}",
        "{\"b\": 1.50, \"a\":12345678901234567890123 ,\"s\":\"\\u0000é\"}",
    ));
    odd.origin = Origin::Relay("a-hook".into());
    odd.attributes.insert("flag".into(), true.into());
    odd.attributes.insert("n".into(), (-7).into());
    odd.attributes.insert("s".into(), "x\"y".into());
    let odd = Arc::new(odd);
    let deliveries = vec![delivery("x", T0)];
    let new = NewEvent { event: odd.clone(), dedup: None, deliveries };
    let accepted = store.accept(vec![new], T0).await.unwrap();
    let back = store.due_by("uid-x", T0, 9).await.unwrap().remove(0);
    assert_eq!(back.event, odd);
    assert_eq!([back.id], *ids_of(&accepted));
    assert_eq!(back.id.get_version_num(), 8);
    let big = format!("\"{}\"", "x".repeat(1 << 20));
    let deliveries = vec![delivery("big", T0)];
    let event = event_with("big", &big);
    store.accept(vec![NewEvent { event, dedup: None, deliveries }], T0).await.unwrap();
    assert_eq!(store.due_by("uid-big", T0, 9).await.unwrap()[0].event.data.get(), big);
}

/// The form of the data is stored with the event, and no attribute shows it.
pub(in super::super) async fn event_data_of_every_form_is_returned<S: Subject>() {
    use crate::core::event::{DataForm, EventData};
    let subject = S::new();
    let mut store = subject.open().await;
    let forms = [DataForm::Inline, DataForm::Absent, DataForm::Encoded, DataForm::Bytes];
    let mut events = Vec::new();
    for (number, form) in forms.into_iter().enumerate() {
        for has_attributes in [false, true] {
            let mut event = Event::clone(&event_with(&format!("{number}-{has_attributes}"), "\"AA==\""));
            event.data = EventData::new(event.data.view().to_owned(), form);
            if has_attributes {
                event.attributes.insert("datacontenttype".into(), "image/png".into());
            }
            events.push(Arc::new(event));
        }
    }
    let new = events.iter().map(|event| NewEvent {
        event: event.clone(),
        dedup: None,
        deliveries: vec![delivery("x", T0)],
    });
    store.accept(new.collect(), T0).await.unwrap();
    for _ in 0..2 {
        let back = store.due_by("uid-x", T0, 99).await.unwrap();
        assert_eq!(back.into_iter().map(|pending| pending.event).collect::<Vec<_>>(), events);
        store.close().await;
        store = subject.open().await;
    }
}

pub(in super::super) async fn duplicates_within_the_window<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    let keyed = |id: &str| NewEvent { dedup: key(1, HOUR), ..new(id, &["x", "y"], T0) };
    let first = store.accept(vec![keyed("a")], T0).await.unwrap().remove(0);
    assert!(!first.duplicate && first.deliveries.len() == 2);
    let last_ms = Millis((T0 + HOUR).0 - 1);
    let again = store.accept(vec![keyed("b")], last_ms).await.unwrap().remove(0);
    assert_eq!(again, AcceptedEvent { duplicate: true, ..first.clone() });
    assert_eq!(due_ids(&store, "x", LATE).await.len(), 1, "nothing was stored for the duplicate");
    // The window starts at the original event, and its end is exclusive.
    let fresh = store.accept(vec![keyed("c")], T0 + HOUR).await.unwrap().remove(0);
    assert!(!fresh.duplicate && fresh.event_id == "c" && fresh.seq > first.seq);
    let again = store.accept(vec![keyed("d")], T0 + HOUR + MINUTE).await.unwrap().remove(0);
    assert_eq!((again.duplicate, again.seq), (true, fresh.seq));
    // Without a key there is no duplicate.
    let plain = store.accept(vec![new("a", &["x"], T0)], T0).await.unwrap().remove(0);
    assert!(!plain.duplicate);
}

pub(in super::super) async fn duplicates_within_one_call<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    let keyed = |id: &str, n| NewEvent { dedup: key(n, HOUR), ..new(id, &["x"], T0) };
    let got = store.accept(vec![keyed("a", 1), keyed("b", 1), keyed("c", 2)], T0).await.unwrap();
    assert_eq!(got.iter().map(|a| a.duplicate).collect::<Vec<_>>(), [false, true, false]);
    assert_eq!(
        (got[1].seq, &got[1].event_id, &got[1].deliveries),
        (got[0].seq, &"a".to_owned(), &got[0].deliveries)
    );
    assert_eq!(due_ids(&store, "x", T0).await.len(), 2);
}

pub(in super::super) async fn duplicates_at_the_same_time<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    let calls = (0..50).map(|n| {
        store.accept(vec![NewEvent { dedup: key(1, HOUR), ..new(&format!("e{n}"), &["x"], T0) }], T0)
    });
    let got: Vec<_> = join_all(calls).await.into_iter().map(|r| r.unwrap().remove(0)).collect();
    let first: Vec<_> = got.iter().filter(|a| !a.duplicate).cloned().collect();
    assert_eq!(first.len(), 1);
    assert!(got.iter().all(|a| (a.seq, &a.event_id) == (first[0].seq, &first[0].event_id)));
    assert_eq!(due_ids(&store, "x", T0).await, seqs_of(&first));
}

pub(in super::super) async fn events_of_one_call_commit_all_or_none<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    let good = NewEvent { dedup: key(1, HOUR), ..new("a", &["x"], T0) };
    let mut bad = new("b", &["x"], T0);
    // Two deliveries cannot have one `webhook-id`.
    bad.deliveries.push(bad.deliveries[0].clone());
    let refused = store.accept(vec![good.clone(), bad], T0).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    assert_eq!(due_ids(&store, "x", LATE).await, [0; 0]);
    assert_eq!(store.backlog().await.unwrap(), []);
    // Neither the key nor the row id of the hook is kept.
    let got = store.accept(vec![good], T0).await.unwrap().remove(0);
    assert!(!got.duplicate);
    assert_eq!(due_ids(&store, "x", LATE).await, seqs_of([&got]));
    assert!(store.accept(Vec::new(), T0).await.unwrap().is_empty());
}

pub(in super::super) async fn a_refused_operation_fails_alone<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
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

pub(in super::super) async fn settlements_and_history<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    let accepted = store.accept(vec![new("a", &["x", "y", "z"], T0)], T0).await.unwrap();
    let (ids, seqs) = (ids_of(&accepted), seqs_of(&accepted));
    let later = T0 + MINUTE;
    store.settle(settled(seqs[0], T0, 503, NextStep::Retry { due: later })).await.unwrap();
    assert_eq!(due_ids(&store, "x", T0).await, [0; 0]);
    let pending = store.due_by("uid-x", later, 9).await.unwrap().remove(0);
    assert_eq!(
        (pending.attempts, pending.due, pending.id),
        (1, later, ids[0]),
        "the same id at every attempt"
    );
    store.settle(settled(seqs[0], later, 200, NextStep::Delivered)).await.unwrap();
    store
        .settle(settled(seqs[1], T0, 400, NextStep::Dead { reason: DeliveryReason::TerminalStatus }))
        .await
        .unwrap();
    store
        .settle(Settlement {
            delivery: seqs[2],
            at: later,
            attempt: None,
            next: NextStep::Dead { reason: DeliveryReason::MaxAge },
            progress: None,
            exchange: ExchangeChange::Nothing,
        })
        .await
        .unwrap();
    assert_eq!(store.backlog().await.unwrap(), []);
    let record = |n: usize| store.delivery("shop", ids[n]).map(|r| r.unwrap().unwrap());
    let x = record(0).await;
    assert_eq!((x.seq, x.id, &x.hook, x.event_id.as_str()), (seqs[0], ids[0], &hook("x"), "a"));
    assert_eq!((x.state, &x.reason, x.accepted, x.due), (DeliveryState::Delivered, &None, T0, None));
    assert_eq!(x.attempts, [attempt(T0, 503), attempt(later, 200)]);
    let y = record(1).await;
    assert_eq!(
        (y.state, y.reason.as_deref(), y.attempts.len()),
        (DeliveryState::Dead, Some("TerminalStatus"), 1)
    );
    let z = record(2).await;
    assert_eq!((z.state, z.reason.as_deref(), z.attempts.len()), (DeliveryState::Dead, Some("MaxAge"), 0));
}

pub(in super::super) async fn settling_a_finished_delivery_changes_nothing<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    let accepted = store.accept(vec![new("a", &["x"], T0)], T0).await.unwrap();
    let (id, seq) = (ids_of(&accepted)[0], seqs_of(&accepted)[0]);
    store.settle(settled(seq, T0, 200, NextStep::Delivered)).await.unwrap();
    let before = store.delivery("shop", id).await.unwrap();
    store.settle(settled(seq, T0, 500, NextStep::Retry { due: T0 })).await.unwrap();
    store.settle(settled(seq, T0, 500, NextStep::Dead { reason: DeliveryReason::MaxAge })).await.unwrap();
    store.settle(settled(seq + 999, T0, 200, NextStep::Delivered)).await.unwrap();
    assert_eq!(store.delivery("shop", id).await.unwrap(), before);
    assert_eq!(due_ids(&store, "x", LATE).await, [0; 0]);
}

pub(in super::super) async fn a_delivery_belongs_to_its_namespace<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    let id = ids_of(&store.accept(vec![new("a", &["x"], T0)], T0).await.unwrap())[0];
    assert!(store.delivery("shop", id).await.unwrap().is_some());
    assert_eq!(store.delivery("other", id).await.unwrap(), None);
    assert_eq!(store.delivery("shop", Uuid::nil()).await.unwrap(), None);
    assert!(store.event_of("shop", id).await.unwrap().is_some());
    assert_eq!(store.event_of("other", id).await.unwrap(), None);
}

pub(in super::super) async fn sweep_keeps_pending_and_young_deliveries<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    let accepted = store.accept(vec![new("a", &["done", "dead", "pending"], T0)], T0).await.unwrap();
    let (ids, seqs) = (ids_of(&accepted), seqs_of(&accepted));
    store.settle(settled(seqs[0], T0, 200, NextStep::Delivered)).await.unwrap();
    store
        .settle(settled(seqs[1], T0, 400, NextStep::Dead { reason: DeliveryReason::TerminalStatus }))
        .await
        .unwrap();
    let finished = T0 + attempt(T0, 200).duration;
    let remaining = async |now: Millis| {
        sweep_all(&store, now).await;
        let mut remaining = Vec::new();
        for id in &ids {
            remaining.push(store.delivery("shop", *id).await.unwrap().is_some());
        }
        remaining
    };
    assert_eq!(remaining(Millis((finished + RETENTION.history_age).0 - 1)).await, [true, true, true]);
    assert_eq!(remaining(finished + RETENTION.history_age).await, [false, true, true]);
    assert_eq!(remaining(Millis((finished + RETENTION.dead_letter_age).0 - 1)).await, [false, true, true]);
    assert_eq!(remaining(finished + RETENTION.dead_letter_age).await, [false, false, true]);
    assert_eq!(remaining(LATE).await, [false, false, true], "pending deliveries are never swept");
    assert_eq!(store.due_by("uid-pending", LATE, 9).await.unwrap()[0].event, event("a"));
}

pub(in super::super) async fn sweep_is_bounded_and_reports_remaining_rows<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    let events: Vec<_> = (0..1500).map(|n| new(&format!("e{n}"), &["x"], T0)).collect();
    let accepted = store.accept(events, T0).await.unwrap();
    let ids = ids_of(&accepted);
    for accepted in accepted {
        store.settle(settled(accepted.deliveries[0].seq, T0, 200, NextStep::Delivered)).now_or_never();
        store.settle(settled(accepted.deliveries[0].seq, T0, 200, NextStep::Delivered)).await.unwrap();
    }
    assert!(store.sweep(RETENTION, LATE).await.unwrap(), "there are more");
    let mut remaining = 0;
    for id in &ids {
        remaining += usize::from(store.delivery("shop", *id).await.unwrap().is_some());
    }
    assert!(remaining > 0 && remaining < ids.len(), "{remaining}");
    sweep_all(&store, LATE).await;
    for id in &ids {
        assert_eq!(store.delivery("shop", *id).await.unwrap(), None);
    }
}

pub(in super::super) async fn a_key_outlives_its_event_history<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
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

pub(in super::super) async fn a_reopened_store_has_all_data<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    let first = NewEvent { dedup: key(1, HOUR), ..new("a", &["x", "y"], T0) };
    let accepted = store.accept(vec![first], T0).await.unwrap().remove(0);
    let id = accepted.deliveries[0].id;
    store
        .settle(settled(accepted.deliveries[0].seq, T0, 500, NextStep::Retry { due: T0 + MINUTE }))
        .await
        .unwrap();
    let due = store.due_by("uid-x", LATE, 9).await.unwrap();
    let record = store.delivery("shop", id).await.unwrap();
    let backlog = store.backlog().await.unwrap();
    drop(store);
    let store = subject.open().await;
    assert_eq!(store.due_by("uid-x", LATE, 9).await.unwrap(), due);
    assert_eq!(store.delivery("shop", id).await.unwrap(), record);
    assert_eq!(store.backlog().await.unwrap(), backlog);
    let again = NewEvent { dedup: key(1, HOUR), ..new("b", &["x"], T0) };
    let mut want = AcceptedEvent { duplicate: true, ..accepted };
    want.deliveries[0].fate = Fate::Pending { due: T0 + MINUTE, suppressed: 0 };
    assert_eq!(store.accept(vec![again], T0).await.unwrap(), [want], "in their present state");
}

pub(in super::super) async fn close_commits_queued_operations<S: Subject>() {
    let subject = S::new();
    let store = Arc::new(subject.open().await);
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
    closed(store.settle(settled(1, T0, 200, NextStep::Delivered)).await.unwrap_err());
    closed(store.due_by("uid-x", T0, 1).await.unwrap_err());
    closed(store.sweep(RETENTION, LATE).await.unwrap_err());
    assert!(store.failed().now_or_never().is_none(), "closing is no failure");
    // The lock is released although the closed store still exists.
    let store = subject.open().await;
    assert_eq!(due_ids(&store, "x", LATE).await.len(), accepted);
}

pub(in super::super) async fn a_dropped_accept_commits_all_or_none<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    for n in 0..20 {
        let pair = vec![new(&format!("a{n}"), &["x"], T0), new(&format!("b{n}"), &["x"], T0)];
        drop(store.accept(pair, T0).now_or_never());
    }
    store.accept(vec![new("end", &["y"], T0)], T0).await.unwrap();
    assert_eq!(due_ids(&store, "x", T0).await.len() % 2, 0);
}
