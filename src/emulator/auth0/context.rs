//! The state that all request handlers share.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::hook::Hook;
use super::limit::RateLimiter;
use super::options::Auth0Options;
use super::sender::DeliveryClients;
use super::stream::Stream;
use super::token::TokenIssuer;
use crate::emulator::control::ControlApi;
use crate::emulator::queue::DeliveryQueues;
use crate::emulator::recent::RecentLog;
use crate::emulator::state::PersistentState;

/// A queued delivery of a stream.
pub(super) struct QueuedDelivery {
    /// The id of the event.
    pub id: String,
    /// True for a requested redelivery, which is attempted even if the stream is disabled.
    pub is_redelivery: bool,
}

/// Streams and hooks, by a sequence number in creation order.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct TenantState {
    pub next: u64,
    pub streams: BTreeMap<u64, Stream>,
    pub hooks: BTreeMap<u64, Hook>,
}

impl TenantState {
    pub fn stream(&self, id: &str) -> Option<&Stream> {
        self.streams.values().find(|stream| stream.id == id)
    }

    pub fn stream_mut(&mut self, id: &str) -> Option<&mut Stream> {
        self.streams.values_mut().find(|stream| stream.id == id)
    }

    pub fn hook(&self, id: &str) -> Option<&Hook> {
        self.hooks.values().find(|hook| hook.id == id)
    }

    pub fn hook_mut(&mut self, id: &str) -> Option<&mut Hook> {
        self.hooks.values_mut().find(|hook| hook.id == id)
    }
}

/// The emulator's components.
pub(super) struct Auth0 {
    pub options: Auth0Options,
    pub tokens: TokenIssuer,
    pub limiter: Option<RateLimiter>,
    pub store: PersistentState<TenantState>,
    pub queues: DeliveryQueues<String, QueuedDelivery>,
    pub clients: DeliveryClients,
    /// The outcomes of the latest deliveries.
    pub outcomes: RecentLog<Value>,
    pub control: Arc<ControlApi>,
    pub stop: CancellationToken,
}
