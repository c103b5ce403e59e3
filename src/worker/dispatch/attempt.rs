//! One attempt: send, decide, note the outcome.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::hold::Hold;
use super::settler::Outcome;
use super::{Came, Command, Handle};
use crate::core::gate::Asked;
use crate::core::hook::Hook;
use crate::core::retry::{self, Past};
use crate::core::time::Millis;
use crate::metrics::{Metrics, Series};
use crate::worker::handlers::{Sender, Sent};
use crate::worker::route::{Decision, Known, Routes, decide_again};
use crate::worker::store::{Attempt, Next, Pending, Settlement};

/// An event on which the filter fails is decided again after this time: the spec may be another then.
const DECIDE_AGAIN: Duration = Duration::from_secs(60);
/// The hook's filter, as it is now, says no.
const FILTERED: &str = "Filtered";

/// What an attempt needs.
pub struct Task {
    pub pending: Pending,
    pub routes: Arc<Routes>,
    pub sender: Arc<Sender>,
    pub outcomes: mpsc::Sender<super::settler::Outcome>,
    pub metrics: Arc<Metrics>,
    pub handle: Handle,
}

/// Makes one attempt and says what came of it.
pub async fn attempt(task: Task) {
    let Task { pending, routes, sender, outcomes, metrics, handle } = task;
    let (uid, seq) = (pending.hook.uid.clone(), pending.seq);
    // The hook as it is now: an edit since the event was accepted counts.
    let known = routes.get(&uid);
    let settlement = match known.as_ref().and_then(|known| Some((known, known.hook.as_ref().ok()?))) {
        Some((known, hook)) => match still_wanted(known, hook, &pending).await {
            Decision::Deliver(_) => {
                metrics.attempt_started();
                let (at, started) = (Millis::now(), Instant::now());
                let sent = sender.send(hook, &pending).await;
                metrics.attempted(sent.label(), sent.status(), started.elapsed());
                known.series.iter().for_each(|series| series.attempted(sent.status()));
                settle(hook, &pending, sent, at, started.elapsed())
            }
            Decision::Skip => Ok(unsent(&pending, Next::Dead { reason: FILTERED })),
            Decision::Undecided(why) => {
                let generation = known.generation;
                handle.commands.send(Command::Undecided { uid: uid.clone(), generation, why }).await.ok();
                Ok(unsent(&pending, Next::Retry { due: Millis::now() + DECIDE_AGAIN }))
            }
        },
        // It went or broke between the queue and here.
        None => Err(None),
    };
    let settlement = match settlement {
        Ok(settlement) => settlement,
        Err(missing) => {
            handle.commands.send(Command::NotNow { uid, seq, missing }).await.ok();
            return;
        }
    };
    let came = came(&settlement);
    // First, so that a store that cannot keep up holds up what is sent. Closed: the process stops, and the delivery is
    // repeated at the next start.
    let series = known.and_then(|known| known.series.clone());
    outcomes.send(Outcome { uid: uid.clone(), settlement, accepted: pending.accepted, series }).await.ok();
    handle.commands.send(Command::Sent { uid, came }).await.ok();
}

/// Ends what grew too old, without an attempt.
pub async fn expire(expired: Vec<Pending>, series: Option<Arc<Series>>, outcomes: mpsc::Sender<Outcome>) {
    for pending in expired {
        let settlement = unsent(&pending, Next::Dead { reason: "MaxAge" });
        let (uid, series) = (pending.hook.uid, series.clone());
        let outcome = Outcome { uid, settlement, accepted: pending.accepted, series };
        // Closed: the process stops, and it is found again at the next start.
        outcomes.send(outcome).await.ok();
    }
}

/// Asks the filter again: the hook may be another than when the event was accepted.
async fn still_wanted(known: &Arc<Known>, hook: &Hook, pending: &Pending) -> Decision {
    if hook.filter.is_none() {
        return Decision::Deliver(Asked::default());
    }
    let (known, event) = (known.clone(), pending.event.clone());
    // Off the threads that serve everybody: a filter may take a while. A panic in there is this attempt's.
    tokio::task::spawn_blocking(move || decide_again(&known, &event))
        .await
        .unwrap_or_else(|_| Decision::Undecided("the filter could not be evaluated".into()))
}

/// The outcome without an attempt.
fn unsent(pending: &Pending, next: Next) -> Settlement {
    Settlement { delivery: pending.seq, at: Millis::now(), attempt: None, next, progress: None }
}

/// What an outcome tells of the receiver. One that refuses this delivery for good is there all the same.
fn came(settlement: &Settlement) -> Came {
    if settlement.attempt.is_none() {
        return Came::Nothing;
    }
    let attempt = settlement.attempt.as_ref();
    let words = || {
        let status = attempt.and_then(|a| a.status).map(|status| format!("status {status}"));
        let detail = attempt.and_then(|a| a.detail.clone());
        [status, detail].into_iter().flatten().collect::<Vec<_>>().join(": ")
    };
    match settlement.next {
        Next::Delivered | Next::Dead { reason: "TerminalStatus" } => Came::Well,
        Next::Dead { reason: "Gone" } => Came::Gone,
        Next::Dead { reason: "MaxAge" | "MaxAttempts" } | Next::Retry { .. } => Came::Badly(words()),
        Next::Dead { reason: "EgressDenied" } => Came::Denied(words()),
        // What an event made of a request says nothing of the receiver, which was not asked.
        Next::Dead { .. } => Came::Nothing,
    }
}

/// The outcome to keep; an error where no attempt was made.
fn settle(
    hook: &Hook,
    pending: &Pending,
    sent: Sent,
    at: Millis,
    duration: Duration,
) -> Result<Settlement, Option<Hold>> {
    let mut progress = None;
    let (outcome, status, error, detail) = match &sent {
        Sent::Answer { status, retry_after, detail } => {
            let outcome = retry::Outcome::Answer { status: *status, retry_after: retry_after.as_deref() };
            let error = (!(200..300).contains(status)).then(|| "Status".to_owned());
            (outcome, Some(*status), error, detail.clone())
        }
        Sent::Done => (retry::Outcome::Done, None, None, None),
        Sent::Partly { reason, detail, progress: so_far } => {
            progress = Some(so_far.clone());
            (retry::Outcome::Failed, None, Some((*reason).to_owned()), Some(detail.clone()))
        }
        Sent::Failed { reason, detail } => {
            (retry::Outcome::Failed, None, Some((*reason).to_owned()), Some(detail.clone()))
        }
        Sent::Hopeless { reason, detail } => {
            (retry::Outcome::Hopeless(reason), None, Some((*reason).to_owned()), Some(detail.clone()))
        }
        Sent::NotNow { reason, detail } => return Err(Some(Hold::new(reason, detail.clone()))),
    };
    let past =
        Past { accepted: pending.accepted + pending.held, attempts: pending.attempts.saturating_add(1) };
    let next = hook.delivery.retry.decide(&outcome, past, Millis::now(), fastrand::f64());
    tracing::debug!(hook = %pending.hook.name, id = %pending.id, status, error, ?next, "attempt");
    let attempt = Attempt { at, duration, status, error, detail };
    Ok(Settlement { delivery: pending.seq, at: at + duration, attempt: Some(attempt), next, progress })
}
