//! Sending events to hooks: one bounded queue for each hook. Connection failures are retried, error statuses never.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use super::request::{Signing, UnsendableHook, WebhookRequest};
use super::store::Hook;
use crate::emulator::client;
use crate::emulator::queue::DeliveryQueues;

/// How long and how often a request is retried: the defaults of Kong's queue library. It is inferred, not documented,
/// that event hooks use them.
const RETRY_PERIOD: Duration = Duration::from_secs(60);
const INITIAL_BACKOFF: Duration = Duration::from_millis(10);
const MAX_BACKOFF: Duration = Duration::from_secs(60);

const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
/// The most bytes of a response body that `/test` returns.
const MAX_RESPONSE: usize = 64 << 10;

/// A queued request. As in Kong's queue, it is built when the event occurs. After a change or deletion of the hook, its
/// receiver still gets the request with the old settings.
struct QueuedRequest {
    hook: Uuid,
    request: WebhookRequest,
}

/// A reason why a request got no response.
#[derive(Debug, thiserror::Error)]
pub(super) enum EmitError {
    #[error(transparent)]
    Unsendable(#[from] UnsendableHook),
    #[error("creating the TLS client failed: {0}")]
    Client(String),
    #[error("{0}")]
    NoResponse(String),
}

/// An endpoint's response, as `/test` returns it.
pub(super) struct EndpointResponse {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

/// Sends requests and holds their queues.
pub(super) struct Emitter {
    queues: DeliveryQueues<Uuid, QueuedRequest>,
    /// Accepts any certificate; also used for http.
    insecure: reqwest::Client,
    /// Created on first use. It cannot be created on a system without certificate authorities, which must not affect
    /// hooks that do not need it.
    verifying: OnceLock<Result<reqwest::Client, String>>,
    signing: Signing,
    stop: CancellationToken,
}

impl Emitter {
    pub fn new(signing: Signing) -> Result<Arc<Emitter>, reqwest::Error> {
        Ok(Arc::new(Emitter {
            queues: DeliveryQueues::default(),
            insecure: client::builder(RESPONSE_TIMEOUT).tls_danger_accept_invalid_certs(true).build()?,
            verifying: OnceLock::new(),
            signing,
            stop: CancellationToken::new(),
        }))
    }

    /// Returns a guard that stops all queues when it is dropped.
    pub fn stop_guard(&self) -> DropGuard {
        self.stop.clone().drop_guard()
    }

    /// Adds the request for an event to the hook's queue. A full queue drops its oldest request.
    pub fn enqueue(self: &Arc<Self>, hook: &Hook, payload: &Value) -> Result<(), EmitError> {
        let queued =
            QueuedRequest { hook: hook.id, request: WebhookRequest::new(hook, payload, self.signing)? };
        let bytes = queued.request.body.len();
        let pushed = self.queues.push(hook.id, queued, bytes);
        for dropped in pushed.dropped {
            tracing::warn!(hook = %dropped.hook, "queue full, oldest event dropped");
        }
        if pushed.is_idle {
            tokio::spawn(Arc::clone(self).drain(hook.id));
        }
        Ok(())
    }

    /// Sends the requests of one queue until it is empty.
    async fn drain(self: Arc<Self>, id: Uuid) {
        let stop = self.stop.clone();
        let work = async {
            while let Some(queued) = self.queues.next(&id) {
                self.deliver(&queued).await;
            }
        };
        stop.run_until_cancelled(work).await;
    }

    /// Sends a request. Retries for [`RETRY_PERIOD`] while there is no response.
    async fn deliver(&self, queued: &QueuedRequest) {
        let id = queued.hook;
        let started = Instant::now();
        let mut backoff = INITIAL_BACKOFF;
        loop {
            match self.send(&queued.request).await {
                Ok(response) => {
                    tracing::info!(hook = %id, status = response.status().as_u16(), "request answered");
                    return;
                }
                Err(error @ EmitError::NoResponse(_)) if started.elapsed() + backoff < RETRY_PERIOD => {
                    tracing::debug!(hook = %id, %error, "request failed, retrying");
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(MAX_BACKOFF);
                }
                Err(error) => {
                    tracing::warn!(hook = %id, %error, "request failed, giving up");
                    return;
                }
            }
        }
    }

    /// Sends the request for an event immediately, bypassing the queue, for `/test` and `/ping`.
    pub async fn send_now(&self, hook: &Hook, payload: &Value) -> Result<reqwest::Response, EmitError> {
        self.send(&WebhookRequest::new(hook, payload, self.signing)?).await
    }

    /// Sends a request once. Any status is a success.
    async fn send(&self, request: &WebhookRequest) -> Result<reqwest::Response, EmitError> {
        let WebhookRequest { method, url, headers, body, verify } = request;
        let request = self.client(*verify)?.request(method.clone(), url).headers(headers.clone());
        request.body(body.clone()).send().await.map_err(send_error)
    }

    /// Returns the client that verifies certificates or not.
    fn client(&self, verify: bool) -> Result<&reqwest::Client, EmitError> {
        if !verify {
            return Ok(&self.insecure);
        }
        self.verifying
            .get_or_init(|| {
                client::builder(RESPONSE_TIMEOUT).build().map_err(|error| client::error_chain(&error))
            })
            .as_ref()
            .map_err(|error| EmitError::Client(error.clone()))
    }
}

/// Reads a response. Truncates its body to [`MAX_RESPONSE`] bytes.
pub(super) async fn read_response(mut response: reqwest::Response) -> Result<EndpointResponse, EmitError> {
    let status = response.status().as_u16();
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers =
        response.headers().iter().map(|(name, value)| (name.to_string(), lossy(value.as_bytes()))).collect();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(send_error)? {
        body.extend_from_slice(&chunk);
        if body.len() >= MAX_RESPONSE {
            body.truncate(MAX_RESPONSE);
            break;
        }
    }
    Ok(EndpointResponse { status, headers, body: lossy(&body) })
}

/// Makes the payload of an event: the members of `data`, with `source` and `event` set to the given values.
pub(super) fn event_payload(data: Map<String, Value>, source: &str, event: Option<&str>) -> Value {
    let mut payload = data;
    payload.insert("source".into(), source.into());
    payload.insert("event".into(), event.into());
    payload.into()
}

/// Makes the payload of a ping. It contains the whole hook, secret included; its headers include the content type of
/// the request.
pub(super) fn ping_payload(hook: &Hook, with_updated_at: bool) -> Value {
    let mut object = hook.to_json(with_updated_at);
    if let Some(headers) = object.pointer_mut("/config/headers").and_then(Value::as_object_mut)
        && !headers.keys().any(|name| name.eq_ignore_ascii_case("content-type"))
    {
        headers.insert("content-type".into(), "application/json".into());
    }
    json!({"source": "kong:event_hooks", "event": "ping", "event_hooks": object})
}

/// Classifies a client error: an invalid URL is never retried.
fn send_error(error: reqwest::Error) -> EmitError {
    if error.is_builder() {
        UnsendableHook("config.url is invalid".into()).into()
    } else {
        EmitError::NoResponse(client::error_chain(&error))
    }
}
