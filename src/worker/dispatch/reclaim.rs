//! Returns ready deliveries to the disk when another hook needs their memory: those of blocked hooks first, then those of
//! the hook that has most.

use std::sync::Arc;

use super::machine::DispatchMachine;
use super::queue::OVERHEAD;
use super::ready_ranking::{Claimant, ReadyRank};

impl DispatchMachine {
    /// Makes `bytes` of memory available to a hook at the expense of blocked hooks, and of hooks that have more. False:
    /// the hook has its share.
    pub(super) fn make_fair_capacity(&mut self, uid: &Arc<str>, bytes: usize) -> bool {
        loop {
            let shortage = self.memory.shortage(bytes);
            if shortage == 0 {
                return true;
            }
            let Some(queue) = self.queues.get(uid) else { return false };
            let namespace = queue.hook.as_ref().map(|hook| hook.namespace.clone()).unwrap_or_default();
            let claimant = Claimant { namespace: &namespace, uid, rank: queue.rank };
            let Some(victim) = self.memory.ranking.victim(claimant, bytes) else { return false };
            self.unload(&victim, shortage);
        }
    }

    /// Makes `bytes` of memory available to an attempt at the expense of all ready deliveries. Attempts in flight and
    /// reads leave an eighth of the budget to them, so there is enough, unless one event is larger than that.
    pub(super) fn make_capacity(&mut self, bytes: usize) {
        loop {
            let shortage = self.memory.shortage(bytes);
            let Some(victim) = self.memory.ranking.largest().filter(|_| shortage > 0) else { return };
            self.unload(&victim, shortage);
        }
    }

    /// Returns ready deliveries of a hook to the disk, the last ones first: at least `bytes`, if it has as many, and a
    /// quarter of what it has, so that a hook that needs much does not reclaim it in thousands of steps.
    fn unload(&mut self, uid: &Arc<str>, bytes: usize) {
        if let Some(queue) = self.queues.get_mut(uid) {
            let keep = match queue.rank.is_blocked() {
                true => 0,
                false => queue.ready_bytes.saturating_sub(bytes.max(queue.ready_bytes / 4 + OVERHEAD)),
            };
            while queue.ready_bytes > keep
                && let Some(pending) = queue.unload_last()
            {
                self.memory.remove_ready(&pending);
            }
        }
        let is_blocked = self.queues.get(uid).is_some_and(|queue| queue.rank.is_blocked());
        self.update_rank(uid, is_blocked);
    }

    /// Returns all ready deliveries of a hook to the disk.
    pub(super) fn unload_all(&mut self, uid: &Arc<str>) {
        let Some(queue) = self.queues.get_mut(uid) else { return };
        while let Some(pending) = queue.unload_last() {
            self.memory.remove_ready(&pending);
        }
        self.update_rank(uid, false);
    }

    /// Ranks a hook by its ready deliveries. `is_blocked`: it cannot send them now.
    pub(super) fn update_rank(&mut self, uid: &Arc<str>, is_blocked: bool) {
        let Some(queue) = self.queues.get_mut(uid) else { return };
        let rank = ReadyRank::of(queue.ready_bytes, is_blocked);
        let before = std::mem::replace(&mut queue.rank, rank);
        if before != rank
            && let Some(hook) = &queue.hook
        {
            self.memory.ranking.update(&hook.namespace, &hook.uid, before, rank);
        }
        // Its deliveries went back to disk, or were sent.
        if queue.is_crowded && queue.ready.is_empty() {
            self.update_crowding(uid, true);
        }
    }
}
