//! Conditions by kstatus: Ready, Reconciling, Stalled, and Synced.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::Value;

use super::time::Millis;

/// The condition that the worker writes; the controller leaves it alone.
pub const DELIVERING: &str = "Delivering";
/// Longer messages are cut: the API server refuses them, and the status with them.
const MAX_MESSAGE: usize = 4096;

/// How an object stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// What the spec says is so.
    Ready(Note),
    /// Not yet, or not any more; it is being worked on or waited for.
    Waiting(Note),
    /// It stays so until somebody changes something.
    Stalled(Note),
}

/// Why: a stable reason in CamelCase, and words for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub reason: &'static str,
    pub message: String,
}

impl Note {
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Note { reason, message: message.into() }
    }
}

impl Standing {
    pub fn note(&self) -> &Note {
        match self {
            Standing::Ready(note) | Standing::Waiting(note) | Standing::Stalled(note) => note,
        }
    }

    /// The controller's four conditions. A condition that stays as it was keeps its transition time.
    pub fn conditions(&self, before: &[Condition], generation: Option<i64>, now: Millis) -> Vec<Condition> {
        let (ready, reconciling, stalled) = match self {
            Standing::Ready(_) => ("True", "False", "False"),
            Standing::Waiting(_) => ("False", "True", "False"),
            Standing::Stalled(_) => ("False", "False", "True"),
        };
        [("Ready", ready), ("Synced", ready), ("Reconciling", reconciling), ("Stalled", stalled)]
            .into_iter()
            .map(|(r#type, status)| {
                let note = self.note();
                let old = before.iter().find(|c| c.type_ == r#type);
                condition(old, r#type, status, (note.reason, &note.message), generation, now)
            })
            .collect()
    }
}

/// A condition. One whose status stays as it was keeps its transition time.
pub fn condition(
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
        last_transition_time: same.map_or_else(|| time(now), |c| c.last_transition_time.clone()),
    }
}

fn time(at: Millis) -> Time {
    // Whole seconds: the API server keeps no more, and what reads back otherwise looks like a change.
    Time(jiff::Timestamp::from_second(at.0.div_euclid(1000)).unwrap_or_default())
}

/// The longest beginning of a text that fits into `max` bytes.
pub fn cut(text: &str, max: usize) -> &str {
    text.get(..text.floor_char_boundary(max)).unwrap_or_default()
}

/// True where two statuses say the same: times and request ids are no meaning. A status is written only when it is
/// false, so that an idle cluster sees no write.
pub fn same_meaning(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            let means = |key: &str| !matches!(key, "lastTransitionTime" | "time" | "requestId");
            let count = |map: &serde_json::Map<String, Value>| map.keys().filter(|k| means(k)).count();
            count(x) == count(y)
                && x.iter()
                    .filter(|(key, _)| means(key))
                    .all(|(key, value)| y.get(key).is_some_and(|other| same_meaning(value, other)))
        }
        (Value::Array(x), Value::Array(y)) => {
            x.len() == y.len() && x.iter().zip(y).all(|(one, other)| same_meaning(one, other))
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn kstatus() {
        let note = || Note::new("Because", "of this");
        let table = [
            (Standing::Ready(note()), ["True", "True", "False", "False"]),
            (Standing::Waiting(note()), ["False", "False", "True", "False"]),
            (Standing::Stalled(note()), ["False", "False", "False", "True"]),
        ];
        for (standing, want) in table {
            let conditions = standing.conditions(&[], Some(3), Millis(1_700_000_000_999));
            let got: Vec<&str> = conditions.iter().map(|c| c.status.as_str()).collect();
            assert_eq!(got, want);
            assert!(conditions.iter().all(|c| c.message == "of this" && c.observed_generation == Some(3)));
        }
    }

    #[test]
    fn a_transition_time_moves_with_the_status_only() {
        let first = Standing::Ready(Note::new("A", "a")).conditions(&[], Some(1), Millis(1_000_000));
        let same = Standing::Ready(Note::new("B", "b")).conditions(&first, Some(2), Millis(2_000_000));
        assert_eq!(same[0].last_transition_time, first[0].last_transition_time);
        let other = Standing::Stalled(Note::new("C", "c")).conditions(&same, Some(2), Millis(3_000_000));
        assert_ne!(other[0].last_transition_time, first[0].last_transition_time);
        assert_eq!(other[2].last_transition_time, first[2].last_transition_time, "Reconciling stayed False");
    }

    #[test]
    fn times_are_no_meaning() {
        let a = json!({"conditions": [{"type": "Ready", "lastTransitionTime": "x"}], "lastError": {"code": 1, "time": "x"}});
        let b = json!({"conditions": [{"type": "Ready", "lastTransitionTime": "y"}], "lastError": {"code": 1, "requestId": "y"}});
        assert!(same_meaning(&a, &b));
        assert!(!same_meaning(&a, &json!({"conditions": [{"type": "Ready"}], "lastError": {"code": 2}})));
        assert!(!same_meaning(&json!({"a": 1}), &json!({"a": 1, "b": 2})));
        assert!(!same_meaning(&json!({"a": 1, "b": 2}), &json!({"a": 1})));
    }

    #[test]
    fn cutting_keeps_characters_whole() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("abc", 9), "abc");
    }
}
