//! Registers and removes the metric series of hooks whose annotation requests them.

use std::sync::Arc;

use kube::ResourceExt;

use super::hooks::HookState;
use super::store::HookId;
use crate::api::EventHook;
use crate::cluster::DeserializeGuard;
use crate::metrics::{HookSeries, METRICS_ANNOTATION, Metrics};

/// The per-hook series of a metrics registry.
#[derive(Default)]
pub struct SeriesRegistry {
    metrics: Arc<Metrics>,
}

impl SeriesRegistry {
    pub fn new(metrics: Arc<Metrics>) -> Self {
        SeriesRegistry { metrics }
    }

    /// Returns the hook's own series if its annotation requests them and the limit allows it.
    pub fn register(&self, object: &DeserializeGuard<EventHook>, id: &HookId) -> Option<Arc<HookSeries>> {
        if object.annotations().get(METRICS_ANNOTATION).is_none_or(|value| value != "true") {
            return None;
        }
        let series = self.metrics.hooks.get_or_create(&id.namespace, &id.name);
        if series.is_none() {
            tracing::warn!(
                namespace = %id.namespace,
                hook = %id.name,
                "limit of hooks with their own metric series reached (--hook-metrics), this hook gets none"
            );
        }
        series
    }

    /// Ends the report of a deleted hook's health and times.
    pub fn forget_health(&self, uid: &str) {
        self.metrics.unhealthy_hooks.remove(uid);
        self.metrics.hook_times.remove(uid);
    }

    /// Removes the series of a hook that is deleted or no longer requests them.
    pub fn remove(&self, old: Option<&HookState>) {
        if let Some(HookState { id, series: Some(_), .. }) = old {
            self.metrics.hooks.remove(&id.namespace, &id.name);
        }
    }
}
