//! Writes the worker's part of an EventHook's status: the condition `Delivering` and the report of its deliveries. Publishes an
//! Event when the condition changes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::coalescing_queue::CoalescingQueue;
use super::delivery_report::{ReportFacts, build_report};
use super::index::HookIndex;
use super::report::{DeliveryHealth, ReportQueues, delivering_condition};
use super::store::{Store, StoreStats};
use crate::cluster::{Cluster, ClusterError, DeliveryStatus, ResourceKind, View, WriteTarget};
use crate::core::conditions::{ConditionMessage, DELIVERING, build_condition};
use crate::core::hook::RequestTarget;
use crate::core::time::Millis;

/// The delay before a write is repeated because the cached object was too old.
const STALE_RETRY: Duration = Duration::from_millis(500);
/// The delay before a failed write is repeated.
const FAILED_RETRY: Duration = Duration::from_secs(5);
/// The number of recent writes to remember, because the view may still show objects from before these writes.
const RECENT_WRITES: usize = 256;
/// The time between two reports of a hook that does not deliver.
const REFRESH_INTERVAL: Duration = Duration::from_secs(60);
/// Reports that one round refreshes. With more failing hooks, each has its turn in a later round.
const MAX_REFRESHED: usize = 200;
/// The most Events of a hook in a period: a receiver that fails and recovers all the time must not flood the API server.
const MAX_EVENTS: usize = 4;
const EVENT_PERIOD: Duration = Duration::from_secs(60);
/// Events that are remembered.
const RECENT_EVENTS: usize = 1024;

/// Writes the condition `Delivering` and the report.
pub struct ConditionWriter {
    cluster: Arc<dyn Cluster>,
    view: View,
    store: Arc<dyn Store>,
    index: Arc<HookIndex>,
    reports: Arc<ReportQueues>,
    /// The hooks that do not deliver, with their latest health. The first are refreshed next.
    failing: VecDeque<(Arc<str>, DeliveryHealth)>,
    /// The last Events: uid of the hook, and when it was published. Newest first.
    recent_events: VecDeque<(Arc<str>, Instant)>,
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

/// Why a status is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriteCause {
    /// The health may have changed.
    Change,
    /// The report of a hook that does not deliver may be outdated.
    Refresh,
}

impl ConditionWriter {
    pub fn new(
        cluster: Arc<dyn Cluster>,
        view: View,
        store: Arc<dyn Store>,
        index: Arc<HookIndex>,
        reports: Arc<ReportQueues>,
    ) -> Self {
        ConditionWriter {
            cluster,
            view,
            store,
            index,
            reports,
            failing: VecDeque::new(),
            recent_events: VecDeque::new(),
            recent_writes: VecDeque::new(),
        }
    }

    pub async fn run(mut self, health: &CoalescingQueue<DeliveryHealth>) {
        // The latest health of each hook whose write must be repeated.
        let mut retries: HashMap<Arc<str>, DeliveryHealth> = HashMap::new();
        let mut delay = FAILED_RETRY;
        let mut refresh = tokio::time::interval(REFRESH_INTERVAL);
        refresh.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let retry = async {
                match retries.is_empty() {
                    true => std::future::pending().await,
                    false => tokio::time::sleep(delay).await,
                }
            };
            let updates: Vec<_> = tokio::select! {
                updates = health.pop(1) => updates,
                _ = refresh.tick() => {
                    self.refresh().await;
                    continue;
                }
                () = retry => {
                    delay = FAILED_RETRY;
                    retries.drain().collect()
                }
            };
            for (uid, update) in updates {
                retries.remove(&uid);
                self.track_failing(&uid, &update);
                if let WriteResult::RetryAfter(after) = self.write(&uid, &update, WriteCause::Change).await {
                    retries.insert(uid, update);
                    delay = delay.min(after);
                }
            }
        }
    }

    fn track_failing(&mut self, uid: &Arc<str>, health: &DeliveryHealth) {
        self.failing.retain(|(failing, _)| failing != uid);
        if !health.healthy {
            self.failing.push_back((uid.clone(), health.clone()));
        }
    }

    /// Refreshes the reports of hooks that do not deliver.
    async fn refresh(&mut self) {
        for _ in 0..self.failing.len().min(MAX_REFRESHED) {
            let Some((uid, health)) = self.failing.pop_front() else { return };
            // A hook that was deleted, or whose deliveries another worker sends, is forgotten.
            if self.index.get(&uid).is_some() && self.store.owns(&uid) {
                // The next round repeats a failed write.
                self.write(&uid, &health, WriteCause::Refresh).await;
                self.failing.push_back((uid, health));
            }
        }
    }

    /// Writes the condition and the report, unless the object already has them, or another worker may send the hook's
    /// deliveries.
    async fn write(&mut self, uid: &Arc<str>, health: &DeliveryHealth, cause: WriteCause) -> WriteResult {
        // The other worker reports the hook's health, which this write would undo.
        if !self.store.owns(uid) {
            return WriteResult::Done;
        }
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
        let is_known = unchanged && (health.resumed.is_none() || handled == health.resumed.as_ref());
        if is_known && cause == WriteCause::Change {
            return WriteResult::Done;
        }
        let now = Millis::now();
        let last_report = object.status.as_ref().and_then(|status| status.delivery.as_deref());
        let backlog = if health.healthy { StoreStats::default() } else { self.backlog(uid).await };
        let failing_since =
            before.filter(|c| c.status == "False").map(|c| Millis(c.last_transition_time.0.as_millisecond()));
        let host = self.host(uid);
        let facts = ReportFacts {
            health,
            host: host.as_deref(),
            backlog,
            breaker: self.reports.breakers.get(uid),
            failing_since,
            now,
        };
        let report = build_report(&facts, last_report);
        if is_known && last_report == Some(&report) {
            return WriteResult::Done;
        }
        let (generation, text) = (metadata.generation, (health.reason, &*health.message));
        let condition = build_condition(before, DELIVERING, status, text, generation, now);
        // The first report of success is no news.
        let is_news = before.is_none_or(|c| c.status != status || c.reason != health.reason)
            && !(before.is_none() && health.healthy);
        let target = WriteTarget::of(ResourceKind::EventHook, object);
        let resumed = health.resumed.clone().or_else(|| handled.cloned());
        let written = DeliveryStatus { condition, report, resumed };
        // Right before the write: the read of the backlog may have taken longer than the lease. If the hook stays with this
        // process, the write is repeated.
        if !self.store.owns_now(uid) {
            return WriteResult::RetryAfter(FAILED_RETRY);
        }
        match self.cluster.write_delivery_status(&target, written).await {
            Ok(()) => {
                if is_news {
                    self.publish_event(uid, &target, health).await;
                }
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

    async fn backlog(&self, uid: &str) -> StoreStats {
        self.store.hook_stats(uid).await.unwrap_or_default()
    }

    /// Returns the host of the hook's receiver, unless its URL is in a Secret.
    fn host(&self, uid: &str) -> Option<String> {
        let state = self.index.get(uid)?;
        match state.hook.as_ref().ok()?.handler.target()? {
            RequestTarget::Url(address) => address.uri.host().map(ToOwned::to_owned),
            RequestTarget::Secret(_) => None,
        }
    }

    async fn publish_event(&mut self, uid: &Arc<str>, target: &WriteTarget, health: &DeliveryHealth) {
        self.recent_events.retain(|(_, at)| at.elapsed() < EVENT_PERIOD);
        if self.recent_events.iter().filter(|(of, _)| of == uid).count() >= MAX_EVENTS {
            return;
        }
        self.recent_events.truncate(RECENT_EVENTS - 1);
        self.recent_events.push_front((uid.clone(), Instant::now()));
        let note = ConditionMessage::new(health.reason, health.message.clone());
        // A pause was requested.
        let is_warning = !health.healthy && health.reason != "Paused";
        self.cluster.publish_delivery_event(target, is_warning, &note).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::files::{FileCluster, FileClusterOptions};
    use crate::metrics::Metrics;
    use crate::worker::store::postgres::connect::PostgresOptions;
    use crate::worker::store::postgres::{PostgresStore, test_server};
    use crate::worker::store::sqlite::SqliteStore;
    use crate::worker::store::{DispatchStore, HookId, MaintenanceStore};

    fn health(uid: &str, healthy: bool) -> DeliveryHealth {
        let hook = HookId { uid: uid.into(), namespace: "default".into(), name: "h".into() };
        let reason = if healthy { "Delivering" } else { "ReceiverFailing" };
        DeliveryHealth {
            hook,
            healthy,
            reason,
            message: "words".into(),
            last_error: None,
            last_success: None,
            resumed: None,
        }
    }

    /// A cluster of files with the hook `h`.
    fn cluster_of(dir: &std::path::Path) -> Arc<FileCluster> {
        let manifest = dir.join("h.yaml");
        std::fs::create_dir(dir.join("store")).unwrap();
        std::fs::write(
            &manifest,
            "apiVersion: hookstream.dev/v1alpha1\nkind: EventHook\nmetadata: {name: h}\nspec: {source: s, handler: {log: {}}}\n",
        )
        .unwrap();
        let options =
            FileClusterOptions { manifests: vec![manifest], data: dir.into(), prune: false, token: None };
        Arc::new(FileCluster::open(options).unwrap())
    }

    /// Returns the status of the condition of the hook `h`.
    async fn delivering(files: &FileCluster) -> Option<String> {
        let view = files.view().await;
        let guarded = view.hook("default", "h").unwrap();
        delivering_condition(guarded.0.as_ref().unwrap()).map(|c| c.status.clone())
    }

    /// After a hand-over, the former owner may have queued a health, a retry, and a refresh of the hook.
    #[tokio::test]
    async fn a_worker_that_does_not_own_the_hook_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let files = cluster_of(dir.path());
        let url = test_server::shared().new_database();
        let mut options: PostgresOptions = url.parse().unwrap();
        // The tests' server does not sync.
        options.allow_unsafe_sync = true;
        let first = Arc::new(PostgresStore::open(&options, "first").await.unwrap());
        let second = Arc::new(PostgresStore::open(&options, "second").await.unwrap());
        let uid: Arc<str> = crate::cluster::files::object_uid("EventHook", "default", "h").into();
        let start = Instant::now();
        let owns = |store: &PostgresStore| store.owns(&uid);
        while first.stats().await.unwrap().owned_shards != 128 || owns(&first) == owns(&second) {
            assert!(start.elapsed() < Duration::from_secs(60), "the shards were not divided");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (owner, other) = if owns(&first) { (first, second) } else { (second, first) };
        let view = files.view().await;
        let writer = |store: &Arc<PostgresStore>| {
            let index = Arc::new(HookIndex::new(Arc::new(Metrics::default())));
            let reports = Arc::new(ReportQueues::default());
            ConditionWriter::new(files.clone(), view.clone(), store.clone(), index, reports)
        };
        let (mut of_owner, mut of_other) = (writer(&owner), writer(&other));
        let state = health(&uid, false);
        assert_eq!(of_other.write(&uid, &state, WriteCause::Change).await, WriteResult::Done);
        assert_eq!(of_other.write(&uid, &state, WriteCause::Refresh).await, WriteResult::Done);
        assert_eq!(delivering(&files).await, None);
        of_owner.write(&uid, &state, WriteCause::Change).await;
        assert_eq!(delivering(&files).await.as_deref(), Some("False"));
        // The other one takes over, and what the former owner still has to write changes nothing.
        owner.close().await;
        while !owns(&other) {
            assert!(start.elapsed() < Duration::from_secs(60), "the shard was not taken");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        of_other.view = files.view().await;
        of_other.write(&uid, &health(&uid, true), WriteCause::Change).await;
        assert_eq!(delivering(&files).await.as_deref(), Some("True"));
        of_owner.view = files.view().await;
        of_owner.recent_writes.clear();
        assert_eq!(of_owner.write(&uid, &state, WriteCause::Change).await, WriteResult::Done);
        assert_eq!(delivering(&files).await.as_deref(), Some("True"));
        other.close().await;
    }

    #[tokio::test]
    async fn does_not_trust_a_view_that_is_behind() {
        let dir = tempfile::tempdir().unwrap();
        let files = cluster_of(dir.path());
        let store = Arc::new(SqliteStore::open(&dir.path().join("store")).unwrap());
        let index = Arc::new(HookIndex::new(Arc::new(Metrics::default())));
        let reports = Arc::new(ReportQueues::default());
        let mut writer = ConditionWriter::new(files.clone(), files.view().await, store, index, reports);
        let uid: Arc<str> = crate::cluster::files::object_uid("EventHook", "default", "h").into();
        let status = async || delivering(&files).await;
        assert_eq!(status().await, None);
        assert_eq!(writer.write(&uid, &health(&uid, true), WriteCause::Change).await, WriteResult::Done);
        assert_eq!(status().await.as_deref(), Some("True"));
        writer.view = files.view().await;
        assert_eq!(writer.write(&uid, &health(&uid, false), WriteCause::Change).await, WriteResult::Done);
        // The view still shows the healthy condition, so this write must not be skipped as unchanged.
        assert_eq!(
            writer.write(&uid, &health(&uid, true), WriteCause::Change).await,
            WriteResult::RetryAfter(STALE_RETRY)
        );
        writer.view = files.view().await;
        assert_eq!(writer.write(&uid, &health(&uid, true), WriteCause::Change).await, WriteResult::Done);
        assert_eq!(status().await.as_deref(), Some("True"));
        let recent = writer.recent_writes.clone();
        let retry = writer.write(&uid, &health(&uid, true), WriteCause::Change).await;
        assert_eq!(retry, WriteResult::RetryAfter(STALE_RETRY), "the view does not show the write yet");
        writer.view = files.view().await;
        assert_eq!(writer.write(&uid, &health(&uid, true), WriteCause::Change).await, WriteResult::Done);
        assert_eq!(writer.recent_writes, recent, "an unchanged condition is not written");
    }
}
