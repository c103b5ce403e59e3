//! How reconciles end, from a closed set, counted even where one is given up half-way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::problem::{Class, Problem};
use crate::admin::AdminError;
use crate::cluster::ClusterError;
use crate::metrics::Metrics;

/// How a reconcile ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
pub enum Outcome {
    Applied,
    /// It waits for a change of the object or of what it refers to.
    Stalled,
    /// It waits for what is missing.
    Waiting,
    /// The vendor asked to slow down.
    RateLimited,
    /// Others were before it within the rate limit.
    Postponed,
    /// Somebody else wrote to the object meanwhile, or deleted it.
    Conflict,
    /// Another replica leads.
    NotLeading,
    /// It is tried again.
    Failed,
    Panicked,
    /// It was given up half-way: the process stops.
    Abandoned,
}

impl Outcome {
    fn of(problem: &Problem) -> Self {
        match problem {
            Problem::Panic(_) => Outcome::Panicked,
            Problem::Cluster(ClusterError::Conflict | ClusterError::Gone) => Outcome::Conflict,
            Problem::Admin(AdminError::Postponed(_)) => Outcome::Postponed,
            problem if problem.is_own() => Outcome::NotLeading,
            problem => match problem.class() {
                Class::Terminal => Outcome::Stalled,
                Class::DependencyMissing | Class::After(_) => Outcome::Waiting,
                Class::RateLimited(_) => Outcome::RateLimited,
                Class::Retryable => Outcome::Failed,
            },
        }
    }
}

/// Counts one reconcile, once.
pub struct Watch {
    kind: &'static str,
    metrics: Arc<Metrics>,
    started: Instant,
    outcome: Outcome,
}

impl Watch {
    pub fn new(kind: &'static str, metrics: Arc<Metrics>) -> Self {
        Watch { kind, metrics, started: Instant::now(), outcome: Outcome::Abandoned }
    }

    pub fn ended(&mut self, result: &Result<Duration, Problem>) {
        self.outcome = result.as_ref().err().map_or(Outcome::Applied, Outcome::of);
        if let Err(problem) = result {
            self.metrics.problem(self.kind, problem.reason());
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.metrics.reconciled(self.kind, self.outcome.into(), self.started.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leadership::NotLeading;

    #[test]
    fn each_is_counted_once() {
        let metrics = Arc::new(Metrics::default());
        let results = [
            (Ok(Duration::ZERO), "Applied"),
            (Err(Problem::IngestUrlMissing), "Stalled"),
            (Err(Problem::ConnectionMissing("c".into())), "Waiting"),
            (Err(Problem::Admin(AdminError::Postponed(Duration::ZERO))), "Postponed"),
            (Err(Problem::Admin(AdminError::Unreachable("x".into()))), "Failed"),
            (Err(Problem::Admin(NotLeading.into())), "NotLeading"),
            (Err(Problem::Cluster(NotLeading.into())), "NotLeading"),
            (Err(Problem::Panic("x".into())), "Panicked"),
        ];
        for (result, _) in &results {
            Watch::new("EventHook", metrics.clone()).ended(result);
        }
        drop(Watch::new("EventHook", metrics.clone()));
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
