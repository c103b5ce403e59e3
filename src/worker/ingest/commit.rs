//! From a request to the disk and on to the dispatcher: requests that come while a group is committed make up the next.
//!
//! A task of its own does it, not the request's: a sender who goes away ends the request, and what was committed would be
//! handed to nobody until the next start.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::core::event::Event;
use crate::core::time::Millis;
use crate::metrics::Metrics;
use crate::worker::dispatch::Handle;
use crate::worker::store::{Accepted, Fate, NewDelivery, NewEvent, Pending, Store, StoreError};

/// Requests that may wait; then senders are told to come again.
const WAITING: usize = 4096;
/// Requests of one group.
const AT_ONCE: usize = 512;

type Answer = oneshot::Sender<Result<Vec<Accepted>, StoreError>>;

/// A request's events.
struct Request {
    new: Vec<NewEvent>,
    now: Millis,
    answer: Answer,
}

/// Where requests go.
#[derive(Clone)]
pub struct Committer {
    requests: mpsc::Sender<Request>,
}

impl Committer {
    /// Works as long as there are senders.
    pub fn start(store: Arc<dyn Store>, dispatch: Handle, metrics: Arc<Metrics>) -> Committer {
        let (requests, waiting) = mpsc::channel(WAITING);
        tokio::spawn(run(waiting, store, dispatch, metrics));
        Committer { requests }
    }

    /// Commits events, all or none, and hands their deliveries over.
    pub async fn accept(&self, new: Vec<NewEvent>, now: Millis) -> Result<Vec<Accepted>, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.requests.try_send(Request { new, now, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::Busy,
            mpsc::error::TrySendError::Closed(_) => StoreError::Closed,
        })?;
        answered.await.unwrap_or(Err(StoreError::Closed))
    }
}

async fn run(
    mut waiting: mpsc::Receiver<Request>,
    store: Arc<dyn Store>,
    dispatch: Handle,
    metrics: Arc<Metrics>,
) {
    let mut batch = Vec::with_capacity(AT_ONCE);
    while waiting.recv_many(&mut batch, AT_ONCE).await > 0 {
        let (mut made, mut requests, mut answers) = (Vec::new(), Vec::new(), Vec::new());
        for Request { new, now, answer } in batch.drain(..) {
            made.push((new.iter().map(|n| (n.event.clone(), n.deliveries.clone())).collect(), now));
            requests.push((new, now));
            answers.push(answer);
        }
        let accepted = store.accept_many(requests).await;
        // Beside the next group, which shall not wait for it.
        tokio::spawn(hand_over(dispatch.clone(), metrics.clone(), made, accepted, answers));
    }
}

/// The events and deliveries that were to be stored, and when.
type Made = (Vec<(Arc<Event>, Vec<NewDelivery>)>, Millis);

async fn hand_over(
    dispatch: Handle,
    metrics: Arc<Metrics>,
    made: Vec<Made>,
    accepted: Vec<Result<Vec<Accepted>, StoreError>>,
    answers: Vec<Answer>,
) {
    let (mut pending, mut woken) = (Vec::new(), Vec::new());
    for ((made, now), accepted) in made.into_iter().zip(&accepted) {
        let Ok(accepted) = accepted else { continue };
        for ((event, deliveries), accepted) in made.into_iter().zip(accepted) {
            count(&metrics, &event, &deliveries, accepted);
            pending.extend(due(&event, deliveries, accepted, now));
            woken.extend(accepted.woken.iter().map(|hook| hook.uid.clone()));
        }
    }
    for (answer, accepted) in answers.into_iter().zip(accepted) {
        // Nobody may wait for it any more.
        drop(answer.send(accepted));
    }
    dispatch.accepted(pending).await;
    for uid in woken {
        dispatch.wake(uid).await;
    }
}

/// What an event has to be sent now. A duplicate has nothing: what it needs was woken.
fn due(
    event: &Arc<Event>,
    deliveries: Vec<NewDelivery>,
    accepted: &Accepted,
    now: Millis,
) -> impl Iterator<Item = Pending> {
    let told = if accepted.duplicate { &[] } else { accepted.deliveries.as_slice() };
    deliveries.into_iter().zip(told).filter_map(move |(delivery, told)| {
        let Fate::Pending { due, suppressed } = told.fate else { return None };
        Some(Pending {
            seq: told.seq,
            id: delivery.id,
            hook: delivery.hook,
            event: event.clone(),
            accepted: now,
            attempts: 0,
            due,
            held: Duration::ZERO,
            suppressed,
            replays: 0,
        })
    })
}

/// Counts an event, and those of its deliveries that ended before they began.
fn count(metrics: &Metrics, event: &Event, deliveries: &[NewDelivery], accepted: &Accepted) {
    if accepted.duplicate {
        return;
    }
    metrics.accepted(event.origin.kind());
    for (delivery, told) in deliveries.iter().zip(&accepted.deliveries) {
        match told.fate {
            Fate::Dropped => metrics.finished("dropped", ""),
            // Where it was not dead when it came, its hook's share was full.
            Fate::Dead => metrics.finished("dead", delivery.dead.unwrap_or("BacklogFull")),
            Fate::Pending { .. } | Fate::Candidate { .. } | Fate::Ended => {}
        }
    }
}
