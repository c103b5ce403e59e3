//! Fair shares of in-flight slots and memory: hooks whose receivers hang or are dead do not slow the others.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::manifests::{event, hook, manifest, merge, quick};
use crate::harness::metrics::{ATTEMPTS, DELIVERED, FINISHED};
use crate::harness::standalone::Standalone;
use crate::harness::{DEADLINE, Receiver, Reply, eventually};

/// Attempts of both tarpits together, if nothing stops them: all in-flight slots.
const TARPIT_EVENTS: usize = 1100;

fn hook_in(namespace: &str, name: &str, url: &str, spec: Value) -> String {
    let mut full = json!({"source": "s", "handler": {"webhook": {"url": url}}});
    merge(&mut full, spec);
    let content = json!({"metadata": {"namespace": namespace}, "spec": full});
    manifest("hookstream.dev/v1alpha1", "EventHook", name, content)
}

/// Publishes events into a namespace in batches.
async fn publish_many(standalone: &Standalone, namespace: &str, count: usize) {
    let url = standalone.url(&format!("/v1/namespaces/{namespace}/events"));
    let ids: Vec<usize> = (0..count).collect();
    for batch in ids.chunks(100) {
        let events: Vec<_> = batch
            .iter()
            .map(|id| json!({"specversion": "1.0", "id": format!("{id}"), "source": "s", "type": "e", "data": {}}))
            .collect();
        let request = standalone
            .client
            .post(&url)
            .header("content-type", "application/cloudevents-batch+json")
            .body(json!(events).to_string());
        assert_eq!(request.send().await.unwrap().status(), 202);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tarpits_leave_slots_for_other_hooks() {
    let tarpit = Receiver::start(|_, _| Reply::Hang);
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let slow = json!({"delivery": {"concurrency": 1024, "timeout": "10m"}});
    let manifests = hook_in("tarpits", "one", &tarpit.url(), slow.clone())
        + &hook_in("tarpits", "two", &tarpit.url(), slow)
        + &hook_in("tarpits", "same", &receiver.url(), json!({"source": "other"}))
        + &hook("healthy", &receiver.url(), quick());
    let standalone = Standalone::start(&manifests, &[]).await;
    publish_many(&standalone, "tarpits", TARPIT_EVENTS).await;
    // The tarpits take what they can: until their number of attempts stays the same for two seconds.
    let mut seen = (0, Instant::now());
    eventually(DEADLINE, "the tarpits to have all attempts that they get", async || {
        let count = tarpit.requests().len();
        if count != seen.0 {
            seen = (count, Instant::now());
        }
        let is_stable = count >= 100 && seen.1.elapsed() > Duration::from_secs(2);
        if is_stable { Ok(()) } else { Err(format!("{count} attempts")) }
    })
    .await;
    assert!(tarpit.requests().len() < 2048, "they have taken every slot");
    for id in 0..50 {
        standalone.publish_accepted(&event(&format!("{id}"))).await;
    }
    let url = standalone.url("/v1/namespaces/tarpits/events");
    let body = json!({"id": "same", "source": "other", "event": "e", "data": {}});
    assert_eq!(standalone.client.post(url).json(&body).send().await.unwrap().status(), 202);
    receiver.wait_for(51, DEADLINE).await;
    standalone.wait_for_count(FINISHED, &[DELIVERED], 51).await;
}

/// Dead receivers with large events: their deliveries go back to disk, and a healthy hook keeps its rate.
#[tokio::test(flavor = "multi_thread")]
async fn dead_receivers_leave_memory_for_other_hooks() {
    const DEAD_HOOKS: usize = 24;
    let receiver =
        Receiver::start(|_, _| Reply::After(Duration::from_millis(250), Reply::status(200).into()));
    let mut manifests =
        hook("healthy", &receiver.url(), json!({"delivery": {"concurrency": 64, "timeout": "30s"}}));
    for n in 0..DEAD_HOOKS {
        let name = format!("dead-{n}");
        manifests += &hook_in("dead", &name, "http://127.0.0.1:1", json!({"source": name}));
    }
    let standalone = Standalone::start(&manifests, &["--memory-budget", "128MiB"]).await;
    let mut received = 0;
    let mut time_for_many = async |from: usize| {
        let started = Instant::now();
        for id in from..from + 512 {
            standalone.publish_accepted(&event(&format!("{id}"))).await;
        }
        received += 512;
        receiver.wait_for(received, DEADLINE).await;
        started.elapsed()
    };
    let alone = time_for_many(0).await;
    let url = standalone.url("/v1/namespaces/dead/events");
    for round in 0..4 {
        for n in 0..DEAD_HOOKS {
            let data = "x".repeat(1_000_000);
            let event = json!({"id": format!("{n}-{round}"), "source": format!("dead-{n}"), "event": "e", "data": data});
            assert_eq!(standalone.client.post(&url).json(&event).send().await.unwrap().status(), 202);
        }
    }
    let beside = time_for_many(1000).await;
    assert!(standalone.count(ATTEMPTS, &[r#"outcome="Connect""#]).await >= DEAD_HOOKS as u64);
    // With the memory full of deliveries that cannot be sent, it took thirty times as long. A busy machine needs a margin.
    assert!(beside < alone * 5 + Duration::from_secs(2), "{beside:?} beside dead receivers, {alone:?} alone");
}
