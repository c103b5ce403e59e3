//! Follows the database's clock. Workers compare stored times with their own clocks, so these must agree.

use std::time::Duration;

use super::super::failure::DbError;
use super::super::session::Session;
use crate::core::time::{self, Millis};

/// A smaller difference is left alone. It delays a delivery that another worker accepted by as much.
const TOLERANCE: i64 = 1_000;
/// An answer that took longer says too little about the server's clock.
const LONGEST: Duration = Duration::from_millis(500);
/// How often a process that starts reads the server's clock until an answer is fast enough.
const START_READINGS: usize = 5;

/// Both clocks around a reading of the server's.
#[derive(Clone, Copy, Debug)]
struct Reading {
    /// This machine's wall clock before the reading was sent.
    sent: Millis,
    server: Millis,
    /// This machine's wall clock when the answer arrived.
    answered: Millis,
}

impl Reading {
    /// Reads the server's clock with a statement that changes nothing: its answer waits for no commit and no standby.
    async fn take(session: &Session) -> Result<Self, DbError> {
        let sent = Millis::wall();
        let row =
            session.query_one("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint", &[]).await?;
        Ok(Reading { sent, server: Millis(row.try_get(0)?), answered: Millis::wall() })
    }

    /// Returns by how many milliseconds the server's clock is ahead. None: the answer was too slow, or this machine's clock
    /// was set back in between.
    fn ahead(self) -> Option<i64> {
        if self.answered < self.sent || self.answered.since(self.sent) > LONGEST {
            return None;
        }
        let middle = self.sent.0.saturating_add(self.answered.0.saturating_sub(self.sent.0) / 2);
        Some(self.server.0.saturating_sub(middle))
    }
}

/// Follows the server's clock before the clock of this process starts. A correction that is measured later is a jump, which
/// the disciplined clock does not follow for an hour. Reads again while answers are too slow, at most `START_READINGS` times.
pub(in super::super) async fn follow_from_start(session: &Session) -> Result<(), DbError> {
    for _ in 0..START_READINGS {
        if let Some(measured) = Reading::take(session).await?.ahead() {
            apply(measured);
            return Ok(());
        }
    }
    tracing::warn!("database answers too slowly to read its clock, using this machine's");
    Ok(())
}

/// Follows a change of the difference between both clocks.
pub(super) async fn follow(session: &Session) -> Result<(), DbError> {
    if let Some(measured) = Reading::take(session).await?.ahead() {
        apply(measured);
    }
    Ok(())
}

fn apply(measured: i64) {
    let Some(ahead) = correction(measured, time::server_ahead()) else { return };
    time::follow_server(ahead);
    match ahead {
        0 => tracing::info!(
            difference_ms = measured,
            "this machine's clock agrees with the database's, using this machine's"
        ),
        _ => tracing::warn!(
            ahead_ms = ahead,
            "database's clock is ahead of this machine's by this much (negative: behind), following the database's"
        ),
    }
}

/// Returns the correction to use from now on. None: the present one, `ahead`, is close enough.
fn correction(measured: i64, ahead: i64) -> Option<i64> {
    // A machine whose clock was corrected goes back to its own. Only well below the tolerance, so that a difference of about
    // the tolerance does not alternate.
    if ahead != 0 && measured.abs() < TOLERANCE / 2 {
        return Some(0);
    }
    (measured.abs_diff(ahead) > TOLERANCE.unsigned_abs()).then_some(measured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_difference_is_followed() {
        assert_eq!(correction(900, 0), None, "close enough");
        assert_eq!(correction(120_000, 0), Some(120_000));
        assert_eq!(correction(-120_000, 0), Some(-120_000));
        assert_eq!(correction(120_300, 120_000), None, "as before");
        assert_eq!(correction(300, 120_000), Some(0), "the machine's clock was corrected");
        assert_eq!(correction(990, 1_010), None, "a difference of about the tolerance does not alternate");
        assert_eq!(correction(490, 1_010), Some(0));
    }

    #[test]
    fn slow_answers_and_clocks_that_were_set_back_show_nothing() {
        let at = |sent, server, answered| {
            Reading { sent: Millis(sent), server: Millis(server), answered: Millis(answered) }.ahead()
        };
        assert_eq!(at(10_000, 130_001, 10_002), Some(120_000));
        assert_eq!(at(10_000, 130_000, 11_000), None, "a slow answer");
        assert_eq!(at(10_000, 130_000, 9_000), None, "a clock that was set back meanwhile");
    }
}
