//! Objects as compressed JSON. A worker reads an object when it changes, and for a user; in between, a hundred thousand
//! unpacked hooks would take most of its memory.

use std::sync::Arc;

use parking_lot::RwLock;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::deserialize_guard::DeserializeGuard;
use super::object::ObjectKey;
use crate::core::fast_map::FastMap;

/// Unpacked objects that are kept: relayed events read the object of their hook one after the other.
const RECENT: usize = 256;

/// An object in its packed form. Cheap to clone.
pub enum Packed<K> {
    Readable(Arc<[u8]>),
    /// An object that cannot be deserialized. There are few, so they stay as they are.
    Other(Arc<DeserializeGuard<K>>),
}

/// The packed objects of one kind, by namespace and name.
pub struct PackedObjects<K> {
    tables: RwLock<Tables<K>>,
    /// Reads an object from JSON. A pointer, so that readers of a store need not know how its kind is deserialized.
    deserialize: fn(&[u8]) -> serde_json::Result<K>,
}

struct Tables<K> {
    by_namespace: FastMap<Box<str>, FastMap<Box<str>, Packed<K>>>,
    count: usize,
    recent: FastMap<ObjectKey, Arc<DeserializeGuard<K>>>,
}

impl<K: DeserializeOwned> Default for PackedObjects<K> {
    fn default() -> Self {
        let tables = Tables { by_namespace: FastMap::default(), count: 0, recent: FastMap::default() };
        PackedObjects { tables: RwLock::new(tables), deserialize: |json| serde_json::from_slice(json) }
    }
}

impl<K> Clone for Packed<K> {
    fn clone(&self) -> Self {
        match self {
            Packed::Readable(bytes) => Packed::Readable(bytes.clone()),
            Packed::Other(object) => Packed::Other(object.clone()),
        }
    }
}

impl<K: Serialize + DeserializeOwned> Packed<K> {
    pub fn new(object: DeserializeGuard<K>) -> Self {
        let json = object.0.as_ref().ok().and_then(|readable| serde_json::to_vec(readable).ok());
        // A kind that does not read what it wrote would hide its objects later.
        let json = json.filter(|json| serde_json::from_slice::<K>(json).is_ok());
        match json {
            Some(json) => Packed::Readable(
                lz4_flex::block::compress_prepend_size_with_dict(&json, DICTIONARY.as_bytes()).into(),
            ),
            None => Packed::Other(Arc::new(object)),
        }
    }
}

impl<K> Packed<K> {
    /// Returns the object. None if its bytes are damaged, which only a fault of the machine's memory could cause.
    fn unpack(&self, deserialize: fn(&[u8]) -> serde_json::Result<K>) -> Option<Arc<DeserializeGuard<K>>> {
        match self {
            Packed::Readable(bytes) => {
                let dictionary = DICTIONARY.as_bytes();
                let json = lz4_flex::block::decompress_size_prepended_with_dict(bytes, dictionary).ok()?;
                Some(Arc::new(DeserializeGuard(Ok(deserialize(&json).ok()?))))
            }
            Packed::Other(object) => Some(object.clone()),
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Packed::Readable(one), Packed::Readable(two)) => Arc::ptr_eq(one, two),
            (Packed::Other(one), Packed::Other(two)) => Arc::ptr_eq(one, two),
            _ => false,
        }
    }
}

impl<K> Tables<K> {
    fn get(&self, namespace: &str, name: &str) -> Option<&Packed<K>> {
        self.by_namespace.get(namespace)?.get(name)
    }

    fn insert(&mut self, key: ObjectKey, object: Packed<K>) {
        let ObjectKey { namespace, name } = key;
        let names = self.by_namespace.entry(namespace.into()).or_default();
        if names.insert(name.into(), object).is_none() {
            self.count += 1;
        }
    }
}

impl<K> PackedObjects<K> {
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<DeserializeGuard<K>>> {
        let key = ObjectKey::new(namespace, name);
        let packed = {
            let tables = self.tables.read();
            if let Some(object) = tables.recent.get(&key) {
                return Some(object.clone());
            }
            tables.get(namespace, name)?.clone()
        };
        let object = packed.unpack(self.deserialize)?;
        let mut tables = self.tables.write();
        // An object that was changed meanwhile must not hide its new version.
        if tables.get(namespace, name).is_some_and(|current| current.is_same(&packed)) {
            if tables.recent.len() >= RECENT {
                tables.recent.clear();
            }
            tables.recent.insert(key, object.clone());
        }
        Some(object)
    }

    /// Returns all objects as they are now, unpacked one at a time.
    pub fn all(&self) -> impl Iterator<Item = Arc<DeserializeGuard<K>>> + use<K> {
        self.unpack_each(
            self.tables.read().by_namespace.values().flat_map(FastMap::values).cloned().collect(),
        )
    }

    pub fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = Arc<DeserializeGuard<K>>> + use<K> {
        let tables = self.tables.read();
        let names = tables.by_namespace.get(namespace);
        self.unpack_each(names.into_iter().flat_map(FastMap::values).cloned().collect())
    }

    fn unpack_each(&self, packed: Vec<Packed<K>>) -> impl Iterator<Item = Arc<DeserializeGuard<K>>> + use<K> {
        let deserialize = self.deserialize;
        packed.into_iter().filter_map(move |packed| packed.unpack(deserialize))
    }

    pub fn keys(&self) -> Vec<ObjectKey> {
        let tables = self.tables.read();
        let mut keys = Vec::with_capacity(tables.count);
        for (namespace, names) in &tables.by_namespace {
            keys.extend(names.keys().map(|name| ObjectKey::new(namespace, name)));
        }
        keys
    }

    pub fn len(&self) -> usize {
        self.tables.read().count
    }

    /// Stores objects in one step.
    pub fn fill(&self, objects: impl Iterator<Item = (ObjectKey, Packed<K>)>) {
        let mut tables = self.tables.write();
        tables.recent.clear();
        objects.for_each(|(key, object)| tables.insert(key, object));
    }

    pub fn insert(&self, key: &ObjectKey, object: Packed<K>) {
        let mut tables = self.tables.write();
        tables.recent.remove(key);
        tables.insert(key.clone(), object);
    }

    /// Removes an object. False if there is none.
    pub fn remove(&self, key: &ObjectKey) -> bool {
        let mut tables = self.tables.write();
        tables.recent.remove(key);
        let Some(names) = tables.by_namespace.get_mut(&*key.namespace) else { return false };
        let is_removed = names.remove(&*key.name).is_some();
        if names.is_empty() {
            tables.by_namespace.remove(&*key.namespace);
        }
        tables.count -= usize::from(is_removed);
        is_removed
    }
}

/// Text that objects have in common, in the order in which they are serialized. Objects refer to it instead of repeating
/// it. It is never stored, so it may change with every version.
const DICTIONARY: &str = concat!(
    r#"{"apiVersion":"hookstream.dev/v1alpha1","kind":"EventHook","metadata":{"annotations":{"hookstream.dev/owner":"#,
    r#""meta.helm.sh/release-name":"","meta.helm.sh/release-namespace":"},"creationTimestamp":"2026-01-01T00:00:00Z","#,
    r#""deletionTimestamp":"","finalizers":["hookstream.dev/cleanup"],"generation":1,"labels":{"app.kubernetes.io/"#,
    r#"managed-by":"Helm","app.kubernetes.io/name":"","app.kubernetes.io/instance":"argocd.argoproj.io/instance":""#,
    r#"kustomize.toolkit.fluxcd.io/name":"kustomize.toolkit.fluxcd.io/namespace":"},"name":"","namespace":"default","#,
    r#""resourceVersion":"","uid":""},"spec":{"source":"crud","event":"consumers","filter":"data.operation == 'create'","#,
    r#""from":{"eventStreamRef":{"name":""}},"groupBy":[""],"snooze":{"period":"10m","trailing":"Last"},"onChange":{"#,
    r#""fields":[""]},"handler":{"webhookCustom":{"method":"POST","payload":{},"payloadFormat":{"body":"#,
    r#"{"lambda":{"functions":[""]},"log":{},{"webhook":{"url":"https://hooks.example.com/","urlSecretRef":{"name":"#,
    r#""headers":{"Authorization":"Content-Type":"application/json"},"headersFrom":[{"name":"","secretRef":{"name":"#,
    r#""format":"CloudEvents","signature":{"secretRef":{"name":"","key":"secret"},"scheme":"StandardWebhooks","#,
    r#""algorithm":"sha256","encoding":"hex"},"tls":{"caRef":{"kind":"ConfigMap","name":""}}}},"connectionRef":{"name":""#,
    r#""},"deliverBy":"Worker","delivery":{"paused":false,"timeout":"10s","retry":{"initialBackoff":"1s","#,
    r#""maxBackoff":"10m","maxAge":"24h","maxAttempts":10,"terminalStatuses":[400]},"concurrency":16,"rateLimit":{""#,
    r#""suspend":false,"managementPolicy":"Full","deletionPolicy":"Delete","rotation":""},"status":{"#,
    r#""observedGeneration":1,"conditions":[{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"the spec is valid","#,
    r#""observedGeneration":1,"reason":"Accepted","status":"True","type":"Ready"},{"lastTransitionTime":"2026-11-"#,
    r#"01T00:00:00Z","message":"deliveries succeed","observedGeneration":1,"reason":"Synced","status":"False","#,
    r#""type":"Synced"},{"reason":"Reconciling","type":"Reconciling"},{"reason":"Stalled","type":"Stalled"},"#,
    r#"{"reason":"Delivering","status":"True","type":"Delivering"},{"reason":"ReceiverFailing"}],"external":{"id":""#,
    r#"","secretHashes":{"delivery":{"summary":"","host":"","failingSince":"","lastSuccess":"","pending":0,"#,
    r#""handled":{"resume":""},"lastError":{"message":""}}}"#,
);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::EventHook;

    type Guard = DeserializeGuard<EventHook>;

    fn hook(namespace: &str, name: &str, version: u64) -> Guard {
        serde_json::from_value(json!({
            "apiVersion": "hookstream.dev/v1alpha1", "kind": "EventHook",
            "metadata": {"name": name, "namespace": namespace, "uid": format!("6f3c2a54-0000-4000-8000-{version:012}"),
                "generation": 1, "resourceVersion": version.to_string(), "creationTimestamp": "2026-11-14T22:13:20Z"},
            "spec": {"source": "orders", "event": "created", "delivery": {"concurrency": 8},
                "handler": {"webhook": {"url": format!("https://example.com/{name}"),
                    "signature": {"secretRef": {"name": "keys", "key": "secret"}}}}},
            "status": {"observedGeneration": 1, "conditions": [{"type": "Ready", "status": "True", "reason": "Synced",
                "message": "in sync", "observedGeneration": 1, "lastTransitionTime": "2026-11-14T22:13:20Z"}]}
        }))
        .unwrap()
    }

    fn unreadable(name: &str) -> Guard {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n"}, "spec": {"source": 7}}))
            .unwrap()
    }

    fn json_of(guard: &Guard) -> Value {
        match &guard.0 {
            Ok(object) => serde_json::to_value(object).unwrap(),
            Err(invalid) => json!({"error": invalid.error, "metadata": invalid.metadata}),
        }
    }

    #[test]
    fn an_object_comes_back_as_it_was() {
        for guard in [hook("n", "a", 1), unreadable("b")] {
            let packed = Packed::new(guard.clone());
            let back = packed.unpack(|json| serde_json::from_slice(json)).unwrap();
            assert_eq!(json_of(&back), json_of(&guard));
        }
    }

    #[test]
    fn a_usual_hook_takes_less_than_half_of_its_json() {
        let guard = hook("shop", "orders", 1);
        let json = serde_json::to_vec(guard.0.as_ref().unwrap()).unwrap();
        let Packed::Readable(bytes) = Packed::new(guard) else { panic!("not packed") };
        assert!(bytes.len() * 2 < json.len(), "{} of {} bytes", bytes.len(), json.len());
    }

    #[test]
    fn a_read_that_a_change_overtakes_hides_nothing() {
        let objects = PackedObjects::<EventHook>::default();
        let key = ObjectKey::new("n", "a");
        objects.insert(&key, Packed::new(hook("n", "a", 1)));
        // Kept by the first read, and forgotten with the change.
        for version in 1..4 {
            objects.insert(&key, Packed::new(hook("n", "a", version)));
            for _ in 0..2 {
                let read = objects.get("n", "a").unwrap();
                assert_eq!(kube::ResourceExt::resource_version(&*read), Some(version.to_string()));
            }
        }
        assert!(objects.remove(&key));
        assert!(objects.get("n", "a").is_none());
    }

    #[test]
    fn few_unpacked_objects_are_kept() {
        let objects = PackedObjects::<EventHook>::default();
        for number in 0..3 * RECENT {
            let name = format!("h{number}");
            objects.insert(&ObjectKey::new("n", &name), Packed::new(hook("n", &name, 1)));
            objects.get("n", &name).unwrap();
        }
        assert!(objects.tables.read().recent.len() <= RECENT);
        assert_eq!(objects.len(), 3 * RECENT);
    }

    #[derive(Clone, Debug)]
    enum Change {
        Insert(u8, u8, u64),
        Remove(u8, u8),
        Get(u8, u8),
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            (0..3u8, 0..4u8, 0..1000u64).prop_map(|(n, o, version)| Change::Insert(n, o, version)),
            (0..3u8, 0..4u8).prop_map(|(n, o)| Change::Remove(n, o)),
            (0..3u8, 0..4u8).prop_map(|(n, o)| Change::Get(n, o)),
        ]
    }

    proptest! {
        /// The packed objects are those of a plain map, whatever the order of changes and reads.
        #[test]
        fn equals_a_map(changes in prop::collection::vec(change(), 1..60)) {
            let objects = PackedObjects::<EventHook>::default();
            let mut model = BTreeMap::new();
            let key = |n: u8, o: u8| ObjectKey::new(&format!("n{n}"), &format!("o{o}"));
            for change in changes {
                match change {
                    Change::Insert(n, o, version) => {
                        let key = key(n, o);
                        let guard = hook(&key.namespace, &key.name, version);
                        model.insert(key.clone(), json_of(&guard));
                        objects.insert(&key, Packed::new(guard));
                    }
                    Change::Remove(n, o) => {
                        prop_assert_eq!(objects.remove(&key(n, o)), model.remove(&key(n, o)).is_some());
                    }
                    Change::Get(n, o) => {
                        let key = key(n, o);
                        let read = objects.get(&key.namespace, &key.name).map(|guard| json_of(&guard));
                        prop_assert_eq!(read.as_ref(), model.get(&key));
                    }
                }
                let all: BTreeMap<ObjectKey, Value> =
                    objects.all().map(|guard| (ObjectKey::of(&*guard), json_of(&guard))).collect();
                prop_assert_eq!(&all, &model);
                prop_assert_eq!(objects.len(), model.len());
                let mut keys = objects.keys();
                keys.sort();
                prop_assert!(keys.iter().eq(model.keys()));
                let of_one = model.keys().filter(|key| key.namespace == "n1").count();
                prop_assert_eq!(objects.in_namespace("n1").count(), of_one);
            }
        }
    }
}
