//! Waits until the controller or the worker has executed a request.

use std::time::{Duration, Instant};

use kube::api::DynamicObject;
use serde_json::Value;

use crate::cli::failure::Failure;
use crate::core::duration::short_text;

/// The time between two reads of the object.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// What is waited for.
pub enum Goal {
    /// The request with this token was executed.
    Reconciled { token: String },
    /// The object is no longer suspended.
    Resumed,
    /// The request with this token to resume after a failure was executed.
    ResumedAfterFailure { token: String },
}

/// The result of a wait.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub is_success: bool,
    pub message: String,
}

/// Reads the object until it reached the goal, or until the timeout.
pub async fn wait_for<F>(goal: &Goal, timeout: Duration, read: impl Fn() -> F) -> Result<Outcome, Failure>
where
    F: Future<Output = Result<DynamicObject, Failure>>,
{
    let deadline = Instant::now() + timeout;
    loop {
        let object = read().await?;
        if let Some(outcome) = outcome(goal, &object) {
            return Ok(outcome);
        }
        if Instant::now() >= deadline {
            let state = ready_condition(&object).map_or_else(
                || "it has no condition Ready: does a controller run?".to_owned(),
                |ready| format!("Ready is {}", describe(ready)),
            );
            let message = format!("no result within {}; {state}", short_text(timeout));
            return Ok(Outcome { is_success: false, message });
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Returns the result; None: not yet.
fn outcome(goal: &Goal, object: &DynamicObject) -> Option<Outcome> {
    let handled =
        |name: &str| object.data.pointer(&format!("/status/handled/{name}")).and_then(Value::as_str);
    let is_done = match goal {
        Goal::Reconciled { token } => handled("reconcileRequestedAt") == Some(token),
        Goal::ResumedAfterFailure { token } => handled("resume") == Some(token),
        Goal::Resumed => !has_condition(object, "Suspended", "True"),
    };
    let ready = ready_condition(object)?;
    let is_current = ready.get("observedGeneration").and_then(Value::as_i64) == object.metadata.generation;
    if !is_done || !is_current {
        return None;
    }
    let is_ready = ready.get("status").and_then(Value::as_str) == Some("True");
    // The controller retries until the object is stalled.
    (is_ready || has_condition(object, "Stalled", "True"))
        .then(|| Outcome { is_success: is_ready, message: format!("Ready is {}", describe(ready)) })
}

fn conditions(object: &DynamicObject) -> impl Iterator<Item = &Value> {
    object.data.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten()
}

fn ready_condition(object: &DynamicObject) -> Option<&Value> {
    conditions(object).find(|condition| condition.get("type").and_then(Value::as_str) == Some("Ready"))
}

fn has_condition(object: &DynamicObject, kind: &str, status: &str) -> bool {
    conditions(object).any(|condition| {
        let text = |name: &str| condition.get(name).and_then(Value::as_str);
        text("type") == Some(kind) && text("status") == Some(status)
    })
}

fn describe(condition: &Value) -> String {
    let text = |name: &str| condition.get(name).and_then(Value::as_str).unwrap_or_default();
    format!("{} ({}): {}", text("status"), text("reason"), text("message"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(ready: &str, stalled: &str, observed: i64, handled: &str) -> DynamicObject {
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "EventHook", "metadata": {"name": "a", "generation": 2},
            "status": {"handled": {"reconcileRequestedAt": handled}, "conditions": [
                {"type": "Ready", "status": ready, "reason": "R", "message": "m", "observedGeneration": observed},
                {"type": "Stalled", "status": stalled}]}}))
        .unwrap()
    }

    #[test]
    fn waits_for_the_acknowledged_request_of_the_present_spec() {
        let goal = Goal::Reconciled { token: "t".into() };
        for (object, is_success) in [
            (object("True", "False", 2, "t"), Some(true)),
            (object("False", "True", 2, "t"), Some(false)),
            (object("False", "False", 2, "t"), None),
            (object("True", "False", 1, "t"), None),
            (object("True", "False", 2, "other"), None),
        ] {
            assert_eq!(outcome(&goal, &object).map(|outcome| outcome.is_success), is_success);
        }
        let message = outcome(&goal, &object("True", "False", 2, "t")).unwrap().message;
        assert_eq!(message, "Ready is True (R): m");
    }

    #[tokio::test]
    async fn timeout_reports_the_state() {
        let goal = Goal::Reconciled { token: "t".into() };
        let read = || std::future::ready(Ok(object("False", "False", 2, "")));
        let outcome = wait_for(&goal, Duration::ZERO, read).await.unwrap();
        assert_eq!(outcome.message, "no result within 0s; Ready is False (R): m");
        assert!(!outcome.is_success);
    }
}
