//! A delivery as a row of a table.

use std::time::Duration;

use serde::Deserialize;

use crate::cli::output::{short_duration, strip_control_chars};
use crate::core::time::Millis;

/// A delivery of the worker's response, with the members that tables show.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryRow {
    pub id: String,
    /// Absent in responses of older workers.
    #[serde(default)]
    namespace: String,
    event: String,
    hook: String,
    state: String,
    reason: Option<String>,
    accepted_time: String,
    attempts: Vec<AttemptRow>,
    next_attempt_time: Option<String>,
    /// Absent in responses of older workers.
    #[serde(default)]
    held: Option<HeldRow>,
}

#[derive(Deserialize)]
struct AttemptRow {
    status: Option<u16>,
    error: Option<String>,
    detail: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeldRow {
    reason: String,
    next_probe_time: Option<String>,
}

/// State, number of attempts, reason, and reason of the hold.
pub type Fingerprint = (String, usize, Option<String>, Option<String>);

/// All columns: the namespace, the usual ones, and those of a wide table.
const HEADER: [&str; 11] =
    ["NAMESPACE", "AGE", "HOOK", "EVENT", "STATE", "WHY", "ATTEMPTS", "NEXT", "ID", "ACCEPTED", "DETAIL"];

/// The columns that a table shows.
#[derive(Clone, Copy, Debug)]
pub struct Columns {
    skipped: usize,
    shown: usize,
}

impl Columns {
    /// `with_namespace`: the list is of all namespaces.
    pub fn of(with_namespace: bool, is_wide: bool) -> Self {
        let skipped = usize::from(!with_namespace);
        let end = if is_wide { HEADER.len() } else { HEADER.len() - 2 };
        Columns { skipped, shown: end - skipped }
    }

    pub fn header(self) -> Vec<String> {
        HEADER.iter().skip(self.skipped).take(self.shown).map(ToString::to_string).collect()
    }

    pub fn cells(self, row: &DeliveryRow, now: Millis) -> Vec<String> {
        row.cells(now).into_iter().skip(self.skipped).take(self.shown).collect()
    }
}

impl DeliveryRow {
    fn cells(&self, now: Millis) -> [String; 11] {
        let age = self.accepted().map(|at| short_duration(now.since(at)));
        let detail = self.attempts.last().and_then(|last| last.detail.as_deref()).unwrap_or_default();
        [
            self.namespace.as_str(),
            &age.unwrap_or_default(),
            &self.hook,
            &self.event,
            &self.state,
            &self.why(now),
            &self.attempts.len().to_string(),
            &self.next(now),
            &self.id,
            &self.accepted_time,
            detail,
        ]
        .map(strip_control_chars)
    }

    pub fn accepted(&self) -> Option<Millis> {
        Millis::parse(&self.accepted_time)
    }

    /// Returns what `--follow` compares: two deliveries with equal values have not changed.
    pub fn fingerprint(&self) -> Fingerprint {
        let held = self.held.as_ref().map(|held| held.reason.clone());
        (self.state.clone(), self.attempts.len(), self.reason.clone(), held)
    }

    /// Why the delivery is in its state, in a few words.
    fn why(&self, now: Millis) -> String {
        let answer = self.last_answer();
        match (self.state.as_str(), &self.held, &self.reason) {
            ("pending", Some(held), _) => match held.next_probe(now) {
                Some(wait) => format!("held: {}, probe in {}", held.reason, short_duration(wait)),
                None => format!("held: {}", held.reason),
            },
            (_, _, Some(reason)) if answer.is_empty() => reason.clone(),
            (_, _, Some(reason)) => format!("{reason}: {answer}"),
            _ => answer,
        }
    }

    /// Returns the status or the error of the last attempt.
    fn last_answer(&self) -> String {
        match self.attempts.last() {
            Some(AttemptRow { status: Some(status), .. }) => status.to_string(),
            Some(AttemptRow { error: Some(error), .. }) => error.clone(),
            _ => String::new(),
        }
    }

    /// When the next attempt is made: never in the past, and empty if it is unknown.
    fn next(&self, now: Millis) -> String {
        let due = self.next_attempt_time.as_deref().and_then(Millis::parse);
        let Some(due) = due.filter(|_| self.state == "pending") else { return String::new() };
        let wait = match &self.held {
            None => Some(due.since(now)),
            Some(held) => held.next_probe(now).map(|wait| wait.max(due.since(now))),
        };
        match wait {
            None => String::new(),
            Some(Duration::ZERO) => "now".into(),
            Some(wait) => short_duration(wait),
        }
    }
}

impl HeldRow {
    fn next_probe(&self, now: Millis) -> Option<Duration> {
        let at = self.next_probe_time.as_deref().and_then(Millis::parse);
        at.map(|at| at.since(now)).filter(|wait| !wait.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: Millis = Millis(1_700_000_000_000);

    fn cells(more: Value) -> Vec<String> {
        let mut value = json!({"id": "01", "namespace": "shop", "event": "order-1\u{1b}[31m", "hook": "h", "state": "pending", "reason": null,
            "acceptedTime": Millis(NOW.0 - 180_000).rfc3339(), "attempts": [], "nextAttemptTime": null});
        for (name, member) in more.as_object().unwrap() {
            value[name] = member.clone();
        }
        let row = serde_json::from_value::<DeliveryRow>(value).unwrap();
        let [usual, of_all, wide] = [(false, false), (true, false), (true, true)]
            .map(|(with_namespace, is_wide)| Columns::of(with_namespace, is_wide));
        assert_eq!(of_all.cells(&row, NOW), [&["shop".to_owned()], &usual.cells(&row, NOW)[..]].concat());
        assert_eq!(wide.cells(&row, NOW).len(), wide.header().len());
        usual.cells(&row, NOW)
    }

    #[test]
    fn says_why_and_when() {
        let at = |seconds: i64| Millis(NOW.0 + seconds * 1000).rfc3339();
        let failed = json!([{"status": 503, "error": "Status", "detail": null}]);
        let timeout = json!([{"status": null, "error": "Timeout", "detail": null}]);
        let held = |probe: Option<String>| json!({"reason": "ReceiverFailing", "nextProbeTime": probe});
        for (more, why, next) in [
            (json!({"nextAttemptTime": at(-5)}), "", "now"),
            (json!({"nextAttemptTime": at(300), "attempts": failed}), "503", "5m"),
            (json!({"nextAttemptTime": at(-5), "attempts": timeout}), "Timeout", "now"),
            (
                json!({"nextAttemptTime": at(-5), "attempts": failed, "held": held(Some(at(40)))}),
                "held: ReceiverFailing, probe in 40s",
                "40s",
            ),
            (
                json!({"nextAttemptTime": at(90), "held": held(Some(at(40)))}),
                "held: ReceiverFailing, probe in 40s",
                "90s",
            ),
            (json!({"nextAttemptTime": at(-5), "held": held(Some(at(-1)))}), "held: ReceiverFailing", ""),
            (json!({"nextAttemptTime": at(90), "held": {"reason": "Paused"}}), "held: Paused", ""),
            (
                json!({"state": "dead", "reason": "TerminalStatus", "attempts": failed}),
                "TerminalStatus: 503",
                "",
            ),
            (json!({"state": "dropped", "reason": "Snoozed"}), "Snoozed", ""),
            (json!({"state": "delivered", "attempts": [{"status": 200}]}), "200", ""),
        ] {
            let cells = cells(more.clone());
            assert_eq!((&*cells[4], &*cells[6]), (why, next), "{more}");
        }
        assert_eq!(cells(json!({}))[..3], ["3m", "h", "order-1 [31m"]);
    }
}
