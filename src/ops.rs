//! The ops port: liveness, readiness and metrics.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use parking_lot::Mutex;

use crate::metrics::Metrics;

/// What is still to be done before the process is ready.
#[derive(Clone, Default)]
pub struct Readiness {
    pending: Arc<Mutex<BTreeMap<u64, &'static str>>>,
}

/// One thing that is still to be done.
#[must_use]
pub struct Pending {
    readiness: Readiness,
    number: u64,
}

impl Readiness {
    /// Something has to be done first; the text completes "not ready until".
    pub fn pending(&self, what: &'static str) -> Pending {
        let mut pending = self.pending.lock();
        let number = pending.keys().next_back().map_or(0, |last| last + 1);
        pending.insert(number, what);
        Pending { readiness: self.clone(), number }
    }
}

impl Pending {
    pub fn done(self) {
        self.readiness.pending.lock().remove(&self.number);
    }
}

#[derive(Clone)]
struct Ops {
    readiness: Readiness,
    metrics: Arc<Metrics>,
}

/// The routes of the ops port.
pub fn router(readiness: Readiness, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .with_state(Ops { readiness, metrics })
}

async fn readyz(State(ops): State<Ops>) -> Response {
    let pending: Vec<&'static str> = ops.readiness.pending.lock().values().copied().collect();
    if pending.is_empty() {
        return "ok\n".into_response();
    }
    let text: String = pending.iter().map(|what| format!("not ready until {what}\n")).collect();
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

async fn metrics_text(State(ops): State<Ops>) -> Response {
    let kind = [(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
    (kind, ops.metrics.encode()).into_response()
}
