//! `OPTIONS /v1/namespaces/{ns}/events`: the handshake of the CloudEvents webhook specification, by which a sender
//! requests permission to send.
//!
//! It needs no token, because the token of each later request is checked. `WebHook-Request-Callback` is ignored: a request
//! to an address that any client may choose would reach what only this process can reach.

use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::ALLOW;
use http::{HeaderMap, HeaderValue, StatusCode};

use super::IngestState;
use crate::core::webhook_handshake::{ALLOWED_ORIGIN, ALLOWED_RATE, REQUEST_ORIGIN, REQUEST_RATE};
use crate::worker::problem::HttpProblem;
use crate::worker::request::ValidPath;

/// The longest origin, that of a DNS name.
const MAX_ORIGIN: usize = 253;

/// The senders that the handshake admits.
#[derive(Clone, Debug, Default)]
pub struct HandshakeOrigins {
    pub allow_all: bool,
    pub allowed: Vec<AllowedOrigin>,
}

/// An admitted sender: `NAMESPACE=ORIGIN` or `NAMESPACE=ORIGIN@RATE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedOrigin {
    /// `None`: every namespace.
    namespace: Option<String>,
    /// In lower case. `None`: every origin.
    origin: Option<String>,
    /// The granted requests a minute. `None`: any number.
    rate: Option<NonZeroU32>,
}

impl FromStr for AllowedOrigin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const FORM: &str =
            "must be NAMESPACE=ORIGIN or NAMESPACE=ORIGIN@RATE, such as shop=eventgrid.azure.net@120";
        let (namespace, rest) = text.split_once('=').ok_or(FORM)?;
        let (origin, rate) = match rest.split_once('@') {
            Some((origin, rate)) => {
                let rate = rate.parse().map_err(|_| "the rate must be a whole number of requests a minute");
                (origin, Some(rate?))
            }
            None => (rest, None),
        };
        if namespace.is_empty() || !is_origin(origin) {
            return Err(FORM);
        }
        let unless_any = |text: &str| (text != "*").then(|| text.to_ascii_lowercase());
        Ok(AllowedOrigin { namespace: unless_any(namespace), origin: unless_any(origin), rate })
    }
}

fn is_origin(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_ORIGIN && text.bytes().all(|byte| byte.is_ascii_graphic())
}

impl HandshakeOrigins {
    /// Returns the value of `WebHook-Allowed-Rate` for a sender. `None`: it may not send.
    fn granted_rate(&self, namespace: &str, origin: &str, requested: Option<NonZeroU32>) -> Option<String> {
        if self.allow_all {
            return Some("*".to_owned());
        }
        let matches = |allowed: &&AllowedOrigin| {
            let is = |pattern: &Option<String>, text: &str| {
                pattern.as_ref().is_none_or(|pattern| pattern.eq_ignore_ascii_case(text))
            };
            is(&allowed.namespace, namespace) && is(&allowed.origin, origin)
        };
        let AllowedOrigin { rate, .. } = self.allowed.iter().find(matches)?;
        let granted = rate.map(|rate| requested.map_or(rate, |requested| requested.min(rate)));
        Some(granted.map_or_else(|| "*".to_owned(), |rate| rate.to_string()))
    }
}

pub async fn handshake(
    State(state): State<Arc<IngestState>>,
    ValidPath(namespace): ValidPath<String>,
    headers: HeaderMap,
) -> Response {
    let started = Instant::now();
    let mut response = StatusCode::OK.into_response();
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    let Some(origin) = headers.get(REQUEST_ORIGIN) else { return response };
    let text = origin.to_str().ok().map(str::trim).filter(|text| is_origin(text));
    let requested = headers.get(REQUEST_RATE).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let rate = text.and_then(|text| state.handshake.granted_rate(&namespace, text, requested));
    let (Some(text), Some(Ok(rate))) = (text, rate.map(HeaderValue::try_from)) else {
        let problem = HttpProblem::new(
            403,
            "OriginNotAllowed",
            "this namespace admits no events of this origin: add it to the worker's --handshake-origins",
        );
        state.metrics.record_ingest("events", problem.reason, started.elapsed());
        tracing::debug!(namespace, ?origin, "webhook handshake refused");
        return problem.into_response();
    };
    tracing::info!(namespace, origin = text, "webhook handshake granted");
    response.headers_mut().insert(ALLOWED_ORIGIN, origin.clone());
    response.headers_mut().insert(ALLOWED_RATE, rate);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_origins_of_the_list() {
        let allowed = ["a=EventGrid.azure.net", "a=slow.example@100", "*=any.example", "b=*@7"];
        let allowed = allowed.iter().map(|text| text.parse().unwrap()).collect();
        let origins = HandshakeOrigins { allow_all: false, allowed };
        for (namespace, origin, requested, want) in [
            ("a", "eventgrid.azure.net", None, Some("*")),
            ("a", "eventgrid.azure.net", Some(120), Some("*")),
            ("a", "eventgrid.azure.net.evil.example", None, None),
            ("a", "slow.example", None, Some("100")),
            ("a", "slow.example", Some(120), Some("100")),
            ("a", "slow.example", Some(20), Some("20")),
            ("a", "any.example", None, Some("*")),
            ("b", "whatever", None, Some("7")),
            ("c", "any.example", None, Some("*")),
            ("c", "eventgrid.azure.net", None, None),
        ] {
            let rate = origins.granted_rate(namespace, origin, requested.and_then(NonZeroU32::new));
            assert_eq!(rate.as_deref(), want, "{namespace} {origin}");
        }
        assert_eq!(HandshakeOrigins::default().granted_rate("a", "x", None), None);
        let all = HandshakeOrigins { allow_all: true, allowed: Vec::new() };
        assert_eq!(all.granted_rate("a", "x", NonZeroU32::new(5)).as_deref(), Some("*"));
    }

    #[test]
    fn rejects_malformed_entries() {
        for text in ["", "a", "a=", "=x", "a=x y", "a=x@", "a=x@0", "a=x@fast", "a=x@-1"] {
            assert!(text.parse::<AllowedOrigin>().is_err(), "{text}");
        }
    }
}
