//! The time of a step of the dispatcher.

use std::time::Duration;

use crate::core::time::{Millis, read_clock};

/// The longest wait until a stored time. A timer that fires too early only reads the backlog; one that fires too late
/// would delay a delivery whose time was stored while the clock was wrong.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// The present time. Waits inside the process use the steady clock, which never jumps. Only stored times (when a delivery is
/// due, how old it is) use the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The time that is comparable with stored times.
    pub wall: Millis,
    /// The time from which ages are computed.
    pub age: Millis,
    pub steady: Millis,
}

impl Now {
    pub fn read() -> Self {
        let clock = read_clock();
        Now { wall: clock.time, age: clock.age_time(), steady: clock.monotonic }
    }

    /// Returns the steady time at which a stored time comes. The only place where a stored time becomes a wait.
    pub fn steady_at(self, due: Millis) -> Millis {
        self.steady + due.since(self.wall).min(LONGEST_WAIT)
    }

    /// Returns the stored time at which a steady time comes, for people.
    pub fn wall_at(self, steady: Millis) -> Millis {
        self.wall + steady.since(self.steady)
    }
}
