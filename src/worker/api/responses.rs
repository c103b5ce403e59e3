//! The JSON bodies of responses. Members are always present, and null if there is no value.

use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::core::event::Event;
use crate::core::time::Millis;
use crate::worker::store;
use crate::worker::store::{DeliveryRecord, DeliveryState, ReplayJob};

/// A page of deliveries, newest first.
#[derive(Serialize)]
pub struct DeliveryListResponse {
    pub items: Vec<DeliveryResponse>,
    /// The token of the next page; null on the last page. A page can have fewer items than requested, or none, and a
    /// token: each request examines a bounded number of deliveries.
    #[serde(rename = "continue")]
    pub next: Option<String>,
}

/// A delivery with its history.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryResponse {
    /// The `webhook-id`.
    id: Uuid,
    /// The event's id.
    event: String,
    hook: String,
    state: DeliveryState,
    reason: Option<String>,
    accepted_time: String,
    attempts: Vec<AttemptResponse>,
    next_attempt_time: Option<String>,
    /// The event's data, if requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
}

/// One attempt.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AttemptResponse {
    time: String,
    status: Option<u16>,
    duration_ms: u64,
    error: Option<String>,
    detail: Option<String>,
}

impl From<DeliveryRecord> for DeliveryResponse {
    fn from(record: DeliveryRecord) -> Self {
        DeliveryResponse {
            id: record.id,
            event: record.event_id,
            hook: record.hook.name.to_string(),
            state: record.state,
            reason: record.reason,
            accepted_time: record.accepted.rfc3339(),
            attempts: record.attempts.into_iter().map(AttemptResponse::from).collect(),
            next_attempt_time: record.due.map(Millis::rfc3339),
            data: None,
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
#[derive(Serialize)]
pub struct DeliveryStateResponse {
    pub id: Uuid,
    pub state: DeliveryState,
}

/// What a bulk replay would put back.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DryRunResponse {
    pub matching: usize,
    /// False if there are more than `matching`.
    pub is_exact: bool,
}

/// The bulk replays of a namespace, newest first.
#[derive(Serialize)]
pub struct ReplayListResponse {
    pub items: Vec<ReplayResponse>,
}

/// A bulk replay and its progress.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplayResponse {
    id: Uuid,
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

/// An event, its deliveries, and the hooks that it did not match.
#[derive(Serialize)]
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
    /// The number of further such hooks that the response omits.
    pub others_left_out: usize,
}

/// A delivery with an explanation of its state.
#[derive(Serialize)]
pub struct ExplainedDelivery {
    #[serde(flatten)]
    pub delivery: DeliveryResponse,
    pub explanation: String,
}

/// A hook without a delivery of the event, and why.
#[derive(Serialize)]
pub struct UnmatchedHook {
    pub hook: String,
    pub reason: &'static str,
    pub explanation: String,
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
