//! The state that all request handlers share.

use std::sync::Arc;

use axum::http::HeaderName;
use serde_json::Value;

use super::emit::Emitter;
use super::options::{KongOptions, Version};
use super::store::HookStore;
use crate::emulator::control::ControlApi;
use crate::emulator::recent::RecentLog;

/// The emulator's components.
pub(super) struct Kong {
    pub options: KongOptions,
    pub token_header: HeaderName,
    pub version: Version,
    pub store: HookStore,
    pub emitter: Arc<Emitter>,
    /// The events that `log` and `lambda` hooks received.
    pub calls: RecentLog<Value>,
    pub control: Arc<ControlApi>,
}
