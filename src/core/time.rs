//! Points in time as the store keeps them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::duration;

/// Milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub i64);

impl Millis {
    /// The wall clock. Only the edges (listeners, loops) call it; what decides gets the time as an argument.
    pub fn now() -> Self {
        Millis(jiff::Timestamp::now().as_millisecond())
    }

    /// A clock that never goes back, counted from the start of the machine. It goes on while the process is stopped and
    /// while the machine sleeps: what somebody else may do after a time must not be judged by a clock that stood still.
    pub fn steady() -> Self {
        #[cfg(target_os = "linux")]
        let clock = rustix::time::ClockId::Boottime;
        #[cfg(not(target_os = "linux"))]
        let clock = rustix::time::ClockId::Monotonic;
        let now = rustix::time::clock_gettime(clock);
        Millis(now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000))
    }

    /// How long from `earlier` until here; zero where the clock went back.
    pub fn since(self, earlier: Millis) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// RFC 3339 with milliseconds, for people and APIs.
    pub fn rfc3339(self) -> String {
        jiff::Timestamp::from_millisecond(self.0).map_or_else(|_| String::new(), |t| format!("{t:.3}"))
    }

    /// Parses RFC 3339.
    pub fn parse(text: &str) -> Option<Self> {
        text.parse::<jiff::Timestamp>().ok().map(|t| Millis(t.as_millisecond()))
    }
}

/// Reads a point in time as people write it: RFC 3339, or how long ago (`1h`).
pub fn point(text: &str, now: Millis) -> Result<Millis, &'static str> {
    if let Some(at) = Millis::parse(text) {
        return Ok(at);
    }
    let ago = duration::parse(text)
        .map_err(|_| "must be a time (2026-11-21T08:00:00Z) or how long ago (1h30m; units h, m, s, ms)")?;
    Ok(Millis(now.0.saturating_sub(i64::try_from(ago.as_millis()).unwrap_or(i64::MAX))))
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
    fn a_clock_that_went_back_gives_no_negative_age() {
        assert_eq!(Millis(5).since(Millis(9)), Duration::ZERO);
        assert_eq!(Millis(9).since(Millis(5)), Duration::from_millis(4));
    }

    #[test]
    fn text_and_back() {
        let t = Millis(1_700_000_000_123);
        assert_eq!(t.rfc3339(), "2023-11-14T22:13:20.123Z");
        assert_eq!(Millis::parse(&t.rfc3339()), Some(t));
        assert_eq!(Millis::parse("yesterday"), None);
    }

    #[test]
    fn points_in_time() {
        let now = Millis(10_000_000);
        assert_eq!(point("1h", now), Ok(Millis(6_400_000)));
        assert_eq!(point("1970-01-01T00:00:01Z", now), Ok(Millis(1000)));
        for text in ["", "1d", "yesterday", "2026-11-21", "-1h", "0s"] {
            assert!(point(text, now).is_err(), "{text}");
        }
    }

    #[test]
    fn adding_saturates() {
        assert_eq!(Millis(i64::MAX - 1) + Duration::from_secs(9), Millis(i64::MAX));
    }
}
