//! The signals that stop the process.

use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failure::{Failure, OrFail};

/// Returns a future that completes on SIGINT or SIGTERM.
pub fn stop_signal() -> Result<impl Future<Output = ()>, Failure> {
    let mut interrupts = interrupts()?;
    let mut terminate = signal(SignalKind::terminate()).or_fail(|| "listening for SIGTERM".into())?;
    Ok(async move {
        tokio::select! {
            _ = interrupts.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Listens for Ctrl-C. `tokio::signal::ctrl_c` would listen from its first poll on only; Ctrl-C before that would end the
/// process without its message.
pub fn interrupts() -> Result<Signal, Failure> {
    signal(SignalKind::interrupt()).or_fail(|| "listening for SIGINT".into())
}
