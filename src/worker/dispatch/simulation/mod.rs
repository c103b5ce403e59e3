//! A simulation of the dispatcher's surroundings: clock, store, receivers. Runs the state machine as the driver does, and
//! checks after each step that no bound is exceeded and no delivery is in flight twice.

mod cost;
mod crowding;
mod fairness;
mod hand_over;
mod owners;
mod postponed;
mod random;
mod reports;
mod store;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use super::command::{
    AttemptTicket, DispatchCommand, FailureKind, Postponement, ReceiverSignal, SettledDelivery,
};
use super::effect::Effect;
use super::machine::DispatchMachine;
use super::memory::MAX_IN_FLIGHT;
use super::time::Now;
use crate::cluster::ObjectKey;
use crate::core::delivery_reason::{AttemptFailure, DeliveryReason};
use crate::core::event::{Event, Origin};
use crate::core::fast_map::FastSet;
use crate::core::receiver_breaker::{BreakerReport, ReceiverEvidence};
use crate::core::retry::{AttemptOutcome, NextStep, RetryState};
use crate::core::time::Millis;
use crate::worker::index::HookIndex;
use crate::worker::report::DeliveryHealth;
use crate::worker::store::HookOwnership;
use crate::worker::store::{DeliverySeq, HookId, PendingDelivery, ReadLimit, StoreError};
use owners::SimOwnership;
use store::SimStore;

/// When the simulation starts, by the wall clock. The steady clock starts at 1000.
const START: Millis = Millis(1_700_000_000_000);
/// The default budget of the dispatcher.
const MEMORY: usize = 64 << 20;
/// How long a read and a commit take.
const STORE_LATENCY: Duration = Duration::from_millis(2);
/// Steps of the store's latency within which a drained simulation must rest: 30 s, the longest attempt.
const MAX_REST_STEPS: usize = 15_000;
/// The default time for which deliveries of a deleted hook stay pending.
const GRACE: Duration = Duration::from_secs(3600);

/// How a receiver behaves.
#[derive(Clone, Copy, Debug)]
enum Receiver {
    /// Answers 200 after this time.
    Healthy(Duration),
    /// Answers 500 to deliveries whose event number is below this one, and 200 to others.
    Rejecting(i64),
    /// No connection can be opened.
    Dead,
    /// Answers nothing until the timeout.
    Hanging,
}

/// Something that happens later.
#[derive(Debug)]
enum Later {
    AttemptEnds { pending: PendingDelivery, ticket: AttemptTicket },
    Read { uid: Arc<str>, serial: u64, exclude: FastSet<DeliverySeq>, limit: ReadLimit, untried: usize },
    Command(DispatchCommand),
    Commit { uid: Arc<str>, seq: DeliverySeq, next: NextStep, is_lost: bool },
    Transfer { from: HookId, to: HookId },
    EndBacklog { uid: Arc<str>, hook: Option<HookId> },
}

pub struct Simulation {
    machine: DispatchMachine,
    index: Arc<HookIndex>,
    memory: usize,
    store: SimStore,
    steady: Millis,
    /// The wall clock is this much ahead of the steady clock.
    wall_ahead: i64,
    later: BTreeMap<(Millis, u64), Later>,
    next_later: u64,
    receivers: HashMap<Arc<str>, Receiver>,
    in_flight: HashMap<DeliverySeq, Arc<str>>,
    delivered: HashMap<Arc<str>, usize>,
    attempts: HashMap<Arc<str>, usize>,
    health: HashMap<Arc<str>, DeliveryHealth>,
    breakers: HashMap<Arc<str>, BreakerReport>,
    held: HashMap<Arc<str>, HookId>,
    /// Namespaces whose senders wait.
    crowded: HashSet<Arc<str>>,
    /// How late attempts start, as on a worker without CPU to spare.
    start_delay: Duration,
    events: HashMap<usize, Arc<Event>>,
    generation: i64,
    random: fastrand::Rng,
    /// One commit in this many is lost.
    lost_commits: Option<u32>,
    /// One attempt in this many ends without an outcome.
    lost_attempts: Option<u32>,
    /// Attempts do not start, because this process may not own the hooks.
    refuses_attempts: bool,
    /// The numbers of the events whose attempts end without an outcome.
    without_outcome: HashSet<i64>,
    /// How long deliveries of a deleted hook stay pending.
    grace: Duration,
    /// Backlogs of deleted hooks that were ended.
    ended_backlogs: usize,
    most_in_flight: usize,
    most_memory: usize,
    ownership: Arc<SimOwnership>,
}

impl Simulation {
    fn new(memory: usize, seed: u64) -> Self {
        Self::with_grace(memory, seed, GRACE)
    }

    fn with_grace(memory: usize, seed: u64, grace: Duration) -> Self {
        let (index, ownership) = (Arc::new(HookIndex::default()), Arc::<SimOwnership>::default());
        Simulation {
            machine: DispatchMachine::new(index.clone(), grace, memory, ownership.clone()),
            index,
            memory,
            store: SimStore::default(),
            steady: Millis(1000),
            wall_ahead: START.0 - 1000,
            later: BTreeMap::new(),
            next_later: 0,
            receivers: HashMap::new(),
            in_flight: HashMap::new(),
            delivered: HashMap::new(),
            attempts: HashMap::new(),
            health: HashMap::new(),
            breakers: HashMap::new(),
            held: HashMap::new(),
            crowded: HashSet::new(),
            start_delay: Duration::ZERO,
            events: HashMap::new(),
            generation: 0,
            random: fastrand::Rng::with_seed(seed),
            lost_commits: None,
            lost_attempts: None,
            refuses_attempts: false,
            without_outcome: HashSet::new(),
            grace,
            ended_backlogs: 0,
            most_in_flight: 0,
            most_memory: 0,
            ownership,
        }
    }

    fn now(&self) -> Now {
        let wall = Millis(self.steady.0 + self.wall_ahead);
        Now { wall, age: wall, steady: self.steady }
    }

    /// Creates or changes a hook. `more` is merged into `spec.delivery`.
    fn put_hook(
        &mut self,
        namespace: &str,
        name: &str,
        uid: &str,
        more: &Value,
        receiver: Receiver,
    ) -> Arc<str> {
        let uid: Arc<str> = uid.into();
        self.receivers.insert(uid.clone(), receiver);
        self.generation += 1;
        let object = json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "EventHook",
            "metadata": {"name": name, "namespace": namespace, "uid": uid, "generation": self.generation},
            "spec": {"source": "s", "delivery": more, "handler": {"webhook": {"url": "https://example.com"}}}});
        for changed in self.index.upsert(&serde_json::from_value(object).unwrap()) {
            self.command(DispatchCommand::HookChanged(changed));
        }
        uid
    }

    fn delete_hook(&mut self, namespace: &str, name: &str) {
        for changed in self.index.remove(&ObjectKey::new(namespace, name)) {
            self.command(DispatchCommand::HookChanged(changed));
        }
    }

    fn event(&mut self, len: usize) -> Arc<Event> {
        let event = self.events.entry(len).or_insert_with(|| {
            let data = "x".repeat(len.saturating_sub(2));
            Arc::new(Event {
                id: "e".into(),
                namespace: "n".into(),
                origin: Origin::Api,
                source: "s".into(),
                event: "e".into(),
                time: String::new(),
                data: serde_json::value::to_raw_value(&data).unwrap().into(),
                attributes: [].into(),
            })
        });
        event.clone()
    }

    /// Creates an accepted delivery of an event of this length, which the store has.
    fn pending_of(&mut self, uid: &str, len: usize, seq: DeliverySeq) -> Option<PendingDelivery> {
        let (event, now) = (self.event(len), self.now().wall);
        let hook = self.index.get(uid)?.id.clone();
        let delivery = PendingDelivery {
            epoch: None,
            seq,
            id: Uuid::nil(),
            hook,
            event,
            accepted: now,
            attempts: 0,
            due: now,
            held: Duration::ZERO,
            suppressed: 0,
            replays: 0,
            progress: Vec::new(),
        };
        self.store.insert(delivery.clone());
        Some(delivery)
    }

    /// Accepts an event of this length for these hooks, as ingest does.
    fn accept(&mut self, hooks: &[Arc<str>], len: usize) {
        let number = self.store.next_event();
        let seqs = (0..).map(|index| (number << 20) | index);
        let pending =
            hooks.iter().zip(seqs).filter_map(|(uid, seq)| self.pending_of(uid, len, seq)).collect();
        self.command(DispatchCommand::Accepted { pending, memory: Vec::new() });
    }

    /// Creates an accepted delivery.
    pub fn pending(&mut self, uid: &str) -> PendingDelivery {
        let seq = self.store.next_event() << 20;
        self.pending_of(uid, 100, seq).expect("a hook")
    }

    pub fn step(&mut self, command: DispatchCommand) {
        self.command(command);
    }

    pub fn used_memory(&self) -> usize {
        self.machine.memory.used()
    }

    fn command(&mut self, command: DispatchCommand) {
        let effects = self.machine.step([command], self.now());
        self.execute(effects);
    }

    fn schedule(&mut self, after: Duration, later: Later) {
        self.next_later += 1;
        self.later.insert((self.steady + after, self.next_later), later);
    }

    fn execute(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::StartAttempt { pending, ticket } => self.start_attempt(pending, ticket),
                Effect::Load { uid, serial, exclude, limit, untried } => {
                    self.schedule(STORE_LATENCY, Later::Read { uid, serial, exclude, limit, untried });
                }
                Effect::Expire { uid, expired, .. } => {
                    for delivery in expired {
                        let next = NextStep::Dead { reason: DeliveryReason::MaxAge };
                        self.commit(uid.clone(), delivery.seq, next);
                    }
                }
                Effect::ReportHold(change) => {
                    match change.held {
                        true => self.held.insert(change.hook.uid.clone(), change.hook),
                        false => self.held.remove(&change.hook.uid),
                    };
                }
                Effect::Disown(uid) => drop(self.health.remove(&uid)),
                Effect::ReportHealth(health) => drop(self.health.insert(health.hook.uid.clone(), health)),
                Effect::ReportBreaker { uid, report, .. } => drop(self.breakers.insert(uid, report)),
                Effect::ReportCrowding { namespace, is_crowded } => {
                    match is_crowded {
                        true => self.crowded.insert(namespace),
                        false => self.crowded.remove(&namespace),
                    };
                }
                Effect::RecordProbe(_) => {}
                Effect::Transfer { from, to } => self.schedule(STORE_LATENCY, Later::Transfer { from, to }),
                Effect::RetryUndecided(hooks) => {
                    for uid in hooks {
                        self.schedule(STORE_LATENCY, Later::Command(DispatchCommand::NotifyDue(uid)));
                    }
                }
                Effect::EndBacklog { uid, hook } => {
                    self.schedule(STORE_LATENCY, Later::EndBacklog { uid, hook });
                }
            }
        }
        self.check();
    }

    /// Checks the bounds.
    fn check(&mut self) {
        let (in_flight, used) = (self.machine.in_flight(), self.machine.memory.used());
        self.most_in_flight = self.most_in_flight.max(in_flight);
        self.most_memory = self.most_memory.max(used);
        assert!(in_flight <= usize::try_from(MAX_IN_FLIGHT).unwrap(), "{in_flight} attempts in flight");
        assert!(used <= self.memory, "{used} bytes in memory");
        assert_eq!(in_flight, self.in_flight.len());
    }

    fn start_attempt(&mut self, pending: PendingDelivery, ticket: AttemptTicket) {
        let uid = pending.hook.uid.clone();
        let twice = self.in_flight.insert(pending.seq, uid.clone());
        assert!(twice.is_none(), "{} is in flight twice", pending.seq);
        let is_covered = self.machine.memory.is_covered(ticket.grant, ticket.data_len);
        assert!(is_covered, "{} has less capacity than it needs", pending.seq);
        assert!(self.store.is_pending_or_cancelled(pending.seq), "{} is sent after its end", pending.seq);
        *self.attempts.entry(uid.clone()).or_default() += 1;
        let state = self.index.get(&uid).unwrap();
        let delivery = &state.hook.as_ref().unwrap().delivery;
        let elsewhere = self.ownership.in_flight_elsewhere(&uid);
        let of_hook = self.machine.queues.get(&uid).unwrap().in_flight + elsewhere;
        assert!(of_hook <= delivery.concurrency.max(1), "{of_hook} attempts of {uid}");
        let duration = match self.receivers[&uid] {
            Receiver::Healthy(duration) => duration,
            Receiver::Rejecting(_) | Receiver::Dead => Duration::from_millis(3),
            Receiver::Hanging => delivery.timeout,
        };
        self.schedule(duration, Later::AttemptEnds { pending, ticket });
    }

    fn end_attempt(&mut self, pending: &PendingDelivery, ticket: AttemptTicket) {
        let uid = pending.hook.uid.clone();
        self.in_flight.remove(&pending.seq);
        let Some(state) = self.index.get(&uid) else {
            let why = Postponement::HookChanged;
            return self.command(DispatchCommand::AttemptPostponed { uid, why, ticket });
        };
        // As `attempt` does.
        if state.permission.is_some() && state.rate() != ticket.rate {
            let why = Postponement::RateChanged;
            return self.command(DispatchCommand::AttemptPostponed { uid, why, ticket });
        }
        if self.refuses_attempts {
            let why = Postponement::NotOwned;
            return self.command(DispatchCommand::AttemptPostponed { uid, why, ticket });
        }
        let is_lost = self.lost_attempts.is_some_and(|of| self.random.u32(0..of) == 0);
        if is_lost || self.without_outcome.contains(&(pending.seq >> 20)) {
            let why = Postponement::DeliveryOnly;
            return self.command(DispatchCommand::AttemptPostponed { uid, why, ticket });
        }
        let ok = (AttemptOutcome::Response { status: 200, retry_after: None }, Some(200), None);
        let (outcome, status, failure) = match self.receivers[&uid] {
            Receiver::Healthy(_) => ok,
            Receiver::Rejecting(below) if pending.seq >> 20 >= below => ok,
            Receiver::Rejecting(_) => {
                let outcome = AttemptOutcome::Response { status: 500, retry_after: None };
                (outcome, Some(500), Some(AttemptFailure::Status))
            }
            Receiver::Dead => (AttemptOutcome::Failed, None, Some(AttemptFailure::Connect)),
            Receiver::Hanging => (AttemptOutcome::Failed, None, Some(AttemptFailure::Timeout)),
        };
        let past = RetryState { accepted: pending.accepted + pending.held, attempts: pending.attempts + 1 };
        let retry = &state.hook.as_ref().unwrap().delivery.retry;
        let next = retry.decide(&outcome, past, self.now().wall, self.random.f64());
        let signal = match next {
            NextStep::Delivered => ReceiverSignal::Delivered,
            _ => ReceiverSignal::Failing { error: "failed".into(), kind: FailureKind::Receiver },
        };
        let evidence = ReceiverEvidence::of(status, failure);
        self.commit(uid.clone(), pending.seq, next);
        self.command(DispatchCommand::AttemptEnded {
            uid,
            signal,
            evidence,
            ticket,
            start_delay: self.start_delay,
        });
    }

    fn commit(&mut self, uid: Arc<str>, seq: DeliverySeq, next: NextStep) {
        let is_lost = self.lost_commits.is_some_and(|of| self.random.u32(0..of) == 0);
        self.schedule(STORE_LATENCY, Later::Commit { uid, seq, next, is_lost });
    }

    fn happen(&mut self, later: Later) {
        match later {
            Later::AttemptEnds { pending, ticket } => self.end_attempt(&pending, ticket),
            Later::Read { uid, serial, exclude, limit, untried } => {
                let now = self.now().wall;
                let failed = self.lost_commits.is_some_and(|of| self.random.u32(0..of) == 0);
                let result = match failed {
                    true => Err(StoreError::Busy),
                    false => Ok(self.store.read(&uid, now, &exclude, limit, untried)),
                };
                // The result may be outdated when it arrives.
                let delay = Duration::from_millis(self.random.u64(0..4));
                self.schedule(delay, Later::Command(DispatchCommand::Loaded { uid, serial, result }));
            }
            Later::Command(command) => self.command(command),
            Later::Commit { uid, seq, next, is_lost } => {
                if !is_lost && self.store.settle(seq, next) && next == NextStep::Delivered {
                    *self.delivered.entry(uid.clone()).or_default() += 1;
                }
                let next = (!is_lost).then_some(next);
                let settled = SettledDelivery { uid, seq, next, notify: false };
                self.command(DispatchCommand::Settled(vec![settled]));
            }
            Later::Transfer { from, to } => {
                self.store.transfer(&from, &to);
                self.command(DispatchCommand::NotifyDue(to.uid));
            }
            Later::EndBacklog { uid, hook } => {
                self.store.end_all(&uid);
                self.ended_backlogs += 1;
                self.command(DispatchCommand::BacklogEnded { uid, hook });
            }
        }
    }

    /// Runs until the steady clock shows this time.
    fn run_until(&mut self, until: Millis) {
        loop {
            let event = self.later.first_key_value().map(|((at, _), _)| *at);
            let wake = self.machine.next_wake();
            let Some(next) = event.into_iter().chain(wake).min().filter(|at| *at <= until) else { break };
            self.steady = self.steady.max(next);
            if event == Some(next)
                && let Some((_, later)) = self.later.pop_first()
            {
                self.happen(later);
            } else {
                let effects = self.machine.wake(self.now());
                self.execute(effects);
            }
        }
        self.steady = self.steady.max(until);
    }

    fn run_for(&mut self, duration: Duration) {
        self.run_until(self.steady + duration);
    }

    /// Runs until nothing is pending, for this time at most. Returns how long it took.
    fn drain(&mut self, at_most: Duration) -> Duration {
        let (start, end) = (self.steady, self.steady + at_most);
        while self.store.pending() > 0 && self.steady < end {
            self.run_for(Duration::from_secs(1));
        }
        assert_eq!(self.store.pending(), 0, "deliveries are pending after {at_most:?}: {:?}", self.stuck());
        self.run_for(Duration::from_secs(5));
        // A hook reads once more when a pause after a failed read ends. A queue that reads without an end never rests.
        for _ in 0..MAX_REST_STEPS {
            if self.later.is_empty() {
                break;
            }
            self.run_for(STORE_LATENCY);
        }
        assert!(self.later.is_empty(), "reads or attempts go on: {:?}", self.stuck());
        self.steady.since(start)
    }

    /// Describes the queues of hooks with pending deliveries, for a failed test.
    fn stuck(&self) -> Vec<String> {
        let mut stuck: Vec<_> = self
            .store
            .hooks_with_pending()
            .map(|(uid, count)| {
                let waits = self.machine.memory.pool.is_waiting(uid);
                let queue = self.machine.queues.get(uid).map(|queue| {
                    (
                        queue.ready.len(),
                        queue.claimed.len(),
                        queue.in_flight,
                        queue.has_more_on_disk,
                        queue.loading,
                    )
                });
                format!("{uid}: {count} pending, waits: {waits}, {queue:?}")
            })
            .collect();
        stuck.truncate(5);
        stuck
    }

    /// Kills the process and starts a new one on the same store, which keeps no pacing.
    fn restart(&mut self) {
        self.ownership.forget_pacing();
        self.replace_process();
    }

    /// Another process goes on with the same store.
    fn replace_process(&mut self) {
        self.in_flight.clear();
        self.later.clear();
        self.crowded.clear();
        self.machine =
            DispatchMachine::new(self.index.clone(), self.grace, self.memory, self.ownership.clone());
        let held = self.held.values().cloned().collect();
        let effects = self.machine.start(held, self.store.backlogs(), self.now());
        self.execute(effects);
    }

    /// Sets how many deliveries of the hook its former owners are attempting. Fewer than before are reported.
    fn set_elsewhere(&mut self, uid: &Arc<str>, count: usize) {
        let before = self.ownership.set_elsewhere(uid, count);
        if count < before {
            self.command(DispatchCommand::NotifyDue(uid.clone()));
        }
    }

    fn delivered(&self, uid: &str) -> usize {
        self.delivered.get(uid).copied().unwrap_or(0)
    }
}

/// Creates a simulation with one hook, for the tests of other modules.
pub fn with_hook(uid: &str) -> Simulation {
    let mut simulation = Simulation::new(MEMORY, 1);
    let receiver = Receiver::Healthy(Duration::from_secs(1));
    simulation.put_hook("n", "h", uid, &json!({}), receiver);
    simulation
}
