//! The worker's background loops: following the cluster, following the clock, promoting snoozed deliveries, measuring,
//! expiring history.
//!
//! An error is logged and the next round tries again. Only `follow_changes` ends by itself, when its feed ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::ResourceExt;
use strum::VariantArray;
use tokio::sync::mpsc;

use super::dispatch::DispatchHandle;
use super::index::HookIndex;
use super::ingest::{Disk, IngestClosure};
use super::namespaces::Namespaces;
use super::store::{Retention, Shares, Store, StoreError};
use crate::api::CaKind;
use crate::cluster::{Cluster, ObjectChange, View};
use crate::core::clock::ClockReading;
use crate::core::time::{self, Millis};
use crate::memory::MemoryShare;
use crate::metrics::Metrics;
use crate::ops::ReadinessNotice;

/// The pause between two rounds that expire history.
const EXPIRE_INTERVAL: Duration = Duration::from_secs(30);
/// The pause between two rounds while events are refused: expired history may be what fills the disk.
const CLOSED_EXPIRE_INTERVAL: Duration = Duration::from_secs(5);
/// The pause between two checks of the store's space.
const SPACE_INTERVAL: Duration = Duration::from_secs(1);
/// Holds of deleted hooks that one round ends. Each occupies the dispatcher's memory for the grace period.
const MAX_HOLDS_PER_ROUND: usize = 1000;
/// The pause between two batches of one round, so that expiry never delays ingest for long.
const EXPIRE_BATCH_PAUSE: Duration = Duration::from_millis(50);
/// The pause between two readings of the clock.
const CLOCK_INTERVAL: Duration = Duration::from_secs(1);
/// The difference between wall clock and clock that is logged, in milliseconds. `core::clock` treats it as a jump.
const CLOCK_TOLERANCE: i64 = 2_000;
/// A stored time that is further ahead was stored before the clock went back, in milliseconds.
const UNREACHABLE: i64 = 24 * 3_600_000;
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
            metrics.backlog.set_pending(stats.pending, stats.pending_bytes, oldest);
            metrics.backlog.set_dead_letters(stats.dead_letters);
            metrics.backlog.set_store_size(stats.file_bytes, stats.key_memory_bytes);
            metrics.backlog.set_owned_shards(stats.owned_shards);
            metrics.memory.share(MemoryShare::Store.into()).set_used(stats.memory_bytes);
            for (scope, used, share) in [
                ("hook", stats.largest_hook_bytes, shares.hook_bytes),
                ("namespace", stats.largest_namespace_bytes, shares.namespace_bytes),
            ] {
                metrics.backlog.set_share_used(scope, used as f64 / share.max(1) as f64);
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

/// Ends the holds of hooks that were deleted without pending deliveries, or while no worker ran. Their rows in the store
/// would stay otherwise.
pub async fn end_holds_of_deleted_hooks(store: &dyn Store, index: &HookIndex, dispatch: &DispatchHandle) {
    loop {
        tokio::time::sleep(EXPIRE_INTERVAL).await;
        let held = store.held_hooks().await.unwrap_or_default();
        let deleted = held.into_iter().filter(|hook| index.get(&hook.uid).is_none());
        for hook in deleted.take(MAX_HOLDS_PER_ROUND) {
            // The dispatcher waits for the grace period, in case the hook is created again, and then ends the hold.
            dispatch.notify_hook(hook).await;
        }
    }
}

/// Disciplines the clock of the process by the time of the store's last commit: see `core::clock`.
pub async fn start_clock(store: &dyn Store) -> Result<ClockReading, StoreError> {
    let stored = store.stored_times().await?;
    let reading = time::discipline_clock(stored.last_commit);
    let reference = Millis::reference();
    let (gap, wall) = (reference.0.saturating_sub(reading.time.0), reference.rfc3339());
    if gap < -CLOCK_TOLERANCE {
        tracing::warn!(
            wall,
            time = reading.time.rfc3339(),
            "wall clock is behind the store's last commit, keeping its time"
        );
    }
    if !reading.age_lag.is_zero() {
        let stopped = stored.last_commit.map(Millis::rfc3339);
        tracing::warn!(
            wall,
            last_commit = stopped,
            "wall clock is far ahead of the store's last commit, ages count this gap after an hour"
        );
    }
    // A process that ended before it repaired these times.
    if stored.newest_event.is_some_and(|newest| newest.0.saturating_sub(reading.time.0) > UNREACHABLE) {
        while store.reset_future_times(reading.time).await? {}
    }
    Ok(reading)
}

/// Reads the clock every second, because it measures the wall clock's rate between two readings. Logs jumps. Repairs the
/// store when the clock went back.
pub async fn follow_clock(store: &dyn Store, dispatch: &DispatchHandle, start: ClockReading) {
    let (mut last, mut is_apart, mut needs_repair) = (start.time, false, false);
    loop {
        tokio::time::sleep(CLOCK_INTERVAL).await;
        let now = Millis::now();
        let difference = Millis::reference().0.saturating_sub(now.0);
        if (difference.abs() > CLOCK_TOLERANCE) != is_apart {
            is_apart = !is_apart;
            let seconds = difference / 1000;
            match is_apart {
                true => tracing::warn!(seconds, "wall clock jumped, keeping the former time for now"),
                false => tracing::info!("wall clock and the worker's clock agree"),
            }
        }
        needs_repair |= last.0.saturating_sub(now.0) > CLOCK_TOLERANCE;
        last = now;
        if needs_repair {
            match reset_future_times(store, dispatch, now).await {
                Ok(()) => needs_repair = false,
                Err(error) => tracing::warn!(%error, "repair of future times failed, will retry"),
            }
        }
    }
}

/// Makes everything due that the store scheduled by a clock that was ahead, and notifies the dispatcher.
async fn reset_future_times(
    store: &dyn Store,
    dispatch: &DispatchHandle,
    now: Millis,
) -> Result<(), StoreError> {
    while store.reset_future_times(now).await? {
        tokio::time::sleep(EXPIRE_BATCH_PAUSE).await;
    }
    for backlog in store.backlog().await? {
        dispatch.notify_hook(backlog.hook).await;
    }
    Ok(())
}

/// Measures the store's space for the disk limit, and reports why events are refused: in a metric and at `/readyz`. The
/// process stays ready, because the API port must remain reachable.
pub async fn watch_space(store: &dyn Store, disk: &Disk, metrics: &Metrics, notice: ReadinessNotice) {
    loop {
        if let Ok(space) = store.space().await {
            disk.set_store_space(space);
        }
        let closure = disk.closure();
        for &reason in IngestClosure::VARIANTS {
            metrics.set_ingest_closed(reason.into(), closure == Some(reason));
        }
        notice.set(closure.map(|reason| {
            let name: &'static str = reason.into();
            format!("ingest is closed ({name}): {}", reason.description())
        }));
        tokio::time::sleep(SPACE_INTERVAL).await;
    }
}

/// Removes history that is past its retention.
pub async fn expire_history(store: &dyn Store, retention: Retention, disk: &Disk) {
    loop {
        let started = Instant::now();
        loop {
            tokio::time::sleep(CLOSED_EXPIRE_INTERVAL).await;
            if disk.closure().is_some() || started.elapsed() >= EXPIRE_INTERVAL {
                break;
            }
        }
        loop {
            match store.sweep(retention, Millis::for_ages()).await {
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
