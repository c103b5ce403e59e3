//! Responses in the formats of the Management API.

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::emulator::state::SaveFailed;

/// An error response.
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

    fn with_code(status: StatusCode, code: &'static str, message: String) -> Self {
        ApiError { status, message, code: Some(code) }
    }

    /// Makes the error for an invalid body. `about` is the description of the property in the API's schema.
    pub fn body(reason: &str, property: &str, about: &str) -> Self {
        Self::with_code(
            StatusCode::BAD_REQUEST,
            "invalid_body",
            validation("Payload", reason, property, about),
        )
    }

    /// Makes the error for an invalid path.
    pub fn path(reason: &str, property: &str, about: &str) -> Self {
        Self::with_code(StatusCode::BAD_REQUEST, "invalid_uri", validation("Path", reason, property, about))
    }

    /// Makes the error for an invalid query.
    pub fn query(reason: &str, property: &str, about: &str) -> Self {
        let message = validation("Query", reason, property, about);
        Self::with_code(StatusCode::BAD_REQUEST, "invalid_query_string", message)
    }

    /// Makes the error for an operation that the object does not support.
    pub fn unsupported(message: &str) -> Self {
        Self::with_code(StatusCode::BAD_REQUEST, "operation_not_supported", message.into())
    }

    pub fn conflict(message: &str) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    pub fn stream_not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "The requested stream does not exist.")
    }

    pub fn hook_not_found() -> Self {
        Self::with_code(StatusCode::NOT_FOUND, "HookDoesNotExist", "Error: Hook does not exist".into())
    }

    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "Not Found")
    }

    pub fn unauthorized(message: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, message)
    }

    pub fn too_many_requests() -> Self {
        let message = "Global limit has been reached".into();
        Self::with_code(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", message)
    }
}

fn validation(what: &str, reason: &str, property: &str, about: &str) -> String {
    let about = if about.is_empty() { String::new() } else { format!(" ({about})") };
    format!("{what} validation error: '{reason}' on property {property}{about}.")
}

impl From<SaveFailed> for ApiError {
    fn from(_: SaveFailed) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal error")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = error_body(self.status, &self.message);
        if let (Some(code), Some(body)) = (self.code, body.as_object_mut()) {
            body.insert("errorCode".into(), code.into());
        }
        json_response(self.status, &body)
    }
}

/// Makes the body of an error without `errorCode`, which is often absent.
pub(super) fn error_body(status: StatusCode, message: &str) -> Value {
    let reason = status.canonical_reason().unwrap_or_default();
    json!({"statusCode": status.as_u16(), "error": reason, "message": message})
}

/// Makes a JSON response with the recorded content type.
pub(super) fn json_response(status: StatusCode, body: &Value) -> Response {
    with_content_type((status, body.to_string()).into_response())
}

/// Makes a 204 response. The recording of it has a content type too.
pub(super) fn no_content() -> Response {
    with_content_type(StatusCode::NO_CONTENT.into_response())
}

fn with_content_type(mut response: Response) -> Response {
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}
