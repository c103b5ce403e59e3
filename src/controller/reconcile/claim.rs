//! Ownership of external objects: an external object belongs to at most one custom resource.

use kube::{Resource, ResourceExt};

use super::kind::Synced;
use crate::api::External;
use crate::controller::context::Context;

fn is_same_object(a: &External, b: &External) -> bool {
    (&a.id, &a.endpoint, &a.workspace) == (&b.id, &b.endpoint, &b.workspace)
}

/// Returns the name (`NAMESPACE/NAME`) of another custom resource that owns the external object.
pub fn find_other_owner<K: Synced>(context: &Context, object: &K, external: &External) -> Option<String> {
    let uid = object.uid().unwrap_or_default();
    let just_written = context.memory.holders(|other| is_same_object(other, external));
    let connection = (object.namespace(), Some(external.connection.as_str()));
    let owns = |uid: &str, other: Option<&K>| {
        let by_status = other.and_then(K::external).is_some_and(|other| is_same_object(other, external));
        // Compare the derived id too: the other object's create may be in progress, or that object cannot be parsed.
        let by_id = K::derived_id(uid).as_ref() == Some(&external.id)
            && other.is_none_or(|o| (o.namespace(), o.policies().connection) == connection);
        by_status || by_id || just_written.iter().any(|holder| holder == uid)
    };
    let owner = K::store(&context.view).find(|other| {
        let other_uid = other.uid().unwrap_or_default();
        other_uid != uid && owns(&other_uid, other.0.as_ref().ok())
    });
    owner.map(|other| format!("{}/{}", other.meta().namespace.clone().unwrap_or_default(), other.name_any()))
}

/// Claims the external object for a custom resource. Fails with the name of another custom resource that owns it.
pub fn claim<K: Synced>(context: &Context, object: &K, external: &External) -> Result<(), String> {
    if let Some(owner) = find_other_owner(context, object, external) {
        return Err(owner);
    }
    let uid = object.uid().unwrap_or_default();
    let name_of = |uid: &str| {
        let found = K::store(&context.view).find(|other| other.meta().uid.as_deref() == Some(uid));
        found.map(|other| format!("{}/{}", other.namespace().unwrap_or_default(), other.name_any()))
    };
    let key = format!("{} {:?} {}", external.endpoint, external.workspace, external.id);
    match context.claims.claim(key, &uid, |uid| name_of(uid).is_some()) {
        Some(holder) => Err(name_of(&holder).unwrap_or(holder)),
        None => Ok(()),
    }
}
