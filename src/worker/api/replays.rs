//! Bulk replays of deliveries.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, Uri};

use super::query;
use super::responses::ReplayResponse;
use super::state::{ApiState, IdPath, RESOURCE, store_problem};
use crate::cluster::Permission;
use crate::core::time::Millis;
use crate::worker::body::{BodySender, read_body};
use crate::worker::problem::HttpProblem;
use crate::worker::request::ValidPath;

/// The largest body in bytes. A body contains only a few names and times.
const MAX_BODY: usize = 16 * 1024;

pub async fn start(
    State(api): State<Arc<ApiState>>,
    ValidPath(namespace): ValidPath<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, HttpProblem> {
    api.authorize(&headers, replay_access(&namespace)).await?;
    query::reject_parameters(uri.query())?;
    let too_big = || HttpProblem::new(413, "TooBig", format!("the body has more than {MAX_BODY} bytes"));
    let owner = namespace.as_str().into();
    let sender = BodySender::Authorized { memory: api.memory.requests(), namespace: &owner };
    let body = read_body(body, &headers, MAX_BODY, sender).await;
    let body = body.map_err(|error| HttpProblem::unreadable_body(&error, too_big))?.bytes;
    let now = Millis::now();
    let (filter, rate) = query::parse_replay(&namespace, &body, now)?;
    let replay = api.store.start_replay(filter, rate, now).await.map_err(|error| store_problem(&error))?;
    Ok((StatusCode::ACCEPTED, Json(ReplayResponse::from(replay))).into_response())
}

/// Shows the progress of a bulk replay. The permission to start one suffices, because the response contains no
/// deliveries.
pub async fn progress(
    State(api): State<Arc<ApiState>>,
    ValidPath(IdPath { namespace, id }): ValidPath<IdPath>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<ReplayResponse>, HttpProblem> {
    api.authorize(&headers, replay_access(&namespace)).await?;
    query::reject_parameters(uri.query())?;
    let found = api.store.replay_progress(&namespace, id).await.map_err(|error| store_problem(&error))?;
    let replay = found.ok_or_else(|| {
        let detail = format!("there is no replay {id} in this namespace, or it finished more than a day ago");
        HttpProblem::new(404, "NotFound", detail)
    })?;
    Ok(Json(replay.into()))
}

fn replay_access(namespace: &str) -> Permission<'_> {
    Permission::new(namespace, "create", RESOURCE).with_subresource("replay")
}
