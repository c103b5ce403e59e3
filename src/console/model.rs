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
    /// The event's, with the data.
    #[serde(default)]
    pub subject: Option<String>,
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
    #[serde(default)]
    pub deliveries: BTreeMap<String, usize>,
    #[serde(default)]
    pub hooks: BTreeSet<String>,
    #[serde(default)]
    pub deliveries_left_out: bool,
    #[serde(default)]
    pub data: Option<Box<RawValue>>,
    /// With the data.
    #[serde(default)]
    pub subject: Option<String>,
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
    /// The result of its filter, if that decided.
    #[serde(default)]
    pub filter: Option<FilterResult>,
}

/// What a change in bulk would change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DryRun {
    pub matching: usize,
    pub is_exact: bool,
}

/// A replay in bulk that was started.
#[derive(Debug, Deserialize)]
pub struct StartedReplay {
    pub id: String,
}

/// A part of a cancellation in bulk.
#[derive(Debug, Deserialize)]
pub struct Cancellation {
    pub cancelled: usize,
    #[serde(rename = "continue")]
    pub next: Option<String>,
}

/// A page of hooks.
#[derive(Debug, Deserialize)]
pub struct HookList {
    pub items: Vec<Hook>,
    #[serde(rename = "continue", default)]
    pub next: Option<String>,
    /// The number of hooks in each state.
    #[serde(default)]
    pub counts: BTreeMap<String, u64>,
}

/// A hook and the state of its deliveries.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hook {
    pub namespace: String,
    pub name: String,
    pub handler: Option<String>,
    pub source: Option<String>,
    pub event: Option<String>,
    pub host: Option<String>,
    pub state: String,
    pub reason: String,
    pub message: String,
    pub since: Option<String>,
    pub pending: Option<u64>,
    pub oldest_time: Option<String>,
    pub last_success_time: Option<String>,
    pub p95_ms: Option<f64>,
    /// Its recent dead letters, if the page read them.
    #[serde(skip)]
    pub dead_letters: Option<String>,
}

/// A hook with what explains the state of its deliveries.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HookDetail {
    #[serde(flatten)]
    pub hook: Hook,
    pub created_time: Option<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    pub spec: Option<serde_json::Value>,
    pub conditions: Vec<Condition>,
    pub held: Option<Hold>,
    pub breaker: Option<Breaker>,
    pub timeline: Vec<HealthChange>,
    pub filter: Option<String>,
    pub connection: Option<String>,
    pub event_stream: Option<String>,
    pub external_id: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    pub reason: String,
    pub message: String,
    pub since: String,
}

/// An open circuit breaker.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Breaker {
    pub state: String,
    pub failures: u32,
    pub attempts: u32,
    pub pause_ms: u64,
    pub next_probe_time: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct HealthChange {
    pub time: String,
    pub healthy: bool,
    pub reason: String,
    pub message: String,
}

/// What a test run did.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TestResult {
    pub delivered: bool,
    pub reason: Option<String>,
    pub detail: Option<String>,
    pub status: Option<u16>,
    pub duration_ms: u64,
    pub exchange: Option<Exchange>,
    #[serde(default)]
    pub functions: Vec<FunctionResult>,
}

/// The result of a Lua function.
#[derive(Debug, Deserialize)]
pub struct FunctionResult {
    pub ok: bool,
    pub result: Option<serde_json::Value>,
    pub error: Option<String>,
}

/// A replay of many deliveries.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replay {
    pub id: String,
    pub namespace: String,
    pub hook: Option<String>,
    pub state: Option<String>,
    pub event: Option<String>,
    pub since: Option<String>,
    pub until: Option<String>,
    pub rate: u32,
    pub started_time: String,
    pub replayed: u64,
    /// The deliveries that still match, if the page counted them.
    #[serde(skip)]
    pub left: Option<DryRun>,
    pub done: bool,
    pub cancelled: bool,
    #[serde(default)]
    pub error: Option<String>,
}

/// The state of the installation.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub healthy: bool,
    pub version: Version,
    pub leader: Leader,
    pub connections: Items<Object>,
    pub not_ready: Items<Object>,
    pub backlog: Backlog,
    pub dead_letters: DeadLetters,
    pub disk: Disk,
    pub memory: Memory,
}

/// The leader of the controllers.
#[derive(Debug, Deserialize)]
pub struct Leader {
    pub state: String,
    pub holder: Option<String>,
    pub since: Option<String>,
    pub message: Option<String>,
    pub role: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct Version {
    pub version: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Items<T> {
    pub items: Vec<T>,
    pub left_out: usize,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backlog {
    pub pending: u64,
    pub oldest_time: Option<String>,
    pub exact: bool,
}

#[derive(Debug, Deserialize)]
pub struct DeadLetters {
    #[serde(rename = "last24h", alias = "last_24h", alias = "last24H")]
    pub last_day: u64,
    pub exact: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    pub used_ratio: Option<f64>,
    pub closed: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    pub used_bytes: u64,
    pub budget_bytes: u64,
}

/// An object with its readiness and what the vendor has of it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Object {
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub ready: String,
    pub reason: String,
    pub message: String,
    pub since: Option<String>,
    #[serde(default)]
    pub connection: Option<String>,
    #[serde(default)]
    pub external_id: Option<String>,
    #[serde(default)]
    pub endpoint: Option<String>,
    #[serde(default)]
    pub drift: Option<String>,
    #[serde(default)]
    pub last_error: Option<LastError>,
    #[serde(default)]
    pub stream: Option<Stream>,
    #[serde(default)]
    pub version: Option<String>,
}

/// The last error of a vendor's admin API.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastError {
    pub http_status: Option<i32>,
    pub message: String,
    pub time: Option<String>,
}

/// The state of an event stream at Auth0.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stream {
    pub server_status: Option<String>,
    pub disabled_by_vendor: bool,
    pub recovers: bool,
    pub reenabled_time: Option<String>,
}

/// The rates of the last hour.
#[derive(Debug, Deserialize)]
pub struct Rates {
    pub minutes: Vec<Minute>,
    pub hour: Minute,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Minute {
    pub accepted: u64,
    pub delivered: u64,
    pub failed: u64,
    pub accept_p99_ms: Option<f64>,
    pub attempt_p99_ms: Option<f64>,
}

/// The sources and their events.
#[derive(Debug, Deserialize)]
pub struct SourceList {
    pub items: Vec<Source>,
    pub truncated: bool,
}

#[derive(Debug, Deserialize)]
pub struct Source {
    pub source: String,
    pub catalogue: Option<String>,
    pub hooks: u64,
    pub events: Vec<SourceEvent>,
}

#[derive(Debug, Deserialize)]
pub struct SourceEvent {
    pub event: String,
    pub description: Option<String>,
    pub fields: Vec<String>,
    pub unique: Vec<String>,
    pub sample: Option<serde_json::Value>,
    pub hooks: u64,
}

/// The result of a filter on an event.
#[derive(Debug, Deserialize)]
pub struct FilterResult {
    pub filter: String,
    pub verdict: String,
    pub error: Option<String>,
    pub line: Option<usize>,
    pub column: Option<usize>,
    pub parts: Vec<FilterPart>,
}

/// An operand of a filter, and its own result.
#[derive(Debug, Deserialize)]
pub struct FilterPart {
    pub depth: usize,
    pub expression: String,
    pub result: Option<bool>,
    pub error: Option<String>,
}

/// An accepted event.
#[derive(Debug, Deserialize)]
pub struct Published {
    pub id: String,
}
