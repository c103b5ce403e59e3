//! Traces of events, exported to a collector over OTLP/HTTP: ingest, commit, the time in the queue, and each attempt.
//!
//! Invariants: without a collector, nothing is computed or allocated. Recording never waits: a full queue drops the span
//! and counts it. A span holds names, ids, counts and statuses, and never a payload, a URL, a header or a secret. The ids of
//! an event's spans are computed from the event, so that they are the same after a restart, and the stored event is the one
//! that was published.
//!
//! Out of scope: parsing of `traceparent`, and passing it on (`core::trace`).

mod attempt;
mod batch_export;
mod event_trace;
mod headers_file;
mod ingest;
mod span;

use std::sync::Arc;

use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::sync::mpsc;

pub use attempt::{AttemptNames, AttemptSpan};
pub use batch_export::{Collector, ExportTask};
pub use headers_file::{HeadersFile, HeadersFileError};
pub use ingest::IngestSpans;

use crate::metrics::{Metrics, SpanOutcome};

/// Spans that may wait for their export. A span has at most a kilobyte, so that they need at most 8 MB.
const QUEUE_CAPACITY: usize = 8192;

/// Records spans. Clones share their queue. The default records nothing.
#[derive(Clone, Default)]
pub struct Traces(Option<Arc<Recorder>>);

/// The queue of spans, and what is recorded.
struct Recorder {
    queue: mpsc::Sender<Span>,
    /// The fraction of the traces that begin here which are recorded, 0 to 1.
    sample_ratio: f64,
    metrics: Arc<Metrics>,
}

impl Recorder {
    fn record(&self, span: Span) {
        if self.queue.try_send(span).is_err() {
            self.metrics.traces.record(SpanOutcome::QueueFull, 1);
        }
    }
}

impl Traces {
    /// Returns traces with a queue of this capacity, and the queue's other end.
    fn with_queue(
        capacity: usize,
        sample_ratio: f64,
        metrics: Arc<Metrics>,
    ) -> (Traces, mpsc::Receiver<Span>) {
        let (queue, spans) = mpsc::channel(capacity);
        (Traces(Some(Arc::new(Recorder { queue, sample_ratio, metrics }))), spans)
    }
}

#[cfg(test)]
mod testing {
    use crate::core::event::{Event, Origin};

    pub fn event(id: &str) -> Event {
        Event {
            id: id.into(),
            namespace: "n".into(),
            origin: Origin::Api,
            source: "s".into(),
            event: "e".into(),
            time: "2023-11-14T22:13:20Z".into(),
            data: serde_json::value::to_raw_value(&1).unwrap().into(),
            attributes: [].into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::testing::event;
    use super::*;

    #[test]
    fn full_queue_drops_spans_and_counts_them() {
        let metrics = Arc::new(Metrics::default());
        let (traces, mut spans) = Traces::with_queue(1, 1.0, metrics.clone());
        let mut begun = traces.begin_ingest([&event("1")], None, Instant::now());
        begun.begin_commit();
        begun.end(Ok([(false, 1)]));
        assert!(spans.try_recv().is_ok() && spans.try_recv().is_err());
        let dropped = r#"hookstream_trace_spans_total{outcome="queue_full"} 1"#;
        assert!(metrics.encode().contains(dropped), "{}", metrics.encode());
    }
}
