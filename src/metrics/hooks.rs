//! Series of single hooks, enabled by an annotation. Their number is limited: each series costs storage in Prometheus, and
//! anyone with write access to EventHooks can enable them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::labels::{HookAttemptLabel, HookFinishedLabel, HookLabel, attempt_status_class};

pub(super) type FloatGauge = Gauge<f64, AtomicU64>;

/// The annotation that enables the series of an EventHook if its value is `"true"`.
pub const METRICS_ANNOTATION: &str = "hookstream.dev/metrics";
/// The default for the maximum number of hooks with series.
const DEFAULT_LIMIT: usize = 100;

/// A hook's namespace and name.
type HookName = (Arc<str>, Arc<str>);

/// The hooks with series of their own.
#[derive(Debug)]
pub struct HookMetrics {
    limit: AtomicUsize,
    series: Mutex<BTreeMap<HookName, Arc<HookSeries>>>,
    refused: Counter,
    attempts: Family<HookAttemptLabel, Counter>,
    finished: Family<HookFinishedLabel, Counter>,
    seconds: Family<HookLabel, Histogram>,
    breaker: Family<HookLabel, Gauge>,
    pending: Family<HookLabel, Gauge>,
    bytes: Family<HookLabel, Gauge>,
    oldest: Family<HookLabel, FloatGauge>,
}

/// The series of one hook. Updates after `HookMetrics::remove` are not exported.
#[derive(Debug)]
pub struct HookSeries {
    /// By class of the response status.
    attempts: BTreeMap<&'static str, Counter>,
    delivered: Counter,
    dead: Counter,
    seconds: Histogram,
    breaker: Gauge,
    pending: Gauge,
    bytes: Gauge,
    oldest: FloatGauge,
}

impl HookMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let hooks = HookMetrics {
            limit: AtomicUsize::new(DEFAULT_LIMIT),
            series: Mutex::default(),
            refused: Counter::default(),
            attempts: Family::default(),
            finished: Family::default(),
            // Few buckets, because each hook has all of them.
            seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.01, 8.0, 7))),
            breaker: Family::default(),
            pending: Family::default(),
            bytes: Family::default(),
            oldest: Family::default(),
        };
        let of_hook = "of a hook with its own series";
        let refused = "Requests for series of a hook that were rejected by the limit (--hook-metrics)";
        registry.register("hook_series_refused", refused, hooks.refused.clone());
        registry.register(
            "hook_delivery_attempts",
            format!("Delivery attempts {of_hook}, by class of the response status (none: no response)"),
            hooks.attempts.clone(),
        );
        registry.register(
            "hook_deliveries_finished",
            format!("Finished deliveries {of_hook}, by state (delivered, dead)"),
            hooks.finished.clone(),
        );
        registry.register_with_unit(
            "hook_delivery_duration",
            format!("Time from acceptance (or replay) to delivery {of_hook}"),
            Unit::Seconds,
            hooks.seconds.clone(),
        );
        registry.register(
            "hook_breaker_open",
            format!("1 while the circuit breaker is open, {of_hook}"),
            hooks.breaker.clone(),
        );
        registry.register(
            "hook_backlog_deliveries",
            format!("Pending deliveries {of_hook}"),
            hooks.pending.clone(),
        );
        registry.register_with_unit(
            "hook_backlog",
            format!("Bytes of the events of pending deliveries {of_hook}"),
            Unit::Bytes,
            hooks.bytes.clone(),
        );
        registry.register_with_unit(
            "hook_backlog_oldest_age",
            format!("Age of the oldest pending delivery {of_hook} (0: none is pending)"),
            Unit::Seconds,
            hooks.oldest.clone(),
        );
        hooks
    }

    /// Sets the maximum number of hooks with series. Existing series remain.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Returns the series of a hook, and creates them if needed. None if the limit is reached.
    pub fn get_or_create(&self, namespace: &Arc<str>, name: &Arc<str>) -> Option<Arc<HookSeries>> {
        let mut all = self.series.lock();
        let is_full = all.len() >= self.limit.load(Ordering::Relaxed);
        let key = (namespace.clone(), name.clone());
        if let Some(series) = all.get(&key) {
            return Some(series.clone());
        }
        if is_full {
            self.refused.inc();
            return None;
        }
        let label = HookLabel { hook_namespace: namespace.to_string(), hook: name.to_string() };
        let finished = |state| self.finished.get_or_create_owned(&HookFinishedLabel::new(&label, state));
        let series = Arc::new(HookSeries {
            attempts: STATUS_CLASSES
                .into_iter()
                .map(|status| {
                    (status, self.attempts.get_or_create_owned(&HookAttemptLabel::new(&label, status)))
                })
                .collect(),
            delivered: finished(DELIVERED),
            dead: finished(DEAD),
            seconds: self.seconds.get_or_create_owned(&label),
            breaker: self.breaker.get_or_create_owned(&label),
            pending: self.pending.get_or_create_owned(&label),
            bytes: self.bytes.get_or_create_owned(&label),
            oldest: self.oldest.get_or_create_owned(&label),
        });
        all.insert(key, series.clone());
        Some(series)
    }

    /// Removes the series of a hook that was deleted or lost its annotation.
    pub fn remove(&self, namespace: &str, name: &str) {
        if self.series.lock().remove(&(namespace.into(), name.into())).is_none() {
            return;
        }
        let label = &HookLabel { hook_namespace: namespace.to_owned(), hook: name.to_owned() };
        for status in STATUS_CLASSES {
            self.attempts.remove(&HookAttemptLabel::new(label, status));
        }
        for state in [DELIVERED, DEAD] {
            self.finished.remove(&HookFinishedLabel::new(label, state));
        }
        self.seconds.remove(label);
        self.breaker.remove(label);
        self.pending.remove(label);
        self.bytes.remove(label);
        self.oldest.remove(label);
    }

    /// Returns all series, by namespace and name.
    pub fn all(&self) -> Vec<(HookName, Arc<HookSeries>)> {
        self.series.lock().iter().map(|(key, series)| (key.clone(), series.clone())).collect()
    }
}

const STATUS_CLASSES: [&str; 7] = ["1xx", "2xx", "3xx", "4xx", "5xx", "other", "none"];
const DELIVERED: &str = "delivered";
const DEAD: &str = "dead";

impl HookSeries {
    /// Counts an attempt. `status` is None if there was no response.
    pub fn record_attempt(&self, status: Option<u16>) {
        if let Some(attempts) = self.attempts.get(attempt_status_class(status)) {
            attempts.inc();
        }
    }

    /// Records a successful delivery, `duration` after its acceptance.
    pub fn record_delivered(&self, duration: Duration) {
        self.delivered.inc();
        self.seconds.observe(duration.as_secs_f64());
    }

    /// Counts a dead delivery.
    pub fn record_dead(&self) {
        self.dead.inc();
    }

    pub fn set_breaker_open(&self, is_open: bool) {
        self.breaker.set(i64::from(is_open));
    }

    /// Sets the number of pending deliveries, their bytes, and the age of the oldest one.
    pub fn set_backlog(&self, deliveries: u64, bytes: u64, oldest: Duration) {
        self.pending.set(i64::try_from(deliveries).unwrap_or(i64::MAX));
        self.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.oldest.set(oldest.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;

    fn lines_with(metrics: &Metrics, text: &str) -> Vec<String> {
        let output = metrics.encode();
        output
            .lines()
            .filter(|line| !line.starts_with('#') && line.contains(text))
            .map(ToOwned::to_owned)
            .collect()
    }

    #[test]
    fn creates_removes_and_limits_series() {
        let metrics = Metrics::default();
        metrics.hooks.set_limit(2);
        let create = |name: &str| metrics.hooks.get_or_create(&"shop".into(), &name.into());
        let a = create("a").unwrap();
        create("b").unwrap();
        assert!(create("c").is_none());
        assert_eq!(lines_with(&metrics, "hook_series_refused"), ["hookstream_hook_series_refused_total 1"]);
        a.record_attempt(Some(503));
        a.record_attempt(None);
        a.record_dead();
        a.record_delivered(Duration::from_secs(1));
        a.set_breaker_open(true);
        a.set_backlog(3, 99, Duration::from_secs(7));
        let found = lines_with(&metrics, r#"namespace="shop",hook="a""#);
        for want in [
            r#"hookstream_hook_delivery_attempts_total{hook_namespace="shop",hook="a",status="5xx"} 1"#,
            r#"hookstream_hook_delivery_attempts_total{hook_namespace="shop",hook="a",status="none"} 1"#,
            r#"hookstream_hook_deliveries_finished_total{hook_namespace="shop",hook="a",state="dead"} 1"#,
            r#"hookstream_hook_breaker_open{hook_namespace="shop",hook="a"} 1"#,
            r#"hookstream_hook_backlog_deliveries{hook_namespace="shop",hook="a"} 3"#,
            r#"hookstream_hook_backlog_bytes{hook_namespace="shop",hook="a"} 99"#,
            r#"hookstream_hook_backlog_oldest_age_seconds{hook_namespace="shop",hook="a"} 7.0"#,
        ] {
            assert!(found.iter().any(|line| line == want), "{want}: {found:#?}");
        }
        assert!(Arc::ptr_eq(&create("a").unwrap(), &a), "the same hook has the same series");
        metrics.hooks.remove("shop", "a");
        assert_eq!(lines_with(&metrics, r#"hook="a""#), [""; 0]);
        assert!(create("c").is_some(), "the limit is no longer reached");
    }
}
