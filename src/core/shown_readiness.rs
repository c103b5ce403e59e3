//! The readiness of an object as status screens show it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::conditions::SUSPENDED;

/// Whether an object is Ready, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownReadiness<'a> {
    /// True, False, or Unknown before the first sync of the present spec.
    pub ready: &'static str,
    pub reason: &'a str,
    pub message: &'a str,
    /// When the condition last changed.
    pub since: Option<&'a Time>,
    /// True if a user requested the state.
    pub expected: bool,
}

impl<'a> ShownReadiness<'a> {
    /// Returns the readiness by an object's conditions and its `metadata.generation`.
    pub fn of(conditions: &'a [Condition], generation: Option<i64>) -> Self {
        let unknown = |message| ShownReadiness {
            ready: "Unknown",
            reason: "NotReconciled",
            message,
            since: None,
            expected: false,
        };
        let Some(ready) = find_condition(conditions, "Ready") else {
            return unknown("the controller has not reconciled the object yet");
        };
        let shown = match ready.status.as_str() {
            "True" if ready.observed_generation != generation => {
                unknown("the controller has not reconciled the present spec yet")
            }
            status => ShownReadiness {
                ready: if status == "True" { "True" } else { "False" },
                reason: &ready.reason,
                message: &ready.message,
                since: None,
                expected: false,
            },
        };
        ShownReadiness {
            since: Some(&ready.last_transition_time),
            expected: find_condition(conditions, SUSPENDED).is_some_and(|c| c.status == "True"),
            ..shown
        }
    }
}

/// Returns the condition of a type.
pub fn find_condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn readiness_belongs_to_the_present_spec() {
        let condition = |kind: &str, status: &str| -> Condition {
            serde_json::from_value(json!({"type": kind, "status": status, "reason": "R", "message": "m",
                "observedGeneration": 2, "lastTransitionTime": "2026-11-22T06:43:22Z"}))
            .unwrap()
        };
        let of = |conditions: &[Condition], generation| {
            let shown = ShownReadiness::of(conditions, Some(generation));
            (shown.ready, shown.reason.to_owned(), shown.expected)
        };
        assert_eq!(of(&[], 1), ("Unknown", "NotReconciled".into(), false));
        assert_eq!(of(&[condition("Ready", "True")], 2), ("True", "R".into(), false));
        assert_eq!(of(&[condition("Ready", "True")], 3), ("Unknown", "NotReconciled".into(), false));
        let suspended = [condition("Ready", "False"), condition(SUSPENDED, "True")];
        assert_eq!(of(&suspended, 3), ("False", "R".into(), true));
    }
}
