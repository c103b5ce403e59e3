//! The view: the objects of every kind as last observed.

use std::collections::HashSet;
use std::sync::Arc;

use kube::ResourceExt;
use serde::Serialize;
use tokio::sync::watch;

use super::deserialize_guard::DeserializeGuard;
use super::object::ObjectKey;
use super::object_store::ObjectStore;
use super::reflector::ReflectedStore;
use crate::api::{Connection, EventHook, EventStream, Hook};
use crate::core::change_log::ChangeLog;
use crate::core::references::find_references;

/// The stores of all kinds. Cheap to clone.
#[derive(Clone)]
pub struct View {
    pub hooks: ObjectStore<EventHook>,
    pub connections: ObjectStore<Connection>,
    pub streams: ObjectStore<EventStream>,
    /// Auth0's extensibility Hooks.
    pub auth0_hooks: ObjectStore<Hook>,
    /// The hooks that changed in the view, for the API's table of hooks. It has each change when the view has it.
    pub hook_changes: Arc<ChangeLog<ObjectKey>>,
    listed: [watch::Receiver<bool>; 4],
}

impl View {
    pub fn new(
        hooks: ReflectedStore<EventHook>,
        connections: ReflectedStore<Connection>,
        streams: ReflectedStore<EventStream>,
        auth0_hooks: ReflectedStore<Hook>,
    ) -> Self {
        View {
            hooks: hooks.store,
            connections: connections.store,
            streams: streams.store,
            auth0_hooks: auth0_hooks.store,
            hook_changes: hooks.changes,
            listed: [hooks.listed, connections.listed, streams.listed, auth0_hooks.listed],
        }
    }

    /// Waits until every kind has been listed once.
    pub async fn wait_until_listed(&self) {
        for listed in &self.listed {
            // An error means that the reflector was dropped, which only happens when the process stops.
            listed.clone().wait_for(|listed| *listed).await.ok();
        }
    }

    pub fn connection(&self, namespace: &str, name: &str) -> Option<Arc<DeserializeGuard<Connection>>> {
        self.connections.get(namespace, name)
    }

    pub fn hook(&self, namespace: &str, name: &str) -> Option<Arc<DeserializeGuard<EventHook>>> {
        self.hooks.get(namespace, name)
    }

    pub fn stream(&self, namespace: &str, name: &str) -> Option<Arc<DeserializeGuard<EventStream>>> {
        self.streams.get(namespace, name)
    }

    pub fn auth0_hook(&self, namespace: &str, name: &str) -> Option<Arc<DeserializeGuard<Hook>>> {
        self.auth0_hooks.get(namespace, name)
    }

    /// Returns the key of every Secret, or ConfigMap, that an object references. An object that cannot be deserialized is
    /// not reconciled, so its references do not count. Visits every object, so call it rarely.
    pub fn referenced_keys(&self, kind: &str) -> HashSet<ObjectKey> {
        let mut keys = HashSet::new();
        collect(&self.hooks, |hook| &hook.spec, kind, &mut keys);
        collect(&self.connections, |connection| &connection.spec, kind, &mut keys);
        collect(&self.streams, |stream| &stream.spec, kind, &mut keys);
        collect(&self.auth0_hooks, |hook| &hook.spec, kind, &mut keys);
        keys
    }
}

fn collect<K, S>(store: &ObjectStore<K>, spec: impl Fn(&K) -> &S, kind: &str, keys: &mut HashSet<ObjectKey>)
where
    K: kube::Resource<DynamicType = ()> + Clone + 'static,
    S: Serialize,
{
    for guard in store.all() {
        let Ok(object) = &guard.0 else { continue };
        let Ok(spec) = serde_json::to_value(spec(object)) else { continue };
        let namespace = guard.namespace().unwrap_or_default();
        let found = find_references(&spec);
        let matching = found.iter().filter(|reference| reference.kind == kind);
        keys.extend(matching.map(|reference| ObjectKey::new(&namespace, reference.name)));
    }
}
