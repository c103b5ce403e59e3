//! Commits the events of a request and hands their deliveries to the dispatcher.
//!
//! A separate task hands the deliveries over, because a request's future is dropped if the client disconnects. The
//! dispatcher would then not learn of the committed deliveries before the next start. The store's thread notifies that
//! task once per group commit.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::core::delivery_reason::DeliveryReason;
use crate::core::event::Event;
use crate::core::time::Millis;
use crate::memory::Reservation;
use crate::metrics::Metrics;
use crate::traces::IngestSpans;
use crate::worker::dispatch::{CrowdedNamespaces, DispatchHandle, MAX_SENDER_WAIT};
use crate::worker::store::{
    AcceptedEvent, Fate, InFlightAccept, IngestStore, NewEvent, PendingDelivery, StoreError,
};

/// Requests that are handed over in one batch.
const BATCH: usize = 512;

type CommitResult = Result<Vec<AcceptedEvent>, StoreError>;

/// A request whose events were committed or refused.
struct CommittedRequest {
    /// The events of the request; empty if they were refused.
    events: Vec<NewEvent>,
    now: Millis,
    result: CommitResult,
    /// Sends the result to the request.
    reply: oneshot::Sender<CommitResult>,
    /// The memory of the events, which is reserved until the dispatcher has them.
    memory: Reservation,
    spans: IngestSpans,
}

/// Commits events and hands their deliveries over.
#[derive(Clone)]
pub struct Committer {
    store: Arc<dyn IngestStore>,
    committed: mpsc::UnboundedSender<CommittedRequest>,
    crowded: Arc<CrowdedNamespaces>,
}

impl Committer {
    /// Starts the hand-over task, which ends when the last `Committer` is dropped.
    pub fn start(store: Arc<dyn IngestStore>, dispatch: DispatchHandle, metrics: Arc<Metrics>) -> Committer {
        // The store's queue bounds the number of requests in this channel.
        let (committed, requests) = mpsc::unbounded_channel();
        let crowded = dispatch.crowded().clone();
        tokio::spawn(hand_over(requests, dispatch, metrics));
        Committer { store, committed, crowded }
    }

    /// Waits for a bounded time while the worker delivers the events of the namespace slower than it accepts them.
    pub async fn wait_for_deliveries(&self, namespace: &str) {
        self.crowded.wait(namespace, MAX_SENDER_WAIT).await;
    }

    /// Announces the events of a request that is complete and authorized, so that the store can commit them together with
    /// those of other requests.
    ///
    /// Lets other requests run first: those that have arrived too are then announced before this one is committed.
    pub async fn announce(&self) -> InFlightAccept {
        let announced = self.store.announce();
        tokio::task::yield_now().await;
        announced
    }

    /// Commits events, all or none. Cancel safe: once called, the events are committed and handed over even if the future
    /// is dropped. `memory` stays reserved until then, when `spans` end too.
    pub async fn commit(
        &self,
        events: Vec<NewEvent>,
        now: Millis,
        memory: Reservation,
        announced: InFlightAccept,
        mut spans: IngestSpans,
    ) -> CommitResult {
        let (reply, received) = oneshot::channel();
        let committed = self.committed.clone();
        spans.begin_commit();
        let on_commit = move |events, result| {
            spans.end_commit();
            // A closed channel means that the process stops; committed deliveries are on disk.
            committed.send(CommittedRequest { events, now, result, reply, memory, spans }).ok();
        };
        self.store.accept_then(events, now, Box::new(on_commit));
        drop(announced);
        received.await.unwrap_or(Err(StoreError::Closed))
    }
}

async fn hand_over(
    mut requests: mpsc::UnboundedReceiver<CommittedRequest>,
    dispatch: DispatchHandle,
    metrics: Arc<Metrics>,
) {
    let mut batch = Vec::with_capacity(BATCH);
    while requests.recv_many(&mut batch, BATCH).await > 0 {
        let (mut pending, mut to_notify) = (Vec::new(), Vec::new());
        let mut reserved = Vec::with_capacity(batch.len());
        for CommittedRequest { events, now, result, reply, memory, spans } in batch.drain(..) {
            reserved.push(memory);
            for (event, accepted) in events.into_iter().zip(result.iter().flatten()) {
                count(&metrics, &event, accepted);
                pending.extend(pending_deliveries(event, accepted, now));
                to_notify.extend(accepted.hooks_to_notify.iter().cloned());
            }
            // Here and not in the request, whose future ends if the client disconnects.
            match &result {
                Ok(accepted) => spans.end(Ok(accepted.iter().map(|one| (one.duplicate, one.kept())))),
                Err(error) => spans.end(Err::<[_; 0], _>(error.into())),
            }
            // The client may have disconnected.
            drop(reply.send(result));
        }
        dispatch.enqueue_accepted(pending, reserved).await;
        for hook in to_notify {
            dispatch.notify_hook(hook).await;
        }
    }
}

/// Returns the deliveries of an event that may be sent now. None for a duplicate: if it revived deliveries, their hooks
/// are in `hooks_to_notify`.
fn pending_deliveries(
    event: NewEvent,
    accepted: &AcceptedEvent,
    now: Millis,
) -> impl Iterator<Item = PendingDelivery> {
    let NewEvent { event, deliveries, .. } = event;
    let stored = if accepted.duplicate { &[] } else { accepted.deliveries.as_slice() };
    deliveries.into_iter().zip(stored).filter_map(move |(delivery, stored)| {
        let Fate::Pending { due, suppressed } = stored.fate else { return None };
        Some(PendingDelivery {
            epoch: delivery.epoch,
            seq: stored.seq,
            id: stored.id,
            hook: delivery.hook,
            event: event.clone(),
            accepted: now,
            attempts: 0,
            due,
            held: Duration::ZERO,
            suppressed,
            replays: 0,
            progress: Vec::new(),
        })
    })
}

/// Counts and logs an accepted event, and counts those of its deliveries that the store dropped or stored as dead letters.
fn count(metrics: &Metrics, event: &NewEvent, accepted: &AcceptedEvent) {
    let Event { namespace, id, source, event: name, .. } = &*event.event;
    let (duplicate, deliveries) = (accepted.duplicate, accepted.deliveries.len());
    tracing::debug!(namespace, event = id, source, name, duplicate, deliveries, "event accepted");
    if duplicate {
        return;
    }
    metrics.record_accepted(event.event.origin.kind());
    metrics.rates.record_accepted(namespace);
    for (delivery, stored) in event.deliveries.iter().zip(&accepted.deliveries) {
        match stored.fate {
            Fate::Dropped => metrics.record_finished("dropped", None),
            // If `decide` did not create the delivery as dead, the store did, because the hook's share of the disk was
            // full.
            Fate::Dead => {
                let (hook, reason) = (&delivery.hook, delivery.dead.unwrap_or(DeliveryReason::BacklogFull));
                metrics.record_finished("dead", Some(reason));
                metrics.dead_letters.record(&hook.namespace, &hook.name, reason);
                metrics.rates.record_dead(&hook.namespace);
            }
            Fate::Pending { .. } | Fate::Candidate { .. } | Fate::Ended => {}
        }
    }
}
