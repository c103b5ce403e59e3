//! Builds lists from memory on threads of their own, a few at a time: with a hundred thousand hooks each takes some CPU time,
//! and clients that poll must not take it from deliveries.

use std::time::Duration;

use tokio::sync::Semaphore;

use crate::worker::problem::HttpProblem;

/// The lists that are built at the same time.
static BUILDS: Semaphore = Semaphore::const_new(2);
/// How long a request waits for others.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// Builds a list. Fails with 503 if too many requests wait.
pub async fn build<T: Send + 'static>(build: impl FnOnce() -> T + Send + 'static) -> Result<T, HttpProblem> {
    let busy = || HttpProblem::new(503, "Busy", "too many lists are requested: send the request again later");
    let permit = tokio::time::timeout(MAX_WAIT, BUILDS.acquire()).await;
    let permit = permit.map_err(|_| busy())?.map_err(|_| busy())?;
    let built = tokio::task::spawn_blocking(move || {
        // Held until the end, also if the client disconnects.
        let _permit = permit;
        build()
    });
    built.await.map_err(|_| HttpProblem::new(500, "Failed", "the list could not be built"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn few_lists_are_built_at_the_same_time() {
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let builds = (0..20).map(|n| {
            let (running, most) = (running.clone(), most.clone());
            build(move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::yield_now();
                running.fetch_sub(1, Ordering::SeqCst);
                n
            })
        });
        let built: Vec<_> = join_all(builds).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(built, (0..20).collect::<Vec<_>>());
        assert!(most.load(Ordering::SeqCst) <= 2);
    }
}
