//! One attempt of a delivery: re-evaluate the filter, run the handler, decide the next step, send the outcome to the
//! settler.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::command::{DispatchCommand, DispatchHandle, ReceiverSignal};
use super::hold::Hold;
use super::settler::AttemptSettlement;
use crate::core::delivery_reason::{AttemptFailure, DeliveryReason};
use crate::core::gate::GateRequest;
use crate::core::hook::CompiledHook;
use crate::core::retry::{self, RetryState};
use crate::core::time::Millis;
use crate::metrics::{HookSeries, Metrics};
use crate::worker::decide::{Decision, decide_again};
use crate::worker::handlers::{HandlerOutcome, HandlerRunner};
use crate::worker::hooks::HookState;
use crate::worker::index::HookIndex;
use crate::worker::store::{AttemptRecord, NextStep, PendingDelivery, Settlement};

/// The delay before an undecided delivery is evaluated again; a changed spec triggers it earlier.
const UNDECIDED_RETRY: Duration = Duration::from_secs(60);

/// The input of an attempt.
pub struct AttemptJob {
    pub pending: PendingDelivery,
    pub index: Arc<HookIndex>,
    pub runner: Arc<HandlerRunner>,
    pub outcomes: mpsc::Sender<AttemptSettlement>,
    pub metrics: Arc<Metrics>,
    pub dispatch: DispatchHandle,
}

/// Makes one attempt, hands its outcome to the settler and reports its end to the dispatcher.
pub async fn run(job: AttemptJob) {
    let (uid, seq, accepted) = (job.pending.hook.uid.clone(), job.pending.seq, job.pending.accepted);
    // Read the hook now, so that edits since the event was accepted apply.
    let state = job.index.get(&uid);
    let settlement = match state.as_ref().and_then(|state| Some((state, state.hook.as_ref().ok()?))) {
        Some((state, hook)) => make_attempt(&job, state, hook).await,
        // The hook was deleted or became invalid after it was dispatched.
        None => Err(None),
    };
    let AttemptJob { outcomes, dispatch, .. } = job;
    let settlement = match settlement {
        Ok(settlement) => settlement,
        Err(missing) => {
            dispatch.send(DispatchCommand::AttemptPostponed { uid, seq, missing }).await;
            return;
        }
    };
    let signal = receiver_signal(&settlement);
    let series = state.and_then(|state| state.series.clone());
    // Send the outcome first, so that a store that cannot keep up slows down dispatching. A closed channel means that the
    // process stops; the next start repeats the delivery.
    outcomes.send(AttemptSettlement { uid: uid.clone(), settlement, accepted, series }).await.ok();
    dispatch.send(DispatchCommand::AttemptEnded { uid, signal }).await;
}

/// Runs the handler if the filter still accepts the event. An error: no attempt was made, because something that the
/// hook needs is missing.
async fn make_attempt(
    job: &AttemptJob,
    state: &Arc<HookState>,
    hook: &CompiledHook,
) -> Result<Settlement, Option<Hold>> {
    let pending = &job.pending;
    match reevaluate_filter(state, hook, pending).await {
        Decision::Deliver(_) => {
            job.metrics.start_attempt();
            let (at, started) = (Millis::now(), Instant::now());
            let outcome = job.runner.run(hook, pending).await;
            job.metrics.record_attempt(outcome.label(), outcome.status(), started.elapsed());
            state.series.iter().for_each(|series| series.record_attempt(outcome.status()));
            settle(hook, pending, outcome, at, started.elapsed())
        }
        Decision::Skip => {
            Ok(settle_without_attempt(pending, NextStep::Dead { reason: DeliveryReason::Filtered }))
        }
        Decision::Undecided(why) => {
            let (uid, generation) = (pending.hook.uid.clone(), state.generation);
            job.dispatch.send(DispatchCommand::Undecided { uid, generation, why }).await;
            Ok(settle_without_attempt(pending, NextStep::Retry { due: Millis::now() + UNDECIDED_RETRY }))
        }
    }
}

/// Ends expired deliveries without an attempt.
pub async fn expire(
    expired: Vec<PendingDelivery>,
    series: Option<Arc<HookSeries>>,
    outcomes: mpsc::Sender<AttemptSettlement>,
) {
    for pending in expired {
        let settlement = settle_without_attempt(&pending, NextStep::Dead { reason: DeliveryReason::MaxAge });
        let (uid, series) = (pending.hook.uid, series.clone());
        let outcome = AttemptSettlement { uid, settlement, accepted: pending.accepted, series };
        // A closed channel means that the process stops; the next start finds the delivery again.
        outcomes.send(outcome).await.ok();
    }
}

/// Evaluates the filter again, because the hook may have been edited since the event was accepted.
async fn reevaluate_filter(
    state: &Arc<HookState>,
    hook: &CompiledHook,
    pending: &PendingDelivery,
) -> Decision {
    if hook.filter.is_none() {
        return Decision::Deliver(GateRequest::default());
    }
    let (state, event) = (state.clone(), pending.event.clone());
    // On a blocking thread, because a filter may take milliseconds, which would delay other requests. A panic in the
    // filter affects this attempt only.
    tokio::task::spawn_blocking(move || decide_again(&state, &event))
        .await
        .unwrap_or_else(|_| Decision::Undecided("the filter could not be evaluated".into()))
}

fn settle_without_attempt(pending: &PendingDelivery, next: NextStep) -> Settlement {
    Settlement { delivery: pending.seq, at: Millis::now(), attempt: None, next, progress: None }
}

/// Derives the receiver's health from an outcome. A receiver that answers with a terminal status is healthy.
fn receiver_signal(settlement: &Settlement) -> ReceiverSignal {
    if settlement.attempt.is_none() {
        return ReceiverSignal::Unknown;
    }
    let attempt = settlement.attempt.as_ref();
    let describe = || {
        let status = attempt.and_then(|a| a.status).map(|status| format!("status {status}"));
        let detail = attempt.and_then(|a| a.detail.clone());
        [status, detail].into_iter().flatten().collect::<Vec<_>>().join(": ")
    };
    match settlement.next {
        NextStep::Delivered => ReceiverSignal::Healthy,
        NextStep::Retry { .. } => ReceiverSignal::Failing(describe()),
        NextStep::Dead { reason } => match reason {
            DeliveryReason::TerminalStatus => ReceiverSignal::Healthy,
            DeliveryReason::Gone => ReceiverSignal::Gone,
            DeliveryReason::MaxAge | DeliveryReason::MaxAttempts => ReceiverSignal::Failing(describe()),
            DeliveryReason::EgressDenied => ReceiverSignal::Denied(describe()),
            // For the first two, the request could not be built and the receiver was not contacted. The other reasons
            // never follow an attempt.
            DeliveryReason::HeaderRefused
            | DeliveryReason::NoTarget
            | DeliveryReason::Filtered
            | DeliveryReason::HookDeleted
            | DeliveryReason::BacklogFull
            | DeliveryReason::Snoozed
            | DeliveryReason::Unchanged
            | DeliveryReason::Superseded
            | DeliveryReason::Undecided => ReceiverSignal::Unknown,
        },
    }
}

/// Decides the delivery's next step. An error: no attempt was made, because something that the hook needs is missing.
fn settle(
    hook: &CompiledHook,
    pending: &PendingDelivery,
    outcome: HandlerOutcome,
    at: Millis,
    duration: Duration,
) -> Result<Settlement, Option<Hold>> {
    let mut progress = None;
    let (result, status, error, detail) = match &outcome {
        HandlerOutcome::Answered { status, retry_after, detail } => {
            let result =
                retry::AttemptOutcome::Response { status: *status, retry_after: retry_after.as_deref() };
            let error = (!(200..300).contains(status)).then(|| AttemptFailure::Status.as_str());
            (result, Some(*status), error, detail.clone())
        }
        HandlerOutcome::Completed => (retry::AttemptOutcome::Completed, None, None, None),
        HandlerOutcome::PartlyFailed { reason, detail, progress: finished } => {
            progress = Some(finished.clone());
            (retry::AttemptOutcome::Failed, None, Some(reason.as_str()), Some(detail.clone()))
        }
        HandlerOutcome::Failed { reason, detail } => {
            (retry::AttemptOutcome::Failed, None, Some(reason.as_str()), Some(detail.clone()))
        }
        HandlerOutcome::Undeliverable { reason, detail } => {
            (retry::AttemptOutcome::Unrecoverable(*reason), None, Some(reason.as_str()), Some(detail.clone()))
        }
        HandlerOutcome::NotReady { reason, detail } => return Err(Some(Hold::new(reason, detail.clone()))),
    };
    let state = RetryState {
        accepted: pending.accepted + pending.held,
        attempts: pending.attempts.saturating_add(1),
    };
    let next = hook.delivery.retry.decide(&result, state, Millis::now(), fastrand::f64());
    tracing::debug!(hook = %pending.hook.name, id = %pending.id, status, error, ?next, "attempt ended");
    let attempt = AttemptRecord { at, duration, status, error: error.map(ToOwned::to_owned), detail };
    Ok(Settlement { delivery: pending.seq, at: at + duration, attempt: Some(attempt), next, progress })
}
