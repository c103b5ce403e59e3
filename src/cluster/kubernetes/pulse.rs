//! Whether the watches make progress, seen where their requests leave the process.
//!
//! A watch lasts for a bounded time and is then begun again: one that was not begun again within twice that time hangs,
//! however healthy the process looks. A server that refuses, or answers with an error, is loud: the watch goes on trying,
//! and a new process could do no better.

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{Method, Request, Response};
use kube::client::Body;
use parking_lot::Mutex;
use tower_layer::Layer;
use tower_service::Service;

use crate::core::time::Millis;
use crate::metrics::Metrics;

/// A watch that the server should have ended is given this much more, for a loaded machine.
const MARGIN: Duration = Duration::from_secs(10);

/// The watches of the process, and when each was last begun.
#[derive(Debug)]
pub struct Pulse {
    /// By the path of its requests.
    watches: Mutex<HashMap<String, Millis>>,
    limit: Duration,
    metrics: Arc<Metrics>,
}

impl Pulse {
    /// `watch_timeout`: how long one watch lasts.
    pub fn new(watch_timeout: Duration, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Pulse { watches: Mutex::default(), limit: watch_timeout * 2 + MARGIN, metrics })
    }

    /// A watch on this path begins.
    pub(super) fn expect(&self, path: String, now: Millis) {
        self.watches.lock().insert(path, now);
    }

    fn watches(&self, path: &str) -> bool {
        self.watches.lock().contains_key(path)
    }

    fn beat(&self, path: &str, now: Millis) {
        if let Some(last) = self.watches.lock().get_mut(path) {
            *last = now;
        }
    }

    /// Those that hang, with how long.
    pub fn silent(&self, now: Millis) -> Vec<(String, Duration)> {
        let watches = self.watches.lock();
        let since = watches.iter().map(|(path, last)| (path.clone(), now.since(*last)));
        since.filter(|(_, silence)| *silence > self.limit).collect()
    }
}

/// Puts the pulse around a client.
pub struct PulseLayer(pub Arc<Pulse>);

impl<S> Layer<S> for PulseLayer {
    type Service = Pulsed<S>;
    fn layer(&self, inner: S) -> Pulsed<S> {
        Pulsed { inner, pulse: self.0.clone() }
    }
}

#[derive(Clone)]
pub struct Pulsed<S> {
    inner: S,
    pulse: Arc<Pulse>,
}

impl<S, B> Service<Request<Body>> for Pulsed<S>
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
        let watched = request.method() == Method::GET && self.pulse.watches(path);
        let (path, pulse) = (path.to_owned(), self.pulse.clone());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            if watched {
                let ok = answer.as_ref().is_ok_and(|answer| answer.status().is_success());
                pulse.metrics.watch_request(&path, ok);
                if !answer.as_ref().is_err_and(|error| timed_out(error.as_ref())) {
                    pulse.beat(&path, Millis::steady());
                }
            }
            answer
        })
    }
}

/// Silence, told as an error.
fn timed_out(error: &(dyn Error + 'static)) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|io| io.kind() == io::ErrorKind::TimedOut) || error.source().is_some_and(timed_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_begun_again_in_time_hangs() {
        let pulse = Pulse::new(Duration::from_secs(200), Arc::default());
        pulse.expect("/a".into(), Millis(0));
        pulse.expect("/b".into(), Millis(0));
        assert!(pulse.silent(Millis(410_000)).is_empty());
        pulse.beat("/a", Millis(300_000));
        pulse.beat("/none", Millis(300_000));
        assert_eq!(pulse.silent(Millis(410_001)), [("/b".to_owned(), Duration::from_millis(410_001))]);
        pulse.beat("/b", Millis(410_002));
        assert!(pulse.silent(Millis(410_003)).is_empty());
    }
}
