//! The JSON bodies of responses. Members are always present, and null if there is no value.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::catalogue::FilterResultResponse;
use super::hold::HoldResponse;
use crate::core::event::Event;
use crate::core::time::Millis;
use crate::worker::store;
use crate::worker::store::{DeliveryRecord, DeliveryState, EventOutcome, EventRecord, ReplayJob};

/// A page of deliveries, newest first.
#[derive(Serialize, JsonSchema)]
pub struct DeliveryListResponse {
    pub items: Vec<DeliveryResponse>,
    /// The token of the next page; null on the last page. A page can have fewer items than requested, or none, and a
    /// token: each request examines a bounded number of deliveries.
    #[serde(rename = "continue")]
    pub next: Option<String>,
}

/// A delivery with its history.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryResponse {
    /// The `webhook-id`.
    #[schemars(with = "String")]
    id: Uuid,
    namespace: String,
    /// The event's id.
    event: String,
    hook: String,
    state: DeliveryState,
    reason: Option<String>,
    accepted_time: String,
    attempts: Vec<AttemptResponse>,
    /// When the next attempt is due. May be in the past while the delivery is held or its hook has no free slot.
    next_attempt_time: Option<String>,
    /// Why no attempt is made now. Null: the delivery is not held.
    held: Option<HoldResponse>,
    /// The event's data, if requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub data: Option<Box<RawValue>>,
    /// With the data: the event's attribute `subject`, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// With the data: the request and the response of the last attempt, if the worker keeps them (`--keep-responses`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_exchange: Option<Option<store::Exchange>>,
}

/// One attempt.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct AttemptResponse {
    time: String,
    status: Option<u16>,
    duration_ms: u64,
    error: Option<String>,
    detail: Option<String>,
}

impl DeliveryResponse {
    pub fn with_hold(self, held: Option<HoldResponse>) -> Self {
        DeliveryResponse { held, ..self }
    }
}

impl From<DeliveryRecord> for DeliveryResponse {
    fn from(record: DeliveryRecord) -> Self {
        DeliveryResponse {
            id: record.id,
            namespace: record.hook.namespace.to_string(),
            event: record.event_id,
            hook: record.hook.name.to_string(),
            state: record.state,
            reason: record.reason,
            accepted_time: record.accepted.rfc3339(),
            attempts: record.attempts.into_iter().map(AttemptResponse::from).collect(),
            next_attempt_time: record.due.map(Millis::rfc3339),
            held: None,
            data: None,
            subject: None,
            last_exchange: None,
        }
    }
}

impl From<store::AttemptRecord> for AttemptResponse {
    fn from(attempt: store::AttemptRecord) -> Self {
        AttemptResponse {
            time: attempt.at.rfc3339(),
            status: attempt.status,
            duration_ms: u64::try_from(attempt.duration.as_millis()).unwrap_or(u64::MAX),
            error: attempt.error,
            detail: attempt.detail,
        }
    }
}

/// The state of a delivery after a replay or a cancellation. Contains nothing else, because the permission to replay or
/// cancel does not include the permission to read the history.
#[derive(Serialize, JsonSchema)]
pub struct DeliveryStateResponse {
    #[schemars(with = "String")]
    pub id: Uuid,
    pub state: DeliveryState,
}

/// The result of one request of a cancellation in bulk.
#[derive(Serialize, JsonSchema)]
pub struct CancellationResponse {
    /// The deliveries that this request cancelled.
    pub cancelled: usize,
    /// Pass it in the next request. Null: no matching delivery is left.
    #[serde(rename = "continue")]
    pub next: Option<String>,
}

/// What a bulk replay would put back, or a cancellation in bulk would cancel.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DryRunResponse {
    pub matching: usize,
    /// False if there are more than `matching`.
    pub is_exact: bool,
}

/// Bulk replays, newest first.
#[derive(Serialize, JsonSchema)]
pub struct ReplayListResponse {
    pub items: Vec<ReplayResponse>,
}

/// A bulk replay and its progress.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplayResponse {
    #[schemars(with = "String")]
    id: Uuid,
    namespace: String,
    hook: Option<String>,
    state: Option<DeliveryState>,
    event: Option<String>,
    since: Option<String>,
    until: Option<String>,
    rate: u32,
    started_time: String,
    replayed: u64,
    done: bool,
    /// True if it was cancelled before its end.
    cancelled: bool,
    /// Why it ended early.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl From<ReplayJob> for ReplayResponse {
    fn from(replay: ReplayJob) -> Self {
        let filter = replay.filter;
        ReplayResponse {
            id: replay.id,
            namespace: filter.namespace,
            hook: filter.hook,
            state: filter.state,
            event: filter.event,
            since: filter.since.map(Millis::rfc3339),
            until: filter.until.map(Millis::rfc3339),
            rate: replay.rate,
            started_time: replay.started.rfc3339(),
            replayed: replay.replayed,
            done: replay.done,
            cancelled: replay.cancelled,
            error: replay.error,
        }
    }
}

/// A page of events, newest first.
#[derive(Serialize, JsonSchema)]
pub struct EventListResponse {
    pub items: Vec<EventResponse>,
    /// The token of the next page, as for deliveries.
    #[serde(rename = "continue")]
    pub next: Option<String>,
}

/// An event and the outcome of its deliveries.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventResponse {
    id: String,
    namespace: String,
    source: String,
    event: String,
    /// `api`, `relay/HOOK` or `stream/EVENTSTREAM`.
    origin: String,
    time: String,
    accepted_time: String,
    outcome: EventOutcome,
    /// The number of its deliveries in each state; a state without deliveries is left out.
    deliveries: BTreeMap<&'static str, usize>,
    /// The hooks of these deliveries.
    hooks: BTreeSet<String>,
    /// True if it has more deliveries than are counted: 100 in a list, 500 of a single event.
    deliveries_left_out: bool,
    /// The event's data, if requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    data: Option<Box<RawValue>>,
    /// With the data: the event's attribute `subject`, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
}

impl EventResponse {
    pub fn of(record: EventRecord, with_data: bool) -> Self {
        let EventRecord { event, accepted, outcome, deliveries, has_more } = record;
        let mut counts = BTreeMap::new();
        for (_, state) in &deliveries {
            *counts.entry((*state).into()).or_default() += 1;
        }
        EventResponse {
            id: event.id.clone(),
            namespace: event.namespace.clone(),
            source: event.source.clone(),
            event: event.event.clone(),
            origin: event.origin.to_string(),
            time: event.time.clone(),
            accepted_time: accepted.rfc3339(),
            outcome,
            deliveries: counts,
            hooks: deliveries.into_iter().map(|(hook, _)| hook.to_string()).collect(),
            deliveries_left_out: has_more,
            data: with_data.then(|| event.data.view().to_owned()),
            subject: event.subject().filter(|_| with_data).map(ToOwned::to_owned),
        }
    }
}

/// An event, its deliveries, and the hooks that it did not match.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExplainResponse {
    id: String,
    origin: String,
    source: String,
    event: String,
    time: String,
    accepted_time: String,
    pub deliveries: Vec<ExplainedDelivery>,
    /// The number of further deliveries that the response omits. A list with the event's id shows them.
    pub deliveries_left_out: usize,
    /// The current hooks of the namespace that have no delivery of the event.
    pub others: Vec<UnmatchedHook>,
    /// The number of further such hooks that the response omits. Always 0 with `deliveriesOnly=true`, which counts none.
    pub others_left_out: usize,
}

/// A delivery with an explanation of its state.
#[derive(Serialize, JsonSchema)]
pub struct ExplainedDelivery {
    #[serde(flatten)]
    pub delivery: DeliveryResponse,
    pub explanation: String,
}

/// A hook without a delivery of the event, and why.
#[derive(Serialize, JsonSchema)]
pub struct UnmatchedHook {
    pub hook: String,
    pub reason: &'static str,
    pub explanation: String,
    /// The result of its filter on the event, with that of each part. Null: it has none, or something else decided.
    pub filter: Option<FilterResultResponse>,
}

impl ExplainResponse {
    pub fn of(event: &Event, accepted: Millis) -> Self {
        ExplainResponse {
            id: event.id.clone(),
            origin: event.origin.to_string(),
            source: event.source.clone(),
            event: event.event.clone(),
            time: event.time.clone(),
            accepted_time: accepted.rfc3339(),
            deliveries: Vec::new(),
            deliveries_left_out: 0,
            others: Vec::new(),
            others_left_out: 0,
        }
    }
}
