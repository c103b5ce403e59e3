//! A circuit breaker: pauses requests to an endpoint that keeps failing, then lets one probe through.

use std::time::Duration;

use super::time::Millis;

/// Number of consecutive failures that open a breaker by default.
const DEFAULT_THRESHOLD: u32 = 10;
/// Short, because many outages are rolling updates, which last only seconds.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const MAX_PAUSE: Duration = Duration::from_secs(600);

/// The breaker of one endpoint. All times are arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breaker {
    threshold: u32,
    failures: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Closed,
    Open {
        until: Millis,
        pause: Duration,
    },
    /// One probe is in flight; its result closes or reopens the breaker.
    Probing {
        pause: Duration,
    },
}

/// Whether a request may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerPermit {
    Granted,
    /// Denied until this time.
    NotBefore(Millis),
    /// Denied until the probe in flight has completed.
    Probing,
}

impl Default for Breaker {
    fn default() -> Self {
        Breaker::with_threshold(DEFAULT_THRESHOLD)
    }
}

impl Breaker {
    /// Creates a closed breaker that opens after `threshold` consecutive failures.
    pub fn with_threshold(threshold: u32) -> Self {
        Breaker { threshold, failures: 0, state: State::Closed }
    }

    /// Requests a permit for one request. A request that is permitted while the breaker is open is the probe.
    pub fn request_permit(&mut self, now: Millis) -> BreakerPermit {
        match self.state {
            State::Closed => BreakerPermit::Granted,
            State::Probing { .. } => BreakerPermit::Probing,
            State::Open { until, .. } if now < until => BreakerPermit::NotBefore(until),
            State::Open { pause, .. } => {
                self.state = State::Probing { pause };
                BreakerPermit::Granted
            }
        }
    }

    /// Records a success: closes the breaker and resets the failure count.
    pub fn record_success(&mut self) {
        *self = Breaker::with_threshold(self.threshold);
    }

    /// Records a failure. A failed probe doubles the pause, up to `MAX_PAUSE`.
    pub fn record_failure(&mut self, now: Millis) {
        self.failures = self.failures.saturating_add(1);
        self.state = match self.state {
            State::Closed if self.failures < self.threshold => State::Closed,
            State::Closed => State::Open { until: now + FIRST_PAUSE, pause: FIRST_PAUSE },
            State::Probing { pause } => {
                let pause = (pause * 2).min(MAX_PAUSE);
                State::Open { until: now + pause, pause }
            }
            // Failures of requests that were in flight when the breaker opened must not prolong the pause.
            open @ State::Open { .. } => open,
        };
    }

    /// Records a probe whose result says nothing about the endpoint. The next request becomes the probe.
    pub fn record_inconclusive(&mut self, now: Millis) {
        if let State::Probing { pause } = self.state {
            self.state = State::Open { until: now, pause };
        }
    }

    /// Returns the number of consecutive failures.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Returns true if no failure is recorded, so the breaker can be dropped without losing state.
    pub fn is_idle(&self) -> bool {
        self.failures == 0
    }

    /// Returns true while only probes are permitted.
    pub fn is_open(&self) -> bool {
        self.state != State::Closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn opened(now: Millis) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..DEFAULT_THRESHOLD {
            assert_eq!(breaker.request_permit(now), BreakerPermit::Granted);
            breaker.record_failure(now);
        }
        breaker
    }

    #[test]
    fn opens_then_probes_once_and_doubles_pause() {
        let mut now = Millis(0);
        let mut breaker = opened(now);
        for pause in [2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600] {
            let until = now + Duration::from_secs(pause);
            assert_eq!(breaker.request_permit(now), BreakerPermit::NotBefore(until));
            now = until;
            assert_eq!(breaker.request_permit(now), BreakerPermit::Granted, "the probe");
            assert_eq!(breaker.request_permit(now), BreakerPermit::Probing, "one only");
            breaker.record_failure(now);
        }
        now = now + MAX_PAUSE;
        assert_eq!(breaker.request_permit(now), BreakerPermit::Granted);
        breaker.record_success();
        assert_eq!(breaker, Breaker::default());
    }

    #[test]
    fn late_failures_do_not_prolong_pause() {
        let mut breaker = opened(Millis(0));
        breaker.record_failure(Millis(1_000));
        assert_eq!(breaker.request_permit(Millis(1_999)), BreakerPermit::NotBefore(Millis(2_000)));
    }

    #[test]
    fn repeats_inconclusive_probe() {
        let mut breaker = opened(Millis(0));
        let later = Millis(2_000);
        assert_eq!(breaker.request_permit(later), BreakerPermit::Granted);
        breaker.record_inconclusive(later);
        assert_eq!(breaker.request_permit(later), BreakerPermit::Granted);
    }

    proptest! {
        #[test]
        fn always_permits_after_longest_pause(steps in proptest::collection::vec((any::<bool>(), 0i64..100_000), 0..200)) {
            let (mut breaker, mut now) = (Breaker::default(), 0);
            for (good, wait) in steps {
                now += wait;
                if breaker.request_permit(Millis(now)) == BreakerPermit::Granted {
                    if good { breaker.record_success() } else { breaker.record_failure(Millis(now)) }
                }
            }
            prop_assert_eq!(breaker.request_permit(Millis(now + 600_000)), BreakerPermit::Granted);
        }
    }
}
