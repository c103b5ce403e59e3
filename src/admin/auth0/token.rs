//! Access tokens: one login for all that use the same credentials, renewed ahead of its end.
//!
//! Auth0 meters logins. So a token is kept as long as it lasts, many who need one at once wait for one login, and a login
//! that failed is not tried again by each of a thousand objects.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use sha2::{Digest, Sha256};
use url::{Url, form_urlencoded};

use super::call::refusal;
use crate::admin::answer::{log, parse_object, unexpected};
use crate::admin::error::Detail;
use crate::admin::limit::AdminHttp;
use crate::admin::{AdminError, Class};

const TIMEOUT: Duration = Duration::from_secs(15);
const MAX_ANSWER: usize = 64 * 1024;
/// A token that says nothing of its end is renewed after this time.
const UNSAID: Duration = Duration::from_secs(600);
/// A token that is said to end sooner is tried for as long: one login a call would use up the quota.
const SHORTEST: Duration = Duration::from_secs(1);
/// Longer than Auth0 lets a token live.
const LONGEST: Duration = Duration::from_secs(30 * 86_400);
/// After this part of its life a token is renewed, while the old one still serves.
const AHEAD: f64 = 0.9;
/// A renewal ahead of time that failed is tried again after this time.
const AGAIN: Duration = Duration::from_secs(30);
/// A login that failed fails for all who ask within this time.
const FAILED_FOR: Duration = Duration::from_secs(5);
/// A token that was refused and renewed, and is refused again, is not renewed within this time: it is not its age.
const REFUSED_FOR: Duration = Duration::from_secs(60);
const MAX_LOGINS: usize = 1024;

/// How a tenant is asked for a token.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// A machine-to-machine application.
    Client { id: String, secret: SecretString, audience: String },
    /// A ready token, renewed by somebody else.
    Ready(SecretString),
}

/// All logins of the process.
#[derive(Debug, Default)]
pub struct Tokens(Mutex<HashMap<[u8; 32], Arc<Login>>>);

/// One login: its credentials, and the token that they last got.
#[derive(Debug)]
pub struct Login {
    base: Url,
    credentials: Credentials,
    /// Held while a login is under way: who comes meanwhile takes its result.
    state: tokio::sync::Mutex<State>,
    used: Mutex<Instant>,
}

#[derive(Debug, Default)]
struct State {
    token: Option<Token>,
    /// Until when nobody logs in, and why.
    failed: Option<(Instant, AdminError)>,
    /// How many tokens there were.
    number: u64,
}

/// A token, and which one it is.
#[derive(Clone, Debug)]
pub struct Token {
    pub text: SecretString,
    number: u64,
    renew: Instant,
    ends: Instant,
    /// It replaced one that was refused, at this time.
    forced: Option<Instant>,
}

impl Tokens {
    /// The login of these credentials at this tenant. Other credentials are another login, so a replaced Secret counts at
    /// once.
    pub fn login(&self, base: &Url, credentials: Credentials) -> Arc<Login> {
        let key = fingerprint(base, &credentials);
        let mut logins = self.0.lock();
        if logins.len() >= MAX_LOGINS {
            let oldest = logins.iter().min_by_key(|(_, login)| *login.used.lock()).map(|(key, _)| *key);
            oldest.map(|key| logins.remove(&key));
        }
        let login = logins.entry(key).or_insert_with(|| {
            let (base, state) = (base.clone(), tokio::sync::Mutex::default());
            Arc::new(Login { base, credentials, state, used: Mutex::new(Instant::now()) })
        });
        *login.used.lock() = Instant::now();
        login.clone()
    }
}

impl Login {
    pub fn fingerprint(&self) -> [u8; 32] {
        fingerprint(&self.base, &self.credentials)
    }

    /// A token that should serve now.
    pub async fn token(&self, http: &AdminHttp) -> Result<Token, AdminError> {
        let (id, secret, audience) = match &self.credentials {
            Credentials::Client { id, secret, audience } => (id, secret, audience),
            Credentials::Ready(text) => return Ok(Token::ready(text)),
        };
        let mut state = self.state.lock().await;
        let now = Instant::now();
        if let Some(token) = state.token.as_ref().filter(|token| token.renew > now) {
            return Ok(token.clone());
        }
        if let Some((until, error)) = state.failed.as_ref()
            && *until > now
        {
            return Err(match error.clone() {
                AdminError::RateLimited(detail, _) => AdminError::RateLimited(detail, *until - now),
                other => other,
            });
        }
        match self.log_in(http, id, secret, audience).await {
            Ok((text, lasts)) => Ok(state.keep(text, lasts)),
            Err(error) => match &mut state.token {
                // It still serves: nobody needs to know.
                Some(token) if token.ends > now && error.is_own() => Ok(token.clone()),
                Some(token) if token.ends > now => {
                    token.renew = (now + AGAIN).min(token.ends);
                    tracing::warn!(tenant = %self.base, %error, "an access token could not be renewed ahead of its end");
                    Ok(token.clone())
                }
                // Not its turn: the next who asks may be more pressing.
                _ if error.is_own() => Err(error),
                _ => {
                    state.failed = Some((now + pause(&error), error.clone()));
                    Err(error)
                }
            },
        }
    }

    /// A token to take the place of one that was refused; None where another one would be refused, too.
    pub async fn renewed(&self, http: &AdminHttp, refused: &Token) -> Result<Option<Token>, AdminError> {
        if matches!(self.credentials, Credentials::Ready(_)) {
            return Ok(None);
        }
        {
            let mut state = self.state.lock().await;
            match state.token.as_ref() {
                // Somebody else was refused too, and renewed it.
                Some(token) if token.number != refused.number => return Ok(Some(token.clone())),
                Some(token) if token.forced.is_some_and(|at| at.elapsed() < REFUSED_FOR) => return Ok(None),
                // Also where somebody else is about to renew it: one login serves both.
                Some(_) | None => state.token = None,
            }
        }
        let mut token = self.token(http).await?;
        token.forced = Some(Instant::now());
        let mut state = self.state.lock().await;
        if let Some(kept) = state.token.as_mut().filter(|kept| kept.number == token.number) {
            kept.forced = token.forced;
        }
        Ok(Some(token))
    }

    /// As if nine tenths of the token's life were over.
    #[cfg(test)]
    pub async fn age_for_tests(&self) {
        if let Some(token) = self.state.lock().await.token.as_mut() {
            token.renew = Instant::now();
        }
    }

    async fn log_in(
        &self,
        http: &AdminHttp,
        id: &str,
        secret: &SecretString,
        audience: &str,
    ) -> Result<(SecretString, Duration), AdminError> {
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "client_credentials")
            .append_pair("client_id", id)
            .append_pair("client_secret", secret.expose_secret())
            .append_pair("audience", audience)
            .finish();
        let mut url = self.base.clone();
        url.set_path("/oauth/token");
        let request = Request::builder()
            .method(Method::POST)
            .uri(url.as_str())
            .header("accept", "application/json")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Full::from(Bytes::from(form)))
            .map_err(|e| AdminError::Rejected(Detail { message: e.to_string(), ..Detail::default() }))?;
        let answer = http.send(request, TIMEOUT, MAX_ANSWER).await?;
        log(self.base.as_str(), &Method::POST, &["oauth", "token"], &answer, &[secret.expose_secret()]);
        if !answer.status.is_success() {
            // As it is, and as it was sent in the form.
            let sent: String = form_urlencoded::byte_serialize(secret.expose_secret().as_bytes()).collect();
            return Err(refusal(&answer, &[secret.expose_secret(), &sent]));
        }
        let granted = parse_object(&answer)?;
        let text = granted.get("access_token").and_then(Value::as_str).unwrap_or_default();
        if text.is_empty() || HeaderValue::from_str(text).is_err() {
            return Err(unexpected(&answer, "the login gave no access token"));
        }
        let lasts = granted.get("expires_in").and_then(Value::as_f64).filter(|seconds| *seconds >= 0.0);
        let lasts = lasts.map_or(UNSAID, |seconds| Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST));
        Ok((SecretString::from(text), lasts.clamp(SHORTEST, LONGEST)))
    }
}

impl State {
    fn keep(&mut self, text: SecretString, lasts: Duration) -> Token {
        let now = Instant::now();
        self.number += 1;
        self.failed = None;
        let token = Token {
            text,
            number: self.number,
            renew: now + lasts.mul_f64(AHEAD),
            ends: now + lasts,
            forced: None,
        };
        self.token = Some(token.clone());
        token
    }
}

impl Token {
    fn ready(text: &SecretString) -> Self {
        let now = Instant::now();
        Token { text: text.clone(), number: 0, renew: now, ends: now, forced: None }
    }
}

fn pause(error: &AdminError) -> Duration {
    match error.class() {
        Class::RateLimited(after) => after,
        Class::Terminal | Class::Retryable => FAILED_FOR,
    }
}

fn fingerprint(base: &Url, credentials: &Credentials) -> [u8; 32] {
    let parts: [&str; 4] = match credentials {
        Credentials::Client { id, secret, audience } => ["client", id, secret.expose_secret(), audience],
        Credentials::Ready(text) => ["ready", text.expose_secret(), "", ""],
    };
    let mut hash = Sha256::new();
    for part in std::iter::once(base.as_str()).chain(parts) {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}
