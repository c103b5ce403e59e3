//! The external ids to which custom resources refer.

use std::collections::HashSet;

use kube::Resource;
use kube::runtime::reflector::Store;

use crate::api::{Adopt, External};
use crate::cluster::{DeserializeGuard, View};
use crate::core::id::kong_id;

/// Returns the external ids to which the custom resources of all kinds refer: those in statuses, those to adopt, and those
/// that are derived from a uid.
pub fn wanted_ids(view: &View) -> HashSet<String> {
    let mut ids = HashSet::new();
    for hook in view.hooks.state() {
        ids.extend(hook.meta().uid.as_deref().map(kong_id));
    }
    add(&mut ids, &view.hooks, |o| {
        (o.status.as_ref().and_then(|s| s.external.as_deref()), o.spec.adopt.as_ref())
    });
    add(&mut ids, &view.streams, |o| {
        (o.status.as_ref().and_then(|s| s.external.as_deref()), o.spec.adopt.as_ref())
    });
    add(&mut ids, &view.auth0_hooks, |o| {
        (o.status.as_ref().and_then(|s| s.external.as_deref()), o.spec.adopt.as_ref())
    });
    ids
}

/// Adds the ids in the status and the spec of each readable object.
fn add<K>(
    ids: &mut HashSet<String>,
    store: &Store<DeserializeGuard<K>>,
    references: impl Fn(&K) -> (Option<&External>, Option<&Adopt>),
) where
    K: Clone + Resource + 'static,
    K::DynamicType: std::hash::Hash + Eq + Clone,
{
    for guarded in store.state() {
        let Ok(object) = &guarded.0 else { continue };
        let (external, adopt) = references(object);
        ids.extend(external.map(|external| external.id.clone()));
        ids.extend(adopt.map(|adopt| adopt.id.clone()));
    }
}
