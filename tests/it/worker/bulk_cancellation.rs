//! Cancelling many deliveries, and stopping a mistaken replay of many.

use std::time::Instant;

use serde_json::json;

use crate::harness::deliveries::{get_ok, list_deliveries, post, run, run_command};
use crate::harness::http::answer;
use crate::harness::manifests::hook;
use crate::harness::standalone::{EVENTS, Standalone};
use crate::harness::{DEADLINE, Receiver, Reply, eventually};

const DELIVERIES: usize = 10_000;
const BATCH: usize = 1000;
/// Deliveries a second of the mistaken replay.
const RATE: u64 = 1000;

/// Publishes the events in batches.
async fn publish_many(standalone: &Standalone) {
    for batch in 0..DELIVERIES / BATCH {
        let event = |n: usize| json!({"specversion": "1.0", "id": format!("{batch}-{n}"), "source": "s", "type": "e", "data": {}});
        let events: Vec<_> = (0..BATCH).map(event).collect();
        let request = standalone.client.post(standalone.url(EVENTS)).body(json!(events).to_string());
        let request = request.header("content-type", "application/cloudevents-batch+json");
        let (status, body) = answer(request).await;
        assert_eq!(status, 202, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistaken_replay_of_10_000_is_stopped_and_undone() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let paused = json!({"delivery": {"paused": true}});
    let other = json!({"source": "s", "delivery": {"paused": true}, "event": "none"});
    let manifests = hook("h", &receiver.url(), paused) + &hook("other", &receiver.url(), other);
    let standalone = Standalone::start(&manifests, &[]).await;
    publish_many(&standalone).await;

    let counted = run(&standalone, &["cancel", "--hook", "h", "--dry-run"]).await;
    assert_eq!(counted, (0, format!("{DELIVERIES} deliveries would be cancelled\n")));
    let nothing = run(&standalone, &["cancel", "--hook", "other"]).await;
    assert_eq!(nothing, (0, "0 deliveries cancelled\n".to_owned()));
    // One request cancels a bounded number: fewer on a busy machine, where its reads end by their time.
    let (status, first) = post(&standalone, "deliveries/cancel", &json!({"hook": "h"})).await;
    let cancelled = first["cancelled"].as_u64().unwrap();
    assert!(status == 200 && (1..=500).contains(&cancelled), "{first}");
    assert!(first["continue"].is_string());
    let rest = run(&standalone, &["cancel", "--hook", "h", "--state", "pending"]).await;
    assert_eq!(rest, (0, format!("{} deliveries cancelled\n", DELIVERIES as u64 - cancelled)));
    assert!(list_deliveries(&standalone, "state=pending").await.is_empty());

    let filter = json!({"hook": "h", "state": "cancelled", "rate": RATE});
    let (status, replay) = post(&standalone, "deliveries/replay", &filter).await;
    assert_eq!(status, 202, "{replay}");
    let id = replay["id"].as_str().unwrap();
    let path = format!("replays/{id}");
    let before = eventually(DEADLINE, "the first replayed deliveries", async || {
        let progress = get_ok(&standalone, &path).await;
        let replayed = progress["replayed"].as_u64().unwrap();
        if replayed > 0 { Ok(replayed) } else { Err(progress.to_string()) }
    })
    .await;
    let started = Instant::now();
    let (code, cancelled) = run_command(&standalone, "replays", &["cancel", id]).await;
    assert_eq!(code, 0, "{cancelled}");
    // What it put back until the command ended, and one second more.
    let most = before + RATE * (started.elapsed().as_secs() + 2);
    let replayed = get_ok(&standalone, &path).await["replayed"].as_u64().unwrap();
    assert!(replayed <= most && replayed < DELIVERIES as u64, "{before}, then {replayed}");
    // Nothing more is put back, and what was put back can be cancelled.
    let undone = run(&standalone, &["cancel", "--hook", "h"]).await;
    assert_eq!(undone, (0, format!("{replayed} deliveries cancelled\n")));
    assert!(list_deliveries(&standalone, "state=pending").await.is_empty());
    assert!(receiver.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_pending_deliveries_are_cancelled() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let standalone = Standalone::start(&hook("h", &receiver.url(), json!({})), &[]).await;
    for (body, part) in [
        (json!({"state": "dead"}), "state must be pending"),
        (json!({"rate": 1}), "rate"),
        (json!({"continue": "x"}), "continue is not a token"),
    ] {
        let (status, problem) = post(&standalone, "deliveries/cancel", &body).await;
        assert_eq!(status, 400, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(part), "{problem}");
    }
    let (code, text) = run(&standalone, &["cancel", "--hook", "h", "--state", "dead"]).await;
    assert!(code == 2 && text.contains("state must be pending"), "{text}");
}
