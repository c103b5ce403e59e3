//! `POST /v1/namespaces/{ns}/relays/{eventhook}`: events that Kong relays for one hook.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use kube::{Resource, ResourceExt};
use serde_json::json;

use super::{IngestState, PublishResponse, complete_draft, decide_deliveries, hash_parts};
use crate::cluster::ObjectKey;
use crate::core::delivery_reason::DeliveryReason;
use crate::core::event::{Origin, parse_relayed};
use crate::core::relay::{self, RelayRejection, SIGNATURE_HEADER};
use crate::core::time::Millis;
use crate::core::trace;
use crate::worker::body::{BodyError, content_length, read_body};
use crate::worker::hooks::HookState;
use crate::worker::problem::{HttpProblem, close_connection};
use crate::worker::request::ValidPath;
use crate::worker::store::{AcceptedEvent, Dedup, NewDelivery, NewEvent};

/// The outcome of a relay request.
enum RelayOutcome {
    Accepted(AcceptedEvent),
    /// Kong's ping, which is answered and not stored.
    Ping,
    /// An event about event hooks. Accepted and not stored, because it may contain secrets.
    LeftOut,
    Refused(HttpProblem),
    /// The worker closes the connection, so that Kong retries. Carries the reason for the metric.
    RetryLater(&'static str),
}

pub async fn relay(
    State(state): State<Arc<IngestState>>,
    ValidPath((namespace, name)): ValidPath<(String, String)>,
    request: Request,
) -> Response {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let outcome = accept(&state, &ObjectKey::new(&namespace, &name), &parts.headers, body).await;
    let (label, response) = match outcome {
        RelayOutcome::Accepted(accepted) => {
            let label = if accepted.duplicate { "Duplicate" } else { "Accepted" };
            (label, (StatusCode::ACCEPTED, Json(PublishResponse::of(&accepted))).into_response())
        }
        RelayOutcome::Ping => ("Ping", Json(json!({"pong": true})).into_response()),
        RelayOutcome::LeftOut => {
            ("LeftOut", (StatusCode::ACCEPTED, Json(json!({"deliveries": 0}))).into_response())
        }
        RelayOutcome::Refused(problem) => (problem.reason, problem.into_response()),
        RelayOutcome::RetryLater(reason) => (reason, close_connection()),
    };
    state.metrics.record_ingest("relays", label, started.elapsed());
    response
}

async fn accept(state: &IngestState, key: &ObjectKey, headers: &HeaderMap, body: Body) -> RelayOutcome {
    let guarded = state.view.hook(&key.namespace, &key.name);
    let object = match guarded.as_ref().map(|g| &g.0) {
        Some(Ok(object)) => object,
        Some(Err(_)) => return RelayOutcome::RetryLater("Unreadable"),
        None if state.unknown_hooks.is_certain(key, Instant::now()) => {
            let problem = HttpProblem::new(404, "NotFound", "no EventHook of this name accepts relays");
            return RelayOutcome::Refused(problem);
        }
        None => return RelayOutcome::RetryLater("Unknown"),
    };
    state.unknown_hooks.remove(key);
    state.namespaces.check_before_accept(&key.namespace).await;
    if state.disk.is_full() {
        return RelayOutcome::RetryLater("DiskLimit");
    }
    let max = state.limits.max_event_bytes;
    let body = match read_body(body, content_length(headers), max, &state.body_memory).await {
        Ok(body) => body,
        Err(BodyError::TooBig) => return RelayOutcome::Refused(HttpProblem::event_too_big(max)),
        // The body is incomplete. After any response Kong would drop the event.
        Err(error) => return RelayOutcome::RetryLater((&error).into()),
    };
    let Ok(key_ring) = state.cluster.key_ring(false).await else {
        return RelayOutcome::RetryLater("KeyRing");
    };
    let now = Millis::now();
    let settings = relay::accepted_settings(object, &key_ring, now);
    let signature = headers.get(SIGNATURE_HEADER).and_then(|v| v.to_str().ok());
    let signed = match relay::authenticate(&settings, signature, &body) {
        Ok(signed) => signed,
        Err(refused) => return refuse(401, refused),
    };
    let mut draft = match parse_relayed(&body) {
        Ok(draft) => draft,
        Err(bad) => return RelayOutcome::Refused(bad.into()),
    };
    if relay::is_ping(&draft) {
        return RelayOutcome::Ping;
    }
    if let Err(refused) = relay::check_agreed(&signed, &draft) {
        return refuse(403, refused);
    }
    if relay::carries_secrets(&draft, object.spec.event.as_deref() == Some("event_hooks")) {
        return RelayOutcome::LeftOut;
    }

    // The index may lag behind the view. If it does not have the hook yet, compile it here.
    let hook = state.index.get(object.uid().unwrap_or_default().as_str());
    let hook = hook.unwrap_or_else(|| Arc::new(HookState::new(object, key, None)));
    let window = state.limits.relay_dedup_window;
    let dedup = (!window.is_zero())
        .then(|| Dedup { key: hash_parts(&[b"relay", hook.id.uid.as_bytes(), &body]), window });
    trace::inherit_headers(&mut draft.attributes, |name| headers.get(name).and_then(|v| v.to_str().ok()));
    let origin = Origin::Relay(key.name.clone());
    let event = Arc::new(complete_draft(draft, key.namespace.clone(), origin, now));
    let Ok(deliveries) = decide_deliveries(vec![(event.clone(), vec![hook])], now).await else {
        return RelayOutcome::RetryLater("Closed");
    };
    // Accept events of a hook that is being deleted as dead letters. Kong then stops retrying them, and a user can
    // replay them if the hook is recreated.
    let dead = object.meta().deletion_timestamp.is_some().then_some(DeliveryReason::HookDeleted);
    let deliveries = deliveries.into_iter().flatten();
    let deliveries = deliveries.map(|delivery| NewDelivery { dead, ..delivery }).collect();
    match state.committer.commit(vec![NewEvent { event, dedup, deliveries }], now).await {
        Ok(accepted) => {
            let accepted = accepted.into_iter().next();
            accepted.map_or(RelayOutcome::RetryLater("Closed"), RelayOutcome::Accepted)
        }
        Err(error) => RelayOutcome::RetryLater((&error).into()),
    }
}

fn refuse(status: u16, refused: RelayRejection) -> RelayOutcome {
    RelayOutcome::Refused(HttpProblem::new(status, refused.into(), refused.to_string()))
}
