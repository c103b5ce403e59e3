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

/// The readiness of the process: it is ready when every gate is open.
#[derive(Clone, Default)]
pub struct Readiness {
    /// The descriptions of the closed gates.
    closed: Arc<Mutex<BTreeMap<u64, String>>>,
    /// Limitations of a ready process, by gate. `/readyz` shows them and stays 200.
    notices: Arc<Mutex<BTreeMap<u64, String>>>,
}

/// A condition that the process has to meet before it is ready. Dropping the gate does not open it.
#[must_use]
pub struct ReadinessGate {
    readiness: Readiness,
    id: u64,
}

/// A limitation of a ready process, such as closed ingest. It is part of the body of `/readyz`.
pub struct ReadinessNotice {
    readiness: Readiness,
    id: u64,
}

impl ReadinessNotice {
    /// Replaces the text. None: there is no limitation.
    pub fn set(&self, text: Option<String>) {
        let mut notices = self.readiness.notices.lock();
        match text {
            Some(text) => drop(notices.insert(self.id, text)),
            None => drop(notices.remove(&self.id)),
        }
    }
}

impl Readiness {
    /// Adds a closed gate. The description completes "not ready until".
    pub fn add_gate(&self, description: impl Into<String>) -> ReadinessGate {
        let mut closed = self.closed.lock();
        let id = closed.keys().next_back().map_or(0, |last| last + 1);
        closed.insert(id, description.into());
        ReadinessGate { readiness: self.clone(), id }
    }
}

impl ReadinessGate {
    /// Replaces the description.
    pub fn describe(&self, description: String) {
        self.readiness.closed.lock().insert(self.id, description);
    }

    /// Returns a notice that is shown after the gate is open.
    pub fn notice(&self) -> ReadinessNotice {
        ReadinessNotice { readiness: self.readiness.clone(), id: self.id }
    }

    /// Opens the gate.
    pub fn open(self) {
        self.readiness.closed.lock().remove(&self.id);
    }
}

/// The liveness of the process: it is alive unless a part of it hangs, so that only a restart helps.
#[derive(Clone, Default)]
pub struct Liveness {
    hanging: Arc<Mutex<Vec<String>>>,
}

impl Liveness {
    /// Replaces the descriptions of the hanging parts. A description completes "not alive:".
    pub fn set(&self, hanging: Vec<String>) {
        *self.hanging.lock() = hanging;
    }
}

#[derive(Clone)]
struct Ops {
    readiness: Readiness,
    liveness: Liveness,
    metrics: Arc<Metrics>,
}

/// Returns the routes of the ops port.
pub fn router(readiness: Readiness, liveness: Liveness, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .with_state(Ops { readiness, liveness, metrics })
}

async fn livez(State(ops): State<Ops>) -> Response {
    probe_response("not alive:", ops.liveness.hanging.lock().iter(), [].iter())
}

async fn readyz(State(ops): State<Ops>) -> Response {
    let (closed, notices) = (ops.readiness.closed.lock(), ops.readiness.notices.lock());
    probe_response("not ready until", closed.values(), notices.values())
}

/// Returns 200 if there is no obstacle, with one line for each notice. Otherwise 503 with one line for each obstacle.
fn probe_response<'a>(
    prefix: &str,
    obstacles: impl Iterator<Item = &'a String>,
    notices: impl Iterator<Item = &'a String>,
) -> Response {
    let text: String = obstacles.map(|obstacle| format!("{prefix} {obstacle}\n")).collect();
    if text.is_empty() {
        let notices: String = notices.map(|notice| format!("{notice}\n")).collect();
        format!("ok\n{notices}").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
}

async fn metrics_text(State(ops): State<Ops>) -> Response {
    let content_type = [(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
    (content_type, ops.metrics.encode()).into_response()
}
