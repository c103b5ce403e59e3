//! From a request to the disk and on to the dispatcher.
//!
//! What was committed is handed over by a task of its own, not the request's: a sender who goes away ends the request, and
//! what was committed would be handed to nobody until the next start. The store's thread wakes it once a group.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::core::time::Millis;
use crate::metrics::Metrics;
use crate::worker::dispatch::Handle;
use crate::worker::store::{Accepted, Fate, NewEvent, Pending, Store, StoreError};

/// Requests that are handed over at a time.
const AT_ONCE: usize = 512;

type Outcome = Result<Vec<Accepted>, StoreError>;

/// A request of which is known what became.
struct Done {
    /// What was stored; nothing, where it was refused.
    made: Vec<NewEvent>,
    now: Millis,
    accepted: Outcome,
    answer: oneshot::Sender<Outcome>,
}

/// Where requests go.
#[derive(Clone)]
pub struct Committer {
    store: Arc<dyn Store>,
    done: mpsc::UnboundedSender<Done>,
}

impl Committer {
    /// Works as long as there are senders.
    pub fn start(store: Arc<dyn Store>, dispatch: Handle, metrics: Arc<Metrics>) -> Committer {
        // Bounded by the store's queue.
        let (done, came) = mpsc::unbounded_channel();
        tokio::spawn(run(came, dispatch, metrics));
        Committer { store, done }
    }

    /// Commits events, all or none, and hands their deliveries over.
    pub async fn accept(&self, new: Vec<NewEvent>, now: Millis) -> Outcome {
        let (answer, answered) = oneshot::channel();
        let done = self.done.clone();
        let then = move |made, accepted| {
            // Closed: the process stops, and what was committed is on disk.
            done.send(Done { made, now, accepted, answer }).ok();
        };
        self.store.accept_then(new, now, Box::new(then));
        answered.await.unwrap_or(Err(StoreError::Closed))
    }
}

async fn run(mut came: mpsc::UnboundedReceiver<Done>, dispatch: Handle, metrics: Arc<Metrics>) {
    let mut batch = Vec::with_capacity(AT_ONCE);
    while came.recv_many(&mut batch, AT_ONCE).await > 0 {
        let (mut pending, mut woken) = (Vec::new(), Vec::new());
        for Done { made, now, accepted, answer } in batch.drain(..) {
            for (made, accepted) in made.into_iter().zip(accepted.iter().flatten()) {
                count(&metrics, &made, accepted);
                pending.extend(due(made, accepted, now));
                woken.extend(accepted.woken.iter().cloned());
            }
            // Nobody may wait for it any more.
            drop(answer.send(accepted));
        }
        dispatch.accepted(pending).await;
        for hook in woken {
            dispatch.raised(hook).await;
        }
    }
}

/// What an event has to be sent now. A duplicate has nothing: what it needs was woken.
fn due(made: NewEvent, accepted: &Accepted, now: Millis) -> impl Iterator<Item = Pending> {
    let NewEvent { event, deliveries, .. } = made;
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
            progress: Vec::new(),
        })
    })
}

/// Counts an event, and those of its deliveries that ended before they began.
fn count(metrics: &Metrics, made: &NewEvent, accepted: &Accepted) {
    if accepted.duplicate {
        return;
    }
    metrics.accepted(made.event.origin.kind());
    for (delivery, told) in made.deliveries.iter().zip(&accepted.deliveries) {
        match told.fate {
            Fate::Dropped => metrics.finished("dropped", ""),
            // Where it was not dead when it came, its hook's share was full.
            Fate::Dead => metrics.finished("dead", delivery.dead.unwrap_or("BacklogFull")),
            Fate::Pending { .. } | Fate::Candidate { .. } | Fate::Ended => {}
        }
    }
}
