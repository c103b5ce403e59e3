//! Status conditions that follow kstatus: Ready, Reconciling, Stalled, and in addition Synced.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::Value;

use super::time::Millis;

/// The condition that the worker owns. The controller does not change it.
pub const DELIVERING: &str = "Delivering";
/// The condition of a suspended object. Absent otherwise.
pub const SUSPENDED: &str = "Suspended";
/// Maximum length of a condition's message in bytes. The API server rejects a status with a longer message.
const MAX_MESSAGE: usize = 4096;

/// Returns true if the condition `Ready` is `True`, of whatever generation of the object.
pub fn is_ready(conditions: &[Condition]) -> bool {
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The readiness of an object, from which its conditions follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectReadiness {
    /// The actual state matches the spec.
    Ready(ConditionMessage),
    /// The actual state does not match the spec yet; the controller retries.
    Reconciling(ConditionMessage),
    /// The controller cannot proceed until a user changes something.
    Stalled(ConditionMessage),
    /// The object is suspended, and the actual state need not match the spec.
    Suspended(ConditionMessage),
}

/// A condition's reason (stable, CamelCase) and its human-readable message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionMessage {
    pub reason: &'static str,
    pub message: String,
}

impl ConditionMessage {
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        ConditionMessage { reason, message: message.into() }
    }
}

impl ObjectReadiness {
    pub fn message(&self) -> &ConditionMessage {
        match self {
            ObjectReadiness::Ready(note)
            | ObjectReadiness::Reconciling(note)
            | ObjectReadiness::Stalled(note)
            | ObjectReadiness::Suspended(note) => note,
        }
    }

    /// Returns the controller's four conditions, and `Suspended` if it applies. A condition whose status is unchanged keeps
    /// its transition time.
    pub fn conditions(&self, before: &[Condition], generation: Option<i64>, now: Millis) -> Vec<Condition> {
        let (ready, reconciling, stalled) = match self {
            ObjectReadiness::Ready(_) => ("True", "False", "False"),
            ObjectReadiness::Reconciling(_) => ("False", "True", "False"),
            ObjectReadiness::Stalled(_) => ("False", "False", "True"),
            ObjectReadiness::Suspended(_) => ("False", "False", "False"),
        };
        let suspended = matches!(self, ObjectReadiness::Suspended(_)).then_some((SUSPENDED, "True"));
        [("Ready", ready), ("Synced", ready), ("Reconciling", reconciling), ("Stalled", stalled)]
            .into_iter()
            .chain(suspended)
            .map(|(r#type, status)| {
                let ConditionMessage { reason, message } = self.message();
                // One sentence once: `kubectl describe` shows all conditions. kstatus reads the message of the one that is
                // True.
                let has_message = r#type == "Ready" || (status == "True" && r#type != "Synced");
                let message = if has_message { message.as_str() } else { "" };
                let old = before.iter().find(|c| c.type_ == r#type);
                build_condition(old, r#type, status, (reason, message), generation, now)
            })
            .collect()
    }
}

/// Builds a condition. Keeps the transition time of `before` if the status is unchanged.
pub fn build_condition(
    before: Option<&Condition>,
    r#type: &str,
    status: &str,
    (reason, message): (&str, &str),
    generation: Option<i64>,
    now: Millis,
) -> Condition {
    let same = before.filter(|c| c.status == status);
    Condition {
        type_: r#type.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: cut(message, MAX_MESSAGE).to_owned(),
        observed_generation: generation,
        last_transition_time: same.map_or_else(|| whole_seconds(now), |c| c.last_transition_time.clone()),
    }
}

/// Truncates to seconds, as the API server does. Otherwise a status would look changed when it is read back.
fn whole_seconds(at: Millis) -> Time {
    Time(jiff::Timestamp::from_second(at.0.div_euclid(1000)).unwrap_or_default())
}

/// Returns the longest prefix of at most `max` bytes that does not split a character.
pub fn cut(text: &str, max: usize) -> &str {
    text.get(..text.floor_char_boundary(max)).unwrap_or_default()
}

/// Compares two statuses and ignores timestamps and request ids. The controller writes a status only if this returns
/// false, so an idle cluster causes no writes.
pub fn equals_ignoring_times(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            let is_compared = |key: &str| !matches!(key, "lastTransitionTime" | "time" | "requestId");
            let count = |map: &serde_json::Map<String, Value>| map.keys().filter(|k| is_compared(k)).count();
            count(x) == count(y)
                && x.iter()
                    .filter(|(key, _)| is_compared(key))
                    .all(|(key, value)| y.get(key).is_some_and(|other| equals_ignoring_times(value, other)))
        }
        (Value::Array(x), Value::Array(y)) => {
            x.len() == y.len() && x.iter().zip(y).all(|(one, other)| equals_ignoring_times(one, other))
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn conditions_follow_kstatus() {
        let message = || ConditionMessage::new("Because", "of this");
        let table = [
            (ObjectReadiness::Ready(message()), ["True", "True", "False", "False"]),
            (ObjectReadiness::Reconciling(message()), ["False", "False", "True", "False"]),
            (ObjectReadiness::Stalled(message()), ["False", "False", "False", "True"]),
            (ObjectReadiness::Suspended(message()), ["False", "False", "False", "False"]),
        ];
        for (readiness, want) in table {
            let conditions = readiness.conditions(&[], Some(3), Millis(1_700_000_000_999));
            let got: Vec<&str> = conditions.iter().map(|c| c.status.as_str()).take(4).collect();
            assert_eq!(got, want);
            let is_suspended = conditions.iter().any(|c| c.type_ == SUSPENDED && c.status == "True");
            assert_eq!(is_suspended, matches!(readiness, ObjectReadiness::Suspended(_)));
            assert!(conditions.iter().all(|c| c.reason == "Because" && c.observed_generation == Some(3)));
            // The sentence is in Ready, and where kstatus reads it.
            for condition in &conditions {
                let is_read =
                    condition.type_ == "Ready" || (condition.status == "True" && condition.type_ != "Synced");
                assert_eq!(condition.message == "of this", is_read, "{condition:?}");
            }
        }
    }

    #[test]
    fn transition_time_changes_with_status_only() {
        let first = ObjectReadiness::Ready(ConditionMessage::new("A", "a")).conditions(
            &[],
            Some(1),
            Millis(1_000_000),
        );
        let same = ObjectReadiness::Ready(ConditionMessage::new("B", "b")).conditions(
            &first,
            Some(2),
            Millis(2_000_000),
        );
        assert_eq!(same[0].last_transition_time, first[0].last_transition_time);
        let other = ObjectReadiness::Stalled(ConditionMessage::new("C", "c")).conditions(
            &same,
            Some(2),
            Millis(3_000_000),
        );
        assert_ne!(other[0].last_transition_time, first[0].last_transition_time);
        assert_eq!(other[2].last_transition_time, first[2].last_transition_time, "Reconciling stayed False");
    }

    #[test]
    fn comparison_ignores_times() {
        let a = json!({"conditions": [{"type": "Ready", "lastTransitionTime": "x"}], "lastError": {"code": 1, "time": "x"}});
        let b = json!({"conditions": [{"type": "Ready", "lastTransitionTime": "y"}], "lastError": {"code": 1, "requestId": "y"}});
        assert!(equals_ignoring_times(&a, &b));
        assert!(!equals_ignoring_times(
            &a,
            &json!({"conditions": [{"type": "Ready"}], "lastError": {"code": 2}})
        ));
        assert!(!equals_ignoring_times(&json!({"a": 1}), &json!({"a": 1, "b": 2})));
        assert!(!equals_ignoring_times(&json!({"a": 1, "b": 2}), &json!({"a": 1})));
    }

    #[test]
    fn cut_does_not_split_characters() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("abc", 9), "abc");
    }
}
