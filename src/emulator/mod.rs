//! Stateful emulators of the vendors' admin APIs, for tests, demos and people without a licence or a tenant.
//!
//! Purpose: answer as the vendor was observed to answer, where that differs from what was published; in what nobody
//! could observe, do the plain thing and say so in a comment.
//!
//! Invariants: nothing of a vendor's source is used; everything is bounded (requests, queues, logs, hooks); what is
//! under `/__emulator/` belongs to the emulator, is never authenticated, never faulted and never counted; the request
//! log holds no bodies, for they carry secrets.
//!
//! Left to others: being fast or safe. An emulator is not for production and listens where it is told to.

mod auth0;
mod client;
mod control;
mod faults;
mod kong;
mod queue;
mod recent;
mod state;
#[cfg(test)]
mod testing;

use std::path::PathBuf;

pub use auth0::{Auth0Options, RateLimit, serve_auth0};
pub use kong::{KongOptions, MissingDelete, ReadBack, serve_kong};

/// Why an emulator does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("gateway version {0}: must begin with two numbers, for example 3.14")]
    Version(String),
    #[error("workspace {0}: letters, digits, '.', '_', '~', '-' only, and not event-hooks")]
    Workspace(String),
    #[error("header name {0} is not valid")]
    Header(String),
    #[error("state file {}: {source}", path.display())]
    State { path: PathBuf, source: std::io::Error },
    #[error("state file {} is not what this emulator writes: {source}", path.display())]
    StateFormat { path: PathBuf, source: serde_json::Error },
    #[error("{0}")]
    Option(&'static str),
    #[error("HTTP client: {0}")]
    Client(#[from] reqwest::Error),
}
