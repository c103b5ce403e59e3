//! Implements the four roles of a store.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use rusqlite::Connection;
use uuid::Uuid;

use super::super::{
    AcceptCallback, DeadLetterCounts, DeliveryFilter, DeliveryPage, DeliveryRecord, DeliverySeq,
    DeliveryState, DispatchStore, DueDeliveries, EventExplanation, EventFilter, EventPage, Exchange,
    HistoryStore, HookBacklog, HookId, HookOwnership, InFlightAccept, IngestStore, MaintenanceStore,
    NewEvent, PartialCount, PendingDelivery, ReadLimit, ReplayJob, Retention, Settlement, StoreError,
    StoreSpace, StoreStats, StoredTimes,
};
use super::cache::WriterCache;
use super::engine::SqliteStore;
use super::history_excess::HistoryExcess;
use super::outcomes::Snapshot;
use super::retention::SweepRound;
use super::writer::Operation;
use super::{
    cancel_many, clock, dead_letters, event_ids, events_list, exchanges, gates, history, hook_rows,
    namespace_keys, namespaces, reads, replays, retention, rows, schema, sequence, transitions, vacuum,
};
use crate::core::event::Event;
use crate::core::fast_map::FastSet;
use crate::core::time::Millis;

impl IngestStore for SqliteStore {
    fn accept_then(&self, events: Vec<NewEvent>, now: Millis, done: AcceptCallback) {
        self.enqueue_accept(events, now, done);
    }

    fn announce(&self) -> InFlightAccept {
        self.shared.in_flight.count()
    }
}

impl HookOwnership for SqliteStore {}

impl DispatchStore for SqliteStore {
    fn settle_many(&self, settlements: Vec<Settlement>) -> BoxFuture<'_, Result<Vec<bool>, StoreError>> {
        self.enqueue(move |reply| Operation::Settle { settlements, reply }).boxed()
    }

    fn due(
        &self,
        hook_uid: &str,
        now: Millis,
        exclude: FastSet<DeliverySeq>,
        limit: ReadLimit,
    ) -> BoxFuture<'_, Result<DueDeliveries, StoreError>> {
        let uid = hook_uid.to_owned();
        async move { self.read(move |conn, recent| reads::due(conn, recent, &uid, now, &exclude, limit)).await }.boxed()
    }

    fn newest_untried(
        &self,
        hook_uid: &str,
        now: Millis,
        exclude: FastSet<DeliverySeq>,
        limit: ReadLimit,
    ) -> BoxFuture<'_, Result<Vec<PendingDelivery>, StoreError>> {
        let uid = hook_uid.to_owned();
        async move {
            self.read(move |conn, recent| reads::newest_untried(conn, recent, &uid, now, &exclude, limit))
                .await
        }
        .boxed()
    }

    fn next_due(&self, hook_uid: &str, after: Millis) -> BoxFuture<'_, Result<Option<Millis>, StoreError>> {
        let uid = hook_uid.to_owned();
        async move { self.read(move |conn, recent| reads::next_due(conn, recent, &uid, after)).await }.boxed()
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
        async move {
            let of_namespace = namespace.clone();
            self.read_history(&namespace, move |conn, recent| {
                history::delivery(conn, recent, &of_namespace, id)
            })
            .await
        }
        .boxed()
    }

    fn state_after_change(
        &self,
        namespace: &str,
        id: Uuid,
    ) -> BoxFuture<'_, Result<Option<(DeliverySeq, DeliveryState)>, StoreError>> {
        let namespace = namespace.to_owned();
        async move {
            let read =
                move |conn: &Connection, recent: &Snapshot| history::state(conn, recent, &namespace, id);
            self.read_in(&self.maintenance_readers, read).await
        }
        .boxed()
    }

    fn event_of(&self, namespace: &str, id: Uuid) -> BoxFuture<'_, Result<Option<Arc<Event>>, StoreError>> {
        let namespace = namespace.to_owned();
        async move {
            let of_namespace = namespace.clone();
            self.read_history(&namespace, move |conn, recent| {
                history::event_of(conn, recent, &of_namespace, id)
            })
            .await
        }
        .boxed()
    }

    fn exchange(&self, namespace: &str, id: Uuid) -> BoxFuture<'_, Result<Option<Exchange>, StoreError>> {
        let namespace = namespace.to_owned();
        async move {
            let of_namespace = namespace.clone();
            self.read_history(&namespace, move |conn, _| exchanges::find(conn, &of_namespace, id)).await
        }
        .boxed()
    }

    fn list(
        &self,
        filter: DeliveryFilter,
        before: Option<DeliverySeq>,
        limit: usize,
    ) -> BoxFuture<'_, Result<DeliveryPage, StoreError>> {
        let budget = self.history_budget;
        async move {
            let (namespace, newest) = (filter.namespace.clone(), self.newest_ids.clone());
            let list = move |conn: &Connection, recent: &Snapshot| {
                history::list(conn, (&newest, recent), &filter, before, limit, budget)
            };
            self.read_history(&namespace, list).await?
        }
        .boxed()
    }

    fn events(
        &self,
        filter: EventFilter,
        before: Option<DeliverySeq>,
        limit: usize,
        with_data: bool,
    ) -> BoxFuture<'_, Result<EventPage, StoreError>> {
        let budget = self.history_budget;
        async move {
            let (namespace, newest) = (filter.namespace.clone(), self.newest_ids.clone());
            let list = move |conn: &Connection, recent: &Snapshot| {
                let recents = (&*newest, recent);
                events_list::list(conn, recents, &filter, before, (limit, with_data), budget)
            };
            self.read_history(&namespace, list).await
        }
        .boxed()
    }

    fn explain(
        &self,
        namespace: &str,
        event_id: &str,
    ) -> BoxFuture<'_, Result<Option<EventExplanation>, StoreError>> {
        let (namespace, id, budget) = (namespace.to_owned(), event_id.to_owned(), self.history_budget);
        async move {
            let (of_namespace, newest) = (namespace.clone(), self.newest_ids.clone());
            let explain = move |conn: &Connection, recent: &Snapshot| {
                history::explain(conn, (&newest, recent), &of_namespace, &id, budget)
            };
            self.read_history(&namespace, explain).await?
        }
        .boxed()
    }

    fn replay(
        &self,
        namespace: &str,
        id: Uuid,
        now: Millis,
    ) -> BoxFuture<'_, Result<Option<HookId>, StoreError>> {
        let namespace = namespace.to_owned();
        self.write_unmaterialized(move |conn, cache| transitions::replay(conn, cache, &namespace, id, now))
            .boxed()
    }

    fn cancel(
        &self,
        namespace: &str,
        id: Uuid,
        now: Millis,
    ) -> BoxFuture<'_, Result<Option<HookId>, StoreError>> {
        let namespace = namespace.to_owned();
        self.write_unmaterialized(move |conn, cache| transitions::cancel(conn, cache, &namespace, id, now))
            .boxed()
    }

    fn cancel_many(
        &self,
        namespace: &str,
        ids: Vec<Uuid>,
        now: Millis,
    ) -> BoxFuture<'_, Result<Vec<(HookId, DeliverySeq)>, StoreError>> {
        let namespace = namespace.to_owned();
        async move {
            let cancel = move |conn: &Connection, cache: &mut WriterCache| {
                cancel_many::cancel_many(conn, cache, &namespace, &ids, now)
            };
            self.write_unmaterialized(cancel).await
        }
        .boxed()
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
            if filter.event.is_some() && self.maintenance_readers.run(event_ids::is_incomplete).await? {
                return Err(StoreError::Indexing);
            }
            let text = serde_json::to_string(&filter).map_err(|e| StoreError::Refused(e.to_string()))?;
            let id = Uuid::now_v7();
            let start = move |conn: &Connection, cache: &mut WriterCache| {
                let top = sequence::last_delivery(cache.unmaterialized(conn)?.last_event());
                replays::start(conn, id, (&filter, &text), rate, top, now)
            };
            self.write_unmaterialized(start).await?.ok_or(StoreError::TooManyReplays(replays::MAX_UNFINISHED))
        }
        .boxed()
    }

    fn step_replays(&self, now: Millis) -> BoxFuture<'_, Result<Vec<HookId>, StoreError>> {
        async move {
            let newest = self.newest_ids.clone();
            let plan =
                move |conn: &Connection, recent: &Snapshot| replays::plan(conn, (&newest, recent), now);
            let (batches, has_expired) = self.read_in(&self.maintenance_readers, plan).await?;
            if has_expired {
                self.write_unmaterialized(move |conn, _| replays::remove_expired(conn, now)).await?;
            }
            let mut hooks = BTreeSet::new();
            // One operation for each batch, so that accepts run in between.
            for batch in batches {
                let execute = move |conn: &Connection, cache: &mut WriterCache| {
                    replays::execute(conn, cache, &batch, now)
                };
                hooks.extend(self.write_unmaterialized(execute).await?);
            }
            Ok(hooks.into_iter().collect())
        }
        .boxed()
    }

    fn count_finished(
        &self,
        filter: DeliveryFilter,
        before: Option<DeliverySeq>,
        limit: usize,
    ) -> BoxFuture<'_, Result<PartialCount, StoreError>> {
        let budget = self.history_budget;
        async move {
            let (namespace, newest) = (filter.namespace.clone(), self.newest_ids.clone());
            let count = move |conn: &Connection, recent: &Snapshot| {
                history::count_finished(conn, (&newest, recent), &filter, before, limit, budget)
            };
            self.read_history(&namespace, count).await?
        }
        .boxed()
    }

    fn cancel_replay(
        &self,
        namespace: &str,
        id: Uuid,
        now: Millis,
    ) -> BoxFuture<'_, Result<Option<ReplayJob>, StoreError>> {
        let namespace = namespace.to_owned();
        self.write_unmaterialized(move |conn, _| replays::cancel(conn, &namespace, id, now)).boxed()
    }

    fn replays(&self, namespace: &str) -> BoxFuture<'_, Result<Vec<ReplayJob>, StoreError>> {
        let namespace = namespace.to_owned();
        async move {
            let of_namespace = namespace.clone();
            self.read_history(&namespace, move |conn, _| replays::list(conn, &of_namespace)).await
        }
        .boxed()
    }

    fn replay_progress(
        &self,
        namespace: &str,
        id: Uuid,
    ) -> BoxFuture<'_, Result<Option<ReplayJob>, StoreError>> {
        let namespace = namespace.to_owned();
        async move {
            let of_namespace = namespace.clone();
            self.read_history(&namespace, move |conn, _| replays::progress(conn, &of_namespace, id)).await
        }
        .boxed()
    }
}

impl MaintenanceStore for SqliteStore {
    fn sweep(&self, retention: Retention, now: Millis) -> BoxFuture<'_, Result<bool, StoreError>> {
        async move {
            // Locked until the end, because two concurrent sweeps would only delay each other.
            let mut round = self.round.lock().await;
            // A failed step begins a new round.
            let mut has_freed = false;
            let cutoff = match std::mem::take(&mut *round) {
                SweepRound::Begin => {
                    self.materialize_old(now).await?;
                    *self.unused_hooks.lock() =
                        self.read_in(&self.maintenance_readers, hook_rows::find_unused).await?;
                    let excess = move |conn: &Connection| HistoryExcess::find(conn, &retention);
                    *self.history_excess.lock() = self.maintenance_readers.run(excess).await?.into();
                    Some(
                        self.read_in(&self.maintenance_readers, move |conn, recent| {
                            retention::cutoff(conn, recent, retention)
                        })
                        .await?,
                    )
                }
                SweepRound::Remove(cutoff) => Some(cutoff),
                SweepRound::Vacuum => {
                    has_freed = true;
                    None
                }
            };
            if let Some(cutoff) = cutoff
                && self.sweep_rows(retention, cutoff, now).await?
            {
                *round = SweepRound::Remove(cutoff);
                return Ok(true);
            }
            let has_more = self.vacuum(has_freed).await?;
            *round = if has_more { SweepRound::Vacuum } else { SweepRound::Begin };
            Ok(has_more)
        }
        .boxed()
    }

    fn stored_times(&self) -> BoxFuture<'_, Result<StoredTimes, StoreError>> {
        self.maintenance_readers.run(clock::stored_times).boxed()
    }

    fn reset_future_times(&self, now: Millis) -> BoxFuture<'_, Result<bool, StoreError>> {
        let rows = self.sweep_limit.rows;
        self.write(move |conn, cache| clock::reset_future_times(conn, cache, now, rows)).boxed()
    }

    fn space(&self) -> BoxFuture<'_, Result<StoreSpace, StoreError>> {
        async move {
            let (shared, path) = (self.shared.clone(), self.path.clone());
            let measure = move |conn: &Connection| {
                let is_disk_full = shared.recheck_disk();
                Ok(StoreSpace { is_disk_full, ..vacuum::space(conn, &path)? })
            };
            self.maintenance_readers.run(measure).await
        }
        .boxed()
    }

    fn stats(&self) -> BoxFuture<'_, Result<StoreStats, StoreError>> {
        async move {
            let stats = self.read_in(&self.maintenance_readers, reads::stats).await?;
            let key_memory_bytes = self.shared.key_bytes() as u64;
            // The cache has no page twice.
            let page_cache = self.page_cache.min(stats.file_bytes);
            Ok(StoreStats {
                key_memory_bytes,
                memory_bytes: key_memory_bytes.saturating_add(page_cache),
                ..stats
            })
        }
        .boxed()
    }

    fn hook_stats(&self, uid: &str) -> BoxFuture<'_, Result<StoreStats, StoreError>> {
        let uid = uid.to_owned();
        self.read_in(&self.maintenance_readers, move |conn, recent| reads::hook_stats(conn, recent, &uid))
            .boxed()
    }

    fn dead_letters(
        &self,
        since: Millis,
        limit: usize,
    ) -> BoxFuture<'_, Result<DeadLetterCounts, StoreError>> {
        self.read_in(&self.maintenance_readers, move |conn, _| dead_letters::count(conn, since, limit))
            .boxed()
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
        self.maintenance_readers.run(namespace_keys::names).boxed()
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
