//! The objects of the files by kind, and the view of them.

use std::sync::Arc;

use kube::runtime::watcher::Event;
use serde_json::Value;

use super::objects::FileObject;
use crate::api::{Connection, EventHook, EventStream, Hook};
use crate::cluster::{
    DeserializeGuard, ObjectChange, ObjectKey, ReflectedKind, Reflector, ResourceKind, Subscribers, View,
};

/// The objects of the files.
#[derive(Default)]
pub struct ObjectLists {
    pub hooks: Vec<DeserializeGuard<EventHook>>,
    pub connections: Vec<DeserializeGuard<Connection>>,
    pub streams: Vec<DeserializeGuard<EventStream>>,
    pub auth0_hooks: Vec<DeserializeGuard<Hook>>,
}

impl ObjectLists {
    pub fn add(&mut self, kind: ResourceKind, object: &FileObject) {
        match kind {
            ResourceKind::EventHook => self.hooks.extend(object.deserialize()),
            ResourceKind::Connection => self.connections.extend(object.deserialize()),
            ResourceKind::EventStream => self.streams.extend(object.deserialize()),
            ResourceKind::Hook => self.auth0_hooks.extend(object.deserialize()),
        }
    }

    /// Returns a view of exactly these objects, which never changes.
    pub async fn into_view(self) -> View {
        let (view, mut reflectors) = reflectors(&Arc::new(Subscribers::default()));
        reflectors.replace(self).await;
        view
    }
}

/// Returns a view of exactly these objects, given as untyped JSON.
pub async fn view_of(objects: &[(ResourceKind, Value)]) -> View {
    let mut lists = ObjectLists::default();
    for (kind, object) in objects {
        lists.add(*kind, &FileObject::new(object.clone()));
    }
    lists.into_view().await
}

/// The reflectors of all kinds, each with one scope.
pub struct Reflectors {
    hooks: Reflector<EventHook>,
    connections: Reflector<Connection>,
    streams: Reflector<EventStream>,
    auth0_hooks: Reflector<Hook>,
}

/// Creates the reflectors of all kinds, and the view that they write.
pub fn reflectors(subscribers: &Arc<Subscribers>) -> (View, Reflectors) {
    let (hooks, hook_store) = Reflector::new(1, subscribers.clone(), ObjectChange::EventHook);
    let (connections, connection_store) = Reflector::new(1, subscribers.clone(), ObjectChange::Connection);
    let (streams, stream_store) = Reflector::new(1, subscribers.clone(), ObjectChange::EventStream);
    let (auth0_hooks, auth0_hook_store) = Reflector::new(1, subscribers.clone(), ObjectChange::Hook);
    let view = View::new(hook_store, connection_store, stream_store, auth0_hook_store);
    (view, Reflectors { hooks, connections, streams, auth0_hooks })
}

impl Reflectors {
    /// Replaces all objects. Connections, which the others reference, come first and EventHooks last.
    pub async fn replace(&mut self, objects: ObjectLists) {
        relist(&mut self.connections, objects.connections).await;
        relist(&mut self.streams, objects.streams).await;
        relist(&mut self.auth0_hooks, objects.auth0_hooks).await;
        relist(&mut self.hooks, objects.hooks).await;
    }

    /// Updates one object; None removes it.
    pub async fn update(&mut self, kind: ResourceKind, key: &ObjectKey, object: Option<&FileObject>) {
        match kind {
            ResourceKind::EventHook => update(&mut self.hooks, key, object).await,
            ResourceKind::Connection => update(&mut self.connections, key, object).await,
            ResourceKind::EventStream => update(&mut self.streams, key, object).await,
            ResourceKind::Hook => update(&mut self.auth0_hooks, key, object).await,
        }
    }
}

async fn update<K: ReflectedKind>(
    reflector: &mut Reflector<K>,
    key: &ObjectKey,
    object: Option<&FileObject>,
) {
    match object.and_then(FileObject::deserialize) {
        Some(object) => reflector.apply(0, Event::Apply(object)).await,
        None => reflector.delete(key).await,
    }
}

async fn relist<K: ReflectedKind>(reflector: &mut Reflector<K>, objects: Vec<DeserializeGuard<K>>) {
    reflector.apply(0, Event::Init).await;
    for object in objects {
        reflector.apply(0, Event::InitApply(object)).await;
    }
    reflector.apply(0, Event::InitDone).await;
}
