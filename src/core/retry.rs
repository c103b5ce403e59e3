//! What follows an attempt: success, another attempt and when, or the end.

use std::time::{Duration, SystemTime};

use super::time::Millis;

/// No receiver may make a delivery wait longer than this by `Retry-After`.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

/// The answers after which the same bytes cannot fare better.
pub const TERMINAL_STATUSES: [u16; 8] = [400, 405, 406, 413, 414, 415, 422, 431];

/// When a failed delivery is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub initial_backoff: Duration,
    pub max_backoff: Duration,
    pub max_age: Duration,
    pub max_attempts: Option<u32>,
    pub terminal_statuses: Vec<u16>,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            initial_backoff: Duration::from_secs(5),
            max_backoff: Duration::from_secs(6 * 3600),
            max_age: Duration::from_secs(72 * 3600),
            max_attempts: None,
            terminal_statuses: TERMINAL_STATUSES.to_vec(),
        }
    }
}

/// What an attempt brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// An answer, with the text of its `Retry-After`.
    Answer { status: u16, retry_after: Option<&'a str> },
    /// It is done, and there was nobody to answer.
    Done,
    /// No answer, for a reason that may pass.
    Failed,
    /// No attempt can succeed, for this stable reason.
    Hopeless(&'static str),
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Delivered,
    Retry { due: Millis },
    Dead { reason: &'static str },
}

/// A delivery's past, as far as it decides its future.
#[derive(Clone, Copy, Debug)]
pub struct Past {
    pub accepted: Millis,
    /// How many attempts were made, this one among them.
    pub attempts: u32,
}

impl Policy {
    /// Decides. `jitter` is a random number in `0.0..1.0`; times are given, so that this is tested without waiting.
    pub fn decide(&self, outcome: &Outcome<'_>, past: Past, now: Millis, jitter: f64) -> Next {
        let retry_after = match outcome {
            Outcome::Answer { status: 200..=299, .. } | Outcome::Done => return Next::Delivered,
            Outcome::Answer { status: 410, .. } => return Next::Dead { reason: "Gone" },
            Outcome::Answer { status, .. } if self.terminal_statuses.contains(status) => {
                return Next::Dead { reason: "TerminalStatus" };
            }
            Outcome::Hopeless(reason) => return Next::Dead { reason },
            Outcome::Answer { retry_after, .. } => retry_after.and_then(|text| parse_retry_after(text, now)),
            Outcome::Failed => None,
        };
        if self.max_attempts.is_some_and(|max| past.attempts >= max) {
            return Next::Dead { reason: "MaxAttempts" };
        }
        let wait = self.backoff(past.attempts, jitter).max(retry_after.unwrap_or_default());
        let due = now + wait;
        if due > past.accepted + self.max_age {
            return Next::Dead { reason: "MaxAge" };
        }
        Next::Retry { due }
    }

    /// Doubles from the first wait to the longest, then takes a random part of the upper half, so that deliveries that
    /// failed together do not come back together.
    fn backoff(&self, attempts: u32, jitter: f64) -> Duration {
        let doublings = attempts.saturating_sub(1).min(63);
        let factor = 1u64 << doublings.min(62);
        let millis =
            u64::try_from(self.initial_backoff.as_millis()).unwrap_or(u64::MAX).saturating_mul(factor);
        let full = Duration::from_millis(millis).min(self.max_backoff);
        full.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
    }
}

/// Seconds or an HTTP date; anything else counts as absent. Clamped to 24 h.
fn parse_retry_after(text: &str, now: Millis) -> Option<Duration> {
    let text = text.trim();
    let wait = if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
        // More digits than fit mean a very long time, not none.
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

    fn decide(outcome: Outcome<'_>, attempts: u32) -> Next {
        Policy::default().decide(&outcome, Past { accepted: NOW, attempts }, NOW, 1.0)
    }

    fn answer(status: u16, retry_after: Option<&str>) -> Outcome<'_> {
        Outcome::Answer { status, retry_after }
    }

    #[test]
    fn statuses() {
        for status in [200, 201, 202, 204, 299] {
            assert_eq!(decide(answer(status, None), 1), Next::Delivered, "{status}");
        }
        for status in TERMINAL_STATUSES {
            assert_eq!(decide(answer(status, None), 1), Next::Dead { reason: "TerminalStatus" }, "{status}");
        }
        for status in [301, 304, 401, 403, 404, 408, 425, 429, 500, 503, 599, 199, 999] {
            assert!(matches!(decide(answer(status, None), 1), Next::Retry { .. }), "{status}");
        }
        assert_eq!(decide(answer(410, None), 1), Next::Dead { reason: "Gone" });
        assert_eq!(decide(Outcome::Hopeless("EgressDenied"), 1), Next::Dead { reason: "EgressDenied" });
    }

    #[test]
    fn backoff_doubles_up_to_its_bound() {
        let waits: Vec<u64> = [1, 2, 3, 4, 13, 14, 40, 4_000_000]
            .into_iter()
            .map(|n| Policy::default().backoff(n, 1.0).as_secs())
            .collect();
        assert_eq!(waits, [5, 10, 20, 40, 20_480, 21_600, 21_600, 21_600]);
        assert_eq!(Policy::default().backoff(1, 0.0), Duration::from_millis(2500));
    }

    #[test]
    fn retry_after_wins_only_where_it_is_later() {
        let due = |text| match decide(answer(503, Some(text)), 1) {
            Next::Retry { due } => due.since(NOW).as_secs(),
            other => panic!("{other:?}"),
        };
        assert_eq!(due("1"), 5, "the backoff is later");
        assert_eq!(due("120"), 120);
        assert_eq!(due("Tue, 14 Nov 2023 22:15:20 GMT"), 120);
        // The two obsolete forms too, which a recipient must read (RFC 9110, 5.6.7).
        assert_eq!(due("Tuesday, 14-Nov-23 22:15:20 GMT"), 120);
        assert_eq!(due("Tue Nov 14 22:15:20 2023"), 120);
        assert_eq!(due("Tue, 14 Nov 2000 22:15:20 GMT"), 5, "in the past");
        for garbage in ["", "soon", "-5", "1e9", "12 34", "\u{7f}"] {
            assert_eq!(due(garbage), 5, "{garbage:?}");
        }
        assert_eq!(due("99999999999999999999999"), 24 * 3600, "clamped");
    }

    #[test]
    fn bounded_by_age_and_attempts() {
        let policy = Policy { max_attempts: Some(3), ..Policy::default() };
        let past = |attempts, age| Past { accepted: Millis(NOW.0 - age), attempts };
        let fail = Outcome::Failed;
        assert!(matches!(policy.decide(&fail, past(2, 0), NOW, 0.0), Next::Retry { .. }));
        assert_eq!(policy.decide(&fail, past(3, 0), NOW, 0.0), Next::Dead { reason: "MaxAttempts" });
        let old = 72 * 3600 * 1000 - 1000;
        assert_eq!(policy.decide(&fail, past(1, old), NOW, 0.0), Next::Dead { reason: "MaxAge" });
    }

    proptest! {
        #[test]
        fn a_retry_is_never_in_the_past_and_never_beyond_the_age(
            status in 0u16..1000, retry_after in proptest::option::of(".{0,40}"), attempts in 0u32..100_000,
            age in 0i64..400_000_000, jitter in 0.0f64..1.0,
        ) {
            let policy = Policy::default();
            let past = Past { accepted: Millis(NOW.0 - age), attempts };
            let outcome = Outcome::Answer { status, retry_after: retry_after.as_deref() };
            if let Next::Retry { due } = policy.decide(&outcome, past, NOW, jitter) {
                prop_assert!(due > NOW);
                prop_assert!(due <= past.accepted + policy.max_age);
            }
        }
    }
}
