//! The signals that stop the process.

use std::future::Future;

use super::failure::{Failure, OrFail};

/// Returns a future that completes on SIGINT or SIGTERM.
pub fn stop_signal() -> Result<impl Future<Output = ()>, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt()).or_fail(|| "listening for SIGINT".into())?;
    let mut terminate = signal(SignalKind::terminate()).or_fail(|| "listening for SIGTERM".into())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
