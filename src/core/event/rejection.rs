//! Why the bytes of an event are rejected, and the limits that the messages name.

use std::fmt;

use super::hops::MAX_HOPS;

/// Maximum number of events in a batch.
pub const MAX_BATCH: usize = 1000;
/// Maximum nesting of `data`. Filters, gates and templates parse it later, and none of them can read more levels.
pub const MAX_DEPTH: usize = 127;
/// Maximum length in bytes of a source or an event name.
pub const MAX_NAME: usize = 253;
/// Maximum length in bytes of an event id.
pub(super) const MAX_ID: usize = 512;
/// Maximum number of CloudEvents attributes besides the required ones.
pub(super) const MAX_ATTRIBUTES: usize = 64;

/// Why an event is rejected. The sender receives this message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
pub enum InvalidEvent {
    #[error("the body is not a JSON object: {0}")]
    NotJson(String),
    #[error("the body is not a JSON list of events: {0}")]
    NotJsonList(String),
    #[error("the data is not JSON: {0}")]
    DataNotJson(String),
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{field} must be {want}")]
    WrongType { field: String, want: &'static str },
    #[error("{field} is longer than {max} bytes")]
    TooLong { field: String, max: usize },
    #[error("the event has more than {MAX_ATTRIBUTES} attributes")]
    TooManyAttributes,
    #[error("specversion {0} is not supported: send CloudEvents 1.0")]
    SpecVersion(String),
    #[error(
        "content type {0} is not supported: send application/json, application/cloudevents+json or \
         application/cloudevents-batch+json, or any type with the ce- headers of a CloudEvent"
    )]
    ContentType(String),
    #[error("the header {0} is not a valid CloudEvents attribute: {1}")]
    Header(String, &'static str),
    #[error("data_base64 cannot be read: {0}")]
    Base64(&'static str),
    #[error("data is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("the batch has more than {MAX_BATCH} events: send several batches")]
    TooMany,
    #[error("the event is larger than {0} bytes")]
    TooBig(usize),
    #[error("the source {0} is reserved for the vendor's own events: choose another")]
    ReservedSource(String),
    #[error("the event has passed through {MAX_HOPS} hooks: two of them feed each other")]
    TooManyHops,
}

/// Why a publish request is rejected. `index` names the event of a batch, counted from 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct EventRejection {
    pub index: Option<usize>,
    pub error: InvalidEvent,
}

impl fmt::Display for EventRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            Some(index) => write!(f, "event {index} of the batch: {}", self.error),
            None => self.error.fmt(f),
        }
    }
}

impl From<InvalidEvent> for EventRejection {
    fn from(error: InvalidEvent) -> Self {
        EventRejection { index: None, error }
    }
}
