//! Keeps a reflector store true to one or several watches, and tells subscribers what changed.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::reflector::Store;
use kube::runtime::reflector::store::{Writer, store};
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};
use tokio::sync::{mpsc, watch};

use super::{Change, Guarded, Key};

/// Changes that wait for a subscriber; then the watch waits too.
const QUEUE: usize = 1024;

/// Those who want to know what changed.
#[derive(Default)]
pub struct Subscribers {
    senders: Vec<mpsc::Sender<Change>>,
}

impl Subscribers {
    /// A new subscriber. All subscribe before the feeds start, so that none misses a change.
    pub fn subscribe(&mut self) -> mpsc::Receiver<Change> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        self.senders.push(sender);
        receiver
    }

    pub async fn tell(&self, change: &Change) {
        for sender in &self.senders {
            // A subscriber that went away wants to know nothing more.
            sender.send(change.clone()).await.ok();
        }
    }
}

/// One kind's store, fed by a watch a scope (a namespace, or all of them).
pub struct Feed<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
{
    writer: Writer<Guarded<K>>,
    change: fn(Key) -> Change,
    subscribers: Arc<Subscribers>,
    known: HashMap<Key, Known>,
    scopes: Vec<Scope>,
    /// Objects that came before every scope was listed: the store takes them all at once, so that nobody reads half. Each
    /// on its own: a table of a hundred thousand of them would be copied as it grows.
    early: Option<HashMap<Key, Box<Guarded<K>>>>,
    listed: watch::Sender<bool>,
}

/// What a feed keeps.
pub struct Fed<K>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    pub store: Store<Guarded<K>>,
    /// True once every scope was listed. The store's own `wait_until_ready` wakes one waiter only.
    pub listed: watch::Receiver<bool>,
}

struct Known {
    scope: usize,
    version: Option<String>,
}

#[derive(Default)]
struct Scope {
    listed: bool,
    listing: Option<HashSet<Key>>,
}

impl<K> Feed<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
{
    pub fn new(scopes: usize, subscribers: Arc<Subscribers>, change: fn(Key) -> Change) -> (Self, Fed<K>) {
        let (reader, writer) = store();
        let (listed, is_listed) = watch::channel(false);
        let scopes = std::iter::repeat_with(Scope::default).take(scopes).collect();
        let early = Some(HashMap::new());
        let feed = Feed { writer, change, subscribers, known: HashMap::new(), scopes, early, listed };
        (feed, Fed { store: reader, listed: is_listed })
    }

    /// Takes one event of the watch of a scope.
    pub async fn apply(&mut self, scope: usize, event: Event<Guarded<K>>) {
        match event {
            Event::Init => self.scope(scope, |s| s.listing = Some(HashSet::new())),
            Event::InitApply(object) => {
                let key = Key::of(&object);
                self.scope(scope, |s| {
                    if let Some(listing) = &mut s.listing {
                        listing.insert(key);
                    }
                });
                self.put(scope, object).await;
            }
            Event::InitDone => self.listed(scope).await,
            Event::Apply(object) => self.put(scope, object).await,
            Event::Delete(object) => self.remove(&Key::of(&object), Some(object)).await,
        }
    }

    fn scope(&mut self, scope: usize, change: impl FnOnce(&mut Scope)) {
        if let Some(scope) = self.scopes.get_mut(scope) {
            change(scope);
        }
    }

    async fn put(&mut self, scope: usize, mut object: Guarded<K>) {
        lighten(object.meta_mut());
        let key = Key::of(&object);
        let version = object.resource_version();
        let same = self.known.get(&key).is_some_and(|known| known.version == version && version.is_some());
        self.known.insert(key.clone(), Known { scope, version });
        match &mut self.early {
            Some(early) => {
                early.insert(key, Box::new(object));
            }
            None => {
                self.writer.apply_watcher_event(&Event::Apply(object));
                // A relist brings every object again: those that stayed are no change.
                if !same {
                    self.tell(key).await;
                }
            }
        }
    }

    async fn remove(&mut self, key: &Key, object: Option<Guarded<K>>) {
        self.known.remove(key);
        if let Some(early) = &mut self.early {
            early.remove(key);
            return;
        }
        let reference = kube::runtime::reflector::ObjectRef::new(&key.name).within(&key.namespace);
        let object = object.or_else(|| self.writer.as_reader().get(&reference).map(|o| (*o).clone()));
        if let Some(object) = object {
            self.writer.apply_watcher_event(&Event::Delete(object));
            self.tell(key.clone()).await;
        }
    }

    /// A scope was listed whole: what it had and no longer has was deleted while nobody watched.
    async fn listed(&mut self, scope: usize) {
        let mut gone = Vec::new();
        if let Some(state) = self.scopes.get_mut(scope) {
            state.listed = true;
            if let Some(listing) = state.listing.take() {
                let here = self.known.iter().filter(|(_, known)| known.scope == scope);
                gone = here.map(|(key, _)| key).filter(|key| !listing.contains(key)).cloned().collect();
            }
        }
        for key in gone {
            self.remove(&key, None).await;
        }
        if self.early.is_some() && self.scopes.iter().all(|s| s.listed) {
            let early = self.early.take().unwrap_or_default();
            let mut keys = Vec::with_capacity(early.len());
            self.writer.apply_watcher_event(&Event::Init);
            for (key, object) in early {
                self.writer.apply_watcher_event(&Event::InitApply(*object));
                keys.push(key);
            }
            self.writer.apply_watcher_event(&Event::InitDone);
            self.listed.send_replace(true);
            for key in keys {
                self.tell(key).await;
            }
        }
    }

    async fn tell(&self, key: Key) {
        self.subscribers.tell(&(self.change)(key)).await;
    }
}

/// Takes out what nobody here reads and what is most of an object: who wrote which field, and kubectl's copy of the whole.
fn lighten(meta: &mut ObjectMeta) {
    meta.managed_fields = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::EventHook;
    use serde_json::json;

    fn object(name: &str, version: &str) -> Guarded<EventHook> {
        serde_json::from_value(json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "EventHook",
            "metadata": {"name": name, "namespace": "n", "resourceVersion": version},
            "spec": {"source": "s", "handler": {}}}))
        .unwrap()
    }

    fn drain(changes: &mut mpsc::Receiver<Change>) -> Vec<String> {
        let mut names = Vec::new();
        while let Ok(Change::EventHook(key)) = changes.try_recv() {
            names.push(key.name);
        }
        names.sort();
        names
    }

    #[tokio::test]
    async fn two_scopes_one_store() {
        let mut subscribers = Subscribers::default();
        let mut changes = subscribers.subscribe();
        let (mut feed, Fed { store, .. }) =
            Feed::<EventHook>::new(2, Arc::new(subscribers), Change::EventHook);

        feed.apply(0, Event::Init).await;
        feed.apply(0, Event::InitApply(object("a", "1"))).await;
        feed.apply(0, Event::InitDone).await;
        assert_eq!(store.len(), 0, "nothing shows before every scope was listed");
        feed.apply(0, Event::InitApply(object("early", "1"))).await;
        feed.apply(0, Event::Delete(object("early", "1"))).await;
        feed.apply(1, Event::Init).await;
        feed.apply(1, Event::InitApply(object("b", "1"))).await;
        feed.apply(1, Event::InitDone).await;
        assert_eq!(store.len(), 2);
        assert_eq!(drain(&mut changes), ["a", "b"]);

        // A relist: b stayed, c came, and only scope 1 is concerned.
        feed.apply(1, Event::Init).await;
        feed.apply(1, Event::InitApply(object("b", "1"))).await;
        feed.apply(1, Event::InitApply(object("c", "1"))).await;
        feed.apply(1, Event::InitDone).await;
        assert_eq!(drain(&mut changes), ["c"]);
        assert_eq!(store.len(), 3);

        // Another: b is gone.
        feed.apply(1, Event::Init).await;
        feed.apply(1, Event::InitApply(object("c", "2"))).await;
        feed.apply(1, Event::InitDone).await;
        assert_eq!(drain(&mut changes), ["b", "c"]);
        assert_eq!(store.len(), 2);

        feed.apply(0, Event::Delete(object("a", "1"))).await;
        assert_eq!(drain(&mut changes), ["a"]);
        assert_eq!(store.len(), 1);
    }

    #[tokio::test]
    async fn what_nobody_reads_is_not_kept() {
        let (mut feed, Fed { store, .. }) = Feed::<EventHook>::new(1, Arc::default(), Change::EventHook);
        let mut heavy = object("a", "1");
        let annotations = [("kubectl.kubernetes.io/last-applied-configuration", "{}"), ("mine", "1")];
        heavy.annotations_mut().extend(annotations.map(|(k, v)| (k.to_owned(), v.to_owned())));
        heavy.managed_fields_mut().push(Default::default());
        feed.apply(0, Event::Init).await;
        feed.apply(0, Event::InitApply(heavy)).await;
        feed.apply(0, Event::InitDone).await;
        let kept = store.state().remove(0);
        assert!(kept.managed_fields().is_empty());
        assert_eq!(kept.annotations().keys().collect::<Vec<_>>(), ["mine"]);
    }

    #[tokio::test]
    async fn a_malformed_object_hides_no_other() {
        let (mut feed, Fed { store, .. }) = Feed::<EventHook>::new(1, Arc::default(), Change::EventHook);
        let broken: Guarded<EventHook> =
            serde_json::from_value(json!({"apiVersion": "hookstream.dev/v1alpha1",
            "kind": "EventHook", "metadata": {"name": "broken", "namespace": "n"}, "spec": {"source": 7}}))
            .unwrap();
        assert!(broken.0.is_err());
        feed.apply(0, Event::Init).await;
        feed.apply(0, Event::InitApply(broken)).await;
        feed.apply(0, Event::InitApply(object("a", "1"))).await;
        feed.apply(0, Event::InitDone).await;
        assert_eq!(store.len(), 2);
    }
}
