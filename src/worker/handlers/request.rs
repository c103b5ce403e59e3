//! Requests to receivers. Building a request is separate from sending it, so that a dry run can show it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, IntoHeaderName, RETRY_AFTER, USER_AGENT,
};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::Full;
use secrecy::{ExposeSecret, SecretString};

use super::kept_exchange::RequestCopy;
use super::oauth2::{AccessTokens, TokenError, TokenRequest};
use super::{HandlerOutcome, HandlerRunner, MIN_TIMEOUT};
use crate::api::{HeaderFrom, SecretKeyRef, SignatureScheme, Tls};
use crate::cluster::{ReferenceError, read_secret_text, read_tls_options};
use crate::core::conditions::cut;
use crate::core::delivery_reason::{AttemptFailure, DeliveryReason};
use crate::core::event::hops;
use crate::core::gate::SUPPRESSED_HEADER;
use crate::core::hook::{self, Address, CompiledHook, RequestTarget, Signature};
use crate::core::redact::redact;
use crate::core::sign::{self, SecretError, SigningKey};
use crate::core::time::Millis;
use crate::core::trace::{self, TraceParent};
use crate::core::webhook_handshake::REQUEST_ORIGIN;
use crate::net::{HttpClient, HttpResponse, SendError};
use crate::worker::store::{Exchange, KeepResponses, PendingDelivery};

/// Bytes of a response's body that are read.
const MAX_RESPONSE: usize = 64 * 1024;
/// Bytes of the body that are stored as the attempt's detail.
const MAX_DETAIL: usize = 256;
const UUID_LENGTH: usize = uuid::fmt::Hyphenated::LENGTH;
const USER_AGENT_VALUE: &str = concat!("hookstream/", env!("CARGO_PKG_VERSION"));
const ID_HEADER: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP_HEADER: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE_HEADER: HeaderName = HeaderName::from_static("webhook-signature");
/// The number of replays of the delivery.
const REPLAY_HEADER: &str = "x-hookstream-replay";
const HOPS_HEADER: HeaderName = HeaderName::from_static("x-hookstream-hops");

/// A request that is ready to be sent. Not `Debug`, because it contains secrets.
pub struct OutgoingRequest {
    http: HttpClient,
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Texts to mask wherever a part of the request or its response is shown.
    pub secrets: Vec<SecretString>,
    /// How to obtain the access token that the request needs.
    authorization: Option<Authorization>,
}

/// The access token of a request, which is obtained when the request is sent.
struct Authorization {
    tokens: Arc<AccessTokens>,
    request: Arc<TokenRequest>,
}

impl OutgoingRequest {
    /// Shows in a request that will not be sent that it would carry an access token.
    pub fn show_authorization(&mut self) {
        if self.authorization.is_some() {
            self.headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer ***"));
        }
    }

    /// Replaces the trace context that the receiver gets.
    pub fn set_trace_parent(&mut self, parent: TraceParent) {
        if let Ok(value) = HeaderValue::from_str(&parent.to_string()) {
            self.headers.insert(trace::PARENT, value);
        }
    }

    /// Sends the request and returns the unmodified response. Adds the texts to mask to `secrets`.
    pub async fn exchange(
        mut self,
        timeout: Duration,
        secrets: &mut Vec<SecretString>,
    ) -> Result<HttpResponse, HandlerOutcome> {
        let authorization = self.authorization.take();
        let (http, message) = self.into_request();
        match authorization {
            None => {
                let sent = http.send(message, timeout, MAX_RESPONSE).await;
                sent.map_err(|error| send_failed(&error, secrets))
            }
            // Boxed, because it is rare and would otherwise set the size of every attempt.
            Some(authorization) => Box::pin(authorization.exchange(&http, message, timeout, secrets)).await,
        }
    }

    fn into_request(self) -> (HttpClient, Request<Full<Bytes>>) {
        let mut request = Request::new(Full::from(self.body));
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        (self.http, request)
    }

    /// Returns a copy to show.
    fn copy(&self) -> RequestCopy {
        let mut headers = self.headers.clone();
        if self.authorization.is_some() {
            headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer ***"));
        }
        RequestCopy { method: self.method.clone(), uri: self.uri.clone(), headers, body: self.body.clone() }
    }

    /// Sends the request and returns the outcome of the attempt. `keep`: whether it returns the request and the response
    /// too.
    pub async fn send(
        mut self,
        timeout: Duration,
        keep: KeepResponses,
    ) -> (HandlerOutcome, Option<Box<Exchange>>) {
        let mut secrets = std::mem::take(&mut self.secrets);
        let copy = (keep != KeepResponses::None).then(|| self.copy());
        let sent = self.exchange(timeout, &mut secrets).await;
        let is_kept = match &sent {
            Ok(response) => keep == KeepResponses::All || !response.status.is_success(),
            // Without an attempt, the exchange of the last one stays.
            Err(outcome) => {
                !matches!(outcome, HandlerOutcome::NotReady { .. } | HandlerOutcome::Postponed { .. })
            }
        };
        let copy = copy.filter(|_| is_kept);
        let exchange = copy.map(|copy| Box::new(copy.render(sent.as_ref().ok(), &secrets)));
        (outcome_of(sent, &secrets), exchange)
    }
}

impl Authorization {
    /// Sends a request with an access token, and once more with a new one if the receiver rejects it.
    async fn exchange(
        self,
        http: &HttpClient,
        mut message: Request<Full<Bytes>>,
        timeout: Duration,
        secrets: &mut Vec<SecretString>,
    ) -> Result<HttpResponse, HandlerOutcome> {
        let Authorization { tokens, request } = self;
        let deadline = Instant::now() + timeout;
        let remaining = || deadline.saturating_duration_since(Instant::now()).max(MIN_TIMEOUT);
        let token = tokio::time::timeout(timeout, tokens.token(request.clone())).await;
        let token =
            token.unwrap_or(Err(TokenError::Interrupted)).map_err(|error| no_token(&error, secrets))?;
        secrets.push(token.text.clone());
        message.headers_mut().insert(AUTHORIZATION, token.header.clone());
        let sent = http.send(message.clone(), remaining(), MAX_RESPONSE).await;
        let response = sent.map_err(|error| send_failed(&error, secrets))?;
        if response.status != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        // The receiver may have revoked the token before its end.
        match tokio::time::timeout(remaining(), tokens.replace(request, &token)).await {
            Ok(Some(token)) => {
                secrets.push(token.text.clone());
                message.headers_mut().insert(AUTHORIZATION, token.header);
                let sent = http.send(message, remaining(), MAX_RESPONSE).await;
                sent.map_err(|error| send_failed(&error, secrets))
            }
            Ok(None) | Err(_) => Ok(response),
        }
    }
}

/// Returns the outcome of an attempt whose request was sent.
fn outcome_of(sent: Result<HttpResponse, HandlerOutcome>, secrets: &[SecretString]) -> HandlerOutcome {
    match sent {
        Ok(response) => {
            let is_success = response.status.is_success();
            let retry_after = retry_after_of(&response.headers);
            let detail = (!is_success && !response.body.is_empty())
                .then(|| redact_and_cut(&String::from_utf8_lossy(&response.body), secrets));
            HandlerOutcome::Answered { status: response.status.as_u16(), retry_after, detail }
        }
        Err(outcome) => outcome,
    }
}

/// Returns the text of the header `Retry-After`.
pub fn retry_after_of(headers: &HeaderMap) -> Option<String> {
    headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(ToOwned::to_owned)
}

/// Returns the outcome of a request for which there is no access token. It is no attempt: the receiver was not contacted.
fn no_token(error: &TokenError, secrets: &[SecretString]) -> HandlerOutcome {
    HandlerOutcome::NotReady {
        reason: "TokenUnavailable",
        detail: redact_and_cut(&format!("oauth2: {error}"), secrets),
    }
}

/// Returns the outcome of a request without a response.
pub fn send_failed(error: &SendError, secrets: &[SecretString]) -> HandlerOutcome {
    let detail = redact_and_cut(&error.to_string(), secrets);
    let reason = match error {
        SendError::EgressDenied(_) => {
            return HandlerOutcome::Undeliverable { reason: DeliveryReason::EgressDenied, detail };
        }
        SendError::Resolve(_) => AttemptFailure::Resolve,
        SendError::Connect(_) => AttemptFailure::Connect,
        SendError::Proxy(_) => AttemptFailure::Proxy,
        SendError::Timeout(_) => AttemptFailure::Timeout,
        SendError::Tls(_) => AttemptFailure::Tls,
        SendError::Protocol(_) => AttemptFailure::Protocol,
    };
    HandlerOutcome::Failed { reason, detail }
}

/// Masks secrets in an untrusted text and truncates it to `MAX_DETAIL`.
pub fn redact_and_cut(text: &str, secrets: &[SecretString]) -> String {
    let masked = redact(text, secrets.iter().map(ExposeSecret::expose_secret));
    cut(masked.trim(), MAX_DETAIL).to_owned()
}

/// A request that is being built. Errors are the outcome of the attempt.
pub struct RequestDraft<'a> {
    runner: &'a HandlerRunner,
    hook: &'a CompiledHook,
    pending: &'a PendingDelivery,
    headers: HeaderMap,
    secrets: Vec<SecretString>,
}

impl<'a> RequestDraft<'a> {
    pub fn new(runner: &'a HandlerRunner, hook: &'a CompiledHook, pending: &'a PendingDelivery) -> Self {
        // Enough for most requests: a map that grows is rehashed each time.
        let mut headers = HeaderMap::with_capacity(12);
        headers.insert(USER_AGENT, HeaderValue::from_static(USER_AGENT_VALUE));
        RequestDraft { runner, hook, pending, headers, secrets: Vec::new() }
    }

    pub fn set_content_type(&mut self, value: &'static str) {
        self.headers.insert(CONTENT_TYPE, HeaderValue::from_static(value));
    }

    /// Returns the content type, if it is set.
    pub fn content_type(&self) -> Option<&str> {
        self.headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default())
    }

    /// Adds a header of the spec, unless a Secret defines it. Validates it again, because values of the event may make it
    /// invalid or reserved.
    pub fn add_header(&mut self, name: &str, value: &str) -> Result<(), HandlerOutcome> {
        let (name, value) = hook::parse_header(name, value).map_err(|why| HandlerOutcome::Undeliverable {
            reason: DeliveryReason::HeaderRefused,
            detail: format!("header {name:.64} cannot be sent: {why}"),
        })?;
        let is_secret = self.headers.get(&name).is_some_and(HeaderValue::is_sensitive);
        if !is_secret {
            self.headers.insert(name, value);
        }
        Ok(())
    }

    /// Adds the headers whose values are in Secrets.
    pub async fn add_secret_headers(&mut self, headers: &[HeaderFrom]) -> Result<(), HandlerOutcome> {
        for from in headers {
            let value = self.read_secret(&from.secret_ref).await?;
            let (name, mut header) = hook::parse_header(&from.name, value.expose_secret())
                .map_err(|why| unusable_secret(&from.secret_ref, why))?;
            header.set_sensitive(true);
            self.headers.insert(name, header);
            self.secrets.push(value);
        }
        Ok(())
    }

    /// Adds address, TLS options, standard headers and signature.
    pub async fn finish(mut self, method: Method, body: Bytes) -> Result<OutgoingRequest, HandlerOutcome> {
        let handler = &self.hook.handler;
        let http = self.http_client(handler.tls()).await?;
        let uri = self.target_uri().await?;
        // Set our headers last, so that a header of the spec cannot pass for a signature.
        let pending = self.pending;
        self.set_own_header(ID_HEADER, pending.id.hyphenated().encode_lower(&mut [0; UUID_LENGTH]));
        self.set_own_header(HOPS_HEADER, &hops(&pending.event.attributes).saturating_add(1).to_string());
        for (name, value) in trace::headers(&pending.event.attributes) {
            self.set_own_header(name, value);
        }
        for (name, number) in [(SUPPRESSED_HEADER, pending.suppressed), (REPLAY_HEADER, pending.replays)] {
            if number > 0 {
                self.set_own_header(name, &number.to_string());
            }
        }
        if handler.performs_handshake() {
            self.set_own_header(REQUEST_ORIGIN, &self.runner.webhook_origin);
        }
        if let Some(signature) = handler.signature() {
            self.sign(signature, &body, Millis::wall()).await?;
        }
        let authorization = self.authorization().await?;
        let RequestDraft { headers, secrets, .. } = self;
        Ok(OutgoingRequest { http, method, uri, headers, body, secrets, authorization })
    }

    /// Returns the request as it is: without the hook's headers, signature and access token.
    pub async fn without_credentials(
        self,
        method: Method,
        uri: Uri,
        body: Bytes,
    ) -> Result<OutgoingRequest, HandlerOutcome> {
        let http = self.http_client(self.hook.handler.tls()).await?;
        let RequestDraft { headers, secrets, .. } = self;
        Ok(OutgoingRequest { http, method, uri, headers, body, secrets, authorization: None })
    }

    /// Reads what a request for an access token needs.
    async fn authorization(&mut self) -> Result<Option<Authorization>, HandlerOutcome> {
        let Some(oauth2) = self.hook.handler.oauth2() else { return Ok(None) };
        let client_secret = self.read_secret(&oauth2.client_secret_ref).await?;
        self.secrets.push(client_secret.clone());
        let address = Address::parse(&oauth2.token_url.0).map_err(|why| HandlerOutcome::NotReady {
            reason: "TokenUnavailable",
            detail: format!("oauth2: tokenUrl {why}"),
        })?;
        let http = self.http_client(oauth2.tls.as_deref()).await?;
        let request = TokenRequest {
            uid: self.hook.uid.clone(),
            url: address.uri,
            client_id: oauth2.client_id.clone(),
            client_secret,
            scope: oauth2.scopes.as_ref().map(|scopes| scopes.join(" ")),
            audience: oauth2.audience.clone(),
            http,
        };
        Ok(Some(Authorization { tokens: self.runner.tokens.clone(), request: Arc::new(request) }))
    }

    /// Returns the client with these TLS options.
    async fn http_client(&self, tls: Option<&Tls>) -> Result<HttpClient, HandlerOutcome> {
        let Some(tls) = tls else { return Ok(self.runner.http.clone()) };
        // Boxed, because it is rare and would otherwise add to the size of every attempt.
        let options = Box::pin(read_tls_options(&*self.runner.cluster, &self.hook.namespace, tls))
            .await
            .map_err(missing_secret)?;
        self.runner
            .http
            .with_tls(&options)
            .map_err(|e| HandlerOutcome::NotReady { reason: "SecretUnusable", detail: e.to_string() })
    }

    /// Returns the address of the receiver. If it is in a Secret, its parts are masked from now on.
    pub async fn target_uri(&mut self) -> Result<Uri, HandlerOutcome> {
        let reference = match self.hook.handler.target() {
            Some(RequestTarget::Url(address)) => return Ok(address.uri.clone()),
            Some(RequestTarget::Secret(reference)) => reference,
            None => {
                return Err(HandlerOutcome::Undeliverable {
                    reason: DeliveryReason::NoTarget,
                    detail: "this handler sends no request".into(),
                });
            }
        };
        let text = self.read_secret(reference).await?;
        let address = Address::parse(text.expose_secret().trim());
        let address = address.map_err(|why| unusable_secret(reference, why))?;
        // Mask the host too: errors contain it, and it is part of the secret address.
        self.secrets.push(text);
        self.secrets.push(SecretString::from(address.uri.to_string()));
        self.secrets.push(SecretString::from(address.uri.host().unwrap_or_default()));
        self.secrets.push(SecretString::from(address.uri.path()));
        Ok(address.uri)
    }

    async fn sign(&mut self, signature: &Signature, body: &[u8], now: Millis) -> Result<(), HandlerOutcome> {
        let secret = self.read_secret(&signature.secret_ref).await?;
        let secrets = sign::secret_lines(secret.expose_secret());
        match signature.scheme {
            SignatureScheme::Kong => {
                let first = secrets.first().copied().unwrap_or_default();
                let value =
                    sign::kong_signature(first.as_bytes(), signature.algorithm, signature.encoding, body);
                self.set_own_header(sign::KONG_HEADER, &value);
            }
            SignatureScheme::StandardWebhooks => {
                let seconds = now.0.div_euclid(1000);
                let mut id = [0; UUID_LENGTH];
                let id = self.pending.id.hyphenated().encode_lower(&mut id);
                let keys: Result<Vec<_>, _> = secrets.iter().map(|text| SigningKey::parse(text)).collect();
                let keys = keys.map_err(|error| invalid_secret(&signature.secret_ref, error))?;
                if keys.iter().any(SigningKey::is_short) {
                    let secret = &signature.secret_ref.name;
                    self.runner.warnings.short_secret(self.hook, secret);
                }
                let value = sign::standard_webhooks_signature(&keys, id, seconds, body);
                self.set_own_header(TIMESTAMP_HEADER, &seconds.to_string());
                self.set_own_header(SIGNATURE_HEADER, &value);
            }
        }
        // The usual Secret, of one line, is not copied.
        let is_one_line = secrets.first().is_some_and(|first| first.len() == secret.expose_secret().len());
        match is_one_line {
            true => self.secrets.push(secret),
            false => self.secrets.extend(secrets.into_iter().map(SecretString::from)),
        }
        Ok(())
    }

    /// Sets a header whose value this program generates. Such a value is always valid.
    pub fn set_own_header(&mut self, name: impl IntoHeaderName, value: &str) {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
    }

    async fn read_secret(&self, reference: &SecretKeyRef) -> Result<SecretString, HandlerOutcome> {
        read_secret_text(&*self.runner.cluster, &self.hook.namespace, reference).await.map_err(missing_secret)
    }
}

fn missing_secret(missing: ReferenceError) -> HandlerOutcome {
    HandlerOutcome::NotReady { reason: (&missing).into(), detail: missing.to_string() }
}

/// Returns the outcome for a Secret that is no signing key. The delivery stays pending, because the user may fix the Secret.
fn invalid_secret(reference: &SecretKeyRef, error: SecretError) -> HandlerOutcome {
    let detail = format!("key {} of Secret {} {error}", reference.key, reference.name);
    HandlerOutcome::NotReady { reason: "InvalidSecret", detail }
}

/// Returns the outcome for a Secret with an unusable value. The delivery stays pending, because the user may fix the
/// Secret.
fn unusable_secret(reference: &SecretKeyRef, why: &str) -> HandlerOutcome {
    let detail = format!("key {} of Secret {} {why}", reference.key, reference.name);
    HandlerOutcome::NotReady { reason: "SecretUnusable", detail }
}
