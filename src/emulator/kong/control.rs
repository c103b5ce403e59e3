//! What is under `/__emulator/` for Kong alone: emit events, see the state.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::store::Hook;
use super::validate::Handler;
use super::{Kong, emit};
use crate::emulator::control::refuse;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Emit {
    source: String,
    event: String,
    #[serde(default)]
    data: Map<String, Value>,
}

/// `POST /__emulator/events`: sends an event to the hooks that match, and says what became of it at each.
pub(super) async fn emit(State(kong): State<Arc<Kong>>, body: Bytes) -> Response {
    let Emit { source, event, data } = match serde_json::from_slice(&body) {
        Ok(emit) => emit,
        Err(error) => {
            let message = format!("expected {{\"source\", \"event\", \"data\": {{...}}}}: {error}");
            return refuse(StatusCode::BAD_REQUEST, &message);
        }
    };
    let hooks = kong.store.matching(&source, &event);
    let payload = emit::payload(data, &source, Some(&event));
    let mut became: [(&str, Vec<Value>); 4] =
        ["queued", "logged", "called", "skipped"].map(|name| (name, Vec::new()));
    for hook in &hooks {
        let (outcome, told) = match hook.fields.handler {
            Handler::Webhook | Handler::WebhookCustom => match kong.emitter.enqueue(hook, &payload) {
                Ok(()) => ("queued", json!(hook.id)),
                Err(error) => (
                    "skipped",
                    json!({"id": hook.id, "handler": hook.fields.handler.name(),
                    "reason": error.to_string()}),
                ),
            },
            Handler::Log => {
                kong.called(hook, &payload);
                ("logged", json!(hook.id))
            }
            Handler::Lambda => {
                kong.called(hook, &payload);
                ("called", json!(hook.id))
            }
        };
        if let Some((_, list)) = became.iter_mut().find(|(name, _)| *name == outcome) {
            list.push(told);
        }
    }
    let mut answer = Map::from_iter([("matched".to_owned(), hooks.len().into())]);
    answer.extend(became.into_iter().map(|(name, list)| (name.to_owned(), list.into())));
    Json(answer).into_response()
}

impl Kong {
    /// A `log` or `lambda` hook has its event: in the log, and in the list of calls.
    pub fn called(&self, hook: &Hook, payload: &Value) {
        let handler = hook.fields.handler.name();
        tracing::info!(hook = %hook.id, "{handler} callback: {payload}");
        self.calls.push(json!({"time": jiff::Timestamp::now(), "hook": hook.id, "handler": handler,
            "source": payload.get("source"), "event": payload.get("event"), "data": payload}));
    }
}

/// `GET /__emulator/calls`: the events that came to `log` and `lambda` hooks.
pub(super) async fn calls(State(kong): State<Arc<Kong>>) -> Json<Value> {
    kong.calls.list()
}

/// `DELETE /__emulator/calls`.
pub(super) async fn forget_calls(State(kong): State<Arc<Kong>>) -> StatusCode {
    kong.calls.clear();
    StatusCode::NO_CONTENT
}

/// `GET /__emulator/state`: the hooks of every workspace, with their workspace.
pub(super) async fn state(State(kong): State<Arc<Kong>>) -> Json<Value> {
    Json(json!({"hooks": kong.store.all()}))
}
