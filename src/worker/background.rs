//! The worker's background loops: following the cluster, promoting snoozed deliveries, measuring, expiring history.
//!
//! An error is logged and the next round tries again. Only `follow_changes` ends by itself, when its feed ends.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use tokio::sync::mpsc;

use super::dispatch::DispatchHandle;
use super::index::HookIndex;
use super::ingest::Disk;
use super::namespaces::Namespaces;
use super::store::{Retention, Shares, Store, StoreError};
use crate::api::CaKind;
use crate::cluster::{Cluster, ObjectChange, View};
use crate::core::time::Millis;
use crate::metrics::Metrics;

/// The pause between two rounds that expire history.
const EXPIRE_INTERVAL: Duration = Duration::from_secs(30);
/// The pause between two batches of one round, so that expiry never delays ingest for long.
const EXPIRE_BATCH_PAUSE: Duration = Duration::from_millis(50);
/// The pause between two measurements of the backlog.
const MEASURE_INTERVAL: Duration = Duration::from_secs(15);
/// The longest pause between two checks for quiet periods that end.
const PROMOTE_INTERVAL: Duration = Duration::from_millis(500);
/// The pause between two steps of bulk replays, whose rate is per second.
const REPLAY_INTERVAL: Duration = Duration::from_secs(1);
/// The pause between two tries to read the installation's id.
const CLAIM_RETRY: Duration = Duration::from_secs(1);

/// Applies changes of the cluster to the index and notifies the dispatcher. Ends when the feed ends.
pub async fn follow_changes(
    mut changes: mpsc::Receiver<ObjectChange>,
    index: Arc<HookIndex>,
    view: View,
    dispatch: DispatchHandle,
    namespaces: Arc<Namespaces>,
) {
    while let Some(change) = changes.recv().await {
        let affected = match change {
            ObjectChange::EventHook(key) => match view.hook(&key.namespace, &key.name) {
                Some(hook) => {
                    // A new hook may belong to a recreated namespace. Check that first: the hook must not adopt the
                    // pending deliveries of the old namespace.
                    if index.get(hook.uid().unwrap_or_default().as_str()).is_none() {
                        namespaces.check(&key.namespace).await;
                    }
                    index.upsert(&hook)
                }
                None => index.remove(&key),
            },
            // Held deliveries may be missing this object.
            ObjectChange::Secret(key) => index.referencing(CaKind::Secret, &key),
            ObjectChange::ConfigMap(key) => index.referencing(CaKind::ConfigMap, &key),
            ObjectChange::Connection(_) | ObjectChange::EventStream(_) | ObjectChange::Hook(_) => Vec::new(),
        };
        for uid in affected {
            dispatch.hook_changed(uid).await;
        }
    }
}

/// Checks that the store belongs to this installation, before anything in it is delivered. Waits while the API server is
/// unavailable.
pub async fn claim_store(
    cluster: &dyn Cluster,
    store: &dyn Store,
    accept_new: bool,
) -> Result<(), StoreError> {
    loop {
        match cluster.installation_id().await {
            Ok(Some(installation)) => return store.claim_installation(&installation, accept_new).await,
            Ok(None) => {
                tracing::warn!(
                    "owner of the store not checked: the service account may not get the operator's namespace"
                );
                return Ok(());
            }
            Err(error) => tracing::warn!(%error, "check of the store's owner failed, will retry"),
        }
        tokio::time::sleep(CLAIM_RETRY).await;
    }
}

/// Promotes trailing candidates to pending deliveries when their quiet period ends.
pub async fn promote_candidates(store: &dyn Store, dispatch: &DispatchHandle) {
    loop {
        let now = Millis::now();
        let wait = match store.next_promotion().await {
            Ok(Some(at)) if at <= now => Duration::ZERO,
            // Bounded, because a quiet period that begins during the wait may end first.
            Ok(Some(at)) => at.since(now).min(PROMOTE_INTERVAL),
            Ok(None) | Err(_) => PROMOTE_INTERVAL,
        };
        tokio::time::sleep(wait).await;
        match store.promote(Millis::now()).await {
            Ok(hooks) => {
                for hook in hooks {
                    dispatch.notify_hook(hook).await;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "promotion of snoozed deliveries failed");
                tokio::time::sleep(PROMOTE_INTERVAL).await;
            }
        }
    }
}

/// Advances bulk replays, including those started before a restart.
pub async fn advance_replays(store: &dyn Store, dispatch: &DispatchHandle) {
    let mut failing = false;
    loop {
        tokio::time::sleep(REPLAY_INTERVAL).await;
        match store.step_replays(Millis::now()).await {
            Ok(hooks) => {
                failing = false;
                for hook in hooks {
                    dispatch.notify_hook(hook).await;
                }
            }
            // Log the first failure only: a disk that is full for an hour must not fill the log too.
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(%error, "step of bulk replays failed, will retry");
            }
            Err(_) => {}
        }
    }
}

/// Measures the backlog, the shares and the disk for the metrics.
pub async fn measure_backlog(
    store: &dyn Store,
    index: &HookIndex,
    shares: Shares,
    disk: &Disk,
    metrics: &Metrics,
) {
    loop {
        if let Ok(stats) = store.stats().await {
            let oldest = stats.oldest.map_or(Duration::ZERO, |at| Millis::now().since(at));
            metrics.set_backlog(stats.pending, stats.pending_bytes, oldest, stats.file_bytes);
            for (scope, used, share) in [
                ("hook", stats.largest_hook_bytes, shares.hook_bytes),
                ("namespace", stats.largest_namespace_bytes, shares.namespace_bytes),
            ] {
                metrics.set_share_used(scope, used as f64 / share.max(1) as f64);
            }
        }
        for ((namespace, name), series) in metrics.hooks.all() {
            let Some(uid) = index.uid_of(&namespace, &name) else { continue };
            if let Ok(stats) = store.hook_stats(&uid).await {
                let oldest = stats.oldest.map_or(Duration::ZERO, |at| Millis::now().since(at));
                series.set_backlog(stats.pending, stats.pending_bytes, oldest);
            }
        }
        disk.used().into_iter().for_each(|used| metrics.set_disk_used(used));
        tokio::time::sleep(MEASURE_INTERVAL).await;
    }
}

/// Removes history that is past its retention.
pub async fn expire_history(store: &dyn Store, retention: Retention) {
    loop {
        tokio::time::sleep(EXPIRE_INTERVAL).await;
        loop {
            match store.sweep(retention, Millis::now()).await {
                Ok(true) => tokio::time::sleep(EXPIRE_BATCH_PAUSE).await,
                Ok(false) => break,
                Err(error) => {
                    tracing::warn!(%error, "removal of expired history failed, will retry");
                    break;
                }
            }
        }
    }
}
