//! Delivery attempts: the request, the retries, and the final state.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::harness::manifests::{event, hook, merge, quick, secret};
use crate::harness::metrics::{ATTEMPTS, DEAD, DELIVERED, FINISHED};
use crate::harness::standalone::Standalone;
use crate::harness::{DEADLINE, Receiver, Recorded, Reply};

/// Returns a hook whose source is `path`, to that path of the receiver, so that one process serves many cases.
fn hook_at(receiver: &Receiver, path: &str, more: Value) -> String {
    hook(path, &format!("{}/{path}", receiver.url()), quick().merged(json!({"source": path})).merged(more))
}

trait Merged {
    fn merged(self, more: Value) -> Value;
}

impl Merged for Value {
    fn merged(mut self, more: Value) -> Value {
        merge(&mut self, more);
        self
    }
}

fn event_from(source: &str, id: &str) -> Value {
    event(id).merged(json!({"source": source}))
}

/// Groups requests by path, in order of arrival.
fn by_path(requests: Vec<Recorded>) -> HashMap<String, Vec<Recorded>> {
    let mut groups: HashMap<String, Vec<Recorded>> = HashMap::new();
    for request in requests {
        groups.entry(request.path.clone()).or_default().push(request);
    }
    groups
}

fn gaps(requests: &[Recorded]) -> Vec<Duration> {
    requests.windows(2).map(|two| two[1].at - two[0].at).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_until_success() {
    let receiver = Receiver::start(|_, n| Reply::status(if n < 5 { 503 } else { 204 }));
    let backoff = json!({"delivery": {"retry": {"initialBackoff": "100ms", "maxBackoff": "10s"}}});
    let standalone = Standalone::start(&hook_at(&receiver, "s", backoff), &[]).await;
    standalone.publish_accepted(&event("1")).await;
    let received = receiver.wait_for(5, DEADLINE).await;
    standalone.wait_for_count(FINISHED, &[DELIVERED], 1).await;
    assert_eq!(standalone.count(ATTEMPTS, &[r#"outcome="Status""#]).await, 4);
    standalone.assert_stays("no attempt after a success", async || receiver.requests().len() == 5).await;
    assert!(
        received.iter().all(|r| r.header("webhook-id") == received[0].header("webhook-id") && r.body == received[0].body)
    );
    assert!(!received[0].header("webhook-id").is_empty());
    // Each delay is between half and all of 100, 200, 400, 800 ms.
    for (gap, full) in gaps(&received).into_iter().zip([100, 200, 400, 800]) {
        assert!(gap >= Duration::from_millis(full / 2), "{:?}", gaps(&received));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_answer_has_its_outcome() {
    const MAX_ATTEMPTS: usize = 3;
    let receiver = Receiver::start(|request, _| match request.path.as_str() {
        "/retry-after" => Reply::status(503).header("retry-after", "2"),
        "/redirect" => Reply::status(307).header("location", "/elsewhere"),
        "/close" => Reply::Close,
        "/hang" => Reply::Hang,
        "/broken" => Reply::BreakAfter { status: 200, body: "half".into() },
        path => Reply::status(path.trim_start_matches("/status-").parse().expect("a status")),
    });
    let retried =
        ["redirect", "close", "hang", "status-401", "status-404", "status-408", "status-429", "status-500"];
    let dead = ["status-400", "status-405", "status-413", "status-422", "status-410"];
    let manifests: String = retried
        .iter()
        .chain(&dead)
        .chain(&["retry-after", "broken", "status-299"])
        .map(|path| {
            // Long except where it must expire: a slow machine must not turn an answer into a timeout. Where it expires, it
            // must be long enough for the request to reach the receiver.
            let timeout = if *path == "hang" { "2s" } else { "30s" };
            let delivery = json!({"delivery": {"timeout": timeout, "retry": {"maxAttempts": MAX_ATTEMPTS}}});
            hook_at(&receiver, path, delivery)
        })
        .collect();
    let own_list = json!({"delivery": {"retry": {"terminalStatuses": [418], "maxAttempts": 2}}});
    let own_list =
        hook_at(&receiver, "status-418", own_list.clone()) + &hook_at(&receiver, "status-406", own_list);
    let standalone = Standalone::start(&(manifests + &own_list), &[]).await;
    for path in retried.iter().chain(&dead).chain(&[
        "retry-after",
        "broken",
        "status-299",
        "status-418",
        "status-406",
    ]) {
        standalone.publish_accepted(&event_from(path, "1")).await;
    }
    let reason = |name: &str| format!("reason=\"{name}\"");
    standalone.wait_for_count(FINISHED, &[DEAD, &reason("MaxAttempts")], retried.len() as u64 + 2).await;
    standalone.wait_for_count(FINISHED, &[DEAD, &reason("TerminalStatus")], 5).await;
    standalone.wait_for_count(FINISHED, &[DEAD, &reason("Gone")], 1).await;
    standalone.wait_for_count(FINISHED, &[DELIVERED], 2).await;
    let received = by_path(receiver.requests());
    let count = |path: &str| received.get(&format!("/{path}")).map_or(0, Vec::len);
    for path in retried {
        assert_eq!(count(path), MAX_ATTEMPTS, "{path} is retried");
    }
    for path in dead.iter().chain(&["broken", "status-299", "status-418"]) {
        assert_eq!(count(path), 1, "{path} is not retried");
    }
    assert_eq!(count("status-406"), 2, "the hook's own list replaces the built-in one");
    assert_eq!(count("elsewhere"), 0, "no redirect is followed");
    let gaps = gaps(&received["/retry-after"]);
    assert!(
        gaps.iter().all(|gap| *gap >= Duration::from_secs(2)),
        "Retry-After takes precedence over the backoff: {gaps:?}"
    );
    for outcome in ["Timeout", "Protocol"] {
        let label = format!("outcome=\"{outcome}\"");
        assert_eq!(standalone.count(ATTEMPTS, &[&label]).await, MAX_ATTEMPTS as u64, "{outcome}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sends_formats_headers_and_hops() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let webhook = |more: Value| json!({"handler": {"webhook": more}});
    let header = json!({"headers": {"x-plain": "yes", "content-type": "application/vnd.acme+json", "webhook-id": "forged"},
        "headersFrom": [{"name": "authorization", "secretRef": {"name": "keys", "key": "token"}}]});
    let manifests = hook_at(&receiver, "plain", webhook(header))
        + &hook_at(&receiver, "cloud", webhook(json!({"format": "CloudEvents"})))
        + &secret("keys", json!({"token": "Bearer hush\n"}));
    let standalone = Standalone::start(&manifests, &[]).await;
    standalone
        .publish_accepted(
            &json!({"id": "1", "source": "plain", "event": "e", "data": {"n": 1.50, "source": "mine"}}),
        )
        .await;
    standalone.publish_accepted(&json!({"id": "2", "source": "plain", "event": "e", "data": [1, 2]})).await;
    receiver.wait_for(2, DEADLINE).await;
    let data = r#"{"big":12345678901234567890.10,"a":[]}"#;
    let cloud = format!(
        r#"{{"specversion":"1.0","id":"3","source":"cloud","type":"t","subject":"x","seq":7,"hookstreamhops":2,"time":"2026-01-02T03:04:05.6Z","data":{data}}}"#
    );
    let request = standalone.client.post(standalone.url(crate::harness::standalone::EVENTS));
    let request = request.header("content-type", "application/cloudevents+json").body(cloud);
    assert_eq!(request.send().await.unwrap().status(), 202);
    let mut received = by_path(receiver.wait_for(3, DEADLINE).await);
    let mut plain = received.remove("/plain").unwrap();
    plain.sort_by_key(|r| std::cmp::Reverse(r.body.len()));
    assert_eq!(plain[0].json(), json!({"source": "plain", "event": "e", "data": [1, 2]}));
    assert_eq!(
        plain[1].json(),
        json!({"source": "plain", "event": "e", "n": 1.5}),
        "the event's source takes precedence"
    );
    for request in &plain {
        assert_eq!(request.header("x-plain"), "yes");
        assert_eq!(request.header("authorization"), "Bearer hush");
        assert_eq!(request.header("content-type"), "application/vnd.acme+json");
        assert_eq!(request.header("x-hookstream-hops"), "1");
        assert!(request.header("user-agent").starts_with("hookstream/"));
        uuid::Uuid::parse_str(request.header("webhook-id")).expect("the worker's id, not the spec's");
    }
    let cloud = &received["/cloud"][0];
    assert!(cloud.header("content-type").starts_with("application/cloudevents+json"));
    let text = std::str::from_utf8(&cloud.body).unwrap();
    assert!(text.contains(data), "data is sent unchanged: {text}");
    let attributes = json!({"specversion": "1.0", "id": "3", "source": "cloud", "type": "t", "subject": "x", "seq": 7,
        "hookstreamhops": 3, "time": "2026-01-02T03:04:05.6Z", "datacontenttype": "application/json"});
    assert_eq!(cloud.json().merged(json!({"data": null})), attributes);
    assert_eq!(cloud.header("x-hookstream-hops"), "3");
}

/// Verified with HMAC alone, without the worker's code.
#[tokio::test(flavor = "multi_thread")]
async fn signatures_verify() {
    use base64::prelude::*;
    use ring::hmac::{HMAC_SHA1_FOR_LEGACY_USE_ONLY, HMAC_SHA256, Key, sign};
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let signed = |key: &str, more: Value| {
        let signature = json!({"secretRef": {"name": "keys", "key": key}}).merged(more);
        json!({"handler": {"webhook": {"signature": signature}}})
    };
    let (raw, old) = (b"0123456789012345678901234", b"a secret without a prefix");
    let standard = format!("whsec_{}", BASE64_STANDARD.encode(raw));
    let manifests = hook_at(&receiver, "kong", signed("two", json!({})))
        + &hook_at(&receiver, "hex", signed("two", json!({"algorithm": "SHA1", "encoding": "Hex"})))
        + &hook_at(&receiver, "standard", signed("standard", json!({"scheme": "StandardWebhooks"})))
        + &secret(
            "keys",
            json!({"two": "new\nold\n", "standard": format!("{standard}\n{}", BASE64_STANDARD.encode(old))}),
        );
    let standalone = Standalone::start(&manifests, &[]).await;
    let started = unix_seconds(SystemTime::now());
    for path in ["kong", "hex", "standard"] {
        standalone.publish_accepted(&event_from(path, "1")).await;
    }
    let received = by_path(receiver.wait_for(3, DEADLINE).await);
    let kong = &received["/kong"][0];
    let tag = hex::encode(sign(&Key::new(HMAC_SHA256, b"new"), &kong.body));
    assert_eq!(kong.header("x-kong-signature"), format!("sha256={tag}"));
    let hex = &received["/hex"][0];
    let tag = hex::encode(sign(&Key::new(HMAC_SHA1_FOR_LEGACY_USE_ONLY, b"new"), &hex.body));
    assert_eq!(hex.header("x-kong-signature"), tag);
    let request = &received["/standard"][0];
    let (id, time) = (request.header("webhook-id"), request.header("webhook-timestamp"));
    let text = [id.as_bytes(), b".", time.as_bytes(), b".", &request.body].concat();
    let tags = [raw, old]
        .map(|key| format!("v1,{}", BASE64_STANDARD.encode(sign(&Key::new(HMAC_SHA256, key), &text))));
    assert_eq!(request.header("webhook-signature"), tags.join(" "));
    let attempt = started..=unix_seconds(request.time);
    assert!(attempt.contains(&time.parse::<u64>().unwrap()), "{time} is not the attempt's time: {attempt:?}");
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}
