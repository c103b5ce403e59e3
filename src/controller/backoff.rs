//! Retry delays, one for each object, so that a failing object does not delay the others.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::error::{SyncError, SyncErrorClass};
use crate::admin::AdminError;

const MIN_DELAY: Duration = Duration::from_secs(1);
const MAX_DELAY: Duration = Duration::from_secs(300);
/// First delay after a write conflict: the watch usually delivers the other client's version within this time.
const CONFLICT_DELAY: Duration = Duration::from_millis(200);
/// A watch that hangs for longer than this is detected and restarted.
const MAX_CONFLICT_DELAY: Duration = Duration::from_secs(30);

/// Retry state by uid.
#[derive(Default)]
pub struct Backoff {
    /// Consecutive failures and conflicts.
    failures: Mutex<HashMap<String, u32>>,
    /// End of the time in which the vendor's rate limit forbids calls for an object, with the vendor's error.
    rate_limited: Mutex<HashMap<String, (Instant, AdminError)>>,
}

impl Backoff {
    /// Counts a failure and returns the retry delay. Full jitter: objects that failed together retry at different times.
    pub fn record_failure(&self, uid: &str) -> Duration {
        let mut failures = self.failures.lock();
        let count = failures.entry(uid.to_owned()).or_default();
        *count = count.saturating_add(1);
        max_delay(*count).mul_f64(fastrand::f64()).max(MIN_DELAY / 4)
    }

    /// Counts a write conflict and returns the retry delay.
    pub fn record_conflict(&self, uid: &str) -> Duration {
        let mut failures = self.failures.lock();
        let count = failures.entry(uid.to_owned()).or_default();
        *count = count.saturating_add(1);
        (CONFLICT_DELAY * (1 << (*count - 1).min(10))).min(MAX_CONFLICT_DELAY)
    }

    /// Remembers the pause that the vendor requested if the error is `RateLimited`; ignores every other error.
    pub fn record_rate_limit(&self, uid: &str, error: &SyncError) {
        if let (SyncErrorClass::RateLimited(after), Some(error)) = (error.class(), error.admin()) {
            self.rate_limited.lock().insert(uid.to_owned(), (Instant::now() + after, error.clone()));
        }
    }

    /// Fails until the pause that the vendor requested is over. Without it, a trigger during the pause (an edit, a
    /// Connection that becomes ready) would lead to a call.
    pub fn may_call(&self, uid: &str) -> Result<(), AdminError> {
        let mut rate_limited = self.rate_limited.lock();
        let Some((until, error)) = rate_limited.get(uid) else { return Ok(()) };
        let remaining = until.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            rate_limited.remove(uid);
            return Ok(());
        }
        match error {
            AdminError::RateLimited(detail, _) => Err(AdminError::RateLimited(detail.clone(), remaining)),
            _ => Ok(()),
        }
    }

    /// Drops the state of an object, after a success or when the object is deleted.
    pub fn forget(&self, uid: &str) {
        self.failures.lock().remove(uid);
        self.rate_limited.lock().remove(uid);
    }
}

/// Returns the upper bound of the delay after this many failures.
fn max_delay(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(20);
    MAX_DELAY.min(MIN_DELAY * (1 << doublings))
}

/// Returns the delay until the next resync: the interval plus up to a tenth of it. The extra time is derived from the
/// uid and spreads the resyncs of objects that were created together.
pub fn resync_delay(interval: Duration, uid: &str) -> Duration {
    let sum = uid.bytes().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
    interval.mul_f64(1.0 + f64::from(sum % 1000) / 10_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::ErrorDetail;

    #[test]
    fn delay_doubles_up_to_a_bound_and_resets() {
        let seconds: Vec<u64> = [1, 2, 3, 9, 10, 1000].into_iter().map(|n| max_delay(n).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 256, 300, 300]);
        let backoff = Backoff::default();
        for _ in 0..50 {
            assert!(backoff.record_failure("a") <= MAX_DELAY);
        }
        backoff.forget("a");
        assert!(backoff.record_failure("a") <= MIN_DELAY);
    }

    #[test]
    fn conflicts_are_retried_soon_and_then_later() {
        let backoff = Backoff::default();
        let delays: Vec<u128> = (0..10).map(|_| backoff.record_conflict("a").as_millis()).collect();
        assert_eq!(delays, [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
        backoff.forget("a");
        assert_eq!(backoff.record_conflict("a"), CONFLICT_DELAY);
    }

    #[test]
    fn rate_limit_of_the_vendor_is_kept() {
        let backoff = Backoff::default();
        let limited = |after| SyncError::Admin(AdminError::RateLimited(ErrorDetail::default(), after));
        backoff.record_rate_limit("a", &SyncError::Admin(AdminError::Unreachable("x".into())));
        assert!(backoff.may_call("a").is_ok());
        backoff.record_rate_limit("a", &limited(Duration::from_secs(9)));
        assert!(
            matches!(backoff.may_call("a"), Err(AdminError::RateLimited(_, remaining)) if remaining > MIN_DELAY)
        );
        assert!(backoff.may_call("b").is_ok());
        backoff.record_rate_limit("a", &limited(Duration::ZERO));
        assert!(backoff.may_call("a").is_ok(), "the pause is over");
    }

    #[test]
    fn resyncs_are_spread() {
        let interval = Duration::from_secs(600);
        let all: std::collections::HashSet<_> =
            (0..100).map(|i| resync_delay(interval, &format!("uid-{i}"))).collect();
        assert!(all.len() > 50);
        assert!(all.iter().all(|d| *d >= interval && *d <= interval.mul_f64(1.1)));
    }
}
