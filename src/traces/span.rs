//! Builds spans in the format of OTLP.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, SpanFlags, Status};

use crate::core::conditions::cut;
use crate::core::trace::TraceParent;

/// The longest text of an attribute in bytes: senders choose some of them.
const MAX_TEXT: usize = 128;
/// The flag of a recorded trace.
const SAMPLED: u32 = 1;

/// Converts monotonic times to wall clock times, by a wall clock that is read once: otherwise a span would be negative after
/// a jump of the clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct SpanClock {
    wall: SystemTime,
    monotonic: Instant,
}

impl SpanClock {
    pub fn start() -> Self {
        SpanClock { wall: SystemTime::now(), monotonic: Instant::now() }
    }

    /// Returns nanoseconds since 1970.
    pub fn nanos(&self, at: Instant) -> u64 {
        let time = match at.checked_duration_since(self.monotonic) {
            Some(later) => self.wall.checked_add(later),
            None => self.wall.checked_sub(self.monotonic.duration_since(at)),
        };
        let since = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or(Duration::ZERO);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// What a span is of, without its attributes.
pub(super) struct SpanOutline {
    pub context: TraceParent,
    pub parent: Option<[u8; 8]>,
    /// True if the parent is a span of another process.
    pub has_remote_parent: bool,
    pub name: &'static str,
    pub kind: SpanKind,
    /// Nanoseconds since 1970.
    pub start: u64,
    pub end: u64,
}

impl SpanOutline {
    /// Builds the span. `error`: why it failed.
    pub fn build(self, attributes: Vec<KeyValue>, error: Option<&str>) -> Span {
        let remote = match (self.parent.is_some(), self.has_remote_parent) {
            (false, _) => 0,
            (true, false) => SpanFlags::ContextHasIsRemoteMask as u32,
            (true, true) => SpanFlags::ContextHasIsRemoteMask as u32 | SpanFlags::ContextIsRemoteMask as u32,
        };
        let failed = |reason: &str| Status {
            message: cut(reason, MAX_TEXT).to_owned(),
            code: StatusCode::Error.into(),
        };
        Span {
            trace_id: self.context.trace_id.to_vec(),
            span_id: self.context.span_id.to_vec(),
            parent_span_id: self.parent.map_or(Vec::new(), |id| id.to_vec()),
            flags: SAMPLED | remote,
            name: self.name.to_owned(),
            kind: self.kind.into(),
            start_time_unix_nano: self.start,
            end_time_unix_nano: self.end.max(self.start),
            attributes,
            status: error.map(failed),
            ..Span::default()
        }
    }
}

/// Returns an attribute with a text, which is cut to `MAX_TEXT`.
pub(super) fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(cut(value, MAX_TEXT).to_owned()))
}

pub(super) fn number(key: &str, value: u64) -> KeyValue {
    attribute(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
}

pub(super) fn flag(key: &str, value: bool) -> KeyValue {
    attribute(key, Value::BoolValue(value))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_converts_times_before_and_after_its_start() {
        let clock = SpanClock::start();
        let at = clock.nanos(clock.monotonic);
        assert_eq!(clock.nanos(clock.monotonic + Duration::from_secs(1)), at + 1_000_000_000);
        assert_eq!(clock.nanos(clock.monotonic - Duration::from_millis(1)), at - 1_000_000);
    }

    #[test]
    fn cuts_long_texts() {
        let long = "x".repeat(10 * MAX_TEXT);
        let Some(AnyValue { value: Some(Value::StringValue(value)) }) = text("k", &long).value else {
            panic!("a text");
        };
        assert_eq!(value.len(), MAX_TEXT);
    }
}
