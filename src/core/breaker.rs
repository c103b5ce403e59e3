//! A circuit breaker: an endpoint that fails and fails is left alone for a while, then asked once.

use std::time::Duration;

use super::time::Millis;

/// So many failures in a row open it.
const FAILURES: u32 = 10;
/// Short: receivers are away for seconds when they are rolled over.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// One endpoint's breaker. Time is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breaker {
    opens_at: u32,
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
    /// One request is under way that decides.
    Probing {
        pause: Duration,
    },
}

/// May a request go out?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    Granted,
    /// Not before this time.
    NotBefore(Millis),
    /// Not before the probe that is under way came back.
    Probing,
}

impl Default for Breaker {
    fn default() -> Self {
        Breaker::opens_at(FAILURES)
    }
}

impl Breaker {
    /// A breaker that so many failures in a row open.
    pub fn opens_at(failures: u32) -> Self {
        Breaker { opens_at: failures, failures: 0, state: State::Closed }
    }

    /// Asks leave for one request. What is granted while the breaker is not closed is the probe.
    pub fn ask(&mut self, now: Millis) -> Leave {
        match self.state {
            State::Closed => Leave::Granted,
            State::Probing { .. } => Leave::Probing,
            State::Open { until, .. } if now < until => Leave::NotBefore(until),
            State::Open { pause, .. } => {
                self.state = State::Probing { pause };
                Leave::Granted
            }
        }
    }

    pub fn succeeded(&mut self) {
        *self = Breaker::opens_at(self.opens_at);
    }

    pub fn failed(&mut self, now: Millis) {
        self.failures = self.failures.saturating_add(1);
        self.state = match self.state {
            State::Closed if self.failures < self.opens_at => State::Closed,
            State::Closed => State::Open { until: now + FIRST_PAUSE, pause: FIRST_PAUSE },
            State::Probing { pause } => {
                let pause = (pause * 2).min(LONGEST_PAUSE);
                State::Open { until: now + pause, pause }
            }
            // Requests that were under way when it opened tell nothing new.
            open @ State::Open { .. } => open,
        };
    }

    /// The probe came to nothing that tells of the endpoint: the next request is a probe again.
    pub fn undecided(&mut self, now: Millis) {
        if let State::Probing { pause } = self.state {
            self.state = State::Open { until: now, pause };
        }
    }

    /// How many failures in a row there were.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Nothing to remember.
    pub fn is_idle(&self) -> bool {
        self.failures == 0
    }

    /// Since it opened, nobody is sent anything but probes.
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
        for _ in 0..FAILURES {
            assert_eq!(breaker.ask(now), Leave::Granted);
            breaker.failed(now);
        }
        breaker
    }

    #[test]
    fn opens_asks_once_and_doubles() {
        let mut now = Millis(0);
        let mut breaker = opened(now);
        for pause in [2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600] {
            let until = now + Duration::from_secs(pause);
            assert_eq!(breaker.ask(now), Leave::NotBefore(until));
            now = until;
            assert_eq!(breaker.ask(now), Leave::Granted, "the probe");
            assert_eq!(breaker.ask(now), Leave::Probing, "one only");
            breaker.failed(now);
        }
        now = now + LONGEST_PAUSE;
        assert_eq!(breaker.ask(now), Leave::Granted);
        breaker.succeeded();
        assert_eq!(breaker, Breaker::default());
    }

    #[test]
    fn late_failures_do_not_prolong() {
        let mut breaker = opened(Millis(0));
        breaker.failed(Millis(1_000));
        assert_eq!(breaker.ask(Millis(1_999)), Leave::NotBefore(Millis(2_000)));
    }

    #[test]
    fn a_probe_that_tells_nothing_is_repeated() {
        let mut breaker = opened(Millis(0));
        let later = Millis(2_000);
        assert_eq!(breaker.ask(later), Leave::Granted);
        breaker.undecided(later);
        assert_eq!(breaker.ask(later), Leave::Granted);
    }

    proptest! {
        #[test]
        fn it_never_stays_shut(steps in proptest::collection::vec((any::<bool>(), 0i64..100_000), 0..200)) {
            let (mut breaker, mut now) = (Breaker::default(), 0);
            for (good, wait) in steps {
                now += wait;
                if breaker.ask(Millis(now)) == Leave::Granted {
                    if good { breaker.succeeded() } else { breaker.failed(Millis(now)) }
                }
            }
            prop_assert_eq!(breaker.ask(Millis(now + 600_000)), Leave::Granted);
        }
    }
}
