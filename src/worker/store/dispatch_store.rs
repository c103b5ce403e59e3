//! The dispatch role: reading due deliveries, settling attempts, holding and promoting.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::hook_ownership::HookOwnership;
use super::{
    DeliverySeq, DueDeliveries, HookBacklog, HookId, PendingDelivery, ReadLimit, Settlement, StoreError,
};
use crate::core::fast_map::FastSet;
use crate::core::time::Millis;

/// Serves pending deliveries to the dispatcher and records what it does with them.
pub trait DispatchStore: HookOwnership + 'static {
    /// Records the settlements, all or none. Returns when they are durable.
    ///
    /// The result has one entry for each settlement: true if it made another delivery of the hook due. That happens
    /// when a delivery dies, because the store then promotes the trailing candidate behind it at once.
    fn settle_many(&self, settlements: Vec<Settlement>) -> BoxFuture<'_, Result<Vec<bool>, StoreError>>;

    /// Returns the pending deliveries of a hook that are due at `now`, earliest due first. Skips those in `exclude`,
    /// which the caller already has.
    fn due(
        &self,
        hook_uid: &str,
        now: Millis,
        exclude: FastSet<DeliverySeq>,
        limit: ReadLimit,
    ) -> BoxFuture<'_, Result<DueDeliveries, StoreError>>;

    /// Returns due deliveries of a hook that were not attempted since they were accepted or replayed, newest first. Skips
    /// those in `exclude`.
    ///
    /// The probes of an open breaker use them: the oldest deliveries may be the ones that the receiver rejects. Examines
    /// a bounded number of the newest pending deliveries, so an untried one behind many scheduled retries may be
    /// missing.
    fn newest_untried(
        &self,
        hook_uid: &str,
        now: Millis,
        exclude: FastSet<DeliverySeq>,
        limit: ReadLimit,
    ) -> BoxFuture<'_, Result<Vec<PendingDelivery>, StoreError>>;

    /// Returns the earliest due time after `after` of a hook's pending deliveries.
    fn next_due(&self, hook_uid: &str, after: Millis) -> BoxFuture<'_, Result<Option<Millis>, StoreError>>;

    /// Returns every hook with pending deliveries. Called at startup, so it must not read every delivery of a large
    /// backlog.
    fn backlog(&self) -> BoxFuture<'_, Result<Vec<HookBacklog>, StoreError>>;

    /// Returns every hook with pending deliveries, also those whose deliveries another process sends. For measurements.
    fn backlog_of_all_workers(&self) -> BoxFuture<'_, Result<Vec<HookBacklog>, StoreError>> {
        self.backlog()
    }

    /// Marks a hook as held (paused, gone, invalid, deleted, a Secret missing), or as no longer held.
    ///
    /// While a hook is held, its deliveries do not age. The mark survives restarts. Setting the present value again
    /// changes nothing.
    fn set_held(&self, hook: &HookId, held: bool, now: Millis) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Returns the hooks that are held. Called at startup.
    fn held_hooks(&self) -> BoxFuture<'_, Result<Vec<HookId>, StoreError>>;

    /// Makes the `Undecided` deliveries of a hook due at `now`, because its filter may have changed.
    ///
    /// Works in bounded steps. True: call again, there are more.
    fn reschedule_undecided(&self, uid: &str, now: Millis) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Transfers the pending deliveries of a deleted hook to another hook of the same name.
    ///
    /// Also ends the hold of `from`, forgets its gate memory, and turns its trailing candidates into ordinary pending
    /// deliveries that are due when their period ends. Whether `to` is held is set by `set_held`. Works in bounded steps.
    /// True: call again, there are more.
    fn transfer_pending(
        &self,
        from: &HookId,
        to: &HookId,
        now: Millis,
    ) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Promotes trailing candidates whose period is over, and returns their hooks.
    ///
    /// A promoted candidate becomes pending, sets both gate memories and opens a new period. `accept_then` also
    /// promotes such candidates, before it accepts events, and reports their hooks in `AcceptedEvent::hooks_to_notify`.
    /// Promotes a bounded number; `next_promotion` shows whether there are more.
    fn promote(&self, now: Millis) -> BoxFuture<'_, Result<Vec<HookId>, StoreError>>;

    /// Returns when the next trailing candidate's period ends.
    fn next_promotion(&self) -> BoxFuture<'_, Result<Option<Millis>, StoreError>>;

    /// True if this process sends the hook's deliveries. Cheap: no access to the store.
    ///
    /// With several workers, each hook belongs to one of them. The reads of deliveries return none of the other hooks.
    fn owns(&self, hook_uid: &str) -> bool {
        self.epoch(hook_uid).is_some()
    }

    /// True if this process sends the hook's deliveries, and no other one can have taken the hook over by now. For writes that
    /// another process must not undo. Cheap: no access to the store.
    fn owns_now(&self, hook_uid: &str) -> bool {
        self.owns(hook_uid)
    }

    /// Waits until the pacing that was recorded of the hook under `_epoch` is durable, as far as a crash must not undo it. False: the
    /// epoch has ended. Cancel safe.
    fn persist_pacing(&self, _hook_uid: &str, _epoch: Option<i64>) -> BoxFuture<'_, bool> {
        std::future::ready(true).boxed()
    }

    /// Records that an attempt starts. False: another worker may send the hook's deliveries now, or may have sent this one
    /// since it was read under `_epoch`, so the attempt must not start. Cheap: no access to the store.
    fn begin_attempt(&self, _hook_uid: &str, _delivery: DeliverySeq, _epoch: Option<i64>) -> bool {
        true
    }

    /// Records that an attempt ended without an outcome. The outcome of another one ends it when it is settled.
    fn cancel_attempt(&self, _delivery: DeliverySeq) {}

    /// Gives this process's hooks to other processes soon, because it is stopping. Attempts in flight stay its own: their outcomes
    /// are still recorded.
    fn hand_over(&self) {}

    /// Returns the next change that another process made. Never resolves if no other process uses the store. Cancel safe.
    fn next_notice(&self) -> BoxFuture<'_, DispatchNotice> {
        std::future::pending().boxed()
    }
}

/// A change that another process made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DispatchNotice {
    /// Hooks of this process with due deliveries.
    Due(Vec<HookBacklog>),
    /// The same, by their uids.
    DueHooks(Vec<Arc<str>>),
    /// Deliveries of hooks of this process were replayed or cancelled.
    Changed(Vec<(HookId, DeliverySeq)>),
    /// `owns` has changed for some hooks.
    OwnershipChanged,
}
