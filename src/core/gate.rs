//! Gates: the rules that may drop a delivery. `onChange` is asked first, then `snooze`.
//!
//! A gate's memory is per hook and group, and lives in the store, where it changes in the same transaction as the
//! deliveries. Here is what an event asks of it, and what the answer is.

use std::time::Duration;

use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::time::Millis;

/// What stands in the header that tells how many events were dropped before this one.
pub const SUPPRESSED_HEADER: &str = "x-hookstream-suppressed";

/// A hook's gates, understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gates {
    /// Dotted paths into data whose values name the group; None: what the gate says of itself.
    pub group_by: Option<Vec<String>>,
    pub snooze: Option<Snooze>,
    pub on_change: Option<OnChange>,
}

/// Within `period` after a delivery, further events of the group are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snooze {
    pub period: Duration,
    /// The newest dropped event goes out when the period ends.
    pub trailing: bool,
}

/// Events that changed nothing are dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnChange {
    /// Dotted paths into data that are compared; None: the source's unique fields, else the whole data.
    pub fields: Option<Vec<String>>,
}

/// A hash that stands for a group or a value: the memory stays small whatever the data.
pub type Mark = [u8; 16];

/// What an event asks of the gates' memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    pub change: Option<Change>,
    pub snooze: Option<Snoozing>,
}

/// The group and the value that `onChange` compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: Mark,
    pub value: Mark,
}

/// The group that `snooze` keeps quiet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snoozing {
    pub key: Mark,
    pub rule: Snooze,
}

/// What the memory holds for what was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The last value that was accepted for delivery.
    pub value: Option<Mark>,
    /// Until when the group is quiet.
    pub quiet_until: Option<Millis>,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes out, sets both memories and opens a quiet period.
    Deliver,
    /// Nothing changed. A trailing candidate of its group is stale and dropped with it.
    Unchanged,
    /// The group is quiet. `candidate`: it goes out when the period ends, unless a newer one takes its place.
    Snoozed { candidate: bool, until: Millis },
}

impl Gates {
    pub fn is_open(&self) -> bool {
        self.snooze.is_none() && self.on_change.is_none()
    }

    /// What an event with this data asks. `unique`: the fields by which its source tells things apart, if it does.
    pub fn ask(&self, unique: &[&str], data: &RawValue) -> Asked {
        if self.is_open() {
            return Asked::default();
        }
        // Data that cannot be read (a number too big for every parser) is compared as the text that it is.
        let data = serde_json::from_str(data.get()).unwrap_or_else(|_| Value::String(data.get().to_owned()));
        self.ask_value(unique, &data)
    }

    /// The same, of data that was parsed already.
    pub fn ask_value(&self, unique: &[&str], data: &Value) -> Asked {
        let by = |paths: &[String]| mark(paths.iter().map(|path| at(data, path)));
        let by_source = || {
            if unique.is_empty() { mark([data]) } else { mark(unique.iter().map(|path| at(data, path))) }
        };
        let group = self.group_by.as_deref().map(by);
        Asked {
            change: self.on_change.as_ref().map(|rule| Change {
                // Without a group, the whole hook is one.
                key: group.unwrap_or_default(),
                value: rule.fields.as_deref().map_or_else(by_source, by),
            }),
            snooze: self.snooze.map(|rule| Snoozing { key: group.unwrap_or_else(by_source), rule }),
        }
    }
}

impl Asked {
    /// Decides from what the memory holds.
    pub fn decide(&self, memory: Memory, now: Millis) -> Verdict {
        if let Some(change) = self.change
            && memory.value == Some(change.value)
        {
            return Verdict::Unchanged;
        }
        match (self.snooze, memory.quiet_until) {
            (Some(snoozing), Some(until)) if now < until => {
                Verdict::Snoozed { candidate: snoozing.rule.trailing, until }
            }
            _ => Verdict::Deliver,
        }
    }
}

/// The value at a dotted path; what is missing is null.
fn at<'a>(data: &'a Value, path: &str) -> &'a Value {
    path.split('.').try_fold(data, |value, step| value.get(step)).unwrap_or(&Value::Null)
}

/// Values, as one hash. Objects have their members sorted (serde_json's map is), so that order is no difference.
fn mark<'a>(values: impl IntoIterator<Item = &'a Value>) -> Mark {
    let mut hash = Sha256::new();
    for value in values {
        let text = value.to_string();
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    let mut mark = Mark::default();
    for (to, from) in mark.iter_mut().zip(hash.finalize()) {
        *to = from;
    }
    mark
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const NOW: Millis = Millis(1_000_000);

    fn ask(gates: &Gates, unique: &[&str], data: Value) -> Asked {
        gates.ask(unique, &serde_json::value::to_raw_value(&data).unwrap())
    }

    fn paths(paths: &[&str]) -> Option<Vec<String>> {
        Some(paths.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_key_of_snooze_and_the_value_of_on_change() {
        let snooze = Some(Snooze { period: Duration::from_secs(60), trailing: false });
        let on_change = |fields| Some(OnChange { fields });
        let (a, b) = (json!({"id": 1, "ip": "x", "n": 1}), json!({"id": 1, "ip": "x", "n": 2}));
        // gates, unique fields of the source, same snooze key for a and b, same change key, same change value
        let table = [
            (None, None, &[][..], false, true, false),
            (None, None, &["ip"][..], true, true, true),
            (paths(&["id"]), None, &["n"][..], true, true, false),
            (paths(&["n"]), None, &[][..], false, false, false),
            (None, paths(&["id"]), &["n"][..], false, true, true),
            (paths(&["id"]), paths(&["n"]), &[][..], true, true, false),
            (paths(&["missing.deep"]), paths(&["missing"]), &[][..], true, true, true),
        ];
        for (row, (group_by, fields, unique, same_snooze, same_key, same_value)) in
            table.into_iter().enumerate()
        {
            let gates = Gates { group_by, snooze, on_change: on_change(fields) };
            let (one, two) = (ask(&gates, unique, a.clone()), ask(&gates, unique, b.clone()));
            assert_eq!(
                one.snooze.unwrap().key == two.snooze.unwrap().key,
                same_snooze,
                "snooze key, row {row}"
            );
            assert_eq!(one.change.unwrap().key == two.change.unwrap().key, same_key, "change key, row {row}");
            assert_eq!(
                one.change.unwrap().value == two.change.unwrap().value,
                same_value,
                "value, row {row}"
            );
        }
    }

    #[test]
    fn order_is_no_difference_and_null_is_not_a_text() {
        let gates = Gates { on_change: Some(OnChange { fields: None }), ..Gates::default() };
        let of = |text: &str| gates.ask(&[], &RawValue::from_string(text.to_owned()).unwrap());
        assert_eq!(of(r#"{"a":1,"b":2}"#), of(r#"{ "b": 2, "a": 1 }"#));
        assert_ne!(of(r#"{"a":null}"#), of(r#"{"a":"null"}"#));
        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        assert_eq!(of(&deep), of(&deep));
    }

    #[test]
    fn decisions() {
        let snoozing =
            |trailing| Snoozing { key: [1; 16], rule: Snooze { period: Duration::from_secs(1), trailing } };
        let change = Change { key: [2; 16], value: [3; 16] };
        let both = |trailing| Asked { change: Some(change), snooze: Some(snoozing(trailing)) };
        let memory =
            |value: u8, until: i64| Memory { value: Some([value; 16]), quiet_until: Some(Millis(until)) };
        let later = NOW.0 + 1;
        let snoozed = |candidate| Verdict::Snoozed { candidate, until: Millis(later) };
        let table = [
            (Asked::default(), memory(3, later), Verdict::Deliver),
            (both(false), Memory::default(), Verdict::Deliver),
            (both(false), memory(3, later), Verdict::Unchanged),
            (both(false), memory(3, 0), Verdict::Unchanged),
            (both(false), memory(4, later), snoozed(false)),
            (both(true), memory(4, later), snoozed(true)),
            (both(true), memory(4, NOW.0), Verdict::Deliver),
            (Asked { change: Some(change), snooze: None }, memory(4, later), Verdict::Deliver),
            (Asked { change: None, snooze: Some(snoozing(false)) }, memory(3, later), snoozed(false)),
        ];
        for (row, (asked, memory, want)) in table.into_iter().enumerate() {
            assert_eq!(asked.decide(memory, NOW), want, "row {row}");
        }
    }

    proptest! {
        /// Whatever is asked and remembered: unchanged before snoozed before delivered, and never quiet beyond its time.
        #[test]
        fn one_verdict_for_everything(
            change: Option<(u8, u8)>, snooze: Option<(u8, bool)>, value: Option<u8>, until: Option<i64>, now: i64,
        ) {
            let asked = Asked {
                change: change.map(|(key, value)| Change { key: [key; 16], value: [value; 16] }),
                snooze: snooze.map(|(key, trailing)| Snoozing {
                    key: [key; 16],
                    rule: Snooze { period: Duration::from_secs(1), trailing },
                }),
            };
            let memory = Memory { value: value.map(|value| [value; 16]), quiet_until: until.map(Millis) };
            let unchanged = change.is_some_and(|(_, new)| value == Some(new));
            let quiet = snooze.is_some() && until.is_some_and(|until| now < until);
            match asked.decide(memory, Millis(now)) {
                Verdict::Unchanged => prop_assert!(unchanged),
                Verdict::Snoozed { candidate, until } => {
                    prop_assert!(!unchanged && quiet && Millis(now) < until);
                    prop_assert_eq!(Some(candidate), snooze.map(|(_, trailing)| trailing));
                }
                Verdict::Deliver => prop_assert!(!unchanged && !quiet),
            }
        }

        /// Two events are of one group, and the same, just where the values at the paths are.
        #[test]
        fn groups_and_values_by_their_paths(a in 0..3_u8, b in 0..3_u8, noise in 0..3_u8, other in 0..3_u8, more in 0..3_u8) {
            let gates = Gates {
                group_by: paths(&["x.a"]),
                snooze: Some(Snooze { period: Duration::from_secs(1), trailing: false }),
                on_change: Some(OnChange { fields: paths(&["b"]) }),
            };
            let one = ask(&gates, &[], json!({"x": {"a": a, "noise": noise}, "b": b}));
            let two = ask(&gates, &[], json!({"b": other, "x": {"a": more}, "noise": noise}));
            prop_assert_eq!(one.snooze == two.snooze, a == more);
            prop_assert_eq!(one.change == two.change, a == more && b == other);
        }
    }
}
