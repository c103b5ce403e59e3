//! Gates and their candidates: one clause of the contract for each test.

use super::*;
use crate::core::delivery_reason::DeliveryReason;

pub(in super::super) async fn snooze_drops_and_counts_suppressed<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    let gate_request = request(1, None, false);
    assert_eq!(accept_one(&store, gate_request, T0).await.2, pending_since(T0, 0));
    let (dropped, _, fate) = accept_one(&store, gate_request, T0).await;
    assert_eq!(fate, Fate::Dropped);
    assert_eq!(state_of(&store, dropped).await, (DeliveryState::Dropped, Some("Snoozed".into())));
    assert_eq!(
        accept_one(&store, request(2, None, false), T0).await.2,
        pending_since(T0, 0),
        "another group"
    );
    drop(store);
    let store = subject.open().await;
    let last = Millis((T0 + MINUTE).0 - 1);
    assert_eq!(accept_one(&store, gate_request, last).await.2, Fate::Dropped, "also after a restart");
    let then = T0 + MINUTE;
    let (_, seq, fate) = accept_one(&store, gate_request, then).await;
    assert_eq!(fate, pending_since(then, 2));
    let due = store.due_by("uid-x", then, 9).await.unwrap();
    assert_eq!(due.iter().find(|p| p.seq == seq).unwrap().suppressed, 2, "stored with the delivery");
    assert_eq!(
        accept_one(&store, gate_request, then + MINUTE).await.2,
        pending_since(then + MINUTE, 0),
        "the count restarts"
    );
}

pub(in super::super) async fn on_change_compares_with_the_last_accepted_value<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    assert_eq!(accept_one(&store, change(1), T0).await.2, pending_since(T0, 0));
    let (id, _, fate) = accept_one(&store, change(1), T0).await;
    assert_eq!((fate, state_of(&store, id).await.1.as_deref()), (Fate::Dropped, Some("Unchanged")));
    let (_, second, fate) = accept_one(&store, change(2), T0).await;
    assert_eq!(fate, pending_since(T0, 1));
    let (_, third, _) = accept_one(&store, change(1), T0).await;
    // The third delivery has set the memory since, so it stays.
    assert!(!settle_dead(&store, second, DeliveryReason::Gone, T0).await);
    assert_eq!(accept_one(&store, change(1), T0).await.2, Fate::Dropped);
    // The third delivery owns the memory: the same value passes again.
    settle_dead(&store, third, DeliveryReason::Gone, T0).await;
    assert_eq!(
        accept_one(&store, change(1), T0).await.2,
        pending_since(T0, 1),
        "the count of dropped deliveries remains"
    );
}

pub(in super::super) async fn a_trailing_candidate_is_promoted_when_the_period_ends<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    let gate_request = |value| request(1, Some(value), true);
    let end = T0 + MINUTE;
    accept_one(&store, gate_request(1), T0).await;
    let (older, ..) = accept_one(&store, gate_request(2), T0).await;
    let (newer, seq, fate) = accept_one(&store, gate_request(3), T0).await;
    assert_eq!(fate, Fate::Candidate { due: end });
    assert_eq!(state_of(&store, older).await, (DeliveryState::Dropped, Some("Superseded".into())));
    assert_eq!(state_of(&store, newer).await.0, DeliveryState::Pending);
    assert!(!due_ids(&store, "x", LATE).await.contains(&seq), "not before it is promoted");
    assert_eq!(store.next_due("uid-x", T0).await.unwrap(), None);
    assert_eq!(store.next_promotion().await.unwrap(), Some(end));
    assert_eq!(store.promote(Millis(end.0 - 1)).await.unwrap(), []);
    drop(store);
    let store = subject.open().await;
    let late = end + HOUR;
    assert_eq!(store.promote(late).await.unwrap(), [hook("x")]);
    let sent = store.due_by("uid-x", late, 9).await.unwrap().into_iter().find(|p| p.seq == seq).unwrap();
    assert_eq!((sent.due, sent.suppressed), (late, 1));
    assert_eq!(store.next_promotion().await.unwrap(), None);
    // The promotion set both memories and opened a new period.
    assert_eq!(accept_one(&store, gate_request(3), late).await.2, Fate::Dropped);
    assert_eq!(accept_one(&store, gate_request(4), late).await.2, Fate::Candidate { due: late + MINUTE });
}

pub(in super::super) async fn an_unchanged_event_supersedes_a_stale_candidate<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    accept_one(&store, request(1, Some(1), true), T0).await;
    let (stale, ..) = accept_one(&store, request(1, Some(2), true), T0).await;
    assert_eq!(accept_one(&store, request(1, Some(1), true), T0).await.2, Fate::Dropped);
    assert_eq!(state_of(&store, stale).await, (DeliveryState::Dropped, Some("Superseded".into())));
    assert_eq!(store.next_promotion().await.unwrap(), None);
    let end = T0 + MINUTE;
    assert_eq!(accept_one(&store, request(1, Some(3), true), end).await.2, pending_since(end, 2));
}

pub(in super::super) async fn a_candidate_is_promoted_at_once_when_its_predecessor_dies<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    let gate_request = request(1, None, true);
    let (_, first, _) = accept_one(&store, gate_request, T0).await;
    let (id, candidate, _) = accept_one(&store, gate_request, T0).await;
    assert!(!store.settle(settled(first, T0, 503, NextStep::Retry { due: T0 })).await.unwrap());
    let at = T0 + Duration::from_secs(9);
    assert!(settle_dead(&store, first, DeliveryReason::Gone, at).await, "the candidate became due");
    assert_eq!(store.due_by("uid-x", at, 9).await.unwrap().remove(0).seq, candidate);
    assert_eq!(
        accept_one(&store, gate_request, at + Duration::from_secs(59)).await.2,
        Fate::Candidate { due: at + MINUTE }
    );
    // The same after a cancellation.
    assert_eq!(store.cancel("shop", id, at).await.unwrap(), Some(hook("x")));
    assert_eq!(state_of(&store, id).await.0, DeliveryState::Cancelled);
    assert_eq!(store.due_by("uid-x", at, 9).await.unwrap().len(), 1);
    assert_eq!(store.next_promotion().await.unwrap(), None);
}

pub(in super::super) async fn accept_promotes_and_reports_hooks_to_notify<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    accept_one(&store, request(1, None, true), T0).await;
    accept_one(&store, request(1, None, true), T0).await;
    let got = store.accept(vec![new("other", &["y"], T0)], T0 + MINUTE).await.unwrap().remove(0);
    assert_eq!(got.hooks_to_notify, [hook("x")]);
    // The promotion came before the gates evaluated the next event of the group.
    assert_eq!(accept_one(&store, request(1, None, false), T0 + MINUTE).await.2, Fate::Dropped);
}

pub(in super::super) async fn a_cancelled_candidate_is_never_promoted<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    accept_one(&store, request(1, None, true), T0).await;
    let (id, ..) = accept_one(&store, request(1, None, true), T0).await;
    store.cancel("shop", id, T0).await.unwrap();
    assert_eq!(store.promote(LATE).await.unwrap(), []);
    assert_eq!(state_of(&store, id).await.0, DeliveryState::Cancelled);
}

pub(in super::super) async fn a_delivery_dead_on_arrival_is_stored_and_sets_no_gate_memory<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    let gate_request = request(1, Some(1), false);
    let dead = NewDelivery { gate_request, dead: Some(DeliveryReason::HookDeleted), ..delivery("x", T0) };
    let new = NewEvent { deliveries: vec![dead], ..new("e", &[], T0) };
    let got = store.accept(vec![new], T0).await.unwrap().remove(0);
    assert_eq!((got.deliveries[0].fate, got.kept()), (Fate::Dead, 1));
    let id = got.deliveries[0].id;
    assert_eq!(state_of(&store, id).await, (DeliveryState::Dead, Some("HookDeleted".into())));
    assert_eq!(due_ids(&store, "x", LATE).await, [0; 0]);
    assert_eq!(accept_one(&store, gate_request, T0).await.2, pending_since(T0, 0));
    assert_eq!(store.replay("shop", id, T0).await.unwrap(), Some(hook("x")));
    assert_eq!(due_ids(&store, "x", T0).await[0], got.deliveries[0].seq);
}
