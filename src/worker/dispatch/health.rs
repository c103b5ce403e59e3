//! Evaluates whether a hook is held and whether its deliveries succeed, and finds changes of either to report.

use std::sync::Arc;

use super::command::{FailureKind, ReceiverSignal};
use super::hold::{GoneMark, Hold};
use super::queue::HookQueue;
use super::time::Now;
use crate::core::delivery_reason::DeliveringFault;
use crate::core::fast_map::FastSet;
use crate::core::time::Millis;
use crate::worker::hooks::HookState;
use crate::worker::index::HookIndex;
use crate::worker::report::{DeliveryHealth, HoldChange};
use crate::worker::store::HookId;

/// The receiver or the handler is reported as failing after this many failures in a row.
const REPORTED_FAILURES: u32 = 3;

/// The content of the condition `Delivering`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Delivering {
    healthy: bool,
    reason: &'static str,
    message: String,
}

/// Returns why the hook is held, if it is.
pub fn evaluate_hold(hook: Option<&Arc<HookState>>, queue: &HookQueue) -> Option<Hold> {
    let Some(state) = hook else {
        return Some(Hold::new(
            "HookDeleted",
            "the hook was deleted: its deliveries stay pending for --hook-grace, in case it is recreated",
        ));
    };
    match state.spec() {
        Err(spec) => Some(Hold::new(spec.into(), spec.to_string())),
        Ok(hook) if hook.delivery.paused => {
            Some(Hold::new("Paused", "delivery.paused is true: deliveries are held"))
        }
        Ok(_) if is_gone(state, queue) => Some(Hold::new(
            "Gone",
            "the receiver answered 410: deliveries are held until the spec changes or the annotation hookstream.dev/resume gets a new value",
        )),
        Ok(_) => queue.missing.clone(),
    }
}

/// True if the receiver answered 410, in this process or before the last restart, and neither the spec nor the `resume`
/// token has changed since.
fn is_gone(hook: &HookState, queue: &HookQueue) -> bool {
    match &queue.gone {
        Some(mark) => *mark == GoneMark::of(hook),
        None => hook.is_gone,
    }
}

/// True if the hook may not start an attempt. A hook with a missing Secret or ConfigMap may start one when its recheck
/// is due: the attempt looks the object up again.
pub fn is_blocked(hold: Option<&Hold>, queue: &HookQueue, now: Millis) -> bool {
    match hold {
        None => false,
        Some(hold) if Some(hold) == queue.missing.as_ref() => queue.recheck_at.is_some_and(|at| at > now),
        Some(_) => true,
    }
}

/// Returns the condition to report. None before the first delivery or failure.
fn evaluate_health(hold: Option<&Hold>, queue: &HookQueue) -> Option<Delivering> {
    let unhealthy = |reason: &'static str, message: &str| {
        Some(Delivering { healthy: false, reason, message: message.to_owned() })
    };
    if let Some(hold) = hold {
        return unhealthy(hold.reason, &hold.message);
    }
    if let Some(failed) = &queue.undecided {
        return unhealthy(DeliveringFault::Undecided.into(), &failed.why);
    }
    if let Some(denied) = &queue.egress_denied {
        return unhealthy(DeliveringFault::EgressDenied.into(), denied);
    }
    let last = queue.last_error.as_deref().unwrap_or("no response");
    let was_refused = queue.reported == Some((false, DeliveringFault::HandshakeRefused.into()));
    match queue.fault {
        // One refusal is enough: repeating the request does not make the receiver permit it.
        FailureKind::HandshakeRefused if queue.failures > 0 => {
            return unhealthy(
                DeliveringFault::HandshakeRefused.into(),
                &format!("the receiver does not permit deliveries; last error: {last}"),
            );
        }
        FailureKind::Handler if queue.failures >= REPORTED_FAILURES => {
            return unhealthy(
                DeliveringFault::HandlerFailing.into(),
                &format!("the hook's own handler fails; last error: {last}"),
            );
        }
        // A receiver that refused and then fails has not recovered.
        FailureKind::Receiver
            if queue.failures >= REPORTED_FAILURES || (queue.failures > 0 && was_refused) =>
        {
            return unhealthy(
                DeliveringFault::ReceiverFailing.into(),
                &format!("the receiver fails; last error: {last}"),
            );
        }
        FailureKind::HandshakeRefused | FailureKind::Handler | FailureKind::Receiver => {}
    }
    // Report recovery even before the next delivery.
    let recovered = queue.reported.is_some_and(|(healthy, _)| !healthy);
    (queue.has_answered || recovered).then(|| Delivering {
        healthy: true,
        reason: "Delivering",
        message: "deliveries go out".into(),
    })
}

/// Returns the start or end of a hold to store, unless the store already has it. `held`: the hooks that are held in the
/// store.
pub fn hold_change(
    held: &mut FastSet<Arc<str>>,
    hook: &HookId,
    is_held: bool,
    now: Now,
) -> Option<HoldChange> {
    if held.contains(&hook.uid) == is_held {
        return None;
    }
    match is_held {
        true => held.insert(hook.uid.clone()),
        false => held.remove(&hook.uid),
    };
    Some(HoldChange { hook: hook.clone(), held: is_held, at: now.wall })
}

/// Returns the delivery health for the hook's condition, if it changed since the last report.
pub fn health_change(
    queue: &mut HookQueue,
    hook: Option<&HookState>,
    hold: Option<&Hold>,
) -> Option<DeliveryHealth> {
    let Delivering { healthy, reason, message } = evaluate_health(hold, queue)?;
    if queue.reported == Some((healthy, reason)) {
        return None;
    }
    let (id, hook) = (queue.hook.clone()?, hook?);
    // The dispatcher drops idle queues of healthy hooks, and the next delivery creates a new one. The object then
    // already has this condition.
    let is_first = queue.reported.replace((healthy, reason)).is_none();
    if healthy && is_first && hook.reported_healthy {
        return None;
    }
    // No warning for a pause, which the user requested, and for an invalid spec, which the controller reports.
    if healthy || hook.hook.as_ref().is_ok_and(|hook| hook.delivery.paused) || hook.hook.is_err() {
        tracing::debug!(hook = %id.name, namespace = %id.namespace, "{message}");
    } else {
        tracing::warn!(hook = %id.name, namespace = %id.namespace, reason, "{message}; its deliveries are pending");
    }
    // A token that was set when the receiver answered 410 is consumed: only a later one ends the hold.
    let resumed = hook.resume.clone();
    let last_error = queue.last_error.clone().filter(|_| !healthy && queue.failures > 0);
    let last_success = queue.last_success;
    Some(DeliveryHealth { hook: id, healthy, reason, message, last_error, last_success, resumed })
}

/// Updates the reported health after an attempt.
pub(super) fn record_signal(
    index: &HookIndex,
    queue: &mut HookQueue,
    uid: &Arc<str>,
    signal: ReceiverSignal,
    now: Now,
) {
    if !matches!(signal, ReceiverSignal::Unknown) {
        queue.missing = None;
        queue.egress_denied = None;
    }
    match signal {
        ReceiverSignal::Unknown => {}
        ReceiverSignal::Delivered | ReceiverSignal::Refused => {
            queue.failures = 0;
            queue.has_answered = true;
            if signal == ReceiverSignal::Delivered {
                queue.last_success = Some(now.wall);
            }
        }
        ReceiverSignal::Failing { error, kind } => {
            queue.failures = queue.failures.saturating_add(1);
            queue.fault = kind;
            queue.last_error = Some(error);
        }
        ReceiverSignal::Gone => {
            queue.failures = 0;
            queue.gone = index.get(uid).map(|hook| GoneMark::of(&hook));
        }
        ReceiverSignal::Denied(why) => queue.egress_denied = Some(why),
    }
}
