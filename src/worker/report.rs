//! Reports the dispatcher's state without blocking it: holds to the store, delivery health to the condition `Delivering`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::breaker_reports::BreakerReports;
use super::coalescing_queue::CoalescingQueue;
use super::store::{DispatchStore, HookId, StoreError};
use crate::api::EventHook;
use crate::cluster::{Cluster, ClusterError, ResourceKind, View, WriteTarget};
use crate::core::conditions::{DELIVERING, build_condition};
use crate::core::time::Millis;

/// The delay before a write is repeated because the cached object was too old.
const STALE_RETRY: Duration = Duration::from_millis(500);
/// The delay before a failed write is repeated.
const FAILED_RETRY: Duration = Duration::from_secs(5);
/// Holds that are stored in one batch, so that they share a commit.
const HOLD_BATCH: usize = 256;
/// The number of recent writes to remember, because the view may still show objects from before these writes.
const RECENT_WRITES: usize = 256;

/// Queued reports for the store and for the API server. The queues are separate, so that the store learns of holds,
/// during which deliveries do not age, even while the API server hangs.
#[derive(Default)]
pub struct ReportQueues {
    pub holds: CoalescingQueue<HoldChange>,
    pub health: CoalescingQueue<DeliveryHealth>,
    /// Read on request, and never queued.
    pub breakers: BreakerReports,
}

/// The hook's deliveries are held, or no longer held.
#[derive(Debug)]
pub struct HoldChange {
    pub hook: HookId,
    pub held: bool,
    pub at: Millis,
}

/// The health of a hook's deliveries, as its condition `Delivering` reports it.
#[derive(Clone, Debug)]
pub struct DeliveryHealth {
    pub hook: HookId,
    pub healthy: bool,
    pub reason: &'static str,
    pub message: String,
    /// The token of the `resume` annotation that was executed.
    pub resumed: Option<String>,
}

/// Writes queued reports. Never ends.
pub async fn run(
    reports: Arc<ReportQueues>,
    store: Arc<dyn DispatchStore>,
    cluster: Arc<dyn Cluster>,
    view: View,
) {
    let writer = ConditionWriter { cluster, view, recent_writes: VecDeque::new() };
    tokio::join!(store_holds(&reports.holds, &*store), writer.run(&reports.health));
}

/// Stores holds. Retries while the store is full or busy; it then accepts no deliveries either.
async fn store_holds(holds: &CoalescingQueue<HoldChange>, store: &dyn DispatchStore) {
    loop {
        let batch = holds.pop(HOLD_BATCH).await;
        let writes = batch.into_iter().map(|(uid, change)| async move {
            match store.set_held(&change.hook, change.held, change.at).await {
                Err(StoreError::Full | StoreError::Busy) => Some((uid, change)),
                Err(error) => {
                    tracing::warn!(hook = %change.hook.name, %error, "write of a hook's hold failed");
                    None
                }
                Ok(()) => None,
            }
        });
        let rejected: Vec<_> = join_all(writes).await.into_iter().flatten().collect();
        if !rejected.is_empty() {
            rejected.into_iter().for_each(|(uid, change)| holds.requeue(&uid, change));
            tokio::time::sleep(FAILED_RETRY).await;
        }
    }
}

/// Writes the condition `Delivering`.
struct ConditionWriter {
    cluster: Arc<dyn Cluster>,
    view: View,
    /// The objects written last: uid, and resource version before the write. Newest first.
    recent_writes: VecDeque<(Arc<str>, String)>,
}

/// The result of writing a condition.
#[derive(Debug, PartialEq, Eq)]
enum WriteResult {
    /// The object has the condition, or no longer exists.
    Done,
    /// The write must be repeated after this delay.
    RetryAfter(Duration),
}

impl ConditionWriter {
    async fn run(mut self, health: &CoalescingQueue<DeliveryHealth>) {
        // The latest health of each hook whose write must be repeated.
        let mut retries: HashMap<Arc<str>, DeliveryHealth> = HashMap::new();
        let mut delay = FAILED_RETRY;
        loop {
            let retry = async {
                match retries.is_empty() {
                    true => std::future::pending().await,
                    false => tokio::time::sleep(delay).await,
                }
            };
            let updates: Vec<_> = tokio::select! {
                updates = health.pop(1) => updates,
                () = retry => {
                    delay = FAILED_RETRY;
                    retries.drain().collect()
                }
            };
            for (uid, update) in updates {
                retries.remove(&uid);
                if let WriteResult::RetryAfter(after) = self.write(&uid, &update).await {
                    retries.insert(uid, update);
                    delay = delay.min(after);
                }
            }
        }
    }

    /// Writes the condition, unless the object already has it.
    async fn write(&mut self, uid: &Arc<str>, health: &DeliveryHealth) -> WriteResult {
        let Some(guarded) = self.view.hook(&health.hook.namespace, &health.hook.name) else {
            return WriteResult::Done;
        };
        let Ok(object) = &guarded.0 else { return WriteResult::Done };
        let metadata = &object.metadata;
        if metadata.uid.as_deref() != Some(&**uid) {
            return WriteResult::Done;
        }
        let version = metadata.resource_version.clone().unwrap_or_default();
        // The view still shows the object from before our last write, so the current condition is unknown.
        if !version.is_empty()
            && self.recent_writes.iter().any(|(written, before)| written == uid && *before == version)
        {
            return WriteResult::RetryAfter(STALE_RETRY);
        }
        let before = delivering_condition(object);
        let status = if health.healthy { "True" } else { "False" };
        let handled = object.status.as_ref().and_then(|s| s.handled.as_ref()).and_then(|h| h.resume.as_ref());
        let unchanged = before.is_some_and(|c| {
            c.status == status && c.reason == health.reason && c.observed_generation == metadata.generation
        });
        if unchanged && (health.resumed.is_none() || handled == health.resumed.as_ref()) {
            return WriteResult::Done;
        }
        let (generation, text) = (metadata.generation, (health.reason, &*health.message));
        let condition = build_condition(before, DELIVERING, status, text, generation, Millis::now());
        let target = WriteTarget::of(ResourceKind::EventHook, object);
        let resumed = health.resumed.clone().or_else(|| handled.cloned());
        match self.cluster.write_delivery_status(&target, condition, resumed).await {
            Ok(()) => {
                self.recent_writes.retain(|(written, _)| written != uid);
                self.recent_writes.truncate(RECENT_WRITES);
                self.recent_writes.push_front((uid.clone(), version));
                WriteResult::Done
            }
            Err(ClusterError::Gone) => WriteResult::Done,
            // The view is behind: repeat with the newer object.
            Err(ClusterError::Conflict) => WriteResult::RetryAfter(STALE_RETRY),
            Err(error) => {
                tracing::warn!(hook = %health.hook.name, %error, "write of condition Delivering failed, will retry");
                WriteResult::RetryAfter(FAILED_RETRY)
            }
        }
    }
}

/// Returns the object's condition `Delivering`.
pub fn delivering_condition(hook: &EventHook) -> Option<&Condition> {
    hook.status.as_ref()?.conditions.iter().find(|c| c.type_ == DELIVERING)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::files::{FileCluster, FileClusterOptions};
    use crate::worker::store::DispatchStore;
    use crate::worker::store::sqlite::SqliteStore;

    fn health(uid: &str, healthy: bool) -> DeliveryHealth {
        let hook = HookId { uid: uid.into(), namespace: "default".into(), name: "h".into() };
        let reason = if healthy { "Delivering" } else { "ReceiverFailing" };
        DeliveryHealth { hook, healthy, reason, message: "words".into(), resumed: None }
    }

    #[tokio::test]
    async fn does_not_trust_a_view_that_is_behind() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = dir.path().join("h.yaml");
        std::fs::write(
            &manifest,
            "apiVersion: hookstream.dev/v1alpha1\nkind: EventHook\nmetadata: {name: h}\nspec: {source: s, handler: {log: {}}}\n",
        )
        .unwrap();
        let options = FileClusterOptions {
            manifests: vec![manifest],
            data: dir.path().into(),
            prune: false,
            token: None,
        };
        let files = Arc::new(FileCluster::open(options).unwrap());
        let mut writer = ConditionWriter {
            cluster: files.clone(),
            view: files.view().await,
            recent_writes: VecDeque::new(),
        };
        let uid: Arc<str> = crate::cluster::files::object_uid("EventHook", "default", "h").into();
        let status = async || {
            let view = files.view().await;
            let guarded = view.hook("default", "h").unwrap();
            delivering_condition(guarded.0.as_ref().unwrap()).map(|c| c.status.clone())
        };
        assert_eq!(status().await, None);
        assert_eq!(writer.write(&uid, &health(&uid, true)).await, WriteResult::Done);
        assert_eq!(status().await.as_deref(), Some("True"));
        writer.view = files.view().await;
        assert_eq!(writer.write(&uid, &health(&uid, false)).await, WriteResult::Done);
        // The view still shows the healthy condition, so this write must not be skipped as unchanged.
        assert_eq!(writer.write(&uid, &health(&uid, true)).await, WriteResult::RetryAfter(STALE_RETRY));
        writer.view = files.view().await;
        assert_eq!(writer.write(&uid, &health(&uid, true)).await, WriteResult::Done);
        assert_eq!(status().await.as_deref(), Some("True"));
        let recent = writer.recent_writes.clone();
        let retry = writer.write(&uid, &health(&uid, true)).await;
        assert_eq!(retry, WriteResult::RetryAfter(STALE_RETRY), "the view does not show the write yet");
        writer.view = files.view().await;
        assert_eq!(writer.write(&uid, &health(&uid, true)).await, WriteResult::Done);
        assert_eq!(writer.recent_writes, recent, "an unchanged condition is not written");
    }

    #[tokio::test]
    async fn stores_every_queued_hold() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path()).unwrap();
        let holds = CoalescingQueue::default();
        let hooks: Vec<HookId> =
            (0..300).map(|n| HookId { uid: format!("{n}").into(), ..health("", true).hook }).collect();
        for hook in &hooks {
            holds.push(&hook.uid, HoldChange { hook: hook.clone(), held: true, at: Millis(1) });
        }
        let all = async {
            while store.held_hooks().await.unwrap().len() < hooks.len() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = store_holds(&holds, &store) => unreachable!("it never ends"),
            () = all => {}
        }
    }
}
