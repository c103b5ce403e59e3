//! The history role.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use uuid::Uuid;

use super::super::super::read_budget::ReadBudget;
use super::super::super::{
    DeliveryFilter, DeliveryPage, DeliveryRecord, DeliverySeq, DeliveryState, EventExplanation, EventFilter,
    EventPage, Exchange, HistoryStore, HookId, PartialCount, ReplayJob, StoreError,
};
use super::super::failure::DbError;
use super::super::session::Session;
use super::super::store::PostgresStore;
use super::super::{events_list, explanation, history, replays};
use crate::core::event::Event;
use crate::core::time::Millis;

impl PostgresStore {
    /// Runs a query of a user, on one of the few connections for them.
    async fn query<T>(
        &self,
        namespace: &str,
        read: impl AsyncFnOnce(&Session) -> Result<T, DbError>,
    ) -> Result<T, StoreError> {
        let _slot = self.read_slots.acquire(namespace).await?;
        let session = self.session().await?;
        Ok(read(&session).await?)
    }
}

impl HistoryStore for PostgresStore {
    fn delivery(
        &self,
        namespace: &str,
        id: Uuid,
    ) -> BoxFuture<'_, Result<Option<DeliveryRecord>, StoreError>> {
        let namespace = namespace.to_owned();
        async move {
            self.query(&namespace, async |session| history::delivery(session, &namespace, id).await).await
        }
        .boxed()
    }

    fn state_after_change(
        &self,
        namespace: &str,
        id: Uuid,
    ) -> BoxFuture<'_, Result<Option<(DeliverySeq, DeliveryState)>, StoreError>> {
        let namespace = namespace.to_owned();
        async move { Ok(history::state(&self.session().await?, &namespace, id).await?) }.boxed()
    }

    fn event_of(&self, namespace: &str, id: Uuid) -> BoxFuture<'_, Result<Option<Arc<Event>>, StoreError>> {
        let namespace = namespace.to_owned();
        async move {
            self.query(&namespace, async |session| history::event_of(session, &namespace, id).await).await
        }
        .boxed()
    }

    fn exchange(&self, namespace: &str, id: Uuid) -> BoxFuture<'_, Result<Option<Exchange>, StoreError>> {
        let namespace = namespace.to_owned();
        async move {
            self.query(&namespace, async |session| history::exchange(session, &namespace, id).await).await
        }
        .boxed()
    }

    fn list(
        &self,
        filter: DeliveryFilter,
        before: Option<DeliverySeq>,
        limit: usize,
    ) -> BoxFuture<'_, Result<DeliveryPage, StoreError>> {
        async move {
            self.query(&filter.namespace, async |session| {
                history::list(session, &filter, before, limit, ReadBudget::of_list()).await
            })
            .await
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
        async move {
            self.query(&filter.namespace, async |session| {
                let budget = ReadBudget::of_list();
                events_list::list(session, &filter, before, (limit, with_data), budget).await
            })
            .await
        }
        .boxed()
    }

    fn explain(
        &self,
        namespace: &str,
        event_id: &str,
    ) -> BoxFuture<'_, Result<Option<EventExplanation>, StoreError>> {
        let (namespace, event_id) = (namespace.to_owned(), event_id.to_owned());
        async move {
            self.query(&namespace, async |session| explanation::explain(session, &namespace, &event_id).await)
                .await
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
        async move { self.replay_delivery(&namespace, id, now).await }.boxed()
    }

    fn cancel(
        &self,
        namespace: &str,
        id: Uuid,
        now: Millis,
    ) -> BoxFuture<'_, Result<Option<HookId>, StoreError>> {
        let namespace = namespace.to_owned();
        async move { self.cancel_delivery(&namespace, id, now).await }.boxed()
    }

    fn cancel_many(
        &self,
        namespace: &str,
        ids: Vec<Uuid>,
        now: Millis,
    ) -> BoxFuture<'_, Result<Vec<(HookId, DeliverySeq)>, StoreError>> {
        let namespace = namespace.to_owned();
        async move { self.cancel_deliveries(&namespace, ids, now).await }.boxed()
    }

    fn start_replay(
        &self,
        filter: DeliveryFilter,
        rate: u32,
        now: Millis,
    ) -> BoxFuture<'_, Result<ReplayJob, StoreError>> {
        async move { Ok(replays::start(&self.session().await?, &filter, rate, now).await?) }.boxed()
    }

    fn step_replays(&self, now: Millis) -> BoxFuture<'_, Result<Vec<HookId>, StoreError>> {
        async move {
            let hooks = replays::step(&self.session().await?, self.direct_writer, now).await?;
            hooks.iter().for_each(|hook| self.signals.send(&hook.uid, None));
            Ok(hooks)
        }
        .boxed()
    }

    fn count_finished(
        &self,
        filter: DeliveryFilter,
        before: Option<DeliverySeq>,
        limit: usize,
    ) -> BoxFuture<'_, Result<PartialCount, StoreError>> {
        async move {
            self.query(&filter.namespace, async |session| {
                history::count_finished(session, &filter, before, limit, ReadBudget::of_list()).await
            })
            .await
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
        async move { Ok(replays::cancel(&self.session().await?, &namespace, id, now).await?) }.boxed()
    }

    fn replays(&self, namespace: &str) -> BoxFuture<'_, Result<Vec<ReplayJob>, StoreError>> {
        let namespace = namespace.to_owned();
        async move { self.query(&namespace, async |session| replays::list(session, &namespace).await).await }
            .boxed()
    }

    fn replay_progress(
        &self,
        namespace: &str,
        id: Uuid,
    ) -> BoxFuture<'_, Result<Option<ReplayJob>, StoreError>> {
        let namespace = namespace.to_owned();
        async move {
            self.query(&namespace, async |session| replays::progress(session, &namespace, id).await).await
        }
        .boxed()
    }
}
