//! Deliveries: lists them, and shows, replays or cancels one.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, Uri};
use uuid::Uuid;

use super::hold::HoldFinder;
use super::page::read_page;
use super::query;
use super::responses::{DeliveryListResponse, DeliveryResponse, DeliveryStateResponse};
use super::scope::ListScope;
use super::state::{ApiState, IdPath, RESOURCE, delivery_not_found, store_problem};
use crate::cluster::Permission;
use crate::core::time::Millis;
use crate::worker::problem::HttpProblem;
use crate::worker::request::ValidPath;
use crate::worker::store::{self, DeliveryRecord};

/// Lists deliveries of one namespace, or of all with the permission in all of them.
pub async fn list(
    State(api): State<Arc<ApiState>>,
    ListScope(namespace): ListScope,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<DeliveryListResponse>, HttpProblem> {
    api.authorize_list(&headers, Permission::new(&namespace, "list", RESOURCE)).await?;
    let now = Millis::now();
    let query = query::parse_list(&namespace, uri.query(), now)?;
    let page = read_page(&*api.store, query).await.map_err(|error| store_problem(&error))?;
    let next = page.next.map(query::page_token);
    let mut holds = HoldFinder::new(&api, now);
    let response = |record| {
        let held = holds.find(&record);
        DeliveryResponse::from(record).with_hold(held)
    };
    let items = page.records.into_iter().map(response).collect();
    Ok(Json(DeliveryListResponse { items, next }))
}

pub async fn show(
    State(api): State<Arc<ApiState>>,
    ValidPath(IdPath { namespace, id }): ValidPath<IdPath>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<DeliveryResponse>, HttpProblem> {
    let access = Permission::new(&namespace, "get", RESOURCE);
    api.authorize(&headers, access).await?;
    let with_payload = query::parse_payload(uri.query())?;
    if with_payload {
        api.authorize(&headers, access.with_subresource("payload")).await?;
    }
    let record = api.store.delivery(&namespace, id).await.map_err(|error| store_problem(&error))?;
    let record: DeliveryRecord = record.ok_or_else(|| delivery_not_found(id))?;
    let held = HoldFinder::new(&api, Millis::now()).find(&record);
    let mut delivery = DeliveryResponse::from(record).with_hold(held);
    if with_payload {
        let event = api.store.event_of(&namespace, id).await.map_err(|error| store_problem(&error))?;
        let event = event.ok_or_else(|| delivery_not_found(id))?;
        delivery.data = Some(event.data.view().to_owned());
        delivery.subject = event.subject().map(ToOwned::to_owned);
        let exchange = api.store.exchange(&namespace, id).await.map_err(|error| store_problem(&error))?;
        delivery.last_exchange = Some(exchange);
    }
    Ok(Json(delivery))
}

pub async fn replay(
    State(api): State<Arc<ApiState>>,
    ValidPath(IdPath { namespace, id }): ValidPath<IdPath>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, HttpProblem> {
    api.authorize(&headers, Permission::new(&namespace, "create", RESOURCE).with_subresource("replay"))
        .await?;
    query::reject_parameters(uri.query())?;
    let replayed = api.change(id, DeliveryChange::Replay, &namespace).await?;
    Ok((StatusCode::ACCEPTED, Json(replayed)).into_response())
}

pub async fn cancel(
    State(api): State<Arc<ApiState>>,
    ValidPath(IdPath { namespace, id }): ValidPath<IdPath>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<DeliveryStateResponse>, HttpProblem> {
    api.authorize(&headers, Permission::new(&namespace, "create", RESOURCE).with_subresource("cancel"))
        .await?;
    query::reject_parameters(uri.query())?;
    let cancelled = api.change(id, DeliveryChange::Cancel, &namespace).await?;
    if cancelled.state != store::DeliveryState::Cancelled {
        let state: &str = cancelled.state.into();
        let detail = format!("the delivery is {state}: only a pending delivery can be cancelled");
        return Err(HttpProblem::new(409, "Finished", detail));
    }
    Ok(Json(cancelled))
}

/// A change of a delivery.
#[derive(Clone, Copy)]
enum DeliveryChange {
    Replay,
    Cancel,
}

impl ApiState {
    /// Changes a delivery, notifies the dispatcher and returns the delivery's state after the change.
    async fn change(
        &self,
        id: Uuid,
        change: DeliveryChange,
        namespace: &str,
    ) -> Result<DeliveryStateResponse, HttpProblem> {
        let (store, dispatch, namespace) = (self.store.clone(), self.dispatch.clone(), namespace.to_owned());
        // In a separate task, because the request's future is dropped if the client disconnects. The dispatcher would
        // then not learn of a replayed delivery until its next read of the hook's backlog.
        let changed = tokio::spawn(async move {
            let now = Millis::now();
            let hook = match change {
                DeliveryChange::Replay => store.replay(&namespace, id, now).await?,
                DeliveryChange::Cancel => store.cancel(&namespace, id, now).await?,
            };
            let Some(hook) = hook else { return Ok(None) };
            let Some((seq, state)) = store.state_after_change(&namespace, id).await? else { return Ok(None) };
            dispatch.delivery_changed(hook, seq).await;
            Ok(Some(DeliveryStateResponse { id, state }))
        });
        let changed = changed.await.unwrap_or(Err(store::StoreError::Closed));
        changed.map_err(|error| store_problem(&error))?.ok_or_else(|| delivery_not_found(id))
    }
}
