//! The deliveries that died recently.

use std::time::Duration;

use crate::console::model::{Delivery, List};
use crate::console::problem::Problem;
use crate::console::request::PageRequest;
use crate::console::view::{count, plural};
use crate::core::time::Millis;

/// The age up to which a dead letter is recent.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// The most dead letters that are read.
const MAX_READ: &str = "100";

/// Recent dead letters, the last that died first.
pub struct DeadLetters {
    pub items: Vec<Delivery>,
    /// False if there may be more.
    pub is_complete: bool,
}

/// Reads the recent dead letters of a hook; with an empty name, those of all hooks of the scope.
pub async fn recent(request: &PageRequest, hook: &str) -> Result<DeadLetters, Problem> {
    // Without `since`, which selects by acceptance: a delivery is retried for days before it dies.
    let path = request.scope.api("deliveries").query("state", "dead").query_some("hook", hook);
    let found: List<Delivery> = request.api.get(&path.query("limit", MAX_READ)).await?;
    Ok(DeadLetters::of(found, Millis::now()))
}

impl DeadLetters {
    fn of(found: List<Delivery>, now: Millis) -> Self {
        let is_complete = found.next.is_none();
        let mut items = found.items;
        items.retain(|delivery| died(delivery).is_some_and(|died| now.since(died) <= MAX_AGE));
        items.sort_by_key(|delivery| std::cmp::Reverse(died(delivery)));
        DeadLetters { items, is_complete }
    }
}

/// Returns when a dead delivery died: at its last attempt, or, without one, when it was accepted.
pub fn died(delivery: &Delivery) -> Option<Millis> {
    let last = delivery.attempts.last().map_or(&delivery.accepted_time, |attempt| &attempt.time);
    Millis::parse(last)
}

/// Says that this many deliveries, to `to` if it is not empty, died recently: the deliveries, and what they became.
pub fn describe(number: u64, is_exact: bool, to: &str) -> (String, String) {
    let deliveries = match is_exact {
        true => plural(number, "delivery", "deliveries"),
        false => format!("At least {}", plural(number, "delivery", "deliveries")),
    };
    let became = if number == 1 && is_exact { "a dead letter" } else { "dead letters" };
    let to = if to.is_empty() { String::new() } else { format!(" to {to}") };
    (deliveries, format!("{to} became {became} in the last 24 hours"))
}

/// Counts dead letters in a few words: `2 dead letters in 24 h`.
pub fn short_count(number: u64, is_exact: bool) -> String {
    match is_exact {
        true => format!("{} in 24 h", plural(number, "dead letter", "dead letters")),
        false => format!("{} or more dead letters in 24 h", count(number)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn recent_means_died_recently_and_the_last_comes_first() {
        let dead = |id: &str, accepted: &str, last: &str| {
            json!({"id": id, "namespace": "n", "event": "e", "hook": "h", "state": "dead", "reason": "MaxAge",
                "acceptedTime": accepted, "nextAttemptTime": null, "held": null,
                "attempts": [{"time": last, "status": 503, "durationMs": 1, "error": "Status", "detail": null}]})
        };
        let found = json!({"continue": null, "items": [
            dead("newest", "2026-01-04T11:00:00Z", "2026-01-04T11:00:01Z"),
            dead("old", "2026-01-02T11:00:00Z", "2026-01-02T11:00:01Z"),
            dead("retried for days", "2026-01-01T11:30:00Z", "2026-01-04T11:30:00Z"),
        ]});
        let now = Millis::parse("2026-01-04T12:00:00Z").unwrap();
        let recent = DeadLetters::of(serde_json::from_value(found).unwrap(), now);
        let ids: Vec<&str> = recent.items.iter().map(|delivery| delivery.id.as_str()).collect();
        assert_eq!((ids, recent.is_complete), (vec!["retried for days", "newest"], true));
    }

    #[test]
    fn counts_are_named_with_their_hooks() {
        for (number, is_exact, to, want) in [
            (1, true, "warehouse", "1 delivery to warehouse became a dead letter in the last 24 hours"),
            (2, true, "", "2 deliveries became dead letters in the last 24 hours"),
            (10_000, false, "", "At least 10,000 deliveries became dead letters in the last 24 hours"),
        ] {
            let (deliveries, became) = describe(number, is_exact, to);
            assert_eq!(format!("{deliveries}{became}"), want);
        }
        assert_eq!(short_count(1, true), "1 dead letter in 24 h");
        assert_eq!(short_count(100, false), "100 or more dead letters in 24 h");
    }
}
