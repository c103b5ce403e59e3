//! Wraps every reconcile: checks leadership, records metrics, catches panics, backs off and reports errors. The
//! `reconcile` functions contain none of this.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use kube::Resource;
use kube::runtime::controller::Action;
use tracing::Instrument;

use super::context::Context;
use super::error::{SyncError, SyncErrorClass};
use super::status::{self, Managed};
use super::telemetry::ReconcileTimer;
use crate::admin::AdminError;
use crate::admin::limit::{Priority, with_priority};
use crate::cluster::{ClusterError, DeserializeGuard, ObjectKey, WriteTarget};
use crate::core::conditions::is_ready;

/// Requeue delay of an error that a watch event resolves, in case that event is missed.
const SAFETY_REQUEUE: Duration = Duration::from_secs(600);
/// Shortest requeue delay of an error that resolves itself after some time.
const MIN_REQUEUE: Duration = Duration::from_millis(200);
/// Requeue delay of an object whose last write the watch has not delivered yet; about the delay of a watch event.
const STALE_REQUEUE: Duration = Duration::from_millis(50);

/// Runs a reconcile and returns when the next one is due. Every log line of it names the object.
pub async fn supervise<K, F>(
    reconcile: impl FnOnce(Arc<K>, Arc<Context>) -> F,
    guarded: Arc<DeserializeGuard<K>>,
    context: Arc<Context>,
) -> Action
where
    K: Managed,
    F: Future<Output = Result<Duration, SyncError>> + Send,
{
    let key = ObjectKey::of(&*guarded);
    let kind: &'static str = K::KIND.into();
    // Names that no event uses: an event with its own `namespace`, such as the key ring's, would hide the object's.
    let span = tracing::info_span!(
        "reconcile",
        object_kind = kind,
        object_namespace = key.namespace,
        object_name = key.name
    );
    supervise_unlogged(reconcile, guarded, context).instrument(span).await
}

async fn supervise_unlogged<K, F>(
    reconcile: impl FnOnce(Arc<K>, Arc<Context>) -> F,
    guarded: Arc<DeserializeGuard<K>>,
    context: Arc<Context>,
) -> Action
where
    K: Managed,
    F: Future<Output = Result<Duration, SyncError>> + Send,
{
    if !context.leadership.is_leader() {
        // Skip the reconcile: all objects are reconciled when leadership is gained.
        return Action::await_change();
    }
    let kind: &'static str = K::KIND.into();
    let target = WriteTarget::of(K::KIND, &*guarded);
    if !context.cluster.has_observed_own_write(&target) {
        return Action::requeue(STALE_REQUEUE);
    }
    let mut timer = ReconcileTimer::start(kind, context.metrics.clone());
    let result = match parse(&context, &target, &guarded).await {
        Ok(object) => {
            let priority = priority(&object);
            // Boxed: the future of a whole reconcile, moved from frame to frame, exceeds a thread's stack.
            let work = with_priority(priority, Box::pin(reconcile(Arc::new(object), context.clone())));
            let result = AssertUnwindSafe(work).catch_unwind().await;
            result.unwrap_or_else(|panic| Err(SyncError::Panic(panic_message(&*panic))))
        }
        Err(error) => Err(error),
    };
    timer.finish(&result);
    match result {
        Ok(next) => {
            context.backoff.forget(&target.uid);
            Action::requeue(next)
        }
        Err(error) => handle_error(&context, &target, &guarded, error).await,
    }
}

/// Returns the parsed object. A malformed object is an error, unless it is being deleted and the parts that cleanup
/// needs can be parsed. Otherwise the deletion of its namespace would hang until the object can be parsed.
async fn parse<K: Managed>(
    context: &Context,
    target: &WriteTarget,
    guarded: &DeserializeGuard<K>,
) -> Result<K, SyncError> {
    let invalid = match &guarded.0 {
        Ok(object) => return Ok(object.clone()),
        Err(invalid) => SyncError::InvalidObject(invalid.error.clone()),
    };
    if guarded.meta().deletion_timestamp.is_none() {
        return Err(invalid);
    }
    let stored = context.cluster.read_object(target).await?;
    status::parse_for_cleanup(&stored).ok_or(invalid)
}

/// Reports the error, unless it is no failure of the object, and returns when to retry.
async fn handle_error<K: Managed>(
    context: &Context,
    target: &WriteTarget,
    guarded: &DeserializeGuard<K>,
    error: SyncError,
) -> Action {
    let uid = &target.uid;
    match &error {
        // Another client changed the object during the reconcile. Not reported: the next reconcile sees that version. The
        // delay grows, because a hanging watch would show the old version for minutes.
        SyncError::Cluster(ClusterError::Conflict) => {
            return Action::requeue(context.backoff.record_conflict(uid));
        }
        // Nothing is left to reconcile; the watch will show the deletion.
        SyncError::Cluster(ClusterError::Gone) => return Action::requeue(SAFETY_REQUEUE),
        // Postponed by our own rate limiter: requeue, which frees the reconcile slot. Not reported.
        SyncError::Admin(AdminError::Postponed(after)) => return Action::requeue(*after),
        // Nothing failed, and the status may still be correct. Not reported.
        SyncError::NotVisibleYet(after) => return Action::requeue((*after).max(MIN_REQUEUE)),
        error if error.was_not_attempted() => return Action::await_change(),
        _ => {}
    }
    let (kind, key) = (<&'static str>::from(target.kind), &target.key);
    let (namespace, name) = (&*key.namespace, &*key.name);
    let (reason, vendor_request_id) = (error.reason(), error.request_id());
    // If Events go to the log, the Event of the changed condition already logs the error once; do not warn at every
    // retry.
    if context.cluster.publishes_to_log() {
        tracing::debug!(kind, namespace, name, reason, vendor_request_id, "{error}");
    } else {
        tracing::warn!(kind, namespace, name, reason, vendor_request_id, "{error}");
    }
    let object = guarded.0.as_ref().ok();
    if let Err(error) = status::write_error(context, target, object, &error).await {
        tracing::debug!(kind, namespace, name, %error, "writing the status failed");
    }
    context.backoff.record_rate_limit(uid, &error);
    Action::requeue(match error.class() {
        // The vendor's side may change without a watch event.
        SyncErrorClass::Terminal => SAFETY_REQUEUE.min(context.options.resync_interval),
        SyncErrorClass::DependencyMissing => SAFETY_REQUEUE,
        SyncErrorClass::RateLimited(after) => after.max(context.backoff.record_failure(uid)),
        SyncErrorClass::After(after) => after.max(MIN_REQUEUE),
        SyncErrorClass::Retryable => context.backoff.record_failure(uid),
    })
}

/// Returns the priority of the reconcile's calls: a ready and unchanged object is only compared with the vendor.
fn priority<K: Managed>(object: &K) -> Priority {
    if object.meta().deletion_timestamp.is_some() {
        return Priority::Delete;
    }
    let Some(mut status) = object.status().cloned() else { return Priority::Change };
    let request = status::reconcile_request(object);
    let shared = K::shared(&mut status);
    let is_ready = is_ready(shared.conditions);
    let handled = shared.handled.as_ref().and_then(|h| h.reconcile_requested_at.clone());
    let is_current = *shared.observed_generation == object.meta().generation && handled == request;
    if is_ready && is_current { Priority::Resync } else { Priority::Change }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without a message".into())
}

#[cfg(test)]
mod tests {
    use kube::ResourceExt;

    use super::*;
    use crate::api::EventHook;
    use crate::cluster::files::{FileCluster, FileClusterOptions};
    use crate::cluster::{Subscribers, View};
    use crate::controller;
    use crate::core::egress::EgressRules;
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
    async fn context_on_files() -> (tempfile::TempDir, Arc<Context>) {
        rustls::crypto::ring::default_provider().install_default().ok();
        let dir = tempfile::tempdir().unwrap();
        let manifests = dir.path().join("hooks.yaml");
        std::fs::write(&manifests, HOOKS).unwrap();
        let options = FileClusterOptions {
            manifests: vec![manifests],
            data: dir.path().join("data"),
            prune: false,
            token: None,
        };
        let files = Arc::new(FileCluster::open(options).unwrap());
        let (view, run) = files.watch(Subscribers::default());
        tokio::spawn(run);
        view.wait_until_listed().await;
        let http = HttpClient::new(Egress::new(EgressRules::default())).unwrap();
        let options = controller::ControllerOptions::default();
        let (metrics, leadership) = (Arc::new(Metrics::default()), Leadership::always());
        (dir, Arc::new(Context::new(files, view, http, options, metrics, leadership)))
    }

    /// Waits until the hook has a Ready condition and returns its reason.
    async fn ready_reason(view: &View, name: &str) -> String {
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

    async fn panic_for_bad(object: Arc<EventHook>, context: Arc<Context>) -> Result<Duration, SyncError> {
        assert_ne!(object.name_any(), "bad", "a defect");
        crate::controller::eventhook::reconcile(object, context).await
    }

    #[tokio::test]
    async fn panic_is_an_error_of_one_object() {
        let (_dir, context) = context_on_files().await;
        for name in ["bad", "good"] {
            let guarded = context.view.hook("default", name).unwrap();
            supervise(panic_for_bad, guarded, context.clone()).await;
        }
        assert_eq!(ready_reason(&context.view, "bad").await, "Panic");
        assert_eq!(ready_reason(&context.view, "good").await, "Valid");
    }

    #[tokio::test]
    async fn malformed_object_is_reported_and_requeued() {
        let (dir, context) = context_on_files().await;
        let guarded = context.view.hook("default", "malformed").unwrap();
        assert_eq!(supervise(panic_for_bad, guarded, context.clone()).await, Action::requeue(SAFETY_REQUEUE));
        let state = dir.path().join("data/objects/EventHook.default.malformed.json");
        assert!(std::fs::read_to_string(state).unwrap().contains("InvalidObject"));
    }
}
