//! Sweeps: what they remove by age, by bytes and with a namespace, and what they keep.

use std::time::Duration;

use super::super::super::Retention;
use super::super::super::conformance::RETENTION;
use super::super::byte_limits::{self, ByteLimits, Excess};
use super::super::locks::{SingleTask, try_lock};
use super::super::sweep::{Sweeps, sweep};
use super::super::{explanation, hooks, measurements, replays};
use super::*;
use crate::core::fast_map::FastMap;
use crate::worker::store::{DeliveryFilter, HookId};

/// Sweeps until there is nothing to remove.
async fn sweep_all(session: &Session, retention: Retention, now: Millis) {
    let mut sweeps = Sweeps::default();
    while sweep(session, &mut sweeps, retention, now).await.unwrap() {}
}

const DAY: Duration = Duration::from_secs(24 * 3600);

#[tokio::test]
async fn expired_deliveries_are_removed_with_everything_that_belongs_to_them() {
    let database = Database::new().await;
    let session = database.session().await;
    let shop = place(&session, "shop").await;
    let hook = insert_hook(&session, shop, "1", "a").await;
    use DeliveryState::{Cancelled, Dead, Delivered, Dropped, Pending};
    let mixes: [&[DeliveryState]; 5] =
        [&[Delivered, Dropped], &[Dead, Cancelled], &[Delivered, Pending], &[Dead], &[]];
    let mut events = Vec::new();
    for (seq, states) in (1..).zip(mixes) {
        let deliveries: Vec<_> = states.iter().map(|state| (hook, *state)).collect();
        events.push(StoredEvent::new(seq, "e", T0, &deliveries));
    }
    insert(&session, shop, &events).await;
    session
        .batch(
            "INSERT INTO hookstream.exchanges SELECT seq, place, 1, '{}' FROM hookstream.finished;
             INSERT INTO hookstream.attempts (delivery, n, at, micros) SELECT seq, 9, 1, 1 FROM hookstream.finished",
        )
        .await
        .unwrap();
    let rows = async || {
        let mut rows = Vec::new();
        for table in ["finished", "pending", "events", "attempts", "exchanges", "events WHERE is_loose"] {
            rows.push(database.count(table).await);
        }
        rows
    };
    assert_eq!(rows().await, [6, 1, 5, 8, 6, 1]);
    let kept = T0 + RETENTION.history_age;
    sweep_all(&session, RETENTION, Millis(kept.0 - 1)).await;
    assert_eq!(rows().await, [6, 1, 5, 8, 6, 1]);
    sweep_all(&session, RETENTION, kept).await;
    assert_eq!(rows().await, [2, 1, 3, 4, 2, 0], "the dead ones stay, and the event of the pending one");
    sweep_all(&session, RETENTION, kept + DAY * 30).await;
    assert_eq!(rows().await, [0, 1, 1, 0, 0, 0]);
}

/// An event without deliveries stays as long as the history, if its dead letters are kept for less.
#[tokio::test]
async fn an_event_outlives_its_dead_letters() {
    let database = Database::new().await;
    let session = database.session().await;
    let shop = place(&session, "shop").await;
    let hook = insert_hook(&session, shop, "1", "a").await;
    insert(&session, shop, &[StoredEvent::new(1, "e", T0, &[(hook, DeliveryState::Dead)])]).await;
    let retention = Retention { dead_letter_age: DAY / 2, ..RETENTION };
    sweep_all(&session, retention, T0 + DAY / 2).await;
    assert_eq!((database.count("finished").await, database.count("events WHERE is_loose").await), (0, 1));
    sweep_all(&session, retention, T0 + DAY).await;
    assert_eq!(database.count("events").await, 0);
}

/// A duplicate within the window must find the id of the event.
#[tokio::test]
async fn an_event_stays_without_its_data_within_its_idempotency_window() {
    let database = Database::new().await;
    let session = database.session().await;
    let shop = place(&session, "shop").await;
    let hook = insert_hook(&session, shop, "1", "a").await;
    let delivered = [(hook, DeliveryState::Delivered)];
    insert(&session, shop, &[StoredEvent::new(1, "e", T0, &delivered), StoredEvent::new(2, "f", T0, &[])])
        .await;
    let until = T0 + DAY * 3;
    session.batch(&format!("UPDATE hookstream.events SET kept_until = {}", until.0)).await.unwrap();
    sweep_all(&session, RETENTION, Millis(until.0 - 1)).await;
    assert_eq!((database.count("finished").await, database.count("events WHERE is_bare").await), (0, 2));
    let explained = explanation::explain(&session, "shop", "e").await.unwrap().unwrap();
    assert_eq!((explained.event.data.get(), explained.deliveries.len()), ("null", 0));
    sweep_all(&session, RETENTION, until).await;
    assert_eq!(database.count("events").await, 0);
}

#[tokio::test]
async fn the_oldest_history_is_removed_above_its_bytes() {
    let database = Database::new().await;
    let session = database.session().await;
    let shop = place(&session, "shop").await;
    let hook = insert_hook(&session, shop, "1", "a").await;
    for seq in 1..=40_i64 {
        let state = [DeliveryState::Delivered, DeliveryState::Dead][usize::try_from(seq % 2).unwrap()];
        let mut event = StoredEvent::new(seq, "e", Millis(T0.0 + seq), &[(hook, state)]);
        event.data = format!("\"{}\"", "x".repeat(9_486));
        insert(&session, shop, &[event]).await;
    }
    let seqs = async |state: &str| -> Vec<i64> {
        let sql = format!("SELECT seq >> 20 FROM hookstream.finished WHERE state = {state} ORDER BY seq");
        session.query(&sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    };
    let now = Millis(T0.0 + 50);
    // Each delivery counts 10,000 bytes.
    let limited = Retention { history_bytes: 55_000, dead_letter_bytes: 35_000, ..RETENTION };
    sweep_all(&session, limited, now).await;
    assert_eq!(seqs("1").await, [32, 34, 36, 38, 40]);
    assert_eq!(seqs("2").await, [35, 37, 39]);
    assert_eq!((database.count("events").await, database.count("attempts").await), (8, 3));
    let other = Retention { history_bytes: u64::MAX, dead_letter_bytes: 0, ..RETENTION };
    sweep_all(&session, other, now).await;
    assert_eq!((seqs("1").await.len(), seqs("2").await.len(), database.count("events").await), (5, 0, 5));
}

#[tokio::test]
async fn unmatched_events_and_exchanges_have_shares() {
    let database = Database::new().await;
    let session = database.session().await;
    let (large, small) = (place(&session, "large").await, place(&session, "small").await);
    for seq in 1..=20_i64 {
        let mut event = StoredEvent::new(seq, "e", Millis(T0.0 + seq), &[]);
        event.data = format!("\"{}\"", "x".repeat(486));
        insert(&session, if seq % 10 == 0 { small } else { large }, &[event]).await;
    }
    session
        .batch(&format!(
            "INSERT INTO hookstream.exchanges
             SELECT n, CASE WHEN n % 10 = 0 THEN {small} ELSE {large} END, 1000, '{{}}' FROM generate_series(1, 20) n"
        ))
        .await
        .unwrap();
    // 10,000 bytes of unmatched events, of which the small namespace has 2000, and as many of exchanges.
    let retention = Retention { history_bytes: 40_000, dead_letter_bytes: 40_000, ..RETENTION };
    let limits = byte_limits::find(&session, &retention).await.unwrap();
    let excess = vec![Excess { place: large, last: 11 }];
    let want = ByteLimits { history: i64::MIN, dead: i64::MIN, unmatched: excess.clone(), exchanges: excess };
    assert_eq!(limits, want);
    sweep_all(&session, retention, Millis(T0.0 + 50)).await;
    for table in ["events", "exchanges"] {
        assert_eq!(database.count(&format!("{table} WHERE place = {large}")).await, 8);
        assert_eq!(database.count(&format!("{table} WHERE place = {small}")).await, 2);
    }
    // By age, before other history.
    let retention = Retention { unmatched_age: Duration::from_millis(50), ..RETENTION };
    sweep_all(&session, retention, Millis(T0.0 + 65)).await;
    assert_eq!(database.count("events").await, 5);
}

#[tokio::test]
async fn expired_keys_and_unused_gates_are_removed() {
    let database = Database::new().await;
    let session = database.session().await;
    let month = 30 * 24 * 3_600_000_i64;
    session
        .batch(&format!(
            "INSERT INTO hookstream.keys SELECT 1, decode(md5(n::text), 'hex'), {} + n, n FROM generate_series(1, 20000) n;
             INSERT INTO hookstream.gates (hook, kind, key, quiet_until, used)
             SELECT 1, 1, decode(md5(n::text), 'hex'), CASE WHEN n % 2 = 0 THEN {} END, {} + n FROM generate_series(1, 3000) n",
            T0.0,
            T0.0 + 2 * month,
            T0.0
        ))
        .await
        .unwrap();
    sweep_all(&session, RETENTION, Millis(T0.0 + 19_000)).await;
    assert_eq!((database.count("keys").await, database.count("gates").await), (1000, 3000));
    sweep_all(&session, RETENTION, Millis(T0.0 + month + 2000)).await;
    assert_eq!((database.count("keys").await, database.count("gates").await), (0, 2000));
    sweep_all(&session, RETENTION, Millis(T0.0 + 3 * month)).await;
    assert_eq!(database.count("gates").await, 0);
    session
        .batch(
            "INSERT INTO hookstream.gates (hook, kind, key, used)
             SELECT n % 2, 0, decode(md5(n::text), 'hex'), 9000000000000 + n FROM generate_series(1, 20) n;
             INSERT INTO hookstream.gates (hook, kind, key, used)
             SELECT 1, 1, decode(md5(n::text), 'hex'), 9000000001000 + n FROM generate_series(1, 101500) n",
        )
        .await
        .unwrap();
    sweep_all(&session, RETENTION, T0).await;
    assert_eq!(database.count("gates WHERE hook = 1").await, 100_000);
    assert_eq!(database.count("gates WHERE hook = 0").await, 10);
    assert_eq!(database.count("gates WHERE used < 9000000001000").await, 10, "the oldest are removed");
}

#[tokio::test]
async fn a_deleted_namespace_leaves_no_rows() {
    let database = Database::new().await;
    let session = database.session().await;
    let shop = place(&session, "shop").await;
    places::set_uid(&session, "shop", Some("1")).await.unwrap();
    let other = place(&session, "other").await;
    let (hook, foreign) =
        (insert_hook(&session, shop, "1", "a").await, insert_hook(&session, other, "2", "a").await);
    let states = [DeliveryState::Pending, DeliveryState::Dead, DeliveryState::Delivered];
    for seq in 1..=1200_i64 {
        let (place, hook) = if seq % 400 == 0 { (other, foreign) } else { (shop, hook) };
        let deliveries: Vec<_> = states.iter().map(|state| (hook, *state)).collect();
        insert(
            &session,
            place,
            &[StoredEvent::new(seq, "e", T0, &deliveries[..usize::try_from(seq % 4).unwrap()])],
        )
        .await;
    }
    session
        .batch(&format!(
            "INSERT INTO hookstream.exchanges SELECT seq, place, 1, '{{}}' FROM hookstream.finished;
             INSERT INTO hookstream.backlog VALUES ({hook}, 7, 9, 9), ({foreign}, 7, 9, 9);
             INSERT INTO hookstream.in_flight SELECT seq, 1 FROM hookstream.pending WHERE hook = {hook};
             INSERT INTO hookstream.gates (hook, kind, key, used) VALUES ({hook}, 1, 'x', {now}), ({foreign}, 1, 'x', {now});
             INSERT INTO hookstream.candidates (hook, key, delivery, due, period) VALUES ({hook}, 'x', 1, {now}, 1)",
            now = T0.0
        ))
        .await
        .unwrap();
    let filter = DeliveryFilter { namespace: "shop".into(), ..DeliveryFilter::default() };
    let job = replays::start(&session, &filter, 1, T0).await.unwrap();
    assert!(places::set_uid(&session, "shop", None).await.unwrap());
    assert_eq!(replays::progress(&session, "shop", job.id).await.unwrap(), None);
    let stats = measurements::stats(&session).await.unwrap();
    assert_eq!((stats.pending, stats.pending_bytes), (9, 9), "its backlog is not measured");
    sweep_all(&session, RETENTION, T0).await;
    for table in ["pending", "finished", "events", "exchanges", "hooks"] {
        assert_eq!(database.count(&format!("{table} WHERE place = {shop}")).await, 0, "{table}");
    }
    for table in ["in_flight", "candidates", "replays"] {
        assert_eq!(database.count(table).await, 0, "{table}");
    }
    for table in ["gates", "backlog", "hooks"] {
        assert_eq!(database.count(table).await, 1, "{table}");
    }
    assert_eq!(database.count("events").await, 3, "those of the other namespace");
    let attempts = database.count("attempts").await;
    assert_eq!(attempts, database.count("finished WHERE state = 2").await);
    // The row of the namespace goes. Those of its places stay for an hour.
    assert_eq!(places::names(&session).await.unwrap(), ["other"]);
    assert_eq!(database.count("places WHERE ended").await, 2);
    session
        .batch("UPDATE hookstream.places SET ended_at = ended_at - interval '2 hours' WHERE ended")
        .await
        .unwrap();
    sweep_all(&session, RETENTION, T0).await;
    assert_eq!(database.count("places").await, 1);
}

#[tokio::test]
async fn a_hook_without_rows_is_removed_unless_it_is_used_again() {
    let database = Database::new().await;
    let session = database.session().await;
    let shop = place(&session, "shop").await;
    let mut rows = Vec::new();
    for uid in ["unused", "again", "pending", "dead", "held", "gate"] {
        rows.push(insert_hook(&session, shop, uid, uid).await);
    }
    let deliveries = [(rows[2], DeliveryState::Pending), (rows[3], DeliveryState::Dead)];
    insert(&session, shop, &[StoredEvent::new(1, "e", T0, &deliveries)]).await;
    session
        .batch(&format!(
            "UPDATE hookstream.hooks SET held_since = 1 WHERE id = {};
             INSERT INTO hookstream.gates (hook, kind, key, used) VALUES ({}, 1, 'x', {});
             INSERT INTO hookstream.backlog VALUES ({}, 0, 0, 5), ({}, 0, 1, 5)",
            rows[4], rows[5], T0.0, rows[0], rows[2]
        ))
        .await
        .unwrap();
    sweep_all(&session, RETENTION, T0).await;
    assert_eq!(
        (database.count("hooks").await, database.count("hooks WHERE retired IS NOT NULL").await),
        (6, 2)
    );
    let age = "UPDATE hookstream.hooks SET retired = retired - interval '2 hours'";
    session.batch(age).await.unwrap();
    // A transaction that accepts an event for a retired hook.
    let again = HookId { uid: "again".into(), namespace: "shop".into(), name: "again".into() };
    let places = places::find_or_insert_many(&session, &["shop"]).await.unwrap();
    let mut wanted = FastMap::default();
    wanted.insert(again.uid.clone(), &again);
    let found = hooks::find_or_insert_many(&session, &wanted, &places).await.unwrap();
    assert_eq!(found[&again.uid].row_id, rows[1]);
    sweep_all(&session, RETENTION, T0).await;
    let removed = format!("hooks WHERE id = {}", rows[0]);
    assert_eq!((database.count("hooks").await, database.count(&removed).await), (5, 0));
    assert_eq!(database.count("backlog").await, 1);
}

/// A retired hook whose removal is being committed while an event for it is accepted.
#[tokio::test]
async fn an_accept_waits_for_the_removal_of_its_hook_and_inserts_it_again() {
    let database = Database::new().await;
    let (session, other) = (database.session().await, database.session().await);
    let shop = place(&session, "shop").await;
    let row = insert_hook(&session, shop, "1", "a").await;
    session.batch("UPDATE hookstream.hooks SET retired = '2000-01-01'").await.unwrap();
    let tx = other.begin().await.unwrap();
    super::super::unused_rows::sweep_hooks(&tx, 0).await.unwrap();
    let hook = HookId { uid: "1".into(), namespace: "shop".into(), name: "a".into() };
    let places = places::find_or_insert_many(&session, &["shop"]).await.unwrap();
    let mut wanted = FastMap::default();
    wanted.insert(hook.uid.clone(), &hook);
    let accept = hooks::find_or_insert_many(&session, &wanted, &places);
    let (found, committed) = futures::join!(accept, async {
        let watch = database.session().await;
        let sql =
            "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
        while watch.query(sql, &[]).await.unwrap().is_empty() {}
        tx.commit().await
    });
    committed.unwrap();
    let found = found.unwrap()[&hook.uid].row_id;
    assert_ne!(found, row);
    assert_eq!(database.count(&format!("hooks WHERE id = {found} AND retired IS NULL")).await, 1);
}

#[tokio::test]
async fn counts_of_ended_writers_are_merged() {
    let database = Database::new().await;
    let session = database.session().await;
    session
        .batch(
            "INSERT INTO hookstream.workers (name, lease_until) VALUES ('present', 'infinity');
             INSERT INTO hookstream.writers (worker) VALUES (1), (77), (77);
             INSERT INTO hookstream.backlog SELECT h, w, h * w, 10 * h * w FROM generate_series(1, 3000) h, generate_series(1, 3) w;
             INSERT INTO hookstream.backlog VALUES (1, 0, -5, -50)",
        )
        .await
        .unwrap();
    for _ in 0..3 {
        sweep_all(&session, RETENTION, T0).await;
    }
    assert_eq!(database.count("writers").await, 1);
    // The hook 1 has 0 in the merged row.
    assert_eq!(database.count("backlog WHERE writer = 1 AND deliveries = hook").await, 3000);
    assert_eq!(
        database.count("backlog WHERE writer = 0 AND deliveries = 5 * hook AND bytes = 50 * hook").await,
        2999
    );
    assert_eq!(database.count("backlog").await, 5999);
}

#[tokio::test]
async fn one_worker_sweeps_and_one_steps_replays() {
    let database = Database::new().await;
    let (session, other) = (database.session().await, database.session().await);
    let shop = place(&session, "shop").await;
    let hook = insert_hook(&session, shop, "1", "a").await;
    insert(&session, shop, &[StoredEvent::new(1, "e", T0, &[(hook, DeliveryState::Dropped)])]).await;
    let filter = DeliveryFilter { namespace: "shop".into(), ..DeliveryFilter::default() };
    replays::start(&session, &filter, 100, T0).await.unwrap();
    let later = T0 + DAY * 9;
    let tx = other.begin().await.unwrap();
    for task in [SingleTask::Sweep, SingleTask::Replays] {
        assert!(try_lock(&tx, task).await.unwrap());
    }
    assert!(!sweep(&session, &mut Sweeps::default(), RETENTION, later).await.unwrap());
    assert_eq!(replays::step(&session, 1, later).await.unwrap(), []);
    assert_eq!(database.count("finished").await, 1);
    tx.commit().await.unwrap();
    assert_eq!(replays::step(&session, 1, later).await.unwrap().len(), 1);
    assert_eq!(database.count("pending").await, 1);
}
