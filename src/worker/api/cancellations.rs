//! Cancels many pending deliveries. Each request cancels a bounded number, and the client repeats it until the response says that
//! none are left: so a cancellation in bulk needs no job, ends with its client, and takes turns with other namespaces.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Uri};

use super::dry_run;
use super::query::{self, CancelQuery};
use super::responses::CancellationResponse;
use super::state::{ApiState, RESOURCE, read_small_body, store_problem};
use crate::cluster::Permission;
use crate::core::time::Millis;
use crate::worker::problem::HttpProblem;
use crate::worker::request::ValidPath;
use crate::worker::store::{DeliveryFilter, DeliverySeq, StoreError};

/// The most deliveries that one request cancels, in one operation of the store.
const BATCH: usize = 500;

pub async fn cancel(
    State(api): State<Arc<ApiState>>,
    ValidPath(namespace): ValidPath<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, HttpProblem> {
    api.authorize(&headers, Permission::new(&namespace, "create", RESOURCE).with_subresource("cancel"))
        .await?;
    let is_dry_run = query::parse_dry_run(uri.query())?;
    let body = read_small_body(&api, &namespace, &headers, body).await?;
    let CancelQuery { filter, before } = query::parse_cancel(&namespace, &body, Millis::now())?;
    if is_dry_run {
        let read = |before, limit: usize| {
            let page = api.store.list(filter.clone(), before, limit.min(BATCH));
            async move { page.await.map(|page| (page.records.len(), page.next)) }
        };
        return Ok(Json(dry_run::count(read).await?).into_response());
    }
    // In a separate task, because the request's future is dropped if the client disconnects, and the dispatcher must learn
    // of every cancelled delivery.
    let cancelled = tokio::spawn(async move { cancel_batch(&api, filter, before).await });
    let (cancelled, next) =
        cancelled.await.unwrap_or(Err(StoreError::Closed)).map_err(|e| store_problem(&e))?;
    Ok(Json(CancellationResponse { cancelled, next: next.map(query::page_token) }).into_response())
}

/// Cancels the newest matching deliveries. Returns their number, and where the next batch begins.
async fn cancel_batch(
    api: &ApiState,
    filter: DeliveryFilter,
    before: Option<DeliverySeq>,
) -> Result<(usize, Option<DeliverySeq>), StoreError> {
    let namespace = filter.namespace.clone();
    let page = api.store.list(filter, before, BATCH).await?;
    if page.records.is_empty() {
        return Ok((0, page.next));
    }
    let ids = page.records.iter().map(|record| record.id).collect();
    let cancelled = api.store.cancel_many(&namespace, ids, Millis::now()).await?;
    let count = cancelled.len();
    for (hook, seq) in cancelled {
        api.dispatch.delivery_changed(hook, seq).await;
    }
    Ok((count, page.next))
}
