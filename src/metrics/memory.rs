//! Metrics of the memory budget and its shares.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::labels::MemoryLabel;

/// The memory budget and its use.
#[derive(Debug)]
pub struct MemoryMetrics {
    budget: Gauge,
    used: Family<MemoryLabel, Gauge>,
    rejections: Family<MemoryLabel, Counter>,
}

/// The metrics of one share of the budget. Cheap to update.
#[derive(Clone, Debug, Default)]
pub struct MemoryShareMetrics {
    used: Gauge,
    rejections: Counter,
}

impl MemoryMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let memory = MemoryMetrics {
            budget: Gauge::default(),
            used: Family::default(),
            rejections: Family::default(),
        };
        registry.register_with_unit(
            "memory_budget",
            "Bytes of payloads that the process may hold in memory (--memory-budget)",
            Unit::Bytes,
            memory.budget.clone(),
        );
        registry.register_with_unit(
            "memory_used",
            "Bytes of payloads in memory, by share of the budget",
            Unit::Bytes,
            memory.used.clone(),
        );
        registry.register(
            "memory_rejections",
            "Payloads that were rejected or postponed because their share of the memory budget was used up",
            memory.rejections.clone(),
        );
        memory
    }

    /// Sets the budget in bytes.
    pub fn set_budget(&self, bytes: u64) {
        self.budget.set(to_gauge(bytes));
    }

    /// Returns the metrics of a share.
    pub fn share(&self, share: &'static str) -> MemoryShareMetrics {
        let label = MemoryLabel { share };
        MemoryShareMetrics {
            used: self.used.get_or_create_owned(&label),
            rejections: self.rejections.get_or_create_owned(&label),
        }
    }
}

impl MemoryShareMetrics {
    pub fn set_used(&self, bytes: u64) {
        self.used.set(to_gauge(bytes));
    }

    /// Counts a payload for which the share had no memory.
    pub fn record_rejection(&self) {
        self.rejections.inc();
    }

    /// Returns the bytes in use.
    pub fn used(&self) -> u64 {
        u64::try_from(self.used.get()).unwrap_or(0)
    }

    /// Returns the number of rejections.
    pub fn rejections(&self) -> u64 {
        self.rejections.get()
    }
}

/// Converts a count to the value of a gauge.
pub(super) fn to_gauge(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
