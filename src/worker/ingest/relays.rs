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

use super::{IngestState, PublishResponse, complete_draft, decide_deliveries};
use crate::cluster::ObjectKey;
use crate::core::delivery_reason::DeliveryReason;
use crate::core::digest::hash_parts;
use crate::core::event::{Origin, parse_relayed};
use crate::core::fair_shares::Owner;
use crate::core::relay::{self, RelayRejection, SIGNATURE_HEADER};
use crate::core::time::Millis;
use crate::core::trace;
use crate::memory::request_cost;
use crate::worker::body::{BodyError, BodySender, MEMORY_TIMEOUT, ReadBody, read_body, read_encoded_body};
use crate::worker::content_coding::ContentCoding;
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
    let outcome = accept(&state, &ObjectKey::new(&namespace, &name), &parts.headers, body, started).await;
    let (label, response) = match outcome {
        RelayOutcome::Accepted(accepted) => {
            let label = if accepted.duplicate { "Duplicate" } else { "Accepted" };
            state.metrics.rates.record_accept_time(&namespace, started.elapsed());
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

async fn accept(
    state: &IngestState,
    key: &ObjectKey,
    headers: &HeaderMap,
    body: Body,
    started: Instant,
) -> RelayOutcome {
    let guarded = match state.view.hook(&key.namespace, &key.name) {
        Some(guarded) => guarded,
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
    let owner: Arc<str> = key.namespace.as_str().into();
    // The signature covers the whole body, so the relay is authenticated only after the body was read.
    let sender = BodySender::Unverified { memory: state.memory.unverified(), namespace: &owner };
    // The signature covers the bytes as they were sent. They are decoded only after it was verified, because a decoder
    // lets a sender occupy much more memory than it sends.
    let body = match read_encoded_body(body, headers, max, sender).await {
        Ok(body) => body,
        Err(error) => return unreadable(&error, max),
    };
    let Ok(key_ring) = state.cluster.key_ring(false).await else {
        return RelayOutcome::RetryLater("KeyRing");
    };
    let now = Millis::now();
    let settings = match &guarded.0 {
        Ok(object) => relay::accepted_settings(object, &key_ring, now),
        // Accept the event and hold it for the hook: Kong gives up after some retries.
        Err(invalid) => match &invalid.applied {
            Some(applied) => relay::settings_of_unreadable(&invalid.metadata, applied, &key_ring, now),
            None => Vec::new(),
        },
    };
    let signature = headers.get(SIGNATURE_HEADER).and_then(|v| v.to_str().ok());
    let signed = match relay::authenticate(&settings, signature, &body.bytes) {
        Ok(signed) => signed,
        // The settings of the spec, which cannot be read, may be those that signed it.
        Err(_) if guarded.0.is_err() => return RelayOutcome::RetryLater("Unreadable"),
        Err(refused) => return refuse(401, refused),
    };
    let body = match accept_body(state, body, headers, &owner).await {
        Ok(body) => body,
        Err(error) => return unreadable(&error, max),
    };
    let announced = state.committer.announce().await;
    let mut draft = match parse_relayed(&body.bytes) {
        Ok(draft) => draft,
        Err(bad) => return RelayOutcome::Refused(bad.into()),
    };
    if relay::is_ping(&draft) {
        return RelayOutcome::Ping;
    }
    if let Err(refused) = relay::check_agreed(&signed, &draft) {
        return refuse(403, refused);
    }
    let selected_event = match &guarded.0 {
        Ok(object) => object.spec.event.as_deref(),
        Err(invalid) => invalid.selector.as_ref().and_then(|selector| selector.event.as_deref()),
    };
    if relay::carries_secrets(&draft, selected_event == Some("event_hooks")) {
        return RelayOutcome::LeftOut;
    }

    // The index may lag behind the view. If it does not have the hook yet, compile it here.
    let hook = state.index.get(guarded.uid().unwrap_or_default().as_str());
    let hook = hook.unwrap_or_else(|| Arc::new(HookState::of_guard(&guarded, key, None)));
    let window = state.limits.relay_dedup_window;
    let dedup = (!window.is_zero())
        .then(|| Dedup { key: hash_parts(&[b"relay", hook.id.uid.as_bytes(), &body.bytes]), window });
    let memory = body.into_events_memory();
    trace::inherit_headers(&mut draft.attributes, |name| headers.get(name).and_then(|v| v.to_str().ok()));
    let origin = Origin::Relay(key.name.clone());
    let event = Arc::new(complete_draft(draft, key.namespace.clone(), origin, now));
    let spans = state.traces.begin_ingest([&*event], None, started);
    let Ok(deliveries) = decide_deliveries(vec![(event.clone(), vec![hook])], now).await else {
        return RelayOutcome::RetryLater("Closed");
    };
    // Accept events of a hook that is being deleted as dead letters. Kong then stops retrying them, and a user can
    // replay them if the hook is recreated.
    let dead = guarded.meta().deletion_timestamp.is_some().then_some(DeliveryReason::HookDeleted);
    let deliveries = deliveries.into_iter().flatten();
    let deliveries = deliveries.map(|delivery| NewDelivery { dead, ..delivery }).collect();
    let new = vec![NewEvent { event, dedup, deliveries }];
    match state.committer.commit(new, now, memory, announced, spans).await {
        Ok(accepted) => {
            let accepted = accepted.into_iter().next();
            accepted.map_or(RelayOutcome::RetryLater("Closed"), RelayOutcome::Accepted)
        }
        Err(error) => RelayOutcome::RetryLater((&error).into()),
    }
}

/// Makes the body of a verified relay a request of its namespace, and decodes it.
async fn accept_body(
    state: &IngestState,
    mut body: ReadBody,
    headers: &HeaderMap,
    owner: &Arc<str>,
) -> Result<ReadBody, BodyError> {
    let memory = state.memory.requests();
    if ContentCoding::of(headers)? != ContentCoding::Identity {
        let sender = BodySender::Authorized { memory, namespace: owner };
        // The bytes as they were sent stay reserved until they are decoded.
        let sent = body.bytes.clone();
        return read_body(Body::from(sent), headers, state.limits.max_event_bytes, sender).await;
    }
    let cost = request_cost(body.bytes.len() as u64);
    let reserved =
        memory.reserve(Owner::namespace(owner), cost, MEMORY_TIMEOUT).await.map_err(|_| BodyError::Busy)?;
    drop(std::mem::replace(&mut body.memory, reserved));
    Ok(body)
}

/// Returns the outcome of a relay whose body cannot be read.
fn unreadable(error: &BodyError, max: usize) -> RelayOutcome {
    match error {
        // After any response Kong drops the event: only for bodies that are the same at every retry.
        BodyError::TooBig | BodyError::Coding | BodyError::Corrupt => {
            RelayOutcome::Refused(HttpProblem::unreadable_body(error, || HttpProblem::event_too_big(max)))
        }
        BodyError::Broken | BodyError::Busy => RelayOutcome::RetryLater(error.into()),
    }
}

fn refuse(status: u16, refused: RelayRejection) -> RelayOutcome {
    RelayOutcome::Refused(HttpProblem::new(status, refused.into(), refused.to_string()))
}
