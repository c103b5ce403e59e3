//! The API port: what became of events and deliveries, replaying and cancelling them, and Kong's read side.
//!
//! Invariants: who asks is judged before anything is read, each right by itself; payloads have a right of their own;
//! nothing secret is shown, for nothing secret is in the history; an answer is bounded, whatever the store holds.
//!
//! Left to others: what is kept (`store`), who is sent when (`dispatch`), who may (`cluster`).

mod deliveries;
mod explain;
mod kong;
mod query;
mod replays;
mod shapes;
mod why;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use http::HeaderMap;
use serde::Deserialize;
use uuid::Uuid;

use super::dispatch::Handle;
use super::handlers::Sender;
use super::namespaces::Namespaces;
use super::problem::Problem;
use super::request::{Names, Room, is_name, token};
use super::route::Routes;
use super::store::{Store, StoreError};
use crate::cluster::{Access, Cluster, View};
use crate::core::time::Millis;
use crate::metrics::Metrics;

/// Replays of many go on this often: a rate is kept by the second.
const STEP: Duration = Duration::from_secs(1);
/// The resource of all rights here. It exists as a right only.
const RESOURCE: &str = "deliveries";
/// The longest id of an event.
const MAX_EVENT_ID: usize = 512;

/// What the routes need.
pub struct Api {
    pub cluster: Arc<dyn Cluster>,
    pub view: View,
    pub store: Arc<dyn Store>,
    pub routes: Arc<Routes>,
    pub dispatch: Handle,
    pub metrics: Arc<Metrics>,
    pub namespaces: Arc<Namespaces>,
    pub sender: Arc<Sender>,
    pub max_event_bytes: usize,
    pub room: Room,
}

/// The routes of the API port.
pub fn router(api: Api) -> Router {
    let v1 = |path: &str| format!("/v1/namespaces/{{namespace}}/{path}");
    Router::new()
        .route(&v1("deliveries"), get(deliveries::list))
        .route(&v1("deliveries/replay"), post(replays::start))
        .route(&v1("deliveries/{id}"), get(deliveries::show))
        .route(&v1("deliveries/{id}/replay"), post(deliveries::replay))
        .route(&v1("deliveries/{id}/cancel"), post(deliveries::cancel))
        .route(&v1("replays/{id}"), get(replays::progress))
        .route(&v1("events/{event}/explain"), get(explain::explain))
        .merge(kong::routes())
        .fallback(|| async {
            Problem::new(404, "NotFound", "no such address: GET /v1/namespaces/{namespace}/deliveries")
        })
        .method_not_allowed_fallback(|| async {
            Problem::new(405, "MethodNotAllowed", "use GET to read, POST to replay and to cancel")
        })
        .layer(from_fn_with_state(api.metrics.clone(), counted))
        .with_state(Arc::new(api))
}

async fn counted(
    State(metrics): State<Arc<Metrics>>,
    route: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let method = request.method().clone();
    let response = next.run(request).await;
    let route = route.as_ref().map(MatchedPath::as_str);
    metrics.api_request(route, method.as_str(), response.status().as_u16());
    response
}

impl Api {
    /// Judges who asks.
    async fn may(&self, headers: &HeaderMap, access: Access<'_>) -> Result<(), Problem> {
        self.cluster.authorize(token(headers), access).await?;
        self.namespaces.shown(access.namespace).await;
        Ok(())
    }
}

/// Goes on with the replays of many, also those that were begun before a restart. Never ends.
pub async fn step_replays(store: &dyn Store, dispatch: &Handle) {
    let mut failing = false;
    loop {
        tokio::time::sleep(STEP).await;
        match store.step_replays(Millis::now()).await {
            Ok(hooks) => {
                failing = false;
                for hook in hooks {
                    dispatch.raised(hook).await;
                }
            }
            // Said once: a disk that is full for an hour must not fill the log too.
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(%error, "replays cannot go on");
            }
            Err(_) => {}
        }
    }
}

/// A delivery, or a replay of many, in a request's path.
#[derive(Deserialize)]
struct ById {
    namespace: String,
    id: Uuid,
}

impl Names for ById {
    fn possible(&self) -> bool {
        is_name(&self.namespace, 63)
    }
}

/// An event in a request's path. Its id is its sender's, and may be any text.
#[derive(Deserialize)]
struct ByEvent {
    namespace: String,
    event: String,
}

impl Names for ByEvent {
    fn possible(&self) -> bool {
        is_name(&self.namespace, 63) && (1..=MAX_EVENT_ID).contains(&self.event.len())
    }
}

/// The store could not do it. Other words than the ingest port's: nobody sent anything.
fn store_problem(error: &StoreError) -> Problem {
    match error {
        StoreError::Refused(_) => Problem::new(500, error.into(), error.to_string()),
        _ => Problem::new(503, error.into(), format!("{error}: try again later")),
    }
}

fn no_delivery(id: Uuid) -> Problem {
    let detail = format!("there is no delivery {id} in this namespace, or its time in the history is over");
    Problem::new(404, "NotFound", detail)
}
