//! The receiver of a dead delivery: whether it answers again, and whether the retries ended before it did.

use maud::{Markup, html};

use crate::console::model::{Attempt, Delivery, HookDetail, List};
use crate::console::request::PageRequest;
use crate::console::view::{count, duration, plural, prose};
use crate::core::time::Millis;

/// The reasons of deliveries that died of what the receiver answered, or because it did not answer.
const CAUSED_BY_RECEIVER: [&str; 4] = ["MaxAttempts", "MaxAge", "Gone", "TerminalStatus"];
/// The most delivered deliveries of the hook that are read.
const MAX_READ: &str = "100";

/// What is known of the receiver of a dead delivery.
pub struct Receiver {
    hook: HookDetail,
    /// The attempts since the last replay, as far as the hook's `maxAttempts` shows which these are.
    attempts: usize,
    first_attempt: Millis,
    last_attempt: Millis,
    successes: Successes,
}

/// The successes of the hook's other deliveries.
#[derive(Debug, Default, PartialEq, Eq)]
struct Successes {
    /// Between the first and the last attempt of the dead delivery.
    during: u64,
    after: u64,
    first_after: Option<Millis>,
    last_after: Option<Millis>,
    /// True if all successes since the first attempt are counted.
    is_complete: bool,
}

impl Receiver {
    /// Reads what is known of a dead delivery's receiver. None: the delivery died of something else, the hook does not exist any
    /// more, or it cannot be read.
    pub async fn read(request: &PageRequest, delivery: &Delivery) -> Option<Self> {
        delivery.reason.as_deref().filter(|reason| CAUSED_BY_RECEIVER.contains(reason))?;
        let hook = request.api.get(&request.scope.api("hooks").segment(&delivery.hook)).await.ok()?;
        let path = request.scope.api("deliveries").query("hook", &delivery.hook).query("state", "delivered");
        let delivered = request.api.get(&path.query("limit", MAX_READ)).await.ok()?;
        Receiver::new(hook, delivery, &delivered)
    }

    fn new(hook: HookDetail, delivery: &Delivery, delivered: &List<Delivery>) -> Option<Self> {
        let all = delivery.attempts.as_slice();
        let limit = match delivery.reason.as_deref() {
            Some("MaxAttempts") => retry_setting(&hook, "maxAttempts").and_then(|limit| limit.parse().ok()),
            _ => None,
        };
        // Earlier ones are from before a replay.
        let attempts = all.get(all.len().saturating_sub(limit.unwrap_or(usize::MAX))..)?;
        let time = |attempt: &Attempt| Millis::parse(&attempt.time);
        let (first_attempt, last_attempt) = (time(attempts.first()?)?, time(attempts.last()?)?);
        let successes = Successes::of(delivered, first_attempt, last_attempt);
        Some(Receiver { attempts: attempts.len(), first_attempt, last_attempt, successes, hook })
    }

    /// Returns the host of the receiver.
    pub fn host(&self) -> Option<String> {
        self.hook.hook.host.clone()
    }

    /// Says whether the receiver answers again, and what to do.
    pub fn outlook(&self, delivery: &Delivery) -> String {
        let Successes { after, first_after, last_after, is_complete, .. } = self.successes;
        let state = self.hook.hook.state.as_str();
        let breaker = self.hook.breaker.as_ref();
        // This worker or another one may have seen a success whose delivery is not in the history any more.
        let reported = self.hook.hook.last_success_time.as_deref().and_then(Millis::parse);
        let last_success = reported.filter(|at| *at > self.last_attempt).max(last_after);
        match (state, last_success) {
            ("paused" | "held" | "deleting", _) => {
                format!("The hook is {state}: a replay stays pending until the hook delivers again.")
            }
            (_, success) if delivery.reason.as_deref() == Some("TerminalStatus") => {
                let accepted = success.map(|at| format!(" It has accepted others since, the last at {}.", at.rfc3339()));
                let accepted = accepted.unwrap_or_default();
                format!("The receiver refused this delivery: correct the cause, then replay it.{accepted}")
            }
            (_, success) if state == "failing" || breaker.is_some() => {
                let probe = breaker.and_then(|breaker| breaker.next_probe_time.as_deref());
                let probe = probe.map(|at| format!(" The next probe is sent at {at}.")).unwrap_or_default();
                match success {
                    None => format!("The receiver still fails: replay this delivery when it answers.{probe}"),
                    Some(at) => format!(
                        "The receiver answered again, the last time at {}, but fails now: replay this delivery when it answers.{probe}",
                        at.rfc3339()
                    ),
                }
            }
            (_, None) => "No other delivery of the hook has arrived since, so it is unknown whether the receiver answers again: \
                          a test of the hook or a replay shows it."
                .to_owned(),
            (_, Some(last)) => match first_after.filter(|_| is_complete) {
                Some(first) => format!(
                    "The receiver has answered again since {} ({} delivered): replay this delivery.",
                    first.rfc3339(),
                    count(after)
                ),
                None => format!(
                    "The receiver has answered again, the last time at {}: replay this delivery.",
                    last.rfc3339()
                ),
            },
        }
    }

    /// Says how long the retries and the receiver's failure lasted, and which setting makes retries last longer. None: the
    /// delivery did not die because its retries ended.
    pub fn retries(&self, delivery: &Delivery) -> Option<Markup> {
        let setting = match delivery.reason.as_deref()? {
            "MaxAttempts" => "maxAttempts",
            "MaxAge" => "maxAge",
            _ => return None,
        };
        Some(html! {
            p { (prose(&self.lengths())) }
            @if self.successes.during == 0 {
                p {
                    "Retries last longer with a higher " code { "delivery.retry." (setting) }
                    @if let Some(value) = retry_setting(&self.hook, setting) { " (now " (value) ")" }
                    @if setting == "maxAttempts" {
                        ", or without it until " code { "delivery.retry.maxAge" } ", and with a longer " code { "initialBackoff" } " and " code { "maxBackoff" }
                    }
                    " in the EventHook."
                }
            }
        })
    }

    /// Says how long the retries and the receiver's failure lasted.
    fn lengths(&self) -> String {
        let (first, last) = (self.first_attempt, self.last_attempt);
        let elapsed = |to: Millis| duration(u64::try_from(to.since(first).as_millis()).unwrap_or(u64::MAX));
        let mut text = match self.attempts {
            1 => format!("Its only attempt was at {}.", last.rfc3339()),
            number => {
                let lasted = elapsed(last);
                format!("Its {number} attempts were made within {lasted}, the last at {}.", last.rfc3339())
            }
        };
        let Successes { during, first_after, is_complete, .. } = self.successes;
        if during > 0 {
            let others = plural(during, "other delivery of the hook", "other deliveries of the hook");
            text.push_str(&format!(" Meanwhile {others} arrived, so the cause may be this event."));
        } else if let Some(success) = first_after.filter(|_| is_complete) {
            let failed = elapsed(success);
            text.push_str(&format!(
                " The receiver failed for up to {failed}, until {}: the retries were too short for that.",
                success.rfc3339()
            ));
        }
        text
    }
}

impl Successes {
    /// Counts the successes of delivered deliveries, of which a list has the newest.
    fn of(delivered: &List<Delivery>, first_attempt: Millis, last_attempt: Millis) -> Self {
        // Deliveries are listed by acceptance: one that was accepted before the first attempt ends the relevant part.
        let oldest = delivered.items.last().and_then(|delivery| Millis::parse(&delivery.accepted_time));
        let mut successes = Successes {
            is_complete: delivered.next.is_none() || oldest.is_some_and(|oldest| oldest < first_attempt),
            ..Successes::default()
        };
        let last_attempts = delivered.items.iter().filter_map(|delivery| delivery.attempts.last());
        for at in last_attempts.filter_map(|attempt| Millis::parse(&attempt.time)) {
            if at > last_attempt {
                successes.after += 1;
                successes.first_after = Some(successes.first_after.map_or(at, |first| first.min(at)));
                successes.last_after = successes.last_after.max(Some(at));
            } else if at >= first_attempt {
                successes.during += 1;
            }
        }
        successes
    }
}

/// Returns a setting of the hook's `delivery.retry`, if it is set.
fn retry_setting(hook: &HookDetail, name: &str) -> Option<String> {
    match hook.spec.as_ref()?.pointer("/delivery/retry")?.get(name)? {
        serde_json::Value::String(text) => Some(text.clone()),
        serde_json::Value::Null => None,
        number => Some(number.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A delivery with attempts at these seconds of the day.
    fn delivery(state: &str, reason: Option<&str>, accepted: u32, attempts: &[u32]) -> Value {
        let attempts: Vec<Value> = attempts
            .iter()
            .map(|at| {
                json!({"time": time(*at), "status": 503, "durationMs": 1, "detail": null,
                    "error": (state == "dead").then_some("Status")})
            })
            .collect();
        json!({"id": "i", "namespace": "n", "event": "e", "hook": "h", "state": state, "reason": reason,
            "acceptedTime": time(accepted), "nextAttemptTime": null, "held": null, "attempts": attempts})
    }

    fn time(seconds: u32) -> String {
        Millis(1_700_000_000_000 + i64::from(seconds) * 1000).rfc3339()
    }

    fn hook(state: &str, more: Value) -> HookDetail {
        let mut hook = json!({"namespace": "n", "name": "h", "state": state, "reason": "", "message": "", "conditions": [],
            "timeline": [], "spec": {"delivery": {"retry": {"maxAttempts": 3}}}});
        hook.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(hook).unwrap()
    }

    fn dead(reason: &str) -> Delivery {
        serde_json::from_value(delivery("dead", Some(reason), 0, &[0, 1, 4])).unwrap()
    }

    /// Deliveries that were accepted and delivered at these seconds. `next`: there are older ones.
    fn delivered(seconds: &[u32], next: Option<&str>) -> List<Delivery> {
        let items: Vec<Value> = seconds.iter().map(|at| delivery("delivered", None, *at, &[*at])).collect();
        serde_json::from_value(json!({"items": items, "continue": next})).unwrap()
    }

    fn receiver(state: &str, more: Value, delivered: &List<Delivery>) -> Receiver {
        Receiver::new(hook(state, more), &dead("MaxAttempts"), delivered).unwrap()
    }

    #[test]
    fn outlook_says_whether_the_receiver_answers_again() {
        let probe = json!({"breaker": {"state": "open", "failures": 3, "attempts": 3, "pauseMs": 5, "nextProbeTime": time(90)}});
        let late = json!({"lastSuccessTime": time(50)});
        let early = json!({"lastSuccessTime": time(2)});
        let (none, many) = (delivered(&[], None), delivered(&[700, 650, 604], None));
        let busy = delivered(&[700, 650], Some("x"));
        for (state, more, list, want) in [
            (
                "delivering",
                json!({}),
                &many,
                format!("has answered again since {} (3 delivered): replay", time(604)),
            ),
            (
                "delivering",
                json!({}),
                &busy,
                format!("has answered again, the last time at {}: replay", time(700)),
            ),
            (
                "delivering",
                late.clone(),
                &none,
                format!("has answered again, the last time at {}: replay", time(50)),
            ),
            ("idle", early, &none, "unknown whether the receiver answers again".to_owned()),
            ("failing", json!({}), &none, "still fails: replay this delivery when it answers.".to_owned()),
            (
                "failing",
                probe,
                &many,
                format!(
                    "the last time at {}, but fails now: replay this delivery when it answers. The next probe is sent at {}.",
                    time(700),
                    time(90)
                ),
            ),
            ("paused", late, &none, "The hook is paused: a replay stays pending".to_owned()),
        ] {
            let found = receiver(state, more, list).outlook(&dead("MaxAttempts"));
            assert!(found.contains(&want), "{state}: {found}, not {want}");
        }
        let refused = receiver("delivering", json!({}), &many).outlook(&dead("TerminalStatus"));
        assert!(refused.contains("refused this delivery: correct the cause"), "{refused}");
        assert!(
            refused.contains(&format!("It has accepted others since, the last at {}.", time(700))),
            "{refused}"
        );
    }

    #[test]
    fn retries_that_were_too_short_name_their_setting() {
        let text = |delivered: &List<Delivery>| {
            receiver("delivering", json!({}), delivered).retries(&dead("MaxAttempts")).unwrap().into_string()
        };
        let known = text(&delivered(&[700, 604], None));
        for part in [
            "Its 3 attempts were made within 4.0 s, the last at",
            "The receiver failed for up to 10 min 4 s, until",
            "the retries were too short for that.",
            "<code>delivery.retry.maxAttempts</code> (now 3)",
        ] {
            assert!(known.contains(part), "{part}: {known}");
        }
        // A busy hook: it is unknown when its first success was.
        let busy = text(&delivered(&[700, 604], Some("x")));
        assert!(!busy.contains("failed for") && busy.contains("maxAttempts"), "{busy}");
        // Another delivery arrived between the attempts, so longer retries may not help.
        let other = text(&delivered(&[700, 2], None));
        assert!(other.contains("Meanwhile 1 other delivery of the hook arrived"), "{other}");
        assert!(!other.contains("failed for") && !other.contains("maxAttempts"), "{other}");
        assert!(receiver("delivering", json!({}), &delivered(&[], None)).retries(&dead("Gone")).is_none());
    }

    #[test]
    fn attempts_before_a_replay_do_not_count() {
        let replayed = delivery("dead", Some("MaxAttempts"), 0, &[0, 1, 2, 3600, 3601, 3604]);
        let replayed: Delivery = serde_json::from_value(replayed).unwrap();
        let found =
            Receiver::new(hook("delivering", json!({})), &replayed, &delivered(&[1800], None)).unwrap();
        let text = found.lengths();
        assert!(text.starts_with("Its 3 attempts were made within 4.0 s"), "{text}");
        assert_eq!((found.successes.during, found.successes.after), (0, 0));
    }
}
