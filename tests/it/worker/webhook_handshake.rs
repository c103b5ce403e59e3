//! The handshake of a hook with `handler.webhook.handshake`: the receiver permits deliveries before the first one, and
//! limits their rate.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::harness::deliveries::{get_ok, list_deliveries};
use crate::harness::http::answer;
use crate::harness::manifests::{event, hook, manifest, merge, merged, quick, secret};
use crate::harness::metrics::{ATTEMPTS, DEAD, DELIVERED, FINISHED};
use crate::harness::standalone::Standalone;
use crate::harness::{DEADLINE, Receiver, Recorded, Reply, eventually};

const ORIGIN: &str = "shop.example";
const ARGS: [&str; 2] = ["--webhook-origin", ORIGIN];

/// A spec with a handshake.
fn spec(more: Value) -> Value {
    merged(merged(quick(), json!({"handler": {"webhook": {"handshake": true}}})), more)
}

/// Returns the manifest of the hook `h`.
fn object(content: Value) -> String {
    manifest("hookstream.dev/v1alpha1", "EventHook", "h", content)
}

/// Permits the origin this rate, and accepts deliveries.
fn permit(request: &Recorded, rate: &str) -> Reply {
    match request.method.as_str() {
        "OPTIONS" => answered(ORIGIN, rate),
        _ => Reply::status(200),
    }
}

fn answered(origin: &str, rate: &str) -> Reply {
    Reply::status(200).header("webhook-allowed-origin", origin).header("webhook-allowed-rate", rate)
}

fn methods(receiver: &Receiver) -> Vec<String> {
    receiver.requests().into_iter().map(|request| request.method).collect()
}

/// Returns the condition Delivering of the hook `h`.
fn delivering(standalone: &Standalone) -> Result<Value, String> {
    let path = standalone.data.join("objects/EventHook.default.h.json");
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let saved: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let conditions = saved["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|condition| condition["type"] == "Delivering").ok_or(text)
}

async fn wait_for_reason(standalone: &Standalone, reason: &str) -> Value {
    eventually(DEADLINE, "the condition Delivering", async || {
        let condition = delivering(standalone)?;
        if condition["reason"] == reason { Ok(condition) } else { Err(condition.to_string()) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_follow_one_handshake_and_obey_its_rate() {
    let may_answer = Arc::new(Semaphore::new(0));
    let receiver = {
        let may_answer = may_answer.clone();
        Receiver::start(move |request, _| match request.method.as_str() {
            "OPTIONS" => Reply::AfterPermit(may_answer.clone(), Box::new(permit(request, "60"))),
            _ => permit(request, "60"),
        })
    };
    let limited = spec(json!({
        "handler": {"webhook": {
            "headers": {"x-team": "platform"},
            "headersFrom": [{"name": "authorization", "secretRef": {"name": "keys", "key": "token"}}],
            "signature": {"secretRef": {"name": "keys", "key": "token"}},
        }},
        // Longer than the test keeps the handshake waiting.
        "delivery": {"timeout": "5m", "rateLimit": {"requests": 10, "interval": "1s"}},
    }));
    let manifests =
        hook("h", &receiver.url(), limited) + &secret("keys", json!({"token": "t0k3n of the hook"}));
    let standalone = Standalone::start(&manifests, &ARGS).await;
    for id in ["1", "2", "3"] {
        standalone.publish_accepted(&event(id)).await;
    }
    receiver.wait_for(1, DEADLINE).await;
    // All attempts wait for the answer.
    standalone
        .assert_stays("one handshake and no delivery", async || methods(&receiver) == ["OPTIONS"])
        .await;
    may_answer.add_permits(1);
    let requests = receiver.wait_for(4, DEADLINE).await;
    assert_eq!(methods(&receiver), ["OPTIONS", "POST", "POST", "POST"]);
    let (handshake, deliveries) = requests.split_first().unwrap();
    assert_eq!(handshake.header("webhook-request-origin"), ORIGIN);
    assert_eq!(handshake.header("webhook-request-rate"), "600");
    for absent in ["webhook-request-callback", "authorization", "x-team", "x-kong-signature", "webhook-id"] {
        assert_eq!(handshake.header(absent), "", "{absent}");
    }
    assert!(handshake.body.is_empty());
    for delivery in deliveries {
        assert_eq!(delivery.header("webhook-request-origin"), ORIGIN);
        assert_eq!(delivery.header("authorization"), "t0k3n of the hook");
    }
    // One a second. The receiver records the arrival, which is at most a little later than the sending.
    let took = requests[3].at.duration_since(requests[1].at);
    assert!(took >= Duration::from_millis(1500), "{took:?}");
    standalone.wait_for_count(FINISHED, &[DELIVERED], 3).await;
    for delivery in list_deliveries(&standalone, "hook=h").await {
        assert_eq!(
            delivery["attempts"].as_array().map(Vec::len),
            Some(1),
            "waiting is no attempt: {delivery}"
        );
    }
    assert!(!standalone.process().log().contains("t0k3n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_delivered_before_the_receiver_permits_it() {
    // Each answer grants nothing, and the reason is always the same.
    let refusals = [
        (Reply::status(405), "the receiver answered 405"),
        (Reply::status(200), "the response has no header WebHook-Allowed-Origin"),
        (answered("other.example", "*"), "WebHook-Allowed-Origin of the response is another origin"),
        (answered(ORIGIN, "fast"), "WebHook-Allowed-Rate of the response is neither"),
    ];
    for (reply, message) in refusals {
        let receiver = Receiver::start(move |_, _| reply.clone());
        let standalone = Standalone::start(&hook("h", &receiver.url(), spec(json!({}))), &ARGS).await;
        standalone.publish_accepted(&event("1")).await;
        let condition = wait_for_reason(&standalone, "HandshakeRefused").await;
        assert!(condition["message"].as_str().unwrap().contains(message), "{condition}");
        let text = get_ok(&standalone, "events/1/explain").await.to_string();
        assert!(text.contains("HandshakeRefused") && text.contains(message), "{text}");
        let attempts = standalone.count(ATTEMPTS, &[r#"outcome="HandshakeRefused""#]).await;
        assert!(attempts > 0);
        // A test of the hook asks the receiver too.
        let url = format!("http://{}/kong/default/event-hooks/h/test", standalone.api);
        let (status, shown) = answer(standalone.client.post(url).json(&json!({}))).await;
        assert!(status >= 400 && shown.to_string().contains(message), "{status} {shown}");
        assert!(methods(&receiver).iter().all(|method| method == "OPTIONS"));

        // The next attempt asks again.
        receiver.script(|request, _| permit(request, "*"));
        standalone.wait_for_count(FINISHED, &[DELIVERED], 1).await;
        let methods = methods(&receiver);
        let [.., handshake, delivery] = methods.as_slice() else { panic!("{methods:?}") };
        assert_eq!((handshake.as_str(), delivery.as_str()), ("OPTIONS", "POST"));
        wait_for_reason(&standalone, "Delivering").await;
        let delivery = list_deliveries(&standalone, "hook=h").await.remove(0);
        let made = delivery["attempts"].as_array().unwrap();
        let (last, refused) = made.split_last().unwrap();
        assert_eq!(last["status"], 200, "{delivery}");
        assert!(refused.iter().all(|attempt| attempt["error"] == "HandshakeRefused"), "{delivery}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_open_the_breaker_and_an_outage_is_retried() {
    let receiver = Receiver::start(|_, _| Reply::status(403));
    // A terminal status is about an event: an unavailable receiver must not end deliveries that it never saw.
    let policy = json!({"delivery": {"concurrency": 1, "retry": {"terminalStatuses": [403, 503]}}});
    let standalone = Standalone::start(&hook("h", &receiver.url(), spec(policy)), &ARGS).await;
    for number in 0..30 {
        standalone.publish_accepted(&event(&number.to_string())).await;
    }
    eventually(DEADLINE, "the breaker to open", async || {
        let metrics = standalone.metrics().await;
        if metrics.contains("hookstream_breakers_open 1\n") { Ok(()) } else { Err(metrics) }
    })
    .await;
    receiver.script(|_, _| Reply::status(503));
    let asked = receiver.requests().len();
    receiver.wait_for(asked + 1, DEADLINE).await;
    assert!(methods(&receiver).iter().all(|method| method == "OPTIONS"));
    receiver.script(|request, _| permit(request, "*"));
    standalone.wait_for_count(FINISHED, &[DELIVERED], 30).await;
    assert_eq!(standalone.count(FINISHED, &[DEAD]).await, 0);
    let methods = methods(&receiver);
    let first = methods.iter().position(|method| method == "POST").unwrap();
    assert!(methods[first..].iter().all(|method| method == "POST"), "one grant for all: {methods:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_address_or_spec_requires_another_handshake() {
    let receivers = [(); 3].map(|()| Receiver::start(|request, _| permit(request, "*")));
    let [a, b, c] = &receivers;
    let deliver = async |standalone: &Standalone, id: &str, total| {
        standalone.publish_accepted(&event(id)).await;
        standalone.wait_for_count(FINISHED, &[DELIVERED], total).await;
    };
    let mut standalone = Standalone::start(&hook("h", &a.url(), spec(json!({}))), &ARGS).await;
    deliver(&standalone, "1", 1).await;
    deliver(&standalone, "2", 2).await;
    assert_eq!(methods(a), ["OPTIONS", "POST", "POST"], "the grant is still valid");
    // Another generation.
    standalone.write("all.yaml", &hook("h", &a.url(), spec(json!({"filter": "true"}))));
    standalone.wait_for_scan().await;
    deliver(&standalone, "3", 3).await;
    assert_eq!(methods(a), ["OPTIONS", "POST", "POST", "OPTIONS", "POST"]);
    standalone.write("all.yaml", &hook("h", &b.url(), spec(json!({}))));
    standalone.wait_for_scan().await;
    deliver(&standalone, "4", 4).await;
    assert_eq!(methods(b), ["OPTIONS", "POST"]);
    // An address in a Secret, which changes without the hook.
    let from_secret = json!({"webhook": {"urlSecretRef": {"name": "to", "key": "url"}}});
    let from_secret = spec(json!({"source": "s", "handler": from_secret}));
    let with_url = |url: String| object(json!({"spec": from_secret})) + &secret("to", json!({"url": url}));
    standalone.write("all.yaml", &with_url(b.url() + "/secret-path"));
    standalone.wait_for_scan().await;
    deliver(&standalone, "5", 5).await;
    assert_eq!(methods(b), ["OPTIONS", "POST", "OPTIONS", "POST"]);
    standalone.write("all.yaml", &with_url(c.url() + "/secret-path"));
    standalone.wait_for_scan().await;
    deliver(&standalone, "6", 6).await;
    assert_eq!(methods(c), ["OPTIONS", "POST"]);
    c.script(|_, _| Reply::status(405));
    standalone.restart().await;
    standalone.publish_accepted(&event("7")).await;
    let condition = wait_for_reason(&standalone, "HandshakeRefused").await;
    let shown = get_ok(&standalone, "events/7/explain").await.to_string();
    assert!(shown.contains("HandshakeRefused"), "{shown}");
    for text in [condition.to_string(), shown, standalone.process().log()] {
        assert!(!text.contains("secret-path"), "{text}");
    }
    assert_eq!(a.requests().len(), 5, "the first receiver got nothing more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_grant_changes_the_rate_and_the_egress_policy_applies() {
    let receiver = Receiver::start(|request, _| permit(request, "1"));
    let permitted = hook("h", &receiver.url(), spec(json!({})));
    let denied = hook("d", "http://127.0.0.2:9/", spec(json!({"source": "d"})));
    let args = [ARGS.as_slice(), &["--egress-deny", "127.0.0.2/32"]].concat();
    let standalone = Standalone::start(&(permitted + &denied), &args).await;
    for id in ["1", "2", "3"] {
        standalone.publish_accepted(&event(id)).await;
    }
    standalone.wait_for_count(FINISHED, &[DELIVERED], 1).await;
    receiver.script(|request, _| permit(request, "*"));
    let mut of_denied = event("4");
    merge(&mut of_denied, json!({"source": "d"}));
    standalone.publish_accepted(&of_denied).await;
    standalone.wait_for_count(FINISHED, &[DEAD, r#"reason="EgressDenied""#], 1).await;
    assert_eq!(methods(&receiver), ["OPTIONS", "POST"], "one a minute");
    // The test does not wait for the minute of the first grant.
    let spec = spec(json!({"source": "s", "handler": {"webhook": {"url": receiver.url()}}}));
    let resumed = json!({"metadata": {"annotations": {"hookstream.dev/resume": "now"}}, "spec": spec});
    standalone.write("all.yaml", &(object(resumed) + &denied));
    standalone.wait_for_count(FINISHED, &[DELIVERED], 3).await;
}
