//! Metrics, named by the Prometheus conventions. Labels come from closed sets: kinds, stable reasons, states.

use std::sync::atomic::AtomicU64;
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
    accepted: Family<OriginLabel, Counter>,
    ingest_seconds: Family<RouteLabel, Histogram>,
    delivery_seconds: Histogram,
    breakers_open: Gauge,
    api: Family<Api, Counter>,
    commit_seconds: Histogram,
    commit_group: Histogram,
    backlog: Backlog,
    disk_used: Ratio,
}

type Ratio = Gauge<f64, AtomicU64>;

/// What waits, as the last look found it.
#[derive(Debug, Default)]
struct Backlog {
    deliveries: Gauge,
    bytes: Gauge,
    oldest: Ratio,
    shares: Family<ShareLabel, Ratio>,
    store: Gauge,
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
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OriginLabel {
    origin: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabel {
    route: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Api {
    route: &'static str,
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ShareLabel {
    of: &'static str,
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
            "Attempts by outcome (Delivered, or the class of the failure) and class of the answer's status (none: no answer)",
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
        let accepted = Family::<OriginLabel, Counter>::default();
        registry.register(
            "events_accepted",
            "Events that were stored, by origin (api, relay, stream); duplicates are not counted",
            accepted.clone(),
        );
        let ingest_seconds = Family::<RouteLabel, Histogram>::new_with_constructor(|| {
            Histogram::new(exponential_buckets(0.0005, 3.0, 10))
        });
        registry.register_with_unit(
            "ingest_request_duration",
            "Time of a request at the ingest port, its commit included, by route",
            Unit::Seconds,
            ingest_seconds.clone(),
        );
        let delivery_seconds = Histogram::new(exponential_buckets(0.002, 4.0, 14));
        registry.register_with_unit(
            "delivery_duration",
            "Time from acceptance (or replay) to delivery",
            Unit::Seconds,
            delivery_seconds.clone(),
        );
        let breakers_open = Gauge::default();
        registry.register(
            "breakers_open",
            "Hooks whose circuit breaker is open: they are sent nothing but probes",
            breakers_open.clone(),
        );
        let api = Family::<Api, Counter>::default();
        registry.register(
            "api_requests",
            "Requests at the API port by route and class of the status",
            api.clone(),
        );
        let commit_seconds = Histogram::new(exponential_buckets(0.0001, 2.0, 16));
        registry.register_with_unit(
            "store_commit_duration",
            "Time of a group's transaction, its sync included",
            Unit::Seconds,
            commit_seconds.clone(),
        );
        let commit_group = Histogram::new(exponential_buckets(1.0, 2.0, 11));
        registry.register(
            "store_commit_operations",
            "Operations that shared a transaction",
            commit_group.clone(),
        );
        let backlog = Backlog::default();
        registry.register(
            "backlog_deliveries",
            "Deliveries that wait for another attempt or for their first",
            backlog.deliveries.clone(),
        );
        registry.register_with_unit(
            "backlog",
            "Bytes of events that wait, one time a delivery",
            Unit::Bytes,
            backlog.bytes.clone(),
        );
        registry.register_with_unit(
            "backlog_oldest_age",
            "Age of the oldest delivery that waits; 0: none waits",
            Unit::Seconds,
            backlog.oldest.clone(),
        );
        registry.register_with_unit(
            "backlog_share_used",
            "Part of its share of the disk that the fullest hook, or namespace, has used up",
            Unit::Ratios,
            backlog.shares.clone(),
        );
        registry.register_with_unit("store", "Size of the store's file", Unit::Bytes, backlog.store.clone());
        let disk_used = Ratio::default();
        registry.register_with_unit(
            "disk_used",
            "Used part of the store's disk",
            Unit::Ratios,
            disk_used.clone(),
        );
        Metrics {
            registry,
            reconciles,
            reconcile_seconds,
            ingested,
            attempts,
            attempt_seconds,
            finished,
            in_flight,
            accepted,
            ingest_seconds,
            delivery_seconds,
            breakers_open,
            api,
            commit_seconds,
            commit_group,
            backlog,
            disk_used,
        }
    }
}

impl Metrics {
    pub fn reconciled(&self, kind: &'static str, outcome: &'static str, took: Duration) {
        self.reconciles.get_or_create(&Reconcile { kind, outcome }).inc();
        self.reconcile_seconds.get_or_create(&KindLabel { kind }).observe(took.as_secs_f64());
    }

    pub fn ingested(&self, route: &'static str, outcome: &'static str, took: Duration) {
        self.ingested.get_or_create(&Ingest { route, outcome }).inc();
        self.ingest_seconds.get_or_create(&RouteLabel { route }).observe(took.as_secs_f64());
    }

    /// An event was stored.
    pub fn accepted(&self, origin: &'static str) {
        self.accepted.get_or_create(&OriginLabel { origin }).inc();
    }

    pub fn attempt_started(&self) {
        self.in_flight.inc();
    }

    pub fn attempted(&self, outcome: &'static str, status: Option<u16>, took: Duration) {
        self.in_flight.dec();
        self.attempts.get_or_create(&AttemptLabel { outcome, status: class(status) }).inc();
        self.attempt_seconds.observe(took.as_secs_f64());
    }

    pub fn finished(&self, state: &'static str, reason: &'static str) {
        self.finished.get_or_create(&Finished { state, reason }).inc();
    }

    /// A delivery arrived, so long after it was accepted.
    pub fn delivered(&self, took: Duration) {
        self.finished("delivered", "");
        self.delivery_seconds.observe(took.as_secs_f64());
    }

    /// A hook's circuit breaker opened, or is open no longer.
    pub fn breaker(&self, open: bool) {
        if open {
            self.breakers_open.inc()
        } else {
            self.breakers_open.dec()
        };
    }

    pub fn api_asked(&self, route: &'static str, status: u16) {
        self.api.get_or_create(&Api { route, status: class(Some(status)) }).inc();
    }

    /// A group of operations was committed.
    pub fn committed(&self, operations: usize, took: Duration) {
        self.commit_seconds.observe(took.as_secs_f64());
        self.commit_group.observe(u32::try_from(operations).map_or(f64::MAX, f64::from));
    }

    /// What waits now: deliveries, their bytes, the age of the oldest, the size of the store.
    pub fn backlog(&self, deliveries: u64, bytes: u64, oldest: Duration, store: u64) {
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.backlog.deliveries.set(number(deliveries));
        self.backlog.bytes.set(number(bytes));
        self.backlog.oldest.set(oldest.as_secs_f64());
        self.backlog.store.set(number(store));
    }

    /// The part of its share that the fullest one (`hook`, `namespace`) has used up.
    pub fn share(&self, of: &'static str, used: f64) {
        self.backlog.shares.get_or_create(&ShareLabel { of }).set(used);
    }

    pub fn disk(&self, used: f64) {
        self.disk_used.set(used);
    }

    /// The text that Prometheus reads.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        encode(&mut text, &self.registry).ok();
        text
    }
}

fn class(status: Option<u16>) -> &'static str {
    match status {
        None => "none",
        Some(100..=199) => "1xx",
        Some(200..=299) => "2xx",
        Some(300..=399) => "3xx",
        Some(400..=499) => "4xx",
        Some(_) => "5xx",
    }
}
