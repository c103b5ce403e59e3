//! Reads the pages of a list element by element. Bounds endless lists and the memory of the objects that are kept, and
//! fails instead of returning a partial list: the reconciler would take the objects of a missing page for deleted.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::error::AdminError;
use super::limit::{AdminMemory, AdminResponse};
use super::listing::{ListElement, ListFilter, ListedObject, Listing};
use super::response::{
    check_complete, invalid_json, is_valid_id, oversized_response, unexpected_response, vendor_date,
};
use crate::core::relay::is_worker_path;
use crate::memory::Reservation;

const MAX_PAGES: usize = 1000;
const MAX_OBJECTS: usize = 100_000;
/// Maximum bytes of all pages together.
const MAX_BYTES: usize = 256 * 1024 * 1024;
/// Maximum bytes of a name that is kept. No custom resource has a longer one.
const MAX_NAME: usize = 256;
/// Maximum bytes of a member besides the list, such as the position of the next page.
const MAX_MEMBER: usize = 8 * 1024;
/// Maximum bytes of the settings of an object in which the URL of a worker is searched.
const MAX_SETTINGS: usize = 16 * 1024;
/// The memory of an id's hash, and of an entry besides its texts.
const ID_COST: usize = 24;
const ENTRY_COST: usize = 96;

/// Where a vendor's page has its objects.
pub struct PageShape {
    /// The member that holds the list.
    pub list: &'static str,
    /// The members to read: the list, and others such as the position of the next page.
    pub members: &'static [&'static str],
    /// Accept an empty object as the list: Lua does not distinguish the two.
    pub is_lua: bool,
    /// Accept a list without an object around it.
    pub may_be_bare: bool,
}

/// What a page contains besides its objects.
#[derive(Debug, Default)]
pub struct Page {
    /// The number of objects, those of earlier pages included. None if there is no list.
    pub objects: Option<usize>,
    members: Vec<(&'static str, Value)>,
}

impl Page {
    /// Returns a member of `PageShape::members`; None if it is absent or null.
    pub fn member(&self, name: &str) -> Option<&Value> {
        self.members.iter().find(|(known, value)| *known == name && !value.is_null()).map(|(_, value)| value)
    }
}

/// The objects of the pages read so far.
pub struct PageCollector<'f> {
    filter: ListFilter<'f>,
    listing: Listing,
    memory: ListMemory,
    pages: usize,
    bytes: usize,
}

impl<'f> PageCollector<'f> {
    pub fn new(filter: ListFilter<'f>, memory: AdminMemory) -> Self {
        let memory = ListMemory { memory, reserved: None, used: 0 };
        PageCollector { filter, listing: Listing::default(), memory, pages: 0, bytes: 0 }
    }

    pub fn len(&self) -> usize {
        self.listing.count()
    }

    /// Adds the objects of one page. Skips objects that an earlier page contained, because concurrent creates and deletes
    /// shift the pages.
    ///
    /// Errors: an object without a valid id, a page that only repeats earlier objects, or an exceeded bound.
    pub fn add_page(&mut self, response: &AdminResponse, shape: &PageShape) -> Result<Page, AdminError> {
        check_complete(response)?;
        self.listing.vendor_time = self.listing.vendor_time.or_else(|| vendor_date(response));
        self.pages += 1;
        self.bytes = self.bytes.saturating_add(response.body.len());
        let before = self.len();
        let mut reader = PageReader { collector: self, shape, page: Page::default(), failure: None };
        let mut json = serde_json::Deserializer::from_slice(&response.body);
        let result = json.deserialize_any(&mut reader).and_then(|()| json.end());
        let PageReader { page, failure, .. } = reader;
        match failure {
            Some(ElementFailure::NoId) => {
                return Err(unexpected_response(response, "an object in the list has no valid id"));
            }
            Some(ElementFailure::NoMemory) => {
                let message = format!(
                    "there is no memory for a list of more than {} objects: remove objects at the vendor, or raise --memory-budget",
                    self.len()
                );
                return Err(oversized_response(response, &message));
            }
            Some(ElementFailure::TooMany) => return Err(self.endless(response)),
            None => {}
        }
        if result.is_err() {
            let is_json = serde_json::from_slice::<IgnoredAny>(&response.body).is_ok();
            return Err(match is_json {
                true => unexpected_response(response, "the response is not a list of objects"),
                false => invalid_json(response),
            });
        }
        if page.objects.is_some_and(|objects| objects > 0) && self.len() == before {
            return Err(unexpected_response(
                response,
                "the list repeats itself: a page contains only earlier objects",
            ));
        }
        if self.pages > MAX_PAGES || self.bytes > MAX_BYTES {
            return Err(self.endless(response));
        }
        Ok(page)
    }

    fn endless(&self, response: &AdminResponse) -> AdminError {
        let message = format!(
            "the list has no end: {} objects and {} bytes in {} pages: check what answers at the address",
            self.len(),
            self.bytes,
            self.pages
        );
        oversized_response(response, &message)
    }

    /// Adds one object.
    fn add(&mut self, object: &RawValue) -> Result<(), ElementFailure> {
        let head = ElementHead::parse(object);
        let id = head.id.ok_or(ElementFailure::NoId)?;
        if !self.listing.add_id(&id) {
            return Ok(());
        }
        if self.len() > MAX_OBJECTS {
            return Err(ElementFailure::TooMany);
        }
        let named = head.name.as_ref().map_or(0, |name| name.len() + id.len() + ENTRY_COST);
        if !self.memory.take(ID_COST + named) {
            return Err(ElementFailure::NoMemory);
        }
        if let Some(url) = &head.worker_url {
            if !self.memory.take(ENTRY_COST + id.len()) {
                return Err(ElementFailure::NoMemory);
            }
            self.listing.add_receiver(url, &id);
        }
        let is_selected = self.filter.selects(&ListElement { id: &id, name: head.name.as_deref(), object });
        if is_selected {
            if !self.memory.take(ENTRY_COST + id.len() + named) {
                return Err(ElementFailure::NoMemory);
            }
            // Without its text, the object is read on its own when it is needed.
            let text = self.memory.take(object.get().len()).then(|| object.to_owned());
            let name = head.name.as_deref().map(Into::into);
            self.listing.items.push(ListedObject { id: id.as_str().into(), name, object: text });
        }
        if let Some(name) = head.name {
            self.listing.names.entry(name.into()).or_insert_with(|| id.into());
        }
        Ok(())
    }

    /// Returns the complete list.
    pub fn finish(mut self) -> Listing {
        self.listing.keep_memory(self.memory.finish());
        self.listing
    }
}

/// Why an object ends the list.
enum ElementFailure {
    NoId,
    TooMany,
    NoMemory,
}

/// The memory of a list.
struct ListMemory {
    memory: AdminMemory,
    reserved: Option<Reservation>,
    used: u64,
}

impl ListMemory {
    /// Reserves this many more bytes. False: there are none.
    fn take(&mut self, bytes: usize) -> bool {
        let used = self.used.saturating_add(bytes as u64);
        // A little more than needed, so that not every object takes the pool's lock.
        let step = (used / 8).clamp(4 << 10, 256 << 10);
        let is_reserved = match &mut self.reserved {
            Some(reserved) if reserved.bytes() >= used => true,
            Some(reserved) => {
                reserved.try_grow_to(used + step).or_else(|_| reserved.try_grow_to(used)).is_ok()
            }
            None => {
                let reserved = self.memory.reserve(used + step).or_else(|_| self.memory.reserve(used));
                reserved.map(|reserved| self.reserved = Some(reserved)).is_ok()
            }
        };
        if is_reserved {
            self.used = used;
        }
        is_reserved
    }

    fn finish(mut self) -> Option<Reservation> {
        if let Some(reserved) = &mut self.reserved {
            reserved.shrink_to(self.used);
        }
        self.reserved
    }
}

/// The id of an object if it is valid, its name if it is a text, and the URL of a worker to which it sends events.
#[derive(Default)]
struct ElementHead {
    id: Option<String>,
    name: Option<String>,
    worker_url: Option<String>,
}

impl ElementHead {
    fn parse(object: &RawValue) -> Self {
        let mut deserializer = serde_json::Deserializer::from_str(object.get());
        deserializer.deserialize_any(HeadVisitor).unwrap_or_default()
    }
}

struct HeadVisitor;

impl<'de> Visitor<'de> for HeadVisitor {
    type Value = ElementHead;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<ElementHead, A::Error> {
        let mut head = ElementHead::default();
        while let Some(known) = members.next_key_seed(KnownKey(&["id", "name", "config", "destination"]))? {
            match known {
                Some("id") => head.id = text(members.next_value()?).filter(|id| is_valid_id(id)),
                Some("config") => head.worker_url = worker_url(members.next_value()?, "/url", "relays"),
                Some("destination") => {
                    head.worker_url =
                        worker_url(members.next_value()?, "/configuration/webhook_endpoint", "streams");
                }
                Some(_) => head.name = text(members.next_value()?),
                None => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        Ok(head)
    }
}

/// Reads a key: one of these names, or None for every other key.
struct KnownKey(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for KnownKey {
    type Value = Option<&'static str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KnownKey {
    type Value = Option<&'static str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().find(|known| **known == key).copied())
    }
}

/// Returns the URL at this place of an object's settings if it is one of a worker. Settings that are too large have none.
fn worker_url(settings: &RawValue, pointer: &str, collection: &str) -> Option<String> {
    let text = settings.get();
    // No JSON writer escapes these characters, so most settings need not be parsed.
    let may_be_worker = text.len() <= MAX_SETTINGS && text.contains("namespaces");
    let settings: Value = may_be_worker.then(|| serde_json::from_str(text).ok()).flatten()?;
    let url = settings.pointer(pointer)?.as_str()?;
    is_worker_path(url, collection).then(|| url.to_owned())
}

/// Returns a text of at most `MAX_NAME` bytes; None for every other value.
fn text(value: &RawValue) -> Option<String> {
    // An escaped character has up to six bytes.
    let may_be_short = value.get().len() <= MAX_NAME * 6 + 2;
    let text: Option<String> = may_be_short.then(|| serde_json::from_str(value.get()).ok()).flatten();
    text.filter(|text| text.len() <= MAX_NAME)
}

/// Reads a page and hands its objects to the collector.
struct PageReader<'c, 'f> {
    collector: &'c mut PageCollector<'f>,
    shape: &'c PageShape,
    page: Page,
    failure: Option<ElementFailure>,
}

impl<'de> Visitor<'de> for &mut PageReader<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a page of a list")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(known) = members.next_key_seed(KnownKey(self.shape.members))? {
            match known {
                Some(name) if name == self.shape.list => members.next_value_seed(ListReader(self))?,
                Some(name) => {
                    let value: &RawValue = members.next_value()?;
                    if value.get().len() > MAX_MEMBER {
                        return Err(A::Error::custom("a member is too long"));
                    }
                    let value = serde_json::from_str(value.get()).map_err(A::Error::custom)?;
                    self.page.members.push((name, value));
                }
                None => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<(), A::Error> {
        match self.shape.may_be_bare {
            true => ListReader(self).visit_seq(list),
            false => Err(A::Error::custom("the page is a list")),
        }
    }
}

/// Reads the list of a page. A value of another type is no list.
struct ListReader<'r, 'c, 'f>(&'r mut PageReader<'c, 'f>);

impl<'de> DeserializeSeed<'de> for ListReader<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ListReader<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let reader = self.0;
        let objects = reader.page.objects.get_or_insert(0);
        while let Some(object) = list.next_element::<&RawValue>()? {
            *objects += 1;
            if let Err(failure) = reader.collector.add(object) {
                reader.failure = Some(failure);
                return Err(A::Error::custom("the list ends here"));
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        if !self.0.shape.is_lua || members.next_key::<IgnoredAny>()?.is_some() {
            return Err(A::Error::custom("the list is an object"));
        }
        self.0.page.objects = Some(0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::admin::limit::response_for_tests;
    use crate::memory::MemoryPool;
    use crate::metrics::MemoryShareMetrics;

    const SHAPE: PageShape =
        PageShape { list: "data", members: &["data", "offset"], is_lua: true, may_be_bare: false };

    struct Setup {
        pool: Arc<MemoryPool>,
        metrics: MemoryShareMetrics,
    }

    fn setup(capacity: u64) -> Setup {
        let metrics = MemoryShareMetrics::default();
        Setup { pool: Arc::new(MemoryPool::new(capacity, metrics.clone())), metrics }
    }

    impl Setup {
        /// Reads one page. Keeps the objects whose id starts with `ours`.
        fn read(&self, body: &str) -> Result<(Page, Listing), AdminError> {
            let is_ours = |element: &ListElement<'_>| element.id.starts_with("ours");
            let memory = AdminMemory::new(self.pool.clone(), "n/c");
            let mut pages = PageCollector::new(ListFilter::new(&is_ours), memory);
            let page = pages.add_page(&response_for_tests(self.pool.clone(), body), &SHAPE)?;
            Ok((page, pages.finish()))
        }

        fn reason(&self, body: &str) -> &'static str {
            match self.read(body) {
                Ok((page, listing)) => panic!("{page:?} {} objects", listing.count()),
                Err(error) => (&error).into(),
            }
        }
    }

    fn nested(bytes: usize) -> String {
        format!("[{}0]", "{\"\":1},".repeat(bytes / 7))
    }

    #[test]
    fn keeps_selected_objects_and_the_names_of_the_others() {
        let setup = setup(1 << 20);
        let body = json!({"next": [1], "offset": "o", "data": [
            {"id": "ours", "name": "a", "x": {"y": [1, "z"]}}, {"name": "b", "id": "theirs"}, {"id": "third", "name": 7},
        ]});
        let (page, listing) = setup.read(&body.to_string()).unwrap();
        assert_eq!((page.objects, page.member("offset")), (Some(3), Some(&json!("o"))));
        assert_eq!(listing.items.len(), 1);
        assert_eq!(listing.items[0].parse().unwrap(), body["data"][0]);
        assert_eq!((listing.find_name("a"), listing.find_name("b")), (Some("ours"), Some("theirs")));
        assert!(["ours", "theirs", "third"].iter().all(|id| listing.may_contain(id)));
        assert!(!listing.may_contain("fourth") && listing.find_name("7").is_none());
        assert!(setup.metrics.used() > 0);
        drop(listing);
        assert_eq!(setup.metrics.used(), 0, "returned with the list");
    }

    #[test]
    fn foreign_objects_cost_a_hash_each() {
        let setup = setup(1 << 20);
        let objects: Vec<String> =
            (0..5000).map(|n| format!("{{\"id\":\"{n}{}\"}}", "x".repeat(200))).collect();
        let (_, listing) = setup.read(&format!("{{\"data\":[{}]}}", objects.join(","))).unwrap();
        assert_eq!((listing.count(), listing.items.len()), (5000, 0));
        assert!(setup.metrics.used() <= 5000 * ID_COST as u64 + (4 << 10), "{}", setup.metrics.used());
    }

    #[test]
    fn parsed_form_of_an_object_is_bounded() {
        let setup = setup(16 << 20);
        // Foreign objects are not parsed, whatever they contain.
        let (_, listing) =
            setup.read(&format!("{{\"data\":[{{\"id\":\"a\",\"x\":{}}}]}}", nested(8 << 20))).unwrap();
        assert!(listing.may_contain("a") && setup.metrics.used() < 4 << 10);
        let (_, listing) =
            setup.read(&format!("{{\"data\":[{{\"id\":\"ours\",\"x\":{}}}]}}", nested(1 << 20))).unwrap();
        let error = listing.items[0].parse().unwrap_err();
        assert_eq!(<&str>::from(&error), "ResponseTooLarge");
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        let (_, listing) = setup.read(&format!("{{\"data\":[{{\"id\":\"ours\",\"x\":{deep}}}]}}")).unwrap();
        assert_eq!(<&str>::from(&listing.items[0].parse().unwrap_err()), "UnexpectedAnswer");
    }

    #[test]
    fn object_without_memory_is_listed_without_its_text() {
        let setup = setup(256 << 10);
        let text = "x".repeat(300 << 10);
        let (_, listing) = setup.read(&json!({"data": [{"id": "ours", "x": text}]}).to_string()).unwrap();
        assert!(listing.may_contain("ours"));
        assert_eq!(<&str>::from(&listing.items[0].parse().unwrap_err()), "ResponseTooLarge");
    }

    #[test]
    fn list_without_memory_fails() {
        let setup = setup(256 << 10);
        let named =
            |n: usize| format!("{{\"id\":\"{n}\",\"name\":\"{}\"}}", "n".repeat(200) + &n.to_string());
        let objects: Vec<String> = (0..5000).map(named).collect();
        assert_eq!(setup.reason(&format!("{{\"data\":[{}]}}", objects.join(","))), "ResponseTooLarge");
        assert_eq!(setup.metrics.used(), 0, "a failed list keeps nothing");
        let many: Vec<String> = (0..=MAX_OBJECTS).map(|n| format!("{{\"id\":\"{n}\"}}")).collect();
        let setup = super::tests::setup(64 << 20);
        assert_eq!(setup.reason(&format!("{{\"data\":[{}]}}", many.join(","))), "ResponseTooLarge");
    }

    #[test]
    fn rejects_what_is_not_a_page() {
        let setup = setup(16 << 20);
        let long = "x".repeat(1 << 20);
        for body in [
            "[]",
            "7",
            "",
            "{\"data\": [",
            "{\"data\": [{\"id\": \"a\"}",
            "{\"data\": {\"a\": 1}}",
            "{\"data\": 1}",
            "{\"data\": [7]}",
            "{\"data\": [[{\"id\": \"a\"}]]}",
            "{\"data\": [{\"id\": \"..\"}]}",
            "{\"data\": [{}]}",
            "{\"data\": []} {}",
            &format!("{{\"data\": [{{\"id\": \"{long}\"}}]}}"),
            &format!("{{\"data\": [], \"offset\": \"{long}\"}}"),
        ] {
            assert_eq!(setup.reason(body), "UnexpectedAnswer", "{body:.80}");
        }
        let (page, _) = setup.read("{\"other\": []}").unwrap();
        assert_eq!(page.objects, None, "the caller reports a missing list");
        let (page, _) = setup.read("{\"data\": {}}").unwrap();
        assert_eq!(page.objects, Some(0), "Lua's empty list");
        let body = format!("{{\"data\": [{{\"id\": \"a\", \"name\": \"{long}\"}}]}}");
        let (_, listing) = setup.read(&body).unwrap();
        assert!(
            listing.may_contain("a") && setup.metrics.used() < 4 << 10,
            "no custom resource has such a name"
        );
    }
}
