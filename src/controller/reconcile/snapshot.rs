//! What a vendor has, by list: one snapshot for all objects of a Connection, so that a resync of a thousand objects is
//! one call and not a thousand.
//!
//! A snapshot lives for a moment. Our own writes are laid over it as they happen; a write whose answer did not come makes
//! its object unknown, which is then read by itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value;

use crate::admin::{AdminError, ExternalClient, Scope};
use crate::core::time::Millis;

/// So many wait for one list, and not longer than this; the rest come back: a host that hangs must not hold the slots of
/// those who have others to call.
const WAITING: usize = 8;
const LONGEST_WAIT: Duration = Duration::from_secs(2);
const COME_BACK: Duration = Duration::from_secs(1);
/// Nobody asked for so long: the memory is given back.
const IDLE: Duration = Duration::from_secs(120);

/// The snapshots, by whose objects they show.
#[derive(Default)]
pub struct Snapshots(Mutex<HashMap<Scope, Arc<Shared>>>);

#[derive(Default)]
struct Shared {
    /// Held while a list is under way: who comes meanwhile takes its result.
    listing: tokio::sync::Mutex<()>,
    waiting: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    base: Option<Base>,
    writes: HashMap<String, (Instant, Write)>,
    /// When the last list failed, and how.
    failed: Option<(Instant, AdminError)>,
    used: Option<Instant>,
}

struct Base {
    begun: Instant,
    at: Option<Millis>,
    items: HashMap<String, Arc<Value>>,
}

#[derive(Clone)]
enum Write {
    Is(Arc<Value>),
    Gone,
    /// It may have been done or not.
    Unknown,
}

/// What is known of one object.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    There(Arc<Value>),
    Missing,
    Unknown,
}

/// All objects, and the vendor's clock.
pub struct All {
    pub items: Vec<Arc<Value>>,
    pub at: Option<Millis>,
}

impl Snapshots {
    fn shared(&self, scope: Scope) -> Arc<Shared> {
        let mut all = self.0.lock();
        let now = Instant::now();
        all.retain(|key, shared| {
            let fresh = |used: Instant| now.duration_since(used) < IDLE;
            *key == scope || Arc::strong_count(shared) > 1 || shared.state.lock().used.is_none_or(fresh)
        });
        let shared = all.entry(scope).or_default().clone();
        shared.state.lock().used = Some(now);
        shared
    }

    /// One object, by a list that is at most so old.
    pub async fn get<C: ExternalClient>(
        &self,
        client: &C,
        id: &str,
        oldest: Duration,
    ) -> Result<Seen, AdminError> {
        let shared = self.shared(client.scope());
        shared.list(client, oldest).await?;
        Ok(shared.state.lock().seen(id))
    }

    /// All objects, by a list that begins after this call.
    pub async fn all<C: ExternalClient>(&self, client: &C) -> Result<All, AdminError> {
        let shared = self.shared(client.scope());
        shared.list(client, Duration::ZERO).await?;
        Ok(shared.state.lock().all())
    }

    /// A read failed: what was listed before it tells nothing any more.
    pub fn unknown(&self, scope: Scope, id: &str) {
        self.write(scope, id, Write::Unknown);
    }

    /// Makes a write. While its answer is out, and when none came, nothing is known of the object; what was never sent
    /// changed nothing, and to read the object for it would cost a turn that a write could have had.
    pub async fn writing<T>(
        &self,
        scope: Scope,
        id: &str,
        call: impl Future<Output = Result<T, AdminError>>,
    ) -> Result<T, AdminError> {
        let before = self.shared(scope).state.lock().writes.get(id).cloned();
        self.unknown(scope, id);
        let result = call.await;
        if result.as_ref().is_err_and(AdminError::is_own) {
            let shared = self.shared(scope);
            let writes = &mut shared.state.lock().writes;
            match before {
                Some(before) => writes.insert(id.to_owned(), before),
                None => writes.remove(id),
            };
        }
        result
    }

    pub fn is(&self, scope: Scope, id: &str, item: Value) {
        self.write(scope, id, Write::Is(Arc::new(item)));
    }

    pub fn gone(&self, scope: Scope, id: &str) {
        self.write(scope, id, Write::Gone);
    }

    fn write(&self, scope: Scope, id: &str, write: Write) {
        let shared = self.shared(scope);
        let mut state = shared.state.lock();
        // Without a list there is nothing to lay it over, and the next list shows it.
        state.writes.insert(id.to_owned(), (Instant::now(), write));
    }

    /// Another replica may write from now on.
    pub fn clear(&self) {
        self.0.lock().clear();
    }
}

impl Shared {
    async fn list<C: ExternalClient>(&self, client: &C, oldest: Duration) -> Result<(), AdminError> {
        let asked = Instant::now();
        let is_fresh = |state: &State| state.base.as_ref().is_some_and(|base| base.begun + oldest >= asked);
        let come_back = || AdminError::Postponed(COME_BACK.mul_f64(1.0 + fastrand::f64()));
        let place = Place(&self.waiting);
        if place.0.fetch_add(1, Ordering::Relaxed) >= WAITING {
            return if is_fresh(&self.state.lock()) { Ok(()) } else { Err(come_back()) };
        }
        let waited = tokio::time::timeout(LONGEST_WAIT, self.listing.lock()).await;
        let _one_at_a_time = waited.map_err(|_| come_back())?;
        drop(place);
        {
            let state = self.state.lock();
            if is_fresh(&state) {
                return Ok(());
            }
            // Who waited for a list that failed does not wait for one more.
            if let Some((_, error)) = state.failed.as_ref().filter(|(at, _)| *at >= asked) {
                return Err(error.clone());
            }
        }
        let begun = Instant::now();
        let listed = client.list().await.inspect_err(|error| {
            // One that was not its turn tells nothing: the next may be more pressing.
            if error.is_own() {
                return;
            }
            self.state.lock().failed = Some((Instant::now(), error.clone()));
        })?;
        let items =
            listed.items.into_iter().filter_map(|item| Some((C::id(&item)?.to_owned(), Arc::new(item))));
        let base = Base { begun, at: listed.at, items: items.collect() };
        let mut state = self.state.lock();
        state.writes.retain(|_, (at, _)| *at >= begun);
        state.base = Some(base);
        Ok(())
    }
}

/// A place among those who wait; given up when it is dropped.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl State {
    /// A write that ended after the list had begun may be missing in it.
    fn write(&self, id: &str) -> Option<&Write> {
        let (at, write) = self.writes.get(id)?;
        self.base.as_ref().is_none_or(|base| *at >= base.begun).then_some(write)
    }

    fn seen(&self, id: &str) -> Seen {
        match self.write(id) {
            Some(Write::Is(item)) => Seen::There(item.clone()),
            Some(Write::Gone) => Seen::Missing,
            Some(Write::Unknown) => Seen::Unknown,
            None => {
                let item = self.base.as_ref().and_then(|base| base.items.get(id));
                item.map_or(Seen::Missing, |item| Seen::There(item.clone()))
            }
        }
    }

    fn all(&self) -> All {
        let Some(base) = &self.base else { return All { items: Vec::new(), at: None } };
        let mut items = base.items.clone();
        for (id, (at, write)) in &self.writes {
            match write {
                _ if *at < base.begun => {}
                Write::Is(item) => drop(items.insert(id.clone(), item.clone())),
                Write::Gone => drop(items.remove(id)),
                Write::Unknown => {}
            }
        }
        All { items: items.into_values().collect(), at: base.at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCOPE: Scope = [7; 32];

    fn seen(snapshots: &Snapshots) -> Seen {
        snapshots.shared(SCOPE).state.lock().seen("i")
    }

    #[tokio::test]
    async fn what_was_never_sent_is_known_as_before() {
        let snapshots = Snapshots::default();
        let fails = async |error: AdminError| {
            snapshots.writing::<()>(SCOPE, "i", async { Err(error) }).await.is_err()
        };
        assert!(fails(AdminError::Postponed(Duration::ZERO)).await);
        assert_eq!(seen(&snapshots), Seen::Missing, "it was not its turn");
        assert!(fails(AdminError::Unreachable("no answer".into())).await);
        assert_eq!(seen(&snapshots), Seen::Unknown, "it may have been done");
        assert!(fails(AdminError::Postponed(Duration::ZERO)).await);
        assert_eq!(seen(&snapshots), Seen::Unknown, "nor is the one before it forgotten");
        snapshots.is(SCOPE, "i", Value::Null);
        assert!(fails(AdminError::Postponed(Duration::ZERO)).await);
        assert_eq!(seen(&snapshots), Seen::There(Arc::new(Value::Null)));
    }
}
