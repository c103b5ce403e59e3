//! The observed objects of one kind: whole for the controller, or packed for a worker that has very many.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;

use kube::Resource;
use kube::runtime::reflector::store::{Writer, store};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::Event;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::deserialize_guard::DeserializeGuard;
use super::object::ObjectKey;
use super::packed_objects::{Packed, PackedObjects};

/// A kind whose objects a reflector keeps.
pub trait ReflectedKind:
    Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
}

impl<K> ReflectedKind for K where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
}

/// How a store keeps its objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectForm {
    /// As they are, in kube's store, which the controller needs.
    Whole,
    /// As compressed JSON: a fifth of the memory, and some microseconds for each read.
    Packed,
}

/// The reading side. Cheap to clone.
pub struct ObjectStore<K: Resource<DynamicType = ()> + Clone + 'static>(Kept<K>);

enum Kept<K: Resource<DynamicType = ()> + Clone + 'static> {
    Whole(Store<DeserializeGuard<K>>),
    Packed(Arc<PackedObjects<K>>),
}

/// The writing side.
pub enum ObjectWriter<K: Resource<DynamicType = ()> + Clone + 'static> {
    Whole(Writer<DeserializeGuard<K>>),
    Packed(Arc<PackedObjects<K>>),
}

/// An object that a writer has prepared, but not stored. The whole one is boxed, because otherwise a growing table of
/// 100,000 objects would be copied at each resize.
pub enum Prepared<K> {
    Whole(Box<DeserializeGuard<K>>),
    Packed(Packed<K>),
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Clone for ObjectStore<K> {
    fn clone(&self) -> Self {
        ObjectStore(match &self.0 {
            Kept::Whole(store) => Kept::Whole(store.clone()),
            Kept::Packed(objects) => Kept::Packed(objects.clone()),
        })
    }
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> ObjectStore<K> {
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<DeserializeGuard<K>>> {
        match &self.0 {
            Kept::Whole(store) => store.get(&ObjectRef::new(name).within(namespace)),
            Kept::Packed(objects) => objects.get(namespace, name),
        }
    }

    /// Returns all objects as they are now. Packed ones are unpacked one at a time: do not collect them.
    pub fn all(&self) -> impl Iterator<Item = Arc<DeserializeGuard<K>>> + use<K> {
        let (whole, packed) = match &self.0 {
            Kept::Whole(store) => (store.state(), None),
            Kept::Packed(objects) => (Vec::new(), Some(objects.all())),
        };
        whole.into_iter().chain(packed.into_iter().flatten())
    }

    /// Returns the objects of a namespace. The same holds for packed ones.
    pub fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = Arc<DeserializeGuard<K>>> + use<K> {
        let is_inside = |object: &DeserializeGuard<K>| object.meta().namespace.as_deref() == Some(namespace);
        let (whole, packed) = match &self.0 {
            Kept::Whole(store) => (store.state_filter(is_inside), None),
            Kept::Packed(objects) => (Vec::new(), Some(objects.in_namespace(namespace))),
        };
        whole.into_iter().chain(packed.into_iter().flatten())
    }

    pub fn len(&self) -> usize {
        match &self.0 {
            Kept::Whole(store) => store.len(),
            Kept::Packed(objects) => objects.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns kube's store. None if the objects are packed.
    pub fn whole(&self) -> Option<Store<DeserializeGuard<K>>> {
        match &self.0 {
            Kept::Whole(store) => Some(store.clone()),
            Kept::Packed(_) => None,
        }
    }
}

impl<K: ReflectedKind> ObjectWriter<K> {
    pub fn new(form: ObjectForm) -> Self {
        match form {
            ObjectForm::Whole => ObjectWriter::Whole(store().1),
            ObjectForm::Packed => ObjectWriter::Packed(Arc::default()),
        }
    }

    pub fn reader(&self) -> ObjectStore<K> {
        ObjectStore(match self {
            ObjectWriter::Whole(writer) => Kept::Whole(writer.as_reader()),
            ObjectWriter::Packed(objects) => Kept::Packed(objects.clone()),
        })
    }

    pub fn prepare(&self, object: DeserializeGuard<K>) -> Prepared<K> {
        match self {
            ObjectWriter::Whole(_) => Prepared::Whole(Box::new(object)),
            ObjectWriter::Packed(_) => Prepared::Packed(Packed::new(object)),
        }
    }

    /// Stores the first objects, in one step.
    pub fn fill(&mut self, objects: HashMap<ObjectKey, Prepared<K>>) {
        match self {
            ObjectWriter::Whole(writer) => {
                writer.apply_watcher_event(&Event::Init);
                for object in objects.into_values() {
                    if let Prepared::Whole(object) = object {
                        writer.apply_watcher_event(&Event::InitApply(*object));
                    }
                }
                writer.apply_watcher_event(&Event::InitDone);
            }
            ObjectWriter::Packed(packed) => packed.fill(objects.into_iter().filter_map(|(key, object)| {
                let Prepared::Packed(object) = object else { return None };
                Some((key, object))
            })),
        }
    }

    pub fn upsert(&mut self, key: &ObjectKey, object: DeserializeGuard<K>) {
        match self {
            ObjectWriter::Whole(writer) => writer.apply_watcher_event(&Event::Apply(object)),
            ObjectWriter::Packed(objects) => objects.insert(key, Packed::new(object)),
        }
    }

    /// Removes an object. False if there is none.
    pub fn remove(&mut self, key: &ObjectKey) -> bool {
        match self {
            ObjectWriter::Whole(writer) => {
                let stored = writer.as_reader().get(&ObjectRef::new(&key.name).within(&key.namespace));
                let Some(stored) = stored else { return false };
                writer.apply_watcher_event(&Event::Delete((*stored).clone()));
                true
            }
            ObjectWriter::Packed(objects) => objects.remove(key),
        }
    }

    pub fn keys(&self) -> Vec<ObjectKey> {
        match self {
            ObjectWriter::Whole(writer) => {
                writer.as_reader().state().iter().map(|object| ObjectKey::of(&**object)).collect()
            }
            ObjectWriter::Packed(objects) => objects.keys(),
        }
    }
}
