//! Traces what accepts wait for: steps of the writer and the checkpoints that take long.
//!
//! At log level `trace` only: `--log-level=info,hookstream::worker::store=trace` shows each one with its duration.

use std::time::{Duration, Instant};

/// Steps that take at least this long are logged.
const LONG: Duration = Duration::from_millis(2);

/// Runs a step, and logs it if it took long.
pub(super) fn traced<T>(step: &'static str, run: impl FnOnce() -> T) -> T {
    if !tracing::enabled!(tracing::Level::TRACE) {
        return run();
    }
    let started = Instant::now();
    let result = run();
    let took = started.elapsed();
    if took >= LONG {
        tracing::trace!(step, micros = took.as_micros(), "slow step of the store");
    }
    result
}
