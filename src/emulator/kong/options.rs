//! The emulator's settings, and the behaviour that depends on the gateway's version.

use std::path::PathBuf;
use std::sync::Arc;

use crate::api::{SignatureAlgorithm, SignatureEncoding};
use crate::emulator::error::Error;
use crate::net::ServerTls;

/// The response to deleting a hook that does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingDelete {
    /// 204, as in the open-source code and its tests.
    NoContent,
    /// 404, as in the OpenAPI document.
    NotFound,
}

/// How the API returns a hook's signing secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadBack {
    /// In clear text. The documentation implies this.
    Plain,
    /// As asterisks.
    Masked,
    /// As null.
    Omitted,
}

/// Settings of the emulator. No `Debug`, because it holds a token.
#[derive(Clone)]
pub struct KongOptions {
    /// The version that `GET /` returns and that determines defaults, for example 3.14 or 3.15.0.5-enterprise-edition.
    pub gateway_version: String,
    /// The required RBAC token. `None`: no check.
    pub token: Option<String>,
    /// The header that carries the token.
    pub token_header: String,
    /// The workspaces besides `default`.
    pub workspaces: Vec<String>,
    pub missing_delete: MissingDelete,
    /// Whether PUT works; otherwise it gets 405.
    pub put: bool,
    /// Whether POST accepts an id; otherwise it gets 400.
    pub client_id: bool,
    /// Whether PATCH works; otherwise it gets 405.
    pub patch: bool,
    /// How reads return secrets. The behaviour of a real gateway was never observed.
    pub secrets: ReadBack,
    /// The file that keeps the hooks over a restart.
    pub state: Option<PathBuf>,
    /// The format of `x-kong-signature`. Kong does not document that of a real gateway.
    pub signature_encoding: SignatureEncoding,
    /// Serve HTTPS. `None`: plain HTTP.
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

/// Behaviour that depends on the gateway's version.
pub(super) struct Version {
    /// The version that `GET /` returns.
    pub text: String,
    /// From 3.3 on hooks have `updated_at`.
    pub has_updated_at: bool,
    /// From 3.14 on `ssl_verify` is on by default and SHA-256 signs; before that it is off and SHA-1 signs.
    pub has_secure_defaults: bool,
}

impl Version {
    pub fn parse(text: &str) -> Result<Version, Error> {
        let invalid = || Error::Version(text.to_owned());
        let mut numbers = text.split(['.', '-']).map(str::parse::<u32>);
        let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
            return Err(invalid());
        };
        if text.len() > 64 || text.chars().any(|c| !c.is_ascii_alphanumeric() && !".-_+".contains(c)) {
            return Err(invalid());
        }
        // "3.14" is short for the version text of a gateway. A longer text is returned unchanged.
        let short = text.split('.').count() == 2 && !text.contains('-');
        let long = format!("{major}.{minor}.0.0-enterprise-edition");
        Ok(Version {
            text: if short { long } else { text.to_owned() },
            has_updated_at: (major, minor) >= (3, 3),
            has_secure_defaults: (major, minor) >= (3, 14),
        })
    }

    pub fn signature_algorithm(&self) -> SignatureAlgorithm {
        if self.has_secure_defaults { SignatureAlgorithm::SHA256 } else { SignatureAlgorithm::SHA1 }
    }
}
