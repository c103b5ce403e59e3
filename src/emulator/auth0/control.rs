//! What is under `/__emulator/` for Auth0 alone: emit events, see deliveries and the state.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Auth0;
use super::event::Event;
use super::history::Delivery;
use super::stream::Destination;
use crate::emulator::control::refuse;
use crate::emulator::recent::Recent;

/// How the last deliveries ended.
pub(super) type Outcomes = Recent<Value>;

impl Auth0 {
    pub fn ended(&self, stream: &str, delivery: &Delivery, outcome: &str) {
        self.outcomes.push(json!({"time": jiff::Timestamp::now(), "stream": stream, "event": delivery.id,
            "type": delivery.event_type, "outcome": outcome, "attempts": delivery.attempts}));
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Emit {
    #[serde(rename = "type")]
    kind: String,
    /// Made up where it is left out.
    data: Option<Map<String, Value>>,
}

/// `POST /__emulator/events`: an event happens in the tenant. It goes to the enabled streams that are subscribed to
/// its type: `queued` for webhooks, `taken` for other destinations, which are not emulated further.
pub(super) async fn emit(State(auth0): State<Arc<Auth0>>, body: Bytes) -> Response {
    let Emit { kind, data } = match serde_json::from_slice(&body) {
        Ok(emit) => emit,
        Err(error) => {
            let why = format!("expected {{\"type\", \"data\": {{...}}}}: {error}");
            return refuse(StatusCode::BAD_REQUEST, &why);
        }
    };
    let event = Event::new(kind, data);
    let meant: Vec<(String, bool)> = auth0.store.read(|state| {
        let enabled = state.streams.values().filter(|stream| stream.fields.enabled);
        let subscribed = enabled.filter(|stream| stream.fields.subscriptions.contains(&event.kind));
        let webhook = |to: &Destination| matches!(to, Destination::Webhook { .. });
        subscribed.map(|stream| (stream.id.clone(), webhook(&stream.fields.destination))).collect()
    });
    let (mut queued, mut taken) = (Vec::new(), Vec::new());
    for (id, webhook) in &meant {
        if auth0.start(id, &event, false).is_some() {
            if *webhook { queued.push(id) } else { taken.push(id) }
        }
    }
    Json(json!({"id": event.id, "matched": meant.len(), "queued": queued, "taken": taken})).into_response()
}

/// `GET /__emulator/deliveries`: how deliveries ended, the delivered ones among them.
pub(super) async fn outcomes(State(auth0): State<Arc<Auth0>>) -> Json<Value> {
    auth0.outcomes.list()
}

/// `DELETE /__emulator/deliveries`.
pub(super) async fn forget_outcomes(State(auth0): State<Arc<Auth0>>) -> StatusCode {
    auth0.outcomes.clear();
    StatusCode::NO_CONTENT
}

/// `GET /__emulator/state`: streams and hooks as they are kept, secrets included: the API itself never returns them.
pub(super) async fn state(State(auth0): State<Arc<Auth0>>) -> Json<Value> {
    Json(auth0.store.read(|state| {
        json!({"streams": state.streams.values().collect::<Vec<_>>(),
            "hooks": state.hooks.values().collect::<Vec<_>>()})
    }))
}
