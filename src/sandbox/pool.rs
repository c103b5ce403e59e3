//! Who is next: children for hooks, in turns.
//!
//! Hooks that wait are served round robin. Where there are several children a hook has never all of them: one that runs
//! into its deadline call after call leaves one for the others.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::oneshot;

use super::process::{Process, Starter, frame};
use super::protocol::{self, Reply, Request};
use super::{Options, ScriptError};

/// How many calls may wait: of one hook, and of all.
const WAITING_OF_HOOK: usize = 256;
const WAITING: usize = 4096;
/// What a child has to tell of a timeout itself, and so to stay, before it is killed.
const GRACE: Duration = Duration::from_millis(100);

pub struct Pool {
    options: Options,
    /// None where not even its thread could be started.
    starter: Option<Starter>,
    unavailable: OnceLock<String>,
    state: Mutex<State>,
}

struct State {
    /// Children that wait for a call.
    idle: Vec<Process>,
    /// How many more calls may run now.
    free: usize,
    /// Running calls, by hook.
    busy: HashMap<String, usize>,
    /// Calls that wait, by hook.
    waiting: HashMap<String, VecDeque<oneshot::Sender<Lease>>>,
    /// The hooks of `waiting`, the next first.
    turns: VecDeque<String>,
}

impl Pool {
    pub async fn start(options: Options) -> Arc<Pool> {
        let unavailable = OnceLock::new();
        let (starter, first) = match Starter::new(&options) {
            Ok(starter) => {
                let first = starter.start(&options).await;
                (Some(starter), first)
            }
            Err(error) => (None, Err(error.to_string())),
        };
        let idle = match first {
            Ok(process) => vec![process],
            Err(why) => {
                unavailable.set(why).ok();
                Vec::new()
            }
        };
        let free = options.processes.max(1);
        let state =
            State { idle, free, busy: HashMap::new(), waiting: HashMap::new(), turns: VecDeque::new() };
        Arc::new(Pool { options, starter, unavailable, state: Mutex::new(state) })
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    pub fn unavailable(&self) -> Option<String> {
        self.unavailable.get().cloned()
    }

    /// A child for a call of this hook, or the right to start one.
    pub async fn acquire(self: &Arc<Self>, hook: &str, within: Duration) -> Result<Lease, ScriptError> {
        let unavailable = |why: String| Err(ScriptError::SandboxUnavailable(why));
        if let Some(why) = self.unavailable() {
            return unavailable(why);
        }
        let (sender, lease) = oneshot::channel();
        {
            let mut state = self.state.lock();
            let all: usize = state.waiting.values().map(VecDeque::len).sum();
            let of_hook = state.waiting.get(hook).map_or(0, VecDeque::len);
            if all >= WAITING || of_hook >= WAITING_OF_HOOK {
                return unavailable(format!("{all} calls of scripts wait for a sandbox process"));
            }
            if of_hook == 0 {
                state.turns.push_back(hook.to_owned());
            }
            state.waiting.entry(hook.to_owned()).or_default().push_back(sender);
            self.give(&mut state);
        }
        match tokio::time::timeout(within, lease).await {
            Ok(Ok(lease)) => Ok(lease),
            _ => unavailable(format!("no sandbox process was free within {}ms", within.as_millis())),
        }
    }

    /// Gives what is free to those who wait.
    fn give(self: &Arc<Self>, state: &mut State) {
        let share = self.options.processes.saturating_sub(1).max(1);
        while state.free > 0 {
            let may = |hook: &String| state.busy.get(hook).is_none_or(|busy| *busy < share);
            let Some(hook) = state.turns.iter().position(may).and_then(|at| state.turns.remove(at)) else {
                return;
            };
            let Some(mut waiting) = state.waiting.remove(&hook) else { continue };
            let mut process = state.idle.pop();
            while let Some(waiter) = waiting.pop_front() {
                let lease = Lease { pool: Some(self.clone()), hook: hook.clone(), process };
                match waiter.send(lease) {
                    Ok(()) => {
                        process = None;
                        state.free -= 1;
                        *state.busy.entry(hook.clone()).or_default() += 1;
                        break;
                    }
                    // Who waited has given up. The lease was never held: nothing to give back.
                    Err(mut lease) => {
                        lease.pool = None;
                        process = lease.process.take();
                    }
                }
            }
            state.idle.extend(process);
            if !waiting.is_empty() {
                state.waiting.insert(hook.clone(), waiting);
                state.turns.push_back(hook);
            }
        }
    }

    fn release(self: &Arc<Self>, hook: &str, process: Option<Process>) {
        let mut state = self.state.lock();
        state.free += 1;
        if let Some(busy) = state.busy.get_mut(hook) {
            *busy -= 1;
            if *busy == 0 {
                state.busy.remove(hook);
            }
        }
        state.idle.extend(process);
        self.give(&mut state);
    }
}

/// The right to run one call. Dropped, it is the next one's.
pub struct Lease {
    pool: Option<Arc<Pool>>,
    hook: String,
    process: Option<Process>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.release(&self.hook, self.process.take());
        }
    }
}

impl Lease {
    /// Asks the child and waits for its reply. A child that does not reply in time, or not as it should, is killed; so it
    /// is when this future is dropped.
    pub async fn ask(
        &mut self,
        request: &Request<'_, &Value>,
        budget: Duration,
    ) -> Result<Reply, ScriptError> {
        let Some(frame) = frame(request, protocol::MAX_REQUEST) else {
            return Err(ScriptError::ScriptTooBig(format!(
                "its input is over {} MiB, the most a script may be given",
                protocol::MAX_REQUEST >> 20
            )));
        };
        // Held here while it works: whatever ends this future ends the child.
        let mut process = match self.process.take() {
            Some(process) => process,
            None => self.start().await?,
        };
        let asked = async {
            // One that died while it waited has read nothing: the call is not lost with it.
            if process.write(&frame).await.is_err() {
                process = self.start().await?;
                process.write(&frame).await.map_err(|_| ScriptError::ScriptCrashed)?;
            }
            process.read::<Reply>(protocol::MAX_REPLY).await.map_err(|error: io::Error| {
                tracing::debug!("a sandbox process broke off: {error}");
                ScriptError::ScriptCrashed
            })
        };
        let reply = tokio::time::timeout(budget + GRACE, asked).await;
        let reply = reply.map_err(|_| ScriptError::ScriptTimeout(budget))??;
        if !reply.last {
            self.process = Some(process);
        }
        Ok(reply)
    }

    async fn start(&self) -> Result<Process, ScriptError> {
        let gone = || ScriptError::SandboxUnavailable("the sandbox has ended".into());
        let pool = self.pool.as_ref().ok_or_else(gone)?;
        let starter = pool.starter.as_ref().ok_or_else(gone)?;
        starter.start(&pool.options).await.map_err(ScriptError::SandboxUnavailable)
    }
}
