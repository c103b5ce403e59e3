//! `GET .../hooks/{name}`: one hook with everything that explains the state of its deliveries.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::{HeaderMap, Uri};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::facts::HookFacts;
use super::list::HookSummaryResponse;
use super::shown_state::changed_at;
use super::spec::masked_spec;
use super::{HookPath, find, uid_of};
use crate::api::EventHook;
use crate::cluster::{DeserializeGuard, Permission};
use crate::core::catalogue;
use crate::core::conditions::DELIVERING;
use crate::core::receiver_breaker::{BreakerReport, BreakerState};
use crate::core::time::Millis;
use crate::worker::api::hold::{HoldResponse, hook_hold};
use crate::worker::api::query;
use crate::worker::api::state::{ApiState, RESOURCE};
use crate::worker::problem::HttpProblem;
use crate::worker::request::ValidPath;

/// A hook with what explains the state of its deliveries.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HookDetailResponse {
    #[serde(flatten)]
    summary: HookSummaryResponse,
    uid: String,
    generation: Option<i64>,
    created_time: Option<String>,
    labels: BTreeMap<String, String>,
    /// The object's spec. Values of headers that may hold a secret are `***`; without the right `get deliveries/payload`, a custom
    /// body and the functions of a lambda too. Null if it cannot be read.
    #[schemars(with = "Option<serde_json::Map<String, Value>>")]
    spec: Option<Value>,
    conditions: Vec<ConditionResponse>,
    /// Why deliveries are held. Null: they are not.
    held: Option<HoldResponse>,
    /// Null: the circuit breaker is closed.
    breaker: Option<BreakerResponse>,
    /// The last changes of the state, newest first: those that this worker has seen, up to 16, and the last one before.
    timeline: Vec<TimelineEntry>,
    /// The CEL expression. Null: every event of the source and event.
    filter: Option<String>,
    gates: GatesResponse,
    /// The Connection of the gateway whose events the hook receives.
    connection: Option<String>,
    /// The EventStream to whose events the hook is restricted.
    event_stream: Option<String>,
    /// The vendor's id.
    external_id: Option<String>,
}

/// A condition of an object.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConditionResponse {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: String,
    message: String,
    since: String,
    observed_generation: Option<i64>,
}

/// An open circuit breaker.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct BreakerResponse {
    /// `open`, or `probing` while probes decide.
    state: &'static str,
    /// Failures among the last `attempts` attempts.
    failures: u32,
    attempts: u32,
    pause_ms: u64,
    /// Null: probes are sent now.
    next_probe_time: Option<String>,
}

/// A change of the state of a hook's deliveries.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct TimelineEntry {
    time: String,
    /// True if deliveries succeed since then.
    healthy: bool,
    reason: String,
    message: String,
}

/// The gates of a hook. Null: the gate does not exist.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct GatesResponse {
    /// The paths whose values form the groups.
    group_by: Option<Vec<String>>,
    /// How long further events of a group are dropped after a delivery.
    snooze_period: Option<String>,
    /// True if the newest event that the snooze dropped is delivered at its end.
    snooze_trailing: bool,
    /// Events are dropped whose compared values have not changed.
    on_change: bool,
    /// The compared paths. Null: the default.
    on_change_fields: Option<Vec<String>>,
    /// The fields by which the catalogue identifies the subject of an event: the default group. Empty: none, so the whole
    /// data counts.
    default_fields: Vec<&'static str>,
}

pub async fn show(
    State(api): State<Arc<ApiState>>,
    ValidPath(path): ValidPath<HookPath>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<HookDetailResponse>, HttpProblem> {
    let access = Permission::new(&path.namespace, "get", RESOURCE);
    api.authorize(&headers, access).await?;
    query::reject_parameters(uri.query())?;
    let shows_texts = api.is_authorized(&headers, access.with_subresource("payload")).await?;
    let guard = find(&api, &path)?;
    let measured = api.status.measure_for_list().await;
    let summary = HookFacts::new(&api).summary(&guard, measured.as_deref());
    Ok(Json(HookDetailResponse::of(&api, &guard, summary, shows_texts)))
}

impl HookDetailResponse {
    fn of(
        api: &ApiState,
        guard: &DeserializeGuard<EventHook>,
        summary: HookSummaryResponse,
        shows_texts: bool,
    ) -> Self {
        let (uid, meta) = (uid_of(guard), guard.meta());
        let hook = guard.0.as_ref().ok();
        let spec = hook.map(|hook| &hook.spec);
        let status = hook.and_then(|hook| hook.status.as_ref());
        let conditions = status.map_or(&[][..], |status| &status.conditions);
        let now = Millis::now();
        HookDetailResponse {
            summary,
            uid: uid.to_owned(),
            generation: meta.generation,
            created_time: meta.creation_timestamp.as_ref().map(|at| Millis(at.0.as_millisecond()).rfc3339()),
            labels: meta.labels.clone().unwrap_or_default(),
            spec: hook.map(|hook| masked_spec(hook, shows_texts)),
            held: hook_hold(api, guard, now),
            breaker: api.reports.breakers.get(uid).map(|breaker| BreakerResponse::of(&breaker, now)),
            timeline: timeline(api, uid, conditions),
            conditions: conditions.iter().map(ConditionResponse::of).collect(),
            filter: spec.and_then(|spec| spec.filter.clone()),
            gates: GatesResponse::of(hook),
            connection: spec.and_then(|spec| Some(spec.connection_ref.as_ref()?.name.clone())),
            event_stream: spec.and_then(|spec| Some(spec.from.as_ref()?.event_stream_ref.name.clone())),
            external_id: status.and_then(|status| Some(status.external.as_ref()?.id.clone())),
        }
    }
}

/// Returns the changes that this worker has seen, and the one of the condition if it is older.
fn timeline(api: &ApiState, uid: &str, conditions: &[Condition]) -> Vec<TimelineEntry> {
    let seen = api.reports.timeline.of(uid);
    let reported = conditions.iter().find(|condition| condition.type_ == DELIVERING);
    // The condition's time has whole seconds, and is that of its write.
    let earliest = seen.last().map(|change| Millis(change.at.0 - 1000));
    let before = reported.filter(|reported| earliest.is_none_or(|earliest| changed_at(reported) < earliest));
    let entries = seen.into_iter().map(|change| TimelineEntry {
        time: change.at.rfc3339(),
        healthy: change.is_healthy,
        reason: change.reason.to_owned(),
        message: change.message,
    });
    let before = before.map(|condition| TimelineEntry {
        time: changed_at(condition).rfc3339(),
        healthy: condition.status == "True",
        reason: condition.reason.clone(),
        message: condition.message.clone(),
    });
    entries.chain(before).collect()
}

impl ConditionResponse {
    pub fn of(condition: &Condition) -> Self {
        ConditionResponse {
            kind: condition.type_.clone(),
            status: condition.status.clone(),
            reason: condition.reason.clone(),
            message: condition.message.clone(),
            since: changed_at(condition).rfc3339(),
            observed_generation: condition.observed_generation,
        }
    }
}

impl BreakerResponse {
    fn of(breaker: &BreakerReport, now: Millis) -> Self {
        BreakerResponse {
            state: if breaker.state == BreakerState::Probing { "probing" } else { "open" },
            failures: breaker.failures,
            attempts: breaker.attempts,
            pause_ms: u64::try_from(breaker.pause.as_millis()).unwrap_or(u64::MAX),
            next_probe_time: breaker.next_probe.filter(|at| *at > now).map(Millis::rfc3339),
        }
    }
}

impl GatesResponse {
    fn of(hook: Option<&EventHook>) -> Self {
        let spec = hook.map(|hook| &hook.spec);
        let snooze = spec.and_then(|spec| spec.snooze.as_ref());
        let on_change = spec.and_then(|spec| spec.on_change.as_ref());
        let names = spec.and_then(|spec| Some((&*spec.source, spec.event.as_deref()?)));
        GatesResponse {
            group_by: spec.and_then(|spec| spec.group_by.clone()),
            snooze_period: snooze.map(|snooze| snooze.period.0.clone()),
            snooze_trailing: snooze.is_some_and(|snooze| snooze.trailing == Some(crate::api::Trailing::Last)),
            on_change: on_change.is_some(),
            on_change_fields: on_change.and_then(|on_change| on_change.fields.clone()),
            default_fields: names
                .map_or(&[][..], |(source, event)| catalogue::unique_fields(source, event))
                .to_vec(),
        }
    }
}
