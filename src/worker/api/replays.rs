//! Bulk replays of deliveries.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, Uri};
use uuid::Uuid;

use super::dry_run;
use super::query;
use super::responses::{ReplayListResponse, ReplayResponse};
use super::scope::ListScope;
use super::state::{ApiState, IdPath, RESOURCE, read_small_body, store_problem};
use crate::cluster::Permission;
use crate::core::time::Millis;
use crate::worker::problem::HttpProblem;
use crate::worker::request::ValidPath;

pub async fn start(
    State(api): State<Arc<ApiState>>,
    ValidPath(namespace): ValidPath<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, HttpProblem> {
    api.authorize(&headers, replay_access(&namespace)).await?;
    let is_dry_run = query::parse_dry_run(uri.query())?;
    let body = read_small_body(&api, &namespace, &headers, body).await?;
    let now = Millis::now();
    let (filter, rate) = query::parse_replay(&namespace, &body, now)?;
    if is_dry_run {
        let read = |before, limit| {
            let counted = api.store.count_finished(filter.clone(), before, limit);
            async move { counted.await.map(|counted| (counted.count, counted.next)) }
        };
        return Ok(Json(dry_run::count(read).await?).into_response());
    }
    let replay = api.store.start_replay(filter, rate, now).await.map_err(|error| store_problem(&error))?;
    Ok((StatusCode::ACCEPTED, Json(ReplayResponse::from(replay))).into_response())
}

/// Lists the bulk replays of one namespace, or of all with the permission in all of them.
pub async fn list(
    State(api): State<Arc<ApiState>>,
    ListScope(namespace): ListScope,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<ReplayListResponse>, HttpProblem> {
    api.authorize_list(&headers, replay_access(&namespace)).await?;
    query::reject_parameters(uri.query())?;
    let replays = api.store.replays(&namespace).await.map_err(|error| store_problem(&error))?;
    Ok(Json(ReplayListResponse { items: replays.into_iter().map(Into::into).collect() }))
}

/// Cancels a bulk replay. 409 if it is done.
pub async fn cancel(
    State(api): State<Arc<ApiState>>,
    ValidPath(IdPath { namespace, id }): ValidPath<IdPath>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<ReplayResponse>, HttpProblem> {
    api.authorize(&headers, replay_access(&namespace)).await?;
    query::reject_parameters(uri.query())?;
    let found = api.store.cancel_replay(&namespace, id, Millis::now()).await;
    let replay = found.map_err(|error| store_problem(&error))?.ok_or_else(|| unknown_replay(id))?;
    if !replay.cancelled {
        return Err(HttpProblem::new(
            409,
            "Finished",
            format!("replay {id} has ended and cannot be cancelled"),
        ));
    }
    Ok(Json(replay.into()))
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
    Ok(Json(found.ok_or_else(|| unknown_replay(id))?.into()))
}

fn unknown_replay(id: Uuid) -> HttpProblem {
    let detail = format!("there is no replay {id} in this namespace, or it finished more than a day ago");
    HttpProblem::new(404, "NotFound", detail)
}

fn replay_access(namespace: &str) -> Permission<'_> {
    Permission::new(namespace, "create", RESOURCE).with_subresource("replay")
}
