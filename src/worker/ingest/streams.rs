//! `POST /v1/namespaces/{ns}/streams/{eventstream}`: what Auth0 sends of one event stream.
//!
//! Auth0 gives up at any 4xx and sends again after a 5xx: 4xx is only for what will never be right.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};

use super::events::event;
use super::{Ingest, Told, decided, hash};
use crate::api::EventStream;
use crate::cluster::{Key, secret_text};
use crate::core::event::{Origin, parse_streamed};
use crate::core::stream::{self, Destination};
use crate::core::stream_auth::{authenticate, credential, worker_credentials};
use crate::core::time::Millis;
use crate::worker::problem::Problem;
use crate::worker::request::{BodyError, InPath, content_length, read};
use crate::worker::store::{Accepted, Dedup, NewEvent, StoreError};

pub async fn receive(
    State(ingest): State<Arc<Ingest>>,
    InPath((namespace, name)): InPath<(String, String)>,
    request: Request,
) -> Response {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let (outcome, response) = match accept(&ingest, &Key::new(&namespace, &name), &parts.headers, body).await
    {
        Ok(accepted) => {
            let outcome = if accepted.duplicate { "Duplicate" } else { "Accepted" };
            (outcome, (StatusCode::ACCEPTED, Json(Told::of(&accepted))).into_response())
        }
        Err(problem) => (problem.reason, problem.into_response()),
    };
    ingest.metrics.ingested("streams", outcome, started.elapsed());
    response
}

/// Auth0 shall come again.
fn later(reason: &'static str, detail: &str) -> Problem {
    Problem::new(503, reason, format!("{detail}: send it again later"))
}

async fn accept(ingest: &Ingest, key: &Key, headers: &HeaderMap, body: Body) -> Result<Accepted, Problem> {
    let guarded = ingest.view.stream(&key.namespace, &key.name);
    let stream = match guarded.as_ref().map(|guarded| &guarded.0) {
        Some(Ok(stream)) => stream,
        Some(Err(_)) => return Err(later("Unreadable", "the EventStream cannot be read")),
        None if ingest.unknown_streams.certain(key, Instant::now()) => {
            return Err(Problem::new(404, "NotFound", "there is no EventStream of this name"));
        }
        None => return Err(later("Unknown", "the EventStream is not known yet")),
    };
    ingest.unknown_streams.known(key);
    let now = Millis::now();
    authorize(ingest, stream, headers, now).await?;
    ingest.namespaces.stored(&key.namespace).await;
    if ingest.disk.is_full() {
        return Err(Problem::disk_limit());
    }
    let max = ingest.limits.max_event_bytes;
    let body = read(body, content_length(headers), max, &ingest.room).await;
    let body = body.map_err(|error| match error {
        BodyError::Broken => later("BrokenBody", "the body broke off or took too long"),
        error => Problem::unread(&error, || Problem::too_big(max)),
    })?;
    let draft = parse_streamed(&body)?;
    let dedup = draft.id.as_ref().map(|id| Dedup {
        key: hash(&[
            b"stream",
            key.namespace.as_bytes(),
            key.name.as_bytes(),
            draft.source.as_bytes(),
            id.as_bytes(),
        ]),
        window: ingest.limits.dedup_window,
    });
    let event = Arc::new(event(draft, key.namespace.clone(), Origin::Stream(key.name.clone()), now));
    let hooks = ingest.routes.matching(&event);
    let deliveries = decided(vec![(event.clone(), hooks)], now).await?.into_iter().flatten().collect();
    let new = vec![NewEvent { event, dedup, deliveries }];
    let accepted = ingest.committer.accept(new, now).await.map_err(|error| {
        // Never 429, which Auth0 would take for the end.
        Problem { status: 503, ..Problem::from(error) }
    })?;
    accepted.into_iter().next().ok_or_else(|| StoreError::Closed.into())
}

/// Judges by what Auth0 was told to show: a token of ours, or the user's own secret where the stream's destination is a
/// webhook with this address.
async fn authorize(
    ingest: &Ingest,
    stream: &EventStream,
    headers: &HeaderMap,
    now: Millis,
) -> Result<(), Problem> {
    let ring = ingest.cluster.key_ring(false).await;
    let ring = ring.map_err(|_| later("KeyRing", "the authorization cannot be checked"))?;
    let mut credentials = worker_credentials(stream, &ring, now);
    if let Ok(Destination::Webhook { authorization, .. }) = stream::validate(stream).map(|s| s.destination) {
        let namespace = stream.metadata.namespace.as_deref().unwrap_or_default();
        let secret = secret_text(&*ingest.cluster, namespace, authorization.secret()).await;
        let secret =
            secret.map_err(|missing| later((&missing).into(), "the authorization cannot be checked"))?;
        credentials.push(credential(&authorization, secret));
    }
    let header = |name: &str| headers.get(name).map(http::HeaderValue::as_bytes);
    authenticate(&credentials, header)
        .map_err(|refused| Problem::new(401, refused.into(), refused.to_string()))
}
