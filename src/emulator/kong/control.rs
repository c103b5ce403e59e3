//! The routes under `/__emulator/` that only the Kong emulator has: emit events, list calls, show the state.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::context::Kong;
use super::emit;
use super::store::Hook;
use super::validate::HookHandler;
use crate::emulator::control::control_error;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EmitRequest {
    source: String,
    event: String,
    #[serde(default)]
    data: Map<String, Value>,
}

/// `POST /__emulator/events`: sends an event to the matching hooks, and reports the result of each.
pub(super) async fn emit_event(State(kong): State<Arc<Kong>>, body: Bytes) -> Response {
    let EmitRequest { source, event, data } = match serde_json::from_slice(&body) {
        Ok(emit) => emit,
        Err(error) => {
            let message = format!("expected {{\"source\", \"event\", \"data\": {{...}}}}: {error}");
            return control_error(StatusCode::BAD_REQUEST, &message);
        }
    };
    let hooks = kong.store.matching(&source, &event);
    let payload = emit::event_payload(data, &source, Some(&event));
    let mut results: [(&str, Vec<Value>); 4] =
        ["queued", "logged", "called", "skipped"].map(|name| (name, Vec::new()));
    for hook in &hooks {
        let (outcome, entry) = match hook.fields.handler {
            HookHandler::Webhook | HookHandler::WebhookCustom => match kong.emitter.enqueue(hook, &payload) {
                Ok(()) => ("queued", json!(hook.id)),
                Err(error) => (
                    "skipped",
                    json!({"id": hook.id, "handler": hook.fields.handler.name(),
                    "reason": error.to_string()}),
                ),
            },
            HookHandler::Log => {
                kong.record_call(hook, &payload);
                ("logged", json!(hook.id))
            }
            HookHandler::Lambda => {
                kong.record_call(hook, &payload);
                ("called", json!(hook.id))
            }
        };
        if let Some((_, list)) = results.iter_mut().find(|(name, _)| *name == outcome) {
            list.push(entry);
        }
    }
    let mut answer = Map::from_iter([("matched".to_owned(), hooks.len().into())]);
    answer.extend(results.into_iter().map(|(name, list)| (name.to_owned(), list.into())));
    Json(answer).into_response()
}

impl Kong {
    /// Records that a `log` or `lambda` hook received an event, in the log and in the list of calls.
    pub fn record_call(&self, hook: &Hook, payload: &Value) {
        let handler = hook.fields.handler.name();
        tracing::info!(hook = %hook.id, "{handler} callback: {payload}");
        self.calls.push(json!({"time": jiff::Timestamp::now(), "hook": hook.id, "handler": handler,
            "source": payload.get("source"), "event": payload.get("event"), "data": payload}));
    }
}

/// `GET /__emulator/calls`: lists the events that `log` and `lambda` hooks received.
pub(super) async fn list_calls(State(kong): State<Arc<Kong>>) -> Json<Value> {
    kong.calls.list()
}

/// `DELETE /__emulator/calls`: clears the list.
pub(super) async fn clear_calls(State(kong): State<Arc<Kong>>) -> StatusCode {
    kong.calls.clear();
    StatusCode::NO_CONTENT
}

/// `GET /__emulator/state`: returns the hooks of all workspaces, each with its workspace.
pub(super) async fn show_state(State(kong): State<Arc<Kong>>) -> Json<Value> {
    Json(json!({"hooks": kong.store.all()}))
}
