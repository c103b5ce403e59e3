//! The state of the installation on one page: objects that are not Ready, hooks that do not deliver, backlog, dead letters,
//! disk and memory.
//!
//! The response has a bounded size. Its measurements of the store are shared by all requests of a short time, so that
//! polling clients cost the store no more than one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use http::{HeaderMap, Uri};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;
use kube::runtime::reflector::Store as Reflected;
use schemars::JsonSchema;
use serde::Serialize;
use strum::IntoEnumIterator;

use super::query;
use super::routes::VersionSchema;
use super::state::{ApiState, RESOURCE, store_problem};
use crate::api::{Connection, EventHook, EventStream, Hook};
use crate::cluster::{DeserializeGuard, ObjectKey, Permission};
use crate::core::conditions::DELIVERING;
use crate::core::shown_readiness::{ShownReadiness, find_condition};
use crate::core::time::Millis;
use crate::core::version::Version;
use crate::memory::MemoryShare;
use crate::worker::ingest::Disk;
use crate::worker::problem::HttpProblem;
use crate::worker::request::ValidPath;
use crate::worker::store::{ALL_NAMESPACES, DeadLetterCounts, HookId, Store, StoreError, StoreStats};

/// Entries of each list in a response.
const MAX_ITEMS: usize = 200;
/// How long a measurement of the store is shared.
const MAX_AGE: Duration = Duration::from_secs(2);
/// Hooks with a backlog that are measured.
const MAX_MEASURED_HOOKS: usize = 1000;
/// The longest time for measuring them.
const MAX_MEASURE_TIME: Duration = Duration::from_secs(3);
/// Dead letters that are counted.
const MAX_DEAD_LETTERS: usize = 10_000;
/// The age of the dead letters that are counted, in milliseconds.
const DEAD_LETTER_AGE: i64 = 24 * 3_600_000;

/// Measures the store and its disk for status responses.
pub struct StatusSources {
    pub store: Arc<dyn Store>,
    pub disk: Arc<Disk>,
    last: tokio::sync::Mutex<Option<(Instant, Arc<StoreMeasurement>)>>,
}

struct StoreMeasurement {
    /// By the hook's uid.
    backlogs: HashMap<Arc<str>, (HookId, StoreStats)>,
    /// False if more hooks have a backlog than were measured.
    is_exact: bool,
    dead: DeadLetterCounts,
}

impl StatusSources {
    pub fn new(store: Arc<dyn Store>, disk: Arc<Disk>) -> Self {
        StatusSources { store, disk, last: tokio::sync::Mutex::default() }
    }

    /// Returns the last measurement, or a new one if it is too old. Concurrent callers share it.
    async fn measure(&self) -> Result<Arc<StoreMeasurement>, StoreError> {
        let mut last = self.last.lock().await;
        if let Some((at, measured)) = &*last
            && at.elapsed() < MAX_AGE
        {
            return Ok(measured.clone());
        }
        let started = Instant::now();
        let (mut backlogs, mut is_exact) = (HashMap::new(), true);
        for backlog in self.store.backlog().await? {
            if backlogs.len() >= MAX_MEASURED_HOOKS || started.elapsed() > MAX_MEASURE_TIME {
                is_exact = false;
                break;
            }
            let stats = self.store.hook_stats(&backlog.hook.uid).await?;
            backlogs.insert(backlog.hook.uid.clone(), (backlog.hook, stats));
        }
        let since = Millis(Millis::for_ages().0.saturating_sub(DEAD_LETTER_AGE));
        let dead = self.store.dead_letters(since, MAX_DEAD_LETTERS).await?;
        let measured = Arc::new(StoreMeasurement { backlogs, is_exact, dead });
        *last = Some((Instant::now(), measured.clone()));
        Ok(measured)
    }
}

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

/// An object and its condition Ready.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ObjectResponse {
    kind: &'static str,
    namespace: String,
    name: String,
    /// True, False, or Unknown before the first sync of the present spec.
    ready: &'static str,
    reason: String,
    message: String,
    since: Option<String>,
    /// True if a user requested the state.
    expected: bool,
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

/// Shows one namespace.
pub async fn of_namespace(
    State(api): State<Arc<ApiState>>,
    ValidPath(namespace): ValidPath<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<StatusResponse>, HttpProblem> {
    api.authorize(&headers, Permission::new(&namespace, "list", RESOURCE)).await?;
    query::reject_parameters(uri.query())?;
    status(&api, Some(namespace)).await.map(Json)
}

/// Shows all namespaces. Needs the permission in all of them.
pub async fn of_all(
    State(api): State<Arc<ApiState>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<StatusResponse>, HttpProblem> {
    api.authorize_list(&headers, Permission::new(ALL_NAMESPACES, "list", RESOURCE)).await?;
    query::reject_parameters(uri.query())?;
    status(&api, None).await.map(Json)
}

async fn status(api: &ApiState, namespace: Option<String>) -> Result<StatusResponse, HttpProblem> {
    let measured = api.status.measure().await.map_err(|error| store_problem(&error))?;
    let is_shown = |key: &ObjectKey| namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace);
    let mut connections: Vec<ObjectResponse> = Vec::new();
    collect(&api.view.connections, "Connection", &is_shown, |_| true, &mut connections);
    let mut not_ready: Vec<ObjectResponse> = Vec::new();
    let lacks_ready = |object: &ObjectResponse| object.ready != "True";
    collect(&api.view.hooks, "EventHook", &is_shown, lacks_ready, &mut not_ready);
    collect(&api.view.streams, "EventStream", &is_shown, lacks_ready, &mut not_ready);
    collect(&api.view.auth0_hooks, "Hook", &is_shown, lacks_ready, &mut not_ready);
    let not_delivering = collect_not_delivering(api, &measured, &is_shown);

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
    Ok(StatusResponse {
        time: Millis::now().rfc3339(),
        version: Version::current(),
        healthy,
        connections: bounded(connections, |object| object.ready == "True"),
        not_ready: bounded(not_ready, |object| object.expected),
        not_delivering: bounded(not_delivering, |hook| hook.expected),
        backlog: BacklogResponse {
            pending,
            oldest_time: oldest.map(Millis::rfc3339),
            exact: measured.is_exact,
        },
        dead_letters: DeadLettersResponse { last_24h: dead, exact: measured.dead.is_exact },
        disk: DiskResponse { used_ratio: api.status.disk.used(), closed: closed.map(Into::into) },
        memory: MemoryResponse {
            used_bytes: MemoryShare::iter().map(|share| api.metrics.memory.share(share.into()).used()).sum(),
            budget_bytes: api.memory.total_bytes(),
        },
        namespace,
    })
}

/// Sorts the entries, those that need attention first, and leaves out what is too much.
fn bounded<T: Named>(mut items: Vec<T>, comes_last: impl Fn(&T) -> bool) -> ItemsResponse<T> {
    items.sort_by(|a, b| (comes_last(a), a.names()).cmp(&(comes_last(b), b.names())));
    let left_out = items.len().saturating_sub(MAX_ITEMS);
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

/// Objects whose status has conditions.
trait HasConditions {
    fn conditions(&self) -> &[Condition];
}

macro_rules! has_conditions {
    ($($kind:ty),*) => {
        $(impl HasConditions for $kind {
            fn conditions(&self) -> &[Condition] {
                self.status.as_ref().map_or(&[], |status| &status.conditions)
            }
        })*
    };
}

has_conditions!(Connection, EventHook, EventStream, Hook);

/// Collects the objects that `is_wanted` selects by their readiness.
fn collect<K>(
    store: &Reflected<DeserializeGuard<K>>,
    kind: &'static str,
    is_shown: &impl Fn(&ObjectKey) -> bool,
    is_wanted: impl Fn(&ObjectResponse) -> bool,
    objects: &mut Vec<ObjectResponse>,
) where
    K: Resource<DynamicType = ()> + HasConditions + Clone + 'static,
{
    for guard in store.state() {
        let key = ObjectKey::of(&*guard);
        // An object that is being deleted is not synced any more.
        if is_shown(&key) && guard.meta().deletion_timestamp.is_none() {
            objects.extend(Some(readiness(kind, key, &guard)).filter(&is_wanted));
        }
    }
}

fn readiness<K>(kind: &'static str, key: ObjectKey, guard: &DeserializeGuard<K>) -> ObjectResponse
where
    K: Resource<DynamicType = ()> + HasConditions,
{
    let ObjectKey { namespace, name } = key;
    let object = |ready, reason: &str, message: &str| ObjectResponse {
        kind,
        namespace,
        name,
        ready,
        reason: reason.to_owned(),
        message: message.to_owned(),
        since: None,
        expected: false,
    };
    let found = match &guard.0 {
        Err(invalid) => return object("False", "InvalidObject", &invalid.error),
        Ok(found) => found,
    };
    let shown = ShownReadiness::of(found.conditions(), found.meta().generation);
    ObjectResponse {
        since: shown.since,
        expected: shown.expected,
        ..object(shown.ready, shown.reason, shown.message)
    }
}

fn collect_not_delivering(
    api: &ApiState,
    measured: &StoreMeasurement,
    is_shown: &impl Fn(&ObjectKey) -> bool,
) -> Vec<HookResponse> {
    let mut hooks = Vec::new();
    for guard in api.view.hooks.state() {
        let Ok(hook) = &guard.0 else { continue };
        let key = ObjectKey::of(hook);
        let failing =
            find_condition(hook.conditions(), DELIVERING).filter(|condition| condition.status == "False");
        let Some(condition) = failing.filter(|_| is_shown(&key)) else { continue };
        let uid = hook.metadata.uid.as_deref().unwrap_or_default();
        let backlog = measured.backlogs.get(uid).map(|(_, stats)| *stats).unwrap_or_default();
        let breaker = api.reports.breakers.get(uid);
        hooks.push(HookResponse {
            namespace: key.namespace,
            name: key.name,
            reason: condition.reason.clone(),
            message: condition.message.clone(),
            since: condition.last_transition_time.0.to_string(),
            pending: backlog.pending,
            oldest_time: backlog.oldest.map(Millis::rfc3339),
            next_probe_time: breaker.and_then(|breaker| breaker.next_probe).map(Millis::rfc3339),
            expected: condition.reason == "Paused",
        });
    }
    hooks
}
