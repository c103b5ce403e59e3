//! The connection data of a vendor, independent of its kind.

use crate::core::digest::hash_parts;
use secrecy::ExposeSecret;
use url::Url;

use super::auth0::Auth0Access;
use super::kong::KongAccess;

/// The address and credentials of one Connection's vendor.
#[derive(Clone, Debug)]
pub enum AdminAccess {
    Kong(KongAccess),
    Auth0(Auth0Access),
}

impl AdminAccess {
    pub fn kong(&self) -> Option<&KongAccess> {
        match self {
            AdminAccess::Kong(access) => Some(access),
            AdminAccess::Auth0(_) => None,
        }
    }

    pub fn auth0(&self) -> Option<&Auth0Access> {
        match self {
            AdminAccess::Auth0(access) => Some(access),
            AdminAccess::Kong(_) => None,
        }
    }

    /// The address, without credentials.
    pub fn endpoint(&self) -> String {
        match self {
            AdminAccess::Kong(access) => access.endpoint(),
            AdminAccess::Auth0(access) => access.endpoint(),
        }
    }

    pub fn workspace(&self) -> Option<&str> {
        match self {
            AdminAccess::Kong(access) => access.workspace.as_deref(),
            AdminAccess::Auth0(_) => None,
        }
    }

    /// Returns the access to another workspace at the same address.
    pub fn in_workspace(mut self, workspace: Option<&str>) -> Self {
        if let AdminAccess::Kong(access) = &mut self {
            access.workspace = workspace.map(ToOwned::to_owned);
        }
        self
    }

    /// Returns a digest of the credentials that every call sends. None if the calls have none. The digest does not depend
    /// on the address. Store only keyed hashes of it: a short token could be guessed from the digest.
    pub fn credentials_digest(&self) -> Option<[u8; 32]> {
        match self {
            AdminAccess::Kong(access) => {
                let (header, token) = access.token.as_ref()?;
                Some(digest(&["kong", header, token.expose_secret()]))
            }
            AdminAccess::Auth0(access) => Some(access.login.credentials_digest()),
        }
    }

    /// Returns the access to another address with the same credentials, which must be configured for that address. None if
    /// `endpoint` is not a URL.
    pub fn at(mut self, endpoint: &str) -> Option<Self> {
        let url: Url = endpoint.parse().ok()?;
        match &mut self {
            AdminAccess::Kong(access) => access.admin_url = url,
            AdminAccess::Auth0(access) => {
                // A token of another tenant's login means nothing there.
                access.login = access.login.at(&url);
                access.base = url;
            }
        }
        Some(self)
    }

    /// Removes the credentials. None if the vendor accepts no call without them.
    pub fn without_credentials(mut self) -> Option<Self> {
        match &mut self {
            AdminAccess::Kong(access) => access.token = None,
            AdminAccess::Auth0(_) => return None,
        }
        Some(self)
    }
}

/// Returns a hash of the parts, each with its length.
pub(super) fn digest(parts: &[&str]) -> [u8; 32] {
    let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
    hash_parts(&parts)
}
