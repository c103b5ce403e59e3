//! What is told, as JSON. Members are always there, null where there is nothing to tell.

use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::core::event::Event;
use crate::core::time::Millis;
use crate::worker::store;
use crate::worker::store::{Record, Replay, State};

/// A page of deliveries, the newest first.
#[derive(Serialize)]
pub struct Page {
    pub items: Vec<Delivery>,
    /// What to ask the next page by; null at the end.
    #[serde(rename = "continue")]
    pub next: Option<String>,
}

/// A delivery with its history.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// The `webhook-id`.
    id: Uuid,
    /// The event's id.
    event: String,
    hook: String,
    state: State,
    reason: Option<String>,
    accepted_time: String,
    attempts: Vec<Attempt>,
    next_attempt_time: Option<String>,
    /// The event's data, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
}

/// One attempt.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Attempt {
    time: String,
    status: Option<u16>,
    duration_ms: u64,
    error: Option<String>,
    detail: Option<String>,
}

impl From<Record> for Delivery {
    fn from(record: Record) -> Self {
        Delivery {
            id: record.id,
            event: record.event_id,
            hook: record.hook.name.to_string(),
            state: record.state,
            reason: record.reason,
            accepted_time: record.accepted.rfc3339(),
            attempts: record.attempts.into_iter().map(Attempt::from).collect(),
            next_attempt_time: record.due.map(Millis::rfc3339),
            data: None,
        }
    }
}

impl From<store::Attempt> for Attempt {
    fn from(attempt: store::Attempt) -> Self {
        Attempt {
            time: attempt.at.rfc3339(),
            status: attempt.status,
            duration_ms: u64::try_from(attempt.duration.as_millis()).unwrap_or(u64::MAX),
            error: attempt.error,
            detail: attempt.detail,
        }
    }
}

/// Where a delivery stands after it was replayed or cancelled. No more: who may do that may not read its history yet.
#[derive(Serialize)]
pub struct Standing {
    pub id: Uuid,
    pub state: State,
}

/// A replay of many.
#[derive(Serialize)]
pub struct Progress {
    id: Uuid,
    hook: Option<String>,
    state: Option<State>,
    event: Option<String>,
    since: Option<String>,
    until: Option<String>,
    rate: u32,
    replayed: u64,
    done: bool,
}

impl From<Replay> for Progress {
    fn from(replay: Replay) -> Self {
        let filter = replay.filter;
        Progress {
            id: replay.id,
            hook: filter.hook,
            state: filter.state,
            event: filter.event,
            since: filter.since.map(Millis::rfc3339),
            until: filter.until.map(Millis::rfc3339),
            rate: replay.rate,
            replayed: replay.replayed,
            done: replay.done,
        }
    }
}

/// An event, and what became of it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    id: String,
    origin: String,
    source: String,
    event: String,
    time: String,
    accepted_time: String,
    pub deliveries: Vec<Explained>,
    /// Hooks of the namespace, as they are today, that got no delivery of it.
    pub others: Vec<Other>,
    /// How many more there are than are told.
    pub others_left_out: usize,
}

/// A delivery, and what became of it in words.
#[derive(Serialize)]
pub struct Explained {
    #[serde(flatten)]
    pub delivery: Delivery,
    pub explanation: String,
}

/// A hook that got no delivery, and why.
#[derive(Serialize)]
pub struct Other {
    pub hook: String,
    pub reason: &'static str,
    pub explanation: String,
}

impl Explanation {
    pub fn of(event: &Event, accepted: Millis) -> Self {
        Explanation {
            id: event.id.clone(),
            origin: event.origin.to_string(),
            source: event.source.clone(),
            event: event.event.clone(),
            time: event.time.clone(),
            accepted_time: accepted.rfc3339(),
            deliveries: Vec::new(),
            others: Vec::new(),
            others_left_out: 0,
        }
    }
}
