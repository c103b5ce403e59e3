//! Gates drop what need not be sent: what comes too soon after another of its group, and what changed nothing. What they
//! remember survives the process, and is forgotten with the delivery that it is of, should that die.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::deliveries_api::{items, post, run};
use crate::harness::{DEADLINE, Receiver, Recorded, Reply, eventually};
use crate::standalone::{DEAD, DELIVERED, FINISHED, Standalone, hook, merge, quick, stays};

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

fn told(id: &str, data: Value) -> Value {
    json!({"id": id, "source": "s", "event": "e", "data": data})
}

/// Publishes an event of a thing in a state; how many deliveries were not dropped.
async fn publish(standalone: &Standalone, id: &str, thing: &str, state: &str) -> u64 {
    let event = told(id, json!({"number": id, "thing": {"id": thing}, "state": state}));
    let (status, answer) = standalone.publish(&event).await;
    assert_eq!(status, 202, "{answer}");
    answer["deliveries"].as_u64().expect("deliveries")
}

/// The numbers of the events that came.
fn came(requests: &[Recorded]) -> Vec<String> {
    requests.iter().map(|r| r.json()["number"].as_str().unwrap().to_owned()).collect()
}

async fn explained(standalone: &Standalone, id: &str) -> String {
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
    let begun = Instant::now();
    assert_eq!(publish(&standalone, "1", "a", "up").await, 1);
    for id in ["2", "3"] {
        assert_eq!(publish(&standalone, id, "a", id).await, 0, "too soon");
    }
    assert_eq!(publish(&standalone, "4", "b", "up").await, 1, "another group");
    assert!(begun.elapsed() < PERIOD, "this machine is too slow for this test");
    assert!(explained(&standalone, "2").await.contains("dropped: snoozed"));
    tokio::time::sleep((PERIOD + Duration::from_millis(100)).saturating_sub(begun.elapsed())).await;
    assert_eq!(receiver.requests().len(), 2, "nothing trails");
    assert_eq!(publish(&standalone, "5", "a", "up").await, 1, "the period is over");
    let requests = receiver.wait_for(3, DEADLINE).await;
    assert_eq!(came(&requests[2..]), ["5"]);
    let suppressed: Vec<_> = requests.iter().map(|r| r.header(SUPPRESSED)).collect();
    assert_eq!(suppressed[2], "2");
    assert!(suppressed[..2].iter().all(|n| n.is_empty() || *n == "0"), "{suppressed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_dropped_one_goes_when_the_period_ends() {
    let (receiver, standalone) = start(snooze("Last")).await;
    for id in ["1", "2", "3", "4"] {
        assert_eq!(publish(&standalone, id, "a", id).await, 1, "a candidate may yet go");
    }
    let requests = receiver.wait_for(2, DEADLINE).await;
    assert_eq!(came(&requests), ["1", "4"]);
    let waited = requests[1].at.duration_since(requests[0].at);
    assert!(waited > PERIOD - Duration::from_secs(1), "{waited:?}");
    assert!(waited < PERIOD + Duration::from_secs(5), "{waited:?}");
    assert_eq!(requests[1].header(SUPPRESSED), "2");
    assert!(explained(&standalone, "3").await.contains("dropped: superseded"));
    assert_eq!(items(&standalone, "state=dropped").await.len(), 2);

    publish(&standalone, "5", "a", "5").await;
    let requests = receiver.wait_for(3, DEADLINE).await;
    let waited = requests[2].at.duration_since(requests[1].at);
    assert!(waited > PERIOD - Duration::from_secs(1), "it opened a period of its own: {waited:?}");
    assert_eq!(came(&requests), ["1", "4", "5"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_survives_a_crash_and_goes_late() {
    let (receiver, mut standalone) = start(snooze("Last")).await;
    publish(&standalone, "1", "a", "up").await;
    receiver.wait_for(1, DEADLINE).await;
    publish(&standalone, "2", "a", "down").await;
    standalone.process().kill9();
    tokio::time::sleep(PERIOD + Duration::from_secs(1)).await;
    assert_eq!(receiver.requests().len(), 1);
    standalone.restart().await;
    assert_eq!(came(&receiver.wait_for(2, DEADLINE).await), ["1", "2"]);
    assert_eq!(publish(&standalone, "3", "a", "up").await, 1);
    stays("it is the next candidate", async || receiver.requests().len() == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_nothing_is_dropped() {
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
    let four = requests.iter().find(|r| r.json()["number"] == "4").unwrap();
    assert_eq!(four.header(SUPPRESSED), "1");
    assert!(explained(&standalone, "2").await.contains("dropped: unchanged"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_fields_the_whole_data_is_compared() {
    let (receiver, standalone) = start(json!({"onChange": {}})).await;
    for (id, data, deliveries) in [
        ("1", json!({"a": 1, "b": {"c": 2}}), 1),
        ("2", json!({"b": {"c": 2}, "a": 1}), 0),
        ("3", json!({"a": 1, "b": {"c": 3}}), 1),
        ("4", json!({"a": 1, "b": {"c": 2}}), 1),
    ] {
        let (_, answer) = standalone.publish(&told(id, data)).await;
        assert_eq!(answer["deliveries"], deliveries, "event {id}: {answer}");
    }
    receiver.wait_for(3, DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_was_undone_cancels_its_candidate() {
    let mut gates = snooze("Last");
    merge(&mut gates, json!({"onChange": {"fields": ["state"]}}));
    let (receiver, standalone) = start(gates).await;
    assert_eq!(publish(&standalone, "1", "a", "up").await, 1);
    assert_eq!(publish(&standalone, "2", "a", "down").await, 1, "a candidate");
    assert_eq!(publish(&standalone, "3", "a", "up").await, 0, "as the last one that went");
    assert!(explained(&standalone, "3").await.contains("dropped: unchanged"), "onChange is asked first");
    assert!(explained(&standalone, "2").await.contains("dropped: superseded"));
    tokio::time::sleep(PERIOD + Duration::from_secs(1)).await;
    assert_eq!(came(&receiver.requests()), ["1"]);
    assert_eq!(publish(&standalone, "4", "a", "up").await, 0, "still unchanged");
    assert_eq!(publish(&standalone, "5", "a", "down").await, 1);
    let requests = receiver.wait_for(2, DEADLINE).await;
    assert_eq!(came(&requests), ["1", "5"]);
    assert_eq!(requests[1].header(SUPPRESSED), "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gate_remembers_survives_a_crash() {
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
    assert!(explained(&standalone, "2").await.contains("dropped: unchanged"));
    assert!(explained(&standalone, "3").await.contains("dropped: snoozed"));
    assert_eq!(came(&receiver.wait_for(2, DEADLINE).await), ["1", "4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_dies_takes_its_memory_along() {
    let gates = json!({"snooze": {"period": "1h"}, "onChange": {}, "groupBy": ["thing.id"]});
    let (receiver, standalone) = start(gates).await;
    receiver.script(|_, _| Reply::status(422));
    publish(&standalone, "1", "a", "up").await;
    standalone.wait_for_count(FINISHED, &[DEAD], 1).await;
    receiver.script(|_, _| Reply::status(200));
    let event = told("2", json!({"number": "1", "thing": {"id": "a"}, "state": "up"}));
    assert_eq!(standalone.publish(&event).await.1["deliveries"], 1, "the same data");
    receiver.wait_for(2, DEADLINE).await;
    standalone.wait_for_count(FINISHED, &[DELIVERED], 1).await;
    assert_eq!(publish(&standalone, "3", "a", "down").await, 0, "this one did set it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_goes_at_once_when_the_one_before_it_dies() {
    let mut gates = json!({"snooze": {"period": "1h", "trailing": "Last"}});
    merge(&mut gates, json!({"groupBy": ["thing.id"]}));
    let (receiver, standalone) = start(gates).await;
    receiver.script(|_, n| Reply::status(if n == 1 { 503 } else { 422 }));
    publish(&standalone, "1", "a", "up").await;
    publish(&standalone, "2", "a", "down").await;
    receiver.script(|request, _| Reply::status(if request.json()["number"] == "1" { 422 } else { 200 }));
    eventually(DEADLINE, "the candidate", async || {
        let came = came(&receiver.requests());
        if came.last().is_some_and(|last| last == "2") { Ok(()) } else { Err(format!("{came:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_passes_by_the_gates() {
    let gates = json!({"snooze": {"period": "1h"}, "onChange": {}, "groupBy": ["thing.id"]});
    let (receiver, standalone) = start(gates).await;
    publish(&standalone, "1", "a", "up").await;
    standalone.wait_for_count(FINISHED, &[DELIVERED], 1).await;
    let id = items(&standalone, "event=1").await[0]["id"].as_str().unwrap().to_owned();
    for replays in ["1", "2"] {
        let (status, body) = post(&standalone, &format!("deliveries/{id}/replay"), &json!({})).await;
        assert_eq!(status, 202, "{body}");
        let n = replays.parse::<u64>().unwrap() + 1;
        standalone.wait_for_count(FINISHED, &[DELIVERED], n).await;
        let last = receiver.requests().pop().unwrap();
        assert_eq!(last.header("x-hookstream-replay"), replays);
    }
    assert_eq!(publish(&standalone, "2", "a", "down").await, 0, "and leaves them as they are");
}
