//! The trait, by the parts.

use std::collections::HashSet;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::super::{
    Accepted, Backlog, Due, Explained, Filter, HookId, Most, NewEvent, Record, Replay, Retention, Seq,
    Settlement, State, Stats, Store, StoreError, Then,
};
use super::writer::Op;
use super::{SqliteStore, gates, history, ops, places, reads, replays, retention, schema};
use crate::core::event::Event;
use crate::core::time::Millis;

impl Store for SqliteStore {
    fn accept(&self, events: Vec<NewEvent>, now: Millis) -> BoxFuture<'_, Result<Vec<Accepted>, StoreError>> {
        async move {
            let (answer, receive) = oneshot::channel();
            self.enqueue(events, now, Box::new(|_, accepted| drop(answer.send(accepted))));
            self.answer(receive).await
        }
        .boxed()
    }

    fn accept_then(&self, events: Vec<NewEvent>, now: Millis, then: Then) {
        self.enqueue(events, now, then);
    }

    fn settle(&self, settlement: Settlement) -> BoxFuture<'_, Result<bool, StoreError>> {
        let settlements = vec![settlement];
        self.ask(move |answer| Op::Settle { settlements, answer })
            .map(|settled| settled.map(|woken| woken.first() == Some(&true)))
            .boxed()
    }

    fn settle_many(&self, settlements: Vec<Settlement>) -> BoxFuture<'_, Result<Vec<bool>, StoreError>> {
        self.ask(move |answer| Op::Settle { settlements, answer }).boxed()
    }

    fn due(
        &self,
        hook_uid: &str,
        now: Millis,
        has: HashSet<Seq>,
        most: Most,
    ) -> BoxFuture<'_, Result<Due, StoreError>> {
        let uid = hook_uid.to_owned();
        async move { self.read(move |conn| reads::due(conn, &uid, now, &has, most)).await }.boxed()
    }

    fn next_due(&self, hook_uid: &str, after: Millis) -> BoxFuture<'_, Result<Option<Millis>, StoreError>> {
        let uid = hook_uid.to_owned();
        async move { self.read(move |conn| reads::next_due(conn, &uid, after)).await }.boxed()
    }

    fn backlog(&self) -> BoxFuture<'_, Result<Vec<Backlog>, StoreError>> {
        self.read(reads::backlog).boxed()
    }

    fn delivery(&self, namespace: &str, id: Uuid) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
        let namespace = namespace.to_owned();
        async move { self.read(move |conn| history::delivery(conn, &namespace, id)).await }.boxed()
    }

    fn event_of(&self, namespace: &str, id: Uuid) -> BoxFuture<'_, Result<Option<Arc<Event>>, StoreError>> {
        let namespace = namespace.to_owned();
        async move { self.read(move |conn| history::event_of(conn, &namespace, id)).await }.boxed()
    }

    fn list(
        &self,
        filter: Filter,
        before: Option<Seq>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Record>, StoreError>> {
        self.read(move |conn| history::list(conn, &filter, before, limit)).boxed()
    }

    fn explain(
        &self,
        namespace: &str,
        event_id: &str,
    ) -> BoxFuture<'_, Result<Option<Explained>, StoreError>> {
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
        self.write(move |conn, memory| ops::replay(conn, memory, &namespace, id, now)).boxed()
    }

    fn cancel(
        &self,
        namespace: &str,
        id: Uuid,
        now: Millis,
    ) -> BoxFuture<'_, Result<Option<HookId>, StoreError>> {
        let namespace = namespace.to_owned();
        self.write(move |conn, memory| ops::cancel(conn, memory, &namespace, id, now)).boxed()
    }

    fn start_replay(
        &self,
        filter: Filter,
        rate: u32,
        now: Millis,
    ) -> BoxFuture<'_, Result<Replay, StoreError>> {
        async move {
            let refused = |why: &str| Err(StoreError::Refused(why.into()));
            if rate == 0 {
                return refused("a replay at a rate of 0 would never end");
            }
            if filter.state == Some(State::Pending) {
                return refused("what is pending is sent anyway");
            }
            let text = serde_json::to_string(&filter).map_err(|e| StoreError::Refused(e.to_string()))?;
            let id = Uuid::now_v7();
            self.write(move |conn, _| replays::start(conn, id, (&filter, &text), rate, now)).await
        }
        .boxed()
    }

    fn step_replays(&self, now: Millis) -> BoxFuture<'_, Result<Vec<HookId>, StoreError>> {
        async move {
            if !self.reads.run(replays::any).await? {
                return Ok(Vec::new());
            }
            let most = self.chunk.rows;
            let (steps, old) = self.read(move |conn| replays::plan(conn, now, most)).await?;
            if steps.is_empty() && !old {
                return Ok(Vec::new());
            }
            self.write(move |conn, memory| replays::step(conn, memory, &steps, now)).await
        }
        .boxed()
    }

    fn replay_progress(
        &self,
        namespace: &str,
        id: Uuid,
    ) -> BoxFuture<'_, Result<Option<Replay>, StoreError>> {
        let namespace = namespace.to_owned();
        self.reads.run(move |conn| history::replay_progress(conn, &namespace, id)).boxed()
    }

    fn set_held(&self, hook: &HookId, held: bool, now: Millis) -> BoxFuture<'_, Result<(), StoreError>> {
        let hook = hook.clone();
        self.write(move |conn, memory| ops::set_held(conn, memory, &hook, held, now)).boxed()
    }

    fn held(&self) -> BoxFuture<'_, Result<Vec<HookId>, StoreError>> {
        self.reads.run(reads::held_hooks).boxed()
    }

    fn decide_again(&self, uid: &str, now: Millis) -> BoxFuture<'_, Result<bool, StoreError>> {
        let uid: Arc<str> = uid.into();
        self.write(move |conn, memory| ops::decide_again(conn, memory, &uid, now)).boxed()
    }

    fn take_up(&self, from: &HookId, to: &HookId, now: Millis) -> BoxFuture<'_, Result<bool, StoreError>> {
        let (from, to, rows) = (from.clone(), to.clone(), retention::limit(self.chunk.rows));
        self.write(move |conn, memory| ops::take_up(conn, memory, (&from, &to), now, rows)).boxed()
    }

    fn promote(&self, now: Millis) -> BoxFuture<'_, Result<Vec<HookId>, StoreError>> {
        let rows = self.chunk.rows;
        self.write_as_it_is(move |conn, memory| gates::promote(conn, memory, now, rows)).boxed()
    }

    fn next_promotion(&self) -> BoxFuture<'_, Result<Option<Millis>, StoreError>> {
        self.reads.run(reads::next_promotion).boxed()
    }

    fn sweep(&self, retention: Retention, now: Millis) -> BoxFuture<'_, Result<bool, StoreError>> {
        async move {
            // Held until the end: two sweeps at a time would only be in each other's way.
            let mut round = self.cut.lock().await;
            let cut = match round.take() {
                Some(cut) => cut,
                None => self.reads.run(move |conn| retention::cut(conn, retention)).await?,
            };
            let chunk = self.chunk;
            let more = self
                .write_as_it_is(move |conn, memory| {
                    retention::sweep(conn, memory, retention, cut, now, chunk)
                })
                .await?;
            *round = more.then_some(cut);
            Ok(more)
        }
        .boxed()
    }

    fn stats(&self) -> BoxFuture<'_, Result<Stats, StoreError>> {
        self.read(reads::stats).boxed()
    }

    fn hook_stats(&self, uid: &str) -> BoxFuture<'_, Result<Stats, StoreError>> {
        let uid = uid.to_owned();
        async move { self.read(move |conn| reads::hook_stats(conn, &uid)).await }.boxed()
    }

    fn belongs_to(&self, installation: &str, adopted: bool) -> BoxFuture<'_, Result<(), StoreError>> {
        let own = installation.to_owned();
        async move {
            let told = own.clone();
            let found = self.write_as_it_is(move |conn, _| schema::belongs_to(conn, &told, adopted)).await?;
            found.map_or(Ok(()), |found| Err(StoreError::Foreign { found, own }))
        }
        .boxed()
    }

    fn namespaces(&self) -> BoxFuture<'_, Result<Vec<String>, StoreError>> {
        self.reads.run(places::names).boxed()
    }

    fn namespace_is(&self, name: &str, uid: Option<&str>) -> BoxFuture<'_, Result<bool, StoreError>> {
        let (name, uid) = (name.to_owned(), uid.map(ToOwned::to_owned));
        self.write(move |conn, memory| places::is(conn, memory, &name, uid.as_deref())).boxed()
    }

    fn failed(&self) -> BoxFuture<'static, StoreError> {
        let mut watch = self.shared.watch();
        async move {
            if let Ok(failed) = watch.wait_for(Option::is_some).await
                && let Some(failure) = failed.as_ref()
            {
                return failure.clone();
            }
            // Closed without a failure: there will be none.
            futures::future::pending().await
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            // Whoever closes second returns when the first one has.
            let mut closed = self.closed.lock().await;
            if *closed {
                return;
            }
            self.shared.closing();
            // Before the writer: its last checkpoint copies all that no reader holds.
            self.reads.close().await;
            if let Some(queue) = &self.queue {
                drop(queue.send(Op::Stop).await);
            }
            let thread = self.thread.lock().take();
            if let Some(thread) = thread {
                drop(tokio::task::spawn_blocking(move || thread.join()).await);
            }
            // Only now may another process come.
            drop(self.lock.lock().take());
            *closed = true;
        }
        .boxed()
    }
}
