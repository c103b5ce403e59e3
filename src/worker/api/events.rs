//! `GET .../events`: lists events, with those that no hook matched; and shows one.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::{HeaderMap, Uri};

use super::event_query::parse_events;
use super::query;
use super::responses::{EventListResponse, EventResponse};
use super::scope::ListScope;
use super::state::{ApiState, EventPath, RESOURCE, event_not_found, store_problem};
use crate::cluster::Permission;
use crate::core::time::Millis;
use crate::worker::problem::HttpProblem;
use crate::worker::request::ValidPath;
use crate::worker::store::{EventOutcome, EventRecord};

/// Lists events of one namespace, or of all with the permissions in all of them.
pub async fn list(
    State(api): State<Arc<ApiState>>,
    ListScope(namespace): ListScope,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<EventListResponse>, HttpProblem> {
    api.authorize_list(&headers, Permission::new(&namespace, "list", RESOURCE)).await?;
    let query = parse_events(&namespace, uri.query(), Millis::now())?;
    if query.with_data {
        let payload = Permission::new(&namespace, "get", RESOURCE).with_subresource("payload");
        api.authorize_list(&headers, payload).await?;
    }
    let (page, with_data) = (query.page, query.with_data);
    let found = api.store.events(query.filter, page.before, page.limit, with_data).await;
    let found = found.map_err(|error| store_problem(&error))?;
    let next = found.next.map(query::page_token);
    let items = found.records.into_iter().map(|record| EventResponse::of(record, with_data)).collect();
    Ok(Json(EventListResponse { items, next }))
}

/// Shows the newest event with an id.
pub async fn show(
    State(api): State<Arc<ApiState>>,
    ValidPath(EventPath { namespace, event }): ValidPath<EventPath>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<EventResponse>, HttpProblem> {
    let access = Permission::new(&namespace, "get", RESOURCE);
    api.authorize(&headers, access).await?;
    let with_data = query::parse_payload(uri.query())?;
    if with_data {
        api.authorize(&headers, access.with_subresource("payload")).await?;
    }
    let found = api.store.explain(&namespace, &event).await.map_err(|error| store_problem(&error))?;
    let found = found.ok_or_else(event_not_found)?;
    let deliveries: Vec<_> =
        found.deliveries.into_iter().map(|record| (record.hook.name, record.state)).collect();
    let record = EventRecord {
        event: found.event,
        accepted: found.accepted,
        outcome: EventOutcome::of(deliveries.iter().map(|(_, state)| *state)),
        deliveries,
        has_more: found.left_out > 0,
    };
    Ok(Json(EventResponse::of(record, with_data)))
}
