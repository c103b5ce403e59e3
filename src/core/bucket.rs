//! A token bucket: so many requests an interval, with bursts.

use std::time::Duration;

use super::time::Millis;

/// A rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub requests: u32,
    pub interval: Duration,
    pub burst: u32,
}

/// A bucket. Time is given.
#[derive(Clone, Debug, PartialEq)]
pub struct Bucket {
    rate: Rate,
    tokens: f64,
    at: Millis,
}

impl Bucket {
    /// A full bucket.
    pub fn new(rate: Rate, now: Millis) -> Self {
        Bucket { rate, tokens: f64::from(rate.burst), at: now }
    }

    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// When there will be a token: now, or later.
    pub fn ready_at(&self, now: Millis) -> Millis {
        self.clone().take(now).err().unwrap_or(now)
    }

    /// No token was taken for long.
    pub fn is_full(&self, now: Millis) -> bool {
        let come = now.since(self.at).as_secs_f64() / self.each().as_secs_f64().max(f64::MIN_POSITIVE);
        self.tokens + come >= f64::from(self.rate.burst.max(1))
    }

    /// How long one token takes to come.
    pub fn each(&self) -> Duration {
        self.rate.interval.max(Duration::from_millis(1)) / self.rate.requests.max(1)
    }

    /// Takes one token, or says when there will be one.
    pub fn take(&mut self, now: Millis) -> Result<(), Millis> {
        let interval = self.rate.interval.as_secs_f64().max(0.001);
        let each = interval / f64::from(self.rate.requests.max(1));
        self.tokens =
            (self.tokens + now.since(self.at).as_secs_f64() / each).min(f64::from(self.rate.burst.max(1)));
        self.at = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        // At least a millisecond: a wait of nothing would spin.
        Err(now + Duration::from_secs_f64((1.0 - self.tokens) * each).max(Duration::from_millis(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn never_more_than_the_rate_and_the_burst(
            requests in 1u32..200, seconds in 1u64..20, burst in 1u32..50,
            waits in proptest::collection::vec(0i64..500, 1..500),
        ) {
            let interval = Duration::from_secs(seconds);
            let mut bucket = Bucket::new(Rate { requests, interval, burst }, Millis(0));
            let (mut now, mut taken) = (0, 0u32);
            for wait in waits {
                now += wait;
                taken += u32::from(bucket.take(Millis(now)).is_ok());
            }
            let most = f64::from(burst) + now as f64 / 1000.0 * f64::from(requests) / interval.as_secs_f64();
            prop_assert!(f64::from(taken) <= most + 1e-6, "{taken} of {most}");
        }

        #[test]
        fn what_it_promises_it_keeps(requests in 1u32..200, burst in 1u32..5) {
            let rate = Rate { requests, interval: Duration::from_secs(1), burst };
            let mut bucket = Bucket::new(rate, Millis(0));
            let mut now = Millis(0);
            for _ in 0..100 {
                if let Err(at) = bucket.take(now) {
                    prop_assert!(at > now);
                    // Whole milliseconds: a fraction may be missing.
                    now = at + Duration::from_millis(1);
                    prop_assert!(bucket.take(now).is_ok());
                }
            }
        }
    }
}
