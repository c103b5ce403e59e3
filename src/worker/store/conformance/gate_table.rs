//! The gates as a decision table: the expected fate of each event of a sequence, for the rules of its hook.
//!
//! Every row runs twice. The second time the store is opened again before each step, which detects memory that a restart
//! loses.

use super::*;
use crate::core::delivery_reason::DeliveryReason;
use crate::core::gate::{ChangeCheck, Snooze, SnoozeCheck};

/// The gates of a hook.
#[derive(Clone, Copy, Default)]
struct Rules {
    on_change: bool,
    /// Some(true): trailing. None: no snooze.
    snooze: Option<bool>,
}

/// One step and its expected result.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Group, value, seconds since the start, expected fate of an event.
    Event(u8, u8, u64, Expected),
    /// The delivery with this index dies at this second. True: a candidate is promoted at once.
    Dies(usize, u64, bool),
    /// The delivery with this index is delivered at this second.
    Delivered(usize, u64),
    /// The delivery with this index is cancelled at this second.
    Cancelled(usize, u64),
    /// `promote` at this second returns this number of hooks.
    Promote(u64, usize),
}

/// The expected fate of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// It becomes pending, with this number suppressed before it.
    Pending(u32),
    Dropped,
    /// It becomes a candidate for this second.
    Candidate(u64),
}

use Expected::{Candidate, Dropped, Pending};
use Step::{Cancelled, Delivered, Dies, Event as Ev, Promote};

const NONE: Rules = Rules { on_change: false, snooze: None };
const CHANGE: Rules = Rules { on_change: true, snooze: None };
const QUIET: Rules = Rules { on_change: false, snooze: Some(false) };
const LAST: Rules = Rules { on_change: false, snooze: Some(true) };
const BOTH: Rules = Rules { on_change: true, snooze: Some(false) };
const BOTH_LAST: Rules = Rules { on_change: true, snooze: Some(true) };

/// The period is a minute.
const TABLE: &[(&str, Rules, &[Step])] = &[
    ("without gates every event passes", NONE, &[Ev(1, 1, 0, Pending(0)), Ev(1, 1, 0, Pending(0))]),
    (
        "onChange: the same value is dropped, however late; another value passes, and then the first one again",
        CHANGE,
        &[
            Ev(1, 1, 0, Pending(0)),
            Ev(1, 1, 9999, Dropped),
            Ev(1, 2, 9999, Pending(1)),
            Ev(1, 1, 9999, Pending(0)),
        ],
    ),
    ("onChange: each group has its own value", CHANGE, &[Ev(1, 1, 0, Pending(0)), Ev(2, 1, 0, Pending(0))]),
    (
        "snooze: drops until the end of the period, whatever the value; a dropped event does not extend the period",
        QUIET,
        &[
            Ev(1, 1, 0, Pending(0)),
            Ev(1, 2, 30, Dropped),
            Ev(1, 3, 59, Dropped),
            Ev(2, 1, 59, Pending(0)),
            Ev(1, 4, 60, Pending(2)),
            Ev(1, 5, 61, Dropped),
        ],
    ),
    (
        "trailing: the newest is promoted when the period ends, and opens another",
        LAST,
        &[
            Ev(1, 1, 0, Pending(0)),
            Ev(1, 2, 10, Candidate(60)),
            Ev(1, 3, 20, Candidate(60)),
            Promote(59, 0),
            Promote(60, 1),
            Ev(1, 4, 61, Candidate(120)),
            Promote(120, 1),
            Promote(200, 0),
            Ev(1, 5, 200, Pending(0)),
        ],
    ),
    (
        "trailing: after downtime the promotion is late, and the next period starts then",
        LAST,
        &[
            Ev(1, 1, 0, Pending(0)),
            Ev(1, 2, 10, Candidate(60)),
            Promote(500, 1),
            Ev(1, 3, 559, Candidate(560)),
        ],
    ),
    (
        "both: onChange is evaluated first, and an event that it drops is no candidate",
        BOTH_LAST,
        &[
            Ev(1, 1, 0, Pending(0)),
            Ev(1, 1, 10, Dropped),
            Promote(60, 0),
            Ev(1, 1, 61, Dropped),
            Ev(1, 2, 61, Pending(2)),
        ],
    ),
    (
        "both: an event that snooze drops does not change the value to compare with",
        BOTH,
        &[Ev(1, 1, 0, Pending(0)), Ev(1, 2, 10, Dropped), Ev(1, 1, 61, Dropped), Ev(1, 2, 61, Pending(2))],
    ),
    (
        "both: a change that was undone cancels its candidate",
        BOTH_LAST,
        &[
            Ev(1, 1, 0, Pending(0)),
            Ev(1, 2, 10, Candidate(60)),
            Ev(1, 1, 20, Dropped),
            Promote(60, 0),
            Ev(1, 2, 61, Pending(2)),
        ],
    ),
    (
        "both: a promoted candidate sets the value",
        BOTH_LAST,
        &[
            Ev(1, 1, 0, Pending(0)),
            Ev(1, 2, 10, Candidate(60)),
            Promote(60, 1),
            Ev(1, 2, 200, Dropped),
            Ev(1, 1, 200, Pending(1)),
        ],
    ),
    (
        "the death of a delivery clears both memories",
        BOTH,
        &[
            Ev(1, 1, 0, Pending(0)),
            Ev(1, 2, 5, Dropped),
            Dies(0, 10, false),
            Ev(1, 1, 20, Pending(1)),
            Ev(1, 2, 21, Dropped),
        ],
    ),
    (
        "a cancellation clears both memories too",
        BOTH,
        &[Ev(1, 1, 0, Pending(0)), Cancelled(0, 10), Ev(1, 1, 20, Pending(0)), Ev(1, 2, 21, Dropped)],
    ),
    (
        "a delivered delivery keeps both memories",
        BOTH,
        &[Ev(1, 1, 0, Pending(0)), Delivered(0, 10), Ev(1, 1, 70, Dropped), Ev(1, 2, 70, Pending(1))],
    ),
    (
        "the death of a delivery keeps memory that another delivery has set since",
        CHANGE,
        &[
            Ev(1, 1, 0, Pending(0)),
            Ev(1, 2, 1, Pending(0)),
            Dies(0, 10, false),
            Ev(1, 2, 20, Dropped),
            Dies(1, 30, false),
            Ev(1, 2, 40, Pending(1)),
        ],
    ),
    (
        "a candidate is promoted at once when its predecessor dies",
        LAST,
        &[
            Ev(1, 1, 0, Pending(0)),
            Ev(1, 2, 10, Candidate(60)),
            Dies(0, 20, true),
            Promote(60, 0),
            Ev(1, 3, 79, Candidate(80)),
        ],
    ),
    (
        "a cancelled candidate is not promoted, and the period stays",
        LAST,
        &[
            Ev(1, 1, 0, Pending(0)),
            Ev(1, 2, 10, Candidate(60)),
            Cancelled(1, 20),
            Promote(60, 0),
            Ev(1, 3, 61, Pending(0)),
        ],
    ),
];

fn gate_request(rules: Rules, group: u8, value: u8) -> GateRequest {
    let rule = |trailing| Snooze { period: MINUTE, trailing };
    GateRequest {
        change: rules.on_change.then_some(ChangeCheck { key: [group; 16], value: [value; 16] }),
        snooze: rules.snooze.map(|trailing| SnoozeCheck { key: [group; 16], rule: rule(trailing) }),
    }
}

pub(in super::super) async fn gates_follow_the_decision_table<S: Subject>() {
    for restarts in [false, true] {
        for (scenario, rules, steps) in TABLE {
            run_scenario::<S>(scenario, *rules, steps, restarts).await;
        }
    }
}

async fn run_scenario<S: Subject>(scenario: &str, rules: Rules, steps: &[Step], restarts: bool) {
    let subject = S::new();
    let mut store = subject.open().await;
    let mut deliveries: Vec<(Uuid, DeliverySeq)> = Vec::new();
    let at = |second: u64| T0 + Duration::from_secs(second);
    for (n, step) in steps.iter().enumerate() {
        if restarts {
            drop(store);
            store = subject.open().await;
        }
        let context = format!("{scenario}; step {n} ({step:?}), restarts: {restarts}");
        match *step {
            Ev(group, value, second, expected) => {
                let delivery = NewDelivery {
                    gate_request: gate_request(rules, group, value),
                    ..delivery("x", at(second))
                };
                let new = NewEvent { deliveries: vec![delivery], ..new("e", &[], at(second)) };
                let accepted = store.accept(vec![new], at(second)).await.unwrap().remove(0).deliveries[0];
                let want = match expected {
                    Pending(suppressed) => Fate::Pending { due: at(second), suppressed },
                    Dropped => Fate::Dropped,
                    Candidate(second) => Fate::Candidate { due: at(second) },
                };
                assert_eq!(accepted.fate, want, "{context}");
                deliveries.push((accepted.id, accepted.seq));
            }
            Dies(nth, second, promotes) => {
                let next = NextStep::Dead { reason: DeliveryReason::Gone };
                let settled = Settlement {
                    delivery: deliveries[nth].1,
                    at: at(second),
                    attempt: None,
                    next,
                    progress: None,
                    exchange: ExchangeChange::Nothing,
                };
                assert_eq!(store.settle(settled).await.unwrap(), promotes, "{context}");
            }
            Delivered(nth, second) => {
                store.settle(settled(deliveries[nth].1, at(second), 200, NextStep::Delivered)).await.unwrap();
            }
            Cancelled(nth, second) => {
                assert!(
                    store.cancel("shop", deliveries[nth].0, at(second)).await.unwrap().is_some(),
                    "{context}"
                );
            }
            Promote(second, hooks) => {
                assert_eq!(store.promote(at(second)).await.unwrap().len(), hooks, "{context}");
            }
        }
    }
}
