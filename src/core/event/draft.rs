//! The result of parsing: an event as its sender wrote it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::payload::EventData;

/// An event as its sender wrote it.
#[derive(Clone, Debug)]
pub struct EventDraft {
    pub id: Option<String>,
    pub source: String,
    pub event: String,
    pub time: Option<String>,
    pub data: EventData,
    pub attributes: BTreeMap<String, Value>,
}

/// The events of one publish request.
#[derive(Clone, Debug)]
pub enum PublishedEvents {
    One(EventDraft),
    Batch(Vec<EventDraft>),
}
