//! Who is next: children for hooks, in turns.
//!
//! Hooks are served by what they cost: each has a clock that its calls move on, and of those that wait the one is next
//! whose next call would end first by these clocks. So a hook whose calls are short waits for no crowd of hooks that run
//! into their deadlines. Where there are several children a hook has never all of them, nor have those that are slow.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::process::{NoChild, Process, Starter};
use super::protocol::{self, Job, Reply};
use super::serve::{GRACE, serve};
use super::{Options, ScriptError};

/// How many calls may wait: of one hook, and of all.
const WAITING_OF_HOOK: usize = 1024;
const WAITING: usize = 4096;
/// How many hooks' clocks are kept while nothing of them waits or runs.
const REMEMBERED: usize = 512;
/// A hook whose last call took as long leaves a child to the others.
const SLOW: Duration = Duration::from_millis(100);
/// A child gets the next call of a hook ahead of time while its calls are as short.
const QUICK: Duration = Duration::from_millis(5);

/// What came of a call: the child's reply and the time that it had, or why there is none.
pub type Outcome = Result<(Reply, Duration), ScriptError>;

/// A call that waits for its turn.
pub struct Call {
    /// The request as it goes over the pipe; its budget is set when it goes.
    pub frame: Vec<u8>,
    pub until: Instant,
    pub answer: oneshot::Sender<Outcome>,
    /// It was written to a child that was dead already.
    pub again: bool,
}

pub struct Pool {
    options: Options,
    /// None where not even its thread could be started.
    starter: Option<Starter>,
    /// Why there will never be a child.
    refused: OnceLock<String>,
    /// Why the first did not start.
    first: Option<String>,
    state: Mutex<State>,
}

struct State {
    /// Children that wait for a call.
    idle: Vec<Process>,
    /// How many more children may work now.
    free: usize,
    /// How many work for slow hooks.
    slow: usize,
    /// How many calls wait.
    waiting: usize,
    /// The clock of the call that was begun last: who comes anew begins with it, for no one saves up turns.
    clock: Duration,
    hooks: HashMap<Arc<str>, Turn>,
}

/// A hook's turn.
#[derive(Default)]
struct Turn {
    /// When its next call begins, by the clocks.
    clock: Duration,
    /// What its last call took, and so what its next will. None: nobody knows yet.
    last: Option<Duration>,
    /// How many children work for it.
    served: usize,
    waiting: VecDeque<Call>,
}

impl Turn {
    fn cost(&self) -> Duration {
        self.last.unwrap_or_default()
    }
}

/// A hook that has a child to itself for a while.
pub struct Served {
    pub hook: Arc<str>,
    slow: bool,
}

impl State {
    /// The hook whose turn it is, where a child is free for it. `processes`: of how many.
    fn next(&self, processes: usize) -> Option<Arc<str>> {
        if self.free == 0 || self.waiting == 0 {
            return None;
        }
        let share = processes.saturating_sub(1).max(1);
        let may = |turn: &Turn| turn.served < share && (turn.cost() < SLOW || self.slow < share);
        let waits = |(_, turn): &(&Arc<str>, &Turn)| !turn.waiting.is_empty() && may(turn);
        let ends = |(_, turn): &(&Arc<str>, &Turn)| turn.clock.max(self.clock) + turn.cost();
        self.hooks.iter().filter(waits).min_by_key(ends).map(|(hook, _)| hook.clone())
    }

    /// A child works for the hook whose turn it is.
    fn begin(&mut self, processes: usize) -> Option<Served> {
        let hook = self.next(processes)?;
        let turn = self.hooks.get_mut(&hook)?;
        turn.served += 1;
        turn.clock = turn.clock.max(self.clock);
        self.clock = turn.clock;
        let slow = turn.cost() >= SLOW;
        self.free -= 1;
        self.slow += usize::from(slow);
        Some(Served { hook, slow })
    }

    fn end(&mut self, served: &Served) {
        self.free += 1;
        self.slow -= usize::from(served.slow);
        if let Some(turn) = self.hooks.get_mut(&served.hook) {
            turn.served -= 1;
        }
        if self.hooks.len() > REMEMBERED {
            self.hooks.retain(|_, turn| turn.served > 0 || !turn.waiting.is_empty());
        }
    }
}

impl Pool {
    pub async fn start(options: Options) -> Arc<Pool> {
        let (starter, first) = match Starter::new(&options) {
            Ok(starter) => {
                let first = starter.start(&options).await;
                (Some(starter), first)
            }
            Err(error) => (None, Err(NoChild::Failed(error.to_string()))),
        };
        let (refused, free) = (OnceLock::new(), options.processes.max(1));
        let (idle, first) = match first {
            Ok(process) => (vec![process], None),
            Err(why) => {
                if matches!(why, NoChild::Unconfined(_)) || starter.is_none() {
                    refused.set(why.to_string()).ok();
                }
                (Vec::new(), Some(why.to_string()))
            }
        };
        let state = State { idle, free, slow: 0, waiting: 0, clock: Duration::ZERO, hooks: HashMap::new() };
        Arc::new(Pool { options, starter, refused, first, state: Mutex::new(state) })
    }

    /// How long a call may take.
    pub fn timeout(&self) -> Duration {
        self.options.timeout
    }

    /// Why the first child did not start.
    pub fn unavailable(&self) -> Option<String> {
        self.first.clone()
    }

    /// Runs a call of this hook. Whoever drops this future ends the call.
    pub async fn run(self: &Arc<Self>, hook: &str, job: &Job<'_>, within: Duration) -> Outcome {
        let Some(frame) = protocol::request(job) else {
            return Err(ScriptError::ScriptTooBig(format!(
                "its input is over {} MiB, the most a script may be given",
                protocol::MAX_REQUEST >> 20
            )));
        };
        let until = Instant::now() + within;
        let (answer, came) = oneshot::channel();
        self.submit(hook, Call { frame, until, answer, again: false })?;
        // One that was begun in time may take what it has left.
        match tokio::time::timeout_at((until + 2 * GRACE).into(), came).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(ScriptError::ScriptCrashed),
            Err(_) => Err(late()),
        }
    }

    fn submit(self: &Arc<Self>, hook: &str, call: Call) -> Result<(), ScriptError> {
        if let Some(why) = self.refused.get() {
            return Err(ScriptError::SandboxUnavailable(why.clone()));
        }
        let mut state = self.state.lock();
        let all = state.waiting;
        if !state.hooks.contains_key(hook) {
            state.hooks.insert(hook.into(), Turn::default());
        }
        let turn = state.hooks.get_mut(hook).filter(|turn| turn.waiting.len() < WAITING_OF_HOOK);
        let Some(turn) = turn.filter(|_| all < WAITING) else {
            return Err(ScriptError::SandboxUnavailable(format!(
                "{all} calls of scripts wait for a sandbox process"
            )));
        };
        turn.waiting.push_back(call);
        state.waiting += 1;
        if let Some(served) = state.begin(self.options.processes) {
            let process = state.idle.pop();
            tokio::spawn(serve(self.clone(), served, process));
        }
        Ok(())
    }

    /// The hook's next call. `ahead`: while another of it runs in the same child; none where that could keep a child
    /// from another hook, or a call behind a slow one.
    pub fn call_of(&self, served: &Served, ahead: bool) -> Option<Call> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let turn = state.hooks.get_mut(&served.hook)?;
        let others_wait = state.free == 0 && state.waiting > turn.waiting.len();
        if ahead && (others_wait || turn.last.is_none_or(|cost| cost >= QUICK)) {
            return None;
        }
        while let Some(call) = turn.waiting.pop_front() {
            state.waiting -= 1;
            if call.answer.is_closed() {
                continue;
            }
            if Instant::now() < call.until {
                return Some(call);
            }
            call.answer.send(Err(late())).ok();
        }
        None
    }

    /// Gives calls back that were not begun, in their order.
    pub fn put_back(&self, served: &Served, calls: impl DoubleEndedIterator<Item = Call>) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let Some(turn) = state.hooks.get_mut(&served.hook) else { return };
        for call in calls.rev() {
            turn.waiting.push_front(call);
            state.waiting += 1;
        }
    }

    /// Notes what a call took.
    pub fn took(&self, served: &Served, cost: Duration) {
        if let Some(turn) = self.state.lock().hooks.get_mut(&served.hook) {
            turn.last = Some(cost);
            turn.clock += cost;
        }
    }

    /// The child has nothing to do for this hook: for which it works now. None: for nobody.
    pub fn turn_over(&self, served: &Served, process: &mut Option<Process>) -> Option<Served> {
        let mut state = self.state.lock();
        state.end(served);
        let next = state.begin(self.options.processes);
        if next.is_none() {
            state.idle.extend(process.take());
        }
        next
    }

    pub async fn child(&self) -> Result<Process, ScriptError> {
        let gone = || ScriptError::SandboxUnavailable("the sandbox has ended".into());
        let started = self.starter.as_ref().ok_or_else(gone)?.start(&self.options).await;
        started.map_err(|why| {
            if matches!(why, NoChild::Unconfined(_)) {
                self.refused.set(why.to_string()).ok();
            }
            ScriptError::SandboxUnavailable(why.to_string())
        })
    }
}

fn late() -> ScriptError {
    ScriptError::SandboxUnavailable("no sandbox process was free in time".into())
}
