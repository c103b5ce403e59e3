//! Metrics, named by the Prometheus conventions. Labels come from closed sets: kinds, stable reasons, states.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Every metric of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    reconciles: Family<Reconcile, Counter>,
    reconcile_seconds: Family<KindLabel, Histogram>,
    ingested: Family<Ingest, Counter>,
    attempts: Family<AttemptLabel, Counter>,
    attempt_seconds: Histogram,
    finished: Family<Finished, Counter>,
    in_flight: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reconcile {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ingest {
    route: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Finished {
    state: &'static str,
    reason: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("hookstream");
        let reconciles = Family::<Reconcile, Counter>::default();
        registry.register(
            "reconciles",
            "Reconciles by kind and outcome (Applied, or the reason of a problem)",
            reconciles.clone(),
        );
        let reconcile_seconds = Family::<KindLabel, Histogram>::new_with_constructor(|| {
            Histogram::new(exponential_buckets(0.001, 4.0, 8))
        });
        registry.register_with_unit(
            "reconcile_duration",
            "Time of a reconcile",
            Unit::Seconds,
            reconcile_seconds.clone(),
        );
        let ingested = Family::<Ingest, Counter>::default();
        registry.register("ingest_requests", "Requests at the ingest port by route and outcome (Accepted, Duplicate, Ping, or the reason of a refusal)", ingested.clone());
        let attempts = Family::<AttemptLabel, Counter>::default();
        registry.register(
            "delivery_attempts",
            "Attempts by outcome (Delivered, or the class of the failure)",
            attempts.clone(),
        );
        let attempt_seconds = Histogram::new(exponential_buckets(0.002, 3.0, 9));
        registry.register_with_unit(
            "delivery_attempt_duration",
            "Time of an attempt",
            Unit::Seconds,
            attempt_seconds.clone(),
        );
        let finished = Family::<Finished, Counter>::default();
        registry.register(
            "deliveries_finished",
            "Deliveries that ended, by state (delivered, dead) and reason",
            finished.clone(),
        );
        let in_flight = Gauge::default();
        registry.register("deliveries_in_flight", "Attempts under way", in_flight.clone());
        Metrics {
            registry,
            reconciles,
            reconcile_seconds,
            ingested,
            attempts,
            attempt_seconds,
            finished,
            in_flight,
        }
    }
}

impl Metrics {
    pub fn reconciled(&self, kind: &'static str, outcome: &'static str, took: Duration) {
        self.reconciles.get_or_create(&Reconcile { kind, outcome }).inc();
        self.reconcile_seconds.get_or_create(&KindLabel { kind }).observe(took.as_secs_f64());
    }

    pub fn ingested(&self, route: &'static str, outcome: &'static str) {
        self.ingested.get_or_create(&Ingest { route, outcome }).inc();
    }

    pub fn attempt_started(&self) {
        self.in_flight.inc();
    }

    pub fn attempted(&self, outcome: &'static str, took: Duration) {
        self.in_flight.dec();
        self.attempts.get_or_create(&AttemptLabel { outcome }).inc();
        self.attempt_seconds.observe(took.as_secs_f64());
    }

    pub fn finished(&self, state: &'static str, reason: &'static str) {
        self.finished.get_or_create(&Finished { state, reason }).inc();
    }

    /// The text that Prometheus reads.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        encode(&mut text, &self.registry).ok();
        text
    }
}
