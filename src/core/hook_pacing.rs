//! What limits a hook's attempts beside its concurrency: the breaker of its receiver and the tokens of its rate limit. Moves
//! along when another process takes the hook over.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::bucket::{Rate, TokenBucket};
use super::receiver_breaker::{BreakerSnapshot, OpenPause};
use super::time::Millis;

/// True if the tokens of this rate limit are recorded before they are used: less than one a minute. Otherwise they are recorded
/// when the hook leaves in order, and after a crash the next owner waits for an interval of less than a minute or so.
pub fn is_slow(rate: Rate) -> bool {
    rate.per_minute() < 1.0
}

/// The pacing of a hook. Times are on the steady clock of this machine.
#[derive(Clone, Debug, PartialEq)]
pub struct HookPacing {
    /// The generation of the hook whose attempts the breaker counts.
    pub generation: Option<i64>,
    pub breaker: BreakerSnapshot,
    /// None: the hook has no rate limit.
    pub bucket: Option<TokenBucket>,
}

/// What a process inherits from the former owner of a hook.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InheritedPacing {
    /// None: the breaker is closed and has counted no failure.
    pub pacing: Option<HookPacing>,
    /// Rate limits without a bucket had no tokens at this time, on the steady clock: the former owner ended without notice, and
    /// may have used all of them until then. None: they are full.
    pub empty_since: Option<Millis>,
}

/// Why a text is not the pacing of a hook.
#[derive(Debug, thiserror::Error)]
#[error("not the pacing of a hook: {0}")]
pub struct PacingError(#[from] serde_json::Error);

/// The stored form. Times are relative to a moment that the reader knows by its own clock.
#[derive(Serialize, Deserialize)]
struct Encoded {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    generation: Option<i64>,
    failed: u64,
    attempts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    open: Option<EncodedPause>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bucket: Option<EncodedBucket>,
}

#[derive(Serialize, Deserialize)]
struct EncodedPause {
    /// None: probes are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    probes_in_ms: Option<u64>,
    pause_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct EncodedBucket {
    requests: u32,
    interval_ms: u64,
    burst: u32,
    tokens: f64,
}

impl HookPacing {
    /// True if it limits nothing at `now`, so nothing is lost if it is forgotten.
    pub fn is_at_rest(&self, now: Millis) -> bool {
        self.breaker.open.is_none()
            && self.breaker.failed == 0
            && self.bucket.as_ref().is_none_or(|bucket| bucket.is_full(now))
    }

    /// Returns the tokens of a slow rate limit.
    pub fn slow_bucket(&self) -> Option<&TokenBucket> {
        self.bucket.as_ref().filter(|bucket| is_slow(bucket.rate()))
    }

    /// Returns the stored form, whose times are relative to `now`.
    pub fn encode(&self, now: Millis) -> Result<String, PacingError> {
        let open = self.breaker.open.map(|OpenPause { until, pause }| EncodedPause {
            probes_in_ms: until.map(|until| millis(until.since(now))),
            pause_ms: millis(pause),
        });
        let bucket = self.bucket.as_ref().map(|bucket| {
            let Rate { requests, interval, burst } = bucket.rate();
            EncodedBucket { requests, interval_ms: millis(interval), burst, tokens: bucket.tokens(now) }
        });
        let BreakerSnapshot { failed, attempts, .. } = self.breaker;
        let encoded = Encoded { generation: self.generation, failed, attempts, open, bucket };
        Ok(serde_json::to_string(&encoded)?)
    }

    /// Reads the stored form. `at`: when it was encoded, on the steady clock of this machine.
    pub fn decode(text: &str, at: Millis) -> Result<Self, PacingError> {
        let Encoded { generation, failed, attempts, open, bucket } = serde_json::from_str(text)?;
        let open = open.map(|EncodedPause { probes_in_ms, pause_ms }| OpenPause {
            until: probes_in_ms.map(|after| at + Duration::from_millis(after)),
            pause: Duration::from_millis(pause_ms),
        });
        let bucket = bucket.map(|EncodedBucket { requests, interval_ms, burst, tokens }| {
            let rate = Rate { requests, interval: Duration::from_millis(interval_ms), burst };
            TokenBucket::with_tokens(rate, tokens, at)
        });
        Ok(HookPacing { generation, breaker: BreakerSnapshot { failed, attempts, open }, bucket })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::receiver_breaker::{MAX_PAUSE_SILENT, ReceiverBreaker, ReceiverEvidence};

    fn pacing() -> impl Strategy<Value = HookPacing> {
        let open = prop::option::of((prop::option::of(0..10_000_i64), 0..700_000_u64)).prop_map(|open| {
            open.map(|(until, pause)| OpenPause {
                until: until.map(Millis),
                pause: Duration::from_millis(pause),
            })
        });
        let bucket = (1..500_u32, 1..100_000_u64, 1..50_u32, 0.0..60.0_f64).prop_map(
            |(requests, interval, burst, tokens)| {
                let rate = Rate { requests, interval: Duration::from_millis(interval), burst };
                TokenBucket::with_tokens(rate, tokens, Millis(5))
            },
        );
        (any::<Option<i64>>(), any::<u64>(), 0..=64_u32, open, prop::option::of(bucket)).prop_map(
            |(generation, failed, attempts, open, bucket)| HookPacing {
                generation,
                breaker: BreakerSnapshot { failed, attempts, open },
                bucket,
            },
        )
    }

    proptest! {
        /// The reader's clock has another origin, and time has passed. No token is gained and no pause is shorter.
        #[test]
        fn another_clock_reads_what_was_written(
            before in pacing(), now in 5..10_000_i64, origin in -50_000..50_000_i64, later in 0..100_000_i64,
        ) {
            let read = HookPacing::decode(&before.encode(Millis(now)).unwrap(), Millis(now + origin)).unwrap();
            prop_assert_eq!(read.generation, before.generation);
            prop_assert_eq!((read.breaker.failed, read.breaker.attempts), (before.breaker.failed, before.breaker.attempts));
            match (before.breaker.open, read.breaker.open) {
                (Some(written), Some(read)) => {
                    prop_assert_eq!(read.pause, written.pause);
                    let until = written.until.map(|until| Millis(until.0.max(now) + origin));
                    prop_assert_eq!(read.until, until);
                }
                (written, read) => prop_assert_eq!(written, read),
            }
            match (&before.bucket, &read.bucket) {
                (Some(written), Some(read)) => {
                    prop_assert_eq!(written.rate(), read.rate());
                    let at = Millis(now + later);
                    let difference = written.tokens(at) - read.tokens(Millis(at.0 + origin));
                    prop_assert!(difference.abs() < 1e-6, "{difference}");
                }
                (written, read) => prop_assert_eq!(written, read),
            }
        }

        /// Whatever the bytes are, a breaker that goes on with them pauses for a bounded time and sends probes then.
        #[test]
        fn foreign_bytes_never_block_a_hook(
            failed: u64, attempts: u32, until in prop::option::of(any::<u64>()), pause: u64, tokens: f64, burst: u32,
        ) {
            let until = until.map_or(String::new(), |until| format!("\"probes_in_ms\":{until},"));
            let tokens = if tokens.is_finite() { tokens } else { 0.0 };
            let text = format!(
                "{{\"failed\":{failed},\"attempts\":{attempts},\"open\":{{{until}\"pause_ms\":{pause}}},
                  \"bucket\":{{\"requests\":0,\"interval_ms\":0,\"burst\":{burst},\"tokens\":{tokens:e}}}}}"
            );
            let read = HookPacing::decode(&text, Millis(0)).unwrap();
            let mut breaker = ReceiverBreaker::default();
            breaker.restore(read.breaker, Millis(0));
            let report = breaker.report();
            prop_assert!(report.attempts <= 64 && report.failures <= report.attempts, "{report:?}");
            let permit = breaker.request_permit(Millis(0) + MAX_PAUSE_SILENT).unwrap();
            prop_assert!(permit.probe().is_some());
            breaker.record(permit, ReceiverEvidence::Healthy, Millis(0) + MAX_PAUSE_SILENT);
            prop_assert!(!breaker.is_open());
            prop_assert!(read.bucket.unwrap().tokens(Millis(0)) <= f64::from(burst.max(1)));
        }

        #[test]
        fn other_text_is_an_error(text: String) {
            let is_object = text.starts_with('{');
            prop_assert!(is_object || HookPacing::decode(&text, Millis(0)).is_err());
        }
    }

    #[test]
    fn limits_below_one_a_minute_are_slow() {
        let rate = |requests, seconds| Rate { requests, interval: Duration::from_secs(seconds), burst: 9 };
        let slow = [rate(1, 61), rate(1, 3600), rate(59, 3600)].map(is_slow);
        let fast = [rate(1, 60), rate(60, 3600), rate(1, 1), rate(0, 0)].map(is_slow);
        assert_eq!((slow, fast), ([true; 3], [false; 4]));
    }

    #[test]
    fn only_what_limits_attempts_is_not_at_rest() {
        let rate = Rate { requests: 1, interval: Duration::from_secs(10), burst: 2 };
        let full = HookPacing {
            generation: Some(1),
            breaker: BreakerSnapshot { failed: 0, attempts: 9, open: None },
            bucket: Some(TokenBucket::new(rate, Millis(0))),
        };
        assert!(full.is_at_rest(Millis(0)));
        let mut used = full.clone();
        used.bucket.as_mut().unwrap().try_take(Millis(0)).unwrap();
        assert!(!used.is_at_rest(Millis(9_000)) && used.is_at_rest(Millis(10_001)));
        let failures = BreakerSnapshot { failed: 1, attempts: 9, open: None };
        assert!(!HookPacing { breaker: failures, ..full }.is_at_rest(Millis(0)));
    }
}
