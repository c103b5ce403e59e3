//! Auth0's Management API, as far as event streams and extensibility Hooks need it.
//!
//! Purpose: the types are written by hand, for the published description leaves out the secrets that a webhook stream
//! needs; one login serves all objects of the same credentials.
//!
//! Invariants: a placeholder that stands for a secret is never written back; a token that is refused is renewed once, not
//! again and again; what is secret is in no error.
//!
//! Left to others: which object is whose, and when a stream that Auth0 disabled is enabled again (`controller`).

mod call;
mod hook;
mod manifest;
mod stream;
mod token;

use std::sync::Arc;

use sha2::{Digest, Sha256};
use url::Url;

use crate::admin::limit::AdminHttp;

pub use hook::{HookBody, HookClient};
pub use manifest::{Manifest, hook_manifest, stream_manifest};
pub use stream::{DestinationBody, StreamBody, StreamClient, WebhookAuthorization};
pub use token::{Credentials, Login, Tokens};

/// How one tenant is reached.
#[derive(Clone, Debug)]
pub struct Auth0Access {
    pub http: AdminHttp,
    /// The tenant's address, without a path.
    pub base: Url,
    pub login: Arc<Login>,
}

impl Auth0Access {
    /// The address, without anything secret.
    pub fn endpoint(&self) -> String {
        self.base.as_str().trim_end_matches('/').to_owned()
    }

    /// A hash of what a list of this kind depends on: address and credentials.
    fn scope(&self, kind: &str) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(format!("{kind} {} ", self.base));
        hash.update(self.login.fingerprint());
        hash.finalize().into()
    }
}

/// The address of a tenant. One on this machine is an emulator and speaks no TLS.
pub fn address(domain: &str) -> Option<Url> {
    let plain = Url::parse(&format!("http://{domain}/")).ok()?;
    let secure = Url::parse(&format!("https://{domain}/")).ok()?;
    let bare = secure.path() == "/" && secure.query().is_none() && secure.username().is_empty();
    let url = if crate::core::stream::is_loopback(&plain) { plain } else { secure };
    bare.then_some(url)
}

#[cfg(test)]
mod tests;
