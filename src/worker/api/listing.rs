//! Builds lists from memory on threads of their own, a few at a time: with a hundred thousand hooks each takes some CPU time,
//! and clients that poll must not take it from deliveries.
//!
//! The threads are divided fairly between the namespaces that are listed; lists of all namespaces count as one more. So the
//! lists of one tenant make another's wait for one of them at most, however many it requests.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::worker::problem::HttpProblem;
use crate::worker::store::fair_queue::FairQueue;

/// The lists that are built at the same time.
const BUILDS: usize = 2;
/// The lists that wait. If there are more, the newest one of the namespace with the most is rejected.
const MAX_WAITING: usize = 128;
/// How long a request waits for others.
const MAX_WAIT: Duration = Duration::from_secs(5);

static BUILDER: LazyLock<ListBuilder> = LazyLock::new(|| ListBuilder::new(BUILDS, MAX_WAITING));

/// Builds a list of the objects in `scope`: a namespace, or all. Fails with 503 if too many requests wait.
pub async fn build<T: Send + 'static>(
    scope: &str,
    build: impl FnOnce() -> T + Send + 'static,
) -> Result<T, HttpProblem> {
    BUILDER.build(scope, build).await
}

/// The free threads, and the requests that wait for one.
type BuildQueue = Arc<Mutex<FairQueue<oneshot::Sender<BuildSlot>>>>;

struct ListBuilder(BuildQueue);

impl ListBuilder {
    fn new(builds: usize, max_waiting: usize) -> Self {
        ListBuilder(Arc::new(Mutex::new(FairQueue::new(builds, max_waiting))))
    }

    async fn build<T: Send + 'static>(
        &self,
        scope: &str,
        build: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, HttpProblem> {
        let busy =
            || HttpProblem::new(503, "Busy", "too many lists are requested: send the request again later");
        let (sender, granted) = oneshot::channel();
        // A rejected request learns it by the end of its sender.
        let rejected = self.0.lock().push(&scope.into(), sender);
        drop(rejected);
        grant(&self.0);
        let slot = tokio::time::timeout(MAX_WAIT, granted).await;
        let slot = slot.map_err(|_| busy())?.map_err(|_| busy())?;
        let built = tokio::task::spawn_blocking(move || {
            // Held until the end, also if the client disconnects.
            let _slot = slot;
            build()
        });
        built.await.map_err(|_| HttpProblem::new(500, "Failed", "the list could not be built"))
    }
}

/// Grants the free threads. A request that does not wait any more returns its thread at once.
fn grant(queue: &BuildQueue) {
    loop {
        // Sends without the lock, because a slot whose receiver was dropped is returned here, which locks the queue again.
        let next = queue.lock().start_next();
        let Some((scope, sender)) = next else { return };
        drop(sender.send(BuildSlot { queue: queue.clone(), scope }));
    }
}

/// The right to build one list.
struct BuildSlot {
    queue: BuildQueue,
    scope: Arc<str>,
}

impl Drop for BuildSlot {
    fn drop(&mut self) {
        self.queue.lock().finish(&self.scope);
        grant(&self.queue);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use futures::future::join_all;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn few_lists_are_built_at_the_same_time() {
        let builder = ListBuilder::new(2, 100);
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let builds = (0..20).map(|n| {
            let (running, most) = (running.clone(), most.clone());
            builder.build("n", move || {
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

    #[tokio::test(flavor = "multi_thread")]
    async fn lists_of_one_namespace_do_not_delay_those_of_another() {
        let builder = Arc::new(ListBuilder::new(2, 100));
        // Lists of a busy tenant, each of which takes until the test sends an end.
        let (end, ends) = mpsc::channel::<()>();
        let (ends, done) = (Arc::new(Mutex::new(ends)), Arc::new(AtomicUsize::new(0)));
        let builds: Vec<_> = (0..6)
            .map(|_| {
                let (builder, ends, done) = (builder.clone(), ends.clone(), done.clone());
                tokio::spawn(async move {
                    let build = move || {
                        ends.lock().recv().ok();
                        done.fetch_add(1, Ordering::SeqCst);
                    };
                    builder.build("busy", build).await.unwrap();
                })
            })
            .collect();
        wait_for_queued(&builder, 4).await;
        let other = tokio::spawn({
            let builder = builder.clone();
            async move { builder.build("other", || "built").await.unwrap() }
        });
        wait_for_queued(&builder, 5).await;
        // Ends one list of the busy tenant: the next one is that of the other.
        end.send(()).unwrap();
        assert_eq!(other.await.unwrap(), "built");
        assert_eq!(done.load(Ordering::SeqCst), 1, "the busy tenant's other lists still wait");
        drop(end);
        for build in builds {
            build.await.unwrap();
        }
    }

    async fn wait_for_queued(builder: &ListBuilder, queued: usize) {
        while builder.0.lock().queued() < queued {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn full_queue_rejects_the_newest_of_the_largest_namespace() {
        let builder = ListBuilder::new(0, 1);
        let mut waiting = Box::pin(builder.build("n", || ()));
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        assert_eq!(builder.build("n", || ()).await.unwrap_err().reason, "Busy");
    }
}
