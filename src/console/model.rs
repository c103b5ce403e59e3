//! The parts of the API's responses that pages show. Unknown members are ignored.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::value::RawValue;

/// A page of a list.
#[derive(Debug, Deserialize)]
pub struct List<T> {
    pub items: Vec<T>,
    /// The token of the next page.
    #[serde(rename = "continue", default)]
    pub next: Option<String>,
}

/// A delivery with its history.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    pub id: String,
    pub namespace: String,
    pub event: String,
    pub hook: String,
    pub state: String,
    pub reason: Option<String>,
    pub accepted_time: String,
    pub attempts: Vec<Attempt>,
    pub next_attempt_time: Option<String>,
    pub held: Option<Hold>,
    #[serde(default)]
    pub data: Option<Box<RawValue>>,
    #[serde(default)]
    pub last_exchange: Option<Exchange>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    pub time: String,
    pub status: Option<u16>,
    pub duration_ms: u64,
    pub error: Option<String>,
    pub detail: Option<String>,
}

/// Why a pending delivery is not attempted now.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    pub reason: String,
    pub message: String,
    pub next_probe_time: Option<String>,
}

/// The request and the response of an attempt.
#[derive(Debug, Deserialize)]
pub struct Exchange {
    pub request: SentRequest,
    pub response: Option<ReceivedResponse>,
}

#[derive(Debug, Deserialize)]
pub struct SentRequest {
    pub method: String,
    pub url: String,
    pub headers: Vec<Header>,
    pub body: KeptBody,
}

#[derive(Debug, Deserialize)]
pub struct ReceivedResponse {
    pub status: u16,
    pub headers: Vec<Header>,
    pub body: KeptBody,
}

#[derive(Debug, Deserialize)]
pub struct Header {
    pub name: String,
    pub value: String,
}

#[derive(Debug, Deserialize)]
pub struct KeptBody {
    pub text: String,
    pub truncated: bool,
}

/// An event and the outcome of its deliveries.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    pub id: String,
    pub namespace: String,
    pub source: String,
    pub event: String,
    pub origin: String,
    pub time: String,
    pub accepted_time: String,
    pub outcome: String,
    #[serde(default)]
    pub deliveries: BTreeMap<String, usize>,
    #[serde(default)]
    pub hooks: BTreeSet<String>,
    #[serde(default)]
    pub deliveries_left_out: bool,
    #[serde(default)]
    pub data: Option<Box<RawValue>>,
}

/// The deliveries of an event, and why other hooks have none.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub deliveries: Vec<ExplainedDelivery>,
    pub deliveries_left_out: usize,
    pub others: Vec<UnmatchedHook>,
    pub others_left_out: usize,
}

#[derive(Debug, Deserialize)]
pub struct ExplainedDelivery {
    #[serde(flatten)]
    pub delivery: Delivery,
    pub explanation: String,
}

#[derive(Debug, Deserialize)]
pub struct UnmatchedHook {
    pub hook: String,
    pub reason: String,
    pub explanation: String,
}

/// The state of a delivery after a change.
#[derive(Debug, Deserialize)]
pub struct DeliveryState {
    pub state: String,
}

/// What a change in bulk would change.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DryRun {
    pub matching: usize,
    pub is_exact: bool,
}

/// A part of a cancellation in bulk.
#[derive(Debug, Deserialize)]
pub struct Cancellation {
    pub cancelled: usize,
    #[serde(rename = "continue")]
    pub next: Option<String>,
}
