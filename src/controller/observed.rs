//! What stands around every reconcile: a span, a counter and a duration, a net for panics, backoff, and the reporting
//! of what went wrong. Reconciles themselves stay free of it.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use kube::runtime::controller::Action;
use kube::{Resource, ResourceExt};

use super::context::Context;
use super::outcome;
use super::problem::{Class, Problem};
use super::status::{self, Managed};
use crate::admin::AdminError;
use crate::admin::limit::{Lane, errand};
use crate::api::RECONCILE_REQUESTED_AT;
use crate::cluster::{ClusterError, Guarded, Target};

/// A problem that waits for a watch is looked at again after this time, should the watch have missed it.
const SAFETY: Duration = Duration::from_secs(600);

const SOON: Duration = Duration::from_millis(200);
/// The watch is late by about as long.
const TELLING: Duration = Duration::from_millis(50);

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
    if !context.leadership.leads() {
        // Whoever gains leadership asks for everything.
        return Action::await_change();
    }
    let kind: &'static str = K::KIND.into();
    let uid = guarded.uid().unwrap_or_default();
    let target = Target::of(K::KIND, &*guarded);
    if !context.cluster.has_told(&target) {
        return Action::requeue(TELLING);
    }
    let mut watch = outcome::Watch::new(kind, context.metrics.clone());
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
        Ok(object) => {
            // Boxed: a whole reconcile, moved from frame to frame, outgrows a thread's stack.
            let lane = lane(&object);
            let work = errand(lane, Box::pin(reconcile(Arc::new(object), context.clone())));
            let done = AssertUnwindSafe(work).catch_unwind().await;
            done.unwrap_or_else(|panic| Err(Problem::Panic(message(&*panic))))
        }
        Err(problem) => Err(problem),
    };
    watch.ended(&result);
    match result {
        Ok(next) => {
            context.backoff.forget(&uid);
            Action::requeue(next)
        }
        // Somebody else wrote to the object meanwhile: not worth a word, the next look is at what they wrote. A watch that
        // hangs would show the same for minutes: later and later.
        Err(Problem::Cluster(ClusterError::Conflict)) => Action::requeue(context.backoff.conflicted(&uid)),
        // Nothing is left to reconcile, as the watch will tell.
        Err(Problem::Cluster(ClusterError::Gone)) => Action::requeue(SAFETY),
        // Not its turn: it waits without a slot, and without a word.
        Err(Problem::Admin(AdminError::Postponed(after))) => Action::requeue(after),
        // Nothing failed, and what the status says may still be so.
        Err(Problem::NotVisible(after)) => Action::requeue(after.max(SOON)),
        Err(problem) if problem.is_own() => Action::await_change(),
        Err(problem) => {
            let (namespace, name) = (guarded.namespace().unwrap_or_default(), guarded.name_any());
            // Where people are told by the log, they are told once, at a change, and not at every try.
            let (reason, vendor_request_id) = (problem.reason(), problem.request_id());
            if context.cluster.publishes_to_log() {
                tracing::debug!(kind, namespace, name, reason, vendor_request_id, "{problem}");
            } else {
                tracing::warn!(kind, namespace, name, reason, vendor_request_id, "{problem}");
            }
            let before = guarded.0.as_ref().ok();
            if let Err(error) = status::report(&context, &target, before, &problem).await {
                tracing::debug!(kind, namespace, name, %error, "the status could not be written");
            }
            context.backoff.slow_down(&uid, &problem);
            Action::requeue(match problem.class() {
                // What a vendor has may change without a word.
                Class::Terminal => SAFETY.min(context.options.resync_interval),
                Class::DependencyMissing => SAFETY,
                Class::RateLimited(after) => after.max(context.backoff.failed(&uid)),
                Class::After(after) => after.max(SOON),
                Class::Retryable => context.backoff.failed(&uid),
            })
        }
    }
}

/// How pressing it is: what was made true once and has not changed since is only compared.
fn lane<K: Managed>(object: &K) -> Lane {
    if object.meta().deletion_timestamp.is_some() {
        return Lane::Delete;
    }
    let Some(mut status) = object.status().cloned() else { return Lane::Change };
    let asked = object.annotations().get(RECONCILE_REQUESTED_AT);
    let parts = K::parts(&mut status);
    let ready = parts.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
    let handled = parts.handled.as_ref().and_then(|h| h.reconcile_requested_at.as_ref());
    let current = *parts.observed_generation == object.meta().generation && handled == asked;
    if ready && current { Lane::Resync } else { Lane::Change }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without a message".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::EventHook;
    use crate::cluster::files::{Files, Options};
    use crate::cluster::{Subscribers, View};
    use crate::controller;
    use crate::core::egress::Policy;
    use crate::leadership::Leadership;
    use crate::metrics::Metrics;
    use crate::net::{Egress, HttpClient};

    const HOOKS: &str = "
apiVersion: hookstream.dev/v1alpha1
kind: EventHook
metadata: {name: bad}
spec: {source: s, handler: {webhook: {url: 'https://example.com'}}}
---
apiVersion: hookstream.dev/v1alpha1
kind: EventHook
metadata: {name: good}
spec: {source: s, handler: {webhook: {url: 'https://example.com'}}}
---
apiVersion: hookstream.dev/v1alpha1
kind: EventHook
metadata: {name: malformed}
spec: {source: 7, handler: {webhook: {url: 'https://example.com'}}}
";

    /// A context on real files, with the feed running.
    async fn world() -> (tempfile::TempDir, Arc<Context>) {
        rustls::crypto::ring::default_provider().install_default().ok();
        let dir = tempfile::tempdir().unwrap();
        let manifests = dir.path().join("hooks.yaml");
        std::fs::write(&manifests, HOOKS).unwrap();
        let options =
            Options { manifests: vec![manifests], data: dir.path().join("data"), prune: false, token: None };
        let files = Arc::new(Files::open(options).unwrap());
        let (view, run) = files.watch(Subscribers::default());
        tokio::spawn(run);
        view.ready().await;
        let http = HttpClient::new(Egress::new(Policy::default())).unwrap();
        let options = controller::Options::default();
        let (metrics, leadership) = (Arc::new(Metrics::default()), Leadership::always());
        (dir, Arc::new(Context::new(files, view, http, options, metrics, leadership)))
    }

    /// Waits until the hook's Ready condition has a reason, and tells it.
    async fn reason(view: &View, name: &str) -> String {
        loop {
            let hook = view.hook("default", name).unwrap();
            let status = match &hook.0 {
                Ok(hook) => hook.status.clone(),
                Err(_) => None,
            };
            if let Some(ready) = status.iter().flat_map(|s| &s.conditions).find(|c| c.type_ == "Ready") {
                return ready.reason.clone();
            }
            tokio::task::yield_now().await;
        }
    }

    async fn explode(object: Arc<EventHook>, context: Arc<Context>) -> Result<Duration, Problem> {
        assert_ne!(object.name_any(), "bad", "a defect");
        crate::controller::eventhook::reconcile(object, context).await
    }

    #[tokio::test]
    async fn a_panic_is_an_error_of_that_object_alone() {
        let (_dir, context) = world().await;
        for name in ["bad", "good"] {
            let guarded = context.view.hook("default", name).unwrap();
            observed(explode, guarded, context.clone()).await;
        }
        assert_eq!(reason(&context.view, "bad").await, "Panic");
        assert_eq!(reason(&context.view, "good").await, "Valid");
    }

    #[tokio::test]
    async fn an_object_that_cannot_be_read_is_told_and_waits() {
        let (dir, context) = world().await;
        let guarded = context.view.hook("default", "malformed").unwrap();
        assert_eq!(observed(explode, guarded, context.clone()).await, Action::requeue(SAFETY));
        let state = dir.path().join("data/objects/EventHook.default.malformed.json");
        assert!(std::fs::read_to_string(state).unwrap().contains("InvalidObject"));
    }
}
