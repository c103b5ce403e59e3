//! The ingest port: events of API clients, relays of Kong, event streams of Auth0.
//!
//! Invariants: a 202 response follows the commit. If the worker cannot accept an event yet, its response makes the
//! sender retry: a 503 for API clients and Auth0, a closed connection for Kong, which ignores statuses. Bodies have
//! limits on size, time and memory.
//!
//! Out of scope: parsing of events (`core::event`), authentication of relays (`core::relay`) and streams
//! (`core::stream_auth`), authorization of clients (`cluster`).

mod commit;
mod disk;
mod events;
mod handshake;
mod relays;
mod streams;
mod unknown;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::post;
use serde::Serialize;

use super::body::BodyError;
use super::decide::{create_deliveries, has_filters};
use super::hooks::HookState;
use super::index::HookIndex;
use super::local_access::{LocalAccess, protect};
use super::namespaces::Namespaces;
use super::problem::HttpProblem;
use super::store::{AcceptedEvent, NewDelivery, StoreError};
use crate::cluster::{Cluster, View};
use crate::core::event::{Event, EventDraft, Origin};
use crate::core::id;
use crate::core::time::Millis;
use crate::memory::{MemoryBudget, Reservation};
use crate::metrics::Metrics;
use crate::traces::Traces;
pub use commit::Committer;
pub use disk::{Disk, IngestClosure};
pub use handshake::{AllowedOrigin, HandshakeOrigins};
pub use unknown::UnknownNames;

/// Bounds and windows of the ingest port.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The largest event in bytes.
    pub max_event_bytes: usize,
    /// The largest batch in bytes.
    pub max_request_bytes: usize,
    /// How long a repeated event id is a duplicate.
    pub dedup_window: Duration,
    /// How long a repeated relay body is a duplicate; zero: never.
    pub relay_dedup_window: Duration,
}

/// The state of the routes.
pub struct IngestState {
    pub cluster: Arc<dyn Cluster>,
    pub view: View,
    pub index: Arc<HookIndex>,
    pub committer: Committer,
    pub metrics: Arc<Metrics>,
    pub traces: Traces,
    pub limits: Limits,
    /// The senders that the handshake of webhooks admits.
    pub handshake: HandshakeOrigins,
    pub unknown_hooks: UnknownNames,
    pub unknown_streams: UnknownNames,
    pub disk: Arc<Disk>,
    pub namespaces: Arc<Namespaces>,
    pub memory: MemoryBudget,
}

/// Builds the router of the ingest port. `access` restricts clients without a token. Relays and streams authenticate their
/// senders by a signature and a token of their own, and reach the port under any name.
pub fn router(state: IngestState, access: Option<&Arc<LocalAccess>>) -> Router {
    let state = Arc::new(state);
    let metrics = state.metrics.clone();
    let open = Router::new()
        .route("/v1/namespaces/{namespace}/events", post(events::publish).options(handshake::handshake))
        .fallback(|| async {
            HttpProblem::new(
                404,
                "NotFound",
                "no such path: publish events with POST /v1/namespaces/{namespace}/events",
            )
        })
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(state.clone());
    let signed = Router::new()
        .route("/v1/namespaces/{namespace}/relays/{eventhook}", post(relays::relay))
        .route("/v1/namespaces/{namespace}/streams/{eventstream}", post(streams::receive))
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(state);
    let rejected = move |reason| metrics.record_ingest("events", reason, Duration::ZERO);
    // Each route limits its body itself, so that the error response is a problem body.
    protect(open, access, rejected).merge(signed).layer(DefaultBodyLimit::disable())
}

async fn method_not_allowed() -> HttpProblem {
    HttpProblem::new(405, "MethodNotAllowed", "use POST")
}

/// The body of a 202 response.
#[derive(Serialize)]
struct PublishResponse<'a> {
    id: &'a str,
    deliveries: usize,
    /// The event was accepted before. Left out if not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
}

impl<'a> PublishResponse<'a> {
    fn of(accepted: &'a AcceptedEvent) -> Self {
        PublishResponse { id: &accepted.event_id, deliveries: accepted.kept(), duplicate: accepted.duplicate }
    }
}

/// Reserves what the data of parsed events needs beyond their body: text and base64 in JSON may be longer than the bytes.
/// Does not wait, because the data is in memory already.
fn reserve_views(memory: &mut Reservation, body: usize, drafts: &[EventDraft]) -> Result<(), BodyError> {
    let views: usize = drafts.iter().map(|draft| draft.data.get().len()).sum();
    match views.saturating_sub(body) as u64 {
        0 => Ok(()),
        more => memory.try_grow_to(memory.bytes().saturating_add(more)).map_err(|_| BodyError::Busy),
    }
}

/// Creates the event that a draft describes. Adds an id and a time if the draft has none.
fn complete_draft(draft: EventDraft, namespace: String, origin: Origin, now: Millis) -> Event {
    Event {
        id: draft.id.unwrap_or_else(|| id::generate(now).to_string()),
        namespace,
        origin,
        source: draft.source,
        event: draft.event,
        time: draft.time.unwrap_or_else(|| now.rfc3339()),
        data: draft.data,
        attributes: draft.attributes,
    }
}

/// Creates the deliveries of each event to its matching hooks. Runs on a blocking thread if filters are evaluated.
async fn decide_deliveries(
    events: Vec<(Arc<Event>, Vec<Arc<HookState>>)>,
    now: Millis,
) -> Result<Vec<Vec<NewDelivery>>, HttpProblem> {
    let evaluates_filters = events.iter().any(|(_, hooks)| has_filters(hooks));
    let decide =
        move || events.iter().map(|(event, hooks)| create_deliveries(hooks, event, now)).collect::<Vec<_>>();
    if !evaluates_filters {
        return Ok(decide());
    }
    // A panic in a filter fails this request only, and the sender retries it.
    tokio::task::spawn_blocking(decide).await.map_err(|_| StoreError::Closed.into())
}
