//! Hooks whose deliveries do not go out, without any opt-in: how many by reason, and those that have failed longest by
//! name. The number of series is bounded, however many hooks fail.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::core::time::Millis;

/// The number of hooks that are exported by name.
const TOP: usize = 20;
/// The reason of hooks that their owner paused: nothing about them fails.
const PAUSED: &str = "Paused";

/// Hooks that are held or whose receivers fail, by uid. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct UnhealthyHooks(Arc<Mutex<HashMap<Arc<str>, Unhealthy>>>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Unhealthy {
    namespace: Arc<str>,
    name: Arc<str>,
    reason: &'static str,
    since: Millis,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailingLabel {
    hook_namespace: String,
    hook: String,
    reason: &'static str,
}

impl UnhealthyHooks {
    /// Records that the deliveries of a hook do not go out. Keeps the time of the first such report.
    pub fn insert(
        &self,
        uid: &Arc<str>,
        (namespace, name): (&Arc<str>, &Arc<str>),
        reason: &'static str,
        now: Millis,
    ) {
        let mut hooks = self.0.lock();
        let since = hooks.get(uid).filter(|old| old.reason != PAUSED).map_or(now, |old| old.since);
        hooks.insert(
            uid.clone(),
            Unhealthy { namespace: namespace.clone(), name: name.clone(), reason, since },
        );
    }

    /// Removes a hook that delivers again, or that was deleted.
    pub fn remove(&self, uid: &str) {
        self.0.lock().remove(uid);
    }

    /// Returns the number of hooks by reason, and the hooks that have failed longest, oldest first.
    fn summary(&self) -> (BTreeMap<&'static str, i64>, Vec<Unhealthy>) {
        let hooks = self.0.lock();
        let mut by_reason = BTreeMap::new();
        hooks.values().for_each(|hook| *by_reason.entry(hook.reason).or_default() += 1);
        let mut failing: Vec<&Unhealthy> = hooks.values().filter(|hook| hook.reason != PAUSED).collect();
        let order = |hook: &&Unhealthy| (hook.since, hook.namespace.clone(), hook.name.clone());
        if failing.len() > TOP {
            failing.select_nth_unstable_by_key(TOP, order);
            failing.truncate(TOP);
        }
        failing.sort_by_key(order);
        (by_reason, failing.into_iter().cloned().collect())
    }
}

impl Collector for UnhealthyHooks {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (by_reason, failing) = self.summary();
        let help = "Hooks whose deliveries do not go out, by the reason of their condition Delivering";
        let mut family = encoder.encode_descriptor("hooks_unhealthy", help, None, MetricType::Gauge)?;
        for (reason, count) in by_reason {
            ConstGauge::new(count).encode(family.encode_family(&ReasonLabel { reason })?)?;
        }
        let help = "How long the deliveries of a hook have not gone out, for the hooks that have failed longest (at most 20)";
        let mut family =
            encoder.encode_descriptor("hook_failing", help, Some(&Unit::Seconds), MetricType::Gauge)?;
        let now = Millis::now();
        for Unhealthy { namespace, name, reason, since } in failing {
            let label =
                FailingLabel { hook_namespace: namespace.to_string(), hook: name.to_string(), reason };
            ConstGauge::new(now.since(since).as_secs_f64()).encode(family.encode_family(&label)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: usize) -> (Arc<str>, Arc<str>, Arc<str>) {
        (format!("uid-{n}").into(), "shop".into(), format!("hook-{n}").into())
    }

    #[test]
    fn names_the_hooks_that_have_failed_longest_and_counts_all() {
        let hooks = UnhealthyHooks::default();
        for n in 0..1000 {
            let (uid, namespace, hook) = name(n);
            let reason = if n % 10 == 0 { PAUSED } else { "ReceiverFailing" };
            hooks.insert(&uid, (&namespace, &hook), reason, Millis(n as i64));
            // A later report of the same failure does not make it younger.
            hooks.insert(&uid, (&namespace, &hook), reason, Millis(n as i64 + 5000));
        }
        hooks.remove("uid-1");
        let (by_reason, failing) = hooks.summary();
        assert_eq!(by_reason, BTreeMap::from([(PAUSED, 100), ("ReceiverFailing", 899)]));
        assert_eq!(failing.len(), TOP);
        assert_eq!((&*failing[0].name, failing[0].since), ("hook-2", Millis(2)));
        assert!(failing.iter().all(|hook| hook.reason != PAUSED));
    }

    #[test]
    fn failure_after_a_pause_begins_when_it_is_reported() {
        let hooks = UnhealthyHooks::default();
        let (uid, namespace, hook) = name(1);
        hooks.insert(&uid, (&namespace, &hook), PAUSED, Millis(1));
        hooks.insert(&uid, (&namespace, &hook), "ReceiverFailing", Millis(2));
        hooks.insert(&uid, (&namespace, &hook), "HandlerFailing", Millis(3));
        assert_eq!(hooks.summary().1[0].since, Millis(2));
    }
}
