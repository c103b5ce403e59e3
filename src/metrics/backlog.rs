//! Metrics of the store and its pending deliveries, at the last measurement.

use std::time::Duration;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::hooks::FloatGauge;
use super::labels::ShareLabel;
use super::memory::to_gauge;
use super::registrar::ratio;

/// The pending deliveries and the store. Each setter replaces the last measurement.
#[derive(Debug, Default)]
pub struct BacklogMetrics {
    deliveries: Gauge,
    bytes: Gauge,
    oldest: FloatGauge,
    dead: Gauge,
    shares: Family<ShareLabel, FloatGauge>,
    store: Gauge,
    keys: Gauge,
    owned_shards: Gauge,
}

impl BacklogMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let backlog = BacklogMetrics::default();
        registry.register("backlog_deliveries", "Pending deliveries", backlog.deliveries.clone());
        registry.register_with_unit(
            "backlog",
            "Bytes of the events of pending deliveries; an event counts once for each delivery",
            Unit::Bytes,
            backlog.bytes.clone(),
        );
        registry.register_with_unit(
            "backlog_oldest_age",
            "Age of the oldest pending delivery (0: none is pending)",
            Unit::Seconds,
            backlog.oldest.clone(),
        );
        registry.register(
            "dead_letters",
            "Dead letters that are kept and can be replayed, counted up to a million",
            backlog.dead.clone(),
        );
        registry.register_with_unit(
            "backlog_share_used",
            "Used fraction of its disk share, for the hook or namespace with the highest fraction",
            ratio(),
            backlog.shares.clone(),
        );
        registry.register_with_unit("store", "Size of the store file", Unit::Bytes, backlog.store.clone());
        let help = "Shards of hooks, of 256, whose deliveries this worker sends";
        registry.register("owned_shards", help, backlog.owned_shards.clone());
        let help = "Memory for idempotency keys and event ids";
        registry.register_with_unit("store_key_memory", help, Unit::Bytes, backlog.keys.clone());
        backlog
    }

    /// Sets the number of pending deliveries, their bytes, and the age of the oldest one.
    pub fn set_pending(&self, deliveries: u64, bytes: u64, oldest: Duration) {
        self.deliveries.set(to_gauge(deliveries));
        self.bytes.set(to_gauge(bytes));
        self.oldest.set(oldest.as_secs_f64());
    }

    /// Sets the number of dead letters.
    pub fn set_dead_letters(&self, count: u64) {
        self.dead.set(to_gauge(count));
    }

    /// Sets the bytes of the store's file, and of the memory for its idempotency keys and event ids.
    pub fn set_store_size(&self, file: u64, keys: u64) {
        self.store.set(to_gauge(file));
        self.keys.set(to_gauge(keys));
    }

    /// Sets the number of shards that this worker owns.
    pub fn set_owned_shards(&self, shards: u64) {
        self.owned_shards.set(to_gauge(shards));
    }

    /// Sets the used fraction of the share of the fullest `hook` or `namespace` (`of`).
    pub fn set_share_used(&self, of: &'static str, used: f64) {
        self.shares.get_or_create(&ShareLabel { of }).set(used);
    }
}
