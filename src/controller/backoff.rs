//! How long one object waits after its failures. Nobody else waits with it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::problem::{Class, Problem};
use crate::admin::AdminError;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(300);
/// After a write that came too late: what somebody else wrote is there in a moment.
const CONFLICT: Duration = Duration::from_millis(200);
/// Longer the watch itself does not hang unnoticed.
const LONGEST_CONFLICT: Duration = Duration::from_secs(30);

/// Failures in a row, by uid.
#[derive(Default)]
pub struct Backoff {
    failures: Mutex<HashMap<String, u32>>,
    /// Until when the vendor asked an object not to come back, and in what words.
    slowed: Mutex<HashMap<String, (Instant, AdminError)>>,
}

impl Backoff {
    /// One failure more; how long to wait. Full jitter: objects that failed together come back apart.
    pub fn failed(&self, uid: &str) -> Duration {
        let mut failures = self.failures.lock();
        let count = failures.entry(uid.to_owned()).or_default();
        *count = count.saturating_add(1);
        ceiling(*count).mul_f64(fastrand::f64()).max(FIRST / 4)
    }

    /// Somebody else wrote to it meanwhile, once more; how long to wait.
    pub fn conflicted(&self, uid: &str) -> Duration {
        let mut failures = self.failures.lock();
        let count = failures.entry(uid.to_owned()).or_default();
        *count = count.saturating_add(1);
        (CONFLICT * (1 << (*count - 1).min(10))).min(LONGEST_CONFLICT)
    }

    /// The vendor asked this object to slow down.
    pub fn slow_down(&self, uid: &str, problem: &Problem) {
        if let (Class::RateLimited(after), Some(error)) = (problem.class(), problem.admin()) {
            self.slowed.lock().insert(uid.to_owned(), (Instant::now() + after, error.clone()));
        }
    }

    /// Refuses while the vendor's time is not over: what wakes an object in between (an edit, a Connection that becomes
    /// ready) is no reason to call all the same.
    pub fn may_call(&self, uid: &str) -> Result<(), AdminError> {
        let mut slowed = self.slowed.lock();
        let Some((until, error)) = slowed.get(uid) else { return Ok(()) };
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            slowed.remove(uid);
            return Ok(());
        }
        match error {
            AdminError::RateLimited(detail, _) => Err(AdminError::RateLimited(detail.clone(), left)),
            _ => Ok(()),
        }
    }

    pub fn forget(&self, uid: &str) {
        self.failures.lock().remove(uid);
        self.slowed.lock().remove(uid);
    }
}

fn ceiling(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(20);
    LONGEST.min(FIRST * (1 << doublings))
}

/// The time to the next comparison with the vendor: the interval and up to a tenth more, the same for an object every
/// time, so that a thousand objects that were made together are not compared together.
pub fn resync(interval: Duration, uid: &str) -> Duration {
    let sum = uid.bytes().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
    interval.mul_f64(1.0 + f64::from(sum % 1000) / 10_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Detail;

    #[test]
    fn doubles_to_a_bound_and_starts_again() {
        let seconds: Vec<u64> = [1, 2, 3, 9, 10, 1000].into_iter().map(|n| ceiling(n).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 256, 300, 300]);
        let backoff = Backoff::default();
        for _ in 0..50 {
            assert!(backoff.failed("a") <= LONGEST);
        }
        backoff.forget("a");
        assert!(backoff.failed("a") <= FIRST);
    }

    #[test]
    fn conflicts_are_tried_soon_and_then_later() {
        let backoff = Backoff::default();
        let waits: Vec<u128> = (0..10).map(|_| backoff.conflicted("a").as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
        backoff.forget("a");
        assert_eq!(backoff.conflicted("a"), CONFLICT);
    }

    #[test]
    fn what_the_vendor_asked_for_is_kept() {
        let backoff = Backoff::default();
        let slow = |after| Problem::Admin(AdminError::RateLimited(Detail::default(), after));
        backoff.slow_down("a", &Problem::Admin(AdminError::Unreachable("x".into())));
        assert!(backoff.may_call("a").is_ok());
        backoff.slow_down("a", &slow(Duration::from_secs(9)));
        assert!(matches!(backoff.may_call("a"), Err(AdminError::RateLimited(_, left)) if left > FIRST));
        assert!(backoff.may_call("b").is_ok());
        backoff.slow_down("a", &slow(Duration::ZERO));
        assert!(backoff.may_call("a").is_ok(), "its time is over");
    }

    #[test]
    fn resyncs_spread() {
        let interval = Duration::from_secs(600);
        let all: std::collections::HashSet<_> =
            (0..100).map(|i| resync(interval, &format!("uid-{i}"))).collect();
        assert!(all.len() > 50);
        assert!(all.iter().all(|d| *d >= interval && *d <= interval.mul_f64(1.1)));
    }
}
