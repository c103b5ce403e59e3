//! The metrics of reconciles. Each reconcile has one outcome of a closed set, even if it is cancelled.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::{SyncError, SyncErrorClass};
use crate::admin::AdminError;
use crate::cluster::ClusterError;
use crate::metrics::Metrics;

/// The outcome of a reconcile, as the metric's label names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
pub enum ReconcileOutcome {
    Applied,
    /// Waits for a change of the object or of a dependency.
    Stalled,
    /// Waits for a missing dependency.
    Waiting,
    /// The vendor's rate limit is exhausted.
    RateLimited,
    /// Our own rate limiter let other reconciles go first.
    Postponed,
    /// Another client changed or deleted the object during the reconcile.
    Conflict,
    /// Another replica leads.
    NotLeading,
    /// It is retried with backoff.
    Failed,
    Panicked,
    /// The process stopped and cancelled the reconcile.
    Abandoned,
}

impl ReconcileOutcome {
    fn of(error: &SyncError) -> Self {
        match error {
            SyncError::Panic(_) => ReconcileOutcome::Panicked,
            SyncError::Cluster(ClusterError::Conflict | ClusterError::Gone) => ReconcileOutcome::Conflict,
            SyncError::Admin(AdminError::Postponed(_)) => ReconcileOutcome::Postponed,
            error if error.was_not_attempted() => ReconcileOutcome::NotLeading,
            error => match error.class() {
                SyncErrorClass::Terminal => ReconcileOutcome::Stalled,
                SyncErrorClass::DependencyMissing | SyncErrorClass::After(_) => ReconcileOutcome::Waiting,
                SyncErrorClass::RateLimited(_) => ReconcileOutcome::RateLimited,
                SyncErrorClass::Retryable => ReconcileOutcome::Failed,
            },
        }
    }
}

/// Records the duration and the outcome of one reconcile when it is dropped.
pub struct ReconcileTimer {
    kind: &'static str,
    metrics: Arc<Metrics>,
    started: Instant,
    outcome: ReconcileOutcome,
}

impl ReconcileTimer {
    /// Starts the timer. The outcome is `Abandoned` until `finish`.
    pub fn start(kind: &'static str, metrics: Arc<Metrics>) -> Self {
        ReconcileTimer { kind, metrics, started: Instant::now(), outcome: ReconcileOutcome::Abandoned }
    }

    /// Sets the outcome, and counts the reason of an error.
    pub fn finish(&mut self, result: &Result<Duration, SyncError>) {
        self.outcome = result.as_ref().err().map_or(ReconcileOutcome::Applied, ReconcileOutcome::of);
        if let Err(error) = result {
            self.metrics.record_reconcile_problem(self.kind, error.reason());
        }
    }
}

impl Drop for ReconcileTimer {
    fn drop(&mut self) {
        self.metrics.record_reconcile(self.kind, self.outcome.into(), self.started.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leadership::NotLeading;

    #[test]
    fn counts_each_reconcile_once() {
        let metrics = Arc::new(Metrics::default());
        let results = [
            (Ok(Duration::ZERO), "Applied"),
            (Err(SyncError::IngestUrlMissing), "Stalled"),
            (Err(SyncError::ConnectionMissing("c".into())), "Waiting"),
            (Err(SyncError::Admin(AdminError::Postponed(Duration::ZERO))), "Postponed"),
            (Err(SyncError::Admin(AdminError::Unreachable("x".into()))), "Failed"),
            (Err(SyncError::Admin(NotLeading.into())), "NotLeading"),
            (Err(SyncError::Cluster(NotLeading.into())), "NotLeading"),
            (Err(SyncError::Panic("x".into())), "Panicked"),
        ];
        for (result, _) in &results {
            ReconcileTimer::start("EventHook", metrics.clone()).finish(result);
        }
        drop(ReconcileTimer::start("EventHook", metrics.clone()));
        let text = metrics.encode();
        for (outcome, count) in results
            .iter()
            .map(|(_, o)| (*o, if *o == "NotLeading" { 2 } else { 1 }))
            .chain([("Abandoned", 1)])
        {
            let line =
                format!("hookstream_reconciles_total{{kind=\"EventHook\",outcome=\"{outcome}\"}} {count}\n");
            assert!(text.contains(&line), "{outcome}: {text}");
        }
    }
}
