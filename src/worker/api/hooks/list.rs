//! `GET .../hooks`: the hooks with the state of their deliveries.
//!
//! A list reads no store: it takes the hooks of its page from the table of hooks (`table`), their texts from the objects in memory,
//! and their backlogs from a measurement that responses share.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::{HeaderMap, Uri};
use schemars::JsonSchema;
use serde::Serialize;
use strum::IntoEnumIterator;

use super::facts::HookFacts;
use super::query::{HookQuery, parse_hooks};
use super::shown_state::ShownState;
use crate::cluster::Permission;
use crate::worker::api::listing;
use crate::worker::api::measure::StoreMeasurement;
use crate::worker::api::scope::ListScope;
use crate::worker::api::state::{ApiState, RESOURCE};
use crate::worker::problem::HttpProblem;

/// A page of hooks.
#[derive(Serialize, JsonSchema)]
pub struct HookListResponse {
    /// The hooks of the page. It may have fewer than `limit`, or none, although there is a next page: hooks that stopped
    /// matching the query within the last second are left out.
    items: Vec<HookSummaryResponse>,
    /// The token of the next page; null on the last page.
    #[serde(rename = "continue")]
    next: Option<String>,
    /// The number of hooks in each state, of all that `source`, `event` and `name` select.
    counts: BTreeMap<&'static str, usize>,
}

/// A hook and the state of its deliveries.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HookSummaryResponse {
    pub namespace: String,
    pub name: String,
    /// The kind of its handler: `Webhook`, `WebhookCustom`, `Log` or `Lambda`. Null if its spec cannot be read.
    pub handler: Option<&'static str>,
    /// Null if its spec cannot be read.
    pub source: Option<String>,
    /// Null: every event of the source.
    pub event: Option<String>,
    /// The receiver's host. Null without a receiver, or if its URL comes from a Secret.
    pub host: Option<String>,
    pub state: ShownState,
    pub reason: String,
    pub message: String,
    /// Since when. Null if unknown.
    pub since: Option<String>,
    /// Pending deliveries. Null if unknown: more than 1,000 hooks have a backlog, or the store does not answer.
    pub pending: Option<u64>,
    /// When the oldest pending delivery was accepted.
    pub oldest_time: Option<String>,
    pub last_success_time: Option<String>,
    /// The 95th percentile of the duration of the attempts of this worker since its start, in milliseconds. Null without an
    /// attempt.
    pub p95_ms: Option<f64>,
}

/// Lists the hooks of one namespace, or of all with the permission in all of them.
pub async fn list(
    State(api): State<Arc<ApiState>>,
    ListScope(scope): ListScope,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<HookListResponse>, HttpProblem> {
    api.authorize_list(&headers, Permission::new(&scope, "list", RESOURCE)).await?;
    let query = parse_hooks(uri.query())?;
    let measured = api.status.measure_for_list().await;
    let listed = scope.clone();
    listing::build(&listed, move || build_list(&api, measured.as_ref(), &scope, &query)).await.map(Json)
}

fn build_list(
    api: &ApiState,
    measured: Option<&Arc<StoreMeasurement>>,
    scope: &str,
    query: &HookQuery,
) -> HookListResponse {
    // The backlogs of the items are those by which the table sorted them.
    let (page, measured) = api
        .hook_table
        .read_with_backlogs(measured, |table| (table.page(scope, query), table.measurement().cloned()));
    let facts = HookFacts::new(api);
    // Leaves out hooks that were deleted or do not match the query any more, because the table may be a second old.
    let guards = page.hooks.iter().filter_map(|(namespace, name)| api.view.hook(namespace, name));
    let items = guards.map(|guard| facts.summary(&guard, measured.as_deref()));
    HookListResponse {
        // Their names cannot have changed.
        items: items
            .filter(|hook| {
                query.selects_state(hook.state)
                    && query.selects_event(hook.source.as_deref(), hook.event.as_deref())
            })
            .collect(),
        next: page.next.map(|next| next.token(query.order.into())),
        counts: ShownState::iter().map(|state| (state.into(), page.counts.in_state(state))).collect(),
    }
}
