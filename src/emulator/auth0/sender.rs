//! Builds and sends the request of one delivery attempt.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::history::Delivery;
use super::stream::{Authorization, Destination, Stream};
use crate::emulator::client;
use crate::emulator::error::Error;

/// The time limit of an attempt. That of Auth0 is not documented.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);
/// The most characters of an error message, as in the recordings.
const MAX_ERROR: usize = 50;

/// The HTTP clients of deliveries.
pub(super) struct DeliveryClients {
    http: reqwest::Client,
    /// Created on first use. It cannot be created on a system without certificate authorities, which must not affect
    /// http endpoints.
    https: OnceLock<Result<reqwest::Client, String>>,
}

impl DeliveryClients {
    /// Creates the clients. `ca` contains the only certificate authorities to trust, in PEM. `None`: those of the system.
    pub fn new(ca: Option<&[u8]>) -> Result<DeliveryClients, Error> {
        let https = OnceLock::new();
        if let Some(ca) = ca {
            let trusted = reqwest::Certificate::from_pem_bundle(ca)?;
            if trusted.is_empty() {
                return Err(Error::Option("--ca: the file contains no PEM certificate"));
            }
            let client = client::builder(ATTEMPT_TIMEOUT).tls_certs_only(trusted).build()?;
            https.get_or_init(|| Ok(client));
        }
        let http = client::builder(ATTEMPT_TIMEOUT).tls_certs_only([]).build()?;
        Ok(DeliveryClients { http, https })
    }

    /// Returns the client for a URL.
    fn client(&self, url: &str) -> Result<&reqwest::Client, String> {
        if !url.starts_with("https:") {
            return Ok(&self.http);
        }
        let make = || client::builder(ATTEMPT_TIMEOUT).build().map_err(|error| client::error_chain(&error));
        self.https.get_or_init(make).as_ref().map_err(Clone::clone)
    }

    /// Sends one attempt. Any status but 2xx is a failure; a 4xx is final.
    pub async fn send(&self, request: &AttemptRequest) -> Result<(), FailedAttempt> {
        let AttemptRequest { endpoint, headers, event } = request;
        let no_response = |reason: String| FailedAttempt {
            text: format!("Post \"{endpoint}\": {reason}"),
            is_final: false,
        };
        let mut response = self
            .client(endpoint)
            .map_err(&no_response)?
            .post(endpoint)
            .headers(headers.clone())
            .body(event.to_string())
            .send()
            .await
            .map_err(|error| no_response(client::error_chain(&error)))?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        // The first bytes of the body are enough. An error while reading them does not change the outcome.
        let start = response.chunk().await.ok().flatten().unwrap_or_default();
        let start =
            String::from_utf8_lossy(start.get(..start.len().min(256)).unwrap_or_default()).into_owned();
        Err(FailedAttempt {
            text: format!("{} - {start}", status.as_u16()),
            is_final: status.is_client_error(),
        })
    }
}

/// A failed attempt.
pub(super) struct FailedAttempt {
    pub text: String,
    pub is_final: bool,
}

impl FailedAttempt {
    /// Returns `error_message`: the text, truncated to [`MAX_ERROR`] characters as Auth0 does.
    pub fn message(&self) -> String {
        let mut truncated: String = self.text.chars().take(MAX_ERROR).collect();
        if truncated.len() < self.text.len() {
            truncated.push_str(" ...");
        }
        truncated
    }
}

/// A request built from the current settings of the stream: a changed endpoint applies to pending deliveries.
pub(super) struct AttemptRequest {
    endpoint: String,
    headers: HeaderMap,
    event: Arc<Value>,
}

impl AttemptRequest {
    /// Builds the request. Returns `None` if the stream has no webhook.
    pub fn new(stream: &Stream, delivery: &Delivery) -> Option<AttemptRequest> {
        let Destination::Webhook { endpoint, authorization } = &stream.fields.destination else {
            return None;
        };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // Omit a credential that was never set or is not a valid header; the receiver will reject the request.
        if let Some((name, mut value)) = authorization_header(authorization) {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Some(AttemptRequest { endpoint: endpoint.clone(), headers, event: Arc::clone(&delivery.event) })
    }
}

/// Returns the header of an authorization, if its secret is set and valid.
fn authorization_header(authorization: &Authorization) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = match authorization {
        Authorization::Basic { username, password } => {
            let pair = format!("{username}:{}", password.as_deref().unwrap_or_default());
            (AUTHORIZATION, format!("Basic {}", STANDARD.encode(pair)))
        }
        Authorization::Bearer { token } => (AUTHORIZATION, format!("Bearer {}", token.as_deref()?)),
        Authorization::CustomHeader { key, value } => (HeaderName::try_from(key).ok()?, value.clone()?),
    };
    Some((name, HeaderValue::try_from(value).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncates_error_messages_as_recorded() {
        let message = |text: &str| FailedAttempt { text: text.into(), is_final: false }.message();
        assert_eq!(message("404 - {\"error\":\"Debug endpoint not found\"}").len(), 42);
        let long = "Post \"https://api.hooklistener.com/w/random-turquoise-mead-xb3v\": EOF";
        assert_eq!(message(long), "Post \"https://api.hooklistener.com/w/random-turquo ...");
        assert_eq!(message(&"é".repeat(60)), format!("{} ...", "é".repeat(50)));
    }

    #[test]
    fn builds_authorization_headers() {
        let header = |authorization| {
            authorization_header(&authorization)
                .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        };
        let basic = Authorization::Basic { username: "u".into(), password: Some("p".into()) };
        assert_eq!(header(basic).unwrap(), "authorization: Basic dTpw");
        let bearer = Authorization::Bearer { token: Some("t".into()) };
        assert_eq!(header(bearer).unwrap(), "authorization: Bearer t");
        let custom = Authorization::CustomHeader { key: "X-Key".into(), value: Some("v".into()) };
        assert_eq!(header(custom).unwrap(), "x-key: v");
        assert_eq!(header(Authorization::Bearer { token: None }), None);
        assert_eq!(header(Authorization::CustomHeader { key: "x".into(), value: Some("\n".into()) }), None);
    }

    #[test]
    fn rejects_ca_without_certificate() {
        rustls::crypto::ring::default_provider().install_default().ok();
        assert!(DeliveryClients::new(Some(b"nothing")).is_err());
        assert!(DeliveryClients::new(None).is_ok());
    }
}
