//! Dead letters by hook, without any opt-in, so that an alert can name the hook. The number of hooks with a name is
//! bounded; all others share `other`.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::labels::OTHER;
use crate::core::delivery_reason::DeliveryReason;

/// The number of hooks that are exported by name, first come, first served.
const MAX_HOOKS: usize = 100;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeadLetterLabel {
    hook_namespace: String,
    hook: String,
    reason: &'static str,
}

/// Counts dead letters by hook.
#[derive(Debug, Default)]
pub struct DeadLetterMetrics {
    counts: Family<DeadLetterLabel, Counter>,
    /// The hooks with a name of their own.
    named: Mutex<HashSet<(Arc<str>, Arc<str>)>>,
}

impl DeadLetterMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = DeadLetterMetrics::default();
        registry.register(
            "hook_dead_letters",
            "Deliveries that became dead letters, by hook and reason (at most 100 hooks, then other)",
            metrics.counts.clone(),
        );
        metrics
    }

    /// Counts a dead letter of the hook with this namespace and name.
    pub fn record(&self, namespace: &Arc<str>, name: &Arc<str>, reason: DeliveryReason) {
        let is_named = {
            let (mut named, key) = (self.named.lock(), (namespace.clone(), name.clone()));
            named.contains(&key) || (named.len() < MAX_HOOKS && named.insert(key))
        };
        let (hook_namespace, hook) = if is_named { (&**namespace, &**name) } else { (OTHER, OTHER) };
        let label = DeadLetterLabel {
            hook_namespace: hook_namespace.to_owned(),
            hook: hook.to_owned(),
            reason: reason.as_str(),
        };
        self.counts.get_or_create(&label).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_the_hooks_with_a_name() {
        let metrics = DeadLetterMetrics::default();
        for n in 0..2 * MAX_HOOKS {
            let name: Arc<str> = format!("hook-{n}").into();
            metrics.record(&"shop".into(), &name, DeliveryReason::HookDeleted);
            metrics.record(&"shop".into(), &name, DeliveryReason::HookDeleted);
        }
        let count = |hook: &str, namespace: &str| {
            let label = DeadLetterLabel {
                hook_namespace: namespace.into(),
                hook: hook.into(),
                reason: DeliveryReason::HookDeleted.as_str(),
            };
            metrics.counts.get_or_create(&label).get()
        };
        assert_eq!(count("hook-0", "shop"), 2);
        assert_eq!(count(OTHER, OTHER), 2 * MAX_HOOKS as u64);
    }
}
