//! Deliveries with their history, as the API and the CLI show them.

use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{DeliverySeq, HookId};
use crate::core::event::Event;
use crate::core::time::Millis;

/// One attempt to deliver.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptRecord {
    pub at: Millis,
    pub duration: Duration,
    /// The HTTP status, if there was a response.
    pub status: Option<u16>,
    /// A stable reason (`Timeout`, `Connect`, `Status`, ...). None: success.
    pub error: Option<String>,
    /// A short explanation for people: redacted, bounded.
    pub detail: Option<String>,
}

/// A delivery with its history.
#[derive(Clone, Debug, PartialEq)]
pub struct DeliveryRecord {
    pub seq: DeliverySeq,
    pub id: Uuid,
    pub hook: HookId,
    pub event_id: String,
    pub state: DeliveryState,
    pub reason: Option<String>,
    pub accepted: Millis,
    pub due: Option<Millis>,
    pub attempts: Vec<AttemptRecord>,
}

/// The state of a delivery.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    JsonSchema,
    strum::EnumCount,
    strum::IntoStaticStr,
    strum::EnumString,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum DeliveryState {
    Pending,
    Delivered,
    Dead,
    /// Dropped by a gate; the reason says which (`Snoozed`, `Unchanged`, `Superseded`).
    Dropped,
    Cancelled,
}

/// The namespace of a filter that selects all namespaces. Only lists take it.
pub const ALL_NAMESPACES: &str = "";

/// Returns true if a filter with this namespace selects objects of that one.
pub fn selects_namespace(filter: &str, namespace: &str) -> bool {
    filter == ALL_NAMESPACES || filter == namespace
}

/// Selects deliveries of one namespace, or of `ALL_NAMESPACES`. Stored with a replay job (as JSON), so the field names are part of the format.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryFilter {
    pub namespace: String,
    /// The name of the hook.
    pub hook: Option<String>,
    pub state: Option<DeliveryState>,
    /// The id of the event.
    pub event: Option<String>,
    /// Accepted at or after this time.
    pub since: Option<Millis>,
    /// Accepted before this time.
    pub until: Option<Millis>,
}

/// A part of a list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeliveryPage {
    pub records: Vec<DeliveryRecord>,
    /// Continues the list: the value of `before` for the next page. None: the list is complete.
    ///
    /// A page can have fewer deliveries than requested, or none, and still have a next page: a read ends when it has
    /// examined a bounded number of rows.
    pub next: Option<DeliverySeq>,
}

/// An accepted event with its deliveries.
#[derive(Clone, Debug, PartialEq)]
pub struct EventExplanation {
    pub event: Arc<Event>,
    pub accepted: Millis,
    /// The deliveries, up to a bounded number.
    pub deliveries: Vec<DeliveryRecord>,
    /// The number of further deliveries, up to a bounded number.
    pub left_out: usize,
}

/// A part of a count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartialCount {
    pub count: usize,
    /// Continues the count: the value of `before` for the next part. None: the count is complete.
    pub next: Option<DeliverySeq>,
}

/// A replay of many deliveries and its progress. It continues after a restart.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplayJob {
    pub id: Uuid,
    pub filter: DeliveryFilter,
    /// The most deliveries per second.
    pub rate: u32,
    pub started: Millis,
    pub replayed: u64,
    pub done: bool,
    /// True if it was cancelled, and so is done before it reached its end.
    pub cancelled: bool,
    /// Why it cannot go on.
    pub error: Option<String>,
}
