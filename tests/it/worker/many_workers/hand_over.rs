//! What limits a hook's attempts moves along when another worker takes the hook over.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::start_on_copy;
use crate::harness::http::answer;
use crate::harness::manifests::{event, hook, merged, quick};
use crate::harness::postgres::shared;
use crate::harness::standalone::Standalone;
use crate::harness::{DEADLINE, Receiver, Reply, eventually};

/// Hooks of each kind. Both workers own some.
const HOOKS: usize = 8;
/// Requests that the rate limit permits at once, and for an hour.
const BURST: usize = 5;
const EVENTS: usize = 30;
/// Longer than a hand-over.
const PAUSE_MS: u64 = 8_000;
/// More than the time until the stop.
const STOP_MS: i64 = 3_000;
/// Times of probes are shown in milliseconds.
const ROUNDING_MS: i64 = 2;

/// Arrivals in milliseconds since the epoch, by path.
type Arrivals = Arc<Mutex<HashMap<String, Vec<i64>>>>;

fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// Returns the time of the next probe of a hook, and the pause before it, if this worker knows its open breaker.
async fn next_probe(worker: &Standalone, name: &str) -> Option<(i64, u64)> {
    let url = format!("http://{}/v1/namespaces/default/hooks/{name}", worker.api);
    let (_, shown): (u16, Value) = answer(worker.client.get(&url)).await;
    let breaker = &shown["breaker"];
    let at = breaker["nextProbeTime"].as_str()?.parse::<jiff::Timestamp>().expect("a time");
    Some((at.as_millisecond(), breaker["pauseMs"].as_u64()?))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_over_keeps_breakers_open_and_rate_limits_spent() {
    let arrivals = Arrivals::default();
    let recorded = arrivals.clone();
    let receiver = Receiver::start(move |request, _| {
        recorded.lock().unwrap().entry(request.path.clone()).or_default().push(now());
        Reply::status(if request.path.starts_with("/failing") { 503 } else { 200 })
    });
    let url = |kind: &str, n: usize| format!("{}/{kind}-{n}", receiver.url());
    let limit = json!({"delivery": {"rateLimit": {"requests": 1, "interval": "1h", "burst": BURST}}});
    let limited = merged(quick(), limit);
    let manifests: String = (0..HOOKS)
        .map(|n| {
            hook(&format!("failing-{n}"), &url("failing", n), quick())
                + &hook(&format!("limited-{n}"), &url("limited", n), limited.clone())
        })
        .collect();
    let database = shared().new_database();
    let args = ["--store-url", &database, "--allow-unsafe-commits"];
    let stopping = Standalone::start(&manifests, &args).await;
    let other = start_on_copy(&manifests, &args, &stopping.data).await;
    for n in 0..EVENTS {
        stopping.publish_accepted(&event(&format!("e{n}"))).await;
    }

    // Each hook's breaker is open for long enough, and each rate limit is spent.
    let planned = eventually(DEADLINE, "the breakers to pause for long", async || {
        let mut planned = Vec::new();
        for n in 0..HOOKS {
            let name = format!("failing-{n}");
            let (here, there) = (next_probe(&stopping, &name).await, next_probe(&other, &name).await);
            let known = here.or(there).filter(|(_, pause)| *pause >= PAUSE_MS);
            let (at, _) = known.ok_or_else(|| format!("{name}: {here:?} {there:?}"))?;
            planned.push((name, at, here.is_some()));
        }
        let arrivals = arrivals.lock().unwrap();
        let spent =
            (0..HOOKS).all(|n| arrivals.get(&format!("/limited-{n}")).is_some_and(|all| all.len() >= BURST));
        if !spent {
            return Err("a rate limit is not spent".to_owned());
        }
        // One that is about to be probed may be probed before the stop.
        let latest = now() + STOP_MS;
        match planned.iter().any(|(_, at, here)| *here && *at > latest) {
            true => Ok(planned),
            false => Err("no breaker of the stopping worker is open for long enough".to_owned()),
        }
    })
    .await;
    let stopped = now();
    stopping.process().terminate().await;
    // Both workers had some, and their receivers fail on.
    let moved: Vec<_> = planned.iter().filter(|(_, at, here)| *here && *at > stopped).collect();
    assert!(!moved.is_empty(), "no breaker moves: {planned:?}");

    eventually(DEADLINE, "the probes at the new owner", async || {
        let arrivals = arrivals.lock().unwrap();
        for (name, at, _) in &moved {
            let arrived = arrivals.get(&format!("/{name}")).and_then(|all| all.last().copied());
            if arrived.is_none_or(|arrived| arrived < *at) {
                return Err(format!("{name}: planned {at}, last arrival {arrived:?}"));
            }
        }
        Ok(())
    })
    .await;
    let arrivals = arrivals.lock().unwrap();
    for (name, at, _) in moved {
        let early: Vec<i64> = arrivals[&format!("/{name}")]
            .iter()
            .copied()
            .filter(|arrived| *arrived > stopped && *arrived < at - ROUNDING_MS)
            .collect();
        assert!(
            early.is_empty(),
            "{name}: attempts at {early:?}, stopped at {stopped}, probe planned for {at}"
        );
    }
    for n in 0..HOOKS {
        assert_eq!(arrivals[&format!("/limited-{n}")].len(), BURST, "limited-{n}");
    }
}

/// A limit of which no further token comes while this test runs. Its worker is killed before and after each attempt.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_rate_limit_keeps_its_tokens_when_its_worker_is_killed() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let limit = json!({"delivery": {"rateLimit": {"requests": 1, "interval": "1h", "burst": 2}}});
    let manifests = hook("limited", &format!("{}/limited", receiver.url()), merged(quick(), limit))
        + &hook("free", &format!("{}/free", receiver.url()), quick());
    let database = shared().new_database();
    let mut worker =
        Standalone::start(&manifests, &["--store-url", &database, "--allow-unsafe-commits"]).await;
    let count = |path: &str| receiver.requests().iter().filter(|request| request.path == path).count();
    let arrive = async |path: &str, expected: usize| {
        eventually(DEADLINE, "the requests", async || match count(path) {
            found if found >= expected => Ok(()),
            found => Err(format!("{found} requests of {expected} at {path}")),
        })
        .await;
    };

    // While no token can be recorded, no attempt starts.
    let sql = |sql: &str| shared().sql(database.rsplit('/').next().expect("a name"), sql).expect("SQL");
    sql("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON hookstream.pacing EXECUTE FUNCTION refuse()");
    worker.publish_accepted(&event("e1")).await;
    arrive("/free", 1).await;
    worker.assert_stays("held back", async || count("/limited") == 0).await;
    sql("DROP TRIGGER refuse ON hookstream.pacing");
    arrive("/limited", 1).await;

    for n in 2..=3 {
        worker.process().kill9();
        worker.restart().await;
        worker.publish_accepted(&event(&format!("e{n}"))).await;
        arrive("/free", n).await;
        arrive("/limited", 2).await;
    }
    worker.assert_stays("within its limit", async || count("/limited") == 2).await;
}
