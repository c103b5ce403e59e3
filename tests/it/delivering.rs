//! The worker's own condition `Delivering` says how a hook's deliveries fare: at a change only, beside the controller's
//! conditions and never in their way. And what waits for a hook outlives the object.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{DEADLINE, Reply, eventually};
use crate::standalone::event;
use crate::world::{World, condition, http};

/// A world with a hook of its own events, `eventhooks/h`, and somebody who may publish them.
struct Published {
    world: World,
    token: String,
    http: reqwest::Client,
}

const H: &str = "eventhooks/h";

impl Published {
    async fn start(hint: &str) -> Published {
        let world = World::start(hint).await;
        let rules = "[{apiGroups: [hookstream.dev], resources: [events], verbs: [create]}]";
        world.namespace.service_account("publisher", rules).await;
        let token = world.namespace.token("publisher", &["hookstream"]).await;
        let published = Published { world, token, http: http() };
        published.apply().await;
        published.world.ready(H).await;
        published
    }

    async fn apply(&self) {
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

    fn answers(&self, status: u16) {
        self.world.receiver.script(move |_, _| Reply::status(status));
    }

    /// Nothing more comes for a while.
    async fn quiet(&self, requests: usize) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(self.world.receiver.requests().len(), requests);
    }
}

/// The types of the conditions that this manager owns.
fn owned(object: &Value, manager: &str) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    let entry = entries.iter().find(|e| e["manager"] == manager && e["subresource"] == "status");
    let fields =
        &entry.unwrap_or_else(|| panic!("{manager}: {entries:#?}"))["fieldsV1"]["f:status"]["f:conditions"];
    let keys = fields.as_object().unwrap().keys();
    keys.filter_map(|key| Some(key.strip_prefix("k:{\"type\":\"")?.trim_end_matches("\"}").to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_follows_the_receiver_and_the_pause() {
    let published = Published::start("fares").await;
    let world = &published.world;
    assert!(condition(&world.get(H).await.unwrap(), "Delivering").is_null(), "nothing happened yet");
    published.publish("1").await;
    let well = published.delivering("True", "Delivering").await;
    assert_eq!(condition(&well, "Delivering")["observedGeneration"], well["metadata"]["generation"]);

    published.answers(503);
    published.publish("2").await;
    let fails = published.delivering("False", "ReceiverFailing").await;
    let said = condition(&fails, "Delivering")["message"].as_str().unwrap().to_owned();
    assert!(said.contains("503"), "{said}");
    assert_eq!(condition(&fails, "Ready")["status"], "True", "the controller's own are untouched");
    published.answers(200);
    let well = published.delivering("True", "Delivering").await;
    assert_ne!(condition(&well, "Delivering")["lastTransitionTime"], Value::Null, "since when: {well:#}");

    world.edit(H, json!({"delivery": {"paused": true}})).await;
    published.delivering("False", "Paused").await;
    let before = world.receiver.requests().len();
    published.publish("3").await;
    published.quiet(before).await;
    world.edit(H, json!({"delivery": {"paused": false}})).await;
    world.receiver.wait_for(before + 1, DEADLINE).await;
    published.delivering("True", "Delivering").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_that_ended_while_nobody_looked_is_not_told_for_ever() {
    let mut published = Published::start("stale").await;
    published.world.edit(H, json!({"delivery": {"paused": true}})).await;
    published.delivering("False", "Paused").await;
    published.world.stop_operator().await;
    published.world.edit(H, json!({"delivery": {"paused": false}})).await;
    published.world.start_operator();
    published.delivering("True", "Delivering").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_gone_until_the_command_resume() {
    let mut published = Published::start("gone").await;
    published.answers(410);
    published.publish("1").await;
    published.delivering("False", "Gone").await;
    published.answers(200);
    published.publish("2").await;
    published.quiet(1).await;
    published.world.kill_operator();
    published.world.start_operator();
    published.publish("3").await;
    published.quiet(1).await;

    published.resume("first").await;
    published.world.receiver.wait_for(3, DEADLINE).await;
    let resumed = |token: &'static str| move |o: &Value| o["status"]["handled"]["resume"] == token;
    published.world.until(H, "the command is acknowledged", resumed("first")).await;
    published.delivering("True", "Delivering").await;

    // The token is used up: it does not end the next hold, nor does a restart.
    published.answers(410);
    published.publish("4").await;
    published.delivering("False", "Gone").await;
    published.answers(200);
    published.world.kill_operator();
    published.world.start_operator();
    published.publish("5").await;
    published.quiet(4).await;
    published.world.request(H, "now").await;
    let handled = |o: &Value| o["status"]["handled"]["reconcileRequestedAt"] == "now";
    let object = published.world.until(H, "reconciled", handled).await;
    assert_eq!(object["status"]["handled"]["resume"], "first", "one keeps what the other wrote");
    published.resume("second").await;
    published.world.receiver.wait_for(5, DEADLINE).await;
    published.world.until(H, "the command is acknowledged", resumed("second")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_write_one_status_and_only_what_changed() {
    let published = Published::start("owners").await;
    let world = &published.world;
    published.publish("1").await;
    published.delivering("True", "Delivering").await;
    for token in ["1", "2"] {
        world.request(H, token).await;
        let handled = |o: &Value| o["status"]["handled"]["reconcileRequestedAt"] == token;
        let object = world.until(H, "reconciled", handled).await;
        assert_eq!(condition(&object, "Delivering")["status"], "True", "{object:#}");
    }
    // kubectl shows them only where it is asked to; the raw object has them.
    let object = world.get(H).await.unwrap();
    let mut controllers = owned(&object, "hookstream-controller");
    controllers.sort();
    assert_eq!(controllers, ["Ready", "Reconciling", "Stalled", "Synced"]);
    assert_eq!(owned(&object, "hookstream-worker"), ["Delivering"]);

    // Deliveries that go well are no news.
    for id in ["2", "3", "4"] {
        published.publish(id).await;
    }
    world.receiver.wait_for(4, DEADLINE).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = world.get(H).await.unwrap();
    assert_eq!(after["metadata"]["resourceVersion"], object["metadata"]["resourceVersion"], "{after:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_fails_is_told_once_and_until_it_is_edited() {
    let published = Published::start("undecided").await;
    let world = &published.world;
    world.edit(H, json!({"filter": "data.deep.n == 1"})).await;
    world.ready(H).await;
    published.publish("1").await;
    let told = published.delivering("False", "Undecided").await;
    let message = condition(&told, "Delivering")["message"].as_str().unwrap().to_owned();
    assert!(message.contains("filter"), "{message}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = world.get(H).await.unwrap();
    assert_eq!(after["metadata"]["resourceVersion"], told["metadata"]["resourceVersion"], "{after:#}");
    world.edit(H, json!({"filter": "data.id == '1'"})).await;
    world.receiver.wait_for(1, DEADLINE).await;
    published.delivering("True", "Delivering").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_hook_of_the_name_takes_up_what_waits() {
    let published = Published::start("again").await;
    let world = &published.world;
    published.answers(503);
    published.publish("1").await;
    let first = world.receiver.wait_for(2, DEADLINE).await.remove(0);
    let old = world.get(H).await.unwrap();
    world.kubectl(&["delete", H]).await;
    world.gone(H).await;
    // What was under way ends.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = world.receiver.requests().len();
    published.quiet(before).await;
    published.answers(200);
    published.apply().await;
    let requests = world.receiver.wait_for(before + 1, DEADLINE).await;
    assert_eq!(requests[before].header("webhook-id"), first.header("webhook-id"));
    let new = published.delivering("True", "Delivering").await;
    assert_ne!(new["metadata"]["uid"], old["metadata"]["uid"]);
    published.quiet(before + 1).await;
}
