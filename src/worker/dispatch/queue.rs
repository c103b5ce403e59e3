//! The queue of one hook: its deliveries in memory, the claimed ones, and whether there are more on disk.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use super::hold::{GoneMark, Hold};
use crate::core::breaker::{Breaker, BreakerPermit};
use crate::core::bucket::{Rate, TokenBucket};
use crate::core::time::Millis;
use crate::worker::store::{DeliverySeq, DueDeliveries, HookId, PendingDelivery, ReadLimit};

/// Deliveries of one hook that are read from disk at a time, and their bytes.
const CHUNK_ROWS: usize = 64;
const CHUNK_BYTES: usize = 4 << 20;
/// Accepted deliveries of one hook that may stay in memory. Large enough for a burst, because reading deliveries again
/// costs more than keeping them. `MAX_READY_BYTES` bounds all hooks together.
const MAX_READY: usize = 16_384;

/// How often the ready deliveries are checked for expiry while the breaker is open.
const EXPIRY_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The limit of one read from disk.
pub const CHUNK: ReadLimit = ReadLimit { rows: CHUNK_ROWS, bytes: CHUNK_BYTES };

/// The approximate memory of a delivery besides its data, in bytes.
const OVERHEAD: usize = 512;

/// Returns the approximate memory of a delivery in bytes.
pub fn memory_size(pending: &PendingDelivery) -> usize {
    pending.event.data.get().len() + OVERHEAD
}

/// The queue has no capacity in memory, or older deliveries are on disk.
#[derive(Debug, PartialEq, Eq)]
pub struct QueueFull;

/// An attempt of the delivery is in flight, or its outcome is not committed yet.
#[derive(Debug, PartialEq, Eq)]
pub struct AttemptInFlight;

/// One hook's queue.
#[derive(Default)]
pub struct HookQueue {
    /// Deliveries in memory that are ready to be sent.
    pub ready: VecDeque<PendingDelivery>,
    /// Deliveries that are in memory, in flight, or whose outcome is not committed: a read from disk must skip them.
    pub claimed: HashSet<DeliverySeq>,
    pub in_flight: usize,
    /// An attempt ended in the current batch of commands; the hook is dispatched after it.
    pub is_marked: bool,
    /// There may be due deliveries on disk that are not in memory.
    pub has_more_on_disk: bool,
    pub is_loading: bool,
    /// The hook is queued for an in-flight slot.
    pub is_waiting_for_slot: bool,
    /// A delivery became due during a read that may not have included it.
    notified_while_loading: bool,
    /// Deliveries whose outcome was committed during a read. The read may still show them as pending; without this set
    /// they would be sent again.
    settled_while_loading: HashSet<DeliverySeq>,
    pub breaker: Breaker,
    /// When the last check for expiry found nothing.
    expiry_checked_at: Millis,
    /// Present while the hook has a rate limit.
    bucket: Option<TokenBucket>,
    /// When the dispatcher first found the hook deleted.
    pub deleted_since: Option<Millis>,
    /// The hook's identity in the store.
    pub hook: Option<HookId>,
    /// An object that the hook needs to send, such as a Secret, is missing.
    pub missing: Option<Hold>,
    /// When to check again for the missing object.
    pub recheck_at: Option<Millis>,
    /// The receiver answered 410 under this generation and token.
    pub gone: Option<GoneMark>,
    /// The egress policy denied the last request.
    pub egress_denied: Option<String>,
    /// The generation whose filter failed on an event, and the error.
    pub undecided: Option<(Option<i64>, String)>,
    pub last_error: Option<String>,
    /// The receiver accepted or refused at least one delivery.
    pub has_delivered: bool,
    /// The health and reason that were last reported.
    pub reported: Option<(bool, &'static str)>,
}

impl HookQueue {
    /// Adds an accepted delivery, unless there is no capacity or older ones are on disk. Returns the bytes that it uses: 0
    /// if a read from disk already added it.
    pub fn try_push(&mut self, pending: PendingDelivery) -> Result<usize, QueueFull> {
        if self.has_more_on_disk || self.ready.len() >= MAX_READY {
            return Err(QueueFull);
        }
        if !self.claimed.insert(pending.seq) {
            return Ok(0);
        }
        let bytes = memory_size(&pending);
        self.ready.push_back(pending);
        Ok(bytes)
    }

    /// Records that a due delivery is on disk and not in memory.
    pub fn mark_more_on_disk(&mut self) {
        self.has_more_on_disk = true;
        self.notified_while_loading |= self.is_loading;
    }

    /// True if the commit of outcomes is far behind. Further reads would then fill the memory with unsettled
    /// deliveries.
    pub fn has_too_many_unsettled(&self) -> bool {
        self.claimed.len() >= self.ready.len() + self.in_flight + MAX_READY
    }

    /// Returns whether to read from disk now, and if so marks the queue as loading. The read may skip claimed deliveries.
    pub fn try_start_loading(&mut self) -> bool {
        if !self.has_more_on_disk
            || self.is_loading
            || self.ready.len() > CHUNK_ROWS / 2
            || self.has_too_many_unsettled()
        {
            return false;
        }
        self.is_loading = true;
        self.notified_while_loading = false;
        self.settled_while_loading.clear();
        true
    }

    /// Adds the deliveries that were read from disk. Returns the bytes that they use.
    pub fn finish_loading(&mut self, found: DueDeliveries) -> usize {
        self.is_loading = false;
        self.has_more_on_disk = self.notified_while_loading || found.has_more;
        let mut bytes = 0;
        let settled = std::mem::take(&mut self.settled_while_loading);
        for pending in found.pending {
            if !settled.contains(&pending.seq) && self.claimed.insert(pending.seq) {
                bytes += memory_size(&pending);
                self.ready.push_back(pending);
            }
        }
        bytes
    }

    /// Releases the claim on a delivery whose outcome is committed. A retry is read from disk when it is due.
    pub fn mark_settled(&mut self, seq: DeliverySeq) {
        self.claimed.remove(&seq);
        if self.is_loading {
            self.settled_while_loading.insert(seq);
        }
    }

    /// Discards a delivery that was replayed or cancelled: its copy in memory, or in a read in progress, is outdated.
    /// Returns the bytes that were freed.
    pub fn discard(&mut self, seq: DeliverySeq) -> Result<usize, AttemptInFlight> {
        self.mark_more_on_disk();
        if self.is_loading {
            self.settled_while_loading.insert(seq);
        }
        if let Some(at) = self.ready.iter().position(|pending| pending.seq == seq) {
            self.claimed.remove(&seq);
            return Ok(self.ready.remove(at).map_or(0, |pending| memory_size(&pending)));
        }
        if self.claimed.contains(&seq) { Err(AttemptInFlight) } else { Ok(0) }
    }

    /// Drops the ready deliveries of a held hook from memory; they stay on disk. Returns the bytes that were freed.
    pub fn unload(&mut self) -> usize {
        let mut freed = 0;
        for pending in self.ready.drain(..) {
            freed += memory_size(&pending);
            self.claimed.remove(&pending.seq);
            self.has_more_on_disk = true;
        }
        freed
    }

    /// Requests a permit for one attempt from the rate limit and the breaker. An error holds the earliest time of the
    /// next attempt, or None if that depends on the probe in flight.
    pub fn permit_attempt(&mut self, rate: Option<Rate>, now: Millis) -> Result<(), Option<Millis>> {
        if rate != self.bucket.as_ref().map(TokenBucket::rate) {
            self.bucket = rate.map(|rate| TokenBucket::new(rate, now));
        }
        // The breaker comes last. If the bucket refused after the breaker had granted a probe, the breaker would wait
        // for that probe's result forever.
        if let Some(bucket) = &mut self.bucket {
            bucket.try_take(now).map_err(Some)?;
        }
        match self.breaker.request_permit(now) {
            BreakerPermit::Granted => Ok(()),
            BreakerPermit::NotBefore(until) => Err(Some(until)),
            BreakerPermit::Probing => Err(None),
        }
    }

    /// Removes expired deliveries from memory while the breaker is open, and returns them with the bytes freed. Without
    /// this, each would expire only as the breaker's probe. They stay claimed until their outcome is committed.
    pub fn take_expired(&mut self, max_age: Duration, now: Millis) -> (Vec<PendingDelivery>, usize) {
        // At intervals only, because each check goes through all ready deliveries.
        if !self.breaker.is_open() || now.since(self.expiry_checked_at) < EXPIRY_CHECK_INTERVAL {
            return (Vec::new(), 0);
        }
        let is_expired = |pending: &PendingDelivery| now > pending.accepted + pending.held + max_age;
        let (expired, remaining): (Vec<PendingDelivery>, Vec<PendingDelivery>) =
            self.ready.drain(..).partition(is_expired);
        self.ready = remaining.into();
        // If this check found some, the next one must not wait: more may be on disk.
        if expired.is_empty() {
            self.expiry_checked_at = now;
        }
        let freed = expired.iter().map(memory_size).sum();
        (expired, freed)
    }

    /// True if the queue has no work and no state to keep.
    pub fn is_idle(&self) -> bool {
        self.ready.is_empty()
            && self.claimed.is_empty()
            && !self.has_more_on_disk
            && !self.is_loading
            && !self.is_waiting_for_slot
            && self.breaker.is_idle()
            && self.bucket.is_none()
            && self.in_flight == 0
            && !self.is_marked
            && self.reported.is_none_or(|(healthy, _)| healthy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::event::{Event, Origin};
    use crate::worker::store::HookId;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    fn pending(seq: DeliverySeq) -> PendingDelivery {
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
        PendingDelivery {
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

    fn read(pending: impl IntoIterator<Item = PendingDelivery>) -> DueDeliveries {
        DueDeliveries { pending: pending.into_iter().collect(), has_more: false }
    }

    fn seqs(queue: &HookQueue) -> Vec<DeliverySeq> {
        queue.ready.iter().map(|p| p.seq).collect()
    }

    #[test]
    fn overflow_stays_on_disk_and_is_read_once() {
        let mut queue = HookQueue::default();
        let (capacity, all) = (MAX_READY as DeliverySeq, MAX_READY as DeliverySeq + 36);
        for seq in 0..all {
            if queue.try_push(pending(seq)).is_err() {
                queue.mark_more_on_disk();
            }
        }
        assert_eq!(queue.ready.len(), MAX_READY);
        assert!(!queue.try_start_loading(), "not while there is enough in memory");
        queue.ready.drain(..MAX_READY - 24);
        assert!(queue.try_start_loading());
        assert!(!queue.try_start_loading(), "one read at a time");
        queue.finish_loading(read((0..all).map(pending)));
        assert_eq!(seqs(&queue), (capacity - 24..all).collect::<Vec<_>>(), "claimed ones are skipped");
        assert!(!queue.has_more_on_disk);
    }

    #[test]
    fn stops_reading_while_commits_are_behind() {
        let mut queue = HookQueue::default();
        for seq in 0..MAX_READY as DeliverySeq {
            queue.try_push(pending(seq)).unwrap();
        }
        // All were sent, and no outcome is committed yet.
        queue.ready.clear();
        queue.mark_more_on_disk();
        assert!(queue.has_too_many_unsettled() && !queue.try_start_loading());
        queue.mark_settled(1);
        assert!(!queue.has_too_many_unsettled() && queue.try_start_loading());
    }

    #[test]
    fn a_notification_during_a_read_triggers_another_read() {
        let mut queue = HookQueue::default();
        queue.mark_more_on_disk();
        assert!(queue.try_start_loading());
        assert_eq!(queue.try_push(pending(7)), Err(QueueFull), "older ones may be on disk");
        queue.mark_more_on_disk();
        queue.finish_loading(DueDeliveries::default());
        assert!(queue.try_start_loading());
    }

    #[test]
    fn a_delivery_settled_during_a_read_is_not_sent_again() {
        let mut queue = HookQueue::default();
        queue.try_push(pending(1)).unwrap();
        queue.ready.clear();
        queue.mark_more_on_disk();
        assert!(queue.try_start_loading());
        queue.mark_settled(1);
        queue.finish_loading(read([pending(1), pending(2)]));
        assert_eq!(seqs(&queue), [2]);
        queue.mark_more_on_disk();
        queue.ready.clear();
        assert!(queue.try_start_loading());
        queue.finish_loading(read([pending(1)]));
        assert_eq!(seqs(&queue), [1], "a read that began later is current");
    }

    #[test]
    fn a_held_queue_keeps_nothing_in_memory() {
        let mut queue = HookQueue::default();
        let size = memory_size(&pending(1));
        assert_eq!(queue.try_push(pending(1)), Ok(size));
        assert_eq!(queue.try_push(pending(1)), Ok(0), "already in memory: counted once");
        assert_eq!(queue.unload(), size);
        assert!(queue.claimed.is_empty() && queue.has_more_on_disk);
    }

    #[test]
    fn takes_expired_deliveries_while_the_breaker_is_open() {
        let (hour, mut queue) = (Duration::from_secs(3600), HookQueue::default());
        for (seq, accepted, held) in [(1, 0, 0), (2, 1, 0), (3, 0, 1)] {
            let (accepted, held) = (Millis(accepted), Duration::from_millis(held));
            queue.try_push(PendingDelivery { accepted, held, ..pending(seq) }).unwrap();
        }
        let now = Millis(1) + hour;
        assert!(queue.take_expired(hour, now).0.is_empty(), "an attempt may yet succeed");
        while !queue.breaker.is_open() {
            queue.breaker.record_failure(now);
        }
        let (expired, freed) = queue.take_expired(hour, now);
        assert_eq!(expired.iter().map(|p| p.seq).collect::<Vec<_>>(), [1]);
        assert_eq!((freed, seqs(&queue)), (memory_size(&pending(1)), vec![2, 3]));
        assert!(queue.claimed.contains(&1), "until its end is on disk");
    }

    #[test]
    fn discards_a_changed_delivery_from_memory_and_from_a_read() {
        let mut queue = HookQueue::default();
        queue.try_push(pending(1)).unwrap();
        queue.try_push(pending(2)).unwrap();
        assert_eq!(queue.discard(1), Ok(memory_size(&pending(1))));
        assert_eq!(queue.ready.iter().map(|p| p.seq).collect::<Vec<_>>(), [2]);
        assert!(queue.try_start_loading());
        assert_eq!(queue.discard(3), Ok(0));
        queue.finish_loading(read([pending(3)]));
        assert_eq!(queue.ready.len(), 1, "the read may be older than the change");
        assert!(queue.has_more_on_disk, "and another read finds a replay");
        queue.ready.clear();
        assert_eq!(queue.discard(2), Err(AttemptInFlight));
    }
}
