//! What is done with an event: a file a handler. `request` makes and sends requests, `test` runs a hook once for people.
//!
//! Invariants: a handler makes one attempt and says what came of it; it decides nothing about the next; secrets that it
//! used are in nothing that it says.
//!
//! Left to others: when (`dispatch`), what follows (`core::retry`).

mod lambda;
mod log;
mod request;
mod test;
mod webhook;
mod webhook_custom;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use request::Outgoing;
pub use test::{Ran, Tested, ping_event, posted_event, shown_data};

use crate::cluster::Cluster;
use crate::core::hook::{Handler, Hook};
use crate::net::HttpClient;
use crate::sandbox::{Sandbox, ScriptError};
use crate::worker::store::{Pending, Progress};

/// What came of one attempt.
#[derive(Debug)]
pub enum Sent {
    /// An answer. `detail`: the first bytes of what it said, where it is no success.
    Answer { status: u16, retry_after: Option<String>, detail: Option<String> },
    /// It is done; there is nobody to answer.
    Done,
    /// No answer, for a reason that may pass.
    Failed { reason: &'static str, detail: String },
    /// It failed like that after a part of it was done, which is not to be done again.
    Partly { reason: &'static str, detail: String, progress: Progress },
    /// No attempt can succeed.
    Hopeless { reason: &'static str, detail: String },
    /// No attempt was made: something is missing that may come.
    NotNow { reason: &'static str, detail: String },
}

impl Sent {
    /// The status of the answer, where there was one.
    pub fn status(&self) -> Option<u16> {
        match self {
            Sent::Answer { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The outcome as a metric label.
    pub fn label(&self) -> &'static str {
        match self {
            Sent::Answer { status: 200..=299, .. } | Sent::Done => "Delivered",
            Sent::Answer { .. } => "Status",
            Sent::Failed { reason, .. }
            | Sent::Partly { reason, .. }
            | Sent::Hopeless { reason, .. }
            | Sent::NotNow { reason, .. } => reason,
        }
    }
}

/// Makes attempts.
pub struct Sender {
    http: HttpClient,
    cluster: Arc<dyn Cluster>,
    sandbox: Sandbox,
}

impl Sender {
    pub fn new(http: HttpClient, cluster: Arc<dyn Cluster>, sandbox: Sandbox) -> Self {
        Sender { http, cluster, sandbox }
    }

    /// One attempt, bounded by the hook's timeout.
    pub async fn send(&self, hook: &Hook, pending: &Pending) -> Sent {
        let (within, began) = (time(hook), Instant::now());
        match &hook.handler {
            Handler::Log => log::write(hook, pending).await,
            Handler::Lambda(lambda) => lambda::run(self, hook, lambda, pending, within).await,
            Handler::Webhook(_) | Handler::WebhookCustom(_) => match self.request(hook, pending).await {
                // Never zero, lest what templates took makes a receiver look dead that was not asked.
                Ok(request) => {
                    request.send(within.saturating_sub(began.elapsed()).max(Duration::from_millis(1))).await
                }
                Err(sent) => sent,
            },
        }
    }

    /// The request of an attempt. An error tells what came of the attempt instead.
    pub async fn request(&self, hook: &Hook, pending: &Pending) -> Result<Outgoing, Sent> {
        match &hook.handler {
            Handler::Webhook(webhook) => webhook::request(self, hook, webhook, pending).await,
            Handler::WebhookCustom(custom) => {
                webhook_custom::request(self, hook, custom, pending, time(hook)).await
            }
            Handler::Log | Handler::Lambda(_) => {
                Err(Sent::Hopeless { reason: "NoTarget", detail: "this handler sends no request".into() })
            }
        }
    }
}

/// How long an attempt may take. Never zero: a request without time could never succeed.
fn time(hook: &Hook) -> Duration {
    hook.delivery.timeout.max(Duration::from_millis(1))
}

/// What comes of an attempt whose Lua failed. `what` it was: a template, a function.
fn script_failed(what: &str, error: &ScriptError) -> Sent {
    let (reason, detail) = (error.into(), request::shown(&format!("{what}: {error}"), &[]));
    match error {
        ScriptError::SandboxUnavailable(_) => Sent::NotNow { reason, detail },
        _ => Sent::Failed { reason, detail },
    }
}
