//! Decides the next step after an attempt: delivered, another attempt at a given time, or dead.

use std::time::{Duration, SystemTime};

use super::delivery_reason::DeliveryReason;
use super::time::Millis;

/// The longest delay that a receiver can request by `Retry-After`.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Default statuses after which a repeated request would fail again.
pub const TERMINAL_STATUSES: [u16; 8] = [400, 405, 406, 413, 414, 415, 422, 431];

/// When and how often a failed delivery is retried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    pub initial_backoff: Duration,
    pub max_backoff: Duration,
    pub max_age: Duration,
    pub max_attempts: Option<u32>,
    pub terminal_statuses: Vec<u16>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy {
            initial_backoff: Duration::from_secs(5),
            max_backoff: Duration::from_secs(6 * 3600),
            max_age: Duration::from_secs(72 * 3600),
            max_attempts: None,
            terminal_statuses: TERMINAL_STATUSES.to_vec(),
        }
    }
}

/// The outcome of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptOutcome<'a> {
    /// The receiver responded. `retry_after` is the text of that header.
    Response { status: u16, retry_after: Option<&'a str> },
    /// The handler succeeded, and there is no receiver that responds.
    Completed,
    /// No response, for a reason that may be temporary.
    Failed,
    /// No attempt can succeed. Holds the delivery reason.
    Unrecoverable(DeliveryReason),
}

/// The next step of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextStep {
    Delivered,
    Retry { due: Millis },
    Dead { reason: DeliveryReason },
}

/// The state of a delivery that retry decisions depend on.
#[derive(Clone, Copy, Debug)]
pub struct RetryState {
    pub accepted: Millis,
    /// Number of attempts so far, including the current one.
    pub attempts: u32,
}

impl RetryPolicy {
    /// Decides the next step after an attempt. `jitter` is a random number in `0.0..1.0`.
    pub fn decide(
        &self,
        outcome: &AttemptOutcome<'_>,
        past: RetryState,
        now: Millis,
        jitter: f64,
    ) -> NextStep {
        let retry_after = match outcome {
            AttemptOutcome::Response { status: 200..=299, .. } | AttemptOutcome::Completed => {
                return NextStep::Delivered;
            }
            AttemptOutcome::Response { status: 410, .. } => {
                return NextStep::Dead { reason: DeliveryReason::Gone };
            }
            AttemptOutcome::Response { status, .. } if self.terminal_statuses.contains(status) => {
                return NextStep::Dead { reason: DeliveryReason::TerminalStatus };
            }
            AttemptOutcome::Unrecoverable(reason) => return NextStep::Dead { reason: *reason },
            AttemptOutcome::Response { retry_after, .. } => {
                retry_after.and_then(|text| parse_retry_after(text, now))
            }
            AttemptOutcome::Failed => None,
        };
        if self.max_attempts.is_some_and(|max| past.attempts >= max) {
            return NextStep::Dead { reason: DeliveryReason::MaxAttempts };
        }
        let wait = self.backoff(past.attempts, jitter).max(retry_after.unwrap_or_default());
        let due = now + wait;
        if due > past.accepted + self.max_age {
            return NextStep::Dead { reason: DeliveryReason::MaxAge };
        }
        NextStep::Retry { due }
    }

    /// Doubles the delay for each attempt up to `max_backoff`, then picks a random delay between half and all of it.
    /// Without this jitter, deliveries that failed together would be retried together.
    fn backoff(&self, attempts: u32, jitter: f64) -> Duration {
        let doublings = attempts.saturating_sub(1).min(63);
        let factor = 1u64 << doublings.min(62);
        let millis =
            u64::try_from(self.initial_backoff.as_millis()).unwrap_or(u64::MAX).saturating_mul(factor);
        let full = Duration::from_millis(millis).min(self.max_backoff);
        full.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
    }
}

/// Parses seconds or an HTTP date. Returns `None` for other texts. The result is at most `MAX_RETRY_AFTER`.
fn parse_retry_after(text: &str, now: Millis) -> Option<Duration> {
    let text = text.trim();
    let wait = if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
        // A number that overflows means a very long delay, not an absent header.
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        let date = httpdate::parse_http_date(text).ok()?;
        let millis = date.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_millis();
        Millis(i64::try_from(millis).unwrap_or(i64::MAX)).since(now)
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Millis = Millis(1_700_000_000_000);

    fn decide(outcome: AttemptOutcome<'_>, attempts: u32) -> NextStep {
        RetryPolicy::default().decide(&outcome, RetryState { accepted: NOW, attempts }, NOW, 1.0)
    }

    fn answer(status: u16, retry_after: Option<&str>) -> AttemptOutcome<'_> {
        AttemptOutcome::Response { status, retry_after }
    }

    #[test]
    fn classifies_statuses() {
        for status in [200, 201, 202, 204, 299] {
            assert_eq!(decide(answer(status, None), 1), NextStep::Delivered, "{status}");
        }
        for status in TERMINAL_STATUSES {
            assert_eq!(
                decide(answer(status, None), 1),
                NextStep::Dead { reason: DeliveryReason::TerminalStatus },
                "{status}"
            );
        }
        for status in [301, 304, 401, 403, 404, 408, 425, 429, 500, 503, 599, 199, 999] {
            assert!(matches!(decide(answer(status, None), 1), NextStep::Retry { .. }), "{status}");
        }
        assert_eq!(decide(answer(410, None), 1), NextStep::Dead { reason: DeliveryReason::Gone });
        assert_eq!(
            decide(AttemptOutcome::Unrecoverable(DeliveryReason::EgressDenied), 1),
            NextStep::Dead { reason: DeliveryReason::EgressDenied }
        );
    }

    #[test]
    fn backoff_doubles_up_to_limit() {
        let waits: Vec<u64> = [1, 2, 3, 4, 13, 14, 40, 4_000_000]
            .into_iter()
            .map(|n| RetryPolicy::default().backoff(n, 1.0).as_secs())
            .collect();
        assert_eq!(waits, [5, 10, 20, 40, 20_480, 21_600, 21_600, 21_600]);
        assert_eq!(RetryPolicy::default().backoff(1, 0.0), Duration::from_millis(2500));
    }

    #[test]
    fn retry_after_applies_only_if_later_than_backoff() {
        let due = |text| match decide(answer(503, Some(text)), 1) {
            NextStep::Retry { due } => due.since(NOW).as_secs(),
            other => panic!("{other:?}"),
        };
        assert_eq!(due("1"), 5, "the backoff is later");
        assert_eq!(due("120"), 120);
        assert_eq!(due("Tue, 14 Nov 2023 22:15:20 GMT"), 120);
        // A recipient must accept the two obsolete date formats too (RFC 9110, 5.6.7).
        assert_eq!(due("Tuesday, 14-Nov-23 22:15:20 GMT"), 120);
        assert_eq!(due("Tue Nov 14 22:15:20 2023"), 120);
        assert_eq!(due("Tue, 14 Nov 2000 22:15:20 GMT"), 5, "in the past");
        for garbage in ["", "soon", "-5", "1e9", "12 34", "\u{7f}"] {
            assert_eq!(due(garbage), 5, "{garbage:?}");
        }
        assert_eq!(due("99999999999999999999999"), 24 * 3600, "clamped");
    }

    #[test]
    fn dies_at_max_age_or_max_attempts() {
        let policy = RetryPolicy { max_attempts: Some(3), ..RetryPolicy::default() };
        let past = |attempts, age| RetryState { accepted: Millis(NOW.0 - age), attempts };
        let fail = AttemptOutcome::Failed;
        assert!(matches!(policy.decide(&fail, past(2, 0), NOW, 0.0), NextStep::Retry { .. }));
        assert_eq!(
            policy.decide(&fail, past(3, 0), NOW, 0.0),
            NextStep::Dead { reason: DeliveryReason::MaxAttempts }
        );
        let old = 72 * 3600 * 1000 - 1000;
        assert_eq!(
            policy.decide(&fail, past(1, old), NOW, 0.0),
            NextStep::Dead { reason: DeliveryReason::MaxAge }
        );
    }

    proptest! {
        #[test]
        fn retry_is_after_now_and_within_max_age(
            status in 0u16..1000, retry_after in proptest::option::of(".{0,40}"), attempts in 0u32..100_000,
            age in 0i64..400_000_000, jitter in 0.0f64..1.0,
        ) {
            let policy = RetryPolicy::default();
            let past = RetryState { accepted: Millis(NOW.0 - age), attempts };
            let outcome = AttemptOutcome::Response { status, retry_after: retry_after.as_deref() };
            if let NextStep::Retry { due } = policy.decide(&outcome, past, NOW, jitter) {
                prop_assert!(due > NOW);
                prop_assert!(due <= past.accepted + policy.max_age);
            }
        }
    }
}
