//! Answers in the Management API's shapes.

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::emulator::state::NotWritten;

/// An answer that is no success.
#[derive(Debug)]
pub(super) struct ApiError {
    pub status: StatusCode,
    pub message: String,
    pub code: Option<&'static str>,
}

impl ApiError {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        ApiError { status, message: message.into(), code: None }
    }

    fn coded(status: StatusCode, code: &'static str, message: String) -> Self {
        ApiError { status, message, code: Some(code) }
    }

    /// A mistake in a body; `about` is what the API's description calls the property.
    pub fn body(reason: &str, property: &str, about: &str) -> Self {
        Self::coded(StatusCode::BAD_REQUEST, "invalid_body", validation("Payload", reason, property, about))
    }

    /// A mistake in a path.
    pub fn path(reason: &str, property: &str, about: &str) -> Self {
        Self::coded(StatusCode::BAD_REQUEST, "invalid_uri", validation("Path", reason, property, about))
    }

    /// A mistake in a query.
    pub fn query(reason: &str, property: &str, about: &str) -> Self {
        let message = validation("Query", reason, property, about);
        Self::coded(StatusCode::BAD_REQUEST, "invalid_query_string", message)
    }

    /// What this object cannot do.
    pub fn unsupported(message: &str) -> Self {
        Self::coded(StatusCode::BAD_REQUEST, "operation_not_supported", message.into())
    }

    pub fn conflict(message: &str) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    pub fn no_stream() -> Self {
        Self::new(StatusCode::NOT_FOUND, "The requested stream does not exist.")
    }

    pub fn no_hook() -> Self {
        Self::coded(StatusCode::NOT_FOUND, "HookDoesNotExist", "Error: Hook does not exist".into())
    }

    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "Not Found")
    }

    pub fn unauthorized(message: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, message)
    }

    pub fn too_many_requests() -> Self {
        let message = "Global limit has been reached".into();
        Self::coded(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", message)
    }
}

fn validation(what: &str, reason: &str, property: &str, about: &str) -> String {
    let about = if about.is_empty() { String::new() } else { format!(" ({about})") };
    format!("{what} validation error: '{reason}' on property {property}{about}.")
}

impl From<NotWritten> for ApiError {
    fn from(_: NotWritten) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal error")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = body(self.status, &self.message);
        if let (Some(code), Some(body)) = (self.code, body.as_object_mut()) {
            body.insert("errorCode".into(), code.into());
        }
        answer(self.status, &body)
    }
}

/// An error's body, but for its code, which is often absent.
pub(super) fn body(status: StatusCode, message: &str) -> Value {
    let reason = status.canonical_reason().unwrap_or_default();
    json!({"statusCode": status.as_u16(), "error": reason, "message": message})
}

/// JSON with the content type that was recorded.
pub(super) fn answer(status: StatusCode, body: &Value) -> Response {
    with_type((status, body.to_string()).into_response())
}

/// 204, which was recorded with a content type, too.
pub(super) fn no_content() -> Response {
    with_type(StatusCode::NO_CONTENT.into_response())
}

fn with_type(mut response: Response) -> Response {
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}
