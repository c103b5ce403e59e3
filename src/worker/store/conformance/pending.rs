//! Due deliveries and the backlog, as the dispatcher reads them.

use super::*;

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
        let due = store.due("uid-x", T0, exclude, ReadLimit { rows, bytes }).await.unwrap();
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
    }
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
