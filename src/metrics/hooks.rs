//! Series of single hooks, for those that ask: each costs whoever stores them, and whoever may write EventHooks could
//! ask for any number.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::labels::{HookAttempt, HookFinished, HookLabel};
use super::{Ratio, attempt_status};

/// The annotation by which an EventHook asks for series of its own: `"true"`.
pub const MEASURED: &str = "hookstream.dev/metrics";
/// So many hooks have series of their own, unless another number is given.
const MOST: usize = 100;

/// A hook's namespace and name.
type Name = (Arc<str>, Arc<str>);

/// The hooks that have series of their own.
#[derive(Debug)]
pub struct Hooks {
    most: AtomicUsize,
    named: Mutex<BTreeMap<Name, Arc<Series>>>,
    refused: Counter,
    attempts: Family<HookAttempt, Counter>,
    finished: Family<HookFinished, Counter>,
    seconds: Family<HookLabel, Histogram>,
    breaker: Family<HookLabel, Gauge>,
    waiting: Family<HookLabel, Gauge>,
    bytes: Family<HookLabel, Gauge>,
    oldest: Family<HookLabel, Ratio>,
}

/// One hook's series. What still holds it when the hook was forgotten counts where nobody looks.
#[derive(Debug)]
pub struct Series {
    /// By the class of the status.
    attempts: BTreeMap<&'static str, Counter>,
    delivered: Counter,
    dead: Counter,
    seconds: Histogram,
    breaker: Gauge,
    waiting: Gauge,
    bytes: Gauge,
    oldest: Ratio,
}

impl Hooks {
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let hooks = Hooks {
            most: AtomicUsize::new(MOST),
            named: Mutex::default(),
            refused: Counter::default(),
            attempts: Family::default(),
            finished: Family::default(),
            // Few buckets, for each hook has them all.
            seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.01, 8.0, 7))),
            breaker: Family::default(),
            waiting: Family::default(),
            bytes: Family::default(),
            oldest: Family::default(),
        };
        let of = "of a hook that asks for series of its own";
        let refused =
            "Times that a hook asked for series of its own and there were too many (--hook-metrics)";
        registry.register("hook_series_refused", refused, hooks.refused.clone());
        registry.register(
            "hook_delivery_attempts",
            format!("Attempts {of}, by the class of the answer's status (none: no answer)"),
            hooks.attempts.clone(),
        );
        registry.register(
            "hook_deliveries_finished",
            format!("Deliveries {of} that ended, by state (delivered, dead)"),
            hooks.finished.clone(),
        );
        registry.register_with_unit(
            "hook_delivery_duration",
            format!("Time from acceptance (or replay) to delivery {of}"),
            Unit::Seconds,
            hooks.seconds.clone(),
        );
        registry.register(
            "hook_breaker_open",
            format!("1 while the circuit breaker is open, {of}"),
            hooks.breaker.clone(),
        );
        registry.register(
            "hook_backlog_deliveries",
            format!("Deliveries that wait, {of}"),
            hooks.waiting.clone(),
        );
        registry.register_with_unit(
            "hook_backlog",
            format!("Bytes of events that wait, {of}"),
            Unit::Bytes,
            hooks.bytes.clone(),
        );
        registry.register_with_unit(
            "hook_backlog_oldest_age",
            format!("Age of the oldest delivery that waits, {of}; 0: none waits"),
            Unit::Seconds,
            hooks.oldest.clone(),
        );
        hooks
    }

    /// How many hooks may have series of their own, from now on.
    pub fn at_most(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// The series of a hook that asks for them; None: too many have them already.
    pub fn named(&self, namespace: &Arc<str>, name: &Arc<str>) -> Option<Arc<Series>> {
        let mut named = self.named.lock();
        let full = named.len() >= self.most.load(Ordering::Relaxed);
        let key = (namespace.clone(), name.clone());
        if let Some(series) = named.get(&key) {
            return Some(series.clone());
        }
        if full {
            self.refused.inc();
            return None;
        }
        let label = HookLabel { namespace: namespace.to_string(), hook: name.to_string() };
        let attempts = STATUSES.into_iter();
        let finished = |state| self.finished.get_or_create_owned(&HookFinished::of(&label, state));
        let series = Arc::new(Series {
            attempts: attempts
                .map(|status| (status, self.attempts.get_or_create_owned(&HookAttempt::of(&label, status))))
                .collect(),
            delivered: finished(DELIVERED),
            dead: finished(DEAD),
            seconds: self.seconds.get_or_create_owned(&label),
            breaker: self.breaker.get_or_create_owned(&label),
            waiting: self.waiting.get_or_create_owned(&label),
            bytes: self.bytes.get_or_create_owned(&label),
            oldest: self.oldest.get_or_create_owned(&label),
        });
        named.insert(key, series.clone());
        Some(series)
    }

    /// The hook is gone, or asks no longer: its series end.
    pub fn forget(&self, namespace: &str, name: &str) {
        if self.named.lock().remove(&(namespace.into(), name.into())).is_none() {
            return;
        }
        let label = &HookLabel { namespace: namespace.to_owned(), hook: name.to_owned() };
        for status in STATUSES {
            self.attempts.remove(&HookAttempt::of(label, status));
        }
        for state in [DELIVERED, DEAD] {
            self.finished.remove(&HookFinished::of(label, state));
        }
        self.seconds.remove(label);
        self.breaker.remove(label);
        self.waiting.remove(label);
        self.bytes.remove(label);
        self.oldest.remove(label);
    }

    /// All that have series, by namespace and name.
    pub fn all(&self) -> Vec<(Name, Arc<Series>)> {
        self.named.lock().iter().map(|(key, series)| (key.clone(), series.clone())).collect()
    }
}

const STATUSES: [&str; 7] = ["1xx", "2xx", "3xx", "4xx", "5xx", "other", "none"];
const DELIVERED: &str = "delivered";
const DEAD: &str = "dead";

impl Series {
    pub fn attempted(&self, status: Option<u16>) {
        if let Some(attempts) = self.attempts.get(attempt_status(status)) {
            attempts.inc();
        }
    }

    /// A delivery arrived, so long after it was accepted.
    pub fn delivered(&self, took: Duration) {
        self.delivered.inc();
        self.seconds.observe(took.as_secs_f64());
    }

    pub fn dead(&self) {
        self.dead.inc();
    }

    pub fn breaker(&self, open: bool) {
        self.breaker.set(i64::from(open));
    }

    /// What waits now: deliveries, their bytes, the age of the oldest.
    pub fn backlog(&self, deliveries: u64, bytes: u64, oldest: Duration) {
        self.waiting.set(i64::try_from(deliveries).unwrap_or(i64::MAX));
        self.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.oldest.set(oldest.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;

    fn lines(metrics: &Metrics, of: &str) -> Vec<String> {
        let text = metrics.encode();
        text.lines()
            .filter(|line| !line.starts_with('#') && line.contains(of))
            .map(ToOwned::to_owned)
            .collect()
    }

    #[test]
    fn series_begin_and_end_with_the_hook_and_are_few() {
        let metrics = Metrics::default();
        metrics.hooks.at_most(2);
        let named = |name: &str| metrics.hooks.named(&"shop".into(), &name.into());
        let a = named("a").unwrap();
        named("b").unwrap();
        assert!(named("c").is_none());
        assert_eq!(lines(&metrics, "hook_series_refused"), ["hookstream_hook_series_refused_total 1"]);
        a.attempted(Some(503));
        a.attempted(None);
        a.dead();
        a.delivered(Duration::from_secs(1));
        a.breaker(true);
        a.backlog(3, 99, Duration::from_secs(7));
        let told = lines(&metrics, r#"namespace="shop",hook="a""#);
        for want in [
            r#"hookstream_hook_delivery_attempts_total{namespace="shop",hook="a",status="5xx"} 1"#,
            r#"hookstream_hook_delivery_attempts_total{namespace="shop",hook="a",status="none"} 1"#,
            r#"hookstream_hook_deliveries_finished_total{namespace="shop",hook="a",state="dead"} 1"#,
            r#"hookstream_hook_breaker_open{namespace="shop",hook="a"} 1"#,
            r#"hookstream_hook_backlog_deliveries{namespace="shop",hook="a"} 3"#,
            r#"hookstream_hook_backlog_bytes{namespace="shop",hook="a"} 99"#,
            r#"hookstream_hook_backlog_oldest_age_seconds{namespace="shop",hook="a"} 7.0"#,
        ] {
            assert!(told.iter().any(|line| line == want), "{want}: {told:#?}");
        }
        assert!(Arc::ptr_eq(&named("a").unwrap(), &a), "one that asks again has what it has");
        metrics.hooks.forget("shop", "a");
        assert_eq!(lines(&metrics, r#"hook="a""#), [""; 0]);
        assert!(named("c").is_some(), "there is room again");
    }
}
