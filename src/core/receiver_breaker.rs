//! A circuit breaker of one receiver: pauses requests while most of them fail, then sends a few probes.
//!
//! It measures the receiver, not the events or the hook's scripts. It opens when at least three quarters of the last 64
//! attempts failed, so a receiver that rejects some events stays open for the others. Attempts that say nothing about
//! the receiver (a failed script) do not count. After the pause, up to [`PROBES`] deliveries are attempted: some of the
//! oldest ones and some that were never tried. One success closes the breaker.
//!
//! Each step costs O(1) and no allocation. All times are arguments.

use std::time::Duration;

use super::delivery_reason::AttemptFailure;
use super::time::Millis;

/// The number of attempts that the failure rate is computed from.
pub const WINDOW: u32 = u64::BITS;
/// The fewest attempts that can open a breaker.
pub const MIN_ATTEMPTS: u32 = 10;
/// Probes after each pause.
pub const PROBES: u8 = 5;
/// Short, because many outages are rolling updates, which last only seconds.
pub const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// The longest pause while the receiver answers (5xx, 429): it runs, and some events may succeed.
pub const MAX_PAUSE_ANSWERED: Duration = Duration::from_secs(60);
/// The longest pause while the receiver does not answer at all.
pub const MAX_PAUSE_SILENT: Duration = Duration::from_secs(600);
/// How long results of probes may be missing. Longer than any attempt, so it only matters if a result was lost: without
/// it, a lost result would stop the hook forever.
pub const PROBE_EXPIRY: Duration = Duration::from_secs(900);

/// What one attempt shows about the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiverEvidence {
    /// It answered, and not with a server error. Includes refusals of the event (4xx).
    Healthy,
    /// It failed. `answered`: it sent a response (5xx, 429 or a refused handshake); otherwise it was silent.
    Failing { answered: bool },
    /// Nothing: no request was made, or the hook's own script failed.
    Inconclusive,
}

impl ReceiverEvidence {
    /// Derives the evidence from the response status and the failure of an attempt.
    pub fn of(status: Option<u16>, failure: Option<AttemptFailure>) -> Self {
        if let Some(status) = status {
            return match status {
                429 | 500..=599 => ReceiverEvidence::Failing { answered: true },
                _ => ReceiverEvidence::Healthy,
            };
        }
        match failure {
            Some(
                AttemptFailure::Resolve
                | AttemptFailure::Connect
                | AttemptFailure::Proxy
                | AttemptFailure::Timeout
                | AttemptFailure::Tls
                | AttemptFailure::Protocol,
            ) => ReceiverEvidence::Failing { answered: false },
            // Until it permits deliveries, probes are enough to ask it again.
            Some(AttemptFailure::HandshakeRefused) => ReceiverEvidence::Failing { answered: true },
            // Lambdas and log lines have no receiver, and a script that fails says nothing about it.
            Some(
                AttemptFailure::Status
                | AttemptFailure::NotDelivered
                | AttemptFailure::LogFailed
                | AttemptFailure::ScriptFailed
                | AttemptFailure::ScriptTimeout
                | AttemptFailure::ScriptMemory
                | AttemptFailure::ScriptCrashed
                | AttemptFailure::ScriptTooBig
                | AttemptFailure::DataUnreadable,
            )
            | None => ReceiverEvidence::Inconclusive,
        }
    }
}

/// The permit of one attempt. The caller returns it exactly once with the attempt's evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a probe that is not recorded blocks the hook until PROBE_EXPIRY"]
pub struct AttemptPermit {
    /// The period or round in which it was granted. A permit of an earlier one has no effect.
    serial: u64,
    probe: Option<ProbeTarget>,
}

/// Which delivery a probe should take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeTarget {
    /// The one that has been due for longest.
    Oldest,
    /// The newest one without an attempt. If there is none, the oldest: bad events at the head of a backlog would
    /// otherwise keep the breaker open.
    NewestUntried,
}

impl AttemptPermit {
    /// Returns which delivery to attempt, if the attempt is a probe.
    pub fn probe(&self) -> Option<ProbeTarget> {
        self.probe
    }
}

/// What recording an attempt changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerChange {
    None,
    /// It was closed and is open now.
    Opened,
    /// All probes failed: it is open again, with a longer pause.
    Reopened,
    /// It was open and is closed now.
    Closed,
}

/// The state of a breaker, for explanations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerReport {
    pub state: BreakerState,
    /// Failures among the last `attempts` attempts. Frozen while the breaker is not closed.
    pub failures: u32,
    /// At most [`WINDOW`].
    pub attempts: u32,
    /// The present pause, or the last one while probes are sent. Zero while the breaker is closed.
    pub pause: Duration,
    /// When the next probes may start, by the caller's clock. None: the breaker is closed, or probes may start now.
    pub next_probe: Option<Millis>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
pub enum BreakerState {
    Closed,
    Open,
    /// The pause is over; probes decide.
    Probing,
}

/// The state of a breaker with which another process goes on. Times are those of the caller's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BreakerSnapshot {
    /// A bit for each of the last `attempts` attempts, newest lowest; 1: failed.
    pub failed: u64,
    /// At most [`WINDOW`].
    pub attempts: u32,
    /// None: it is closed.
    pub open: Option<OpenPause>,
}

/// The pause of a breaker that is not closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenPause {
    /// When the next probes may start. None: the pause is over, and probes are sent.
    pub until: Option<Millis>,
    pub pause: Duration,
}

/// The breaker of one hook's receiver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReceiverBreaker {
    window: AttemptWindow,
    state: State,
    /// Rises with each closed period and each round of probes, so that a late result is recognized.
    serial: u64,
    /// The serial of the present or last closed period.
    period: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Closed,
    Open {
        until: Millis,
        pause: Duration,
    },
    Probing {
        pause: Duration,
        probes: Probes,
    },
}

/// A round of probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Probes {
    granted: u8,
    failed: u8,
    /// A failed probe of the round was answered.
    answered: bool,
    /// When the results of the probes count as lost.
    expires: Millis,
}

impl ReceiverBreaker {
    /// Requests a permit for one attempt. An error is the time before which none is granted, unless a result or a reset
    /// comes first.
    pub fn request_permit(&mut self, now: Millis) -> Result<AttemptPermit, Millis> {
        if let State::Open { until, pause } = self.state {
            // A clock that jumps back must not make the pause longer.
            let until = until.min(now + pause);
            self.state = State::Open { until, pause };
            if now < until {
                return Err(until);
            }
            self.start_probes(pause, now);
        }
        if let State::Probing { pause, probes } = self.state
            && probes.granted >= PROBES
        {
            let expires = probes.expires.min(now + PROBE_EXPIRY);
            if now < expires {
                return Err(expires);
            }
            self.start_probes(pause, now);
        }
        let State::Probing { probes, .. } = &mut self.state else {
            return Ok(AttemptPermit { serial: self.serial, probe: None });
        };
        let target = if probes.granted % 2 == 0 { ProbeTarget::NewestUntried } else { ProbeTarget::Oldest };
        probes.granted += 1;
        probes.expires = now + PROBE_EXPIRY;
        Ok(AttemptPermit { serial: self.serial, probe: Some(target) })
    }

    fn start_probes(&mut self, pause: Duration, now: Millis) {
        self.serial += 1;
        let probes = Probes { granted: 0, failed: 0, answered: false, expires: now + PROBE_EXPIRY };
        self.state = State::Probing { pause, probes };
    }

    /// Records the result of a permitted attempt.
    pub fn record(
        &mut self,
        permit: AttemptPermit,
        evidence: ReceiverEvidence,
        now: Millis,
    ) -> BreakerChange {
        match permit.probe {
            None if permit.serial == self.period => self.record_regular(evidence, now),
            Some(_) if permit.serial == self.serial => self.record_probe(evidence, now),
            // From before a reset or before the breaker closed, or a probe that counted as lost.
            None | Some(_) => BreakerChange::None,
        }
    }

    fn record_regular(&mut self, evidence: ReceiverEvidence, now: Millis) -> BreakerChange {
        let is_closed = self.state == State::Closed;
        match evidence {
            ReceiverEvidence::Inconclusive => BreakerChange::None,
            ReceiverEvidence::Healthy if is_closed => {
                self.window.push(false);
                BreakerChange::None
            }
            // The receiver answers again, although the request was sent before the breaker opened.
            ReceiverEvidence::Healthy => self.close(),
            ReceiverEvidence::Failing { .. } if is_closed => {
                self.window.push(true);
                if !self.window.is_failing() {
                    return BreakerChange::None;
                }
                self.state = State::Open { until: now + FIRST_PAUSE, pause: FIRST_PAUSE };
                BreakerChange::Opened
            }
            // Failures of requests that were in flight when the breaker opened must not prolong the pause.
            ReceiverEvidence::Failing { .. } => BreakerChange::None,
        }
    }

    fn record_probe(&mut self, evidence: ReceiverEvidence, now: Millis) -> BreakerChange {
        let State::Probing { pause, probes } = &mut self.state else { return BreakerChange::None };
        match evidence {
            ReceiverEvidence::Healthy => return self.close(),
            // Frees the permit. Otherwise a few failing scripts would use up the round, and no result would end it.
            ReceiverEvidence::Inconclusive => {
                probes.granted = probes.granted.saturating_sub(1);
                return BreakerChange::None;
            }
            ReceiverEvidence::Failing { answered } => {
                probes.failed += 1;
                probes.answered |= answered;
            }
        }
        if probes.failed < PROBES {
            return BreakerChange::None;
        }
        let longest = if probes.answered { MAX_PAUSE_ANSWERED } else { MAX_PAUSE_SILENT };
        let pause = (*pause * 2).min(longest);
        self.state = State::Open { until: now + pause, pause };
        BreakerChange::Reopened
    }

    fn close(&mut self) -> BreakerChange {
        self.reset();
        BreakerChange::Closed
    }

    /// Closes the breaker and clears the window, for a new generation of the hook, which may have another receiver.
    /// Results of earlier permits have no effect.
    pub fn reset(&mut self) {
        let serial = self.serial + 1;
        *self = ReceiverBreaker { serial, period: serial, ..ReceiverBreaker::default() };
    }

    /// Returns the state for another process.
    pub fn snapshot(&self) -> BreakerSnapshot {
        let open = match self.state {
            State::Closed => None,
            State::Open { until, pause } => Some(OpenPause { until: Some(until), pause }),
            State::Probing { pause, .. } => Some(OpenPause { until: None, pause }),
        };
        BreakerSnapshot { failed: self.window.failed, attempts: self.window.attempts, open }
    }

    /// Goes on with the state of another process. Results of earlier permits have no effect. A round of probes begins again,
    /// because their results are known to that process only. The snapshot may be of foreign bytes: what no breaker can have is
    /// corrected.
    pub fn restore(&mut self, snapshot: BreakerSnapshot, now: Millis) {
        self.reset();
        let attempts = snapshot.attempts.min(WINDOW);
        let known = u64::MAX.checked_shr(WINDOW - attempts).unwrap_or(0);
        self.window = AttemptWindow { failed: snapshot.failed & known, attempts };
        if let Some(OpenPause { until, pause }) = snapshot.open {
            let pause = pause.clamp(FIRST_PAUSE, MAX_PAUSE_SILENT);
            let until = until.unwrap_or(now).min(now + pause);
            self.state = State::Open { until, pause };
        }
    }

    /// Returns true while only probes are permitted.
    pub fn is_open(&self) -> bool {
        self.state != State::Closed
    }

    /// Returns true if no failure is recorded, so the breaker can be dropped without losing state that matters.
    pub fn is_idle(&self) -> bool {
        self.state == State::Closed && self.window.failures() == 0
    }

    /// Returns the state for explanations.
    pub fn report(&self) -> BreakerReport {
        let (state, pause, next_probe) = match self.state {
            State::Closed => (BreakerState::Closed, Duration::ZERO, None),
            State::Open { until, pause } => (BreakerState::Open, pause, Some(until)),
            State::Probing { pause, .. } => (BreakerState::Probing, pause, None),
        };
        let (failures, attempts) = (self.window.failures(), self.window.attempts);
        BreakerReport { state, failures, attempts, pause, next_probe }
    }
}

/// The results of the last [`WINDOW`] attempts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct AttemptWindow {
    /// A bit for each attempt, newest lowest; 1: failed. Bits beyond `attempts` are 0.
    failed: u64,
    attempts: u32,
}

impl AttemptWindow {
    fn push(&mut self, is_failure: bool) {
        self.failed = (self.failed << 1) | u64::from(is_failure);
        self.attempts = (self.attempts + 1).min(WINDOW);
    }

    fn failures(&self) -> u32 {
        self.failed.count_ones()
    }

    /// True if at least three quarters failed.
    fn is_failing(&self) -> bool {
        self.attempts >= MIN_ATTEMPTS && self.failures() * 4 >= self.attempts * 3
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::ReceiverEvidence::{Failing, Healthy, Inconclusive};
    use super::*;

    const ANSWERED: ReceiverEvidence = Failing { answered: true };
    const SILENT: ReceiverEvidence = Failing { answered: false };

    /// Makes one attempt with this result.
    fn attempt(breaker: &mut ReceiverBreaker, evidence: ReceiverEvidence, now: Millis) -> BreakerChange {
        let permit = breaker.request_permit(now).unwrap();
        breaker.record(permit, evidence, now)
    }

    fn opened(now: Millis) -> ReceiverBreaker {
        let mut breaker = ReceiverBreaker::default();
        for n in 1..=MIN_ATTEMPTS {
            let want = if n == MIN_ATTEMPTS { BreakerChange::Opened } else { BreakerChange::None };
            assert_eq!(attempt(&mut breaker, ANSWERED, now), want);
        }
        breaker
    }

    #[test]
    fn opens_at_three_quarters_of_failures() {
        let mut breaker = ReceiverBreaker::default();
        // Two of three fail: the receiver lives.
        for n in 0..300 {
            attempt(&mut breaker, if n % 3 == 0 { Healthy } else { SILENT }, Millis(0));
            assert!(!breaker.is_open(), "attempt {n}");
        }
        let failures =
            (0..).find(|_| attempt(&mut breaker, SILENT, Millis(0)) == BreakerChange::Opened).unwrap();
        let report = breaker.report();
        assert_eq!((report.failures, report.attempts, report.state), (48, 64, BreakerState::Open));
        assert!(failures < 32, "{failures}");
    }

    #[test]
    fn counts_only_what_says_something_about_the_receiver() {
        for (status, failure, want) in [
            (Some(200), None, Healthy),
            (Some(302), Some(AttemptFailure::Status), Healthy),
            (Some(404), Some(AttemptFailure::Status), Healthy),
            (Some(410), Some(AttemptFailure::Status), Healthy),
            (Some(429), Some(AttemptFailure::Status), ANSWERED),
            (Some(503), Some(AttemptFailure::Status), ANSWERED),
            (None, Some(AttemptFailure::Timeout), SILENT),
            (None, Some(AttemptFailure::Connect), SILENT),
            (None, Some(AttemptFailure::HandshakeRefused), ANSWERED),
            (None, Some(AttemptFailure::ScriptFailed), Inconclusive),
            (None, Some(AttemptFailure::NotDelivered), Inconclusive),
            (None, None, Inconclusive),
        ] {
            assert_eq!(ReceiverEvidence::of(status, failure), want, "{status:?} {failure:?}");
        }
        let mut breaker = ReceiverBreaker::default();
        for _ in 0..1000 {
            assert_eq!(attempt(&mut breaker, Inconclusive, Millis(0)), BreakerChange::None);
        }
        assert!(!breaker.is_open() && breaker.is_idle());
    }

    /// Fails all probes after the pause and returns when the last one ended.
    fn fail_probes(breaker: &mut ReceiverBreaker, evidence: ReceiverEvidence, at: Millis) {
        for n in 1..=PROBES {
            let want = if n == PROBES { BreakerChange::Reopened } else { BreakerChange::None };
            assert_eq!(attempt(breaker, evidence, at), want, "probe {n}");
        }
    }

    /// Its attempts in flight stay with the former process: their results must not count here.
    #[test]
    fn another_process_goes_on_with_the_pause() {
        let mut before = opened(Millis(0));
        let mut breaker = ReceiverBreaker::default();
        let foreign = breaker.request_permit(Millis(500)).unwrap();
        breaker.restore(before.snapshot(), Millis(500));
        assert_eq!(breaker.report(), before.report());
        assert_eq!(breaker.record(foreign, Healthy, Millis(500)), BreakerChange::None);
        let until = Millis(0) + FIRST_PAUSE;
        assert_eq!(breaker.request_permit(Millis(until.0 - 1)), Err(until));
        // A round of probes begins again, and the next pause is longer.
        attempt(&mut before, ANSWERED, until);
        breaker.restore(before.snapshot(), until);
        fail_probes(&mut breaker, ANSWERED, until);
        assert_eq!(breaker.report().pause, FIRST_PAUSE * 2);
        let mut closed = ReceiverBreaker::default();
        (1..MIN_ATTEMPTS).for_each(|_| assert_eq!(attempt(&mut closed, SILENT, until), BreakerChange::None));
        breaker.restore(closed.snapshot(), until);
        assert!(!breaker.is_open());
        assert_eq!(attempt(&mut breaker, SILENT, until), BreakerChange::Opened, "the failures count on");
    }

    #[test]
    fn pause_doubles_to_the_bound_of_the_receiver() {
        for (evidence, pauses) in [
            (ANSWERED, &[2, 4, 8, 16, 32, 60, 60][..]),
            (SILENT, &[2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]),
        ] {
            let mut now = Millis(0);
            let mut breaker = opened(now);
            for pause in pauses {
                let until = now + Duration::from_secs(*pause);
                assert_eq!(breaker.request_permit(Millis(until.0 - 1)), Err(until));
                assert_eq!(breaker.report().pause, Duration::from_secs(*pause));
                now = until;
                fail_probes(&mut breaker, evidence, now);
            }
            // A silent receiver that answers again is probed each minute.
            now = now + MAX_PAUSE_SILENT;
            fail_probes(&mut breaker, ANSWERED, now);
            assert_eq!(breaker.report().pause, MAX_PAUSE_ANSWERED);
            now = now + MAX_PAUSE_ANSWERED;
            assert_eq!(attempt(&mut breaker, Healthy, now), BreakerChange::Closed);
            assert!(breaker.is_idle() && !breaker.is_open());
        }
    }

    #[test]
    fn probes_spread_over_the_backlog() {
        let mut breaker = opened(Millis(0));
        let now = Millis(2_000);
        let targets: Vec<_> =
            (0..PROBES).map(|_| breaker.request_permit(now).unwrap().probe().unwrap()).collect();
        use ProbeTarget::{NewestUntried, Oldest};
        assert_eq!(targets, [NewestUntried, Oldest, NewestUntried, Oldest, NewestUntried]);
        assert_eq!(breaker.request_permit(now), Err(now + PROBE_EXPIRY), "until a result is recorded");
    }

    #[test]
    fn late_results_do_not_prolong_the_pause() {
        let mut breaker = ReceiverBreaker::default();
        let late: Vec<_> = (0..20).map(|_| breaker.request_permit(Millis(0)).unwrap()).collect();
        let (first, rest) = late.split_at(usize::try_from(MIN_ATTEMPTS).unwrap());
        for permit in first {
            breaker.record(*permit, SILENT, Millis(0));
        }
        assert!(breaker.is_open());
        assert_eq!(breaker.record(rest[0], SILENT, Millis(1_000)), BreakerChange::None);
        assert_eq!(breaker.request_permit(Millis(1_999)), Err(Millis(2_000)));
        let probe = breaker.request_permit(Millis(2_000)).unwrap();
        assert_eq!(breaker.record(rest[1], SILENT, Millis(2_000)), BreakerChange::None, "it is no probe");
        assert_eq!(breaker.record(probe, Healthy, Millis(2_000)), BreakerChange::Closed);
        for permit in &rest[2..] {
            assert_eq!(breaker.record(*permit, SILENT, Millis(2_001)), BreakerChange::None);
        }
        assert!(breaker.is_idle(), "they were sent before the receiver recovered");
    }

    #[test]
    fn late_success_closes() {
        let mut breaker = ReceiverBreaker::default();
        let late = breaker.request_permit(Millis(0)).unwrap();
        for _ in 0..MIN_ATTEMPTS {
            attempt(&mut breaker, SILENT, Millis(0));
        }
        assert_eq!(breaker.record(late, Healthy, Millis(1)), BreakerChange::Closed);
        assert!(breaker.request_permit(Millis(1)).unwrap().probe().is_none());
    }

    #[test]
    fn inconclusive_probe_frees_its_permit() {
        let mut breaker = opened(Millis(0));
        let later = Millis(2_000);
        for _ in 0..1000 {
            assert_eq!(attempt(&mut breaker, Inconclusive, later), BreakerChange::None);
        }
        fail_probes(&mut breaker, ANSWERED, later);
    }

    #[test]
    fn lost_results_expire() {
        let mut breaker = opened(Millis(0));
        let now = Millis(2_000);
        let lost: Vec<_> = (0..PROBES).map(|_| breaker.request_permit(now).unwrap()).collect();
        let next = now + PROBE_EXPIRY;
        assert_eq!(breaker.request_permit(Millis(next.0 - 1)), Err(next));
        fail_probes(&mut breaker, SILENT, next);
        let open = breaker.clone();
        for permit in lost {
            breaker.record(permit, Healthy, next);
        }
        assert_eq!(breaker, open, "results of an earlier round have no effect");
    }

    #[test]
    fn reset_ignores_results_of_the_former_receiver() {
        let mut breaker = opened(Millis(0));
        let probe = breaker.request_permit(Millis(2_000)).unwrap();
        breaker.reset();
        assert!(!breaker.is_open() && breaker.is_idle());
        assert_eq!(breaker.record(probe, ANSWERED, Millis(2_000)), BreakerChange::None);
        assert!(breaker.is_idle());
        assert!(breaker.request_permit(Millis(2_000)).unwrap().probe().is_none());
    }

    #[test]
    fn clock_that_jumps_back_does_not_prolong_the_pause() {
        let mut breaker = opened(Millis(100_000_000));
        assert_eq!(breaker.request_permit(Millis(0)), Err(Millis(2_000)));
        assert!(breaker.request_permit(Millis(2_000)).is_ok());
    }

    /// One step of a random history.
    #[derive(Clone, Debug)]
    enum Step {
        Request,
        /// Ends the attempt in flight with this index (modulo their number).
        End(usize, ReceiverEvidence),
        Wait(i64),
        Reset,
    }

    fn step() -> impl Strategy<Value = Step> {
        let evidence = prop_oneof![
            2 => Just(ANSWERED), 3 => Just(SILENT), 1 => Just(Healthy), 1 => Just(Inconclusive)];
        prop_oneof![
            6 => Just(Step::Request),
            6 => (any::<usize>(), evidence).prop_map(|(at, evidence)| Step::End(at, evidence)),
            3 => (0i64..20_000).prop_map(Step::Wait),
            1 => Just(Step::Reset),
        ]
    }

    proptest! {
        #[test]
        fn never_leaks_a_permit_and_bounds_each_pause(steps in proptest::collection::vec(step(), 0..400)) {
            let (mut breaker, mut now) = (ReceiverBreaker::default(), Millis(1_000_000));
            let mut in_flight: Vec<AttemptPermit> = Vec::new();
            for step in steps {
                match step {
                    Step::Request => match breaker.request_permit(now) {
                        Ok(permit) => in_flight.push(permit),
                        Err(until) => {
                            prop_assert!(until > now);
                            let probes = in_flight.iter().filter(|permit| permit.probe().is_some()).count();
                            let longest = if breaker.report().next_probe.is_some() {
                                MAX_PAUSE_SILENT
                            } else {
                                prop_assert!(probes > 0, "denied although no probe is in flight");
                                PROBE_EXPIRY
                            };
                            prop_assert!(until <= now + longest);
                        }
                    },
                    Step::End(at, evidence) if !in_flight.is_empty() => {
                        let permit = in_flight.swap_remove(at % in_flight.len());
                        breaker.record(permit, evidence, now);
                    }
                    Step::End(..) => {}
                    Step::Wait(ms) => now = now + Duration::from_millis(ms.unsigned_abs()),
                    Step::Reset => breaker.reset(),
                }
                let report = breaker.report();
                prop_assert!(report.failures <= report.attempts && report.attempts <= WINDOW);
                prop_assert!(report.pause <= MAX_PAUSE_SILENT);
                prop_assert_eq!(breaker.is_open(), report.state != BreakerState::Closed);
            }
            // However the history went, the receiver gets an attempt after the longest pause, once results are in.
            for permit in in_flight {
                breaker.record(permit, SILENT, now);
            }
            prop_assert!(breaker.request_permit(now + MAX_PAUSE_SILENT).is_ok());
        }

        /// A receiver that answers 500 to some events and 200 to the others gets all of the others within minutes,
        /// in whatever order they are.
        #[test]
        fn receiver_that_accepts_half_of_the_events_never_starves(
            bad in 0usize..60, order in any::<prop::sample::Index>(), shuffled in any::<bool>(), seed in any::<u64>(),
        ) {
            let mut events: Vec<bool> = (0..2 * bad).map(|n| n >= bad).collect();
            if shuffled {
                fastrand::Rng::with_seed(seed).shuffle(&mut events);
            } else if !events.is_empty() {
                let at = order.index(events.len());
                events.rotate_left(at);
            }
            prop_assert!(minutes_to_deliver(&events) <= 15);
        }
    }

    /// Delivers a backlog one at a time, as the dispatcher does: the longest due first, failed ones again after 8 s that
    /// double. Returns the simulated minutes until every good event arrived.
    fn minutes_to_deliver(events: &[bool]) -> i64 {
        struct Pending {
            is_good: bool,
            attempts: u32,
            due: i64,
        }
        let (mut breaker, mut now) = (ReceiverBreaker::default(), 0i64);
        let mut pending: VecDeque<Pending> =
            events.iter().map(|is_good| Pending { is_good: *is_good, attempts: 0, due: 0 }).collect();
        while pending.iter().any(|one| one.is_good) {
            assert!(now < 3_600_000, "starved");
            let oldest =
                (0..pending.len()).filter(|at| pending[*at].due <= now).min_by_key(|at| pending[*at].due);
            let newest = (0..pending.len()).rev().find(|at| pending[*at].attempts == 0);
            let Some(oldest) = oldest else {
                now += 100;
                continue;
            };
            let Ok(permit) = breaker.request_permit(Millis(now)) else {
                now += 100;
                continue;
            };
            let at = match permit.probe() {
                Some(ProbeTarget::NewestUntried) => newest.unwrap_or(oldest),
                Some(ProbeTarget::Oldest) | None => oldest,
            };
            now += 10;
            let one = &mut pending[at];
            if one.is_good {
                breaker.record(permit, Healthy, Millis(now));
                pending.remove(at);
            } else {
                breaker.record(permit, ANSWERED, Millis(now));
                one.due = now + (8_000 << one.attempts.min(9));
                one.attempts += 1;
            }
        }
        now / 60_000
    }

    #[test]
    fn good_events_behind_bad_ones_arrive() {
        let events: Vec<bool> = (0..80).map(|n| n >= 40).collect();
        assert!(minutes_to_deliver(&events) < 5);
    }
}
