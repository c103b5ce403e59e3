//! `/oauth/token` (client credentials) and what becomes of bearer tokens.

use std::time::Duration;

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use subtle::ConstantTimeEq;

use super::error::{ApiError, answer};
use crate::api::{SignatureAlgorithm, SignatureEncoding};
use crate::core::sign;
use crate::core::time::Millis;

const SCOPE: &str = "read:event_streams create:event_streams update:event_streams delete:event_streams \
    read:event_deliveries update:event_deliveries read:hooks create:hooks update:hooks delete:hooks";

/// Who may come in. No `Debug`: it holds secrets.
pub(super) struct Tokens {
    /// Id and secret of the one application; none: any bearer passes.
    pub client: Option<(String, String)>,
    /// A ready token that passes, too.
    pub ready: Option<String>,
    pub audience: Option<String>,
    pub lifetime: Duration,
}

/// An error of the token endpoint, which has a shape of its own.
struct Refused(StatusCode, &'static str, String);

impl Tokens {
    /// `POST /oauth/token`.
    pub fn issue(&self, parts: &Parts, body: &[u8]) -> Response {
        match self.grant(parts, body) {
            Ok(granted) => answer(StatusCode::OK, &granted),
            Err(Refused(status, error, description)) => {
                answer(status, &json!({"error": error, "error_description": description}))
            }
        }
    }

    fn grant(&self, parts: &Parts, body: &[u8]) -> Result<Value, Refused> {
        let bad = |why: &str| Refused(StatusCode::BAD_REQUEST, "invalid_request", why.into());
        let mut given =
            fields(&parts.headers, body).ok_or_else(|| bad("the body is neither JSON nor a form"))?;
        let mut take = |name: &str| match given.remove(name) {
            Some(Value::String(text)) if !text.is_empty() => Some(text),
            _ => None,
        };
        match take("grant_type").as_deref() {
            Some("client_credentials") => {}
            None => return Err(bad("Missing required parameter: grant_type")),
            Some(other) => {
                let why = format!("Unsupported grant type: {other}");
                return Err(Refused(StatusCode::FORBIDDEN, "unsupported_grant_type", why));
            }
        }
        let (id, secret) = (take("client_id"), take("client_secret"));
        let (id, secret) = match basic(&parts.headers) {
            Some((id, secret)) if secret.is_some() => (Some(id), secret),
            _ => (id, secret),
        };
        let id = id.ok_or_else(|| bad("Missing required parameter: client_id"))?;
        let known = self
            .client
            .as_ref()
            .is_none_or(|(known, kept)| same(known, &id) & same(kept, secret.as_deref().unwrap_or_default()));
        if !known || secret.is_none() {
            return Err(Refused(StatusCode::UNAUTHORIZED, "access_denied", "Unauthorized".into()));
        }
        let audience = take("audience").ok_or_else(|| {
            let why = "No audience parameter was provided, and no default audience has been configured";
            Refused(StatusCode::FORBIDDEN, "access_denied", why.into())
        })?;
        let fits = match &self.audience {
            Some(wanted) => *wanted == audience,
            None => audience.ends_with("/api/v2/"),
        };
        if !fits {
            let why = format!("Service not found: {audience}");
            return Err(Refused(StatusCode::FORBIDDEN, "access_denied", why));
        }
        let expires = Millis::now() + self.lifetime;
        Ok(json!({"access_token": self.sign(expires), "scope": SCOPE,
            "expires_in": self.lifetime.as_secs(), "token_type": "Bearer"}))
    }

    /// A token carries its expiry and a proof that it was issued here, so that it outlives a restart as a real one does.
    fn sign(&self, expires: Millis) -> String {
        let secret = self.client.as_ref().map_or("", |(_, secret)| secret);
        let text = format!("emulated.{}", expires.0);
        let proof = sign::kong_signature(
            secret.as_bytes(),
            SignatureAlgorithm::SHA256,
            SignatureEncoding::Hex,
            text.as_bytes(),
        );
        format!("{text}.{proof}")
    }

    /// Whether a request to the Management API may come in.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (scheme, token) = given.split_once(' ').unwrap_or_default();
        if !scheme.eq_ignore_ascii_case("bearer") || token.trim().is_empty() {
            return Err(ApiError::unauthorized("Missing authentication"));
        }
        let token = token.trim();
        let ready = self.ready.as_ref().is_some_and(|ready| same(ready, token));
        if ready || (self.client.is_none() && self.ready.is_none()) || self.is_ours(token)? {
            Ok(())
        } else {
            Err(ApiError::unauthorized("Invalid token."))
        }
    }

    fn is_ours(&self, token: &str) -> Result<bool, ApiError> {
        if self.client.is_none() {
            return Ok(false);
        }
        let expires = token.split('.').nth(1).and_then(|text| text.parse().ok()).map(Millis);
        let Some(expires) = expires.filter(|expires| same(&self.sign(*expires), token)) else {
            return Ok(false);
        };
        if Millis::now() >= expires {
            return Err(ApiError::unauthorized("Expired token received for JSON Web Token validation"));
        }
        Ok(true)
    }
}

fn same(one: &str, other: &str) -> bool {
    one.as_bytes().ct_eq(other.as_bytes()).into()
}

/// A form, as documented, or JSON, as the vendor's SDKs send it.
fn fields(headers: &HeaderMap, body: &[u8]) -> Option<Map<String, Value>> {
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match given.split(';').next().unwrap_or_default().trim() {
        "application/json" => serde_json::from_slice(body).ok(),
        "application/x-www-form-urlencoded" => {
            let pairs = url::form_urlencoded::parse(body);
            Some(pairs.map(|(name, value)| (name.into_owned(), value.into_owned().into())).collect())
        }
        _ => None,
    }
}

/// Id and secret from a basic authorization, which OAuth clients try first. Both are form-encoded in it.
fn basic(headers: &HeaderMap) -> Option<(String, Option<String>)> {
    let given = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, coded) = given.split_once(' ')?;
    let text = String::from_utf8(STANDARD.decode(coded.trim()).ok()?).ok()?;
    let (id, secret) = text.split_once(':').filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let decode = |text: &str| {
        let mut pairs = url::form_urlencoded::parse(text.as_bytes());
        pairs.next().map(|(name, _)| name.into_owned())
    };
    Some((decode(id)?, decode(secret)))
}
