//! Finds the namespaces whose senders are faster than the worker delivers, and makes them wait before their 202.
//!
//! Without this, one event to many hooks is accepted faster than it is delivered, and its backlog fills the memory and then
//! goes to disk, from where each delivery is read again. A hook is crowded while many of its deliveries wait in memory
//! although nothing but the worker holds them up. A paused hook, an open breaker, a rate limit, a slow or failing receiver
//! never make a hook crowded: senders must not wait for receivers.
//!
//! Fair: a sender waits only while its own namespace has a crowded hook. Bounded: it waits for [`MAX_SENDER_WAIT`] at most, and no
//! request is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::Notify;

use super::effect::Effect;
use super::machine::DispatchMachine;
use super::queue::{CHUNK_ROWS, HookQueue};
use crate::core::fast_map::{FastMap, FastSet};

/// The longest wait of a sender. Clients give up after seconds, so this delays a request and never fails it.
pub const MAX_SENDER_WAIT: Duration = Duration::from_millis(250);

/// Ready deliveries from which on a hook is crowded, a quarter of what may be in memory. It is crowded until half of them
/// are left, so that senders are not notified for each delivery.
const CROWDED: usize = 4096;
/// The same while little memory is left, so that the deliveries do not go back to disk.
const CROWDED_WHEN_TIGHT: usize = 2 * CHUNK_ROWS;
/// Attempts that start this much later than they could, in the mean, show that the worker has more work than CPU.
const SATURATED: i64 = 2_000;
/// Attempts of a crowded hook take less than this in the mean. Otherwise its receiver holds its deliveries up.
const FAST_RECEIVER_MILLIS: i64 = 250;
/// The weight of the last attempt in the mean delay is one in this many.
const DELAY_WEIGHT: i64 = 64;

/// The machine's part: which hooks are crowded.
#[derive(Default)]
pub struct Crowding {
    /// The mean time from the decision to start an attempt to its start, in microseconds.
    start_delay: i64,
    /// The number of crowded hooks of each namespace that has some.
    hooks: FastMap<Arc<str>, usize>,
}

impl Crowding {
    /// Records how late an attempt started.
    pub fn record_start(&mut self, delay: Duration) {
        let micros = i64::try_from(delay.as_micros()).unwrap_or(i64::MAX);
        self.start_delay += (micros.min(1_000_000) - self.start_delay) / DELAY_WEIGHT;
    }

    /// Returns whether the hook of this queue is crowded now. `is_tight`: little memory is left.
    fn is_crowded(&self, queue: &HookQueue, is_tight: bool) -> bool {
        let limit = if is_tight { CROWDED_WHEN_TIGHT } else { CROWDED };
        if queue.is_crowded {
            // Until half are left, also if the worker is not saturated any more: its senders wait.
            return queue.ready.len() > limit / 2 && queue.failures == 0;
        }
        queue.ready.len() >= limit
            && self.start_delay >= SATURATED
            && queue.failures == 0
            && queue.mean_duration().is_some_and(|millis| millis < FAST_RECEIVER_MILLIS)
    }

    /// Counts a hook that became crowded or no longer is. Returns true if this changes the state of its namespace.
    fn count(&mut self, namespace: &Arc<str>, is_crowded: bool) -> bool {
        if is_crowded {
            let hooks = self.hooks.entry(namespace.clone()).or_default();
            *hooks += 1;
            return *hooks == 1;
        }
        let Some(hooks) = self.hooks.get_mut(namespace) else { return false };
        *hooks -= 1;
        let is_last = *hooks == 0;
        if is_last {
            self.hooks.remove(namespace);
        }
        is_last
    }
}

impl DispatchMachine {
    /// Updates whether a hook is crowded. `is_blocked`: its receiver, its limits or its spec hold its deliveries up.
    pub(super) fn update_crowding(&mut self, uid: &Arc<str>, is_blocked: bool) {
        let is_tight = self.memory.is_tight();
        let Some(queue) = self.queues.get_mut(uid) else { return };
        let is_crowded = !is_blocked && self.crowding.is_crowded(queue, is_tight);
        if queue.is_crowded == is_crowded {
            return;
        }
        queue.is_crowded = is_crowded;
        if let Some(hook) = &queue.hook
            && self.crowding.count(&hook.namespace, is_crowded)
        {
            let namespace = hook.namespace.clone();
            self.effects.push(Effect::ReportCrowding { namespace, is_crowded });
        }
    }
}

/// The namespaces with crowded hooks, for the senders of events.
#[derive(Debug, Default)]
pub struct CrowdedNamespaces {
    /// The number of `names`: the usual request takes no lock.
    count: AtomicUsize,
    names: RwLock<FastSet<Arc<str>>>,
    changed: Notify,
}

impl CrowdedNamespaces {
    /// Sets whether a namespace has a crowded hook.
    pub fn set(&self, namespace: Arc<str>, is_crowded: bool) {
        let mut names = self.names.write();
        match is_crowded {
            true => names.insert(namespace),
            false => names.remove(&namespace),
        };
        self.count.store(names.len(), Ordering::Release);
        drop(names);
        if !is_crowded {
            self.changed.notify_waiters();
        }
    }

    /// Waits while the namespace has a crowded hook, at most for `limit`.
    pub async fn wait(&self, namespace: &str, limit: Duration) {
        if !self.contains(namespace) {
            return;
        }
        let cleared = async {
            loop {
                // Created before the check, so that a change in between is not missed.
                let changed = self.changed.notified();
                if !self.contains(namespace) {
                    return;
                }
                changed.await;
            }
        };
        // At the end of the time the sender gets its response all the same.
        tokio::time::timeout(limit, cleared).await.ok();
    }

    fn contains(&self, namespace: &str) -> bool {
        self.count.load(Ordering::Acquire) > 0 && self.names.read().contains(namespace)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::poll;

    use super::*;

    #[tokio::test]
    async fn senders_of_a_crowded_namespace_wait_until_it_is_not_and_others_never_wait() {
        let crowded = CrowdedNamespaces::default();
        crowded.set("a".into(), true);
        crowded.set("b".into(), true);
        assert!(poll!(pin!(crowded.wait("other", MAX_SENDER_WAIT))).is_ready());
        let long = Duration::from_secs(600);
        let mut waiting = pin!(crowded.wait("a", long));
        assert!(poll!(&mut waiting).is_pending());
        crowded.set("b".into(), false);
        assert!(poll!(&mut waiting).is_pending(), "another namespace is not crowded any more");
        crowded.set("a".into(), false);
        assert!(poll!(&mut waiting).is_ready());
        crowded.set("a".into(), true);
        // A bounded wait ends although the namespace is still crowded.
        crowded.wait("a", Duration::from_millis(1)).await;
    }
}
