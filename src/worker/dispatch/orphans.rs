//! Orphaned deliveries: their hook was deleted. A hook of the same name adopts them; after the grace period they are dead.

use std::sync::Arc;

use super::effect::Effect;
use super::machine::{DispatchMachine, STORE_RETRY};
use super::time::Now;
use crate::worker::store::HookId;

impl DispatchMachine {
    /// Handles a hook that does not exist: transfers its deliveries to a hook of the same name, waits for the grace
    /// period, or ends them.
    pub(super) fn hook_missing(&mut self, uid: &Arc<str>, now: Now) {
        let Some(queue) = self.queues.get_mut(uid) else { return };
        if let Some(id) = queue.hook.clone() {
            if let Some(new) = self.hook_named_like(&id) {
                return self.transfer(id, new.id.clone(), now);
            }
            self.orphans.insert((id.namespace.clone(), id.name.clone()), id);
        }
        let Some(queue) = self.queues.get_mut(uid) else { return };
        let since = *queue.deleted_since.get_or_insert(now.steady);
        if now.steady.since(since) < self.grace {
            self.timers.set(since + self.grace, uid);
            return;
        }
        queue.deleted_since = None;
        self.effects.push(Effect::EndBacklog { uid: uid.clone(), hook: queue.hook.clone() });
    }

    /// Forgets a deleted hook. Otherwise every hook that was deleted with a backlog would stay in memory.
    pub(super) fn forget(&mut self, uid: &Arc<str>, hook: Option<&HookId>, now: Now) {
        if self.index.get(uid).is_some() {
            return;
        }
        self.drop_queue(uid);
        // An outcome that was committed after the hook was forgotten created the queue, without a name.
        let Some(hook) = hook else { return };
        // End its hold. If the uid is used again, as in standalone mode, the deliveries must age.
        self.report_hold(hook, false, now);
        let name = (hook.namespace.clone(), hook.name.clone());
        if self.orphans.get(&name) == Some(hook) {
            self.orphans.remove(&name);
        }
    }

    /// Forgets the deleted hooks of a deleted namespace. If the namespace is recreated, its hooks must not adopt their
    /// deliveries.
    pub(super) fn namespace_ended(&mut self, name: &str, now: Now) {
        let is_deleted = |id: &HookId| *id.namespace == *name && self.index.get(&id.uid).is_none();
        let hooks: Vec<HookId> =
            self.queues.values().filter_map(|queue| queue.hook.clone()).filter(is_deleted).collect();
        for hook in &hooks {
            self.forget(&hook.uid, Some(hook), now);
        }
        self.orphans.retain(|(namespace, _), _| **namespace != *name);
    }

    /// Transfers the pending deliveries of a deleted hook to the hook that has its name now.
    pub(super) fn transfer(&mut self, old: HookId, new: HookId, now: Now) {
        if old.uid == new.uid {
            return;
        }
        self.unload_all(&old.uid);
        if let Some(queue) = self.queues.get_mut(&old.uid).filter(|queue| !queue.claimed.is_empty()) {
            // The new hook would send what is in flight a second time. `hook_missing` transfers the deliveries later; until
            // then the queue, which knows the hook's name, must stay.
            queue.mark_more_on_disk();
            self.timers.set(now.steady + STORE_RETRY, &old.uid);
            return;
        }
        self.drop_queue(&old.uid);
        // The store ends its hold as part of the transfer.
        self.held.remove(&old.uid);
        self.effects.push(Effect::Transfer { from: old, to: new });
    }
}
