//! What goes around every admin request, faults and the log, and the routes that set and show them.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::faults::{FaultBody, Faults, Seen};
use super::recent::Recent;
use crate::net::serve::CloseWithoutAnswer;

/// The faults and the log of one emulator.
pub(super) struct Control {
    faults: Faults,
    log: Recent<Seen>,
    fault_body: FaultBody,
}

impl Control {
    /// `fault_body` is what a fault answers that has a status and no body: an error in the vendor's shape.
    pub fn new(fault_body: FaultBody) -> Arc<Control> {
        Arc::new(Control { faults: Faults::default(), log: Recent::default(), fault_body })
    }

    /// One admin request: faults first, then the work, then the log. The work is told how long what it creates is not
    /// to be seen by reads.
    pub async fn around<F: Future<Output = Response>>(
        &self,
        request: Request,
        work: impl FnOnce(Request, Duration) -> F,
    ) -> Response {
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let query = request.uri().query().map(str::to_owned);
        let effects = self.faults.take(&method, &path, self.fault_body);
        if !effects.delay.is_zero() {
            tokio::time::sleep(effects.delay).await;
        }
        let mut response = match effects.answer {
            Some(answer) => answer,
            None => work(request, effects.lag).await,
        };
        if effects.drop_answer {
            response.extensions_mut().insert(CloseWithoutAnswer);
        }
        self.log.push(Seen {
            time: jiff::Timestamp::now(),
            method: method.to_string(),
            path,
            query,
            status: response.status().as_u16(),
            dropped: effects.drop_answer,
        });
        response
    }

    /// `/__emulator/faults`, `/__emulator/requests`, and 404 for what no emulator has.
    pub fn routes(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/__emulator/faults", get(list_faults).post(add_faults).delete(clear_faults))
            .route("/__emulator/requests", get(list_requests).delete(clear_requests))
            .route("/__emulator/{*rest}", any(unknown))
            .with_state(Arc::clone(self))
    }
}

type Shared = State<Arc<Control>>;

async fn add_faults(State(control): Shared, body: Bytes) -> Response {
    control.faults.add(&body)
}

async fn list_faults(State(control): Shared) -> Json<Value> {
    control.faults.list()
}

async fn clear_faults(State(control): Shared) -> StatusCode {
    control.faults.clear();
    StatusCode::NO_CONTENT
}

async fn list_requests(State(control): Shared) -> Json<Value> {
    control.log.list()
}

async fn clear_requests(State(control): Shared) -> StatusCode {
    control.log.clear();
    StatusCode::NO_CONTENT
}

/// Anything else here is a mistake of a test, not an admin request to be counted.
async fn unknown() -> Response {
    refuse(StatusCode::NOT_FOUND, "docs/emulators.md lists what is under /__emulator/")
}

/// An error of a control route, which is no vendor's.
pub(super) fn refuse(status: StatusCode, why: &str) -> Response {
    (status, Json(json!({ "message": why }))).into_response()
}
