//! Request ids. Each request has the id of its client or a generated one. It is returned in the response header, in the
//! body of an error response, and is logged with every line of the request.

use std::future::Future;

use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};
use tracing::Span;

use crate::core::id;
use crate::core::time::Millis;

const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Longer ids are replaced, because they could fill the log.
const MAX_LENGTH: usize = 128;
const UUID_LENGTH: usize = uuid::fmt::Hyphenated::LENGTH;

/// The members of an error response. As a response extension, it replaces the body and adds the member `requestId`. The
/// handler's own body remains for callers that use the router without this server.
#[derive(Clone)]
pub struct ErrorBody(pub Map<String, Value>);

tokio::task_local! {
    static CURRENT: RequestId;
}

/// Creates the span of the request that the current task handles. For the logger, which creates it for each line: most
/// requests log nothing, and a span for each of them would cost more than the rest of their routing.
pub fn current_span() -> Option<Span> {
    CURRENT.try_with(|id| tracing::error_span!(parent: None, "request", request_id = id.as_str())).ok()
}

/// Returns the id of the request that the current task handles.
pub fn current_id() -> Option<String> {
    CURRENT.try_with(|id| id.as_str().to_owned()).ok()
}

/// The id of one request.
#[derive(Clone)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// Returns the client's id if it is safe to log unescaped, otherwise a new one.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let theirs = headers.get(HEADER).filter(|value| is_safe(value.as_bytes()));
        RequestId(theirs.cloned().unwrap_or_else(|| {
            // A UUID is always a valid header value; the fallback only avoids a panic.
            HeaderValue::from_str(
                id::generate(Millis::wall()).hyphenated().encode_lower(&mut [0; UUID_LENGTH]),
            )
            .unwrap_or(HeaderValue::from_static("none"))
        }))
    }

    fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    /// Handles the request. What it logs has the id (see [`current_span`]).
    pub async fn scope<T>(&self, handling: impl Future<Output = T>) -> T {
        CURRENT.scope(self.clone(), handling).await
    }

    /// Adds the id to the response.
    pub fn apply_to(self, response: &mut Response) {
        if let Some(ErrorBody(mut members)) = response.extensions_mut().remove::<ErrorBody>() {
            members.insert("requestId".to_owned(), Value::from(self.as_str()));
            *response.body_mut() = Body::from(Value::Object(members).to_string());
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        response.headers_mut().insert(HEADER, self.0);
    }
}

/// Returns true for the characters of UUIDs, hexadecimal, base64, and ids that proxies compose of these.
fn is_safe(id: &[u8]) -> bool {
    (1..=MAX_LENGTH).contains(&id.len())
        && id.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~:/+=@,;#".contains(b))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn id_for(client_id: &str) -> String {
        let headers =
            HeaderMap::from_iter([(HEADER, HeaderValue::from_bytes(client_id.as_bytes()).unwrap())]);
        RequestId::from_headers(&headers).as_str().to_owned()
    }

    #[test]
    fn keeps_a_safe_client_id() {
        let longest = "x".repeat(MAX_LENGTH);
        for id in ["a", "Root=1-67891233-abcdef012345678912345678", "a+b/c==", longest.as_str()] {
            assert_eq!(id_for(id), id);
        }
        for id in ["", "a b", "a\"b", "{}", "a\u{e4}", "a\tb", &"x".repeat(MAX_LENGTH + 1)] {
            let new = id_for(id);
            assert!(Uuid::parse_str(&new).is_ok(), "{id}: {new}");
        }
        assert_ne!(id_for(""), id_for(""));
    }
}
