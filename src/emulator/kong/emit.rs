//! Sending events to hooks: a bounded queue a hook, retried by connection, never by status.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use super::request::{Outgoing, Signing};
use super::store::Hook;
use crate::emulator::client;
use crate::emulator::queue::Queues;

/// The defaults of Kong's queue library; that event hooks use them is inferred.
const RETRY_FOR: Duration = Duration::from_secs(60);
const FIRST_WAIT: Duration = Duration::from_millis(10);
const MAX_WAIT: Duration = Duration::from_secs(60);

const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// How much of an answer `/test` shows.
const MAX_ANSWER: usize = 64 << 10;

/// One request that waits. It was made when the event came, as Kong's queue does: a hook that is changed or deleted
/// since still gets it by the old terms.
struct Waiting {
    hook: Uuid,
    request: Outgoing,
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("the hook cannot be sent: {0}")]
    Unsendable(String),
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
    signing: Signing,
    stop: CancellationToken,
}

impl Emitter {
    pub fn new(signing: Signing) -> Result<Arc<Emitter>, reqwest::Error> {
        Ok(Arc::new(Emitter {
            queues: Queues::default(),
            trusting: client::builder(ANSWER_WITHIN).tls_danger_accept_invalid_certs(true).build()?,
            verifying: OnceLock::new(),
            signing,
            stop: CancellationToken::new(),
        }))
    }

    /// Ends the queues when it is dropped.
    pub fn stop_guard(&self) -> DropGuard {
        self.stop.clone().drop_guard()
    }

    /// Puts the request for an event into the hook's queue. A full queue drops its oldest.
    pub fn enqueue(self: &Arc<Self>, hook: &Hook, payload: &Value) -> Result<(), SendError> {
        let waiting = Waiting { hook: hook.id, request: Outgoing::new(hook, payload, self.signing)? };
        let bytes = waiting.request.body.len();
        let pushed = self.queues.push(hook.id, waiting, bytes);
        for dropped in pushed.dropped {
            tracing::warn!(hook = %dropped.hook, "queue is full: the oldest event is dropped");
        }
        if pushed.idle {
            tokio::spawn(Arc::clone(self).drain(hook.id));
        }
        Ok(())
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
        let id = waiting.hook;
        let began = Instant::now();
        let mut wait = FIRST_WAIT;
        loop {
            match self.send(&waiting.request).await {
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

    /// The request for an event, now; what `/test` and `/ping` do too.
    pub async fn send_now(&self, hook: &Hook, payload: &Value) -> Result<reqwest::Response, SendError> {
        self.send(&Outgoing::new(hook, payload, self.signing)?).await
    }

    async fn send(&self, request: &Outgoing) -> Result<reqwest::Response, SendError> {
        let Outgoing { method, url, headers, body, verify } = request;
        let request = self.client(*verify)?.request(method.clone(), url).headers(headers.clone());
        request.body(body.clone()).send().await.map_err(told)
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
        SendError::Unsendable("its url".into())
    } else {
        SendError::NoAnswer(client::chain(&error))
    }
}
