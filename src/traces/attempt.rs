//! The spans of an attempt: the time for which the delivery was due, and the attempt itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use uuid::Uuid;

use super::event_trace::{EventTrace, random_span_id};
use super::span::{SpanClock, SpanOutline, number, text};
use super::{Recorder, Traces};
use crate::core::event::Event;
use crate::core::trace::TraceParent;

/// The names of an attempt.
#[derive(Clone, Copy, Debug)]
pub struct AttemptNames<'a> {
    pub namespace: &'a str,
    pub hook: &'a str,
    pub delivery: Uuid,
    /// The number of the attempt, from 1.
    pub number: u32,
}

/// An attempt that is not over. Dropping it records nothing: no attempt was made.
pub struct AttemptSpan {
    recorder: Arc<Recorder>,
    trace: EventTrace,
    span_id: [u8; 8],
    clock: SpanClock,
    started: Instant,
    queued: Duration,
    attributes: Vec<KeyValue>,
}

impl Traces {
    /// Begins the span of an attempt that is due since `queued`. None: the event is not recorded.
    pub fn begin_attempt(
        &self,
        event: &Event,
        names: AttemptNames<'_>,
        queued: Duration,
    ) -> Option<Box<AttemptSpan>> {
        let recorder = self.0.as_ref()?;
        let trace = EventTrace::of(event, recorder.sample_ratio)?;
        let attributes = vec![
            text("hookstream.namespace", names.namespace),
            text("hookstream.hook", names.hook),
            text("hookstream.event.id", &event.id),
            text("hookstream.delivery.id", &names.delivery.to_string()),
            number("hookstream.attempt", u64::from(names.number)),
        ];
        // Boxed, because it would otherwise add to the size of every attempt.
        Some(Box::new(AttemptSpan {
            recorder: recorder.clone(),
            trace,
            span_id: random_span_id(),
            clock: SpanClock::start(),
            started: Instant::now(),
            queued,
            attributes,
        }))
    }
}

impl AttemptSpan {
    /// Returns the context that the receiver gets.
    pub fn context(&self) -> TraceParent {
        self.trace.context(self.span_id)
    }

    /// Records both spans. `status`: of the response, if there was one. `error`: why the attempt failed.
    pub fn end(self, status: Option<u16>, error: Option<&str>) {
        let AttemptSpan { recorder, trace, span_id, clock, started, queued, attributes } = self;
        let (start, end) = (clock.nanos(started), clock.nanos(Instant::now()));
        let queued = u64::try_from(queued.as_nanos()).unwrap_or(u64::MAX);
        let outline = |name, kind, span_id, (start, end)| SpanOutline {
            context: trace.context(span_id),
            parent: Some(trace.ingest),
            has_remote_parent: false,
            name,
            kind,
            start,
            end,
        };
        let queue =
            outline("queue", SpanKind::Internal, random_span_id(), (start.saturating_sub(queued), start));
        recorder.record(queue.build(attributes.clone(), None));
        let mut attributes = attributes;
        attributes.extend(status.map(|status| number("http.response.status_code", u64::from(status))));
        attributes.extend(error.map(|reason| text("error.type", reason)));
        let attempt = outline("attempt", SpanKind::Client, span_id, (start, end));
        recorder.record(attempt.build(attributes, error));
    }
}
