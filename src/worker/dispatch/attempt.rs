//! One attempt of a delivery: re-evaluate the filter, run the handler, decide the next step, send the outcome to the
//! settler.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::command::{
    AttemptTicket, DispatchCommand, DispatchHandle, FailureKind, Postponement, ReceiverSignal, ReportGuard,
};
use super::effect::ExpiredDelivery;
use super::hold::Hold;
use super::settler::AttemptSettlement;
use crate::core::delivery_reason::{AttemptFailure, DeliveryReason};
use crate::core::gate::GateRequest;
use crate::core::hook::CompiledHook;
use crate::core::hook_pacing::is_slow;
use crate::core::receiver_breaker::ReceiverEvidence;
use crate::core::retry::{self, RetryState};
use crate::core::time::{self, Millis};
use crate::metrics::{HookSeries, Metrics};
use crate::traces::{AttemptNames, AttemptSpan, Traces};
use crate::worker::decide::{Decision, decide_again};
use crate::worker::handlers::{HandlerOutcome, HandlerRunner, HookVersion, ReceiverPermission};
use crate::worker::hooks::HookState;
use crate::worker::index::HookIndex;
use crate::worker::store::{
    AttemptRecord, DeliverySeq, DispatchStore, Exchange, ExchangeChange, NextStep, PendingDelivery,
    Settlement,
};

/// The delay before an undecided delivery is evaluated again; a changed spec triggers it earlier.
const UNDECIDED_RETRY: Duration = Duration::from_secs(60);

/// The input of an attempt.
pub struct AttemptJob {
    pub pending: PendingDelivery,
    pub ticket: AttemptTicket,
    pub index: Arc<HookIndex>,
    pub runner: Arc<HandlerRunner>,
    pub outcomes: mpsc::Sender<AttemptSettlement>,
    pub metrics: Arc<Metrics>,
    pub traces: Traces,
    pub dispatch: DispatchHandle,
    pub store: Arc<dyn DispatchStore>,
}

/// An attempt that the store knows. Reports to it if the attempt ends without an outcome, also by a panic.
struct BegunAttempt {
    store: Arc<dyn DispatchStore>,
    delivery: DeliverySeq,
    has_outcome: bool,
}

impl BegunAttempt {
    /// None: another worker may send the hook's deliveries now, or may have sent this one.
    fn begin(job: &AttemptJob) -> Option<Self> {
        let (store, delivery) = (job.store.clone(), job.pending.seq);
        let begun = store.begin_attempt(&job.pending.hook.uid, delivery, job.pending.epoch);
        begun.then_some(BegunAttempt { store, delivery, has_outcome: false })
    }
}

impl Drop for BegunAttempt {
    fn drop(&mut self) {
        if !self.has_outcome {
            self.store.cancel_attempt(self.delivery);
        }
    }
}

/// The outcome of an attempt, and what it shows about the receiver.
struct AttemptResult {
    settlement: Settlement,
    signal: ReceiverSignal,
    evidence: ReceiverEvidence,
}

impl AttemptResult {
    /// The result of a delivery for which no request was made.
    fn without_attempt(pending: &PendingDelivery, next: NextStep) -> Self {
        AttemptResult {
            settlement: settle_without_attempt(pending.seq, next),
            signal: ReceiverSignal::Unknown,
            evidence: ReceiverEvidence::Inconclusive,
        }
    }
}

/// Makes one attempt, hands its outcome to the settler and reports its end to the dispatcher. If the task panics or is
/// aborted, the dispatcher learns that too.
pub async fn run(job: AttemptJob) {
    let start_delay = Millis::steady().since(job.ticket.started);
    let (uid, accepted, ticket) = (job.pending.hook.uid.clone(), job.pending.accepted, job.ticket);
    let postponed = |why| DispatchCommand::AttemptPostponed { uid: uid.clone(), why, ticket };
    let guard = ReportGuard::new(job.dispatch.clone(), postponed(Postponement::DeliveryOnly));
    // Before `begin`, which checks that the lease still lasts after the wait. A crash must not give the token to the next owner.
    if ticket.rate.is_some_and(is_slow) && !job.store.persist_pacing(&uid, job.pending.epoch).await {
        return guard.report(postponed(Postponement::NotOwned)).await;
    }
    let Some(mut begun) = BegunAttempt::begin(&job) else {
        return guard.report(postponed(Postponement::NotOwned)).await;
    };
    // Read the hook now, so that edits since the event was accepted apply.
    let state = job.index.get(&uid);
    let result = match state.as_ref().and_then(|state| Some((state, state.hook.as_ref().ok()?))) {
        Some((state, hook)) => make_attempt(&job, state, hook).await,
        // The hook was deleted or became invalid after it was dispatched.
        None => Err(Postponement::HookChanged),
    };
    let AttemptJob { outcomes, pending, .. } = job;
    // The dispatcher counts the event as free when the attempt ends.
    drop(pending);
    let AttemptResult { settlement, signal, evidence } = match result {
        Ok(result) => result,
        Err(why) => {
            let command = postponed(why);
            return guard.report(command).await;
        }
    };
    let series = state.and_then(|state| state.series.clone());
    begun.has_outcome = true;
    // Send the outcome first, so that a store that cannot keep up slows down dispatching. A closed channel means that the
    // process stops; the next start repeats the delivery.
    outcomes.send(AttemptSettlement { uid: uid.clone(), settlement, accepted, series }).await.ok();
    guard.report(DispatchCommand::AttemptEnded { uid, signal, evidence, ticket, start_delay }).await;
}

/// Runs the handler if the filter still accepts the event. An error: no attempt was made.
async fn make_attempt(
    job: &AttemptJob,
    state: &Arc<HookState>,
    hook: &CompiledHook,
) -> Result<AttemptResult, Postponement> {
    let pending = &job.pending;
    match reevaluate_filter(state, hook, pending).await {
        Decision::Deliver(_) => {
            let (at, started) = (Millis::now(), Instant::now());
            let span = begin_span(&job.traces, pending, at);
            let permitted = match &state.permission {
                None => Ok(()),
                Some(permission) => {
                    // Boxed, because it is rare and would otherwise add to the size of every attempt.
                    let permitted = Box::pin(obtain_permission(job, state, hook, permission, started)).await;
                    // It took a token of another rate, or none.
                    if permitted.is_ok() && state.rate() != job.ticket.rate {
                        return Err(Postponement::RateChanged);
                    }
                    permitted
                }
            };
            job.metrics.start_attempt();
            let (outcome, exchange) = match permitted {
                Ok(()) => job.runner.run(hook, pending, span.as_deref()).await,
                Err(outcome) => (outcome, None),
            };
            job.metrics.record_attempt(outcome.label(), outcome.status(), started.elapsed());
            state.series.iter().for_each(|series| series.record_attempt(outcome.status()));
            let (label, status) = (outcome.label(), outcome.status());
            let is_delivered = outcome.is_success();
            let duration = started.elapsed();
            let result = settle(hook, pending, (outcome, exchange), at, duration);
            if result.is_ok() {
                let id = &pending.hook;
                job.metrics.rates.record_attempt(&id.namespace, is_delivered, duration);
                job.metrics.hook_times.record(&id.uid, duration, is_delivered.then_some(at + duration));
            }
            // Without an attempt, there is no span.
            if let Some(span) = span.filter(|_| result.is_ok()) {
                span.end(status, (!is_delivered).then_some(label));
            }
            result
        }
        Decision::Skip => {
            Ok(AttemptResult::without_attempt(pending, NextStep::Dead { reason: DeliveryReason::Filtered }))
        }
        Decision::Undecided(why) => {
            let (uid, generation) = (pending.hook.uid.clone(), state.generation);
            job.dispatch.send(DispatchCommand::Undecided { uid, generation, why }).await;
            let max_age = hook.delivery.retry.max_age;
            let next = next_evaluation(pending, max_age, Millis::now(), Millis::for_ages());
            Ok(AttemptResult::without_attempt(pending, next))
        }
    }
}

/// Begins the span of an attempt, unless the event is not recorded.
fn begin_span(traces: &Traces, pending: &PendingDelivery, now: Millis) -> Option<Box<AttemptSpan>> {
    let names = AttemptNames {
        namespace: &pending.hook.namespace,
        hook: &pending.hook.name,
        delivery: pending.id,
        number: pending.attempts.saturating_add(1),
    };
    traces.begin_attempt(&pending.event, names, now.since(pending.due))
}

/// Makes sure that the receiver permits deliveries. An error is the outcome of the attempt.
async fn obtain_permission(
    job: &AttemptJob,
    state: &HookState,
    hook: &CompiledHook,
    permission: &ReceiverPermission,
    now: Instant,
) -> Result<(), HandlerOutcome> {
    let version = HookVersion { generation: state.generation, resume: state.resume.clone() };
    job.runner.obtain_permission(hook, &job.pending, version, permission, now).await
}

/// Decides what follows an evaluation that failed. It is no attempt, but the delivery ages: otherwise an event that the
/// filter never accepts would stay pending forever.
fn next_evaluation(pending: &PendingDelivery, max_age: Duration, now: Millis, age_time: Millis) -> NextStep {
    let expires = pending.accepted + pending.held + max_age;
    match age_time >= expires {
        true => NextStep::Dead { reason: DeliveryReason::MaxAge },
        false => NextStep::Retry { due: now + UNDECIDED_RETRY.min(expires.since(age_time)) },
    }
}

/// Ends expired deliveries of a hook without an attempt.
pub async fn expire(
    uid: Arc<str>,
    expired: Vec<ExpiredDelivery>,
    series: Option<Arc<HookSeries>>,
    outcomes: mpsc::Sender<AttemptSettlement>,
) {
    for ExpiredDelivery { seq, accepted } in expired {
        let settlement = settle_without_attempt(seq, NextStep::Dead { reason: DeliveryReason::MaxAge });
        let outcome = AttemptSettlement { uid: uid.clone(), settlement, accepted, series: series.clone() };
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

fn settle_without_attempt(delivery: DeliverySeq, next: NextStep) -> Settlement {
    Settlement {
        delivery,
        at: Millis::now(),
        attempt: None,
        next,
        progress: None,
        exchange: ExchangeChange::Nothing,
    }
}

/// Derives the receiver's health from an attempt.
fn receiver_signal(
    next: NextStep,
    attempt: &AttemptRecord,
    failure: Option<AttemptFailure>,
) -> ReceiverSignal {
    let describe = || {
        let status = attempt.status.map(|status| format!("status {status}"));
        [status, attempt.detail.clone()].into_iter().flatten().collect::<Vec<_>>().join(": ")
    };
    let failing = || ReceiverSignal::Failing { error: describe(), kind: failure_kind(failure) };
    match next {
        NextStep::Delivered => ReceiverSignal::Delivered,
        NextStep::Retry { .. } => failing(),
        NextStep::Dead { reason } => match reason {
            DeliveryReason::TerminalStatus => ReceiverSignal::Refused,
            DeliveryReason::Gone => ReceiverSignal::Gone,
            DeliveryReason::MaxAge | DeliveryReason::MaxAttempts => failing(),
            DeliveryReason::EgressDenied => ReceiverSignal::Denied(describe()),
            // For the first three, the request could not be built and the receiver was not contacted. The other reasons
            // never follow an attempt.
            DeliveryReason::HeaderRefused
            | DeliveryReason::OutputTooLarge
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

fn failure_kind(failure: Option<AttemptFailure>) -> FailureKind {
    match failure {
        None | Some(AttemptFailure::Status) => FailureKind::Receiver,
        Some(AttemptFailure::HandshakeRefused) => FailureKind::HandshakeRefused,
        // The hook's own script or log line failed.
        _ if ReceiverEvidence::of(None, failure) == ReceiverEvidence::Inconclusive => FailureKind::Handler,
        Some(_) => FailureKind::Receiver,
    }
}

/// Decides the delivery's next step. An error: no attempt was made.
fn settle(
    hook: &CompiledHook,
    pending: &PendingDelivery,
    (outcome, exchange): (HandlerOutcome, Option<Box<Exchange>>),
    at: Millis,
    duration: Duration,
) -> Result<AttemptResult, Postponement> {
    let mut progress = None;
    let mut failure = None;
    let (result, status, error, detail) = match &outcome {
        HandlerOutcome::Answered { status, retry_after, detail } => {
            let result =
                retry::AttemptOutcome::Response { status: *status, retry_after: retry_after.as_deref() };
            failure = (!(200..300).contains(status)).then_some(AttemptFailure::Status);
            (result, Some(*status), failure.map(AttemptFailure::as_str), detail.clone())
        }
        HandlerOutcome::Completed => (retry::AttemptOutcome::Completed, None, None, None),
        HandlerOutcome::PartlyFailed { reason, detail, progress: finished } => {
            progress = Some(finished.clone());
            failure = Some(*reason);
            (retry::AttemptOutcome::Failed, None, Some(reason.as_str()), Some(detail.clone()))
        }
        HandlerOutcome::Failed { reason, detail } => {
            failure = Some(*reason);
            (retry::AttemptOutcome::Failed, None, Some(reason.as_str()), Some(detail.clone()))
        }
        HandlerOutcome::Undeliverable { reason, detail } => {
            (retry::AttemptOutcome::Unrecoverable(*reason), None, Some(reason.as_str()), Some(detail.clone()))
        }
        HandlerOutcome::NotReady { reason, detail } => {
            return Err(Postponement::Missing(Hold::new(reason, detail.clone())));
        }
        HandlerOutcome::Postponed { reason, detail } => {
            let PendingDelivery { hook, id, attempts, .. } = pending;
            let (namespace, hook) = (&*hook.namespace, &*hook.name);
            tracing::debug!(namespace, hook, delivery = %id, attempt = attempts + 1, reason, detail, "attempt postponed");
            return Err(Postponement::DeliveryOnly);
        }
    };
    // A gap that does not count towards ages is like a hold.
    let clock = time::read_clock();
    let (now, gap) = (clock.time, clock.age_lag);
    let state = RetryState {
        accepted: pending.accepted + pending.held + gap,
        attempts: pending.attempts.saturating_add(1),
    };
    let next = hook.delivery.retry.decide(&result, state, now, fastrand::f64());
    let (namespace, name) = (&*pending.hook.namespace, &*pending.hook.name);
    let number = state.attempts;
    tracing::debug!(namespace, hook = name, delivery = %pending.id, attempt = number, status, error, ?next, "attempt ended");
    let attempt = AttemptRecord { at, duration, status, error: error.map(ToOwned::to_owned), detail };
    let exchange = match exchange {
        Some(exchange) => ExchangeChange::Replace(exchange),
        // Only an earlier attempt can have left one.
        None if pending.attempts > 0 || pending.replays > 0 => ExchangeChange::Remove,
        None => ExchangeChange::Nothing,
    };
    let signal = receiver_signal(next, &attempt, failure);
    let evidence = ReceiverEvidence::of(status, failure);
    let settlement = Settlement {
        delivery: pending.seq,
        at: at + duration,
        attempt: Some(attempt),
        next,
        progress,
        exchange,
    };
    Ok(AttemptResult { settlement, signal, evidence })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::index::testing::event;
    use crate::worker::store::HookId;

    #[test]
    fn an_undecided_delivery_is_evaluated_until_it_is_too_old() {
        let at = |seconds: i64| Millis(seconds * 1000);
        let pending = PendingDelivery {
            epoch: None,
            seq: 1,
            id: uuid::Uuid::nil(),
            hook: HookId { uid: "u".into(), namespace: "n".into(), name: "h".into() },
            event: Arc::new(event("s", "e", serde_json::json!(1))),
            accepted: at(1000),
            attempts: 0,
            due: at(1000),
            held: Duration::from_secs(30),
            suppressed: 0,
            replays: 0,
            progress: Vec::new(),
        };
        let next =
            |seconds| next_evaluation(&pending, Duration::from_secs(100), at(seconds + 5), at(seconds));
        assert_eq!(next(1000), NextStep::Retry { due: at(1065) });
        assert_eq!(next(1100), NextStep::Retry { due: at(1135) }, "held time does not count");
        assert_eq!(next(1130), NextStep::Dead { reason: DeliveryReason::MaxAge });
    }
}
