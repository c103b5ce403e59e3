//! Metrics, named by the Prometheus conventions. Labels come from closed sets: kinds, stable reasons, states. Hooks are
//! named only where they ask for it (`hooks`).

mod hooks;
mod labels;

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use hooks::Hooks;
pub use hooks::{MEASURED, Series};
use labels::*;

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
    commit_seconds: Histogram,
    commit_group: Histogram,
    backlog: Backlog,
    disk_used: Ratio,
    problems: Family<ProblemLabel, Counter>,
    admin_requests: Family<AdminRequest, Counter>,
    admin_seconds: Family<HostLabel, Histogram>,
    admin_waits: Family<HostLabel, Histogram>,
    admin_postponed: Family<HostLabel, Counter>,
    drift_found: Family<KindLabel, Counter>,
    drift_repaired: Family<KindLabel, Counter>,
    leader: Gauge,
    watch_requests: Family<WatchLabel, Counter>,
    api_requests: Family<ApiRequest, Counter>,
    /// The series of hooks that ask for their own.
    pub hooks: Hooks,
    /// The hosts that have a label of their own.
    hosts: Mutex<HashSet<String>>,
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

/// Hosts come from what users write: beyond so many they share the label `other`.
const MAX_HOSTS: usize = 100;
const OTHER: &str = "other";

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("hookstream");
        let reconciles = Family::<Reconcile, Counter>::default();
        registry.register(
            "reconciles",
            "Reconciles by kind and outcome (Applied, Stalled, Waiting, RateLimited, Postponed, Conflict, NotLeading, Failed, Panicked, Abandoned)",
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
        let attempt_seconds = Histogram::new(exponential_buckets(0.002, 4.0, 8));
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
            Histogram::new(exponential_buckets(0.0005, 4.0, 8))
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
        let mut family = FamilyOf(&mut registry);
        Metrics {
            problems: family.counter("reconcile_problems", "Reconciles that did not get through, by kind and reason"),
            admin_requests: family.counter("admin_requests", "Calls to admin APIs by host, method and class of the status (error: no answer)"),
            admin_seconds: family.seconds("admin_request_duration", "Time of a call to an admin API"),
            admin_waits: family.seconds("admin_rate_limit_wait", "Time that a call waited for its turn within the rate limit"),
            admin_postponed: family.counter("admin_postponed", "Calls that were told to come back: others were before, the vendor asked to wait, or the host fails"),
            drift_found: family.counter("drift_found", "Objects at a vendor that somebody else changed or deleted"),
            drift_repaired: family.counter("drift_repaired", "Objects at a vendor that were made right after such a change"),
            watch_requests: family.counter("watch_requests", "Lists and watches that were begun at the API server, by resource and outcome (ok, error); a watch lasts for --watch-timeout"),
            api_requests: family.counter("api_requests", "Requests at the worker's API port by route, method and class of the status"),
            leader: {
                let leader = Gauge::default();
                registry.register("leader", "1 where this replica leads: the one that writes to admin APIs", leader.clone());
                leader
            },
            hooks: Hooks::registered(&mut registry),
            hosts: Mutex::default(),
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
            commit_seconds,
            commit_group,
            backlog,
            disk_used,
        }
    }
}

impl Metrics {
    /// A reconcile did not get through.
    pub fn problem(&self, kind: &'static str, reason: &'static str) {
        self.problems.get_or_create(&ProblemLabel { kind, reason }).inc();
    }

    /// A call to an admin API was made; no status: no answer.
    pub fn admin_called(&self, host: &str, method: &str, status: Option<u16>, took: Duration) {
        let host = self.host(host);
        let label = AdminRequest { host: host.clone(), method: known_method(method), code: class(status) };
        self.admin_requests.get_or_create(&label).inc();
        self.admin_seconds.get_or_create(&HostLabel { host }).observe(took.as_secs_f64());
    }

    /// A call waited for its turn, and got it or was told to come back.
    pub fn admin_waited(&self, host: &str, waited: Duration, went: bool) {
        let label = HostLabel { host: self.host(host) };
        if went {
            self.admin_waits.get_or_create(&label).observe(waited.as_secs_f64());
        } else {
            self.admin_postponed.get_or_create(&label).inc();
        }
    }

    /// Somebody else changed or deleted what an object of this kind has at its vendor.
    pub fn drift_found(&self, kind: &'static str) {
        self.drift_found.get_or_create(&KindLabel { kind }).inc();
    }

    pub fn drift_repaired(&self, kind: &'static str) {
        self.drift_repaired.get_or_create(&KindLabel { kind }).inc();
    }

    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// A list or a watch was begun. `resource` is the path of one of the watches that this process has.
    pub fn watch_request(&self, resource: &str, ok: bool) {
        let label = WatchLabel { resource: resource.to_owned(), outcome: if ok { "ok" } else { "error" } };
        self.watch_requests.get_or_create(&label).inc();
    }

    /// A request at the API port. `route` is the pattern, not the path.
    pub fn api_request(&self, route: Option<&str>, method: &str, status: u16) {
        let route = route.unwrap_or(OTHER).to_owned();
        let label = ApiRequest { route, method: known_method(method), code: class(Some(status)) };
        self.api_requests.get_or_create(&label).inc();
    }

    fn host(&self, host: &str) -> String {
        let mut hosts = self.hosts.lock();
        if hosts.contains(host) {
            return host.to_owned();
        }
        if hosts.len() >= MAX_HOSTS {
            return OTHER.to_owned();
        }
        hosts.insert(host.to_owned());
        host.to_owned()
    }

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
        self.attempts.get_or_create(&AttemptLabel { outcome, status: attempt_status(status) }).inc();
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

/// Registers families.
struct FamilyOf<'a>(&'a mut Registry);

impl FamilyOf<'_> {
    fn counter<L>(&mut self, name: &str, help: &str) -> Family<L, Counter>
    where
        L: Clone + Debug + Eq + Hash + EncodeLabelSet + Send + Sync + 'static,
    {
        let family = Family::default();
        self.0.register(name, help, family.clone());
        family
    }

    fn seconds(&mut self, name: &str, help: &str) -> Family<HostLabel, Histogram> {
        // From a cache's answer to the deadline of a call.
        let family = Family::<HostLabel, Histogram>::new_with_constructor(|| {
            Histogram::new(exponential_buckets(0.004, 4.0, 8))
        });
        self.0.register_with_unit(name, help, Unit::Seconds, family.clone());
        family
    }
}

fn known_method(method: &str) -> &'static str {
    ["GET", "POST", "PUT", "PATCH", "DELETE"].into_iter().find(|known| *known == method).unwrap_or(OTHER)
}

/// The class of the answer's status; none: no answer.
fn attempt_status(status: Option<u16>) -> &'static str {
    status.map_or("none", |status| class(Some(status)))
}

fn class(status: Option<u16>) -> &'static str {
    match status.map(|status| status / 100) {
        Some(1) => "1xx",
        Some(2) => "2xx",
        Some(3) => "3xx",
        Some(4) => "4xx",
        Some(5) => "5xx",
        Some(_) => OTHER,
        None => "error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_bounded_and_every_metric_has_a_help() {
        let metrics = Metrics::default();
        for n in 0..1000 {
            metrics.admin_called(&format!("host-{n}:443"), "BREW", Some(418), Duration::ZERO);
        }
        metrics.admin_called("host-1:443", "GET", None, Duration::ZERO);
        metrics.leads(true);
        let text = metrics.encode();
        let calls: Vec<&str> =
            text.lines().filter(|l| l.starts_with("hookstream_admin_requests_total{")).collect();
        assert_eq!(calls.len(), MAX_HOSTS + 2);
        let other = r#"hookstream_admin_requests_total{host="other",method="other",code="4xx"} 900"#;
        assert!(calls.contains(&other), "{text}");
        assert!(text.contains("\nhookstream_leader 1\n"));
        for line in text.lines().filter(|l| l.starts_with("# TYPE ")) {
            let name = line.split(' ').nth(2).unwrap();
            assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
        }
    }
}
