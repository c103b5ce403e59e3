//! Threads of its own for one part of the process.
//!
//! Parts that work on the same events and share no threads hold up each other less: what one thread touches stays in its
//! core's cache, and two that hand each other single tasks pay for each of them.

use std::future::Future;

use tokio::runtime::{Builder, Runtime};
use tokio_util::task::AbortOnDropHandle;

/// Threads for one of two parts: half the cores, one at least.
pub fn half_of_the_cores() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / 2).max(1)
}

/// A runtime beside the one that it was made on.
pub struct Threads(Option<Runtime>);

impl Threads {
    /// Errors: the system gives no more threads.
    pub fn start(name: &str) -> std::io::Result<Threads> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(half_of_the_cores())
            .thread_name(name)
            .enable_all()
            .build()?;
        Ok(Threads(Some(runtime)))
    }

    /// Runs a future there. It ends when this is dropped; its panic goes on here.
    pub async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let running = AbortOnDropHandle::new(self.0.as_ref()?.spawn(work));
        match running.await {
            Ok(done) => Some(done),
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime was stopped.
                Err(_) => None,
            },
        }
    }
}

impl Drop for Threads {
    /// Not by waiting for what runs, which a thread of another runtime may not.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_runs_there_ends_with_who_waits_for_it() {
        let threads = Threads::start("of-its-own").unwrap();
        let name = async { std::thread::current().name().map(ToOwned::to_owned) };
        assert_eq!(threads.run(name).await, Some(Some("of-its-own".into())));
        let (dropped, told) = oneshot::channel::<()>();
        let forever = async move {
            let _dropped = dropped;
            std::future::pending::<()>().await
        };
        let waited = tokio::time::timeout(Duration::from_millis(50), threads.run(forever)).await;
        assert!(waited.is_err());
        let ended = tokio::time::timeout(Duration::from_secs(10), told).await.expect("it goes on");
        assert!(ended.is_err(), "its sender was dropped with it");
    }
}
