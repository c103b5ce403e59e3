//! What this process owns, as it may rely on: until a deadline by its own clock, which is earlier than the end of its lease.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::super::super::DeliverySeq;
use super::super::shard::{SHARDS, shard_of};
use super::load::ShardLoads;
use super::pacing::PacingMirror;
use crate::core::fast_map::{FastMap, FastSet};
use crate::core::time::Millis;

/// The shards of this process, and the attempts of their deliveries.
#[derive(Debug, Default)]
pub(in super::super) struct Ownership {
    state: Mutex<State>,
    /// Notified when shards were gained or lost.
    changed: Notify,
    /// The breakers and rate limits of the hooks.
    pub(in super::super) pacing: PacingMirror,
}

#[derive(Debug, Default)]
struct State {
    worker: i64,
    /// The epochs of the owned shards.
    epochs: FastMap<i16, i64>,
    /// Owned shards that go to another worker: no attempt starts.
    leaving: FastSet<i16>,
    /// The epochs of shards of which a hand-over failed: its outcome may be unknown, so another worker may own them.
    uncertain: FastMap<i16, i64>,
    /// When the lease may have ended, on the steady clock.
    deadline: Millis,
    /// The epochs under which deliveries are attempted.
    attempts: FastMap<DeliverySeq, (i16, i64)>,
    /// Attempts whose shard went to another worker, which the database lists.
    handed_over: FastSet<DeliverySeq>,
    /// Those of them that have ended. The list may still have them: an attempt without an outcome settles nothing.
    ended: FastSet<DeliverySeq>,
    /// Deliveries of own hooks that former owners are attempting, by the hook's uid.
    elsewhere: FastMap<Arc<str>, usize>,
    loads: ShardLoads,
    gained: FastSet<i16>,
    has_lost: bool,
    freed: FastSet<Arc<str>>,
}

/// What has changed since the last call.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in super::super) struct OwnershipChange {
    /// Shards whose pending deliveries this process now sends.
    pub(in super::super) gained: FastSet<i16>,
    /// True if shards went to other workers.
    pub(in super::super) has_lost: bool,
    /// Hooks of which former owners attempt fewer deliveries now.
    pub(in super::super) freed: FastSet<Arc<str>>,
}

impl Ownership {
    /// Begins as a new worker without shards.
    pub(super) fn register(&self, worker: i64, deadline: Millis) {
        let mut state = self.state.lock();
        state.has_lost |= !state.epochs.is_empty();
        (state.worker, state.deadline) = (worker, deadline);
        state.epochs.clear();
        state.leaving.clear();
        state.uncertain.clear();
        // The list is of the worker whose lease ended: no worker reads it any more.
        state.handed_over.clear();
        state.ended.clear();
        state.elsewhere.clear();
        state.loads = ShardLoads::default();
        drop(state);
        self.pacing.keep(&FastMap::default());
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
        self.epoch(hook_uid).is_some()
    }

    /// Returns the epoch under which this process owns the hook's shard.
    pub(in super::super) fn epoch(&self, hook_uid: &str) -> Option<i64> {
        let state = self.state.lock();
        let shard = shard_of(hook_uid);
        state.epochs.get(&shard).copied().filter(|_| !state.leaving.contains(&shard))
    }

    /// True if this process owns the hook's shard, and its lease lasts.
    pub(in super::super) fn owns_at(&self, hook_uid: &str, now: Millis) -> bool {
        now < self.deadline() && self.owns(hook_uid)
    }

    /// Returns how many deliveries of the hook former owners are attempting.
    pub(in super::super) fn in_flight_elsewhere(&self, hook_uid: &str) -> usize {
        self.state.lock().elsewhere.get(hook_uid).copied().unwrap_or(0)
    }

    /// True if former owners are attempting deliveries of own hooks.
    pub(super) fn has_in_flight_elsewhere(&self) -> bool {
        !self.state.lock().elsewhere.is_empty()
    }

    /// Sets which deliveries of own hooks former owners are attempting. Before `gain`, so that no attempt of a gained hook
    /// starts that does not count them.
    pub(super) fn set_in_flight_elsewhere(&self, counts: FastMap<Arc<str>, usize>) {
        let mut state = self.state.lock();
        let before = std::mem::replace(&mut state.elsewhere, counts);
        let State { elsewhere, freed, .. } = &mut *state;
        let fewer =
            before.into_iter().filter(|(uid, count)| elsewhere.get(uid).is_none_or(|now| now < count));
        freed.extend(fewer.map(|(uid, _)| uid));
        let has_freed = !freed.is_empty();
        drop(state);
        if has_freed {
            self.changed.notify_one();
        }
    }

    /// Returns the load of each owned shard: the attempts that this process starts in a second.
    pub(in super::super) fn loads(&self, now: Millis) -> FastMap<i16, f64> {
        let mut state = self.state.lock();
        let State { loads, epochs, .. } = &mut *state;
        loads.sample(now);
        epochs.keys().map(|shard| (*shard, loads.of(*shard))).collect()
    }

    /// Continues with the loads that former owners measured. A shard that came back after a failed hand-over keeps its own.
    pub(super) fn seed_loads(&self, seeds: impl IntoIterator<Item = (i16, f64)>) {
        let mut state = self.state.lock();
        for (shard, load) in seeds {
            if !state.epochs.contains_key(&shard) && !state.loads.has(shard) {
                state.loads.seed(shard, load);
            }
        }
    }

    /// Returns the epochs of those of these shards that this process owns.
    pub(super) fn epochs(&self, shards: &[i16]) -> FastMap<i16, i64> {
        let state = self.state.lock();
        shards.iter().filter_map(|shard| Some((*shard, *state.epochs.get(shard)?))).collect()
    }

    /// Returns the owned shards.
    pub(in super::super) fn shards(&self) -> Vec<i16> {
        let state = self.state.lock();
        (0..SHARDS)
            .filter(|shard| state.epochs.contains_key(shard) && !state.leaving.contains(shard))
            .collect()
    }

    /// Records the start of an attempt of a delivery that was read under `read`. False: another worker may own the hook now,
    /// or has owned it since the read, so the attempt must not start.
    pub(in super::super) fn begin_attempt(
        &self,
        hook_uid: &str,
        delivery: DeliverySeq,
        read: Option<i64>,
        now: Millis,
    ) -> bool {
        let shard = shard_of(hook_uid);
        let mut state = self.state.lock();
        if now >= state.deadline || state.leaving.contains(&shard) {
            return false;
        }
        let owned = state.epochs.get(&shard).copied();
        let Some(epoch) = owned.filter(|_| owned == read) else { return false };
        state.attempts.insert(delivery, (shard, epoch));
        state.loads.record(shard);
        // An earlier attempt, whose entry in the list would be taken for this one's.
        state.ended.remove(&delivery);
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
            if state.handed_over.remove(&delivery) {
                state.ended.insert(delivery);
            }
        }
    }

    /// Returns the ended attempts that the database may still list.
    pub(super) fn ended_attempts(&self) -> Vec<DeliverySeq> {
        self.state.lock().ended.iter().copied().collect()
    }

    /// Forgets ended attempts that the database lists no more.
    pub(super) fn forget_ended(&self, deliveries: &[DeliverySeq]) {
        let mut state = self.state.lock();
        for delivery in deliveries {
            state.ended.remove(delivery);
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
        let State { epochs, leaving, loads, uncertain, .. } = &mut *state;
        leaving.retain(|shard| epochs.contains_key(shard));
        // The same epoch: no other worker has owned it.
        uncertain.retain(|shard, epoch| kept.get(shard) == Some(epoch));
        loads.retain(|shard| epochs.contains_key(&shard) || uncertain.contains_key(&shard));
        uncertain.clear();
        drop(state);
        if has_lost {
            self.changed.notify_one();
        }
    }

    /// Starts no further attempt of these shards. Returns their attempts in flight.
    pub(super) fn begin_leaving(&self, shards: &[i16]) -> Vec<DeliverySeq> {
        let mut state = self.state.lock();
        state.leaving.extend(shards);
        let State { attempts, handed_over, .. } = &mut *state;
        let leaving = attempts.iter().filter(|(_, (shard, _))| shards.contains(shard)).map(|(seq, _)| *seq);
        let leaving: Vec<DeliverySeq> = leaving.collect();
        handed_over.extend(&leaving);
        leaving
    }

    /// Ends `begin_leaving`: this process no longer relies on the shards. False for `is_known`: the hand-over failed, so they
    /// may have stayed. `keep` and `gain` then bring them back under the same epoch, with their measured loads. To rely on
    /// them before would send deliveries twice if only the answer to the COMMIT was lost.
    pub(super) fn end_leaving(&self, shards: &[i16], is_known: bool) {
        let mut state = self.state.lock();
        for shard in shards {
            state.leaving.remove(shard);
            let epoch = state.epochs.remove(shard);
            match epoch {
                Some(epoch) if !is_known => drop(state.uncertain.insert(*shard, epoch)),
                _ => state.loads.remove(*shard),
            }
        }
        state.has_lost = true;
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
                    freed: std::mem::take(&mut state.freed),
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
        assert!(ownership.begin_attempt("uid-x", 1, Some(3), Millis(T.0 - 1)));
        assert!(!ownership.begin_attempt("uid-x", 2, Some(3), T));
        ownership.extend(T + std::time::Duration::from_secs(1));
        assert!(ownership.begin_attempt("uid-x", 2, Some(3), T));
        assert!(!ownership.begin_attempt("uid-y", 3, Some(3), Millis(0)), "another worker's shard");
    }

    #[test]
    fn a_leaving_shard_starts_nothing_and_lists_its_attempts() {
        let ownership = owned();
        let shard = shard_of("uid-x");
        assert!(ownership.begin_attempt("uid-x", 1, Some(3), Millis(0)));
        assert_eq!(ownership.begin_leaving(&[shard]), [1]);
        assert!(!ownership.begin_attempt("uid-x", 2, Some(3), Millis(0)) && !ownership.owns("uid-x"));
        assert_eq!(ownership.attempt_epoch(1), Some(3));
        ownership.end_leaving(&[shard], true);
        assert!(!ownership.owns("uid-x"));
        ownership.end_attempts([1, 2]);
        assert_eq!(ownership.attempt_epoch(1), None);
    }

    /// Another worker may own it: the answer to the COMMIT may have been lost.
    #[tokio::test]
    async fn a_shard_whose_hand_over_failed_is_not_relied_on_until_the_database_says_that_it_stayed() {
        let ownership = owned();
        let shard = shard_of("uid-x");
        ownership.seed_loads([(shard, 0.0)]);
        ownership.loads(Millis(0));
        (1..=100).for_each(|seq| assert!(ownership.begin_attempt("uid-x", seq, Some(3), Millis(0))));
        let measured = ownership.loads(Millis(900))[&shard];
        assert!(measured > 1.0);
        ownership.next_change().await;
        for (epoch, load) in [(3, measured), (5, 0.5)] {
            ownership.begin_leaving(&[shard]);
            ownership.end_leaving(&[shard], false);
            assert!(!ownership.begin_attempt("uid-x", 200, Some(3), Millis(0)) && !ownership.owns("uid-x"));
            assert!(ownership.next_change().await.has_lost);
            ownership.keep(&FastMap::from_iter([(shard, epoch)]));
            ownership.seed_loads([(shard, 0.5)]);
            ownership.gain([(shard, epoch)]);
            assert_eq!(ownership.next_change().await.gained, FastSet::from_iter([shard]));
            assert!(ownership.begin_attempt("uid-x", 200, Some(epoch), Millis(0)));
            let now = ownership.loads(Millis(900))[&shard];
            assert!((now - load).abs() < 1e-9, "{now} {load}");
        }
    }

    /// The other owner may have sent it meanwhile.
    #[test]
    fn a_delivery_that_was_read_before_another_one_owned_its_hook_is_not_attempted() {
        let ownership = owned();
        let read = ownership.epoch("uid-x");
        ownership.keep(&FastMap::default());
        assert_eq!(ownership.epoch("uid-x"), None);
        ownership.gain([(shard_of("uid-x"), 5)]);
        for before in [read, None] {
            assert!(!ownership.begin_attempt("uid-x", 1, before, Millis(0)));
        }
        assert!(ownership.begin_attempt("uid-x", 1, ownership.epoch("uid-x"), Millis(0)));
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

    #[test]
    fn an_ended_attempt_of_a_shard_that_left_stays_listed_until_it_is_removed() {
        let ownership = owned();
        let shard = shard_of("uid-x");
        assert!(
            ownership.begin_attempt("uid-x", 1, Some(3), Millis(0))
                && ownership.begin_attempt("uid-x", 2, Some(3), Millis(0))
        );
        ownership.end_attempts([2]);
        assert_eq!(ownership.ended_attempts(), [0; 0], "it was never listed");
        ownership.begin_leaving(&[shard]);
        ownership.end_leaving(&[shard], true);
        ownership.end_attempts([1]);
        assert_eq!(ownership.ended_attempts(), [1]);
        ownership.gain([(shard, 5)]);
        assert!(ownership.begin_attempt("uid-x", 1, Some(5), Millis(0)));
        assert_eq!(ownership.ended_attempts(), [0; 0], "the entry may be the new attempt's");
        ownership.begin_leaving(&[shard]);
        ownership.end_attempts([1]);
        ownership.forget_ended(&[1]);
        assert_eq!(ownership.ended_attempts(), [0; 0]);
    }

    #[tokio::test]
    async fn hooks_whose_former_owner_attempts_fewer_deliveries_are_reported() {
        let ownership = owned();
        ownership.next_change().await;
        let count = |n| FastMap::from_iter([(Arc::<str>::from("uid-x"), n)]);
        ownership.set_in_flight_elsewhere(count(2));
        assert_eq!((ownership.in_flight_elsewhere("uid-x"), ownership.in_flight_elsewhere("uid-y")), (2, 0));
        assert!(futures::poll!(Box::pin(ownership.next_change())).is_pending());
        for left in [count(1), FastMap::default()] {
            ownership.set_in_flight_elsewhere(left);
            assert_eq!(ownership.next_change().await.freed, FastSet::from_iter(["uid-x".into()]));
        }
        assert!(!ownership.has_in_flight_elsewhere());
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
