//! One share of the memory budget, divided between namespaces, then between their hooks if reservations name one.
//!
//! A request reserves memory for its payload before it reads it. An owner above its fair share is rejected at once. An
//! owner below it waits for a bounded time, in order of arrival; the amount that the first waiter needs is withheld
//! from the others, so that a large payload is not overtaken forever. Callers whose number is bounded may wait above
//! their share too ([`MemoryPool::reserve_in_turn`]): they get only what is left.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::core::fair_shares::{FairShares, Owner};
use crate::metrics::MemoryShareMetrics;

/// Memory of a request besides its payload, in bytes.
const REQUEST_OVERHEAD: u64 = 1024;

/// Returns the memory of a request whose body has this many bytes: the body, and the events that are parsed from it.
pub fn request_cost(body: u64) -> u64 {
    body.saturating_mul(2).saturating_add(REQUEST_OVERHEAD)
}

/// The share has no memory for this payload, or its owner already has its part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryFull;

/// A share of the budget. Its users reserve parts of it.
#[derive(Debug)]
pub struct MemoryPool {
    state: Mutex<PoolState>,
    metrics: MemoryShareMetrics,
}

#[derive(Debug)]
struct PoolState {
    shares: FairShares,
    /// Reservations of owners below their share that wait for memory, in order of arrival.
    waiting: VecDeque<Waiter>,
    /// Reservations that wait until their owner is below its share, in order of arrival.
    above_share: VecDeque<Waiter>,
}

/// An owner, kept while its caller's names may be gone.
#[derive(Clone, Debug, PartialEq, Eq)]
struct OwnerNames {
    namespace: Arc<str>,
    hook: Option<Arc<str>>,
}

impl OwnerNames {
    fn of(owner: Owner<'_>) -> Self {
        OwnerNames { namespace: owner.namespace.clone(), hook: owner.hook.cloned() }
    }

    fn owner(&self) -> Owner<'_> {
        Owner { namespace: &self.namespace, hook: self.hook.as_ref() }
    }

    /// True if this is the owner, or a hook of it.
    fn belongs_to(&self, owner: Owner<'_>) -> bool {
        self.namespace == *owner.namespace && owner.hook.is_none_or(|hook| self.hook.as_ref() == Some(hook))
    }
}

#[derive(Debug)]
struct Waiter {
    owner: OwnerNames,
    bytes: u64,
    /// Notified once the bytes are taken for the waiter.
    granted: oneshot::Sender<()>,
}

/// A reserved part of a pool. Returns it when dropped.
#[derive(Debug)]
pub struct Reservation {
    pool: Arc<MemoryPool>,
    owner: OwnerNames,
    bytes: u64,
}

impl MemoryPool {
    pub fn new(capacity: u64, metrics: MemoryShareMetrics) -> Self {
        let shares = FairShares::new(capacity);
        let state = PoolState { shares, waiting: VecDeque::new(), above_share: VecDeque::new() };
        MemoryPool { state: Mutex::new(state), metrics }
    }

    pub fn capacity(&self) -> u64 {
        self.state.lock().shares.capacity()
    }

    /// Reserves bytes for the owner if it may have them now.
    pub fn try_reserve(self: &Arc<Self>, owner: Owner<'_>, bytes: u64) -> Result<Reservation, MemoryFull> {
        self.try_extend(owner, 0, bytes)?;
        Ok(self.reservation(owner, bytes))
    }

    /// Reserves bytes for the owner. Waits up to `timeout` if the owner is below its fair share and others use the
    /// memory. Cancel safe.
    pub async fn reserve(
        self: &Arc<Self>,
        owner: Owner<'_>,
        bytes: u64,
        timeout: Duration,
    ) -> Result<Reservation, MemoryFull> {
        self.extend(owner, 0, bytes, timeout, false).await?;
        Ok(self.reservation(owner, bytes))
    }

    /// Like `reserve`, but also waits while the owner is above its fair share, until it returns memory of its own. Only
    /// for callers whose number is bounded.
    pub async fn reserve_in_turn(
        self: &Arc<Self>,
        owner: Owner<'_>,
        bytes: u64,
        timeout: Duration,
    ) -> Result<Reservation, MemoryFull> {
        self.extend(owner, 0, bytes, timeout, true).await?;
        Ok(self.reservation(owner, bytes))
    }

    /// Extends what the owner holds for one payload from `held` to `bytes`.
    fn try_extend(&self, owner: Owner<'_>, held: u64, bytes: u64) -> Result<(), MemoryFull> {
        let mut state = self.state.lock();
        if state.try_take(owner, held, bytes) {
            self.metrics.set_used(state.shares.used());
            return Ok(());
        }
        drop(state);
        self.metrics.record_rejection();
        Err(MemoryFull)
    }

    /// Like `try_extend`, with a wait as `reserve` has it. `waits_above_share`: as `reserve_in_turn` has it.
    async fn extend(
        &self,
        owner: Owner<'_>,
        held: u64,
        bytes: u64,
        timeout: Duration,
        waits_above_share: bool,
    ) -> Result<(), MemoryFull> {
        let missing = bytes.saturating_sub(held);
        let granted = {
            let mut state = self.state.lock();
            if state.try_take(owner, held, bytes) {
                self.metrics.set_used(state.shares.used());
                return Ok(());
            }
            let is_below_share = state.may_wait(owner, held, bytes);
            let may_wait = waits_above_share && bytes <= state.shares.capacity();
            if !is_below_share && !may_wait {
                drop(state);
                self.metrics.record_rejection();
                return Err(MemoryFull);
            }
            let (sender, granted) = oneshot::channel();
            state.shares.start_waiting(owner);
            let waiter = Waiter { owner: OwnerNames::of(owner), bytes: missing, granted: sender };
            match is_below_share {
                true => state.waiting.push_back(waiter),
                false => state.above_share.push_back(waiter),
            }
            state.withhold_for_first();
            granted
        };
        // Takes the waiter out of the queue, or returns the bytes that it was granted, if the caller stops waiting.
        let mut guard = WaitGuard { pool: self, owner, bytes: missing, granted: Some(granted) };
        let Some(granted) = &mut guard.granted else { return Err(MemoryFull) };
        if matches!(tokio::time::timeout(timeout, granted).await, Ok(Ok(()))) {
            guard.granted = None;
            return Ok(());
        }
        drop(guard);
        self.metrics.record_rejection();
        Err(MemoryFull)
    }

    fn reservation(self: &Arc<Self>, owner: Owner<'_>, bytes: u64) -> Reservation {
        Reservation { pool: self.clone(), owner: OwnerNames::of(owner), bytes }
    }

    fn give(&self, owner: Owner<'_>, bytes: u64) {
        let mut state = self.state.lock();
        state.shares.give(owner, bytes);
        state.grant_waiting();
        self.metrics.set_used(state.shares.used());
    }
}

impl PoolState {
    /// Takes what is missing to a payload of `bytes`, of which the owner holds `held`, if it may have the payload.
    fn try_take(&mut self, owner: Owner<'_>, held: u64, bytes: u64) -> bool {
        if held == 0 {
            return self.shares.try_take(owner, bytes);
        }
        // Check the payload as a whole: the only one of an owner may exceed the owner's part.
        self.shares.give(owner, held);
        let may = self.shares.may_take(owner, bytes);
        self.shares.take(owner, if may { bytes } else { held });
        may
    }

    /// True if the owner lacks nothing but free memory: it is below its part, and the payload fits the pool.
    fn may_wait(&self, owner: Owner<'_>, held: u64, bytes: u64) -> bool {
        let is_below_share = |owner: Owner<'_>| {
            // Its waiting payloads count too. Otherwise an owner that uses nothing could queue any number of them before
            // those of the others.
            let waiting = self.waiting.iter().filter(|waiter| waiter.owner.belongs_to(owner));
            let waiting = waiting.map(|waiter| waiter.bytes).fold(0, u64::saturating_add);
            let others = self.shares.used_by(owner).saturating_sub(held).saturating_add(waiting);
            others == 0 || others.saturating_add(bytes) <= self.shares.fair_share(owner)
        };
        bytes <= self.shares.capacity()
            && is_below_share(Owner::namespace(owner.namespace))
            && (owner.hook.is_none() || is_below_share(owner))
    }

    /// Withholds the bytes of the first waiter from the others.
    fn withhold_for_first(&mut self) {
        self.shares.set_reserved(self.waiting.front().map_or(0, |waiter| waiter.bytes));
    }

    /// Grants freed memory to the waiters in their order, up to the first one that does not fit. What is not withheld for
    /// that one goes to the waiters whose owners were above their share.
    fn grant_waiting(&mut self) {
        while let Some(waiter) = self.waiting.front() {
            if waiter.bytes > self.shares.free() {
                break;
            }
            // It was below its part when it began to wait, so it may have the memory although the limits fell since.
            let Some(waiter) = self.waiting.pop_front() else { break };
            self.grant(waiter);
        }
        self.withhold_for_first();
        let mut at = 0;
        while let Some(waiter) = self.above_share.get(at) {
            if !self.shares.may_take(waiter.owner.owner(), waiter.bytes) {
                at += 1;
                continue;
            }
            let Some(waiter) = self.above_share.remove(at) else { break };
            self.grant(waiter);
        }
    }

    fn grant(&mut self, waiter: Waiter) {
        let owner = waiter.owner.owner();
        self.shares.stop_waiting(owner);
        self.shares.take(owner, waiter.bytes);
        if waiter.granted.send(()).is_err() {
            self.shares.give(owner, waiter.bytes);
        }
    }
}

/// A wait in progress.
struct WaitGuard<'a> {
    pool: &'a MemoryPool,
    owner: Owner<'a>,
    bytes: u64,
    /// None: the grant was received.
    granted: Option<oneshot::Receiver<()>>,
}

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        let Some(mut granted) = self.granted.take() else { return };
        let mut state = self.pool.state.lock();
        // Under the lock, so that a grant either has happened or never will.
        match granted.try_recv() {
            Ok(()) => state.shares.give(self.owner, self.bytes),
            Err(_) => {
                granted.close();
                state.shares.stop_waiting(self.owner);
            }
        }
        state.waiting.retain(|waiter| !waiter.granted.is_closed());
        state.above_share.retain(|waiter| !waiter.granted.is_closed());
        state.grant_waiting();
        self.pool.metrics.set_used(state.shares.used());
    }
}

impl Reservation {
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the part of the reservation beyond `bytes`.
    pub fn shrink_to(&mut self, bytes: u64) {
        let excess = self.bytes.saturating_sub(bytes);
        if excess > 0 {
            self.bytes = bytes;
            self.pool.give(self.owner.owner(), excess);
        }
    }

    /// Extends the reservation to `bytes`, as `reserve` does.
    pub async fn grow_to(&mut self, bytes: u64, timeout: Duration) -> Result<(), MemoryFull> {
        if bytes > self.bytes {
            self.pool.extend(self.owner.owner(), self.bytes, bytes, timeout, false).await?;
            self.bytes = bytes;
        }
        Ok(())
    }

    /// Extends the reservation to `bytes` if the owner may have them now.
    pub fn try_grow_to(&mut self, bytes: u64) -> Result<(), MemoryFull> {
        if bytes > self.bytes {
            self.pool.try_extend(self.owner.owner(), self.bytes, bytes)?;
            self.bytes = bytes;
        }
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.pool.give(self.owner.owner(), self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn pool(capacity: u64) -> (Arc<MemoryPool>, [Arc<str>; 3]) {
        (Arc::new(MemoryPool::new(capacity, MemoryShareMetrics::default())), ["a", "b", "c"].map(Into::into))
    }

    #[tokio::test]
    async fn busy_namespace_is_rejected_before_a_quiet_one() {
        let (pool, [busy, quiet, _]) = pool(1000);
        let mut held = Vec::new();
        while let Ok(reserved) = pool.reserve(Owner::namespace(&busy), 100, LONG).await {
            held.push(reserved);
        }
        assert_eq!(held.len(), 8, "it gets most of the memory while no other namespace wants any");
        assert_eq!(pool.metrics.rejections(), 1);
        let fits = pool.try_reserve(Owner::namespace(&quiet), 200);
        assert!(fits.is_ok());
        assert_eq!(pool.try_reserve(Owner::namespace(&busy), 1).unwrap_err(), MemoryFull);
        drop((held, fits));
        assert_eq!(pool.metrics.used(), 0);
    }

    #[tokio::test]
    async fn many_hooks_of_a_namespace_leave_the_part_of_another_namespace() {
        let (pool, [many, one, hook]) = pool(1000);
        let mut held = Vec::new();
        let hooks: Vec<Arc<str>> = (0..50).map(|n| format!("h{n}").into()).collect();
        for _ in 0..50 {
            held.extend(hooks.iter().filter_map(|hook| pool.try_reserve(Owner::hook(&many, hook), 10).ok()));
        }
        assert!((700..=800).contains(&pool.metrics.used()), "{}", pool.metrics.used());
        // By hooks alone, the 51st hook would get a fiftieth.
        let of_one: Vec<_> =
            (0..20).map_while(|_| pool.try_reserve(Owner::hook(&one, &hook), 10).ok()).collect();
        assert!(of_one.len() >= 10, "{}", of_one.len());
        // Within the namespace, a hook that takes all it can leaves a part to its neighbours.
        drop((held, of_one));
        let greedy: Vec<_> =
            (0..100).map_while(|_| pool.try_reserve(Owner::hook(&many, &hooks[0]), 10).ok()).collect();
        assert!((50..75).contains(&greedy.len()), "{}", greedy.len());
        assert!(pool.try_reserve(Owner::hook(&many, &hooks[1]), 100).is_ok());
        drop(greedy);
        assert!(pool.metrics.used() == 0 && pool.state.lock().shares.used() == 0);
    }

    #[tokio::test]
    async fn waiting_hooks_get_memory_of_their_namespace_in_turn() {
        let (pool, [busy, other, _]) = pool(1000);
        let [a, b]: [Arc<str>; 2] = ["a", "b"].map(Into::into);
        let mut held: Vec<_> =
            (0..6).map(|_| pool.try_reserve(Owner::hook(&busy, &a), 100).unwrap()).collect();
        let rest = pool.try_reserve(Owner::namespace(&other), 400).unwrap();
        assert!(pool.reserve(Owner::hook(&busy, &a), 100, LONG).await.is_err(), "it is above its share");
        let mut queued = Box::pin(pool.reserve_in_turn(Owner::hook(&busy, &b), 100, LONG));
        assert!((&mut queued).now_or_never().is_none());
        held.truncate(3);
        drop(rest);
        assert!(queued.now_or_never().expect("free").is_ok());
    }

    #[tokio::test]
    async fn large_payload_waits_and_is_not_overtaken() {
        let (pool, [busy, quiet, other]) = pool(1000);
        let mut held: Vec<_> =
            (0..8).map(|_| pool.try_reserve(Owner::namespace(&busy), 100).unwrap()).collect();
        let mut large = Box::pin(pool.reserve(Owner::namespace(&quiet), 600, LONG));
        assert!((&mut large).now_or_never().is_none(), "only 200 are free");
        assert!(
            pool.try_reserve(Owner::namespace(&other), 10).is_err(),
            "what is free is withheld for the large payload"
        );
        let mut second = Box::pin(pool.reserve(Owner::namespace(&other), 10, LONG));
        assert!((&mut second).now_or_never().is_none());
        held.truncate(4);
        let large = large.now_or_never().expect("600 are free").unwrap();
        assert!((&mut second).now_or_never().is_none(), "nothing is free");
        drop(large);
        assert!(second.now_or_never().expect("free").is_ok());
    }

    #[tokio::test]
    async fn waiting_payloads_of_a_namespace_count_towards_its_part() {
        let (pool, [busy, quiet, other]) = pool(1000);
        let held: Vec<_> = (0..8).map(|_| pool.try_reserve(Owner::namespace(&busy), 100).unwrap()).collect();
        let mut waiting: Vec<_> =
            (0..10).map(|_| Box::pin(pool.reserve(Owner::namespace(&quiet), 250, LONG))).collect();
        let rejected =
            waiting.iter_mut().filter_map(|wait| wait.now_or_never()).filter(Result::is_err).count();
        assert_eq!(rejected, 9, "one of them waits");
        let mut small = Box::pin(pool.reserve(Owner::namespace(&other), 10, LONG));
        assert!((&mut small).now_or_never().is_none());
        drop(held);
        assert!(small.now_or_never().expect("it is next").is_ok());
    }

    #[tokio::test]
    async fn owner_above_its_share_may_wait_for_its_own_memory() {
        let (pool, [busy, quiet, _]) = pool(1000);
        let mut held: Vec<_> =
            (0..8).map(|_| pool.try_reserve(Owner::namespace(&busy), 100).unwrap()).collect();
        assert!(pool.reserve(Owner::namespace(&busy), 100, LONG).await.is_err());
        let mut queued = Box::pin(pool.reserve_in_turn(Owner::namespace(&busy), 100, LONG));
        assert!((&mut queued).now_or_never().is_none());
        assert!(pool.try_reserve(Owner::namespace(&quiet), 200).is_ok(), "nothing is withheld for it");
        held.pop();
        drop(queued.now_or_never().expect("its own memory").unwrap());
        let mut cancelled = Box::pin(pool.reserve_in_turn(Owner::namespace(&busy), 1000, LONG));
        assert!((&mut cancelled).now_or_never().is_none());
        drop((cancelled, held));
        assert!(pool.state.lock().above_share.is_empty());
        assert!(pool.reserve_in_turn(Owner::namespace(&busy), 1001, LONG).await.is_err(), "it never fits");
        assert_eq!((pool.metrics.used(), pool.state.lock().shares.used()), (0, 0));
    }

    #[tokio::test]
    async fn cancelled_wait_frees_what_was_withheld() {
        let (pool, [busy, quiet, other]) = pool(1000);
        let held: Vec<_> = (0..8).map(|_| pool.try_reserve(Owner::namespace(&busy), 100).unwrap()).collect();
        let mut waiting = Box::pin(pool.reserve(Owner::namespace(&quiet), 600, LONG));
        assert!((&mut waiting).now_or_never().is_none());
        drop(waiting);
        assert!(pool.try_reserve(Owner::namespace(&other), 100).is_ok());
        // A grant that its waiter did not receive is returned, too.
        let mut waiting = Box::pin(pool.reserve(Owner::namespace(&quiet), 600, LONG));
        assert!((&mut waiting).now_or_never().is_none());
        drop(held);
        drop(waiting);
        assert_eq!(pool.metrics.used(), 0);
        assert!(pool.state.lock().waiting.is_empty());
        assert!(pool.try_reserve(Owner::namespace(&other), 900).is_ok());
    }

    #[tokio::test]
    async fn wait_is_bounded() {
        let (pool, [busy, quiet, _]) = pool(1000);
        let held = pool.try_reserve(Owner::namespace(&busy), 800).unwrap();
        assert!(pool.reserve(Owner::namespace(&quiet), 600, Duration::from_millis(1)).await.is_err());
        assert!(pool.reserve(Owner::namespace(&quiet), 1001, LONG).await.is_err(), "it never fits");
        drop(held);
        assert!(pool.try_reserve(Owner::namespace(&busy), 800).is_ok(), "nothing is withheld any more");
    }

    #[tokio::test]
    async fn reservations_change_their_size() {
        let (pool, [a, ..]) = pool(1000);
        let mut reserved = pool.try_reserve(Owner::namespace(&a), 100).unwrap();
        reserved.grow_to(300, LONG).await.unwrap();
        assert_eq!((reserved.bytes(), pool.metrics.used()), (300, 300));
        reserved.shrink_to(50);
        assert_eq!((reserved.bytes(), pool.metrics.used()), (50, 50));
        reserved.try_grow_to(900).unwrap();
        reserved.grow_to(1000, LONG).await.expect("the only payload of an owner may have everything");
        assert!(reserved.grow_to(1001, LONG).await.is_err());
        drop(reserved);
        assert_eq!(pool.metrics.used(), 0);
    }
}
