//! The custom resources that may own an external object, by its id. With ten thousand objects, a search through all of
//! them for each adoption would dominate the controller's work.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::ownership::normalized_id;
use crate::cluster::{ObjectKey, ResourceKind};

/// One custom resource, and the external ids that it names.
pub type IndexEntry = (ResourceKind, ObjectKey, Vec<String>);

/// Candidates by kind and external id. The index only narrows the search: each candidate is checked as it is now.
#[derive(Default)]
pub struct OwnerIndex(Mutex<Option<Entries>>);

#[derive(Default)]
struct Entries {
    candidates: HashMap<(ResourceKind, String), Vec<ObjectKey>>,
    ids: HashMap<(ResourceKind, ObjectKey), Vec<String>>,
}

impl OwnerIndex {
    /// Returns the custom resources that name the external object. The first call fills the index with `all`.
    pub fn candidates<I>(&self, kind: ResourceKind, id: &str, all: impl FnOnce() -> I) -> Vec<ObjectKey>
    where
        I: IntoIterator<Item = IndexEntry>,
    {
        let mut entries = self.0.lock();
        // Filled under the lock, so that a change that arrives meanwhile is applied afterwards.
        let entries = entries.get_or_insert_with(|| {
            let mut entries = Entries::default();
            all().into_iter().for_each(|(kind, key, ids)| entries.replace(kind, key, ids));
            entries
        });
        entries.candidates.get(&(kind, normalized_id(kind, id))).cloned().unwrap_or_default()
    }

    /// Replaces the ids that a custom resource names; none for one that no longer exists. An index that was not filled yet
    /// stays empty, because it will be filled from the objects.
    pub fn update(&self, kind: ResourceKind, key: &ObjectKey, ids: Vec<String>) {
        if let Some(entries) = &mut *self.0.lock() {
            entries.replace(kind, key.clone(), ids);
        }
    }
}

impl Entries {
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
        let (index, a, b) = (OwnerIndex::default(), ObjectKey::new("n", "a"), ObjectKey::new("n", "b"));
        let ids = |ids: &[&str]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
        index.update(KIND, &a, ids(&["ignored"]));
        let find = |id: &str| index.candidates(KIND, id, || vec![(KIND, a.clone(), ids(&["X", "x", "y"]))]);
        assert_eq!(find("ignored"), [], "filled from the objects at the first search");
        assert_eq!(find("x"), std::slice::from_ref(&a));
        index.update(KIND, &b, ids(&["x"]));
        index.update(KIND, &b, ids(&["x"]));
        assert_eq!(find("X"), [a.clone(), b.clone()]);
        index.update(KIND, &a, ids(&["z"]));
        assert_eq!((find("x"), find("y"), find("z")), (vec![b.clone()], vec![], vec![a.clone()]));
        index.update(KIND, &a, Vec::new());
        index.update(KIND, &b, Vec::new());
        let entries = index.0.lock();
        let entries = entries.as_ref().unwrap();
        assert!(entries.candidates.is_empty() && entries.ids.is_empty());
    }
}
