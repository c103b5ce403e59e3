//! The maintenance role.

use futures::FutureExt;
use futures::future::BoxFuture;

use super::super::super::{
    DeadLetterCounts, MaintenanceStore, Retention, StoreError, StoreSpace, StoreStats, StoredTimes,
};
use super::super::store::PostgresStore;
use super::super::{measurements, places, sweep};
use crate::core::time::Millis;

impl MaintenanceStore for PostgresStore {
    fn sweep(&self, retention: Retention, now: Millis) -> BoxFuture<'_, Result<bool, StoreError>> {
        async move {
            // Locked until the end: two sweeps of one process would only wait for each other.
            let mut sweeps = self.sweeps.lock().await;
            Ok(sweep::sweep(&self.session().await?, &mut sweeps, retention, now).await?)
        }
        .boxed()
    }

    fn stored_times(&self) -> BoxFuture<'_, Result<StoredTimes, StoreError>> {
        async move { Ok(measurements::stored_times(&self.session().await?).await?) }.boxed()
    }

    fn reset_future_times(&self, now: Millis) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.write(move |tx, _| measurements::reset_future_times(tx, now).boxed()).boxed()
    }

    /// The disk is the database's: this process measures no space.
    fn space(&self) -> BoxFuture<'_, Result<StoreSpace, StoreError>> {
        async move { Ok(StoreSpace::default()) }.boxed()
    }

    fn stats(&self) -> BoxFuture<'_, Result<StoreStats, StoreError>> {
        async move {
            let owned_shards = self.ownership.shards().len() as u64;
            Ok(StoreStats { owned_shards, ..measurements::stats(&self.session().await?).await? })
        }
        .boxed()
    }

    fn hook_stats(&self, uid: &str) -> BoxFuture<'_, Result<StoreStats, StoreError>> {
        let uid = uid.to_owned();
        async move { Ok(measurements::hook_stats(&self.session().await?, &uid).await?) }.boxed()
    }

    fn dead_letters(
        &self,
        since: Millis,
        limit: usize,
    ) -> BoxFuture<'_, Result<DeadLetterCounts, StoreError>> {
        async move { Ok(measurements::dead_letters(&self.session().await?, since, limit).await?) }.boxed()
    }

    fn claim_installation(&self, installation: &str, adopt: bool) -> BoxFuture<'_, Result<(), StoreError>> {
        let own = installation.to_owned();
        async move { Ok(measurements::claim_installation(&self.session().await?, &own, adopt).await?) }
            .boxed()
    }

    fn namespaces(&self) -> BoxFuture<'_, Result<Vec<String>, StoreError>> {
        async move { Ok(places::names(&self.session().await?).await?) }.boxed()
    }

    fn set_namespace_uid(&self, name: &str, uid: Option<&str>) -> BoxFuture<'_, Result<bool, StoreError>> {
        let (name, uid) = (name.to_owned(), uid.map(ToOwned::to_owned));
        async move { Ok(places::set_uid(&self.session().await?, &name, uid.as_deref()).await?) }.boxed()
    }

    fn failed(&self) -> BoxFuture<'static, StoreError> {
        // Nothing that PostgreSQL reports makes its stored data untrustworthy for this process.
        futures::future::pending().boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.shut_down().boxed()
    }
}
