//! Asks for each page in turn, and prints how long the worker takes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hookstream::api::EventHook;
use hookstream::cluster::DeserializeGuard;
use hookstream::console::{self, ConsoleOptions};
use hookstream::worker::LocalAccess;
use hookstream::worker::store::Retention;
use serde_json::{Value, json};

use crate::common::figures::Spread;
use crate::common::memory_worker::{MemoryWorker, Options};
use crate::common::preload::WINDOW_TIME;
use crate::common::settings::number;
use crate::store::{Content, NAMESPACE, event_id, hook_name, hook_uid};

/// The most milliseconds of a page.
const LIMIT: f64 = 100.0;
/// The time between two rounds. What the pages share is older then and is read again, as it is for a user.
const PAUSE: Duration = Duration::from_millis(2500);
/// Every hundredth hook fails, and the one after it is paused.
const FAILING: usize = 100;

/// Starts a worker on the store in the present folder and measures its pages. Returns the number of pages that failed.
pub async fn measure(content: Content) -> usize {
    let access = Arc::new(LocalAccess::default());
    let extend_access = access.clone();
    let options = Options {
        retention: Retention {
            history_age: WINDOW_TIME,
            dead_letter_age: WINDOW_TIME,
            unmatched_age: WINDOW_TIME,
            history_bytes: 1 << 40,
            dead_letter_bytes: 1 << 40,
        },
        local_access: Some(access),
        extend: Some(Box::new(move |cluster| {
            let local_access = Some(extend_access);
            let options =
                ConsoleOptions { cluster, local_access, is_tls: false, trusted_proxies: Vec::new() };
            Box::new(move |port| console::router(port, options))
        })),
        ..Options::new(content.hooks, Box::new(hook))
    };
    let started = Instant::now();
    let worker = MemoryWorker::start(options).await;
    let base = format!("http://{}", worker.ports.api);
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let rounds = number("BENCH_ROUNDS", 12);
    println!(
        "pages of the web console: a store with {content} in {} events, one request at a time, {rounds} rounds, {:.0?} to start; \
         milliseconds, median (minimum-maximum)",
        content.events(),
        started.elapsed()
    );
    let pages = pages(&client, &base, content).await;
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); pages.len()];
    let mut failures: Vec<Option<u16>> = vec![None; pages.len()];
    // The first round fills caches, of the file system too, and builds the table of hooks. It is not counted.
    let mut first = (0.0_f64, "");
    for round in 0..=rounds {
        for (index, (_, path)) in pages.iter().enumerate() {
            let started = Instant::now();
            let response = client.get(format!("{base}{path}")).send().await.expect("a response");
            let status = response.status();
            response.bytes().await.expect("a body");
            let took = started.elapsed().as_secs_f64() * 1e3;
            if round > 0 {
                times[index].push(took);
            } else if took > first.0 {
                first = (took, pages[index].0);
            }
            if !status.is_success() {
                failures[index] = Some(status.as_u16());
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    println!("slowest page of the first round: {} in {:.0} ms", first.1, first.0);
    let mut failed = 0;
    for (((name, path), times), failure) in pages.iter().zip(&times).zip(&failures) {
        let spread = Spread::of(times.iter().copied());
        let verdict = match failure {
            Some(status) => format!("answered {status} to {path}"),
            None if spread.max > LIMIT => format!("over the limit of {LIMIT:.0} ms at the maximum"),
            None => String::new(),
        };
        failed += usize::from(failure.is_some());
        println!("{name:<44}{spread:>24.1}  {:.2} of the limit {verdict}", spread.median / LIMIT);
    }
    worker.stop().await;
    failed
}

/// Returns the names and the addresses of the pages.
async fn pages(client: &reqwest::Client, base: &str, content: Content) -> Vec<(&'static str, String)> {
    let middle = content.events() / 2;
    let list = format!("{base}/v1/namespaces/{NAMESPACE}/deliveries?limit=1&state=dead");
    let found: Value = serde_json::from_str(
        &client.get(list).send().await.expect("a response").text().await.expect("a body"),
    )
    .expect("JSON");
    let delivery = found["items"][0]["id"].as_str().expect("a dead delivery").to_owned();
    let older = found["continue"].as_str().expect("another page").to_owned();
    let hook = hook_name(content.hooks / 2);
    let event = event_id(middle);
    let own = |path: String| format!("/console/namespaces/{NAMESPACE}{path}");
    vec![
        ("overview", own(String::new())),
        ("overview of all namespaces", "/console/".to_owned()),
        ("hooks by name", own("/hooks".to_owned())),
        ("hooks by state", own("/hooks?sort=state".to_owned())),
        ("hooks by backlog", own("/hooks?sort=pending".to_owned())),
        ("hooks by last success", own("/hooks?sort=lastSuccess".to_owned())),
        ("hooks that fail", own("/hooks?state=failing".to_owned())),
        ("hooks with a part of a name", own("/hooks?name=h999".to_owned())),
        ("hooks of all namespaces", "/console/hooks".to_owned()),
        ("hook", own(format!("/hooks/{hook}"))),
        ("hook test", own(format!("/hooks/{hook}/test"))),
        ("events", own("/events".to_owned())),
        ("events of all namespaces", "/console/events".to_owned()),
        ("events of a hook", own(format!("/events?hook={hook}"))),
        ("events with dead letters", own("/events?outcome=dead".to_owned())),
        ("events that no hook matched", own("/events?outcome=unmatched".to_owned())),
        ("events of a source without any", own("/events?source=none".to_owned())),
        ("events with a text in the id", own(format!("/events?text={event}"))),
        ("events with a text in the data", own("/events?data=1&text=customer-777".to_owned())),
        ("events with a text that none has", own("/events?data=1&text=nothing".to_owned())),
        ("event", own(format!("/event?id={event}"))),
        ("deliveries", own("/deliveries".to_owned())),
        ("deliveries of all namespaces", "/console/deliveries".to_owned()),
        ("dead deliveries", own("/deliveries?state=dead".to_owned())),
        ("dead deliveries, second page", own(format!("/deliveries?state=dead&continue={older}"))),
        ("pending and dead deliveries", own("/deliveries?state=pending,dead".to_owned())),
        ("deliveries of a hook", own(format!("/deliveries?hook={hook}"))),
        ("deliveries of an event", own(format!("/deliveries?event={event}"))),
        ("deliveries by status", own("/deliveries?status=503".to_owned())),
        ("deliveries with a reason that none has", own("/deliveries?reason=Timeout".to_owned())),
        ("deliveries of a time", own("/deliveries?since=6h&until=5h".to_owned())),
        ("delivery", own(format!("/deliveries/{delivery}"))),
        ("count before a replay of many", own("/deliveries/matching?action=replay&state=dead".to_owned())),
        ("count before a cancellation of many", own("/deliveries/matching?action=cancel".to_owned())),
        ("replays", own("/replays".to_owned())),
        ("connections", own("/connections".to_owned())),
        ("catalogue", own("/catalogue".to_owned())),
        ("form of a test event", own("/send".to_owned())),
        ("search of an order number", own(format!("/search?q={middle}"))),
        ("search of an event's id", own(format!("/search?q={event}"))),
        ("search of a hook", own(format!("/search?q={hook}"))),
        ("search without a result", own("/search?q=nothing-has-this".to_owned())),
    ]
}

/// Returns a hook that delivers, fails or is paused.
fn hook(number: usize) -> DeserializeGuard<EventHook> {
    let fails = number.is_multiple_of(FAILING);
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({"type": kind, "status": status, "reason": reason, "message": message, "observedGeneration": 1,
            "lastTransitionTime": "2026-11-14T22:13:20Z"})
    };
    let delivering = match fails {
        true => condition("Delivering", "False", "AttemptsFail", "attempts fail: the receiver answers 503"),
        false => condition("Delivering", "True", "Delivering", "deliveries go out"),
    };
    serde_json::from_value(json!({
        "apiVersion": "hookstream.dev/v1alpha1", "kind": "EventHook",
        "metadata": {"name": hook_name(number), "namespace": NAMESPACE, "uid": hook_uid(number), "generation": 1,
            "resourceVersion": number.to_string()},
        "spec": {"source": format!("shop-{}", number % 500), "event": format!("event-{}", number % 40),
            "delivery": {"paused": number % FAILING == 1},
            "handler": {"webhook": {"url": format!("https://receiver-{}.example/hooks", number % 1000)}}},
        "status": {"conditions": [delivering, condition("Ready", "True", "Synced", "synced")]}
    }))
    .expect("a hook")
}
