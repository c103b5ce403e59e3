//! The routes under `/__emulator/` that only the Auth0 emulator has: emit events, list deliveries, show the state.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::context::Auth0;
use super::event::Event;
use super::history::Delivery;
use super::stream::Destination;
use crate::emulator::control::control_error;

impl Auth0 {
    /// Records the outcome of a delivery.
    pub fn record_outcome(&self, stream: &str, delivery: &Delivery, outcome: &str) {
        self.outcomes.push(json!({"time": jiff::Timestamp::now(), "stream": stream, "event": delivery.id,
            "type": delivery.event_type, "outcome": outcome, "attempts": delivery.attempts}));
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EmitRequest {
    #[serde(rename = "type")]
    kind: String,
    /// Default: sample data of the event type.
    data: Option<Map<String, Value>>,
}

/// `POST /__emulator/events`: emits an event to the enabled streams that are subscribed to its type. The response lists
/// webhook streams as `queued`, and other destinations, which are not emulated, as `taken`.
pub(super) async fn emit_event(State(auth0): State<Arc<Auth0>>, body: Bytes) -> Response {
    let EmitRequest { kind, data } = match serde_json::from_slice(&body) {
        Ok(emit) => emit,
        Err(error) => {
            let message = format!("expected {{\"type\", \"data\": {{...}}}}: {error}");
            return control_error(StatusCode::BAD_REQUEST, &message);
        }
    };
    let event = Event::new(kind, data);
    let matched: Vec<(String, bool)> = auth0.store.read(|state| {
        let enabled = state.streams.values().filter(|stream| stream.fields.enabled);
        let subscribed = enabled.filter(|stream| stream.fields.subscriptions.contains(&event.kind));
        let is_webhook = |destination: &Destination| matches!(destination, Destination::Webhook { .. });
        subscribed.map(|stream| (stream.id.clone(), is_webhook(&stream.fields.destination))).collect()
    });
    let (mut queued, mut taken) = (Vec::new(), Vec::new());
    for (id, webhook) in &matched {
        if auth0.emit_to_stream(id, &event, false).is_some() {
            if *webhook { queued.push(id) } else { taken.push(id) }
        }
    }
    Json(json!({"id": event.id, "matched": matched.len(), "queued": queued, "taken": taken})).into_response()
}

/// `GET /__emulator/deliveries`: lists the outcomes of the latest deliveries, including successful ones.
pub(super) async fn list_outcomes(State(auth0): State<Arc<Auth0>>) -> Json<Value> {
    auth0.outcomes.list()
}

/// `DELETE /__emulator/deliveries`: clears that list.
pub(super) async fn clear_outcomes(State(auth0): State<Arc<Auth0>>) -> StatusCode {
    auth0.outcomes.clear();
    StatusCode::NO_CONTENT
}

/// `GET /__emulator/state`: returns the stored streams and hooks with their secrets, which the API itself never returns.
pub(super) async fn show_state(State(auth0): State<Arc<Auth0>>) -> Json<Value> {
    Json(auth0.store.read(|state| {
        json!({"streams": state.streams.values().collect::<Vec<_>>(),
            "hooks": state.hooks.values().collect::<Vec<_>>()})
    }))
}
