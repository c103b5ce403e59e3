//! Errors as RFC 9457 problem bodies.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use serde_json::{Map, Value, json};

use crate::cluster::AccessError;
use crate::core::event::{BadEvent, Rejected};
use crate::net::request_id::Refusal;
use crate::net::serve::CloseWithoutAnswer;
use crate::worker::request::BodyError;
use crate::worker::store::StoreError;

/// When a sender may come again, in seconds.
const COME_AGAIN: &str = "2";

/// A refusal.
#[derive(Debug)]
pub struct Problem {
    pub status: u16,
    /// The stable reason, also the metric's label.
    pub reason: &'static str,
    pub detail: String,
}

impl Problem {
    pub fn new(status: u16, reason: &'static str, detail: impl Into<String>) -> Self {
        Problem { status, reason, detail: detail.into() }
    }

    pub fn disk_limit() -> Self {
        Problem::new(
            503,
            "DiskLimit",
            "the disk is used up to --disk-limit: nothing was read or stored, send it again later",
        )
    }

    /// A body that could not be read.
    pub fn unread(error: &BodyError, too_big: impl FnOnce() -> Problem) -> Self {
        match error {
            BodyError::TooBig => too_big(),
            BodyError::Broken => Problem::broken(),
            BodyError::Busy => Problem::new(
                503,
                "Busy",
                "too many large bodies are being read: nothing was stored, send it again later",
            ),
        }
    }

    pub fn request_too_big(max: usize) -> Self {
        Problem::new(
            413,
            "TooBig",
            format!(
                "a request may have {max} bytes: send less, or start the worker with a larger --max-request-bytes"
            ),
        )
    }

    pub fn too_big(max: usize) -> Self {
        Problem::new(
            413,
            "TooBig",
            format!(
                "an event may have {max} bytes: send less, or start the worker with a larger --max-event-bytes"
            ),
        )
    }

    fn broken() -> Self {
        Problem::new(
            400,
            "BrokenBody",
            "the body broke off or took too long: nothing was stored, send it again",
        )
    }
}

impl From<BadEvent> for Problem {
    fn from(bad: BadEvent) -> Self {
        Rejected::from(bad).into()
    }
}

impl From<Rejected> for Problem {
    fn from(rejected: Rejected) -> Self {
        let status = match rejected.bad {
            BadEvent::ContentType(_) => 415,
            BadEvent::ReservedSource(_) => 403,
            BadEvent::TooManyHops => 508,
            BadEvent::TooBig(_) | BadEvent::TooMany => 413,
            _ => 400,
        };
        Problem::new(status, (&rejected.bad).into(), rejected.to_string())
    }
}

impl From<AccessError> for Problem {
    fn from(error: AccessError) -> Self {
        let status = match error {
            AccessError::Unauthenticated => 401,
            AccessError::Forbidden => 403,
            AccessError::Unavailable => 503,
        };
        Problem::new(status, (&error).into(), error.to_string())
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let status = if matches!(error, StoreError::NamespaceFull) { 429 } else { 503 };
        Problem::new(status, (&error).into(), format!("{error}: nothing was stored, send it again later"))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let title = status.canonical_reason().unwrap_or("Error");
        let members = Map::from_iter(
            [
                ("type", json!("about:blank")),
                ("title", json!(title)),
                ("status", json!(self.status)),
                ("reason", json!(self.reason)),
                ("detail", json!(self.detail)),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        // The line by which a sender's complaint is found in the log. No more: any number of strangers are refused.
        tracing::debug!(status = self.status, reason = self.reason, detail = self.detail, "refused");
        let mut response = (status, Value::Object(members.clone()).to_string()).into_response();
        response.extensions_mut().insert(Refusal(members));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if matches!(self.status, 429 | 503) {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(COME_AGAIN));
        }
        // These come before the body was read, so the connection ends: a sender that is not told would send its next
        // request into it.
        if matches!(self.status, 401 | 403 | 413 | 503) {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if self.status == 401 {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// No answer at all: what makes Kong send again.
pub fn close() -> Response {
    let mut response = StatusCode::SERVICE_UNAVAILABLE.into_response();
    response.extensions_mut().insert(CloseWithoutAnswer);
    response
}
