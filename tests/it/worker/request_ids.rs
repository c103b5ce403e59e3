//! Request ids: the sender's id is in the answer, the problem and the log, and the vendor's id is in the log.

use serde_json::{Value, json};

use crate::harness::auth0_objects::connect;
use crate::harness::manifests::{event, hook};
use crate::harness::standalone::{EVENTS, Standalone};
use crate::harness::world::World;
use crate::harness::{Auth0, DEADLINE, Receiver, Reply, eventually};

const HEADER: &str = "x-request-id";

/// Sends a request. Returns the status, the id in the header, and the body.
async fn send(request: reqwest::RequestBuilder) -> (u16, String, Value) {
    let answer = request.send().await.unwrap();
    let id = answer.headers()[HEADER].to_str().unwrap().to_owned();
    (answer.status().as_u16(), id, answer.json().await.unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn request_id_is_in_answer_problem_and_log() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let flags = ["--log-level", "info,hookstream=debug", "--log-format", "json"];
    let standalone = Standalone::start(&hook("h", &receiver.url(), json!({})), &flags).await;
    let post = |body: &str| {
        let request =
            standalone.client.post(standalone.url(EVENTS)).header("content-type", "application/json");
        request.body(body.to_owned())
    };

    let sender_id = "Root=1-67891233-abcdef";
    let (status, id, accepted) = send(post(&event("1").to_string()).header(HEADER, sender_id)).await;
    assert_eq!((status, id.as_str()), (202, sender_id));
    assert!(accepted["requestId"].is_null(), "{accepted}");
    let (_, id, problem) = send(post("no JSON").header(HEADER, sender_id)).await;
    assert_eq!((id.as_str(), &problem["requestId"]), (sender_id, &json!(sender_id)), "{problem}");
    assert_eq!(problem["reason"], "NotJson");

    // An id that could forge or flood log lines is replaced, and a request without an id gets one.
    let long = "x".repeat(4000);
    for sender_id in ["a b", "{\"a\":1}", &long] {
        let (_, id, problem) = send(post("no JSON").header(HEADER, sender_id)).await;
        assert!(uuid::Uuid::parse_str(&id).is_ok() && problem["requestId"] == id, "{problem}");
    }
    let api = format!("http://{}/v1/namespaces/default/deliveries/no-uuid", standalone.api);
    let (status, id, problem) = send(standalone.client.get(api)).await;
    assert_eq!((status, &problem["requestId"]), (404, &json!(id)), "{problem}");

    eventually(DEADLINE, "the log line of the refusal", async || {
        let log = standalone.process().log();
        assert!(!log.contains(&long));
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let request_lines: Vec<Value> = lines.filter(|line| line["request_id"] == id).collect();
        let is_logged = request_lines
            .iter()
            .any(|line| line["message"] == "request refused" && line["reason"] == "NotFound");
        if is_logged { Ok(()) } else { Err(log) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vendor_request_id_is_logged() {
    let world = World::start("vendor-ids").await;
    let auth0 = Auth0::start(&[]).await;
    connect(&world, &auth0).await;
    world.ready("connections/auth0").await;
    let log = world.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let calls: Vec<Value> = lines.filter(|line| line["message"] == "admin API called").collect();
    assert!(calls.iter().any(|line| line["path"] == "oauth/token"), "{calls:#?}");
    for line in calls {
        assert!(line["vendor_request_id"].as_str().is_some_and(|id| !id.is_empty()), "{line}");
    }
}
