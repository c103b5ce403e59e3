//! Serves hooks with one child. The worker sends requests ahead of time, so that the child never waits for the worker.
//! The child replies in the same order.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::error::ScriptError;
use super::process::Process;
use super::protocol::{self, Reply};
use super::scheduler::{Assignment, InvocationResult, QueuedInvocation, Scheduler};

/// The time between the end of an invocation's budget and the kill of its child. A child that reports the timeout
/// within it stays alive.
pub const GRACE: Duration = Duration::from_millis(100);
/// The most invocations that a child has received and not answered.
const MAX_AHEAD: usize = 8;
/// The most bytes of requests that are buffered for a child.
const MAX_AHEAD_BYTES: usize = 64 << 10;

/// An invocation whose request was sent, or is being sent.
struct SentInvocation {
    invocation: QueuedInvocation,
    budget: Duration,
}

/// Why a child is no longer usable.
enum ChildFailure {
    /// It died before it read anything, so no invocation was started.
    DiedUnread,
    /// It closed its pipe or sent an invalid reply.
    Broken,
    /// It did not reply in time.
    TimedOut,
    /// The caller of the running invocation no longer waits.
    CallerGone,
}

/// Serves hooks with one child until no hook needs it.
pub async fn serve(scheduler: Arc<Scheduler>, mut assignment: Assignment, mut process: Option<Process>) {
    loop {
        if let Some(first) = scheduler.next_invocation(&assignment) {
            process = run_invocations(&scheduler, &assignment, process, first).await;
        }
        match scheduler.reassign(&assignment, &mut process) {
            Some(next) => assignment = next,
            None => return,
        }
    }
}

/// Runs an invocation, and those that its hook queues during the run. Returns the child if it is still usable.
async fn run_invocations(
    scheduler: &Scheduler,
    assignment: &Assignment,
    process: Option<Process>,
    first: QueuedInvocation,
) -> Option<Process> {
    let child = match process {
        Some(child) => child,
        None => match scheduler.start_child().await {
            Ok(child) => child,
            Err(error) => {
                first.reply.send(Err(error)).ok();
                return None;
            }
        },
    };
    // The session owns the child, so dropping this future kills the child.
    Session { scheduler, assignment, child, sent: VecDeque::new(), out: BytesMut::new() }.run(first).await
}

/// Reads the next reply. `is_only`: no other request was sent, so further bytes are invalid.
async fn read_reply(child: &mut Process, out: &mut BytesMut, is_only: bool) -> io::Result<Reply> {
    loop {
        if let Some(message) = child.next_message(protocol::MAX_REPLY)? {
            if is_only && !child.is_drained() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            return Ok(protocol::parse_reply(&message)?);
        }
        child.transfer(out).await?;
    }
}

/// A child and the invocations that were sent to it.
struct Session<'a> {
    scheduler: &'a Scheduler,
    assignment: &'a Assignment,
    child: Process,
    /// In the order of sending; the first one is running.
    sent: VecDeque<SentInvocation>,
    /// Bytes to write.
    out: BytesMut,
}

impl Session<'_> {
    async fn run(mut self, first: QueuedInvocation) -> Option<Process> {
        self.send(first);
        let (mut started, mut nothing_read) = (Instant::now(), true);
        loop {
            while self.sent.len() < MAX_AHEAD && self.out.len() < MAX_AHEAD_BYTES {
                let Some(next) = self.scheduler.next_invocation_ahead(self.assignment) else { break };
                self.send(next);
            }
            let reply = match self.wait_for_reply(started, nothing_read).await {
                Ok(reply) => reply,
                Err(failure) => {
                    self.handle_failure(&failure, started);
                    return None;
                }
            };
            nothing_read = false;
            self.scheduler.record_cost(self.assignment, started.elapsed());
            started = Instant::now();
            let is_last = reply.last;
            if let Some(SentInvocation { invocation, budget }) = self.sent.pop_front() {
                invocation.reply.send(Ok((reply, budget))).ok();
            }
            if is_last {
                self.requeue_sent();
                return None;
            }
            if self.sent.is_empty() {
                return Some(self.child);
            }
        }
    }

    fn send(&mut self, mut invocation: QueuedInvocation) {
        let remaining = invocation.deadline.saturating_duration_since(Instant::now());
        let budget = self.scheduler.timeout().min(remaining).max(Duration::from_millis(1));
        protocol::set_budget(&mut invocation.frame, budget);
        self.out.extend_from_slice(&invocation.frame);
        self.sent.push_back(SentInvocation { invocation, budget });
    }

    /// Waits for the reply to the running invocation.
    async fn wait_for_reply(&mut self, started: Instant, nothing_read: bool) -> Result<Reply, ChildFailure> {
        let Session { child, sent, out, .. } = self;
        let is_only = sent.len() == 1;
        let Some(SentInvocation { invocation, budget }) = sent.front_mut() else {
            return Err(ChildFailure::Broken);
        };
        tokio::select! {
            reply = read_reply(child, out, is_only) => reply.map_err(|error| {
                tracing::debug!(%error, "sandbox process failed");
                if nothing_read && error.kind() == io::ErrorKind::BrokenPipe {
                    ChildFailure::DiedUnread
                } else {
                    ChildFailure::Broken
                }
            }),
            () = tokio::time::sleep_until((started + *budget + GRACE).into()) => Err(ChildFailure::TimedOut),
            () = invocation.reply.closed() => Err(ChildFailure::CallerGone),
        }
    }

    /// Replies to the running invocation, which ended the child, and requeues the others.
    fn handle_failure(&mut self, failure: &ChildFailure, started: Instant) {
        if matches!(failure, ChildFailure::DiedUnread)
            && let Some(first) = self.sent.front_mut()
            && !first.invocation.was_resent
        {
            // The child died while it was idle: requeue the invocation once instead of failing it.
            first.invocation.was_resent = true;
        } else if let Some(SentInvocation { invocation, budget }) = self.sent.pop_front() {
            self.scheduler.record_cost(self.assignment, started.elapsed());
            let result: InvocationResult = Err(match failure {
                ChildFailure::TimedOut => ScriptError::ScriptTimeout(budget),
                ChildFailure::DiedUnread | ChildFailure::Broken | ChildFailure::CallerGone => {
                    ScriptError::ScriptCrashed
                }
            });
            invocation.reply.send(result).ok();
        }
        self.requeue_sent();
    }

    fn requeue_sent(&mut self) {
        self.scheduler.requeue(self.assignment, self.sent.drain(..).map(|sent| sent.invocation));
    }
}
