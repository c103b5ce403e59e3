//! The tenant's rate limit: one token bucket, reported in response headers.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use tokio::time::Instant;

/// The rate limit of the Management API: requests a second, and burst size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TenantRateLimit {
    pub per_second: f64,
    pub burst: u32,
}

/// The token bucket.
pub(super) struct RateLimiter {
    limit: TenantRateLimit,
    /// The tokens in the bucket at a time.
    bucket: Mutex<(f64, Instant)>,
}

/// The decision about one request, and the values of its headers.
pub(super) struct RateLimitDecision {
    pub is_allowed: bool,
    limit: u32,
    remaining: u32,
    /// Unix seconds at which the bucket is full again.
    reset: i64,
}

impl RateLimiter {
    pub fn new(limit: TenantRateLimit) -> RateLimiter {
        RateLimiter { limit, bucket: Mutex::new((f64::from(limit.burst), Instant::now())) }
    }

    /// Takes a token, if there is one.
    pub fn take_token(&self, now: Instant) -> RateLimitDecision {
        let mut bucket = self.bucket.lock();
        let refill = now.duration_since(bucket.1).as_secs_f64() * self.limit.per_second;
        let capacity = f64::from(self.limit.burst);
        let mut tokens = (bucket.0 + refill).min(capacity);
        let is_allowed = tokens >= 1.0;
        if is_allowed {
            tokens -= 1.0;
        }
        *bucket = (tokens, now);
        let until_full = (capacity - tokens) / self.limit.per_second;
        RateLimitDecision {
            is_allowed,
            limit: self.limit.burst,
            remaining: tokens as u32,
            reset: jiff::Timestamp::now().as_second() + until_full.ceil() as i64,
        }
    }
}

impl RateLimitDecision {
    /// Writes the `x-ratelimit-` headers.
    pub fn write_headers(&self, headers: &mut HeaderMap) {
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
    fn bucket_empties_and_refills() {
        let limiter = RateLimiter::new(TenantRateLimit { per_second: 2.0, burst: 3 });
        let start = Instant::now();
        let after = |millis| limiter.take_token(start + Duration::from_millis(millis));
        let remaining: Vec<u32> = (0..3).map(|_| after(0).remaining).collect();
        assert_eq!(remaining, [2, 1, 0]);
        let refused = after(0);
        assert!(!refused.is_allowed);
        assert!(refused.reset > jiff::Timestamp::now().as_second());
        assert!(after(500).is_allowed);
        assert!(!after(500).is_allowed);
        let decision = after(60_000);
        assert_eq!((decision.is_allowed, decision.remaining), (true, 2));
        let mut headers = HeaderMap::new();
        decision.write_headers(&mut headers);
        assert_eq!(headers["x-ratelimit-limit"], "3");
    }
}
