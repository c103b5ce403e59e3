//! What this process owns, as it may rely on: until a deadline by its own clock, which is earlier than the end of its lease.

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::super::super::DeliverySeq;
use super::super::shard::{SHARDS, shard_of};
use crate::core::fast_map::{FastMap, FastSet};
use crate::core::time::Millis;

/// The shards of this process, and the attempts of their deliveries.
#[derive(Debug, Default)]
pub(in super::super) struct Ownership {
    state: Mutex<State>,
    /// Notified when shards were gained or lost.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    worker: i64,
    /// The epochs of the owned shards.
    epochs: FastMap<i16, i64>,
    /// Owned shards that go to another worker: no attempt starts.
    leaving: FastSet<i16>,
    /// When the lease may have ended, on the steady clock.
    deadline: Millis,
    /// The epochs under which deliveries are attempted.
    attempts: FastMap<DeliverySeq, (i16, i64)>,
    gained: FastSet<i16>,
    has_lost: bool,
}

/// What has changed since the last call.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in super::super) struct OwnershipChange {
    /// Shards whose pending deliveries this process now sends.
    pub(in super::super) gained: FastSet<i16>,
    /// True if shards went to other workers.
    pub(in super::super) has_lost: bool,
}

impl Ownership {
    /// Begins as a new worker without shards.
    pub(super) fn register(&self, worker: i64, deadline: Millis) {
        let mut state = self.state.lock();
        state.has_lost |= !state.epochs.is_empty();
        (state.worker, state.deadline) = (worker, deadline);
        state.epochs.clear();
        state.leaving.clear();
        drop(state);
        self.changed.notify_one();
    }

    /// Returns the id of this worker.
    pub(in super::super) fn worker(&self) -> i64 {
        self.state.lock().worker
    }

    /// Extends the time for which this process relies on its shards.
    pub(super) fn extend(&self, deadline: Millis) {
        self.state.lock().deadline = deadline;
    }

    /// Returns until when this process relies on its shards, on the steady clock.
    pub(super) fn deadline(&self) -> Millis {
        self.state.lock().deadline
    }

    /// True if this process owns the hook's shard.
    pub(in super::super) fn owns(&self, hook_uid: &str) -> bool {
        let state = self.state.lock();
        let shard = shard_of(hook_uid);
        state.epochs.contains_key(&shard) && !state.leaving.contains(&shard)
    }

    /// Returns the owned shards.
    pub(in super::super) fn shards(&self) -> Vec<i16> {
        let state = self.state.lock();
        (0..SHARDS)
            .filter(|shard| state.epochs.contains_key(shard) && !state.leaving.contains(shard))
            .collect()
    }

    /// Records the start of an attempt. False: another worker may own the hook now, so the attempt must not start.
    pub(in super::super) fn begin_attempt(&self, hook_uid: &str, delivery: DeliverySeq, now: Millis) -> bool {
        let shard = shard_of(hook_uid);
        let mut state = self.state.lock();
        if now >= state.deadline || state.leaving.contains(&shard) {
            return false;
        }
        let Some(epoch) = state.epochs.get(&shard).copied() else { return false };
        state.attempts.insert(delivery, (shard, epoch));
        true
    }

    /// Returns the epoch under which a delivery is attempted. None: no attempt was made.
    pub(in super::super) fn attempt_epoch(&self, delivery: DeliverySeq) -> Option<i64> {
        self.state.lock().attempts.get(&delivery).map(|(_, epoch)| *epoch)
    }

    /// Records the end of attempts.
    pub(in super::super) fn end_attempts(&self, deliveries: impl IntoIterator<Item = DeliverySeq>) {
        let mut state = self.state.lock();
        for delivery in deliveries {
            state.attempts.remove(&delivery);
        }
    }

    /// Adds shards that this process has taken or was given.
    pub(super) fn gain(&self, shards: impl IntoIterator<Item = (i16, i64)>) {
        let mut state = self.state.lock();
        let mut has_changed = false;
        for (shard, epoch) in shards {
            if state.epochs.insert(shard, epoch) != Some(epoch) {
                state.gained.insert(shard);
                has_changed = true;
            }
        }
        drop(state);
        if has_changed {
            self.changed.notify_one();
        }
    }

    /// Removes shards that another worker has. `kept`: those that the database says are this process's, with their epochs.
    pub(super) fn keep(&self, kept: &FastMap<i16, i64>) {
        let mut state = self.state.lock();
        let before = state.epochs.len();
        state.epochs.retain(|shard, epoch| kept.get(shard) == Some(epoch));
        let has_lost = state.epochs.len() < before;
        state.has_lost |= has_lost;
        let State { epochs, leaving, .. } = &mut *state;
        leaving.retain(|shard| epochs.contains_key(shard));
        drop(state);
        if has_lost {
            self.changed.notify_one();
        }
    }

    /// Starts no further attempt of these shards. Returns their attempts in flight.
    pub(super) fn begin_leaving(&self, shards: &[i16]) -> Vec<DeliverySeq> {
        let mut state = self.state.lock();
        state.leaving.extend(shards);
        state.attempts.iter().filter(|(_, (shard, _))| shards.contains(shard)).map(|(seq, _)| *seq).collect()
    }

    /// Ends `begin_leaving`: the shards went to another worker, or stayed.
    pub(super) fn end_leaving(&self, shards: &[i16], has_left: bool) {
        let mut state = self.state.lock();
        for shard in shards {
            state.leaving.remove(shard);
            if has_left {
                state.epochs.remove(shard);
            }
        }
        state.has_lost |= has_left;
        drop(state);
        self.changed.notify_one();
    }

    /// Returns the next change. Cancel safe.
    pub(in super::super) async fn next_change(&self) -> OwnershipChange {
        loop {
            let change = {
                let mut state = self.state.lock();
                OwnershipChange {
                    gained: std::mem::take(&mut state.gained),
                    has_lost: std::mem::take(&mut state.has_lost),
                }
            };
            if change != OwnershipChange::default() {
                return change;
            }
            self.changed.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Millis = Millis(1000);

    fn owned() -> Ownership {
        let ownership = Ownership::default();
        ownership.register(7, T);
        ownership.gain([(shard_of("uid-x"), 3)]);
        ownership
    }

    #[test]
    fn no_attempt_starts_after_the_deadline() {
        let ownership = owned();
        assert!(ownership.begin_attempt("uid-x", 1, Millis(T.0 - 1)));
        assert!(!ownership.begin_attempt("uid-x", 2, T));
        ownership.extend(T + std::time::Duration::from_secs(1));
        assert!(ownership.begin_attempt("uid-x", 2, T));
        assert!(!ownership.begin_attempt("uid-y", 3, Millis(0)), "another worker's shard");
    }

    #[test]
    fn a_leaving_shard_starts_nothing_and_lists_its_attempts() {
        let ownership = owned();
        let shard = shard_of("uid-x");
        assert!(ownership.begin_attempt("uid-x", 1, Millis(0)));
        assert_eq!(ownership.begin_leaving(&[shard]), [1]);
        assert!(!ownership.begin_attempt("uid-x", 2, Millis(0)) && !ownership.owns("uid-x"));
        assert_eq!(ownership.attempt_epoch(1), Some(3));
        ownership.end_leaving(&[shard], false);
        assert!(ownership.begin_attempt("uid-x", 2, Millis(0)), "it stayed");
        ownership.end_leaving(&[shard], true);
        assert!(!ownership.owns("uid-x"));
        ownership.end_attempts([1, 2]);
        assert_eq!(ownership.attempt_epoch(1), None);
    }

    /// A shard that went away and came back has another epoch, under which its attempts of before must not settle.
    #[test]
    fn a_shard_of_another_epoch_is_lost() {
        let ownership = owned();
        let shard = shard_of("uid-x");
        ownership.keep(&FastMap::from_iter([(shard, 3)]));
        assert!(ownership.owns("uid-x"));
        ownership.keep(&FastMap::from_iter([(shard, 5)]));
        assert!(!ownership.owns("uid-x"));
    }

    #[tokio::test]
    async fn changes_are_reported_once() {
        let ownership = owned();
        let change = ownership.next_change().await;
        assert_eq!(change.gained, FastSet::from_iter([shard_of("uid-x")]));
        ownership.register(8, T);
        let change = ownership.next_change().await;
        assert!(change.has_lost && change.gained.is_empty());
        assert!(futures::poll!(Box::pin(ownership.next_change())).is_pending());
    }
}
