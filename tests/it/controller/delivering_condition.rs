//! The worker's condition `Delivering`: written when a hook's delivery health changes, beside the controller's conditions.
//! Pending deliveries outlive their hook.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::harness::http::http;
use crate::harness::manifests::event;
use crate::harness::objects::condition;
use crate::harness::world::World;
use crate::harness::{DEADLINE, Receiver, Reply, eventually};

/// A world with an EventHook `h` for published events, and a token that may publish them.
struct PublishedHook {
    world: World,
    token: String,
    http: reqwest::Client,
    /// The number of markers so far.
    markers: AtomicUsize,
}

const H: &str = "eventhooks/h";

impl PublishedHook {
    async fn start(hint: &str) -> PublishedHook {
        let world = World::start(hint).await;
        let rules = "[{apiGroups: [hookstream.dev], resources: [events], verbs: [create]}]";
        world.namespace.service_account("publisher", rules).await;
        let token = world.namespace.token("publisher", &["hookstream"]).await;
        let published = PublishedHook { world, token, http: http(), markers: AtomicUsize::new(0) };
        published.apply_hook().await;
        published.world.ready(H).await;
        published
    }

    async fn apply_hook(&self) {
        let retry = json!({"initialBackoff": "100ms", "maxBackoff": "1s"});
        let spec = json!({"source": "s", "event": null, "connectionRef": null, "delivery": {"retry": retry}});
        self.world.apply(&[self.world.hook_with("h", spec)]).await;
    }

    async fn publish(&self, id: &str) {
        let url = format!("{}/v1/namespaces/{}/events", self.world.ingest, self.world.namespace.name);
        eventually(DEADLINE, "an event to be accepted", async || {
            let request = self.http.post(&url).bearer_auth(&self.token).json(&event(id));
            let answer = request.send().await.map_err(|e| e.to_string())?;
            let (status, body) = (answer.status(), answer.text().await.unwrap_or_default());
            if status == 202 { Ok(()) } else { Err(format!("{status} {body}")) }
        })
        .await;
    }

    async fn delivering(&self, status: &str, reason: &str) -> Value {
        let fits = |o: &Value| {
            let delivering = condition(o, "Delivering");
            delivering["status"] == status && delivering["reason"] == reason
        };
        self.world.until(H, &format!("Delivering {status} {reason}"), fits).await
    }

    async fn resume(&self, token: &str) {
        let annotation = format!("hookstream.dev/resume={token}");
        self.world.kubectl(&["annotate", "--overwrite", H, &annotation]).await;
    }

    fn set_answer(&self, status: u16) {
        self.world.receiver.script(move |_, _| Reply::status(status));
    }

    /// Asserts that the receiver gets no more than `requests` requests while the worker handles later events.
    async fn receives_no_more_than(&self, requests: usize) {
        self.wait_for_marker().await;
        assert_eq!(self.world.receiver.requests().len(), requests);
    }

    /// Applies a new hook and waits until its first delivery succeeded and its condition `Delivering` is written.
    ///
    /// The marker's receiver fails the first two attempts, so that retry timers of earlier deliveries have fired, too. The
    /// worker writes conditions in the order in which they change, so that earlier changes are written by then.
    async fn wait_for_marker(&self) {
        let number = self.markers.fetch_add(1, Ordering::SeqCst);
        let name = format!("marker-{number}");
        let receiver = Receiver::start(|_, n| Reply::status(if n <= 2 { 503 } else { 200 }));
        let retry = json!({"initialBackoff": "100ms", "maxBackoff": "1s"});
        let spec = json!({"source": name, "event": null, "connectionRef": null, "delivery": {"retry": retry},
            "handler": {"webhook": {"url": receiver.url()}}});
        self.world.apply(&[self.world.hook_with(&name, spec)]).await;
        let mut marker = json!({"source": name, "event": "e", "data": {}});
        let path = format!("eventhooks/{name}");
        self.world.ready(&path).await;
        let url = format!("{}/v1/namespaces/{}/events", self.world.ingest, self.world.namespace.name);
        let mut attempt = 0;
        eventually(DEADLINE, "the marker's hook to match", async || {
            attempt += 1;
            marker["id"] = json!(format!("{name}-{attempt}"));
            let request = self.http.post(&url).bearer_auth(&self.token).json(&marker);
            let answer = request.send().await.map_err(|e| e.to_string())?;
            let text = answer.text().await.map_err(|e| e.to_string())?;
            if text.contains(r#""deliveries":1"#) { Ok(()) } else { Err(text) }
        })
        .await;
        receiver.wait_for(3, DEADLINE).await;
        let is_delivering = |o: &Value| condition(o, "Delivering")["status"] == "True";
        self.world.until(&path, "delivering", is_delivering).await;
    }
}

/// Returns the types of the conditions that this field manager owns.
fn owned_conditions(object: &Value, manager: &str) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    let entry = entries.iter().find(|e| e["manager"] == manager && e["subresource"] == "status");
    let fields =
        &entry.unwrap_or_else(|| panic!("{manager}: {entries:#?}"))["fieldsV1"]["f:status"]["f:conditions"];
    let keys = fields.as_object().unwrap().keys();
    keys.filter_map(|key| Some(key.strip_prefix("k:{\"type\":\"")?.trim_end_matches("\"}").to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn follows_receiver_and_pause() {
    let published = PublishedHook::start("delivering").await;
    let world = &published.world;
    assert!(condition(&world.get(H).await.unwrap(), "Delivering").is_null(), "there was no delivery yet");
    published.publish("1").await;
    let healthy = published.delivering("True", "Delivering").await;
    assert_eq!(condition(&healthy, "Delivering")["observedGeneration"], healthy["metadata"]["generation"]);

    published.set_answer(503);
    published.publish("2").await;
    let failing = published.delivering("False", "ReceiverFailing").await;
    let text = condition(&failing, "Delivering")["message"].as_str().unwrap().to_owned();
    assert!(text.contains("503"), "{text}");
    assert_eq!(condition(&failing, "Ready")["status"], "True", "the controller's conditions are unchanged");
    published.set_answer(200);
    let healthy = published.delivering("True", "Delivering").await;
    assert_ne!(condition(&healthy, "Delivering")["lastTransitionTime"], Value::Null, "{healthy:#}");

    world.edit(H, json!({"delivery": {"paused": true}})).await;
    published.delivering("False", "Paused").await;
    let requests_before = world.receiver.requests().len();
    published.publish("3").await;
    published.receives_no_more_than(requests_before).await;
    world.edit(H, json!({"delivery": {"paused": false}})).await;
    world.receiver.wait_for(requests_before + 1, DEADLINE).await;
    published.delivering("True", "Delivering").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_deliveries_in_status_and_events() {
    let published = PublishedHook::start("report").await;
    let world = &published.world;
    published.publish("1").await;
    let healthy = published.delivering("True", "Delivering").await;
    let report = &healthy["status"]["delivery"];
    assert_eq!(
        (&report["summary"], &report["host"]),
        (&json!("Delivering"), &json!("127.0.0.1")),
        "{healthy:#}"
    );
    assert!(report["lastSuccess"].is_string() && report["pending"].is_null(), "{report:#}");

    published.set_answer(503);
    published.publish("2").await;
    let failing = published.delivering("False", "ReceiverFailing").await;
    let report = &failing["status"]["delivery"];
    assert_eq!(report["summary"], "ReceiverFailing: 503 for 0s, 1 pending", "{report:#}");
    assert!(report["failingSince"].is_string() && report["oldest"].is_string(), "{report:#}");
    let warning = world.event("h", "ReceiverFailing").await;
    assert_eq!((&warning["type"], &warning["action"]), (&json!("Warning"), &json!("Deliver")), "{warning:#}");
    assert_eq!(warning["reportingController"], "hookstream.dev/worker", "{warning:#}");

    // The controller writes its part without the worker's.
    world.edit(H, json!({"event": "f"})).await;
    world.ready(H).await;
    assert_eq!(world.get(H).await.unwrap()["status"]["delivery"], *report);
    published.set_answer(200);
    published.delivering("True", "Delivering").await;
    assert_eq!(world.event("h", "Delivering").await["type"], "Normal");

    let described = world.kubectl(&["describe", H]).await;
    let sentence = "the worker delivers the events that are published to it";
    let status = described.split("Events:").next().unwrap();
    assert_eq!(status.matches(sentence).count(), 1, "{described}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clears_pause_that_ended_while_stopped() {
    let mut published = PublishedHook::start("stale").await;
    published.world.edit(H, json!({"delivery": {"paused": true}})).await;
    published.delivering("False", "Paused").await;
    published.world.stop_operator().await;
    published.world.edit(H, json!({"delivery": {"paused": false}})).await;
    published.world.start_operator();
    published.delivering("True", "Delivering").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn holds_after_410_until_resume() {
    let mut published = PublishedHook::start("gone").await;
    published.set_answer(410);
    published.publish("1").await;
    published.delivering("False", "Gone").await;
    published.set_answer(200);
    published.publish("2").await;
    published.receives_no_more_than(1).await;
    published.world.kill_operator();
    published.world.start_operator();
    published.publish("3").await;
    published.receives_no_more_than(1).await;

    published.resume("first").await;
    published.world.receiver.wait_for(3, DEADLINE).await;
    let is_resumed = |token: &'static str| move |o: &Value| o["status"]["handled"]["resume"] == token;
    published.world.until(H, "the command is acknowledged", is_resumed("first")).await;
    published.delivering("True", "Delivering").await;

    // A token is used once: neither it nor a restart ends the next hold.
    published.set_answer(410);
    published.publish("4").await;
    published.delivering("False", "Gone").await;
    published.set_answer(200);
    published.world.kill_operator();
    published.world.start_operator();
    published.publish("5").await;
    published.receives_no_more_than(4).await;
    published.world.request(H, "now").await;
    let is_handled = |o: &Value| o["status"]["handled"]["reconcileRequestedAt"] == "now";
    let object = published.world.until(H, "reconciled", is_handled).await;
    assert_eq!(object["status"]["handled"]["resume"], "first", "each manager keeps the other's fields");
    // A token that is too long for the status is acknowledged by its start and a hash.
    let long = "x".repeat(300);
    published.resume(&long).await;
    published.world.receiver.wait_for(5, DEADLINE).await;
    let is_resumed = |o: &Value| {
        let token = o["status"]["handled"]["resume"].as_str().unwrap_or_default();
        token.len() == 256 && token.starts_with(&long[..200])
    };
    published.world.until(H, "the command is acknowledged", is_resumed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_and_controller_share_status_without_extra_writes() {
    let published = PublishedHook::start("owners").await;
    let world = &published.world;
    published.publish("1").await;
    published.delivering("True", "Delivering").await;
    for token in ["1", "2"] {
        world.request(H, token).await;
        let is_handled = |o: &Value| o["status"]["handled"]["reconcileRequestedAt"] == token;
        let object = world.until(H, "reconciled", is_handled).await;
        assert_eq!(condition(&object, "Delivering")["status"], "True", "{object:#}");
    }
    // kubectl hides managed fields by default; the raw object has them.
    let object = world.get(H).await.unwrap();
    let mut controllers = owned_conditions(&object, "hookstream-controller");
    controllers.sort();
    assert_eq!(controllers, ["Ready", "Reconciling", "Stalled", "Synced"]);
    assert_eq!(owned_conditions(&object, "hookstream-worker"), ["Delivering"]);

    // Successful deliveries change nothing.
    for id in ["2", "3", "4"] {
        published.publish(id).await;
    }
    world.receiver.wait_for(4, DEADLINE).await;
    published.wait_for_marker().await;
    let after = world.get(H).await.unwrap();
    assert_eq!(after["metadata"]["resourceVersion"], object["metadata"]["resourceVersion"], "{after:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_filter_is_reported_once_until_edited() {
    let published = PublishedHook::start("undecided").await;
    let world = &published.world;
    world.edit(H, json!({"filter": "data.deep.n == 1"})).await;
    world.ready(H).await;
    published.publish("1").await;
    let held = published.delivering("False", "Undecided").await;
    let message = condition(&held, "Delivering")["message"].as_str().unwrap().to_owned();
    assert!(message.contains("filter"), "{message}");
    published.wait_for_marker().await;
    let after = world.get(H).await.unwrap();
    assert_eq!(after["metadata"]["resourceVersion"], held["metadata"]["resourceVersion"], "{after:#}");
    world.edit(H, json!({"filter": "data.id == '1'"})).await;
    world.receiver.wait_for(1, DEADLINE).await;
    published.delivering("True", "Delivering").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recreated_hook_adopts_pending_deliveries() {
    let published = PublishedHook::start("again").await;
    let world = &published.world;
    published.set_answer(503);
    published.publish("1").await;
    let first = world.receiver.wait_for(2, DEADLINE).await.remove(0);
    let old = world.get(H).await.unwrap();
    world.kubectl(&["delete", H]).await;
    world.wait_until_deleted(H).await;
    // An attempt may be in flight when the worker sees the deletion; the marker outlasts it.
    published.wait_for_marker().await;
    let requests_before = world.receiver.requests().len();
    published.receives_no_more_than(requests_before).await;
    published.set_answer(200);
    published.apply_hook().await;
    let requests = world.receiver.wait_for(requests_before + 1, DEADLINE).await;
    assert_eq!(requests[requests_before].header("webhook-id"), first.header("webhook-id"));
    let new = published.delivering("True", "Delivering").await;
    assert_ne!(new["metadata"]["uid"], old["metadata"]["uid"]);
    published.receives_no_more_than(requests_before + 1).await;
}
