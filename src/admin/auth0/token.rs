//! Access tokens: one login per credentials, renewed before the token expires.
//!
//! Auth0 meters logins. Therefore a token is cached until it expires, concurrent callers share one login, and a failure
//! is cached too. Otherwise each of a thousand objects would repeat a failed login.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::{Url, form_urlencoded};

use super::assertion::{ASSERTION_TYPE, AssertionKey};
use super::request::login_error;
use crate::admin::access::digest;
use crate::admin::error::ErrorDetail;
use crate::admin::limit::AdminHttp;
use crate::admin::response::{log_call, parse_object, unexpected_response};
use crate::admin::{AdminError, AdminErrorClass};
use crate::core::time::Millis;

const TIMEOUT: Duration = Duration::from_secs(15);
const MAX_RESPONSE: usize = 64 * 1024;
/// Lifetime of a token whose response has no `expires_in`.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(600);
/// Lower bound of a token's lifetime: a login per call would exhaust the quota.
const MIN_LIFETIME: Duration = Duration::from_secs(1);
/// Upper bound of a token's lifetime; exceeds Auth0's maximum.
const MAX_LIFETIME: Duration = Duration::from_secs(30 * 86_400);
/// A token is renewed after this fraction of its lifetime, while it is still valid.
const RENEW_AFTER: f64 = 0.9;
/// Delay after a failed renewal until the next one, while the current token is still valid.
const RENEW_RETRY_DELAY: Duration = Duration::from_secs(30);
/// Time for which callers receive the cached error of a failed login.
const FAILURE_CACHE_TIME: Duration = Duration::from_secs(5);
/// Minimum time between renewals of rejected tokens. If a new token is rejected too, the cause is not its age.
const MIN_FORCED_RENEWAL_INTERVAL: Duration = Duration::from_secs(60);
const MAX_LOGINS: usize = 1024;

/// How to obtain a token of a tenant.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// The client credentials of a machine-to-machine application.
    Client { id: String, secret: SecretString, audience: String },
    /// The private key of a machine-to-machine application.
    PrivateKey { key: AssertionKey, audience: String },
    /// A token that is renewed outside of this process.
    StaticToken(SecretString),
}

impl Credentials {
    /// Returns the values that distinguish these credentials from others.
    fn parts(&self) -> [Cow<'_, str>; 4] {
        match self {
            Credentials::Client { id, secret, audience } => {
                ["client", id, secret.expose_secret(), audience].map(Cow::Borrowed)
            }
            Credentials::PrivateKey { key, audience } => [
                Cow::Borrowed("key"),
                Cow::Borrowed(key.client_id()),
                Cow::Owned(hex::encode(key.fingerprint())),
                Cow::Borrowed(audience.as_str()),
            ],
            Credentials::StaticToken(text) => ["ready", text.expose_secret(), "", ""].map(Cow::Borrowed),
        }
    }
}

/// The logins of the process. Holds at most `MAX_LOGINS`; evicts the least recently used one.
#[derive(Debug, Default)]
pub struct LoginCache(Mutex<HashMap<[u8; 32], Arc<Login>>>);

/// The login of one set of credentials, with its current token.
#[derive(Debug)]
pub struct Login {
    base: Url,
    credentials: Credentials,
    /// Locked during a login, so that concurrent callers share its result.
    state: tokio::sync::Mutex<LoginState>,
    last_used: Mutex<Instant>,
}

#[derive(Debug, Default)]
struct LoginState {
    token: Option<Token>,
    /// The last failure, and the time until which no login is attempted.
    failure: Option<(Instant, AdminError)>,
    /// The number of the last token.
    last_number: u64,
}

/// A token. `number` distinguishes it from earlier tokens of the same login.
#[derive(Clone, Debug)]
pub struct Token {
    pub text: SecretString,
    number: u64,
    renew_at: Instant,
    expires_at: Instant,
    /// The time at which it replaced a rejected token.
    forced_at: Option<Instant>,
}

impl LoginCache {
    /// Returns the login of these credentials at this tenant. Other credentials have another login, so that a replaced
    /// Secret takes effect immediately.
    pub fn login(&self, base: &Url, credentials: Credentials) -> Arc<Login> {
        let key = fingerprint(base, &credentials);
        let mut logins = self.0.lock();
        if logins.len() >= MAX_LOGINS {
            let oldest = logins.iter().min_by_key(|(_, login)| *login.last_used.lock()).map(|(key, _)| *key);
            oldest.map(|key| logins.remove(&key));
        }
        let login = logins.entry(key).or_insert_with(|| {
            let (base, state) = (base.clone(), tokio::sync::Mutex::default());
            Arc::new(Login { base, credentials, state, last_used: Mutex::new(Instant::now()) })
        });
        *login.last_used.lock() = Instant::now();
        login.clone()
    }
}

impl Login {
    pub fn fingerprint(&self) -> [u8; 32] {
        fingerprint(&self.base, &self.credentials)
    }

    /// Returns a digest of the credentials, which does not depend on the tenant's address.
    pub fn credentials_digest(&self) -> [u8; 32] {
        digest(&self.credentials.parts().each_ref().map(AsRef::as_ref))
    }

    /// Returns a login with the same credentials at another tenant address.
    pub fn at(&self, base: &Url) -> Arc<Login> {
        let (base, credentials) = (base.clone(), self.credentials.clone());
        let last_used = Mutex::new(Instant::now());
        Arc::new(Login { base, credentials, state: tokio::sync::Mutex::default(), last_used })
    }

    /// Returns a valid token, from the cache if possible.
    ///
    /// Errors: the failure of the login, cached for `FAILURE_CACHE_TIME` or for the time that the vendor requested.
    pub async fn token(&self, http: &AdminHttp) -> Result<Token, AdminError> {
        if let Credentials::StaticToken(text) = &self.credentials {
            return Ok(Token::from_static(text));
        }
        let mut state = self.state.lock().await;
        let now = Instant::now();
        if let Some(token) = state.token.as_ref().filter(|token| token.renew_at > now) {
            return Ok(token.clone());
        }
        if let Some((until, error)) = state.failure.as_ref()
            && *until > now
        {
            return Err(match error.clone() {
                AdminError::RateLimited(detail, _) => AdminError::RateLimited(detail, *until - now),
                other => other,
            });
        }
        match self.log_in(http).await {
            Ok((text, lifetime)) => Ok(state.store_token(text, lifetime)),
            Err(error) => match &mut state.token {
                // The token is still valid and the login was only deferred: do not report it.
                Some(token) if token.expires_at > now && error.is_deferred() => Ok(token.clone()),
                Some(token) if token.expires_at > now => {
                    token.renew_at = (now + RENEW_RETRY_DELAY).min(token.expires_at);
                    tracing::warn!(tenant = %self.base, %error, "access token renewal failed, the current token is still valid");
                    Ok(token.clone())
                }
                // The login was deferred. Do not cache this: the next caller may have a higher priority.
                _ if error.is_deferred() => Err(error),
                _ => {
                    state.failure = Some((now + retry_delay(&error), error.clone()));
                    Err(error)
                }
            },
        }
    }

    /// Returns a token to replace a rejected one. Returns None if a new token would probably be rejected too.
    pub async fn renew(&self, http: &AdminHttp, rejected: &Token) -> Result<Option<Token>, AdminError> {
        if matches!(self.credentials, Credentials::StaticToken(_)) {
            return Ok(None);
        }
        {
            let mut state = self.state.lock().await;
            match state.token.as_ref() {
                // A concurrent caller has already renewed it.
                Some(token) if token.number != rejected.number => return Ok(Some(token.clone())),
                Some(token)
                    if token.forced_at.is_some_and(|at| at.elapsed() < MIN_FORCED_RENEWAL_INTERVAL) =>
                {
                    return Ok(None);
                }
                // A concurrent caller may be about to log in: `token` shares that login.
                Some(_) | None => state.token = None,
            }
        }
        let mut token = self.token(http).await?;
        token.forced_at = Some(Instant::now());
        let mut state = self.state.lock().await;
        if let Some(cached) = state.token.as_mut().filter(|cached| cached.number == token.number) {
            cached.forced_at = token.forced_at;
        }
        Ok(Some(token))
    }

    /// Makes the current token due for renewal.
    #[cfg(test)]
    pub async fn expire_soon_for_tests(&self) {
        if let Some(token) = self.state.lock().await.token.as_mut() {
            token.renew_at = Instant::now();
        }
    }

    /// Returns the form of a token request, and the secret in it.
    fn login_form(&self) -> Result<(String, SecretString), AdminError> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        let (secret, audience) = match &self.credentials {
            Credentials::Client { id, secret, audience } => {
                form.append_pair("client_id", id).append_pair("client_secret", secret.expose_secret());
                (secret.clone(), audience)
            }
            Credentials::PrivateKey { key, audience } => {
                let assertion = key
                    .sign(self.base.as_str(), Millis::wall())
                    .ok_or_else(|| rejected("the private key cannot sign a client assertion".into()))?;
                form.append_pair("client_id", key.client_id())
                    .append_pair("client_assertion_type", ASSERTION_TYPE)
                    .append_pair("client_assertion", assertion.expose_secret());
                (assertion, audience)
            }
            Credentials::StaticToken(_) => return Err(rejected("a static token needs no login".into())),
        };
        Ok((form.append_pair("audience", audience).finish(), secret))
    }

    /// Logs in. Returns the token and its lifetime.
    async fn log_in(&self, http: &AdminHttp) -> Result<(SecretString, Duration), AdminError> {
        let (form, secret) = self.login_form()?;
        let mut url = self.base.clone();
        url.set_path("/oauth/token");
        let request = Request::builder()
            .method(Method::POST)
            .uri(url.as_str())
            .header("accept", "application/json")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Full::from(Bytes::from(form)))
            .map_err(|e| rejected(e.to_string()))?;
        let response = http.send(request, TIMEOUT, MAX_RESPONSE).await?;
        log_call(
            self.base.as_str(),
            &Method::POST,
            &["oauth", "token"],
            &response,
            &[secret.expose_secret()],
        );
        if !response.status.is_success() {
            // Redact the secret both in plain text and in the form encoding of the request.
            let encoded: String =
                form_urlencoded::byte_serialize(secret.expose_secret().as_bytes()).collect();
            return Err(login_error(&response, &[secret.expose_secret(), &encoded]));
        }
        let granted = parse_object(&response)?;
        let text = granted.get("access_token").and_then(Value::as_str).unwrap_or_default();
        if text.is_empty() || HeaderValue::from_str(text).is_err() {
            return Err(unexpected_response(&response, "the login response has no valid access token"));
        }
        let seconds = granted.get("expires_in").and_then(Value::as_f64).filter(|seconds| *seconds >= 0.0);
        let lifetime = seconds
            .map_or(DEFAULT_LIFETIME, |seconds| Duration::try_from_secs_f64(seconds).unwrap_or(MAX_LIFETIME));
        Ok((SecretString::from(text), lifetime.clamp(MIN_LIFETIME, MAX_LIFETIME)))
    }
}

fn rejected(message: String) -> AdminError {
    AdminError::Rejected(ErrorDetail { message, ..ErrorDetail::default() })
}

impl LoginState {
    fn store_token(&mut self, text: SecretString, lifetime: Duration) -> Token {
        let now = Instant::now();
        self.last_number += 1;
        self.failure = None;
        let token = Token {
            text,
            number: self.last_number,
            renew_at: now + lifetime.mul_f64(RENEW_AFTER),
            expires_at: now + lifetime,
            forced_at: None,
        };
        self.token = Some(token.clone());
        token
    }
}

impl Token {
    fn from_static(text: &SecretString) -> Self {
        let now = Instant::now();
        Token { text: text.clone(), number: 0, renew_at: now, expires_at: now, forced_at: None }
    }
}

/// Returns how long a failed login is cached.
fn retry_delay(error: &AdminError) -> Duration {
    match error.class() {
        AdminErrorClass::RateLimited(after) => after,
        AdminErrorClass::Terminal | AdminErrorClass::Retryable => FAILURE_CACHE_TIME,
    }
}

fn fingerprint(base: &Url, credentials: &Credentials) -> [u8; 32] {
    let parts = credentials.parts();
    let [kind, id, secret, audience] = parts.each_ref().map(AsRef::as_ref);
    digest(&[base.as_str(), kind, id, secret, audience])
}
