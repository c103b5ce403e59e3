//! Runs a part of the process on a separate Tokio runtime.
//!
//! Separate threads reduce contention between parts that work on the same events. The data of a part stays in the caches of
//! its cores, and tasks are not handed between threads one by one.

use std::future::Future;

use tokio::runtime::{Builder, Runtime};
use tokio_util::task::AbortOnDropHandle;

/// Returns the number of threads for one of two parts: half of the cores, at least one.
pub fn half_the_cores() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / 2).max(1)
}

/// A second Tokio runtime, besides the runtime of the caller.
pub struct DedicatedRuntime(Option<Runtime>);

impl DedicatedRuntime {
    /// Starts the threads. Fails if the system cannot create them.
    pub fn start(name: &str) -> std::io::Result<DedicatedRuntime> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(half_the_cores())
            .thread_name(name)
            .enable_all()
            .build()?;
        Ok(DedicatedRuntime(Some(runtime)))
    }

    /// Runs a future on the runtime. Dropping the returned future cancels it; a panic is propagated. Returns None if the
    /// runtime was stopped.
    pub async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let task = AbortOnDropHandle::new(self.0.as_ref()?.spawn(work));
        match task.await {
            Ok(output) => Some(output),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => None,
            },
        }
    }
}

impl Drop for DedicatedRuntime {
    /// Shuts down without waiting for running tasks: Tokio forbids blocking on a thread of another runtime.
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
    async fn dropping_the_caller_cancels_the_task() {
        let runtime = DedicatedRuntime::start("dedicated").unwrap();
        let name = async { std::thread::current().name().map(ToOwned::to_owned) };
        assert_eq!(runtime.run(name).await, Some(Some("dedicated".into())));
        let (sender, receiver) = oneshot::channel::<()>();
        let forever = async move {
            let _sender = sender;
            std::future::pending::<()>().await
        };
        let result = tokio::time::timeout(Duration::from_millis(50), runtime.run(forever)).await;
        assert!(result.is_err());
        let received = tokio::time::timeout(Duration::from_secs(10), receiver)
            .await
            .expect("the task was not cancelled");
        assert!(received.is_err(), "the sender was dropped with the task");
    }
}
