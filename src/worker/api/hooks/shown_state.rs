//! The state of a hook as lists show it: one word, derived from its spec, its conditions and its circuit breaker.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;
use schemars::JsonSchema;
use serde::Serialize;

use super::table::{is_requested, not_delivering};
use crate::api::{DeliverBy, EventHook};
use crate::cluster::DeserializeGuard;
use crate::core::conditions::SUSPENDED;
use crate::core::delivery_reason::DeliveringFault;
use crate::core::receiver_breaker::BreakerReport;
use crate::core::shown_readiness::{ShownReadiness, find_condition};
use crate::core::time::Millis;
use crate::worker::hooks::HookState;
use crate::worker::report::delivering_condition;

/// The state of a hook. Worst first.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    JsonSchema,
    strum::EnumCount,
    strum::EnumIter,
    strum::EnumString,
    strum::IntoStaticStr,
)]
#[serde(rename_all = "camelCase")]
#[strum(serialize_all = "camelCase")]
pub enum ShownState {
    /// Attempts are made and fail, or the circuit breaker is open.
    Failing,
    /// Deliveries are held: the spec is invalid, the receiver answered 410, a Secret is missing.
    Held,
    /// The hook is not synced with the vendor, so it may receive no events.
    NotReady,
    /// The object is being deleted.
    Deleting,
    /// `delivery.paused` is true.
    Paused,
    /// `suspend` is true: the hook delivers and is not synced.
    Suspended,
    /// It has delivered nothing yet.
    Idle,
    /// Deliveries succeed.
    Delivering,
}

/// The state, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DerivedState<'a> {
    pub state: ShownState,
    pub reason: &'a str,
    pub message: Cow<'a, str>,
    pub since: Option<Millis>,
}

/// Derives the state of a hook. `hook`: what the worker derived from the object; None before it has.
pub fn derive_state<'a>(
    guard: &'a DeserializeGuard<EventHook>,
    hook: Option<&'a HookState>,
    breaker: Option<BreakerReport>,
) -> DerivedState<'a> {
    let of = |state, reason, message: &'a str, since| DerivedState {
        state,
        reason,
        message: message.into(),
        since,
    };
    let object = match &guard.0 {
        Err(invalid) => return of(ShownState::Held, "InvalidObject", &invalid.error, None),
        Ok(object) => object,
    };
    let delivering = delivering_condition(object);
    let delivering_since = |reason: &str| delivering.filter(|c| c.reason == reason).map(changed_at);
    if let Some(deleted) = &object.meta().deletion_timestamp {
        let since = Millis(deleted.0.as_millisecond());
        return of(ShownState::Deleting, "Deleting", "the object is being deleted", Some(since));
    }
    // The spec decides before the condition, which may be older.
    if let Some(Err(invalid)) = hook.map(HookState::spec) {
        let reason = invalid.into();
        let since = delivering_since(reason);
        return DerivedState { state: ShownState::Held, reason, message: invalid.to_string().into(), since };
    }
    if object.spec.delivery.as_ref().is_some_and(|delivery| delivery.paused == Some(true)) {
        let since = delivering_since("Paused");
        return of(ShownState::Paused, "Paused", "delivery.paused is true: deliveries are held", since);
    }
    if let Some(failing) = not_delivering(guard).filter(|condition| !is_requested(condition)) {
        let is_fault = failing.reason.parse::<DeliveringFault>().is_ok();
        let state = if is_fault { ShownState::Failing } else { ShownState::Held };
        return of(state, &failing.reason, &failing.message, Some(changed_at(failing)));
    }
    if breaker.is_some() {
        let reason = DeliveringFault::ReceiverFailing.into();
        return of(ShownState::Failing, reason, "the receiver fails: its circuit breaker is open", None);
    }
    let conditions = object.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let shown = ShownReadiness::of(conditions, object.meta().generation);
    let since = find_condition(conditions, "Ready").map(changed_at);
    if let Some(suspended) = find_condition(conditions, SUSPENDED).filter(|c| c.status == "True") {
        return of(ShownState::Suspended, &suspended.reason, shown.message, Some(changed_at(suspended)));
    }
    let delivers = delivering.filter(|c| c.status == "True");
    // Before the controller has synced a new spec, a hook that delivers is not reported as broken.
    if shown.ready == "False" || (shown.ready == "Unknown" && delivers.is_none()) {
        return of(ShownState::NotReady, shown.reason, shown.message, since);
    }
    if object.spec.deliver_by == Some(DeliverBy::Gateway) {
        return of(ShownState::Delivering, "Gateway", "the gateway delivers, and reports nothing", since);
    }
    match delivers {
        Some(condition) => {
            of(ShownState::Delivering, &condition.reason, &condition.message, Some(changed_at(condition)))
        }
        None => of(ShownState::Idle, "NoDeliveries", "the hook has delivered nothing yet", since),
    }
}

/// Returns when a condition last changed.
pub fn changed_at(condition: &Condition) -> Millis {
    Millis(condition.last_transition_time.0.as_millisecond())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::ObjectKey;
    use crate::core::receiver_breaker::BreakerState;
    use crate::worker::index::testing::hook;

    fn object(spec: Value, conditions: Value) -> DeserializeGuard<EventHook> {
        let mut guard = hook("h", "u", spec);
        let object = guard.0.as_mut().unwrap();
        object.metadata.generation = Some(1);
        object.status = Some(serde_json::from_value(json!({ "conditions": conditions })).unwrap());
        guard
    }

    fn condition(kind: &str, status: &str, reason: &str) -> Value {
        json!({"type": kind, "status": status, "reason": reason, "message": "m", "observedGeneration": 1,
            "lastTransitionTime": "2023-11-14T22:13:20Z"})
    }

    #[test]
    fn spec_outweighs_conditions_and_delivery_outweighs_sync() {
        let ready = condition("Ready", "True", "Applied");
        let not_ready = condition("Ready", "False", "Unreachable");
        let delivering = |status: &str, reason: &str| condition("Delivering", status, reason);
        let (none, paused) = (json!({}), json!({"delivery": {"paused": true}}));
        for (spec, conditions, state, reason) in [
            (&none, json!([]), ShownState::NotReady, "NotReconciled"),
            (&none, json!([ready]), ShownState::Idle, "NoDeliveries"),
            (&none, json!([ready, delivering("True", "Delivering")]), ShownState::Delivering, "Delivering"),
            (&none, json!([delivering("True", "Delivering")]), ShownState::Delivering, "Delivering"),
            (
                &none,
                json!([not_ready, delivering("True", "Delivering")]),
                ShownState::NotReady,
                "Unreachable",
            ),
            (&none, json!([not_ready, delivering("False", "Gone")]), ShownState::Held, "Gone"),
            (
                &none,
                json!([ready, delivering("False", "ReceiverFailing")]),
                ShownState::Failing,
                "ReceiverFailing",
            ),
            (&paused, json!([ready, delivering("False", "ReceiverFailing")]), ShownState::Paused, "Paused"),
            // The pause has ended, and the condition does not say so yet.
            (&none, json!([ready, delivering("False", "Paused")]), ShownState::Idle, "NoDeliveries"),
            (
                &none,
                json!([not_ready, condition("Suspended", "True", "Suspended")]),
                ShownState::Suspended,
                "Suspended",
            ),
        ] {
            let guard = object(spec.clone(), conditions.clone());
            let found = derive_state(&guard, None, None);
            assert_eq!((found.state, found.reason), (state, reason), "{conditions}");
        }
    }

    #[test]
    fn invalid_spec_and_open_breaker_count_before_they_are_reported() {
        let guard = object(json!({"filter": "data.n >"}), json!([condition("Ready", "True", "Applied")]));
        let state = HookState::new(guard.0.as_ref().unwrap(), &ObjectKey::new("n", "h"), None);
        assert_eq!(derive_state(&guard, Some(&state), None).state, ShownState::Held);
        let guard = object(json!({}), json!([condition("Ready", "True", "Applied")]));
        let breaker = BreakerReport {
            state: BreakerState::Open,
            failures: 10,
            attempts: 10,
            pause: Duration::from_secs(2),
            next_probe: None,
        };
        assert_eq!(derive_state(&guard, None, Some(breaker)).state, ShownState::Failing);
    }
}
