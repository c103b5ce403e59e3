//! `POST /v1/namespaces/{ns}/streams/{eventstream}`: events of one Auth0 event stream.
//!
//! Auth0 gives up after a 4xx and retries after a 5xx. So the worker answers 4xx only to requests that can never
//! succeed.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};

use super::{IngestState, PublishResponse, complete_draft, decide_deliveries, reserve_views};
use crate::api::EventStream;
use crate::cluster::{ObjectKey, read_secret_text};
use crate::core::digest::hash_parts;
use crate::core::event::{Origin, parse_streamed};
use crate::core::stream::{self, Destination};
use crate::core::stream_auth::{authenticate, credential, worker_credentials};
use crate::core::time::Millis;
use crate::worker::body::{BodyError, BodySender, read_body};
use crate::worker::problem::HttpProblem;
use crate::worker::request::ValidPath;
use crate::worker::store::{AcceptedEvent, Dedup, NewEvent, StoreError};

pub async fn receive(
    State(state): State<Arc<IngestState>>,
    ValidPath((namespace, name)): ValidPath<(String, String)>,
    request: Request,
) -> Response {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let (outcome, response) =
        match accept(&state, &ObjectKey::new(&namespace, &name), &parts.headers, body, started).await {
            Ok(accepted) => {
                let outcome = if accepted.duplicate { "Duplicate" } else { "Accepted" };
                state.metrics.rates.record_accept_time(&namespace, started.elapsed());
                (outcome, (StatusCode::ACCEPTED, Json(PublishResponse::of(&accepted))).into_response())
            }
            Err(problem) => (problem.reason, problem.into_response()),
        };
    state.metrics.record_ingest("streams", outcome, started.elapsed());
    response
}

/// Returns a 503, after which Auth0 retries.
fn retry_later(reason: &'static str, detail: &str) -> HttpProblem {
    HttpProblem::new(503, reason, format!("{detail}: send the event again later"))
}

async fn accept(
    state: &IngestState,
    key: &ObjectKey,
    headers: &HeaderMap,
    body: Body,
    started: Instant,
) -> Result<AcceptedEvent, HttpProblem> {
    let guarded = state.view.stream(&key.namespace, &key.name);
    let stream = match guarded.as_ref().map(|guarded| &guarded.0) {
        Some(Ok(stream)) => stream,
        Some(Err(_)) => return Err(retry_later("Unreadable", "the EventStream cannot be read")),
        None if state.unknown_streams.is_certain(key, Instant::now()) => {
            return Err(HttpProblem::new(404, "NotFound", "there is no EventStream of this name"));
        }
        None => return Err(retry_later("Unknown", "the EventStream is not known yet")),
    };
    state.unknown_streams.remove(key);
    let now = Millis::now();
    authorize(state, stream, headers, now).await?;
    state.namespaces.check_before_accept(&key.namespace).await;
    if state.disk.is_full() {
        return Err(HttpProblem::disk_limit());
    }
    let max = state.limits.max_event_bytes;
    let owner = key.namespace.as_str().into();
    // Its credential is a header and was checked.
    let sender = BodySender::Authorized { memory: state.memory.requests(), namespace: &owner };
    let body = read_body(body, headers, max, sender).await;
    let body = body.map_err(|error| match error {
        BodyError::Broken => retry_later("BrokenBody", "the body ended early or took too long"),
        error => HttpProblem::unreadable_body(&error, || HttpProblem::event_too_big(max)),
    })?;
    let announced = state.committer.announce().await;
    let draft = parse_streamed(&body.bytes)?;
    let length = body.bytes.len();
    let mut memory = body.into_events_memory();
    reserve_views(&mut memory, length, std::slice::from_ref(&draft))
        .map_err(|error| HttpProblem::unreadable_body(&error, || HttpProblem::event_too_big(max)))?;
    let dedup = draft.id.as_ref().map(|id| Dedup {
        key: hash_parts(&[
            b"stream",
            key.namespace.as_bytes(),
            key.name.as_bytes(),
            draft.source.as_bytes(),
            id.as_bytes(),
        ]),
        window: state.limits.dedup_window,
    });
    let origin = Origin::Stream(key.name.clone());
    let event = Arc::new(complete_draft(draft, key.namespace.clone(), origin, now));
    let spans = state.traces.begin_ingest([&*event], None, started);
    let hooks = state.index.matching(&event);
    let deliveries = decide_deliveries(vec![(event.clone(), hooks)], now).await?;
    let new = vec![NewEvent { event, dedup, deliveries: deliveries.into_iter().flatten().collect() }];
    let accepted = state.committer.commit(new, now, memory, announced, spans).await.map_err(|error| {
        // Never 429: it is a 4xx, after which Auth0 gives up.
        HttpProblem { status: 503, ..HttpProblem::from(error) }
    })?;
    accepted.into_iter().next().ok_or_else(|| StoreError::Closed.into())
}

/// Checks the credential with which Auth0 was configured: a token that the operator derived, or the user's own secret
/// if the stream's destination is a webhook with this address.
async fn authorize(
    state: &IngestState,
    stream: &EventStream,
    headers: &HeaderMap,
    now: Millis,
) -> Result<(), HttpProblem> {
    let key_ring = state.cluster.key_ring(false).await;
    let key_ring = key_ring.map_err(|_| retry_later("KeyRing", "the authorization cannot be checked"))?;
    let mut credentials = worker_credentials(stream, &key_ring, now);
    if let Ok(Destination::Webhook { authorization, .. }) = stream::validate(stream).map(|s| s.destination) {
        let namespace = stream.metadata.namespace.as_deref().unwrap_or_default();
        let secret = read_secret_text(&*state.cluster, namespace, authorization.secret()).await;
        let secret = secret
            .map_err(|missing| retry_later((&missing).into(), "the authorization cannot be checked"))?;
        credentials.push(credential(&authorization, secret));
    }
    let header = |name: &str| headers.get(name).map(http::HeaderValue::as_bytes);
    authenticate(&credentials, header)
        .map_err(|refused| HttpProblem::new(401, refused.into(), refused.to_string()))
}
