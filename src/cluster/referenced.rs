//! What the objects that are there refer to.

use std::collections::HashSet;

use kube::ResourceExt;
use kube::runtime::reflector::Store;
use serde::Serialize;

use super::{Guarded, Key, View};
use crate::core::references::references;

impl View {
    /// Every Secret, or ConfigMap, that an object refers to. One that cannot be read refers to nothing: nothing is done
    /// by it. Looks at every object: not for every day.
    pub fn referenced(&self, kind: &str) -> HashSet<Key> {
        let mut all = HashSet::new();
        collect(&self.hooks, |hook| &hook.spec, kind, &mut all);
        collect(&self.connections, |connection| &connection.spec, kind, &mut all);
        collect(&self.streams, |stream| &stream.spec, kind, &mut all);
        collect(&self.auth0_hooks, |hook| &hook.spec, kind, &mut all);
        all
    }
}

fn collect<K, S>(store: &Store<Guarded<K>>, spec: impl Fn(&K) -> &S, kind: &str, all: &mut HashSet<Key>)
where
    K: kube::Resource<DynamicType = ()> + Clone + 'static,
    S: Serialize,
{
    for guarded in store.state() {
        let Ok(object) = &guarded.0 else { continue };
        let Ok(spec) = serde_json::to_value(spec(object)) else { continue };
        let namespace = guarded.namespace().unwrap_or_default();
        let found = references(&spec);
        let fitting = found.iter().filter(|reference| reference.kind == kind);
        all.extend(fitting.map(|reference| Key::new(&namespace, reference.name)));
    }
}
