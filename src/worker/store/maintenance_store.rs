//! The maintenance role: retention, measurements, ownership, failure and shutdown.

use futures::future::BoxFuture;

use super::{DeadLetterCounts, Retention, StoreError, StoreSpace, StoreStats, StoredTimes};
use crate::core::time::Millis;

/// Keeps the store within its limits and ties it to its installation and namespaces.
pub trait MaintenanceStore: Send + Sync + 'static {
    /// Removes a bounded number of expired rows: finished deliveries, events without deliveries, idempotency keys past
    /// their window. Then gives free space back to the disk if there is much of it, or if the disk is full. True: there
    /// are more. Never stalls ingest for long.
    fn sweep(&self, retention: Retention, now: Millis) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Returns times by which a new process judges its wall clock.
    fn stored_times(&self) -> BoxFuture<'_, Result<StoredTimes, StoreError>>;

    /// Makes pending deliveries and quiet periods that are later than `now` due at `now`, because the clock went back and
    /// would not reach them in time. An early attempt is harmless.
    ///
    /// Works in bounded steps. True: call again, there are more.
    fn reset_future_times(&self, now: Millis) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Measures the store's space, and accepts events again after a full disk if there is space. Cheap: call it every
    /// second.
    fn space(&self) -> BoxFuture<'_, Result<StoreSpace, StoreError>>;

    /// Measures the whole store. Reads an index over all pending deliveries, so call it periodically (every few seconds),
    /// not for each event.
    fn stats(&self) -> BoxFuture<'_, Result<StoreStats, StoreError>>;

    /// Measures the backlog of one hook; the other fields stay 0. Costs a few index seeks, so the worker measures only
    /// hooks with their own metrics.
    fn hook_stats(&self, uid: &str) -> BoxFuture<'_, Result<StoreStats, StoreError>>;

    /// Counts the newest deliveries that died at or after `since`, up to `limit`.
    fn dead_letters(
        &self,
        since: Millis,
        limit: usize,
    ) -> BoxFuture<'_, Result<DeadLetterCounts, StoreError>>;

    /// Binds the store to an installation. Fails with `Foreign` if it belongs to another one, unless `adopt` is set.
    fn claim_installation(&self, installation: &str, adopt: bool) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Returns the names of all namespaces with data in the store.
    fn namespaces(&self) -> BoxFuture<'_, Result<Vec<String>, StoreError>>;

    /// Records the present uid of a namespace. None: the namespace does not exist.
    ///
    /// True: a namespace with another uid had this name before. Its data, pending deliveries included, is now
    /// invisible, and `sweep` removes it.
    fn set_namespace_uid(&self, name: &str, uid: Option<&str>) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Resolves when the store can no longer be trusted; the process must end.
    fn failed(&self) -> BoxFuture<'static, StoreError>;

    /// Refuses new operations, commits the queued ones, and closes.
    fn close(&self) -> BoxFuture<'_, ()>;
}
