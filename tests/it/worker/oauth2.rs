//! OAuth2 client credentials towards receivers, with a token server of the test.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::harness::deliveries::{get_ok, list_deliveries};
use crate::harness::manifests::{event, hook, merge, quick, secret};
use crate::harness::metrics::{DELIVERED, FINISHED};
use crate::harness::standalone::Standalone;
use crate::harness::{DEADLINE, Receiver, Reply, eventually};

const CLIENT_SECRET: &str = "s3cr3t of the client";

/// A token server that accepts credentials in the header or in the body, and numbers its tokens.
struct TokenServer {
    server: Receiver,
    issued: Arc<AtomicUsize>,
    is_down: Arc<AtomicBool>,
}

impl TokenServer {
    fn start(accepts_header: bool) -> Self {
        let (issued, is_down) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, down) = (issued.clone(), is_down.clone());
        let server = Receiver::start(move |request, _| {
            if down.load(Ordering::SeqCst) {
                return Reply::status(503);
            }
            let form: Vec<(String, String)> =
                url::form_urlencoded::parse(&request.body).into_owned().collect();
            let field = |name: &str| form.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
            let basic = BASE64_STANDARD.encode("hooks:s3cr3t+of+the+client");
            let is_client = match accepts_header {
                true => request.header("authorization") == format!("Basic {basic}"),
                false => field("client_id") == Some("hooks") && field("client_secret") == Some(CLIENT_SECRET),
            };
            let is_complete = field("grant_type") == Some("client_credentials")
                && field("scope") == Some("read write")
                && field("audience") == Some("https://orders.example.com");
            if !is_client || !is_complete {
                return Reply::status(401).body(r#"{"error": "invalid_client"}"#);
            }
            let number = counter.fetch_add(1, Ordering::SeqCst) + 1;
            Reply::status(200).body(
                json!({"access_token": format!("token-{number}"), "token_type": "Bearer", "expires_in": 3600})
                    .to_string(),
            )
        });
        TokenServer { server, issued, is_down }
    }

    /// Returns a hook that uses this server.
    fn hook(&self, name: &str, url: &str) -> String {
        let oauth2 = json!({"tokenUrl": self.server.url(), "clientId": "hooks",
            "clientSecretRef": {"name": "client", "key": "secret"}, "scopes": ["read", "write"],
            "audience": "https://orders.example.com"});
        let mut spec = json!({"source": name, "handler": {"webhook": {"oauth2": oauth2}}});
        merge(&mut spec, quick());
        hook(name, url, spec)
    }
}

fn event_of(source: &str, id: &str) -> Value {
    let mut body = event(id);
    merge(&mut body, json!({"source": source}));
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_of_a_hook_share_a_token() {
    let receiver = Receiver::start(|request, _| match request.header("authorization") {
        "Bearer token-1" => Reply::status(200),
        other => Reply::status(400).body(other.to_owned()),
    });
    for accepts_header in [true, false] {
        let tokens = TokenServer::start(accepts_header);
        let manifests =
            tokens.hook("a", &receiver.url()) + &secret("client", json!({"secret": CLIENT_SECRET}));
        let standalone = Standalone::start(&manifests, &[]).await;
        let published = (0..30).map(|n| {
            let standalone = &standalone;
            async move { standalone.publish_accepted(&event_of("a", &format!("e{n}"))).await }
        });
        futures::future::join_all(published).await;
        standalone.wait_for_count(FINISHED, &[DELIVERED], 30).await;
        assert_eq!(tokens.issued.load(Ordering::SeqCst), 1);
        let log = standalone.process().log();
        assert!(!log.contains("token-1") && !log.contains("s3cr3t"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_token_server_costs_no_attempt() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let tokens = TokenServer::start(true);
    tokens.is_down.store(true, Ordering::SeqCst);
    let manifests = tokens.hook("a", &receiver.url()) + &secret("client", json!({"secret": CLIENT_SECRET}));
    let standalone = Standalone::start(&manifests, &[]).await;
    standalone.publish_accepted(&event_of("a", "e1")).await;
    let explained = |text: &'static str| {
        let standalone = &standalone;
        async move {
            eventually(DEADLINE, text, async || {
                let shown = get_ok(standalone, "events/e1/explain").await.to_string();
                if shown.contains(text) { Ok(()) } else { Err(shown) }
            })
            .await;
        }
    };
    explained("the token endpoint answered 503").await;
    assert!(receiver.requests().is_empty());
    tokens.is_down.store(false, Ordering::SeqCst);
    standalone.wait_for_count(FINISHED, &[DELIVERED], 1).await;
    let delivery = list_deliveries(&standalone, "hook=a").await.remove(0);
    assert_eq!(delivery["attempts"].as_array().map(Vec::len), Some(1), "{delivery}");
    assert_eq!(receiver.requests()[0].header("authorization"), "Bearer token-1");
}

/// A receiver that rejects every token must not cost a token for each delivery.
#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_new_token_is_not_replaced() {
    let receiver = Receiver::start(|_, _| Reply::status(401));
    let tokens = TokenServer::start(true);
    let manifests = tokens.hook("a", &receiver.url()) + &secret("client", json!({"secret": CLIENT_SECRET}));
    let standalone = Standalone::start(&manifests, &[]).await;
    for id in ["e1", "e2", "e3"] {
        standalone.publish_accepted(&event_of("a", id)).await;
    }
    let requests = receiver.wait_for(3, DEADLINE).await;
    assert!(requests.iter().all(|request| request.header("authorization") == "Bearer token-1"));
    assert_eq!(tokens.issued.load(Ordering::SeqCst), 1);
}
