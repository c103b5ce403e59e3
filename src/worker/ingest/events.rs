//! `POST /v1/namespaces/{ns}/events`: events of API callers.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::json;

use super::{Ingest, Told, decided, hash};
use crate::cluster::Access;
use crate::core::event::{
    BadEvent, Draft, Event, HOPS_ATTRIBUTE, MAX_HOPS, Origin, Published, hops, hops_of, is_batch,
    parse_request,
};
use crate::core::id;
use crate::core::time::Millis;
use crate::core::trace;
use crate::worker::problem::Problem;
use crate::worker::request::{InPath, content_length, read, token};
use crate::worker::store::{Accepted, Dedup, NewEvent, StoreError};

/// What is answered.
enum Answer {
    One(Accepted),
    /// One commit: all of them or none.
    Batch(Vec<Accepted>),
}

pub async fn publish(
    State(ingest): State<Arc<Ingest>>,
    InPath(namespace): InPath<String>,
    request: Request,
) -> Response {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let (known, response) = match accept(&ingest, namespace, &parts.headers, body).await {
        Ok(Answer::One(accepted)) => (accepted.duplicate, Json(Told::of(&accepted)).into_response()),
        Ok(Answer::Batch(all)) => {
            let known = !all.is_empty() && all.iter().all(|accepted| accepted.duplicate);
            (known, Json(all.iter().map(Told::of).collect::<Vec<_>>()).into_response())
        }
        Err(problem) => {
            ingest.metrics.ingested("events", problem.reason, started.elapsed());
            return problem.into_response();
        }
    };
    ingest.metrics.ingested("events", if known { "Duplicate" } else { "Accepted" }, started.elapsed());
    (StatusCode::ACCEPTED, response).into_response()
}

/// The handshake of the CloudEvents webhook specification: a sender asks whether it may send. Whether it may is decided
/// when it sends, by its token, so anybody may ask.
pub async fn handshake(headers: HeaderMap) -> Response {
    let mut response = StatusCode::OK.into_response();
    let out = response.headers_mut();
    out.insert(ALLOW, HeaderValue::from_static("POST"));
    if let Some(origin) = headers.get("webhook-request-origin") {
        out.insert("webhook-allowed-origin", origin.clone());
        out.insert("webhook-allowed-rate", HeaderValue::from_static("*"));
    }
    response
}

async fn accept(
    ingest: &Ingest,
    namespace: String,
    headers: &HeaderMap,
    body: Body,
) -> Result<Answer, Problem> {
    // Who it is comes before what it sends: a stranger's body is not even read.
    let access = Access::new(&namespace, "create", "events");
    ingest.cluster.authorize(token(headers), access).await?;
    // Else the next namespace of this name would find it in its history.
    if !ingest.namespaces.stored(&namespace).await {
        return Err(Problem::new(404, "NotFound", "there is no namespace of this name"));
    }
    if ingest.disk.is_full() {
        return Err(Problem::disk_limit());
    }
    let content_type = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let limits = &ingest.limits;
    let (max, too_big): (usize, fn(usize) -> Problem) = if is_batch(content_type) {
        (limits.max_request_bytes, Problem::request_too_big)
    } else {
        (limits.max_event_bytes, Problem::too_big)
    };
    let body = read(body, content_length(headers), max, &ingest.room).await;
    let body = body.map_err(|error| Problem::unread(&error, || too_big(max)))?;
    let fields = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let now = Millis::now();
    match parse_request(content_type, fields, &body, limits.max_event_bytes)? {
        Published::One(draft) => {
            let all = store(ingest, vec![draft], namespace, headers, now).await?;
            Ok(Answer::One(all.into_iter().next().ok_or(StoreError::Closed)?))
        }
        Published::Batch(drafts) => Ok(Answer::Batch(store(ingest, drafts, namespace, headers, now).await?)),
    }
}

/// Stores drafts, all or none.
async fn store(
    ingest: &Ingest,
    drafts: Vec<Draft>,
    namespace: String,
    headers: &HeaderMap,
    now: Millis,
) -> Result<Vec<Accepted>, Problem> {
    if drafts.is_empty() {
        return Ok(Vec::new());
    }
    let mut dedups = Vec::with_capacity(drafts.len());
    let mut events = Vec::with_capacity(drafts.len());
    for mut draft in drafts {
        take_over_hops(&mut draft, headers)?;
        trace::take_over(&mut draft.attributes, |name| headers.get(name).and_then(|v| v.to_str().ok()));
        dedups.push(draft.id.as_ref().map(|id| Dedup {
            key: hash(&[b"api", namespace.as_bytes(), draft.source.as_bytes(), id.as_bytes()]),
            window: ingest.limits.dedup_window,
        }));
        let event = Arc::new(event(draft, namespace.clone(), Origin::Api, now));
        let hooks = ingest.routes.matching(&event);
        events.push((event, hooks));
    }
    let only: Vec<Arc<Event>> = events.iter().map(|(event, _)| event.clone()).collect();
    let deliveries = decided(events, now).await?;
    let new = only.into_iter().zip(dedups).zip(deliveries);
    let new = new.map(|((event, dedup), deliveries)| NewEvent { event, dedup, deliveries }).collect();
    Ok(ingest.committer.accept(new, now).await?)
}

/// The event that a draft becomes.
pub fn event(draft: Draft, namespace: String, origin: Origin, now: Millis) -> Event {
    Event {
        id: draft.id.unwrap_or_else(|| id::fresh(now).to_string()),
        namespace,
        origin,
        source: draft.source,
        event: draft.event,
        time: draft.time.unwrap_or_else(|| now.rfc3339()),
        data: draft.data,
        attributes: draft.attributes,
    }
}

/// A delivery of ours that comes in again says by a header how many hooks it has been through. The higher count is true: a
/// template that writes an event anew begins to count anew.
fn take_over_hops(draft: &mut Draft, headers: &HeaderMap) -> Result<(), BadEvent> {
    let Some(text) = headers.get("x-hookstream-hops").and_then(|v| v.to_str().ok()) else { return Ok(()) };
    let counted = hops_of(text);
    if counted >= MAX_HOPS {
        return Err(BadEvent::TooManyHops);
    }
    if counted > hops(&draft.attributes) {
        draft.attributes.insert(HOPS_ATTRIBUTE.to_owned(), json!(counted));
    }
    Ok(())
}
