//! Why an event did not arrive, in one sentence.

use crate::console::model::{Delivery, Explanation};
use crate::console::view::{attempt_result, plural};

/// The most deliveries that a sentence describes.
const MAX_DESCRIBED: usize = 3;

/// A sentence and how good its news is: the class of a state.
#[derive(Debug, PartialEq, Eq)]
pub struct Verdict {
    pub class: &'static str,
    pub text: String,
}

/// Describes the outcome of an event: `Delivered to 2 of 3 hooks; orders-to-erp: dead after 8 attempts, last 503`.
/// `host_of` returns the receiver's host of a hook, if it is known.
pub fn of_event(explanation: &Explanation, host_of: impl Fn(&str) -> Option<String>) -> Verdict {
    let deliveries: Vec<&Delivery> = explanation.deliveries.iter().map(|found| &found.delivery).collect();
    if deliveries.is_empty() {
        let text = match explanation.others.len() + explanation.others_left_out {
            0 => "No hook received it: this namespace has no hooks.".to_owned(),
            1 => "No hook received it: the only hook of this namespace did not match; see below why."
                .to_owned(),
            more => format!(
                "No hook received it: none of the {more} hooks of this namespace matched; see below why."
            ),
        };
        return Verdict { class: "warn", text };
    }
    let total = deliveries.len() + explanation.deliveries_left_out;
    let delivered = deliveries.iter().filter(|delivery| delivery.state == "delivered").count();
    let mut failing: Vec<&&Delivery> =
        deliveries.iter().filter(|delivery| delivery.state != "delivered").collect();
    failing.sort_by_key(|delivery| severity(delivery));
    let class = failing.first().map_or("good", |worst| class_of(worst));
    let mut text = match (delivered, total) {
        (0, 1) => String::new(),
        (1, 1) => "Delivered to the one hook that matched".to_owned(),
        (delivered, total) if delivered == total => format!("Delivered to all {total} hooks that matched"),
        (delivered, total) => format!("Delivered to {delivered} of {}", plural_hooks(total)),
    };
    for delivery in failing.iter().take(MAX_DESCRIBED) {
        if !text.is_empty() {
            text.push_str("; ");
        }
        text.push_str(&format!(
            "{}: {}",
            delivery.hook,
            describe(delivery, host_of(&delivery.hook).as_deref())
        ));
    }
    let more = failing.len().saturating_sub(MAX_DESCRIBED) + explanation.deliveries_left_out;
    if more > 0 {
        text.push_str(&format!("; {more} more below"));
    }
    text.push('.');
    Verdict { class, text }
}

/// Describes a delivery: `dead after 8 attempts, last 503 from erp.example`.
pub fn describe(delivery: &Delivery, host: Option<&str>) -> String {
    let attempts = u64::try_from(delivery.attempts.len()).unwrap_or(u64::MAX);
    let from = host.map(|host| format!(" from {host}")).unwrap_or_default();
    let last = delivery.attempts.last().filter(|attempt| attempt.error.is_some());
    let last = last.map(|attempt| match attempt.status {
        Some(status) => format!(", last {status}{from}"),
        None => format!(
            ", last {}{}",
            attempt_result(attempt),
            host.map(|host| format!(" ({host})")).unwrap_or_default()
        ),
    });
    let last = last.unwrap_or_default();
    let after = match attempts {
        0 => "before an attempt".to_owned(),
        attempts => format!("after {}", plural(attempts, "attempt", "attempts")),
    };
    match delivery.state.as_str() {
        "delivered" => format!("delivered {after}"),
        "dead" => format!("dead {after}{last}{}", reason(delivery)),
        "dropped" => format!("dropped{}", reason(delivery)),
        "cancelled" => format!("cancelled {after}{last}"),
        _ => match (&delivery.held, attempts) {
            (Some(held), _) => format!("held ({}): {}", held.reason, held.message),
            (None, 0) => "pending, its first attempt is not done yet".to_owned(),
            (None, _) => format!("pending {after}{last}"),
        },
    }
}

fn reason(delivery: &Delivery) -> String {
    match delivery.reason.as_deref() {
        None | Some("MaxAttempts") => String::new(),
        Some(reason) => format!(" ({reason})"),
    }
}

/// Returns the rank of a delivery, the worst first.
pub fn severity(delivery: &Delivery) -> u8 {
    match (delivery.state.as_str(), &delivery.held) {
        ("dead", _) => 0,
        ("pending", Some(_)) => 1,
        ("pending", None) => 2,
        ("cancelled", _) => 3,
        _ => 4,
    }
}

/// Returns the class of a delivery's state.
pub fn class_of(delivery: &Delivery) -> &'static str {
    match severity(delivery) {
        _ if delivery.state == "delivered" => "good",
        0 => "bad",
        1 => "held",
        2 => "busy",
        _ => "off",
    }
}

/// Returns the state that a pill shows: a pending delivery that is held is no ordinary one.
pub fn shown_state(delivery: &Delivery) -> &str {
    if delivery.held.is_some() { "held" } else { &delivery.state }
}

/// Returns the outcome of an event: the worst of its deliveries' states, so that `delivered` means all of them. `is_complete`:
/// these are all its deliveries.
pub fn outcome<'a>(states: impl IntoIterator<Item = &'a str>, is_complete: bool) -> &'static str {
    const WORST_FIRST: [&str; 6] = ["dead", "held", "pending", "cancelled", "dropped", "delivered"];
    let rank = |state: &str| WORST_FIRST.iter().position(|known| *known == state);
    let ranks: Vec<Option<usize>> = states.into_iter().map(rank).collect();
    match ranks.iter().min().copied().flatten().and_then(|rank| WORST_FIRST.get(rank)) {
        Some(&"delivered") if !is_complete => "matched",
        Some(worst) => worst,
        None if ranks.is_empty() && is_complete => "no hook",
        None => "matched",
    }
}

fn plural_hooks(total: usize) -> String {
    plural(u64::try_from(total).unwrap_or(u64::MAX), "hook", "hooks")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn delivery(hook: &str, state: &str, statuses: &[u16], more: Value) -> Value {
        let attempts: Vec<Value> = statuses
            .iter()
            .map(|status| {
                json!({"time": "2026-01-01T00:00:00Z", "status": status, "durationMs": 5, "detail": null,
                    "error": if *status == 200 { Value::Null } else { json!("Status") }})
            })
            .collect();
        let mut value = json!({"id": "i", "namespace": "n", "event": "e", "hook": hook, "state": state, "reason": null,
            "acceptedTime": "2026-01-01T00:00:00Z", "attempts": attempts, "nextAttemptTime": null, "held": null,
            "explanation": ""});
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        value
    }

    fn verdict(deliveries: Vec<Value>, others: usize) -> Verdict {
        let others: Vec<Value> = (0..others)
            .map(|at| json!({"hook": format!("o{at}"), "reason": "Filtered", "explanation": ""}))
            .collect();
        let explanation =
            json!({"deliveries": deliveries, "deliveriesLeftOut": 0, "others": others, "othersLeftOut": 0});
        of_event(&serde_json::from_value(explanation).unwrap(), |hook| {
            (hook == "erp").then(|| "erp.example".to_owned())
        })
    }

    #[test]
    fn says_why_an_event_did_not_arrive() {
        let none = || json!({});
        let dead = || delivery("erp", "dead", &[500, 503], json!({"reason": "MaxAttempts"}));
        let good = |hook| delivery(hook, "delivered", &[200], none());
        for (deliveries, others, class, text) in [
            (vec![], 0, "warn", "No hook received it: this namespace has no hooks."),
            (
                vec![],
                3,
                "warn",
                "No hook received it: none of the 3 hooks of this namespace matched; see below why.",
            ),
            (vec![good("a")], 1, "good", "Delivered to the one hook that matched."),
            (vec![good("a"), good("b")], 0, "good", "Delivered to all 2 hooks that matched."),
            (vec![dead()], 0, "bad", "erp: dead after 2 attempts, last 503 from erp.example."),
            (
                vec![good("a"), dead(), good("b")],
                0,
                "bad",
                "Delivered to 2 of 3 hooks; erp: dead after 2 attempts, last 503 from erp.example.",
            ),
            (
                vec![delivery("x", "dropped", &[], json!({"reason": "Snoozed"}))],
                0,
                "off",
                "x: dropped (Snoozed).",
            ),
            (
                vec![delivery(
                    "x",
                    "pending",
                    &[503],
                    json!({"held": {"reason": "Paused", "message": "delivery.paused is true",
                    "nextProbeTime": null}}),
                )],
                0,
                "held",
                "x: held (Paused): delivery.paused is true.",
            ),
            (
                vec![delivery("x", "pending", &[], none())],
                0,
                "busy",
                "x: pending, its first attempt is not done yet.",
            ),
        ] {
            assert_eq!(verdict(deliveries, others), Verdict { class, text: text.to_owned() });
        }
    }

    #[test]
    fn outcome_is_delivered_only_if_all_deliveries_are() {
        for (states, is_complete, want) in [
            (&[][..], true, "no hook"),
            (&["delivered", "delivered"][..], true, "delivered"),
            (&["delivered"][..], false, "matched"),
            (&["delivered", "dropped"][..], true, "dropped"),
            (&["delivered", "pending"][..], true, "pending"),
            (&["pending", "held"][..], true, "held"),
            (&["held", "dead", "delivered"][..], true, "dead"),
            (&["delivered", "of a newer version"][..], true, "matched"),
        ] {
            assert_eq!(outcome(states.iter().copied(), is_complete), want, "{states:?}");
        }
    }

    #[test]
    fn names_the_worst_first_and_not_all() {
        let mut deliveries: Vec<Value> =
            (0..5).map(|at| delivery(&format!("p{at}"), "pending", &[503], json!({}))).collect();
        deliveries.push(delivery("d", "dead", &[410], json!({"reason": "Gone"})));
        let found = verdict(deliveries, 0);
        assert!(
            found
                .text
                .starts_with("Delivered to 0 of 6 hooks; d: dead after 1 attempt, last 410 (Gone); p0: "),
            "{}",
            found.text
        );
        assert!(found.text.ends_with("; 3 more below."), "{}", found.text);
        assert_eq!(found.class, "bad");
    }
}
