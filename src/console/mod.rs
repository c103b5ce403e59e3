//! The web console: server-rendered pages below `/console/` of the API port.
//!
//! It is a client of the API within the process: each page and each action sends requests to the API's router with the
//! user's token (`client`), so that everything passes the API's authorization, bounds and problems. `session` finds the
//! user's token, `pages` has a file for each page, `view` the parts that pages share, `assets` the style sheet and the
//! scripts, `live` the updates of open pages.
//!
//! Invariants: no page shows what the API does not answer to the same user; every text from outside is escaped, because
//! only `maud` builds markup; every change needs the session's CSRF token; no page loads anything from elsewhere; every
//! page and every action works without JavaScript.
//!
//! Out of scope: reading the store or the cluster (`worker`), the loopback proxy (`cli`).

mod assets;
mod audit;
mod client;
mod form;
mod headers;
mod live;
mod model;
mod pages;
mod path;
mod problem;
pub mod proxied;
mod request;
mod rights;
mod session;
mod view;

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Redirect};
use axum::routing::get;
use ipnet::IpNet;

use crate::cluster::Cluster;
use crate::worker::{ApiPort, LocalAccess};

/// The path below which the console serves.
pub const ROOT: &str = "/console/";

pub use assets::STYLE;
pub use path::with_done;

/// The dependencies and settings of the console.
pub struct ConsoleOptions {
    /// Has the key ring, from which each replica derives the same keys of sessions.
    pub cluster: Arc<dyn Cluster>,
    /// The requests that are accepted without a token. None: users authenticate.
    pub local_access: Option<Arc<LocalAccess>>,
    /// True if the port serves TLS, so that the cookie is sent over TLS only.
    pub is_tls: bool,
    /// Proxies that name their clients in `X-Forwarded-For`, for the limit of log-ins.
    pub trusted_proxies: Vec<IpNet>,
}

/// What the pages share.
struct Console {
    api: Router,
    ingest: Arc<OnceLock<Router>>,
    keys: session::KeySource,
    local_access: Option<Arc<LocalAccess>>,
    is_tls: bool,
    trusted_proxies: Vec<IpNet>,
    login_limit: session::LoginLimit,
    rights: rights::RightsCache,
    live: live::LiveStreams,
}

/// Builds the routes of the console, which belong to the API port.
pub fn router(port: ApiPort, options: ConsoleOptions) -> Router {
    let ConsoleOptions { cluster, local_access, is_tls, trusted_proxies } = options;
    let console = Arc::new(Console {
        api: port.router,
        ingest: port.ingest,
        keys: session::KeySource::new(cluster),
        local_access,
        is_tls,
        trusted_proxies,
        login_limit: session::LoginLimit::default(),
        rights: rights::RightsCache::default(),
        live: live::LiveStreams::new(port.stop),
    });
    let pages = pages::routes();
    // Renders the pages that are open in a browser again, so it is built before the route that does so is added.
    let rendered = pages.clone().with_state(console.clone());
    let live = live::routes(rendered).with_state(console.clone());
    pages
        .with_state(console.clone())
        .merge(live)
        .merge(session::routes().with_state(console))
        .merge(assets::routes())
        .route("/console", get(|| async { Redirect::permanent(ROOT).into_response() }))
        .layer(from_fn(headers::add))
}
