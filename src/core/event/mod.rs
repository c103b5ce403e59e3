//! Events: parsed from request bodies, rendered for receivers.
//!
//! Untrusted bytes are validated here: parsing returns an event draft or the reason for rejecting it. JSON that is only
//! forwarded keeps its original text, so that numbers and member order survive. Everything that looks into an event's data
//! reads it with [`data`].

mod attributes;
mod binary;
pub mod data;
mod draft;
mod hops;
mod members;
mod parse;
mod payload;
mod rejection;
mod render;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use draft::{EventDraft, PublishedEvents};
pub use hops::{HOPS_ATTRIBUTE, MAX_HOPS, hops, hops_of};
pub use parse::{is_batch, parse_published, parse_relayed, parse_request, parse_streamed, parse_test_data};
pub use payload::{DataForm, EventData};
pub use rejection::{EventRejection, InvalidEvent, MAX_BATCH, MAX_DEPTH, MAX_NAME};
pub use render::BinaryEvent;

use payload::MediaType;

/// The source name of Auth0's events.
const AUTH0: &str = "auth0";
/// The CloudEvents attribute with the content type of the data.
pub(super) const CONTENT_TYPE_ATTRIBUTE: &str = "datacontenttype";
/// Sources that API clients may not use, because they would forge a vendor's events.
pub const RESERVED_SOURCES: [&str; 2] = [AUTH0, "kong:event_hooks"];

/// The channel through which an event was received.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Origin {
    /// Published by an API client.
    Api,
    /// Relayed by Kong for the EventHook of this name.
    Relay(String),
    /// Sent by Auth0 for the EventStream of this name.
    Stream(String),
}

impl Origin {
    /// Returns the origin without the object's name, for use as a metric label.
    pub fn kind(&self) -> &'static str {
        match self {
            Origin::Api => "api",
            Origin::Relay(_) => "relay",
            Origin::Stream(_) => "stream",
        }
    }

    /// Returns true if the sender retries a rejected event and sends it to one hook only. If that hook's backlog is
    /// full, the worker then rejects the event instead of storing a dead delivery, which a user would have to replay.
    pub fn redelivers_rejected(&self) -> bool {
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

/// An accepted event.
///
/// Receivers get `source`. Hooks select events by [`Event::family`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// The sender's id, or a generated UUIDv7.
    pub id: String,
    pub namespace: String,
    pub origin: Origin,
    pub source: String,
    pub event: String,
    /// When the event happened, as the sender wrote it (RFC 3339). Defaults to the time at which it was accepted.
    pub time: String,
    pub data: EventData,
    /// All other CloudEvents attributes: strings, whole numbers and booleans.
    pub attributes: BTreeMap<String, Value>,
}

impl Event {
    /// Returns the source name that hooks select by. It is `auth0` for the events of every Auth0 tenant.
    pub fn family(&self) -> &str {
        match self.origin {
            Origin::Stream(_) => AUTH0,
            Origin::Api | Origin::Relay(_) => &self.source,
        }
    }

    /// Returns the data's content type as the sender declared it.
    pub fn content_type(&self) -> Option<&str> {
        self.attributes.get(CONTENT_TYPE_ATTRIBUTE).and_then(Value::as_str)
    }

    /// Returns the attribute `subject`: what the event is about within its source.
    pub fn subject(&self) -> Option<&str> {
        self.attributes.get("subject").and_then(Value::as_str)
    }

    /// Returns true if the data is a JSON value, or absent. Otherwise it is text or bytes, and its view is a string.
    pub fn has_json_data(&self) -> bool {
        match self.data.form() {
            DataForm::Absent => true,
            DataForm::Bytes => false,
            // Text is always a string. Another value is JSON, whatever its declared type.
            DataForm::Inline | DataForm::Encoded => {
                !self.data.get().starts_with('"')
                    || matches!(MediaType::of(self.content_type()), MediaType::Json | MediaType::Unknown)
            }
        }
    }
}

#[cfg(test)]
mod tests;
