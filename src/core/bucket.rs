//! A token bucket: limits requests to a rate with bursts.

use std::time::Duration;

use super::time::Millis;

/// A request rate: `requests` per `interval`, with bursts of up to `burst`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub requests: u32,
    pub interval: Duration,
    pub burst: u32,
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

    pub fn rate(&self) -> Rate {
        self.rate
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
        self.rate.interval.max(Duration::from_millis(1)) / self.rate.requests.max(1)
    }

    /// Takes one token. If there is none, returns the time at which one will be available.
    pub fn try_take(&mut self, now: Millis) -> Result<(), Millis> {
        let interval = self.rate.interval.as_secs_f64().max(0.001);
        let secs_per_token = interval / f64::from(self.rate.requests.max(1));
        self.tokens = (self.tokens + now.since(self.at).as_secs_f64() / secs_per_token)
            .min(f64::from(self.rate.burst.max(1)));
        self.at = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        // At least one millisecond, so that a caller that waits until then does not spin.
        Err(now + Duration::from_secs_f64((1.0 - self.tokens) * secs_per_token).max(Duration::from_millis(1)))
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
}
