//! Ingest from Auth0's event streams: authorization, the answers that make Auth0 retry or give up, and routing to hooks.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use hookstream::core::keys::KeyRing;
use hookstream::core::stream_auth::derive_token;
use secrecy::ExposeSecret;

use crate::harness::http::answer;
use crate::harness::manifests::{hook, manifest, merge, quick, secret};
use crate::harness::metrics::{DELIVERED, FINISHED, INGESTED};
use crate::harness::standalone::Standalone;
use crate::harness::{Receiver, Reply};

fn stream_spec(destination: Value) -> Value {
    json!({"connectionRef": {"name": "auth0"}, "name": "users", "subscriptions": [{"eventType": "user.created"}],
        "destination": destination})
}

fn stream(name: &str, destination: Value) -> String {
    manifest("hookstream.dev/v1alpha1", "EventStream", name, json!({"spec": stream_spec(destination)}))
}

fn webhook(authorization: Value) -> Value {
    json!({"webhook": {"endpoint": "https://hooks.example.com/v1/namespaces/default/streams/s", "authorization": authorization}})
}

/// Derives the token of a stream to the worker as the controller does.
fn worker_token(data: &Path, name: &str) -> String {
    let text = std::fs::read_to_string(data.join("keys.json")).unwrap();
    let keys: std::collections::BTreeMap<String, String> = serde_json::from_str(&text).unwrap();
    let keys: Vec<(String, Vec<u8>)> =
        keys.into_iter().map(|(id, key)| (id, hex::decode(key).unwrap())).collect();
    let ring = KeyRing::from_data(keys.iter().map(|(id, key)| (id.as_str(), key.as_slice()))).unwrap();
    let object = serde_json::from_value(json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "EventStream",
        "metadata": {"name": name, "namespace": "default", "uid": hookstream::cluster::files::object_uid("EventStream", "default", name)},
        "spec": stream_spec(json!({"worker": {}}))}))
    .unwrap();
    derive_token(&ring, ring.newest_key_id().unwrap(), &object, None).unwrap().expose_secret().to_owned()
}

fn created(id: &str) -> Value {
    json!({"specversion": "1.0", "type": "user.created", "source": "urn:auth0:acme.eu", "id": id,
        "time": "2026-11-22T08:00:00.000Z", "a0tenant": "acme", "a0stream": "est_1",
        "data": {"object": {"user_id": "auth0|1"}}})
}

fn address(standalone: &Standalone, name: &str) -> String {
    standalone.url(&format!("/v1/namespaces/default/streams/{name}"))
}

async fn send(standalone: &Standalone, name: &str, header: (&str, &str), body: &Value) -> (u16, Value) {
    let request = standalone.client.post(address(standalone, name)).header(header.0, header.1);
    answer(request.body(body.to_string())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn accepts_valid_authorization_of_each_kind_only() {
    let secret_ref = |key: &str| json!({"name": "auth", "key": key});
    let manifests = secret("auth", json!({"token": "t0ken", "password": "pa:ss", "value": "v4lue"}))
        + &stream("worker", json!({"worker": {}}))
        + &stream("bearer", webhook(json!({"bearer": {"tokenSecretRef": secret_ref("token")}})))
        + &stream(
            "basic",
            webhook(json!({"basic": {"username": "u", "passwordSecretRef": secret_ref("password")}})),
        )
        + &stream(
            "header",
            webhook(json!({"customHeader": {"name": "X-Own", "valueSecretRef": secret_ref("value")}})),
        )
        + &stream("missing", webhook(json!({"bearer": {"tokenSecretRef": {"name": "none", "key": "k"}}})))
        + &stream("bridge", json!({"eventBridge": {"accountId": "123456789012", "region": "eu-west-1"}}));
    let standalone = Standalone::start(&manifests, &[]).await;
    let own_token = format!("Bearer {}", worker_token(&standalone.data, "worker"));
    let basic = format!("Basic {}", STANDARD.encode("u:pa:ss"));
    let wrong_password = format!("Basic {}", STANDARD.encode("u:other"));
    for (name, header, is_valid) in [
        ("worker", ("authorization", own_token.as_str()), true),
        ("worker", ("authorization", "Bearer t0ken"), false),
        ("worker", ("x-nothing", ""), false),
        ("bearer", ("authorization", "bearer t0ken"), true),
        ("bearer", ("authorization", "Bearer t0ke"), false),
        ("bearer", ("authorization", own_token.as_str()), false),
        ("basic", ("authorization", basic.as_str()), true),
        ("basic", ("authorization", wrong_password.as_str()), false),
        ("header", ("x-own", "v4lue"), true),
        ("header", ("x-own", "other"), false),
        ("bridge", ("authorization", own_token.as_str()), false),
    ] {
        let (status, body) = send(&standalone, name, header, &created(&format!("{name}{is_valid}"))).await;
        assert_eq!(status, if is_valid { 202 } else { 401 }, "{name} {header:?}: {body}");
        if !is_valid {
            assert_eq!(body["reason"], "BadAuthorization", "{name}: {body}");
        }
    }
    // An authorization that cannot be checked yet is answered with 503, because Auth0 gives up at any 4xx.
    let (status, body) = send(&standalone, "missing", ("authorization", "Bearer x"), &created("m")).await;
    assert_eq!((status, body["reason"].as_str()), (503, Some("SecretMissing")), "{body}");
    assert_eq!(standalone.count(INGESTED, &[r#"route="streams""#, r#"outcome="Accepted""#]).await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_make_auth0_retry_or_give_up() {
    let standalone =
        Standalone::start(&stream("s", json!({"worker": {}})), &["--max-event-bytes", "2000"]).await;
    let own_token = format!("Bearer {}", worker_token(&standalone.data, "s"));
    let header = ("authorization", own_token.as_str());
    let (status, body) = send(&standalone, "none", header, &created("a")).await;
    assert_eq!(
        (status, body["reason"].as_str()),
        (503, Some("Unknown")),
        "the stream may not be registered yet: {body}"
    );
    let mut oversized = created("oversized");
    oversized["data"]["filler"] = json!("x".repeat(3000));
    assert_eq!(send(&standalone, "s", header, &oversized).await.0, 413);
    for bad in [json!([]), json!({"type": "user.created"}), json!("x"), json!({"source": "a", "event": "b"})]
    {
        let (status, body) = send(&standalone, "s", header, &bad).await;
        assert_eq!(status, 400, "{bad}: {body}");
    }
    // Any content type is accepted, because Auth0 does not document its own.
    let request = standalone.client.post(address(&standalone, "s")).header("authorization", &own_token);
    let request = request.header("content-type", "text/plain").body(created("plain").to_string());
    assert_eq!(answer(request).await.0, 202);

    let full = Standalone::start(&stream("s", json!({"worker": {}})), &["--disk-limit", "1%"]).await;
    let own_token = format!("Bearer {}", worker_token(&full.data, "s"));
    let request = full.client.post(address(&full, "s")).header("authorization", own_token);
    let response = request.body(created("a").to_string()).send().await.unwrap();
    assert_eq!(response.status(), 503, "the disk is above the watermark");
    assert!(response.headers().contains_key("retry-after"));
}

#[tokio::test(flavor = "multi_thread")]
async fn delivers_event_to_hooks_of_its_stream() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let auth0 = |more: Value| {
        let mut spec = quick();
        merge(&mut spec, json!({"source": "auth0", "handler": {"webhook": {"format": "CloudEvents"}}}));
        merge(&mut spec, more);
        spec
    };
    let from_stream = |name: &str| json!({"from": {"eventStreamRef": {"name": name}}});
    let url = |name: &str| format!("{}/{name}", receiver.url());
    let manifests = stream("users", json!({"worker": {}}))
        + &stream("groups", json!({"worker": {}}))
        + &hook("all", &url("all"), auth0(json!({"filter": "source == 'auth0'"})))
        + &hook("kong", &url("kong"), auth0(json!({"handler": {"webhook": {"format": "Kong"}}})))
        + &hook("users", &url("users"), auth0(from_stream("users")))
        + &hook("groups", &url("groups"), auth0(from_stream("groups")))
        + &hook("deleted", &url("deleted"), auth0(json!({"event": "user.deleted"})));
    let standalone = Standalone::start(&manifests, &[]).await;
    let own_token = format!("Bearer {}", worker_token(&standalone.data, "users"));
    let header = ("authorization", own_token.as_str());
    let (status, body) = send(&standalone, "users", header, &created("evt_1")).await;
    assert_eq!((status, &body["deliveries"]), (202, &json!(3)), "{body}");
    let (status, repeated) = send(&standalone, "users", header, &created("evt_1")).await;
    let mut expected = body.clone();
    expected["duplicate"] = json!(true);
    assert_eq!((status, &repeated), (202, &expected), "a repeat gets the same answer");
    standalone.wait_for_count(FINISHED, &[DELIVERED], 3).await;
    standalone.assert_stays("each hook gets the event once", async || receiver.requests().len() == 3).await;
    let mut paths: Vec<String> = receiver.requests().iter().map(|r| r.path.clone()).collect();
    paths.sort();
    assert_eq!(paths, ["/all", "/kong", "/users"]);
    for request in receiver.requests() {
        let body = request.json();
        assert_eq!(body["source"], "urn:auth0:acme.eu", "the event keeps its own source: {body}");
        if request.path != "/kong" {
            let attributes = (&body["type"], &body["id"], &body["a0tenant"]);
            assert_eq!(attributes, (&json!("user.created"), &json!("evt_1"), &json!("acme")), "{body}");
        }
    }
    // The same id from another stream is another event. Only a stream may use the source auth0.
    let other_token = format!("Bearer {}", worker_token(&standalone.data, "groups"));
    let (_, body) = send(&standalone, "groups", ("authorization", &other_token), &created("evt_1")).await;
    assert_eq!(body["deliveries"], 3, "{body}");
    let forged = json!({"source": "auth0", "event": "user.created", "data": {}});
    let (status, body) = standalone.publish(&forged).await;
    assert_eq!((status, body["reason"].as_str()), (403, Some("ReservedSource")), "{body}");
}
