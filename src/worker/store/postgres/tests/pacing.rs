//! Breakers and rate limits move along with the shards of their hooks.

use std::sync::Arc;
use std::time::Duration;

use super::super::membership;
use super::ownership::{begin, expire, workers};
use super::*;
use crate::core::bucket::{Rate, TokenBucket};
use crate::core::hook_pacing::{HookPacing, InheritedPacing};
use crate::core::receiver_breaker::{BreakerSnapshot, OpenPause};
use crate::core::time::Millis;

const UID: &str = "uid-x";
const PAUSE: Duration = Duration::from_secs(60);
/// The tokens of this rate limit are not recorded before they are used.
const RATE: Rate = Rate { requests: 1, interval: Duration::from_secs(60), burst: 5 };
/// The tokens of this one are.
const SLOW: Rate = Rate { requests: 1, interval: Duration::from_secs(3600), burst: 5 };

/// An open breaker, and a rate limit with two tokens.
fn pacing() -> HookPacing {
    let now = Millis::steady();
    let open = Some(OpenPause { until: Some(now + PAUSE), pause: PAUSE });
    HookPacing {
        generation: Some(7),
        breaker: BreakerSnapshot { failed: 0b1011, attempts: 12, open },
        bucket: Some(TokenBucket::with_tokens(RATE, 2.0, now)),
    }
}

fn record(store: &PostgresStore, pacing: Option<HookPacing>) {
    let uid: Arc<str> = UID.into();
    store.record_pacing(&uid, store.epoch(UID).expect("an owner"), pacing);
}

fn inherited(store: &PostgresStore) -> InheritedPacing {
    store.inherited_pacing(UID, store.epoch(UID).expect("an owner"))
}

/// Asserts that the breaker is open until the same moment, or later by what the statements took at most.
#[track_caller]
fn assert_open(store: &PostgresStore, before: &HookPacing) -> InheritedPacing {
    let inherited = inherited(store);
    let pacing = inherited.pacing.clone().expect("a pacing");
    let until = |pacing: &HookPacing| pacing.breaker.open.unwrap().until.unwrap();
    let took = Millis::steady().since(Millis(until(before).0 - 60_000));
    let (planned, now) = (until(before), until(&pacing));
    assert!(now.0 >= planned.0 - 1 && now <= planned + took, "{now:?}, planned {planned:?}, took {took:?}");
    let known = |pacing: &HookPacing| (pacing.generation, pacing.breaker.failed, pacing.breaker.attempts);
    assert_eq!(known(&pacing), known(before));
    inherited
}

fn sql(url: &str, sql: &str) -> Vec<Vec<String>> {
    let database = url.rsplit('/').next().unwrap();
    test_server::shared().sql(database, sql).unwrap()
}

fn rows(url: &str) -> usize {
    sql(url, "SELECT count(*) FROM hookstream.pacing")[0][0].parse().unwrap()
}

#[tokio::test]
async fn breaker_and_tokens_move_along_in_a_hand_over() {
    let (url, workers) = workers(1).await;
    let (old, before) = (&workers[0], pacing());
    record(old, Some(before.clone()));
    let other = open(&url, "other").await;
    other.take_all_from(old).await;
    let InheritedPacing { pacing, empty_since } = assert_open(&other, &before);
    let bucket = pacing.unwrap().bucket.unwrap();
    assert_eq!((bucket.rate(), empty_since), (RATE, None));
    let tokens = bucket.tokens(Millis::steady());
    assert!((2.0..2.2).contains(&tokens), "{tokens}");
    // Closed at the new owner before it gives the shard back: then nothing limits the hook.
    record(&other, None);
    old.take_all_from(&other).await;
    assert_eq!((inherited(old), rows(&url)), (InheritedPacing::default(), 0));
}

/// A hook at rest, such as one whose tokens are back, needs no row.
#[tokio::test]
async fn only_what_limits_a_hook_is_written() {
    let (url, workers) = workers(1).await;
    let full = TokenBucket::new(RATE, Millis::steady());
    let breaker = BreakerSnapshot { failed: 0, attempts: 3, open: None };
    record(&workers[0], Some(HookPacing { generation: None, breaker, bucket: Some(full) }));
    workers[0].write_breakers().await;
    let other = open(&url, "other").await;
    other.take_all_from(&workers[0]).await;
    assert_eq!((inherited(&other), rows(&url)), (InheritedPacing::default(), 0));
}

/// Also if the successor ends before it has sent anything.
#[tokio::test]
async fn an_open_breaker_outlives_workers_that_end_without_notice() {
    let (url, workers) = workers(1).await;
    let before = pacing();
    record(&workers[0], Some(before.clone()));
    workers[0].write_breakers().await;
    let mut last = workers.into_iter().next().unwrap();
    for name in ["second", "third"] {
        let ended = Millis::steady();
        expire(&url, &last);
        last = open(&url, name).await;
        let InheritedPacing { pacing, empty_since } = assert_open(&last, &before);
        assert_eq!(pacing.unwrap().bucket, None, "attempts may have used its tokens since it was written");
        assert!(empty_since.is_some_and(|since| since >= ended), "{empty_since:?}");
    }
    // The limits of the shard are not full either after an orderly hand-over that follows soon.
    let other = open(&url, "other").await;
    other.take_all_from(&last).await;
    let empty_since = assert_open(&other, &before).empty_since;
    assert!(empty_since.is_some());
    // Its breaker closes: another crash finds it closed.
    record(&other, None);
    other.write_breakers().await;
    assert_eq!(rows(&url), 0);
    expire(&url, &other);
    let next = open(&url, "next").await;
    assert_eq!(inherited(&next).pacing, None);
}

/// The pacing of a hook with this many tokens of its slow rate limit.
fn slow(tokens: f64) -> Option<HookPacing> {
    let breaker = BreakerSnapshot { failed: 0, attempts: 0, open: None };
    let bucket = Some(TokenBucket::with_tokens(SLOW, tokens, Millis::steady()));
    Some(HookPacing { generation: Some(7), breaker, bucket })
}

async fn persist(store: &PostgresStore) -> bool {
    store.persist_pacing(UID, store.epoch(UID)).await
}

/// Asserts that the slow rate limit has at most the tokens that it had, and those that it earned while this test ran.
#[track_caller]
fn assert_tokens(store: &PostgresStore, before: f64) {
    let bucket = inherited(store).pacing.and_then(|pacing| pacing.bucket).expect("its tokens");
    assert_eq!(bucket.rate(), SLOW);
    let tokens = bucket.tokens(Millis::steady());
    assert!((before - 0.01..before + 0.05).contains(&tokens), "{tokens} of {before}");
}

/// Otherwise a hook whose limit is slower than its workers' crashes would never be sent.
#[tokio::test]
async fn tokens_of_a_slow_limit_outlive_workers_that_end_without_notice() {
    let (url, workers) = workers(1).await;
    record(&workers[0], slow(2.0));
    assert!(persist(&workers[0]).await);
    let mut last = workers.into_iter().next().unwrap();
    for name in ["second", "third"] {
        expire(&url, &last);
        last = open(&url, name).await;
        assert_tokens(&last, 2.0);
    }
    // An attempt there.
    record(&last, slow(1.0));
    assert!(persist(&last).await);
    expire(&url, &last);
    let next = open(&url, "fourth").await;
    assert_tokens(&next, 1.0);
    // Also after an orderly hand-over that nothing was recorded after.
    let other = open(&url, "other").await;
    other.take_all_from(&next).await;
    assert_tokens(&other, 1.0);
    expire(&url, &other);
    assert_tokens(&open(&url, "last").await, 1.0);
}

/// The half-hours of the workers add up to an hour.
#[tokio::test]
async fn a_slow_limit_earns_tokens_across_crashes() {
    let (url, workers) = workers(1).await;
    record(&workers[0], slow(0.0));
    assert!(persist(&workers[0]).await);
    let mut last = workers.into_iter().next().unwrap();
    for (name, tokens) in [("second", 0.5), ("third", 1.0), ("fourth", 1.5)] {
        sql(&url, "UPDATE hookstream.pacing SET written = written - interval '30 min'");
        expire(&url, &last);
        last = open(&url, name).await;
        assert_tokens(&last, tokens);
    }
}

/// Otherwise a crash during the attempt would give its token to the next owner again.
#[tokio::test]
async fn an_attempt_of_a_slow_limit_waits_until_its_token_is_recorded() {
    let (url, workers) = workers(1).await;
    let store = &workers[0];
    assert!(persist(store).await, "nothing is recorded");
    for tokens in [4.0, 3.0] {
        let lock = store.ownership.pacing.lock_writes(PAUSE).await;
        record(store, slow(tokens));
        let mut wait = Box::pin(persist(store));
        assert!(tokio::time::timeout(Duration::from_millis(300), &mut wait).await.is_err());
        drop(lock);
        assert!(tokio::time::timeout(PAUSE, wait).await.unwrap());
    }
    expire(&url, store);
    assert_tokens(&open(&url, "next").await, 3.0);
}

#[tokio::test]
async fn a_wait_for_a_record_ends_when_the_shard_is_lost() {
    let (url, workers) = workers(1).await;
    let store = &workers[0];
    let _lock = store.ownership.pacing.lock_writes(PAUSE).await;
    record(store, slow(1.0));
    let wait = persist(store);
    let lose = async {
        expire(&url, store);
        store.renew().await.unwrap();
    };
    let (is_recorded, ()) = tokio::join!(tokio::time::timeout(PAUSE, wait), lose);
    assert!(!is_recorded.unwrap());
    assert!(!store.persist_pacing(UID, None).await);
}

/// It records no tokens before it uses them.
#[tokio::test]
async fn a_slow_limit_starts_without_tokens_after_a_worker_of_an_older_version_that_ended_without_notice() {
    let (url, workers) = workers(1).await;
    record(&workers[0], slow(2.0));
    assert!(persist(&workers[0]).await);
    expire(&url, &workers[0]);
    // It takes the shards, and makes the rows its own.
    sql(&url, "UPDATE hookstream.shards SET epoch = epoch + 1");
    sql(&url, "UPDATE hookstream.pacing SET epoch = epoch + 1");
    let mut last = None;
    // The second one finds what the first one has left in the row.
    for name in ["next", "after"] {
        let next = open(&url, name).await;
        let InheritedPacing { pacing, empty_since } = inherited(&next);
        assert_eq!(pacing.unwrap().bucket, None);
        assert!(empty_since.is_some());
        expire(&url, &next);
        last = Some(next);
    }
    drop(last);
}

/// One from an older version in an orderly hand-over, whose row says nothing of later attempts.
#[tokio::test]
async fn inherited_tokens_of_a_slow_limit_are_recorded_at_once() {
    let (url, workers) = workers(1).await;
    record(&workers[0], slow(2.0));
    let other = open(&url, "other").await;
    let shards = {
        let session = workers[0].session().await.unwrap();
        let to = other.ownership.worker();
        let shards: Vec<_> = workers[0].ownership.shards().into_iter().map(|shard| (shard, to)).collect();
        workers[0].membership.give(&session, workers[0].ownership.worker(), &shards).await.unwrap();
        shards.len()
    };
    assert_eq!(shards, 256);
    sql(&url, "UPDATE hookstream.pacing SET tokens_epoch = NULL");
    other.renew().await.unwrap();
    assert_tokens(&other, 2.0);
    assert!(persist(&other).await);
    expire(&url, &other);
    assert_tokens(&open(&url, "next").await, 2.0);
}

/// Its lease ended at a known time. Since then it has started nothing, so tokens have come back.
#[tokio::test]
async fn tokens_come_back_from_the_end_of_the_former_lease_on() {
    let (url, workers) = workers(1).await;
    let database = url.rsplit('/').next().unwrap();
    let sql = "UPDATE hookstream.workers SET lease_until = clock_timestamp() - interval '40 min'";
    test_server::shared().sql(database, sql).unwrap();
    let other = open(&url, "other").await;
    let since = inherited(&other).empty_since.unwrap();
    let ago = Millis::steady().since(since).as_secs();
    assert!((2395..2460).contains(&ago), "{ago}");
    drop(workers);
}

/// A restart under the same name, and a registration after an outage of the database.
#[tokio::test]
async fn the_same_name_continues_from_the_end_of_its_lease() {
    let (url, workers) = workers(1).await;
    sql(&url, "UPDATE hookstream.workers SET lease_until = clock_timestamp() - interval '40 min'");
    let next = open(&url, "worker-0").await;
    let ago = Millis::steady().since(inherited(&next).empty_since.unwrap()).as_secs();
    assert!((2395..2460).contains(&ago), "{ago}");
    drop(workers);
}

/// Otherwise each restart after the first crash would refill the rate limits.
#[tokio::test]
async fn used_tokens_stay_used_in_hand_overs_after_a_crash() {
    let (url, workers) = workers(1).await;
    expire(&url, &workers[0]);
    let second = open(&url, "second").await;
    assert!(inherited(&second).empty_since.is_some());
    // It has used each token since.
    let now = Millis::steady();
    let breaker = BreakerSnapshot { failed: 0, attempts: 0, open: None };
    let bucket = Some(TokenBucket::with_tokens(RATE, 0.0, now));
    record(&second, Some(HookPacing { generation: Some(7), breaker, bucket }));
    let third = open(&url, "third").await;
    third.take_all_from(&second).await;
    let bucket = inherited(&third).pacing.and_then(|pacing| pacing.bucket).expect("its tokens");
    assert!(bucket.tokens(Millis::steady()) < 0.5);
}

/// The receiver of the shards ends before it has read the rows.
#[tokio::test]
async fn an_open_breaker_outlives_a_receiver_that_read_nothing() {
    let (url, workers) = workers(1).await;
    workers[0].accept(vec![new("a", &["x"], T0)], T0).await.unwrap();
    let before = pacing();
    record(&workers[0], Some(before.clone()));
    let receiver = open(&url, "receiver").await;
    let (own, to) = (workers[0].ownership.worker(), receiver.ownership.worker());
    let session = workers[0].session().await.unwrap();
    let shards: Vec<(i16, i64)> =
        workers[0].ownership.shards().into_iter().map(|shard| (shard, to)).collect();
    assert!(workers[0].membership.give(&session, own, &shards).await.unwrap());
    membership::sweep_pacing(&session).await.unwrap();
    for worker in [&workers[0], &receiver] {
        expire(&url, worker);
    }
    let last = open(&url, "last").await;
    let pacing = assert_open(&last, &before).pacing.unwrap();
    assert_eq!(pacing.bucket, None, "the receiver may have used them");
}

/// A worker takes the shards of one that has crashed, and ends before it has read their rows.
#[tokio::test]
async fn an_open_breaker_outlives_a_taker_that_read_nothing() {
    let (url, workers) = workers(1).await;
    let before = pacing();
    record(&workers[0], Some(before.clone()));
    workers[0].write_breakers().await;
    let lock = workers[0].session().await.unwrap();
    lock.batch("BEGIN; SELECT * FROM hookstream.pacing FOR UPDATE").await.unwrap();
    expire(&url, &workers[0]);
    let taker = tokio::spawn({
        let url = url.clone();
        async move { drop(open(&url, "taker").await) }
    });
    let blocked = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%pacing%'";
    while sql(&url, blocked)[0][0] == "0" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    taker.abort();
    assert!(taker.await.unwrap_err().is_cancelled());
    let running = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    sql(&url, running);
    lock.batch("COMMIT").await.unwrap();
    sql(&url, "UPDATE hookstream.workers SET lease_until = '-infinity'");
    assert_open(&open(&url, "last").await, &before);
}

/// Its rows would not be complete, and the next owner would take them for complete.
#[tokio::test]
async fn a_shard_of_another_epoch_is_not_given() {
    let (url, workers) = workers(1).await;
    let shard = super::super::shard::shard_of(UID);
    let other = open(&url, "other").await;
    let own = workers[0].ownership.worker();
    sql(&url, &format!("UPDATE hookstream.shards SET epoch = epoch + 1 WHERE shard = {shard}"));
    let session = workers[0].session().await.unwrap();
    workers[0].membership.give(&session, own, &[(shard, other.ownership.worker())]).await.unwrap();
    let owner = sql(&url, &format!("SELECT owner FROM hookstream.shards WHERE shard = {shard}"));
    assert_eq!(owner[0][0], own.to_string());
}

/// A single worker stops and starts again, as in an upgrade without a second one.
#[tokio::test]
async fn a_worker_that_stops_alone_leaves_its_state_to_the_next_one() {
    let (url, workers) = workers(1).await;
    let before = pacing();
    record(&workers[0], Some(before.clone()));
    workers[0].close().await;
    let next = open(&url, "worker-0").await;
    let InheritedPacing { pacing, empty_since } = assert_open(&next, &before);
    assert!(pacing.unwrap().bucket.is_some());
    assert_eq!(empty_since, None);
}

/// A worker that was suspended writes after another one has taken its shards.
#[tokio::test]
async fn a_former_owner_changes_nothing() {
    let (url, workers) = workers(1).await;
    let (paused, before) = (&workers[0], pacing());
    expire(&url, paused);
    let other = open(&url, "other").await;
    record(&other, Some(before.clone()));
    other.write_breakers().await;
    let mut late = before.clone();
    late.breaker.open = Some(OpenPause { until: None, pause: Duration::from_secs(2) });
    for pacing in [Some(late), None] {
        record(paused, pacing);
        paused.write_breakers().await;
        assert_eq!(rows(&url), 1);
    }
    expire(&url, &other);
    let third = open(&url, "third").await;
    assert_open(&third, &before);
}

/// The previous version gives shards without this state.
#[tokio::test]
async fn rate_limits_start_without_tokens_after_a_worker_of_an_older_version() {
    let (url, workers) = workers(1).await;
    record(&workers[0], Some(pacing()));
    workers[0].write_breakers().await;
    let other = open(&url, "other").await;
    let database = url.rsplit('/').next().unwrap();
    let to = other.ownership.worker();
    let sql = format!("UPDATE hookstream.shards SET owner = {to}, epoch = epoch + 2, load = 7");
    test_server::shared().sql(database, &sql).unwrap();
    other.renew().await.unwrap();
    let InheritedPacing { pacing, empty_since } = inherited(&other);
    assert_eq!(pacing, None, "it is of an epoch before the last owner");
    assert!(empty_since.is_some());
    let load: f64 = other.ownership.loads(Millis::steady()).values().sum();
    assert!(load < 1e-9, "nor is the load one that was measured now: {load}");
}

#[tokio::test]
async fn rows_go_with_their_hooks() {
    let (url, workers) = workers(1).await;
    let store = &workers[0];
    store.accept(vec![new("a", &["x"], T0)], T0).await.unwrap();
    record(store, Some(pacing()));
    store.write_breakers().await;
    let session = store.session().await.unwrap();
    membership::sweep_pacing(&session).await.unwrap();
    assert_eq!(rows(&url), 1);
    session.batch("DELETE FROM hookstream.hooks").await.unwrap();
    membership::sweep_pacing(&session).await.unwrap();
    assert_eq!(rows(&url), 0);
}

/// Two workers with much load would otherwise both give a shard to the same one.
#[tokio::test]
async fn the_load_of_a_moved_shard_counts_at_its_receiver_at_once() {
    let (url, workers) = workers(2).await;
    for worker in workers.iter().cycle().take(6) {
        worker.renew().await.unwrap();
    }
    let (giver, receiver) = match workers[0].owns(UID) {
        true => (&workers[0], &workers[1]),
        false => (&workers[1], &workers[0]),
    };
    let base = Millis::steady().0 + 70_000;
    (1..=600).for_each(|seq| assert!(begin(giver, UID, seq)));
    for worker in [giver, receiver] {
        assert!(worker.renew_at(Millis(base)).await.unwrap());
    }
    let shown = || {
        let database = url.rsplit('/').next().unwrap();
        let sql =
            format!("SELECT round(load) FROM hookstream.workers WHERE id = {}", receiver.ownership.worker());
        test_server::shared().sql(database, &sql).unwrap()[0][0].parse::<f64>().unwrap()
    };
    let shard = super::super::shard::shard_of(UID);
    let load = giver.ownership.loads(Millis(base))[&shard];
    assert!(load > 2.0 && shown() < 1.0, "{load} {}", shown());
    let session = giver.session().await.unwrap();
    let to = receiver.ownership.worker();
    giver.membership.give(&session, giver.ownership.worker(), &[(shard, to)]).await.unwrap();
    let least = load.floor() - 1.0;
    assert!(shown() >= least, "{} of {load}", shown());
    // The renewal with which it learns of the shard, and the next one, with its own measurement.
    for after in [500, 1000] {
        assert!(receiver.renew_at(Millis(base + after)).await.unwrap());
        assert!(shown() >= least, "{} of {load}", shown());
    }
}
