//! Snapshots of a vendor's objects: one list call serves all objects of a Connection. A resync of a thousand objects
//! takes one call instead of a thousand.
//!
//! Of a list, a snapshot keeps the objects to which custom resources refer, and of the others a hash of the id and the name
//! (`admin::Listing`), so that a vendor with many foreign objects costs little. What it keeps is reserved in the memory
//! budget. An object that is not kept is read with a GET.
//!
//! A snapshot is short-lived. The controller's own writes are recorded on top of it. A write without a response makes
//! the entry of its object unknown, and the next reconcile reads that object with a GET.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value;

use crate::admin::{AdminError, ExternalClient, ListElement, ListFilter, ListScope, Listing};
use crate::core::relay_mark::without_mark;
use crate::core::time::Millis;
use crate::memory::Reservation;

/// Maximum number of reconciles that wait for one list call, and their maximum wait. Further ones are requeued: a host
/// that hangs must not occupy the reconcile slots of Connections to other hosts.
const MAX_WAITERS: usize = 8;
const MAX_WAIT: Duration = Duration::from_secs(2);
/// Requeue delay of a reconcile that exceeds these bounds.
const REQUEUE_DELAY: Duration = Duration::from_secs(1);
/// An unused snapshot is dropped after this time, to free its memory.
const IDLE_TIME_TO_LIVE: Duration = Duration::from_secs(120);

/// True for an id that a custom resource of any kind names.
type IsNamed = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// The snapshots by scope (address, credentials, TLS identity and kind).
pub struct Snapshots {
    by_scope: Mutex<HashMap<ListScope, Arc<Shared>>>,
    is_named: IsNamed,
}

#[derive(Default)]
struct Shared {
    /// Locked during a list call. Concurrent callers wait for it and share its result.
    listing: tokio::sync::Mutex<()>,
    waiters: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    list: Option<ListedObjects>,
    /// Our own writes since the list, by id.
    writes: HashMap<String, (Instant, RecordedWrite)>,
    /// When the last list call failed, and with which error.
    last_failure: Option<(Instant, AdminError)>,
    last_used: Option<Instant>,
}

/// The result of one list call.
struct ListedObjects {
    /// When the call began.
    begun: Instant,
    /// Its `items` are sorted by id.
    listing: Listing,
}

/// The result of one of our own writes.
#[derive(Clone)]
enum RecordedWrite {
    Present(Arc<StoredObject>),
    Deleted,
    /// There was no response: the vendor may have carried out the write or not. Or there was no memory for the object.
    Unknown,
}

/// An object as text, because its parsed form may need much more memory.
struct StoredObject {
    name: Option<String>,
    receiver_url: Option<String>,
    text: String,
    _memory: Reservation,
}

/// One object in a snapshot.
#[derive(Clone, Debug, PartialEq)]
pub enum SnapshotEntry {
    Present(Arc<Value>),
    Absent,
    /// The snapshot proves nothing about this object: read it with a GET.
    Unknown,
}

/// What a list says about a name, and the vendor's clock.
pub struct ListedName {
    /// The id of the object with the name.
    pub id: Option<String>,
    pub at: Option<Millis>,
}

impl Snapshots {
    /// `is_named`: true for an id that a custom resource of any kind names.
    pub fn new(is_named: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        Snapshots { by_scope: Mutex::default(), is_named: Box::new(is_named) }
    }

    fn shared(&self, scope: ListScope) -> Arc<Shared> {
        let mut all = self.by_scope.lock();
        let now = Instant::now();
        all.retain(|key, shared| {
            let is_fresh = |used: Instant| now.duration_since(used) < IDLE_TIME_TO_LIVE;
            *key == scope
                || Arc::strong_count(shared) > 1
                || shared.state.lock().last_used.is_none_or(is_fresh)
        });
        let shared = all.entry(scope).or_default().clone();
        shared.state.lock().last_used = Some(now);
        shared
    }

    /// Returns one object from a list that is at most `max_age` old. Calls the vendor if there is no such list.
    pub async fn get<C: ExternalClient>(
        &self,
        client: &C,
        id: &str,
        max_age: Duration,
    ) -> Result<SnapshotEntry, AdminError> {
        let shared = self.shared(client.list_scope());
        shared.refresh(client, max_age, &self.is_named).await?;
        Ok(shared.state.lock().entry::<C>(id))
    }

    /// Returns the installations that marked relays, by the last list. None if there is no list.
    pub fn installations(&self, scope: ListScope) -> Option<BTreeSet<String>> {
        let shared = self.by_scope.lock().get(&scope)?.clone();
        let state = shared.state.lock();
        Some(state.list.as_ref()?.listing.installations().clone())
    }

    /// Returns the ids of the objects that may send events to this URL, sorted, from a list that is at most `max_age` old.
    pub async fn find_by_url<C: ExternalClient>(
        &self,
        client: &C,
        url: &str,
        max_age: Duration,
    ) -> Result<Vec<String>, AdminError> {
        let shared = self.shared(client.list_scope());
        shared.refresh(client, max_age, &self.is_named).await?;
        Ok(shared.state.lock().ids_by_url(url))
    }

    /// Finds a name in a list that is at most `max_age` old. With zero, the list call begins after this call.
    pub async fn find_name<C: ExternalClient>(
        &self,
        client: &C,
        name: Option<&str>,
        max_age: Duration,
    ) -> Result<ListedName, AdminError> {
        let shared = self.shared(client.list_scope());
        shared.refresh(client, max_age, &self.is_named).await?;
        let state = shared.state.lock();
        let at = state.list.as_ref().and_then(|list| list.listing.vendor_time);
        Ok(ListedName { id: name.and_then(|name| state.find_name(name)), at })
    }

    /// Runs a write. The entry is unknown during the call and stays unknown if there is no response. If the call was
    /// never sent, restores the previous entry: the call changed nothing, and an unknown entry would cost a GET within
    /// the rate limit.
    pub async fn track_write<T>(
        &self,
        scope: ListScope,
        id: &str,
        call: impl Future<Output = Result<T, AdminError>>,
    ) -> Result<T, AdminError> {
        let before = self.shared(scope).state.lock().writes.get(id).cloned();
        self.mark_unknown(scope, id);
        let result = call.await;
        if result.as_ref().is_err_and(AdminError::is_deferred) {
            let shared = self.shared(scope);
            let writes = &mut shared.state.lock().writes;
            match before {
                Some(before) => writes.insert(id.to_owned(), before),
                None => writes.remove(id),
            };
        }
        result
    }

    /// Records that a read or write of the object failed, so that an earlier list proves nothing about the object.
    pub fn mark_unknown(&self, scope: ListScope, id: &str) {
        self.record(scope, id, RecordedWrite::Unknown);
    }

    /// Records the object as the vendor's last response shows it. Without memory for it, the object is unknown.
    pub fn mark_present<C: ExternalClient>(&self, client: &C, id: &str, item: &Value) {
        let text = item.to_string();
        let write = match client.memory().reserve((text.len() + id.len()) as u64) {
            Ok(memory) => {
                let name = item.get("name").and_then(Value::as_str).map(ToOwned::to_owned);
                let receiver_url = C::receiver_url(item).map(ToOwned::to_owned);
                RecordedWrite::Present(Arc::new(StoredObject { name, receiver_url, text, _memory: memory }))
            }
            Err(_) => RecordedWrite::Unknown,
        };
        self.record(client.list_scope(), id, write);
    }

    /// Records that the object was deleted or does not exist.
    pub fn mark_deleted(&self, scope: ListScope, id: &str) {
        self.record(scope, id, RecordedWrite::Deleted);
    }

    fn record(&self, scope: ListScope, id: &str, write: RecordedWrite) {
        self.shared(scope).state.lock().writes.insert(id.to_owned(), (Instant::now(), write));
    }

    /// Drops every snapshot: another replica may write from now on.
    pub fn clear(&self) {
        self.by_scope.lock().clear();
    }
}

impl Shared {
    /// Lists the objects, unless there is a list that is at most `max_age` old. One list call at a time; callers that
    /// exceed `MAX_WAITERS` or `MAX_WAIT` get `Postponed`.
    async fn refresh<C: ExternalClient>(
        &self,
        client: &C,
        max_age: Duration,
        is_named: &IsNamed,
    ) -> Result<(), AdminError> {
        let requested = Instant::now();
        let is_fresh = |state: &State| {
            let age = state.list.as_ref().map(|list| requested.saturating_duration_since(list.begun));
            age.is_some_and(|age| age <= max_age)
        };
        let postponed = || AdminError::Postponed(REQUEUE_DELAY.mul_f64(1.0 + fastrand::f64()));
        let waiter = Waiter(&self.waiters);
        if waiter.0.fetch_add(1, Ordering::Relaxed) >= MAX_WAITERS {
            return if is_fresh(&self.state.lock()) { Ok(()) } else { Err(postponed()) };
        }
        let locked = tokio::time::timeout(MAX_WAIT, self.listing.lock()).await;
        let _one_at_a_time = locked.map_err(|_| postponed())?;
        drop(waiter);
        {
            let state = self.state.lock();
            if is_fresh(&state) {
                return Ok(());
            }
            // Callers that waited for a failed list share its error. Otherwise each of them would send one more list
            // call.
            if let Some((_, error)) = state.last_failure.as_ref().filter(|(at, _)| *at >= requested) {
                return Err(error.clone());
            }
        }
        let begun = Instant::now();
        // A list that shows only parts of its objects is good for ids and names alone.
        let is_wanted = |element: &ListElement<'_>| C::LIST_IS_COMPLETE && is_named(element.id);
        let mut listing = client.list(ListFilter::new(&is_wanted)).await.inspect_err(|error| {
            // A call that our own rate limiter postponed is no failure of the vendor: the next caller may have a higher
            // priority.
            if error.is_deferred() {
                return;
            }
            self.state.lock().last_failure = Some((Instant::now(), error.clone()));
        })?;
        listing.items.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        let list = ListedObjects { begun, listing };
        let mut state = self.state.lock();
        state.writes.retain(|_, (at, _)| *at >= begun);
        state.list = Some(list);
        Ok(())
    }
}

/// Counts as one waiter until it is dropped.
struct Waiter<'a>(&'a AtomicUsize);

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl State {
    /// Returns our own write of the object, unless the list is newer. A write that ended after the list call began may
    /// be missing in its result.
    fn write(&self, id: &str) -> Option<&RecordedWrite> {
        let (at, write) = self.writes.get(id)?;
        self.list.as_ref().is_none_or(|list| *at >= list.begun).then_some(write)
    }

    fn entry<C: ExternalClient>(&self, id: &str) -> SnapshotEntry {
        match self.write(id) {
            Some(RecordedWrite::Present(stored)) => match serde_json::from_str(&stored.text) {
                Ok(item) => SnapshotEntry::Present(Arc::new(item)),
                Err(_) => SnapshotEntry::Unknown,
            },
            Some(RecordedWrite::Deleted) => SnapshotEntry::Absent,
            Some(RecordedWrite::Unknown) => SnapshotEntry::Unknown,
            None => self.list.as_ref().map_or(SnapshotEntry::Absent, |list| list.entry::<C>(id)),
        }
    }

    /// Returns the id of the object with this name.
    fn find_name(&self, name: &str) -> Option<String> {
        let list = self.list.as_ref()?;
        let mut newer = self.writes.iter().filter(|(_, (at, _))| *at >= list.begun);
        let written = newer.find(|(_, (_, write))| match write {
            RecordedWrite::Present(stored) => stored.name.as_deref() == Some(name),
            RecordedWrite::Deleted | RecordedWrite::Unknown => false,
        });
        if let Some((id, _)) = written {
            return Some(id.clone());
        }
        let id = list.listing.find_name(name)?;
        // Our own write may have deleted or renamed the object since.
        let has_other_name =
            matches!(self.write(id), Some(RecordedWrite::Deleted | RecordedWrite::Present(_)));
        (!has_other_name).then(|| id.to_owned())
    }

    /// Returns the ids of the objects that send events to this URL of a worker, whatever their marks, sorted.
    fn ids_by_url(&self, url: &str) -> Vec<String> {
        let url = without_mark(url);
        let listed = self.list.iter().flat_map(|list| list.listing.ids_by_receiver(url));
        // A write without a response may have left the object as the list shows it.
        let is_unchanged = |id: &&str| matches!(self.write(id), None | Some(RecordedWrite::Unknown));
        let mut ids: Vec<String> = listed.filter(is_unchanged).map(ToOwned::to_owned).collect();
        let written = self.writes.keys().filter(|id| match self.write(id) {
            Some(RecordedWrite::Present(stored)) => {
                stored.receiver_url.as_deref().map(without_mark) == Some(url)
            }
            _ => false,
        });
        ids.extend(written.cloned());
        ids.sort_unstable();
        ids
    }
}

impl ListedObjects {
    fn entry<C: ExternalClient>(&self, id: &str) -> SnapshotEntry {
        let items = &self.listing.items;
        let found = items.binary_search_by(|item| (*item.id).cmp(id)).ok().and_then(|at| items.get(at));
        match found.map(|item| item.parse()) {
            Some(Ok(item)) => SnapshotEntry::Present(Arc::new(C::normalize(item))),
            Some(Err(_)) => SnapshotEntry::Unknown,
            None if self.listing.may_contain(id) => SnapshotEntry::Unknown,
            None => SnapshotEntry::Absent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::json;

    use crate::admin::kong::{KongAccess, KongClient};
    use crate::admin::testing::{ScriptedServer, raw, reply};

    /// Returns a gateway with these hooks, and a client of it.
    async fn gateway(hooks: Value) -> (ScriptedServer, KongClient) {
        let server = ScriptedServer::start(move |request| match request.line.starts_with("GET") {
            true => reply(200, &[], &json!({ "data": hooks })),
            false => raw(204, &[], ""),
        })
        .await;
        let client = KongClient::new(KongAccess {
            http: server.client(),
            admin_url: server.base.clone(),
            workspace: None,
            token: None,
            capabilities: Arc::default(),
        });
        (server, client)
    }

    fn snapshots() -> Snapshots {
        Snapshots::new(|id| id == "i")
    }

    #[tokio::test]
    async fn finds_objects_by_url() {
        let url = |n: u32| format!("http://worker/v1/namespaces/n/relays/{n}");
        let hook = |id: &str, n: u32| json!({"id": id, "config": {"url": url(n)}});
        let other = json!({"id": "other", "config": {"url": "http://elsewhere/"}});
        let (_server, client) = gateway(json!([hook("b", 1), hook("a", 1), hook("c", 2), other])).await;
        let snapshots = snapshots();
        let find =
            async |n: u32| snapshots.find_by_url(&client, &url(n), Duration::from_secs(60)).await.unwrap();
        assert_eq!((find(1).await, find(2).await), (vec!["a".to_owned(), "b".into()], vec!["c".to_owned()]));
        snapshots.mark_present(&client, "a", &hook("a", 2));
        snapshots.mark_unknown(client.list_scope(), "b");
        snapshots.mark_present(&client, "d", &hook("d", 3));
        assert_eq!((find(1).await, find(2).await), (vec!["b".to_owned()], vec!["a".to_owned(), "c".into()]));
        snapshots.mark_deleted(client.list_scope(), "b");
        assert_eq!((find(1).await, find(3).await), (vec![], vec!["d".to_owned()]));
    }

    #[tokio::test]
    async fn postponed_write_keeps_the_entry() {
        let (_server, client) = gateway(json!([])).await;
        let (snapshots, scope) = (snapshots(), client.list_scope());
        let entry = || snapshots.shared(scope).state.lock().entry::<KongClient>("i");
        let fails = async |error: AdminError| {
            snapshots.track_write::<()>(scope, "i", async { Err(error) }).await.is_err()
        };
        assert!(fails(AdminError::Postponed(Duration::ZERO)).await);
        assert_eq!(entry(), SnapshotEntry::Absent, "the call was never sent");
        assert!(fails(AdminError::Unreachable("no answer".into())).await);
        assert_eq!(entry(), SnapshotEntry::Unknown, "the vendor may have carried it out");
        assert!(fails(AdminError::Postponed(Duration::ZERO)).await);
        assert_eq!(entry(), SnapshotEntry::Unknown, "the earlier write is still unknown");
        snapshots.mark_present(&client, "i", &Value::Null);
        assert!(fails(AdminError::Postponed(Duration::ZERO)).await);
        assert_eq!(entry(), SnapshotEntry::Present(Arc::new(Value::Null)));
    }

    #[tokio::test]
    async fn keeps_the_objects_of_custom_resources_only() {
        let hooks = json!([{"id": "i", "snooze": 0, "name": "ours"}, {"id": "foreign", "name": "theirs"}]);
        let (_server, client) = gateway(hooks).await;
        let snapshots = snapshots();
        let entry = async |id: &str| snapshots.get(&client, id, Duration::from_secs(60)).await.unwrap();
        let ours = json!({"id": "i", "snooze": null, "name": "ours"});
        assert_eq!(
            entry("i").await,
            SnapshotEntry::Present(Arc::new(ours)),
            "normalized, as a GET returns it"
        );
        assert_eq!(entry("foreign").await, SnapshotEntry::Unknown, "listed, so a GET can show it");
        assert_eq!(entry("absent").await, SnapshotEntry::Absent);
        let name =
            async |name: &str| snapshots.find_name(&client, Some(name), Duration::ZERO).await.unwrap().id;
        assert_eq!(name("theirs").await.as_deref(), Some("foreign"));
        assert_eq!(name("other").await, None);
    }

    #[tokio::test]
    async fn own_writes_during_a_list_count() {
        let (_server, client) =
            gateway(json!([{"id": "i", "name": "old"}, {"id": "j", "name": "gone"}])).await;
        let snapshots = snapshots();
        assert_eq!(
            snapshots.find_name(&client, Some("old"), Duration::ZERO).await.unwrap().id.as_deref(),
            Some("i")
        );
        snapshots.mark_present(&client, "i", &json!({"id": "i", "name": "new"}));
        snapshots.mark_deleted(client.list_scope(), "j");
        let shared = snapshots.shared(client.list_scope());
        let names = ["old", "new", "gone"].map(|name| shared.state.lock().find_name(name));
        assert_eq!(names, [None, Some("i".to_owned()), None]);
    }
}
