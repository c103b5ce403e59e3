//! The state machine of the dispatcher: `step(commands, now) -> effects`. It reads no clock, starts no task and accesses
//! no store, so tests simulate all of them.

use std::sync::Arc;
use std::time::Duration;

use super::command::{AttemptTicket, DispatchCommand, ReceiverSignal, SettledDelivery};
use super::crowding::Crowding;
use super::effect::{BreakerTransition, Effect};
use super::health::{evaluate_hold, hold_change};
use super::memory::DeliveryMemory;
use super::queue::{AttemptInFlight, HookQueue, UndecidedFilter, memory_size};
use super::ready_ranking::ReadyRank;
use super::time::Now;
use super::timers::HookTimers;
use crate::core::fast_map::{FastMap, FastSet};
use crate::core::receiver_breaker::ReceiverEvidence;
use crate::core::time::Millis;
use crate::worker::hooks::HookState;
use crate::worker::index::HookIndex;
use crate::worker::store::HookOwnership;
use crate::worker::store::{DueDeliveries, HookBacklog, HookId, NextStep, PendingDelivery, StoreError};

/// The delay before a failed access to the store is repeated.
pub const STORE_RETRY: Duration = Duration::from_secs(1);

/// The queues of all hooks.
pub struct DispatchMachine {
    pub(super) index: Arc<HookIndex>,
    pub(super) queues: FastMap<Arc<str>, HookQueue>,
    pub(super) timers: HookTimers,
    pub(super) memory: DeliveryMemory,
    pub(super) crowding: Crowding,
    /// Hooks to dispatch after the current batch of commands, each once.
    to_dispatch: Vec<Arc<str>>,
    /// Deleted hooks with pending deliveries, by namespace and name.
    pub(super) orphans: FastMap<(Arc<str>, Arc<str>), HookId>,
    /// The hooks that are held in the store, including those that an earlier process held.
    pub(super) held: FastSet<Arc<str>>,
    /// How long the deliveries of a deleted hook stay pending, in case the hook is recreated.
    pub(super) grace: Duration,
    pub(super) effects: Vec<Effect>,
    pub(super) in_flight: usize,
    /// Identifies queues and reads.
    pub(super) serial: u64,
    /// The hook whose turn it is to read from disk.
    pub(super) reading: Option<Arc<str>>,
    is_stopping: bool,
    /// The store cannot record outcomes, so no attempt starts.
    is_store_full: bool,
    pub(super) ownership: Arc<dyn HookOwnership>,
}

impl DispatchMachine {
    /// Creates a machine without queues, which sends the deliveries of the hooks that this process owns. `memory`: the budget for
    /// deliveries in bytes.
    pub fn new(
        index: Arc<HookIndex>,
        grace: Duration,
        memory: usize,
        ownership: Arc<dyn HookOwnership>,
    ) -> Self {
        DispatchMachine {
            index,
            queues: FastMap::default(),
            timers: HookTimers::default(),
            memory: DeliveryMemory::new(memory),
            crowding: Crowding::default(),
            to_dispatch: Vec::new(),
            orphans: FastMap::default(),
            held: FastSet::default(),
            grace,
            effects: Vec::new(),
            in_flight: 0,
            serial: 0,
            reading: None,
            is_stopping: false,
            is_store_full: false,
            ownership,
        }
    }

    /// Loads the state that earlier processes left: backlogs, and holds that began or ended while no process ran. Creates
    /// queues only for hooks that have a backlog or need a report.
    pub fn start(&mut self, held: Vec<HookId>, backlogs: Vec<HookBacklog>, now: Now) -> Vec<Effect> {
        self.held = held.into_iter().map(|hook| hook.uid).collect();
        let mut with_backlog = Vec::new();
        for backlog in backlogs {
            let uid = backlog.hook.uid.clone();
            self.timers.set(now.steady_at(backlog.next_due), &uid);
            with_backlog.push(uid.clone());
            self.queues.entry(uid).or_default().hook = Some(backlog.hook);
        }
        // The specs may have changed while no process ran.
        self.effects.push(Effect::RetryUndecided(with_backlog));
        for hook in self.index.all() {
            let uid = &hook.id.uid;
            let is_held = evaluate_hold(Some(&hook), &HookQueue::default()).is_some();
            if !is_held && hook.reported_held {
                self.queues.entry(uid.clone()).or_default().reported = Some((false, "Held"));
            }
            if is_held || self.held.contains(uid) || self.queues.contains_key(uid) {
                self.queues.entry(uid.clone()).or_default();
                self.hook_changed(uid, now);
            }
        }
        std::mem::take(&mut self.effects)
    }

    /// Handles a batch of commands and returns what to do.
    pub fn step(&mut self, commands: impl IntoIterator<Item = DispatchCommand>, now: Now) -> Vec<Effect> {
        for command in commands {
            self.handle_command(command, now);
        }
        self.dispatch_marked(now);
        std::mem::take(&mut self.effects)
    }

    /// Dispatches the hooks whose timers are due, and returns what to do.
    pub fn wake(&mut self, now: Now) -> Vec<Effect> {
        while let Some(uid) = self.timers.pop_due(now.steady) {
            self.queues.entry(uid.clone()).or_default().mark_more_on_disk();
            self.dispatch_ready(&uid, now);
            self.drop_if_idle(&uid);
        }
        self.dispatch_marked(now);
        std::mem::take(&mut self.effects)
    }

    /// Returns the steady time of the next call of `wake`.
    pub fn next_wake(&self) -> Option<Millis> {
        self.timers.next()
    }

    /// Starts no further attempts.
    pub fn stop(&mut self) {
        self.is_stopping = true;
    }

    /// True if no attempt may start.
    pub(super) fn is_halted(&self) -> bool {
        self.is_stopping || self.is_store_full
    }

    /// Returns the number of attempts in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn handle_command(&mut self, command: DispatchCommand, now: Now) {
        match command {
            DispatchCommand::Accepted { pending, memory } => {
                // Each hook once, however the deliveries of a batch alternate between hooks. Not after the other commands,
                // because dispatching gives back what exceeds the memory.
                let (mut hooks, mut seen) = (Vec::new(), FastSet::default());
                for pending in pending {
                    let uid = self.enqueue(pending);
                    if seen.insert(uid.clone()) {
                        hooks.push(uid);
                    }
                }
                // Now the machine counts the events.
                drop(memory);
                hooks.iter().for_each(|uid| self.dispatch_ready(uid, now));
            }
            DispatchCommand::HookChanged(uid) => self.hook_changed(&uid, now),
            DispatchCommand::BacklogEnded { uid, hook } => self.forget(&uid, hook.as_ref(), now),
            DispatchCommand::NamespaceEnded(name) => self.namespace_ended(&name, now),
            DispatchCommand::NotifyDue(uid) => self.notify_due(&uid, now),
            DispatchCommand::NotifyHook(hook) => {
                let uid = hook.uid.clone();
                self.queue_of(hook);
                self.notify_due(&uid, now);
            }
            DispatchCommand::DeliveryChanged { hook, seq } => {
                let uid = hook.uid.clone();
                match self.queue_of(hook).discard(seq) {
                    Ok(discarded) => discarded.iter().for_each(|pending| self.memory.remove_ready(pending)),
                    Err(AttemptInFlight) => self.timers.set(now.steady + STORE_RETRY, &uid),
                }
                self.dispatch_ready(&uid, now);
            }
            DispatchCommand::Loaded { uid, serial, result } => self.on_loaded(&uid, serial, result, now),
            DispatchCommand::AttemptEnded { uid, signal, evidence, ticket, start_delay } => {
                self.crowding.record_start(start_delay);
                self.record_evidence(&uid, &ticket, evidence, signal, now);
                self.end_attempt(&uid, &ticket, now);
            }
            DispatchCommand::Undecided { uid, generation, why } => {
                if let Some(queue) = self.queues.get_mut(&uid) {
                    queue.undecided = Some(UndecidedFilter { generation, why, at: now.steady });
                }
            }
            DispatchCommand::AttemptPostponed { uid, why, ticket } => {
                let evidence = ReceiverEvidence::Inconclusive;
                self.record_evidence(&uid, &ticket, evidence, ReceiverSignal::Unknown, now);
                self.on_postponed(&uid, &ticket, why, now);
                self.end_attempt(&uid, &ticket, now);
            }
            DispatchCommand::OwnershipChanged { held, backlogs } => {
                let effects = self.change_ownership(held, backlogs, now);
                self.effects.extend(effects);
            }
            DispatchCommand::StoreFull(is_full) => {
                self.is_store_full = is_full;
                if !is_full {
                    let all: Vec<_> = self.queues.keys().cloned().collect();
                    all.iter().for_each(|uid| self.mark(uid));
                }
            }
            DispatchCommand::Settled(all) => {
                all.into_iter().for_each(|settled| self.on_settled(&settled, now))
            }
        }
    }

    /// Returns the queue of a hook that may be deleted. Records the hook's name, by which a recreated hook adopts the
    /// queue's deliveries.
    fn queue_of(&mut self, hook: HookId) -> &mut HookQueue {
        let queue = self.queues.entry(hook.uid.clone()).or_default();
        queue.hook.get_or_insert(hook);
        queue
    }

    fn notify_due(&mut self, uid: &Arc<str>, now: Now) {
        self.queues.entry(uid.clone()).or_default().mark_more_on_disk();
        self.dispatch_ready(uid, now);
    }

    /// Takes an accepted delivery into memory, or leaves it on disk if there is no capacity. Returns its hook.
    fn enqueue(&mut self, mut pending: PendingDelivery) -> Arc<str> {
        let uid = pending.hook.uid.clone();
        if self.ownership.epoch(&uid).is_none() {
            return uid;
        }
        let mut queue = self.queues.entry(uid.clone()).or_default();
        queue.hook.get_or_insert_with(|| pending.hook.clone());
        // A blocked hook cannot send it now, so it takes no memory from others.
        let (mut accepts, is_blocked) = (queue.accepts(), queue.rank.is_blocked());
        let size = memory_size(&pending);
        if accepts && self.memory.shortage(size) > 0 {
            let fits = !is_blocked && self.make_fair_capacity(&uid, size);
            let Some(found) = self.queues.get_mut(&uid) else { return uid };
            queue = found;
            // Reclaiming may have unloaded this very queue.
            accepts = fits && queue.accepts();
        }
        if !accepts {
            queue.mark_more_on_disk();
        } else if queue.claim(pending.seq) {
            self.memory.add(&mut pending);
            queue.push(pending);
            // Usually `dispatch_ready` updates the rank. The other deliveries of the batch may need the memory before.
            if self.memory.is_tight() {
                self.update_rank(&uid, is_blocked);
            }
        }
        uid
    }

    /// Releases the claim on a delivery and schedules its next attempt, if any.
    fn on_settled(&mut self, SettledDelivery { uid, seq, next, notify }: &SettledDelivery, now: Now) {
        let mut is_idle = false;
        if let Some(queue) = self.queues.get_mut(uid) {
            let was_full = queue.has_too_many_unsettled();
            match next {
                Some(_) => queue.mark_settled(*seq),
                None => queue.release_claim(*seq),
            }
            is_idle = queue.is_idle();
            if was_full {
                self.mark(uid);
            }
        }
        match next {
            Some(NextStep::Retry { due }) => self.timers.set(now.steady_at(*due), uid),
            Some(NextStep::Delivered | NextStep::Dead { .. }) if is_idle => self.drop_if_idle(uid),
            Some(NextStep::Delivered | NextStep::Dead { .. }) => {}
            // The outcome is lost and the delivery is on disk unchanged: attempt it again.
            None => self.timers.set(now.steady + STORE_RETRY, uid),
        }
        if *notify {
            self.notify_due(uid, now);
        }
    }

    /// Handles a hook that was created, edited or deleted, or that references a changed object.
    pub(super) fn hook_changed(&mut self, uid: &Arc<str>, now: Now) {
        let hook = self.index.get(uid);
        match self.queues.get_mut(uid) {
            Some(queue) => {
                queue.mark_more_on_disk();
                queue.recheck_at = None;
                // Compare generations, because writing the condition Undecided changes the object too.
                let generation = hook.as_ref().map(|hook| hook.generation);
                if queue.undecided.take_if(|failed| Some(failed.generation) != generation).is_some() {
                    self.effects.push(Effect::RetryUndecided(vec![uid.clone()]));
                }
            }
            // Report a hold to the store even without pending deliveries: later ones must not age during the hold.
            None if evaluate_hold(hook.as_ref(), &HookQueue::default()).is_some() && hook.is_some() => {
                self.queues.entry(uid.clone()).or_default();
            }
            None => {}
        }
        if let Some(hook) = hook
            && let Some(old) = self.orphans.remove(&(hook.id.namespace.clone(), hook.id.name.clone()))
        {
            self.transfer(old, hook.id.clone(), now);
        }
        self.dispatch_ready(uid, now);
        self.drop_if_idle(uid);
    }

    /// Returns the hook that has this namespace and name now.
    pub(super) fn hook_named_like(&self, id: &HookId) -> Option<Arc<HookState>> {
        self.index.get(&self.index.uid_of(&id.namespace, &id.name)?)
    }

    /// Drops a queue and clears its breaker in the metrics.
    pub(super) fn drop_queue(&mut self, uid: &Arc<str>) {
        // The attempts and the read that still run return their parts of the memory without the queue.
        self.unload_all(uid);
        self.memory.pool.stop_waiting(uid);
        self.memory.pool.leave(uid);
        self.timers.remove(uid);
        let Some(mut queue) = self.queues.remove(uid) else { return };
        if let Some(reservation) = queue.loading.take() {
            self.end_load(uid, reservation);
        }
        self.forget_pacing(uid, &queue);
        if !queue.breaker.is_open() {
            return;
        }
        queue.breaker.reset();
        // HookSeries belong to the name, which another hook may have now.
        let hook = queue.hook.and_then(|id| self.hook_named_like(&id));
        let series = hook.and_then(|hook| hook.series.clone());
        let report = queue.breaker.report();
        self.effects.push(Effect::ReportBreaker {
            uid: uid.clone(),
            report,
            transition: BreakerTransition::Closed,
            series,
        });
    }

    /// Releases the slot and the memory of an ended attempt. They go to the hook that holds least and not back to the same
    /// hook. Otherwise one large backlog could starve all other hooks.
    fn end_attempt(&mut self, uid: &Arc<str>, ticket: &AttemptTicket, now: Now) {
        let duration = match self.queues.get_mut(uid) {
            Some(queue) => {
                if !std::mem::replace(&mut queue.is_marked, true) {
                    self.to_dispatch.push(uid.clone());
                }
                queue.end_attempt(ticket, now.steady)
            }
            None => now.steady.since(ticket.started),
        };
        self.in_flight = self.in_flight.saturating_sub(1);
        self.memory.remove(ticket.seq, ticket.data_len);
        self.memory.release(DeliveryMemory::attempt_extra(ticket.data_len));
        self.memory.pool.release(uid, ticket.grant, duration);
        self.dispatch_waiting(now);
    }

    /// Dispatches the hooks that the current batch of commands marked, and those that wait for what it freed.
    pub(super) fn dispatch_marked(&mut self, now: Now) {
        loop {
            for uid in std::mem::take(&mut self.to_dispatch) {
                if let Some(queue) = self.queues.get_mut(&uid) {
                    queue.is_marked = false;
                }
                self.dispatch_ready(&uid, now);
                self.drop_if_idle(&uid);
            }
            self.dispatch_waiting(now);
            // A waiting hook may mark itself. Without another round it would wait for an unrelated command.
            if self.to_dispatch.is_empty() {
                return;
            }
        }
    }

    /// Dispatches the hook at the end of the current batch of commands, once.
    pub(super) fn mark(&mut self, uid: &Arc<str>) {
        let Some(queue) = self.queues.get_mut(uid) else { return };
        if !std::mem::replace(&mut queue.is_marked, true) {
            self.to_dispatch.push(uid.clone());
        }
    }

    /// Queues a change of a hook's hold for the store, unless the store already has it.
    pub(super) fn report_hold(&mut self, hook: &HookId, is_held: bool, now: Now) {
        if let Some(change) = hold_change(&mut self.held, hook, is_held, now) {
            self.effects.push(Effect::ReportHold(change));
        }
    }

    /// Drops the queue of an idle hook, so that memory is bounded by the hooks that have work. A hook with a timer has
    /// scheduled deliveries: if it is deleted meanwhile, only its queue knows the name by which a recreated hook adopts
    /// them.
    pub(super) fn drop_if_idle(&mut self, uid: &Arc<str>) {
        let Some(queue) = self.queues.get(uid).filter(|queue| queue.is_idle()) else { return };
        let is_ranked = queue.rank != ReadyRank::default();
        if !self.timers.is_set(uid) && !self.memory.pool.is_waiting(uid) {
            if is_ranked {
                self.update_rank(uid, false);
            }
            // Nothing else refers to an idle queue: it has no deliveries, and its breaker is closed.
            if let Some(queue) = self.queues.remove(uid) {
                self.forget_pacing(uid, &queue);
            }
        }
    }

    fn on_loaded(
        &mut self,
        uid: &Arc<str>,
        serial: u64,
        result: Result<(DueDeliveries, Option<Millis>), StoreError>,
        now: Now,
    ) {
        match result {
            Ok((found, next_due)) => {
                self.finish_load(uid, serial, found, now);
                if let Some(at) = next_due {
                    self.timers.set(now.steady_at(at), uid);
                }
                self.dispatch_ready(uid, now);
            }
            Err(error) => {
                tracing::warn!(hook = %uid, %error, "read of a hook's backlog failed, will retry");
                let nothing = DueDeliveries { has_more: true, ..DueDeliveries::default() };
                self.finish_load(uid, serial, nothing, now);
                self.timers.set(now.steady + STORE_RETRY, uid);
            }
        }
        self.dispatch_readers(now);
        self.drop_if_idle(uid);
    }
}
