//! Registers families of metrics.

use std::fmt::Debug;
use std::hash::Hash;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::labels::HostLabel;

/// The unit of fractions. Prometheus names it in the singular.
pub(super) fn ratio() -> Unit {
    Unit::Other("ratio".into())
}

/// Registers metric families.
pub(super) struct FamilyRegistrar<'a>(pub(super) &'a mut Registry);

impl FamilyRegistrar<'_> {
    /// Registers a counter.
    pub(super) fn counter<L>(&mut self, name: &str, help: &str) -> Family<L, Counter>
    where
        L: Clone + Debug + Eq + Hash + EncodeLabelSet + Send + Sync + 'static,
    {
        let family = Family::default();
        self.0.register(name, help, family.clone());
        family
    }

    /// Registers a histogram of call durations by host.
    pub(super) fn seconds(&mut self, name: &str, help: &str) -> Family<HostLabel, Histogram> {
        // From a cached response to the deadline of a call.
        let family = Family::<HostLabel, Histogram>::new_with_constructor(|| {
            Histogram::new(exponential_buckets(0.004, 4.0, 8))
        });
        self.0.register_with_unit(name, help, Unit::Seconds, family.clone());
        family
    }
}
