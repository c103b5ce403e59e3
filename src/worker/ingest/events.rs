//! `POST /v1/namespaces/{ns}/events`: events of API clients.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use serde_json::json;

use super::{IngestState, PublishResponse, complete_draft, decide_deliveries, reserve_views};
use crate::cluster::Permission;
use crate::core::digest::hash_parts;
use crate::core::event::{
    Event, EventDraft, HOPS_ATTRIBUTE, InvalidEvent, MAX_HOPS, Origin, PublishedEvents, hops, hops_of,
    is_batch, parse_request,
};
use crate::core::time::Millis;
use crate::core::trace::{self, TraceParent};
use crate::memory::Reservation;
use crate::worker::body::{BodySender, read_body};
use crate::worker::problem::HttpProblem;
use crate::worker::request::{ValidPath, token};
use crate::worker::store::{AcceptedEvent, Dedup, InFlightAccept, NewEvent, StoreError};

/// The result of an accepted request.
enum PublishOutcome {
    One(AcceptedEvent),
    /// All events of a batch, in one commit.
    Batch(Vec<AcceptedEvent>),
}

pub async fn publish(
    State(state): State<Arc<IngestState>>,
    ValidPath(namespace): ValidPath<String>,
    request: Request,
) -> Response {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let result = accept(&state, &namespace, &parts.headers, body, started).await;
    if result.is_ok() {
        // The events are stored. This only keeps their sender from overtaking the deliveries.
        state.committer.wait_for_deliveries(&namespace).await;
    }
    let (is_duplicate, response) = match result {
        Ok(PublishOutcome::One(accepted)) => {
            (accepted.duplicate, Json(PublishResponse::of(&accepted)).into_response())
        }
        Ok(PublishOutcome::Batch(all)) => {
            let is_duplicate = !all.is_empty() && all.iter().all(|accepted| accepted.duplicate);
            let responses = all.iter().map(PublishResponse::of).collect::<Vec<_>>();
            (is_duplicate, Json(responses).into_response())
        }
        Err(problem) => {
            state.metrics.record_ingest("events", problem.reason, started.elapsed());
            return problem.into_response();
        }
    };
    let outcome = if is_duplicate { "Duplicate" } else { "Accepted" };
    state.metrics.record_ingest("events", outcome, started.elapsed());
    state.metrics.rates.record_accept_time(&namespace, started.elapsed());
    (StatusCode::ACCEPTED, response).into_response()
}

async fn accept(
    state: &IngestState,
    namespace: &str,
    headers: &HeaderMap,
    body: Body,
    started: Instant,
) -> Result<PublishOutcome, HttpProblem> {
    // Authorize first, so that bodies of unauthorized clients are not read.
    let access = Permission::new(namespace, "create", "events");
    state.cluster.authorize(token(headers), access).await?;
    // Otherwise a namespace that is created with this name later would have the event in its history.
    if !state.namespaces.check_before_accept(namespace).await {
        return Err(HttpProblem::new(404, "NotFound", "there is no namespace of this name"));
    }
    if state.disk.is_full() {
        return Err(HttpProblem::disk_limit());
    }
    let content_type = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let limits = &state.limits;
    let (max, too_big): (usize, fn(usize) -> HttpProblem) = if is_batch(content_type) {
        (limits.max_request_bytes, HttpProblem::request_too_big)
    } else {
        (limits.max_event_bytes, HttpProblem::event_too_big)
    };
    let owner = namespace.into();
    let sender = BodySender::Authorized { memory: state.memory.requests(), namespace: &owner };
    let body = read_body(body, headers, max, sender).await;
    let body = body.map_err(|error| HttpProblem::unreadable_body(&error, || too_big(max)))?;
    let announced = state.committer.announce().await;
    let fields = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let now = Millis::now();
    let parsed = parse_request(content_type, fields, &body.bytes, limits.max_event_bytes)?;
    let (is_batch, drafts) = match parsed {
        PublishedEvents::One(draft) => (false, vec![draft]),
        PublishedEvents::Batch(drafts) => (true, drafts),
    };
    let length = body.bytes.len();
    let mut memory = body.into_events_memory();
    reserve_views(&mut memory, length, &drafts)
        .map_err(|error| HttpProblem::unreadable_body(&error, || too_big(max)))?;
    let all = commit_events(state, drafts, namespace, headers, (now, started), (memory, announced)).await?;
    match is_batch {
        true => Ok(PublishOutcome::Batch(all)),
        false => Ok(PublishOutcome::One(all.into_iter().next().ok_or(StoreError::Closed)?)),
    }
}

/// Completes drafts to events, decides their deliveries and commits all or none of them.
async fn commit_events(
    state: &IngestState,
    drafts: Vec<EventDraft>,
    namespace: &str,
    headers: &HeaderMap,
    (now, started): (Millis, Instant),
    (memory, announced): (Reservation, InFlightAccept),
) -> Result<Vec<AcceptedEvent>, HttpProblem> {
    if drafts.is_empty() {
        return Ok(Vec::new());
    }
    let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let mut dedups = Vec::with_capacity(drafts.len());
    let mut matched = Vec::with_capacity(drafts.len());
    for mut draft in drafts {
        import_hops(&mut draft, headers)?;
        trace::inherit_headers(&mut draft.attributes, header);
        dedups.push(draft.id.as_ref().map(|id| Dedup {
            key: hash_parts(&[b"api", namespace.as_bytes(), draft.source.as_bytes(), id.as_bytes()]),
            window: state.limits.dedup_window,
        }));
        let event = Arc::new(complete_draft(draft, namespace.to_owned(), Origin::Api, now));
        let hooks = state.index.matching(&event);
        matched.push((event, hooks));
    }
    let events: Vec<Arc<Event>> = matched.iter().map(|(event, _)| event.clone()).collect();
    let caller = header(trace::PARENT).and_then(TraceParent::parse);
    let spans = state.traces.begin_ingest(events.iter().map(|event| &**event), caller, started);
    let deliveries = decide_deliveries(matched, now).await?;
    let new = events.into_iter().zip(dedups).zip(deliveries);
    let new = new.map(|((event, dedup), deliveries)| NewEvent { event, dedup, deliveries }).collect();
    Ok(state.committer.commit(new, now, memory, announced, spans).await?)
}

/// Imports the hop count from the request's header, which is present if a hook delivered the event to this port. Uses
/// the higher of the header's and the event's count, because a template that builds a new event starts at 0.
fn import_hops(draft: &mut EventDraft, headers: &HeaderMap) -> Result<(), InvalidEvent> {
    let Some(text) = headers.get("x-hookstream-hops").and_then(|v| v.to_str().ok()) else { return Ok(()) };
    let counted = hops_of(text);
    if counted >= MAX_HOPS {
        return Err(InvalidEvent::TooManyHops);
    }
    if counted > hops(&draft.attributes) {
        draft.attributes.insert(HOPS_ATTRIBUTE.to_owned(), json!(counted));
    }
    Ok(())
}
