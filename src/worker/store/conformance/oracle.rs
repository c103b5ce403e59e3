//! A store as simple as it can be written.

use std::collections::BTreeMap;

use super::*;
use crate::core::gate::{Memory, Verdict};

pub(super) const HOOKS: [&str; 3] = ["x", "y", "z"];

#[derive(Clone)]
pub(super) struct Held {
    pub(super) pending: Pending,
    pub(super) record: Record,
    pub(super) finished: Option<Millis>,
    pub(super) asked: Asked,
    candidate: bool,
    /// For how long its hook was held before it.
    pub(super) base: Duration,
    /// For how long it was put off because nobody could decide on it.
    pub(super) put_off: Duration,
}

/// What a gate remembers of a group.
#[derive(Clone, Copy, Default)]
pub(super) struct Mem {
    value: Option<[u8; 16]>,
    until: Option<Millis>,
    owner: Option<Seq>,
    suppressed: u32,
    used: Millis,
}

pub(super) type Group = (Arc<str>, bool, [u8; 16]);

#[derive(Default)]
pub(super) struct Oracle {
    pub(super) held: BTreeMap<Seq, Held>,
    pub(super) keys: BTreeMap<u8, (Millis, Accepted)>,
    pub(super) highest: (Seq, Seq),
    pub(super) ids: Vec<Uuid>,
    pub(super) gates: BTreeMap<Group, Mem>,
    pub(super) holds: BTreeMap<Arc<str>, (Duration, Option<Millis>)>,
}

impl Oracle {
    /// What the answer must be, and from the answer the numbers.
    pub(super) fn accept(&mut self, events: &[(u8, NewEvent)], got: &[Accepted], now: Millis) {
        assert_eq!(events.len(), got.len());
        if events.is_empty() {
            return;
        }
        let mut promoted = self.promote(now);
        for ((key, new), got) in events.iter().zip(got) {
            if let Some((_, first)) = self.keys.get(key).filter(|(expires, _)| *expires > now).cloned() {
                let mut want = Accepted { duplicate: true, ..first };
                want.deliveries.retain(|d| self.held.contains_key(&d.seq));
                want.woken = Vec::new();
                for delivery in &mut want.deliveries {
                    let held = &self.held[&delivery.seq];
                    let wanted = new.deliveries.iter().any(|d| d.hook == held.record.hook);
                    if wanted && matches!(held.record.reason.as_deref(), Some("MaxAge" | "MaxAttempts")) {
                        want.woken.push(held.record.hook.clone());
                        self.raise(delivery.seq, now);
                    }
                    delivery.fate = self.fate(delivery.seq);
                }
                want.woken.append(&mut promoted);
                assert_eq!(*got, want);
                continue;
            }
            assert!(!got.duplicate && got.event_id == new.event.id && got.seq > self.highest.0, "{got:?}");
            assert_eq!((&got.woken, got.deliveries.len()), (&promoted, new.deliveries.len()));
            promoted.clear();
            self.highest.0 = got.seq;
            if let Some(dedup) = &new.dedup {
                self.keys.insert(*key, (now + dedup.window, got.clone()));
            }
            for (delivery, got) in new.deliveries.iter().zip(&got.deliveries) {
                assert!(got.seq > self.highest.1);
                self.highest.1 = got.seq;
                self.ids.push(delivery.id);
                self.deliver(got.seq, delivery, new, now);
                assert_eq!(got.fate, self.fate(got.seq));
            }
        }
    }

    pub(super) fn fate(&self, seq: Seq) -> Fate {
        let held = &self.held[&seq];
        match held.record.state {
            State::Pending if held.candidate => Fate::Candidate { due: held.pending.due },
            State::Pending => Fate::Pending { due: held.pending.due, suppressed: held.pending.suppressed },
            State::Dead => Fate::Dead,
            State::Dropped => Fate::Dropped,
            State::Delivered | State::Cancelled => Fate::Ended,
        }
    }

    pub(super) fn deliver(&mut self, seq: Seq, delivery: &NewDelivery, new: &NewEvent, now: Millis) {
        let (id, hook, due) = (delivery.id, delivery.hook.clone(), delivery.due);
        let event_id = new.event.id.clone();
        let event = new.event.clone();
        let record = Record {
            seq,
            id,
            hook: hook.clone(),
            event_id,
            state: State::Pending,
            reason: None,
            accepted: now,
            due: Some(due),
            attempts: Vec::new(),
        };
        let pending = Pending {
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
        let base = self.held_for(&hook.name, now);
        let (asked, candidate) = (delivery.asked, false);
        self.held.insert(
            seq,
            Held { pending, record, finished: None, asked, candidate, base, put_off: Duration::ZERO },
        );
        if let Some(reason) = delivery.dead {
            return self.finish(seq, State::Dead, Some(reason), now);
        }
        let [change, snooze] =
            groups(&hook.name, &asked).map(|g| g.and_then(|g| self.gates.get(&g).copied()));
        let memory =
            Memory { value: change.and_then(|m| m.value), quiet_until: snooze.and_then(|m| m.until) };
        match asked.decide(memory, now) {
            Verdict::Deliver => {
                self.supersede(&hook.name, &asked, seq, now);
                self.go(seq, due, now);
            }
            Verdict::Unchanged => {
                self.count(&hook.name, &Asked { snooze: None, ..asked }, now);
                self.supersede(&hook.name, &asked, seq, now);
                self.finish(seq, State::Dropped, Some("Unchanged"), now);
            }
            Verdict::Snoozed { candidate: false, .. } => {
                self.count(&hook.name, &Asked { change: None, ..asked }, now);
                self.finish(seq, State::Dropped, Some("Snoozed"), now);
            }
            Verdict::Snoozed { candidate: true, until } => {
                self.supersede(&hook.name, &asked, seq, now);
                let held = self.held.get_mut(&seq).unwrap();
                (held.candidate, held.pending.due, held.record.due) = (true, until, Some(until));
            }
        }
    }

    /// It goes out: what was dropped before goes with it, and it sets both memories.
    pub(super) fn go(&mut self, seq: Seq, due: Millis, now: Millis) {
        let (name, asked) = (self.held[&seq].pending.hook.name.clone(), self.held[&seq].asked);
        let mut suppressed = 0;
        for group in groups(&name, &asked).into_iter().flatten() {
            let memory = self.gates.entry(group.clone()).or_default();
            suppressed += memory.suppressed;
            let (value, until) = match group.1 {
                true => (None, asked.snooze.map(|s| now + s.rule.period)),
                false => (asked.change.map(|c| c.value), None),
            };
            *memory = Mem { value, until, owner: Some(seq), suppressed: 0, used: now };
        }
        let held = self.held.get_mut(&seq).unwrap();
        (held.candidate, held.pending.due, held.record.due) = (false, due, Some(due));
        held.pending.suppressed = suppressed;
    }

    pub(super) fn count(&mut self, name: &Arc<str>, asked: &Asked, now: Millis) {
        for group in groups(name, asked).into_iter().flatten() {
            if let Some(memory) = self.gates.get_mut(&group) {
                memory.suppressed += 1;
                memory.used = now;
            }
        }
    }

    /// Drops the candidate of the group, if another than this one is.
    pub(super) fn supersede(&mut self, name: &Arc<str>, asked: &Asked, but: Seq, now: Millis) {
        let group = asked.snooze.map(|s| s.key);
        let stale = self.held.iter().find(|(seq, h)| {
            **seq != but
                && h.candidate
                && h.pending.hook.name == *name
                && group.is_some()
                && h.asked.snooze.map(|s| s.key) == group
        });
        if let Some(stale) = stale.map(|(seq, _)| *seq) {
            self.finish(stale, State::Dropped, Some("Superseded"), now);
            self.count(name, &Asked { change: None, ..*asked }, now);
        }
    }

    pub(super) fn finish(&mut self, seq: Seq, state: State, reason: Option<&str>, at: Millis) {
        let held = self.held.get_mut(&seq).unwrap();
        (held.record.state, held.record.reason, held.record.due) = (state, reason.map(Into::into), None);
        (held.finished, held.candidate) = (Some(at), false);
    }

    /// It died or was cancelled: its memories go, and the candidates behind them go out.
    pub(super) fn forget(&mut self, seq: Seq, now: Millis) -> bool {
        let mut freed = Vec::new();
        for (group, memory) in self.gates.iter_mut().filter(|(_, m)| m.owner == Some(seq)) {
            (memory.value, memory.until, memory.owner) = (None, None, None);
            freed.push(group.clone());
        }
        let waiting: Vec<Seq> = self
            .held
            .iter()
            .filter(|(_, h)| h.candidate)
            .filter(|(_, h)| {
                groups(&h.pending.hook.name, &h.asked)[1].as_ref().is_some_and(|g| freed.contains(g))
            })
            .map(|(seq, _)| *seq)
            .collect();
        for seq in &waiting {
            self.go(*seq, now, now);
        }
        !waiting.is_empty()
    }

    pub(super) fn promote(&mut self, now: Millis) -> Vec<HookId> {
        let mut due: Vec<_> = self
            .held
            .iter()
            .filter(|(_, h)| h.candidate && h.pending.due <= now)
            .map(|(seq, h)| (h.pending.due, *seq, h.pending.hook.clone()))
            .collect();
        due.sort();
        due.iter().for_each(|(_, seq, _)| self.go(*seq, now, now));
        let mut hooks: Vec<_> = due.into_iter().map(|(.., hook)| hook).collect();
        hooks.sort();
        hooks.dedup();
        hooks
    }

    pub(super) fn raise(&mut self, seq: Seq, now: Millis) {
        let base = self.held_for(&self.held[&seq].pending.hook.name, now);
        let held = self.held.get_mut(&seq).unwrap();
        (held.record.state, held.record.reason, held.record.due) = (State::Pending, None, Some(now));
        (held.pending.due, held.pending.accepted, held.pending.attempts) = (now, now, 0);
        (held.finished, held.base, held.put_off) = (None, base, Duration::ZERO);
        self.gates.values_mut().filter(|m| m.owner == Some(seq)).for_each(|m| m.owner = None);
    }

    pub(super) fn by_id(&self, id: Uuid) -> Option<(Seq, HookId, State)> {
        let held = self.held.values().find(|h| h.record.id == id)?;
        Some((held.record.seq, held.record.hook.clone(), held.record.state))
    }

    pub(super) fn replay(&mut self, id: Uuid, now: Millis) -> Option<HookId> {
        let (seq, hook, state) = self.by_id(id)?;
        if state != State::Pending {
            self.raise(seq, now);
            self.held.get_mut(&seq).unwrap().pending.replays += 1;
        }
        Some(hook)
    }

    pub(super) fn cancel(&mut self, id: Uuid, now: Millis) -> Option<HookId> {
        let (seq, hook, state) = self.by_id(id)?;
        if state == State::Pending {
            self.finish(seq, State::Cancelled, None, now);
            self.forget(seq, now);
        }
        Some(hook)
    }

    pub(super) fn hold(&mut self, name: Arc<str>, held: bool, now: Millis) {
        let (total, since) = self.holds.entry(name).or_default();
        match (*since, held) {
            (None, true) => *since = Some(now),
            (Some(at), false) => (*total, *since) = (*total + now.since(at), None),
            _ => {}
        }
    }

    pub(super) fn held_for(&self, name: &Arc<str>, now: Millis) -> Duration {
        let (total, since) = self.holds.get(name).copied().unwrap_or_default();
        total + since.map_or(Duration::ZERO, |at| now.since(at))
    }

    pub(super) fn settle(&mut self, settlement: &Settlement) -> bool {
        let seq = settlement.delivery;
        let Some(held) = self.held.get_mut(&seq) else { return false };
        if held.record.state != State::Pending || held.candidate {
            return false;
        }
        if let Some(attempt) = &settlement.attempt {
            held.record.attempts.push(attempt.clone());
            held.pending.attempts += 1;
        }
        held.pending.progress = match (&settlement.progress, settlement.next) {
            (_, Next::Delivered) => Vec::new(),
            (Some(progress), _) => progress.clone(),
            (None, _) => std::mem::take(&mut held.pending.progress),
        };
        match settlement.next {
            Next::Retry { due } => {
                let put_off = settlement.attempt.is_none();
                held.record.reason = put_off.then(|| "Undecided".into());
                if put_off {
                    held.put_off += due.since(settlement.at);
                }
                held.pending.due = due;
                held.record.due = Some(due);
                false
            }
            Next::Delivered => {
                self.finish(seq, State::Delivered, None, settlement.at);
                false
            }
            Next::Dead { reason } => {
                self.finish(seq, State::Dead, Some(reason), settlement.at);
                self.forget(seq, settlement.at)
            }
        }
    }

    pub(super) fn sweep(&mut self, now: Millis) {
        self.held.retain(|_, held| {
            let age = match held.record.state {
                State::Pending => return true,
                State::Dead => RETENTION.dead_letter_age,
                State::Delivered | State::Dropped | State::Cancelled => RETENTION.history_age,
            };
            held.finished.unwrap() + age > now
        });
        let unused = HOUR * 24 * 30;
        self.gates.retain(|_, m| m.used + unused > now || m.until.is_some_and(|until| until > now));
    }

    pub(super) fn due(&self, name: &str, now: Millis) -> Vec<Pending> {
        let mut due: Vec<_> = self.pending(name).filter(|p| p.due <= now).cloned().collect();
        due.sort_by_key(|p| (p.due, p.seq));
        for pending in &mut due {
            let held = &self.held[&pending.seq];
            pending.held = self.held_for(&pending.hook.name, now).saturating_sub(held.base) + held.put_off;
        }
        due
    }

    pub(super) fn pending(&self, name: &str) -> impl Iterator<Item = &Pending> {
        let hook = hook(name);
        self.held
            .values()
            .filter(move |h| h.record.state == State::Pending && !h.candidate && h.pending.hook == hook)
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
                backlog.push(Backlog { hook: hook(name), next_due });
            }
        }
        let mut got = store.backlog().await.unwrap();
        got.sort_by(|a, b| a.hook.cmp(&b.hook));
        assert_eq!(got, backlog);
        let held = self.holds.iter().filter(|(_, (_, since))| since.is_some());
        let mut held: Vec<HookId> = held.map(|(name, _)| hook(name)).collect();
        held.sort();
        assert_eq!(store.held().await.unwrap(), held);
        let next = self.held.values().filter(|h| h.candidate).map(|h| h.pending.due).min();
        assert_eq!(store.next_promotion().await.unwrap(), next);
        let records: BTreeMap<_, _> = self.held.values().map(|h| (h.record.id, h.record.clone())).collect();
        for id in &self.ids {
            assert_eq!(store.delivery("shop", *id).await.unwrap(), records.get(id).cloned());
        }
        let in_shop = Filter { namespace: "shop".into(), ..Filter::default() };
        let dead = Filter { state: Some(State::Dead), hook: Some("x".into()), ..in_shop.clone() };
        let new = Filter { since: Some(now), ..in_shop.clone() };
        let means = |f: &Filter, r: &Record| {
            f.state.is_none_or(|s| s == r.state)
                && f.hook.as_ref().is_none_or(|h| **h == *r.hook.name)
                && f.since.is_none_or(|s| r.accepted >= s)
        };
        for filter in [in_shop, dead, new] {
            let want: Vec<_> = self
                .held
                .values()
                .rev()
                .map(|h| h.record.clone())
                .filter(|record| means(&filter, record))
                .collect();
            let (first, rest) = want.split_at(want.len().min(3));
            let got = store.list(filter.clone(), None, 3).await.unwrap();
            assert_eq!(got, first);
            if let Some(last) = first.last() {
                assert_eq!(store.list(filter, Some(last.seq), 1000).await.unwrap(), rest);
            }
        }
    }
}

/// The groups of onChange and of snooze.
fn groups(name: &Arc<str>, asked: &Asked) -> [Option<Group>; 2] {
    [asked.change.map(|c| (name.clone(), false, c.key)), asked.snooze.map(|s| (name.clone(), true, s.key))]
}
