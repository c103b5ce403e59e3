//! Snapshots of a vendor's objects: one list call serves all objects of a Connection. A resync of a thousand objects
//! takes one call instead of a thousand.
//!
//! A snapshot is short-lived. The controller's own writes are recorded on top of it. A write without a response makes
//! the entry of its object unknown, and the next reconcile reads that object with a GET.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value;

use crate::admin::{AdminError, ExternalClient, ListScope};
use crate::core::time::Millis;

/// Maximum number of reconciles that wait for one list call, and their maximum wait. Further ones are requeued: a host
/// that hangs must not occupy the reconcile slots of Connections to other hosts.
const MAX_WAITERS: usize = 8;
const MAX_WAIT: Duration = Duration::from_secs(2);
/// Requeue delay of a reconcile that exceeds these bounds.
const REQUEUE_DELAY: Duration = Duration::from_secs(1);
/// An unused snapshot is dropped after this time, to free its memory.
const IDLE_TIME_TO_LIVE: Duration = Duration::from_secs(120);

/// The snapshots by scope (address, credentials, TLS identity and kind).
#[derive(Default)]
pub struct Snapshots(Mutex<HashMap<ListScope, Arc<Shared>>>);

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
    /// The vendor's clock.
    at: Option<Millis>,
    items: HashMap<String, Arc<Value>>,
}

/// The result of one of our own writes.
#[derive(Clone)]
enum RecordedWrite {
    Present(Arc<Value>),
    Deleted,
    /// There was no response: the vendor may have carried out the write or not.
    Unknown,
}

/// One object in a snapshot.
#[derive(Clone, Debug, PartialEq)]
pub enum SnapshotEntry {
    Present(Arc<Value>),
    Absent,
    /// The snapshot proves nothing about this object: read it with a GET.
    Unknown,
}

/// All objects of one kind, and the vendor's clock.
pub struct CachedListing {
    pub items: Vec<Arc<Value>>,
    pub at: Option<Millis>,
}

impl Snapshots {
    fn shared(&self, scope: ListScope) -> Arc<Shared> {
        let mut all = self.0.lock();
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
        shared.refresh(client, max_age).await?;
        Ok(shared.state.lock().entry(id))
    }

    /// Returns all objects from a list call that begins after this call.
    pub async fn list<C: ExternalClient>(&self, client: &C) -> Result<CachedListing, AdminError> {
        let shared = self.shared(client.list_scope());
        shared.refresh(client, Duration::ZERO).await?;
        Ok(shared.state.lock().listing())
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

    /// Records the object as the vendor's last response shows it.
    pub fn mark_present(&self, scope: ListScope, id: &str, item: Value) {
        self.record(scope, id, RecordedWrite::Present(Arc::new(item)));
    }

    /// Records that the object was deleted or does not exist.
    pub fn mark_deleted(&self, scope: ListScope, id: &str) {
        self.record(scope, id, RecordedWrite::Deleted);
    }

    fn record(&self, scope: ListScope, id: &str, write: RecordedWrite) {
        let shared = self.shared(scope);
        let mut state = shared.state.lock();
        state.writes.insert(id.to_owned(), (Instant::now(), write));
    }

    /// Drops every snapshot: another replica may write from now on.
    pub fn clear(&self) {
        self.0.lock().clear();
    }
}

impl Shared {
    /// Lists the objects, unless there is a list that is at most `max_age` old. One list call at a time; callers that
    /// exceed `MAX_WAITERS` or `MAX_WAIT` get `Postponed`.
    async fn refresh<C: ExternalClient>(&self, client: &C, max_age: Duration) -> Result<(), AdminError> {
        let requested = Instant::now();
        let is_fresh =
            |state: &State| state.list.as_ref().is_some_and(|list| list.begun + max_age >= requested);
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
        let listed = client.list().await.inspect_err(|error| {
            // A call that our own rate limiter postponed is no failure of the vendor: the next caller may have a higher
            // priority.
            if error.is_deferred() {
                return;
            }
            self.state.lock().last_failure = Some((Instant::now(), error.clone()));
        })?;
        let items =
            listed.items.into_iter().filter_map(|item| Some((C::id(&item)?.to_owned(), Arc::new(item))));
        let list = ListedObjects { begun, at: listed.vendor_time, items: items.collect() };
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

    fn entry(&self, id: &str) -> SnapshotEntry {
        match self.write(id) {
            Some(RecordedWrite::Present(item)) => SnapshotEntry::Present(item.clone()),
            Some(RecordedWrite::Deleted) => SnapshotEntry::Absent,
            Some(RecordedWrite::Unknown) => SnapshotEntry::Unknown,
            None => {
                let item = self.list.as_ref().and_then(|list| list.items.get(id));
                item.map_or(SnapshotEntry::Absent, |item| SnapshotEntry::Present(item.clone()))
            }
        }
    }

    fn listing(&self) -> CachedListing {
        let Some(list) = &self.list else { return CachedListing { items: Vec::new(), at: None } };
        let mut items = list.items.clone();
        for (id, (at, write)) in &self.writes {
            match write {
                _ if *at < list.begun => {}
                RecordedWrite::Present(item) => drop(items.insert(id.clone(), item.clone())),
                RecordedWrite::Deleted => drop(items.remove(id)),
                RecordedWrite::Unknown => {}
            }
        }
        CachedListing { items: items.into_values().collect(), at: list.at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCOPE: ListScope = [7; 32];

    fn entry(snapshots: &Snapshots) -> SnapshotEntry {
        snapshots.shared(SCOPE).state.lock().entry("i")
    }

    #[tokio::test]
    async fn postponed_write_keeps_the_entry() {
        let snapshots = Snapshots::default();
        let fails = async |error: AdminError| {
            snapshots.track_write::<()>(SCOPE, "i", async { Err(error) }).await.is_err()
        };
        assert!(fails(AdminError::Postponed(Duration::ZERO)).await);
        assert_eq!(entry(&snapshots), SnapshotEntry::Absent, "the call was never sent");
        assert!(fails(AdminError::Unreachable("no answer".into())).await);
        assert_eq!(entry(&snapshots), SnapshotEntry::Unknown, "the vendor may have carried it out");
        assert!(fails(AdminError::Postponed(Duration::ZERO)).await);
        assert_eq!(entry(&snapshots), SnapshotEntry::Unknown, "the earlier write is still unknown");
        snapshots.mark_present(SCOPE, "i", Value::Null);
        assert!(fails(AdminError::Postponed(Duration::ZERO)).await);
        assert_eq!(entry(&snapshots), SnapshotEntry::Present(Arc::new(Value::Null)));
    }
}
