//! Leadership of this replica. Every call to a vendor and every write of the controller checks it first.

use std::future::Future;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::core::time::Millis;

/// This replica does not lead and must not write: another replica leads, or none does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("another replica leads")]
pub struct NotLeading;

/// Reports whether this replica leads. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Leadership {
    /// None if there is no election, as in standalone: this process always leads.
    lease: Option<Arc<LeaseState>>,
}

/// Sets the leadership. When it is dropped, the replica no longer leads.
#[derive(Debug)]
pub struct LeadershipHandle(Arc<LeaseState>);

#[derive(Debug)]
struct LeaseState {
    clock: fn() -> Millis,
    /// The time at which leadership ends, by `clock`.
    until: AtomicI64,
    /// Counts how often leadership was gained.
    term: watch::Sender<u64>,
}

/// An election that runs in a thread or task of its own. When dropped, that ends and the lease expires.
#[derive(Debug)]
pub struct RunningElection {
    stop: CancellationToken,
    at_exit: Arc<OnceLock<LeaseAtExit>>,
    ended: oneshot::Receiver<()>,
}

/// The side of the thread or task that runs the election. When dropped, the election has ended.
#[derive(Debug)]
pub struct ElectionStop {
    requested: CancellationToken,
    at_exit: Arc<OnceLock<LeaseAtExit>>,
    /// Dropped also by a panic, so that `RunningElection::ended` completes.
    _done: oneshot::Sender<()>,
}

/// The fate of our lease when the election stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseAtExit {
    /// Let it expire, because our requests may still be in flight.
    Expire,
    /// Release it, so that another replica can lead immediately. None of our requests may be in flight.
    Release,
    /// Keep it for this time, in which no replica can lead.
    Hold(Duration),
}

impl Leadership {
    /// Creates a leadership that never ends.
    pub fn always() -> Self {
        Leadership { lease: None }
    }

    /// Creates a leadership that the handle sets. `clock` must advance while the process is stopped (SIGSTOP).
    pub fn leased(clock: fn() -> Millis) -> (Leadership, LeadershipHandle) {
        let (term, until) = (watch::Sender::new(0), AtomicI64::new(i64::MIN));
        let lease = Arc::new(LeaseState { clock, until, term });
        (Leadership { lease: Some(lease.clone()) }, LeadershipHandle(lease))
    }

    /// Returns false if this process always leads.
    pub fn has_election(&self) -> bool {
        self.lease.is_some()
    }

    /// True while this replica leads. Compares the clock with the end of the lease: a process that was stopped for
    /// longer than its lease must not write when it continues.
    pub fn is_leader(&self) -> bool {
        self.lease.as_ref().is_none_or(|lease| (lease.clock)().0 < lease.until.load(Ordering::Acquire))
    }

    /// Fails if this replica does not lead. Call it right before a write.
    pub fn may_write(&self) -> Result<(), NotLeading> {
        if self.is_leader() { Ok(()) } else { Err(NotLeading) }
    }

    /// Waits until leadership is gained in a term after `term`, and returns that term. Without an election, term 1 is the
    /// only one. Cancel safe.
    pub async fn wait_until_gained(&self, term: u64) -> u64 {
        match &self.lease {
            None if term == 0 => 1,
            None => std::future::pending().await,
            Some(lease) => {
                let mut terms = lease.term.subscribe();
                // Cannot fail: this borrow keeps the sender alive.
                terms.wait_for(|current| *current > term).await.map_or(term, |current| *current)
            }
        }
    }
}

impl LeadershipHandle {
    /// Sets the end of leadership (None: this replica does not lead). `gained` starts a new term.
    pub fn set(&self, until: Option<Millis>, gained: bool) {
        self.0.until.store(until.map_or(i64::MIN, |until| until.0), Ordering::Release);
        if gained {
            self.0.term.send_modify(|term| *term += 1);
        }
    }
}

impl Drop for LeadershipHandle {
    fn drop(&mut self) {
        self.set(None, false);
    }
}

impl RunningElection {
    /// Returns both sides of an election.
    pub fn new() -> (RunningElection, ElectionStop) {
        let (stop, at_exit) = (CancellationToken::new(), Arc::new(OnceLock::new()));
        let (done, ended) = oneshot::channel();
        let running = RunningElection { stop: stop.clone(), at_exit: at_exit.clone(), ended };
        (running, ElectionStop { requested: stop, at_exit, _done: done })
    }

    /// Completes when the election has ended. Without a call of `stop`, only a defect ends it.
    pub async fn ended(&mut self) {
        (&mut self.ended).await.ok();
    }

    /// Stops leading, and waits until the election has ended.
    pub async fn stop(mut self, at_exit: LeaseAtExit) {
        // Cannot fail: only `stop` sets it, and `stop` consumes the election.
        self.at_exit.set(at_exit).ok();
        self.stop.cancel();
        self.ended().await;
    }
}

impl Drop for RunningElection {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl ElectionStop {
    /// Runs a step of the election. None: the stop was requested, and the step was cancelled.
    pub async fn run_until_requested<T>(&self, step: impl Future<Output = T>) -> Option<T> {
        self.requested.run_until_cancelled(step).await
    }

    /// Returns what to do with the lease after the stop was requested.
    pub fn at_exit(&self) -> LeaseAtExit {
        self.at_exit.get().copied().unwrap_or(LeaseAtExit::Expire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    thread_local!(static NOW: Cell<i64> = const { Cell::new(0) });

    fn clock() -> Millis {
        Millis(NOW.get())
    }

    #[tokio::test]
    async fn leads_until_the_lease_ends_by_the_clock() {
        let (leadership, handle) = Leadership::leased(clock);
        assert!(!leadership.is_leader());
        handle.set(Some(Millis(10)), true);
        assert!(leadership.is_leader());
        assert_eq!(leadership.wait_until_gained(0).await, 1);
        NOW.set(10);
        assert_eq!(leadership.may_write(), Err(NotLeading), "the clock alone ends it");
        handle.set(Some(Millis(20)), false);
        assert!(leadership.is_leader());
        drop(handle);
        assert!(!leadership.is_leader(), "without a handle no replica leads");
        assert!(Leadership::always().is_leader());
        assert!(leadership.has_election() && !Leadership::always().has_election());
    }
}
