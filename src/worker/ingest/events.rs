//! `POST /v1/namespaces/{ns}/events`: events of API callers.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use serde_json::json;
use uuid::Uuid;

use super::{Ingest, hash};
use crate::cluster::Access;
use crate::core::event::{BadEvent, Draft, Event, HOPS_ATTRIBUTE, MAX_HOPS, Origin, parse_published};
use crate::core::gate::Asked;
use crate::core::time::Millis;
use crate::worker::problem::Problem;
use crate::worker::request::{BodyError, InPath, bearer, content_length, read};
use crate::worker::store::{Accepted, Dedup, NewDelivery, NewEvent};

pub async fn publish(
    State(ingest): State<Arc<Ingest>>,
    InPath(namespace): InPath<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let result = accept(&ingest, namespace, &headers, body).await;
    let outcome = match &result {
        Ok(accepted) if accepted.duplicate => "Duplicate",
        Ok(_) => "Accepted",
        Err(problem) => problem.reason,
    };
    ingest.metrics.ingested("events", outcome);
    match result {
        Ok(accepted) => {
            let answer = json!({"id": accepted.event_id, "deliveries": accepted.kept()});
            (StatusCode::ACCEPTED, Json(answer)).into_response()
        }
        Err(problem) => problem.into_response(),
    }
}

async fn accept(
    ingest: &Ingest,
    namespace: String,
    headers: &HeaderMap,
    body: Body,
) -> Result<Accepted, Problem> {
    // Who it is comes before what it sends: a stranger's body is not even read.
    let access = Access::new(&namespace, "create", "events");
    ingest.cluster.authorize(bearer(headers), access).await?;
    let max = ingest.limits.max_event_bytes;
    let body = read(body, content_length(headers), max).await.map_err(|error| match error {
        BodyError::TooBig => Problem::too_big(max),
        BodyError::Broken => Problem::broken(),
    })?;
    let content_type = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let mut draft = parse_published(content_type, &body)?;
    take_over_hops(&mut draft, headers)?;

    let now = Millis::now();
    let dedup = draft.id.as_ref().map(|id| Dedup {
        key: hash(&[b"api", namespace.as_bytes(), draft.source.as_bytes(), id.as_bytes()]),
        window: ingest.limits.dedup_window,
    });
    let event = event(draft, namespace, Origin::Api, now);
    let hooks = ingest.routes.matching(&event.namespace, &event.source, &event.event);
    let deliveries = hooks
        .into_iter()
        .map(|hook| NewDelivery { hook, id: Uuid::now_v7(), due: now, asked: Asked::default(), dead: None })
        .collect();
    let new = NewEvent { event: Arc::new(event), dedup, deliveries };
    Ok(ingest.accept(new, now).await?)
}

/// The event that a draft becomes.
pub fn event(draft: Draft, namespace: String, origin: Origin, now: Millis) -> Event {
    Event {
        id: draft.id.unwrap_or_else(|| Uuid::now_v7().to_string()),
        namespace,
        origin,
        source: draft.source,
        event: draft.event,
        time: draft.time.unwrap_or_else(|| now.rfc3339()),
        data: draft.data,
        attributes: draft.attributes,
    }
}

/// A delivery of ours that comes in again says by a header how many hooks it has been through.
fn take_over_hops(draft: &mut Draft, headers: &HeaderMap) -> Result<(), BadEvent> {
    let hops =
        headers.get("x-hookstream-hops").and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u32>().ok());
    let Some(hops) = hops else { return Ok(()) };
    if hops >= MAX_HOPS {
        return Err(BadEvent::TooManyHops);
    }
    draft.attributes.entry(HOPS_ATTRIBUTE.to_owned()).or_insert_with(|| json!(hops));
    Ok(())
}
