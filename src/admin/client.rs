//! The operations that every vendor's client provides.

use std::future::Future;

use serde_json::Value;

use super::error::AdminError;
use super::limit::AdminMemory;
use super::listing::{ListFilter, Listing};
use super::response;
use crate::core::time::Millis;

/// Identifies the contents of a list: a hash of the address, the credentials, the TLS identity and the kind. Clients with the same scope
/// see the same objects.
pub type ListScope = [u8; 32];

/// A client of one kind of a vendor's objects. All calls may be repeated: the reconciler finds the object of an
/// interrupted create.
pub trait ExternalClient: Send + Sync {
    /// The desired state of an object.
    type Desired: Send + Sync;

    /// False if `observe` returns more of an object than `list`.
    const LIST_IS_COMPLETE: bool = true;
    /// True if reads may still show an object after its delete succeeded, and if the delete of a missing object succeeds too,
    /// so that only a read proves the deletion.
    const CONFIRMS_DELETES: bool = false;
    /// False if the vendor never returns the secrets of an object.
    const SECRETS_READ_BACK: bool;
    /// The JSON pointer to the URL that receives the events; None if objects of this kind have none.
    const RELAY_URL: Option<&'static str> = None;

    /// Returns the URL to which an object sends events; None if it sends none to a URL.
    fn receiver_url(item: &Value) -> Option<&str> {
        item.pointer(Self::RELAY_URL?)?.as_str()
    }

    /// Returns the key under which listings of this client may be shared.
    fn list_scope(&self) -> ListScope;

    /// Returns false once the vendor has rejected client-chosen ids.
    fn may_accept_client_ids(&self) -> bool {
        false
    }

    /// Returns true once the vendor has accepted a client-chosen id.
    fn accepts_client_ids(&self) -> bool {
        false
    }

    /// Returns the memory from which a caller reserves what it keeps of this client's responses.
    fn memory(&self) -> AdminMemory;
    /// Lists all objects, and keeps those that the filter selects.
    fn list(&self, filter: ListFilter<'_>) -> impl Future<Output = Result<Listing, AdminError>> + Send;
    /// Reads one object; None if it does not exist.
    fn observe(&self, id: &str) -> impl Future<Output = Result<Option<Value>, AdminError>> + Send;
    /// Fails if an existing object would make the vendor reject the create. Call it before writing the create record:
    /// once a record exists, the controller has to wait for an object that may never appear.
    fn check_create(&self, _desired: &Self::Desired) -> impl Future<Output = Result<(), AdminError>> + Send {
        async { Ok(()) }
    }
    /// Creates an object with a client-chosen id, or with an id of the vendor's. Returns `Unsupported`, without creating
    /// anything, if the vendor accepts no client-chosen id.
    fn create(
        &self,
        id: Option<&str>,
        desired: &Self::Desired,
    ) -> impl Future<Output = Result<Value, AdminError>> + Send;
    /// Returns true if `create` without an id sends one request, so that a rejection of it proves that nothing was created.
    fn creates_with_one_request(&self, _desired: &Self::Desired) -> bool {
        true
    }
    /// Updates an existing object to the desired state. `fields` are the paths that differ. Returns `Unsupported`, without
    /// changing anything, if the object can only be deleted and recreated.
    fn update(
        &self,
        id: &str,
        desired: &Self::Desired,
        fields: &[String],
    ) -> impl Future<Output = Result<Value, AdminError>> + Send;
    /// Deletes an object. Succeeds if it does not exist.
    fn delete(&self, id: &str) -> impl Future<Output = Result<(), AdminError>> + Send;

    /// Returns an object of a list in the form that `observe` returns. Repeating it changes nothing.
    fn normalize(item: Value) -> Value {
        item
    }

    /// Returns the id of an object.
    fn id(item: &Value) -> Option<&str> {
        response::object_id(item)
    }

    /// Returns the fields that the object's creator chose and the vendor returns unchanged. The result is equal for the
    /// desired and the observed object, which identifies the object of an interrupted create.
    fn comparable_fields(object: &Value) -> Value;

    /// Returns the creation time by the vendor's clock.
    fn created_at(item: &Value) -> Option<Millis> {
        match item.get("created_at")? {
            Value::Number(seconds) => seconds.as_i64().map(|s| Millis(s.saturating_mul(1000))),
            Value::String(text) => Millis::parse(text),
            _ => None,
        }
    }
}
