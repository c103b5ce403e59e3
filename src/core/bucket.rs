//! A token bucket: limits requests to a rate with bursts.

use std::num::NonZeroU32;
use std::time::Duration;

use super::time::Millis;

/// A request rate: `requests` per `interval`, with bursts of up to `burst`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub requests: u32,
    pub interval: Duration,
    pub burst: u32,
}

/// High granted rates are used in bursts of this many a minute: one timer for each request could not keep up with them.
const BURSTS_PER_MINUTE: u32 = 600;

impl Rate {
    /// Returns the time between two requests at this rate.
    fn interval_of_one(self) -> Duration {
        self.interval.max(Duration::from_millis(1)) / self.requests.max(1)
    }

    /// Returns the requests a minute in the long run.
    pub fn per_minute(self) -> f64 {
        f64::from(self.requests.max(1)) * 60.0 / self.interval.as_secs_f64().max(0.001)
    }

    /// Returns the rate that uses up a grant and never exceeds it in any minute, bursts included.
    fn of_grant(granted: NonZeroU32) -> Rate {
        let burst = (granted.get() / BURSTS_PER_MINUTE).max(1);
        Rate { requests: granted.get() - (burst - 1), interval: Duration::from_secs(60), burst }
    }

    /// Returns the highest rate that obeys both `limit` and a number of requests in any minute.
    pub fn within(limit: Option<Rate>, granted: NonZeroU32) -> Rate {
        let most = Rate::of_grant(granted);
        match limit {
            Some(limit) if limit.per_minute() < most.per_minute() => {
                // The burst comes on top of the steady requests of its minute. The cast saturates.
                let spare = (f64::from(granted.get()) - limit.per_minute()).floor() as u32;
                Rate { burst: limit.burst.min(spare).max(1), ..limit }
            }
            Some(limit) => Rate { burst: most.burst.min(limit.burst).max(1), ..most },
            None => most,
        }
    }
}

/// A token bucket. All times are arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenBucket {
    rate: Rate,
    tokens: f64,
    at: Millis,
}

impl TokenBucket {
    /// Creates a full bucket.
    pub fn new(rate: Rate, now: Millis) -> Self {
        TokenBucket { rate, tokens: f64::from(rate.burst), at: now }
    }

    /// Creates a bucket that had this many tokens at the time `at`.
    pub fn with_tokens(rate: Rate, tokens: f64, at: Millis) -> Self {
        // A NaN, which only foreign bytes can have, becomes 0.
        TokenBucket { rate, tokens: tokens.max(0.0).min(f64::from(rate.burst.max(1))), at }
    }

    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Returns the number of tokens at `now`.
    pub fn tokens(&self, now: Millis) -> f64 {
        let refilled = now.since(self.at).as_secs_f64() / self.seconds_per_token();
        (self.tokens + refilled).min(f64::from(self.rate.burst.max(1)))
    }

    fn seconds_per_token(&self) -> f64 {
        self.rate.interval.as_secs_f64().max(0.001) / f64::from(self.rate.requests.max(1))
    }

    /// Returns when a token will be available: `now` or later.
    pub fn ready_at(&self, now: Millis) -> Millis {
        self.clone().try_take(now).err().unwrap_or(now)
    }

    /// Returns true if the bucket has refilled completely.
    pub fn is_full(&self, now: Millis) -> bool {
        let refilled =
            now.since(self.at).as_secs_f64() / self.token_interval().as_secs_f64().max(f64::MIN_POSITIVE);
        self.tokens + refilled >= f64::from(self.rate.burst.max(1))
    }

    /// Returns the time between two tokens.
    pub fn token_interval(&self) -> Duration {
        self.rate.interval_of_one()
    }

    /// Takes one token. If there is none, returns the time at which one will be available.
    pub fn try_take(&mut self, now: Millis) -> Result<(), Millis> {
        self.tokens = self.tokens(now);
        self.at = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        // At least one millisecond, so that a caller that waits until then does not spin.
        Err(now
            + Duration::from_secs_f64((1.0 - self.tokens) * self.seconds_per_token())
                .max(Duration::from_millis(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn never_exceeds_rate_plus_burst(
            requests in 1u32..200, seconds in 1u64..20, burst in 1u32..50,
            waits in proptest::collection::vec(0i64..500, 1..500),
        ) {
            let interval = Duration::from_secs(seconds);
            let mut bucket = TokenBucket::new(Rate { requests, interval, burst }, Millis(0));
            let (mut now, mut taken) = (0, 0u32);
            for wait in waits {
                now += wait;
                taken += u32::from(bucket.try_take(Millis(now)).is_ok());
            }
            let limit = f64::from(burst) + now as f64 / 1000.0 * f64::from(requests) / interval.as_secs_f64();
            prop_assert!(f64::from(taken) <= limit + 1e-6, "{taken} of {limit}");
        }

        #[test]
        fn no_minute_exceeds_a_grant(
            granted in prop_oneof![1u32..20, 1u32..2000],
            limit in proptest::option::of((1u32..200, 1u64..200, 1u32..300)),
            waits in proptest::collection::vec(0i64..30_000, 1..40),
        ) {
            let limit = limit.map(|(requests, seconds, burst)| {
                Rate { requests, interval: Duration::from_secs(seconds), burst }
            });
            let rate = Rate::within(limit, NonZeroU32::new(granted).unwrap());
            if let Some(limit) = limit {
                prop_assert!(rate.per_minute() <= limit.per_minute() && rate.burst <= limit.burst);
            }
            let mut bucket = TokenBucket::new(rate, Millis(0));
            let (mut now, mut taken) = (Millis(0), Vec::new());
            for wait in waits {
                // As fast as it permits, then a pause.
                for _ in 0..200 {
                    match bucket.try_take(now) {
                        Ok(()) => taken.push(now.0),
                        Err(at) => now = at,
                    }
                }
                now = Millis(now.0 + wait);
            }
            for (i, start) in taken.iter().enumerate() {
                let in_minute = taken[i..].iter().take_while(|at| **at < start + 60_000).count();
                prop_assert!(in_minute <= granted as usize, "{in_minute} of {granted}: {rate:?}");
            }
        }

        #[test]
        fn grants_token_at_announced_time(requests in 1u32..200, burst in 1u32..5) {
            let rate = Rate { requests, interval: Duration::from_secs(1), burst };
            let mut bucket = TokenBucket::new(rate, Millis(0));
            let mut now = Millis(0);
            for _ in 0..100 {
                if let Err(at) = bucket.try_take(now) {
                    prop_assert!(at > now);
                    // The announced time is rounded to whole milliseconds.
                    now = at + Duration::from_millis(1);
                    prop_assert!(bucket.try_take(now).is_ok());
                }
            }
        }
    }

    #[test]
    fn the_lower_of_two_rates_applies() {
        let rate =
            |requests, seconds, burst| Rate { requests, interval: Duration::from_secs(seconds), burst };
        let within = |limit, granted| Rate::within(limit, NonZeroU32::new(granted).unwrap());
        assert_eq!(within(None, 120), rate(120, 60, 1));
        assert_eq!(within(None, 60_000), rate(59_901, 60, 100), "with its burst, 60,000 in a minute");
        assert_eq!(within(Some(rate(10, 1, 10)), 120), rate(120, 60, 1));
        assert_eq!(within(Some(rate(10, 3600, 10)), 120), rate(10, 3600, 10), "keeps the burst of the hook");
        assert_eq!(within(Some(rate(1, 1, 100)), 80), rate(1, 1, 20), "as far as the grant permits");
        assert_eq!(within(Some(rate(1, 1, 100)), 60), rate(60, 60, 1));
        assert_eq!(within(None, u32::MAX).per_minute(), f64::from(u32::MAX - u32::MAX / 600 + 1));
    }
}
