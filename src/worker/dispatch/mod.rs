//! The dispatcher: decides which delivery is sent next. Each hook has a queue: a bounded part is in memory, the rest on
//! disk.
//!
//! One task owns all queues and receives commands. While a hook keeps up, ingest hands its accepted deliveries over in
//! memory; the others stay on disk and are read in chunks. A delivery is claimed while it is in memory and until its
//! outcome is committed, so that it is never attempted twice at the same time.
//!
//! The steps of a delivery: `dispatch_ready` starts an attempt, `attempt` runs the handler and decides the next step,
//! `settler` commits the outcome, `on_settled` releases the claim.

mod attempt;
mod command;
mod health;
mod hold;
mod orphans;
mod queue;
mod settler;
mod slots;
mod startup;
mod timers;
mod undecided;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::handlers::HandlerRunner;
use super::hooks::HookState;
use super::index::HookIndex;
use super::report::ReportQueues;
use super::store::{
    DeliverySeq, DispatchStore, DueDeliveries, HookId, NextStep, PendingDelivery, ReadLimit, StoreError,
};
use crate::core::time::Millis;
use crate::metrics::Metrics;
pub use command::DispatchHandle;
use command::{DispatchCommand, ReceiverSignal, SettledDelivery};
use health::{evaluate_hold, is_blocked, report_health, report_hold};
use hold::{GoneMark, Hold};
use queue::{AttemptInFlight, CHUNK, HookQueue, QueueFull};
use slots::AttemptSlots;
use timers::HookTimers;
use undecided::retry_undecided;

/// Commands that may be queued for the dispatcher. While the queue is full, ingest waits.
const COMMAND_CAPACITY: usize = 8192;
/// Commands that are handled in one batch.
const COMMAND_BATCH: usize = 256;
/// Attempts in flight, over all hooks.
const MAX_IN_FLIGHT: usize = 2048;
/// Bytes of ready deliveries in memory, over all hooks; the others stay on disk.
const MAX_READY_BYTES: usize = 64 * 1024 * 1024;
/// The delay before a failed access to the store is repeated.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// How long attempts in flight may take when the process stops.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// How often a missing object (a Secret) is looked up again; a change of the object triggers it earlier.
const RECHECK_INTERVAL: Duration = Duration::from_secs(10);

/// The dispatcher's dependencies and settings.
pub struct DispatcherParts {
    pub store: Arc<dyn DispatchStore>,
    pub index: Arc<HookIndex>,
    pub runner: Arc<HandlerRunner>,
    pub metrics: Arc<Metrics>,
    /// How long the deliveries of a deleted hook stay pending, in case the hook is recreated.
    pub grace: Duration,
    /// Receives holds and delivery health.
    pub reports: Arc<ReportQueues>,
}

/// The queues of all hooks.
pub struct Dispatcher {
    store: Arc<dyn DispatchStore>,
    index: Arc<HookIndex>,
    runner: Arc<HandlerRunner>,
    metrics: Arc<Metrics>,
    queues: HashMap<Arc<str>, HookQueue>,
    timers: HookTimers,
    slots: AttemptSlots,
    /// Hooks to dispatch after the current batch of commands, each once.
    to_dispatch: Vec<Arc<str>>,
    /// Deleted hooks with pending deliveries, by namespace and name.
    orphans: HashMap<(Arc<str>, Arc<str>), HookId>,
    /// The hooks that are held in the store, including those that an earlier process held.
    held: HashSet<Arc<str>>,
    /// Bytes of ready deliveries in memory.
    ready_bytes: usize,
    grace: Duration,
    reports: Arc<ReportQueues>,
    tasks: TaskTracker,
    outcomes: mpsc::Sender<settler::AttemptSettlement>,
    is_stopping: bool,
    commands: mpsc::Receiver<DispatchCommand>,
    handle: DispatchHandle,
}

impl Dispatcher {
    pub fn new(parts: DispatcherParts) -> (Self, DispatchHandle) {
        let (sender, commands) = mpsc::channel(COMMAND_CAPACITY);
        let handle = DispatchHandle { commands: sender };
        let tasks = TaskTracker::new();
        let (outcomes, settlements) = mpsc::channel(COMMAND_CAPACITY);
        tasks.spawn(settler::run(settlements, parts.store.clone(), handle.clone(), parts.metrics.clone()));
        let dispatcher = Dispatcher {
            runner: parts.runner,
            store: parts.store,
            index: parts.index,
            metrics: parts.metrics,
            queues: HashMap::new(),
            timers: HookTimers::default(),
            slots: AttemptSlots::new(MAX_IN_FLIGHT),
            to_dispatch: Vec::new(),
            orphans: HashMap::new(),
            held: HashSet::new(),
            grace: parts.grace,
            reports: parts.reports,
            ready_bytes: 0,
            tasks,
            outcomes,
            is_stopping: false,
            commands,
            handle: handle.clone(),
        };
        (dispatcher, handle)
    }

    /// Delivers until `stop`, then waits up to `STOP_DEADLINE` for the attempts in flight. The next start repeats
    /// attempts that did not end in time.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), StoreError> {
        self.load_backlogs().await?;
        let mut batch = Vec::with_capacity(COMMAND_BATCH);
        loop {
            let next = self.timers.next();
            let timer = async {
                match next {
                    Some(at) => tokio::time::sleep(at.since(Millis::now())).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                received = self.commands.recv_many(&mut batch, COMMAND_BATCH) => {
                    if received == 0 {
                        break;
                    }
                    batch.drain(..).for_each(|command| self.handle_command(command));
                    self.dispatch_marked();
                }
                () = timer => self.on_timers(Millis::now()),
            }
        }
        self.is_stopping = true;
        self.tasks.close();
        // The settler ends when every sender is dropped: this one, and those of the attempts in flight.
        self.outcomes = mpsc::channel(1).0;
        let tasks = self.tasks.clone();
        let ended = async {
            loop {
                tokio::select! {
                    Some(command) = self.commands.recv() => self.handle_command(command),
                    () = tasks.wait() => break,
                }
            }
        };
        if tokio::time::timeout(STOP_DEADLINE, ended).await.is_err() {
            tracing::warn!(
                attempts = self.slots.in_flight(),
                "attempts in flight aborted, the next start repeats them"
            );
        }
        Ok(())
    }

    fn handle_command(&mut self, command: DispatchCommand) {
        match command {
            DispatchCommand::Accepted(all) => {
                let mut hooks: Vec<_> = all.into_iter().map(|pending| self.enqueue(pending)).collect();
                hooks.dedup();
                hooks.iter().for_each(|uid| self.dispatch_ready(uid));
            }
            DispatchCommand::HookChanged(uid) => self.hook_changed(&uid),
            DispatchCommand::BacklogEnded(hook) => self.forget(&hook),
            DispatchCommand::NamespaceEnded(name) => self.namespace_ended(&name),
            DispatchCommand::NotifyDue(uid) => {
                self.queues.entry(uid.clone()).or_default().mark_more_on_disk();
                self.dispatch_ready(&uid);
            }
            DispatchCommand::NotifyHook(hook) => {
                let uid = hook.uid.clone();
                self.queue_of(hook).mark_more_on_disk();
                self.dispatch_ready(&uid);
            }
            DispatchCommand::DeliveryChanged { hook, seq } => {
                let uid = hook.uid.clone();
                match self.queue_of(hook).discard(seq) {
                    Ok(bytes) => self.ready_bytes = self.ready_bytes.saturating_sub(bytes),
                    Err(AttemptInFlight) => self.timers.set(Millis::now() + STORE_RETRY, &uid),
                }
                self.dispatch_ready(&uid);
            }
            DispatchCommand::Loaded { uid, result } => self.on_loaded(&uid, result),
            DispatchCommand::AttemptEnded { uid, signal } => {
                self.record_signal(&uid, signal);
                self.release_slot(uid);
            }
            DispatchCommand::Undecided { uid, generation, why } => {
                if let Some(queue) = self.queues.get_mut(&uid) {
                    queue.undecided = Some((generation, why));
                }
            }
            DispatchCommand::AttemptPostponed { uid, seq, missing } => {
                self.on_postponed(&uid, seq, missing);
                self.release_slot(uid);
            }
            DispatchCommand::Settled(all) => all.into_iter().for_each(|settled| self.on_settled(&settled)),
        }
    }

    /// Returns the queue of a hook that may be deleted. Records the hook's name, by which a recreated hook adopts the
    /// queue's deliveries.
    fn queue_of(&mut self, hook: HookId) -> &mut HookQueue {
        let queue = self.queues.entry(hook.uid.clone()).or_default();
        queue.hook.get_or_insert(hook);
        queue
    }

    /// Releases the claim on a delivery and schedules its next attempt, if any.
    fn on_settled(&mut self, SettledDelivery { uid, seq, next, notify }: &SettledDelivery) {
        if let Some(queue) = self.queues.get_mut(uid) {
            let was_full = queue.has_too_many_unsettled();
            match next {
                Some(_) => queue.mark_settled(*seq),
                None => drop(queue.claimed.remove(seq)),
            }
            if was_full {
                self.to_dispatch.push(uid.clone());
            }
        }
        match next {
            Some(NextStep::Retry { due }) => self.timers.set(*due, uid),
            Some(NextStep::Delivered | NextStep::Dead { .. }) => self.drop_if_idle(uid),
            // The outcome is lost and the delivery is on disk unchanged: attempt it again.
            None => self.timers.set(Millis::now() + STORE_RETRY, uid),
        }
        if *notify {
            self.queues.entry(uid.clone()).or_default().mark_more_on_disk();
            self.dispatch_ready(uid);
        }
    }

    /// Handles a hook that was created, edited or deleted, or that references a changed object.
    fn hook_changed(&mut self, uid: &Arc<str>) {
        let hook = self.index.get(uid);
        match self.queues.get_mut(uid) {
            Some(queue) => {
                queue.mark_more_on_disk();
                queue.recheck_at = None;
                // Compare generations, because writing the condition Undecided changes the object too.
                let generation = hook.as_ref().map(|hook| hook.generation);
                if queue.undecided.take_if(|(failed, _)| Some(*failed) != generation).is_some() {
                    self.tasks.spawn(retry_undecided(
                        self.store.clone(),
                        self.handle.clone(),
                        vec![uid.clone()],
                    ));
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
            self.transfer(old, hook.id.clone());
        }
        self.dispatch_ready(uid);
        self.drop_if_idle(uid);
    }

    /// Updates the breaker and the reported health after an attempt.
    fn record_signal(&mut self, uid: &Arc<str>, signal: ReceiverSignal) {
        let Some(queue) = self.queues.get_mut(uid) else { return };
        let was_open = queue.breaker.is_open();
        if !matches!(signal, ReceiverSignal::Unknown) {
            queue.missing = None;
            queue.egress_denied = None;
        }
        match signal {
            ReceiverSignal::Unknown => queue.breaker.record_inconclusive(Millis::now()),
            ReceiverSignal::Healthy => {
                queue.breaker.record_success();
                queue.has_delivered = true;
            }
            ReceiverSignal::Failing(error) => {
                queue.breaker.record_failure(Millis::now());
                queue.last_error = Some(error);
            }
            ReceiverSignal::Gone => {
                queue.breaker.record_success();
                queue.gone = self.index.get(uid).map(|hook| GoneMark::of(&hook));
            }
            ReceiverSignal::Denied(why) => {
                queue.breaker.record_inconclusive(Millis::now());
                queue.egress_denied = Some(why);
            }
        }
        if queue.breaker.is_open() != was_open {
            self.metrics.record_breaker_change(!was_open);
            let hook = self.index.get(uid);
            hook.iter()
                .filter_map(|hook| hook.series.as_ref())
                .for_each(|series| series.set_breaker_open(!was_open));
        }
    }

    /// Returns the hook that has this namespace and name now.
    fn hook_named_like(&self, id: &HookId) -> Option<Arc<HookState>> {
        self.index.get(&self.index.uid_of(&id.namespace, &id.name)?)
    }

    /// Drops a queue and clears its breaker in the metrics.
    fn drop_queue(&mut self, uid: &str) {
        let Some(queue) = self.queues.remove(uid).filter(|queue| queue.breaker.is_open()) else { return };
        self.metrics.record_breaker_change(false);
        // HookSeries belong to the name, which another hook may have now.
        let hook = queue.hook.and_then(|id| self.hook_named_like(&id));
        hook.iter().filter_map(|hook| hook.series.as_ref()).for_each(|series| series.set_breaker_open(false));
    }

    /// Holds a hook for which something is missing. Writes nothing to its deliveries. After the recheck interval, one
    /// attempt checks on behalf of all of them.
    fn on_postponed(&mut self, uid: &Arc<str>, seq: DeliverySeq, missing: Option<Hold>) {
        let Some(queue) = self.queues.get_mut(uid) else { return };
        let at = Millis::now() + RECHECK_INTERVAL;
        queue.claimed.remove(&seq);
        queue.mark_more_on_disk();
        queue.breaker.record_inconclusive(Millis::now());
        queue.recheck_at = Some(at);
        // None: the hook was deleted or became invalid, and `evaluate_hold` holds it for that reason.
        queue.missing = missing;
        self.timers.set(at, uid);
    }

    /// Takes an accepted delivery into memory, or leaves it on disk if there is no capacity. Returns its hook.
    fn enqueue(&mut self, pending: PendingDelivery) -> Arc<str> {
        let uid = pending.hook.uid.clone();
        let size = queue::memory_size(&pending);
        let fits = self.ready_bytes + size <= MAX_READY_BYTES;
        let queue = self.queues.entry(uid.clone()).or_default();
        queue.hook.get_or_insert_with(|| pending.hook.clone());
        match fits.then(|| queue.try_push(pending)) {
            Some(Ok(bytes)) => self.ready_bytes += bytes,
            Some(Err(QueueFull)) | None => queue.mark_more_on_disk(),
        }
        uid
    }

    /// Dispatches the hooks whose timers are due.
    fn on_timers(&mut self, now: Millis) {
        while let Some(uid) = self.timers.pop_due(now) {
            self.queues.entry(uid.clone()).or_default().mark_more_on_disk();
            self.dispatch_ready(&uid);
        }
    }

    /// Adds deliveries that were read from disk to the hook's queue.
    fn on_loaded(&mut self, uid: &Arc<str>, result: Result<(DueDeliveries, Option<Millis>), StoreError>) {
        let Some(queue) = self.queues.get_mut(uid) else { return };
        match result {
            Ok((due, next_due)) => {
                self.ready_bytes += queue.finish_loading(due);
                if let Some(at) = next_due {
                    self.timers.set(at, uid);
                }
            }
            Err(error) => {
                tracing::warn!(hook = %uid, %error, "read of a hook's backlog failed, will retry");
                queue.is_loading = false;
                self.timers.set(Millis::now() + STORE_RETRY, uid);
                return;
            }
        }
        self.dispatch_ready(uid);
        self.drop_if_idle(uid);
    }

    /// Starts the attempts that the hook may start now, and reads from disk when its queue runs low.
    fn dispatch_ready(&mut self, uid: &Arc<str>) {
        if self.is_stopping {
            return;
        }
        let state = self.index.get(uid);
        let Some(queue) = self.queues.get_mut(uid) else { return };
        if let Some(state) = &state {
            queue.hook.get_or_insert_with(|| state.id.clone());
            queue.deleted_since = None;
        }
        let hold = evaluate_hold(state.as_ref(), queue);
        if let Some(id) = &queue.hook {
            report_hold(&mut self.held, &self.reports, id, hold.is_some());
        }
        report_health(queue, state.as_deref(), hold.as_ref(), &self.reports.health);
        if is_blocked(hold.as_ref(), queue, Millis::now()) {
            self.ready_bytes = self.ready_bytes.saturating_sub(queue.unload());
            if state.is_none() {
                self.hook_missing(uid);
            }
            return;
        }
        let Some(Ok(hook)) = state.as_ref().map(|state| &state.hook) else { return };
        let (expired, freed) = queue.take_expired(hook.delivery.retry.max_age, Millis::now());
        self.ready_bytes = self.ready_bytes.saturating_sub(freed);
        let more_may_be_expired = !expired.is_empty();
        if more_may_be_expired {
            let series = state.as_ref().and_then(|state| state.series.clone());
            self.tasks.spawn(attempt::expire(expired, series, self.outcomes.clone()));
        }
        let concurrency = hook.delivery.concurrency;
        let mut not_before = None;
        while queue.in_flight < concurrency && !queue.ready.is_empty() {
            if self.slots.is_exhausted() {
                if !std::mem::replace(&mut queue.is_waiting_for_slot, true) {
                    self.slots.enqueue(uid.clone());
                }
                break;
            }
            if let Err(until) = queue.permit_attempt(hook.delivery.rate, Millis::now()) {
                until.into_iter().for_each(|at| not_before = Some(at));
                break;
            }
            let Some(pending) = queue.ready.pop_front() else { break };
            self.slots.acquire();
            queue.in_flight += 1;
            self.ready_bytes = self.ready_bytes.saturating_sub(queue::memory_size(&pending));
            self.tasks.spawn(attempt::run(attempt::AttemptJob {
                pending,
                index: self.index.clone(),
                runner: self.runner.clone(),
                outcomes: self.outcomes.clone(),
                metrics: self.metrics.clone(),
                dispatch: self.handle.clone(),
            }));
        }
        let is_memory_full = self.ready_bytes >= MAX_READY_BYTES;
        let may_read = match not_before {
            Some(_) if !more_may_be_expired => false,
            // While the memory is full, only hooks that have nothing in memory may read.
            _ if is_memory_full => queue.ready.is_empty() && queue.in_flight == 0,
            _ => true,
        };
        let read = may_read && queue.try_start_loading();
        let claimed = if read { queue.claimed.clone() } else { HashSet::new() };
        if let Some(at) = not_before {
            self.timers.set(at, uid);
        }
        if read {
            let limit = if is_memory_full { ReadLimit { rows: 1, ..CHUNK } } else { CHUNK };
            let (store, handle, uid) = (self.store.clone(), self.handle.clone(), uid.clone());
            self.tasks.spawn(async move {
                let now = Millis::now();
                let result = async {
                    Ok((store.due(&uid, now, claimed, limit).await?, store.next_due(&uid, now).await?))
                }
                .await;
                handle.send(DispatchCommand::Loaded { uid, result }).await;
            });
        }
    }

    /// Drops the queue of an idle hook, so that memory is bounded by the hooks that have work.
    fn drop_if_idle(&mut self, uid: &Arc<str>) {
        if self.queues.get(uid).is_some_and(HookQueue::is_idle) {
            self.drop_queue(uid);
        }
    }
}

#[cfg(test)]
mod tests;
