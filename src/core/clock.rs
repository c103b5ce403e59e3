//! A wall clock without jumps.
//!
//! The worker stores times: when a delivery is due, when it was accepted, when a quiet period ends. A wall clock that
//! jumps back would delay every retry, and one that jumps ahead would end deliveries by age, although the jump may be
//! corrected a minute later. So the worker uses a [`DisciplinedClock`], which follows the monotonic clock and lets the
//! wall clock correct it:
//!
//! | the wall clock | the disciplined clock |
//! |---|---|
//! | drifts or is slewed (up to 2 s apart) | follows it |
//! | jumps ahead | ignores it for an hour, then follows it |
//! | jumps back up to a day | keeps its time, and runs slower by 1/16 until both agree |
//! | jumps back more than a day | keeps its time for an hour, then follows it |
//!
//! So a wait takes as long as it should, whatever the wall clock does, and ages grow with the monotonic clock. The time
//! goes back only in the last case; the store then repairs the times that became unreachable.
//!
//! A new process knows the time of the store's last commit (the reference). A wall clock behind it has jumped back. A wall
//! clock ahead of it is normal, because the process was stopped, so the clock follows it at once. If it is more than a
//! day ahead, the stop may have been short and the wall clock wrong: for an hour, ages do not count that gap
//! ([`ClockReading::age_time`]).
//!
//! Workers that share a store on a server correct their machines' wall clocks by that server's if they differ by more than a
//! second (`time::follow_server`). The corrected wall clock is disciplined as above: a difference that appears while the
//! process runs is a jump.
//!
//! How to use it: `Millis::now()` is the disciplined time in a worker, and `Millis::for_ages()` the time from which ages
//! are computed. `Millis::wall()` is for times that other programs compare with their own clock. The dispatcher keeps its
//! timers on the monotonic clock of a [`ClockReading`].

use std::time::Duration;

use super::time::Millis;

/// The largest difference that is a correction of the wall clock's rate, not a jump.
const TOLERANCE: i64 = 2_000;
/// How long a jump must last until the clock follows it.
const CONFIRMATION: i64 = 3_600_000;
/// The part of its rate by which the clock runs slower while it is ahead of the wall clock.
const SLEW: i64 = 16;
/// A larger jump back is followed after its confirmation, because slewing would take months.
const MAX_SLEWED: i64 = 86_400_000;
/// A larger gap between the reference and the start does not count towards ages until it is confirmed.
const MAX_TRUSTED_STOP: i64 = 86_400_000;

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockReading {
    /// The disciplined time. Comparable with stored times.
    pub time: Millis,
    /// Time since boot. Comparable only with other readings of this boot.
    pub monotonic: Millis,
    /// The part of the time that may be a wrong wall clock at the start, and does not count towards ages yet.
    pub age_lag: Duration,
}

impl ClockReading {
    /// Returns the time from which ages are computed.
    pub fn age_time(self) -> Millis {
        Millis(self.time.0.saturating_sub(i64::try_from(self.age_lag.as_millis()).unwrap_or(i64::MAX)))
    }
}

/// A difference between the two clocks that is not confirmed yet.
#[derive(Clone, Copy, Debug)]
struct Jump {
    /// Wall clock minus disciplined clock, in milliseconds.
    difference: i64,
    /// When it began, on the monotonic clock.
    since: i64,
}

/// The state of the clock. Feed it with both clocks at each reading, at least once every few seconds, because it measures
/// the rate of the wall clock between two readings.
#[derive(Clone, Debug)]
pub struct DisciplinedClock {
    time: i64,
    monotonic: i64,
    jump: Option<Jump>,
    /// The part of the elapsed time that was not slewed yet, because it is shorter than `SLEW` milliseconds.
    unslewed: i64,
    /// The gap of a start after a long stop, and the monotonic time at which it is confirmed.
    unconfirmed_stop: Option<(i64, i64)>,
}

impl DisciplinedClock {
    /// Starts the clock. `reference`: the time of the store's last commit, if it has one.
    pub fn start(wall: Millis, monotonic: Millis, reference: Option<Millis>) -> Self {
        let reference = reference.unwrap_or(wall);
        let stop = wall.0.saturating_sub(reference.0);
        DisciplinedClock {
            time: wall.0.max(reference.0),
            monotonic: monotonic.0,
            jump: None,
            unslewed: 0,
            unconfirmed_stop: (stop > MAX_TRUSTED_STOP)
                .then(|| (stop, monotonic.0.saturating_add(CONFIRMATION))),
        }
    }

    /// Advances the clock to a reading of both clocks.
    pub fn read(&mut self, wall: Millis, monotonic: Millis) -> ClockReading {
        // Readings of concurrent threads may arrive in another order.
        let elapsed = monotonic.0.saturating_sub(self.monotonic).max(0);
        self.monotonic = self.monotonic.saturating_add(elapsed);
        let expected = self.time.saturating_add(elapsed);
        let difference = wall.0.saturating_sub(expected).max(-i64::MAX);
        let is_confirmed = self.confirm(difference);
        self.time = match difference {
            0.. if difference <= TOLERANCE || is_confirmed => wall.0,
            0.. => expected,
            ..0 if is_confirmed && difference < -MAX_SLEWED => wall.0,
            ..0 => {
                self.unslewed = self.unslewed.saturating_add(elapsed);
                let slewed = (self.unslewed / SLEW).min(-difference);
                self.unslewed %= SLEW;
                expected.saturating_sub(slewed)
            }
        };
        if self.unconfirmed_stop.is_some_and(|(_, until)| self.monotonic >= until) {
            self.unconfirmed_stop = None;
        }
        let lag = self.unconfirmed_stop.map_or(0, |(gap, _)| gap);
        ClockReading {
            time: Millis(self.time),
            monotonic: Millis(self.monotonic),
            age_lag: Duration::from_millis(u64::try_from(lag).unwrap_or(0)),
        }
    }

    /// Records a difference between the clocks. Returns true if it is a jump that has lasted long enough.
    fn confirm(&mut self, difference: i64) -> bool {
        if difference.abs() <= TOLERANCE {
            self.jump = None;
            return false;
        }
        // While the clock is slewed, the difference shrinks slowly, so compare it with the last one.
        let since = match self.jump {
            Some(jump) if difference.abs_diff(jump.difference) <= TOLERANCE.unsigned_abs() => jump.since,
            _ => self.monotonic,
        };
        self.jump = Some(Jump { difference, since });
        self.monotonic.saturating_sub(since) >= CONFIRMATION
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: i64 = 3_600_000;
    const DAY: i64 = 24 * HOUR;
    const START: i64 = 1_700_000_000_000;

    /// A machine with a wall clock that can jump, and a clock that reads it every half second.
    struct Machine {
        wall: i64,
        monotonic: i64,
        clock: DisciplinedClock,
        last: ClockReading,
    }

    impl Machine {
        fn start_with(wall: i64, reference: Option<i64>) -> Machine {
            let mut clock = DisciplinedClock::start(Millis(wall), Millis(0), reference.map(Millis));
            let last = clock.read(Millis(wall), Millis(0));
            Machine { wall, monotonic: 0, clock, last }
        }

        fn jump(&mut self, by: i64) {
            self.wall += by;
        }

        /// Lets time pass; the wall clock runs at its own rate.
        fn run_at(&mut self, millis: i64, rate: f64) -> Millis {
            let end = self.monotonic + millis;
            while self.monotonic < end {
                let step = (end - self.monotonic).min(500);
                self.monotonic += step;
                self.wall += (step as f64 * rate).round() as i64;
                self.last = self.clock.read(Millis(self.wall), Millis(self.monotonic));
            }
            self.last.time
        }

        fn run(&mut self, millis: i64) -> Millis {
            self.run_at(millis, 1.0)
        }
    }

    #[test]
    fn follows_a_wall_clock_without_jumps() {
        let mut machine = Machine::start_with(START, None);
        assert_eq!(machine.run(10 * DAY), Millis(START + 10 * DAY));
        // chrony slews by up to 8 percent.
        machine.run_at(HOUR, 1.08);
        assert_eq!(machine.last.time, Millis(machine.wall));
        machine.run_at(HOUR, 0.95);
        assert!(machine.last.time.0 - machine.wall <= 1000, "{:?}", machine.last);
    }

    #[test]
    fn a_jump_back_delays_no_retry() {
        let mut machine = Machine::start_with(START, None);
        let due = machine.run(1000) + Duration::from_secs(8);
        machine.jump(-2 * HOUR);
        assert!(machine.run(7_900) < due);
        assert!(machine.run(1_000) >= due, "{:?}", machine.last);
        // Nor after a restart: the store's last commit is the reference.
        let due = machine.last.time + Duration::from_secs(8);
        let mut restarted = Machine::start_with(machine.wall, Some(machine.last.time.0));
        assert!(restarted.run(7_900) < due);
        assert!(restarted.run(1_000) >= due, "{:?}", restarted.last);
        // The clocks agree again after 16 times the jump.
        restarted.run(16 * 2 * HOUR);
        assert!((restarted.last.time.0 - restarted.wall).abs() <= TOLERANCE, "{:?}", restarted.last);
    }

    #[test]
    fn frequent_readings_change_no_rate() {
        let mut machine = Machine::start_with(START, None);
        machine.jump(-HOUR);
        for _ in 0..16_000 {
            machine.wall += 1;
            machine.monotonic += 1;
            for _ in 0..3 {
                machine.last = machine.clock.read(Millis(machine.wall), Millis(machine.monotonic));
            }
        }
        assert_eq!(machine.last.time.0, START + 15_000);
    }

    #[test]
    fn a_jump_ahead_ages_nothing_until_it_has_lasted_an_hour() {
        let mut machine = Machine::start_with(START, None);
        machine.jump(8 * DAY);
        assert_eq!(machine.run(40_000), Millis(START + 40_000));
        machine.jump(-8 * DAY);
        assert_eq!(machine.run(2 * HOUR), Millis(START + 2 * HOUR + 40_000));
        machine.jump(8 * DAY);
        let before = machine.last.time.0;
        assert_eq!(machine.run(HOUR - 1000).0, before + HOUR - 1000);
        assert_eq!(machine.run(2000).0, machine.wall, "confirmed");
    }

    #[test]
    fn a_jump_that_grows_starts_its_hour_again() {
        let mut machine = Machine::start_with(START, None);
        machine.jump(10_000);
        machine.run(HOUR - 10_000);
        machine.jump(8 * DAY);
        machine.run(HOUR - 10_000);
        assert_eq!(machine.last.time.0, START + machine.monotonic);
        assert_eq!(machine.run(20_000).0, machine.wall);
    }

    #[test]
    fn a_long_jump_back_is_followed_after_an_hour() {
        let mut machine = Machine::start_with(START, None);
        machine.jump(-3 * DAY);
        let before = machine.run(HOUR - 10_000);
        assert!(before.0 > START + HOUR / 2);
        assert_eq!(machine.run(20_000).0, machine.wall);
        assert_eq!(machine.run(DAY).0, machine.wall);
    }

    #[test]
    fn a_long_stop_counts_towards_ages_after_an_hour() {
        let mut machine = Machine::start_with(START, Some(START - 3 * DAY));
        machine.run(HOUR - 1000);
        assert_eq!(
            machine.last.time.0, machine.wall,
            "deliveries that became due meanwhile are sent at once"
        );
        let accepted = Millis(START - 3 * DAY - 1000);
        assert_eq!(machine.last.age_time().since(accepted), Duration::from_secs(3600));
        machine.run(2000);
        assert_eq!(machine.last.age_time().since(accepted), Duration::from_secs(3 * 86400 + 3602));
        let short = Machine::start_with(START, Some(START - HOUR));
        assert_eq!(
            short.last.age_time().since(Millis(START - HOUR)),
            Duration::from_secs(3600),
            "a short stop counts at once"
        );
    }

    proptest! {
        /// Whatever the wall clock does, a wait of up to an hour takes about as long as it should.
        #[test]
        fn waits_take_as_long_as_they_should(
            jumps in proptest::collection::vec((-DAY..30 * DAY, 1i64..100_000), 1..12), wait in 1_000i64..HOUR,
        ) {
            let mut machine = Machine::start_with(START, None);
            let mut before = machine.last.time;
            for (by, pause) in jumps {
                // Below the limit of slewing in total, and each of them unconfirmed.
                let by = if machine.wall + by < machine.last.time.0 - DAY { 0 } else { by };
                machine.jump(by);
                machine.run(pause);
                prop_assert!(machine.last.time >= before, "it went back");
                before = machine.last.time;
            }
            let due = machine.last.time + Duration::from_millis(wait.unsigned_abs());
            // Its hour begins now, so that it is not confirmed during the wait.
            machine.clock.jump = None;
            machine.run(wait - 3_000);
            prop_assert!(wait < 3_000 || machine.last.time < due, "too early");
            machine.run(3_000 + wait / 15 + 1_000);
            prop_assert!(machine.last.time >= due, "too late");
        }

        #[test]
        fn never_panics(readings in proptest::collection::vec((any::<i64>(), any::<i64>()), 1..20), reference in any::<Option<i64>>()) {
            let mut clock = DisciplinedClock::start(Millis(readings[0].0), Millis(readings[0].1), reference.map(Millis));
            for (wall, monotonic) in readings {
                let reading = clock.read(Millis(wall), Millis(monotonic));
                reading.age_time();
            }
        }
    }
}
