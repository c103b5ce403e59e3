//! Tests of the emulator over real loopback sockets.

mod access;
mod deliveries;
mod hooks;
mod streams;

use serde_json::{Value, json};

use std::time::Duration;

use axum::http::StatusCode;

use super::*;
use crate::emulator::testing::{EmulatorServer, Receiver, read};

const STREAMS: &str = "/api/v2/event-streams";
const HOOKS: &str = "/api/v2/hooks";

async fn start(options: Auth0Options) -> EmulatorServer {
    let serve = |listener| serve_auth0(listener, options, std::future::pending::<()>());
    let mut server = EmulatorServer::start(serve).await;
    server.bearer = Some("any".into());
    server
}

/// Starts an emulator without delays between attempts.
async fn start_without_backoff() -> EmulatorServer {
    start(Auth0Options { time_scale: 0.0, ..Auth0Options::default() }).await
}

fn webhook_stream(name: &str, url: &str) -> Value {
    json!({"name": name, "subscriptions": [{"event_type": "user.created"}], "destination": {"type": "webhook",
        "configuration": {"webhook_endpoint": url, "webhook_authorization": {"method": "bearer", "token": "hush"}}}})
}

/// Creates a stream; returns its path and its JSON.
async fn create_stream(auth0: &EmulatorServer, body: Value) -> (String, Value) {
    let (status, made) = auth0.call("POST", STREAMS, body).await;
    assert_eq!(status, 201, "{made}");
    (format!("{STREAMS}/{}", made["id"].as_str().unwrap()), made)
}

async fn emit(auth0: &EmulatorServer, kind: &str) -> Value {
    auth0.call("POST", "/__emulator/events", json!({"type": kind})).await.1
}

fn hook_body(name: &str, enabled: bool) -> Value {
    json!({"name": name, "script": "module.exports = 1", "triggerId": "credentials-exchange", "enabled": enabled})
}
