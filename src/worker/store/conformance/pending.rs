//! Due deliveries and the backlog, as the dispatcher reads them.

use super::*;
use crate::core::delivery_reason::DeliveryReason;
use crate::core::fast_map::FastSet;

pub(in super::super) async fn due_deliveries_are_ordered_and_separate_by_hook<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    let at = |s: u64| T0 + Duration::from_secs(s);
    let mut seqs = Vec::new();
    for (id, hooks, due) in
        [("a", &["x", "y"][..], at(30)), ("b", &["x"], at(10)), ("c", &["x"], at(10)), ("d", &["x"], at(99))]
    {
        seqs.extend(seqs_of(&store.accept(vec![new(id, hooks, due)], T0).await.unwrap()));
    }
    let [ax, ay, b, c, _] = seqs[..] else { panic!("{seqs:?}") };
    assert_eq!(due_ids(&store, "x", at(9)).await, [0; 0]);
    assert_eq!(due_ids(&store, "x", at(10)).await, [b, c], "due now, in the order of acceptance");
    assert_eq!(due_ids(&store, "x", at(60)).await, [b, c, ax], "longest due first");
    assert_eq!(due_ids(&store, "y", at(60)).await, [ay]);
    assert_eq!(due_ids(&store, "unknown", at(60)).await, [0; 0]);
    let two = store.due_by("uid-x", at(60), 2).await.unwrap();
    assert_eq!(two.iter().map(|p| p.seq).collect::<Vec<_>>(), [b, c]);
    let first = &two[0];
    assert_eq!((&first.hook, first.event.id.as_str(), first.accepted), (&hook("x"), "b", T0));
    assert_eq!((first.attempts, first.due), (0, at(10)));
}

pub(in super::super) async fn due_deliveries_are_read_in_bounded_parts<S: Subject>() {
    let subject = S::new();
    let mut store = subject.open().await;
    let big = format!("\"{}\"", "x".repeat(9_998));
    let mut seqs = Vec::new();
    for n in 0..5 {
        let new = NewEvent { event: event_with(&format!("e{n}"), &big), ..new("", &["x"], T0) };
        seqs.extend(seqs_of(&store.accept(vec![new], T0).await.unwrap()));
    }
    let read = async |store: &S::Store, exclude: &[DeliverySeq], rows, bytes| {
        let exclude = exclude.iter().copied().collect();
        let due = store.due("uid-x", T0, exclude, ReadLimit { rows, bytes, is_strict: false }).await.unwrap();
        (due.pending.iter().map(|p| p.seq).collect::<Vec<_>>(), due.has_more)
    };
    for opened in 0..2 {
        if opened > 0 {
            drop(store);
            store = subject.open().await;
        }
        assert_eq!(read(&store, &[], 9, usize::MAX).await, (seqs.clone(), false));
        assert_eq!(read(&store, &[], 5, usize::MAX).await, (seqs.clone(), false));
        assert_eq!(read(&store, &[], 4, usize::MAX).await, (seqs[..4].to_vec(), true));
        assert_eq!(read(&store, &[], 9, 15_000).await, (seqs[..2].to_vec(), true), "bounded by bytes");
        assert_eq!(read(&store, &[], 9, 1).await, (seqs[..1].to_vec(), true), "at least one");
        assert_eq!(
            read(&store, &seqs[..3], 1, usize::MAX).await,
            (vec![seqs[3]], true),
            "excluded deliveries do not count towards the limit"
        );
        assert_eq!(read(&store, &seqs[1..], 9, 1).await, (seqs[..1].to_vec(), false));
        assert_eq!(read(&store, &seqs, 9, 1).await, (Vec::new(), false));
        let strict = |bytes| ReadLimit { rows: 9, bytes, is_strict: true };
        let due = store.due("uid-x", T0, FastSet::default(), strict(19_999)).await.unwrap();
        assert_eq!((due.pending.len(), due.has_more, due.too_large), (1, true, None));
        let due = store.due("uid-x", T0, FastSet::default(), strict(9_999)).await.unwrap();
        assert_eq!((due.pending.len(), due.has_more, due.too_large), (0, true, Some(10_000)));
    }
}

pub(in super::super) async fn untried_deliveries_are_read_newest_first<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    let mut seqs = Vec::new();
    for n in 0..6 {
        let due = if n == 5 { T0 + HOUR } else { T0 };
        let accepted = store.accept(vec![new(&format!("e{n}"), &["x", "y"], due)], T0).await.unwrap();
        seqs.push(seqs_of(&accepted)[0]);
    }
    let read = async |store: &S::Store, now, exclude: &[DeliverySeq], rows, bytes| {
        let exclude = exclude.iter().copied().collect();
        let found = store
            .newest_untried("uid-x", now, exclude, ReadLimit { rows, bytes, is_strict: false })
            .await
            .unwrap();
        found.iter().map(|pending| pending.seq).collect::<Vec<_>>()
    };
    let (now, all) = (T0 + MINUTE, usize::MAX);
    assert_eq!(
        read(&store, now, &[], 9, all).await,
        [seqs[4], seqs[3], seqs[2], seqs[1], seqs[0]],
        "due ones"
    );
    assert_eq!(read(&store, T0 + HOUR, &[], 2, all).await, [seqs[5], seqs[4]], "newest first");
    assert_eq!(read(&store, now, &[], 9, 1).await, [seqs[4]], "at least one, bounded by bytes");
    assert_eq!(read(&store, now, &[seqs[4], seqs[2]], 2, all).await, [seqs[3], seqs[1]], "excluded ones");
    // An attempted delivery that is due again is not untried; a replayed one is.
    let retry = |seq, at| settled(seq, at, 503, NextStep::Retry { due: at });
    store.settle(retry(seqs[4], T0)).await.unwrap();
    store
        .settle(settled(seqs[3], T0, 422, NextStep::Dead { reason: DeliveryReason::TerminalStatus }))
        .await
        .unwrap();
    assert_eq!(read(&store, now, &[], 9, all).await, [seqs[2], seqs[1], seqs[0]]);
    let id =
        store.list(DeliveryFilter { namespace: "shop".into(), ..DeliveryFilter::default() }, None, 99).await;
    let id = id.unwrap().records.into_iter().find(|record| record.seq == seqs[3]).unwrap().id;
    store.replay("shop", id, T0).await.unwrap();
    drop(store);
    let store = subject.open().await;
    assert_eq!(read(&store, now, &[], 9, all).await, [seqs[3], seqs[2], seqs[1], seqs[0]]);
    assert!(
        store
            .newest_untried(
                "unknown",
                now,
                FastSet::default(),
                ReadLimit { rows: 9, bytes: 9, is_strict: false }
            )
            .await
            .unwrap()
            .is_empty()
    );
}

pub(in super::super) async fn next_due_and_backlog<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    assert_eq!(store.next_due("uid-x", T0).await.unwrap(), None);
    assert_eq!(store.backlog().await.unwrap(), []);
    let (soon, later) = (T0 + MINUTE, T0 + HOUR);
    store.accept(vec![new("a", &["x"], later), new("b", &["x", "y"], soon)], T0).await.unwrap();
    assert_eq!(store.next_due("uid-x", T0).await.unwrap(), Some(soon));
    assert_eq!(store.next_due("uid-x", soon).await.unwrap(), Some(later), "after the time, not at it");
    assert_eq!(store.next_due("uid-x", later).await.unwrap(), None);
    let mut backlog = store.backlog().await.unwrap();
    backlog.sort_by(|a, b| a.hook.cmp(&b.hook));
    let want = ["x", "y"].map(|name| HookBacklog { hook: hook(name), next_due: soon });
    assert_eq!(backlog, want);
}

pub(in super::super) async fn dead_letters_are_counted_by_namespace<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    let accepted = store.accept(vec![new("a", &["x", "y"], T0), new("b", &["x"], T0)], T0).await.unwrap();
    let dead = |seq, at| settled(seq, at, 500, NextStep::Dead { reason: DeliveryReason::TerminalStatus });
    let seqs = seqs_of(&accepted);
    let settlements = seqs.iter().zip([T0, T0 + HOUR, T0 + HOUR]).map(|(seq, at)| dead(*seq, at)).collect();
    store.settle_many(settlements).await.unwrap();
    for (since, limit, count, is_exact) in
        [(T0, 9, 3, true), (T0 + MINUTE, 9, 2, true), (T0, 2, 2, false), (T0 + HOUR + HOUR, 9, 0, true)]
    {
        let counts = store.dead_letters(since, limit).await.unwrap();
        assert_eq!(counts.by_namespace.get("shop").copied().unwrap_or(0), count, "{since:?} {limit}");
        assert_eq!(counts.is_exact, is_exact, "{since:?} {limit}");
    }
}

/// A process judges its wall clock by the time of the last commit.
pub(in super::super) async fn the_time_of_the_last_commit_is_stored<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    assert_eq!(store.stored_times().await.unwrap(), StoredTimes::default());
    let seqs = seqs_of(&store.accept(vec![new("a", &["x"], T0)], T0).await.unwrap());
    let retry = NextStep::Retry { due: T0 + HOUR };
    let settlement = settled(seqs[0], T0 + MINUTE, 503, retry);
    let at = settlement.at;
    store.settle(settlement).await.unwrap();
    drop(store);
    let store = subject.open().await;
    let expected = StoredTimes { last_commit: Some(at), newest_event: Some(T0) };
    assert_eq!(store.stored_times().await.unwrap(), expected);
    // A clock that went back is stored too.
    store.accept(vec![new("b", &["x"], T0)], T0).await.unwrap();
    assert_eq!(store.stored_times().await.unwrap().last_commit, Some(T0));
}

pub(in super::super) async fn times_that_a_clock_ahead_stored_are_reset<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    let ahead = T0 + HOUR * 100;
    let rule = crate::core::gate::Snooze { period: MINUTE, trailing: true };
    let snooze = crate::core::gate::SnoozeCheck { key: [1; 16], rule };
    let gate_request = GateRequest { change: None, snooze: Some(snooze) };
    let snoozed = |id: &str, at| NewEvent {
        deliveries: vec![NewDelivery { gate_request, ..delivery("gated", at) }],
        ..new(id, &[], at)
    };
    let mut scheduled = Vec::new();
    for n in 0..5 {
        let event = new(&format!("e{n}"), &["x", "y"], ahead + MINUTE);
        scheduled.extend(seqs_of(&store.accept(vec![event], ahead).await.unwrap()));
    }
    store.accept(vec![snoozed("g1", ahead), snoozed("g2", ahead)], ahead).await.unwrap();
    assert_eq!(store.next_promotion().await.unwrap(), Some(ahead + MINUTE));
    assert_eq!(due_ids(&store, "x", T0).await, [0; 0]);
    while store.reset_future_times(T0).await.unwrap() {}
    assert_eq!(due_ids(&store, "x", T0).await.len() + due_ids(&store, "y", T0).await.len(), scheduled.len());
    assert_eq!(store.next_promotion().await.unwrap(), Some(T0));
    assert_eq!(store.promote(T0).await.unwrap(), [hook("gated")]);
    // The promotion opened a period by the present clock, so the group is not silent for a hundred hours.
    store.accept(vec![snoozed("g3", T0 + MINUTE)], T0 + MINUTE).await.unwrap();
    assert_eq!(due_ids(&store, "gated", T0 + MINUTE).await.len(), 3);
}
