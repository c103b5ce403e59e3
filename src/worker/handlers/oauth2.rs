//! Access tokens for receivers: OAuth2 client credentials. One token for all deliveries of a hook.
//!
//! Invariants: concurrent deliveries share one request for a token; a hook requests at most one token a minute while the
//! requests succeed, and waits longer after each failure; a token endpoint that fails says nothing about the receiver.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::form_urlencoded;

use crate::core::conditions::cut;
use crate::core::digest::hash_parts;
use crate::net::{HttpClient, SendError};

/// The shortest time between two tokens of a hook.
const MIN_RENEWAL_INTERVAL: Duration = Duration::from_secs(60);
/// The delay after the first failure, doubled after each further one up to `MIN_RENEWAL_INTERVAL`.
const FAILURE_DELAY: Duration = Duration::from_secs(2);
/// Lifetime of a token whose response has no `expires_in`.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(600);
const MAX_LIFETIME: Duration = Duration::from_secs(30 * 86_400);
/// A token is renewed after this part of its lifetime, while it is still valid.
const RENEW_AFTER: f64 = 0.9;
const TIMEOUT: Duration = Duration::from_secs(15);
const MAX_RESPONSE: usize = 64 * 1024;
const MAX_DETAIL: usize = 200;
/// Maximum hooks with a token; the least recently used one is forgotten.
const MAX_HOOKS: usize = 100_000;

/// Everything that determines a token. No `Debug`: it contains the client secret.
pub struct TokenRequest {
    pub uid: Arc<str>,
    pub url: Uri,
    pub client_id: String,
    pub client_secret: SecretString,
    /// Separated by spaces.
    pub scope: Option<String>,
    pub audience: Option<String>,
    /// The client with the TLS options of the token endpoint.
    pub http: HttpClient,
}

/// Why there is no token.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TokenError {
    #[error("the token endpoint cannot be reached: {0}")]
    Unreachable(String),
    #[error("the token endpoint answered {status}{detail}")]
    Rejected { status: u16, detail: String },
    #[error("the answer of the token endpoint cannot be used: {0}")]
    InvalidAnswer(&'static str),
    #[error("the request for a token was interrupted")]
    Interrupted,
}

/// An access token. The number distinguishes it from earlier tokens of the same hook.
#[derive(Clone)]
pub struct AccessToken {
    pub header: HeaderValue,
    pub text: SecretString,
    number: u64,
}

/// The tokens of all hooks.
#[derive(Default)]
pub struct AccessTokens(Mutex<HashMap<[u8; 32], Arc<HookToken>>>);

struct HookToken {
    /// Locked during a request, so that concurrent deliveries share its result.
    state: Arc<tokio::sync::Mutex<TokenState>>,
    last_used: Mutex<Instant>,
}

#[derive(Default)]
struct TokenState {
    token: Option<StoredToken>,
    /// No request is made before this time.
    not_before: Option<Instant>,
    failure: Option<TokenError>,
    failures: u32,
    last_number: u64,
    /// True if the server accepts the credentials only in the body of the request.
    uses_body: bool,
}

struct StoredToken {
    token: AccessToken,
    renew_at: Instant,
    expires_at: Instant,
}

impl AccessTokens {
    /// Returns the token of the hook, from memory if possible.
    ///
    /// Errors: the failure of the last request, until the time of the next one.
    pub async fn token(&self, request: Arc<TokenRequest>) -> Result<AccessToken, TokenError> {
        self.renew_unless(request, |state, now| {
            state.token.as_ref().filter(|stored| now < stored.renew_at).map(|stored| stored.token.clone())
        })
        .await
    }

    /// Returns another token than the rejected one. None: the last token is less than a minute old, so that its age is not
    /// why the receiver rejects it.
    pub async fn replace(&self, request: Arc<TokenRequest>, rejected: &AccessToken) -> Option<AccessToken> {
        let number = rejected.number;
        let token = self.renew_unless(request, |state, _| {
            state.token.as_ref().map(|stored| stored.token.clone()).filter(|token| token.number != number)
        });
        token.await.ok().filter(|token| token.number != number)
    }

    /// Returns the token that `find` finds. Otherwise requests one, if it is time for that.
    async fn renew_unless(
        &self,
        request: Arc<TokenRequest>,
        find: impl Fn(&TokenState, Instant) -> Option<AccessToken>,
    ) -> Result<AccessToken, TokenError> {
        let mut state = self.slot(&request).lock_owned().await;
        let now = Instant::now();
        if let Some(token) = find(&state, now) {
            return Ok(token);
        }
        if state.not_before.is_some_and(|time| now < time) {
            return state.last_token(now);
        }
        // A task of its own: an attempt that times out must not end the request that others wait for.
        let renewal = tokio::spawn(async move {
            let result = request_token(&request, &mut state.uses_body).await;
            state.record(result)
        });
        renewal.await.unwrap_or(Err(TokenError::Interrupted))
    }

    fn slot(&self, request: &TokenRequest) -> Arc<tokio::sync::Mutex<TokenState>> {
        let (key, now) = (fingerprint(request), Instant::now());
        let mut hooks = self.0.lock();
        if hooks.len() >= MAX_HOOKS && !hooks.contains_key(&key) {
            let oldest = hooks.iter().min_by_key(|(_, hook)| *hook.last_used.lock()).map(|(key, _)| *key);
            oldest.map(|key| hooks.remove(&key));
        }
        let hook = hooks
            .entry(key)
            .or_insert_with(|| Arc::new(HookToken { state: Arc::default(), last_used: Mutex::new(now) }));
        *hook.last_used.lock() = now;
        hook.state.clone()
    }
}

impl TokenState {
    /// Returns the last token while no newer one may be requested. After a failure it must still be valid: with an expired one,
    /// an outage of the token endpoint would turn deliveries into dead letters. Otherwise the receiver decides.
    fn last_token(&self, now: Instant) -> Result<AccessToken, TokenError> {
        match (&self.token, &self.failure) {
            (Some(stored), None) => Ok(stored.token.clone()),
            (Some(stored), Some(_)) if now < stored.expires_at => Ok(stored.token.clone()),
            (_, failure) => Err(failure.clone().unwrap_or(TokenError::Interrupted)),
        }
    }

    fn record(
        &mut self,
        result: Result<(SecretString, Duration), TokenError>,
    ) -> Result<AccessToken, TokenError> {
        let now = Instant::now();
        let checked = result.and_then(|(text, lifetime)| Ok((bearer(&text)?, text, lifetime)));
        let (header, text, lifetime) = match checked {
            Ok(token) => token,
            Err(error) => {
                let delay =
                    FAILURE_DELAY.saturating_mul(1 << self.failures.min(16)).min(MIN_RENEWAL_INTERVAL);
                self.failures = self.failures.saturating_add(1);
                self.not_before = Some(now + delay);
                self.failure = Some(error);
                return self.last_token(now);
            }
        };
        self.last_number += 1;
        let token = AccessToken { header, text, number: self.last_number };
        let renew_at = now + lifetime.mul_f64(RENEW_AFTER);
        self.token = Some(StoredToken { token: token.clone(), renew_at, expires_at: now + lifetime });
        self.not_before = Some(now + MIN_RENEWAL_INTERVAL);
        (self.failure, self.failures) = (None, 0);
        Ok(token)
    }
}

/// Identifies the hook and its credentials, so that a replaced Secret takes effect immediately.
fn fingerprint(request: &TokenRequest) -> [u8; 32] {
    let (url, tls) = (request.url.to_string(), request.http.tls_identity());
    hash_parts(&[
        request.uid.as_bytes(),
        url.as_bytes(),
        request.client_id.as_bytes(),
        request.client_secret.expose_secret().as_bytes(),
        // The definitions accept no empty scope or audience, so these differ from absent ones.
        request.scope.as_deref().unwrap_or_default().as_bytes(),
        request.audience.as_deref().unwrap_or_default().as_bytes(),
        &tls,
    ])
}

/// Requests a token. Sends the credentials in the header, as RFC 6749 (section 2.3.1) recommends; a server that rejects that
/// gets them in the body from then on.
async fn request_token(
    request: &TokenRequest,
    uses_body: &mut bool,
) -> Result<(SecretString, Duration), TokenError> {
    let first = post(request, *uses_body).await;
    match first {
        Err(TokenError::Rejected { status: 400 | 401, .. }) if !*uses_body => {
            let second = post(request, true).await;
            *uses_body = second.is_ok();
            // The first answer names the cause if both fail.
            second.or(first)
        }
        result => result,
    }
}

/// Returns the form of a request for a token.
fn token_form(request: &TokenRequest, has_credentials: bool) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "client_credentials");
    for (name, value) in [("scope", &request.scope), ("audience", &request.audience)] {
        if let Some(value) = value {
            form.append_pair(name, value);
        }
    }
    if has_credentials {
        form.append_pair("client_id", &request.client_id);
        form.append_pair("client_secret", request.client_secret.expose_secret());
    }
    form.finish()
}

async fn post(request: &TokenRequest, uses_body: bool) -> Result<(SecretString, Duration), TokenError> {
    let mut message = Request::new(Full::new(Bytes::from(token_form(request, uses_body))));
    *message.method_mut() = Method::POST;
    *message.uri_mut() = request.url.clone();
    let headers = message.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    if !uses_body {
        headers.insert(AUTHORIZATION, basic(&request.client_id, request.client_secret.expose_secret())?);
    }
    let response =
        request.http.send(message, TIMEOUT, MAX_RESPONSE).await.map_err(|error| unreachable(&error))?;
    match response.status {
        StatusCode::OK if response.complete => parse_token(&response.body),
        StatusCode::OK => Err(TokenError::InvalidAnswer("it is cut off or longer than 64 KiB")),
        status => Err(TokenError::Rejected { status: status.as_u16(), detail: error_code(&response.body) }),
    }
}

fn unreachable(error: &SendError) -> TokenError {
    TokenError::Unreachable(cut(&error.to_string(), MAX_DETAIL).to_owned())
}

/// Returns the header with the client's credentials, each form-encoded (RFC 6749, section 2.3.1).
fn basic(id: &str, secret: &str) -> Result<HeaderValue, TokenError> {
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let text = format!("Basic {}", STANDARD.encode(format!("{}:{}", encode(id), encode(secret))));
    sensitive(&text)
}

fn bearer(token: &SecretString) -> Result<HeaderValue, TokenError> {
    sensitive(&format!("Bearer {}", token.expose_secret()))
}

fn sensitive(text: &str) -> Result<HeaderValue, TokenError> {
    let mut value =
        HeaderValue::from_str(text).map_err(|_| TokenError::InvalidAnswer("its token is no header value"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    token_type: Option<String>,
    /// Seconds. Some servers send it as a string.
    expires_in: Option<serde_json::Value>,
}

fn parse_token(body: &[u8]) -> Result<(SecretString, Duration), TokenError> {
    let answer: TokenAnswer = serde_json::from_slice(body)
        .map_err(|_| TokenError::InvalidAnswer("it is no JSON object with access_token"))?;
    let token = SecretString::from(answer.access_token);
    if answer.token_type.is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
        return Err(TokenError::InvalidAnswer("its token_type is not Bearer"));
    }
    if token.expose_secret().is_empty() {
        return Err(TokenError::InvalidAnswer("its access_token is empty"));
    }
    let seconds = answer.expires_in.as_ref().and_then(|value| match value {
        serde_json::Value::String(text) => text.parse().ok(),
        other => other.as_f64(),
    });
    let lifetime = seconds.filter(|seconds| seconds.is_finite()).map_or(DEFAULT_LIFETIME, |seconds| {
        Duration::from_secs_f64(seconds.clamp(0.0, MAX_LIFETIME.as_secs_f64()))
    });
    Ok((token, lifetime))
}

/// Returns the error code of an answer (RFC 6749, section 5.2), for messages. Other texts of the answer are not shown: they may
/// repeat the credentials.
fn error_code(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct ErrorAnswer {
        error: String,
    }
    let is_code =
        |text: &String| text.len() <= 64 && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let answer: Option<ErrorAnswer> = serde_json::from_slice(body).ok();
    answer.map(|answer| answer.error).filter(is_code).map(|code| format!(": {code}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::core::egress::EgressRules;
    use crate::net::Egress;

    /// Starts a server that answers every request with the next token, and returns its URL.
    async fn start_token_server(answers: &'static [&'static str]) -> Uri {
        let answer = |body: &&str| format!("200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        start_server(answers.iter().map(answer).collect()).await
    }

    /// Starts a server that answers every request with the next status, headers and body, and returns its URL.
    async fn start_server(answers: Vec<String>) -> Uri {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        tokio::spawn(async move {
            for answer in answers {
                let (mut socket, _) = listener.accept().await.unwrap();
                drop(socket.read(&mut [0; 4096]).await);
                socket.write_all(format!("HTTP/1.1 {answer}").as_bytes()).await.ok();
            }
        });
        url.parse().unwrap()
    }

    fn token_request(url: Uri) -> Arc<TokenRequest> {
        rustls::crypto::ring::default_provider().install_default().ok();
        let rules = EgressRules { loopback: true, ..EgressRules::default() };
        Arc::new(TokenRequest {
            uid: "u".into(),
            url,
            client_id: "c".into(),
            client_secret: SecretString::from("s"),
            scope: None,
            audience: None,
            http: HttpClient::new(Egress::new(rules)).unwrap(),
        })
    }

    #[tokio::test]
    async fn a_rejected_token_is_replaced_once_a_minute() {
        let answers = &[r#"{"access_token": "one"}"#, r#"{"access_token": "two"}"#];
        let request = token_request(start_token_server(answers).await);
        let tokens = AccessTokens::default();
        let first = tokens.token(request.clone()).await.unwrap();
        assert_eq!(first.header, "Bearer one");
        assert!(tokens.replace(request.clone(), &first).await.is_none(), "it is new");
        // A minute later.
        tokens.slot(&request).lock().await.not_before = None;
        let many = (0..10).map(|_| tokens.replace(request.clone(), &first));
        for second in futures::future::join_all(many).await {
            assert_eq!(second.unwrap().header, "Bearer two");
        }
        assert_eq!(tokens.token(request.clone()).await.unwrap().header, "Bearer two");
    }

    #[tokio::test]
    async fn a_token_is_renewed_before_it_ends_and_used_until_then() {
        let answers = &[r#"{"access_token": "one"}"#, "{}", r#"{"access_token": "two"}"#];
        let request = token_request(start_token_server(answers).await);
        let tokens = AccessTokens::default();
        assert_eq!(tokens.token(request.clone()).await.unwrap().header, "Bearer one");
        let slot = tokens.slot(&request);
        let advance = async || {
            let mut state = slot.lock().await;
            let stored = state.token.as_mut().unwrap();
            assert!(stored.renew_at < stored.expires_at);
            stored.renew_at = Instant::now();
            state.not_before = None;
        };
        advance().await;
        let still_valid = tokens.token(request.clone()).await.unwrap();
        assert_eq!(still_valid.header, "Bearer one", "its server fails");
        advance().await;
        assert_eq!(tokens.token(request.clone()).await.unwrap().header, "Bearer two");
    }

    #[tokio::test]
    async fn redirects_and_long_answers_are_no_tokens() {
        let target = start_token_server(&[r#"{"access_token": "redirected"}"#]).await;
        let long = format!(r#"{{"access_token": "t", "more": "{}"}}"#, "x".repeat(MAX_RESPONSE));
        for (answer, expected) in [
            (format!("307 Moved\r\nlocation: {target}\r\ncontent-length: 0\r\n\r\n"), "answered 307"),
            (format!("200 OK\r\ncontent-length: {}\r\n\r\n{long}", long.len()), "longer than 64 KiB"),
        ] {
            let request = token_request(start_server(vec![answer]).await);
            let error = AccessTokens::default().token(request).await.err().unwrap();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[tokio::test]
    async fn a_failure_is_cached_and_an_attempt_that_ends_does_not_end_the_request() {
        let request = token_request(start_token_server(&["{}", r#"{"access_token": "one"}"#]).await);
        let tokens = AccessTokens::default();
        for _ in 0..3 {
            let error = tokens.token(request.clone()).await.err().unwrap();
            assert!(matches!(error, TokenError::InvalidAnswer(_)), "{error}");
        }
        tokens.slot(&request).lock().await.not_before = None;
        // Polled once, and dropped.
        drop(futures::poll!(std::pin::pin!(tokens.token(request.clone()))));
        assert_eq!(tokens.token(request.clone()).await.unwrap().header, "Bearer one");
    }

    #[test]
    fn reads_tokens() {
        let read = |answer: serde_json::Value| parse_token(answer.to_string().as_bytes());
        let lifetime = |expires: serde_json::Value| {
            read(json!({"access_token": "t", "token_type": "bearer", "expires_in": expires})).unwrap().1
        };
        assert_eq!(lifetime(json!(3600)), Duration::from_secs(3600));
        assert_eq!(lifetime(json!("60")), Duration::from_secs(60));
        assert_eq!(lifetime(json!(-5)), Duration::ZERO);
        assert_eq!(lifetime(json!(1e300)), MAX_LIFETIME);
        assert_eq!(lifetime(json!(null)), DEFAULT_LIFETIME);
        for wrong in [
            json!({}),
            json!([]),
            json!({"access_token": ""}),
            json!({"access_token": "t", "token_type": "mac"}),
        ] {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
        let secret = SecretString::from("line\nbreak");
        assert!(matches!(bearer(&secret), Err(TokenError::InvalidAnswer(_))));
    }

    #[test]
    fn messages_contain_only_error_codes() {
        let text = |body: &str| error_code(body.as_bytes());
        assert_eq!(
            text(r#"{"error": "invalid_client", "error_description": "secret s3"}"#),
            ": invalid_client"
        );
        assert_eq!(text(r#"{"error": "the secret s3cr3t is wrong"}"#), "");
        assert_eq!(text("<html>"), "");
    }

    #[test]
    fn encodes_credentials() {
        let header = basic("a:b", "p w+%").unwrap();
        let text = header.to_str().unwrap().strip_prefix("Basic ").unwrap();
        assert_eq!(STANDARD.decode(text).unwrap(), b"a%3Ab:p+w%2B%25");
        assert!(header.is_sensitive());
    }

    #[test]
    fn waits_longer_after_each_failure_and_keeps_the_last_token() {
        let mut state = TokenState::default();
        let error = || Err(TokenError::Rejected { status: 500, detail: String::new() });
        let mut delays = Vec::new();
        for _ in 0..8 {
            let before = Instant::now();
            assert!(state.record(error()).is_err());
            delays.push((state.not_before.unwrap() - before).as_secs());
        }
        assert_eq!(delays, [2, 4, 8, 16, 32, 60, 60, 60]);
        let token = state.record(Ok((SecretString::from("t"), Duration::from_secs(100)))).unwrap();
        assert_eq!((token.number, state.failures), (1, 0));
        assert_eq!(state.record(error()).unwrap().number, 1, "the last token is still valid");
        state.record(Ok((SecretString::from("t"), Duration::ZERO))).unwrap();
        assert!(
            state.last_token(Instant::now()).is_ok(),
            "the receiver decides while no newer one may be requested"
        );
        assert!(state.record(error()).is_err(), "the last token has expired");
    }
}
