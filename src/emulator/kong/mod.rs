//! Kong's admin API for event hooks, from public documentation and what users observed.
//!
//! Purpose: list, create, read, replace, change, delete, ping and test hooks; tell sources; emit events to hooks on
//! demand (`POST /__emulator/events`), over real HTTP.
//!
//! Invariants: ids are unique over all workspaces, and a workspace sees only the hooks made under it (whether Kong
//! does the same is not documented; callers may use a workspace as an address only); an event goes to the hooks of
//! every workspace; a change is in the state file, where there is one, before it is answered.
//!
//! Left out: whatever makes events inside Kong (no other entity is emulated), `snooze` and `on_change` (kept, not
//! applied), Lua (templates are plain substitutions, a `lambda` hook is recorded as called and counts as having
//! returned `true`), multipart bodies, RBAC roles, hybrid mode. Hooks work at once for every version. Events waiting in
//! a queue do not survive a restart.

mod api;
mod body;
mod control;
mod emit;
mod error;
mod request;
mod store;
mod template;
#[cfg(test)]
mod tests;
mod validate;

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::http::HeaderName;
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::Error;
use super::control::Control;
use super::recent::Recent;
use crate::api::{SignatureAlgorithm, SignatureEncoding};
use crate::net::{ServerTls, serve};

/// The largest body of a request.
const MAX_BODY: usize = 4 << 20;

/// What deleting a hook that does not exist answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingDelete {
    /// 204, as the open-source code and its tests do.
    NoContent,
    /// 404, as the OpenAPI document says.
    NotFound,
}

/// How a hook's signing secret reads back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadBack {
    /// As it is: so the documents are understood.
    Plain,
    /// As asterisks.
    Masked,
    /// As null.
    Omitted,
}

/// How the emulator behaves. No `Debug`: it holds a token.
#[derive(Clone)]
pub struct KongOptions {
    /// The version that `GET /` tells and that defaults follow, for example 3.14 or 3.15.0.5-enterprise-edition.
    pub gateway_version: String,
    /// The RBAC token that is asked for; none: no check.
    pub token: Option<String>,
    /// The header that carries it.
    pub token_header: String,
    /// The workspaces besides `default`.
    pub workspaces: Vec<String>,
    pub missing_delete: MissingDelete,
    /// Whether PUT works; else 405.
    pub put: bool,
    /// Whether POST takes an id; else 400.
    pub client_id: bool,
    /// Whether PATCH works; else 405.
    pub patch: bool,
    /// What a real gateway shows of a secret nobody could observe.
    pub secrets: ReadBack,
    /// Keeps the hooks over a restart.
    pub state: Option<PathBuf>,
    /// The text of `x-kong-signature`. Unknown for real gateways: Kong does not document it.
    pub signature_encoding: SignatureEncoding,
    /// Speak TLS.
    pub tls: Option<Arc<ServerTls>>,
}

impl Default for KongOptions {
    fn default() -> Self {
        KongOptions {
            gateway_version: "3.14".into(),
            token: None,
            token_header: "kong-admin-token".into(),
            workspaces: Vec::new(),
            missing_delete: MissingDelete::NoContent,
            put: true,
            client_id: true,
            patch: true,
            secrets: ReadBack::Plain,
            state: None,
            signature_encoding: SignatureEncoding::PrefixedHex,
            tls: None,
        }
    }
}

/// What depends on the gateway's version.
struct Version {
    /// As `GET /` tells it.
    text: String,
    /// 3.3: hooks have `updated_at`.
    updated_at: bool,
    /// 3.14: `ssl_verify` is on by default and SHA-256 signs; before, off and SHA-1.
    strict: bool,
}

impl Version {
    fn parse(text: &str) -> Result<Version, Error> {
        let wrong = || Error::Version(text.to_owned());
        let mut numbers = text.split(['.', '-']).map(str::parse::<u32>);
        let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
            return Err(wrong());
        };
        if text.len() > 64 || text.chars().any(|c| !c.is_ascii_alphanumeric() && !".-_+".contains(c)) {
            return Err(wrong());
        }
        // "3.14" is short for what a gateway would say; a longer text is told as it is.
        let short = text.split('.').count() == 2 && !text.contains('-');
        let long = format!("{major}.{minor}.0.0-enterprise-edition");
        Ok(Version {
            text: if short { long } else { text.to_owned() },
            updated_at: (major, minor) >= (3, 3),
            strict: (major, minor) >= (3, 14),
        })
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        if self.strict { SignatureAlgorithm::SHA256 } else { SignatureAlgorithm::SHA1 }
    }
}

/// The emulator's parts, shared by its requests.
struct Kong {
    options: KongOptions,
    token_header: HeaderName,
    version: Version,
    store: store::Store,
    emitter: Arc<emit::Emitter>,
    /// The events that came to `log` and `lambda` hooks.
    calls: Recent<Value>,
    control: Arc<Control>,
}

/// Serves the emulator until `shutdown` is ready.
pub async fn serve_kong(
    listener: TcpListener,
    options: KongOptions,
    shutdown: impl Future,
) -> Result<(), Error> {
    // Tests run the emulator without `cli::main`; an error only says that a provider is installed already.
    rustls::crypto::ring::default_provider().install_default().ok();
    let version = Version::parse(&options.gateway_version)?;
    if let Some(name) = options.workspaces.iter().find(|name| !is_workspace(name)) {
        return Err(Error::Workspace(name.clone()));
    }
    let tls = options.tls.clone();
    let signing = request::Signing { algorithm: version.algorithm(), encoding: options.signature_encoding };
    let kong = Arc::new(Kong {
        token_header: HeaderName::try_from(&options.token_header)
            .map_err(|_| Error::Header(options.token_header.clone()))?,
        store: store::Store::open(options.state.clone())?,
        emitter: emit::Emitter::new(signing)?,
        calls: Recent::default(),
        control: Control::new(|_| json!({"message": "fault of the emulator"})),
        options,
        version,
    });
    // Ends the queues also when this future is dropped, for they run in tasks of their own.
    let _stop_queues = kong.emitter.stop_guard();
    let router = Router::new()
        .route("/__emulator/events", post(control::emit))
        .route("/__emulator/calls", get(control::calls).delete(control::forget_calls))
        .route("/__emulator/state", get(control::state))
        .fallback(api::admin)
        .with_state(Arc::clone(&kong))
        .merge(kong.control.routes());
    serve::serve_tls(listener, router, tls, shutdown).await;
    Ok(())
}

fn is_workspace(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._~-".contains(c))
        && name != "event-hooks"
}
