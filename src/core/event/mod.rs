//! Events: how they are read from bytes and written to receivers.
//!
//! Foreign bytes end here: whatever arrives, the answer is an event or a reason. JSON that is only passed on is kept as
//! the text that came, so that numbers and order survive.

mod binary;
mod members;
mod parse;
mod render;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

pub use parse::{
    BadEvent, Draft, MAX_BATCH, MAX_DEPTH, Published, Rejected, is_batch, parse_published, parse_relayed,
    parse_request, parse_streamed,
};

/// The source of Auth0's events.
const AUTH0: &str = "auth0";
/// The sources that only vendors may emit: an API caller that could would forge a vendor's events.
pub const RESERVED_SOURCES: [&str; 2] = [AUTH0, "kong:event_hooks"];
/// The CloudEvents attribute that counts how many hooks an event has been through.
pub const HOPS_ATTRIBUTE: &str = "hookstreamhops";
/// At this many hops an event is refused: two hooks that feed each other stop.
pub const MAX_HOPS: u32 = 8;

/// Where an event came in.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Origin {
    /// Published by an API caller.
    Api,
    /// Relayed by Kong for the EventHook of this name.
    Relay(String),
    /// Sent by Auth0 for the EventStream of this name.
    Stream(String),
}

impl Origin {
    /// Without the name: a metric's label.
    pub fn kind(&self) -> &'static str {
        match self {
            Origin::Api => "api",
            Origin::Relay(_) => "relay",
            Origin::Stream(_) => "stream",
        }
    }

    /// True where the sender brings again what is refused, and brings it to one hook alone. What that hook has no room
    /// for is refused then: kept as a dead letter, it would have to be replayed by somebody.
    pub fn comes_again(&self) -> bool {
        matches!(self, Origin::Relay(_))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Api => f.write_str("api"),
            Origin::Relay(name) => write!(f, "relay/{name}"),
            Origin::Stream(name) => write!(f, "stream/{name}"),
        }
    }
}

impl From<Origin> for String {
    fn from(origin: Origin) -> String {
        origin.to_string()
    }
}

impl TryFrom<String> for Origin {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once('/') {
            None if text == "api" => Ok(Origin::Api),
            Some(("relay", name)) => Ok(Origin::Relay(name.to_owned())),
            Some(("stream", name)) => Ok(Origin::Stream(name.to_owned())),
            _ => Err(format!("unknown origin {text}")),
        }
    }
}

/// One accepted event.
///
/// `source` is its own, and goes out with it; hooks ask for its `family`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Event {
    /// The sender's id, or one made here (UUIDv7).
    pub id: String,
    pub namespace: String,
    pub origin: Origin,
    pub source: String,
    pub event: String,
    /// When it happened, as the sender wrote it (RFC 3339); else when it was accepted.
    pub time: String,
    /// JSON, as the text that came.
    pub data: Box<RawValue>,
    /// Every other CloudEvents attribute: text, whole number or boolean.
    pub attributes: BTreeMap<String, Value>,
}

impl Event {
    /// The source by which hooks name it: Auth0's events are `auth0`, whatever tenant they are of.
    pub fn family(&self) -> &str {
        match self.origin {
            Origin::Stream(_) => AUTH0,
            Origin::Api | Origin::Relay(_) => &self.source,
        }
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        (
            &self.id,
            &self.namespace,
            &self.origin,
            &self.source,
            &self.event,
            &self.time,
            self.data.get(),
            &self.attributes,
        ) == (
            &other.id,
            &other.namespace,
            &other.origin,
            &other.source,
            &other.event,
            &other.time,
            other.data.get(),
            &other.attributes,
        )
    }
}

/// How many hooks an event with these attributes has been through.
pub fn hops(attributes: &BTreeMap<String, Value>) -> u32 {
    match attributes.get(HOPS_ATTRIBUTE) {
        Some(Value::Number(n)) => n.as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
        Some(Value::String(text)) => hops_of(text),
        _ => 0,
    }
}

/// The same, from text; 0 for what is no count.
pub fn hops_of(text: &str) -> u32 {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    // A count too big for a number is not none.
    if digits { text.parse().unwrap_or(u32::MAX) } else { 0 }
}

#[cfg(test)]
mod tests;
