//! The API port: the history of events and deliveries, replaying and cancelling them, and Kong's read side.
//!
//! Invariants: each permission is checked separately, before anything is read; reading payloads needs its own
//! permission; responses contain no secrets, because the history contains none; the size of a response is bounded,
//! however much the store contains.
//!
//! Out of scope: the history (`store`), sending (`dispatch`), authorization (`cluster`).

mod cancellations;
mod catalogue;
mod deliveries;
mod dry_run;
mod event_query;
mod events;
mod explain;
mod hold;
mod hooks;
mod keyset;
mod kong;
mod leader;
mod listing;
mod measure;
mod objects;
mod openapi;
mod outcome_filter;
mod page;
mod query;
mod rates;
mod readiness;
mod replays;
mod responses;
mod rights;
mod route;
mod routes;
mod scope;
mod shared;
mod state;
mod status;
mod why;

use std::sync::Arc;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;

use super::local_access::{LocalAccess, protect};
use super::problem::HttpProblem;
use crate::metrics::Metrics;
pub use hooks::table::HookTableCache;
pub use measure::{AcceptsOlderCounts, StatusSources};
pub use routes::openapi_document;
pub use state::ApiState;

/// Builds the router of the API port. `access` restricts clients without a token.
pub fn router(state: ApiState, access: Option<&Arc<LocalAccess>>) -> Router {
    let metrics = state.metrics.clone();
    let all = routes::routes();
    let routes = all
        .into_iter()
        .fold(Router::new(), |router, route| router.route(route.path, route.handler))
        .fallback(|| async {
            HttpProblem::new(
                404,
                "NotFound",
                "no such path: list deliveries with GET /v1/namespaces/{namespace}/deliveries",
            )
        })
        .method_not_allowed_fallback(|| async {
            HttpProblem::new(405, "MethodNotAllowed", "use GET to read, POST to replay and to cancel")
        })
        .with_state(Arc::new(state));
    // Rejected requests are counted as all others.
    protect(routes, access, |_| {}).layer(from_fn_with_state(metrics, count_request))
}

async fn count_request(
    State(metrics): State<Arc<Metrics>>,
    route: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let method = request.method().clone();
    let response = next.run(request).await;
    let route = route.as_ref().map(MatchedPath::as_str);
    metrics.record_api_request(route, method.as_str(), response.status().as_u16());
    response
}
