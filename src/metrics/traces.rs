//! Metrics of the export of traces.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use strum::VariantArray;

/// The outcome of a recorded span.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum SpanOutcome {
    /// The collector accepted it.
    Exported,
    /// It was dropped, because the collector does not keep up.
    QueueFull,
    /// It was dropped, because the collector was unavailable or refused the request.
    ExportFailed,
    /// The collector accepted the request and rejected this span.
    Rejected,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SpanLabel {
    outcome: &'static str,
}

impl From<SpanOutcome> for SpanLabel {
    fn from(outcome: SpanOutcome) -> Self {
        SpanLabel { outcome: outcome.into() }
    }
}

/// Counts spans by outcome.
#[derive(Debug, Default)]
pub struct TraceMetrics {
    spans: Family<SpanLabel, Counter>,
}

impl TraceMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = TraceMetrics::default();
        registry.register(
            "trace_spans",
            "Recorded spans, by outcome (exported, queue_full, export_failed, rejected)",
            metrics.spans.clone(),
        );
        for &outcome in SpanOutcome::VARIANTS {
            // Export zeros, so that a rate includes the first dropped spans.
            metrics.record(outcome, 0);
        }
        metrics
    }

    /// Counts spans.
    pub fn record(&self, outcome: SpanOutcome, count: u64) {
        self.spans.get_or_create(&outcome.into()).inc_by(count);
    }
}
