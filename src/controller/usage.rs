//! Finds the objects that use a Connection. A Connection keeps the operator's finalizer while it is in use, because
//! deleting the external objects needs its credentials.

use kube::{Resource, ResourceExt};

use super::context::Context;
use super::finalizer;
use super::reconcile::Synced;
use crate::api::Connection;
use crate::cluster::{DeserializeGuard, ObjectKey, ObjectStore};

/// Returns an object of any kind that uses the Connection, as `KIND NAME`.
pub fn find_user(context: &Context, connection: &ObjectKey) -> Option<String> {
    let view = &context.view;
    find_user_of_kind(&view.hooks, connection)
        .or_else(|| find_user_of_kind(&view.streams, connection))
        .or_else(|| find_user_of_kind(&view.auth0_hooks, connection))
}

fn find_user_of_kind<K: Synced>(store: &ObjectStore<K>, connection: &ObjectKey) -> Option<String> {
    let uses = |object: &DeserializeGuard<K>| may_use(object, &connection.name) && needs_connection(object);
    let kind: &str = K::KIND.into();
    let mut in_namespace = store.in_namespace(&connection.namespace);
    in_namespace.find(|object| uses(object)).map(|object| format!("{kind} {}", object.name_any()))
}

/// True if the finalizer of the Connection does not match its use: its first user was added or its last one removed.
pub fn is_finalizer_stale(context: &Context, connection: &DeserializeGuard<Connection>) -> bool {
    find_user(context, &ObjectKey::of(connection)).is_some() != finalizer::is_present(connection)
}

/// Drops the credentials of a Connection that was deleted while no object used it. Without a finalizer, it got no last
/// reconcile that could drop them. A new Connection of the same name may have another owner and must not inherit them.
pub fn forget_deleted_connection(context: &Context, connection: &ObjectKey) {
    if find_user(context, connection).is_none() {
        context.forget_connection(connection);
    }
}

/// True if the object may use the Connection. An object that cannot be parsed may use any, so that no Connection is
/// deleted while such an object still has to clean up.
fn may_use<K: Synced>(object: &DeserializeGuard<K>, name: &str) -> bool {
    let is_unknown = object.0.is_err() && finalizer::is_present(object);
    is_unknown || uses_connection(object, name)
}

/// False for an object that is being deleted and has no external object left.
fn needs_connection<K: Synced>(object: &DeserializeGuard<K>) -> bool {
    object.meta().deletion_timestamp.is_none() || finalizer::is_present(object)
}

/// True if the object refers to this Connection, in its spec or by its external object.
pub fn uses_connection<K: Synced>(object: &DeserializeGuard<K>, name: &str) -> bool {
    let Ok(object) = &object.0 else { return false };
    object.policies().connection == Some(name) || object.external().is_some_and(|e| e.connection == name)
}
