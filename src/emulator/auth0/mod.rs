//! An emulator of an Auth0 tenant, from recordings of the real API and public documentation.
//!
//! Purpose: serves `/oauth/token`, `/api/v2/event-streams` with deliveries, redelivery, statistics and test events, and
//! `/api/v2/hooks` with secrets. Emits events to streams on demand (`POST /__emulator/events`), over real HTTP.
//!
//! Invariants:
//! - Secrets are accepted but returned only by `/__emulator/state`.
//! - If there is a state file, a change of an object is in it before the response is sent. Delivery results are written
//!   with the next such change, or at shutdown.
//! - A stream delivers one event at a time.
//!
//! Not emulated: users and other entities of Auth0, execution of Hooks, AWS and Actions, the Events API (SSE), scopes,
//! and forms as bodies except at the token endpoint.

mod api;
mod assertion;
mod body;
mod context;
mod control;
mod deliver;
mod error;
mod event;
mod history;
mod hook;
mod hook_api;
mod limit;
mod options;
mod sender;
mod stream;
mod stream_api;
#[cfg(test)]
mod tests;
mod token;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::control::ControlApi;
use super::error::Error;
use super::queue::DeliveryQueues;
use super::recent::RecentLog;
use super::state::PersistentState;
use crate::net::serve;
pub use assertion::ClientKey;
use context::Auth0;
pub use limit::TenantRateLimit;
pub use options::Auth0Options;

/// Serves the emulator until `shutdown` completes.
pub async fn serve_auth0(
    listener: TcpListener,
    options: Auth0Options,
    shutdown: impl Future,
) -> Result<(), Error> {
    // Tests run the emulator without `cli::main`. An error means only that a provider is already installed.
    rustls::crypto::ring::default_provider().install_default().ok();
    if !(0.0..=1000.0).contains(&options.time_scale) {
        return Err(Error::Option("--time-scale must be 0 to 1000"));
    }
    let is_valid =
        |limit: &TenantRateLimit| limit.per_second > 0.0 && limit.per_second.is_finite() && limit.burst > 0;
    if !options.rate_limit.as_ref().is_none_or(is_valid) {
        return Err(Error::Option("--rate-limit and --rate-burst must be more than 0"));
    }
    let tls = options.tls.clone();
    let auth0 = Arc::new(Auth0 {
        tokens: token::TokenIssuer {
            client: match (options.client.clone(), options.client_key.clone()) {
                (Some((id, secret)), _) => Some(token::Client::Secret { id, secret }),
                (None, key) => key.map(|(id, key)| token::Client::Key { id, key }),
            },
            ready: options.token.clone(),
            audience: options.audience.clone(),
            lifetime: options.token_lifetime,
            used: Default::default(),
        },
        limiter: options.rate_limit.map(limit::RateLimiter::new),
        store: PersistentState::open(options.state.clone())?,
        queues: DeliveryQueues::default(),
        clients: sender::DeliveryClients::new(options.ca.as_deref())?,
        outcomes: RecentLog::default(),
        control: ControlApi::new(|status| error::error_body(status, "fault of the emulator")),
        stop: CancellationToken::new(),
        options,
    });
    // Queues run in separate tasks. Stop them even if this future is dropped.
    let _stop_queues = auth0.stop.clone().drop_guard();
    auth0.resume_deliveries();
    let router = Router::new()
        .route("/__emulator/events", post(control::emit_event))
        .route("/__emulator/deliveries", get(control::list_outcomes).delete(control::clear_outcomes))
        .route("/__emulator/state", get(control::show_state))
        .fallback(api::handle_admin)
        .with_state(Arc::clone(&auth0))
        .merge(auth0.control.routes());
    serve::serve_tls(listener, router, tls, shutdown).await;
    auth0.stop.cancel();
    auth0.store.save();
    Ok(())
}
