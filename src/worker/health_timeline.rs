//! The last changes of the delivery health of hooks, in memory: what a person sees as a hook's timeline.
//!
//! Bounded for each hook and in total. A restart forgets it; the condition `Delivering` then still has the last change.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::report::DeliveryHealth;
use crate::core::conditions::cut;
use crate::core::fast_map::FastMap;
use crate::core::time::Millis;

/// The changes of a hook that are kept.
const MAX_CHANGES: usize = 16;
/// The hooks whose changes are kept. With full messages, all of them use about 10 MiB.
const MAX_HOOKS: usize = 2000;
/// The longest message in bytes.
const MAX_MESSAGE: usize = 240;

/// A change of the health of a hook's deliveries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthChange {
    pub at: Millis,
    pub is_healthy: bool,
    pub reason: &'static str,
    pub message: String,
}

/// The changes by hook uid.
#[derive(Default)]
pub struct HealthTimeline(Mutex<Changes>);

#[derive(Default)]
struct Changes {
    /// Oldest first.
    by_hook: FastMap<Arc<str>, VecDeque<HealthChange>>,
    /// The hooks, in the order of their first change.
    order: VecDeque<Arc<str>>,
}

impl HealthTimeline {
    /// Records a change. Forgets the hook whose first change is the oldest if there are too many.
    pub fn record(&self, health: &DeliveryHealth, at: Millis) {
        let change = HealthChange {
            at,
            is_healthy: health.healthy,
            reason: health.reason,
            message: cut(&health.message, MAX_MESSAGE).to_owned(),
        };
        let mut changes = self.0.lock();
        let Changes { by_hook, order } = &mut *changes;
        let uid = &health.hook.uid;
        if !by_hook.contains_key(uid) {
            order.push_back(uid.clone());
            if order.len() > MAX_HOOKS
                && let Some(oldest) = order.pop_front()
            {
                by_hook.remove(&oldest);
            }
        }
        let of_hook = by_hook.entry(uid.clone()).or_default();
        of_hook.push_back(change);
        if of_hook.len() > MAX_CHANGES {
            of_hook.pop_front();
        }
    }

    /// Returns the changes of a hook, newest first.
    pub fn of(&self, uid: &str) -> Vec<HealthChange> {
        self.0.lock().by_hook.get(uid).into_iter().flatten().rev().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::store::HookId;

    fn health(uid: usize, message: String) -> DeliveryHealth {
        DeliveryHealth {
            hook: HookId { uid: uid.to_string().into(), namespace: "n".into(), name: "h".into() },
            healthy: false,
            reason: "ReceiverFailing",
            message,
            last_error: None,
            last_success: None,
            resumed: None,
        }
    }

    #[test]
    fn changes_are_bounded_for_each_hook_and_in_total() {
        let timeline = HealthTimeline::default();
        for n in 0..MAX_HOOKS + 5 {
            timeline.record(&health(n, "x".repeat(999)), Millis(1));
        }
        assert!(timeline.of("4").is_empty() && timeline.of("5").len() == 1);
        (0..MAX_CHANGES + 3).for_each(|n| timeline.record(&health(7, n.to_string()), Millis(n as i64)));
        let changes = timeline.of("7");
        assert_eq!((changes.len(), &*changes[0].message), (MAX_CHANGES, "18"), "the newest first");
        assert_eq!(timeline.of("8")[0].message.len(), MAX_MESSAGE);
        let changes = timeline.0.lock();
        assert_eq!((changes.by_hook.len(), changes.order.len()), (MAX_HOOKS, MAX_HOOKS));
    }
}
