//! The hooks whose deliveries this process sends, and what it has from their former owners. With one process, it owns all.

use std::sync::Arc;

use crate::core::hook_pacing::{HookPacing, InheritedPacing};

/// What the dispatcher learns from and records for other processes that send deliveries. Each call is cheap: no access to the store.
pub trait HookOwnership: Send + Sync {
    /// Returns the epoch under which this process sends the hook's deliveries, which another owner in between raises. None: another
    /// process sends them. Cheap: no access to the store.
    fn epoch(&self, _hook_uid: &str) -> Option<i64> {
        Some(0)
    }

    /// Returns the pacing of a hook as of its former owner, or as this process last recorded it under this epoch. Cheap: no access
    /// to the store.
    fn inherited_pacing(&self, _hook_uid: &str, _epoch: i64) -> InheritedPacing {
        InheritedPacing::default()
    }

    /// Records the pacing of a hook for its next owner; None: it is at rest. Ignored if `_epoch` has ended. Cheap: no access to the
    /// store, which writes it when the hook leaves, and soon after its breaker has opened or closed or a token of a slow rate limit was
    /// taken.
    fn record_pacing(&self, _hook_uid: &Arc<str>, _epoch: i64, _pacing: Option<HookPacing>) {}

    /// Returns how many deliveries of an own hook another process is still attempting, because it sent the hook's deliveries
    /// before. They count against the hook's concurrency. When the number falls, `next_notice` reports the hook as due.
    /// Cheap: no access to the store.
    fn in_flight_elsewhere(&self, _hook_uid: &str) -> usize {
        0
    }
}
