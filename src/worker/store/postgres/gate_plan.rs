//! What a transaction decides about gates, computed in memory from the locked rows, in the order of its deliveries.
//!
//! Invariants: a group has at most one candidate. The death of a delivery clears the memory that it set, but not memory that
//! another delivery has set since. The same rules as in the embedded store; `conformance` compares both with one oracle.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::DeliverySeq;
use crate::core::delivery_reason::DeliveryReason;
use crate::core::gate::{ChangeCheck, GateDecision, GateHash, GateRequest, GateState, Snooze, SnoozeCheck};
use crate::core::time::Millis;

pub(super) const CHANGE: i16 = 0;
pub(super) const SNOOZE: i16 = 1;

/// The row id of the hook, the kind of the gate, and the hash of the group.
pub(super) type GateKey = (i64, i16, GateHash);

/// The memory of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct GateMemory {
    pub(super) value: Option<GateHash>,
    pub(super) quiet_until: Option<i64>,
    /// The delivery that set it.
    pub(super) owner: Option<DeliverySeq>,
    pub(super) suppressed: i32,
    pub(super) used: i64,
}

/// A trailing candidate of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) delivery: DeliverySeq,
    pub(super) due: Millis,
    pub(super) period: Duration,
    pub(super) change: Option<ChangeCheck>,
}

/// The state that a delivery gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placed {
    Pending { due: Millis, suppressed: i32 },
    Candidate { due: Millis },
    Dropped(DeliveryReason),
}

/// The gates that a transaction has locked, and what it changes.
#[derive(Debug, Default)]
pub(super) struct GatePlan {
    memories: BTreeMap<GateKey, (GateMemory, bool)>,
    candidates: BTreeMap<(i64, GateHash), (Option<Candidate>, bool)>,
    /// Deliveries whose state changes because of another one, with the time. The last change of a delivery counts.
    pub(super) moved: BTreeMap<DeliverySeq, (Placed, Millis)>,
}

impl GatePlan {
    pub(super) fn insert_memory(&mut self, key: GateKey, memory: GateMemory) {
        self.memories.insert(key, (memory, false));
    }

    pub(super) fn insert_candidate(&mut self, hook: i64, key: GateHash, candidate: Candidate) {
        self.candidates.insert((hook, key), (Some(candidate), false));
    }

    /// Returns the changed memories.
    pub(super) fn changed_memories(&self) -> impl Iterator<Item = (&GateKey, &GateMemory)> {
        self.memories.iter().filter(|(_, (_, changed))| *changed).map(|(key, (memory, _))| (key, memory))
    }

    /// Returns the groups whose candidate changed, with the present one.
    pub(super) fn changed_candidates(&self) -> impl Iterator<Item = (&(i64, GateHash), Option<&Candidate>)> {
        let changed = self.candidates.iter().filter(|(_, (_, changed))| *changed);
        changed.map(|(key, (candidate, _))| (key, candidate.as_ref()))
    }

    fn memory(&self, key: GateKey) -> GateMemory {
        self.memories.get(&key).map(|(memory, _)| *memory).unwrap_or_default()
    }

    fn change(&mut self, key: GateKey, change: impl FnOnce(&mut GateMemory)) {
        let (memory, changed) = self.memories.entry(key).or_default();
        change(memory);
        *changed = true;
    }

    /// Promotes the candidates whose period is over, earliest first. Returns their hooks.
    pub(super) fn promote_due(&mut self, now: Millis) -> Vec<i64> {
        let mut due: Vec<_> = self
            .candidates
            .iter()
            .filter_map(|(key, (candidate, _))| {
                candidate.filter(|c| c.due <= now).map(|c| (c.due, c.delivery, *key))
            })
            .collect();
        due.sort_unstable();
        due.into_iter()
            .map(|(_, _, (hook, key))| {
                self.promote(hook, key, now);
                hook
            })
            .collect()
    }

    /// Makes the candidate of a group an ordinary pending delivery. It sets both memories and opens a new period. False: there
    /// is none.
    fn promote(&mut self, hook: i64, key: GateHash, now: Millis) -> bool {
        let Some(candidate) = self.take_candidate(hook, key) else { return false };
        let rule = Snooze { period: candidate.period, trailing: true };
        let request = GateRequest { change: candidate.change, snooze: Some(SnoozeCheck { key, rule }) };
        let suppressed = self.set_both(hook, &request, candidate.delivery, now);
        self.moved.insert(candidate.delivery, (Placed::Pending { due: now, suppressed }, now));
        true
    }

    fn take_candidate(&mut self, hook: i64, key: GateHash) -> Option<Candidate> {
        let (candidate, changed) = self.candidates.get_mut(&(hook, key))?;
        let taken = candidate.take()?;
        *changed = true;
        Some(taken)
    }

    /// Sets the memories of a delivery that is sent. Returns how many deliveries were dropped since the last one.
    fn set_both(&mut self, hook: i64, request: &GateRequest, owner: DeliverySeq, now: Millis) -> i32 {
        let mut suppressed = 0_i32;
        let mut set = |plan: &mut Self, key, value, quiet_until| {
            suppressed = suppressed.saturating_add(plan.memory(key).suppressed);
            plan.change(key, |memory| {
                *memory = GateMemory { value, quiet_until, owner: Some(owner), suppressed: 0, used: now.0 };
            });
        };
        if let Some(ChangeCheck { key, value }) = request.change {
            set(self, (hook, CHANGE, key), Some(value), None);
        }
        if let Some(SnoozeCheck { key, rule }) = request.snooze {
            set(self, (hook, SNOOZE, key), None, Some((now + rule.period).0));
        }
        suppressed
    }

    fn count_dropped(&mut self, key: GateKey, now: Millis) {
        self.change(key, |memory| {
            memory.suppressed = memory.suppressed.saturating_add(1);
            memory.used = now.0;
        });
    }

    /// Drops the candidate of a group, which a newer delivery replaces, and counts it.
    fn supersede(&mut self, hook: i64, snooze: Option<SnoozeCheck>, now: Millis) {
        let Some(SnoozeCheck { key, .. }) = snooze else { return };
        if let Some(stale) = self.take_candidate(hook, key) {
            self.moved.insert(stale.delivery, (Placed::Dropped(DeliveryReason::Superseded), now));
            self.count_dropped((hook, SNOOZE, key), now);
        }
    }

    /// Evaluates the gates of a delivery that is due at `due`. Changes nothing.
    pub(super) fn evaluate(&self, hook: i64, request: &GateRequest, now: Millis) -> GateDecision {
        let change = request.change.map(|check| self.memory((hook, CHANGE, check.key))).unwrap_or_default();
        let snooze = request.snooze.map(|check| self.memory((hook, SNOOZE, check.key))).unwrap_or_default();
        request.decide(GateState { value: change.value, quiet_until: snooze.quiet_until.map(Millis) }, now)
    }

    /// Applies a decision to the delivery `seq`.
    pub(super) fn apply(
        &mut self,
        hook: i64,
        request: &GateRequest,
        decision: GateDecision,
        (seq, due): (DeliverySeq, Millis),
        now: Millis,
    ) -> Placed {
        match decision {
            GateDecision::Deliver => {
                self.supersede(hook, request.snooze, now);
                let suppressed = self.set_both(hook, request, seq, now);
                Placed::Pending { due, suppressed }
            }
            GateDecision::Unchanged => {
                if let Some(change) = request.change {
                    self.count_dropped((hook, CHANGE, change.key), now);
                }
                // Its candidate would report a change that was undone.
                self.supersede(hook, request.snooze, now);
                Placed::Dropped(DeliveryReason::Unchanged)
            }
            GateDecision::Snoozed { candidate: false, .. } => {
                if let Some(snooze) = request.snooze {
                    self.count_dropped((hook, SNOOZE, snooze.key), now);
                }
                Placed::Dropped(DeliveryReason::Snoozed)
            }
            GateDecision::Snoozed { candidate: true, until } => {
                self.supersede(hook, request.snooze, now);
                if let Some(SnoozeCheck { key, rule }) = request.snooze {
                    let candidate =
                        Candidate { delivery: seq, due: until, period: rule.period, change: request.change };
                    self.candidates.insert((hook, key), (Some(candidate), true));
                }
                Placed::Candidate { due: until }
            }
        }
    }

    /// Clears the memory that a dead or cancelled delivery set, and promotes the candidates behind it. True: there was one. The
    /// counts of dropped deliveries remain.
    pub(super) fn clear_memory_of(&mut self, owner: DeliverySeq, now: Millis) -> bool {
        let owned: Vec<GateKey> = self
            .memories
            .iter()
            .filter(|(_, (memory, _))| memory.owner == Some(owner))
            .map(|(key, _)| *key)
            .collect();
        let mut has_promoted = false;
        for key in &owned {
            self.change(*key, |memory| (memory.value, memory.quiet_until, memory.owner) = (None, None, None));
        }
        for (hook, kind, key) in owned {
            has_promoted |= kind == SNOOZE && self.promote(hook, key, now);
        }
        has_promoted
    }

    /// Removes the candidate of a delivery that is cancelled.
    pub(super) fn remove_candidate(&mut self, delivery: DeliverySeq) {
        for (candidate, changed) in self.candidates.values_mut() {
            if candidate.is_some_and(|candidate| candidate.delivery == delivery) {
                *candidate = None;
                *changed = true;
            }
        }
    }
}
