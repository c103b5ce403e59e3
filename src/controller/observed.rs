//! What stands around every reconcile: a span, a counter and a duration, a net for panics, backoff, and the reporting
//! of what went wrong. Reconciles themselves stay free of it.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use kube::runtime::controller::Action;
use kube::{Resource, ResourceExt};

use super::context::Context;
use super::problem::{Class, Problem};
use super::status::{self, Managed};
use crate::cluster::{ClusterError, Guarded, Target};

/// A problem that waits for a watch is looked at again after this time, should the watch have missed it.
const SAFETY: Duration = Duration::from_secs(600);

const SOON: Duration = Duration::from_millis(200);

/// Runs a reconcile; says when the next one is due.
pub async fn observed<K, F>(
    reconcile: impl FnOnce(Arc<K>, Arc<Context>) -> F,
    guarded: Arc<Guarded<K>>,
    context: Arc<Context>,
) -> Action
where
    K: Managed,
    F: Future<Output = Result<Duration, Problem>> + Send,
{
    let started = Instant::now();
    let kind: &'static str = K::KIND.into();
    let uid = guarded.uid().unwrap_or_default();
    let target = Target::of(K::KIND, &*guarded);
    let object = match &guarded.0 {
        Ok(object) => Ok(object.clone()),
        // A namespace must not hang for an object that this version cannot read.
        Err(invalid) if guarded.meta().deletion_timestamp.is_some() => {
            match context.cluster.stored(&target).await {
                Ok(stored) => {
                    status::salvage(&stored).ok_or_else(|| Problem::InvalidObject(invalid.error.clone()))
                }
                Err(error) => Err(error.into()),
            }
        }
        Err(invalid) => Err(Problem::InvalidObject(invalid.error.clone())),
    };
    let result = match object {
        Ok(object) => AssertUnwindSafe(reconcile(Arc::new(object), context.clone()))
            .catch_unwind()
            .await
            .unwrap_or_else(|panic| Err(Problem::Panic(message(&*panic)))),
        Err(problem) => Err(problem),
    };
    let outcome = result.as_ref().map_or_else(Problem::reason, |_| "Applied");
    context.metrics.reconciled(kind, outcome, started.elapsed());
    match result {
        Ok(next) => {
            context.backoff.forget(&uid);
            Action::requeue(next)
        }
        // Somebody else wrote to the object meanwhile: not worth a word, the next look is at what they wrote.
        Err(Problem::Cluster(ClusterError::Conflict)) => Action::requeue(SOON),
        Err(problem) => {
            let (namespace, name) = (guarded.namespace().unwrap_or_default(), guarded.name_any());
            tracing::warn!(kind, namespace, name, reason = problem.reason(), "{problem}");
            let before = guarded.0.as_ref().ok();
            if let Err(error) = status::report(&context, &target, before, &problem).await {
                tracing::debug!(kind, namespace, name, %error, "the status could not be written");
            }
            context.backoff.slow_down(&uid, &problem);
            Action::requeue(match problem.class() {
                Class::Terminal | Class::DependencyMissing => SAFETY,
                Class::RateLimited(after) => after.max(context.backoff.failed(&uid)),
                Class::Retryable => context.backoff.failed(&uid),
            })
        }
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without a message".into())
}
