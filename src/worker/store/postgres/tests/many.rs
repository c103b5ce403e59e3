//! Three workers as one store: each call goes to the next of them, and reads of deliveries to the owner.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use uuid::Uuid;

use super::*;
use crate::core::event::Event;
use crate::core::fast_map::FastSet;
use crate::core::time::Millis;

const WORKERS: usize = 3;

/// A database with three workers.
struct ThreeWorkers {
    url: String,
}

impl Subject for ThreeWorkers {
    type Store = Many;
    const MODEL_RUNS: u32 = 8;
    fn new() -> Self {
        ThreeWorkers { url: test_server::shared().new_database() }
    }
    async fn open(&self) -> Many {
        Many::open(&self.url).await
    }
}

conformance!(ThreeWorkers);

pub(super) struct Many {
    pub(super) workers: Vec<PostgresStore>,
    calls: AtomicUsize,
}

impl Many {
    pub(super) async fn open(url: &str) -> Self {
        let mut workers = Vec::new();
        for number in 0..WORKERS {
            workers.push(open(url, &format!("worker-{number}")).await);
        }
        let many = Many { workers, calls: AtomicUsize::new(0) };
        many.divide().await;
        many
    }

    /// Lets the workers divide the shards.
    pub(super) async fn divide(&self) {
        for _ in 0..4 {
            for worker in &self.workers {
                worker.renew().await.unwrap();
            }
        }
    }

    fn next(&self) -> &PostgresStore {
        &self.workers[self.calls.fetch_add(1, Ordering::Relaxed) % self.workers.len()]
    }

    fn owner(&self, uid: &str) -> &PostgresStore {
        self.workers.iter().find(|worker| worker.owns(uid)).unwrap_or_else(|| self.next())
    }
}

impl IngestStore for Many {
    fn accept_then(&self, events: Vec<NewEvent>, now: Millis, done: AcceptCallback) {
        self.next().accept_then(events, now, done);
    }
}

impl HookOwnership for Many {}

impl DispatchStore for Many {
    /// All workers record the outcomes, and the fence lets only the owner of each delivery do it.
    fn settle_many(&self, settlements: Vec<Settlement>) -> BoxFuture<'_, Result<Vec<bool>, StoreError>> {
        async move {
            let mut all = vec![false; settlements.len()];
            for result in join_all(self.workers.iter().map(|w| w.settle_many(settlements.clone()))).await {
                all.iter_mut().zip(result?).for_each(|(all, one)| *all |= one);
            }
            Ok(all)
        }
        .boxed()
    }

    fn due(
        &self,
        hook_uid: &str,
        now: Millis,
        exclude: FastSet<DeliverySeq>,
        limit: ReadLimit,
    ) -> BoxFuture<'_, Result<DueDeliveries, StoreError>> {
        self.owner(hook_uid).due(hook_uid, now, exclude, limit)
    }

    fn newest_untried(
        &self,
        hook_uid: &str,
        now: Millis,
        exclude: FastSet<DeliverySeq>,
        limit: ReadLimit,
    ) -> BoxFuture<'_, Result<Vec<PendingDelivery>, StoreError>> {
        self.owner(hook_uid).newest_untried(hook_uid, now, exclude, limit)
    }

    fn next_due(&self, hook_uid: &str, after: Millis) -> BoxFuture<'_, Result<Option<Millis>, StoreError>> {
        self.owner(hook_uid).next_due(hook_uid, after)
    }

    fn backlog(&self) -> BoxFuture<'_, Result<Vec<HookBacklog>, StoreError>> {
        async move {
            let mut all = Vec::new();
            for worker in &self.workers {
                all.extend(worker.backlog().await?);
            }
            Ok(all)
        }
        .boxed()
    }

    fn set_held(&self, hook: &HookId, held: bool, now: Millis) -> BoxFuture<'_, Result<(), StoreError>> {
        self.next().set_held(hook, held, now)
    }

    fn held_hooks(&self) -> BoxFuture<'_, Result<Vec<HookId>, StoreError>> {
        self.next().held_hooks()
    }

    fn reschedule_undecided(&self, uid: &str, now: Millis) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.next().reschedule_undecided(uid, now)
    }

    fn transfer_pending(
        &self,
        from: &HookId,
        to: &HookId,
        now: Millis,
    ) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.next().transfer_pending(from, to, now)
    }

    fn promote(&self, now: Millis) -> BoxFuture<'_, Result<Vec<HookId>, StoreError>> {
        self.next().promote(now)
    }

    fn next_promotion(&self) -> BoxFuture<'_, Result<Option<Millis>, StoreError>> {
        self.next().next_promotion()
    }
}

impl HistoryStore for Many {
    fn delivery(
        &self,
        namespace: &str,
        id: Uuid,
    ) -> BoxFuture<'_, Result<Option<DeliveryRecord>, StoreError>> {
        self.next().delivery(namespace, id)
    }

    fn state_after_change(
        &self,
        namespace: &str,
        id: Uuid,
    ) -> BoxFuture<'_, Result<Option<(DeliverySeq, DeliveryState)>, StoreError>> {
        self.next().state_after_change(namespace, id)
    }

    fn event_of(&self, namespace: &str, id: Uuid) -> BoxFuture<'_, Result<Option<Arc<Event>>, StoreError>> {
        self.next().event_of(namespace, id)
    }

    fn exchange(&self, namespace: &str, id: Uuid) -> BoxFuture<'_, Result<Option<Exchange>, StoreError>> {
        self.next().exchange(namespace, id)
    }

    fn list(
        &self,
        filter: DeliveryFilter,
        before: Option<DeliverySeq>,
        limit: usize,
    ) -> BoxFuture<'_, Result<DeliveryPage, StoreError>> {
        self.next().list(filter, before, limit)
    }

    fn events(
        &self,
        filter: EventFilter,
        before: Option<DeliverySeq>,
        limit: usize,
        with_data: bool,
    ) -> BoxFuture<'_, Result<EventPage, StoreError>> {
        self.next().events(filter, before, limit, with_data)
    }

    fn explain(
        &self,
        namespace: &str,
        event_id: &str,
    ) -> BoxFuture<'_, Result<Option<EventExplanation>, StoreError>> {
        self.next().explain(namespace, event_id)
    }

    fn replay(
        &self,
        namespace: &str,
        id: Uuid,
        now: Millis,
    ) -> BoxFuture<'_, Result<Option<HookId>, StoreError>> {
        self.next().replay(namespace, id, now)
    }

    fn cancel(
        &self,
        namespace: &str,
        id: Uuid,
        now: Millis,
    ) -> BoxFuture<'_, Result<Option<HookId>, StoreError>> {
        self.next().cancel(namespace, id, now)
    }

    fn cancel_many(
        &self,
        namespace: &str,
        ids: Vec<Uuid>,
        now: Millis,
    ) -> BoxFuture<'_, Result<Vec<(HookId, DeliverySeq)>, StoreError>> {
        self.next().cancel_many(namespace, ids, now)
    }

    fn start_replay(
        &self,
        filter: DeliveryFilter,
        rate: u32,
        now: Millis,
    ) -> BoxFuture<'_, Result<ReplayJob, StoreError>> {
        self.next().start_replay(filter, rate, now)
    }

    fn step_replays(&self, now: Millis) -> BoxFuture<'_, Result<Vec<HookId>, StoreError>> {
        self.next().step_replays(now)
    }

    fn count_finished(
        &self,
        filter: DeliveryFilter,
        before: Option<DeliverySeq>,
        limit: usize,
    ) -> BoxFuture<'_, Result<PartialCount, StoreError>> {
        self.next().count_finished(filter, before, limit)
    }

    fn cancel_replay(
        &self,
        namespace: &str,
        id: Uuid,
        now: Millis,
    ) -> BoxFuture<'_, Result<Option<ReplayJob>, StoreError>> {
        self.next().cancel_replay(namespace, id, now)
    }

    fn replays(&self, namespace: &str) -> BoxFuture<'_, Result<Vec<ReplayJob>, StoreError>> {
        self.next().replays(namespace)
    }

    fn replay_progress(
        &self,
        namespace: &str,
        id: Uuid,
    ) -> BoxFuture<'_, Result<Option<ReplayJob>, StoreError>> {
        self.next().replay_progress(namespace, id)
    }
}

impl MaintenanceStore for Many {
    fn sweep(&self, retention: Retention, now: Millis) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.next().sweep(retention, now)
    }

    fn stored_times(&self) -> BoxFuture<'_, Result<StoredTimes, StoreError>> {
        self.next().stored_times()
    }

    fn reset_future_times(&self, now: Millis) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.next().reset_future_times(now)
    }

    fn space(&self) -> BoxFuture<'_, Result<StoreSpace, StoreError>> {
        self.next().space()
    }

    fn stats(&self) -> BoxFuture<'_, Result<StoreStats, StoreError>> {
        self.next().stats()
    }

    fn hook_stats(&self, uid: &str) -> BoxFuture<'_, Result<StoreStats, StoreError>> {
        self.next().hook_stats(uid)
    }

    fn dead_letters(
        &self,
        since: Millis,
        limit: usize,
    ) -> BoxFuture<'_, Result<DeadLetterCounts, StoreError>> {
        self.next().dead_letters(since, limit)
    }

    fn claim_installation(&self, installation: &str, adopt: bool) -> BoxFuture<'_, Result<(), StoreError>> {
        let installation = installation.to_owned();
        async move { self.next().claim_installation(&installation, adopt).await }.boxed()
    }

    fn namespaces(&self) -> BoxFuture<'_, Result<Vec<String>, StoreError>> {
        self.next().namespaces()
    }

    fn set_namespace_uid(&self, name: &str, uid: Option<&str>) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.next().set_namespace_uid(name, uid)
    }

    fn failed(&self) -> BoxFuture<'static, StoreError> {
        self.next().failed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            for worker in &self.workers {
                worker.close().await;
            }
        }
        .boxed()
    }
}
