//! Relays from Kong: authentication, events that are not stored, and the answers that make Kong retry.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use hookstream::api::{SignatureAlgorithm, SignatureEncoding};
use hookstream::core::sign::kong_signature;

use crate::harness::manifests::{hook, merge, quick};
use crate::harness::metrics::{DELIVERED, FINISHED, INGESTED};
use crate::harness::standalone::Standalone;
use crate::harness::{DEADLINE, Kong, Receiver, Reply};

/// A worker with a relayed hook, its secret as Kong has it, and another hook that matches the same events.
struct RelayedHook {
    receiver: Receiver,
    kong: Kong,
    standalone: Standalone,
    url: String,
    secret: String,
}

async fn start(more: Value, args: &[&str]) -> RelayedHook {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let kong = Kong::start(&[]).await;
    let mut spec = quick();
    merge(&mut spec, json!({"source": "crud", "connectionRef": {"name": "kong"}}));
    merge(&mut spec, more);
    let mut beside_spec = quick();
    merge(&mut beside_spec, json!({"source": "crud"}));
    let url = format!("{}/relayed", receiver.url());
    let manifests = kong.connection()
        + &hook("relayed", &url, spec)
        + &hook("beside", &format!("{}/beside", receiver.url()), beside_spec);
    let standalone = Standalone::start(&manifests, args).await;
    let config = kong.wait_for_hooks(1).await[0]["config"].clone();
    let text = |name: &str| config[name].as_str().expect("the relay's settings").to_owned();
    RelayedHook { url: text("url"), secret: text("secret"), receiver, kong, standalone }
}

impl RelayedHook {
    fn sign(&self, body: &str) -> String {
        let encoding = SignatureEncoding::PrefixedHex;
        kong_signature(self.secret.as_bytes(), SignatureAlgorithm::SHA256, encoding, body.as_bytes())
    }

    /// Returns the status; None if the connection was closed without an answer.
    async fn relay(&self, body: &str, signature: Option<&str>) -> Option<u16> {
        self.relay_to(&self.url, body, signature).await
    }

    async fn relay_to(&self, url: &str, body: &str, signature: Option<&str>) -> Option<u16> {
        let mut request = self.standalone.client.post(url).header("content-type", "application/json");
        if let Some(signature) = signature {
            request = request.header("x-kong-signature", signature);
        }
        match request.body(body.to_owned()).send().await {
            Ok(response) => Some(response.status().as_u16()),
            Err(error) => {
                assert!(!error.is_timeout() && !error.is_connect(), "{error:?}");
                None
            }
        }
    }

    async fn relay_signed(&self, body: &Value) -> Option<u16> {
        let text = body.to_string();
        self.relay(&text, Some(&self.sign(&text))).await
    }
}

fn consumer(id: &str) -> Value {
    json!({"source": "crud", "event": "consumers", "operation": "create", "entity": {"id": id}})
}

#[tokio::test(flavor = "multi_thread")]
async fn accepts_every_signature_form_and_no_forgery() {
    let world = start(json!({}), &[]).await;
    let secret = world.secret.as_bytes();
    let mut accepted = 0;
    for algorithm in [SignatureAlgorithm::SHA256, SignatureAlgorithm::SHA1] {
        for encoding in [SignatureEncoding::PrefixedHex, SignatureEncoding::Hex] {
            let body = consumer(&format!("{algorithm:?} {encoding:?}")).to_string();
            let signature = kong_signature(secret, algorithm, encoding, body.as_bytes());
            assert_eq!(world.relay(&body, Some(&signature)).await, Some(202), "{algorithm:?} {encoding:?}");
            accepted += 1;
        }
    }
    let body = consumer("forged").to_string();
    let valid = world.sign(&body);
    let of_other_body = world.sign("another body");
    let wrong_secret =
        kong_signature(b"guess", SignatureAlgorithm::SHA256, SignatureEncoding::PrefixedHex, body.as_bytes());
    let wrong_algorithm = valid.replace("sha256=", "sha1=");
    for signature in [None, Some(""), Some("sha256="), Some("sha256=00"), Some("zz"), Some(&valid[..30])] {
        assert_eq!(world.relay(&body, signature).await, Some(401), "{signature:?}");
    }
    for signature in [&of_other_body, &wrong_secret, &wrong_algorithm] {
        assert_eq!(world.relay(&body, Some(signature)).await, Some(401), "{signature}");
    }
    // A hook without a relay rejects every signature.
    let beside = world.url.replace("/relays/relayed", "/relays/beside");
    assert_eq!(world.relay_to(&beside, &body, Some(&valid)).await, Some(401));
    let received = world.receiver.wait_for(accepted, DEADLINE).await;
    world
        .standalone
        .assert_stays("no forged relay is delivered", async || world.receiver.requests().len() == accepted)
        .await;
    assert!(
        received.iter().all(|r| r.path == "/relayed"),
        "a relay is delivered to its own hook only: {received:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_unexpected_events_and_stores_no_ping() {
    let world = start(json!({"event": "consumers"}), &[]).await;
    for (source, event) in [("crud", "routes"), ("dao:crud", "consumers"), ("auth0", "consumers"), ("s", "e")]
    {
        let body = json!({"source": source, "event": event});
        assert_eq!(world.relay_signed(&body).await, Some(403), "{body}");
    }
    let ping =
        json!({"source": "kong:event_hooks", "event": "ping", "event_hooks": {"config": {"secret": "x"}}});
    assert_eq!(world.relay_signed(&ping).await, Some(200));
    assert_eq!(
        world.relay(&ping.to_string(), Some("sha256=00")).await,
        Some(401),
        "a ping needs a valid signature"
    );
    for bad in ["", "[]", r#"{"source":"crud"}"#, r#"{"event":"consumers"}"#, r#"{"source":1,"event":"e"}"#] {
        assert_eq!(world.relay(bad, Some(&world.sign(bad))).await, Some(400), "{bad}");
    }
    let too_long = "x".repeat(2 << 20);
    assert!(matches!(world.relay(&too_long, Some("x")).await, Some(413) | None), "the body is too long");
    assert_eq!(world.relay_signed(&consumer("1")).await, Some(202));
    world.receiver.wait_for(1, DEADLINE).await;
    assert_eq!(world.standalone.count(INGESTED, &[r#"outcome="Accepted""#]).await, 1);
    world
        .standalone
        .assert_stays("nothing else is delivered", async || world.receiver.requests().len() == 1)
        .await;
    // Kong also sends a ping when a hook is created.
    assert!(world.standalone.count(INGESTED, &[r#"outcome="Ping""#]).await >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn event_hooks_entity_matches_no_wildcard() {
    let world = start(json!({}), &[]).await;
    // The event has the secrets of hooks. The worker answers 202, so that Kong does not retry, and does not store it.
    let entity = json!({"source": "crud", "event": "event_hooks", "entity": {"config": {"secret": "hush"}}});
    assert_eq!(world.relay_signed(&entity).await, Some(202));
    assert_eq!(world.relay_signed(&consumer("1")).await, Some(202));
    world.receiver.wait_for(1, DEADLINE).await;
    world
        .standalone
        .assert_stays("the entity is not delivered", async || world.receiver.requests().len() == 1)
        .await;
    assert_eq!(world.standalone.count(INGESTED, &[r#"outcome="LeftOut""#]).await, 1);
    for file in std::fs::read_dir(&world.standalone.data).unwrap().flatten().filter(|f| f.path().is_file()) {
        let bytes = std::fs::read(file.path()).unwrap();
        assert!(!bytes.windows(4).any(|w| w == b"hush"), "{:?} contains the secret", file.path());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn event_hooks_entity_matches_by_name() {
    let world = start(json!({"event": "event_hooks"}), &[]).await;
    assert_eq!(world.relay_signed(&json!({"source": "crud", "event": "event_hooks"})).await, Some(202));
    world.receiver.wait_for(1, DEADLINE).await;
}

/// A field of a wrong type must not make Kong drop the hook's events.
#[tokio::test(flavor = "multi_thread")]
async fn unreadable_hook_accepts_and_holds_relays() {
    let world = start(json!({}), &[]).await;
    let is_synced = |line: &str| line.contains(r#""Synced""#) && line.contains("default/relayed");
    world.standalone.process().wait_for_line(is_synced, DEADLINE).await;
    let manifests = |more: Value| {
        let mut spec = quick();
        merge(&mut spec, json!({"source": "crud", "connectionRef": {"name": "kong"}}));
        merge(&mut spec, more);
        world.kong.connection() + &hook("relayed", &format!("{}/relayed", world.receiver.url()), spec)
    };
    world.standalone.write("all.yaml", &manifests(json!({"rotation": 2026})));
    for _ in 0..2 {
        world.standalone.wait_for_scan().await;
    }
    assert_eq!(world.relay_signed(&consumer("1")).await, Some(202));
    let forged = world.relay(&consumer("2").to_string(), Some("sha256=00")).await;
    assert_eq!(forged, None, "it may be signed with the settings that cannot be read");
    let received = || world.receiver.requests().len();
    world.standalone.assert_stays("the event is held", async || received() == 0).await;
    world.standalone.write("all.yaml", &manifests(json!({})));
    let received = world.receiver.wait_for(1, DEADLINE).await;
    assert_eq!(received[0].path, "/relayed");
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_body_is_deduplicated() {
    let world = start(json!({}), &["--relay-dedup-window", "1h"]).await;
    for _ in 0..3 {
        assert_eq!(world.relay_signed(&consumer("1")).await, Some(202));
    }
    assert_eq!(world.relay_signed(&consumer("2")).await, Some(202));
    world.receiver.wait_for(2, DEADLINE).await;
    world
        .standalone
        .assert_stays("one delivery for each body", async || world.receiver.requests().len() == 2)
        .await;
    assert_eq!(world.standalone.count(INGESTED, &[r#"outcome="Duplicate""#]).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn zero_window_disables_deduplication() {
    let world = start(json!({}), &["--relay-dedup-window", "0"]).await;
    for _ in 0..3 {
        assert_eq!(world.relay_signed(&consumer("1")).await, Some(202));
    }
    let received = world.receiver.wait_for(3, DEADLINE).await;
    let ids: std::collections::HashSet<&str> = received.iter().map(|r| r.header("webhook-id")).collect();
    assert_eq!(ids.len(), 3, "three events");
    world.standalone.wait_for_count(FINISHED, &[DELIVERED], 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_hook_closes_connection() {
    let world = start(json!({}), &[]).await;
    let unknown = world.url.replace("/relays/relayed", "/relays/not-yet");
    let body = consumer("1").to_string();
    let signature = world.sign(&body);
    assert_eq!(
        world.relay_to(&unknown, &body, Some(&signature)).await,
        None,
        "the worker closes the connection, so that Kong retries"
    );
    let no_name = world.url.replace("/relays/relayed", "/relays/No_Name");
    assert_eq!(
        world.relay_to(&no_name, &body, Some(&signature)).await,
        Some(404),
        "no hook can have this name"
    );
}

/// After any answer to a truncated body, Kong would drop the event instead of repeating it.
#[tokio::test(flavor = "multi_thread")]
async fn truncated_body_gets_no_answer() {
    let world = start(json!({}), &[]).await;
    let mut socket = TcpStream::connect(&world.standalone.listen).await.unwrap();
    let path = world.url.split_once("/v1/").unwrap().1;
    let head = format!(
        "POST /v1/{path} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{{\"sou\r\nno length\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(DEADLINE, socket.read_to_string(&mut answer))
        .await
        .expect("the end of the connection")
        .ok();
    assert_eq!(answer, "");
    world.standalone.wait_for_count(INGESTED, &[r#"outcome="BrokenBody""#], 1).await;
}

/// Kong retries after a closed connection and never by status. An event that it emitted while the worker was down is
/// delivered.
#[tokio::test(flavor = "multi_thread")]
async fn relay_survives_worker_downtime() {
    let mut world = start(json!({}), &[]).await;
    world.standalone.process().kill9();
    assert_eq!(world.kong.emit("crud", "consumers", json!({"entity": {"id": "1"}})).await, 1);
    world.standalone.restart().await;
    let received = world.receiver.wait_for(1, DEADLINE).await;
    assert_eq!(received[0].json(), json!({"source": "crud", "event": "consumers", "entity": {"id": "1"}}));
}
