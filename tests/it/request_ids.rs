//! A request's id leads from its sender's complaint to the log, and from our log to the vendor's.

use serde_json::{Value, json};

use crate::auth0_streams::connect;
use crate::harness::{DEADLINE, Receiver, Reply, eventually};
use crate::standalone::{EVENTS, Standalone, event, hook};
use crate::world::{Auth0, World};

const HEADER: &str = "x-request-id";

/// The status, the id in the header, and the body.
async fn sent(request: reqwest::RequestBuilder) -> (u16, String, Value) {
    let answer = request.send().await.unwrap();
    let id = answer.headers()[HEADER].to_str().unwrap().to_owned();
    (answer.status().as_u16(), id, answer.json().await.unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stands_in_the_answer_the_refusal_and_the_log() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let flags = ["--log-level", "info,hookstream=debug", "--log-format", "json"];
    let standalone = Standalone::start(&hook("h", &receiver.url(), json!({})), &flags).await;
    let post = |body: &str| standalone.client.post(standalone.url(EVENTS)).body(body.to_owned());

    let theirs = "Root=1-67891233-abcdef";
    let (status, id, accepted) = sent(post(&event("1").to_string()).header(HEADER, theirs)).await;
    assert_eq!((status, id.as_str()), (202, theirs));
    assert!(accepted["requestId"].is_null(), "{accepted}");
    let (_, id, problem) = sent(post("no JSON").header(HEADER, theirs)).await;
    assert_eq!((id.as_str(), &problem["requestId"]), (theirs, &json!(theirs)), "{problem}");
    assert_eq!(problem["reason"], "NotJson");

    // One that could forge a line of the log, or fill it, is replaced; and who has none gets one.
    let long = "x".repeat(4000);
    for theirs in ["a b", "{\"a\":1}", &long] {
        let (_, id, problem) = sent(post("no JSON").header(HEADER, theirs)).await;
        assert!(uuid::Uuid::parse_str(&id).is_ok() && problem["requestId"] == id, "{problem}");
    }
    let api = format!("http://{}/v1/namespaces/default/deliveries/no-uuid", standalone.api);
    let (status, id, problem) = sent(standalone.client.get(api)).await;
    assert_eq!((status, &problem["requestId"]), (404, &json!(id)), "{problem}");

    eventually(DEADLINE, "the line of the refusal", async || {
        let log = standalone.process().log();
        assert!(!log.contains(&long));
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let ours: Vec<Value> = lines.filter(|line| line["spans"][0]["id"] == id).collect();
        let told = ours.iter().any(|line| line["message"] == "refused" && line["reason"] == "NotFound");
        if told { Ok(()) } else { Err(log) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_vendors_id_is_in_the_log() {
    let world = World::start("vendor-ids").await;
    let auth0 = Auth0::start(&[]).await;
    connect(&world, &auth0).await;
    world.ready("connections/auth0").await;
    let log = world.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let called: Vec<Value> = lines.filter(|line| line["message"] == "admin API called").collect();
    assert!(called.iter().any(|line| line["path"] == "oauth/token"), "{called:#?}");
    for line in called {
        assert!(line["vendor_request_id"].as_str().is_some_and(|id| !id.is_empty()), "{line}");
    }
}
