//! One child at work: calls go in ahead of time, so that it never waits for the worker, and replies come back in order.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::ScriptError;
use super::pool::{Call, Outcome, Pool, Served};
use super::process::Process;
use super::protocol::{self, Reply};

/// What a child has to tell of a timeout itself, and so to stay, before it is killed.
pub const GRACE: Duration = Duration::from_millis(100);
/// How many calls, and how many bytes of them, a child is given ahead of time.
const AHEAD: usize = 8;
const AHEAD_BYTES: usize = 64 << 10;

/// A call that was written, or is being written.
struct Given {
    call: Call,
    budget: Duration,
}

/// Why a child can serve no more.
enum Ended {
    /// It died before it read anything: nothing was begun.
    Unread,
    /// It broke off, or said what no child of ours says.
    Broke,
    /// It did not reply in time.
    Late,
    /// Nobody waits for what it does.
    Forsaken,
}

/// Serves hooks, in turns, until none waits.
pub async fn serve(pool: Arc<Pool>, mut served: Served, mut process: Option<Process>) {
    loop {
        if let Some(call) = pool.call_of(&served, false) {
            process = work(&pool, &served, process, call).await;
        }
        match pool.turn_over(&served, &mut process) {
            Some(next) => served = next,
            None => return,
        }
    }
}

/// Runs a call and what comes of its hook meanwhile; the child, where it can go on.
async fn work(pool: &Pool, served: &Served, process: Option<Process>, call: Call) -> Option<Process> {
    let child = match process {
        Some(child) => child,
        None => match pool.child().await {
            Ok(child) => child,
            Err(why) => {
                call.answer.send(Err(why)).ok();
                return None;
            }
        },
    };
    // Held there while it works: whatever ends that future ends the child.
    Work { pool, served, child, given: VecDeque::new(), out: BytesMut::new() }.run(call).await
}

/// `only`: nothing else was asked.
async fn replied(child: &mut Process, out: &mut BytesMut, only: bool) -> io::Result<Reply> {
    loop {
        if let Some(message) = child.message(protocol::MAX_REPLY)? {
            if only && !child.is_quiet() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            return Ok(protocol::reply(&message)?);
        }
        child.pump(out).await?;
    }
}

struct Work<'a> {
    pool: &'a Pool,
    served: &'a Served,
    child: Process,
    /// In order; the first is the one that runs.
    given: VecDeque<Given>,
    /// What is still to be written.
    out: BytesMut,
}

impl Work<'_> {
    async fn run(mut self, first: Call) -> Option<Process> {
        self.give(first);
        let (mut began, mut unread) = (Instant::now(), true);
        loop {
            while self.given.len() < AHEAD && self.out.len() < AHEAD_BYTES {
                let Some(call) = self.pool.call_of(self.served, true) else { break };
                self.give(call);
            }
            let reply = match self.reply(began, unread).await {
                Ok(reply) => reply,
                Err(ended) => {
                    self.ended(&ended, began);
                    return None;
                }
            };
            unread = false;
            self.pool.took(self.served, began.elapsed());
            began = Instant::now();
            let last = reply.last;
            if let Some(given) = self.given.pop_front() {
                given.call.answer.send(Ok((reply, given.budget))).ok();
            }
            if last {
                self.pool.put_back(self.served, self.given.drain(..).map(|given| given.call));
                return None;
            }
            if self.given.is_empty() {
                return Some(self.child);
            }
        }
    }

    fn give(&mut self, mut call: Call) {
        let left = call.until.saturating_duration_since(Instant::now());
        let budget = self.pool.timeout().min(left).max(Duration::from_millis(1));
        protocol::set_budget(&mut call.frame, budget);
        self.out.extend_from_slice(&call.frame);
        self.given.push_back(Given { call, budget });
    }

    /// The reply to the first of what was given.
    async fn reply(&mut self, began: Instant, unread: bool) -> Result<Reply, Ended> {
        let Work { child, given, out, .. } = self;
        let (only, Some(Given { call, budget })) = (given.len() == 1, given.front_mut()) else {
            return Err(Ended::Broke);
        };
        tokio::select! {
            reply = replied(child, out, only) => reply.map_err(|error| {
                tracing::debug!("a sandbox process broke off: {error}");
                if unread && error.kind() == io::ErrorKind::BrokenPipe { Ended::Unread } else { Ended::Broke }
            }),
            () = tokio::time::sleep_until((began + *budget + GRACE).into()) => Err(Ended::Late),
            () = call.answer.closed() => Err(Ended::Forsaken),
        }
    }

    /// Answers the call that ended the child; the others go back.
    fn ended(&mut self, ended: &Ended, began: Instant) {
        if matches!(ended, Ended::Unread)
            && let Some(first) = self.given.front_mut()
            && !first.call.again
        {
            // The call is not lost with a child that died while it waited.
            first.call.again = true;
        } else if let Some(Given { call, budget }) = self.given.pop_front() {
            self.pool.took(self.served, began.elapsed());
            let why: Outcome = Err(match ended {
                Ended::Late => ScriptError::ScriptTimeout(budget),
                Ended::Unread | Ended::Broke | Ended::Forsaken => ScriptError::ScriptCrashed,
            });
            call.answer.send(why).ok();
        }
        self.pool.put_back(self.served, self.given.drain(..).map(|given| given.call));
    }
}
