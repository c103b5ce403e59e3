//! The other processes of a simulation.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::Mutex;

use super::HookOwnership;
use crate::core::hook_pacing::{HookPacing, InheritedPacing};
use crate::core::time::Millis;

/// The epoch of hooks of other processes.
const NOT_OWNED: i64 = -1;

/// Owns all hooks, until `set_epoch` changes that.
#[derive(Default)]
pub struct SimOwnership {
    epoch: AtomicI64,
    /// Deliveries that former owners are attempting, by the uid of their hook.
    elsewhere: Mutex<HashMap<Arc<str>, usize>>,
    /// What was last recorded, and under which epoch.
    pacing: Mutex<HashMap<Arc<str>, HookPacing>>,
    /// The former owner ended without notice at this time.
    empty_since: Mutex<Option<Millis>>,
}

impl SimOwnership {
    /// Another process owns all hooks (None), or this one does.
    pub fn set_epoch(&self, epoch: Option<i64>) {
        self.epoch.store(epoch.unwrap_or(NOT_OWNED), Ordering::Relaxed);
    }

    pub fn set_elsewhere(&self, uid: &Arc<str>, count: usize) -> usize {
        self.elsewhere.lock().insert(uid.clone(), count).unwrap_or(0)
    }

    pub fn forget_pacing(&self) {
        self.pacing.lock().clear();
    }

    /// The former owner ended without notice: the store has the breakers and the tokens of slow rate limits only.
    pub fn lose_tokens(&self, since: Millis) {
        self.pacing.lock().values_mut().for_each(|pacing| pacing.bucket = pacing.slow_bucket().cloned());
        *self.empty_since.lock() = Some(since);
    }

    pub fn pacing(&self, uid: &str) -> Option<HookPacing> {
        self.pacing.lock().get(uid).cloned()
    }

    /// Records what another owner did.
    pub fn set_pacing(&self, uid: &Arc<str>, pacing: Option<HookPacing>) {
        match pacing {
            Some(pacing) => self.pacing.lock().insert(uid.clone(), pacing),
            None => self.pacing.lock().remove(uid),
        };
    }
}

impl HookOwnership for SimOwnership {
    fn epoch(&self, _uid: &str) -> Option<i64> {
        Some(self.epoch.load(Ordering::Relaxed)).filter(|epoch| *epoch != NOT_OWNED)
    }

    fn in_flight_elsewhere(&self, uid: &str) -> usize {
        self.elsewhere.lock().get(uid).copied().unwrap_or(0)
    }

    fn inherited_pacing(&self, uid: &str, epoch: i64) -> InheritedPacing {
        if Some(epoch) != self.epoch(uid) {
            return InheritedPacing::default();
        }
        InheritedPacing { pacing: self.pacing(uid), empty_since: *self.empty_since.lock() }
    }

    fn record_pacing(&self, uid: &Arc<str>, epoch: i64, pacing: Option<HookPacing>) {
        if Some(epoch) == self.epoch(uid) {
            self.set_pacing(uid, pacing);
        }
    }
}
