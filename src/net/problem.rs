//! Problem bodies (RFC 9457), the error responses of every port.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde_json::{Map, Value, json};

use super::request_id::ErrorBody;

/// An error response without headers of its own.
#[derive(Debug)]
pub struct ProblemBody {
    pub status: u16,
    /// The stable reason.
    pub reason: &'static str,
    pub detail: String,
    /// The role of the chart that has the missing permission.
    pub role: Option<&'static str>,
}

impl ProblemBody {
    pub fn new(status: u16, reason: &'static str, detail: impl Into<String>) -> Self {
        ProblemBody { status, reason, detail: detail.into(), role: None }
    }

    pub fn with_role(self, role: Option<&'static str>) -> Self {
        ProblemBody { role, ..self }
    }
}

impl IntoResponse for ProblemBody {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let title = status.canonical_reason().unwrap_or("Error");
        let mut members = Map::from_iter(
            [
                ("type", json!("about:blank")),
                ("title", json!(title)),
                ("status", json!(self.status)),
                ("reason", json!(self.reason)),
                ("detail", json!(self.detail)),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        members.extend(self.role.map(|role| ("role".to_owned(), json!(role))));
        // At debug level, because unauthenticated clients can cause any number of refusals.
        tracing::debug!(status = self.status, reason = self.reason, detail = self.detail, "request refused");
        let mut response = (status, Value::Object(members.clone()).to_string()).into_response();
        response.extensions_mut().insert(ErrorBody(members));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}
