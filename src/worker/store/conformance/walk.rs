//! The test that walks an engine and the oracle side by side.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::oracle::{HOOKS, Oracle};
use super::*;
use crate::core::gate::{Change, Snooze, Snoozing};

#[derive(Clone, Debug)]
enum Step {
    /// Events with a key (0: none), hooks (bits), and what they ask of the gates.
    Accept(Vec<(u8, u8, u64, Wish)>),
    Settle(prop::sample::Index, Outcome),
    /// Lets time pass.
    Wait(u64),
    Sweep,
    Promote,
    Replay(prop::sample::Index),
    Cancel(prop::sample::Index),
    Hold(u8, bool),
    Reopen,
}

/// What events ask of the gates: rules (bits), group and value.
type Wish = (u8, u8, u8);

fn asked((rules, group, value): Wish) -> Asked {
    let rule = Snooze { period: MINUTE, trailing: rules & 4 != 0 };
    Asked {
        change: (rules & 1 != 0).then_some(Change { key: [group / 2; 16], value: [value; 16] }),
        snooze: (rules & 2 != 0).then_some(Snoozing { key: [group; 16], rule }),
    }
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
    // Of nine, one is dead at once, and few ask nothing.
    let wish = (0..9_u8, 0..3_u8, 0..2_u8);
    prop_oneof![
        8 => prop::collection::vec((0..4_u8, 0..8_u8, 0..60_u64, wish), 0..4).prop_map(Step::Accept),
        6 => (any::<prop::sample::Index>(), outcome).prop_map(|(which, outcome)| Step::Settle(which, outcome)),
        3 => prop_oneof![0..60_u64, 0..100_000_u64].prop_map(Step::Wait),
        1 => Just(Step::Sweep),
        1 => Just(Step::Promote),
        1 => any::<prop::sample::Index>().prop_map(Step::Replay),
        1 => any::<prop::sample::Index>().prop_map(Step::Cancel),
        1 => (0..3_u8, any::<bool>()).prop_map(|(hook, held)| Step::Hold(hook, held)),
        1 => Just(Step::Reopen),
    ]
}

/// Each step with whether anybody looks after it: an engine may leave work for that moment.
async fn walk<S: Subject>(steps: Vec<(Step, bool)>) {
    let place = S::new();
    let mut now = T0;
    let mut store = place.open().await;
    let mut oracle = Oracle::default();
    let mut count = 0_usize;
    for (step, look) in steps {
        match step {
            Step::Accept(events) => {
                let events: Vec<_> = events
                    .into_iter()
                    .map(|(k, bits, wait, wish)| {
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
                            delivery.asked = asked(wish);
                            delivery.dead = (wish.0 == 8).then_some("HookDeleted");
                        }
                        (k, new)
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
                        let next = Next::Retry { due: now + Duration::from_secs(s) };
                        let progress = (s % 2 == 0).then(|| s.to_be_bytes().to_vec());
                        Settlement { progress, ..settled(delivery, now, 503, next) }
                    }
                    Outcome::Dead => settled(delivery, now, 400, Next::Dead { reason: "Terminal" }),
                    Outcome::Postponed => Settlement {
                        delivery,
                        at: now,
                        attempt: None,
                        next: Next::Retry { due: now + MINUTE },
                        progress: None,
                    },
                    Outcome::DeadOfAge => {
                        let next = Next::Dead { reason: "MaxAge" };
                        Settlement { delivery, at: now, attempt: None, next, progress: None }
                    }
                };
                let woken = store.settle(settlement.clone()).await.unwrap();
                assert_eq!(woken, oracle.settle(&settlement));
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
            Step::Cancel(which) => {
                let id = which.get(&[oracle.ids.clone(), vec![Uuid::nil()]].concat()).to_owned();
                assert_eq!(store.cancel("shop", id, now).await.unwrap(), oracle.cancel(id, now));
            }
            Step::Hold(which, held) => {
                let hook = hook(HOOKS[usize::from(which)]);
                store.set_held(&hook, held, now).await.unwrap();
                oracle.hold(hook.name.clone(), held, now);
            }
            Step::Reopen => {
                drop(store);
                store = place.open().await;
            }
        }
        if look {
            oracle.compare(&store, now).await;
        }
    }
    oracle.compare(&store, now).await;
}

pub(in super::super) fn model<S: Subject>() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let config = Config { cases: 64, max_shrink_iters: 200, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&prop::collection::vec((step(), prop::bool::weighted(0.4)), 1..60), |steps| {
            runtime.block_on(walk::<S>(steps));
            Ok(())
        })
        .unwrap();
}
