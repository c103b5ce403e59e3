//! Deliveries: listed, shown, replayed and cancelled one by one.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, Uri};
use uuid::Uuid;

use super::shapes::{Delivery, Page, Standing};
use super::{Api, ById, RESOURCE, no_delivery, query, store_problem};
use crate::cluster::Access;
use crate::core::time::Millis;
use crate::worker::problem::Problem;
use crate::worker::request::InPath;
use crate::worker::store::{self, Record};

pub async fn list(
    State(api): State<Arc<Api>>,
    InPath(namespace): InPath<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<Page>, Problem> {
    api.may(&headers, Access::new(&namespace, "list", RESOURCE)).await?;
    let page = query::list(&namespace, uri.query(), Millis::now())?;
    // One more than is shown: it tells whether there is a next page.
    let mut records = api
        .store
        .list(page.filter, page.before, page.limit + 1)
        .await
        .map_err(|error| store_problem(&error))?;
    let more = records.len() > page.limit;
    records.truncate(page.limit);
    let next = records.last().filter(|_| more).map(|last| query::token(last.seq));
    Ok(Json(Page { items: records.into_iter().map(Delivery::from).collect(), next }))
}

pub async fn show(
    State(api): State<Arc<Api>>,
    InPath(ById { namespace, id }): InPath<ById>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<Delivery>, Problem> {
    let access = Access::new(&namespace, "get", RESOURCE);
    api.may(&headers, access).await?;
    let payload = query::payload(uri.query())?;
    if payload {
        api.may(&headers, access.part("payload")).await?;
    }
    let mut delivery = Delivery::from(api.record(&namespace, id).await?);
    if payload {
        let event = api.store.event_of(&namespace, id).await.map_err(|error| store_problem(&error))?;
        delivery.data = Some(event.ok_or_else(|| no_delivery(id))?.data.clone());
    }
    Ok(Json(delivery))
}

pub async fn replay(
    State(api): State<Arc<Api>>,
    InPath(ById { namespace, id }): InPath<ById>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    api.may(&headers, Access::new(&namespace, "create", RESOURCE).part("replay")).await?;
    query::none(uri.query())?;
    let replayed = api.told(id, Told::Replay, &namespace).await?;
    Ok((StatusCode::ACCEPTED, Json(replayed)).into_response())
}

pub async fn cancel(
    State(api): State<Arc<Api>>,
    InPath(ById { namespace, id }): InPath<ById>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<Standing>, Problem> {
    api.may(&headers, Access::new(&namespace, "create", RESOURCE).part("cancel")).await?;
    query::none(uri.query())?;
    let cancelled = api.told(id, Told::Cancel, &namespace).await?;
    if cancelled.state != store::State::Cancelled {
        let state: &str = cancelled.state.into();
        let detail = format!("the delivery is {state} and stays so: only one that waits can be cancelled");
        return Err(Problem::new(409, "Finished", detail));
    }
    Ok(Json(cancelled))
}

/// What is done to a delivery.
#[derive(Clone, Copy)]
enum Told {
    Replay,
    Cancel,
}

impl Api {
    async fn record(&self, namespace: &str, id: Uuid) -> Result<Record, Problem> {
        let found = self.store.delivery(namespace, id).await.map_err(|error| store_problem(&error))?;
        found.ok_or_else(|| no_delivery(id))
    }

    /// Does it and tells the dispatcher; where the delivery stands then.
    async fn told(&self, id: Uuid, what: Told, namespace: &str) -> Result<Standing, Problem> {
        let (store, dispatch, owned) = (self.store.clone(), self.dispatch.clone(), namespace.to_owned());
        // A task of its own: a caller who goes away ends the request, and what was replayed would wait until the
        // dispatcher next looks.
        let done = tokio::spawn(async move {
            let now = Millis::now();
            let hook = match what {
                Told::Replay => store.replay(&owned, id, now).await?,
                Told::Cancel => store.cancel(&owned, id, now).await?,
            };
            let Some(hook) = hook else { return Ok(None) };
            let record = store.delivery(&owned, id).await?;
            if let Some(record) = &record {
                dispatch.changed(hook, record.seq).await;
            }
            Ok(record.map(|record| Standing { id, state: record.state }))
        });
        let done = done.await.unwrap_or(Err(store::StoreError::Closed));
        done.map_err(|error| store_problem(&error))?.ok_or_else(|| no_delivery(id))
    }
}
