//! The external ids that custom resources name.

use kube::Resource;

use super::state::{IndexEntry, OwnershipMarker};
use crate::api::{Adopt, External};
use crate::cluster::{ObjectKey, ObjectStore, ResourceKind, View};
use crate::core::id::kong_id;

/// Returns the external ids that an object names: in its status, to adopt, in its marker, and derived from its uid.
pub fn named_ids(
    kind: ResourceKind,
    meta: &impl Resource,
    external: Option<&External>,
    adopt: Option<&Adopt>,
) -> Vec<String> {
    let uid = meta.meta().uid.as_deref().filter(|_| kind == ResourceKind::EventHook);
    let references = external.map(|external| &external.id).into_iter().chain(adopt.map(|adopt| &adopt.id));
    let marked = OwnershipMarker::of(meta).map(|marker| marker.id().to_owned());
    references.cloned().chain(marked).chain(uid.map(kong_id)).collect()
}

/// Returns the external ids that the custom resources of all kinds name.
pub fn all_named_ids(view: &View) -> Vec<IndexEntry> {
    let mut entries = Vec::new();
    collect(&mut entries, ResourceKind::EventHook, &view.hooks, |o| {
        (o.status.as_ref().and_then(|s| s.external.as_deref()), o.spec.adopt.as_ref())
    });
    collect(&mut entries, ResourceKind::EventStream, &view.streams, |o| {
        (o.status.as_ref().and_then(|s| s.external.as_deref()), o.spec.adopt.as_ref())
    });
    collect(&mut entries, ResourceKind::Hook, &view.auth0_hooks, |o| {
        (o.status.as_ref().and_then(|s| s.external.as_deref()), o.spec.adopt.as_ref())
    });
    entries
}

fn collect<K>(
    entries: &mut Vec<IndexEntry>,
    kind: ResourceKind,
    store: &ObjectStore<K>,
    references: impl Fn(&K) -> (Option<&External>, Option<&Adopt>),
) where
    K: Clone + Resource<DynamicType = ()> + 'static,
{
    entries.extend(store.all().map(|guarded| {
        let (external, adopt) = guarded.0.as_ref().map(&references).unwrap_or_default();
        (kind, ObjectKey::of(&*guarded), named_ids(kind, &*guarded, external, adopt))
    }));
}
