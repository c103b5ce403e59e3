//! The oracle: the simplest implementation of a store, in memory.

use crate::core::delivery_reason::DeliveryReason;
use std::collections::BTreeMap;

use super::*;
use crate::core::gate::{GateDecision, GateState};

pub(super) const HOOKS: [&str; 3] = ["x", "y", "z"];

#[derive(Clone)]
pub(super) struct OracleDelivery {
    pub(super) pending: PendingDelivery,
    pub(super) record: DeliveryRecord,
    pub(super) finished: Option<Millis>,
    pub(super) gate_request: GateRequest,
    candidate: bool,
    /// How long its hook was held before it was accepted.
    pub(super) held_before: Duration,
}

/// The gate memory of a group.
#[derive(Clone, Copy, Default)]
pub(super) struct GroupMemory {
    value: Option<[u8; 16]>,
    until: Option<Millis>,
    owner: Option<DeliverySeq>,
    suppressed: u32,
    used: Millis,
}

pub(super) type Group = (Arc<str>, bool, [u8; 16]);

#[derive(Default)]
pub(super) struct Oracle {
    pub(super) deliveries: BTreeMap<DeliverySeq, OracleDelivery>,
    pub(super) keys: BTreeMap<u8, (Millis, AcceptedEvent)>,
    pub(super) highest: (DeliverySeq, DeliverySeq),
    pub(super) ids: Vec<Uuid>,
    pub(super) gates: BTreeMap<Group, GroupMemory>,
    pub(super) holds: BTreeMap<Arc<str>, (Duration, Option<Millis>)>,
}

impl Oracle {
    /// Checks the result of an accept, and stores the events under the sequence numbers of that result.
    pub(super) fn accept(&mut self, events: &[(u8, NewEvent)], got: &[AcceptedEvent], now: Millis) {
        assert_eq!(events.len(), got.len());
        if events.is_empty() {
            return;
        }
        let mut promoted = self.promote(now);
        for ((key, new), got) in events.iter().zip(got) {
            if let Some((_, first)) = self.keys.get(key).filter(|(expires, _)| *expires > now).cloned() {
                let mut want = AcceptedEvent { duplicate: true, ..first };
                want.deliveries.retain(|d| self.deliveries.contains_key(&d.seq));
                want.hooks_to_notify = Vec::new();
                for delivery in &mut want.deliveries {
                    let entry = &self.deliveries[&delivery.seq];
                    let matched = new.deliveries.iter().any(|d| d.hook == entry.record.hook);
                    if matched && matches!(entry.record.reason.as_deref(), Some("MaxAge" | "MaxAttempts")) {
                        want.hooks_to_notify.push(entry.record.hook.clone());
                        self.make_pending(delivery.seq, now);
                    }
                    delivery.fate = self.fate(delivery.seq);
                }
                want.hooks_to_notify.append(&mut promoted);
                assert_eq!(*got, want);
                continue;
            }
            assert!(!got.duplicate && got.event_id == new.event.id && got.seq > self.highest.0, "{got:?}");
            assert_eq!((&got.hooks_to_notify, got.deliveries.len()), (&promoted, new.deliveries.len()));
            promoted.clear();
            self.highest.0 = got.seq;
            if let Some(dedup) = &new.dedup {
                self.keys.insert(*key, (now + dedup.window, got.clone()));
            }
            for (delivery, got) in new.deliveries.iter().zip(&got.deliveries) {
                assert!(got.seq > self.highest.1);
                self.highest.1 = got.seq;
                self.ids.push(got.id);
                self.store_delivery((got.seq, got.id), delivery, new, now);
                assert_eq!(got.fate, self.fate(got.seq));
            }
        }
    }

    pub(super) fn fate(&self, seq: DeliverySeq) -> Fate {
        let entry = &self.deliveries[&seq];
        match entry.record.state {
            DeliveryState::Pending if entry.candidate => Fate::Candidate { due: entry.pending.due },
            DeliveryState::Pending => {
                Fate::Pending { due: entry.pending.due, suppressed: entry.pending.suppressed }
            }
            DeliveryState::Dead => Fate::Dead,
            DeliveryState::Dropped => Fate::Dropped,
            DeliveryState::Delivered | DeliveryState::Cancelled => Fate::Ended,
        }
    }

    pub(super) fn store_delivery(
        &mut self,
        (seq, id): (DeliverySeq, Uuid),
        delivery: &NewDelivery,
        new: &NewEvent,
        now: Millis,
    ) {
        let (hook, due) = (delivery.hook.clone(), delivery.due);
        let event_id = new.event.id.clone();
        let event = new.event.clone();
        let record = DeliveryRecord {
            seq,
            id,
            hook: hook.clone(),
            event_id,
            state: DeliveryState::Pending,
            reason: None,
            accepted: now,
            due: Some(due),
            attempts: Vec::new(),
        };
        let pending = PendingDelivery {
            epoch: None,
            seq,
            id,
            hook: hook.clone(),
            event,
            accepted: now,
            attempts: 0,
            due,
            held: Duration::ZERO,
            suppressed: 0,
            replays: 0,
            progress: Vec::new(),
        };
        let held_before = self.total_held(&hook.name, now);
        let (gate_request, candidate) = (delivery.gate_request, false);
        self.deliveries.insert(
            seq,
            OracleDelivery { pending, record, finished: None, gate_request, candidate, held_before },
        );
        if let Some(reason) = delivery.dead {
            return self.finish(seq, DeliveryState::Dead, Some(reason), now);
        }
        let [change, snooze] =
            gate_groups(&hook.name, &gate_request).map(|g| g.and_then(|g| self.gates.get(&g).copied()));
        let memory =
            GateState { value: change.and_then(|m| m.value), quiet_until: snooze.and_then(|m| m.until) };
        match gate_request.decide(memory, now) {
            GateDecision::Deliver => {
                self.supersede(&hook.name, &gate_request, seq, now);
                self.pass(seq, due, now);
            }
            GateDecision::Unchanged => {
                self.count(&hook.name, &GateRequest { snooze: None, ..gate_request }, now);
                self.supersede(&hook.name, &gate_request, seq, now);
                self.finish(seq, DeliveryState::Dropped, Some(DeliveryReason::Unchanged), now);
            }
            GateDecision::Snoozed { candidate: false, .. } => {
                self.count(&hook.name, &GateRequest { change: None, ..gate_request }, now);
                self.finish(seq, DeliveryState::Dropped, Some(DeliveryReason::Snoozed), now);
            }
            GateDecision::Snoozed { candidate: true, until } => {
                self.supersede(&hook.name, &gate_request, seq, now);
                let entry = self.deliveries.get_mut(&seq).unwrap();
                (entry.candidate, entry.pending.due, entry.record.due) = (true, until, Some(until));
            }
        }
    }

    /// Makes a delivery pending. Moves the count of dropped deliveries to it, and sets both memories.
    pub(super) fn pass(&mut self, seq: DeliverySeq, due: Millis, now: Millis) {
        let (name, gate_request) =
            (self.deliveries[&seq].pending.hook.name.clone(), self.deliveries[&seq].gate_request);
        let mut suppressed = 0;
        for group in gate_groups(&name, &gate_request).into_iter().flatten() {
            let memory = self.gates.entry(group.clone()).or_default();
            suppressed += memory.suppressed;
            let (value, until) = match group.1 {
                true => (None, gate_request.snooze.map(|s| now + s.rule.period)),
                false => (gate_request.change.map(|c| c.value), None),
            };
            *memory = GroupMemory { value, until, owner: Some(seq), suppressed: 0, used: now };
        }
        let entry = self.deliveries.get_mut(&seq).unwrap();
        (entry.candidate, entry.pending.due, entry.record.due) = (false, due, Some(due));
        entry.pending.suppressed = suppressed;
    }

    pub(super) fn count(&mut self, name: &Arc<str>, gate_request: &GateRequest, now: Millis) {
        for group in gate_groups(name, gate_request).into_iter().flatten() {
            if let Some(memory) = self.gates.get_mut(&group) {
                memory.suppressed += 1;
                memory.used = now;
            }
        }
    }

    /// Drops the candidate of the group, unless it is `except`.
    pub(super) fn supersede(
        &mut self,
        name: &Arc<str>,
        gate_request: &GateRequest,
        except: DeliverySeq,
        now: Millis,
    ) {
        let group = gate_request.snooze.map(|s| s.key);
        let stale = self.deliveries.iter().find(|(seq, h)| {
            **seq != except
                && h.candidate
                && h.pending.hook.name == *name
                && group.is_some()
                && h.gate_request.snooze.map(|s| s.key) == group
        });
        if let Some(stale) = stale.map(|(seq, _)| *seq) {
            self.finish(stale, DeliveryState::Dropped, Some(DeliveryReason::Superseded), now);
            self.count(name, &GateRequest { change: None, ..*gate_request }, now);
        }
    }

    pub(super) fn finish(
        &mut self,
        seq: DeliverySeq,
        state: DeliveryState,
        reason: Option<DeliveryReason>,
        at: Millis,
    ) {
        let entry = self.deliveries.get_mut(&seq).unwrap();
        (entry.record.state, entry.record.reason, entry.record.due) =
            (state, reason.map(|reason| reason.as_str().to_owned()), None);
        (entry.finished, entry.candidate) = (Some(at), false);
    }

    /// Clears the memory of a dead or cancelled delivery, and promotes the candidates behind it.
    pub(super) fn clear_memory_of(&mut self, seq: DeliverySeq, now: Millis) -> bool {
        let mut cleared = Vec::new();
        for (group, memory) in self.gates.iter_mut().filter(|(_, m)| m.owner == Some(seq)) {
            (memory.value, memory.until, memory.owner) = (None, None, None);
            cleared.push(group.clone());
        }
        let candidates: Vec<DeliverySeq> = self
            .deliveries
            .iter()
            .filter(|(_, h)| h.candidate)
            .filter(|(_, h)| {
                gate_groups(&h.pending.hook.name, &h.gate_request)[1]
                    .as_ref()
                    .is_some_and(|g| cleared.contains(g))
            })
            .map(|(seq, _)| *seq)
            .collect();
        for seq in &candidates {
            self.pass(*seq, now, now);
        }
        !candidates.is_empty()
    }

    pub(super) fn promote(&mut self, now: Millis) -> Vec<HookId> {
        let mut due: Vec<_> = self
            .deliveries
            .iter()
            .filter(|(_, h)| h.candidate && h.pending.due <= now)
            .map(|(seq, h)| (h.pending.due, *seq, h.pending.hook.clone()))
            .collect();
        due.sort();
        due.iter().for_each(|(_, seq, _)| self.pass(*seq, now, now));
        let mut hooks: Vec<_> = due.into_iter().map(|(.., hook)| hook).collect();
        hooks.sort();
        hooks.dedup();
        hooks
    }

    pub(super) fn make_pending(&mut self, seq: DeliverySeq, now: Millis) {
        let held_before = self.total_held(&self.deliveries[&seq].pending.hook.name, now);
        let entry = self.deliveries.get_mut(&seq).unwrap();
        (entry.record.state, entry.record.reason, entry.record.due) =
            (DeliveryState::Pending, None, Some(now));
        (entry.pending.due, entry.pending.accepted, entry.pending.attempts) = (now, now, 0);
        (entry.finished, entry.held_before) = (None, held_before);
        self.gates.values_mut().filter(|m| m.owner == Some(seq)).for_each(|m| m.owner = None);
    }

    pub(super) fn find(&self, id: Uuid) -> Option<(DeliverySeq, HookId, DeliveryState)> {
        let entry = self.deliveries.values().find(|h| h.record.id == id)?;
        Some((entry.record.seq, entry.record.hook.clone(), entry.record.state))
    }

    pub(super) fn replay(&mut self, id: Uuid, now: Millis) -> Option<HookId> {
        let (seq, hook, state) = self.find(id)?;
        if state != DeliveryState::Pending {
            self.make_pending(seq, now);
            self.deliveries.get_mut(&seq).unwrap().pending.replays += 1;
        }
        Some(hook)
    }

    /// Replays every finished delivery that finished by the time when the replay started.
    pub(super) fn replay_all(&mut self, started: Millis, now: Millis) {
        let finished =
            self.deliveries.values().filter(|entry| entry.finished.is_some_and(|at| at <= started));
        let ids: Vec<Uuid> = finished.map(|entry| entry.record.id).collect();
        ids.into_iter().for_each(|id| drop(self.replay(id, now)));
    }

    pub(super) fn cancel(&mut self, id: Uuid, now: Millis) -> Option<HookId> {
        let (seq, hook, state) = self.find(id)?;
        if state == DeliveryState::Pending {
            self.finish(seq, DeliveryState::Cancelled, None, now);
            self.clear_memory_of(seq, now);
        }
        Some(hook)
    }

    pub(super) fn set_held(&mut self, name: Arc<str>, held: bool, now: Millis) {
        let (total, since) = self.holds.entry(name).or_default();
        match (*since, held) {
            (None, true) => *since = Some(now),
            (Some(at), false) => (*total, *since) = (*total + now.since(at), None),
            _ => {}
        }
    }

    pub(super) fn total_held(&self, name: &Arc<str>, now: Millis) -> Duration {
        let (total, since) = self.holds.get(name).copied().unwrap_or_default();
        total + since.map_or(Duration::ZERO, |at| now.since(at))
    }

    pub(super) fn settle(&mut self, settlement: &Settlement) -> bool {
        let seq = settlement.delivery;
        let Some(entry) = self.deliveries.get_mut(&seq) else { return false };
        if entry.record.state != DeliveryState::Pending || entry.candidate {
            return false;
        }
        if let Some(attempt) = &settlement.attempt {
            entry.record.attempts.push(attempt.clone());
            entry.pending.attempts += 1;
        }
        entry.pending.progress = match (&settlement.progress, settlement.next) {
            (_, NextStep::Delivered) => Vec::new(),
            (Some(progress), _) => progress.clone(),
            (None, _) => std::mem::take(&mut entry.pending.progress),
        };
        match settlement.next {
            NextStep::Retry { due } => {
                let undecided = settlement.attempt.is_none();
                entry.record.reason = undecided.then(|| "Undecided".into());
                entry.pending.due = due;
                entry.record.due = Some(due);
                false
            }
            NextStep::Delivered => {
                self.finish(seq, DeliveryState::Delivered, None, settlement.at);
                false
            }
            NextStep::Dead { reason } => {
                self.finish(seq, DeliveryState::Dead, Some(reason), settlement.at);
                self.clear_memory_of(seq, settlement.at)
            }
        }
    }

    pub(super) fn sweep(&mut self, now: Millis) {
        self.deliveries.retain(|_, entry| {
            let age = match entry.record.state {
                DeliveryState::Pending => return true,
                DeliveryState::Dead => RETENTION.dead_letter_age,
                DeliveryState::Delivered | DeliveryState::Dropped | DeliveryState::Cancelled => {
                    RETENTION.history_age
                }
            };
            entry.finished.unwrap() + age > now
        });
        let unused = HOUR * 24 * 30;
        self.gates.retain(|_, m| m.used + unused > now || m.until.is_some_and(|until| until > now));
    }

    pub(super) fn due(&self, name: &str, now: Millis) -> Vec<PendingDelivery> {
        let mut due: Vec<_> = self.pending(name).filter(|p| p.due <= now).cloned().collect();
        due.sort_by_key(|p| (p.due, p.seq));
        for pending in &mut due {
            let entry = &self.deliveries[&pending.seq];
            pending.held = self.total_held(&pending.hook.name, now).saturating_sub(entry.held_before);
        }
        due
    }

    pub(super) fn pending(&self, name: &str) -> impl Iterator<Item = &PendingDelivery> {
        let hook = hook(name);
        self.deliveries
            .values()
            .filter(move |h| {
                h.record.state == DeliveryState::Pending && !h.candidate && h.pending.hook == hook
            })
            .map(|h| &h.pending)
    }

    pub(super) async fn compare(&mut self, store: &impl Store, now: Millis) {
        let mut backlog = Vec::new();
        for name in HOOKS {
            let uid = hook(name).uid;
            for at in [now, LATE] {
                assert_eq!(store.due_by(&uid, at, 1000).await.unwrap(), self.due(name, at));
            }
            let two = store.due_by(&uid, now, 2).await.unwrap();
            assert_eq!(two, self.due(name, now).into_iter().take(2).collect::<Vec<_>>());
            let next = self.pending(name).map(|p| p.due).filter(|due| *due > now).min();
            assert_eq!(store.next_due(&uid, now).await.unwrap(), next);
            if let Some(next_due) = self.pending(name).map(|p| p.due).min() {
                backlog.push(HookBacklog { hook: hook(name), next_due });
            }
        }
        let mut got = store.backlog().await.unwrap();
        got.sort_by(|a, b| a.hook.cmp(&b.hook));
        assert_eq!(got, backlog);
        let held = self.holds.iter().filter(|(_, (_, since))| since.is_some());
        let mut held: Vec<HookId> = held.map(|(name, _)| hook(name)).collect();
        held.sort();
        assert_eq!(store.held_hooks().await.unwrap(), held);
        let next = self.deliveries.values().filter(|h| h.candidate).map(|h| h.pending.due).min();
        assert_eq!(store.next_promotion().await.unwrap(), next);
        let records: BTreeMap<_, _> =
            self.deliveries.values().map(|h| (h.record.id, h.record.clone())).collect();
        for id in &self.ids {
            assert_eq!(store.delivery("shop", *id).await.unwrap(), records.get(id).cloned());
        }
        let in_shop = DeliveryFilter { namespace: "shop".into(), ..DeliveryFilter::default() };
        let dead =
            DeliveryFilter { state: Some(DeliveryState::Dead), hook: Some("x".into()), ..in_shop.clone() };
        let new = DeliveryFilter { since: Some(now), ..in_shop.clone() };
        let old = DeliveryFilter { until: Some(now), hook: Some("z".into()), ..in_shop.clone() };
        let delivered = DeliveryFilter { state: Some(DeliveryState::Delivered), ..in_shop.clone() };
        let of_hook = DeliveryFilter { hook: Some("y".into()), ..in_shop.clone() };
        let waiting = DeliveryFilter { state: Some(DeliveryState::Pending), ..of_hook.clone() };
        let matches = |f: &DeliveryFilter, r: &DeliveryRecord| {
            f.state.is_none_or(|s| s == r.state)
                && f.hook.as_ref().is_none_or(|h| **h == *r.hook.name)
                && f.since.is_none_or(|s| r.accepted >= s)
                && f.until.is_none_or(|u| r.accepted < u)
        };
        self.compare_stats(store).await;
        for filter in [in_shop, dead, new, old, delivered, of_hook, waiting] {
            let want: Vec<_> = self
                .deliveries
                .values()
                .rev()
                .map(|h| h.record.clone())
                .filter(|record| matches(&filter, record))
                .collect();
            let finished = want.iter().filter(|record| record.state != DeliveryState::Pending).count();
            let counted = store.count_finished(filter.clone(), None, 1000).await.unwrap();
            assert_eq!((counted.count, counted.next), (finished, None), "{filter:?}");
            let (first, rest) = want.split_at(want.len().min(3));
            let got = store.list(filter.clone(), None, 3).await.unwrap();
            let next = first.last().filter(|_| !rest.is_empty()).map(|last| last.seq);
            assert_eq!((got.records.as_slice(), got.next), (first, next));
            if let Some(last) = first.last() {
                let got = store.list(filter, Some(last.seq), 1000).await.unwrap();
                assert_eq!((got.records.as_slice(), got.next), (rest, None));
            }
        }
    }
}

impl Oracle {
    async fn compare_stats(&self, store: &impl Store) {
        let pending = || self.deliveries.values().filter(|h| h.record.state == DeliveryState::Pending);
        let stats = store.stats().await.unwrap();
        assert_eq!(stats.pending, pending().count() as u64);
        let mut largest = 0;
        for name in HOOKS {
            let of_hook = pending().filter(|h| &*h.record.hook.name == name).count() as u64;
            let measured = store.hook_stats(&hook(name).uid).await.unwrap();
            assert_eq!(measured.pending, of_hook, "{name}");
            largest = largest.max(measured.pending_bytes);
        }
        assert_eq!(stats.largest_hook_bytes, largest);
        assert_eq!(stats.pending_bytes, stats.largest_namespace_bytes, "there is one namespace");
    }
}

/// The groups of onChange and of snooze.
fn gate_groups(name: &Arc<str>, gate_request: &GateRequest) -> [Option<Group>; 2] {
    [
        gate_request.change.map(|c| (name.clone(), false, c.key)),
        gate_request.snooze.map(|s| (name.clone(), true, s.key)),
    ]
}
