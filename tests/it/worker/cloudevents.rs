//! Ingest by the CloudEvents HTTP binding: structured, binary and batched events; and refusal above the disk watermark.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::http::answer;
use crate::harness::manifests::{event, hook, merge, quick};
use crate::harness::standalone::{EVENTS, Standalone};
use crate::harness::{DEADLINE, Receiver, Reply};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const BATCH: &str = "application/cloudevents-batch+json";

fn cloud(id: &str, source: &str) -> Value {
    json!({"specversion": "1.0", "id": id, "source": source, "type": "e", "data": {"id": id}})
}

async fn start(args: &[&str]) -> (Receiver, Standalone) {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let mut spec = quick();
    merge(&mut spec, json!({"handler": {"webhook": {"format": "CloudEvents"}}}));
    let standalone = Standalone::start(&hook("all", &receiver.url(), spec), args).await;
    (receiver, standalone)
}

#[tokio::test(flavor = "multi_thread")]
async fn binary_event_keeps_attributes() {
    let (receiver, standalone) = start(&[]).await;
    let binary = || {
        let request = standalone.client.post(standalone.url(EVENTS));
        let request = request.header("ce-specversion", "1.0").header("ce-id", "1").header("ce-source", "s");
        request.header("ce-type", "e").header("ce-subject", "caf%C3%A9").header("traceparent", TRACE)
    };
    let json = binary().header("content-type", "application/vnd.x+json").body(r#"{"n": 1.50}"#);
    assert_eq!(answer(json).await, (202, json!({"id": "1", "deliveries": 1})));
    // Without the headers, the body would have to name source and event.
    let plain =
        standalone.client.post(standalone.url(EVENTS)).header("content-type", "text/plain").body("hello");
    let (status, problem) = answer(plain.header("ce-x", "1")).await;
    assert_eq!((status, &problem["reason"]), (415, &json!("ContentType")), "{problem}");

    let request = receiver.wait_for(1, DEADLINE).await.remove(0);
    assert_eq!(request.header("traceparent"), TRACE, "the trace context is forwarded to the receiver");
    let body = request.json();
    assert_eq!(
        (&body["subject"], &body["type"], &body["data"]["n"]),
        (&json!("café"), &json!("e"), &json!(1.5))
    );
    assert_eq!(body["datacontenttype"], "application/vnd.x+json");
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_is_atomic() {
    let (receiver, standalone) = start(&["--max-event-bytes", "2000", "--max-request-bytes", "20000"]).await;
    let post = |body: String| {
        standalone.client.post(standalone.url(EVENTS)).header("content-type", BATCH).body(body)
    };
    let assert_refused = |body: String, status: u16, reason: &'static str, detail: &'static str| {
        let request = post(body);
        async move {
            let (answered, problem) = answer(request).await;
            assert_eq!((answered, &problem["reason"]), (status, &json!(reason)), "{problem}");
            assert!(problem["detail"].as_str().is_some_and(|d| d.contains(detail)), "{problem}");
        }
    };
    let bad = json!([cloud("never", "s"), cloud("x", "auth0")]).to_string();
    assert_refused(bad, 403, "ReservedSource", "event 1 of the batch").await;
    assert_refused(json!([cloud("never", "s"), 5]).to_string(), 400, "NotJson", "event 1 of the batch").await;
    assert_refused(json!(cloud("never", "s")).to_string(), 400, "NotJsonList", "a list of CloudEvents").await;
    assert_refused(format!("[{}]", " ".repeat(20_000)), 413, "TooBig", "--max-request-bytes").await;
    let mut oversized = cloud("never", "s");
    oversized["data"] = json!("x".repeat(2000));
    assert_refused(json!([oversized]).to_string(), 413, "TooBig", "event 0 of the batch").await;
    assert_refused(format!("[{}]", vec!["1"; 1001].join(",")), 413, "TooMany", "1000").await;

    let (status, body) =
        answer(post(json!([cloud("1", "s"), cloud("2", "missing"), cloud("3", "s")]).to_string())).await;
    let expected =
        json!([{"id": "1", "deliveries": 1}, {"id": "2", "deliveries": 0}, {"id": "3", "deliveries": 1}]);
    assert_eq!((status, body), (202, expected));
    assert_eq!(answer(post("[]".into())).await, (202, json!([])));
    let (_, repeated) = answer(post(json!([cloud("3", "s"), cloud("4", "s")]).to_string())).await;
    assert_eq!(repeated[0]["id"], "3", "a repeat within another batch is the same event");
    let mut ids: Vec<String> = receiver
        .wait_for(3, DEADLINE)
        .await
        .iter()
        .map(|r| r.json()["id"].as_str().unwrap().to_owned())
        .collect();
    ids.sort();
    assert_eq!(ids, ["1", "3", "4"], "each accepted event once, and no event of a refused batch");
}

/// Sends the handshake as Azure Event Grid does. Returns the status and the granted origin and rate.
async fn handshake(standalone: &Standalone, namespace: &str, origin: &str) -> (u16, String, String) {
    let url = standalone.url(&format!("/v1/namespaces/{namespace}/events"));
    let request = standalone.client.request(reqwest::Method::OPTIONS, url);
    let request = request.header("webhook-request-origin", origin).header("webhook-request-rate", "120");
    let response = request.send().await.unwrap();
    let header = |name: &str| {
        response.headers().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    };
    (response.status().as_u16(), header("webhook-allowed-origin"), header("webhook-allowed-rate"))
}

#[tokio::test(flavor = "multi_thread")]
async fn handshake_is_granted_to_listed_origins() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let args = ["--handshake-origins", "default=eventgrid.azure.net,default=slow.example@100"];
    let (_receiver, standalone) = start(&args).await;
    let granted = |origin: &str, rate: &str| (200, origin.to_owned(), rate.to_owned());
    let refused = (403, String::new(), String::new());
    assert_eq!(
        handshake(&standalone, "default", "eventgrid.azure.net").await,
        granted("eventgrid.azure.net", "*")
    );
    assert_eq!(handshake(&standalone, "default", "slow.example").await, granted("slow.example", "100"));
    assert_eq!(handshake(&standalone, "other", "eventgrid.azure.net").await, refused);
    assert_eq!(handshake(&standalone, "default", "evil.example").await, refused);

    let options = || standalone.client.request(reqwest::Method::OPTIONS, standalone.url(EVENTS));
    let plain = options().send().await.unwrap();
    assert_eq!((plain.status().as_u16(), plain.headers()["allow"].to_str().unwrap()), (200, "POST"));
    assert!(!plain.headers().contains_key("webhook-allowed-origin"));
    // An address that the sender names is never requested.
    for origin in ["eventgrid.azure.net", "evil.example"] {
        let request = options().header("webhook-request-origin", origin);
        request.header("webhook-request-callback", receiver.url()).send().await.unwrap();
    }
    standalone.assert_stays("no callback", async || receiver.requests().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handshake_is_granted_to_every_origin_by_flag() {
    let (_receiver, standalone) = start(&["--handshake-allow-all"]).await;
    let granted = (200, "any.example".to_owned(), "*".to_owned());
    assert_eq!(handshake(&standalone, "default", "any.example").await, granted);
}

/// RFC 3339 allows more digits and years than most timestamp types.
#[tokio::test(flavor = "multi_thread")]
async fn time_is_forwarded_as_it_was_sent() {
    let (receiver, standalone) = start(&[]).await;
    let times = ["2024-02-29T12:00:00.1234567891234Z", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00-23:59"];
    for time in times {
        let mut event = cloud(time, "s");
        event["time"] = json!(time);
        let request = standalone.client.post(standalone.url(EVENTS)).body(event.to_string());
        let (status, answer) = answer(request.header("content-type", "application/cloudevents+json")).await;
        assert_eq!(status, 202, "{answer}");
    }
    for request in receiver.wait_for(times.len(), DEADLINE).await {
        let body = request.json();
        assert_eq!(body["time"], body["id"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_above_disk_limit() {
    // More than one percent of any disk with an operating system on it is used.
    let disk = rustix::fs::statvfs(std::env::temp_dir()).unwrap();
    let is_used = (disk.f_blocks - disk.f_bfree) * 50 >= disk.f_blocks;
    assert!(is_used, "less than 2 % of the temporary folder's disk are used: set TMPDIR to another disk");
    let (receiver, standalone) = start(&["--disk-limit", "1%"]).await;
    // The body is never sent: the refusal must not wait for it.
    let mut socket = tokio::net::TcpStream::connect(&standalone.listen).await.unwrap();
    let head = format!(
        "POST {EVENTS} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(DEADLINE, socket.read_to_end(&mut answer)).await.expect("an answer").ok();
    let answer = String::from_utf8_lossy(&answer).to_lowercase();
    assert!(answer.starts_with("http/1.1 503") && answer.contains("retry-after"), "{answer}");
    assert!(answer.contains(r#""reason":"disklimit""#), "{answer}");
    let relay = standalone.client.post(standalone.url("/v1/namespaces/default/relays/all")).json(&event("1"));
    assert!(relay.send().await.is_err(), "Kong retries after a closed connection only");
    assert!(receiver.requests().is_empty());
}
