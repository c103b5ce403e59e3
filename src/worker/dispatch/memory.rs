//! The memory of deliveries: ready ones, reads from disk, attempts in flight. Their sum never exceeds the budget.
//!
//! Attempts in flight use at most three quarters. They cannot be stopped, so a [`FairPool`] divides that part; it also
//! divides the in-flight slots, because an attempt of the smallest size takes one slot's part. Reads reserve at most an
//! eighth while they run. Ready deliveries use the rest and go back to disk when another hook needs their memory
//! (`reclaim`).

use std::collections::VecDeque;
use std::sync::Arc;

use super::queue::{CHUNK_ROWS, OVERHEAD, data_len};
use super::ready_ranking::ReadyRanking;
use super::shared_events::SharedEvents;
use crate::core::fair_pool::{FairPool, Grant};
use crate::core::fast_map::FastMap;
use crate::core::output::COUNTED_OUTPUT;
use crate::worker::store::{DeliverySeq, PendingDelivery};

/// Attempts in flight, over all hooks.
pub const MAX_IN_FLIGHT: u64 = 2048;
/// The memory of a response: `request` reads this much at most.
const RESPONSE_BYTES: usize = 64 * 1024;
/// The memory of an attempt besides its event and an output of the size of its event. Larger outputs reserve the rest
/// themselves (`handlers`).
pub const ATTEMPT_OVERHEAD: usize = OVERHEAD + RESPONSE_BYTES + COUNTED_OUTPUT;

/// The memory of deliveries of all hooks.
pub struct DeliveryMemory {
    budget: usize,
    /// All bytes in use: ready deliveries, reads, attempts in flight. An event counts once.
    used: usize,
    /// The bytes of them that running reads have reserved.
    loading: usize,
    events: SharedEvents,
    /// The part of attempts in flight, with their slots.
    pub pool: FairPool,
    slot_bytes: u64,
    pub ranking: ReadyRanking,
    /// Hooks that wait until other reads end.
    pub reads: RoundRobin,
}

impl DeliveryMemory {
    pub fn new(budget: usize) -> Self {
        let in_flight = (budget / 4 * 3).max(1) as u64;
        DeliveryMemory {
            budget,
            used: 0,
            loading: 0,
            events: SharedEvents::default(),
            pool: FairPool::new(in_flight),
            slot_bytes: in_flight.div_ceil(MAX_IN_FLIGHT),
            ranking: ReadyRanking::default(),
            reads: RoundRobin::default(),
        }
    }

    /// Returns the number of bytes beyond the budget if `bytes` more were used.
    pub fn shortage(&self, bytes: usize) -> usize {
        (self.used + bytes).saturating_sub(self.budget)
    }

    /// True if less than a quarter of the budget is free.
    pub fn is_tight(&self) -> bool {
        self.shortage(self.budget / 4) > 0
    }

    /// Adds a delivery. Its event may be replaced by an equal one that is in memory.
    pub fn add(&mut self, pending: &mut PendingDelivery) {
        self.used += self.events.add(pending) + OVERHEAD;
    }

    /// Removes a delivery with this length of data.
    pub fn remove(&mut self, seq: DeliverySeq, len: usize) {
        let freed = self.events.remove(seq, len) + OVERHEAD;
        self.used = self.used.saturating_sub(freed);
    }

    /// Removes a ready delivery.
    pub fn remove_ready(&mut self, pending: &PendingDelivery) {
        self.remove(pending.seq, data_len(pending));
    }

    /// Returns what an attempt uses besides its delivery: an output of the size of the event, and the response.
    pub fn attempt_extra(len: usize) -> usize {
        len + RESPONSE_BYTES + COUNTED_OUTPUT
    }

    /// Returns the amount that an attempt takes from the pool: its bytes, or a slot's part if that is more.
    pub fn attempt_amount(&self, len: usize) -> u64 {
        let bytes = (2 * len + ATTEMPT_OVERHEAD) as u64;
        bytes.max(self.slot_bytes)
    }

    /// Returns whether the capacity is enough for an attempt with this length of data.
    pub fn is_covered(&self, grant: Grant, len: usize) -> bool {
        grant.amount >= self.attempt_amount(len).min(self.pool.largest())
    }

    /// Adds bytes that no ready delivery uses.
    pub fn reserve(&mut self, bytes: usize) {
        self.used += bytes;
    }

    /// Removes bytes that [`DeliveryMemory::reserve`] added.
    pub fn release(&mut self, bytes: usize) {
        self.used = self.used.saturating_sub(bytes);
    }

    /// Returns what a read of these bytes of event data reserves.
    pub fn read_size(bytes: usize) -> usize {
        bytes + CHUNK_ROWS * OVERHEAD
    }

    /// Returns the most bytes of event data that a read may return, unless it is for one attempt.
    pub fn longest_read(&self) -> usize {
        (self.budget / 8).saturating_sub(Self::read_size(0))
    }

    /// Returns whether the part of reads has capacity.
    pub fn may_read(&self, bytes: usize) -> bool {
        self.loading + bytes <= self.budget / 8
    }

    /// Reserves memory for a read.
    pub fn start_read(&mut self, bytes: usize) {
        self.loading += bytes;
        self.used += bytes;
    }

    /// Returns what a read reserved.
    pub fn end_read(&mut self, bytes: usize) {
        self.loading = self.loading.saturating_sub(bytes);
        self.used = self.used.saturating_sub(bytes);
    }

    /// Returns the bytes in use.
    pub fn used(&self) -> usize {
        self.used
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.used == 0 && self.loading == 0 && self.events.len() == 0 && self.ranking.largest().is_none()
    }
}

/// A queue of hooks: namespaces take turns, and the hooks of a namespace take turns.
#[derive(Default)]
pub struct RoundRobin {
    namespaces: VecDeque<Arc<str>>,
    hooks: FastMap<Arc<str>, VecDeque<Arc<str>>>,
}

impl RoundRobin {
    /// Adds a hook, which must not be queued.
    pub fn push(&mut self, namespace: &Arc<str>, uid: &Arc<str>) {
        let hooks = self.hooks.entry(namespace.clone()).or_default();
        if hooks.is_empty() {
            self.namespaces.push_back(namespace.clone());
        }
        hooks.push_back(uid.clone());
    }

    /// Returns the next hook.
    pub fn first(&self) -> Option<&Arc<str>> {
        self.hooks.get(self.namespaces.front()?)?.front()
    }

    /// Removes and returns the next hook.
    pub fn pop(&mut self) -> Option<Arc<str>> {
        let namespace = self.namespaces.pop_front()?;
        let hooks = self.hooks.get_mut(&namespace)?;
        let uid = hooks.pop_front();
        match hooks.is_empty() {
            true => drop(self.hooks.remove(&namespace)),
            false => self.namespaces.push_back(namespace),
        }
        uid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_take_turns_whatever_the_number_of_their_hooks() {
        let mut queue = RoundRobin::default();
        for n in 0..3 {
            queue.push(&"many".into(), &format!("many-{n}").into());
        }
        queue.push(&"one".into(), &"one-0".into());
        let mut order = Vec::new();
        while let Some(uid) = queue.pop() {
            order.push(uid.to_string());
        }
        assert_eq!(order, ["many-0", "one-0", "many-1", "many-2"]);
        assert!(queue.hooks.is_empty());
    }

    #[test]
    fn the_smallest_attempt_takes_the_part_of_a_slot() {
        for budget in [8 << 20, 64 << 20, 4 << 30] {
            let mut memory = DeliveryMemory::new(budget);
            let (namespace, uid) = ("n".into(), "u".into());
            let mut in_flight = 0;
            while in_flight <= MAX_IN_FLIGHT {
                let amount = memory.attempt_amount(100);
                let pace = crate::core::fair_pool::Pace::Slow;
                let Some(_grant) = memory.pool.request(&namespace, &uid, amount, pace) else { break };
                in_flight += 1;
            }
            assert!((20..=MAX_IN_FLIGHT).contains(&in_flight), "{budget}: {in_flight}");
        }
    }
}
