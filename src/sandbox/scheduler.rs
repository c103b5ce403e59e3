//! Assigns children to hooks by fair queuing: first between namespaces, then between the hooks of a namespace.
//!
//! Each namespace, and each hook, has a virtual clock that its invocations advance by their cost. The next namespace is the
//! one whose next invocation would finish first in virtual time, and so is its next hook. So a hook with short invocations
//! does not wait behind hooks that run into their deadlines, and a namespace gets no more for having many hooks. If there
//! are several children, neither one hook nor all slow hooks together get all of them. Places in the queue are divided in
//! the same order (`core::fair_shares`).

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::ScriptOwner;
use super::error::ScriptError;
use super::options::SandboxOptions;
use super::process::{Process, StartError, Starter};
use super::protocol::Reply;
use crate::core::fair_shares::FairShares;
use crate::memory::{MemoryPool, Reservation};

/// The most queued invocations of all hooks. One hook alone may queue about two thirds of them.
const MAX_QUEUED: u64 = 4096;
/// The most hooks whose clocks are kept although none of their invocations is queued or running.
const MAX_IDLE_HOOKS: usize = 512;
/// A hook is slow if its last invocation took at least this long. One child is reserved for hooks that are not slow.
const SLOW: Duration = Duration::from_millis(100);
/// A child gets invocations of a hook ahead of time only if the hook's last invocation was shorter than this.
const QUICK: Duration = Duration::from_millis(5);

/// The child's reply to an invocation.
pub struct FinishedInvocation {
    pub reply: Reply,
    /// The time that the script had.
    pub budget: Duration,
    /// The memory of the result. None: it is too small to count.
    pub memory: Option<Reservation>,
}

/// A finished invocation, or why there is no reply.
pub type InvocationResult = Result<FinishedInvocation, ScriptError>;

/// An invocation in a hook's queue.
pub struct QueuedInvocation {
    /// The encoded request; its time budget is set when it is sent.
    pub frame: Vec<u8>,
    pub deadline: Instant,
    pub reply: oneshot::Sender<InvocationResult>,
    /// True if it was sent to a child that had already died, and then requeued.
    pub was_resent: bool,
}

/// Queues invocations and assigns children to hooks.
pub struct Scheduler {
    options: SandboxOptions,
    /// None: the thread that starts children could not be started.
    starter: Option<Starter>,
    /// Why no child will ever start.
    permanent_failure: OnceLock<String>,
    /// Why the first child did not start.
    first_failure: Option<String>,
    state: Mutex<State>,
}

struct State {
    /// Children without an invocation.
    idle: Vec<Process>,
    /// How many more children may be assigned.
    free: usize,
    /// How many children are assigned to slow hooks.
    slow: usize,
    /// Queued invocations by namespace and hook.
    queued: FairShares,
    /// The virtual start time of the last assignment. A namespace's clock is never behind it, so idle namespaces save up no
    /// credit.
    clock: Duration,
    namespaces: HashMap<Arc<str>, Namespace>,
    hooks: HashMap<Arc<str>, HookQueue>,
}

/// The virtual clock of a namespace.
#[derive(Default)]
struct Namespace {
    /// The virtual start time of its next invocation.
    clock: Duration,
    /// The cost of its last invocation.
    last_cost: Duration,
    /// As `State::clock`, for the clocks of its hooks.
    of_hooks: Duration,
    /// Hooks that have a queue.
    hooks: usize,
}

/// The queue and the virtual clock of a hook.
struct HookQueue {
    namespace: Arc<str>,
    /// The virtual start time of its next invocation.
    clock: Duration,
    /// The cost of its last invocation, which estimates the next one. None: no invocation has ended yet.
    last_cost: Option<Duration>,
    /// How many children are assigned to it.
    assigned: usize,
    queue: VecDeque<QueuedInvocation>,
}

impl HookQueue {
    fn estimated_cost(&self) -> Duration {
        self.last_cost.unwrap_or_default()
    }
}

/// The assignment of a child to a hook.
pub struct Assignment {
    namespace: Arc<str>,
    hook: Arc<str>,
    is_slow: bool,
}

impl Assignment {
    pub fn owner(&self) -> ScriptOwner<'_> {
        ScriptOwner { namespace: &self.namespace, hook: &self.hook }
    }
}

impl State {
    fn new(idle: Vec<Process>, free: usize) -> Self {
        State {
            idle,
            free,
            slow: 0,
            queued: FairShares::new(MAX_QUEUED),
            clock: Duration::ZERO,
            namespaces: HashMap::new(),
            hooks: HashMap::new(),
        }
    }

    /// Adds an invocation to its hook's queue. Returns it if the queue is full.
    fn push(&mut self, owner: ScriptOwner<'_>, invocation: QueuedInvocation) -> Result<(), QueuedInvocation> {
        if !self.queued.try_take(owner.into(), 1) {
            return Err(invocation);
        }
        let hook = self.hooks.entry(owner.hook.clone()).or_insert_with(|| {
            self.namespaces.entry(owner.namespace.clone()).or_default().hooks += 1;
            HookQueue {
                namespace: owner.namespace.clone(),
                clock: Duration::ZERO,
                last_cost: None,
                assigned: 0,
                queue: VecDeque::new(),
            }
        });
        hook.queue.push_back(invocation);
        Ok(())
    }

    /// Takes the hook's first invocation whose caller still waits and whose deadline has not passed.
    fn pop_live(&mut self, owner: ScriptOwner<'_>) -> Option<QueuedInvocation> {
        let hook = self.hooks.get_mut(owner.hook)?;
        while let Some(invocation) = hook.queue.pop_front() {
            self.queued.give(owner.into(), 1);
            if invocation.reply.is_closed() {
                continue;
            }
            if Instant::now() < invocation.deadline {
                return Some(invocation);
            }
            invocation.reply.send(Err(no_child_in_time())).ok();
        }
        None
    }

    /// Returns the hook that is next, if a child is free for it. `processes`: the number of children.
    fn next_hook(&self, processes: usize) -> Option<Arc<str>> {
        if self.free == 0 || self.queued.used() == 0 {
            return None;
        }
        let share = processes.saturating_sub(1).max(1);
        let is_within_share =
            |hook: &HookQueue| hook.assigned < share && (hook.estimated_cost() < SLOW || self.slow < share);
        let is_eligible =
            |(_, hook): &(&Arc<str>, &HookQueue)| !hook.queue.is_empty() && is_within_share(hook);
        let eligible = self.hooks.iter().filter(is_eligible);
        let next = eligible.min_by(|(_, a), (_, b)| self.virtual_finish(a).cmp(&self.virtual_finish(b)));
        next.map(|(uid, _)| uid.clone())
    }

    /// Returns when the next invocation of a namespace, and that of the hook in it, would finish in virtual time. The name
    /// keeps the hooks of a namespace together.
    fn virtual_finish<'s>(&self, hook: &'s HookQueue) -> (Duration, &'s str, Duration) {
        let (of_namespace, floor) = match self.namespaces.get(&hook.namespace) {
            Some(namespace) => (namespace.clock.max(self.clock) + namespace.last_cost, namespace.of_hooks),
            None => (self.clock, Duration::ZERO),
        };
        (of_namespace, &hook.namespace, hook.clock.max(floor) + hook.estimated_cost())
    }

    /// Assigns a child to the hook that is next.
    fn assign(&mut self, processes: usize) -> Option<Assignment> {
        let uid = self.next_hook(processes)?;
        let hook = self.hooks.get_mut(&uid)?;
        hook.assigned += 1;
        if let Some(namespace) = self.namespaces.get_mut(&hook.namespace) {
            namespace.clock = namespace.clock.max(self.clock);
            self.clock = namespace.clock;
            hook.clock = hook.clock.max(namespace.of_hooks);
            namespace.of_hooks = hook.clock;
        }
        let is_slow = hook.estimated_cost() >= SLOW;
        self.free -= 1;
        self.slow += usize::from(is_slow);
        Some(Assignment { namespace: hook.namespace.clone(), hook: uid, is_slow })
    }

    fn unassign(&mut self, assignment: &Assignment) {
        self.free += 1;
        self.slow -= usize::from(assignment.is_slow);
        if let Some(hook) = self.hooks.get_mut(&assignment.hook) {
            hook.assigned -= 1;
        }
        if self.hooks.len() > MAX_IDLE_HOOKS {
            self.hooks.retain(|_, hook| {
                let is_used = hook.assigned > 0 || !hook.queue.is_empty();
                if !is_used && let Some(namespace) = self.namespaces.get_mut(&hook.namespace) {
                    namespace.hooks -= 1;
                }
                is_used
            });
            self.namespaces.retain(|_, namespace| namespace.hooks > 0);
        }
    }

    fn record_cost(&mut self, assignment: &Assignment, cost: Duration) {
        if let Some(hook) = self.hooks.get_mut(&assignment.hook) {
            hook.last_cost = Some(cost);
            hook.clock += cost;
        }
        if let Some(namespace) = self.namespaces.get_mut(&assignment.namespace) {
            namespace.last_cost = cost;
            namespace.clock += cost;
        }
    }
}

impl Scheduler {
    /// Starts a first child. The scheduler works even if it does not start, because a later child may start.
    pub async fn start(options: SandboxOptions) -> Scheduler {
        let (starter, first) = match Starter::new(&options) {
            Ok(starter) => {
                let first = starter.start(&options).await;
                (Some(starter), first)
            }
            Err(error) => (None, Err(StartError::Failed(error.to_string()))),
        };
        let (permanent_failure, free) = (OnceLock::new(), options.processes.max(1));
        let (idle, first_failure) = match first {
            Ok(process) => (vec![process], None),
            Err(error) => {
                if matches!(error, StartError::Unconfined(_)) || starter.is_none() {
                    permanent_failure.set(error.to_string()).ok();
                }
                (Vec::new(), Some(error.to_string()))
            }
        };
        let state = Mutex::new(State::new(idle, free));
        Scheduler { options, starter, permanent_failure, first_failure, state }
    }

    /// Returns the deadline of one invocation.
    pub fn timeout(&self) -> Duration {
        self.options.timeout
    }

    /// Returns the memory for replies.
    pub fn reply_memory(&self) -> &Arc<MemoryPool> {
        &self.options.reply_memory
    }

    /// Returns why the first child did not start.
    pub fn first_failure(&self) -> Option<String> {
        self.first_failure.clone()
    }

    /// Queues an invocation. If a child is free for any hook, returns an assignment, which the caller must serve, and
    /// the idle child if one has been started.
    pub fn enqueue(
        &self,
        owner: ScriptOwner<'_>,
        invocation: QueuedInvocation,
    ) -> Result<Option<(Assignment, Option<Process>)>, ScriptError> {
        if let Some(why) = self.permanent_failure.get() {
            return Err(ScriptError::SandboxUnavailable(why.clone()));
        }
        let mut state = self.state.lock();
        if state.push(owner, invocation).is_err() {
            return Err(ScriptError::SandboxBusy(format!(
                "the queue for sandbox processes is full, with {} script invocations",
                state.queued.used()
            )));
        }
        let Some(assignment) = state.assign(self.options.processes) else { return Ok(None) };
        let process = state.idle.pop();
        Ok(Some((assignment, process)))
    }

    /// Takes the hook's next invocation.
    pub fn next_invocation(&self, assignment: &Assignment) -> Option<QueuedInvocation> {
        self.state.lock().pop_live(assignment.owner())
    }

    /// Takes the hook's next invocation while another invocation of the hook runs in the same child.
    ///
    /// Returns none if that could keep the child from another hook, or queue an invocation behind a slow one.
    pub fn next_invocation_ahead(&self, assignment: &Assignment) -> Option<QueuedInvocation> {
        let mut state = self.state.lock();
        let hook = state.hooks.get(&assignment.hook)?;
        let other_hooks_wait = state.free == 0 && state.queued.used() > hook.queue.len() as u64;
        if other_hooks_wait || hook.last_cost.is_none_or(|cost| cost >= QUICK) {
            return None;
        }
        state.pop_live(assignment.owner())
    }

    /// Returns unstarted invocations to the front of the queue, in their order.
    pub fn requeue(
        &self,
        assignment: &Assignment,
        invocations: impl DoubleEndedIterator<Item = QueuedInvocation>,
    ) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let Some(hook) = state.hooks.get_mut(&assignment.hook) else { return };
        for invocation in invocations.rev() {
            hook.queue.push_front(invocation);
            state.queued.take(assignment.owner().into(), 1);
        }
    }

    /// Records the cost of an invocation.
    pub fn record_cost(&self, assignment: &Assignment, cost: Duration) {
        self.state.lock().record_cost(assignment, cost);
    }

    /// Ends an assignment, and assigns the child to the next hook. None: no hook needs the child, which is now idle.
    pub fn reassign(&self, ended: &Assignment, process: &mut Option<Process>) -> Option<Assignment> {
        let mut state = self.state.lock();
        state.unassign(ended);
        let next = state.assign(self.options.processes);
        if next.is_none() {
            state.idle.extend(process.take());
        }
        next
    }

    pub async fn start_child(&self) -> Result<Process, ScriptError> {
        let ended = || ScriptError::SandboxUnavailable("the sandbox has ended".into());
        let started = self.starter.as_ref().ok_or_else(ended)?.start(&self.options).await;
        started.map_err(|error| {
            if matches!(error, StartError::Unconfined(_)) {
                self.permanent_failure.set(error.to_string()).ok();
            }
            ScriptError::SandboxUnavailable(error.to_string())
        })
    }
}

/// Returns the error for an invocation that did not start before its deadline.
pub fn no_child_in_time() -> ScriptError {
    ScriptError::SandboxBusy("no sandbox process was free in time".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: Duration = Duration::from_millis(10);

    /// Queues an invocation whose caller waits for a day. Returns false if the queue is full.
    fn push(state: &mut State, namespace: &str, hook: &str) -> Option<oneshot::Receiver<InvocationResult>> {
        let (reply, received) = oneshot::channel();
        let deadline = Instant::now() + Duration::from_secs(86_400);
        let invocation = QueuedInvocation { frame: Vec::new(), deadline, reply, was_resent: false };
        let owner = ScriptOwner { namespace: &namespace.into(), hook: &hook.into() };
        state.push(owner, invocation).is_ok().then_some(received)
    }

    #[test]
    fn children_are_divided_by_namespace_and_then_by_hook() {
        let mut state = State::new(Vec::new(), 1);
        let mut callers = Vec::new();
        for hook in 0..20 {
            callers.extend((0..20).map(|_| push(&mut state, "many", &format!("many-{hook}")).unwrap()));
        }
        callers.extend((0..100).map(|_| push(&mut state, "one", "one-0").unwrap()));
        let mut served: HashMap<String, usize> = HashMap::new();
        for _ in 0..100 {
            let assignment = state.assign(1).expect("a queued invocation");
            assert!(state.pop_live(assignment.owner()).is_some());
            state.record_cost(&assignment, COST);
            *served.entry(assignment.hook.to_string()).or_default() += 1;
            state.unassign(&assignment);
        }
        assert!((49..=51).contains(&served["one-0"]), "half of the time of both namespaces: {served:?}");
        let most = (0..20).map(|hook| served.get(&format!("many-{hook}")).copied().unwrap_or(0)).max();
        assert!(most <= Some(3), "the other half is divided between 20 hooks: {served:?}");
    }

    #[test]
    fn a_namespace_that_fills_the_queue_leaves_places_to_others() {
        let mut state = State::new(Vec::new(), 0);
        let mut callers = Vec::new();
        for hook in 0..50 {
            callers.extend((0..1000).map_while(|_| push(&mut state, "many", &format!("many-{hook}"))));
        }
        assert!(callers.len() > 3000, "{}", callers.len());
        let of_other = (0..100).map_while(|_| push(&mut state, "one", "one-0")).count();
        assert_eq!(of_other, 100);
    }
}
