//! The model test: random steps on an engine and the oracle, compared after each step.

use crate::core::delivery_reason::DeliveryReason;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::oracle::{HOOKS, Oracle};
use super::*;
use crate::core::gate::{ChangeCheck, Snooze, SnoozeCheck};

#[derive(Clone, Debug)]
enum Step {
    /// Events: idempotency key (0: none), hooks (bits), seconds until due, gate request.
    Accept(Vec<(u8, u8, u64, GateChoice)>),
    Settle(prop::sample::Index, SettleOutcome),
    /// Advances the clock by seconds.
    Wait(u64),
    Sweep,
    Promote,
    Replay(prop::sample::Index),
    /// Replays everything in bulk.
    ReplayAll,
    Cancel(prop::sample::Index),
    Hold(u8, bool),
    Reopen,
}

/// A gate request: rules (bits), group, value.
type GateChoice = (u8, u8, u8);

fn gate_request((rules, group, value): GateChoice) -> GateRequest {
    let rule = Snooze { period: MINUTE, trailing: rules & 4 != 0 };
    GateRequest {
        change: (rules & 1 != 0).then_some(ChangeCheck { key: [group / 2; 16], value: [value; 16] }),
        snooze: (rules & 2 != 0).then_some(SnoozeCheck { key: [group; 16], rule }),
    }
}

#[derive(Clone, Copy, Debug)]
enum SettleOutcome {
    Delivered,
    Retry(u64),
    Dead,
    DeadOfAge,
    /// Postponed without an attempt.
    Postponed,
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![
        Just(SettleOutcome::Delivered),
        (0..90_000_u64).prop_map(SettleOutcome::Retry),
        Just(SettleOutcome::Dead),
        Just(SettleOutcome::DeadOfAge),
        Just(SettleOutcome::Postponed),
    ];
    // Half of the events have no gates and are due at once, so that an engine may store them in another way. One choice in
    // 18 means dead on arrival.
    let choice = (prop_oneof![Just(0), 0..9_u8], 0..3_u8, 0..2_u8);
    let wait = prop_oneof![3 => Just(0), 1 => 0..60_u64];
    prop_oneof![
        8 => prop::collection::vec((0..4_u8, 0..8_u8, wait, choice), 0..4).prop_map(Step::Accept),
        6 => (any::<prop::sample::Index>(), outcome).prop_map(|(which, outcome)| Step::Settle(which, outcome)),
        3 => prop_oneof![0..60_u64, 0..100_000_u64].prop_map(Step::Wait),
        1 => Just(Step::Sweep),
        1 => Just(Step::Promote),
        2 => any::<prop::sample::Index>().prop_map(Step::Replay),
        1 => Just(Step::ReplayAll),
        1 => any::<prop::sample::Index>().prop_map(Step::Cancel),
        1 => (0..3_u8, any::<bool>()).prop_map(|(hook, held)| Step::Hold(hook, held)),
        1 => Just(Step::Reopen),
    ]
}

/// Runs the steps. The flag of a step says whether to compare after it, because an engine may defer work to the next read.
async fn run_steps<S: Subject>(steps: Vec<(Step, bool)>) {
    let subject = S::new();
    let mut now = T0;
    let mut store = subject.open().await;
    let mut oracle = Oracle::default();
    let mut count = 0_usize;
    for (step, compare) in steps {
        match step {
            Step::Accept(events) => {
                let events: Vec<_> = events
                    .into_iter()
                    .map(|(k, bits, wait, choice)| {
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
                        let mut new = NewEvent { dedup, ..new(&format!("e{count}"), &hooks, due) };
                        for delivery in &mut new.deliveries {
                            delivery.gate_request = gate_request(choice);
                            delivery.dead = (choice.0 == 8).then_some(DeliveryReason::HookDeleted);
                        }
                        (k, new)
                    })
                    .collect();
                let new = events.iter().map(|(_, new)| new.clone()).collect();
                let got = store.accept(new, now).await.unwrap();
                oracle.accept(&events, &got, now);
            }
            Step::Settle(which, outcome) => {
                let all: Vec<DeliverySeq> = oracle.deliveries.keys().copied().collect();
                // Sometimes a delivery that does not exist.
                let delivery = all.get(which.index(all.len() + 1)).copied().unwrap_or(987_654);
                let settlement = match outcome {
                    SettleOutcome::Delivered => settled(delivery, now, 200, NextStep::Delivered),
                    SettleOutcome::Retry(s) => {
                        let next = NextStep::Retry { due: now + Duration::from_secs(s) };
                        let progress = (s % 2 == 0).then(|| s.to_be_bytes().to_vec());
                        Settlement { progress, ..settled(delivery, now, 503, next) }
                    }
                    SettleOutcome::Dead => {
                        settled(delivery, now, 400, NextStep::Dead { reason: DeliveryReason::TerminalStatus })
                    }
                    SettleOutcome::Postponed => Settlement {
                        delivery,
                        at: now,
                        attempt: None,
                        next: NextStep::Retry { due: now + MINUTE },
                        progress: None,
                        exchange: ExchangeChange::Nothing,
                    },
                    SettleOutcome::DeadOfAge => {
                        let next = NextStep::Dead { reason: DeliveryReason::MaxAge };
                        Settlement {
                            delivery,
                            at: now,
                            attempt: None,
                            next,
                            progress: None,
                            exchange: ExchangeChange::Nothing,
                        }
                    }
                };
                let promoted = store.settle(settlement.clone()).await.unwrap();
                assert_eq!(promoted, oracle.settle(&settlement));
            }
            Step::Wait(seconds) => now = now + Duration::from_secs(seconds),
            Step::Sweep => {
                sweep_all(&store, now).await;
                oracle.sweep(now);
            }
            Step::Promote => assert_eq!(store.promote(now).await.unwrap(), oracle.promote(now)),
            Step::Replay(which) => {
                let id = which.get(&[oracle.ids.clone(), vec![Uuid::nil()]].concat()).to_owned();
                assert_eq!(store.replay("shop", id, now).await.unwrap(), oracle.replay(id, now));
            }
            Step::ReplayAll => {
                let filter = DeliveryFilter { namespace: "shop".into(), ..DeliveryFilter::default() };
                let (started, id) = (now, store.start_replay(filter, 10_000, now).await.unwrap().id);
                // Its rate allows nothing at first.
                now = now + Duration::from_secs(1);
                // Once, except on a busy machine: a step has a time limit.
                while !store.replay_progress("shop", id).await.unwrap().unwrap().done {
                    store.step_replays(now).await.unwrap();
                }
                oracle.replay_all(started, now);
            }
            Step::Cancel(which) => {
                let id = which.get(&[oracle.ids.clone(), vec![Uuid::nil()]].concat()).to_owned();
                assert_eq!(store.cancel("shop", id, now).await.unwrap(), oracle.cancel(id, now));
            }
            Step::Hold(which, held) => {
                let hook = hook(HOOKS[usize::from(which)]);
                store.set_held(&hook, held, now).await.unwrap();
                oracle.set_held(hook.name.clone(), held, now);
            }
            Step::Reopen => {
                drop(store);
                store = subject.open().await;
            }
        }
        if compare {
            oracle.compare(&store, now).await;
        }
    }
    oracle.compare(&store, now).await;
}

pub(in super::super) fn model<S: Subject>() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = Config {
        cases: S::MODEL_RUNS,
        max_shrink_iters: 200,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&prop::collection::vec((step(), prop::bool::weighted(0.4)), 1..60), |steps| {
            runtime.block_on(run_steps::<S>(steps));
            Ok(())
        })
        .unwrap();
}
