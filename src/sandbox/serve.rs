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
use super::scheduler::{Assignment, FinishedInvocation, InvocationResult, QueuedInvocation, Scheduler};
use super::{MAX_INLINE, ScriptOwner};
use crate::memory::{MemoryPool, Reservation};

/// The time between the end of an invocation's budget and the kill of its child. A child that reports the timeout
/// within it stays alive.
pub const GRACE: Duration = Duration::from_millis(100);
/// The most invocations that a child has received and not answered.
const MAX_AHEAD: usize = 8;
/// The most bytes of requests that are buffered for a child.
const MAX_AHEAD_BYTES: usize = 64 << 10;
/// The memory of replies up to this length is not counted: the number of children bounds it, and most replies are shorter.
const UNCOUNTED_REPLY: usize = 64 << 10;

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
    /// The memory for its reply was used up until the caller's deadline.
    NoMemory,
    /// The caller of the running invocation no longer waits.
    CallerGone,
}

/// What was read of a reply.
enum PartialReply {
    Complete(BytesMut),
    /// Its length. More is read once there is memory for it.
    Announced(usize),
}

/// A reply, and the memory of its result.
struct ReceivedReply {
    reply: Reply,
    memory: Option<Reservation>,
    /// How long the reply waited for memory.
    waited: Duration,
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

/// Reads the next reply, up to its length if that has more than `uncounted` bytes. `is_only`: no other request was sent, so
/// further bytes are invalid.
async fn read_reply(
    child: &mut Process,
    out: &mut BytesMut,
    is_only: bool,
    uncounted: usize,
) -> io::Result<PartialReply> {
    loop {
        if let Some(message) = child.next_message(protocol::MAX_REPLY)? {
            if is_only && !child.is_drained() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            return Ok(PartialReply::Complete(message));
        }
        if let Some(length) = child.announced_length(protocol::MAX_REPLY)?
            && length > uncounted
        {
            return Ok(PartialReply::Announced(length));
        }
        child.transfer(out).await?;
    }
}

/// Parses a reply: a long one on a blocking thread.
async fn parse(message: BytesMut) -> io::Result<Reply> {
    let is_long = message.len() > MAX_INLINE;
    let parse = move || protocol::parse_reply(&message).map_err(io::Error::from);
    match is_long {
        true => tokio::task::spawn_blocking(parse).await.map_err(io::Error::other)?,
        false => parse(),
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
            let ReceivedReply { reply, memory, waited } =
                match self.wait_for_reply(started, nothing_read).await {
                    Ok(received) => received,
                    Err(failure) => {
                        self.handle_failure(&failure, started);
                        return None;
                    }
                };
            nothing_read = false;
            self.scheduler.record_cost(self.assignment, started.elapsed().saturating_sub(waited));
            started = Instant::now();
            let is_last = reply.last;
            if let Some(SentInvocation { invocation, budget }) = self.sent.pop_front() {
                invocation.reply.send(Ok(FinishedInvocation { reply, budget, memory })).ok();
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

    /// Waits for the reply to the running invocation. The time in which the reply waits for memory does not count towards
    /// the budget of the script.
    async fn wait_for_reply(
        &mut self,
        started: Instant,
        nothing_read: bool,
    ) -> Result<ReceivedReply, ChildFailure> {
        let Session { scheduler, assignment, child, sent, out } = self;
        let is_only = sent.len() == 1;
        let Some(SentInvocation { invocation, budget }) = sent.front_mut() else {
            return Err(ChildFailure::Broken);
        };
        let failed = |error: io::Error| {
            tracing::debug!(%error, "sandbox process failed");
            if nothing_read && error.kind() == io::ErrorKind::BrokenPipe {
                ChildFailure::DiedUnread
            } else {
                ChildFailure::Broken
            }
        };
        let (mut waited, mut memory) = (Duration::ZERO, None::<Reservation>);
        loop {
            let uncounted = if memory.is_some() { protocol::MAX_REPLY } else { UNCOUNTED_REPLY };
            let read = tokio::select! {
                read = read_reply(child, out, is_only, uncounted) => read.map_err(failed)?,
                () = tokio::time::sleep_until((started + *budget + waited + GRACE).into()) => {
                    return Err(ChildFailure::TimedOut);
                }
                () = invocation.reply.closed() => return Err(ChildFailure::CallerGone),
            };
            let length = match read {
                PartialReply::Complete(message) => {
                    let reply = parse(message).await.map_err(failed)?;
                    memory.iter_mut().for_each(|memory| memory.shrink_to(reply.result_size()));
                    return Ok(ReceivedReply { reply, memory, waited });
                }
                PartialReply::Announced(length) => length,
            };
            let waiting = Instant::now();
            let within = invocation.deadline.saturating_duration_since(waiting).max(GRACE);
            let reserved = tokio::select! {
                reserved = reserve_reply(scheduler.reply_memory(), assignment.owner(), length, within) => reserved,
                () = invocation.reply.closed() => return Err(ChildFailure::CallerGone),
            };
            memory = Some(reserved?);
            waited += waiting.elapsed();
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
                ChildFailure::NoMemory => ScriptError::SandboxBusy(
                    "the memory for replies of scripts is used up (--memory-budget)".into(),
                ),
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

async fn reserve_reply(
    memory: &Arc<MemoryPool>,
    owner: ScriptOwner<'_>,
    length: usize,
    within: Duration,
) -> Result<Reservation, ChildFailure> {
    let bytes = protocol::reply_memory(length);
    memory.reserve_in_turn(owner.into(), bytes, within).await.map_err(|_| ChildFailure::NoMemory)
}
