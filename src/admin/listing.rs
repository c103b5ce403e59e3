//! A vendor's list: its selected objects, and the ids and names of the others.
//!
//! A vendor may have many objects that no custom resource refers to. Of these only a hash of the id is kept, the name if
//! there is one, and the id if the object sends events to a worker. A selected object is kept as text, because its parsed form may need much more memory.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use serde_json::Value;
use serde_json::value::RawValue;

use super::error::{AdminError, ErrorDetail};
use super::parsed_size::parsed_size;
use super::response::MAX_PARSED;
use crate::core::relay_mark::{RelayMark, without_mark};
use crate::core::time::Millis;
use crate::memory::Reservation;

/// Maximum number of installations that a list remembers. A condition names them.
const MAX_INSTALLATIONS: usize = 8;

/// Selects the objects of a list that are kept.
#[derive(Clone, Copy)]
pub struct ListFilter<'a>(&'a (dyn Fn(&ListElement<'_>) -> bool + Sync));

impl<'a> ListFilter<'a> {
    pub fn new(selects: &'a (dyn Fn(&ListElement<'_>) -> bool + Sync)) -> Self {
        ListFilter(selects)
    }

    /// Keeps every object.
    pub fn all() -> Self {
        ListFilter(&|_| true)
    }

    pub(super) fn selects(&self, element: &ListElement<'_>) -> bool {
        (self.0)(element)
    }
}

/// An object of a list, while the list is read.
pub struct ListElement<'a> {
    pub id: &'a str,
    pub name: Option<&'a str>,
    pub(super) object: &'a RawValue,
}

impl ListElement<'_> {
    /// Returns the object as the vendor sent it; None if its parsed form would be too large.
    pub fn parse(&self) -> Option<Value> {
        parse(self.object).ok()
    }
}

/// A selected object.
#[derive(Debug)]
pub struct ListedObject {
    pub id: Box<str>,
    pub name: Option<Box<str>>,
    /// None if there was no memory for it.
    pub(super) object: Option<Box<RawValue>>,
}

impl ListedObject {
    /// Returns the object as the vendor sent it. Fails with `ResponseTooLarge` if it was not kept, or if its parsed form
    /// would be too large.
    pub fn parse(&self) -> Result<Value, AdminError> {
        match &self.object {
            Some(object) => parse(object),
            None => Err(too_large(format!("there was no memory for the object {:.64} of the list", self.id))),
        }
    }
}

fn parse(object: &RawValue) -> Result<Value, AdminError> {
    match parsed_size(object.get().as_bytes()) {
        Ok(size) if size <= MAX_PARSED => {
            serde_json::from_str(object.get()).map_err(|error| unreadable(&error))
        }
        Ok(size) => Err(too_large(format!("an object of the list needs {size} bytes of memory"))),
        Err(error) => Err(unreadable(&error)),
    }
}

fn too_large(message: String) -> AdminError {
    AdminError::ResponseTooLarge(ErrorDetail { message, ..ErrorDetail::default() })
}

/// Returns the error of an object that the list accepted as JSON, but is nested too deeply.
fn unreadable(error: &serde_json::Error) -> AdminError {
    let message = format!("an object of the list cannot be read: {error}");
    AdminError::UnexpectedAnswer(ErrorDetail { message, ..ErrorDetail::default() })
}

/// All objects of one kind.
#[derive(Debug, Default)]
pub struct Listing {
    /// The selected objects, in the order of the list.
    pub items: Vec<ListedObject>,
    /// The ids by name, of all objects that have a name.
    pub(super) names: HashMap<Box<str>, Box<str>>,
    /// The ids of the objects that send events to a worker, by the hash of the URL.
    receivers: HashMap<u64, Vec<Box<str>>>,
    /// The installations that marked relays, at most `MAX_INSTALLATIONS`.
    installations: BTreeSet<String>,
    ids: IdSet,
    /// The `Date` header of the first page: the vendor's clock.
    pub vendor_time: Option<Millis>,
    /// The memory of the members above.
    _memory: Option<Reservation>,
}

impl Listing {
    /// Returns true if the list contains an object with this id. Objects whose ids have the same hash cannot be
    /// distinguished, so only false is proof.
    pub fn may_contain(&self, id: &str) -> bool {
        self.ids.contains(id)
    }

    /// Returns the id of the object with this name.
    pub fn find_name(&self, name: &str) -> Option<&str> {
        self.names.get(name).map(|id| &**id)
    }

    /// Returns the ids of the objects that send events to this URL of a worker, whatever their marks.
    pub fn ids_by_receiver(&self, url: &str) -> impl Iterator<Item = &str> {
        self.receivers.get(&self.ids.hasher.hash_one(without_mark(url))).into_iter().flatten().map(|id| &**id)
    }

    /// Adds an object that sends events to this URL of a worker.
    pub(super) fn add_receiver(&mut self, url: &str, id: &str) {
        self.receivers.entry(self.ids.hasher.hash_one(without_mark(url))).or_default().push(id.into());
        if self.installations.len() < MAX_INSTALLATIONS
            && let Some(mark) = RelayMark::parse(url)
        {
            self.installations.insert(mark.installation);
        }
    }

    /// Returns the installations that marked relays, at most `MAX_INSTALLATIONS`.
    pub fn installations(&self) -> &BTreeSet<String> {
        &self.installations
    }

    /// Adds an id. Returns false if the list has it already.
    pub(super) fn add_id(&mut self, id: &str) -> bool {
        self.ids.insert(id)
    }

    /// Keeps the memory reserved until the list is dropped.
    pub(super) fn keep_memory(&mut self, memory: Option<Reservation>) {
        self._memory = memory;
    }

    /// Returns the number of objects, selected or not.
    pub fn count(&self) -> usize {
        self.ids.hashes.len()
    }
}

/// Ids, as hashes with a random key: 8 bytes each, whatever the length of the ids.
#[derive(Debug, Default)]
struct IdSet {
    hasher: RandomState,
    hashes: HashSet<u64>,
}

impl IdSet {
    fn insert(&mut self, id: &str) -> bool {
        self.hashes.insert(self.hasher.hash_one(id))
    }

    fn contains(&self, id: &str) -> bool {
        self.hashes.contains(&self.hasher.hash_one(id))
    }
}
