//! Fault injection and the request log: the middleware of every admin request, and the routes that configure and show
//! them.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::faults::{FaultBody, FaultInjector, RequestLogEntry};
use super::recent::RecentLog;
use crate::net::serve::CloseWithoutResponse;

/// The faults and the request log of one emulator.
pub(super) struct ControlApi {
    faults: FaultInjector,
    log: RecentLog<RequestLogEntry>,
    fault_body: FaultBody,
}

impl ControlApi {
    /// `fault_body` makes the response body of a fault with a status and no body, in the vendor's error format.
    pub fn new(fault_body: FaultBody) -> Arc<ControlApi> {
        Arc::new(ControlApi { faults: FaultInjector::default(), log: RecentLog::default(), fault_body })
    }

    /// Handles one admin request: applies faults, calls `next`, and logs the request.
    ///
    /// `next` receives the duration for which reads must not see the object that the request creates.
    pub async fn handle<F: Future<Output = Response>>(
        &self,
        request: Request,
        next: impl FnOnce(Request, Duration) -> F,
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
            None => next(request, effects.lag).await,
        };
        if effects.drop_answer {
            response.extensions_mut().insert(CloseWithoutResponse);
        }
        self.log.push(RequestLogEntry {
            time: jiff::Timestamp::now(),
            method: method.to_string(),
            path,
            query,
            status: response.status().as_u16(),
            dropped: effects.drop_answer,
        });
        response
    }

    /// Returns the routes `/__emulator/faults` and `/__emulator/requests`; other paths under `/__emulator/` get 404.
    pub fn routes(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/__emulator/faults", get(list_faults).post(add_faults).delete(clear_faults))
            .route("/__emulator/requests", get(list_requests).delete(clear_requests))
            .route("/__emulator/{*rest}", any(unknown_route))
            .with_state(Arc::clone(self))
    }
}

type Shared = State<Arc<ControlApi>>;

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

/// Rejects an unknown control path. It is a mistake of a test, and must not be logged as an admin request.
async fn unknown_route() -> Response {
    control_error(
        StatusCode::NOT_FOUND,
        "unknown control route: docs/emulators.md lists the routes under /__emulator/",
    )
}

/// Makes the error response of a control route. Its format is the emulator's own, not a vendor's.
pub(super) fn control_error(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "message": message }))).into_response()
}
