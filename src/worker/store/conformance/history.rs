//! Revival, replays, queries, holds and transfers of deliveries: one clause of the contract for each test.

use super::*;
use crate::core::delivery_reason::DeliveryReason;

pub(in super::super) async fn a_duplicate_revives_deliveries_dead_of_age_or_attempts<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    let keyed = || NewEvent { dedup: key(1, HOUR), ..new("a", &["x", "y", "z"], T0) };
    let first = store.accept(vec![keyed()], T0).await.unwrap();
    let seqs = seqs_of(&first);
    store
        .settle(settled(seqs[0], T0, 503, NextStep::Dead { reason: DeliveryReason::MaxAttempts }))
        .await
        .unwrap();
    settle_dead(&store, seqs[1], DeliveryReason::TerminalStatus, T0).await;
    store.settle(settled(seqs[2], T0, 200, NextStep::Delivered)).await.unwrap();
    let now = T0 + MINUTE;
    let without = NewEvent { dedup: key(1, HOUR), ..new("a", &["y", "z"], T0) };
    let unmatched = store.accept(vec![without], now).await.unwrap().remove(0);
    assert!(
        unmatched.duplicate && unmatched.hooks_to_notify.is_empty(),
        "it does not match the dead hook: {unmatched:?}"
    );
    assert_eq!(unmatched.deliveries[0].fate, Fate::Dead);
    let again = store.accept(vec![keyed()], now).await.unwrap().remove(0);
    assert!(again.duplicate);
    let fates: Vec<_> = again.deliveries.iter().map(|d| d.fate).collect();
    assert_eq!(fates, [pending_since(now, 0), Fate::Dead, Fate::Ended]);
    assert_eq!(again.hooks_to_notify, [hook("x")]);
    let revived = store.due_by("uid-x", now, 9).await.unwrap().remove(0);
    assert_eq!((revived.seq, revived.attempts, revived.accepted, revived.replays), (seqs[0], 0, now, 0));
    let third = store.accept(vec![keyed()], now).await.unwrap().remove(0);
    assert!(third.hooks_to_notify.is_empty(), "once");
}

pub(in super::super) async fn a_replay_resets_attempts_and_keeps_the_id<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    let (id, seq, _) = accept_one(&store, request(1, None, false), T0).await;
    assert_eq!(store.replay("other", id, T0).await.unwrap(), None);
    store.replay("shop", id, T0 + MINUTE).await.unwrap();
    assert_eq!(
        store.due_by("uid-x", T0, 9).await.unwrap()[0].replays,
        0,
        "a pending delivery stays unchanged"
    );
    store.settle(settled(seq, T0, 200, NextStep::Delivered)).await.unwrap();
    let now = T0 + HOUR;
    let state = async |namespace: &str| store.state_after_change(namespace, id).await.unwrap();
    assert_eq!(state("shop").await, Some((seq, DeliveryState::Delivered)));
    store.replay("shop", id, now).await.unwrap();
    assert_eq!(state("shop").await, Some((seq, DeliveryState::Pending)));
    assert_eq!(state("other").await, None);
    let again = store.due_by("uid-x", now, 9).await.unwrap().remove(0);
    assert_eq!((again.id, again.attempts, again.accepted, again.replays), (id, 0, now, 1));
    store.settle(settled(seq, now, 503, NextStep::Retry { due: now })).await.unwrap();
    assert_eq!(store.due_by("uid-x", now, 9).await.unwrap()[0].attempts, 1);
    let record = store.delivery("shop", id).await.unwrap().unwrap();
    assert_eq!((record.attempts.len(), record.accepted), (2, T0), "the history remains");
    // A delivered delivery has set the memory: the death of its replay must not clear it.
    let gate_request = request(2, None, false);
    let (id, seq, _) = accept_one(&store, gate_request, now).await;
    store.settle(settled(seq, now, 200, NextStep::Delivered)).await.unwrap();
    store.replay("shop", id, now).await.unwrap();
    settle_dead(&store, seq, DeliveryReason::Gone, now).await;
    assert_eq!(accept_one(&store, gate_request, now).await.2, Fate::Dropped);
}

pub(in super::super) async fn a_replay_job_is_paced_and_survives_a_restart<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    let events: Vec<_> = (0..30).map(|n| new(&format!("e{n}"), &["x", "y"], T0)).collect();
    for seq in seqs_of(&store.accept(events, T0).await.unwrap()) {
        settle_dead(&store, seq, DeliveryReason::MaxAge, T0).await;
    }
    let filter =
        DeliveryFilter { namespace: "shop".into(), hook: Some("x".into()), ..DeliveryFilter::default() };
    let pending = DeliveryFilter { state: Some(DeliveryState::Pending), ..filter.clone() };
    assert!(matches!(store.start_replay(pending, 10, T0).await, Err(StoreError::Refused(_))));
    assert!(matches!(store.start_replay(filter.clone(), 0, T0).await, Err(StoreError::Refused(_))));
    let started = T0 + MINUTE;
    let filter = DeliveryFilter { state: Some(DeliveryState::Dead), ..filter };
    let replay = store.start_replay(filter.clone(), 10, started).await.unwrap();
    assert_eq!((&replay.filter, replay.rate, replay.replayed, replay.done), (&filter, 10, 0, false));
    let after = store.accept(vec![new("after", &["x"], started)], started).await.unwrap().remove(0);
    settle_dead(&store, after.deliveries[0].seq, DeliveryReason::MaxAge, started + MINUTE).await;
    assert_eq!(store.step_replays(started).await.unwrap(), []);
    let half = started + Duration::from_millis(500);
    assert_eq!(store.step_replays(half).await.unwrap(), [hook("x")]);
    assert_eq!(store.step_replays(half).await.unwrap(), [], "the rate is exhausted");
    assert_eq!(due_ids(&store, "x", LATE).await.len(), 5);
    drop(store);
    let store = subject.open().await;
    store.step_replays(half + HOUR).await.unwrap();
    assert_eq!(due_ids(&store, "x", LATE).await.len(), 15, "at most one second's worth");
    for n in 1..=3 {
        store.step_replays(half + HOUR + Duration::from_secs(n)).await.unwrap();
    }
    let done = store.replay_progress("shop", replay.id).await.unwrap().unwrap();
    assert_eq!((done.replayed, done.done), (30, true));
    assert_eq!(due_ids(&store, "y", LATE).await.len(), 0);
    assert_eq!(
        state_of(&store, store.list(filter, None, 1).await.unwrap().records[0].id).await.0,
        DeliveryState::Dead
    );
    assert_eq!(store.replay_progress("other", replay.id).await.unwrap(), None);
    store.step_replays(half + HOUR * 30).await.unwrap();
    assert_eq!(store.replay_progress("shop", replay.id).await.unwrap(), None, "forgotten after a day");
}

pub(in super::super) async fn a_replay_is_counted_listed_and_cancelled<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    let events: Vec<_> = (0..30).map(|n| new(&format!("e{n}"), &["x", "y"], T0)).collect();
    let seqs = seqs_of(&store.accept(events, T0).await.unwrap());
    for seq in &seqs[..50] {
        settle_dead(&store, *seq, DeliveryReason::MaxAge, T0).await;
    }
    let filter = |namespace: &str, hook: Option<&str>| DeliveryFilter {
        namespace: namespace.into(),
        hook: hook.map(Into::into),
        ..DeliveryFilter::default()
    };
    let count = async |filter: &DeliveryFilter, most| {
        let (mut total, mut before) = (0, None);
        loop {
            let counted = store.count_finished(filter.clone(), before, most).await.unwrap();
            assert!(counted.count <= most);
            (total, before) = (total + counted.count, counted.next);
            if before.is_none() {
                return total;
            }
        }
    };
    for most in [1, 7, 50, 100] {
        assert_eq!(count(&filter("shop", None), most).await, 50, "pending ones are not replayed");
        assert_eq!(count(&filter("shop", Some("x")), most).await, 25);
        assert_eq!(count(&filter("other", None), most).await, 0);
    }
    let (of_x, of_y) = (filter("shop", Some("x")), filter("shop", Some("y")));
    let first = store.start_replay(of_x, 10, T0).await.unwrap();
    let second = store.start_replay(of_y, 10, T0 + MINUTE).await.unwrap();
    let ids = async |namespace| -> Vec<_> {
        store.replays(namespace).await.unwrap().into_iter().map(|replay| replay.id).collect()
    };
    assert_eq!(ids("shop").await, [second.id, first.id], "newest first");
    assert!(ids("other").await.is_empty());
    let half = T0 + Duration::from_millis(500);
    store.step_replays(half).await.unwrap();
    assert_eq!(store.cancel_replay("other", first.id, half).await.unwrap(), None);
    let cancelled = store.cancel_replay("shop", first.id, half).await.unwrap().unwrap();
    assert_eq!((cancelled.replayed, cancelled.done, cancelled.cancelled), (5, true, true));
    for n in 0..5 {
        store.step_replays(T0 + HOUR + Duration::from_secs(n)).await.unwrap();
    }
    drop(store);
    let store = subject.open().await;
    assert_eq!(store.replay_progress("shop", first.id).await.unwrap(), Some(cancelled), "it stays cancelled");
    let done = store.replay_progress("shop", second.id).await.unwrap().unwrap();
    assert_eq!((done.replayed, done.done, done.cancelled), (25, true, false));
    assert_eq!(store.cancel_replay("shop", second.id, T0 + HOUR).await.unwrap(), Some(done), "it has ended");
}

pub(in super::super) async fn lists_and_explains<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    for n in 0..20_u64 {
        let at = T0 + HOUR * u32::try_from(3 * n).unwrap();
        let got = store.accept(vec![new(&format!("e{n}"), &["x", "y"], at)], at).await.unwrap();
        store.settle(settled(seqs_of(&got)[0], at, 200, NextStep::Delivered)).await.unwrap();
    }
    let all = DeliveryFilter { namespace: "shop".into(), ..DeliveryFilter::default() };
    let events = async |filter: DeliveryFilter, before| {
        let page = store.list(filter, before, 3).await.unwrap();
        page.records.into_iter().map(|r| format!("{}{}", r.event_id, r.hook.name)).collect::<Vec<_>>()
    };
    assert_eq!(events(all.clone(), None).await, ["e19y", "e19x", "e18y"]);
    let x = DeliveryFilter { hook: Some("x".into()), state: Some(DeliveryState::Delivered), ..all.clone() };
    assert_eq!(events(x.clone(), None).await, ["e19x", "e18x", "e17x"]);
    let third = store.list(x.clone(), None, 3).await.unwrap().records[2].clone();
    assert_eq!(third.attempts.len(), 1);
    assert_eq!(events(x.clone(), Some(third.seq)).await, ["e16x", "e15x", "e14x"]);
    let between = DeliveryFilter { since: Some(T0 + HOUR * 9), until: Some(T0 + HOUR * 12), ..all.clone() };
    assert_eq!(events(between, None).await, ["e3y", "e3x"]);
    let future = DeliveryFilter { since: Some(LATE), ..all.clone() };
    assert_eq!(events(future, None).await, [""; 0]);
    let event = DeliveryFilter { event: Some("e7".into()), ..all.clone() };
    assert_eq!(events(event.clone(), None).await, ["e7y", "e7x"]);
    assert_eq!(events(DeliveryFilter { state: Some(DeliveryState::Pending), ..event }, None).await, ["e7y"]);
    assert_eq!(events(DeliveryFilter { namespace: "other".into(), ..all.clone() }, None).await, [""; 0]);
    assert_eq!(events(DeliveryFilter { state: Some(DeliveryState::Dead), ..all }, None).await, [""; 0]);

    let explanation = store.explain("shop", "e4").await.unwrap().unwrap();
    assert_eq!((explanation.event, explanation.accepted), (event_with("e4", r#"{"n":1}"#), T0 + HOUR * 12));
    let states: Vec<_> = explanation.deliveries.iter().map(|d| (d.state, d.attempts.len())).collect();
    assert_eq!(states, [(DeliveryState::Delivered, 1), (DeliveryState::Pending, 0)]);
    store.accept(vec![new("e4", &[], T0)], T0).await.unwrap();
    assert_eq!(
        store.explain("shop", "e4").await.unwrap().unwrap().deliveries,
        [],
        "the newest event with that id"
    );
    assert_eq!(store.explain("other", "e4").await.unwrap(), None);
}

pub(in super::super) async fn deliveries_do_not_age_while_held<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    let x = hook("x");
    store.set_held(&x, true, T0).await.unwrap();
    store.accept(vec![new("a", &["x"], T0)], T0 + MINUTE).await.unwrap();
    store.set_held(&x, true, T0 + MINUTE).await.unwrap();
    let held = async |store: &S::Store, now| store.due_by("uid-x", now, 9).await.unwrap()[0].held;
    assert_eq!(held(&store, T0 + MINUTE * 3).await, MINUTE * 2, "since acceptance");
    drop(store);
    let store = subject.open().await;
    assert_eq!(store.held_hooks().await.unwrap(), std::slice::from_ref(&x));
    store.set_held(&x, false, T0 + MINUTE * 4).await.unwrap();
    store.set_held(&x, false, T0 + MINUTE * 5).await.unwrap();
    assert_eq!(store.held_hooks().await.unwrap(), []);
    assert_eq!(held(&store, T0 + HOUR).await, MINUTE * 3);
    store.set_held(&x, true, T0 + HOUR).await.unwrap();
    assert_eq!(held(&store, T0 + HOUR + MINUTE).await, MINUTE * 4);
    let pending = store.due_by("uid-x", T0 + HOUR, 9).await.unwrap().remove(0);
    settle_dead(&store, pending.seq, DeliveryReason::MaxAge, T0 + HOUR).await;
    store.replay("shop", pending.id, T0 + HOUR + MINUTE).await.unwrap();
    assert_eq!(held(&store, T0 + HOUR + MINUTE).await, Duration::ZERO, "a replay resets it");
}

pub(in super::super) async fn pending_deliveries_are_transferred_to_a_new_hook<S: Subject>() {
    let to = HookId { uid: "uid-new".into(), ..hook("x") };
    for new_hook_has_row in [false, true] {
        let subject = S::new();
        let store = subject.open().await;
        let (_, first, _) = accept_one(&store, request(1, None, true), T0).await;
        let (_, candidate, _) = accept_one(&store, request(1, None, true), T0).await;
        let more: Vec<_> = (0..700).map(|n| new(&format!("e{n}"), &["x"], T0)).collect();
        let mut want = seqs_of(&store.accept(more, T0).await.unwrap());
        store.set_held(&hook("x"), true, T0).await.unwrap();
        if new_hook_has_row {
            let own = NewDelivery { hook: to.clone(), ..delivery("x", T0) };
            let new = NewEvent { deliveries: vec![own], ..new("own", &[], T0) };
            want.extend(seqs_of(&store.accept(vec![new], T0).await.unwrap()));
            store.set_held(&to, true, T0 + HOUR).await.unwrap();
        }
        while store.transfer_pending(&hook("x"), &to, T0 + HOUR).await.unwrap() {}
        want.extend([first, candidate]);
        want.sort_unstable();
        let then = T0 + HOUR * 2;
        let mut got = store.due_by("uid-new", then, 9999).await.unwrap();
        got.sort_by_key(|p| p.seq);
        assert_eq!(got.iter().map(|p| p.seq).collect::<Vec<_>>(), want);
        assert!(got.iter().all(|p| p.hook == to));
        let held = got.iter().find(|p| p.seq == first).unwrap().held;
        assert_eq!(held, if new_hook_has_row { HOUR * 2 } else { HOUR }, "the held time remains");
        assert_eq!(due_ids(&store, "x", LATE).await, [0; 0]);
        assert_eq!(store.promote(LATE).await.unwrap(), [], "its candidates became ordinary deliveries");
        // The gate memory of the old hook is cleared: an event for its uid passes.
        assert_eq!(accept_one(&store, request(1, None, false), T0).await.2, pending_since(T0, 0));
        assert!(!store.transfer_pending(&hook("unknown"), &to, T0).await.unwrap());
    }
}

pub(in super::super) async fn undecided_deliveries_age_and_are_rescheduled<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    let (id, delivery, _) = accept_one(&store, GateRequest::default(), T0).await;
    let later = NextStep::Retry { due: T0 + HOUR };
    store
        .settle(Settlement {
            delivery,
            at: T0,
            attempt: None,
            next: later,
            progress: None,
            exchange: ExchangeChange::Nothing,
        })
        .await
        .unwrap();
    assert_eq!(state_of(&store, id).await, (DeliveryState::Pending, Some("Undecided".into())));
    assert!(!store.reschedule_undecided("uid-unknown", T0 + MINUTE).await.unwrap());
    assert!(store.due_by("uid-x", T0 + MINUTE, 9).await.unwrap().is_empty());
    assert!(!store.reschedule_undecided("uid-x", T0 + MINUTE).await.unwrap());
    let due = store.due_by("uid-x", T0 + MINUTE, 9).await.unwrap();
    assert_eq!((due[0].held, due[0].attempts), (Duration::ZERO, 0));
    // A delivery with an attempt keeps its due time.
    store.settle(settled(delivery, T0 + MINUTE, 503, later)).await.unwrap();
    assert_eq!(state_of(&store, id).await, (DeliveryState::Pending, None));
    store.reschedule_undecided("uid-x", T0 + MINUTE).await.unwrap();
    assert!(store.due_by("uid-x", T0 + MINUTE, 9).await.unwrap().is_empty());
}

/// A list of all namespaces has what the lists of the single ones have, and nothing of a namespace that was recreated.
pub(in super::super) async fn lists_all_namespaces<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    let of = |namespace: &str, id: &str, hooks: &[&str]| {
        let in_namespace = |mut delivery: NewDelivery| {
            let HookId { uid, name, .. } = delivery.hook;
            delivery.hook =
                HookId { uid: format!("{namespace}-{id}-{uid}").into(), namespace: namespace.into(), name };
            delivery
        };
        let new = new(id, hooks, T0);
        let event = Event { namespace: namespace.into(), ..Event::clone(&new.event) };
        let deliveries = new.deliveries.into_iter().map(in_namespace).collect();
        NewEvent { event: Arc::new(event), deliveries, ..new }
    };
    store.set_namespace_uid("recreated", Some("first")).await.unwrap();
    store.accept(vec![of("recreated", "old", &["x"]), of("recreated", "old-lost", &[])], T0).await.unwrap();
    let all = DeliveryFilter { namespace: ALL_NAMESPACES.into(), ..DeliveryFilter::default() };
    let old = DeliveryFilter { namespace: "recreated".into(), ..all.clone() };
    store.start_replay(old, 1, T0).await.unwrap();
    store.set_namespace_uid("recreated", Some("second")).await.unwrap();
    let events =
        [("a", "1", &["x", "y"][..]), ("b", "1", &["x"]), ("b", "lost", &[]), ("recreated", "2", &["x"])];
    for (namespace, id, hooks) in events {
        let accepted = store.accept(vec![of(namespace, id, hooks)], T0).await.unwrap();
        if namespace == "b" && !hooks.is_empty() {
            store.settle(settled(seqs_of(&accepted)[0], T0, 200, NextStep::Delivered)).await.unwrap();
        }
    }
    let deliveries = async |filter: &DeliveryFilter, limit| {
        let (mut found, mut before) = (Vec::new(), None);
        loop {
            let page = store.list(filter.clone(), before, limit).await.unwrap();
            let named = |record: &DeliveryRecord| format!("{}/{}", record.hook.namespace, record.hook.name);
            found.extend(page.records.iter().map(named));
            before = page.next;
            if before.is_none() {
                return found;
            }
        }
    };
    let with = |change: fn(&mut DeliveryFilter)| {
        let mut filter = all.clone();
        change(&mut filter);
        filter
    };
    for limit in [1, 2, 50] {
        assert_eq!(deliveries(&all, limit).await, ["recreated/x", "b/x", "a/y", "a/x"]);
        let of_hook = with(|filter| filter.hook = Some("x".into()));
        assert_eq!(deliveries(&of_hook, limit).await, ["recreated/x", "b/x", "a/x"]);
        let of_event = with(|filter| filter.event = Some("1".into()));
        assert_eq!(deliveries(&of_event, limit).await, ["b/x", "a/y", "a/x"]);
        let delivered = with(|filter| filter.state = Some(DeliveryState::Delivered));
        assert_eq!(deliveries(&delivered, limit).await, ["b/x"]);
        let mut filter = EventFilter { namespace: ALL_NAMESPACES.into(), ..EventFilter::default() };
        let events = async |filter: &EventFilter| {
            let (mut found, mut before) = (Vec::new(), None);
            loop {
                let page = store.events(filter.clone(), before, limit, false).await.unwrap();
                let named = |record: &EventRecord| format!("{}/{}", record.event.namespace, record.event.id);
                found.extend(page.records.iter().map(named));
                before = page.next;
                if before.is_none() {
                    return found;
                }
            }
        };
        assert_eq!(events(&filter).await, ["recreated/2", "b/lost", "b/1", "a/1"]);
        filter.outcome = Some(EventOutcome::Unmatched);
        assert_eq!(events(&filter).await, ["b/lost"]);
    }
    let in_a =
        store.start_replay(DeliveryFilter { namespace: "a".into(), ..all.clone() }, 1, T0).await.unwrap();
    let in_b =
        store.start_replay(DeliveryFilter { namespace: "b".into(), ..all }, 1, T0 + MINUTE).await.unwrap();
    let replays = store.replays(ALL_NAMESPACES).await.unwrap();
    let replays: Vec<_> =
        replays.iter().map(|replay| (replay.filter.namespace.as_str(), replay.id)).collect();
    assert_eq!(replays, [("b", in_b.id), ("a", in_a.id)]);
}
