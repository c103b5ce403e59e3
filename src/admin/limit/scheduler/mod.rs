//! Schedules the calls to one host. No I/O; the caller passes the time.
//!
//! Connections are served round-robin, each within its own rate and all within the host's ceiling. Within a Connection,
//! calls of started operations go first, then deletes, changes and resyncs. Queue times are bounded: a call that would
//! wait longer is denied with a requeue delay, so that its reconcile frees its slot.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::time::Duration;

use super::pause::VendorPause;
use crate::core::breaker::{Breaker, BreakerPermit};
use crate::core::bucket::{Rate, TokenBucket};
use crate::core::time::Millis;

/// Maximum concurrent calls to one host. After a failure the limit is one, so that a hanging host does not occupy many
/// reconciles.
const MAX_IN_FLIGHT: usize = 8;
/// Maximum calls of the same or a higher priority in a Connection's queue. Further calls are denied with a requeue
/// delay.
const MAX_QUEUED: usize = 4;
/// Maximum wait for the first call of an operation; a call that would wait longer is denied.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// Maximum wait for the later calls of an operation. Denying them would repeat the calls already made.
const MAX_WAIT_STARTED: Duration = Duration::from_secs(60);
/// Upper bound of a requeue delay, because the estimate may be wrong by then.
const MAX_REQUEUE_DELAY: Duration = Duration::from_secs(60);
/// Interval between requeued operations of a paused Connection that has no rate limit.
const MIN_SLOT_INTERVAL: Duration = Duration::from_millis(100);
/// Consecutive calls without a response that open the host's breaker; consecutive failures of any kind that open a
/// Connection's breaker.
const BREAKER_FAILURES: u32 = 5;
/// Every n-th slot of a Connection goes to its oldest call of any priority, so that many edits do not starve resyncs.
const OLDEST_FIRST_INTERVAL: u64 = 8;

/// The purpose of an operation; the first variant has the highest priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, strum::IntoStaticStr)]
pub enum Priority {
    Delete,
    Change,
    Resync,
}

/// Why a call may not wait in the queue. Each duration is the delay after which to retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotDenied {
    /// Earlier calls use up the rate limit.
    Busy(Duration),
    /// The vendor rejected a call of this Connection and requested a pause.
    VendorPaused(Duration),
    /// The breaker of the host or the Connection is open after consecutive failures.
    BreakerOpen(Duration),
}

/// The state of a queued call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotPoll {
    /// The call may be sent now.
    Granted,
    /// Poll again at this time, or when another call changes the queue.
    WaitUntil(Millis),
    Denied(SlotDenied),
}

/// The outcome of a call, as far as scheduling depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    Succeeded,
    /// The host responded with a server error, or only this Connection cannot use it.
    Failed,
    /// The host did not respond.
    NoResponse,
    /// Nothing is known about the host: the call was not sent, or was cancelled.
    Unknown,
}

struct QueuedCall {
    ticket: u64,
    priority: Priority,
    has_started: bool,
    deadline: Millis,
}

struct ConnectionQueue {
    bucket: Option<TokenBucket>,
    queued: Vec<QueuedCall>,
    in_flight: usize,
    /// End of the pause that the vendor requested.
    paused_until: Millis,
    /// End of the pause after a rejected call. Until then denials report the vendor's rejection.
    rejected_until: Millis,
    breaker: Breaker,
    slots_granted: u64,
    /// When the denied calls are expected to be retried, by priority.
    requeued: [VecDeque<Millis>; 3],
}

/// The queue, rates and breakers of one host.
pub struct HostScheduler {
    ceiling: TokenBucket,
    breaker: Breaker,
    in_flight: usize,
    connections: BTreeMap<String, ConnectionQueue>,
    /// The Connection that was served last.
    last_served: String,
    last_ticket: u64,
}

impl HostScheduler {
    pub fn new(ceiling: Rate, now: Millis) -> Self {
        HostScheduler {
            ceiling: TokenBucket::new(ceiling, now),
            breaker: Breaker::with_threshold(BREAKER_FAILURES),
            in_flight: 0,
            connections: BTreeMap::new(),
            last_served: String::new(),
            last_ticket: 0,
        }
    }

    /// Queues one call and returns its ticket. `has_started`: an earlier call of the same operation was sent. `name` is the
    /// Connection.
    pub fn enqueue(
        &mut self,
        name: &str,
        rate: Option<Rate>,
        priority: Priority,
        has_started: bool,
        now: Millis,
    ) -> Result<u64, SlotDenied> {
        // A busy Connection with a lower rate limit uses only that part of the host's slots.
        let slot = self.ceiling.token_interval();
        let used_share = |c: &ConnectionQueue| {
            let own = c.bucket.as_ref().map_or(slot, TokenBucket::token_interval);
            (slot.as_secs_f64() / own.as_secs_f64().max(f64::MIN_POSITIVE)).min(1.0)
        };
        let busy: f64 = self.connections.values().filter(|c| !c.queued.is_empty()).map(used_share).sum();
        let share = slot.mul_f64(busy.max(1.0));
        let host_ready = self.ceiling.ready_at(now).since(now);
        let broken = open_for(&self.breaker, now);
        let connection = self.connections.entry(name.to_owned()).or_insert_with(|| ConnectionQueue {
            bucket: None,
            queued: Vec::new(),
            in_flight: 0,
            paused_until: now,
            rejected_until: now,
            breaker: Breaker::with_threshold(BREAKER_FAILURES),
            slots_granted: 0,
            requeued: Default::default(),
        });
        if connection.bucket.as_ref().map(TokenBucket::rate) != rate {
            connection.bucket = rate.map(|rate| TokenBucket::new(rate, now));
        }
        let paused = connection.paused_until.since(now);
        // Started operations wait here: restarting them would spend the remaining quota on the same calls, forever.
        if !paused.is_zero() && (!has_started || paused > MAX_WAIT_STARTED) {
            return Err(connection.pause_denial(priority, now));
        }
        if let Some(pause) = broken.or_else(|| open_for(&connection.breaker, now)) {
            return Err(SlotDenied::BreakerOpen(pause));
        }
        let ahead = connection.queued.iter().filter(|c| c.has_started || c.priority <= priority).count();
        let interval = connection.bucket.as_ref().map_or(share, |bucket| bucket.token_interval().max(share));
        let ready =
            connection.bucket.as_ref().map_or(host_ready, |b| b.ready_at(now).since(now).max(host_ready));
        let wait = ready + interval * u32::try_from(ahead).unwrap_or(u32::MAX);
        if !has_started && (ahead >= MAX_QUEUED || wait > MAX_WAIT) {
            return Err(SlotDenied::Busy(connection.requeue_delay(priority, wait, interval, now)));
        }
        self.last_ticket += 1;
        let deadline = now + if has_started { MAX_WAIT_STARTED } else { MAX_WAIT };
        connection.queued.push(QueuedCall { ticket: self.last_ticket, priority, has_started, deadline });
        Ok(self.last_ticket)
    }

    /// Returns the state of a queued call, and removes it from the queue unless it is `WaitUntil`.
    pub fn poll(&mut self, name: &str, ticket: u64, now: Millis) -> SlotPoll {
        let state = self.evaluate(name, ticket, now);
        if !matches!(state, SlotPoll::WaitUntil(_)) {
            self.cancel(name, ticket);
        }
        if state == SlotPoll::Granted {
            // `evaluate` found a token in each bucket.
            self.ceiling.try_take(now).ok();
            self.in_flight += 1;
            name.clone_into(&mut self.last_served);
            if let Some(connection) = self.connections.get_mut(name) {
                connection.bucket.as_mut().map(|bucket| bucket.try_take(now).ok());
                connection.in_flight += 1;
                connection.slots_granted += 1;
            }
        }
        state
    }

    fn evaluate(&mut self, name: &str, ticket: u64, now: Millis) -> SlotPoll {
        let call = self.connections.get(name).and_then(|connection| {
            let call = connection.queued.iter().find(|c| c.ticket == ticket)?;
            let own_ready = connection.ready_at(now);
            Some((call.deadline, call.priority, call.has_started, connection.paused_until, own_ready))
        });
        let Some((deadline, priority, has_started, paused, own_ready)) = call else {
            return SlotPoll::Denied(SlotDenied::Busy(MAX_WAIT));
        };
        if now < paused {
            if has_started && paused <= deadline {
                return SlotPoll::WaitUntil(paused);
            }
            let denied =
                self.connections.get_mut(name).map(|connection| connection.pause_denial(priority, now));
            return SlotPoll::Denied(denied.unwrap_or(SlotDenied::Busy(MAX_WAIT)));
        }
        if let Some(pause) = self.breaker_pause(name, now) {
            return SlotPoll::Denied(SlotDenied::BreakerOpen(pause));
        }
        if now >= deadline {
            let interval = self.ceiling.token_interval();
            let after =
                self.connections.get_mut(name).map(|c| c.requeue_delay(priority, MAX_WAIT, interval, now));
            return SlotPoll::Denied(SlotDenied::Busy(after.unwrap_or(MAX_WAIT)));
        }
        let has_failed = self.breaker.failures() > 0;
        if self.in_flight >= if has_failed { 1 } else { MAX_IN_FLIGHT } {
            return SlotPoll::WaitUntil(deadline);
        }
        let ready = self.ceiling.ready_at(now).max(own_ready);
        if ready > now {
            return SlotPoll::WaitUntil(ready.min(deadline));
        }
        if self.next_ticket(now) != Some(ticket) {
            return SlotPoll::WaitUntil(deadline);
        }
        // `breaker_pause` checked both breakers on a copy; take the probe now.
        self.breaker.request_permit(now);
        self.connections.get_mut(name).map(|connection| connection.breaker.request_permit(now));
        SlotPoll::Granted
    }

    /// Returns the call to serve next: the first one of the next ready Connection after the last served one.
    fn next_ticket(&self, now: Millis) -> Option<u64> {
        let after = (Bound::Excluded(self.last_served.clone()), Bound::Unbounded);
        let round = self.connections.range(after).chain(self.connections.range(..=self.last_served.clone()));
        round.filter(|(_, c)| c.is_ready(now)).find_map(|(_, c)| c.next_ticket())
    }

    /// Returns how long the breaker of the host or of the Connection stays open.
    fn breaker_pause(&self, name: &str, now: Millis) -> Option<Duration> {
        let own = self.connections.get(name).and_then(|c| open_for(&c.breaker, now));
        open_for(&self.breaker, now).or(own)
    }

    /// Removes a call from the queue.
    pub fn cancel(&mut self, name: &str, ticket: u64) {
        if let Some(connection) = self.connections.get_mut(name) {
            connection.queued.retain(|c| c.ticket != ticket);
        }
    }

    /// Records the outcome of a granted call, and the pause that the vendor requested.
    pub fn complete(&mut self, name: &str, outcome: CallOutcome, pause: Option<VendorPause>, now: Millis) {
        self.in_flight = self.in_flight.saturating_sub(1);
        match outcome {
            CallOutcome::Succeeded | CallOutcome::Failed => self.breaker.record_success(),
            CallOutcome::NoResponse => self.breaker.record_failure(now),
            CallOutcome::Unknown => self.breaker.record_inconclusive(now),
        }
        let Some(connection) = self.connections.get_mut(name) else { return };
        connection.in_flight = connection.in_flight.saturating_sub(1);
        match outcome {
            CallOutcome::Succeeded => connection.breaker.record_success(),
            CallOutcome::Failed | CallOutcome::NoResponse => connection.breaker.record_failure(now),
            CallOutcome::Unknown => connection.breaker.record_inconclusive(now),
        }
        if let Some(pause) = pause {
            connection.paused_until = connection.paused_until.max(now + pause.duration());
        }
        if let Some(VendorPause::Rejected(time)) = pause {
            connection.rejected_until = connection.rejected_until.max(now + time);
        }
    }

    /// Removes Connections without any state to keep. Returns true if the whole host is idle and may be dropped.
    pub fn evict_idle(&mut self, now: Millis) -> bool {
        self.connections.retain(|_, c| {
            let is_full = c.bucket.as_ref().is_none_or(|b| b.is_full(now));
            let is_idle = c.queued.is_empty() && c.in_flight == 0 && c.breaker.is_idle();
            !(is_full
                && is_idle
                && c.paused_until <= now
                && c.requeued.iter().all(|times| times.back().is_none_or(|at| *at <= now)))
        });
        self.connections.is_empty()
            && self.in_flight == 0
            && self.breaker.is_idle()
            && self.ceiling.is_full(now)
    }
}

impl ConnectionQueue {
    fn ready_at(&self, now: Millis) -> Millis {
        self.bucket.as_ref().map_or(now, |bucket| bucket.ready_at(now))
    }

    /// Returns the denial for a call during a pause of the vendor.
    fn pause_denial(&mut self, priority: Priority, now: Millis) -> SlotDenied {
        if now < self.rejected_until {
            return SlotDenied::VendorPaused(self.rejected_until.since(now));
        }
        // The quota is exhausted, but no call was rejected: report a delay, not an error.
        let interval = self.bucket.as_ref().map_or(MIN_SLOT_INTERVAL, TokenBucket::token_interval);
        SlotDenied::Busy(self.requeue_delay(priority, self.paused_until.since(now), interval, now))
    }

    fn is_ready(&self, now: Millis) -> bool {
        !self.queued.is_empty()
            && self.paused_until <= now
            && self.ready_at(now) <= now
            && open_for(&self.breaker, now).is_none()
    }

    fn next_ticket(&self) -> Option<u64> {
        let oldest_first = self.slots_granted % OLDEST_FIRST_INTERVAL == OLDEST_FIRST_INTERVAL - 1;
        let order = |c: &&QueuedCall| {
            if oldest_first {
                (false, Priority::Delete, c.ticket)
            } else {
                (!c.has_started, c.priority, c.ticket)
            }
        };
        self.queued.iter().min_by_key(order).map(|c| c.ticket)
    }

    /// Returns the delay after which a denied call should be retried: one `interval` after the previously denied call of
    /// this priority. Retries therefore arrive at the rate of the slots: the queue does not run dry, and retries are not
    /// denied repeatedly.
    fn requeue_delay(
        &mut self,
        priority: Priority,
        wait: Duration,
        interval: Duration,
        now: Millis,
    ) -> Duration {
        let Some(requeued) = self.requeued.get_mut(priority as usize) else { return wait };
        while requeued.front().is_some_and(|at| *at <= now) {
            requeued.pop_front();
        }
        let latest = now + MAX_REQUEUE_DELAY;
        let at = requeued.back().map_or(now + wait, |last| *last + interval).max(now + interval).min(latest);
        if at < latest {
            requeued.push_back(at);
        }
        at.since(now)
    }
}

/// Returns how long a breaker rejects calls; None if it admits one now.
fn open_for(breaker: &Breaker, now: Millis) -> Option<Duration> {
    match breaker.clone().request_permit(now) {
        BreakerPermit::Granted => None,
        BreakerPermit::NotBefore(at) => Some(at.since(now)),
        // The probe's outcome is known within the deadline of a call.
        BreakerPermit::Probing => Some(MAX_WAIT),
    }
}

#[cfg(test)]
mod tests;
