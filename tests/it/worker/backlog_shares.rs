//! Shares of the disk: above its share a hook's deliveries become dead letters, and a namespace's events are refused so
//! that each kind of sender retries.

use serde_json::{Value, json};

use hookstream::api::{SignatureAlgorithm, SignatureEncoding};
use hookstream::core::sign::kong_signature;

use crate::harness::http::answer;
use crate::harness::manifests::{hook, manifest, merge, quick, secret};
use crate::harness::metrics::{DEAD, DELIVERED, FINISHED, INGESTED};
use crate::harness::standalone::Standalone;
use crate::harness::{Kong, Receiver, Reply};

fn filler(id: &str) -> Value {
    json!({"source": "crud", "event": "consumers", "id": id, "data": "x".repeat(200_000)})
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "mounts a file system: make test runs it where user namespaces are allowed"]
async fn full_share_makes_each_sender_retry_needs_mount() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let kong = Kong::start(&[]).await;
    let spec = |source: &str, connected: bool, paused: bool| {
        let mut spec = quick();
        merge(&mut spec, json!({"source": source, "delivery": {"paused": paused}}));
        if connected {
            merge(&mut spec, json!({"connectionRef": {"name": "kong"}}));
        }
        spec
    };
    let manifests = |paused: bool| {
        let url = receiver.url();
        let bearer = json!({"bearer": {"tokenSecretRef": {"name": "auth", "key": "token"}}});
        let webhook = json!({"endpoint": "https://h.example.com/", "authorization": bearer});
        kong.connection()
            + &secret("auth", json!({"token": "t0ken"}))
            + &manifest(
                "hookstream.dev/v1alpha1",
                "EventStream",
                "s",
                json!({"spec": {
                "connectionRef": {"name": "auth0"}, "name": "s", "subscriptions": [{"eventType": "user.created"}],
                "destination": {"webhook": webhook}}}),
            )
            + &hook("one", &url, spec("one", false, paused))
            + &hook("two", &url, spec("two", false, paused))
            + &hook("three", &url, spec("auth0", false, paused))
            + &hook("relayed", &url, spec("crud", true, paused))
    };
    // 10 % of 64 MiB for a hook, 15 % for the namespace.
    let mut standalone =
        Standalone::prepare(&manifests(true), &["--hook-share", "10%", "--namespace-share", "15%"]);
    standalone.mount_data("64m", "true");
    standalone.restart().await;
    let config = kong.wait_for_hooks(1).await[0]["config"].clone();
    let text = |name: &str| config[name].as_str().expect("the relay's settings").to_owned();
    let (relay_url, relay_secret) = (text("url"), text("secret"));
    let publish = async |source: &str, id: &str| {
        let body = json!({"id": id, "source": source, "event": "e", "data": filler(id)});
        standalone
            .client
            .post(standalone.url("/v1/namespaces/default/events"))
            .json(&body)
            .send()
            .await
            .unwrap()
    };

    // Above a hook's share, an event is accepted, and its delivery is a dead letter at once.
    let mut dead_letters = 0;
    for id in 0..60 {
        assert_eq!(publish("one", &format!("a{id}")).await.status(), 202);
        dead_letters = standalone.count(FINISHED, &[DEAD, r#"reason="BacklogFull""#]).await;
        if dead_letters > 0 {
            break;
        }
    }
    assert_eq!(dead_letters, 1, "the hook's share did not fill");
    let url = format!("http://{}/v1/namespaces/default/deliveries?state=dead", standalone.api);
    let (_, dead) = answer(standalone.client.get(url)).await;
    assert_eq!(dead["items"][0]["reason"], "BacklogFull", "{dead}");

    // Above the namespace's share, an event is refused.
    let mut refused = None;
    for id in 0..60 {
        let response = publish("two", &format!("b{id}")).await;
        if response.status() != 202 {
            refused = Some(response);
            break;
        }
    }
    let refused = refused.expect("the namespace's share did not fill");
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after"));
    let problem: Value = refused.json().await.unwrap();
    assert_eq!(problem["reason"], "NamespaceFull", "{problem}");
    let event = json!({"specversion": "1.0", "type": "user.created", "source": "urn:auth0:a", "id": "s1", "data": filler("s1")});
    let url = standalone.url("/v1/namespaces/default/streams/s");
    let request = standalone.client.post(url).header("authorization", "Bearer t0ken").body(event.to_string());
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 503, "Auth0 gives up at 429");
    assert!(response.headers().contains_key("retry-after"));
    let body = filler("r1").to_string();
    let (sha256, encoding) = (SignatureAlgorithm::SHA256, SignatureEncoding::PrefixedHex);
    let signature = kong_signature(relay_secret.as_bytes(), sha256, encoding, body.as_bytes());
    let relayed =
        standalone.client.post(&relay_url).header("x-kong-signature", signature).body(body).send().await;
    assert!(relayed.is_err(), "Kong retries after a closed connection only");

    // After the backlog is delivered, the namespace accepts events again.
    let pending = standalone.count("hookstream_events_accepted", &[]).await - 1;
    standalone.write("all.yaml", &manifests(false));
    standalone.wait_for_count(FINISHED, &[DELIVERED], pending).await;
    assert_eq!(publish("two", "after-delivery").await.status(), 202);
}

/// A delivery above the hook's share is a dead letter that can be replayed. Kong gets no answer, because it retries.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "mounts a file system: make test runs it where user namespaces are allowed"]
async fn full_hook_share_makes_kong_retry_needs_mount() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let kong = Kong::start(&[]).await;
    let manifests = |paused: bool| {
        let spec = |more: Value| {
            let mut spec = quick();
            merge(&mut spec, json!({"delivery": {"paused": paused}}));
            merge(&mut spec, more);
            spec
        };
        let bearer = json!({"bearer": {"tokenSecretRef": {"name": "auth", "key": "token"}}});
        let webhook = json!({"endpoint": "https://h.example.com/", "authorization": bearer});
        let stream = json!({"connectionRef": {"name": "auth0"}, "name": "s",
            "subscriptions": [{"eventType": "user.created"}], "destination": {"webhook": webhook}});
        kong.connection()
            + &secret("auth", json!({"token": "t0ken"}))
            + &manifest("hookstream.dev/v1alpha1", "EventStream", "s", json!({"spec": stream}))
            + &hook("streamed", &receiver.url(), spec(json!({"source": "auth0"})))
            + &hook(
                "relayed",
                &receiver.url(),
                spec(json!({"source": "crud", "connectionRef": {"name": "kong"}})),
            )
    };
    let args = ["--hook-share", "5%", "--namespace-share", "90%", "--relay-dedup-window", "1h"];
    let mut standalone = Standalone::prepare(&manifests(true), &args);
    standalone.mount_data("64m", "true");
    standalone.restart().await;
    let config = kong.wait_for_hooks(1).await[0]["config"].clone();
    let text = |name: &str| config[name].as_str().expect("the relay's settings").to_owned();
    let (relay_url, relay_secret) = (text("url"), text("secret"));
    let relay = async |id: &str| {
        let body = filler(id).to_string();
        let (sha256, encoding) = (SignatureAlgorithm::SHA256, SignatureEncoding::PrefixedHex);
        let signature = kong_signature(relay_secret.as_bytes(), sha256, encoding, body.as_bytes());
        let request = standalone.client.post(&relay_url).header("x-kong-signature", signature).body(body);
        request.send().await.ok().map(|response| response.status().as_u16())
    };
    let stream = async |id: &str| {
        let event = json!({"specversion": "1.0", "type": "user.created", "source": "urn:auth0:a", "id": id,
            "data": filler(id)});
        let url = standalone.url("/v1/namespaces/default/streams/s");
        let request = standalone.client.post(url).header("authorization", "Bearer t0ken");
        answer(request.body(event.to_string())).await
    };

    let mut relayed = 0;
    let closed_id = loop {
        let id = format!("r{relayed}");
        match relay(&id).await {
            Some(status) => assert_eq!(status, 202),
            None => break id,
        }
        relayed += 1;
        assert!(relayed < 60, "the hook's share did not fill");
    };
    assert!(relayed > 1);
    assert_eq!(standalone.count(INGESTED, &[r#"outcome="HookFull""#]).await, 1);
    assert_eq!(relay("r0").await, Some(202), "a duplicate uses no capacity");
    assert_eq!(standalone.count(FINISHED, &[]).await, 0, "a refused relay is not stored");

    let count_dead_letters = async || standalone.count(FINISHED, &[DEAD, r#"reason="BacklogFull""#]).await;
    let mut streamed = 0;
    while count_dead_letters().await == 0 {
        assert_eq!(stream(&format!("s{streamed}")).await.0, 202);
        streamed += 1;
        assert!(streamed < 60, "the hook's share did not fill");
    }
    let url = |path: &str| format!("http://{}/v1/namespaces/default/deliveries{path}", standalone.api);
    let (_, dead) = answer(standalone.client.get(url("?state=dead"))).await;
    assert_eq!(
        (&dead["items"][0]["reason"], &dead["items"][0]["hook"]),
        (&json!("BacklogFull"), &json!("streamed"))
    );
    let id = dead["items"][0]["id"].as_str().unwrap();

    // After a delivery the hook has capacity: Kong's retry is accepted, and the dead letter is replayed.
    standalone.write("all.yaml", &manifests(false));
    standalone.wait_for_count(FINISHED, &[DELIVERED], relayed + streamed - 1).await;
    assert_eq!(relay(&closed_id).await, Some(202));
    assert_eq!(answer(standalone.client.post(url(&format!("/{id}/replay")))).await.0, 202);
    standalone.wait_for_count(FINISHED, &[DELIVERED], relayed + streamed + 1).await;
    assert!(receiver.requests().iter().any(|request| request.header("webhook-id") == id));
}
