//! The tenant's API: from a request to its answer.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::Value;
use tokio::time::Instant;

use super::error::ApiError;
use super::{Auth0, MAX_BODY, body};
use crate::core::time::Millis;

/// Every answer has one: to be quoted when something goes wrong. The recordings hold no headers, so this is made up.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-auth0-requestid");

/// Every request that is not under `/__emulator/`.
pub(super) async fn admin(State(auth0): State<Arc<Auth0>>, request: Request) -> Response {
    let work =
        async |request, lag| auth0.answer(request, lag).await.unwrap_or_else(IntoResponse::into_response);
    let mut response = auth0.control.around(request, work).await;
    let id = format!("{:020x}", fastrand::u128(..) >> 48);
    if let Ok(id) = HeaderValue::try_from(id) {
        response.headers_mut().entry(REQUEST_ID).or_insert(id);
    }
    response
}

/// One request to the Management API.
pub(super) struct Call<'a> {
    parts: &'a Parts,
    pub body: &'a Bytes,
    lag: Duration,
}

impl Call<'_> {
    pub fn method(&self) -> &Method {
        &self.parts.method
    }

    pub fn json(&self) -> Result<Value, ApiError> {
        body::json(self.parts, self.body)
    }

    pub fn query(&self) -> Query {
        let text = self.parts.uri.query().unwrap_or_default();
        Query(url::form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    /// From when on reads see what this call creates.
    pub fn visible_at(&self) -> Option<Instant> {
        (!self.lag.is_zero()).then(|| Instant::now() + self.lag)
    }
}

/// A query's parameters; those that nobody asks for are ignored.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn number(&self, name: &str, least: usize, most: usize) -> Result<Option<usize>, ApiError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let Ok(number) = text.parse::<i64>() else {
            return Err(ApiError::query("Expected type integer but found type string", name, ""));
        };
        match usize::try_from(number) {
            Ok(number) if number > most => {
                Err(ApiError::query(&format!("Value {number} is greater than maximum {most}"), name, ""))
            }
            Ok(number) if number >= least => Ok(Some(number)),
            _ => Err(ApiError::query(&format!("Value {number} is less than minimum {least}"), name, "")),
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

/// A date of a query: without fractions of a second, as documented.
pub(super) fn seconds(text: &str, name: &str) -> Result<Millis, ApiError> {
    let whole = !text.contains('.');
    Millis::parse(text).filter(|_| whole).ok_or_else(|| {
        ApiError::query(&format!("Object didn't pass validation for format date-time: {text}"), name, "")
    })
}

impl Auth0 {
    async fn answer(self: &Arc<Self>, request: Request, lag: Duration) -> Result<Response, ApiError> {
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
                let turn = self.limiter.as_ref().map(|limiter| limiter.turn(Instant::now()));
                let call = Call { parts: &parts, body: &body, lag };
                let answer = match &turn {
                    Some(turn) if !turn.passed => Err(ApiError::too_many_requests()),
                    _ => self.manage(&call, rest),
                };
                let mut response = answer.unwrap_or_else(IntoResponse::into_response);
                if let Some(turn) = turn {
                    turn.tell(response.headers_mut());
                }
                Ok(response)
            }
            _ => Err(ApiError::not_found()),
        }
    }

    fn manage(self: &Arc<Self>, call: &Call<'_>, segments: &[&str]) -> Result<Response, ApiError> {
        match segments {
            ["event-streams", rest @ ..] => self.route_streams(call, rest),
            ["hooks", rest @ ..] => self.route_hooks(call, rest),
            _ => Err(ApiError::not_found()),
        }
    }
}
