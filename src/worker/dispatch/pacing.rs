//! The pacing of hooks: what their breakers and rate limits permit. Continues with that of a hook's former owner, and records it
//! for the next one.

use std::sync::Arc;

use super::command::{AttemptTicket, ReceiverSignal};
use super::effect::{BreakerTransition, Effect};
use super::health::record_signal;
use super::machine::DispatchMachine;
use super::queue::HookQueue;
use super::time::Now;
use crate::core::bucket::{Rate, TokenBucket};
use crate::core::hook_pacing::{HookPacing, InheritedPacing};
use crate::core::receiver_breaker::{AttemptPermit, BreakerChange, ReceiverEvidence};
use crate::core::time::Millis;

impl HookQueue {
    /// True if the pacing may limit attempts, or is recorded.
    pub fn is_paced(&self) -> bool {
        self.has_recorded_pacing || self.bucket.is_some() || !self.breaker.is_idle()
    }

    /// True if `prepare_pacing` has nothing to do.
    pub fn is_pacing_prepared(&self, epoch: i64, generation: Option<i64>) -> bool {
        self.pacing_epoch == Some(epoch) && !self.has_breaker_of_older(generation)
    }

    /// Returns what limits the attempts now. None: nothing does.
    fn pacing(&self, now: Millis) -> Option<HookPacing> {
        let (generation, breaker) = (self.breaker_generation, self.breaker.snapshot());
        let pacing = HookPacing { generation, breaker, bucket: self.bucket.clone() };
        (!pacing.is_at_rest(now)).then_some(pacing)
    }

    /// True if the breaker counts attempts of an earlier generation of the hook. One of a later generation was inherited from an
    /// owner that already knew it.
    pub fn has_breaker_of_older(&self, generation: Option<i64>) -> bool {
        match (self.breaker_generation, generation) {
            (Some(counted), Some(known)) => counted < known,
            (counted, known) => counted != known,
        }
    }

    /// Closes the breaker if it counts attempts of an earlier generation of the hook, which may have had another receiver.
    /// Returns true if it was open.
    pub fn reset_breaker_of_older(&mut self, generation: Option<i64>) -> bool {
        if !self.has_breaker_of_older(generation) {
            return false;
        }
        self.breaker_generation = generation;
        let was_open = self.breaker.is_open();
        self.breaker.reset();
        self.needs_untried = false;
        was_open
    }

    /// Returns the earliest time of the next attempt, by the rate limit and the breaker. Takes nothing.
    pub fn not_before(&mut self, rate: Option<Rate>, now: Millis) -> Option<Millis> {
        if rate != self.rate() {
            self.is_bucket_new = true;
            self.bucket = rate.map(|rate| match self.empty_since {
                Some(since) => TokenBucket::with_tokens(rate, 0.0, since),
                None => TokenBucket::new(rate, now),
            });
        }
        if self.breaker.is_open()
            && let Err(until) = self.breaker.clone().request_permit(now)
        {
            return Some(until);
        }
        self.bucket.as_ref().map(|bucket| bucket.ready_at(now)).filter(|at| *at > now)
    }

    /// Returns the rate limit of the last call of `not_before`.
    pub fn rate(&self) -> Option<Rate> {
        self.bucket.as_ref().map(TokenBucket::rate)
    }

    /// Takes a permit for one attempt from the breaker, and then a token from the rate limit: a delivery that the breaker
    /// rejects must not use one. An error is the earliest time of the next attempt.
    pub fn permit_attempt(&mut self, now: Millis) -> Result<AttemptPermit, Millis> {
        if let Some(bucket) = &self.bucket
            && let at = bucket.ready_at(now)
            && at > now
        {
            return Err(at);
        }
        let permit = self.breaker.request_permit(now)?;
        if let Some(bucket) = &mut self.bucket {
            // A token is there, as the check above showed.
            bucket.try_take(now).ok();
        }
        Ok(permit)
    }

    /// Continues from the pacing of the hook's former owner, instead of what this process had of an earlier ownership.
    fn inherit(&mut self, InheritedPacing { pacing, empty_since }: InheritedPacing, now: Millis) {
        self.empty_since = empty_since;
        self.has_recorded_pacing = pacing.is_some();
        match pacing {
            Some(HookPacing { generation, breaker, bucket }) => {
                self.breaker_generation = generation;
                self.breaker.restore(breaker, now);
                self.bucket = bucket;
            }
            None => {
                self.breaker.reset();
                self.bucket = None;
            }
        }
        self.needs_untried = self.breaker.is_open();
    }
}

impl DispatchMachine {
    /// Prepares the breaker and the rate limit of a hook that this process owns under `epoch`: inherits them at the first call, and
    /// closes a breaker of an older generation of the hook.
    pub(super) fn prepare_pacing(&mut self, uid: &Arc<str>, epoch: i64, generation: Option<i64>, now: Now) {
        let Some(queue) = self.queues.get_mut(uid) else { return };
        if queue.pacing_epoch != Some(epoch) {
            queue.pacing_epoch = Some(epoch);
            let was_open = queue.breaker.is_open();
            queue.inherit(self.ownership.inherited_pacing(uid, epoch), now.steady);
            match (was_open, queue.breaker.is_open()) {
                (false, false) => {}
                (true, true) => self.report_breaker(uid, BreakerTransition::None, now),
                (false, true) => self.report_breaker(uid, BreakerTransition::Inherited, now),
                (true, false) => self.report_breaker(uid, BreakerTransition::Closed, now),
            }
        }
        let Some(queue) = self.queues.get_mut(uid) else { return };
        if queue.reset_breaker_of_older(generation) {
            self.report_breaker(uid, BreakerTransition::Closed, now);
            self.record_pacing(uid, now);
        }
    }

    /// Records the pacing of a hook for its next owner, if it limits attempts or did so before.
    pub(super) fn record_pacing(&mut self, uid: &Arc<str>, now: Now) {
        let Some(queue) = self.queues.get_mut(uid) else { return };
        let Some(epoch) = queue.pacing_epoch else { return };
        let pacing = queue.pacing(now.steady);
        queue.is_bucket_new = false;
        let had_recorded = std::mem::replace(&mut queue.has_recorded_pacing, pacing.is_some());
        if pacing.is_some() || had_recorded {
            self.ownership.record_pacing(uid, epoch, pacing);
        }
    }

    /// Records a bucket that was created and has not all tokens. Otherwise each owner that ends before the first attempt would let
    /// the next one start without tokens again.
    pub(super) fn record_new_bucket(&mut self, uid: &Arc<str>, now: Now) {
        if self.queues.get(uid).is_some_and(|queue| queue.is_bucket_new) {
            self.record_pacing(uid, now);
        }
    }

    /// Removes what was recorded of a hook whose queue is dropped, unless another process owns the hook now.
    pub(super) fn forget_pacing(&self, uid: &Arc<str>, queue: &HookQueue) {
        if let Some(epoch) = queue.pacing_epoch.filter(|_| queue.has_recorded_pacing) {
            self.ownership.record_pacing(uid, epoch, None);
        }
    }

    /// Updates the breaker and the reported health after an attempt.
    pub(super) fn record_evidence(
        &mut self,
        uid: &Arc<str>,
        ticket: &AttemptTicket,
        evidence: ReceiverEvidence,
        signal: ReceiverSignal,
        now: Now,
    ) {
        if ticket.permit.probe().is_some() {
            self.effects.push(Effect::RecordProbe(evidence));
        }
        let Some(queue) = self.queues.get_mut(uid) else { return };
        record_signal(&self.index, queue, uid, signal, now);
        let change = queue.breaker.record(ticket.permit, evidence, now.steady);
        let is_paced = queue.is_paced();
        match change {
            BreakerChange::None => {}
            BreakerChange::Closed => self.report_breaker(uid, BreakerTransition::Closed, now),
            BreakerChange::Opened => {
                queue.needs_untried = true;
                self.report_breaker(uid, BreakerTransition::Opened, now);
            }
            BreakerChange::Reopened => {
                queue.needs_untried = true;
                self.report_breaker(uid, BreakerTransition::None, now);
            }
        }
        if is_paced {
            self.record_pacing(uid, now);
        }
    }

    /// Reports the state of a hook's breaker.
    pub(super) fn report_breaker(&mut self, uid: &Arc<str>, transition: BreakerTransition, now: Now) {
        let Some(queue) = self.queues.get(uid) else { return };
        let mut report = queue.breaker.report();
        // The breaker uses the steady clock, which means nothing to people.
        report.next_probe = report.next_probe.map(|at| now.wall_at(at));
        let series = self.index.get(uid).and_then(|hook| hook.series.clone());
        self.effects.push(Effect::ReportBreaker { uid: uid.clone(), report, transition, series });
    }
}
