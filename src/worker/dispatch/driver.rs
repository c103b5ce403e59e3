//! Drives the dispatcher's state machine: reads the clock, receives commands, executes effects.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::command::{DispatchCommand, DispatchHandle, ReportGuard};
use super::effect::{BreakerTransition, Effect};
use super::machine::DispatchMachine;
use super::time::Now;
use super::{attempt, ownership, settler, store_jobs};
use crate::core::time::Millis;
use crate::memory::MemoryBudget;
use crate::metrics::Metrics;
use crate::traces::Traces;
use crate::worker::handlers::HandlerRunner;
use crate::worker::index::HookIndex;
use crate::worker::report::{DeliveryHealth, ReportQueues};
use crate::worker::store::{DispatchStore, StoreError};

/// Commands that may be queued for the dispatcher. While the queue is full, ingest waits.
const COMMAND_CAPACITY: usize = 8192;
/// Commands that are handled in one batch.
const COMMAND_BATCH: usize = 256;
/// How long attempts in flight may take when the process stops.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// Backlogs of deleted hooks that are ended at the same time. Each uses the memory of one chunk.
const CONCURRENT_ENDS: usize = 2;

/// The dispatcher's dependencies and settings.
pub struct DispatcherParts {
    pub store: Arc<dyn DispatchStore>,
    pub index: Arc<HookIndex>,
    pub runner: Arc<HandlerRunner>,
    pub metrics: Arc<Metrics>,
    pub traces: Traces,
    /// How long the deliveries of a deleted hook stay pending, in case the hook is recreated.
    pub grace: Duration,
    /// Receives holds and delivery health.
    pub reports: Arc<ReportQueues>,
    /// Contains the budget for deliveries in memory, ready and in flight.
    pub memory: MemoryBudget,
}

/// Runs the state machine.
pub struct Dispatcher {
    machine: DispatchMachine,
    memory: MemoryBudget,
    store: Arc<dyn DispatchStore>,
    index: Arc<HookIndex>,
    runner: Arc<HandlerRunner>,
    metrics: Arc<Metrics>,
    traces: Traces,
    reports: Arc<ReportQueues>,
    tasks: TaskTracker,
    ends: Arc<Semaphore>,
    outcomes: mpsc::Sender<settler::AttemptSettlement>,
    commands: mpsc::Receiver<DispatchCommand>,
    handle: DispatchHandle,
}

impl Dispatcher {
    pub fn new(parts: DispatcherParts) -> (Self, DispatchHandle) {
        let (sender, commands) = mpsc::channel(COMMAND_CAPACITY);
        let handle = DispatchHandle { commands: sender, crowded: Arc::default() };
        let tasks = TaskTracker::new();
        let (outcomes, settlements) = mpsc::channel(COMMAND_CAPACITY);
        let counted = (parts.metrics.clone(), parts.index.clone());
        tasks.spawn(settler::run(settlements, parts.store.clone(), handle.clone(), counted));
        let memory = usize::try_from(parts.memory.dispatcher_bytes()).unwrap_or(usize::MAX);
        let ownership = parts.store.clone();
        let dispatcher = Dispatcher {
            machine: DispatchMachine::new(parts.index.clone(), parts.grace, memory, ownership),
            memory: parts.memory,
            store: parts.store,
            index: parts.index,
            runner: parts.runner,
            metrics: parts.metrics,
            traces: parts.traces,
            reports: parts.reports,
            tasks,
            ends: Arc::new(Semaphore::new(CONCURRENT_ENDS)),
            outcomes,
            commands,
            handle: handle.clone(),
        };
        (dispatcher, handle)
    }

    /// Delivers until `stop`, then waits up to `STOP_DEADLINE` for the attempts in flight. The next start repeats
    /// attempts that did not end in time.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), StoreError> {
        let (held, backlogs) = (self.store.held_hooks().await?, self.store.backlog().await?);
        let effects = self.machine.start(held, backlogs, Now::read());
        self.execute(effects);
        let following = tokio::spawn(ownership::follow(self.store.clone(), self.handle.clone()));
        let _following = AbortOnDropHandle::new(following);
        let mut batch = Vec::with_capacity(COMMAND_BATCH);
        loop {
            let next = self.machine.next_wake();
            let timer = async {
                match next {
                    Some(at) => tokio::time::sleep(at.since(Millis::steady())).await,
                    None => std::future::pending().await,
                }
            };
            let effects = tokio::select! {
                () = stop.cancelled() => break,
                count = self.commands.recv_many(&mut batch, COMMAND_BATCH) => {
                    if count == 0 {
                        break;
                    }
                    self.machine.step(batch.drain(..), Now::read())
                }
                () = timer => self.machine.wake(Now::read()),
            };
            self.execute(effects);
        }
        self.machine.stop();
        // Otherwise every delivery of these hooks would wait for the slowest attempt in flight.
        self.store.hand_over();
        self.tasks.close();
        // The settler ends when every sender is dropped: this one, and those of the attempts in flight.
        self.outcomes = mpsc::channel(1).0;
        let tasks = self.tasks.clone();
        let ended = async {
            loop {
                tokio::select! {
                    Some(command) = self.commands.recv() => {
                        let effects = self.machine.step([command], Now::read());
                        self.execute(effects);
                    }
                    () = tasks.wait() => break,
                }
            }
        };
        if tokio::time::timeout(STOP_DEADLINE, ended).await.is_err() {
            tracing::warn!(
                attempts = self.machine.in_flight(),
                "attempts in flight aborted, the next start repeats them"
            );
        }
        Ok(())
    }

    fn execute(&self, effects: Vec<Effect>) {
        self.memory.record_dispatcher_use(self.machine.memory.used() as u64);
        effects.into_iter().for_each(|effect| self.execute_one(effect));
    }

    fn execute_one(&self, effect: Effect) {
        match effect {
            Effect::StartAttempt { pending, ticket } => {
                self.tasks.spawn(attempt::run(attempt::AttemptJob {
                    pending,
                    ticket,
                    index: self.index.clone(),
                    runner: self.runner.clone(),
                    outcomes: self.outcomes.clone(),
                    metrics: self.metrics.clone(),
                    traces: self.traces.clone(),
                    dispatch: self.handle.clone(),
                    store: self.store.clone(),
                }));
            }
            Effect::Load { uid, serial, exclude, limit, untried } => {
                let store = self.store.clone();
                let loaded = move |uid, result| DispatchCommand::Loaded { uid, serial, result };
                // Otherwise a read that panics would be the hook's last.
                let failed = loaded(uid.clone(), Err(StoreError::Closed));
                let guard = ReportGuard::new(self.handle.clone(), failed);
                self.tasks.spawn(async move {
                    let result = store_jobs::load(&*store, &uid, exclude, limit, untried).await;
                    guard.report(loaded(uid, result)).await;
                });
            }
            Effect::Expire { uid, expired, series } => {
                self.tasks.spawn(attempt::expire(uid, expired, series, self.outcomes.clone()));
            }
            Effect::ReportHold(change) => self.reports.holds.push(&change.hook.uid.clone(), change),
            Effect::ReportHealth(health) => {
                let DeliveryHealth { hook, healthy, reason, .. } = &health;
                match healthy {
                    true => self.metrics.unhealthy_hooks.remove(&hook.uid),
                    false => {
                        let name = (&hook.namespace, &hook.name);
                        self.metrics.unhealthy_hooks.insert(&hook.uid, name, reason, Millis::now());
                    }
                }
                self.reports.timeline.record(&health, Millis::now());
                self.reports.health.push(&health.hook.uid.clone(), health)
            }
            Effect::ReportBreaker { uid, report, transition, series } => {
                self.reports.breakers.publish(&uid, report);
                let is_open = match transition {
                    BreakerTransition::None => return,
                    BreakerTransition::Opened | BreakerTransition::Inherited => true,
                    BreakerTransition::Closed => false,
                };
                self.metrics.record_breaker_change(is_open);
                series.iter().for_each(|series| series.set_breaker_open(is_open));
                if transition == BreakerTransition::Opened {
                    self.metrics.record_breaker_opening();
                }
            }
            Effect::ReportCrowding { namespace, is_crowded } => {
                self.handle.crowded.set(namespace, is_crowded)
            }
            Effect::Disown(uid) => {
                self.metrics.unhealthy_hooks.remove(&uid);
                self.reports.health.remove(&uid);
                // It would undo the new owner's.
                self.reports.holds.remove(&uid);
            }
            Effect::RecordProbe(evidence) => self.metrics.record_breaker_probe(evidence),
            Effect::Transfer { from, to } => {
                self.tasks.spawn(store_jobs::transfer(self.store.clone(), self.handle.clone(), from, to));
            }
            Effect::RetryUndecided(hooks) => {
                self.tasks.spawn(store_jobs::retry_undecided(self.store.clone(), self.handle.clone(), hooks));
            }
            Effect::EndBacklog { uid, hook } => {
                let (store, metrics, ends) = (self.store.clone(), self.metrics.clone(), self.ends.clone());
                // If the store fails or the task panics, HookChanged starts another grace period, at whose end the
                // dispatcher retries.
                let failed = DispatchCommand::HookChanged(uid.clone());
                let guard = ReportGuard::new(self.handle.clone(), failed);
                self.tasks.spawn(async move {
                    // Never closed, so there is always a permit at the end.
                    let _permit = ends.acquire().await;
                    if store_jobs::end_deliveries(&*store, &metrics, &uid).await {
                        guard.report(DispatchCommand::BacklogEnded { uid, hook }).await;
                    }
                });
            }
        }
    }
}
