//! Settings of the emulator.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;

use super::assertion::ClientKey;
use super::limit::TenantRateLimit;
use crate::net::ServerTls;

/// The most objects of a kind. The limit of a real tenant is not published.
pub(super) const MAX_OBJECTS: usize = 20_000;

/// Settings of the emulator. No `Debug`, because it holds secrets.
#[derive(Clone)]
pub struct Auth0Options {
    /// The tenant's name in events.
    pub tenant: String,
    /// The id and secret that `/oauth/token` requires. `None`: it accepts any, and the API accepts any bearer token.
    pub client: Option<(String, String)>,
    /// The id of a client, and the public key that verifies its assertions, instead of `client`.
    pub client_key: Option<(String, ClientKey)>,
    /// A fixed access token that the API also accepts. Without `client` it is the only valid token.
    pub token: Option<String>,
    /// The required audience of token requests. `None`: any audience that ends with `/api/v2/`.
    pub audience: Option<String>,
    pub token_lifetime: Duration,
    /// `None`: no limit, and no rate limit headers.
    pub rate_limit: Option<TenantRateLimit>,
    /// The number of consecutive failed deliveries that disables a stream.
    pub disable_after: u64,
    /// The total number of failed deliveries, not yet redelivered, that disables a stream.
    pub disable_after_total: u64,
    /// The most streams; creating more gets 409.
    pub max_streams: usize,
    /// The status of all responses of `/api/v2/hooks`. `None`: hooks work.
    pub hooks_gone: Option<StatusCode>,
    /// The factor for the delays between delivery attempts.
    pub time_scale: f64,
    /// The certificate authorities of receivers, in PEM. `None`: those of the system.
    pub ca: Option<Vec<u8>>,
    /// The file that keeps the state over a restart.
    pub state: Option<PathBuf>,
    /// Serve HTTPS. `None`: plain HTTP.
    pub tls: Option<Arc<ServerTls>>,
}

impl Default for Auth0Options {
    fn default() -> Self {
        Auth0Options {
            tenant: "emulator.eu.auth0.com".into(),
            client: None,
            client_key: None,
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
