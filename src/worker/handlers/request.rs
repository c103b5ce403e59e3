//! Requests to receivers: made from a hook and an event, and sent apart from that, so that they can be shown too.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, Method, Request, Uri};
use http_body_util::Full;
use secrecy::{ExposeSecret, SecretString};

use super::Sent;
use crate::api::{HeaderFrom, SecretKeyRef, SignatureScheme};
use crate::cluster::{Cluster, MissingSecret, secret_text, tls_options};
use crate::core::conditions::cut;
use crate::core::event::hops;
use crate::core::gate::SUPPRESSED_HEADER;
use crate::core::hook::{self, Address, Hook, Signature, Target};
use crate::core::redact::redact;
use crate::core::sign;
use crate::core::time::Millis;
use crate::core::trace;
use crate::net::{Answer, HttpClient, SendError};
use crate::worker::store::Pending;

/// What is read of an answer.
const MAX_ANSWER: usize = 64 * 1024;
/// What is kept of it, in bytes.
const MAX_DETAIL: usize = 256;
const AGENT: &str = concat!("hookstream/", env!("CARGO_PKG_VERSION"));
const ID_HEADER: &str = "webhook-id";
const TIMESTAMP_HEADER: &str = "webhook-timestamp";
const SIGNATURE_HEADER: &str = "webhook-signature";
/// How often the delivery was replayed.
const REPLAY_HEADER: &str = "x-hookstream-replay";
const HOPS_HEADER: &str = "x-hookstream-hops";

/// A request that can be sent. No `Debug`: secrets are in it.
pub struct Outgoing {
    http: HttpClient,
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// What to mask wherever any of it is shown.
    pub secrets: Vec<SecretString>,
}

impl Outgoing {
    /// Sends it; the answer as it came.
    pub async fn exchange(self, within: Duration) -> Result<Answer, SendError> {
        let mut request = Request::new(Full::from(self.body));
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        self.http.send(request, within, MAX_ANSWER).await
    }

    /// Sends it; what came of it.
    pub async fn send(mut self, within: Duration) -> Sent {
        let secrets = std::mem::take(&mut self.secrets);
        match self.exchange(within).await {
            Ok(answer) => {
                let success = answer.status.is_success();
                let retry_after =
                    answer.headers.get(RETRY_AFTER).and_then(|v| v.to_str().ok()).map(ToOwned::to_owned);
                let detail = (!success && !answer.body.is_empty())
                    .then(|| shown(&String::from_utf8_lossy(&answer.body), &secrets));
                Sent::Answer { status: answer.status.as_u16(), retry_after, detail }
            }
            Err(error) => failed(&error, &secrets),
        }
    }
}

/// What came of a request without an answer.
pub fn failed(error: &SendError, secrets: &[SecretString]) -> Sent {
    let (reason, detail) = (error.into(), shown(&error.to_string(), secrets));
    match error {
        SendError::EgressDenied(_) => Sent::Hopeless { reason, detail },
        _ => Sent::Failed { reason, detail },
    }
}

/// A stranger's words, cut and masked.
pub fn shown(text: &str, secrets: &[SecretString]) -> String {
    let masked = redact(text, secrets.iter().map(ExposeSecret::expose_secret));
    cut(masked.trim(), MAX_DETAIL).to_owned()
}

/// A request in the making. An error tells what came of the attempt instead.
pub struct Draft<'a> {
    cluster: &'a dyn Cluster,
    hook: &'a Hook,
    pending: &'a Pending,
    headers: HeaderMap,
    secrets: Vec<SecretString>,
}

impl<'a> Draft<'a> {
    pub fn new(cluster: &'a dyn Cluster, hook: &'a Hook, pending: &'a Pending) -> Self {
        // As many as most requests have: a map that grows is built anew each time.
        let mut headers = HeaderMap::with_capacity(12);
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        Draft { cluster, hook, pending, headers, secrets: Vec::new() }
    }

    pub fn content_type(&mut self, value: &'static str) {
        self.headers.insert(CONTENT_TYPE, HeaderValue::from_static(value));
    }

    /// The content type, where there is one.
    pub fn has_content_type(&self) -> Option<&str> {
        self.headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default())
    }

    /// A header of the spec. What an event put into it may be no header any more, or another one.
    pub fn header(&mut self, name: &str, value: &str) -> Result<(), Sent> {
        let (name, value) = hook::header(name, value).map_err(|why| Sent::Hopeless {
            reason: "HeaderRefused",
            detail: format!("header {name:.64} cannot be sent: {why}"),
        })?;
        self.headers.insert(name, value);
        Ok(())
    }

    /// The headers whose values stand in Secrets.
    pub async fn headers_from(&mut self, headers: &[HeaderFrom]) -> Result<(), Sent> {
        for from in headers {
            let value = self.secret(&from.secret_ref).await?;
            let (name, mut header) = hook::header(&from.name, value.expose_secret())
                .map_err(|why| unusable(&from.secret_ref, why))?;
            header.set_sensitive(true);
            self.headers.insert(name, header);
            self.secrets.push(value);
        }
        Ok(())
    }

    /// Adds what every request has, and signs.
    pub async fn finish(mut self, http: &HttpClient, method: Method, body: Bytes) -> Result<Outgoing, Sent> {
        let handler = &self.hook.handler;
        let http = match handler.tls() {
            None => http.clone(),
            Some(tls) => {
                let options = tls_options(self.cluster, &self.hook.namespace, tls).await.map_err(missing)?;
                http.with(&options)
                    .map_err(|e| Sent::NotNow { reason: "SecretUnusable", detail: e.to_string() })?
            }
        };
        let uri = self.uri().await?;
        // Ours last: a header of the spec must not pass for a signature.
        let pending = self.pending;
        self.own(ID_HEADER, &pending.id.to_string());
        self.own(HOPS_HEADER, &hops(&pending.event.attributes).saturating_add(1).to_string());
        for (name, value) in trace::headers(&pending.event.attributes) {
            self.own(name, value);
        }
        for (name, number) in [(SUPPRESSED_HEADER, pending.suppressed), (REPLAY_HEADER, pending.replays)] {
            if number > 0 {
                self.own(name, &number.to_string());
            }
        }
        if let Some(signature) = handler.signature() {
            self.sign(signature, &body, Millis::now()).await?;
        }
        let Draft { headers, secrets, .. } = self;
        Ok(Outgoing { http, method, uri, headers, body, secrets })
    }

    async fn uri(&mut self) -> Result<Uri, Sent> {
        let reference = match self.hook.handler.target() {
            Some(Target::Url(address)) => return Ok(address.uri.clone()),
            Some(Target::Secret(reference)) => reference,
            None => return Err(Sent::Hopeless { reason: "NoTarget", detail: "it sends nothing".into() }),
        };
        let text = self.secret(reference).await?;
        let address = Address::parse(text.expose_secret()).map_err(|why| unusable(reference, why))?;
        // The host too: errors name it, and it is as secret as the rest.
        self.secrets.push(text);
        self.secrets.push(SecretString::from(address.url.as_str()));
        self.secrets.push(SecretString::from(address.url.host_str().unwrap_or_default()));
        self.secrets.push(SecretString::from(address.url.path()));
        Ok(address.uri)
    }

    async fn sign(&mut self, signature: &Signature, body: &[u8], now: Millis) -> Result<(), Sent> {
        let secret = self.secret(&signature.secret_ref).await?;
        let secrets = sign::secret_lines(secret.expose_secret());
        match signature.scheme {
            SignatureScheme::Kong => {
                let first = secrets.first().copied().unwrap_or_default();
                let value =
                    sign::kong_signature(first.as_bytes(), signature.algorithm, signature.encoding, body);
                self.own(sign::KONG_HEADER, &value);
            }
            SignatureScheme::StandardWebhooks => {
                let seconds = now.0.div_euclid(1000);
                let id = self.pending.id.to_string();
                let value = sign::standard_webhooks_signature(&secrets, &id, seconds, body)
                    .map_err(|e| unusable(&signature.secret_ref, &e.to_string()))?;
                self.own(TIMESTAMP_HEADER, &seconds.to_string());
                self.own(SIGNATURE_HEADER, &value);
            }
        }
        self.secrets.extend(secrets.into_iter().map(SecretString::from));
        Ok(())
    }

    /// A header that is made here, and so always can be sent.
    fn own(&mut self, name: &'static str, value: &str) {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(HeaderName::from_static(name), value);
        }
    }

    async fn secret(&self, reference: &SecretKeyRef) -> Result<SecretString, Sent> {
        secret_text(self.cluster, &self.hook.namespace, reference).await.map_err(missing)
    }
}

fn missing(missing: MissingSecret) -> Sent {
    Sent::NotNow { reason: (&missing).into(), detail: missing.to_string() }
}

/// A Secret holds what cannot be sent; it may be replaced.
fn unusable(reference: &SecretKeyRef, why: &str) -> Sent {
    let detail = format!("key {} of Secret {} {why}", reference.key, reference.name);
    Sent::NotNow { reason: "SecretUnusable", detail }
}
