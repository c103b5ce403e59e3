//! An Auth0 tenant: tokens, event streams and hooks, from recordings of the real API and public documentation.
//!
//! Purpose: `/oauth/token`, `/api/v2/event-streams` with deliveries, redelivery, statistics and test events,
//! `/api/v2/hooks` with secrets; emit events to streams on demand (`POST /__emulator/events`), over real HTTP.
//!
//! Invariants: secrets are taken and never returned but under `/__emulator/state`; a change of an object is in the
//! state file, where there is one, before it is answered (what became of deliveries comes with the next change, or at
//! the end); one stream delivers one event at a time.
//!
//! Left out: what happens inside Auth0 (no user is emulated, no hook runs), at AWS and in Actions; the Events API
//! (SSE); scopes; forms as bodies, but for the token endpoint.

mod api;
mod body;
mod control;
mod deliver;
mod error;
mod event;
mod history;
mod hook;
mod hook_api;
mod limit;
mod stream;
mod stream_api;
#[cfg(test)]
mod tests;
mod token;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Error;
use super::control::Control;
use super::queue::Queues;
use super::state::Kept;
use crate::net::{ServerTls, serve};
pub use limit::RateLimit;

/// The largest body of a request.
const MAX_BODY: usize = 4 << 20;
/// More objects of a kind than this are refused. The tenant's own limit is not published.
const MAX_OBJECTS: usize = 20_000;

/// How the emulator behaves. No `Debug`: it holds secrets.
#[derive(Clone)]
pub struct Auth0Options {
    /// The tenant's name as events tell it.
    pub tenant: String,
    /// Id and secret that `/oauth/token` asks for. None: it takes any, and any bearer passes.
    pub client: Option<(String, String)>,
    /// A ready access token that passes, too. With it alone no other does.
    pub token: Option<String>,
    /// The audience that must be asked for; none: any that ends with `/api/v2/`.
    pub audience: Option<String>,
    pub token_lifetime: Duration,
    /// None: no limit, and no headers of one.
    pub rate_limit: Option<RateLimit>,
    /// So many failed deliveries in a row disable a stream.
    pub disable_after: u64,
    /// So many that stand in all.
    pub disable_after_total: u64,
    /// More streams than this are 409.
    pub max_streams: usize,
    /// What every request to `/api/v2/hooks` answers.
    pub hooks_gone: Option<StatusCode>,
    /// The waits between attempts are multiplied by this.
    pub time_scale: f64,
    /// The authorities of receivers, in PEM; none: the system's.
    pub ca: Option<Vec<u8>>,
    /// Keeps the state over a restart.
    pub state: Option<PathBuf>,
    /// Speak TLS.
    pub tls: Option<Arc<ServerTls>>,
}

impl Default for Auth0Options {
    fn default() -> Self {
        Auth0Options {
            tenant: "emulator.eu.auth0.com".into(),
            client: None,
            token: None,
            audience: None,
            token_lifetime: Duration::from_secs(86_400),
            rate_limit: None,
            disable_after: 500,
            disable_after_total: 5_000,
            max_streams: MAX_OBJECTS,
            hooks_gone: None,
            time_scale: 1.0,
            ca: None,
            state: None,
            tls: None,
        }
    }
}

/// Streams and hooks, in the order in which they were made.
#[derive(Clone, Default, Serialize, Deserialize)]
struct State {
    next: u64,
    streams: BTreeMap<u64, stream::Stream>,
    hooks: BTreeMap<u64, hook::Hook>,
}

impl State {
    fn stream(&self, id: &str) -> Option<&stream::Stream> {
        self.streams.values().find(|stream| stream.id == id)
    }

    fn stream_mut(&mut self, id: &str) -> Option<&mut stream::Stream> {
        self.streams.values_mut().find(|stream| stream.id == id)
    }

    fn hook(&self, id: &str) -> Option<&hook::Hook> {
        self.hooks.values().find(|hook| hook.id == id)
    }

    fn hook_mut(&mut self, id: &str) -> Option<&mut hook::Hook> {
        self.hooks.values_mut().find(|hook| hook.id == id)
    }
}

/// The emulator's parts, shared by its requests.
struct Auth0 {
    options: Auth0Options,
    tokens: token::Tokens,
    limiter: Option<limit::Limiter>,
    store: Kept<State>,
    queues: Queues<String, deliver::Job>,
    sender: deliver::Sender,
    outcomes: control::Outcomes,
    control: Arc<Control>,
    stop: CancellationToken,
}

/// Serves the emulator until `shutdown` is ready.
pub async fn serve_auth0(
    listener: TcpListener,
    options: Auth0Options,
    shutdown: impl Future,
) -> Result<(), Error> {
    // Tests run the emulator without `cli::main`; an error only says that a provider is installed already.
    rustls::crypto::ring::default_provider().install_default().ok();
    if !(0.0..=1000.0).contains(&options.time_scale) {
        return Err(Error::Option("--time-scale must be 0 to 1000"));
    }
    let limited =
        |limit: &RateLimit| limit.per_second > 0.0 && limit.per_second.is_finite() && limit.burst > 0;
    if !options.rate_limit.as_ref().is_none_or(limited) {
        return Err(Error::Option("--rate-limit and --rate-burst must be more than 0"));
    }
    let tls = options.tls.clone();
    let auth0 = Arc::new(Auth0 {
        tokens: token::Tokens {
            client: options.client.clone(),
            ready: options.token.clone(),
            audience: options.audience.clone(),
            lifetime: options.token_lifetime,
        },
        limiter: options.rate_limit.map(limit::Limiter::new),
        store: Kept::open(options.state.clone())?,
        queues: Queues::default(),
        sender: deliver::Sender::new(options.ca.as_deref())?,
        outcomes: control::Outcomes::default(),
        control: Control::new(|status| error::body(status, "fault of the emulator")),
        stop: CancellationToken::new(),
        options,
    });
    // Ends the queues also when this future is dropped, for they run in tasks of their own.
    let _stop_queues = auth0.stop.clone().drop_guard();
    auth0.resume();
    let router = Router::new()
        .route("/__emulator/events", post(control::emit))
        .route("/__emulator/deliveries", get(control::outcomes).delete(control::forget_outcomes))
        .route("/__emulator/state", get(control::state))
        .fallback(api::admin)
        .with_state(Arc::clone(&auth0))
        .merge(auth0.control.routes());
    serve::serve_tls(listener, router, tls, shutdown).await;
    auth0.stop.cancel();
    auth0.store.save();
    Ok(())
}
