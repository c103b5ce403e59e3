//! Prometheus metrics of the process. Label values come from closed sets (kinds, stable reasons, states) or are bounded
//! in number. Only hooks with an annotation have their own series (`hooks`).

mod backlog;
mod dead_letters;
mod hook_times;
mod hooks;
mod labels;
mod latency;
mod memory;
mod process;
mod rates;
mod registrar;
mod traces;
mod unhealthy_hooks;

use crate::core::conditions::cut;
use crate::core::delivery_reason::DeliveryReason;
use crate::core::receiver_breaker::ReceiverEvidence;
use crate::core::version::Version;
use std::collections::HashSet;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use backlog::BacklogMetrics;
use dead_letters::DeadLetterMetrics;
pub use hook_times::{HookTimeReport, HookTimes};
use hooks::{FloatGauge, HookMetrics};
pub use hooks::{HookSeries, METRICS_ANNOTATION};
use labels::*;
use memory::to_gauge;
pub use memory::{MemoryMetrics, MemoryShareMetrics};
use process::ProcessCollector;
pub use rates::{MAX_NAMESPACES, RateCounters, Rates};
use registrar::{FamilyRegistrar, ratio};
pub use traces::SpanOutcome;
use traces::TraceMetrics;
pub use unhealthy_hooks::UnhealthyHooks;

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Metrics whose names do not begin with `hookstream_`.
    process: Registry,
    reconciles: Family<ReconcileLabel, Counter>,
    reconcile_seconds: Family<KindLabel, Histogram>,
    ingested: Family<IngestLabel, Counter>,
    attempts: Family<AttemptLabel, Counter>,
    attempt_seconds: Histogram,
    finished: Family<FinishedLabel, Counter>,
    in_flight: Gauge,
    accepted: Family<OriginLabel, Counter>,
    ingest_seconds: Family<RouteLabel, Histogram>,
    delivery_seconds: Histogram,
    breakers_open: Gauge,
    breaker_openings: Counter,
    breaker_probes: Family<ProbeLabel, Counter>,
    commit_seconds: Histogram,
    commit_group: Histogram,
    /// The pending deliveries and the store.
    pub backlog: BacklogMetrics,
    disk_used: FloatGauge,
    ingest_closed: Family<ClosureLabel, Gauge>,
    problems: Family<ProblemLabel, Counter>,
    admin_requests: Family<AdminRequestLabel, Counter>,
    admin_seconds: Family<HostLabel, Histogram>,
    admin_waits: Family<HostLabel, Histogram>,
    admin_postponed: Family<HostLabel, Counter>,
    drift_found: Family<KindLabel, Counter>,
    drift_repaired: Family<KindLabel, Counter>,
    leader: Gauge,
    watch_requests: Family<WatchLabel, Counter>,
    cluster_restores: Counter,
    key_ring_missing: Gauge,
    key_ring_restores: Counter,
    api_requests: Family<ApiRequestLabel, Counter>,
    /// The series of single hooks.
    pub hooks: HookMetrics,
    /// Dead letters by hook.
    pub dead_letters: DeadLetterMetrics,
    /// The memory budget.
    pub memory: MemoryMetrics,
    /// The hooks whose deliveries do not go out.
    pub unhealthy_hooks: UnhealthyHooks,
    objects_not_ready: Family<KindLabel, Gauge>,
    /// The last hour by namespace. The API shows it; it is not exported.
    pub rates: RateCounters,
    /// The attempts of each hook. The API shows them; they are not exported.
    pub hook_times: HookTimes,
    /// The export of traces.
    pub traces: TraceMetrics,
    /// The hosts with a label value of their own.
    hosts: Mutex<HashSet<String>>,
}

/// Maximum hosts with a label value of their own; further ones share `other`. Users choose the hosts: without the
/// limit, they could create any number of series.
const MAX_HOSTS: usize = 100;
/// The longest label value of a host, in bytes: a DNS name's.
const MAX_HOST_BYTES: usize = 253;

/// The results of a breaker's probes.
const PROBE_SUCCESS: &str = "success";
const PROBE_FAILURE: &str = "failure";
const PROBE_INCONCLUSIVE: &str = "inconclusive";

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("hookstream");
        let reconciles = Family::<ReconcileLabel, Counter>::default();
        registry.register(
            "reconciles",
            "Reconciles, by kind and outcome (Applied, Stalled, Waiting, RateLimited, Postponed, Conflict, NotLeading, Failed, Panicked, Abandoned)",
            reconciles.clone(),
        );
        let reconcile_seconds = Family::<KindLabel, Histogram>::new_with_constructor(|| {
            Histogram::new(exponential_buckets(0.001, 4.0, 8))
        });
        registry.register_with_unit(
            "reconcile_duration",
            "Duration of a reconcile",
            Unit::Seconds,
            reconcile_seconds.clone(),
        );
        let ingested = Family::<IngestLabel, Counter>::default();
        registry.register("ingest_requests", "Requests at the ingest port, by route and outcome (Accepted, Duplicate, Ping, or the reason of the error)", ingested.clone());
        let attempts = Family::<AttemptLabel, Counter>::default();
        registry.register(
            "delivery_attempts",
            "Delivery attempts, by outcome (Delivered, or the reason of the failure) and class of the response status (none: no response)",
            attempts.clone(),
        );
        let attempt_seconds = Histogram::new(exponential_buckets(0.002, 4.0, 8));
        registry.register_with_unit(
            "delivery_attempt_duration",
            "Duration of a delivery attempt",
            Unit::Seconds,
            attempt_seconds.clone(),
        );
        let finished = Family::<FinishedLabel, Counter>::default();
        registry.register(
            "deliveries_finished",
            "Finished deliveries, by state (delivered, dead, dropped) and reason",
            finished.clone(),
        );
        let in_flight = Gauge::default();
        registry.register("deliveries_in_flight", "Delivery attempts in flight", in_flight.clone());
        let accepted = Family::<OriginLabel, Counter>::default();
        registry.register(
            "events_accepted",
            "Stored events, by origin (api, relay, stream), without duplicates",
            accepted.clone(),
        );
        let ingest_seconds = Family::<RouteLabel, Histogram>::new_with_constructor(|| {
            Histogram::new(exponential_buckets(0.0005, 4.0, 8))
        });
        registry.register_with_unit(
            "ingest_request_duration",
            "Duration of a request at the ingest port including its commit, by route",
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
            "Hooks with an open circuit breaker, which receive only probes",
            breakers_open.clone(),
        );
        let breaker_openings = Counter::default();
        registry.register(
            "breaker_openings",
            "Closed circuit breakers of hooks that opened",
            breaker_openings.clone(),
        );
        let breaker_probes = Family::<ProbeLabel, Counter>::default();
        registry.register(
            "breaker_probes",
            "Attempts that open circuit breakers of hooks permitted, by result (success, failure, inconclusive)",
            breaker_probes.clone(),
        );
        for result in [PROBE_SUCCESS, PROBE_FAILURE, PROBE_INCONCLUSIVE] {
            // Export zeros, so that a rate includes the first probe.
            drop(breaker_probes.get_or_create(&ProbeLabel { result }));
        }
        let commit_seconds = Histogram::new(exponential_buckets(0.0001, 2.0, 16));
        registry.register_with_unit(
            "store_commit_duration",
            "Duration of a group commit, including the sync",
            Unit::Seconds,
            commit_seconds.clone(),
        );
        let commit_group = Histogram::new(exponential_buckets(1.0, 2.0, 11));
        registry.register("store_commit_operations", "Operations of a group commit", commit_group.clone());
        let backlog = BacklogMetrics::register(&mut registry);
        let disk_used = FloatGauge::default();
        registry.register_with_unit(
            "disk_used",
            "Used fraction of the store's disk, without the store's free pages",
            ratio(),
            disk_used.clone(),
        );
        let ingest_closed = Family::<ClosureLabel, Gauge>::default();
        registry.register(
            "ingest_closed",
            "1 while all events are refused for this reason (DiskLimit, Full), otherwise 0",
            ingest_closed.clone(),
        );
        let objects_not_ready = Family::<KindLabel, Gauge>::default();
        registry.register(
            "objects_not_ready",
            "Objects whose condition Ready is not True, by kind; measured by controllers",
            objects_not_ready.clone(),
        );
        let unhealthy_hooks = UnhealthyHooks::default();
        registry.register_collector(Box::new(unhealthy_hooks.clone()));
        let build = Family::<BuildLabel, Gauge>::default();
        build.get_or_create(&BuildLabel::of(Version::current())).set(1);
        registry.register("build_info", "1, with the version and the commit of the program", build);
        let mut process = Registry::default();
        process.register_collector(Box::new(ProcessCollector::new()));
        let mut families = FamilyRegistrar(&mut registry);
        Metrics {
            problems: families.counter("reconcile_problems", "Failed reconciles, by kind and reason"),
            admin_requests: families.counter("admin_requests", "Calls to admin APIs, by host, method and class of the status (error: no response)"),
            admin_seconds: families.seconds("admin_request_duration", "Duration of a call to an admin API"),
            admin_waits: families.seconds("admin_rate_limit_wait", "Time that a call waited for a scheduling slot within the rate limit"),
            admin_postponed: families.counter("admin_postponed", "Calls that were requeued without being sent: rate limit used up, pause requested by the vendor, or open circuit breaker"),
            drift_found: families.counter("drift_found", "External objects that were changed or deleted by another client"),
            drift_repaired: families.counter("drift_repaired", "External objects that were repaired after such a change"),
            watch_requests: families.counter("watch_requests", "List and watch requests to the API server, by resource and outcome (ok, error); a watch lasts for --watch-timeout"),
            api_requests: families.counter("api_requests", "Requests at the worker's API port, by route, method and class of the status"),
            leader: {
                let leader = Gauge::default();
                registry.register("leader", "1 if this replica is the leader, which writes to admin APIs; otherwise 0", leader.clone());
                leader
            },
            cluster_restores: {
                let restores = Counter::default();
                registry.register("cluster_restores", "Times that the API server returned to an older resource version, as after a restore of etcd, so that everything was listed again", restores.clone());
                restores
            },
            key_ring_missing: {
                let missing = Gauge::default();
                registry.register("key_ring_missing", "1 if objects depend on a key ring that does not exist and cannot be restored from memory; measured by the leader", missing.clone());
                missing
            },
            key_ring_restores: {
                let restores = Counter::default();
                registry.register("key_ring_restores", "Times that the leader restored a deleted key ring from memory", restores.clone());
                restores
            },
            hooks: HookMetrics::register(&mut registry),
            dead_letters: DeadLetterMetrics::register(&mut registry),
            memory: MemoryMetrics::register(&mut registry),
            traces: TraceMetrics::register(&mut registry),
            rates: RateCounters::default(),
            hook_times: HookTimes::default(),
            hosts: Mutex::default(),
            unhealthy_hooks,
            objects_not_ready,
            process,
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
            breaker_openings,
            breaker_probes,
            commit_seconds,
            commit_group,
            backlog,
            disk_used,
            ingest_closed,
        }
    }
}

impl Metrics {
    /// Counts a failed reconcile.
    pub fn record_reconcile_problem(&self, kind: &'static str, reason: &'static str) {
        self.problems.get_or_create(&ProblemLabel { kind, reason }).inc();
    }

    /// Records a call to an admin API. `status` is None if there was no response.
    pub fn record_admin_request(&self, host: &str, method: &str, status: Option<u16>, duration: Duration) {
        let host = self.host_label(host);
        let label = AdminRequestLabel {
            host: host.clone(),
            method: known_method(method),
            code: status_class(status),
        };
        self.admin_requests.get_or_create(&label).inc();
        self.admin_seconds.get_or_create(&HostLabel { host }).observe(duration.as_secs_f64());
    }

    /// Records the wait of a call for a scheduling slot, or that it was postponed.
    pub fn record_admin_wait(&self, host: &str, waited: Duration, is_granted: bool) {
        let label = HostLabel { host: self.host_label(host) };
        if is_granted {
            self.admin_waits.get_or_create(&label).observe(waited.as_secs_f64());
        } else {
            self.admin_postponed.get_or_create(&label).inc();
        }
    }

    /// Counts an external object that another client changed or deleted.
    pub fn record_drift_found(&self, kind: &'static str) {
        self.drift_found.get_or_create(&KindLabel { kind }).inc();
    }

    /// Counts a repaired external object.
    pub fn record_drift_repaired(&self, kind: &'static str) {
        self.drift_repaired.get_or_create(&KindLabel { kind }).inc();
    }

    /// Sets how many objects of a kind are not ready.
    pub fn set_objects_not_ready(&self, kind: &'static str, count: usize) {
        self.objects_not_ready.get_or_create(&KindLabel { kind }).set(to_gauge(count as u64));
    }

    pub fn set_leader(&self, is_leader: bool) {
        self.leader.set(i64::from(is_leader));
    }

    /// Counts a return of the API server to an older resource version.
    pub fn record_cluster_restore(&self) {
        self.cluster_restores.inc();
    }

    pub fn set_key_ring_missing(&self, is_missing: bool) {
        self.key_ring_missing.set(i64::from(is_missing));
    }

    /// Counts a deleted key ring that was restored from memory.
    pub fn record_key_ring_restore(&self) {
        self.key_ring_restores.inc();
    }

    /// Counts a list or watch request. `resource` is the path of one of the process's watches.
    pub fn record_watch_request(&self, resource: &str, ok: bool) {
        let label = WatchLabel { resource: resource.to_owned(), outcome: if ok { "ok" } else { "error" } };
        self.watch_requests.get_or_create(&label).inc();
    }

    /// Counts a request at the API port. `route` is the pattern, not the path.
    pub fn record_api_request(&self, route: Option<&str>, method: &str, status: u16) {
        let route = route.unwrap_or(OTHER).to_owned();
        let label = ApiRequestLabel { route, method: known_method(method), code: status_class(Some(status)) };
        self.api_requests.get_or_create(&label).inc();
    }

    /// Returns the label value of a host: its name up to `MAX_HOST_BYTES`, or `other` above `MAX_HOSTS`.
    fn host_label(&self, host: &str) -> String {
        let host = cut(host, MAX_HOST_BYTES);
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

    /// Records a reconcile.
    pub fn record_reconcile(&self, kind: &'static str, outcome: &'static str, duration: Duration) {
        self.reconciles.get_or_create(&ReconcileLabel { kind, outcome }).inc();
        self.reconcile_seconds.get_or_create(&KindLabel { kind }).observe(duration.as_secs_f64());
    }

    /// Records a request at the ingest port.
    pub fn record_ingest(&self, route: &'static str, outcome: &'static str, duration: Duration) {
        self.ingested.get_or_create(&IngestLabel { route, outcome }).inc();
        self.ingest_seconds.get_or_create(&RouteLabel { route }).observe(duration.as_secs_f64());
    }

    /// Counts a stored event.
    pub fn record_accepted(&self, origin: &'static str) {
        self.accepted.get_or_create(&OriginLabel { origin }).inc();
    }

    /// Adds an attempt in flight. Call `record_attempt` when it ends.
    pub fn start_attempt(&self) {
        self.in_flight.inc();
    }

    /// Records an attempt and removes it from those in flight. `status` is None if there was no response.
    pub fn record_attempt(&self, outcome: &'static str, status: Option<u16>, duration: Duration) {
        self.in_flight.dec();
        self.attempts.get_or_create(&AttemptLabel { outcome, status: attempt_status_class(status) }).inc();
        self.attempt_seconds.observe(duration.as_secs_f64());
    }

    /// Counts a finished delivery.
    pub fn record_finished(&self, state: &'static str, reason: Option<DeliveryReason>) {
        let reason = reason.map_or("", DeliveryReason::as_str);
        self.finished.get_or_create(&FinishedLabel { state, reason }).inc();
    }

    /// Records a successful delivery, `duration` after its acceptance.
    pub fn record_delivered(&self, duration: Duration) {
        self.record_finished("delivered", None);
        self.delivery_seconds.observe(duration.as_secs_f64());
    }

    /// Counts a circuit breaker that opened or closed.
    pub fn record_breaker_change(&self, is_open: bool) {
        if is_open {
            self.breakers_open.inc()
        } else {
            self.breakers_open.dec()
        };
    }

    /// Counts a hook's breaker that was closed and opened.
    pub fn record_breaker_opening(&self) {
        self.breaker_openings.inc();
    }

    /// Counts a probe of an open breaker, by what it showed about the receiver.
    pub fn record_breaker_probe(&self, evidence: ReceiverEvidence) {
        let result = match evidence {
            ReceiverEvidence::Healthy => PROBE_SUCCESS,
            ReceiverEvidence::Failing { .. } => PROBE_FAILURE,
            ReceiverEvidence::Inconclusive => PROBE_INCONCLUSIVE,
        };
        self.breaker_probes.get_or_create(&ProbeLabel { result }).inc();
    }

    /// Records a group commit.
    pub fn record_commit(&self, operations: usize, duration: Duration) {
        self.commit_seconds.observe(duration.as_secs_f64());
        self.commit_group.observe(u32::try_from(operations).map_or(f64::MAX, f64::from));
    }

    /// Sets the used fraction of the store's disk.
    pub fn set_disk_used(&self, used: f64) {
        self.disk_used.set(used);
    }

    /// Sets whether all events are refused for this reason.
    pub fn set_ingest_closed(&self, reason: &'static str, is_closed: bool) {
        self.ingest_closed.get_or_create(&ClosureLabel { reason }).set(i64::from(is_closed));
    }

    /// Encodes all metrics in the text format of Prometheus.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        encode_registry(&mut text, &self.registry).ok();
        encode_registry(&mut text, &self.process).ok();
        encode_eof(&mut text).ok();
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_labels_and_documents_every_metric() {
        let metrics = Metrics::default();
        for n in 0..1000 {
            metrics.record_admin_request(&format!("host-{n}:443"), "BREW", Some(418), Duration::ZERO);
        }
        metrics.record_admin_request("host-1:443", "GET", None, Duration::ZERO);
        metrics.set_leader(true);
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
