//! What is done with an event: a file a handler.
//!
//! Invariants: a handler makes one attempt and says what came of it; it decides nothing about the next; secrets that it
//! used are in nothing that it says.
//!
//! Left to others: when (`dispatch`), what follows (`core::retry`).

mod webhook;

use std::sync::Arc;

use crate::cluster::Cluster;
use crate::core::hook::{Handler, Hook};
use crate::net::HttpClient;
use crate::worker::store::Pending;

/// What came of one attempt.
#[derive(Debug)]
pub enum Sent {
    /// An answer. `detail`: the first bytes of what it said, where it is no success.
    Answer { status: u16, retry_after: Option<String>, detail: Option<String> },
    /// No answer, for a reason that may pass.
    Failed { reason: &'static str, detail: String },
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
            Sent::Failed { .. } | Sent::Hopeless { .. } | Sent::NotNow { .. } => None,
        }
    }

    /// The outcome as a metric label.
    pub fn label(&self) -> &'static str {
        match self {
            Sent::Answer { status: 200..=299, .. } => "Delivered",
            Sent::Answer { .. } => "Status",
            Sent::Failed { reason, .. } | Sent::Hopeless { reason, .. } | Sent::NotNow { reason, .. } => {
                reason
            }
        }
    }
}

/// Makes attempts.
pub struct Sender {
    http: HttpClient,
    cluster: Arc<dyn Cluster>,
}

impl Sender {
    pub fn new(http: HttpClient, cluster: Arc<dyn Cluster>) -> Self {
        Sender { http, cluster }
    }

    /// One attempt, bounded by the hook's timeout.
    pub async fn send(&self, hook: &Hook, pending: &Pending) -> Sent {
        match &hook.handler {
            Handler::Webhook(webhook) => {
                webhook::send(&self.http, &*self.cluster, hook, webhook, pending).await
            }
            Handler::WebhookCustom(_) | Handler::Log | Handler::Lambda(_) => {
                Sent::NotNow { reason: "NotImplemented", detail: "this handler is not built yet".into() }
            }
        }
    }
}
