//! Sending events to hooks: a bounded queue a hook, retried by connection, never by status.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use super::store::Hook;
use crate::api::{SignatureAlgorithm, SignatureEncoding};
use crate::core::sign;
use crate::emulator::client;
use crate::emulator::queue::Queues;

/// The defaults of Kong's queue library; that event hooks use them is inferred.
const RETRY_FOR: Duration = Duration::from_secs(60);
const FIRST_WAIT: Duration = Duration::from_millis(10);
const MAX_WAIT: Duration = Duration::from_secs(60);

const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// How much of an answer `/test` shows.
const MAX_ANSWER: usize = 64 << 10;

/// One request that waits. It carries the hook as it was when the event came, as Kong's queue does: a hook that is
/// changed or deleted since still gets it by the old terms.
struct Waiting {
    hook: Hook,
    body: Bytes,
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("the hook cannot be sent: {0}")]
    Unsendable(&'static str),
    #[error("no client for TLS: {0}")]
    Client(String),
    #[error("{0}")]
    NoAnswer(String),
}

/// An endpoint's answer, as `/test` shows it.
pub(super) struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

/// Sends, and holds what waits.
pub(super) struct Emitter {
    queues: Queues<Uuid, Waiting>,
    /// Believes any certificate; also used for http.
    trusting: reqwest::Client,
    /// Made when first needed: without any authority installed it cannot be made, which only https hooks need mind.
    verifying: OnceLock<Result<reqwest::Client, String>>,
    algorithm: SignatureAlgorithm,
    encoding: SignatureEncoding,
    stop: CancellationToken,
}

impl Emitter {
    pub fn new(
        algorithm: SignatureAlgorithm,
        encoding: SignatureEncoding,
    ) -> Result<Arc<Emitter>, reqwest::Error> {
        Ok(Arc::new(Emitter {
            queues: Queues::default(),
            trusting: client::builder(ANSWER_WITHIN).tls_danger_accept_invalid_certs(true).build()?,
            verifying: OnceLock::new(),
            algorithm,
            encoding,
            stop: CancellationToken::new(),
        }))
    }

    /// Ends the queues when it is dropped.
    pub fn stop_guard(&self) -> DropGuard {
        self.stop.clone().drop_guard()
    }

    /// Puts a request into the hook's queue. A full queue drops its oldest.
    pub fn enqueue(self: &Arc<Self>, hook: &Hook, payload: &Value) {
        let waiting = Waiting { hook: hook.clone(), body: Bytes::from(payload.to_string()) };
        let bytes = waiting.body.len();
        let pushed = self.queues.push(hook.id, waiting, bytes);
        for _ in pushed.dropped {
            tracing::warn!(hook = %hook.id, "queue is full: the oldest event is dropped");
        }
        if pushed.idle {
            tokio::spawn(Arc::clone(self).drain(hook.id));
        }
    }

    /// Works off one queue, and ends with it.
    async fn drain(self: Arc<Self>, id: Uuid) {
        let stop = self.stop.clone();
        let work = async {
            while let Some(waiting) = self.queues.next(&id) {
                self.deliver(&waiting).await;
            }
        };
        stop.run_until_cancelled(work).await;
    }

    async fn deliver(&self, waiting: &Waiting) {
        let id = waiting.hook.id;
        let began = Instant::now();
        let mut wait = FIRST_WAIT;
        loop {
            match self.send(&waiting.hook, waiting.body.clone()).await {
                Ok(response) => {
                    tracing::info!(hook = %id, status = response.status().as_u16(), "answered");
                    return;
                }
                Err(error @ SendError::NoAnswer(_)) if began.elapsed() + wait < RETRY_FOR => {
                    tracing::debug!(hook = %id, %error, "retrying");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(MAX_WAIT);
                }
                Err(error) => {
                    tracing::warn!(hook = %id, %error, "given up");
                    return;
                }
            }
        }
    }

    /// One request, now; what `/test` and `/ping` do too.
    pub async fn send(&self, hook: &Hook, body: Bytes) -> Result<reqwest::Response, SendError> {
        let config = &hook.fields.config;
        let text = |name: &str| config.get(name).and_then(Value::as_str);
        let url = text("url").ok_or(SendError::Unsendable("it has no url"))?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in config.get("headers").and_then(Value::as_object).into_iter().flatten() {
            let name = HeaderName::try_from(name).map_err(|_| SendError::Unsendable("a header's name"))?;
            let value = HeaderValue::try_from(value.as_str().unwrap_or_default())
                .map_err(|_| SendError::Unsendable("a header's value"))?;
            headers.insert(name, value);
        }
        if let Some(secret) = text("secret") {
            let signature = sign::kong_signature(secret.as_bytes(), self.algorithm, self.encoding, &body);
            let value = HeaderValue::try_from(signature)
                .map_err(|_| SendError::Unsendable("its signature is no header value"))?;
            headers.insert(sign::KONG_HEADER, value);
        }
        let verify = config.get("ssl_verify").and_then(Value::as_bool).unwrap_or(false);
        self.client(verify && url.starts_with("https:"))?
            .post(url)
            .headers(headers)
            .body(body)
            .send()
            .await
            .map_err(told)
    }

    fn client(&self, verify: bool) -> Result<&reqwest::Client, SendError> {
        if !verify {
            return Ok(&self.trusting);
        }
        self.verifying
            .get_or_init(|| client::builder(ANSWER_WITHIN).build().map_err(|error| client::chain(&error)))
            .as_ref()
            .map_err(|error| SendError::Client(error.clone()))
    }
}

/// Reads an answer, cut.
pub(super) async fn read(mut response: reqwest::Response) -> Result<Answer, SendError> {
    let status = response.status().as_u16();
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers =
        response.headers().iter().map(|(name, value)| (name.to_string(), lossy(value.as_bytes()))).collect();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(told)? {
        body.extend_from_slice(&chunk);
        if body.len() >= MAX_ANSWER {
            body.truncate(MAX_ANSWER);
            break;
        }
    }
    Ok(Answer { status, headers, body: lossy(&body) })
}

/// The body of an event: the members of `data`, and `source` and `event`, which win.
pub(super) fn payload(data: Map<String, Value>, source: &str, event: Option<&str>) -> Value {
    let mut payload = data;
    payload.insert("source".into(), source.into());
    payload.insert("event".into(), event.into());
    payload.into()
}

/// The body of a ping: it carries the hook, secret included, with the content type that is sent in its headers.
pub(super) fn ping(hook: &Hook, with_updated_at: bool) -> Value {
    let mut shown = hook.shown(with_updated_at);
    if let Some(headers) = shown.pointer_mut("/config/headers").and_then(Value::as_object_mut)
        && !headers.keys().any(|name| name.eq_ignore_ascii_case("content-type"))
    {
        headers.insert("content-type".into(), "application/json".into());
    }
    json!({"source": "kong:event_hooks", "event": "ping", "event_hooks": shown})
}

fn told(error: reqwest::Error) -> SendError {
    if error.is_builder() {
        SendError::Unsendable("its url")
    } else {
        SendError::NoAnswer(client::chain(&error))
    }
}
