//! Client of Auth0's Management API for event streams and extensibility Hooks.
//!
//! The request types are written by hand, because the published API description omits the secrets of a webhook stream.
//! Objects with the same credentials share one login.
//!
//! Invariants: a placeholder for a secret is never written back; a rejected token is renewed at most once per call; no
//! error contains a secret.
//!
//! Out of scope: the ownership of objects, and when to re-enable a stream that Auth0 disabled (`controller`).

mod assertion;
mod hook;
mod manifest;
mod request;
mod stream;
mod token;

use std::sync::Arc;

use sha2::{Digest, Sha256};
use url::Url;

use crate::admin::limit::AdminHttp;

pub use assertion::{AssertionKey, AssertionKeyError};
pub use hook::{HookBody, HookClient};
pub use manifest::{Auth0Manifest, hook_manifest, is_relay, stream_manifest};
pub use stream::{DestinationBody, StreamBody, StreamClient, WebhookAuthorization};
pub use token::{Credentials, Login, LoginCache};

/// The address and credentials of one tenant.
#[derive(Clone, Debug)]
pub struct Auth0Access {
    pub http: AdminHttp,
    /// The tenant's URL, without a path.
    pub base: Url,
    pub login: Arc<Login>,
}

impl Auth0Access {
    /// The address, without credentials.
    pub fn endpoint(&self) -> String {
        self.base.as_str().trim_end_matches('/').to_owned()
    }

    /// Returns the key of a listing: a hash of the kind, the address, the credentials and the TLS identity.
    fn list_scope(&self, kind: &str) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(format!("{kind} {} ", self.base));
        hash.update(self.login.fingerprint());
        hash.update(self.http.tls_identity());
        hash.finalize().into()
    }
}

/// Returns the URL of a tenant, or None if `domain` is not a bare host. Uses plain HTTP for loopback addresses, where the
/// emulator listens without TLS.
pub fn tenant_url(domain: &str) -> Option<Url> {
    let plain = Url::parse(&format!("http://{domain}/")).ok()?;
    let secure = Url::parse(&format!("https://{domain}/")).ok()?;
    let is_bare_host = secure.path() == "/" && secure.query().is_none() && secure.username().is_empty();
    let url = if crate::core::stream::is_loopback(&plain) { plain } else { secure };
    is_bare_host.then_some(url)
}

#[cfg(test)]
mod tests;
