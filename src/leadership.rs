//! Whether this replica leads: asked right before every call to a vendor and every write of the controller.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio::sync::watch;

use crate::core::time::Millis;

/// Another replica leads, or nobody: this one writes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("another replica leads")]
pub struct NotLeading;

/// Tells whether this replica leads. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Leadership {
    /// None: nobody competes, as with files.
    kept: Option<Arc<Kept>>,
}

/// The writing end: whoever holds it keeps a `Leadership` true.
#[derive(Debug)]
pub struct Keeper(Arc<Kept>);

#[derive(Debug)]
struct Kept {
    clock: fn() -> Millis,
    until: AtomicI64,
    /// Counts the times that leadership was gained.
    term: watch::Sender<u64>,
}

impl Leadership {
    /// Leads always.
    pub fn always() -> Self {
        Leadership { kept: None }
    }

    /// Leads as its keeper says. `clock` must go on while the process is stopped.
    pub fn kept(clock: fn() -> Millis) -> (Leadership, Keeper) {
        let (term, until) = (watch::Sender::new(0), AtomicI64::new(i64::MIN));
        let kept = Arc::new(Kept { clock, until, term });
        (Leadership { kept: Some(kept.clone()) }, Keeper(kept))
    }

    pub fn leads(&self) -> bool {
        self.kept.as_ref().is_none_or(|kept| (kept.clock)().0 < kept.until.load(Ordering::Acquire))
    }

    /// Asked right before a write. It answers by the clock, not by what a task has noticed: a process that was stopped
    /// for longer than its lease knows so at its first breath.
    pub fn may_write(&self) -> Result<(), NotLeading> {
        if self.leads() { Ok(()) } else { Err(NotLeading) }
    }

    /// Waits until leadership is gained after that term, and tells the new term. Where nobody competes it is gained once.
    pub async fn gained(&self, after: u64) -> u64 {
        match &self.kept {
            None if after == 0 => 1,
            None => std::future::pending().await,
            Some(kept) => {
                let mut term = kept.term.subscribe();
                // The sender lives as long as this borrow, so that the wait cannot fail.
                term.wait_for(|term| *term > after).await.map_or(after, |term| *term)
            }
        }
    }
}

impl Keeper {
    /// Leads until then (None: not at all).
    pub fn set(&self, until: Option<Millis>, gained: bool) {
        self.0.until.store(until.map_or(i64::MIN, |until| until.0), Ordering::Release);
        if gained {
            self.0.term.send_modify(|term| *term += 1);
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.set(None, false);
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
    async fn leads_by_the_clock() {
        let (leadership, keeper) = Leadership::kept(clock);
        assert!(!leadership.leads());
        keeper.set(Some(Millis(10)), true);
        assert!(leadership.leads());
        assert_eq!(leadership.gained(0).await, 1);
        NOW.set(10);
        assert_eq!(leadership.may_write(), Err(NotLeading), "nobody had to tell it");
        keeper.set(Some(Millis(20)), false);
        assert!(leadership.leads());
        drop(keeper);
        assert!(!leadership.leads(), "without a keeper nobody leads");
        assert!(Leadership::always().leads());
    }
}
