//! An emulator of Kong's admin API for event hooks, from public documentation and observations of users.
//!
//! Purpose: lists, creates, reads, replaces, patches, deletes, pings and tests hooks, and lists sources. Emits events
//! to hooks on demand (`POST /__emulator/events`), over real HTTP.
//!
//! Invariants:
//! - Ids are unique over all workspaces, and a workspace contains only the hooks created in it. Kong does not document
//!   its behaviour, so clients should use a workspace only as an address.
//! - An event goes to the matching hooks of every workspace.
//! - If there is a state file, a change is in it before the response is sent.
//!
//! Not emulated: the entities and plugins that produce events in Kong, multipart bodies, RBAC roles and hybrid mode.
//! `snooze` and `on_change` are stored but not applied. Lua does not run: templates are plain substitutions, and a call
//! of a `lambda` hook is recorded as if it returned `true`. Hooks take effect immediately for every version. Queued
//! events do not survive a restart.

mod api;
mod body;
mod context;
mod control;
mod emit;
mod error;
mod options;
mod request;
mod store;
mod template;
#[cfg(test)]
mod tests;
mod validate;

use std::sync::Arc;

use axum::Router;
use axum::http::HeaderName;
use axum::routing::{get, post};
use serde_json::json;
use tokio::net::TcpListener;

use super::control::ControlApi;
use super::error::Error;
use super::recent::RecentLog;
use crate::net::serve;
use context::Kong;
use options::Version;
pub use options::{KongOptions, MissingDelete, ReadBack};

/// Serves the emulator until `shutdown` completes.
pub async fn serve_kong(
    listener: TcpListener,
    options: KongOptions,
    shutdown: impl Future,
) -> Result<(), Error> {
    // Tests run the emulator without `cli::main`. An error means only that a provider is already installed.
    rustls::crypto::ring::default_provider().install_default().ok();
    let version = Version::parse(&options.gateway_version)?;
    if let Some(name) = options.workspaces.iter().find(|name| !is_workspace(name)) {
        return Err(Error::Workspace(name.clone()));
    }
    let tls = options.tls.clone();
    let signing =
        request::Signing { algorithm: version.signature_algorithm(), encoding: options.signature_encoding };
    let kong = Arc::new(Kong {
        token_header: HeaderName::try_from(&options.token_header)
            .map_err(|_| Error::Header(options.token_header.clone()))?,
        store: store::HookStore::open(options.state.clone())?,
        emitter: emit::Emitter::new(signing)?,
        calls: RecentLog::default(),
        control: ControlApi::new(|_| json!({"message": "fault of the emulator"})),
        options,
        version,
    });
    // Queues run in separate tasks. Stop them even if this future is dropped.
    let _stop_queues = kong.emitter.stop_guard();
    let router = Router::new()
        .route("/__emulator/events", post(control::emit_event))
        .route("/__emulator/calls", get(control::list_calls).delete(control::clear_calls))
        .route("/__emulator/state", get(control::show_state))
        .fallback(api::handle_admin)
        .with_state(Arc::clone(&kong))
        .merge(kong.control.routes());
    serve::serve_tls(listener, router, tls, shutdown).await;
    Ok(())
}

/// Whether a text may name a workspace: it must differ from the first segment of the API's own paths.
fn is_workspace(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._~-".contains(c))
        && name != "event-hooks"
}
