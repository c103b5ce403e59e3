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
    pending: Arc<Mutex<BTreeMap<u64, String>>>,
}

/// What hangs for good, so that only a new process helps.
#[derive(Clone, Default)]
pub struct Liveness {
    hanging: Arc<Mutex<Vec<String>>>,
}

impl Liveness {
    /// Replaces what hangs; a text completes "not alive: ".
    pub fn set(&self, hanging: Vec<String>) {
        *self.hanging.lock() = hanging;
    }
}

/// One thing that is still to be done.
#[must_use]
pub struct Pending {
    readiness: Readiness,
    number: u64,
}

impl Readiness {
    /// Something has to be done first; the text completes "not ready until".
    pub fn pending(&self, what: impl Into<String>) -> Pending {
        let mut pending = self.pending.lock();
        let number = pending.keys().next_back().map_or(0, |last| last + 1);
        pending.insert(number, what.into());
        Pending { readiness: self.clone(), number }
    }
}

impl Pending {
    /// Says it in other words: more is known now.
    pub fn say(&self, what: String) {
        self.readiness.pending.lock().insert(self.number, what);
    }

    pub fn done(self) {
        self.readiness.pending.lock().remove(&self.number);
    }
}

#[derive(Clone)]
struct Ops {
    readiness: Readiness,
    liveness: Liveness,
    metrics: Arc<Metrics>,
}

/// The routes of the ops port.
pub fn router(readiness: Readiness, liveness: Liveness, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .with_state(Ops { readiness, liveness, metrics })
}

async fn livez(State(ops): State<Ops>) -> Response {
    ok_without("not alive:", ops.liveness.hanging.lock().iter())
}

async fn readyz(State(ops): State<Ops>) -> Response {
    ok_without("not ready until", ops.readiness.pending.lock().values())
}

fn ok_without<'a>(what: &str, obstacles: impl Iterator<Item = &'a String>) -> Response {
    let text: String = obstacles.map(|obstacle| format!("{what} {obstacle}\n")).collect();
    if text.is_empty() {
        "ok\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
}

async fn metrics_text(State(ops): State<Ops>) -> Response {
    let kind = [(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
    (kind, ops.metrics.encode()).into_response()
}
