//! The queue of one hook: its deliveries in memory, the claimed ones, and whether there are more on disk.

use std::collections::VecDeque;
use std::time::Duration;

use super::command::{AttemptTicket, FailureKind};
use super::effect::ExpiredDelivery;
use super::hold::{GoneMark, Hold};
use super::ready_ranking::ReadyRank;
use super::time::Now;
use crate::core::bucket::TokenBucket;
use crate::core::fair_pool::{Grant, Pace};
use crate::core::fast_map::FastSet;
use crate::core::receiver_breaker::{ProbeTarget, ReceiverBreaker};
use crate::core::time::Millis;
use crate::worker::store::{DeliverySeq, DueDeliveries, HookId, PendingDelivery, ReadLimit};

/// Deliveries of one hook that are read from disk at a time, and their bytes.
pub const CHUNK_ROWS: usize = 64;
const CHUNK_BYTES: usize = 4 << 20;
/// Accepted deliveries of one hook that may stay in memory. Large enough for a burst, because reading deliveries again
/// costs more than keeping them. The memory budget bounds all hooks together.
const MAX_READY: usize = 16_384;

/// How often the ready deliveries are checked for expiry while the breaker is open.
const EXPIRY_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How long a failed evaluation of the filter is reported. Longer than the delay after which the delivery is evaluated
/// again, so it ends only when the delivery has ended.
const UNDECIDED_EXPIRY: Duration = Duration::from_secs(300);

/// Attempts that take longer than this are slow: their hook does not use the reserve of in-flight slots.
const SLOW_ATTEMPT: Duration = Duration::from_secs(1);
/// A longer attempt counts as this long, so that a hook is fast again soon after its receiver recovers.
const MAX_COUNTED_ATTEMPT: Duration = Duration::from_secs(10);
/// The weight of the last attempt in the mean duration is one in this many.
const DURATION_WEIGHT: i64 = 8;

/// The limit of one read from disk.
pub const CHUNK: ReadLimit = ReadLimit { rows: CHUNK_ROWS, bytes: CHUNK_BYTES, is_strict: false };

/// The least bytes of event data that one read from disk may return.
const MIN_READ_BYTES: usize = 64 * 1024;

/// The approximate memory of a delivery besides its data, in bytes.
pub const OVERHEAD: usize = 512;

/// Returns the approximate memory of a delivery in bytes.
pub fn memory_size(pending: &PendingDelivery) -> usize {
    data_len(pending) + OVERHEAD
}

/// Returns the length of the delivery's event data.
pub fn data_len(pending: &PendingDelivery) -> usize {
    pending.event.data.get().len()
}

/// An attempt of the delivery is in flight, or its outcome is not committed yet.
#[derive(Debug, PartialEq, Eq)]
pub struct AttemptInFlight;

/// What a read from disk has reserved.
#[derive(Clone, Copy, Debug)]
pub struct LoadReservation {
    /// Identifies the read.
    pub serial: u64,
    /// Bytes of the memory budget for what the read returns.
    pub bytes: usize,
    /// The capacity of the attempt that follows, if little memory is left: then the read returns one delivery for it.
    pub grant: Option<Grant>,
}

/// An evaluation of the hook's filter that failed.
#[derive(Debug)]
pub struct UndecidedFilter {
    /// The generation of the hook.
    pub generation: Option<i64>,
    pub why: String,
    /// When it failed, on the steady clock.
    pub at: Millis,
}

/// One hook's queue.
#[derive(Default)]
pub struct HookQueue {
    /// Deliveries in memory that are ready to be sent.
    pub ready: VecDeque<PendingDelivery>,
    /// The memory size of `ready`. Counts an event once for each delivery.
    pub ready_bytes: usize,
    /// The rank under which the dispatcher knows the ready deliveries.
    pub rank: ReadyRank,
    /// Deliveries that are in memory, in flight, or whose outcome is not committed: a read from disk must skip them.
    pub claimed: FastSet<DeliverySeq>,
    /// Claimed deliveries that wait after an attempt without an outcome, and until when. In the order of time.
    postponed: VecDeque<(Millis, DeliverySeq)>,
    pub in_flight: usize,
    /// Identifies this queue to its attempts, because a dropped queue and a new one may have the same hook. 0: no attempt
    /// started yet.
    pub serial: u64,
    /// The sum of the start times of the attempts in flight.
    started_sum: i64,
    /// The mean duration of attempts, in milliseconds.
    mean_duration: Option<i64>,
    /// The hook is dispatched after the current batch of commands.
    pub is_marked: bool,
    /// The senders of its namespace wait (see `crowding`).
    pub is_crowded: bool,
    /// There may be due deliveries on disk that are not in memory.
    pub has_more_on_disk: bool,
    pub loading: Option<LoadReservation>,
    /// The hook is queued for memory for a read.
    pub is_waiting_for_load: bool,
    /// A delivery became due during a read that may not have included it.
    notified_while_loading: bool,
    /// Deliveries whose outcome was committed during a read. The read may still show them as pending; without this set
    /// they would be sent again.
    settled_while_loading: FastSet<DeliverySeq>,
    /// The mean length of event data.
    mean_len: usize,
    /// The length of the event of the next delivery on disk, if it is known: it did not fit into the last read, or went
    /// back to disk.
    next_len: Option<usize>,
    pub breaker: ReceiverBreaker,
    /// The breaker has opened since the last read: the next one fetches untried deliveries for the probes.
    pub needs_untried: bool,
    /// The generation of the hook whose attempts the breaker counts.
    pub breaker_generation: Option<i64>,
    /// Failed attempts since the last success.
    pub failures: u32,
    /// What the last failure was.
    pub fault: FailureKind,
    /// When the last check for expiry found nothing.
    expiry_checked_at: Millis,
    /// Present while the hook has a rate limit.
    pub bucket: Option<TokenBucket>,
    /// A bucket that is created has no tokens as of this time, because the former owner of the hook may have used them. Also one
    /// of a changed rate: its burst would come on top of them.
    pub empty_since: Option<Millis>,
    /// The epoch under which this process owns the breaker and the bucket. None: another process may own them.
    pub pacing_epoch: Option<i64>,
    /// The bucket was created and not recorded since.
    pub is_bucket_new: bool,
    /// The store has a record of the breaker or the bucket.
    pub has_recorded_pacing: bool,
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
    /// The last evaluation of the filter that failed.
    pub undecided: Option<UndecidedFilter>,
    pub last_error: Option<String>,
    /// When the receiver last accepted a delivery.
    pub last_success: Option<Millis>,
    /// The receiver accepted or refused at least one delivery.
    pub has_answered: bool,
    /// The health and reason that were last reported.
    pub reported: Option<(bool, &'static str)>,
}

impl HookQueue {
    /// Returns true if an accepted delivery may be added: older ones must not be on disk.
    pub fn accepts(&self) -> bool {
        !self.has_more_on_disk && self.ready.len() < MAX_READY
    }

    /// Claims a delivery. False: it is claimed already.
    pub fn claim(&mut self, seq: DeliverySeq) -> bool {
        self.claimed.insert(seq)
    }

    /// Adds a claimed delivery.
    pub fn push(&mut self, pending: PendingDelivery) {
        let len = data_len(&pending);
        self.mean_len = (self.mean_len * 7 + len) / 8;
        self.ready_bytes += memory_size(&pending);
        self.ready.push_back(pending);
    }

    /// Removes the ready delivery at this position.
    pub fn take(&mut self, position: usize) -> Option<PendingDelivery> {
        let pending = self.ready.remove(position)?;
        self.ready_bytes = self.ready_bytes.saturating_sub(memory_size(&pending));
        Some(pending)
    }

    /// Returns the position of the ready delivery that is sent next. A probe for untried deliveries takes the newest one
    /// that was never attempted.
    pub fn next_position(&self, probe: Option<ProbeTarget>) -> usize {
        if probe != Some(ProbeTarget::NewestUntried) {
            return 0;
        }
        let untried = self.ready.iter().enumerate().filter(|(_, pending)| pending.attempts == 0);
        untried.max_by_key(|(_, pending)| pending.seq).map_or(0, |(position, _)| position)
    }

    /// Returns the bytes of data of the next attempt's delivery. While the breaker is open: of the larger one of the two
    /// that it may choose. None: nothing is ready.
    pub fn next_data_len(&self) -> Option<usize> {
        let first = data_len(self.ready.front()?);
        if !self.breaker.is_open() {
            return Some(first);
        }
        let probe = self.ready.get(self.next_position(Some(ProbeTarget::NewestUntried)));
        Some(first.max(probe.map_or(0, data_len)))
    }

    /// Returns the last ready delivery to the disk.
    pub fn unload_last(&mut self) -> Option<PendingDelivery> {
        let pending = self.take(self.ready.len().checked_sub(1)?)?;
        self.claimed.remove(&pending.seq);
        self.next_len = Some(data_len(&pending));
        self.mark_more_on_disk();
        Some(pending)
    }

    /// Records that a due delivery is on disk and not in memory.
    pub fn mark_more_on_disk(&mut self) {
        self.has_more_on_disk = true;
        self.notified_while_loading |= self.loading.is_some();
    }

    /// True if the commit of outcomes is far behind. Further reads would then fill the memory with unsettled
    /// deliveries.
    pub fn has_too_many_unsettled(&self) -> bool {
        self.claimed.len() >= self.ready.len() + self.in_flight + MAX_READY
    }

    /// Returns whether to read from disk now. A read for the breaker's probes does not wait until the queue runs low.
    pub fn should_load(&self) -> bool {
        self.has_more_on_disk
            && self.loading.is_none()
            && (self.ready.len() <= CHUNK_ROWS / 2 || self.needs_untried)
            && !self.has_too_many_unsettled()
    }

    /// Marks the queue as loading. The read may skip claimed deliveries.
    pub fn start_loading(&mut self, reservation: LoadReservation) {
        self.loading = Some(reservation);
        self.needs_untried = false;
        self.notified_while_loading = false;
        self.settled_while_loading.clear();
    }

    /// Ends a read. Returns what it reserved, and those of the deliveries that it found that are still to be sent. The
    /// caller claims and adds them. None: another queue of the hook, which was dropped, started the read.
    pub fn finish_loading(
        &mut self,
        serial: u64,
        found: DueDeliveries,
    ) -> Option<(LoadReservation, Vec<PendingDelivery>)> {
        let reservation = self.loading.take_if(|reservation| reservation.serial == serial)?;
        self.has_more_on_disk = self.notified_while_loading || found.has_more;
        self.next_len = found.too_large;
        let settled = std::mem::take(&mut self.settled_while_loading);
        let mut pending = found.pending;
        pending.retain(|pending| !settled.contains(&pending.seq) && !self.claimed.contains(&pending.seq));
        Some((reservation, pending))
    }

    /// Returns the bytes of event data that the next read may return: about what a chunk needs, up to `longest`. More only
    /// if the next delivery needs more.
    pub fn read_bytes(&self, longest: usize) -> usize {
        let expected = (self.mean_len * 2 * CHUNK_ROWS).clamp(MIN_READ_BYTES, CHUNK_BYTES);
        expected.min(longest).max(self.next_len.unwrap_or(0))
    }

    /// Returns the bytes of event data that a read of one delivery needs.
    pub fn read_one_bytes(&self) -> usize {
        self.next_len.unwrap_or(MIN_READ_BYTES)
    }

    /// Keeps a claimed delivery from being sent before this time.
    pub fn postpone(&mut self, seq: DeliverySeq, until: Millis) {
        if self.claimed.contains(&seq) {
            // Pauses have different lengths: behind a longer one, a shorter one would end with it.
            let at = self.postponed.partition_point(|(other, _)| *other <= until);
            self.postponed.insert(at, (until, seq));
        }
    }

    /// Releases the postponed deliveries whose time has come: they are read from disk again. Returns when to call this
    /// again.
    pub fn release_postponed(&mut self, now: Millis) -> Option<Millis> {
        while let Some((until, seq)) = self.postponed.front().copied() {
            if until > now {
                return Some(until);
            }
            self.postponed.pop_front();
            self.claimed.remove(&seq);
            self.mark_more_on_disk();
        }
        None
    }

    /// Releases all postponed deliveries: another worker reads them.
    pub fn release_all_postponed(&mut self) {
        for (_, seq) in self.postponed.drain(..) {
            self.claimed.remove(&seq);
        }
    }

    /// Releases the claim on a delivery. A later end of its postponement must not release the claim of another attempt.
    pub fn release_claim(&mut self, seq: DeliverySeq) {
        self.claimed.remove(&seq);
        if !self.postponed.is_empty() {
            self.postponed.retain(|(_, postponed)| *postponed != seq);
        }
    }

    /// Releases the claim on a delivery whose outcome is committed. A retry is read from disk when it is due.
    pub fn mark_settled(&mut self, seq: DeliverySeq) {
        self.release_claim(seq);
        if self.loading.is_some() {
            self.settled_while_loading.insert(seq);
        }
    }

    /// Discards a delivery that was replayed or cancelled: its copy in memory, or in a read in progress, is outdated.
    /// Returns it if it was ready.
    pub fn discard(&mut self, seq: DeliverySeq) -> Result<Option<PendingDelivery>, AttemptInFlight> {
        self.mark_more_on_disk();
        if self.loading.is_some() {
            self.settled_while_loading.insert(seq);
        }
        if let Some(at) = self.ready.iter().position(|pending| pending.seq == seq) {
            self.claimed.remove(&seq);
            return Ok(self.take(at));
        }
        if self.postponed.iter().any(|(_, postponed)| *postponed == seq) {
            self.release_claim(seq);
        }
        if self.claimed.contains(&seq) { Err(AttemptInFlight) } else { Ok(None) }
    }

    /// Records the start of an attempt. `serial` becomes the queue's if it has none.
    pub fn start_attempt(&mut self, serial: u64, now: Millis) {
        if self.serial == 0 {
            self.serial = serial;
        }
        self.in_flight += 1;
        self.started_sum = self.started_sum.saturating_add(now.0);
    }

    /// Records the end of an attempt. Returns how long it took.
    pub fn end_attempt(&mut self, ticket: &AttemptTicket, now: Millis) -> Duration {
        let duration = now.since(ticket.started);
        if ticket.queue != self.serial {
            return duration;
        }
        self.in_flight = self.in_flight.saturating_sub(1);
        self.started_sum = if self.in_flight == 0 { 0 } else { self.started_sum - ticket.started.0 };
        let millis = i64::try_from(duration.min(MAX_COUNTED_ATTEMPT).as_millis()).unwrap_or(i64::MAX);
        let mean = self.mean_duration.unwrap_or(millis);
        self.mean_duration = Some(mean + (millis - mean) / DURATION_WEIGHT);
        duration
    }

    /// Returns the mean duration of the hook's attempts in milliseconds.
    pub fn mean_duration(&self) -> Option<i64> {
        self.mean_duration
    }

    /// Returns how long the hook's attempts take: by those that ended, and by the mean age of those in flight.
    pub fn pace(&self, now: Millis) -> Pace {
        let slow = i64::try_from(SLOW_ATTEMPT.as_millis()).unwrap_or(i64::MAX);
        let in_flight = i64::try_from(self.in_flight).unwrap_or(i64::MAX);
        let age = now.0.saturating_mul(in_flight).saturating_sub(self.started_sum);
        match self.mean_duration {
            _ if age > slow.saturating_mul(in_flight) => Pace::Slow,
            Some(mean) if mean > slow => Pace::Slow,
            Some(_) => Pace::Fast,
            None => Pace::Unproven,
        }
    }

    /// Forgets a failed evaluation of the filter that was not repeated: its delivery has ended, for example by its age.
    /// Returns when to call this again.
    pub fn expire_undecided(&mut self, now: Millis) -> Option<Millis> {
        let until = self.undecided.as_ref()?.at + UNDECIDED_EXPIRY;
        if until > now {
            return Some(until);
        }
        self.undecided = None;
        None
    }

    /// Removes expired deliveries from memory while the breaker is open. Without this, each would expire only as the
    /// breaker's probe. They stay claimed until their outcome is committed. Calls `freed` with each.
    pub fn take_expired(
        &mut self,
        max_age: Duration,
        now: Now,
        mut freed: impl FnMut(&PendingDelivery),
    ) -> Vec<ExpiredDelivery> {
        // At intervals only, because each check goes through all ready deliveries.
        if !self.breaker.is_open() || now.steady.since(self.expiry_checked_at) < EXPIRY_CHECK_INTERVAL {
            return Vec::new();
        }
        let mut expired = Vec::new();
        self.ready.retain(|pending| {
            let is_expired = now.age > pending.accepted + pending.held + max_age;
            if is_expired {
                self.ready_bytes = self.ready_bytes.saturating_sub(memory_size(pending));
                freed(pending);
                expired.push(ExpiredDelivery { seq: pending.seq, accepted: pending.accepted });
            }
            !is_expired
        });
        // If this check found some, the next one must not wait: more may be on disk.
        if expired.is_empty() {
            self.expiry_checked_at = now.steady;
        }
        expired
    }

    /// True if there is nothing to send, to read or to wait for.
    pub fn is_quiet(&self) -> bool {
        self.ready.is_empty()
            && !self.has_more_on_disk
            && !self.is_crowded
            && self.rank == ReadyRank::default()
            && self.bucket.is_none()
            && !self.breaker.is_open()
    }

    /// True if the queue has no work and no state to keep.
    pub fn is_idle(&self) -> bool {
        self.ready.is_empty()
            && self.claimed.is_empty()
            && !self.has_more_on_disk
            && self.loading.is_none()
            && !self.is_waiting_for_load
            && self.breaker.is_idle()
            && self.failures == 0
            && self.bucket.is_none()
            && self.in_flight == 0
            && !self.is_marked
            && !self.is_crowded
            && self.reported.is_none_or(|(healthy, _)| healthy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::event::{Event, Origin};
    use crate::core::receiver_breaker::ReceiverEvidence;
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
            data: serde_json::value::to_raw_value("four").unwrap().into(),
            attributes: BTreeMap::new(),
        };
        let hook = HookId { uid: "u".into(), namespace: "n".into(), name: "h".into() };
        let at = Millis(0);
        PendingDelivery {
            epoch: None,
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
        DueDeliveries { pending: pending.into_iter().collect(), ..DueDeliveries::default() }
    }

    /// Adds an accepted delivery, as the machine does.
    fn add(queue: &mut HookQueue, pending: PendingDelivery) -> bool {
        let accepts = queue.accepts();
        if accepts && queue.claim(pending.seq) {
            queue.push(pending);
        }
        accepts
    }

    /// Starts a read if the queue should, as the machine does.
    fn start(queue: &mut HookQueue) -> bool {
        let should = queue.should_load();
        if should {
            queue.start_loading(LoadReservation { serial: 1, bytes: 0, grant: None });
        }
        should
    }

    fn finish(queue: &mut HookQueue, found: DueDeliveries) {
        let (_, pending) = queue.finish_loading(1, found).unwrap();
        for pending in pending {
            if queue.claim(pending.seq) {
                queue.push(pending);
            }
        }
    }

    fn seqs(queue: &HookQueue) -> Vec<DeliverySeq> {
        queue.ready.iter().map(|p| p.seq).collect()
    }

    #[test]
    fn overflow_stays_on_disk_and_is_read_once() {
        let mut queue = HookQueue::default();
        let (capacity, all) = (MAX_READY as DeliverySeq, MAX_READY as DeliverySeq + 36);
        for seq in 0..all {
            if !add(&mut queue, pending(seq)) {
                queue.mark_more_on_disk();
            }
        }
        assert_eq!(queue.ready.len(), MAX_READY);
        assert!(!start(&mut queue), "not while there is enough in memory");
        queue.ready.drain(..MAX_READY - 24);
        assert!(start(&mut queue));
        assert!(!start(&mut queue), "one read at a time");
        finish(&mut queue, read((0..all).map(pending)));
        assert_eq!(seqs(&queue), (capacity - 24..all).collect::<Vec<_>>(), "claimed ones are skipped");
        assert!(!queue.has_more_on_disk);
    }

    #[test]
    fn stops_reading_while_commits_are_behind() {
        let mut queue = HookQueue::default();
        for seq in 0..MAX_READY as DeliverySeq {
            add(&mut queue, pending(seq));
        }
        // All were sent, and no outcome is committed yet.
        queue.ready.clear();
        queue.mark_more_on_disk();
        assert!(queue.has_too_many_unsettled() && !start(&mut queue));
        queue.mark_settled(1);
        assert!(!queue.has_too_many_unsettled() && start(&mut queue));
    }

    #[test]
    fn a_notification_during_a_read_triggers_another_read() {
        let mut queue = HookQueue::default();
        queue.mark_more_on_disk();
        assert!(start(&mut queue));
        assert!(!add(&mut queue, pending(7)), "older ones may be on disk");
        queue.mark_more_on_disk();
        finish(&mut queue, DueDeliveries::default());
        assert!(start(&mut queue));
    }

    #[test]
    fn a_delivery_settled_during_a_read_is_not_sent_again() {
        let mut queue = HookQueue::default();
        add(&mut queue, pending(1));
        queue.ready.clear();
        queue.mark_more_on_disk();
        assert!(start(&mut queue));
        queue.mark_settled(1);
        finish(&mut queue, read([pending(1), pending(2)]));
        assert_eq!(seqs(&queue), [2]);
        queue.mark_more_on_disk();
        queue.ready.clear();
        assert!(start(&mut queue));
        finish(&mut queue, read([pending(1)]));
        assert_eq!(seqs(&queue), [1], "a read that began later is current");
    }

    #[test]
    fn an_unloaded_queue_keeps_nothing_in_memory() {
        let mut queue = HookQueue::default();
        add(&mut queue, pending(1));
        add(&mut queue, pending(1));
        assert_eq!((queue.ready.len(), queue.ready_bytes), (1, memory_size(&pending(1))), "counted once");
        assert_eq!(queue.unload_last().map(|pending| pending.seq), Some(1));
        assert!(queue.claimed.is_empty() && queue.has_more_on_disk && queue.ready_bytes == 0);
        assert!(queue.unload_last().is_none());
    }

    #[test]
    fn attempts_in_flight_make_a_hook_slow_before_they_end() {
        let mut queue = HookQueue::default();
        let at = |seconds: i64| Millis(seconds * 1000);
        assert_eq!(queue.pace(at(100)), Pace::Unproven);
        let mut pool = crate::core::fair_pool::FairPool::new(100);
        let ticket = |started: Millis, pool: &mut crate::core::fair_pool::FairPool| AttemptTicket {
            seq: 1,
            queue: 5,
            grant: pool.request(&"n".into(), &"u".into(), 1, Pace::Fast).unwrap(),
            permit: ReceiverBreaker::default().request_permit(Millis(0)).unwrap(),
            data_len: 1,
            rate: None,
            started,
            accepted: Millis(0),
            held: Duration::ZERO,
        };
        for start in [100, 101] {
            queue.start_attempt(5, at(start));
        }
        assert_eq!(queue.pace(Millis(101_500)), Pace::Unproven, "a mean age of one second");
        assert_eq!(queue.pace(Millis(101_501)), Pace::Slow);
        for start in [100, 101] {
            queue.end_attempt(&ticket(at(start), &mut pool), at(700));
        }
        assert_eq!(queue.pace(at(700)), Pace::Slow);
        let mut attempts = 0;
        while queue.pace(at(800)) == Pace::Slow {
            queue.start_attempt(6, at(800));
            queue.end_attempt(&ticket(at(800), &mut pool), Millis(800_100));
            attempts += 1;
        }
        assert!((5..40).contains(&attempts), "fast again after {attempts} fast attempts");
        assert_eq!(queue.pace(at(900)), Pace::Fast);
        let other = AttemptTicket { queue: 9, ..ticket(at(800), &mut pool) };
        queue.start_attempt(7, at(900));
        queue.end_attempt(&other, at(900));
        assert_eq!(queue.in_flight, 1, "an attempt of a dropped queue");
    }

    #[test]
    fn an_untried_probe_takes_the_newest_delivery_without_an_attempt() {
        let mut queue = HookQueue::default();
        for (seq, attempts) in [(1, 3), (2, 0), (3, 0), (4, 1)] {
            add(&mut queue, PendingDelivery { attempts, ..pending(seq) });
        }
        assert_eq!(queue.next_position(None), 0);
        assert_eq!(queue.next_position(Some(ProbeTarget::Oldest)), 0);
        assert_eq!(queue.next_position(Some(ProbeTarget::NewestUntried)), 2);
        queue.ready.retain(|pending| pending.attempts > 0);
        assert_eq!(queue.next_position(Some(ProbeTarget::NewestUntried)), 0, "there is none");
    }

    #[test]
    fn takes_expired_deliveries_while_the_breaker_is_open() {
        let (hour, mut queue) = (Duration::from_secs(3600), HookQueue::default());
        for (seq, accepted, held) in [(1, 0, 0), (2, 1, 0), (3, 0, 1)] {
            let (accepted, held) = (Millis(accepted), Duration::from_millis(held));
            add(&mut queue, PendingDelivery { accepted, held, ..pending(seq) });
        }
        let at = Millis(1) + hour;
        let now = Now { wall: at, age: at, steady: at };
        assert!(queue.take_expired(hour, now, |_| {}).is_empty(), "an attempt may yet succeed");
        while !queue.breaker.is_open() {
            let permit = queue.breaker.request_permit(at).unwrap();
            queue.breaker.record(permit, ReceiverEvidence::Failing { answered: false }, at);
        }
        let mut freed = 0;
        let expired = queue.take_expired(hour, now, |pending| freed += memory_size(pending));
        assert_eq!(expired.iter().map(|p| p.seq).collect::<Vec<_>>(), [1]);
        assert_eq!((freed, seqs(&queue)), (memory_size(&pending(1)), vec![2, 3]));
        assert_eq!(queue.ready_bytes, 2 * memory_size(&pending(1)));
        assert!(queue.claimed.contains(&1), "until its end is on disk");
    }

    #[test]
    fn a_postponed_delivery_is_read_again_after_its_time() {
        let mut queue = HookQueue::default();
        for seq in 1..=3 {
            add(&mut queue, pending(seq));
            queue.take(0);
            queue.postpone(seq, Millis(10 * seq));
        }
        queue.postpone(9, Millis(99));
        assert_eq!(queue.release_postponed(Millis(9)), Some(Millis(10)));
        assert!(!queue.has_more_on_disk && queue.claimed.len() == 3, "no read finds them before");
        queue.mark_settled(2);
        queue.claim(2);
        assert_eq!(queue.release_postponed(Millis(20)), Some(Millis(30)));
        assert!(queue.has_more_on_disk && !queue.claimed.contains(&1));
        assert!(queue.claimed.contains(&2), "another attempt has claimed it since");
        assert_eq!(queue.release_postponed(Millis(30)), None, "a delivery without a claim is not postponed");
    }

    #[test]
    fn discards_a_changed_delivery_from_memory_and_from_a_read() {
        let mut queue = HookQueue::default();
        add(&mut queue, pending(1));
        add(&mut queue, pending(2));
        assert_eq!(queue.discard(1).unwrap().map(|pending| pending.seq), Some(1));
        assert_eq!(queue.ready.iter().map(|p| p.seq).collect::<Vec<_>>(), [2]);
        assert!(start(&mut queue));
        assert_eq!(queue.discard(3), Ok(None));
        finish(&mut queue, read([pending(3)]));
        assert_eq!(queue.ready.len(), 1, "the read may be older than the change");
        assert!(queue.has_more_on_disk, "and another read finds a replay");
        queue.ready.clear();
        assert_eq!(queue.discard(2), Err(AttemptInFlight));
    }
}
