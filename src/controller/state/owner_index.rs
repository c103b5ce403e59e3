//! The custom resources that may own an external object, by its id. With ten thousand objects, a search through all of
//! them for each adoption would dominate the controller's work.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::ownership::normalized_id;
use crate::cluster::{ObjectKey, ResourceKind};

/// The kinds whose objects have external objects.
const KINDS: [ResourceKind; 3] = [ResourceKind::EventHook, ResourceKind::EventStream, ResourceKind::Hook];

/// One custom resource, and the external ids that it names.
pub type IndexEntry = (ResourceKind, ObjectKey, Vec<String>);

/// Candidates by kind and external id. The index only narrows the search: each candidate is checked as it is now.
pub struct OwnerIndex {
    entries: Mutex<Option<Entries>>,
    /// Returns the entries of all custom resources.
    all: Box<dyn Fn() -> Vec<IndexEntry> + Send + Sync>,
}

#[derive(Default)]
struct Entries {
    candidates: HashMap<(ResourceKind, String), Vec<ObjectKey>>,
    ids: HashMap<(ResourceKind, ObjectKey), Vec<String>>,
}

impl OwnerIndex {
    /// Creates an empty index. The first search fills it with `all`.
    pub fn new(all: impl Fn() -> Vec<IndexEntry> + Send + Sync + 'static) -> Self {
        OwnerIndex { entries: Mutex::default(), all: Box::new(all) }
    }

    /// Returns the custom resources that name the external object.
    pub fn candidates(&self, kind: ResourceKind, id: &str) -> Vec<ObjectKey> {
        self.search(|entries| entries.find(kind, id).cloned()).unwrap_or_default()
    }

    /// True if a custom resource of any kind names an external object with this id.
    pub fn contains(&self, id: &str) -> bool {
        self.search(|entries| KINDS.iter().any(|kind| entries.find(*kind, id).is_some()))
    }

    fn search<T>(&self, find: impl FnOnce(&Entries) -> T) -> T {
        let mut entries = self.entries.lock();
        // Filled under the lock, so that a change that arrives meanwhile is applied afterwards.
        find(entries.get_or_insert_with(|| {
            let mut entries = Entries::default();
            (self.all)().into_iter().for_each(|(kind, key, ids)| entries.replace(kind, key, ids));
            entries
        }))
    }

    /// Replaces the ids that a custom resource names; none for one that no longer exists. An index that was not filled yet
    /// stays empty, because it will be filled from the objects.
    pub fn update(&self, kind: ResourceKind, key: &ObjectKey, ids: Vec<String>) {
        if let Some(entries) = &mut *self.entries.lock() {
            entries.replace(kind, key.clone(), ids);
        }
    }
}

impl Entries {
    fn find(&self, kind: ResourceKind, id: &str) -> Option<&Vec<ObjectKey>> {
        self.candidates.get(&(kind, normalized_id(kind, id)))
    }

    fn replace(&mut self, kind: ResourceKind, key: ObjectKey, ids: Vec<String>) {
        let mut ids: Vec<String> = ids.iter().map(|id| normalized_id(kind, id)).collect();
        ids.sort_unstable();
        ids.dedup();
        let before = self.ids.remove(&(kind, key.clone())).unwrap_or_default();
        for id in before.into_iter().filter(|id| !ids.contains(id)) {
            let entry = (kind, id);
            if let Some(keys) = self.candidates.get_mut(&entry) {
                keys.retain(|other| *other != key);
                if keys.is_empty() {
                    self.candidates.remove(&entry);
                }
            }
        }
        for id in &ids {
            let keys = self.candidates.entry((kind, id.clone())).or_default();
            if !keys.contains(&key) {
                keys.push(key.clone());
            }
        }
        if !ids.is_empty() {
            self.ids.insert((kind, key), ids);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: ResourceKind = ResourceKind::EventHook;

    #[test]
    fn follows_the_ids_that_objects_name() {
        let (a, b) = (ObjectKey::new("n", "a"), ObjectKey::new("n", "b"));
        let ids = |ids: &[&str]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
        let entry = (KIND, a.clone(), ids(&["X", "x", "y"]));
        let index = OwnerIndex::new(move || vec![entry.clone()]);
        index.update(KIND, &a, ids(&["ignored"]));
        let find = |id: &str| index.candidates(KIND, id);
        assert_eq!(find("ignored"), [], "filled from the objects at the first search");
        assert_eq!(find("x"), std::slice::from_ref(&a));
        assert!(index.contains("X") && !index.contains("ignored"));
        index.update(KIND, &b, ids(&["x"]));
        index.update(KIND, &b, ids(&["x"]));
        assert_eq!(find("X"), [a.clone(), b.clone()]);
        index.update(KIND, &a, ids(&["z"]));
        assert_eq!((find("x"), find("y"), find("z")), (vec![b.clone()], vec![], vec![a.clone()]));
        index.update(KIND, &a, Vec::new());
        index.update(KIND, &b, Vec::new());
        assert!(!index.contains("x"));
        let entries = index.entries.lock();
        let entries = entries.as_ref().unwrap();
        assert!(entries.candidates.is_empty() && entries.ids.is_empty());
    }
}
