//! Admin APIs are called within their limits: a Connection's own rate, the ceiling of its host, and what the vendor asks
//! for. A Connection that is slow, or whose host hangs, holds up nobody else.

use serde_json::{Value, json};

use crate::harness::{DEADLINE, Process, eventually};
use crate::world::{Kong, Setup, World, message, object};

fn times(requests: &[Value]) -> Vec<f64> {
    let time = |r: &Value| r["time"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let mut all: Vec<f64> = requests.iter().map(|r| time(r).as_millisecond() as f64 / 1000.0).collect();
    all.sort_by(f64::total_cmp);
    all
}

/// The most requests that came within any time of this length (seconds).
fn most_within(times: &[f64], length: f64) -> usize {
    (0..times.len())
        .map(|i| times[i..].iter().take_while(|t| **t - times[i] < length).count())
        .max()
        .unwrap_or(0)
}

/// All admin requests, lists included: the test reads nothing by the admin API meanwhile.
async fn all_requests(kong: &Kong) -> Vec<Value> {
    let answer = crate::world::http().get(format!("{}/__emulator/requests", kong.url)).send().await.unwrap();
    let list: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    list["data"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_keeps_its_rate_and_an_edit_need_not_wait_for_the_rest() {
    let world = World::start("rate").await;
    let limit = json!({"requests": 10, "interval": "1s", "burst": 3});
    let mut objects = vec![world.connection_with(json!({ "rateLimit": limit }))];
    objects.extend((0..40).map(|n| world.hook(&format!("h{n}"))));
    world.apply(&objects).await;
    for n in 0..40 {
        world.ready(&format!("eventhooks/h{n}")).await;
    }
    let requests = all_requests(&world.kong).await;
    let times = times(&requests);
    assert!(requests.len() >= 41, "{}", requests.len());
    // What leaves in time may arrive bunched: a tenth of the window is forgiven.
    for seconds in [1.0, 2.0] {
        let most = most_within(&times, seconds);
        let bound = 3.0 + 10.0 * (seconds + 0.3);
        assert!(most as f64 <= bound, "{most} within {seconds} s: {times:?}");
    }
    // Each costs its write, and all together a few reads: what calls for nothing takes turns from the rest.
    let reads = requests.iter().filter(|r| r["method"] == "GET").count();
    assert_eq!(requests.len() - reads, 40);
    assert!(reads <= 10, "{reads} reads: {requests:#?}");
    // Nobody was told so: to wait for one's turn is no news. That it is ready is told once.
    for n in 0..40 {
        world.event(&format!("h{n}"), "Synced").await;
        let events = world.events(&format!("h{n}")).await;
        assert_eq!(events.len(), 1, "{events:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_limit_a_hanging_host_and_a_429_hold_up_nobody_else() {
    let world = World::with("fair", Setup { kong: &["--workspace", "asked"], ..Setup::default() }).await;
    let hanging = Kong::start(&[]).await;
    hanging.fault(json!({"delayMs": 600_000})).await;
    let slow = Kong::start(&[]).await;
    let kong = |url: &str, rest: Value| {
        let mut spec = json!({"kong": {"adminUrl": url}});
        crate::standalone::merge(&mut spec, rest);
        spec
    };
    let snail = json!({"rateLimit": {"requests": 1, "interval": "30s", "burst": 1}});
    world.kong.fault(json!({"path": "/asked/", "status": 429, "headers": {"retry-after": "600"}})).await;
    let mut objects = vec![
        object("Connection", "hanging", kong(&hanging.url, json!({}))),
        object("Connection", "slow", kong(&slow.url, snail)),
        object("Connection", "asked", kong(&world.kong.url, json!({"kong": {"workspace": "asked"}}))),
    ];
    for n in 0..40 {
        for connection in ["hanging", "slow", "asked"] {
            let of = json!({"connectionRef": {"name": connection}});
            objects.push(world.hook_with(&format!("{connection}-{n}"), of));
        }
    }
    world.apply(&objects).await;
    let told = |o: &Value| message(o).contains("slow down");
    world.until("eventhooks/asked-0", "told of the 429", told).await;

    // A Connection at the very host that asked another one to wait.
    world.apply(&[world.connection(), world.hook("quick")]).await;
    world.ready("eventhooks/quick").await;
    world.edit("evh/quick", json!({"event": "routes"})).await;
    world.ready("eventhooks/quick").await;
    assert_eq!(world.kong.hooks().await.len(), 1);

    // The forty of that Connection cost one call each at most, and in truth a few all together.
    let asked = world.kong.count("GET", "/asked/").await + world.kong.count("PUT", "/asked/").await;
    assert!(asked <= 8, "{asked} calls although it asked to be left alone");
    // Of the slow one, so many as its rate allows.
    let calls = all_requests(&slow).await.len();
    assert!(calls <= 3, "{calls} calls at one in 30 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_calls_waits_outcomes_drift_and_who_leads() {
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
