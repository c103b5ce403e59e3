//! Why a hook's deliveries wait, and what people are told of it.

use std::collections::HashSet;
use std::sync::Arc;

use super::queue::Queue;
use crate::core::time::Millis;
use crate::worker::outbox::Outbox;
use crate::worker::report::{Fare, Held, Reports};
use crate::worker::route::Known;
use crate::worker::store::HookId;

/// After so many failures in a row people are told that the receiver fails.
const FAILING: u32 = 3;

/// Why a hook sends nothing: not for its receiver's sake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    pub reason: &'static str,
    pub message: String,
}

impl Hold {
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Hold { reason, message: message.into() }
    }
}

/// What the condition `Delivering` should say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivering {
    pub well: bool,
    pub reason: &'static str,
    pub message: String,
}

/// The spec and the command by which a hook was told that its receiver is gone: other ones end the hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    generation: Option<i64>,
    resume: Option<String>,
}

impl Mark {
    pub fn of(known: &Known) -> Self {
        Mark { generation: known.generation, resume: known.resume.clone() }
    }
}

/// Why the hook is held, if it is. While it is, the age clock of its deliveries stands still.
pub fn hold(known: Option<&Arc<Known>>, queue: &Queue) -> Option<Hold> {
    let Some(known) = known else {
        return Some(Hold::new(
            "HookDeleted",
            "the hook was deleted; its deliveries wait (--hook-grace), should it come back",
        ));
    };
    match &known.hook {
        Err(spec) => Some(Hold::new(spec.into(), spec.to_string())),
        Ok(hook) if hook.delivery.paused => {
            Some(Hold::new("Paused", "delivery.paused is true: deliveries wait"))
        }
        Ok(_) if is_gone(known, queue) => Some(Hold::new(
            "Gone",
            "the receiver answered 410: deliveries wait until the spec changes or the annotation hookstream.dev/resume is set anew",
        )),
        Ok(_) => queue.missing.clone(),
    }
}

/// The receiver said 410, now or before the last restart, and nothing changed since.
fn is_gone(known: &Known, queue: &Queue) -> bool {
    match &queue.gone {
        Some(mark) => *mark == Mark::of(known),
        None => known.gone,
    }
}

/// True where a held hook may not even look again.
pub fn shut(held: Option<&Hold>, queue: &Queue, now: Millis) -> bool {
    match held {
        None => false,
        // What was missing may have come: one look now and then.
        Some(hold) if Some(hold) == queue.missing.as_ref() => queue.look_at.is_some_and(|at| at > now),
        Some(_) => true,
    }
}

/// What is to be told of the hook; None before anything happened.
pub fn delivering(held: Option<&Hold>, queue: &Queue) -> Option<Delivering> {
    let bad = |reason, message: &str| Some(Delivering { well: false, reason, message: message.to_owned() });
    if let Some(hold) = held {
        return bad(hold.reason, &hold.message);
    }
    if let Some((_, why)) = &queue.undecided {
        return bad("Undecided", why);
    }
    if let Some(denied) = &queue.denied {
        return bad("EgressDenied", denied);
    }
    if queue.breaker.failures() >= FAILING {
        let last = queue.last_error.as_deref().unwrap_or("no answer");
        return bad("ReceiverFailing", &format!("the receiver fails, last by: {last}"));
    }
    // After something was wrong, it is said that it no longer is, even before the next delivery.
    let mended = queue.told.is_some_and(|(well, _)| !well);
    (queue.went_well || mended).then(|| Delivering {
        well: true,
        reason: "Delivering",
        message: "deliveries go out".into(),
    })
}

/// Tells the store where it takes the hook to be otherwise.
pub fn note(known: &mut HashSet<Arc<str>>, reports: &Reports, hook: &HookId, held: bool) {
    if known.contains(&hook.uid) == held {
        return;
    }
    match held {
        true => known.insert(hook.uid.clone()),
        false => known.remove(&hook.uid),
    };
    reports.held.put(&hook.uid, Held { hook: hook.clone(), held, at: Millis::now() });
}

/// Tells people what is new about how the deliveries of a hook fare.
pub fn tell(queue: &mut Queue, known: Option<&Known>, held: Option<&Hold>, fares: &Outbox<Fare>) {
    let Some(id) = queue.id.clone() else { return };
    let Some(known) = known else { return };
    let Some(Delivering { well, reason, message }) = delivering(held, queue) else { return };
    if queue.told == Some((well, reason)) {
        return;
    }
    // A queue that is forgotten while all is well begins anew with the next delivery: the object says so already.
    let first = queue.told.replace((well, reason)).is_none();
    if well && first && known.told_well {
        return;
    }
    // What the spec says, its writer knows, or is told by the controller.
    if well || known.hook.as_ref().is_ok_and(|hook| hook.delivery.paused) || known.hook.is_err() {
        tracing::debug!(hook = %id.name, namespace = %id.namespace, "{message}");
    } else {
        tracing::warn!(hook = %id.name, namespace = %id.namespace, reason, "{message}; its deliveries wait");
    }
    // A token that was there when the receiver said 410 is used up: a later one ends the hold, this one never.
    let resumed = known.resume.clone();
    fares.put(&id.uid.clone(), Fare { hook: id, well, reason, message, resumed });
}
