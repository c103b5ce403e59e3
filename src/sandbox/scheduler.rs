//! Assigns children to hooks by fair queuing.
//!
//! Each hook has a virtual clock that its invocations advance by their cost. The next hook is the one whose next
//! invocation would finish first in virtual time. So a hook with short invocations does not wait behind hooks that run
//! into their deadlines. If there are several children, neither one hook nor all slow hooks together get all of them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::error::ScriptError;
use super::options::SandboxOptions;
use super::process::{Process, StartError, Starter};
use super::protocol::Reply;

/// The most queued invocations of one hook.
const MAX_QUEUED_OF_HOOK: usize = 1024;
/// The most queued invocations of all hooks.
const MAX_QUEUED: usize = 4096;
/// The most hooks whose clocks are kept although none of their invocations is queued or running.
const MAX_IDLE_HOOKS: usize = 512;
/// A hook is slow if its last invocation took at least this long. One child is reserved for hooks that are not slow.
const SLOW: Duration = Duration::from_millis(100);
/// A child gets invocations of a hook ahead of time only if the hook's last invocation was shorter than this.
const QUICK: Duration = Duration::from_millis(5);

/// The child's reply to an invocation and the time that it had, or why there is no reply.
pub type InvocationResult = Result<(Reply, Duration), ScriptError>;

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
    /// Queued invocations of all hooks.
    queued: usize,
    /// The virtual start time of the last assignment. A hook's clock is never behind it, so idle hooks save up no credit.
    clock: Duration,
    hooks: HashMap<Arc<str>, HookQueue>,
}

/// The queue and the virtual clock of a hook.
#[derive(Default)]
struct HookQueue {
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
    pub hook: Arc<str>,
    is_slow: bool,
}

impl State {
    /// Returns the hook that is next, if a child is free for it. `processes`: the number of children.
    fn next_hook(&self, processes: usize) -> Option<Arc<str>> {
        if self.free == 0 || self.queued == 0 {
            return None;
        }
        let share = processes.saturating_sub(1).max(1);
        let is_within_share =
            |hook: &HookQueue| hook.assigned < share && (hook.estimated_cost() < SLOW || self.slow < share);
        let is_eligible =
            |(_, hook): &(&Arc<str>, &HookQueue)| !hook.queue.is_empty() && is_within_share(hook);
        let virtual_finish =
            |(_, hook): &(&Arc<str>, &HookQueue)| hook.clock.max(self.clock) + hook.estimated_cost();
        self.hooks.iter().filter(is_eligible).min_by_key(virtual_finish).map(|(uid, _)| uid.clone())
    }

    /// Assigns a child to the hook that is next.
    fn assign(&mut self, processes: usize) -> Option<Assignment> {
        let uid = self.next_hook(processes)?;
        let hook = self.hooks.get_mut(&uid)?;
        hook.assigned += 1;
        hook.clock = hook.clock.max(self.clock);
        self.clock = hook.clock;
        let is_slow = hook.estimated_cost() >= SLOW;
        self.free -= 1;
        self.slow += usize::from(is_slow);
        Some(Assignment { hook: uid, is_slow })
    }

    fn unassign(&mut self, assignment: &Assignment) {
        self.free += 1;
        self.slow -= usize::from(assignment.is_slow);
        if let Some(hook) = self.hooks.get_mut(&assignment.hook) {
            hook.assigned -= 1;
        }
        if self.hooks.len() > MAX_IDLE_HOOKS {
            self.hooks.retain(|_, hook| hook.assigned > 0 || !hook.queue.is_empty());
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
        let state = State { idle, free, slow: 0, queued: 0, clock: Duration::ZERO, hooks: HashMap::new() };
        Scheduler { options, starter, permanent_failure, first_failure, state: Mutex::new(state) }
    }

    /// Returns the deadline of one invocation.
    pub fn timeout(&self) -> Duration {
        self.options.timeout
    }

    /// Returns why the first child did not start.
    pub fn first_failure(&self) -> Option<String> {
        self.first_failure.clone()
    }

    /// Queues an invocation. If a child is free for any hook, returns an assignment, which the caller must serve, and
    /// the idle child if one has been started.
    pub fn enqueue(
        &self,
        hook: &str,
        invocation: QueuedInvocation,
    ) -> Result<Option<(Assignment, Option<Process>)>, ScriptError> {
        if let Some(why) = self.permanent_failure.get() {
            return Err(ScriptError::SandboxUnavailable(why.clone()));
        }
        let mut state = self.state.lock();
        let queued = state.queued;
        if !state.hooks.contains_key(hook) {
            state.hooks.insert(hook.into(), HookQueue::default());
        }
        let hook = state.hooks.get_mut(hook).filter(|hook| hook.queue.len() < MAX_QUEUED_OF_HOOK);
        let Some(hook) = hook.filter(|_| queued < MAX_QUEUED) else {
            return Err(ScriptError::SandboxUnavailable(format!(
                "the queue for sandbox processes is full, with {queued} script invocations"
            )));
        };
        hook.queue.push_back(invocation);
        state.queued += 1;
        let Some(assignment) = state.assign(self.options.processes) else { return Ok(None) };
        let process = state.idle.pop();
        Ok(Some((assignment, process)))
    }

    /// Takes the hook's next invocation.
    pub fn next_invocation(&self, assignment: &Assignment) -> Option<QueuedInvocation> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let hook = state.hooks.get_mut(&assignment.hook)?;
        pop_live(hook, &mut state.queued)
    }

    /// Takes the hook's next invocation while another invocation of the hook runs in the same child.
    ///
    /// Returns none if that could keep the child from another hook, or queue an invocation behind a slow one.
    pub fn next_invocation_ahead(&self, assignment: &Assignment) -> Option<QueuedInvocation> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let hook = state.hooks.get_mut(&assignment.hook)?;
        let other_hooks_wait = state.free == 0 && state.queued > hook.queue.len();
        if other_hooks_wait || hook.last_cost.is_none_or(|cost| cost >= QUICK) {
            return None;
        }
        pop_live(hook, &mut state.queued)
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
            state.queued += 1;
        }
    }

    /// Records the cost of an invocation.
    pub fn record_cost(&self, assignment: &Assignment, cost: Duration) {
        if let Some(hook) = self.state.lock().hooks.get_mut(&assignment.hook) {
            hook.last_cost = Some(cost);
            hook.clock += cost;
        }
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

/// Takes the first invocation whose caller still waits and whose deadline has not passed.
fn pop_live(hook: &mut HookQueue, queued: &mut usize) -> Option<QueuedInvocation> {
    while let Some(invocation) = hook.queue.pop_front() {
        *queued -= 1;
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

/// Returns the error for an invocation that did not start before its deadline.
pub fn no_child_in_time() -> ScriptError {
    ScriptError::SandboxUnavailable("no sandbox process was free in time".into())
}
