//! Startup errors.

use std::path::PathBuf;

/// A reason why an emulator cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("gateway version {0}: it must begin with two numbers, for example 3.14")]
    Version(String),
    #[error(
        "workspace {0}: only letters, digits, '.', '_', '~' and '-' are allowed, and not the name event-hooks"
    )]
    Workspace(String),
    #[error("header name {0} is not valid")]
    Header(String),
    #[error("state file {}: {source}", path.display())]
    State { path: PathBuf, source: std::io::Error },
    #[error("state file {} was not written by this emulator: {source}", path.display())]
    StateFormat { path: PathBuf, source: serde_json::Error },
    #[error("{0}")]
    Option(&'static str),
    #[error("HTTP client: {0}")]
    Client(#[from] reqwest::Error),
}
