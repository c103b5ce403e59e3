//! A store as simple as it can be written, and the test that walks an engine and it side by side.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

const HOOKS: [&str; 3] = ["x", "y", "z"];

#[derive(Clone, Debug)]
enum Step {
    /// Events with a key (0: none) and hooks (bits).
    Accept(Vec<(u8, u8, u64)>),
    Settle(prop::sample::Index, Outcome),
    /// Lets time pass.
    Wait(u64),
    Sweep,
    Reopen,
}

#[derive(Clone, Copy, Debug)]
enum Outcome {
    Delivered,
    Retry(u64),
    Dead,
    DeadOfAge,
    /// Not now, and no attempt was made.
    Postponed,
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![
        Just(Outcome::Delivered),
        (0..90_000_u64).prop_map(Outcome::Retry),
        Just(Outcome::Dead),
        Just(Outcome::DeadOfAge),
        Just(Outcome::Postponed),
    ];
    prop_oneof![
        6 => prop::collection::vec((0..4_u8, 0..8_u8, 0..60_u64), 0..4).prop_map(Step::Accept),
        6 => (any::<prop::sample::Index>(), outcome).prop_map(|(which, outcome)| Step::Settle(which, outcome)),
        3 => prop_oneof![0..60_u64, 0..100_000_u64].prop_map(Step::Wait),
        1 => Just(Step::Sweep),
        1 => Just(Step::Reopen),
    ]
}

#[derive(Clone)]
struct Held {
    pending: Pending,
    record: Record,
    finished: Option<Millis>,
}

#[derive(Default)]
struct Oracle {
    held: BTreeMap<Seq, Held>,
    keys: BTreeMap<u8, (Millis, Accepted)>,
    highest: (Seq, Seq),
    ids: Vec<Uuid>,
}

impl Oracle {
    /// What the answer must be, and from the answer the numbers.
    fn accept(&mut self, events: &[(u8, NewEvent)], got: &[Accepted], now: Millis) {
        assert_eq!(events.len(), got.len());
        for ((key, new), got) in events.iter().zip(got) {
            if let Some((_, first)) = self.keys.get(key).filter(|(expires, _)| *expires > now) {
                let mut want = Accepted { duplicate: true, ..first.clone() };
                want.deliveries.retain(|d| self.held.contains_key(&d.seq));
                for delivery in &mut want.deliveries {
                    let record = &self.held[&delivery.seq].record;
                    delivery.fate = match (record.state, record.due) {
                        (State::Pending, Some(due)) => Fate::Pending { due, suppressed: 0 },
                        (State::Dead, _) => Fate::Dead,
                        _ => Fate::Ended,
                    };
                }
                assert_eq!(*got, want);
                continue;
            }
            assert!(!got.duplicate && got.event_id == new.event.id && got.seq > self.highest.0, "{got:?}");
            assert_eq!(got.deliveries.len(), new.deliveries.len());
            self.highest.0 = got.seq;
            if let Some(dedup) = &new.dedup {
                self.keys.insert(*key, (now + dedup.window, got.clone()));
            }
            for (delivery, got) in new.deliveries.iter().zip(&got.deliveries) {
                assert!(got.seq > self.highest.1);
                self.highest.1 = got.seq;
                self.ids.push(delivery.id);
                self.hold(got.seq, delivery, new, now);
            }
        }
    }

    fn hold(&mut self, seq: Seq, delivery: &NewDelivery, new: &NewEvent, now: Millis) {
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
            hook,
            event,
            accepted: now,
            attempts: 0,
            due,
            held: Duration::ZERO,
            suppressed: 0,
            replays: 0,
        };
        self.held.insert(seq, Held { pending, record, finished: None });
    }

    fn settle(&mut self, settlement: &Settlement) {
        let Some(held) = self.held.get_mut(&settlement.delivery) else { return };
        if held.record.state != State::Pending {
            return;
        }
        if let Some(attempt) = &settlement.attempt {
            held.record.attempts.push(attempt.clone());
            held.pending.attempts += 1;
        }
        let ended = settlement.at;
        (held.record.state, held.finished) = match settlement.next {
            Next::Retry { due } => {
                held.pending.due = due;
                held.record.due = Some(due);
                return;
            }
            Next::Delivered => (State::Delivered, Some(ended)),
            Next::Dead { reason } => {
                held.record.reason = Some(reason.into());
                (State::Dead, Some(ended))
            }
        };
        held.record.due = None;
    }

    fn sweep(&mut self, now: Millis) {
        self.held.retain(|_, held| {
            let age = match held.record.state {
                State::Pending => return true,
                State::Delivered => RETENTION.history_age,
                State::Dead => RETENTION.dead_letter_age,
                State::Dropped | State::Cancelled => RETENTION.history_age,
            };
            held.finished.unwrap() + age > now
        });
    }

    fn due(&self, name: &str, now: Millis) -> Vec<Pending> {
        let mut due: Vec<_> = self.pending(name).filter(|p| p.due <= now).cloned().collect();
        due.sort_by_key(|p| (p.due, p.seq));
        due
    }

    fn pending(&self, name: &str) -> impl Iterator<Item = &Pending> {
        let hook = hook(name);
        self.held
            .values()
            .filter(move |h| h.record.state == State::Pending && h.pending.hook == hook)
            .map(|h| &h.pending)
    }

    async fn compare(&mut self, store: &impl Store, now: Millis) {
        let mut backlog = Vec::new();
        for name in HOOKS {
            let uid = hook(name).uid;
            for at in [now, LATE] {
                assert_eq!(store.due(&uid, at, 1000).await.unwrap(), self.due(name, at));
            }
            let two = store.due(&uid, now, 2).await.unwrap();
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
        let records: BTreeMap<_, _> = self.held.values().map(|h| (h.record.id, h.record.clone())).collect();
        for id in &self.ids {
            assert_eq!(store.delivery("shop", *id).await.unwrap(), records.get(id).cloned());
        }
    }
}

async fn walk<S: Subject>(steps: Vec<Step>) {
    let place = S::new();
    let mut now = T0;
    let mut store = place.open().await;
    let mut oracle = Oracle::default();
    let mut count = 0_usize;
    for step in steps {
        match step {
            Step::Accept(events) => {
                let events: Vec<_> = events
                    .into_iter()
                    .map(|(k, bits, wait)| {
                        count += 1;
                        let hooks: Vec<_> = HOOKS
                            .iter()
                            .enumerate()
                            .filter(|(n, _)| bits >> n & 1 == 1)
                            .map(|(_, h)| *h)
                            .collect();
                        let due = now + Duration::from_secs(wait);
                        let window = HOUR * [0, 1, 30, 80][usize::from(k)];
                        let dedup = if k == 0 { None } else { key(k, window) };
                        (k, NewEvent { dedup, ..new(&format!("e{count}"), &hooks, due) })
                    })
                    .collect();
                let asked = events.iter().map(|(_, new)| new.clone()).collect();
                let got = store.accept(asked, now).await.unwrap();
                oracle.accept(&events, &got, now);
            }
            Step::Settle(which, outcome) => {
                let known: Vec<Seq> = oracle.held.keys().copied().collect();
                // Sometimes one that does not exist.
                let delivery = known.get(which.index(known.len() + 1)).copied().unwrap_or(987_654);
                let settlement = match outcome {
                    Outcome::Delivered => settled(delivery, now, 200, Next::Delivered),
                    Outcome::Retry(s) => {
                        settled(delivery, now, 503, Next::Retry { due: now + Duration::from_secs(s) })
                    }
                    Outcome::Dead => settled(delivery, now, 400, Next::Dead { reason: "Terminal" }),
                    Outcome::Postponed => Settlement {
                        delivery,
                        at: now,
                        attempt: None,
                        next: Next::Retry { due: now + MINUTE },
                    },
                    Outcome::DeadOfAge => {
                        Settlement { delivery, at: now, attempt: None, next: Next::Dead { reason: "MaxAge" } }
                    }
                };
                store.settle(settlement.clone()).await.unwrap();
                oracle.settle(&settlement);
            }
            Step::Wait(seconds) => now = now + Duration::from_secs(seconds),
            Step::Sweep => {
                sweep_all(&store, now).await;
                oracle.sweep(now);
            }
            Step::Reopen => {
                drop(store);
                store = place.open().await;
            }
        }
        oracle.compare(&store, now).await;
    }
}

pub(in super::super) fn model<S: Subject>() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let config = Config { cases: 48, max_shrink_iters: 200, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&prop::collection::vec(step(), 1..40), |steps| {
            runtime.block_on(walk::<S>(steps));
            Ok(())
        })
        .unwrap();
}
