//! The vendors' admin APIs.
//!
//! Purpose: one small trait behind which a vendor's objects are listed, read, created, changed and deleted, and one
//! enum into which every answer is sorted.
//!
//! Invariants: calls go through the egress connector, follow no redirect, have a deadline and a bound; of what a vendor
//! answers, only its known error fields are repeated, cut short, with what was sent in secret taken out; nothing here
//! retries (the reconciler does, for one object at a time); every call goes through `limit`, which keeps rates, and
//! calls nobody while another replica leads.
//!
//! Left to others: what is wanted and which object is whose (`controller`), what differs (`core::plan`).

mod answer;
pub mod auth0;
mod error;
pub mod kong;
pub mod limit;
mod pages;
#[cfg(test)]
pub mod testing;

use std::future::Future;

use serde_json::Value;

pub use error::{AdminError, Class, Detail};

use crate::core::time::Millis;
use auth0::Auth0Access;
use kong::KongAccess;

/// How one vendor is reached, by one Connection.
#[derive(Clone, Debug)]
pub enum Access {
    Kong(KongAccess),
    Auth0(Auth0Access),
}

impl Access {
    pub fn kong(&self) -> Option<&KongAccess> {
        match self {
            Access::Kong(access) => Some(access),
            Access::Auth0(_) => None,
        }
    }

    pub fn auth0(&self) -> Option<&Auth0Access> {
        match self {
            Access::Auth0(access) => Some(access),
            Access::Kong(_) => None,
        }
    }

    /// The address, without anything secret.
    pub fn endpoint(&self) -> String {
        match self {
            Access::Kong(access) => access.endpoint(),
            Access::Auth0(access) => access.endpoint(),
        }
    }

    pub fn workspace(&self) -> Option<&str> {
        match self {
            Access::Kong(access) => access.workspace.as_deref(),
            Access::Auth0(_) => None,
        }
    }

    /// The same credentials at another address: where an object really is.
    pub fn at(mut self, endpoint: &str, workspace: Option<&str>) -> Self {
        match &mut self {
            Access::Kong(access) => {
                if let Ok(url) = endpoint.parse() {
                    access.admin_url = url;
                }
                access.workspace = workspace.map(ToOwned::to_owned);
            }
            Access::Auth0(access) => {
                if let Ok(url) = endpoint.parse() {
                    access.base = url;
                }
            }
        }
        self
    }
}

/// Whose objects a list shows: a hash of the address, the credentials and the kind. Those who share it see the same.
pub type Scope = [u8; 32];

/// Every object of one kind.
#[derive(Default)]
pub struct Listed {
    pub items: Vec<Value>,
    /// The vendor's own clock (`Date`) when it answered.
    pub at: Option<Millis>,
}

/// A vendor's objects of one kind. All calls may be repeated: a create that was cut off is found again.
pub trait ExternalClient: Send + Sync {
    /// What is wanted of an object.
    type Desired: Send + Sync;

    /// False where `observe` shows more of an object than a list does.
    const LIST_IS_WHOLE: bool = true;
    /// False where the vendor never shows a secret that it was given.
    const SECRETS_READ_BACK: bool;

    fn scope(&self) -> Scope;

    /// True while the vendor is not known to refuse an id of our making.
    fn takes_ids(&self) -> bool {
        false
    }

    /// True once the vendor has taken an id of our making.
    fn surely_takes_ids(&self) -> bool {
        false
    }

    /// Every object.
    fn list(&self) -> impl Future<Output = Result<Listed, AdminError>> + Send;
    /// One object; None where there is none.
    fn observe(&self, id: &str) -> impl Future<Output = Result<Option<Value>, AdminError>> + Send;
    /// Whether a create would be refused for what is there already. Asked before a create is begun: one that was begun and
    /// is not seen must be waited for.
    fn may_create(&self, _desired: &Self::Desired) -> impl Future<Output = Result<(), AdminError>> + Send {
        async { Ok(()) }
    }
    /// Creates an object, under an id that the operator chose or under one of the vendor's. `Unsupported`: the vendor
    /// takes no id; nothing was made.
    fn create(
        &self,
        id: Option<&str>,
        desired: &Self::Desired,
    ) -> impl Future<Output = Result<Value, AdminError>> + Send;
    /// Makes an existing object what is wanted. `fields` are the paths that differ. `Unsupported`: it can only be
    /// deleted and created again; nothing was changed.
    fn update(
        &self,
        id: &str,
        desired: &Self::Desired,
        fields: &[String],
    ) -> impl Future<Output = Result<Value, AdminError>> + Send;
    /// Deletes an object. One that is not there is deleted.
    fn delete(&self, id: &str) -> impl Future<Output = Result<(), AdminError>> + Send;

    /// The id of an object.
    fn id(item: &Value) -> Option<&str> {
        answer::id_of(item)
    }

    /// What of an object its maker decided, in one form for what is wanted and what is there: by this an object is
    /// known again whose create was cut off.
    fn readable(object: &Value) -> Value;

    /// When the vendor made it, by its own clock.
    fn created_at(item: &Value) -> Option<Millis> {
        match item.get("created_at")? {
            Value::Number(seconds) => seconds.as_i64().map(|s| Millis(s.saturating_mul(1000))),
            Value::String(text) => Millis::parse(text),
            _ => None,
        }
    }
}
