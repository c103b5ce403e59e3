//! The queue of one hook: what is in memory, what is claimed, and whether there is more on disk.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use super::hold::{Hold, Mark};
use crate::core::breaker::{Breaker, Leave};
use crate::core::bucket::{Bucket, Rate};
use crate::core::time::Millis;
use crate::worker::store::{Due, HookId, Most, Pending, Seq};

/// Deliveries of one hook that are read from disk at a time, and their bytes.
const WINDOW: usize = 64;
const WINDOW_BYTES: usize = 4 << 20;
/// Deliveries of one hook that may wait in memory from the moment they were accepted: reading them again would cost more
/// than keeping them, so there is room for a burst. All hooks together are bounded in bytes.
const ROOM: usize = 16_384;

/// What waits while the breaker is open is looked through this often.
const LOOK_FOR_OLD: Duration = Duration::from_secs(1);

/// What is read of one hook at a time.
pub const MOST: Most = Most { rows: WINDOW, bytes: WINDOW_BYTES };

/// About what a delivery takes in memory besides its data.
const OVERHEAD: usize = 512;

/// About what a delivery takes in memory.
pub fn bytes(pending: &Pending) -> usize {
    pending.event.data.get().len() + OVERHEAD
}

/// There is no room in memory.
#[derive(Debug, PartialEq, Eq)]
pub struct NoRoom;

/// An attempt of the delivery is under way.
#[derive(Debug, PartialEq, Eq)]
pub struct UnderWay;

/// One hook's queue.
#[derive(Default)]
pub struct Queue {
    /// Ready to be sent, in memory.
    pub ready: VecDeque<Pending>,
    /// In memory, under way, or with an outcome that is not yet committed: a read of the disk must pass these over.
    pub claimed: HashSet<Seq>,
    pub in_flight: usize,
    /// An attempt told something that nobody was told yet.
    pub to_be_looked_at: bool,
    /// There may be more due on disk than is in memory.
    pub on_disk: bool,
    pub loading: bool,
    /// It waits for a place among the attempts under way.
    pub crowded: bool,
    /// Something came while a read was under way that the read may not have seen.
    missed_while_loading: bool,
    /// Outcomes that were committed while a read was under way: the read may show these deliveries as they were before,
    /// and to believe it would send them again.
    settled_while_loading: HashSet<Seq>,
    pub breaker: Breaker,
    /// When nothing was found to be too old.
    looked_for_old: Millis,
    /// Present while the hook has a rate limit.
    bucket: Option<Bucket>,
    /// Since when the hook does not exist.
    pub gone_since: Option<Millis>,
    /// The hook, as the store names it.
    pub id: Option<HookId>,
    /// The hook lacks something that it needs to send.
    pub missing: Option<Hold>,
    /// When to look for what is missing again.
    pub look_at: Option<Millis>,
    /// The receiver answered 410 to this spec.
    pub gone: Option<Mark>,
    /// The last request was refused by the egress policy.
    pub denied: Option<String>,
    /// The filter of this generation failed on an event, and why.
    pub undecided: Option<(Option<i64>, String)>,
    pub last_error: Option<String>,
    /// Something was delivered.
    pub went_well: bool,
    /// What people were told.
    pub told: Option<(bool, &'static str)>,
}

impl Queue {
    /// Takes a delivery into memory, unless there is no room or older ones wait on disk. The bytes that came into
    /// memory: none where a read of the disk was quicker; an error where it must wait on disk.
    pub fn offer(&mut self, pending: Pending) -> Result<usize, NoRoom> {
        if self.on_disk || self.ready.len() >= ROOM {
            return Err(NoRoom);
        }
        if !self.claimed.insert(pending.seq) {
            return Ok(0);
        }
        let taken = bytes(&pending);
        self.ready.push_back(pending);
        Ok(taken)
    }

    /// There is something on disk that is not in memory.
    pub fn missed(&mut self) {
        self.on_disk = true;
        self.missed_while_loading |= self.loading;
    }

    /// Outcomes wait for their commit, as many as there is room for: to read on would fill the memory with more of them.
    pub fn is_full(&self) -> bool {
        self.claimed.len() >= self.ready.len() + self.in_flight + ROOM
    }

    /// True where the disk is to be read now. What is claimed need not come again.
    pub fn wants_more(&mut self) -> bool {
        if !self.on_disk || self.loading || self.ready.len() > WINDOW / 2 || self.is_full() {
            return false;
        }
        self.loading = true;
        self.missed_while_loading = false;
        self.settled_while_loading.clear();
        true
    }

    /// Takes what was read; the bytes that came into memory.
    pub fn loaded(&mut self, found: Due) -> usize {
        self.loading = false;
        self.on_disk = self.missed_while_loading || found.more;
        let mut taken = 0;
        let settled = std::mem::take(&mut self.settled_while_loading);
        for pending in found.pending {
            if !settled.contains(&pending.seq) && self.claimed.insert(pending.seq) {
                taken += bytes(&pending);
                self.ready.push_back(pending);
            }
        }
        taken
    }

    /// The outcome of a delivery is committed; where it is another attempt, that comes from disk when it is due.
    pub fn settled(&mut self, seq: Seq) {
        self.claimed.remove(&seq);
        if self.loading {
            self.settled_while_loading.insert(seq);
        }
    }

    /// A delivery was replayed or cancelled: what memory holds of it, or a read under way brings, is old. The bytes that
    /// were freed; an error where it is under way, and is to be looked at when that is over.
    pub fn changed(&mut self, seq: Seq) -> Result<usize, UnderWay> {
        self.missed();
        if self.loading {
            self.settled_while_loading.insert(seq);
        }
        if let Some(at) = self.ready.iter().position(|pending| pending.seq == seq) {
            self.claimed.remove(&seq);
            return Ok(self.ready.remove(at).map_or(0, |pending| bytes(&pending)));
        }
        if self.claimed.contains(&seq) { Err(UnderWay) } else { Ok(0) }
    }

    /// Lets go of what is in memory: the hook may not send now. The bytes that were freed.
    pub fn hold(&mut self) -> usize {
        let mut freed = 0;
        for pending in self.ready.drain(..) {
            freed += bytes(&pending);
            self.claimed.remove(&pending.seq);
            self.on_disk = true;
        }
        freed
    }

    /// May the hook send one more now? A time: not before it. None: not before something happens.
    pub fn leave(&mut self, rate: Option<Rate>, now: Millis) -> Result<(), Option<Millis>> {
        if rate != self.bucket.as_ref().map(Bucket::rate) {
            self.bucket = rate.map(|rate| Bucket::new(rate, now));
        }
        // The breaker last: leave for a probe that the bucket then refused would never come back.
        if let Some(bucket) = &mut self.bucket {
            bucket.take(now).map_err(Some)?;
        }
        match self.breaker.ask(now) {
            Leave::Granted => Ok(()),
            Leave::NotBefore(until) => Err(Some(until)),
            Leave::Probing => Err(None),
        }
    }

    /// Takes what grew too old out of memory while the breaker is open: what nobody answers must not wait for its turn to be
    /// the probe. Its bytes too.
    pub fn expired(&mut self, max_age: Duration, now: Millis) -> (Vec<Pending>, usize) {
        // Not at each event that comes: they are all looked at.
        if !self.breaker.is_open() || now.since(self.looked_for_old) < LOOK_FOR_OLD {
            return (Vec::new(), 0);
        }
        let old = |pending: &Pending| now > pending.accepted + pending.held + max_age;
        let (expired, young): (Vec<Pending>, Vec<Pending>) = self.ready.drain(..).partition(old);
        self.ready = young.into();
        // Where some were, more may be on disk.
        if expired.is_empty() {
            self.looked_for_old = now;
        }
        let freed = expired.iter().map(bytes).sum();
        (expired, freed)
    }

    /// Nothing to do and nothing to remember.
    pub fn idle(&self) -> bool {
        self.ready.is_empty()
            && self.claimed.is_empty()
            && !self.on_disk
            && !self.loading
            && !self.crowded
            && self.breaker.is_idle()
            && self.bucket.is_none()
            && self.in_flight == 0
            && !self.to_be_looked_at
            && self.told.is_none_or(|(well, _)| well)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::event::{Event, Origin};
    use crate::worker::store::HookId;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    fn pending(seq: Seq) -> Pending {
        let event = Event {
            id: "e".into(),
            namespace: "n".into(),
            origin: Origin::Api,
            source: "s".into(),
            event: "e".into(),
            time: String::new(),
            data: serde_json::value::to_raw_value("four").unwrap(),
            attributes: BTreeMap::new(),
        };
        let hook = HookId { uid: "u".into(), namespace: "n".into(), name: "h".into() };
        let at = Millis(0);
        Pending {
            seq,
            id: uuid::Uuid::nil(),
            hook,
            event: Arc::new(event),
            accepted: at,
            attempts: 0,
            due: at,
            held: std::time::Duration::ZERO,
            suppressed: 0,
            replays: 0,
            progress: Vec::new(),
        }
    }

    fn read(pending: impl IntoIterator<Item = Pending>) -> Due {
        Due { pending: pending.into_iter().collect(), more: false }
    }

    fn seqs(queue: &Queue) -> Vec<Seq> {
        queue.ready.iter().map(|p| p.seq).collect()
    }

    #[test]
    fn what_does_not_fit_waits_on_disk_and_is_read_once() {
        let mut queue = Queue::default();
        let (room, all) = (ROOM as Seq, ROOM as Seq + 36);
        for seq in 0..all {
            if queue.offer(pending(seq)).is_err() {
                queue.missed();
            }
        }
        assert_eq!(queue.ready.len(), ROOM);
        assert!(!queue.wants_more(), "not while there is enough in memory");
        queue.ready.drain(..ROOM - 24);
        assert!(queue.wants_more());
        assert!(!queue.wants_more(), "one read at a time");
        queue.loaded(read((0..all).map(pending)));
        assert_eq!(seqs(&queue), (room - 24..all).collect::<Vec<_>>(), "claimed ones are passed over");
        assert!(!queue.on_disk);
    }

    #[test]
    fn a_store_that_is_behind_is_not_read_on() {
        let mut queue = Queue::default();
        for seq in 0..ROOM as Seq {
            queue.offer(pending(seq)).unwrap();
        }
        // Their outcomes are told, and not yet committed.
        queue.ready.clear();
        queue.missed();
        assert!(queue.is_full() && !queue.wants_more());
        queue.settled(1);
        assert!(!queue.is_full() && queue.wants_more());
    }

    #[test]
    fn what_comes_during_a_read_is_not_forgotten() {
        let mut queue = Queue::default();
        queue.missed();
        assert!(queue.wants_more());
        assert_eq!(queue.offer(pending(7)), Err(NoRoom), "older ones may be on disk");
        queue.missed();
        queue.loaded(Due::default());
        assert!(queue.wants_more());
    }

    #[test]
    fn what_is_settled_during_a_read_is_not_sent_again() {
        let mut queue = Queue::default();
        queue.offer(pending(1)).unwrap();
        queue.ready.clear();
        queue.missed();
        assert!(queue.wants_more());
        queue.settled(1);
        queue.loaded(read([pending(1), pending(2)]));
        assert_eq!(seqs(&queue), [2]);
        queue.missed();
        queue.ready.clear();
        assert!(queue.wants_more());
        queue.loaded(read([pending(1)]));
        assert_eq!(seqs(&queue), [1], "a read that began later tells the truth");
    }

    #[test]
    fn a_held_queue_keeps_nothing_in_memory() {
        let mut queue = Queue::default();
        let each = bytes(&pending(1));
        assert_eq!(queue.offer(pending(1)), Ok(each));
        assert_eq!(queue.offer(pending(1)), Ok(0), "known already: counted once");
        assert_eq!(queue.hold(), each);
        assert!(queue.claimed.is_empty() && queue.on_disk);
    }

    #[test]
    fn what_nobody_answers_grows_old_in_memory() {
        let (hour, mut queue) = (Duration::from_secs(3600), Queue::default());
        for (seq, accepted, held) in [(1, 0, 0), (2, 1, 0), (3, 0, 1)] {
            let (accepted, held) = (Millis(accepted), Duration::from_millis(held));
            queue.offer(Pending { accepted, held, ..pending(seq) }).unwrap();
        }
        let now = Millis(1) + hour;
        assert!(queue.expired(hour, now).0.is_empty(), "an attempt may yet succeed");
        while !queue.breaker.is_open() {
            queue.breaker.failed(now);
        }
        let (expired, freed) = queue.expired(hour, now);
        assert_eq!(expired.iter().map(|p| p.seq).collect::<Vec<_>>(), [1]);
        assert_eq!((freed, seqs(&queue)), (bytes(&pending(1)), vec![2, 3]));
        assert!(queue.claimed.contains(&1), "until its end is on disk");
    }

    #[test]
    fn what_was_cancelled_leaves_memory_and_comes_with_no_read() {
        let mut queue = Queue::default();
        queue.offer(pending(1)).unwrap();
        queue.offer(pending(2)).unwrap();
        assert_eq!(queue.changed(1), Ok(bytes(&pending(1))));
        assert_eq!(queue.ready.iter().map(|p| p.seq).collect::<Vec<_>>(), [2]);
        assert!(queue.wants_more());
        assert_eq!(queue.changed(3), Ok(0));
        queue.loaded(read([pending(3)]));
        assert_eq!(queue.ready.len(), 1, "the read may be older than the cancelling");
        assert!(queue.on_disk, "and a replay is found by another");
        queue.ready.clear();
        assert_eq!(queue.changed(2), Err(UnderWay));
    }
}
