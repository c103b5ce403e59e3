//! The state of the installation on one page: objects that are not Ready, hooks that do not deliver, backlog, dead letters,
//! disk and memory.
//!
//! The response has a bounded size.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use http::{HeaderMap, Uri};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use schemars::JsonSchema;
use serde::Serialize;
use strum::IntoEnumIterator;

use super::hooks::table::{Attention, AttentionList, is_requested, not_delivering, unready};
use super::leader::LeaderResponse;
use super::measure::{AcceptsOlderCounts, StoreMeasurement};
use super::readiness::{ObjectResponse, VendorObject, readiness, ready_of};
use super::routes::VersionSchema;
use super::scope::ListScope;
use super::state::{ApiState, RESOURCE, store_problem};
use super::{listing, query};
use crate::api::EventHook;
use crate::cluster::{DeserializeGuard, LeaderReport, ObjectKey, ObjectStore, Permission};
use crate::core::time::Millis;
use crate::core::version::Version;
use crate::memory::MemoryShare;
use crate::worker::problem::HttpProblem;
use crate::worker::store::ALL_NAMESPACES;

/// Entries of each list in a response.
const MAX_ITEMS: usize = 200;

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StatusResponse {
    time: String,
    #[schemars(with = "VersionSchema")]
    version: Version,
    /// Null: all namespaces.
    namespace: Option<String>,
    /// False if something requires attention: an object that is not Ready, a hook that does not deliver, or a closed ingest
    /// port. What a user requested, a suspension or a pause, does not.
    healthy: bool,
    leader: LeaderResponse,
    connections: ItemsResponse<ObjectResponse>,
    not_ready: ItemsResponse<ObjectResponse>,
    not_delivering: ItemsResponse<HookResponse>,
    backlog: BacklogResponse,
    dead_letters: DeadLettersResponse,
    disk: DiskResponse,
    memory: MemoryResponse,
}

/// A list of bounded length.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ItemsResponse<T> {
    items: Vec<T>,
    /// The number of further entries.
    left_out: usize,
}

/// A hook whose condition Delivering is False.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct HookResponse {
    namespace: String,
    name: String,
    reason: String,
    message: String,
    since: String,
    pending: u64,
    oldest_time: Option<String>,
    next_probe_time: Option<String>,
    expected: bool,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct BacklogResponse {
    pending: u64,
    /// When the oldest pending delivery was accepted.
    oldest_time: Option<String>,
    /// False if there are more.
    exact: bool,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct DeadLettersResponse {
    /// Deliveries that died within 24 hours.
    last_24h: u64,
    /// False if there are more.
    exact: bool,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct DiskResponse {
    /// From 0 to 1. Null if it cannot be measured.
    used_ratio: Option<f64>,
    /// Why the ingest port refuses events. Null: it accepts them.
    closed: Option<&'static str>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct MemoryResponse {
    used_bytes: u64,
    budget_bytes: u64,
}

/// Shows one namespace, or all with the permission in all of them.
pub async fn show(
    State(api): State<Arc<ApiState>>,
    ListScope(scope): ListScope,
    older: Option<Extension<AcceptsOlderCounts>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<StatusResponse>, HttpProblem> {
    api.authorize_list(&headers, Permission::new(&scope, "list", RESOURCE)).await?;
    query::reject_parameters(uri.query())?;
    let measured = match older {
        Some(_) => api.status.measure_soon().await,
        None => api.status.measure().await,
    };
    let measured = measured.map_err(|error| store_problem(&error))?;
    let namespace = Some(scope.clone()).filter(|scope| scope != ALL_NAMESPACES);
    let leader = api.status.leader.read(&api.cluster).await;
    listing::build(&scope, move || build_status(&api, &measured, leader, namespace)).await.map(Json)
}

fn build_status(
    api: &ApiState,
    measured: &StoreMeasurement,
    leader: LeaderReport,
    namespace: Option<String>,
) -> StatusResponse {
    let is_shown = |meta: &ObjectMeta| namespace.is_none() || meta.namespace == namespace;
    let mut connections: Vec<ObjectResponse> = Vec::new();
    collect(&api.view.connections, "Connection", &is_shown, false, &mut connections);
    let scope = namespace.as_deref().unwrap_or(ALL_NAMESPACES);
    let (unready_hooks, failing_hooks) = api.hook_table.read(|table| {
        let attention = |attention| table.attention(scope, attention, MAX_ITEMS);
        (attention(Attention::Unready), attention(Attention::NotDelivering))
    });
    let lacks_ready = |object: &ObjectResponse| object.ready != "True";
    let mut not_ready: Vec<ObjectResponse> =
        found(api, &unready_hooks).filter_map(|guard| describe_unready(&guard)).collect();
    collect(&api.view.streams, "EventStream", &is_shown, true, &mut not_ready);
    collect(&api.view.auth0_hooks, "Hook", &is_shown, true, &mut not_ready);
    let not_delivering: Vec<HookResponse> = found(api, &failing_hooks)
        .filter_map(|guard| describe_not_delivering(api, measured, &guard))
        .collect();

    let is_ours = |name: &str| namespace.as_ref().is_none_or(|namespace| namespace == name);
    let backlogs = measured.backlogs.values().filter(|(hook, _)| is_ours(&hook.namespace));
    let (pending, oldest) =
        backlogs.fold((0, None), |(pending, oldest): (u64, Option<Millis>), (_, stats)| {
            let oldest = oldest.into_iter().chain(stats.oldest).min();
            (pending.saturating_add(stats.pending), oldest)
        });
    let dead =
        measured.dead.by_namespace.iter().filter(|(name, _)| is_ours(name)).map(|(_, count)| count).sum();
    let closed = api.status.disk.closure();
    let needs_attention =
        |objects: &[ObjectResponse]| objects.iter().any(|object| lacks_ready(object) && !object.expected);
    let healthy = closed.is_none()
        && !needs_attention(&connections)
        && !needs_attention(&not_ready)
        && not_delivering.iter().all(|hook| hook.expected);
    StatusResponse {
        time: Millis::now().rfc3339(),
        version: Version::current(),
        healthy,
        leader: leader.into(),
        connections: bounded(connections, 0, |object| object.ready == "True"),
        not_ready: bounded(not_ready, unready_hooks.left_out, |object| object.expected),
        not_delivering: bounded(not_delivering, failing_hooks.left_out, |hook| hook.expected),
        backlog: BacklogResponse {
            pending,
            oldest_time: oldest.map(Millis::rfc3339),
            exact: measured.is_exact(),
        },
        dead_letters: DeadLettersResponse { last_24h: dead, exact: measured.dead.is_exact },
        disk: DiskResponse { used_ratio: api.status.disk.used(), closed: closed.map(Into::into) },
        memory: MemoryResponse {
            used_bytes: MemoryShare::iter().map(|share| api.metrics.memory.share(share.into()).used()).sum(),
            budget_bytes: api.memory.total_bytes(),
        },
        namespace,
    }
}

/// Sorts the entries, those that need attention first, and truncates them to `MAX_ITEMS`. `more`: the number of further entries,
/// which come after these.
fn bounded<T: Named>(mut items: Vec<T>, more: usize, comes_last: impl Fn(&T) -> bool) -> ItemsResponse<T> {
    items.sort_by(|a, b| (comes_last(a), a.names()).cmp(&(comes_last(b), b.names())));
    let left_out = items.len().saturating_sub(MAX_ITEMS) + more;
    items.truncate(MAX_ITEMS);
    ItemsResponse { items, left_out }
}

trait Named {
    fn names(&self) -> (&str, &str, &str);
}

impl Named for ObjectResponse {
    fn names(&self) -> (&str, &str, &str) {
        (self.kind, &self.namespace, &self.name)
    }
}

impl Named for HookResponse {
    fn names(&self) -> (&str, &str, &str) {
        ("", &self.namespace, &self.name)
    }
}

/// Collects the objects, or with `only_unready` those that are not Ready. Examines all objects, so it copies those only; hooks,
/// which may be many more, are counted by their table.
fn collect<K>(
    store: &ObjectStore<K>,
    kind: &'static str,
    is_shown: &impl Fn(&ObjectMeta) -> bool,
    only_unready: bool,
    objects: &mut Vec<ObjectResponse>,
) where
    K: Resource<DynamicType = ()> + VendorObject + Clone + 'static,
{
    for guard in store.all() {
        // An object that is being deleted is not synced any more.
        let is_listed = is_shown(guard.meta()) && guard.meta().deletion_timestamp.is_none();
        if is_listed && !(only_unready && ready_of(&guard) == "True") {
            objects.push(readiness(kind, &guard));
        }
    }
}

/// Returns the objects of hooks that need attention.
fn found<'a>(
    api: &'a ApiState,
    hooks: &'a AttentionList,
) -> impl Iterator<Item = Arc<DeserializeGuard<EventHook>>> + 'a {
    hooks.hooks.iter().filter_map(|(namespace, name)| api.view.hook(namespace, name))
}

/// Describes a hook that is not ready. None: it is by now, or is being deleted. The table may be a second old.
fn describe_unready(guard: &DeserializeGuard<EventHook>) -> Option<ObjectResponse> {
    unready(guard).map(|_| readiness("EventHook", guard))
}

/// Describes a hook that does not deliver. None: it does by now.
fn describe_not_delivering(
    api: &ApiState,
    measured: &StoreMeasurement,
    guard: &DeserializeGuard<EventHook>,
) -> Option<HookResponse> {
    let condition = not_delivering(guard)?;
    let ObjectKey { namespace, name } = ObjectKey::of(guard);
    let uid = guard.meta().uid.as_deref().unwrap_or_default();
    let backlog = measured.backlogs.get(uid).map(|(_, stats)| *stats).unwrap_or_default();
    let breaker = api.reports.breakers.get(uid);
    Some(HookResponse {
        namespace,
        name,
        reason: condition.reason.clone(),
        message: condition.message.clone(),
        since: condition.last_transition_time.0.to_string(),
        pending: backlog.pending,
        oldest_time: backlog.oldest.map(Millis::rfc3339),
        next_probe_time: breaker.and_then(|breaker| breaker.next_probe).map(Millis::rfc3339),
        expected: is_requested(condition),
    })
}
