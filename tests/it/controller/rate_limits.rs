//! Rate limits of admin APIs: of a Connection, of a host, and those that the vendor demands. A slow Connection and one
//! with a hanging host delay no other.

use std::time::Instant;

use serde_json::{Value, json};

use crate::harness::objects::{message, object};
use crate::harness::world::{Setup, World};
use crate::harness::{DEADLINE, Kong, Process, eventually};

fn seconds_of(requests: &[Value]) -> Vec<f64> {
    let time = |r: &Value| r["time"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let mut all: Vec<f64> = requests.iter().map(|r| time(r).as_millisecond() as f64 / 1000.0).collect();
    all.sort_by(f64::total_cmp);
    all
}

/// Returns all admin requests, lists included.
async fn all_requests(kong: &Kong) -> Vec<Value> {
    let answer =
        crate::harness::http::http().get(format!("{}/__emulator/requests", kong.url)).send().await.unwrap();
    let list: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    list["data"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_keeps_its_rate_limit() {
    let world = World::start("rate").await;
    let limit = json!({"requests": 10, "interval": "1s", "burst": 3});
    let start = jiff::Timestamp::now().as_millisecond() as f64 / 1000.0;
    let mut objects = vec![world.connection_with(json!({ "rateLimit": limit }))];
    objects.extend((0..40).map(|n| world.hook(&format!("h{n}"))));
    world.apply(&objects).await;
    for n in 0..40 {
        world.ready(&format!("eventhooks/h{n}")).await;
    }
    let requests = all_requests(&world.kong).await;
    let times = seconds_of(&requests);
    assert!(requests.len() >= 41, "{}", requests.len());
    // A slow machine delays requests and may bunch them, but none arrives before the rate allows it.
    for (n, time) in times.iter().enumerate() {
        let earliest = (n as f64 - 2.0) / 10.0;
        // The emulator's times are in milliseconds.
        assert!(time - start >= earliest - 0.002, "request {n} after {} s: {times:?}", time - start);
    }
    // Each hook costs one write, and all of them together a few reads, because reconciles without a change share lists.
    let reads = requests.iter().filter(|r| r["method"] == "GET").count();
    assert_eq!(requests.len() - reads, 40);
    assert!(reads <= 10, "{reads} reads: {requests:#?}");
    // Waiting for the rate limiter raises no Event; becoming ready raises one.
    for n in 0..40 {
        world.event(&format!("h{n}"), "Synced").await;
        let events = world.events(&format!("h{n}")).await;
        assert_eq!(events.len(), 1, "{events:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_hanging_and_429_connections_delay_no_other() {
    let world = World::with("fair", Setup { kong: &["--workspace", "limited"], ..Setup::default() }).await;
    let hanging = Kong::start(&[]).await;
    hanging.fault(json!({"delayMs": 600_000})).await;
    let slow = Kong::start(&[]).await;
    let kong = |url: &str, rest: Value| {
        let mut spec = json!({"kong": {"adminUrl": url}});
        crate::harness::manifests::merge(&mut spec, rest);
        spec
    };
    let slow_rate = json!({"rateLimit": {"requests": 1, "interval": "30s", "burst": 1}});
    world.kong.fault(json!({"path": "/limited/", "status": 429, "headers": {"retry-after": "600"}})).await;
    let mut objects = vec![
        object("Connection", "hanging", kong(&hanging.url, json!({}))),
        object("Connection", "slow", kong(&slow.url, slow_rate)),
        object("Connection", "limited", kong(&world.kong.url, json!({"kong": {"workspace": "limited"}}))),
    ];
    for n in 0..40 {
        for connection in ["hanging", "slow", "limited"] {
            let connection_ref = json!({"connectionRef": {"name": connection}});
            objects.push(world.hook_with(&format!("{connection}-{n}"), connection_ref));
        }
    }
    let applied = Instant::now();
    world.apply(&objects).await;
    let reports_429 = |o: &Value| message(o).contains("limits the request rate");
    world.until("eventhooks/limited-0", "reporting the 429", reports_429).await;

    // Another Connection to the host that answered 429 works.
    world.apply(&[world.connection(), world.hook("quick")]).await;
    world.ready("eventhooks/quick").await;
    world.edit("evh/quick", json!({"event": "routes"})).await;
    world.ready("eventhooks/quick").await;
    assert_eq!(world.kong.hooks().await.len(), 1);

    // The controller makes no call after the 429. At most eight calls to a host are in flight when it arrives.
    let limited_calls =
        world.kong.count("GET", "/limited/").await + world.kong.count("PUT", "/limited/").await;
    assert!(limited_calls <= 8, "{limited_calls} calls in spite of the 429");
    // The slow Connection gets no more calls than its rate allows.
    let calls = all_requests(&slow).await.len() as u64;
    let max_calls = 2 + applied.elapsed().as_secs() / 30;
    assert!(calls <= max_calls, "{calls} calls at one in 30 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_calls_waits_outcomes_and_drift() {
    let mut world = World::with("metrics", Setup { resync: Some("1s"), ..Setup::default() }).await;
    world.stop_operator().await;
    let operator = world.another("controller", &[]);
    world.apply(&[world.connection(), world.hook("a")]).await;
    world.ready("eventhooks/a").await;
    let id = world.kong.only_hook().await["id"].as_str().unwrap().to_owned();
    world.kong.patch(&id, json!({"event": "routes"})).await;
    world.event("a", "DriftRepaired").await;
    let text = metrics(&world, &operator).await;
    let host = world.kong.url.trim_start_matches("http://").trim_end_matches('/');
    for line in [
        "hookstream_leader 1".to_owned(),
        r#"hookstream_drift_repaired_total{kind="EventHook"} 1"#.to_owned(),
        format!(r#"hookstream_admin_requests_total{{host="{host}",method="PUT",code="2xx"}} 2"#),
        format!(r#"hookstream_admin_rate_limit_wait_seconds_count{{host="{host}"}}"#),
        r#"hookstream_reconciles_total{kind="EventHook",outcome="Applied"}"#.to_owned(),
        "hookstream_watch_requests_total{resource=".to_owned(),
    ] {
        assert!(text.contains(&line), "{line}\nin\n{text}");
    }
}

async fn metrics(world: &World, process: &Process) -> String {
    eventually(DEADLINE, "the drift in the metrics", async || {
        let (_, text) = world.ops(process, "/metrics").await;
        if text.contains("hookstream_drift_repaired_total{") { Ok(text) } else { Err(text) }
    })
    .await
}
