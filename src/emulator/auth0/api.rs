//! The tenant's API: authentication, rate limit, routing and query parsing.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::Value;
use tokio::time::Instant;

use super::body;
use super::context::Auth0;
use super::error::ApiError;
use crate::core::time::Millis;

/// The largest body of a request, in bytes.
const MAX_BODY: usize = 4 << 20;
/// An id in every response, for support requests. The recordings contain no headers, so its format is invented.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-auth0-requestid");

/// Handles every request that is not under `/__emulator/`.
pub(super) async fn handle_admin(State(auth0): State<Arc<Auth0>>, request: Request) -> Response {
    let next = async |request, lag| {
        auth0.handle_request(request, lag).await.unwrap_or_else(IntoResponse::into_response)
    };
    let mut response = auth0.control.handle(request, next).await;
    let id = format!("{:020x}", fastrand::u128(..) >> 48);
    if let Ok(id) = HeaderValue::try_from(id) {
        response.headers_mut().entry(REQUEST_ID).or_insert(id);
    }
    response
}

/// A request to the Management API.
pub(super) struct EmulatedRequest<'a> {
    parts: &'a Parts,
    pub body: &'a Bytes,
    /// Reads must not see a created object for this time (fault `lagMs`).
    lag: Duration,
}

impl EmulatedRequest<'_> {
    pub fn method(&self) -> &Method {
        &self.parts.method
    }

    pub fn json(&self) -> Result<Value, ApiError> {
        body::parse_json(self.parts, self.body)
    }

    pub fn query(&self) -> Query {
        let text = self.parts.uri.query().unwrap_or_default();
        Query(url::form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    /// Returns the time from which reads see the object that this request creates.
    pub fn visible_at(&self) -> Option<Instant> {
        (!self.lag.is_zero()).then(|| Instant::now() + self.lag)
    }
}

/// The parameters of a query. Unknown parameters are ignored.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn number(&self, name: &str, min: usize, max: usize) -> Result<Option<usize>, ApiError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let Ok(number) = text.parse::<i64>() else {
            return Err(ApiError::query("Expected type integer but found type string", name, ""));
        };
        match usize::try_from(number) {
            Ok(number) if number > max => {
                Err(ApiError::query(&format!("Value {number} is greater than maximum {max}"), name, ""))
            }
            Ok(number) if number >= min => Ok(Some(number)),
            _ => Err(ApiError::query(&format!("Value {number} is less than minimum {min}"), name, "")),
        }
    }

    pub fn boolean(&self, name: &str) -> Result<Option<bool>, ApiError> {
        let read = |text: &str| {
            let wrong = || ApiError::query("Expected type boolean but found type string", name, "");
            text.parse().map_err(|_| wrong())
        };
        self.get(name).map(read).transpose()
    }
}

/// Parses a date of a query. Rejects fractions of a second, as documented.
pub(super) fn parse_date(text: &str, name: &str) -> Result<Millis, ApiError> {
    let has_whole_seconds = !text.contains('.');
    Millis::parse(text).filter(|_| has_whole_seconds).ok_or_else(|| {
        ApiError::query(&format!("Object didn't pass validation for format date-time: {text}"), name, "")
    })
}

impl Auth0 {
    /// Authenticates a request, applies the rate limit and routes it.
    async fn handle_request(self: &Arc<Self>, request: Request, lag: Duration) -> Result<Response, ApiError> {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, MAX_BODY).await.map_err(|_| {
            ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "Payload content length greater than maximum allowed",
            )
        })?;
        let path = parts.uri.path().to_owned();
        let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        match segments.as_slice() {
            ["oauth", "token"] if parts.method == Method::POST => Ok(self.tokens.issue(&parts, &body)),
            ["api", "v2", rest @ ..] => {
                self.tokens.check(&parts.headers)?;
                let decision = self.limiter.as_ref().map(|limiter| limiter.take_token(Instant::now()));
                let call = EmulatedRequest { parts: &parts, body: &body, lag };
                let result = match &decision {
                    Some(decision) if !decision.is_allowed => Err(ApiError::too_many_requests()),
                    _ => self.route_management(&call, rest),
                };
                let mut response = result.unwrap_or_else(IntoResponse::into_response);
                if let Some(decision) = decision {
                    decision.write_headers(response.headers_mut());
                }
                Ok(response)
            }
            _ => Err(ApiError::not_found()),
        }
    }

    fn route_management(
        self: &Arc<Self>,
        call: &EmulatedRequest<'_>,
        segments: &[&str],
    ) -> Result<Response, ApiError> {
        match segments {
            ["event-streams", rest @ ..] => self.route_streams(call, rest),
            ["hooks", rest @ ..] => self.route_hooks(call, rest),
            _ => Err(ApiError::not_found()),
        }
    }
}
