//! Detects watches that hang, by observing their HTTP requests.
//!
//! A watch request lasts for a bounded time and is then restarted. A watch without a new request within twice that time
//! hangs, however healthy the process looks. Error responses count as progress, because the watch retries and a
//! restarted process could do no better.

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{Method, Request, Response};
use kube::client::Body;
use parking_lot::Mutex;
use tower_layer::Layer;
use tower_service::Service;
use url::form_urlencoded;

use crate::core::time::Millis;
use crate::metrics::Metrics;

/// Extra time before a watch counts as hanging, for a loaded machine.
const MARGIN: Duration = Duration::from_secs(10);

/// Marks a request that has the path of a watch and does not belong to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct NotOfWatch;

/// The watches of the process, with the start of the last request of each.
#[derive(Debug)]
pub struct WatchLiveness {
    /// The start of the last request, by request path.
    last_request: Mutex<HashMap<String, Millis>>,
    /// The newest resource version of the watches and lists of custom resources.
    newest_version: AtomicU64,
    limit: Duration,
    metrics: Arc<Metrics>,
}

impl WatchLiveness {
    /// `watch_timeout` is the duration of one watch request.
    pub fn new(watch_timeout: Duration, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(WatchLiveness {
            last_request: Mutex::default(),
            newest_version: AtomicU64::new(0),
            limit: watch_timeout * 2 + MARGIN,
            metrics,
        })
    }

    /// Registers a watch with this request path.
    pub(super) fn register(&self, path: String, now: Millis) {
        self.last_request.lock().insert(path, now);
    }

    fn is_registered(&self, path: &str) -> bool {
        self.last_request.lock().contains_key(path)
    }

    fn record_request(&self, path: &str, now: Millis) {
        if let Some(last) = self.last_request.lock().get_mut(path) {
            *last = now;
        }
    }

    /// Records a resource version that the API server returned. Versions of all kinds compare as numbers.
    pub(super) fn record_version(&self, version: &str) {
        if let Ok(version) = version.parse() {
            self.newest_version.fetch_max(version, Ordering::Relaxed);
        }
    }

    /// Returns the newest recorded version, and forgets all but `current`.
    pub(super) fn replace_newest_version(&self, current: u64) -> u64 {
        self.newest_version.swap(current, Ordering::Relaxed)
    }

    pub(super) fn newest_version(&self) -> u64 {
        self.newest_version.load(Ordering::Relaxed)
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Returns the watches that hang, each with the time since its last request.
    pub fn hanging(&self, now: Millis) -> Vec<(String, Duration)> {
        let last_request = self.last_request.lock();
        let idle = last_request.iter().map(|(path, last)| (path.clone(), now.since(*last)));
        idle.filter(|(_, idle)| *idle > self.limit).collect()
    }
}

/// A client layer that records the requests of registered watches.
pub struct WatchLivenessLayer(pub Arc<WatchLiveness>);

impl<S> Layer<S> for WatchLivenessLayer {
    type Service = WatchLivenessService<S>;
    fn layer(&self, inner: S) -> WatchLivenessService<S> {
        WatchLivenessService { inner, liveness: self.0.clone() }
    }
}

#[derive(Clone)]
pub struct WatchLivenessService<S> {
    inner: S,
    liveness: Arc<WatchLiveness>,
}

impl<S, B> Service<Request<Body>> for WatchLivenessService<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: AsRef<dyn Error + Send + Sync>,
    S::Future: Send + 'static,
    B: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let is_marked = request.extensions().get::<NotOfWatch>().is_some();
        let is_watch = !is_marked && request.method() == Method::GET && self.liveness.is_registered(path);
        // A watch continues from a version that only it knows: the one of its last bookmark. Secrets may be in an etcd of
        // their own, with other versions; custom resources never are.
        let has_shared_versions = is_watch && path.starts_with("/apis/");
        let query = request.uri().query().filter(|_| has_shared_versions).unwrap_or_default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if name == "resourceVersion" {
                self.liveness.record_version(&value);
            }
        }
        let (path, liveness) = (path.to_owned(), self.liveness.clone());
        let response = self.inner.call(request);
        Box::pin(async move {
            let response = response.await;
            if is_watch {
                let is_success = response.as_ref().is_ok_and(|response| response.status().is_success());
                liveness.metrics.record_watch_request(&path, is_success);
                if !response.as_ref().is_err_and(|error| is_timeout(error.as_ref())) {
                    liveness.record_request(&path, Millis::steady());
                }
            }
            response
        })
    }
}

/// Returns true for a read timeout, which means that the server was silent: no progress.
fn is_timeout(error: &(dyn Error + 'static)) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|io| io.kind() == io::ErrorKind::TimedOut) || error.source().is_some_and(is_timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watch_without_a_request_in_time_hangs() {
        let liveness = WatchLiveness::new(Duration::from_secs(200), Arc::default());
        liveness.register("/a".into(), Millis(0));
        liveness.register("/b".into(), Millis(0));
        assert!(liveness.hanging(Millis(410_000)).is_empty());
        liveness.record_request("/a", Millis(300_000));
        liveness.record_request("/none", Millis(300_000));
        assert_eq!(liveness.hanging(Millis(410_001)), [("/b".to_owned(), Duration::from_millis(410_001))]);
        liveness.record_request("/b", Millis(410_002));
        assert!(liveness.hanging(Millis(410_003)).is_empty());
    }
}
