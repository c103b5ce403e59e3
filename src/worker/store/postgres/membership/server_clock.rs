//! Follows the database's clock. Workers compare stored times with their own clocks, so these must agree.

use std::time::Duration;

use crate::core::time::{self, Millis};

/// A smaller difference is left alone. It delays a delivery that another worker accepted by as much.
const TOLERANCE: i64 = 1_000;
/// An answer that took longer says too little about the server's clock.
const LONGEST: Duration = Duration::from_millis(500);

/// Compares the clocks. `asked` and `answered`: this machine's wall clock around the server's reading.
pub(super) fn compare(asked: Millis, server: Millis, answered: Millis) {
    let ahead = time::server_ahead();
    let Some(measured) = correction(asked, server, answered, ahead) else { return };
    time::follow_server(measured);
    tracing::warn!(
        seconds = measured / 1000,
        "database's clock is ahead of this machine's by this much (negative: behind), following the database's"
    );
}

/// Returns by how much the server's clock is ahead now. None: about as much as before.
fn correction(asked: Millis, server: Millis, answered: Millis, ahead: i64) -> Option<i64> {
    // A clock that was set back in between shows nothing either.
    if answered < asked || answered.since(asked) > LONGEST {
        return None;
    }
    let middle = asked.0.saturating_add(answered.0.saturating_sub(asked.0) / 2);
    let measured = server.0.saturating_sub(middle);
    // A machine whose clock was corrected goes back to its own.
    let measured = if measured.abs() <= TOLERANCE { 0 } else { measured };
    (measured.abs_diff(ahead) > TOLERANCE.unsigned_abs()).then_some(measured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_difference_is_followed() {
        let at = |asked, server, answered, ahead| {
            correction(Millis(asked), Millis(server), Millis(answered), ahead)
        };
        assert_eq!(at(10_000, 10_900, 10_002, 0), None, "close enough");
        assert_eq!(at(10_000, 130_001, 10_002, 0), Some(120_000));
        assert_eq!(at(130_000, 10_001, 130_002, 0), Some(-120_000));
        assert_eq!(at(10_000, 130_301, 10_002, 120_000), None, "as before");
        assert_eq!(at(130_000, 130_301, 130_002, 120_000), Some(0), "the machine's clock was corrected");
        assert_eq!(at(10_000, 130_000, 11_000, 0), None, "a slow answer");
        assert_eq!(at(10_000, 130_000, 9_000, 0), None, "a clock that was set back meanwhile");
    }
}
