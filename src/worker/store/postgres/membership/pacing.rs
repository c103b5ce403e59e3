//! The pacing of the hooks of this process's shards: their breakers and the tokens of their rate limits, for the next owners.
//!
//! The dispatcher records every change here, in memory. The database has what a former owner gave, the breakers that are open, and
//! the tokens of slow rate limits: `pacing_rows` writes them. So a hand-over loses nothing, and a crash loses the tokens of other
//! limits and the failures of closed breakers. An attempt of a slow limit starts after its token is taken in the database
//! (`persist`): otherwise a crash would return it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::super::shard::shard_of;
use crate::core::bucket::TokenBucket;
use crate::core::fast_map::{FastMap, FastSet};
use crate::core::hook_pacing::{HookPacing, InheritedPacing};
use crate::core::receiver_breaker::OpenPause;
use crate::core::time::Millis;

/// The pacing of the hooks of the owned shards.
#[derive(Debug, Default)]
pub(in super::super) struct PacingMirror {
    state: Mutex<State>,
    /// Held for each write of rows. A periodic write that overlaps a hand-over would replace its rows with older ones, or deadlock
    /// with it.
    writes: tokio::sync::Mutex<()>,
    /// Notified when `persist` waits for a write.
    requested: Notify,
    /// Notified when rows were written, or shards were lost.
    written: Notify,
}

#[derive(Debug, Default)]
struct State {
    shards: FastMap<i16, ShardPacing>,
    /// Hooks whose rows are outdated, each once.
    outdated: FastSet<Arc<str>>,
}

#[derive(Debug)]
struct ShardPacing {
    epoch: i64,
    /// The former owner ended without notice: it may have used the tokens of all rate limits until then.
    empty_since: Option<Millis>,
    hooks: FastMap<Arc<str>, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// None: it is at rest, and its row is to be removed.
    pacing: Option<HookPacing>,
    row: Row,
}

/// What the database has of a hook.
#[derive(Clone, Debug)]
enum Row {
    Absent,
    Written(WrittenPacing),
    /// It is being written, or the outcome of a write is unknown.
    Unknown,
}

/// What a row has that must follow each change.
#[derive(Clone, Debug, Default, PartialEq)]
struct WrittenPacing {
    open: Option<OpenPause>,
    /// The tokens of a slow rate limit. None: there are none, or they are not exact.
    bucket: Option<TokenBucket>,
}

impl WrittenPacing {
    fn of(pacing: &HookPacing) -> Self {
        WrittenPacing { open: pacing.breaker.open, bucket: pacing.slow_bucket().cloned() }
    }

    /// True if the breaker has opened or closed since, or a token was used. Probes that are sent change nothing: another owner
    /// would send them too.
    fn is_outdated(&self, pacing: &HookPacing) -> bool {
        let is_breaker_outdated = match (self.open, pacing.breaker.open) {
            (Some(_), Some(OpenPause { until: None, .. })) => false,
            (written, open) => written != open,
        };
        is_breaker_outdated || self.bucket.as_ref() != pacing.slow_bucket()
    }
}

impl Entry {
    /// True if the row must be written or removed.
    fn is_outdated(&self) -> bool {
        match (&self.row, &self.pacing) {
            (Row::Unknown, _) | (Row::Written(_), None) => true,
            (Row::Absent, None) => false,
            (Row::Absent, Some(pacing)) => WrittenPacing::default().is_outdated(pacing),
            (Row::Written(written), Some(pacing)) => written.is_outdated(pacing),
        }
    }
}

/// The row of one hook.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PacingRow {
    pub(super) uid: Arc<str>,
    pub(super) shard: i16,
    pub(super) epoch: i64,
    /// None: there is none any more.
    pub(super) pacing: Option<HookPacing>,
}

/// A row that this process has read.
#[derive(Clone, Debug)]
pub(super) struct ReceivedRow {
    pub(super) uid: Arc<str>,
    pub(super) pacing: HookPacing,
    /// The tokens of its slow rate limit are exact, also after owners that ended without notice.
    pub(super) has_tokens: bool,
}

/// A shard whose rows this process has read.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReceivedShard {
    pub(super) shard: i16,
    pub(super) epoch: i64,
    pub(super) empty_since: Option<Millis>,
    /// The former owner gave the shard: the tokens of all its rows are exact. Otherwise attempts may have used some since.
    pub(super) is_complete: bool,
}

impl PacingMirror {
    /// Returns those of the shards whose rows this process has not read under their epochs.
    pub(super) fn missing(&self, shards: &FastMap<i16, i64>) -> Vec<(i16, i64)> {
        let state = self.state.lock();
        let is_missing = |shard: &i16, epoch: i64| state.shards.get(shard).is_none_or(|of| of.epoch != epoch);
        let all = shards.iter().map(|(shard, epoch)| (*shard, *epoch));
        all.filter(|(shard, epoch)| is_missing(shard, *epoch)).collect()
    }

    /// Begins with what was read of shards.
    pub(super) fn receive(&self, received: &[ReceivedShard], rows: Vec<ReceivedRow>) {
        let mut state = self.state.lock();
        let State { shards, outdated } = &mut *state;
        let mut outdated_tokens = FastSet::default();
        for ReceivedShard { shard, epoch, empty_since, is_complete } in received.iter().copied() {
            if !is_complete {
                outdated_tokens.insert(shard);
            }
            shards.insert(shard, ShardPacing { epoch, empty_since, hooks: FastMap::default() });
        }
        for ReceivedRow { uid, mut pacing, has_tokens } in rows {
            let shard = shard_of(&uid);
            let Some(of_shard) = shards.get_mut(&shard) else { continue };
            // Not by `empty_since`, which later hand-overs pass on: used tokens would come back with each of them.
            if outdated_tokens.contains(&shard) {
                pacing.bucket = pacing.slow_bucket().filter(|_| has_tokens).cloned();
            }
            let mut written = WrittenPacing::of(&pacing);
            written.bucket = written.bucket.filter(|_| has_tokens);
            let entry = Entry { pacing: Some(pacing), row: Row::Written(written) };
            if entry.is_outdated() {
                // The row says nothing of the attempts of this owner yet.
                outdated.insert(uid.clone());
            }
            of_shard.hooks.insert(uid, entry);
        }
        drop(state);
        self.written.notify_waiters();
    }

    /// Forgets the shards of other workers. `kept`: those of this process, with their epochs.
    pub(super) fn keep(&self, kept: &FastMap<i16, i64>) {
        self.state.lock().shards.retain(|shard, of_shard| kept.get(shard) == Some(&of_shard.epoch));
        self.written.notify_waiters();
    }

    /// Returns the pacing of a hook under this epoch.
    pub(in super::super) fn get(&self, uid: &str, epoch: i64) -> InheritedPacing {
        let state = self.state.lock();
        let Some(of_shard) = state.shards.get(&shard_of(uid)).filter(|of| of.epoch == epoch) else {
            return InheritedPacing::default();
        };
        let pacing = of_shard.hooks.get(uid).and_then(|entry| entry.pacing.clone());
        InheritedPacing { pacing, empty_since: of_shard.empty_since }
    }

    /// Records the pacing of a hook under this epoch; None: it is at rest.
    pub(in super::super) fn record(&self, uid: &Arc<str>, epoch: i64, pacing: Option<HookPacing>) {
        let mut state = self.state.lock();
        let State { shards, outdated } = &mut *state;
        let Some(of_shard) = shards.get_mut(&shard_of(uid)).filter(|of| of.epoch == epoch) else { return };
        let entry = of_shard.hooks.entry(uid.clone()).or_insert(Entry { pacing: None, row: Row::Absent });
        entry.pacing = pacing;
        if entry.is_outdated() {
            outdated.insert(uid.clone());
        } else if entry.pacing.is_none() {
            of_shard.hooks.remove(uid);
        }
    }

    /// Waits until no rows are written, and keeps it so while the result lives. None: a write takes longer than `timeout`.
    pub(in super::super) async fn lock_writes(
        &self,
        timeout: Duration,
    ) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        tokio::time::timeout(timeout, self.writes.lock()).await.ok()
    }

    /// Waits until the row of a hook has what was recorded under this epoch. False: the epoch has ended. Cancel safe.
    pub(in super::super) async fn persist(&self, uid: &str, epoch: i64) -> bool {
        let is_written = || {
            let state = self.state.lock();
            let of_shard = state.shards.get(&shard_of(uid)).filter(|of| of.epoch == epoch)?;
            Some(of_shard.hooks.get(uid).is_none_or(|entry| !entry.is_outdated()))
        };
        let mut is_requested = false;
        loop {
            // Before the check: a notification in between would be missed.
            let written = self.written.notified();
            match is_written() {
                Some(true) => return true,
                None => return false,
                Some(false) => {}
            }
            if !std::mem::replace(&mut is_requested, true) {
                self.requested.notify_one();
            }
            written.await;
        }
    }

    /// Waits until `persist` waits for a write. Cancel safe.
    pub(super) async fn requested(&self) {
        self.requested.notified().await;
    }

    /// Returns up to `limit` changed rows. `confirm_changes` or `restore_changes` must follow.
    pub(super) fn take_changes(&self, limit: usize) -> Vec<PacingRow> {
        let mut state = self.state.lock();
        let State { shards, outdated } = &mut *state;
        let uids: Vec<Arc<str>> = outdated.iter().take(limit).cloned().collect();
        let mut rows = Vec::with_capacity(uids.len());
        for uid in uids {
            outdated.remove(&uid);
            let shard = shard_of(&uid);
            let Some(of_shard) = shards.get_mut(&shard) else { continue };
            let Some(entry) = of_shard.hooks.get_mut(&uid).filter(|entry| entry.is_outdated()) else {
                continue;
            };
            entry.row = Row::Unknown;
            rows.push(PacingRow { uid, shard, epoch: of_shard.epoch, pacing: entry.pacing.clone() });
        }
        rows
    }

    /// Marks rows as written. What has changed since stays outdated.
    pub(super) fn confirm_changes(&self, rows: &[PacingRow]) {
        let mut state = self.state.lock();
        let State { shards, outdated } = &mut *state;
        for row in rows {
            let Some(of_shard) = shards.get_mut(&row.shard).filter(|of| of.epoch == row.epoch) else {
                continue;
            };
            let Some(entry) = of_shard.hooks.get_mut(&row.uid) else { continue };
            entry.row = match &row.pacing {
                Some(pacing) => Row::Written(WrittenPacing::of(pacing)),
                None => Row::Absent,
            };
            if entry.is_outdated() {
                continue;
            }
            outdated.remove(&row.uid);
            if entry.pacing.is_none() {
                of_shard.hooks.remove(&row.uid);
            }
        }
        drop(state);
        self.written.notify_waiters();
    }

    /// Writes rows again later: the outcome of their write is unknown.
    pub(super) fn restore_changes(&self, rows: &[PacingRow]) {
        self.state.lock().outdated.extend(rows.iter().map(|row| row.uid.clone()));
    }

    /// Returns the pacing of all hooks of these shards that are not at rest.
    pub(super) fn of_shards(&self, shards: &[i16], now: Millis) -> Vec<PacingRow> {
        let state = self.state.lock();
        let mut rows = Vec::new();
        for shard in shards {
            let Some(ShardPacing { epoch, hooks, .. }) = state.shards.get(shard) else { continue };
            for (uid, entry) in hooks {
                let pacing = entry.pacing.clone().filter(|pacing| !pacing.is_at_rest(now));
                if pacing.is_some() {
                    rows.push(PacingRow { uid: uid.clone(), shard: *shard, epoch: *epoch, pacing });
                }
            }
        }
        rows
    }

    /// Returns since when the rate limits of these shards may have had no tokens, without the shards of which that is not so.
    pub(super) fn empty_since(&self, shards: &[i16]) -> FastMap<i16, Millis> {
        let state = self.state.lock();
        let since = |shard: &i16| Some((*shard, state.shards.get(shard)?.empty_since?));
        shards.iter().filter_map(since).collect()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::core::bucket::Rate;
    use crate::core::receiver_breaker::BreakerSnapshot;

    const UID: &str = "uid-x";

    const RATE: Rate = Rate { requests: 1, interval: Duration::from_secs(60), burst: 5 };
    const SLOW: Rate = Rate { requests: 1, interval: Duration::from_secs(61), burst: 5 };

    fn pacing(open: Option<OpenPause>) -> HookPacing {
        let bucket = Some(TokenBucket::with_tokens(RATE, 1.0, Millis(0)));
        HookPacing { generation: Some(1), breaker: BreakerSnapshot { failed: 1, attempts: 1, open }, bucket }
    }

    fn pause(until: Option<i64>) -> Option<OpenPause> {
        Some(OpenPause { until: until.map(Millis), pause: Duration::from_secs(2) })
    }

    fn row(pacing: HookPacing) -> ReceivedRow {
        ReceivedRow { uid: UID.into(), pacing, has_tokens: false }
    }

    fn received(epoch: i64, empty_since: Option<Millis>, rows: Vec<ReceivedRow>) -> PacingMirror {
        let mirror = PacingMirror::default();
        let is_complete = empty_since.is_none();
        mirror.receive(&[ReceivedShard { shard: shard_of(UID), epoch, empty_since, is_complete }], rows);
        mirror
    }

    #[test]
    fn rows_follow_breakers_that_open_and_close_and_nothing_else() {
        let mirror = received(3, None, Vec::new());
        let record = |open| mirror.record(&UID.into(), 3, Some(pacing(open)));
        let changes = || {
            let rows = mirror.take_changes(usize::MAX);
            mirror.confirm_changes(&rows);
            rows.into_iter().map(|row| row.pacing.map(|pacing| pacing.breaker.open)).collect::<Vec<_>>()
        };
        record(None);
        assert_eq!(changes(), [], "tokens and failures alone");
        record(pause(Some(10)));
        record(pause(Some(20)));
        assert_eq!(changes(), [Some(pause(Some(20)))], "once for both");
        record(pause(None));
        assert_eq!(changes(), [], "probes of the pause that is written");
        record(None);
        assert_eq!(changes(), [Some(None)]);
        record(pause(Some(30)));
        record(None);
        assert_eq!(changes(), [], "back to what is written");
        mirror.record(&UID.into(), 3, None);
        assert_eq!(changes(), [None], "the row is removed");
        mirror.record(&UID.into(), 3, None);
        assert_eq!(changes(), []);
        assert!(mirror.of_shards(&[shard_of(UID)], Millis(0)).is_empty());
    }

    #[test]
    fn changes_whose_write_failed_are_written_again() {
        let mirror = received(3, None, Vec::new());
        for open in [pause(Some(10)), None] {
            mirror.record(&UID.into(), 3, open.map(|open| pacing(Some(open))));
            let rows = mirror.take_changes(usize::MAX);
            assert_eq!(rows.len(), 1);
            mirror.restore_changes(&rows);
            // Whatever happened meanwhile.
            assert_eq!(mirror.take_changes(usize::MAX), rows);
            assert_eq!(mirror.take_changes(usize::MAX), []);
            mirror.confirm_changes(&rows);
            assert_eq!(mirror.take_changes(usize::MAX), []);
        }
    }

    /// With the times at which the tokens were used: the row must not have one that was used before.
    #[test]
    fn each_token_of_a_slow_limit_is_written() {
        let mirror = received(3, None, Vec::new());
        let with_tokens = |tokens| HookPacing {
            bucket: Some(TokenBucket::with_tokens(SLOW, tokens, Millis(0))),
            ..pacing(None)
        };
        let is_written = || mirror.persist(UID, 3).now_or_never();
        mirror.record(&UID.into(), 3, Some(with_tokens(4.0)));
        assert_eq!(is_written(), None);
        let first = mirror.take_changes(usize::MAX);
        assert_eq!(first[0].pacing, Some(with_tokens(4.0)));
        assert_eq!(is_written(), None, "its write goes on");
        mirror.record(&UID.into(), 3, Some(with_tokens(3.0)));
        mirror.confirm_changes(&first);
        assert_eq!(is_written(), None, "used since");
        let second = mirror.take_changes(usize::MAX);
        mirror.restore_changes(&second);
        assert_eq!(is_written(), None);
        let second = mirror.take_changes(usize::MAX);
        mirror.confirm_changes(&second);
        assert_eq!((second[0].pacing.clone(), is_written()), (Some(with_tokens(3.0)), Some(true)));
        assert_eq!(mirror.persist(UID, 4).now_or_never(), Some(false));
    }

    /// Those of an exact row, and of no other rate.
    #[test]
    fn tokens_of_a_slow_limit_are_used_after_an_owner_that_ended_without_notice() {
        for (rate, has_tokens) in [(SLOW, true), (SLOW, false), (RATE, true), (RATE, false)] {
            let bucket = Some(TokenBucket::with_tokens(rate, 1.0, Millis(0)));
            let before = HookPacing { bucket: bucket.clone(), ..pacing(None) };
            let mirror =
                received(3, Some(Millis(7)), vec![ReceivedRow { has_tokens, ..row(before.clone()) }]);
            let is_used = rate == SLOW && has_tokens;
            assert_eq!(mirror.get(UID, 3).pacing.unwrap().bucket, bucket.filter(|_| is_used));
            assert_eq!(mirror.take_changes(usize::MAX), [], "the row has them");
        }
        let before =
            HookPacing { bucket: Some(TokenBucket::with_tokens(SLOW, 1.0, Millis(0))), ..pacing(None) };
        let mirror = received(3, None, vec![row(before.clone())]);
        assert_eq!(mirror.take_changes(usize::MAX)[0].pacing, Some(before), "an older version gave them");
    }

    #[test]
    fn records_of_another_epoch_are_ignored() {
        let uid: Arc<str> = UID.into();
        let mirror = received(3, None, vec![row(pacing(pause(Some(10))))]);
        let shard = shard_of(UID);
        mirror.record(&uid, 2, None);
        assert_eq!(mirror.get(UID, 3).pacing, Some(pacing(pause(Some(10)))));
        assert_eq!(mirror.get(UID, 4), InheritedPacing::default());
        mirror.keep(&FastMap::from_iter([(shard, 3)]));
        assert_eq!(mirror.missing(&FastMap::from_iter([(shard, 3)])), [], "a hand-over that failed");
        assert_eq!(mirror.missing(&FastMap::from_iter([(shard, 5)])), [(shard, 5)]);
        mirror.keep(&FastMap::from_iter([(shard, 5)]));
        assert_eq!(mirror.get(UID, 3), InheritedPacing::default());
    }

    #[test]
    fn tokens_of_an_owner_that_ended_without_notice_are_not_used() {
        let mirror = received(3, Some(Millis(7)), vec![row(pacing(pause(Some(10))))]);
        let InheritedPacing { pacing, empty_since } = mirror.get(UID, 3);
        assert_eq!(empty_since, Some(Millis(7)));
        let pacing = pacing.unwrap();
        assert!(pacing.breaker.open.is_some() && pacing.bucket.is_none());
        assert_eq!(
            mirror.empty_since(&[shard_of(UID), -1]),
            FastMap::from_iter([(shard_of(UID), Millis(7))])
        );
    }

    #[test]
    fn a_later_hand_over_keeps_the_tokens_after_a_crash() {
        let (mirror, shard) = (PacingMirror::default(), shard_of(UID));
        let empty_since = Some(Millis(7));
        let given = ReceivedShard { shard, epoch: 4, empty_since, is_complete: true };
        mirror.receive(&[given], vec![row(pacing(None))]);
        assert_eq!(mirror.get(UID, 4), InheritedPacing { pacing: Some(pacing(None)), empty_since });
    }

    #[test]
    fn changes_are_taken_in_parts() {
        let uids: Vec<Arc<str>> = ["uid-x", "uid-y", "uid-z"].map(Into::into).to_vec();
        let mirror = PacingMirror::default();
        for uid in &uids {
            let shard = shard_of(uid);
            let shard = ReceivedShard { shard, epoch: 3, empty_since: None, is_complete: true };
            mirror.receive(&[shard], Vec::new());
        }
        uids.iter().for_each(|uid| mirror.record(uid, 3, Some(pacing(pause(Some(10))))));
        assert_eq!([2, 2, 2].map(|limit| mirror.take_changes(limit).len()), [2, 1, 0]);
    }
}
