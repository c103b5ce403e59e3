//! The store of the simulation: deliveries in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::core::fast_map::FastSet;
use crate::core::retry::NextStep;
use crate::core::time::Millis;
use crate::worker::store::{DeliverySeq, DueDeliveries, HookBacklog, HookId, PendingDelivery, ReadLimit};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Pending,
    Delivered,
    Dead,
    Cancelled,
}

#[derive(Default)]
pub struct SimStore {
    deliveries: BTreeMap<DeliverySeq, (PendingDelivery, State)>,
    /// The pending deliveries of each hook, by due time.
    due: HashMap<Arc<str>, BTreeSet<(Millis, DeliverySeq)>>,
    events: i64,
    pending: usize,
}

impl SimStore {
    pub fn next_event(&mut self) -> i64 {
        self.events += 1;
        self.events
    }

    pub fn insert(&mut self, pending: PendingDelivery) {
        self.due.entry(pending.hook.uid.clone()).or_default().insert((pending.due, pending.seq));
        self.deliveries.insert(pending.seq, (pending, State::Pending));
        self.pending += 1;
    }

    pub fn pending(&self) -> usize {
        self.pending
    }

    pub fn hooks_with_pending(&self) -> impl Iterator<Item = (&Arc<str>, usize)> {
        self.due.iter().filter(|(_, due)| !due.is_empty()).map(|(uid, due)| (uid, due.len()))
    }

    pub fn is_pending_or_cancelled(&self, seq: DeliverySeq) -> bool {
        matches!(self.deliveries.get(&seq), Some((_, State::Pending | State::Cancelled)))
    }

    pub fn count(&self, state: State) -> usize {
        self.deliveries.values().filter(|(_, found)| *found == state).count()
    }

    /// Returns the delivery at this position among those in this state, with its hook.
    pub fn pick(&self, state: State, at: usize) -> Option<(HookId, DeliverySeq)> {
        let found = self.deliveries.values().filter(|(_, found)| *found == state).nth(at)?;
        Some((found.0.hook.clone(), found.0.seq))
    }

    /// Settles a delivery. False: it is not pending any more.
    pub fn settle(&mut self, seq: DeliverySeq, next: NextStep) -> bool {
        match next {
            NextStep::Delivered => self.end(seq, State::Delivered),
            NextStep::Dead { .. } => self.end(seq, State::Dead),
            NextStep::Retry { due } => {
                let Some((pending, State::Pending)) = self.deliveries.get_mut(&seq) else { return false };
                let of_hook = self.due.entry(pending.hook.uid.clone()).or_default();
                of_hook.remove(&(pending.due, seq));
                pending.due = due;
                pending.attempts += 1;
                of_hook.insert((due, seq));
                true
            }
        }
    }

    pub fn end(&mut self, seq: DeliverySeq, end: State) -> bool {
        let Some((pending, state @ State::Pending)) = self.deliveries.get_mut(&seq) else { return false };
        *state = end;
        self.pending -= 1;
        self.due.entry(pending.hook.uid.clone()).or_default().remove(&(pending.due, seq));
        true
    }

    pub fn replay(&mut self, seq: DeliverySeq, now: Millis) {
        let Some((pending, state)) = self.deliveries.get_mut(&seq) else { return };
        *state = State::Pending;
        (pending.due, pending.accepted, pending.attempts) = (now, now, 0);
        self.pending += 1;
        self.due.entry(pending.hook.uid.clone()).or_default().insert((now, seq));
    }

    pub fn end_all(&mut self, uid: &str) {
        let all: Vec<_> = self.due.get(uid).into_iter().flatten().map(|(_, seq)| *seq).collect();
        for seq in all {
            self.end(seq, State::Dead);
        }
    }

    pub fn transfer(&mut self, from: &HookId, to: &HookId) {
        for (due, seq) in self.due.remove(&from.uid).unwrap_or_default() {
            if let Some((pending, _)) = self.deliveries.get_mut(&seq) {
                pending.hook = to.clone();
            }
            self.due.entry(to.uid.clone()).or_default().insert((due, seq));
        }
    }

    pub fn backlogs(&self) -> Vec<HookBacklog> {
        let first = self.due.values().filter_map(|due| due.first());
        first
            .filter_map(|(due, seq)| {
                let hook = self.deliveries.get(seq)?.0.hook.clone();
                Some(HookBacklog { hook, next_due: *due })
            })
            .collect()
    }

    /// Reads as `store_jobs::load` does.
    pub fn read(
        &self,
        uid: &str,
        now: Millis,
        exclude: &FastSet<DeliverySeq>,
        limit: ReadLimit,
        untried: usize,
    ) -> (DueDeliveries, Option<Millis>) {
        let Some(of_hook) = self.due.get(uid) else { return (DueDeliveries::default(), None) };
        let next_due = of_hook.iter().map(|(due, _)| *due).find(|due| *due > now);
        let due =
            || of_hook.iter().take_while(|(due, _)| *due <= now).filter(|(_, seq)| !exclude.contains(seq));
        let delivery = |seq: &DeliverySeq| self.deliveries.get(seq).map(|(pending, _)| pending.clone());
        let mut newest: Vec<_> = match untried {
            0 => Vec::new(),
            _ => due().filter_map(|(_, seq)| delivery(seq)).filter(|pending| pending.attempts == 0).collect(),
        };
        newest.sort_by_key(|pending| -pending.seq);
        newest.truncate(untried.min(limit.rows));
        let mut bytes = 0;
        newest.retain(|pending| {
            bytes += pending.event.data.get().len();
            bytes <= limit.bytes
        });
        bytes = newest.iter().map(|pending| pending.event.data.get().len()).sum();
        let mut found = DueDeliveries::default();
        for (_, seq) in due().filter(|(_, seq)| newest.iter().all(|pending| pending.seq != *seq)) {
            let pending = delivery(seq).expect("the delivery of an index entry");
            let len = pending.event.data.get().len();
            if found.pending.len() + newest.len() >= limit.rows || bytes + len > limit.bytes {
                found.has_more = true;
                let is_first = found.pending.is_empty() && newest.is_empty();
                found.too_large = (is_first && bytes + len > limit.bytes).then_some(len);
                break;
            }
            bytes += len;
            found.pending.push(pending);
        }
        found.pending.append(&mut newest);
        (found, next_due)
    }
}
