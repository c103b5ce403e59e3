//! Decides which attempts start and which reads from disk run.

use std::sync::Arc;

use super::command::AttemptTicket;
use super::effect::{BreakerTransition, Effect};
use super::health::{evaluate_hold, health_change, is_blocked};
use super::machine::DispatchMachine;
use super::memory::DeliveryMemory;
use super::queue::{CHUNK_ROWS, LoadReservation, OVERHEAD, data_len};
use super::ready_ranking::ReadyRank;
use super::time::Now;
use crate::core::bucket::Rate;
use crate::core::fair_pool::Grant;
use crate::core::hook::CompiledHook;
use crate::core::receiver_breaker::PROBES;
use crate::core::time::Millis;
use crate::worker::store::{DueDeliveries, ReadLimit};

/// Hooks in a row that may come next and take nothing. More than the waiting hooks that become blocked at one time.
const MAX_IDLE_TURNS: usize = 10_000;

/// Why a hook starts no further attempt now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopped {
    /// No delivery is in memory.
    NothingReady,
    /// As many attempts are in flight as the hook allows.
    Concurrency,
    /// Its rate limit or its breaker denies attempts until this time.
    NotBefore(Millis),
    /// It waits for a slot and for memory.
    Pool,
    /// The breaker's probes need deliveries that are on disk.
    NeedsUntried,
}

impl DispatchMachine {
    /// Starts the attempts that the hook may start now, and reads from disk when its queue runs low.
    pub(super) fn dispatch_ready(&mut self, uid: &Arc<str>, now: Now) {
        self.dispatch(uid, false, now);
    }

    /// Dispatches the hooks that wait for slots and memory, while there are some.
    pub(super) fn dispatch_waiting(&mut self, now: Now) {
        if self.is_halted() {
            return;
        }
        // Hooks that come next and take nothing. A bound, so that a hook that never takes what it gets cannot stop the
        // others forever.
        let mut idle = 0;
        while idle < MAX_IDLE_TURNS
            && let Some(uid) = self.memory.pool.next_waiting()
        {
            let before = self.memory.pool.used();
            self.dispatch(&uid, true, now);
            idle = if self.memory.pool.used() > before { 0 } else { idle + 1 };
        }
    }

    /// `is_next`: the hook waited for a slot and memory, and comes next.
    fn dispatch(&mut self, uid: &Arc<str>, is_next: bool, now: Now) {
        if self.is_halted() {
            return;
        }
        let had_waiting = is_next || self.memory.pool.has_waiting();
        self.dispatch_hook(uid, is_next, now);
        // Only a hook that waited may be left in the pool without capacity.
        if had_waiting {
            self.memory.pool.leave(uid);
        }
    }

    fn dispatch_hook(&mut self, uid: &Arc<str>, is_next: bool, now: Now) {
        let Some(epoch) = self.owned_epoch(uid) else { return };
        let state = self.index.get(uid);
        let Some(mut queue) = self.queues.get_mut(uid) else { return };
        if let Some(state) = &state {
            queue.hook.get_or_insert_with(|| state.id.clone());
            queue.deleted_since = None;
            if !queue.is_pacing_prepared(epoch, state.generation) {
                self.prepare_pacing(uid, epoch, state.generation, now);
                let Some(found) = self.queues.get_mut(uid) else { return };
                queue = found;
            }
        }
        let ends = [queue.expire_undecided(now.steady), queue.release_postponed(now.steady)];
        ends.into_iter().flatten().for_each(|until| self.timers.set(until, uid));
        let hold = evaluate_hold(state.as_ref(), queue);
        let health = health_change(queue, state.as_deref(), hold.as_ref());
        let is_blocked = is_blocked(hold.as_ref(), queue, now.steady);
        // The timer may have been set before a later recheck was: without another one, the hook would be held forever.
        let recheck_at = queue.recheck_at.filter(|at| is_blocked && *at > now.steady);
        recheck_at.into_iter().for_each(|at| self.timers.set(at, uid));
        let (may_expire, is_quiet) = (queue.breaker.is_open(), queue.is_quiet());
        if self.held.contains(uid) != hold.is_some()
            && let Some(id) = queue.hook.clone()
        {
            self.report_hold(&id, hold.is_some(), now);
        }
        self.effects.extend(health.map(Effect::ReportHealth));
        let hook = match &state {
            Some(state) if !is_blocked => state.hook.as_ref().ok(),
            _ => None,
        };
        let Some(hook) = hook else {
            self.unload_all(uid);
            self.memory.pool.stop_waiting(uid);
            if state.is_none() {
                self.hook_missing(uid, now);
            }
            return;
        };
        // The usual state after the last attempt of a hook that keeps up.
        if is_quiet && !self.memory.pool.has_waiting() {
            return;
        }
        let has_expired = may_expire && self.expire(uid, hook, now);
        let rate = state.as_ref().and_then(|state| state.rate());
        let stopped = self.start_attempts(uid, hook.delivery.concurrency, rate, now);
        self.record_new_bucket(uid, now);
        if stopped != Stopped::Pool {
            self.memory.pool.stop_waiting(uid);
        }
        let may_load = match stopped {
            Stopped::NothingReady | Stopped::Concurrency | Stopped::NeedsUntried => true,
            // A backlog that expires while the breaker is open is read to its end.
            Stopped::NotBefore(_) => has_expired,
            Stopped::Pool => false,
        };
        if let Stopped::NotBefore(at) = stopped {
            self.timers.set(at, uid);
        }
        let may_load = self.rank_and_check_load(uid, stopped) && may_load;
        self.update_crowding(uid, matches!(stopped, Stopped::NotBefore(_)));
        if may_load {
            let may_wait = matches!(stopped, Stopped::NothingReady | Stopped::NeedsUntried);
            self.load(uid, is_next, may_wait, now);
        }
    }

    /// Ranks the hook by what is still ready. Returns whether its queue runs low.
    fn rank_and_check_load(&mut self, uid: &Arc<str>, stopped: Stopped) -> bool {
        let is_blocked = matches!(stopped, Stopped::NotBefore(_) | Stopped::Pool);
        let Some(queue) = self.queues.get(uid) else { return false };
        let should_load = queue.should_load() && !queue.is_waiting_for_load;
        if queue.rank != ReadyRank::of(queue.ready_bytes, is_blocked) {
            self.update_rank(uid, is_blocked);
        }
        should_load
    }

    /// Ends the ready deliveries that are too old. Returns true if there were some.
    fn expire(&mut self, uid: &Arc<str>, hook: &CompiledHook, now: Now) -> bool {
        let Some(queue) = self.queues.get_mut(uid) else { return false };
        let memory = &mut self.memory;
        let expired =
            queue.take_expired(hook.delivery.retry.max_age, now, |pending| memory.remove_ready(pending));
        if expired.is_empty() {
            return false;
        }
        let series = self.index.get(uid).and_then(|state| state.series.clone());
        self.effects.push(Effect::Expire { uid: uid.clone(), expired, series });
        true
    }

    fn start_attempts(
        &mut self,
        uid: &Arc<str>,
        concurrency: usize,
        rate: Option<Rate>,
        now: Now,
    ) -> Stopped {
        loop {
            let Some(in_flight) = self.queues.get(uid).map(|queue| queue.in_flight) else {
                return Stopped::NothingReady;
            };
            if self.is_saturated(uid, in_flight, concurrency) {
                return Stopped::Concurrency;
            }
            let Some(queue) = self.queues.get_mut(uid) else { return Stopped::NothingReady };
            if let Some(at) = queue.not_before(rate, now.steady) {
                return Stopped::NotBefore(at);
            }
            if queue.needs_untried && queue.has_more_on_disk {
                return Stopped::NeedsUntried;
            }
            let (Some(first), Some(len)) = (queue.ready.front(), queue.next_data_len()) else {
                return Stopped::NothingReady;
            };
            let amount = self.memory.attempt_amount(len);
            let (namespace, pace) = (&first.hook.namespace, queue.pace(now.steady));
            let Some(grant) = self.memory.pool.request(namespace, uid, amount, pace) else {
                self.memory.pool.wait(namespace, uid, amount, pace);
                return Stopped::Pool;
            };
            if let Err(stopped) = self.start_attempt(uid, grant, now) {
                return stopped;
            }
        }
    }

    /// Starts an attempt of the next ready delivery with the capacity that was granted. Returns the capacity if none may
    /// start.
    fn start_attempt(&mut self, uid: &Arc<str>, mut grant: Grant, now: Now) -> Result<(), Stopped> {
        let Some(queue) = self.queues.get_mut(uid) else { return Err(Stopped::NothingReady) };
        let permit = match queue.permit_attempt(now.steady) {
            Ok(permit) => permit,
            Err(at) => {
                self.memory.pool.undo(uid, grant);
                return Err(Stopped::NotBefore(at));
            }
        };
        let position = queue.next_position(permit.probe());
        let Some(pending) = queue.take(position) else {
            // The caller has seen a ready delivery.
            self.memory.pool.undo(uid, grant);
            return Err(Stopped::NothingReady);
        };
        let len = data_len(&pending);
        // The breaker chose the smaller one of two deliveries, or the one that was read is smaller than expected.
        let amount = self.memory.attempt_amount(len);
        self.memory.pool.shrink(uid, &mut grant, amount);
        self.serial += 1;
        queue.start_attempt(self.serial, now.steady);
        let ticket = AttemptTicket {
            seq: pending.seq,
            queue: queue.serial,
            grant,
            permit,
            data_len: len,
            rate: queue.rate(),
            started: now.steady,
            accepted: pending.accepted,
            held: pending.held,
        };
        self.in_flight += 1;
        let is_paced = queue.is_paced();
        if is_paced {
            // Before the attempt: the next owner must not use its token again if the hook leaves now.
            self.record_pacing(uid, now);
        }
        if permit.probe().is_some() {
            self.report_breaker(uid, BreakerTransition::None, now);
        }
        self.effects.push(Effect::StartAttempt { pending, ticket });
        let extra = DeliveryMemory::attempt_extra(len);
        self.make_capacity(extra);
        self.memory.reserve(extra);
        Ok(())
    }

    /// Reads from disk, as the queue runs low, if there is memory. A hook without ready deliveries and without memory
    /// waits for the capacity of one attempt, and reads one delivery into it (`may_wait`).
    fn load(&mut self, uid: &Arc<str>, is_next: bool, may_wait: bool, now: Now) {
        let Some(queue) = self.queues.get(uid) else { return };
        let Some(namespace) = queue.hook.as_ref().map(|hook| hook.namespace.clone()) else { return };
        let longest = self.memory.longest_read();
        let (bytes, is_empty) = (queue.read_bytes(longest), queue.ready.is_empty());
        let size = DeliveryMemory::read_size(bytes);
        // A hook that comes next must not lose its place to a read that others may undo. A delivery that is larger than the
        // part of reads is read for its attempt only.
        if bytes <= longest && (!is_next || !is_empty) {
            // A hook must not overtake those that wait for a read.
            let is_turn = self.reading.as_ref() == Some(uid) || self.memory.reads.first().is_none();
            if !is_turn || !self.memory.may_read(size) {
                self.memory.reads.push(&namespace, uid);
                if let Some(queue) = self.queues.get_mut(uid) {
                    queue.is_waiting_for_load = true;
                }
                return;
            }
            if self.make_fair_capacity(uid, size) {
                self.start_load(uid, size, None, ReadLimit { rows: CHUNK_ROWS, bytes, is_strict: true });
                return;
            }
        }
        if is_empty && may_wait {
            self.load_one(uid, &namespace, now);
        } else if let Some(queue) = self.queues.get_mut(uid).filter(|queue| queue.needs_untried) {
            // No memory for other deliveries: probe with those that are here.
            queue.needs_untried = false;
            self.mark(uid);
        }
    }

    /// Requests the capacity of one attempt and reads one delivery into it.
    fn load_one(&mut self, uid: &Arc<str>, namespace: &Arc<str>, now: Now) {
        let Some(queue) = self.queues.get(uid) else { return };
        let (bytes, pace) = (queue.read_one_bytes(), queue.pace(now.steady));
        let amount = self.memory.attempt_amount(bytes);
        match self.memory.pool.request(namespace, uid, amount, pace) {
            Some(grant) => {
                let size = DeliveryMemory::attempt_extra(bytes) + bytes + OVERHEAD;
                self.make_capacity(size);
                self.start_load(uid, size, Some(grant), ReadLimit { rows: 1, bytes, is_strict: true });
            }
            None => self.memory.pool.wait(namespace, uid, amount, pace),
        }
    }

    fn start_load(&mut self, uid: &Arc<str>, bytes: usize, grant: Option<Grant>, limit: ReadLimit) {
        let Some(queue) = self.queues.get_mut(uid) else { return };
        self.serial += 1;
        // Two of five probes take the oldest delivery.
        let untried = if queue.needs_untried { usize::from(PROBES.div_ceil(2)) } else { 0 };
        queue.start_loading(LoadReservation { serial: self.serial, bytes, grant });
        match grant {
            Some(_) => self.memory.reserve(bytes),
            None => self.memory.start_read(bytes),
        }
        let (uid, exclude) = (uid.clone(), queue.claimed.clone());
        self.effects.push(Effect::Load { uid, serial: self.serial, exclude, limit, untried });
    }

    /// Returns the memory that a read reserved. The capacity of the attempt stays.
    fn end_read(&mut self, reservation: LoadReservation) {
        match reservation.grant {
            Some(_) => self.memory.release(reservation.bytes),
            None => self.memory.end_read(reservation.bytes),
        }
    }

    /// Returns all that a read reserved.
    pub(super) fn end_load(&mut self, uid: &Arc<str>, reservation: LoadReservation) {
        self.end_read(reservation);
        if let Some(grant) = reservation.grant {
            self.memory.pool.undo(uid, grant);
        }
    }

    /// Adds deliveries that were read from disk to the hook's queue. If the read was for one attempt, starts it.
    pub(super) fn finish_load(&mut self, uid: &Arc<str>, serial: u64, found: DueDeliveries, now: Now) {
        let Some(queue) = self.queues.get_mut(uid) else { return };
        let Some((reservation, found)) = queue.finish_loading(serial, found) else { return };
        self.end_read(reservation);
        let Some(queue) = self.queues.get_mut(uid) else { return };
        for mut pending in found {
            if queue.claim(pending.seq) {
                self.memory.add(&mut pending);
                queue.push(pending);
            }
        }
        self.update_rank(uid, false);
        if let Some(grant) = reservation.grant {
            self.start_granted(uid, grant, now);
        }
    }

    /// Dispatches the hooks that wait for memory for a read, in their order, while there is some.
    pub(super) fn dispatch_readers(&mut self, now: Now) {
        while let Some(next) = self.memory.reads.first() {
            let longest = self.memory.longest_read();
            let bytes = self.queues.get(next).map_or(0, |queue| queue.read_bytes(longest).min(longest));
            if !self.memory.may_read(DeliveryMemory::read_size(bytes)) {
                break;
            }
            let Some(next) = self.memory.reads.pop() else { break };
            if let Some(queue) = self.queues.get_mut(&next) {
                queue.is_waiting_for_load = false;
            }
            self.reading = Some(next.clone());
            self.dispatch_ready(&next, now);
            self.reading = None;
            self.drop_if_idle(&next);
        }
    }

    /// Starts the attempt whose capacity was granted before its delivery was read.
    fn start_granted(&mut self, uid: &Arc<str>, grant: Grant, now: Now) {
        let (state, is_halted) = (self.index.get(uid), self.is_halted());
        let elsewhere = self.ownership.in_flight_elsewhere(uid);
        let epoch = self.ownership.epoch(uid);
        let Some(queue) = self.queues.get_mut(uid) else { return };
        let may_start = match state.as_ref().and_then(|state| Some((state, state.hook.as_ref().ok()?))) {
            Some((state, hook)) => {
                let hold = evaluate_hold(Some(state), queue);
                !is_halted
                    // Otherwise the shard left meanwhile, and the breaker and the tokens are those of before.
                    && epoch.is_some_and(|epoch| queue.is_pacing_prepared(epoch, state.generation))
                    && !is_blocked(hold.as_ref(), queue, now.steady)
                    // Another delivery, larger than the one that was read, may be sent first.
                    && queue.next_data_len().is_some_and(|len| self.memory.is_covered(grant, len))
                    && queue.in_flight.saturating_add(elsewhere) < hook.delivery.concurrency
                    && queue.not_before(state.rate(), now.steady).is_none()
            }
            None => false,
        };
        if may_start {
            // Returns the capacity if the breaker denies the attempt.
            self.start_attempt(uid, grant, now).ok();
        } else {
            self.memory.pool.undo(uid, grant);
        }
    }
}
