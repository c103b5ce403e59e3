//! Error responses in Kong's formats.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::emulator::state::SaveFailed;

/// An error response.
#[derive(Debug)]
pub(super) struct ApiError {
    pub status: StatusCode,
    pub body: Value,
}

impl ApiError {
    /// Makes an error without a code: `{"message": ...}`.
    pub fn without_code(status: StatusCode, message: &str) -> Self {
        ApiError { status, body: json!({ "message": message }) }
    }

    fn with_code(status: StatusCode, code: u8, name: &str, message: String, fields: Option<Value>) -> Self {
        let mut body = json!({"code": code, "name": name, "message": message});
        if let (Some(fields), Some(body)) = (fields, body.as_object_mut()) {
            body.insert("fields".into(), fields);
        }
        ApiError { status, body }
    }

    pub fn not_found() -> Self {
        Self::without_code(StatusCode::NOT_FOUND, "Not found")
    }

    pub fn method_not_allowed() -> Self {
        Self::without_code(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed")
    }

    pub fn unauthorized() -> Self {
        Self::without_code(StatusCode::UNAUTHORIZED, "Invalid RBAC credentials")
    }

    pub fn bad_json() -> Self {
        Self::without_code(StatusCode::BAD_REQUEST, "Cannot parse JSON body")
    }

    pub fn unexpected() -> Self {
        Self::without_code(StatusCode::INTERNAL_SERVER_ERROR, "An unexpected error occurred")
    }

    /// The id in the path is not a UUID.
    pub fn invalid_primary_key(id: &str) -> Self {
        Self::with_code(
            StatusCode::BAD_REQUEST,
            1,
            "invalid primary key",
            format!("invalid primary key: '{{id=\"{id}\"}}'"),
            Some(json!({"id": "expected a valid UUID"})),
        )
    }

    /// The body violates the schema. `fields` mirrors the structure of the body, with a message for each invalid field.
    pub fn schema_violation(fields: Map<String, Value>) -> Self {
        let mut violations = Vec::new();
        flatten("", &fields, &mut violations);
        let (count, plural) = match violations.len() {
            1 => (String::new(), ""),
            n => (format!("{n} "), "s"),
        };
        let message = format!("{count}schema violation{plural} ({})", violations.join("; "));
        Self::with_code(StatusCode::BAD_REQUEST, 2, "schema violation", message, Some(fields.into()))
    }

    /// POST with an id that exists. Kong has two code paths, 400 and 409; its table of statuses says 400.
    pub fn primary_key_violation(id: Uuid) -> Self {
        Self::with_code(
            StatusCode::BAD_REQUEST,
            3,
            "primary key violation",
            format!("primary key violation on key '{{id=\"{id}\"}}'"),
            Some(json!({ "id": id })),
        )
    }

    /// PATCH of an id that does not exist.
    pub fn entity_not_found(id: Uuid) -> Self {
        Self::with_code(
            StatusCode::NOT_FOUND,
            6,
            "not found",
            format!("could not find the entity with primary key '{{id=\"{id}\"}}'"),
            Some(json!({ "id": id })),
        )
    }

    pub fn invalid_offset(offset: &str) -> Self {
        Self::with_code(
            StatusCode::BAD_REQUEST,
            7,
            "invalid offset",
            format!("'{offset}' is not a valid offset: bad base64 encoding"),
            None,
        )
    }

    pub fn invalid_size(message: &str) -> Self {
        Self::with_code(StatusCode::BAD_REQUEST, 9, "invalid size", message.into(), None)
    }
}

impl From<SaveFailed> for ApiError {
    fn from(_: SaveFailed) -> Self {
        Self::unexpected()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

/// Collects `path: message` for each invalid field.
fn flatten(prefix: &str, fields: &Map<String, Value>, violations: &mut Vec<String>) {
    for (name, value) in fields {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            Value::Object(inner) => flatten(&path, inner, violations),
            Value::String(text) => violations.push(format!("{path}: {text}")),
            other => violations.push(format!("{path}: {other}")),
        }
    }
}
