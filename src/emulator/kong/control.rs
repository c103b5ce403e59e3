//! What is under `/__emulator/` for Kong alone: emit events, see the state.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};

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
    let (mut queued, mut logged, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
    for hook in &hooks {
        match hook.fields.handler {
            Handler::Webhook => {
                kong.emitter.enqueue(hook, &payload);
                queued.push(hook.id);
            }
            Handler::Log => {
                tracing::info!(hook = %hook.id, "log callback: {event} {source} {payload}");
                logged.push(hook.id);
            }
            handler @ (Handler::WebhookCustom | Handler::Lambda) => skipped.push(json!({
                "id": hook.id,
                "handler": handler.name(),
                "reason": "this version of the emulator does not run this handler",
            })),
        }
    }
    Json(json!({"matched": hooks.len(), "queued": queued, "logged": logged, "skipped": skipped}))
        .into_response()
}

/// `GET /__emulator/state`: the hooks of every workspace, with their workspace.
pub(super) async fn state(State(kong): State<Arc<Kong>>) -> Json<Value> {
    Json(json!({"hooks": kong.store.all()}))
}
