//! Ownership by installation and namespace, batches of operations, measurements.

use super::*;

/// Each request has its own result: a refused one does not fail the others.
pub(in super::super) async fn concurrent_requests_are_accepted_and_settled_in_batches<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    let mut twice = new("refused", &["x"], T0);
    twice.deliveries.push(twice.deliveries[0].clone());
    let requests = vec![
        (vec![new("a", &["x"], T0), new("b", &["y"], T0)], T0),
        (vec![twice], T0),
        (vec![new("c", &["x"], T0)], T0),
        (Vec::new(), T0),
    ];
    let (sender, mut results) = tokio::sync::mpsc::unbounded_channel();
    for (n, (events, now)) in requests.into_iter().enumerate() {
        let sender = sender.clone();
        store.accept_then(events, now, Box::new(move |_, accepted| drop(sender.send((n, accepted)))));
    }
    drop(sender);
    let mut got = std::collections::BTreeMap::new();
    while let Some((n, accepted)) = results.recv().await {
        got.insert(n, accepted);
    }
    assert_eq!(got.len(), 4, "each callback runs once");
    assert!(matches!(got[&1], Err(StoreError::Refused(_))), "{got:?}");
    let stored = [0, 2].map(|n: usize| seqs_of(got[&n].as_ref().unwrap()));
    assert_eq!((stored[0].len(), stored[1].len(), got[&3].as_ref().unwrap().len()), (2, 1, 0));
    let outcomes = stored.concat().into_iter().map(|seq| settled(seq, T0, 200, NextStep::Delivered));
    assert_eq!(store.settle_many(outcomes.collect()).await.unwrap(), [false; 3]);
    assert_eq!(due_ids(&store, "x", LATE).await, [0; 0]);
    assert_eq!(due_ids(&store, "y", LATE).await, [0; 0]);
}

pub(in super::super) async fn a_recreated_namespace_starts_empty<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    assert!(!store.set_namespace_uid("shop", Some("first")).await.unwrap());
    let keyed = |id: &str, hook: &str| NewEvent { dedup: key(1, HOUR), ..new(id, &[hook], T0) };
    let first = store.accept(vec![keyed("a", "x")], T0).await.unwrap();
    store.settle(settled(seqs_of(&first)[0], T0, 200, NextStep::Delivered)).await.unwrap();
    store.accept(vec![new("pending", &["x"], T0), new("unmatched", &[], T0)], T0).await.unwrap();
    let all = DeliveryFilter { namespace: "shop".into(), ..DeliveryFilter::default() };
    let replay = store.start_replay(all.clone(), 1, T0).await.unwrap();
    let one = store.list(all.clone(), None, 9).await.unwrap().records.remove(0);
    assert!(!store.set_namespace_uid("shop", Some("first")).await.unwrap(), "the uid did not change");
    assert_eq!(store.list(all.clone(), None, 9).await.unwrap().records.len(), 2);
    assert_eq!(store.namespaces().await.unwrap(), ["shop"]);

    assert!(store.set_namespace_uid("shop", None).await.unwrap(), "the namespace was deleted");
    assert!(
        !store.set_namespace_uid("shop", Some("second")).await.unwrap(),
        "created again; the old data is already detached"
    );
    for reopened in [false, true] {
        assert_eq!(store.list(all.clone(), None, 9).await.unwrap(), DeliveryPage::default(), "{reopened}");
        assert_eq!(store.explain("shop", "a").await.unwrap(), None);
        assert_eq!(store.delivery("shop", one.id).await.unwrap(), None);
        assert_eq!(store.event_of("shop", one.id).await.unwrap(), None);
        assert_eq!(store.replay("shop", one.id, T0).await.unwrap(), None);
        assert_eq!(store.cancel("shop", one.id, T0).await.unwrap(), None);
        assert_eq!(store.replay_progress("shop", replay.id).await.unwrap(), None);
        assert_eq!(store.backlog().await.unwrap(), [], "its pending deliveries are detached");
        if !reopened {
            sweep_all(&store, T0).await;
        }
    }
    // The idempotency key of the old namespace has no effect.
    let again = store.accept(vec![keyed("a", "z")], T0).await.unwrap().remove(0);
    assert!(!again.duplicate);
    assert_eq!(store.list(all.clone(), None, 9).await.unwrap().records.len(), 1);
    drop(store);
    let store = subject.open().await;
    let explanation = store.explain("shop", "a").await.unwrap().unwrap();
    assert_eq!((explanation.event.namespace.as_str(), explanation.deliveries.len()), ("shop", 1));
    assert_eq!(&*explanation.deliveries[0].hook.namespace, "shop");
    assert_eq!(store.backlog().await.unwrap().len(), 1);
    // Replaced by another namespace, without an observed deletion in between.
    assert!(store.set_namespace_uid("shop", Some("third")).await.unwrap());
    assert_eq!(store.list(all, None, 9).await.unwrap().records, []);
}

pub(in super::super) async fn a_store_of_another_installation_is_refused<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    store.claim_installation("one", false).await.unwrap();
    store.claim_installation("one", false).await.unwrap();
    drop(store);
    let store = subject.open().await;
    let refused = store.claim_installation("other", false).await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::Foreign { found, own } if found == "one" && own == "other"),
        "{refused}"
    );
    store.claim_installation("one", false).await.unwrap();
    store.claim_installation("other", true).await.unwrap();
    store.claim_installation("other", false).await.unwrap();
    assert!(store.claim_installation("one", false).await.is_err(), "adopted permanently");
}

pub(in super::super) async fn the_backlog_is_measured<S: Subject>() {
    let subject = S::new();
    let store = subject.open().await;
    let nothing = store.stats().await.unwrap();
    assert_eq!((nothing.pending, nothing.pending_bytes, nothing.oldest), (0, 0, None));
    let later = T0 + HOUR;
    let first = store.accept(vec![new("a", &["x", "y"], T0)], T0).await.unwrap();
    store.accept(vec![new("b", &["x"], later)], later).await.unwrap();
    let stats = store.stats().await.unwrap();
    assert_eq!((stats.pending, stats.oldest), (3, Some(T0)));
    assert!(
        stats.largest_hook_bytes > 0
            && stats.largest_namespace_bytes > stats.largest_hook_bytes
            && stats.file_bytes > 0,
        "{stats:?}"
    );
    assert_eq!(stats.pending_bytes, stats.largest_namespace_bytes);
    let of_x = store.hook_stats("uid-x").await.unwrap();
    assert_eq!((of_x.pending, of_x.pending_bytes, of_x.oldest), (2, stats.largest_hook_bytes, Some(T0)));
    assert_eq!(store.hook_stats("unknown").await.unwrap(), StoreStats::default());
    for seq in seqs_of(&first) {
        store.settle(settled(seq, later, 200, NextStep::Delivered)).await.unwrap();
    }
    let stats = store.stats().await.unwrap();
    assert_eq!((stats.pending, stats.oldest), (1, Some(later)));
    assert_eq!(store.hook_stats("uid-y").await.unwrap().pending, 0);
    assert_eq!(store.hook_stats("uid-x").await.unwrap().oldest, Some(later));
}
