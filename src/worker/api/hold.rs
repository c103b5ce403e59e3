//! Whether a pending delivery is held now, why, and until when. From the hook's spec, its condition `Delivering` and its
//! circuit breaker.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;
use schemars::JsonSchema;
use serde::Serialize;

use super::state::ApiState;
use crate::api::EventHook;
use crate::cluster::DeserializeGuard;
use crate::core::delivery_reason::DeliveringFault;
use crate::core::hook::{CompiledHook, InvalidSpec};
use crate::core::receiver_breaker::BreakerReport;
use crate::core::time::Millis;
use crate::worker::report::delivering_condition;
use crate::worker::store::{DeliveryRecord, DeliveryState};

/// Why a pending delivery is not attempted now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HoldResponse {
    /// A stable reason: `Paused`, `HookDeleted`, `Gone`, `InvalidSpec`, `SecretMissing`, `ReceiverFailing`, ...
    reason: String,
    message: String,
    /// When the circuit breaker lets the next deliveries through to probe the receiver. Never in the past. Null: no such
    /// time is known, or probes are sent now.
    next_probe_time: Option<String>,
}

/// Finds the holds of deliveries. Looks at each hook once.
pub struct HoldFinder<'a> {
    api: &'a ApiState,
    now: Millis,
    of_hook: HashMap<Arc<str>, Option<HoldResponse>>,
}

impl<'a> HoldFinder<'a> {
    pub fn new(api: &'a ApiState, now: Millis) -> Self {
        HoldFinder { api, now, of_hook: HashMap::new() }
    }

    /// Returns why a delivery is held. None: it is not, or it is not pending.
    pub fn find(&mut self, record: &DeliveryRecord) -> Option<HoldResponse> {
        if record.state != DeliveryState::Pending {
            return None;
        }
        let (api, now, hook) = (self.api, self.now, &record.hook);
        let find = || {
            let object = api.view.hook(&hook.namespace, &hook.name);
            let object = object.as_ref().and_then(|object| object.0.as_ref().ok());
            // Another hook of the same name has a condition of its own.
            let object = object.filter(|object| object.meta().uid.as_deref() == Some(&*hook.uid));
            hold_of(api, &hook.uid, object, now)
        };
        self.of_hook.entry(hook.uid.clone()).or_insert_with(find).clone()
    }
}

/// Returns why the deliveries of an existing hook are held.
pub fn hook_hold(api: &ApiState, guard: &DeserializeGuard<EventHook>, now: Millis) -> Option<HoldResponse> {
    hold_of(api, guard.meta().uid.as_deref().unwrap_or_default(), guard.0.as_ref().ok(), now)
}

fn hold_of(api: &ApiState, uid: &str, object: Option<&EventHook>, now: Millis) -> Option<HoldResponse> {
    let state = api.index.get(uid);
    let spec = state.as_ref().map(|state| state.spec());
    hold(spec, object.and_then(delivering_condition), api.reports.breakers.get(uid), now)
}

/// Derives the hold from the compiled hook (None: it does not exist), its condition `Delivering` and its breaker (None: it
/// is closed).
fn hold(
    hook: Option<Result<&CompiledHook, &InvalidSpec>>,
    condition: Option<&Condition>,
    breaker: Option<BreakerReport>,
    now: Millis,
) -> Option<HoldResponse> {
    let held = |reason: &str, message: &str| {
        Some(HoldResponse { reason: reason.to_owned(), message: message.to_owned(), next_probe_time: None })
    };
    let hook = match hook {
        None => return held("HookDeleted", "the hook was deleted"),
        Some(Err(invalid)) => return held(invalid.into(), &invalid.to_string()),
        Some(Ok(hook)) => hook,
    };
    if hook.delivery.paused {
        return held("Paused", "delivery.paused is true");
    }
    let failing = condition.filter(|condition| condition.status == "False" && condition.reason != "Paused");
    if let Some(breaker) = breaker {
        let next = breaker.next_probe.filter(|at| *at > now).map(Millis::rfc3339);
        let (reason, message) = match failing {
            Some(condition) => (&*condition.reason, &*condition.message),
            None => (DeliveringFault::ReceiverFailing.into(), "the receiver fails"),
        };
        return held(reason, message).map(|hold| HoldResponse { next_probe_time: next, ..hold });
    }
    // With a fault, attempts are made and fail: each delivery has its own time.
    let failing = failing.filter(|condition| condition.reason.parse::<DeliveringFault>().is_err())?;
    held(&failing.reason, &failing.message)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::core::hook::validate;
    use crate::core::receiver_breaker::BreakerState;
    use crate::worker::index::testing::hook as object;

    const NOW: Millis = Millis(1_700_000_000_000);

    fn condition(reason: &str) -> Condition {
        let value = json!({"type": "Delivering", "status": "False", "reason": reason, "message": "m",
            "lastTransitionTime": "2023-11-14T22:13:20Z"});
        serde_json::from_value(value).unwrap()
    }

    fn breaker(next_probe: Option<Millis>) -> BreakerReport {
        let state = BreakerState::Open;
        BreakerReport { state, failures: 10, attempts: 10, pause: Duration::from_secs(60), next_probe }
    }

    #[test]
    fn names_reason_and_next_probe() {
        let compiled = |spec| validate(object("h", "u", spec).0.as_ref().unwrap()).unwrap();
        let (plain, paused) = (compiled(json!({})), compiled(json!({"delivery": {"paused": true}})));
        let later = NOW + Duration::from_secs(40);
        let found = |hook, condition: Option<&Condition>, breaker| {
            hold(hook, condition, breaker, NOW).map(|hold| (hold.reason, hold.next_probe_time))
        };
        let reason = |text: &str| Some((text.to_owned(), None));
        let (failing, missing) = (condition("ReceiverFailing"), condition("SecretMissing"));
        assert_eq!(found(Some(Ok(&plain)), None, None), None);
        assert_eq!(found(None, None, None), reason("HookDeleted"));
        assert_eq!(found(Some(Ok(&paused)), Some(&failing), None), reason("Paused"));
        assert_eq!(found(Some(Ok(&plain)), Some(&missing), None), reason("SecretMissing"));
        assert_eq!(found(Some(Ok(&plain)), Some(&failing), None), None, "attempts are made");
        let probe = Some(("ReceiverFailing".to_owned(), Some(later.rfc3339())));
        assert_eq!(found(Some(Ok(&plain)), Some(&failing), Some(breaker(Some(later)))), probe);
        assert_eq!(found(Some(Ok(&plain)), None, Some(breaker(Some(later)))), probe);
        let passed = Some(breaker(Some(Millis(NOW.0 - 1))));
        assert_eq!(
            found(Some(Ok(&plain)), Some(&failing), passed),
            reason("ReceiverFailing"),
            "not in the past"
        );
    }
}
