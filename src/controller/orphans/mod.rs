//! Vendor objects that no custom resource holds, for `hookstream orphans`.
//!
//! Invariants: an object is deleted only if the mark in its URL proves that this installation configured it for a custom
//! resource that no longer exists. In doubt an object counts as unmanaged, because a wrong deletion loses events.
//!
//! Out of scope: reading the custom resources. The caller reads them after the vendor's objects; in the other order, an
//! object that is created meanwhile would look like an orphan.

mod classify;

use std::time::Duration;

use serde_json::Value;
use url::Url;

pub use classify::{CustomResources, Holding, ResourceRecord};

use super::access::access;
use super::context::Context;
use super::error::SyncError;
use crate::admin::auth0::{HookClient, StreamClient};
use crate::admin::kong::KongClient;
use crate::admin::limit::{Priority, with_priority};
use crate::admin::{AdminAccess, AdminError, ExternalClient, ListFilter};
use crate::cluster::{ObjectKey, ResourceKind};
use crate::core::relay_mark::{RelayMark, RelayTarget, parse_target};

/// Maximum retries of a call that our own rate limiter postpones.
const MAX_RETRIES: u32 = 60;

/// An object at a vendor, without its secrets.
pub struct VendorObject {
    /// The kind of custom resource that can hold it.
    pub kind: ResourceKind,
    /// The Connection through which it was found.
    pub connection: ObjectKey,
    pub endpoint: String,
    pub workspace: Option<String>,
    pub id: String,
    /// Source, event and handler, or the name.
    pub description: String,
    /// The name, if the vendor keeps names unique.
    pub name: Option<String>,
    pub relay: Option<Relay>,
}

/// The worker's address in a vendor object.
#[derive(Clone, Debug, PartialEq)]
pub struct Relay {
    pub target: RelayTarget,
    pub mark: Option<RelayMark>,
}

impl Relay {
    fn parse(url: &str) -> Option<Self> {
        let target = parse_target(&Url::parse(url).ok()?)?;
        Some(Relay { target, mark: RelayMark::parse(url) })
    }
}

/// Lists the objects of one Connection, of all kinds that its vendor has.
pub async fn list_vendor_objects(
    context: &Context,
    connection: &ObjectKey,
) -> Result<Vec<VendorObject>, SyncError> {
    let access = connection_access(context, connection).await?;
    match &access {
        AdminAccess::Kong(kong) => {
            let client = KongClient::new(kong.clone());
            list_kind(&client, ResourceKind::EventHook, connection, &access, describe_hook).await
        }
        AdminAccess::Auth0(auth0) => {
            let streams = StreamClient::new(auth0.clone());
            let mut objects =
                list_kind(&streams, ResourceKind::EventStream, connection, &access, describe_named).await?;
            let hooks = HookClient::new(auth0.clone());
            match list_kind(&hooks, ResourceKind::Hook, connection, &access, describe_named).await {
                // The tenant serves no Hooks any more.
                Err(SyncError::Admin(AdminError::EndOfLife(_) | AdminError::NotFound(_))) => {}
                other => objects.extend(other?),
            }
            Ok(objects)
        }
    }
}

async fn connection_access(context: &Context, connection: &ObjectKey) -> Result<AdminAccess, SyncError> {
    let guarded = context.view.connection(&connection.namespace, &connection.name);
    let guarded = guarded.ok_or_else(|| SyncError::ConnectionMissing(connection.name.clone()))?;
    let object = guarded.0.as_ref().map_err(|_| SyncError::ConnectionInvalid(connection.name.clone()))?;
    access(object, context).await
}

async fn list_kind<C: ExternalClient>(
    client: &C,
    kind: ResourceKind,
    connection: &ObjectKey,
    access: &AdminAccess,
    describe: fn(&Value) -> String,
) -> Result<Vec<VendorObject>, SyncError> {
    let listing = retry_postponed(|| client.list(ListFilter::all())).await?;
    let objects = listing.items.iter().map(|listed| {
        let item = C::normalize(listed.parse()?);
        Ok(VendorObject {
            kind,
            connection: connection.clone(),
            endpoint: access.endpoint(),
            workspace: access.workspace().map(ToOwned::to_owned),
            id: listed.id.to_string(),
            description: describe(&item),
            name: item.get("name").and_then(Value::as_str).map(ToOwned::to_owned),
            relay: C::receiver_url(&item).and_then(Relay::parse),
        })
    });
    objects.collect()
}

fn describe_hook(hook: &Value) -> String {
    let text = |name: &str| hook.get(name).and_then(Value::as_str).unwrap_or("-");
    format!("{} {} {}", text("handler"), text("source"), text("event"))
}

fn describe_named(object: &Value) -> String {
    object.get("name").and_then(Value::as_str).unwrap_or("-").to_owned()
}

/// Deletes a vendor object that still has the mark with which it was listed. Returns false if it has another one now, or
/// none: then another client has changed it.
pub async fn delete_vendor_object(context: &Context, object: &VendorObject) -> Result<bool, SyncError> {
    let access = connection_access(context, &object.connection).await?;
    // A Connection that leads elsewhere since the list says nothing about this object.
    if (access.endpoint(), access.workspace()) != (object.endpoint.clone(), object.workspace.as_deref()) {
        return Ok(false);
    }
    match (&access, object.kind) {
        (AdminAccess::Kong(kong), ResourceKind::EventHook) => {
            delete_marked(&KongClient::new(kong.clone()), object).await
        }
        (AdminAccess::Auth0(auth0), ResourceKind::EventStream) => {
            delete_marked(&StreamClient::new(auth0.clone()), object).await
        }
        _ => Ok(false),
    }
}

async fn delete_marked<C: ExternalClient>(client: &C, object: &VendorObject) -> Result<bool, SyncError> {
    let Some(item) = retry_postponed(|| client.observe(&object.id)).await? else { return Ok(true) };
    let is_marked = object.relay.as_ref().is_some_and(|relay| relay.mark.is_some());
    if !is_marked || C::receiver_url(&item).and_then(Relay::parse) != object.relay {
        return Ok(false);
    }
    retry_postponed(|| client.delete(&object.id)).await?;
    Ok(true)
}

/// Repeats a call that our own rate limiter postpones.
async fn retry_postponed<T, F>(call: impl Fn() -> F) -> Result<T, SyncError>
where
    F: Future<Output = Result<T, AdminError>>,
{
    let mut retries = 0..MAX_RETRIES;
    loop {
        match with_priority(Priority::Change, call()).await {
            Err(AdminError::Postponed(delay)) if retries.next().is_some() => {
                tokio::time::sleep(delay.max(Duration::from_millis(50))).await;
            }
            other => return Ok(other?),
        }
    }
}
