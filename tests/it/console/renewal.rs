//! The renewal of the proxy's token. The API server is a stand-in, because a real one grants no token for less than ten minutes.

use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use http::{HeaderMap, Uri};
use serde_json::json;

use super::proxy::{Console, text};
use crate::harness::watchdog;

/// The lifetimes in seconds that the API server grants one after another, and the tokens that the worker got.
#[derive(Default)]
struct Tokens {
    lifetimes: Vec<i64>,
    issued: usize,
    received: Vec<String>,
}

async fn handle(State(tokens): State<Arc<Mutex<Tokens>>>, uri: Uri, headers: HeaderMap) -> Response {
    let mut tokens = tokens.lock().unwrap();
    if uri.path().ends_with("/token") {
        if tokens.issued == tokens.lifetimes.len() {
            let failure = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "unavailable", "reason": "", "code": 503});
            return (http::StatusCode::SERVICE_UNAVAILABLE, Json(failure)).into_response();
        }
        let end = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(tokens.lifetimes[tokens.issued]);
        tokens.issued += 1;
        let token = format!("token-{}", tokens.issued);
        return Json(json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {},
            "spec": {"audiences": ["hookstream"]}, "status": {"token": token, "expirationTimestamp": end.to_string()}}))
        .into_response();
    }
    let token = headers["x-hookstream-token"].to_str().unwrap().to_owned();
    tokens.received.push(token);
    "page".into_response()
}

/// Starts `hookstream console` behind an API server that grants these lifetimes. Returns it with its cookie.
async fn start(lifetimes: &[i64]) -> (Console, String, Arc<Mutex<Tokens>>) {
    let tokens = Arc::new(Mutex::new(Tokens { lifetimes: lifetimes.to_vec(), ..Tokens::default() }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(handle).with_state(tokens.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let kubeconfig = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://{address}")}}],
        "users": [{"name": "u", "user": {"token": "of-the-user"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "shop"}}]});
    let path = watchdog::unique_path("kubeconfig");
    std::fs::write(&path, kubeconfig.to_string()).unwrap();
    let args = ["--service", "--service-account", "viewer"];
    let console = Console::start(&args, &[("KUBECONFIG", path.to_str().unwrap())]).await;
    let cookie = console.open().await;
    (console, cookie, tokens)
}

#[tokio::test(flavor = "multi_thread")]
async fn token_is_renewed_before_it_expires() {
    for (lifetimes, expected) in [
        // One that is valid for long is used again.
        (vec![600, 600], ["token-1", "token-1", "token-1"]),
        // One that ends soon is replaced by each request; while the API server issues none, it is still used.
        (vec![60, 60], ["token-1", "token-2", "token-2"]),
    ] {
        let (console, cookie, tokens) = start(&lifetimes).await;
        for _ in 0..2 {
            let (status, body) = text(console.get("/console/", &cookie)).await;
            assert_eq!((status, body.as_str()), (200, "page"));
        }
        assert_eq!(tokens.lock().unwrap().received, expected, "{lifetimes:?}");
        assert!(!console.process.log().contains("token-"), "{}", console.process.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_token_that_cannot_be_renewed_is_reported() {
    let (console, cookie, tokens) = start(&[0, 0]).await;
    let count = tokens.lock().unwrap().received.len();
    assert_eq!(text(console.get("/console/", &cookie)).await.0, 200);
    let (status, body) = text(console.get("/console/", &cookie)).await;
    assert!(
        status == 502 && body.contains("requesting a token of ServiceAccount shop/viewer"),
        "{status}: {body}"
    );
    assert_eq!(tokens.lock().unwrap().received.len(), count + 1, "no expired token was sent");
}
