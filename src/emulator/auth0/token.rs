//! `/oauth/token` (client credentials), and the check of bearer tokens.

use std::time::Duration;

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use subtle::ConstantTimeEq;

use super::assertion::{ASSERTION_TYPE, ClientKey, UsedAssertions, check_assertion};
use super::error::{ApiError, json_response};
use crate::api::{SignatureAlgorithm, SignatureEncoding};
use crate::core::sign;
use crate::core::time::Millis;

const SCOPE: &str = "read:event_streams create:event_streams update:event_streams delete:event_streams \
    read:event_deliveries update:event_deliveries read:hooks create:hooks update:hooks delete:hooks";

/// Issues and checks access tokens. No `Debug`, because it holds secrets.
pub(super) struct TokenIssuer {
    /// The only application. `None`: any bearer token is valid, unless `ready` is set.
    pub client: Option<Client>,
    /// A fixed token that is also valid.
    pub ready: Option<String>,
    pub audience: Option<String>,
    pub lifetime: Duration,
    pub used: UsedAssertions,
}

/// The application that may get tokens.
pub(super) enum Client {
    Secret { id: String, secret: String },
    Key { id: String, key: ClientKey },
}

/// An error of the token endpoint, whose format differs from that of the Management API.
struct TokenError(StatusCode, &'static str, String);

impl TokenIssuer {
    /// `POST /oauth/token`.
    pub fn issue(&self, parts: &Parts, body: &[u8]) -> Response {
        match self.grant(parts, body) {
            Ok(granted) => json_response(StatusCode::OK, &granted),
            Err(TokenError(status, error, description)) => {
                json_response(status, &json!({"error": error, "error_description": description}))
            }
        }
    }

    /// Validates a token request and returns the response body.
    fn grant(&self, parts: &Parts, body: &[u8]) -> Result<Value, TokenError> {
        let invalid = |message: &str| TokenError(StatusCode::BAD_REQUEST, "invalid_request", message.into());
        let mut parameters = parse_parameters(&parts.headers, body)
            .ok_or_else(|| invalid("the body is neither JSON nor a form"))?;
        let mut take = |name: &str| match parameters.remove(name) {
            Some(Value::String(text)) if !text.is_empty() => Some(text),
            _ => None,
        };
        match take("grant_type").as_deref() {
            Some("client_credentials") => {}
            None => return Err(invalid("Missing required parameter: grant_type")),
            Some(other) => {
                let message = format!("Unsupported grant type: {other}");
                return Err(TokenError(StatusCode::FORBIDDEN, "unsupported_grant_type", message));
            }
        }
        let (id, secret) = (take("client_id"), take("client_secret"));
        let is_assertion = take("client_assertion_type").as_deref() == Some(ASSERTION_TYPE);
        let assertion = take("client_assertion").filter(|_| is_assertion);
        let (id, secret) = match parse_basic(&parts.headers) {
            Some((id, secret)) if secret.is_some() => (Some(id), secret),
            _ => (id, secret),
        };
        // An assertion names its client.
        if id.is_none() && assertion.is_none() {
            return Err(invalid("Missing required parameter: client_id"));
        }
        let unauthorized = || TokenError(StatusCode::UNAUTHORIZED, "access_denied", "Unauthorized".into());
        match &self.client {
            None if secret.is_some() || assertion.is_some() => {}
            Some(Client::Secret { id: known_id, secret: known_secret }) => {
                let is_valid = constant_time_eq(known_id, id.as_deref().unwrap_or_default())
                    & constant_time_eq(known_secret, secret.as_deref().unwrap_or_default());
                if !is_valid {
                    return Err(unauthorized());
                }
            }
            Some(Client::Key { id: known_id, key }) => {
                let is_known = id.is_none_or(|id| id == *known_id);
                let assertion = assertion.filter(|_| is_known).ok_or_else(unauthorized)?;
                let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
                check_assertion(key, known_id, host, &assertion, &self.used).map_err(|problem| {
                    TokenError(StatusCode::UNAUTHORIZED, "invalid_client", problem.into())
                })?;
            }
            None => return Err(unauthorized()),
        }
        let audience = take("audience").ok_or_else(|| {
            let message = "No audience parameter was provided, and no default audience has been configured";
            TokenError(StatusCode::FORBIDDEN, "access_denied", message.into())
        })?;
        let is_valid_audience = match &self.audience {
            Some(expected) => *expected == audience,
            None => audience.ends_with("/api/v2/"),
        };
        if !is_valid_audience {
            let message = format!("Service not found: {audience}");
            return Err(TokenError(StatusCode::FORBIDDEN, "access_denied", message));
        }
        let expires = Millis::now() + self.lifetime;
        Ok(json!({"access_token": self.sign(expires), "scope": SCOPE,
            "expires_in": self.lifetime.as_secs(), "token_type": "Bearer"}))
    }

    /// Makes a token. It contains its expiry and a signature, so that it stays valid over a restart, like a real token.
    fn sign(&self, expires: Millis) -> String {
        let secret = match &self.client {
            None => &[],
            Some(Client::Secret { secret, .. }) => secret.as_bytes(),
            Some(Client::Key { key, .. }) => key.bytes(),
        };
        let text = format!("emulated.{}", expires.0);
        let signature =
            sign::kong_signature(secret, SignatureAlgorithm::SHA256, SignatureEncoding::Hex, text.as_bytes());
        format!("{text}.{signature}")
    }

    /// Checks the bearer token of a request to the Management API.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let authorization =
            headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (scheme, token) = authorization.split_once(' ').unwrap_or_default();
        if !scheme.eq_ignore_ascii_case("bearer") || token.trim().is_empty() {
            return Err(ApiError::unauthorized("Missing authentication"));
        }
        let token = token.trim();
        let is_fixed_token = self.ready.as_ref().is_some_and(|ready| constant_time_eq(ready, token));
        if is_fixed_token || (self.client.is_none() && self.ready.is_none()) || self.is_issued_here(token)? {
            Ok(())
        } else {
            Err(ApiError::unauthorized("Invalid token."))
        }
    }

    /// Whether this emulator issued the token. Fails if the token has expired.
    fn is_issued_here(&self, token: &str) -> Result<bool, ApiError> {
        if self.client.is_none() {
            return Ok(false);
        }
        let expires = token.split('.').nth(1).and_then(|text| text.parse().ok()).map(Millis);
        let Some(expires) = expires.filter(|expires| constant_time_eq(&self.sign(*expires), token)) else {
            return Ok(false);
        };
        if Millis::now() >= expires {
            return Err(ApiError::unauthorized("Expired token received for JSON Web Token validation"));
        }
        Ok(true)
    }
}

fn constant_time_eq(one: &str, other: &str) -> bool {
    one.as_bytes().ct_eq(other.as_bytes()).into()
}

/// Parses a form, as documented, or JSON, as the vendor's SDKs send it.
fn parse_parameters(headers: &HeaderMap, body: &[u8]) -> Option<Map<String, Value>> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match content_type.split(';').next().unwrap_or_default().trim() {
        "application/json" => serde_json::from_slice(body).ok(),
        "application/x-www-form-urlencoded" => {
            let pairs = url::form_urlencoded::parse(body);
            Some(pairs.map(|(name, value)| (name.into_owned(), value.into_owned().into())).collect())
        }
        _ => None,
    }
}

/// Parses the id and secret of a basic authorization, which OAuth clients try first. Both are form-encoded.
fn parse_basic(headers: &HeaderMap) -> Option<(String, Option<String>)> {
    let authorization = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, coded) = authorization.split_once(' ')?;
    let text = String::from_utf8(STANDARD.decode(coded.trim()).ok()?).ok()?;
    let (id, secret) = text.split_once(':').filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let decode = |text: &str| {
        let mut pairs = url::form_urlencoded::parse(text.as_bytes());
        pairs.next().map(|(name, _)| name.into_owned())
    };
    Some((decode(id)?, decode(secret)))
}
