//! The connection data of a vendor, independent of its kind.

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

    /// Returns the same credentials for another address and workspace, where an object was created earlier. Keeps the
    /// current address if `endpoint` is not a URL.
    pub fn at(mut self, endpoint: &str, workspace: Option<&str>) -> Self {
        match &mut self {
            AdminAccess::Kong(access) => {
                if let Ok(url) = endpoint.parse() {
                    access.admin_url = url;
                }
                access.workspace = workspace.map(ToOwned::to_owned);
            }
            AdminAccess::Auth0(access) => {
                if let Ok(url) = endpoint.parse() {
                    access.base = url;
                }
            }
        }
        self
    }
}
