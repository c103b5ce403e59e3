//! Every request has an id: its sender's, or one of ours. It stands in the answer, in the body of a refusal, and in each
//! line of the log that the request leads to.

use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};
use tracing::Span;

use crate::core::id;
use crate::core::time::Millis;

const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Longer ones, which could fill the log, are replaced.
const MAX: usize = 128;

/// Put into a response's extensions, this becomes its body, with the id as a member. What is in the body before is for
/// those who ask without a server in between.
#[derive(Clone)]
pub struct Refusal(pub Map<String, Value>);

/// The id of one request.
pub struct RequestId(HeaderValue);

impl RequestId {
    /// The sender's, where it is one that can stand in a log as it is; else a new one.
    pub fn of(headers: &HeaderMap) -> Self {
        let theirs = headers.get(HEADER).filter(|value| is_harmless(value.as_bytes()));
        RequestId(theirs.cloned().unwrap_or_else(|| {
            // Always a header's value; without an id the request is still answered.
            HeaderValue::from_str(&id::fresh(Millis::now()).to_string())
                .unwrap_or(HeaderValue::from_static("none"))
        }))
    }

    fn text(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    /// What the lines of the log are in.
    pub fn span(&self) -> Span {
        tracing::info_span!(parent: None, "request", id = self.text())
    }

    /// Tells the sender.
    pub fn tell(self, response: &mut Response) {
        if let Some(Refusal(mut members)) = response.extensions_mut().remove::<Refusal>() {
            members.insert("requestId".to_owned(), Value::from(self.text()));
            *response.body_mut() = Body::from(Value::Object(members).to_string());
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        response.headers_mut().insert(HEADER, self.0);
    }
}

/// What ids are made of: UUIDs, hexadecimal, base64, and what proxies put together from such parts.
fn is_harmless(id: &[u8]) -> bool {
    (1..=MAX).contains(&id.len())
        && id.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~:/+=@,;#".contains(b))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn of(theirs: &str) -> String {
        let headers = HeaderMap::from_iter([(HEADER, HeaderValue::from_bytes(theirs.as_bytes()).unwrap())]);
        RequestId::of(&headers).text().to_owned()
    }

    #[test]
    fn a_senders_id_is_kept_where_it_is_harmless() {
        let longest = "x".repeat(MAX);
        for id in ["a", "Root=1-67891233-abcdef012345678912345678", "a+b/c==", longest.as_str()] {
            assert_eq!(of(id), id);
        }
        for id in ["", "a b", "a\"b", "{}", "a\u{e4}", "a\tb", &"x".repeat(MAX + 1)] {
            let new = of(id);
            assert!(Uuid::parse_str(&new).is_ok(), "{id}: {new}");
        }
        assert_ne!(of(""), of(""));
    }
}
