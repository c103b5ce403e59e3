//! Leases, hand-overs, and outcomes of former owners.

use futures::FutureExt;

use super::many::Many;
use super::*;
use crate::core::fast_map::FastSet;
use crate::core::time::Millis;

const LIMIT: ReadLimit = ReadLimit { rows: 10, bytes: usize::MAX, is_strict: false };

pub(super) async fn workers(count: usize) -> (String, Vec<PostgresStore>) {
    let url = test_server::shared().new_database();
    let mut workers = Vec::new();
    for number in 0..count {
        workers.push(open(&url, &format!("worker-{number}")).await);
    }
    (url, workers)
}

/// Returns the sequence numbers of the due deliveries of the hook `x`.
async fn due(store: &PostgresStore) -> Vec<DeliverySeq> {
    let due = store.due("uid-x", T0, FastSet::default(), LIMIT).await.unwrap();
    due.pending.iter().map(|pending| pending.seq).collect()
}

/// Begins an attempt of a delivery that the worker has just read.
pub(super) fn begin(store: &PostgresStore, uid: &str, delivery: DeliverySeq) -> bool {
    store.begin_attempt(uid, delivery, store.ownership.epoch(uid))
}

/// Hands the hook `x` over while its only delivery is attempted. Returns the database, the old and the new owner, and the
/// delivery.
async fn hand_over_during_an_attempt() -> (String, PostgresStore, PostgresStore, Vec<DeliverySeq>) {
    let (url, mut workers) = workers(1).await;
    let old = workers.remove(0);
    let seqs = seqs_of(&old.accept(vec![new("a", &["x"], T0)], T0).await.unwrap());
    assert!(begin(&old, "uid-x", seqs[0]));
    let other = open(&url, "other").await;
    other.take_all_from(&old).await;
    assert_eq!(due(&other).await, [0; 0]);
    (url, old, other, seqs)
}

/// Ends the lease of a worker, as the database sees it.
pub(super) fn expire(url: &str, worker: &PostgresStore) {
    let database = url.rsplit('/').next().unwrap();
    let id = worker.ownership.worker();
    let sql = format!("UPDATE hookstream.workers SET lease_until = '-infinity' WHERE id = {id}");
    test_server::shared().sql(database, &sql).unwrap();
}

#[tokio::test]
async fn workers_share_the_shards_and_an_ended_lease_gives_them_to_the_others() {
    let (url, workers) = workers(3).await;
    let many = async || {
        for _ in 0..4 {
            for worker in &workers {
                worker.renew().await.unwrap();
            }
        }
    };
    many().await;
    let counts: Vec<usize> = workers.iter().map(|worker| worker.ownership.shards().len()).collect();
    assert_eq!(counts.iter().sum::<usize>(), 256);
    assert!(counts.iter().all(|count| (85..=86).contains(count)), "{counts:?}");
    let stats = workers[1].stats().await.unwrap();
    assert_eq!(usize::try_from(stats.owned_shards).unwrap(), counts[1]);

    // Closed in order: its shards are given at once.
    workers[2].close().await;
    for worker in &workers[..2] {
        worker.renew().await.unwrap();
    }
    assert_eq!(workers[0].ownership.shards().len() + workers[1].ownership.shards().len(), 256);

    // Not renewed in time: the other takes them, and the former owner registers again without any.
    expire(&url, &workers[1]);
    workers[0].renew().await.unwrap();
    assert_eq!(workers[0].ownership.shards().len(), 256);
    let before = workers[1].ownership.worker();
    workers[1].renew().await.unwrap();
    let registered = workers[1].ownership.worker();
    assert_ne!(registered, before);
    let database = url.rsplit('/').next().unwrap();
    let writers = format!("SELECT count(*) FROM hookstream.writers WHERE worker = {registered}");
    let writers = test_server::shared().sql(database, &writers).unwrap();
    assert_eq!(writers, [["3"]], "its writers are not those of a worker that has ended");
    assert!(workers[1].ownership.shards().is_empty());
}

#[tokio::test]
async fn every_worker_accepts_and_only_the_owner_sends() {
    let url = test_server::shared().new_database();
    let many = Many::open(&url).await;
    for n in 0..6 {
        many.accept(vec![new(&format!("e{n}"), &["x"], T0)], T0).await.unwrap();
    }
    let mut owners = 0;
    for worker in &many.workers {
        let seqs = due(worker).await;
        // A status is that of the installation, whichever worker answers.
        assert_eq!(worker.backlog_of_all_workers().await.unwrap().len(), 1);
        assert_eq!(worker.backlog().await.unwrap().len(), usize::from(!seqs.is_empty()));
        assert!(seqs.is_empty() || seqs.len() == 6, "{seqs:?}");
        assert_eq!(worker.owns("uid-x"), !seqs.is_empty());
        assert_eq!(begin(worker, "uid-x", 1), worker.owns("uid-x"));
        owners += usize::from(!seqs.is_empty());
    }
    assert_eq!(owners, 1);
}

/// The lease of a paused worker ends, and another one sends its deliveries. What the paused one reports afterwards changes
/// nothing.
#[tokio::test]
async fn a_former_owner_settles_nothing() {
    let (url, workers) = workers(1).await;
    let paused = &workers[0];
    let accepted = paused.accept(vec![new("a", &["x"], T0)], T0).await.unwrap();
    let (seq, id) = (seqs_of(&accepted)[0], ids_of(&accepted)[0]);
    assert!(begin(paused, "uid-x", seq));
    expire(&url, paused);
    let other = open(&url, "other").await;
    assert_eq!(due(&other).await, [seq]);
    paused.settle(settled(seq, T0, 200, NextStep::Delivered)).await.unwrap();
    let state = async || other.delivery("shop", id).await.unwrap().unwrap().state;
    assert_eq!(state().await, DeliveryState::Pending);
    assert!(begin(&other, "uid-x", seq));
    other.settle(settled(seq, T0, 200, NextStep::Delivered)).await.unwrap();
    assert_eq!(state().await, DeliveryState::Delivered);
}

/// The shard went to another worker and came back: an outcome of before is from an attempt that the other may have repeated.
#[tokio::test]
async fn an_attempt_of_an_older_epoch_settles_nothing() {
    let (url, workers) = workers(1).await;
    let store = &workers[0];
    let accepted = store.accept(vec![new("a", &["x"], T0)], T0).await.unwrap();
    let (seq, id) = (seqs_of(&accepted)[0], ids_of(&accepted)[0]);
    assert!(begin(store, "uid-x", seq));
    expire(&url, store);
    let other = open(&url, "other").await;
    other.close().await;
    store.renew().await.unwrap();
    store.renew().await.unwrap();
    assert!(store.owns("uid-x"));
    store.settle(settled(seq, T0, 200, NextStep::Delivered)).await.unwrap();
    assert_eq!(store.delivery("shop", id).await.unwrap().unwrap().state, DeliveryState::Pending);
}

/// A hand-over on request: the new owner leaves what the old one is attempting, until its outcome is recorded.
#[tokio::test]
async fn deliveries_in_flight_stay_with_the_old_owner_in_a_hand_over() {
    let (url, workers) = workers(1).await;
    let old = &workers[0];
    let accepted = old.accept(vec![new("a", &["x"], T0), new("b", &["x"], T0)], T0).await.unwrap();
    let seqs = seqs_of(&accepted);
    assert!(begin(old, "uid-x", seqs[0]));
    let other = open(&url, "other").await;
    other.take_all_from(old).await;
    assert!(!old.owns("uid-x") && other.owns("uid-x"));
    assert_eq!(due(&other).await, [seqs[1]], "the first one is in flight");
    assert!(!begin(old, "uid-x", seqs[1]));
    old.settle(settled(seqs[0], T0, 503, NextStep::Retry { due: T0 })).await.unwrap();
    assert_eq!(due(&other).await, seqs, "its outcome counts, and now it is the new owner's");
    let attempts = other.delivery("shop", ids_of(&accepted)[0]).await.unwrap().unwrap().attempts;
    assert_eq!(attempts.len(), 1);
    // Once only: a second outcome is not of the list.
    old.settle(settled(seqs[0], T0, 200, NextStep::Delivered)).await.unwrap();
    assert_eq!(due(&other).await, seqs);
}

/// Its outcome may be unknown, so this process does not rely on the shard before it has read the owner.
#[tokio::test]
async fn a_shard_whose_hand_over_failed_comes_back_under_the_same_epoch() {
    let (_, workers) = workers(1).await;
    let store = &workers[0];
    let seqs = seqs_of(&store.accept(vec![new("a", &["x"], T0)], T0).await.unwrap());
    let epoch = store.ownership.epoch("uid-x");
    let shard = super::super::shard::shard_of("uid-x");
    let session = store.session().await.unwrap();
    // The statements of the hand-over fail.
    session.batch("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY").await.unwrap();
    let own = store.ownership.worker();
    store.membership.give(&session, own, &[(shard, own)]).await.unwrap_err();
    session.batch("ROLLBACK; SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE").await.unwrap();
    assert!(!store.owns("uid-x") && !store.begin_attempt("uid-x", seqs[0], epoch));
    store.renew().await.unwrap();
    assert_eq!(store.ownership.epoch("uid-x"), epoch);
    assert!(store.begin_attempt("uid-x", seqs[0], epoch), "no other worker has owned it");
}

/// The new owner counts what the old one is attempting against the hook's concurrency, until it is settled, however the
/// shard came.
#[tokio::test]
async fn deliveries_in_flight_elsewhere_are_counted_until_they_are_settled() {
    let (url, workers) = workers(1).await;
    let old = &workers[0];
    let events = (0..3).map(|n| new(&format!("e{n}"), &["x"], T0)).collect();
    let seqs = seqs_of(&old.accept(events, T0).await.unwrap());
    assert!(begin(old, "uid-x", seqs[0]) && begin(old, "uid-x", seqs[1]));
    let other = open(&url, "other").await;
    other.take_all_from(old).await;
    assert_eq!((old.in_flight_elsewhere("uid-x"), other.in_flight_elsewhere("uid-x")), (0, 2));
    assert!(begin(&other, "uid-x", seqs[2]));
    let third = open(&url, "third").await;
    third.take_all_from(&other).await;
    assert_eq!(third.in_flight_elsewhere("uid-x"), 3, "of both former owners");
    old.settle(settled(seqs[0], T0, 503, NextStep::Retry { due: T0 })).await.unwrap();
    other.settle(settled(seqs[2], T0, 200, NextStep::Delivered)).await.unwrap();
    third.renew().await.unwrap();
    assert_eq!(third.in_flight_elsewhere("uid-x"), 1);
    // The dispatcher hears of the hook, and reads what has become free.
    let due_hooks = DispatchNotice::DueHooks(vec!["uid-x".into()]);
    while third.next_notice().await != due_hooks {}
    assert_eq!(due(&third).await, [seqs[0]]);
    expire(&url, old);
    third.renew().await.unwrap();
    assert_eq!(third.in_flight_elsewhere("uid-x"), 0);
}

/// An attempt without an outcome, and one whose outcome is committed while the shard leaves: nothing settles them later, so
/// the list would keep them from the new owner for as long as the old one runs.
#[tokio::test]
async fn an_attempt_that_ends_without_an_outcome_after_a_hand_over_frees_its_delivery() {
    let (_, old, other, seqs) = hand_over_during_an_attempt().await;
    old.cancel_attempt(seqs[0]);
    old.renew().await.unwrap();
    other.renew().await.unwrap();
    assert_eq!((due(&other).await, other.in_flight_elsewhere("uid-x")), (seqs, 0));
}

/// A worker that stops gives its shards away at once, gets none back, and still records the outcome of what it is attempting.
#[tokio::test]
async fn a_stopping_worker_hands_over_before_its_attempts_end() {
    let (url, workers) = workers(1).await;
    let old = &workers[0];
    let accepted = old.accept(vec![new("a", &["x"], T0), new("b", &["x"], T0)], T0).await.unwrap();
    let seqs = seqs_of(&accepted);
    assert!(begin(old, "uid-x", seqs[0]));
    old.hand_over();
    old.renew().await.unwrap();
    assert_eq!(old.ownership.shards().len(), 256, "there is no other worker");
    let other = open(&url, "other").await;
    for _ in 0..3 {
        old.renew().await.unwrap();
        other.renew().await.unwrap();
        assert_eq!((old.ownership.shards().len(), other.ownership.shards().len()), (0, 256));
    }
    assert_eq!((due(&other).await, other.in_flight_elsewhere("uid-x")), (vec![seqs[1]], 1));
    old.settle(settled(seqs[0], T0, 200, NextStep::Delivered)).await.unwrap();
    let state = other.delivery("shop", ids_of(&accepted)[0]).await.unwrap().unwrap().state;
    assert_eq!(state, DeliveryState::Delivered);
}

/// Two workers, of which one has nearly all of the load: a shard goes to the other one, with its measured load.
#[tokio::test]
async fn a_worker_with_more_load_gives_a_shard_away() {
    let (_, workers) = workers(2).await;
    for worker in workers.iter().cycle().take(6) {
        worker.renew().await.unwrap();
    }
    let counts = || workers.iter().map(|worker| worker.ownership.shards().len()).collect::<Vec<_>>();
    assert_eq!(counts(), [128, 128]);
    let busy: Vec<String> =
        (0..).map(|n| format!("uid-{n}")).filter(|uid| workers[0].owns(uid)).take(12).collect();
    let mut seq = 0;
    let mut attempt = |each: usize| {
        for uid in busy.iter().flat_map(|uid| std::iter::repeat_n(uid, each)) {
            seq += 1;
            if begin(&workers[0], uid, seq) {
                workers[0].cancel_attempt(seq);
            }
        }
    };
    // One base for all: with a busy machine, the seconds would otherwise be longer.
    let base = Millis::steady().0;
    let renew = async |at: i64| {
        for worker in &workers {
            assert!(worker.renew_at(Millis(base + at)).await.unwrap());
        }
    };
    // Before a load is known nothing moves.
    attempt(100);
    renew(1_000).await;
    assert_eq!(counts(), [128, 128]);
    for second in 2..100 {
        attempt(20);
        renew(second * 1000).await;
    }
    let moved = counts();
    assert!(moved[1] > 128 && moved[1] <= 128 + 4, "a bounded number in a minute: {moved:?}");
    let loads: Vec<f64> =
        workers.iter().map(|worker| worker.ownership.loads(Millis(base + 99_000)).values().sum()).collect();
    assert!(loads[1] > 15.0, "it goes on with the load that was measured: {loads:?}");
    // What moved by load is not moved back by number.
    renew(99_500).await;
    assert_eq!(counts(), moved);
}

/// The old owner dies during a hand-over: what it was attempting is free when its lease ends.
#[tokio::test]
async fn deliveries_in_flight_are_free_when_the_old_lease_ends() {
    let (url, old, other, seqs) = hand_over_during_an_attempt().await;
    expire(&url, &old);
    assert_eq!(due(&other).await, seqs);
}

/// Two workers accept the same key at the same time: one event.
#[tokio::test]
async fn a_key_is_accepted_once_by_all_workers_together() {
    let url = test_server::shared().new_database();
    let many = Many::open(&url).await;
    for round in 0..20_u8 {
        let calls = (0..6).map(|n| {
            let dedup = key(round, std::time::Duration::from_secs(3600));
            many.accept(vec![NewEvent { dedup, ..new(&format!("{round}-{n}"), &["x"], T0) }], T0)
        });
        let accepted: Vec<_> = futures::future::join_all(calls)
            .await
            .into_iter()
            .map(|result| result.unwrap().remove(0))
            .collect();
        assert_eq!(accepted.iter().filter(|accepted| !accepted.duplicate).count(), 1, "{accepted:?}");
        assert!(accepted.iter().all(|other| other.seq == accepted[0].seq));
    }
}

/// All workers ask one gate at the same time: it decides as if they asked one after the other.
#[tokio::test]
async fn a_gate_lets_one_of_all_workers_pass() {
    use crate::core::gate::{GateRequest, Snooze, SnoozeCheck};
    let url = test_server::shared().new_database();
    let many = Many::open(&url).await;
    let rule = Snooze { period: std::time::Duration::from_secs(60), trailing: true };
    for round in 0..10_u8 {
        let calls = (0..9).map(|n| {
            let mut event = new(&format!("{round}-{n}"), &["x"], T0);
            event.deliveries[0].gate_request =
                GateRequest { change: None, snooze: Some(SnoozeCheck { key: [round; 16], rule }) };
            many.accept(vec![event], T0)
        });
        let fates: Vec<Fate> = futures::future::join_all(calls)
            .await
            .into_iter()
            .map(|result| result.unwrap()[0].deliveries[0].fate)
            .collect();
        let passed = fates.iter().filter(|fate| matches!(fate, Fate::Pending { .. })).count();
        assert_eq!(passed, 1, "{fates:?}");
    }
    let stats = many.stats().await.unwrap();
    assert_eq!(stats.pending, 20, "of each group one that passed, and the last candidate");
}

#[tokio::test]
async fn changes_of_ownership_are_noticed() {
    let (url, workers) = workers(1).await;
    let old = &workers[0];
    assert_eq!(old.next_notice().await, DispatchNotice::OwnershipChanged, "its first shards");
    old.accept(vec![new("a", &["x"], T0)], T0).await.unwrap();
    let other = open(&url, "other").await;
    other.take_all_from(old).await;
    loop {
        // Notices of due deliveries may come before.
        if old.next_notice().await == DispatchNotice::OwnershipChanged && !old.owns("uid-x") {
            break;
        }
    }
    loop {
        if let DispatchNotice::Due(hooks) = other.next_notice().await {
            assert_eq!(hooks.len(), 1);
            assert_eq!(&*hooks[0].hook.uid, "uid-x");
            break;
        }
    }
    assert!(old.failed().now_or_never().is_none());
}

/// What another worker accepts or cancels reaches the owner of the hook at once, without a poll.
#[tokio::test]
async fn the_owner_learns_what_other_workers_did() {
    let (url, workers) = workers(1).await;
    let owner = &workers[0];
    let other = open(&url, "other").await;
    assert!(owner.owns("uid-x") && !other.owns("uid-x"));
    // The listener is ready once the first poll has run: a signal of before would be lost, and the poll finds it.
    let accepted = other.accept(vec![new("a", &["x"], T0)], T0).await.unwrap();
    let (id, seq) = (ids_of(&accepted)[0], seqs_of(&accepted)[0]);
    let is_due = |notice: &DispatchNotice| match notice {
        DispatchNotice::Due(hooks) => hooks.iter().any(|hook| &*hook.hook.uid == "uid-x"),
        DispatchNotice::DueHooks(uids) => uids.iter().any(|uid| &**uid == "uid-x"),
        _ => false,
    };
    while !is_due(&owner.next_notice().await) {}
    other.cancel("shop", id, T0).await.unwrap();
    let changed = DispatchNotice::Changed(vec![(hook("x"), seq)]);
    while owner.next_notice().await != changed {}
}
