//! Keeps a reflector store in sync with one or several watches, and notifies subscribers of changes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::runtime::watcher::Event;
use tokio::sync::{mpsc, watch};

use super::deserialize_guard::DeserializeGuard;
use super::object::{ObjectChange, ObjectKey};
use super::object_store::{ObjectForm, ObjectStore, ObjectWriter, Prepared, ReflectedKind};
use crate::core::change_log::ChangeLog;

/// Capacity of a subscriber's channel in changes. When it is full, the watch blocks.
const CHANNEL_CAPACITY: usize = 1024;

/// The consumers of changes.
#[derive(Default)]
pub struct Subscribers {
    senders: Vec<mpsc::Sender<ObjectChange>>,
}

impl Subscribers {
    /// Adds a subscriber. All must subscribe before the reflectors start, so that none misses a change.
    pub fn subscribe(&mut self) -> mpsc::Receiver<ObjectChange> {
        let (sender, receiver) = mpsc::channel(CHANNEL_CAPACITY);
        self.senders.push(sender);
        receiver
    }

    /// Sends a change to every subscriber. Blocks while a subscriber's channel is full.
    pub async fn notify(&self, change: &ObjectChange) {
        for sender in &self.senders {
            // An error means that the subscriber was dropped.
            sender.send(change.clone()).await.ok();
        }
    }
}

/// Writes one kind's store. Each scope (a namespace, or all of them) has its own watch.
pub struct Reflector<K>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    writer: ObjectWriter<K>,
    objects: ObjectStore<K>,
    change: fn(ObjectKey) -> ObjectChange,
    subscribers: Arc<Subscribers>,
    scopes: Vec<Scope>,
    /// The scope of each namespace, if there are several scopes: then each of them is one namespace.
    scope_of: HashMap<String, usize>,
    /// Objects received before every scope was listed. The store takes them in one step, so that readers never get a
    /// partial list.
    initial: Option<HashMap<ObjectKey, Prepared<K>>>,
    listed: watch::Sender<bool>,
    changes: Arc<ChangeLog<ObjectKey>>,
}

/// The reading side of a `Reflector`.
pub struct ReflectedStore<K>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    pub store: ObjectStore<K>,
    /// True once every scope has been listed. The store's own `wait_until_ready` wakes only one waiter.
    pub listed: watch::Receiver<bool>,
    /// The keys of objects that changed in the store. Unlike the subscribers' channels, it waits for no subscriber.
    pub changes: Arc<ChangeLog<ObjectKey>>,
}

#[derive(Default)]
struct Scope {
    listed: bool,
    /// The next list reports every object, even if its version is the one in the store.
    reports_all: bool,
    /// The keys of the list that is in progress.
    listing: Option<HashSet<ObjectKey>>,
}

impl<K: ReflectedKind> Reflector<K> {
    /// Returns a reflector whose store keeps whole objects.
    pub fn new(
        scopes: usize,
        subscribers: Arc<Subscribers>,
        change: fn(ObjectKey) -> ObjectChange,
    ) -> (Self, ReflectedStore<K>) {
        Self::with_form(ObjectForm::Whole, scopes, subscribers, change)
    }

    pub fn with_form(
        form: ObjectForm,
        scopes: usize,
        subscribers: Arc<Subscribers>,
        change: fn(ObjectKey) -> ObjectChange,
    ) -> (Self, ReflectedStore<K>) {
        let writer = ObjectWriter::new(form);
        let objects = writer.reader();
        let (listed, is_listed) = watch::channel(false);
        let scopes = std::iter::repeat_with(Scope::default).take(scopes).collect();
        let initial = Some(HashMap::new());
        let scope_of = HashMap::new();
        let changes = Arc::new(ChangeLog::default());
        let stored = ReflectedStore { store: objects.clone(), listed: is_listed, changes: changes.clone() };
        (
            Reflector { writer, objects, change, subscribers, scopes, scope_of, initial, listed, changes },
            stored,
        )
    }

    /// Replaces the log of changes, by one with another limit.
    #[cfg(test)]
    pub fn set_changes(&mut self, changes: Arc<ChangeLog<ObjectKey>>) {
        self.changes = changes;
    }

    /// Applies one event of a scope's watch.
    pub async fn apply(&mut self, scope: usize, event: Event<DeserializeGuard<K>>) {
        match event {
            Event::Init => self.update_scope(scope, |s| s.listing = Some(HashSet::new())),
            Event::InitApply(object) => {
                let key = ObjectKey::of(&object);
                self.update_scope(scope, |s| {
                    if let Some(listing) = &mut s.listing {
                        listing.insert(key);
                    }
                });
                self.upsert(scope, object).await;
            }
            Event::InitDone => self.finish_list(scope).await,
            Event::Apply(object) => self.upsert(scope, object).await,
            Event::Delete(object) => self.delete(&ObjectKey::of(&object)).await,
        }
    }

    /// Removes an object.
    pub async fn delete(&mut self, key: &ObjectKey) {
        if let Some(initial) = &mut self.initial {
            initial.remove(key);
            return;
        }
        if self.writer.remove(key) {
            self.changes.record(key);
            self.notify(key.clone()).await;
        }
    }

    /// Lets the next list of each scope report every object as changed.
    pub fn forget_versions(&mut self) {
        self.scopes.iter_mut().for_each(|scope| scope.reports_all = true);
    }

    fn update_scope(&mut self, scope: usize, update: impl FnOnce(&mut Scope)) {
        if let Some(scope) = self.scopes.get_mut(scope) {
            update(scope);
        }
    }

    async fn upsert(&mut self, scope: usize, mut object: DeserializeGuard<K>) {
        strip_unused_metadata(object.meta_mut());
        let key = ObjectKey::of(&object);
        if self.scopes.len() > 1 && self.scope_of.get(&key.namespace) != Some(&scope) {
            self.scope_of.insert(key.namespace.clone(), scope);
        }
        let is_unchanged = self.is_unchanged(scope, &key, &object);
        match &mut self.initial {
            Some(initial) => {
                initial.insert(key, self.writer.prepare(object));
            }
            None => {
                self.writer.upsert(&key, object);
                // A relist delivers every object again; do not report the unchanged ones.
                if !is_unchanged {
                    self.changes.record(&key);
                    self.notify(key).await;
                }
            }
        }
    }

    /// Returns true if the store has the object at this version, and the scope reports changes only.
    fn is_unchanged(&self, scope: usize, key: &ObjectKey, object: &DeserializeGuard<K>) -> bool {
        let reports_all = self.scopes.get(scope).is_none_or(|scope| scope.reports_all);
        !reports_all
            && object.meta().resource_version.is_some()
            && self
                .objects
                .get(&key.namespace, &key.name)
                .is_some_and(|last| last.meta().resource_version == object.meta().resource_version)
    }

    fn is_in_scope(&self, namespace: &str, scope: usize) -> bool {
        self.scopes.len() == 1 || self.scope_of.get(namespace) == Some(&scope)
    }

    /// Completes the list of a scope. Objects that are no longer in the list were deleted while the watch was down.
    async fn finish_list(&mut self, scope: usize) {
        let listing = self.scopes.get_mut(scope).and_then(|state| {
            state.listed = true;
            state.reports_all = false;
            state.listing.take()
        });
        if let Some(listing) = listing {
            let mut known = self.known_keys();
            known.retain(|key| self.is_in_scope(&key.namespace, scope) && !listing.contains(key));
            for deleted in known {
                self.delete(&deleted).await;
            }
        }
        if self.initial.is_some() && self.scopes.iter().all(|s| s.listed) {
            let initial = self.initial.take().unwrap_or_default();
            let keys: Vec<ObjectKey> = initial.keys().cloned().collect();
            self.writer.fill(initial);
            // All of them before the first notification, which waits for the subscribers.
            keys.iter().for_each(|key| self.changes.record(key));
            self.listed.send_replace(true);
            for key in keys {
                self.notify(key).await;
            }
        }
    }

    fn known_keys(&self) -> Vec<ObjectKey> {
        match &self.initial {
            Some(initial) => initial.keys().cloned().collect(),
            None => self.writer.keys(),
        }
    }

    async fn notify(&self, key: ObjectKey) {
        self.subscribers.notify(&(self.change)(key)).await;
    }
}

/// Removes managed fields and kubectl's last-applied copy. They are never read here and take most of an object's memory.
fn strip_unused_metadata(meta: &mut ObjectMeta) {
    meta.managed_fields = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

#[cfg(test)]
mod tests {
    use kube::ResourceExt;

    use super::*;
    use crate::api::EventHook;
    use serde_json::json;

    fn object(name: &str, version: &str) -> DeserializeGuard<EventHook> {
        object_in("n", name, version)
    }

    fn object_in(namespace: &str, name: &str, version: &str) -> DeserializeGuard<EventHook> {
        serde_json::from_value(json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "EventHook",
            "metadata": {"name": name, "namespace": namespace, "resourceVersion": version},
            "spec": {"source": "s", "handler": {}}}))
        .unwrap()
    }

    fn drain(changes: &mut mpsc::Receiver<ObjectChange>) -> Vec<String> {
        let mut names = Vec::new();
        while let Ok(ObjectChange::EventHook(key)) = changes.try_recv() {
            names.push(key.name);
        }
        names.sort();
        names
    }

    /// How a reflector keeps its objects does not change what it reports.
    const FORMS: [ObjectForm; 2] = [ObjectForm::Whole, ObjectForm::Packed];

    #[tokio::test]
    async fn merges_two_scopes_into_one_store() {
        for form in FORMS {
            merges_two_scopes(form).await;
        }
    }

    async fn merges_two_scopes(form: ObjectForm) {
        let mut subscribers = Subscribers::default();
        let mut changes = subscribers.subscribe();
        let (mut reflector, ReflectedStore { store, .. }) =
            Reflector::<EventHook>::with_form(form, 2, Arc::new(subscribers), ObjectChange::EventHook);

        reflector.apply(0, Event::Init).await;
        reflector.apply(0, Event::InitApply(object("a", "1"))).await;
        reflector.apply(0, Event::InitDone).await;
        assert_eq!(store.len(), 0, "the store stays empty until every scope is listed");
        reflector.apply(0, Event::InitApply(object("early", "1"))).await;
        reflector.apply(0, Event::Delete(object("early", "1"))).await;
        reflector.apply(1, Event::Init).await;
        reflector.apply(1, Event::InitApply(object_in("m", "b", "1"))).await;
        reflector.apply(1, Event::InitDone).await;
        assert_eq!(store.len(), 2);
        assert_eq!(drain(&mut changes), ["a", "b"]);

        // A relist of scope 1 only: b is unchanged, c is new.
        reflector.apply(1, Event::Init).await;
        reflector.apply(1, Event::InitApply(object_in("m", "b", "1"))).await;
        reflector.apply(1, Event::InitApply(object_in("m", "c", "1"))).await;
        reflector.apply(1, Event::InitDone).await;
        assert_eq!(drain(&mut changes), ["c"]);
        assert_eq!(store.len(), 3);

        // Another relist: b was deleted.
        reflector.apply(1, Event::Init).await;
        reflector.apply(1, Event::InitApply(object_in("m", "c", "2"))).await;
        reflector.apply(1, Event::InitDone).await;
        assert_eq!(drain(&mut changes), ["b", "c"]);
        assert_eq!(store.len(), 2);

        reflector.apply(0, Event::Delete(object("a", "1"))).await;
        assert_eq!(drain(&mut changes), ["a"]);
        assert_eq!(store.len(), 1);

        // After a restore, a version may name another state: the next list reports c, and only that list.
        reflector.forget_versions();
        for expected in [&["c"][..], &[]] {
            reflector.apply(1, Event::Init).await;
            reflector.apply(1, Event::InitApply(object_in("m", "c", "2"))).await;
            reflector.apply(1, Event::InitDone).await;
            assert_eq!(drain(&mut changes), expected);
        }
    }

    #[tokio::test]
    async fn drops_managed_fields_and_last_applied_annotation() {
        let (mut reflector, ReflectedStore { store, .. }) =
            Reflector::<EventHook>::new(1, Arc::default(), ObjectChange::EventHook);
        let mut heavy = object("a", "1");
        let annotations = [("kubectl.kubernetes.io/last-applied-configuration", "{}"), ("mine", "1")];
        heavy.annotations_mut().extend(annotations.map(|(k, v)| (k.to_owned(), v.to_owned())));
        heavy.managed_fields_mut().push(Default::default());
        reflector.apply(0, Event::Init).await;
        reflector.apply(0, Event::InitApply(heavy)).await;
        reflector.apply(0, Event::InitDone).await;
        let kept = store.all().next().unwrap();
        assert!(kept.managed_fields().is_empty());
        assert_eq!(kept.annotations().keys().collect::<Vec<_>>(), ["mine"]);
    }

    #[tokio::test]
    async fn keeps_other_objects_beside_a_malformed_one() {
        let (mut reflector, ReflectedStore { store, .. }) =
            Reflector::<EventHook>::new(1, Arc::default(), ObjectChange::EventHook);
        let broken: DeserializeGuard<EventHook> =
            serde_json::from_value(json!({"apiVersion": "hookstream.dev/v1alpha1",
            "kind": "EventHook", "metadata": {"name": "broken", "namespace": "n"}, "spec": {"source": 7}}))
            .unwrap();
        assert!(broken.0.is_err());
        reflector.apply(0, Event::Init).await;
        reflector.apply(0, Event::InitApply(broken)).await;
        reflector.apply(0, Event::InitApply(object("a", "1"))).await;
        reflector.apply(0, Event::InitDone).await;
        assert_eq!(store.len(), 2);
    }
}
