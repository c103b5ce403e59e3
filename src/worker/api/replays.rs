//! Replays of many deliveries.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, Uri};

use super::shapes::Progress;
use super::{Api, ById, RESOURCE, query, store_problem};
use crate::cluster::Access;
use crate::core::time::Millis;
use crate::worker::problem::Problem;
use crate::worker::request::{InPath, content_length, read};

/// A body holds a few names and times.
const MAX_BODY: usize = 16 * 1024;

pub async fn start(
    State(api): State<Arc<Api>>,
    InPath(namespace): InPath<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    api.may(&headers, access(&namespace)).await?;
    query::none(uri.query())?;
    let too_big = || Problem::new(413, "TooBig", format!("the body may have {MAX_BODY} bytes"));
    let body = read(body, content_length(&headers), MAX_BODY, &api.room).await;
    let body = body.map_err(|error| Problem::unread(&error, too_big))?;
    let now = Millis::now();
    let (filter, rate) = query::replay(&namespace, &body, now)?;
    let replay = api.store.start_replay(filter, rate, now).await.map_err(|error| store_problem(&error))?;
    Ok((StatusCode::ACCEPTED, Json(Progress::from(replay))).into_response())
}

/// How far a replay is. Who may begin one may see that: it tells a number, not what was replayed.
pub async fn progress(
    State(api): State<Arc<Api>>,
    InPath(ById { namespace, id }): InPath<ById>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<Progress>, Problem> {
    api.may(&headers, access(&namespace)).await?;
    query::none(uri.query())?;
    let found = api.store.replay_progress(&namespace, id).await.map_err(|error| store_problem(&error))?;
    let replay = found.ok_or_else(|| {
        let detail = format!("there is no replay {id} in this namespace, or it was done a day ago");
        Problem::new(404, "NotFound", detail)
    })?;
    Ok(Json(replay.into()))
}

fn access(namespace: &str) -> Access<'_> {
    Access::new(namespace, "create", RESOURCE).part("replay")
}
