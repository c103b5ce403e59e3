//! Queues an invocation, and starts a task for each child that is assigned to a hook.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::ScriptOwner;
use super::error::ScriptError;
use super::options::SandboxOptions;
use super::scheduler::{InvocationResult, QueuedInvocation, Scheduler, no_child_in_time};
use super::serve::{GRACE, serve};
use crate::memory::MemoryPool;

pub struct Pool {
    scheduler: Arc<Scheduler>,
    memory: Arc<MemoryPool>,
}

impl Pool {
    pub async fn start(options: SandboxOptions) -> Arc<Pool> {
        let memory = options.input_memory.clone();
        Arc::new(Pool { scheduler: Arc::new(Scheduler::start(options).await), memory })
    }

    /// Returns why the first child did not start.
    pub fn unavailable(&self) -> Option<String> {
        self.scheduler.first_failure()
    }

    /// Runs an invocation of this hook. `bytes`: the memory of its input. `encode` returns its request. Dropping the future
    /// cancels it.
    pub async fn run(
        &self,
        owner: ScriptOwner<'_>,
        bytes: u64,
        encode: impl Future<Output = Result<Vec<u8>, ScriptError>>,
        within: Duration,
    ) -> InvocationResult {
        let deadline = Instant::now() + within;
        // Reserve before encoding, so that invocations that wait for memory hold none. An owner above its share waits for
        // memory of its own: an error would postpone the delivery.
        let reserved = self.memory.reserve_in_turn(owner.into(), bytes, within).await;
        let Ok(_reserved) = reserved else {
            return Err(ScriptError::SandboxBusy(
                "the memory for inputs of scripts is used up (--memory-budget)".into(),
            ));
        };
        let frame = encode.await?;
        let (reply, result) = oneshot::channel();
        let invocation = QueuedInvocation { frame, deadline, reply, was_resent: false };
        if let Some((assignment, process)) = self.scheduler.enqueue(owner, invocation)? {
            tokio::spawn(serve(self.scheduler.clone(), assignment, process));
        }
        // An invocation that started in time may use its whole budget, so wait longer than the deadline.
        match tokio::time::timeout_at((deadline + 2 * GRACE).into(), result).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(ScriptError::ScriptCrashed),
            Err(_) => Err(no_child_in_time()),
        }
    }
}
