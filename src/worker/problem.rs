//! Errors of both ports, as RFC 9457 problem bodies.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{ACCEPT_ENCODING, CONNECTION, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};

use crate::cluster::AuthorizationError;
use crate::core::event::{EventRejection, InvalidEvent};
use crate::net::problem::ProblemBody;
use crate::net::serve::CloseWithoutResponse;
use crate::worker::body::BodyError;
use crate::worker::content_coding::SUPPORTED;
use crate::worker::store::StoreError;

/// The value of `Retry-After`, in seconds.
const RETRY_AFTER_SECONDS: &str = "2";

/// An error response.
#[derive(Debug)]
pub struct HttpProblem {
    pub status: u16,
    /// The stable reason; also the metric's label.
    pub reason: &'static str,
    pub detail: String,
    /// The role of the chart that has the permission which the client lacks.
    pub role: Option<&'static str>,
}

impl HttpProblem {
    pub fn new(status: u16, reason: &'static str, detail: impl Into<String>) -> Self {
        HttpProblem { status, reason, detail: detail.into(), role: None }
    }

    pub fn disk_limit() -> Self {
        HttpProblem::new(
            503,
            "DiskLimit",
            "disk usage is above --disk-limit: nothing was stored, send the event again later",
        )
    }

    /// Returns the problem for a body that could not be read. `too_big` builds the problem for a body over its limit.
    pub fn unreadable_body(error: &BodyError, too_big: impl FnOnce() -> HttpProblem) -> Self {
        match error {
            BodyError::TooBig => too_big(),
            BodyError::Broken => HttpProblem::broken_body(),
            BodyError::Coding => HttpProblem::new(
                415,
                error.into(),
                format!(
                    "the content encoding is not supported: send the body as it is, or one of {SUPPORTED}"
                ),
            ),
            BodyError::Corrupt => HttpProblem::new(
                400,
                error.into(),
                "the body is not encoded as its Content-Encoding says, or it is incomplete",
            ),
            BodyError::Busy => HttpProblem::new(
                503,
                "Busy",
                "the memory for requests is used up, or this namespace uses its share of it: nothing was stored, send the request again later",
            ),
        }
    }

    pub fn request_too_big(max: usize) -> Self {
        HttpProblem::new(
            413,
            "TooBig",
            format!(
                "the request has more than {max} bytes: send less, or start the worker with a larger --max-request-bytes"
            ),
        )
    }

    pub fn event_too_big(max: usize) -> Self {
        HttpProblem::new(
            413,
            "TooBig",
            format!(
                "the event has more than {max} bytes: send less, or start the worker with a larger --max-event-bytes"
            ),
        )
    }

    fn broken_body() -> Self {
        HttpProblem::new(
            400,
            "BrokenBody",
            "the body ended early or took too long: nothing was stored, send the request again",
        )
    }
}

impl From<InvalidEvent> for HttpProblem {
    fn from(bad: InvalidEvent) -> Self {
        EventRejection::from(bad).into()
    }
}

impl From<EventRejection> for HttpProblem {
    fn from(rejected: EventRejection) -> Self {
        let status = match rejected.error {
            InvalidEvent::ContentType(_) => 415,
            InvalidEvent::ReservedSource(_) => 403,
            InvalidEvent::TooManyHops => 508,
            InvalidEvent::TooBig(_) | InvalidEvent::TooMany => 413,
            _ => 400,
        };
        HttpProblem::new(status, (&rejected.error).into(), rejected.to_string())
    }
}

impl From<AuthorizationError> for HttpProblem {
    fn from(error: AuthorizationError) -> Self {
        let status = match error {
            AuthorizationError::Unauthenticated => 401,
            AuthorizationError::Forbidden => 403,
            AuthorizationError::Unavailable => 503,
        };
        HttpProblem::new(status, (&error).into(), error.to_string())
    }
}

impl From<StoreError> for HttpProblem {
    fn from(error: StoreError) -> Self {
        let status = if matches!(error, StoreError::NamespaceFull) { 429 } else { 503 };
        HttpProblem::new(
            status,
            (&error).into(),
            format!("{error}: nothing was stored, send the event again later"),
        )
    }
}

impl IntoResponse for HttpProblem {
    fn into_response(self) -> Response {
        let mut response =
            ProblemBody::new(self.status, self.reason, self.detail).with_role(self.role).into_response();
        let is_coding = self.reason == <&str>::from(&BodyError::Coding);
        let headers = response.headers_mut();
        if matches!(self.status, 429 | 503) {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
        }
        // The worker sends these before it reads the body and then closes the connection. Without the header, a client
        // would send its next request on the closed connection.
        if matches!(self.status, 401 | 403 | 413 | 503) || is_coding {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        // RFC 9110, 15.5.16: names the codings that the client may use.
        if is_coding {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(SUPPORTED));
        }
        if self.status == 401 {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Closes the connection without a response, which makes Kong retry.
pub fn close_connection() -> Response {
    let mut response = StatusCode::SERVICE_UNAVAILABLE.into_response();
    response.extensions_mut().insert(CloseWithoutResponse);
    response
}
