//! The tenant's rate limit: one token bucket, told in headers.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use tokio::time::Instant;

/// How many requests a second, and how many at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLimit {
    pub per_second: f64,
    pub burst: u32,
}

pub(super) struct Limiter {
    limit: RateLimit,
    /// What is left, and when that was so.
    left: Mutex<(f64, Instant)>,
}

/// What a request was told.
pub(super) struct Turn {
    pub passed: bool,
    limit: u32,
    remaining: u32,
    /// Unix seconds at which the bucket is full again.
    reset: i64,
}

impl Limiter {
    pub fn new(limit: RateLimit) -> Limiter {
        Limiter { limit, left: Mutex::new((f64::from(limit.burst), Instant::now())) }
    }

    pub fn turn(&self, now: Instant) -> Turn {
        let mut left = self.left.lock();
        let refill = now.duration_since(left.1).as_secs_f64() * self.limit.per_second;
        let full = f64::from(self.limit.burst);
        let mut tokens = (left.0 + refill).min(full);
        let passed = tokens >= 1.0;
        if passed {
            tokens -= 1.0;
        }
        *left = (tokens, now);
        let wait = (full - tokens) / self.limit.per_second;
        Turn {
            passed,
            limit: self.limit.burst,
            remaining: tokens as u32,
            reset: jiff::Timestamp::now().as_second() + wait.ceil() as i64,
        }
    }
}

impl Turn {
    pub fn tell(&self, headers: &mut HeaderMap) {
        let pairs = [
            ("x-ratelimit-limit", i64::from(self.limit)),
            ("x-ratelimit-remaining", i64::from(self.remaining)),
            ("x-ratelimit-reset", self.reset),
        ];
        for (name, value) in pairs {
            headers.insert(HeaderName::from_static(name), HeaderValue::from(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_bucket_empties_and_fills() {
        let limiter = Limiter::new(RateLimit { per_second: 2.0, burst: 3 });
        let start = Instant::now();
        let after = |millis| limiter.turn(start + Duration::from_millis(millis));
        let remaining: Vec<u32> = (0..3).map(|_| after(0).remaining).collect();
        assert_eq!(remaining, [2, 1, 0]);
        let refused = after(0);
        assert!(!refused.passed);
        assert!(refused.reset > jiff::Timestamp::now().as_second());
        assert!(after(500).passed);
        assert!(!after(500).passed);
        let turn = after(60_000);
        assert_eq!((turn.passed, turn.remaining), (true, 2));
        let mut headers = HeaderMap::new();
        turn.tell(&mut headers);
        assert_eq!(headers["x-ratelimit-limit"], "3");
    }
}
