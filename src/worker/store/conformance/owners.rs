//! Whose a store and its history are, what is done for many at once, and what is measured.

use super::*;

/// Each request by itself: one that is refused takes no other with it.
pub(in super::super) async fn many_are_accepted_and_settled_at_once<S: Subject>() {
    let place = S::new();
    let store = place.open().await;
    let mut twice = new("refused", &["x"], T0);
    twice.deliveries.push(twice.deliveries[0].clone());
    let requests = vec![
        (vec![new("a", &["x"], T0), new("b", &["y"], T0)], T0),
        (vec![twice], T0),
        (vec![new("c", &["x"], T0)], T0),
        (Vec::new(), T0),
    ];
    let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
    for (n, (events, now)) in requests.into_iter().enumerate() {
        let told = told.clone();
        store.accept_then(events, now, Box::new(move |_, accepted| drop(told.send((n, accepted)))));
    }
    drop(told);
    let mut got = std::collections::BTreeMap::new();
    while let Some((n, accepted)) = hears.recv().await {
        got.insert(n, accepted);
    }
    assert_eq!(got.len(), 4, "each is told once");
    assert!(matches!(got[&1], Err(StoreError::Refused(_))), "{got:?}");
    let stored = [0, 2].map(|n: usize| seqs_of(got[&n].as_ref().unwrap()));
    assert_eq!((stored[0].len(), stored[1].len(), got[&3].as_ref().unwrap().len()), (2, 1, 0));
    let outcomes = stored.concat().into_iter().map(|seq| settled(seq, T0, 200, Next::Delivered));
    assert_eq!(store.settle_many(outcomes.collect()).await.unwrap(), [false; 3]);
    assert_eq!(due_ids(&store, "x", LATE).await, [0; 0]);
    assert_eq!(due_ids(&store, "y", LATE).await, [0; 0]);
}

pub(in super::super) async fn a_namespace_made_anew_begins_with_nothing<S: Subject>() {
    let place = S::new();
    let store = place.open().await;
    assert!(!store.namespace_is("shop", Some("first")).await.unwrap());
    let keyed = |id: &str, hook: &str| NewEvent { dedup: key(1, HOUR), ..new(id, &[hook], T0) };
    let first = store.accept(vec![keyed("a", "x")], T0).await.unwrap();
    store.settle(settled(seqs_of(&first)[0], T0, 200, Next::Delivered)).await.unwrap();
    store.accept(vec![new("waits", &["x"], T0), new("nobody", &[], T0)], T0).await.unwrap();
    let all = Filter { namespace: "shop".into(), ..Filter::default() };
    let replay = store.start_replay(all.clone(), 1, T0).await.unwrap();
    let one = store.list(all.clone(), None, 9).await.unwrap().remove(0);
    assert!(!store.namespace_is("shop", Some("first")).await.unwrap(), "it is still the same");
    assert_eq!(store.list(all.clone(), None, 9).await.unwrap().len(), 2);
    assert_eq!(store.namespaces().await.unwrap(), ["shop"]);

    assert!(store.namespace_is("shop", None).await.unwrap(), "it is gone");
    assert!(
        !store.namespace_is("shop", Some("second")).await.unwrap(),
        "and made anew, with nothing to lose"
    );
    for reopened in [false, true] {
        assert_eq!(store.list(all.clone(), None, 9).await.unwrap(), [], "{reopened}");
        assert_eq!(store.explain("shop", "a").await.unwrap(), None);
        assert_eq!(store.delivery("shop", one.id).await.unwrap(), None);
        assert_eq!(store.event_of("shop", one.id).await.unwrap(), None);
        assert_eq!(store.replay("shop", one.id, T0).await.unwrap(), None);
        assert_eq!(store.cancel("shop", one.id, T0).await.unwrap(), None);
        assert_eq!(store.replay_progress("shop", replay.id).await.unwrap(), None);
        assert_eq!(store.backlog().await.unwrap(), [], "what waited is nobody's");
        if !reopened {
            sweep_all(&store, T0).await;
        }
    }
    // The same id is another event's in another namespace.
    let again = store.accept(vec![keyed("a", "z")], T0).await.unwrap().remove(0);
    assert!(!again.duplicate);
    assert_eq!(store.list(all.clone(), None, 9).await.unwrap().len(), 1);
    drop(store);
    let store = place.open().await;
    let told = store.explain("shop", "a").await.unwrap().unwrap();
    assert_eq!((told.event.namespace.as_str(), told.deliveries.len()), ("shop", 1));
    assert_eq!(&*told.deliveries[0].hook.namespace, "shop");
    assert_eq!(store.backlog().await.unwrap().len(), 1);
    // At once another one, without anybody having seen that it was gone.
    assert!(store.namespace_is("shop", Some("third")).await.unwrap());
    assert_eq!(store.list(all, None, 9).await.unwrap(), []);
}

pub(in super::super) async fn a_store_of_another_installation_is_refused<S: Subject>() {
    let place = S::new();
    let store = place.open().await;
    store.belongs_to("one", false).await.unwrap();
    store.belongs_to("one", false).await.unwrap();
    drop(store);
    let store = place.open().await;
    let refused = store.belongs_to("other", false).await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::Foreign { found, own } if found == "one" && own == "other"),
        "{refused}"
    );
    store.belongs_to("one", false).await.unwrap();
    store.belongs_to("other", true).await.unwrap();
    store.belongs_to("other", false).await.unwrap();
    assert!(store.belongs_to("one", false).await.is_err(), "taken over for good");
}

pub(in super::super) async fn what_waits_is_measured<S: Subject>() {
    let place = S::new();
    let store = place.open().await;
    let nothing = store.stats().await.unwrap();
    assert_eq!((nothing.waiting, nothing.waiting_bytes, nothing.oldest), (0, 0, None));
    let later = T0 + HOUR;
    let first = store.accept(vec![new("a", &["x", "y"], T0)], T0).await.unwrap();
    store.accept(vec![new("b", &["x"], later)], later).await.unwrap();
    let stats = store.stats().await.unwrap();
    assert_eq!((stats.waiting, stats.oldest), (3, Some(T0)));
    assert!(
        stats.fullest_hook > 0 && stats.fullest_namespace > stats.fullest_hook && stats.bytes > 0,
        "{stats:?}"
    );
    assert_eq!(stats.waiting_bytes, stats.fullest_namespace);
    let of_x = store.hook_stats("uid-x").await.unwrap();
    assert_eq!((of_x.waiting, of_x.waiting_bytes, of_x.oldest), (2, stats.fullest_hook, Some(T0)));
    assert_eq!(store.hook_stats("nobody").await.unwrap(), Stats::default());
    for seq in seqs_of(&first) {
        store.settle(settled(seq, later, 200, Next::Delivered)).await.unwrap();
    }
    let stats = store.stats().await.unwrap();
    assert_eq!((stats.waiting, stats.oldest), (1, Some(later)));
    assert_eq!(store.hook_stats("uid-y").await.unwrap().waiting, 0);
    assert_eq!(store.hook_stats("uid-x").await.unwrap().oldest, Some(later));
}
