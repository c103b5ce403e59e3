//! Error answers in Kong's shapes.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::emulator::state::NotWritten;

/// An answer that is no success.
#[derive(Debug)]
pub(super) struct ApiError {
    pub status: StatusCode,
    pub body: Value,
}

impl ApiError {
    /// An error without a code: `{"message": ...}`.
    pub fn plain(status: StatusCode, message: &str) -> Self {
        ApiError { status, body: json!({ "message": message }) }
    }

    fn coded(status: StatusCode, code: u8, name: &str, message: String, fields: Option<Value>) -> Self {
        let mut body = json!({"code": code, "name": name, "message": message});
        if let (Some(fields), Some(body)) = (fields, body.as_object_mut()) {
            body.insert("fields".into(), fields);
        }
        ApiError { status, body }
    }

    pub fn not_found() -> Self {
        Self::plain(StatusCode::NOT_FOUND, "Not found")
    }

    pub fn method_not_allowed() -> Self {
        Self::plain(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed")
    }

    pub fn unauthorized() -> Self {
        Self::plain(StatusCode::UNAUTHORIZED, "Invalid RBAC credentials")
    }

    pub fn bad_json() -> Self {
        Self::plain(StatusCode::BAD_REQUEST, "Cannot parse JSON body")
    }

    pub fn unexpected() -> Self {
        Self::plain(StatusCode::INTERNAL_SERVER_ERROR, "An unexpected error occurred")
    }

    /// The id in the path is no UUID.
    pub fn invalid_primary_key(id: &str) -> Self {
        Self::coded(
            StatusCode::BAD_REQUEST,
            1,
            "invalid primary key",
            format!("invalid primary key: '{{id=\"{id}\"}}'"),
            Some(json!({"id": "expected a valid UUID"})),
        )
    }

    /// A body with mistakes; `fields` mirrors the body, with a text at each mistake.
    pub fn schema_violation(fields: Map<String, Value>) -> Self {
        let mut mistakes = Vec::new();
        flatten("", &fields, &mut mistakes);
        let (count, plural) = match mistakes.len() {
            1 => (String::new(), ""),
            n => (format!("{n} "), "s"),
        };
        let message = format!("{count}schema violation{plural} ({})", mistakes.join("; "));
        Self::coded(StatusCode::BAD_REQUEST, 2, "schema violation", message, Some(fields.into()))
    }

    /// POST with an id that exists. Kong has two code paths, 400 and 409; the table of statuses says 400.
    pub fn primary_key_violation(id: Uuid) -> Self {
        Self::coded(
            StatusCode::BAD_REQUEST,
            3,
            "primary key violation",
            format!("primary key violation on key '{{id=\"{id}\"}}'"),
            Some(json!({ "id": id })),
        )
    }

    /// PATCH of an id that does not exist.
    pub fn no_entity(id: Uuid) -> Self {
        Self::coded(
            StatusCode::NOT_FOUND,
            6,
            "not found",
            format!("could not find the entity with primary key '{{id=\"{id}\"}}'"),
            Some(json!({ "id": id })),
        )
    }

    pub fn invalid_offset(offset: &str) -> Self {
        Self::coded(
            StatusCode::BAD_REQUEST,
            7,
            "invalid offset",
            format!("'{offset}' is not a valid offset: bad base64 encoding"),
            None,
        )
    }

    pub fn invalid_size(message: &str) -> Self {
        Self::coded(StatusCode::BAD_REQUEST, 9, "invalid size", message.into(), None)
    }
}

impl From<NotWritten> for ApiError {
    fn from(_: NotWritten) -> Self {
        Self::unexpected()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

fn flatten(prefix: &str, fields: &Map<String, Value>, mistakes: &mut Vec<String>) {
    for (name, value) in fields {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            Value::Object(inner) => flatten(&path, inner, mistakes),
            Value::String(text) => mistakes.push(format!("{path}: {text}")),
            other => mistakes.push(format!("{path}: {other}")),
        }
    }
}
