//! Gates: rules that may drop a delivery. `onChange` is evaluated first, then `snooze`.
//!
//! The store keeps the state of a gate for each hook and group, and updates it in the same transaction as the
//! deliveries. This module computes the groups and values of an event ([`GateRequest`]), compares them with that state,
//! and decides ([`GateDecision`]).

use std::time::Duration;

use sha2::{Digest, Sha256};

use super::event::data::{Data, JsonStyle};
use super::time::Millis;

/// Name of the header that holds the number of events that gates dropped before this delivery.
pub const SUPPRESSED_HEADER: &str = "x-hookstream-suppressed";

/// The compiled gates of a hook.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gates {
    /// Dotted paths into data whose values identify the group. `None` selects the default group of each gate.
    pub group_by: Option<Vec<String>>,
    pub snooze: Option<Snooze>,
    pub on_change: Option<OnChange>,
}

/// Drops further events of a group for `period` after a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snooze {
    pub period: Duration,
    /// Delivers the newest dropped event when the period ends.
    pub trailing: bool,
}

/// Drops events whose compared values have not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnChange {
    /// Dotted paths into data that are compared. `None` compares the source's unique fields or, without any, the whole
    /// data.
    pub fields: Option<Vec<String>>,
}

/// A hash of a group or a value, so that the gate state has a fixed size.
pub type GateHash = [u8; 16];

/// The groups and values of an event that are checked against the gate state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GateRequest {
    pub change: Option<ChangeCheck>,
    pub snooze: Option<SnoozeCheck>,
}

/// The group and the compared value for `onChange`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeCheck {
    pub key: GateHash,
    pub value: GateHash,
}

/// The group and the rule for `snooze`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnoozeCheck {
    pub key: GateHash,
    pub rule: Snooze,
}

/// The stored state for a [`GateRequest`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GateState {
    /// The value of the last event that was accepted for delivery.
    pub value: Option<GateHash>,
    /// The end of the group's snooze period.
    pub quiet_until: Option<Millis>,
}

/// What happens to a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateDecision {
    /// Deliver it, store its value and start a snooze period.
    Deliver,
    /// Drop it, because nothing has changed. Also drop a trailing candidate of its group, which is now stale.
    Unchanged,
    /// Drop it, because the group is snoozed until `until`. With `candidate`, deliver it at that time unless a newer event
    /// replaces it.
    Snoozed { candidate: bool, until: Millis },
}

impl Gates {
    /// Returns true if the hook has no gates.
    pub fn is_empty(&self) -> bool {
        self.snooze.is_none() && self.on_change.is_none()
    }

    /// Computes the request of an event from its data. `unique` lists the unique fields of its source.
    pub fn request(&self, unique: &[&str], data: &Data<'_>) -> GateRequest {
        if self.is_empty() {
            return GateRequest::default();
        }
        let hash_paths = |paths: &[String]| hash(paths.iter().map(|path| value_at(data, path)));
        let hash_default = || {
            if unique.is_empty() {
                hash([Some(data)])
            } else {
                hash(unique.iter().map(|path| value_at(data, path)))
            }
        };
        let group = self.group_by.as_deref().map(hash_paths);
        GateRequest {
            change: self.on_change.as_ref().map(|rule| ChangeCheck {
                // Without `groupBy`, all events of the hook form one group.
                key: group.unwrap_or_default(),
                value: rule.fields.as_deref().map_or_else(hash_default, hash_paths),
            }),
            snooze: self.snooze.map(|rule| SnoozeCheck { key: group.unwrap_or_else(hash_default), rule }),
        }
    }
}

impl GateRequest {
    /// Decides about the delivery from the stored state.
    pub fn decide(&self, state: GateState, now: Millis) -> GateDecision {
        if let Some(change) = self.change
            && state.value == Some(change.value)
        {
            return GateDecision::Unchanged;
        }
        match (self.snooze, state.quiet_until) {
            (Some(snoozing), Some(until)) if now < until => {
                GateDecision::Snoozed { candidate: snoozing.rule.trailing, until }
            }
            _ => GateDecision::Deliver,
        }
    }
}

/// Returns the value at a dotted path.
fn value_at<'d>(data: &'d Data<'d>, path: &str) -> Option<&'d Data<'d>> {
    path.split('.').try_fold(data, |value, step| value.get(step))
}

/// Hashes a list of values; a missing one counts as null. Equal numbers have the same hash, `1` and `1.0` too, and different
/// ones never have, however many digits they have. Independent of the member order of objects.
fn hash<'d>(values: impl IntoIterator<Item = Option<&'d Data<'d>>>) -> GateHash {
    let mut sha256 = Sha256::new();
    for value in values {
        let text = value.unwrap_or(&Data::Null).to_json(JsonStyle::Canonical);
        sha256.update((text.len() as u64).to_be_bytes());
        sha256.update(text);
    }
    let mut hash = GateHash::default();
    for (to, from) in hash.iter_mut().zip(sha256.finalize()) {
        *to = from;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const NOW: Millis = Millis(1_000_000);

    fn request(gates: &Gates, unique: &[&str], data: Value) -> GateRequest {
        gates.request(unique, &Data::from(data))
    }

    fn paths(paths: &[&str]) -> Option<Vec<String>> {
        Some(paths.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn computes_snooze_key_and_change_value() {
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
            let (one, two) = (request(&gates, unique, a.clone()), request(&gates, unique, b.clone()));
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
    fn ignores_member_order_and_distinguishes_null_from_text() {
        let gates = Gates { on_change: Some(OnChange { fields: None }), ..Gates::default() };
        let of = |text: &str| gates.request(&[], &Data::parse(text).unwrap());
        assert_eq!(of(r#"{"a":1,"b":2}"#), of(r#"{ "b": 2, "a": 1 }"#));
        assert_ne!(of(r#"{"a":null}"#), of(r#"{"a":"null"}"#));
        let deep = format!("{}{}", "[".repeat(127), "]".repeat(127));
        assert_eq!(of(&deep), of(&deep));
    }

    #[test]
    fn compares_numbers_exactly() {
        let gates = Gates { on_change: Some(OnChange { fields: paths(&["n"]) }), ..Gates::default() };
        let of = |number: &str| gates.request(&[], &Data::parse(&format!("{{\"n\":{number}}}")).unwrap());
        for (a, b) in
            [("1", "1.0"), ("1", "10e-1"), ("1e2", "100"), ("18446744073709551616", "18446744073709551616.0")]
        {
            assert_eq!(of(a), of(b), "{a} {b}");
        }
        for (a, b) in [
            ("18446744073709551617", "18446744073709551618"),
            ("100000000000000000001", "100000000000000000002"),
            ("1e999", "1e998"),
            ("1e999999999", "1e999999998"),
            ("0.1", "0.10000000000000000001"),
            ("1", "\"1\""),
        ] {
            assert_ne!(of(a), of(b), "{a} {b}");
        }
    }

    /// The hashes that version 0.1.0 stored: after an upgrade, ordinary data has not changed.
    #[test]
    fn keeps_the_hashes_of_earlier_versions() {
        let gates = Gates { on_change: Some(OnChange { fields: None }), ..Gates::default() };
        let value =
            |text: &str| hex::encode(gates.request(&[], &Data::parse(text).unwrap()).change.unwrap().value);
        for (text, hash) in [
            (r#"{"id":7,"name":"Ann \u00e9\n","ok":true,"none":null}"#, "5018873753077518e5504c0198b17f1a"),
            (
                r#"[1,-5,18446744073709551615,1.5,0.1,-12.75,1e-7,0.00012]"#,
                "3f6c00433f2ab8e3a2d088399806e407",
            ),
            (r#""text""#, "aa10b6f6b73e2f81e9d43fdb4dae9850"),
            ("null", "67ec4cfa5a08ee3f4811073d39c4d443"),
        ] {
            assert_eq!(value(text), hash, "{text}");
        }
    }

    #[test]
    fn decides_from_request_and_state() {
        let snoozing = |trailing| SnoozeCheck {
            key: [1; 16],
            rule: Snooze { period: Duration::from_secs(1), trailing },
        };
        let change = ChangeCheck { key: [2; 16], value: [3; 16] };
        let both = |trailing| GateRequest { change: Some(change), snooze: Some(snoozing(trailing)) };
        let state =
            |value: u8, until: i64| GateState { value: Some([value; 16]), quiet_until: Some(Millis(until)) };
        let later = NOW.0 + 1;
        let snoozed = |candidate| GateDecision::Snoozed { candidate, until: Millis(later) };
        let table = [
            (GateRequest::default(), state(3, later), GateDecision::Deliver),
            (both(false), GateState::default(), GateDecision::Deliver),
            (both(false), state(3, later), GateDecision::Unchanged),
            (both(false), state(3, 0), GateDecision::Unchanged),
            (both(false), state(4, later), snoozed(false)),
            (both(true), state(4, later), snoozed(true)),
            (both(true), state(4, NOW.0), GateDecision::Deliver),
            (GateRequest { change: Some(change), snooze: None }, state(4, later), GateDecision::Deliver),
            (GateRequest { change: None, snooze: Some(snoozing(false)) }, state(3, later), snoozed(false)),
        ];
        for (row, (request, state, want)) in table.into_iter().enumerate() {
            assert_eq!(request.decide(state, NOW), want, "row {row}");
        }
    }

    proptest! {
        /// For every request and state: unchanged takes precedence over snoozed, and no snooze outlasts its period.
        #[test]
        fn decision_matches_request_and_state(
            change: Option<(u8, u8)>, snooze: Option<(u8, bool)>, value: Option<u8>, until: Option<i64>, now: i64,
        ) {
            let request = GateRequest {
                change: change.map(|(key, value)| ChangeCheck { key: [key; 16], value: [value; 16] }),
                snooze: snooze.map(|(key, trailing)| SnoozeCheck {
                    key: [key; 16],
                    rule: Snooze { period: Duration::from_secs(1), trailing },
                }),
            };
            let state = GateState { value: value.map(|value| [value; 16]), quiet_until: until.map(Millis) };
            let unchanged = change.is_some_and(|(_, new)| value == Some(new));
            let quiet = snooze.is_some() && until.is_some_and(|until| now < until);
            match request.decide(state, Millis(now)) {
                GateDecision::Unchanged => prop_assert!(unchanged),
                GateDecision::Snoozed { candidate, until } => {
                    prop_assert!(!unchanged && quiet && Millis(now) < until);
                    prop_assert_eq!(Some(candidate), snooze.map(|(_, trailing)| trailing));
                }
                GateDecision::Deliver => prop_assert!(!unchanged && !quiet),
            }
        }

        /// Group and value depend on the values at the configured paths only.
        #[test]
        fn group_and_value_depend_on_paths_only(a in 0..3_u8, b in 0..3_u8, noise in 0..3_u8, other in 0..3_u8, more in 0..3_u8) {
            let gates = Gates {
                group_by: paths(&["x.a"]),
                snooze: Some(Snooze { period: Duration::from_secs(1), trailing: false }),
                on_change: Some(OnChange { fields: paths(&["b"]) }),
            };
            let one = request(&gates, &[], json!({"x": {"a": a, "noise": noise}, "b": b}));
            let two = request(&gates, &[], json!({"b": other, "x": {"a": more}, "noise": noise}));
            prop_assert_eq!(one.snooze == two.snooze, a == more);
            prop_assert_eq!(one.change == two.change, a == more && b == other);
        }
    }
}
