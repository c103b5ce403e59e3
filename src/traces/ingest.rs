//! The spans of a publish request: one per event, and the commit of the request within each.

use std::sync::Arc;
use std::time::Instant;

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

use super::event_trace::{EventTrace, random_span_id};
use super::span::{SpanClock, SpanOutline, flag, number, text};
use super::{Recorder, Traces};
use crate::core::event::Event;
use crate::core::trace::TraceParent;

/// The spans of a request that are not over. Without a recorded event, it is empty and costs nothing.
#[derive(Default)]
pub struct IngestSpans(Option<Box<RequestSpans>>);

struct RequestSpans {
    recorder: Arc<Recorder>,
    clock: SpanClock,
    started: Instant,
    commit_started: Option<Instant>,
    commit_ended: Option<Instant>,
    /// One for each event of the request, in its order. None: the event is not recorded.
    events: Vec<Option<EventSpan>>,
}

struct EventSpan {
    trace: EventTrace,
    parent: Option<[u8; 8]>,
    attributes: Vec<KeyValue>,
}

impl Traces {
    /// Begins the spans of a request's events, which started at `started`. `caller`: the trace context in the headers of the
    /// request. It is the parent if it is in the trace of the event: an event that passed through another hook keeps the
    /// context in which it was created.
    pub fn begin_ingest<'a>(
        &self,
        events: impl IntoIterator<Item = &'a Event>,
        caller: Option<TraceParent>,
        started: Instant,
    ) -> IngestSpans {
        let Some(recorder) = &self.0 else { return IngestSpans::default() };
        let events: Vec<_> =
            events.into_iter().map(|event| EventSpan::begin(event, caller, recorder.sample_ratio)).collect();
        if events.iter().all(Option::is_none) {
            return IngestSpans::default();
        }
        IngestSpans(Some(Box::new(RequestSpans {
            recorder: recorder.clone(),
            clock: SpanClock::start(),
            started,
            commit_started: None,
            commit_ended: None,
            events,
        })))
    }
}

impl EventSpan {
    fn begin(event: &Event, caller: Option<TraceParent>, sample_ratio: f64) -> Option<EventSpan> {
        let trace = EventTrace::of(event, sample_ratio)?;
        let caller = caller.filter(|caller| caller.trace_id == trace.trace_id);
        let parent = caller.map(|caller| caller.span_id).or(trace.parent);
        let attributes = vec![
            text("hookstream.namespace", &event.namespace),
            text("hookstream.source", &event.source),
            text("hookstream.event", &event.event),
            text("hookstream.event.id", &event.id),
            text("hookstream.origin", event.origin.kind()),
        ];
        Some(EventSpan { trace, parent, attributes })
    }
}

impl IngestSpans {
    /// Notes that the commit begins.
    pub fn begin_commit(&mut self) {
        if let Some(spans) = &mut self.0 {
            spans.commit_started = Some(Instant::now());
        }
    }

    /// Notes that the commit is over.
    pub fn end_commit(&mut self) {
        if let Some(spans) = &mut self.0 {
            spans.commit_ended = Some(Instant::now());
        }
    }

    /// Records the spans. `result`: whether each event is a duplicate, and the number of its deliveries; or why the request
    /// was refused.
    pub fn end(self, result: Result<impl IntoIterator<Item = (bool, usize)>, &str>) {
        let Some(spans) = self.0 else { return };
        let RequestSpans { recorder, clock, started, commit_started, commit_ended, events } = *spans;
        let now = Instant::now();
        let (start, end) = (clock.nanos(started), clock.nanos(now));
        let commit = commit_started.map(|at| (clock.nanos(at), clock.nanos(commit_ended.unwrap_or(now))));
        let (mut accepted, error) = match result {
            Ok(accepted) => (Some(accepted.into_iter()), None),
            Err(reason) => (None, Some(reason)),
        };
        for event in events {
            let outcome = accepted.as_mut().and_then(Iterator::next);
            let Some(EventSpan { trace, parent, mut attributes }) = event else { continue };
            let is_duplicate = outcome.is_some_and(|(is_duplicate, _)| is_duplicate);
            // The span of the first request has the id that is computed from the event.
            let span_id = if is_duplicate || error.is_some() { random_span_id() } else { trace.ingest };
            if let Some((_, deliveries)) = outcome {
                attributes.push(number("hookstream.deliveries", deliveries as u64));
                attributes.push(flag("hookstream.duplicate", is_duplicate));
            }
            attributes.extend(error.map(|reason| text("error.type", reason)));
            let ingest = SpanOutline {
                context: trace.context(span_id),
                parent,
                has_remote_parent: true,
                name: "ingest",
                kind: SpanKind::Server,
                start,
                end,
            };
            recorder.record(ingest.build(attributes, error));
            let Some((start, end)) = commit else { continue };
            let commit = SpanOutline {
                context: trace.context(random_span_id()),
                parent: Some(span_id),
                has_remote_parent: false,
                name: "commit",
                kind: SpanKind::Internal,
                start,
                end,
            };
            recorder.record(commit.build(Vec::new(), error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::trace::PARENT;
    use crate::metrics::Metrics;
    use crate::traces::testing::event;

    const SENDER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn parent_is_the_caller_if_it_is_in_the_trace() {
        let (traces, mut spans) = Traces::with_queue(9, 1.0, Arc::new(Metrics::default()));
        let attributes = [(PARENT.to_owned(), SENDER.into())].into();
        let event = Event { attributes, ..event("1") };
        let other_span = SENDER.replace("00f067aa0ba902b7", "1111111111111111");
        let other_trace = other_span.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"2".repeat(32));
        for (caller, parent) in [
            (SENDER, "00f067aa0ba902b7"),
            (&other_span, "1111111111111111"),
            (&other_trace, "00f067aa0ba902b7"),
        ] {
            traces.begin_ingest([&event], TraceParent::parse(caller), Instant::now()).end(Ok([(false, 1)]));
            let span = spans.try_recv().unwrap();
            assert_eq!(hex::encode(&span.parent_span_id), parent, "{caller}");
            assert_eq!(hex::encode(&span.trace_id), "4bf92f3577b34da6a3ce929d0e0e4736", "{caller}");
        }
    }

    #[test]
    fn duplicate_and_refused_event_do_not_have_the_id_of_the_first() {
        let (traces, mut spans) = Traces::with_queue(9, 1.0, Arc::new(Metrics::default()));
        let begin = || traces.begin_ingest([&event("1")], None, Instant::now());
        begin().end(Ok([(false, 1)]));
        begin().end(Ok([(true, 1)]));
        begin().end(Err::<[_; 1], _>("Busy"));
        let [first, duplicate, refused] = std::array::from_fn(|_| spans.try_recv().unwrap());
        assert!(first.span_id != duplicate.span_id && first.span_id != refused.span_id);
        assert!(first.status.is_none() && refused.status.is_some_and(|status| status.message == "Busy"));
    }

    #[test]
    fn each_event_of_a_batch_has_its_own_result() {
        let (traces, mut spans) = Traces::with_queue(9, 1.0, Arc::new(Metrics::default()));
        let unsampled = SENDER.replace("-01", "-00");
        let unsampled = Event { attributes: [(PARENT.to_owned(), unsampled.into())].into(), ..event("2") };
        let batch = [event("1"), unsampled, event("3")];
        traces.begin_ingest(&batch, None, Instant::now()).end(Ok([(false, 10), (false, 20), (false, 30)]));
        let recorded: Vec<_> =
            std::iter::from_fn(|| spans.try_recv().ok()).map(|span| span.attributes).collect();
        let expected = |id: &str, deliveries| {
            [text("hookstream.event.id", id), number("hookstream.deliveries", deliveries)]
        };
        assert_eq!(recorded.len(), 2, "{recorded:#?}");
        for (attributes, expected) in recorded.iter().zip([expected("1", 10), expected("3", 30)]) {
            assert!(expected.iter().all(|attribute| attributes.contains(attribute)), "{attributes:#?}");
        }
    }

    #[test]
    fn records_nothing_without_a_collector() {
        assert!(Traces::default().begin_ingest([&event("1")], None, Instant::now()).0.is_none());
    }
}
