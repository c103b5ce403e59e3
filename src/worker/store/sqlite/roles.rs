//! Implements the four roles of a store.

use std::collections::HashSet;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use uuid::Uuid;

use super::super::{
    AcceptCallback, DeliveryFilter, DeliveryRecord, DeliverySeq, DeliveryState, DispatchStore, DueDeliveries,
    EventExplanation, HistoryStore, HookBacklog, HookId, IngestStore, MaintenanceStore, NewEvent, ReadLimit,
    ReplayJob, Retention, Settlement, StoreError, StoreStats,
};
use super::engine::SqliteStore;
use super::writer::Operation;
use super::{
    gates, history, namespace_keys, namespaces, reads, replays, retention, rows, schema, transitions,
};
use crate::core::event::Event;
use crate::core::time::Millis;

impl IngestStore for SqliteStore {
    fn accept_then(&self, events: Vec<NewEvent>, now: Millis, done: AcceptCallback) {
        self.enqueue_accept(events, now, done);
    }
}

impl DispatchStore for SqliteStore {
    fn settle_many(&self, settlements: Vec<Settlement>) -> BoxFuture<'_, Result<Vec<bool>, StoreError>> {
        self.enqueue(move |reply| Operation::Settle { settlements, reply }).boxed()
    }

    fn due(
        &self,
        hook_uid: &str,
        now: Millis,
        exclude: HashSet<DeliverySeq>,
        limit: ReadLimit,
    ) -> BoxFuture<'_, Result<DueDeliveries, StoreError>> {
        let uid = hook_uid.to_owned();
        async move { self.read(move |conn| reads::due(conn, &uid, now, &exclude, limit)).await }.boxed()
    }

    fn next_due(&self, hook_uid: &str, after: Millis) -> BoxFuture<'_, Result<Option<Millis>, StoreError>> {
        let uid = hook_uid.to_owned();
        async move { self.read(move |conn| reads::next_due(conn, &uid, after)).await }.boxed()
    }

    fn backlog(&self) -> BoxFuture<'_, Result<Vec<HookBacklog>, StoreError>> {
        self.read(reads::backlog).boxed()
    }

    fn set_held(&self, hook: &HookId, held: bool, now: Millis) -> BoxFuture<'_, Result<(), StoreError>> {
        let hook = hook.clone();
        self.write(move |conn, cache| transitions::set_held(conn, cache, &hook, held, now)).boxed()
    }

    fn held_hooks(&self) -> BoxFuture<'_, Result<Vec<HookId>, StoreError>> {
        self.readers.run(reads::held_hooks).boxed()
    }

    fn reschedule_undecided(&self, uid: &str, now: Millis) -> BoxFuture<'_, Result<bool, StoreError>> {
        let uid: Arc<str> = uid.into();
        self.write(move |conn, cache| transitions::reschedule_undecided(conn, cache, &uid, now)).boxed()
    }

    fn transfer_pending(
        &self,
        from: &HookId,
        to: &HookId,
        now: Millis,
    ) -> BoxFuture<'_, Result<bool, StoreError>> {
        let (from, to, rows) = (from.clone(), to.clone(), rows::limit(self.sweep_limit.rows));
        self.write(move |conn, cache| transitions::transfer_pending(conn, cache, (&from, &to), now, rows))
            .boxed()
    }

    fn promote(&self, now: Millis) -> BoxFuture<'_, Result<Vec<HookId>, StoreError>> {
        let rows = self.sweep_limit.rows;
        self.write_unmaterialized(move |conn, cache| gates::promote(conn, cache, now, rows)).boxed()
    }

    fn next_promotion(&self) -> BoxFuture<'_, Result<Option<Millis>, StoreError>> {
        self.readers.run(reads::next_promotion).boxed()
    }
}

impl HistoryStore for SqliteStore {
    fn delivery(
        &self,
        namespace: &str,
        id: Uuid,
    ) -> BoxFuture<'_, Result<Option<DeliveryRecord>, StoreError>> {
        let namespace = namespace.to_owned();
        async move { self.read(move |conn| history::delivery(conn, &namespace, id)).await }.boxed()
    }

    fn event_of(&self, namespace: &str, id: Uuid) -> BoxFuture<'_, Result<Option<Arc<Event>>, StoreError>> {
        let namespace = namespace.to_owned();
        async move { self.read(move |conn| history::event_of(conn, &namespace, id)).await }.boxed()
    }

    fn list(
        &self,
        filter: DeliveryFilter,
        before: Option<DeliverySeq>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<DeliveryRecord>, StoreError>> {
        self.read(move |conn| history::list(conn, &filter, before, limit)).boxed()
    }

    fn explain(
        &self,
        namespace: &str,
        event_id: &str,
    ) -> BoxFuture<'_, Result<Option<EventExplanation>, StoreError>> {
        let (namespace, id) = (namespace.to_owned(), event_id.to_owned());
        self.read(move |conn| history::explain(conn, &namespace, &id)).boxed()
    }

    fn replay(
        &self,
        namespace: &str,
        id: Uuid,
        now: Millis,
    ) -> BoxFuture<'_, Result<Option<HookId>, StoreError>> {
        let namespace = namespace.to_owned();
        self.write(move |conn, cache| transitions::replay(conn, cache, &namespace, id, now)).boxed()
    }

    fn cancel(
        &self,
        namespace: &str,
        id: Uuid,
        now: Millis,
    ) -> BoxFuture<'_, Result<Option<HookId>, StoreError>> {
        let namespace = namespace.to_owned();
        self.write(move |conn, cache| transitions::cancel(conn, cache, &namespace, id, now)).boxed()
    }

    fn start_replay(
        &self,
        filter: DeliveryFilter,
        rate: u32,
        now: Millis,
    ) -> BoxFuture<'_, Result<ReplayJob, StoreError>> {
        async move {
            let refused = |why: &str| Err(StoreError::Refused(why.into()));
            if rate == 0 {
                return refused("a replay at a rate of 0 would never end");
            }
            if filter.state == Some(DeliveryState::Pending) {
                return refused("pending deliveries are sent anyway");
            }
            let text = serde_json::to_string(&filter).map_err(|e| StoreError::Refused(e.to_string()))?;
            let id = Uuid::now_v7();
            self.write(move |conn, _| replays::start(conn, id, (&filter, &text), rate, now)).await
        }
        .boxed()
    }

    fn step_replays(&self, now: Millis) -> BoxFuture<'_, Result<Vec<HookId>, StoreError>> {
        async move {
            if !self.readers.run(replays::any).await? {
                return Ok(Vec::new());
            }
            let limit = self.sweep_limit.rows;
            let (steps, has_expired) = self.read(move |conn| replays::plan(conn, now, limit)).await?;
            if steps.is_empty() && !has_expired {
                return Ok(Vec::new());
            }
            self.write(move |conn, cache| replays::execute(conn, cache, &steps, now)).await
        }
        .boxed()
    }

    fn replay_progress(
        &self,
        namespace: &str,
        id: Uuid,
    ) -> BoxFuture<'_, Result<Option<ReplayJob>, StoreError>> {
        let namespace = namespace.to_owned();
        self.readers.run(move |conn| replays::progress(conn, &namespace, id)).boxed()
    }
}

impl MaintenanceStore for SqliteStore {
    fn sweep(&self, retention: Retention, now: Millis) -> BoxFuture<'_, Result<bool, StoreError>> {
        async move {
            // Locked until the end, because two concurrent sweeps would only delay each other.
            let mut round = self.cutoff.lock().await;
            let cutoff = match round.take() {
                Some(cutoff) => cutoff,
                None => self.readers.run(move |conn| retention::cutoff(conn, retention)).await?,
            };
            let limit = self.sweep_limit;
            let has_more = self
                .write_unmaterialized(move |conn, cache| {
                    retention::sweep(conn, cache, retention, cutoff, now, limit)
                })
                .await?;
            *round = has_more.then_some(cutoff);
            Ok(has_more)
        }
        .boxed()
    }

    fn stats(&self) -> BoxFuture<'_, Result<StoreStats, StoreError>> {
        self.read(reads::stats).boxed()
    }

    fn hook_stats(&self, uid: &str) -> BoxFuture<'_, Result<StoreStats, StoreError>> {
        let uid = uid.to_owned();
        async move { self.read(move |conn| reads::hook_stats(conn, &uid)).await }.boxed()
    }

    fn claim_installation(&self, installation: &str, adopt: bool) -> BoxFuture<'_, Result<(), StoreError>> {
        let own = installation.to_owned();
        async move {
            let claimed = own.clone();
            let found = self
                .write_unmaterialized(move |conn, _| schema::claim_installation(conn, &claimed, adopt))
                .await?;
            found.map_or(Ok(()), |found| Err(StoreError::Foreign { found, own }))
        }
        .boxed()
    }

    fn namespaces(&self) -> BoxFuture<'_, Result<Vec<String>, StoreError>> {
        self.readers.run(namespace_keys::names).boxed()
    }

    fn set_namespace_uid(&self, name: &str, uid: Option<&str>) -> BoxFuture<'_, Result<bool, StoreError>> {
        let (name, uid) = (name.to_owned(), uid.map(ToOwned::to_owned));
        self.write(move |conn, cache| namespaces::set_uid(conn, cache, &name, uid.as_deref())).boxed()
    }

    fn failed(&self) -> BoxFuture<'static, StoreError> {
        let mut watch = self.shared.watch_failure();
        async move {
            if let Ok(failed) = watch.wait_for(Option::is_some).await
                && let Some(failure) = failed.as_ref()
            {
                return failure.clone();
            }
            // Closed without a failure: this future must never resolve.
            futures::future::pending().await
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.shut_down().boxed()
    }
}
