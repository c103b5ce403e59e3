//! Points in time with millisecond resolution, as the store keeps them, and the clocks of the process.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, const_mutex};
use serde::{Deserialize, Serialize};

use super::clock::{ClockReading, DisciplinedClock};
use super::duration;

/// The clock of a process with a store. None: the process follows the wall clock.
static DISCIPLINED: Mutex<Option<DisciplinedClock>> = const_mutex(None);

/// By how many milliseconds the clock of the store's server is ahead of this machine's. 0: unknown, or close enough.
static SERVER_AHEAD: AtomicI64 = AtomicI64::new(0);

/// Makes the process follow the clock of the store's server, which is `ahead` milliseconds ahead of this machine's. Processes
/// that share a store compare its times with their clocks: one whose clock is ahead would accept events that are not due
/// for the others.
pub fn follow_server(ahead: i64) {
    SERVER_AHEAD.store(ahead, Ordering::Relaxed);
}

/// Returns by how many milliseconds the clock that the process follows is ahead of this machine's.
pub fn server_ahead() -> i64 {
    SERVER_AHEAD.load(Ordering::Relaxed)
}

/// Disciplines the clock of this process from now on: see [`super::clock`]. `reference`: the time of the store's last
/// commit.
pub fn discipline_clock(reference: Option<Millis>) -> ClockReading {
    let (wall, monotonic) = (Millis::reference(), Millis::steady());
    DISCIPLINED.lock().insert(DisciplinedClock::start(wall, monotonic, reference)).read(wall, monotonic)
}

/// Reads the clock of this process.
pub fn read_clock() -> ClockReading {
    let mut clock = DISCIPLINED.lock();
    // Read within the lock, so that the readings of concurrent threads arrive in order.
    let (wall, monotonic) = (Millis::reference(), Millis::steady());
    match clock.as_mut() {
        Some(clock) => clock.read(wall, monotonic),
        None => ClockReading { time: wall, monotonic, age_lag: Duration::ZERO },
    }
}

/// Milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub i64);

impl Millis {
    /// Returns the present time: [`Self::reference`], and in a worker the same without its jumps (see [`super::clock`]). Call it only in listeners and loops; functions of `core` take the time as an argument.
    pub fn now() -> Self {
        read_clock().time
    }

    /// Returns the time from which ages are computed: `now`, except for the first hour after a long stop (see
    /// [`super::clock`]). Use it before something is ended or removed because of its age.
    pub fn for_ages() -> Self {
        read_clock().age_time()
    }

    /// Returns the wall-clock time with its jumps. Use it only for times that other programs compare with their clocks.
    pub fn wall() -> Self {
        Millis(jiff::Timestamp::now().as_millisecond())
    }

    /// Returns the time that disciplines the clock of the process: the wall clock, or that of the store's server
    /// ([`follow_server`]).
    pub fn reference() -> Self {
        Millis(Self::wall().0.saturating_add(server_ahead()))
    }

    /// Returns a monotonic time since boot. On Linux the clock also advances while the process is stopped and while the
    /// machine sleeps. Otherwise a leader that was suspended would believe that it still holds its Lease.
    pub fn steady() -> Self {
        #[cfg(target_os = "linux")]
        let clock = rustix::time::ClockId::Boottime;
        #[cfg(not(target_os = "linux"))]
        let clock = rustix::time::ClockId::Monotonic;
        let now = rustix::time::clock_gettime(clock);
        Millis(now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000))
    }

    /// Returns the time since `earlier`, or zero if the clock went back.
    pub fn since(self, earlier: Millis) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Formats the time as RFC 3339 with milliseconds.
    pub fn rfc3339(self) -> String {
        jiff::Timestamp::from_millisecond(self.0).map_or_else(|_| String::new(), |t| format!("{t:.3}"))
    }

    /// Parses RFC 3339.
    pub fn parse(text: &str) -> Option<Self> {
        text.parse::<jiff::Timestamp>().ok().map(|t| Millis(t.as_millisecond()))
    }
}

/// Parses a point in time: RFC 3339, or an age relative to `now` (`1h`).
pub fn parse_time_or_age(text: &str, now: Millis) -> Result<Millis, &'static str> {
    if let Some(at) = Millis::parse(text) {
        return Ok(at);
    }
    let age = duration::parse(text).map_err(
        |_| "must be a time (2026-11-21T08:00:00Z) or an age (1h30m; units h, m, s, ms; a day is 24h)",
    )?;
    Ok(Millis(now.0.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX))))
}

impl std::ops::Add<Duration> for Millis {
    type Output = Millis;
    fn add(self, rhs: Duration) -> Millis {
        Millis(self.0.saturating_add(i64::try_from(rhs.as_millis()).unwrap_or(i64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_is_zero_after_clock_went_back() {
        assert_eq!(Millis(5).since(Millis(9)), Duration::ZERO);
        assert_eq!(Millis(9).since(Millis(5)), Duration::from_millis(4));
    }

    #[test]
    fn rfc3339_round_trips() {
        let t = Millis(1_700_000_000_123);
        assert_eq!(t.rfc3339(), "2023-11-14T22:13:20.123Z");
        assert_eq!(Millis::parse(&t.rfc3339()), Some(t));
        assert_eq!(Millis::parse("yesterday"), None);
    }

    #[test]
    fn parses_times_and_ages() {
        let now = Millis(10_000_000);
        assert_eq!(parse_time_or_age("1h", now), Ok(Millis(6_400_000)));
        assert_eq!(parse_time_or_age("1970-01-01T00:00:01Z", now), Ok(Millis(1000)));
        for text in ["", "1d", "yesterday", "2026-11-21", "-1h", "0s"] {
            assert!(parse_time_or_age(text, now).is_err(), "{text}");
        }
    }

    #[test]
    fn addition_saturates() {
        assert_eq!(Millis(i64::MAX - 1) + Duration::from_secs(9), Millis(i64::MAX));
    }
}
