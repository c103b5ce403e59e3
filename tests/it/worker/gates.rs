//! Gates: they drop events that arrive too soon after another one of their group, and events that changed nothing. Their
//! state survives a crash. A dead delivery reverts its change of that state.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::deliveries::{list_deliveries, post, run};
use crate::harness::http::answer;
use crate::harness::manifests::{hook, merge, quick};
use crate::harness::metrics::{DEAD, DELIVERED, FINISHED};
use crate::harness::standalone::{EVENTS, Standalone};
use crate::harness::{DEADLINE, Receiver, Recorded, Reply, elapse, eventually};

const PERIOD: Duration = Duration::from_secs(4);
const SUPPRESSED: &str = "x-hookstream-suppressed";

fn gated(receiver: &Receiver, gates: Value) -> String {
    let mut spec = quick();
    merge(&mut spec, gates);
    hook("h", &receiver.url(), spec)
}

async fn start(gates: Value) -> (Receiver, Standalone) {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let standalone = Standalone::start(&gated(&receiver, gates), &[]).await;
    (receiver, standalone)
}

fn event_with(id: &str, data: Value) -> Value {
    json!({"id": id, "source": "s", "event": "e", "data": data})
}

/// Publishes an event of a thing in a state. Returns the number of deliveries that were not dropped.
async fn publish(standalone: &Standalone, id: &str, thing: &str, state: &str) -> u64 {
    let event = event_with(id, json!({"number": id, "thing": {"id": thing}, "state": state}));
    let (status, answer) = standalone.publish(&event).await;
    assert_eq!(status, 202, "{answer}");
    answer["deliveries"].as_u64().expect("deliveries")
}

/// Publishes events, each of a thing, in one request, so that the gates decide them at one instant. Returns the number of
/// deliveries of each that were not dropped.
async fn publish_batch(standalone: &Standalone, events: &[(&str, &str)]) -> Vec<u64> {
    let with_data = |(id, thing): &(&str, &str)| {
        ((*id).to_owned(), json!({"number": id, "thing": {"id": thing}, "state": id}))
    };
    publish_data(standalone, events.iter().map(with_data)).await
}

/// Publishes events with this data in one request. Returns the number of deliveries of each that were not dropped.
async fn publish_data(
    standalone: &Standalone,
    events: impl IntoIterator<Item = (String, Value)>,
) -> Vec<u64> {
    let cloud = |(id, data): (String, Value)| json!({"specversion": "1.0", "id": id, "source": "s", "type": "e", "data": data});
    let batch: Value = events.into_iter().map(cloud).collect();
    let request = standalone.client.post(standalone.url(EVENTS));
    let request =
        request.header("content-type", "application/cloudevents-batch+json").body(batch.to_string());
    let (status, answer) = answer(request).await;
    assert_eq!(status, 202, "{answer}");
    answer.as_array().unwrap().iter().map(|one| one["deliveries"].as_u64().expect("deliveries")).collect()
}

/// Returns the numbers of the events in these requests.
fn numbers(requests: &[Recorded]) -> Vec<String> {
    requests.iter().map(|r| r.json()["number"].as_str().unwrap().to_owned()).collect()
}

async fn explain(standalone: &Standalone, id: &str) -> String {
    let (code, text) = run(standalone, &["explain", id]).await;
    assert_eq!(code, 0, "{text}");
    text
}

fn snooze(trailing: &str) -> Value {
    json!({"snooze": {"period": format!("{}s", PERIOD.as_secs()), "trailing": trailing}, "groupBy": ["thing.id"]})
}

#[tokio::test(flavor = "multi_thread")]
async fn snooze_drops_within_the_period() {
    let (receiver, standalone) = start(snooze("None")).await;
    let before_publish = Instant::now();
    let deliveries = publish_batch(&standalone, &[("1", "a"), ("2", "a"), ("3", "a"), ("4", "b")]).await;
    assert_eq!(deliveries, [1, 0, 0, 1], "2 and 3 are within the period of 1; 4 is of another group");
    let after_publish = Instant::now();
    assert!(explain(&standalone, "2").await.contains("dropped: snoozed"));
    elapse(after_publish, PERIOD).await;
    standalone.assert_stays("no trailing delivery", async || receiver.requests().len() == 2).await;
    assert_eq!(publish(&standalone, "5", "a", "up").await, 1, "the period is over");
    let requests = receiver.wait_for(3, DEADLINE).await;
    assert_eq!(numbers(&requests[2..]), ["5"]);
    assert!(requests[2].at.duration_since(before_publish) >= PERIOD);
    let suppressed: Vec<_> = requests.iter().map(|r| r.header(SUPPRESSED)).collect();
    assert_eq!(suppressed[2], "2");
    assert!(suppressed[..2].iter().all(|n| n.is_empty() || *n == "0"), "{suppressed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn trailing_candidate_is_sent_when_the_period_ends() {
    let (receiver, standalone) = start(snooze("Last")).await;
    let before_publish = Instant::now();
    let deliveries = publish_batch(&standalone, &[("1", "a"), ("2", "a"), ("3", "a"), ("4", "a")]).await;
    assert_eq!(deliveries, [1, 1, 1, 1], "each candidate counts as a delivery");
    let requests = receiver.wait_for(2, DEADLINE).await;
    assert_eq!(numbers(&requests), ["1", "4"]);
    let delay = requests[1].at.duration_since(before_publish);
    assert!(delay >= PERIOD, "{delay:?}");
    assert_eq!(requests[1].header(SUPPRESSED), "2");
    assert!(explain(&standalone, "3").await.contains("dropped: superseded"));
    assert_eq!(list_deliveries(&standalone, "state=dropped").await.len(), 2);

    publish(&standalone, "5", "a", "5").await;
    let requests = receiver.wait_for(3, DEADLINE).await;
    let delay = requests[2].at.duration_since(before_publish);
    assert!(delay >= PERIOD * 2, "the candidate opened a period of its own: {delay:?}");
    assert_eq!(numbers(&requests), ["1", "4", "5"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn candidate_survives_crash() {
    let (receiver, mut standalone, before_publish, after_publish) = loop {
        let (receiver, standalone) = start(snooze("Last")).await;
        let before_publish = Instant::now();
        assert_eq!(publish_batch(&standalone, &[("1", "a"), ("2", "a")]).await, [1, 1]);
        let after_publish = Instant::now();
        // The outcome is stored, so that the first event is not sent again after the crash.
        standalone.wait_for_count(FINISHED, &[DELIVERED], 1).await;
        standalone.process().kill9();
        // On a machine so slow that the period ended before the crash, the candidate may have been sent: start again.
        if before_publish.elapsed() < PERIOD {
            break (receiver, standalone, before_publish, after_publish);
        }
    };
    elapse(after_publish, PERIOD).await;
    assert_eq!(receiver.requests().len(), 1);
    standalone.restart().await;
    assert_eq!(numbers(&receiver.wait_for(2, DEADLINE).await), ["1", "2"]);
    assert_eq!(publish(&standalone, "3", "a", "up").await, 1);
    let requests = receiver.wait_for(3, DEADLINE).await;
    assert_eq!(numbers(&requests), ["1", "2", "3"]);
    let delay = requests[2].at.duration_since(before_publish);
    assert!(delay >= PERIOD * 2, "3 is the next period's candidate: {delay:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unchanged_events_are_dropped() {
    let (receiver, standalone) =
        start(json!({"onChange": {"fields": ["state"]}, "groupBy": ["thing.id"]})).await;
    for (id, thing, state, deliveries) in [
        ("1", "a", "up", 1),
        ("2", "a", "up", 0),
        ("3", "b", "up", 1),
        ("4", "a", "down", 1),
        ("5", "a", "up", 1),
        ("6", "b", "up", 0),
    ] {
        assert_eq!(publish(&standalone, id, thing, state).await, deliveries, "event {id}");
    }
    let requests = receiver.wait_for(4, DEADLINE).await;
    let fourth = requests.iter().find(|r| r.json()["number"] == "4").unwrap();
    assert_eq!(fourth.header(SUPPRESSED), "1");
    assert!(explain(&standalone, "2").await.contains("dropped: unchanged"));
}

#[tokio::test(flavor = "multi_thread")]
async fn compares_whole_data_without_fields() {
    let (receiver, standalone) = start(json!({"onChange": {}})).await;
    for (id, data, deliveries) in [
        ("1", json!({"a": 1, "b": {"c": 2}}), 1),
        ("2", json!({"b": {"c": 2}, "a": 1}), 0),
        ("3", json!({"a": 1, "b": {"c": 3}}), 1),
        ("4", json!({"a": 1, "b": {"c": 2}}), 1),
    ] {
        let (_, answer) = standalone.publish(&event_with(id, data)).await;
        assert_eq!(answer["deliveries"], deliveries, "event {id}: {answer}");
    }
    receiver.wait_for(3, DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reverted_change_cancels_candidate() {
    let mut gates = snooze("Last");
    merge(&mut gates, json!({"onChange": {"fields": ["state"]}}));
    let (receiver, standalone) = start(gates).await;
    let with_state =
        |id: &str, state: &str| (id.to_owned(), json!({"number": id, "thing": {"id": "a"}, "state": state}));
    let deliveries =
        publish_data(&standalone, [with_state("1", "up"), with_state("2", "down"), with_state("3", "up")])
            .await;
    assert_eq!(deliveries, [1, 1, 0], "2 is a candidate; 3 has the state of the last delivered event");
    let after_publish = Instant::now();
    assert!(explain(&standalone, "3").await.contains("dropped: unchanged"), "onChange is evaluated first");
    assert!(explain(&standalone, "2").await.contains("dropped: superseded"));
    elapse(after_publish, PERIOD).await;
    standalone
        .assert_stays("the candidate is cancelled", async || numbers(&receiver.requests()) == ["1"])
        .await;
    assert_eq!(publish(&standalone, "4", "a", "up").await, 0, "still unchanged");
    assert_eq!(publish(&standalone, "5", "a", "down").await, 1);
    let requests = receiver.wait_for(2, DEADLINE).await;
    assert_eq!(numbers(&requests), ["1", "5"]);
    assert_eq!(requests[1].header(SUPPRESSED), "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn gate_state_survives_crash() {
    let gates =
        json!({"snooze": {"period": "1h"}, "onChange": {"fields": ["state"]}, "groupBy": ["thing.id"]});
    let (receiver, mut standalone) = start(gates).await;
    assert_eq!(publish(&standalone, "1", "a", "up").await, 1);
    standalone.wait_for_count(FINISHED, &[DELIVERED], 1).await;
    standalone.process().kill9();
    standalone.restart().await;
    for (id, thing, state, deliveries) in [("2", "a", "up", 0), ("3", "a", "down", 0), ("4", "b", "up", 1)] {
        assert_eq!(publish(&standalone, id, thing, state).await, deliveries, "event {id}");
    }
    assert!(explain(&standalone, "2").await.contains("dropped: unchanged"));
    assert!(explain(&standalone, "3").await.contains("dropped: snoozed"));
    assert_eq!(numbers(&receiver.wait_for(2, DEADLINE).await), ["1", "4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_delivery_reverts_gate_state() {
    let gates = json!({"snooze": {"period": "1h"}, "onChange": {}, "groupBy": ["thing.id"]});
    let (receiver, standalone) = start(gates).await;
    receiver.script(|_, _| Reply::status(422));
    publish(&standalone, "1", "a", "up").await;
    standalone.wait_for_count(FINISHED, &[DEAD], 1).await;
    receiver.script(|_, _| Reply::status(200));
    let event = event_with("2", json!({"number": "1", "thing": {"id": "a"}, "state": "up"}));
    assert_eq!(standalone.publish(&event).await.1["deliveries"], 1, "the dead delivery left no state");
    receiver.wait_for(2, DEADLINE).await;
    standalone.wait_for_count(FINISHED, &[DELIVERED], 1).await;
    assert_eq!(publish(&standalone, "3", "a", "down").await, 0, "the delivered one set the state");
}

#[tokio::test(flavor = "multi_thread")]
async fn candidate_is_sent_at_once_when_predecessor_dies() {
    let mut gates = json!({"snooze": {"period": "1h", "trailing": "Last"}});
    merge(&mut gates, json!({"groupBy": ["thing.id"]}));
    let (receiver, standalone) = start(gates).await;
    // Both are published while the first one is retried.
    receiver.script(|_, _| Reply::status(503));
    publish(&standalone, "1", "a", "up").await;
    receiver.wait_for(1, DEADLINE).await;
    publish(&standalone, "2", "a", "down").await;
    let numbers_before_death = numbers(&receiver.requests());
    assert!(numbers_before_death.iter().all(|number| number == "1"), "{numbers_before_death:?}");
    receiver.script(|request, _| Reply::status(if request.json()["number"] == "1" { 422 } else { 200 }));
    eventually(DEADLINE, "the candidate", async || {
        let numbers = numbers(&receiver.requests());
        if numbers.last().is_some_and(|last| last == "2") { Ok(()) } else { Err(format!("{numbers:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_bypasses_gates() {
    let gates = json!({"snooze": {"period": "1h"}, "onChange": {}, "groupBy": ["thing.id"]});
    let (receiver, standalone) = start(gates).await;
    publish(&standalone, "1", "a", "up").await;
    standalone.wait_for_count(FINISHED, &[DELIVERED], 1).await;
    let id = list_deliveries(&standalone, "event=1").await[0]["id"].as_str().unwrap().to_owned();
    for replays in ["1", "2"] {
        let (status, body) = post(&standalone, &format!("deliveries/{id}/replay"), &json!({})).await;
        assert_eq!(status, 202, "{body}");
        let deliveries = replays.parse::<u64>().unwrap() + 1;
        standalone.wait_for_count(FINISHED, &[DELIVERED], deliveries).await;
        let last = receiver.requests().pop().unwrap();
        assert_eq!(last.header("x-hookstream-replay"), replays);
    }
    assert_eq!(publish(&standalone, "2", "a", "down").await, 0, "the replays left the gate's state");
}
